//! Arrays and `any` values as canonical JSON text.
//!
//! Owns: writing JSON without white space, object keys sorted (the last of equal keys wins), numbers in their canonical
//! text, elements of typed arrays read as their type. Does not own: scalars' reading rules (`coerce`).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::Value;

use super::ClearedValue;
use super::coerce::{push_display, push_double, scalar_number, scalar_text};
use super::nested;
use super::tally::AttributeOutcome;
use crate::receive::decode::RawValue;
use crate::registry::Primitive;

/// How deeply an `any` value may be nested: far more than people write, far less than a stack holds.
const DEPTH_MAX: usize = 32;

/// True where `text` is one JSON value.
pub(super) fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Appends an array of `element`s, from an OTLP array or from JSON text. False where the value is null.
pub(super) fn array(
    value: RawValue<'_>,
    element: Primitive,
    out: &mut String,
) -> Result<bool, AttributeOutcome> {
    match value {
        RawValue::Empty | RawValue::Str(b"null") => return Ok(false),
        RawValue::Array(encoded) => {
            out.push('[');
            for (place, value) in nested::elements(encoded).enumerate() {
                separate(place, out);
                push_element(value.map_err(|_| AttributeOutcome::TypeMismatch)?, element, out)?;
            }
            out.push(']');
        }
        RawValue::Str(bytes) => {
            let text = std::str::from_utf8(bytes).map_err(|_| AttributeOutcome::InvalidUtf8)?;
            array_from_text(text, element, out)?;
        }
        _ => return Err(AttributeOutcome::TypeMismatch),
    }
    Ok(true)
}

/// Appends any value as JSON. Text that is JSON is read as such, other text is a JSON string. False where it is null.
pub(super) fn any(value: RawValue<'_>, out: &mut String) -> Result<bool, AttributeOutcome> {
    match value {
        RawValue::Empty => Ok(false),
        RawValue::Str(bytes) => {
            let text = std::str::from_utf8(bytes).map_err(|_| AttributeOutcome::InvalidUtf8)?;
            match serde_json::from_str::<Value>(text) {
                Ok(Value::Null) => return Ok(false),
                Ok(value) => push_json(&value, 0, out)?,
                Err(_) => push_string(out, text),
            }
            Ok(true)
        }
        other => push_any(other, 0, out).map(|()| true),
    }
}

/// Appends a value that was read as a scalar or as JSON text, as a JSON value: `json_text` says which text it is.
pub(super) fn push_cleared(value: ClearedValue<'_>, json_text: bool, made: &str, out: &mut String) {
    match value {
        ClearedValue::Int(int) => push_display(out, int),
        ClearedValue::Double(double) => push_double(out, double),
        ClearedValue::Bool(flag) => push_display(out, flag),
        ClearedValue::Str(_) | ClearedValue::Made(..) => {
            let text = value.text(made).unwrap_or_default();
            if json_text { out.push_str(text) } else { push_string(out, text) }
        }
    }
}

/// Appends a JSON string.
pub(super) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    let mut plain_from = 0;
    for (at, character) in text.char_indices().filter(|(_, c)| matches!(c, '"' | '\\' | '\0'..='\x1f')) {
        out.push_str(text.get(plain_from..at).unwrap_or_default());
        // Every escaped character is one byte long.
        plain_from = at + 1;
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control => push_display(out, format_args!("\\u{:04x}", u32::from(control))),
        }
    }
    out.push_str(text.get(plain_from..).unwrap_or_default());
    out.push('"');
}

pub(super) fn separate(place: usize, out: &mut String) {
    if place > 0 {
        out.push(',');
    }
}

/// Appends one element of a typed array. Unlike a whole attribute's text, an element's text is what it says: the array
/// has types of its own, so that `null` or quotes inside it were meant.
fn push_element(value: RawValue<'_>, element: Primitive, out: &mut String) -> Result<(), AttributeOutcome> {
    if element == Primitive::String
        && let RawValue::Str(bytes) = value
    {
        push_string(out, std::str::from_utf8(bytes).map_err(|_| AttributeOutcome::InvalidUtf8)?);
        return Ok(());
    }
    // Allocates only where a string array holds a number.
    let mut text_made = String::new();
    let scalar = match value {
        RawValue::Empty => {
            out.push_str("null");
            return Ok(());
        }
        RawValue::Str(bytes) => {
            let text = std::str::from_utf8(bytes).map_err(|_| AttributeOutcome::InvalidUtf8)?;
            scalar_text(Cow::Borrowed(text), element, &mut text_made)?
        }
        other => scalar_number(other, element, &mut text_made)?,
    };
    push_cleared(scalar, false, &text_made, out);
    Ok(())
}

fn push_any(value: RawValue<'_>, depth: usize, out: &mut String) -> Result<(), AttributeOutcome> {
    match value {
        RawValue::Empty => out.push_str("null"),
        RawValue::Bool(flag) => push_display(out, flag),
        RawValue::Int(int) => push_display(out, int),
        RawValue::Double(double) if double.is_finite() => push_double(out, double),
        RawValue::Double(_) => return Err(AttributeOutcome::NotFinite),
        RawValue::Str(bytes) => {
            push_string(out, std::str::from_utf8(bytes).map_err(|_| AttributeOutcome::InvalidUtf8)?);
        }
        RawValue::Bytes(bytes) => {
            use base64::Engine as _;
            // As OTLP's own JSON form has it.
            out.push('"');
            base64::engine::general_purpose::STANDARD.encode_string(bytes, out);
            out.push('"');
        }
        RawValue::Array(encoded) => {
            let deeper = one_deeper(depth)?;
            out.push('[');
            for (place, element) in nested::elements(encoded).enumerate() {
                separate(place, out);
                push_any(element.map_err(|_| AttributeOutcome::TypeMismatch)?, deeper, out)?;
            }
            out.push(']');
        }
        RawValue::KvList(encoded) => push_list(encoded, one_deeper(depth)?, out)?,
    }
    Ok(())
}

fn push_list(encoded: &[u8], depth: usize, out: &mut String) -> Result<(), AttributeOutcome> {
    let mut entries = Vec::new();
    for entry in nested::entries(encoded) {
        let (key, value) = entry.map_err(|_| AttributeOutcome::TypeMismatch)?;
        entries.push((std::str::from_utf8(key).map_err(|_| AttributeOutcome::InvalidUtf8)?, value));
    }
    // Stable, so that the last of equal keys stays last; of equals, deduplication keeps the first, hence the reversal.
    entries.reverse();
    entries.sort_by_key(|(key, _)| *key);
    entries.dedup_by_key(|(key, _)| *key);
    out.push('{');
    for (place, (key, value)) in entries.into_iter().enumerate() {
        separate(place, out);
        push_string(out, key);
        out.push(':');
        push_any(value, depth, out)?;
    }
    out.push('}');
    Ok(())
}

fn push_json(value: &Value, depth: usize, out: &mut String) -> Result<(), AttributeOutcome> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => push_display(out, flag),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(int), ..) => push_display(out, int),
            (None, Some(int), _) => push_display(out, int),
            (None, None, Some(double)) if double.is_finite() => push_double(out, double),
            _ => return Err(AttributeOutcome::NotFinite),
        },
        Value::String(text) => push_string(out, text),
        Value::Array(elements) => {
            let deeper = one_deeper(depth)?;
            out.push('[');
            for (place, element) in elements.iter().enumerate() {
                separate(place, out);
                push_json(element, deeper, out)?;
            }
            out.push(']');
        }
        Value::Object(entries) => {
            let deeper = one_deeper(depth)?;
            // Sorted here, as serde_json's own order depends on a feature that any dependency may switch on.
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (place, (key, value)) in entries.into_iter().enumerate() {
                separate(place, out);
                push_string(out, key);
                out.push(':');
                push_json(value, deeper, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn one_deeper(depth: usize) -> Result<usize, AttributeOutcome> {
    if depth < DEPTH_MAX { Ok(depth + 1) } else { Err(AttributeOutcome::TooDeep) }
}

/// Streams JSON array text into canonical form, without a tree of it.
fn array_from_text(text: &str, element: Primitive, out: &mut String) -> Result<(), AttributeOutcome> {
    let mut refusal = AttributeOutcome::TypeMismatch;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let visitor = ArrayVisitor { element, out, refusal: &mut refusal };
    // `deserialize_seq` answers an error for text that is no array, and `end` for anything behind it.
    match deserializer.deserialize_seq(visitor).and_then(|()| deserializer.end()) {
        Ok(()) => Ok(()),
        Err(_) => Err(refusal),
    }
}

struct ArrayVisitor<'o> {
    element: Primitive,
    out: &'o mut String,
    refusal: &'o mut AttributeOutcome,
}

impl<'de> Visitor<'de> for ArrayVisitor<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        self.out.push('[');
        let mut place = 0;
        loop {
            let mark = self.out.len();
            separate(place, self.out);
            let seed = ElementSeed { element: self.element, out: self.out, refusal: self.refusal };
            if sequence.next_element_seed(seed)?.is_none() {
                self.out.truncate(mark);
                break;
            }
            place += 1;
        }
        self.out.push(']');
        Ok(())
    }
}

struct ElementSeed<'o> {
    element: Primitive,
    out: &'o mut String,
    refusal: &'o mut AttributeOutcome,
}

impl ElementSeed<'_> {
    fn push<E: serde::de::Error>(self, value: RawValue<'_>) -> Result<(), E> {
        push_element(value, self.element, self.out).map_err(|refusal| {
            *self.refusal = refusal;
            E::custom("refused")
        })
    }
}

impl<'de> serde::de::DeserializeSeed<'de> for ElementSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ElementSeed<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a scalar")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.push(RawValue::Empty)
    }

    fn visit_bool<E: serde::de::Error>(self, flag: bool) -> Result<(), E> {
        self.push(RawValue::Bool(flag))
    }

    fn visit_i64<E: serde::de::Error>(self, int: i64) -> Result<(), E> {
        self.push(RawValue::Int(int))
    }

    fn visit_u64<E: serde::de::Error>(self, int: u64) -> Result<(), E> {
        match i64::try_from(int) {
            Ok(int) => self.push(RawValue::Int(int)),
            // As text it keeps its digits, whatever the element's type.
            Err(_) => self.push(RawValue::Str(int.to_string().as_bytes())),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, double: f64) -> Result<(), E> {
        self.push(RawValue::Double(double))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.push(RawValue::Str(text.as_bytes()))
    }
}
