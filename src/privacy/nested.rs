//! A walk over the protobuf of a nested OTLP value (`ArrayValue`, `KeyValueList`), which decoding left encoded.
//!
//! Owns: reading those three messages without copying. Does not own: JSON, nor depth (the caller's recursion counts).
//! Decoding checked the structure already; this reader still answers an error, never a guess, for bytes it cannot read.

use crate::receive::decode::RawValue;

/// The bytes are not the message that they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// A field's value on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

/// The fields of a message, in order.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(Malformed)?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    fn next_field(&mut self) -> Result<(u64, Wire<'a>), Malformed> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                Wire::Fixed64(u64::from_le_bytes(bytes.try_into().map_err(|_| Malformed)?))
            }
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Wire::Fixed32)?,
            _ => return Err(Malformed),
        };
        Ok((tag >> 3, wire))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.next_field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// The elements of an encoded `ArrayValue`.
pub(super) fn elements(encoded: &[u8]) -> impl Iterator<Item = Result<RawValue<'_>, Malformed>> {
    repeated(encoded).map(|message| any_value(message?))
}

/// The entries of an encoded `KeyValueList`.
pub(super) fn entries(encoded: &[u8]) -> impl Iterator<Item = Result<(&[u8], RawValue<'_>), Malformed>> {
    repeated(encoded).map(|message| {
        let (mut key, mut value): (&[u8], _) = (&[], RawValue::Empty);
        for field in (Fields { rest: message? }) {
            match field? {
                (1, Wire::Bytes(bytes)) => key = bytes,
                (2, Wire::Bytes(bytes)) => value = any_value(bytes)?,
                _ => {}
            }
        }
        Ok((key, value))
    })
}

/// The messages of a repeated field 1; other fields are skipped, as protobuf asks.
fn repeated(encoded: &[u8]) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    Fields { rest: encoded }.filter_map(|field| match field {
        Ok((1, Wire::Bytes(message))) => Some(Ok(message)),
        Ok(_) => None,
        Err(malformed) => Some(Err(malformed)),
    })
}

fn any_value(encoded: &[u8]) -> Result<RawValue<'_>, Malformed> {
    let mut value = RawValue::Empty;
    for field in (Fields { rest: encoded }) {
        value = match field? {
            (1, Wire::Bytes(text)) => RawValue::Str(text),
            (2, Wire::Varint(flag)) => RawValue::Bool(flag != 0),
            // Protobuf's int64 is the two's complement of its varint.
            (3, Wire::Varint(number)) => RawValue::Int(number.cast_signed()),
            (4, Wire::Fixed64(bits)) => RawValue::Double(f64::from_bits(bits)),
            (5, Wire::Bytes(array)) => RawValue::Array(array),
            (6, Wire::Bytes(list)) => RawValue::KvList(list),
            (7, Wire::Bytes(bytes)) => RawValue::Bytes(bytes),
            _ => value,
        };
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::common::v1::{
        AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value,
    };
    use prost::Message;

    fn any(value: Value) -> AnyValue {
        AnyValue { value: Some(value) }
    }

    #[test]
    fn elements_are_what_an_sdk_encoded() {
        let values = vec![
            any(Value::StringValue("a".into())),
            any(Value::BoolValue(true)),
            any(Value::IntValue(-3)),
            any(Value::DoubleValue(0.5)),
            any(Value::BytesValue(vec![1, 2])),
            AnyValue { value: None },
        ];
        let encoded = ArrayValue { values }.encode_to_vec();
        let read: Vec<_> = elements(&encoded).map(Result::unwrap).collect();
        let expected = [
            RawValue::Str(b"a"),
            RawValue::Bool(true),
            RawValue::Int(-3),
            RawValue::Double(0.5),
            RawValue::Bytes(&[1, 2]),
            RawValue::Empty,
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn entries_are_what_an_sdk_encoded() {
        let entry = KeyValue { key: "k".into(), value: Some(any(Value::IntValue(7))), ..Default::default() };
        let encoded = KeyValueList { values: vec![entry] }.encode_to_vec();
        let read: Vec<_> = entries(&encoded).map(Result::unwrap).collect();
        assert_eq!(read, [(&b"k"[..], RawValue::Int(7))]);
    }

    #[test]
    fn truncated_bytes_are_an_error_and_the_end() {
        let encoded = ArrayValue { values: vec![any(Value::StringValue("abcdef".into()))] }.encode_to_vec();
        for length in 1..encoded.len() {
            let read: Vec<_> = elements(&encoded[..length]).collect();
            assert_eq!(read, [Err(Malformed)], "cut at {length}");
        }
    }
}
