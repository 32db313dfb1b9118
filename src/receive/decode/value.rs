//! Attribute values: `KeyValue`, `AnyValue` and the values nested in them.
//!
//! Owns: reading values, checking nested ones once, and iterating over nested ones later. Does not own: what a value is
//! turned into.

use super::wire::{Wire, WireType::*, known, tag};
use super::{DecodeError, RawAttribute, RawValue};

/// How deep values may be nested in values; an attribute's own value has depth 1. Recursion is bounded by it, and a value
/// nested more deeply is no product event's.
pub const VALUE_DEPTH_MAX: u32 = 32;

const KEY_VALUE_KEY: u32 = tag(1, Len);
const KEY_VALUE_VALUE: u32 = tag(2, Len);
const KEY_VALUE_KNOWN: u32 = known(&[1, 2]);

const ANY_STRING: u32 = tag(1, Len);
const ANY_BOOL: u32 = tag(2, Varint);
const ANY_INT: u32 = tag(3, Varint);
const ANY_DOUBLE: u32 = tag(4, Fixed64);
const ANY_ARRAY: u32 = tag(5, Len);
const ANY_KVLIST: u32 = tag(6, Len);
const ANY_BYTES: u32 = tag(7, Len);
const ANY_KNOWN: u32 = known(&[1, 2, 3, 4, 5, 6, 7]);

/// The one field of `ArrayValue` and of `KeyValueList`.
const VALUES: u32 = tag(1, Len);
const VALUES_KNOWN: u32 = known(&[1]);

/// Appends a `KeyValue` in the form that encoders write nearly always: the key, then a short string, a boolean or an
/// integer. Any other is left to [`read_key_value`].
///
/// Each arm appends for itself, so that a value is written where it stays: to build it first and to copy it then took
/// half of the whole walk's time.
#[inline]
pub(super) fn push_usual_key_value<'a>(bytes: &'a [u8], table: &mut Vec<RawAttribute<'a>>) -> Option<()> {
    let (key, rest) = usual_field(KEY_VALUE_KEY, bytes)?;
    let (value, []) = usual_field(KEY_VALUE_VALUE, rest)? else { return None };
    let (&tag, scalar) = value.split_first()?;
    match (u32::from(tag), scalar) {
        (ANY_STRING, [length @ 0..0x80, text @ ..]) if usize::from(*length) == text.len() => {
            table.push(RawAttribute { key, value: RawValue::Str(text) });
        }
        (ANY_INT, _) => {
            let mut wire = Wire::new(scalar);
            let (integer, 0) = (wire.varint().ok()?, wire.remaining()) else { return None };
            table.push(RawAttribute { key, value: RawValue::Int(integer.cast_signed()) });
        }
        (ANY_BOOL, [byte @ 0..0x80]) => {
            table.push(RawAttribute { key, value: RawValue::Bool(*byte != 0) });
        }
        _ => return None,
    }
    Some(())
}

/// The payload under this one-byte tag, of a length below 128, and what follows.
#[inline]
fn usual_field(tag: u32, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    match bytes {
        [first, length @ 0..0x80, rest @ ..] if u32::from(*first) == tag => {
            rest.split_at_checked(usize::from(*length))
        }
        _ => None,
    }
}

/// Reads a `KeyValue`. With `CHECK`, nested values are walked to their end; without, they were before.
pub(super) fn read_key_value<'a, const CHECK: bool>(
    bytes: &'a [u8],
    depth: u32,
) -> Result<RawAttribute<'a>, DecodeError> {
    let mut attribute = RawAttribute { key: &[], value: RawValue::Empty };
    let mut wire = Wire::new(bytes);
    while let Some(tag) = wire.tag()? {
        match tag {
            KEY_VALUE_KEY => attribute.key = wire.bytes()?,
            KEY_VALUE_VALUE => read_any_value::<CHECK>(wire.bytes()?, depth, &mut attribute.value)?,
            _ => wire.skip(tag, KEY_VALUE_KNOWN)?,
        }
    }
    Ok(attribute)
}

/// Reads an `AnyValue` over what `value` held before, since a message field that comes twice is merged.
#[inline]
pub(super) fn read_any_value<'a, const CHECK: bool>(
    bytes: &'a [u8],
    depth: u32,
    value: &mut RawValue<'a>,
) -> Result<(), DecodeError> {
    let mut wire = Wire::new(bytes);
    while let Some(tag) = wire.tag()? {
        *value = match tag {
            ANY_STRING => RawValue::Str(wire.bytes()?),
            ANY_INT => RawValue::Int(wire.varint()?.cast_signed()),
            ANY_BOOL => RawValue::Bool(wire.varint()? != 0),
            ANY_DOUBLE => RawValue::Double(f64::from_bits(wire.fixed64()?)),
            ANY_BYTES => RawValue::Bytes(wire.bytes()?),
            ANY_ARRAY => RawValue::Array(nested::<CHECK>(wire.bytes()?, depth, *value, check_array)?),
            ANY_KVLIST => RawValue::KvList(nested::<CHECK>(wire.bytes()?, depth, *value, check_kvlist)?),
            _ => {
                wire.skip(tag, ANY_KNOWN)?;
                continue;
            }
        };
    }
    Ok(())
}

fn nested<'a, const CHECK: bool>(
    payload: &'a [u8],
    depth: u32,
    before: RawValue<'a>,
    check: fn(&'a [u8], u32) -> Result<(), DecodeError>,
) -> Result<&'a [u8], DecodeError> {
    // Merging two lists would need a copy. No encoder writes one list in two parts, so it is refused.
    if matches!(before, RawValue::Array(_) | RawValue::KvList(_)) {
        return Err(DecodeError::SplitValue);
    }
    if CHECK {
        if depth >= VALUE_DEPTH_MAX {
            return Err(DecodeError::TooDeep);
        }
        check(payload, depth + 1)?;
    }
    Ok(payload)
}

fn check_array(bytes: &[u8], depth: u32) -> Result<(), DecodeError> {
    let mut wire = Wire::new(bytes);
    while let Some(payload) = next_value(&mut wire)? {
        read_any_value::<true>(payload, depth, &mut RawValue::Empty)?;
    }
    Ok(())
}

fn check_kvlist(bytes: &[u8], depth: u32) -> Result<(), DecodeError> {
    let mut wire = Wire::new(bytes);
    while let Some(payload) = next_value(&mut wire)? {
        read_key_value::<true>(payload, depth)?;
    }
    Ok(())
}

fn next_value<'a>(wire: &mut Wire<'a>) -> Result<Option<&'a [u8]>, DecodeError> {
    while let Some(tag) = wire.tag()? {
        match tag {
            VALUES => return wire.bytes().map(Some),
            _ => wire.skip(tag, VALUES_KNOWN)?,
        }
    }
    Ok(None)
}

/// The elements of a [`RawValue::Array`], in order.
#[derive(Debug, Clone)]
pub struct ArrayElements<'a>(Wire<'a>);

impl<'a> ArrayElements<'a> {
    /// `array` is what a decoded [`RawValue::Array`] holds; of other bytes, the elements before the first fault.
    #[must_use]
    pub fn new(array: &'a [u8]) -> Self {
        Self(Wire::new(array))
    }
}

impl<'a> Iterator for ArrayElements<'a> {
    type Item = RawValue<'a>;

    fn next(&mut self) -> Option<RawValue<'a>> {
        let payload = next_value(&mut self.0).ok()??;
        let mut value = RawValue::Empty;
        read_any_value::<false>(payload, 1, &mut value).ok()?;
        Some(value)
    }
}

/// The pairs of a [`RawValue::KvList`], in order and with duplicate keys.
#[derive(Debug, Clone)]
pub struct KvPairs<'a>(Wire<'a>);

impl<'a> KvPairs<'a> {
    /// `kvlist` is what a decoded [`RawValue::KvList`] holds; of other bytes, the pairs before the first fault.
    #[must_use]
    pub fn new(kvlist: &'a [u8]) -> Self {
        Self(Wire::new(kvlist))
    }
}

impl<'a> Iterator for KvPairs<'a> {
    type Item = RawAttribute<'a>;

    fn next(&mut self) -> Option<RawAttribute<'a>> {
        let payload = next_value(&mut self.0).ok()??;
        read_key_value::<false>(payload, 1).ok()
    }
}
