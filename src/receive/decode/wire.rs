//! The protobuf wire format, read field by field from a borrowed slice.
//!
//! Owns: tags, varints, lengths and what a malformed one is. Does not own: which fields a message has.

use super::DecodeError;

/// A field's wire type.
#[derive(Debug, Clone, Copy)]
pub(super) enum WireType {
    Varint = 0,
    Fixed64 = 1,
    Len = 2,
    Fixed32 = 5,
}

/// The tag under which a field of this number and type stands on the wire.
pub(super) const fn tag(number: u32, wire_type: WireType) -> u32 {
    number << 3 | wire_type as u32
}

/// The numbers of the fields that a message knows, as a bit set (all are below 32).
pub(super) const fn known(numbers: &[u32]) -> u32 {
    let mut set = 0;
    let mut rest = numbers;
    while let [number, others @ ..] = rest {
        set |= 1 << *number;
        rest = others;
    }
    set
}

/// What is left of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire<'a> {
    rest: &'a [u8],
}

impl<'a> Wire<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes that were not read yet.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next field's tag; none at the end of the message.
    #[inline]
    pub(super) fn tag(&mut self) -> Result<Option<u32>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = u32::try_from(self.varint()?).map_err(|_| DecodeError::FieldNumber)?;
        if tag >> 3 == 0 { Err(DecodeError::FieldNumber) } else { Ok(Some(tag)) }
    }

    /// A base-128 integer of at most ten bytes.
    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, DecodeError> {
        match self.rest.split_first() {
            Some((&byte, rest)) if byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
            self.rest = rest;
            // The tenth byte holds the 64th bit alone.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::LongVarint)
    }

    /// The payload of a length-delimited field.
    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.varint()?).map_err(|_| DecodeError::Truncated)?;
        let (payload, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(payload)
    }

    /// Eight bytes, little endian.
    #[inline]
    pub(super) fn fixed64(&mut self) -> Result<u64, DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// Passes over a field that no arm of the caller took: unknown fields are skipped, as protobuf demands, whereas a
    /// known one of the wrong wire type is an error.
    #[cold]
    pub(super) fn skip(&mut self, tag: u32, known: u32) -> Result<(), DecodeError> {
        let number = tag >> 3;
        if number < u32::BITS && known >> number & 1 == 1 {
            return Err(DecodeError::WireType);
        }
        self.pass(tag)
    }

    /// Passes over a field whose value does not matter, whatever its type.
    #[inline]
    pub(super) fn pass(&mut self, tag: u32) -> Result<(), DecodeError> {
        match tag & 7 {
            0 => self.varint().map(drop),
            1 => self.fixed64().map(drop),
            2 => self.bytes().map(drop),
            5 => {
                let (_, rest) = self.rest.split_first_chunk::<4>().ok_or(DecodeError::Truncated)?;
                self.rest = rest;
                Ok(())
            }
            // Groups (3 and 4) are no part of proto3, and 6 and 7 of no protobuf.
            _ => Err(DecodeError::WireType),
        }
    }
}
