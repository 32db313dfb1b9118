//! From a value as it was sent to a value of the declared type, in one canonical form.
//!
//! Owns: the reading rules below. Does not own: levels (`policy`), JSON structure (`json`).
//!
//! Senders flatten types: structlog's processor sends `None` as the text `null`, a list as `[1, 2]`, a UUID as a quoted
//! JSON string, and the same attribute as a number in one record and as text in the next. So:
//!
//! | declared | read from | else |
//! |---|---|---|
//! | any type | no value, the text `null` | null |
//! | string | text; a quoted JSON string (its content); int, double, bool (their canonical text) | mismatch |
//! | int | int; a double without fraction; decimal text, quoted or not | mismatch |
//! | double | finite double; int; decimal text, quoted or not | mismatch, `not_finite` |
//! | boolean | bool; the texts `true`, `True`, `false`, `False`, quoted or not | mismatch |
//! | array | an OTLP array or JSON array text, each element read as its type (or null) | mismatch |
//! | any | everything; text that is JSON is read as JSON | |
//! | enum | as its type, then only a member | `not_a_member` |
//!
//! A number's canonical text is its shortest decimal form, without fraction where it has none: 7, 7.0 and `7` agree, and
//! so do their pseudonyms. Bytes are no string: nobody says which characters they mean.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::ClearedValue;
use super::json;
use super::tally::AttributeOutcome;
use crate::receive::decode::RawValue;
use crate::registry::{AttributeType, ColumnType, Primitive};

/// From this magnitude on, several integers share one double, so that a double no longer says which one was meant.
const AMBIGUOUS_FROM: f64 = 9_007_199_254_740_992.0;

/// A declared type, ready for use.
#[derive(Debug)]
pub(super) enum Coercion {
    Scalar(Primitive),
    Array(Primitive),
    Any,
    /// Sorted members.
    TextEnum(Box<[String]>),
    /// Sorted members.
    IntEnum(Box<[i64]>),
}

impl Coercion {
    /// For a template, the rule of its entries.
    pub(super) fn new(ty: &AttributeType) -> Self {
        match ty {
            AttributeType::Scalar(primitive) => Self::Scalar(*primitive),
            AttributeType::Array(primitive) => Self::Array(*primitive),
            AttributeType::Any => Self::Any,
            AttributeType::Template(entry) => Self::new(entry),
            AttributeType::Enum { values: Primitive::Int, members } => {
                let mut members: Vec<i64> = members.iter().filter_map(|member| member.parse().ok()).collect();
                members.sort_unstable();
                Self::IntEnum(members.into())
            }
            AttributeType::Enum { members, .. } => {
                let mut members = members.clone();
                members.sort_unstable();
                Self::TextEnum(members.into())
            }
        }
    }

    /// True where a value can be text that a sender chose.
    pub(super) fn holds_free_text(&self) -> bool {
        matches!(self, Self::Scalar(Primitive::String) | Self::Array(Primitive::String) | Self::Any)
    }

    /// True where the text that it reads is JSON.
    pub(super) fn makes_json(&self) -> bool {
        matches!(self, Self::Array(_) | Self::Any)
    }
}

/// Reads `value` as the declared type; `None` is null. Text that has to be made is appended to `made`; on failure,
/// whatever was appended is left for the caller to cut off.
#[inline]
pub(super) fn coerce<'a>(
    value: RawValue<'a>,
    coercion: &Coercion,
    bytes_max: usize,
    made: &mut String,
) -> Result<Option<ClearedValue<'a>>, AttributeOutcome> {
    // Bounded before any work: parsing costs at most what this much input can cost.
    if let RawValue::Str(bytes) | RawValue::Bytes(bytes) | RawValue::Array(bytes) | RawValue::KvList(bytes) =
        value
        && bytes.len() > bytes_max
    {
        return Err(AttributeOutcome::TooLong);
    }
    let start = made.len();
    let coerced = match coercion {
        Coercion::Scalar(primitive) => scalar(value, *primitive, made)?,
        Coercion::Array(element) => json::array(value, *element, made)?.then(|| made_since(start, made)),
        Coercion::Any => json::any(value, made)?.then(|| made_since(start, made)),
        Coercion::TextEnum(members) => {
            let coerced = scalar(value, Primitive::String, made)?;
            let is_member = |text: &str| members.binary_search_by(|member| member.as_str().cmp(text)).is_ok();
            require(coerced, coerced.is_none_or(|value| value.text(made).is_some_and(is_member)))?
        }
        Coercion::IntEnum(members) => {
            let coerced = scalar(value, Primitive::Int, made)?;
            let is_member =
                matches!(coerced, Some(ClearedValue::Int(int)) if members.binary_search(&int).is_ok());
            require(coerced, coerced.is_none() || is_member)?
        }
    };
    if made.len() - start > bytes_max {
        return Err(AttributeOutcome::TooLong);
    }
    Ok(coerced)
}

/// Turns a value into what its column holds. A pseudonymous attribute's column is text, whatever the attribute's type;
/// an event that keeps such a value as it is stores its canonical text.
#[inline]
pub(super) fn fit<'a>(
    value: ClearedValue<'a>,
    column: ColumnType,
    made: &mut String,
) -> Result<ClearedValue<'a>, AttributeOutcome> {
    match (value, column) {
        (ClearedValue::Str(_) | ClearedValue::Made(..), ColumnType::String)
        | (ClearedValue::Int(_), ColumnType::Long)
        | (ClearedValue::Double(_), ColumnType::Double)
        | (ClearedValue::Bool(_), ColumnType::Boolean) => Ok(value),
        (_, ColumnType::String) => Ok(as_text(value, made)),
        (ClearedValue::Int(int), ColumnType::Double) => Ok(ClearedValue::Double(int as f64)),
        _ => Err(AttributeOutcome::TypeMismatch),
    }
}

/// The value as text, made if need be.
pub(super) fn as_text<'a>(value: ClearedValue<'a>, made: &mut String) -> ClearedValue<'a> {
    let start = made.len();
    match value {
        ClearedValue::Str(_) | ClearedValue::Made(..) => return value,
        ClearedValue::Int(int) => push_display(made, int),
        ClearedValue::Double(double) => push_double(made, double),
        ClearedValue::Bool(flag) => made.push_str(if flag { "true" } else { "false" }),
    }
    made_since(start, made)
}

/// The range of `made` from `start` to its end. A request is far below 4 GiB, and so is what is made of it.
pub(super) fn made_since<'a>(start: usize, made: &str) -> ClearedValue<'a> {
    let bound = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    ClearedValue::Made(bound(start), bound(made.len()))
}

/// Reads a scalar.
#[inline]
pub(super) fn scalar<'a>(
    value: RawValue<'a>,
    primitive: Primitive,
    made: &mut String,
) -> Result<Option<ClearedValue<'a>>, AttributeOutcome> {
    match value {
        RawValue::Empty | RawValue::Str(b"null") => Ok(None),
        RawValue::Str(bytes) => {
            let text = std::str::from_utf8(bytes).map_err(|_| AttributeOutcome::InvalidUtf8)?;
            scalar_text(unquote(text), primitive, made).map(Some)
        }
        other => scalar_number(other, primitive, made).map(Some),
    }
}

/// Reads text as a scalar.
#[inline]
pub(super) fn scalar_text<'a>(
    text: Cow<'a, str>,
    primitive: Primitive,
    made: &mut String,
) -> Result<ClearedValue<'a>, AttributeOutcome> {
    match primitive {
        Primitive::String => Ok(match text {
            Cow::Borrowed(text) => ClearedValue::Str(text),
            Cow::Owned(text) => {
                let start = made.len();
                made.push_str(&text);
                made_since(start, made)
            }
        }),
        Primitive::Int => parse_int(&text).map(ClearedValue::Int),
        Primitive::Double => match text.parse::<f64>() {
            Ok(double) if double.is_finite() => Ok(ClearedValue::Double(double)),
            Ok(_) => Err(AttributeOutcome::NotFinite),
            Err(_) => Err(AttributeOutcome::TypeMismatch),
        },
        Primitive::Boolean => match &*text {
            "true" | "True" => Ok(ClearedValue::Bool(true)),
            "false" | "False" => Ok(ClearedValue::Bool(false)),
            _ => Err(AttributeOutcome::TypeMismatch),
        },
    }
}

/// Reads an int, double or bool as a scalar.
#[inline]
pub(super) fn scalar_number<'a>(
    value: RawValue<'_>,
    primitive: Primitive,
    made: &mut String,
) -> Result<ClearedValue<'a>, AttributeOutcome> {
    if let RawValue::Double(double) = value
        && !double.is_finite()
    {
        return Err(AttributeOutcome::NotFinite);
    }
    match (primitive, value) {
        (Primitive::Int, RawValue::Int(int)) => Ok(ClearedValue::Int(int)),
        (Primitive::Int, RawValue::Double(double)) => {
            exact_int(double).map(ClearedValue::Int).ok_or(AttributeOutcome::TypeMismatch)
        }
        (Primitive::Double, RawValue::Double(double)) => Ok(ClearedValue::Double(double)),
        (Primitive::Double, RawValue::Int(int)) => Ok(ClearedValue::Double(int as f64)),
        (Primitive::Boolean, RawValue::Bool(flag)) => Ok(ClearedValue::Bool(flag)),
        (Primitive::String, RawValue::Int(int)) => Ok(as_text(ClearedValue::Int(int), made)),
        (Primitive::String, RawValue::Double(double)) => Ok(as_text(ClearedValue::Double(double), made)),
        (Primitive::String, RawValue::Bool(flag)) => Ok(as_text(ClearedValue::Bool(flag), made)),
        _ => Err(AttributeOutcome::TypeMismatch),
    }
}

/// Appends a finite double's canonical text, which is also JSON.
pub(super) fn push_double(out: &mut String, double: f64) {
    match exact_int(double) {
        Some(int) => push_display(out, int),
        None => push_display(out, format_args!("{double:?}")),
    }
}

pub(super) fn push_display(out: &mut String, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let written = write!(out, "{value}");
    debug_assert!(written.is_ok());
}

/// The content of a quoted JSON string; other text as it is.
#[inline]
pub(super) fn unquote(text: &str) -> Cow<'_, str> {
    let Some(inner) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Cow::Borrowed(text);
    };
    if !inner.bytes().any(|byte| matches!(byte, b'"' | b'\\') || byte < 0x20) {
        return Cow::Borrowed(inner);
    }
    serde_json::from_str::<String>(text).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// The double as an integer, where that loses nothing.
fn exact_int(double: f64) -> Option<i64> {
    (double.abs() < AMBIGUOUS_FROM && double.fract() == 0.0).then_some(double as i64)
}

fn parse_int(text: &str) -> Result<i64, AttributeOutcome> {
    if let Ok(int) = text.parse() {
        return Ok(int);
    }
    text.parse::<f64>().ok().and_then(exact_int).ok_or(AttributeOutcome::TypeMismatch)
}

#[inline]
fn require(
    coerced: Option<ClearedValue<'_>>,
    is_member: bool,
) -> Result<Option<ClearedValue<'_>>, AttributeOutcome> {
    if is_member { Ok(coerced) } else { Err(AttributeOutcome::NotAMember) }
}
