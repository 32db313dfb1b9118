//! OTLP/JSON to protobuf, in one pass and without a tree in between.
//!
//! Owns: OTLP's JSON rules (hex ids, 64-bit integers as strings or numbers, unknown members ignored, null is unset). Does
//! not own: what the values mean.
//!
//! The output is never longer than the input: every member and element takes more bytes in JSON than in protobuf. So the
//! memory that a request can take is bounded by its own size. JSON may be nested 128 levels deep, which makes about 29
//! levels of attribute values.

mod output;
mod shape;
#[cfg(test)]
mod tests;

use std::fmt;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::Deserializer;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use self::output::Output;
use self::shape::{Field, Kind, REQUEST, Shape};

/// Why bytes are no OTLP/JSON request. Never holds a part of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (line {line}, column {column})")]
pub struct JsonError {
    reason: &'static str,
    line: usize,
    column: usize,
}

/// Encodes an OTLP/JSON `ExportLogsServiceRequest` as protobuf.
///
/// # Errors
/// The first fault and its position.
pub fn to_protobuf(json: &[u8]) -> Result<Bytes, JsonError> {
    let mut writer = Writer { output: Output::with_capacity(json.len() / 2), fault: None };
    let mut reader = serde_json::Deserializer::from_slice(json);
    let read = MessageSeed { shape: &REQUEST, writer: &mut writer }.deserialize(&mut reader);
    match read.and_then(|()| reader.end()) {
        Ok(()) => Ok(Bytes::from(writer.output.into_bytes())),
        Err(error) => Err(writer.error(&error)),
    }
}

/// What is written, and the fault that ended it. serde's errors quote values, so only their positions are used.
struct Writer {
    output: Output,
    fault: Option<&'static str>,
}

impl Writer {
    fn fail<E: de::Error>(&mut self, reason: &'static str) -> E {
        self.fault = Some(reason);
        E::custom(reason)
    }

    fn error(&self, error: &serde_json::Error) -> JsonError {
        let reason = self.fault.unwrap_or(match error.classify() {
            Category::Eof => "the JSON ends too early",
            Category::Data => "a value has the wrong JSON type",
            Category::Syntax | Category::Io => syntax_fault(error),
        });
        JsonError { reason, line: error.line(), column: error.column() }
    }
}

/// What is wrong with the syntax. serde tells it by its text only, which for this kind of error quotes nothing.
fn syntax_fault(error: &serde_json::Error) -> &'static str {
    let text = error.to_string();
    let known = [
        ("recursion limit exceeded", "this is nested more than 128 levels deep"),
        ("number out of range", "a number is beyond the range of a 64-bit float"),
        ("lone leading surrogate in hex escape", HALF_A_PAIR),
        ("unexpected end of hex escape", HALF_A_PAIR),
        ("invalid unicode code point", "a string is not valid UTF-8"),
        ("invalid escape", "a string has an escape that JSON does not know"),
        ("control character", "a string has a control character that is not escaped"),
    ];
    let found = known.iter().find(|(start, _)| text.starts_with(start));
    found.map_or("this is not JSON", |(_, reason)| reason)
}

const HALF_A_PAIR: &str = "a string has half of a surrogate pair where text is needed";

/// Reads a JSON object as a message's fields.
struct MessageSeed<'w> {
    shape: &'static Shape,
    writer: &'w mut Writer,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(field) = members.next_key_seed(FieldSeed(self.shape))? {
            match field {
                Some(field) => members.next_value_seed(ValueSeed { field, writer: self.writer })?,
                None => members.next_value::<IgnoredAny>().map(drop)?,
            }
        }
        Ok(())
    }
}

/// Reads a member's name.
struct FieldSeed(&'static Shape);

impl<'de> DeserializeSeed<'de> for FieldSeed {
    type Value = Option<&'static Field>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for FieldSeed {
    type Value = Option<&'static Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_bytes<E: de::Error>(self, name: &[u8]) -> Result<Self::Value, E> {
        Ok(self.0.field(name))
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.field(name.as_bytes()))
    }
}

/// Reads a member's value, which may be null.
struct ValueSeed<'w> {
    field: &'static Field,
    writer: &'w mut Writer,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let number = self.field.number;
        match self.field.kind {
            Kind::Message(shape) => message(self.writer, number, shape, deserializer),
            Kind::Repeated(_) => deserializer.deserialize_seq(ElementsVisitor(self)),
            // As bytes, because JavaScript can send half a surrogate pair: that is one bad string, no bad request; and in an
            // id it is no hexadecimal digit.
            Kind::Text | Kind::Hex | Kind::Base64 => deserializer.deserialize_bytes(TextVisitor(self)),
            _ => deserializer.deserialize_any(ScalarVisitor(self)),
        }
    }
}

fn message<'de, D: Deserializer<'de>>(
    writer: &mut Writer,
    number: u32,
    shape: &'static Shape,
    deserializer: D,
) -> Result<(), D::Error> {
    let start = writer.output.begin(number);
    MessageSeed { shape, writer }.deserialize(deserializer)?;
    writer.output.end(start);
    Ok(())
}

/// Reads an array of messages.
struct ElementsVisitor<'w>(ValueSeed<'w>);

impl<'de> Visitor<'de> for ElementsVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let ValueSeed { field, writer } = self.0;
        while elements.next_element_seed(ElementSeed { field, writer })?.is_some() {}
        Ok(())
    }
}

/// Reads one message of an array.
struct ElementSeed<'w> {
    field: &'static Field,
    writer: &'w mut Writer,
}

impl<'de> DeserializeSeed<'de> for ElementSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.field.kind {
            Kind::Repeated(shape) | Kind::Message(shape) => {
                message(self.writer, self.field.number, shape, deserializer)
            }
            _ => Err(self.writer.fail("a value has the wrong JSON type")),
        }
    }
}

/// Reads a string.
struct TextVisitor<'w>(ValueSeed<'w>);

impl Visitor<'_> for TextVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.visit_bytes(text.as_bytes())
    }

    fn visit_bytes<E: de::Error>(self, text: &[u8]) -> Result<(), E> {
        let ValueSeed { field, writer } = self.0;
        let written = match field.kind {
            Kind::Hex => write_hex(&mut writer.output, field.number, text),
            Kind::Base64 => write_base64(&mut writer.output, field.number, text),
            _ => {
                writer.output.bytes(field.number, text);
                Ok(())
            }
        };
        written.map_err(|reason| writer.fail(reason))
    }
}

/// Ids are hex, upper or lower case. A wrong length is no fault of the JSON: such an id counts as absent later.
fn write_hex(output: &mut Output, number: u32, text: &[u8]) -> Result<(), &'static str> {
    const FAULT: &str = "an id is not hexadecimal";
    let (pairs, []) = text.as_chunks::<2>() else { return Err(FAULT) };
    let start = output.begin(number);
    for [high, low] in pairs {
        let (high, low) = (hex_digit(*high).ok_or(FAULT)?, hex_digit(*low).ok_or(FAULT)?);
        output.payload().push(high << 4 | low);
    }
    output.end(start);
    Ok(())
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// JSON's protobuf mapping takes both alphabets, with padding or without.
fn write_base64(output: &mut Output, number: u32, text: &[u8]) -> Result<(), &'static str> {
    const ANY_PADDING: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, ANY_PADDING);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, ANY_PADDING);

    let engine = if text.iter().any(|byte| matches!(byte, b'-' | b'_')) { URL_SAFE } else { STANDARD };
    let start = output.begin(number);
    engine.decode_vec(text, output.payload()).map_err(|_| "a bytes value is not base64")?;
    output.end(start);
    Ok(())
}

/// Reads a number or a boolean, which may be written as a string.
struct ScalarVisitor<'w>(ValueSeed<'w>);

impl Visitor<'_> for ScalarVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a boolean or a string")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        self.write(&Scalar::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.write(&Scalar::Integer(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.write(&Scalar::Integer(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.write(&Scalar::Float(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.write(&Scalar::Text(text))
    }
}

impl ScalarVisitor<'_> {
    fn write<E: de::Error>(self, value: &Scalar<'_>) -> Result<(), E> {
        let ValueSeed { field, writer } = self.0;
        write_scalar(&mut writer.output, field, value)
            .ok_or_else(|| writer.fail("a number or boolean does not fit its field"))
    }
}

/// A JSON scalar as it was written.
enum Scalar<'t> {
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(&'t str),
}

fn write_scalar(output: &mut Output, field: &Field, value: &Scalar<'_>) -> Option<()> {
    let number = field.number;
    match field.kind {
        Kind::Bool => output.varint(number, value.boolean()?.into()),
        Kind::Double => output.fixed64(number, value.double()?.to_bits()),
        Kind::Int64 => output.varint(number, i64::try_from(value.integer()?).ok()?.cast_unsigned()),
        Kind::UInt32 => output.varint(number, u32::try_from(value.integer()?).ok()?.into()),
        Kind::Fixed32 => output.fixed32(number, u32::try_from(value.integer()?).ok()?),
        Kind::Fixed64 => output.fixed64(number, u64::try_from(value.integer()?).ok()?),
        Kind::SeverityNumber => {
            output.varint(number, i64::from(value.severity_number()?).cast_unsigned());
        }
        Kind::Text | Kind::Hex | Kind::Base64 | Kind::Message(_) | Kind::Repeated(_) => return None,
    }
    Some(())
}

impl Scalar<'_> {
    fn boolean(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    fn double(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            Self::Integer(value) => Some(*value as f64),
            Self::Text("NaN") => Some(f64::NAN),
            Self::Text("Infinity") => Some(f64::INFINITY),
            Self::Text("-Infinity") => Some(f64::NEG_INFINITY),
            // Rust also reads `inf` and the like, which JSON's mapping does not know.
            Self::Text(text) if text.ends_with(|last: char| last.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        }
    }

    /// JavaScript writes whole numbers as 1e21 or 3.0 too.
    fn integer(&self) -> Option<i128> {
        match self {
            Self::Integer(value) => Some(*value),
            Self::Text(text) => text.parse().ok().or_else(|| whole(self.double()?)),
            Self::Float(value) => whole(*value),
            Self::Bool(_) => None,
        }
    }

    /// The number, or its name in the proto file: `SEVERITY_NUMBER_WARN2`.
    fn severity_number(&self) -> Option<i32> {
        match self {
            Self::Text(name) if name.starts_with("SEVERITY_NUMBER_") => severity_by_name(name),
            _ => i32::try_from(self.integer()?).ok(),
        }
    }
}

fn whole(value: f64) -> Option<i128> {
    (value.fract() == 0.0 && value.abs() <= u64::MAX as f64).then_some(value as i128)
}

fn severity_by_name(name: &str) -> Option<i32> {
    let name = name.strip_prefix("SEVERITY_NUMBER_")?;
    if name == "UNSPECIFIED" {
        return Some(0);
    }
    let (level, step) = match name.as_bytes().last()? {
        b'2' => (name.strip_suffix('2')?, 1),
        b'3' => (name.strip_suffix('3')?, 2),
        b'4' => (name.strip_suffix('4')?, 3),
        _ => (name, 0),
    };
    let first = match level {
        "TRACE" => 1,
        "DEBUG" => 5,
        "INFO" => 9,
        "WARN" => 13,
        "ERROR" => 17,
        "FATAL" => 21,
        _ => return None,
    };
    Some(first + step)
}
