//! The log's format on disk, byte for byte. All integers are little-endian; `crc` is CRC-32C.
//!
//! A segment file `<first position, 20 digits>.wal` is one segment header and then frames, without padding:
//!
//! ```text
//! segment header, 64 bytes              frame, 64 bytes and the payload
//!  0  8  magic "\x89ESKWAL\n"            0  8  marker "\xF5ESKFRM\xF6" (not UTF-8, to find frames again after damage)
//!  8  4  format version, 1               8  4  payload length
//! 12  4  zero                           12  4  crc of the payload
//! 16 16  writer id (UUID)               16  8  position
//! 32  8  epoch                          24  8  durable before: the last position that was synced when this frame's
//! 40  8  first position                        group was written
//! 48  8  missing from (see below)       32  8  received, microseconds since the Unix epoch
//! 56  4  zero                           40 16  digest of the request
//! 60  4  crc of bytes 0..60             56  4  number of events
//!                                       60  4  crc of bytes 0..60, begun with the crc of the writer id
//!                                       64  -  payload
//! ```
//!
//! Positions within a segment follow each other without a gap. *Missing from* equals the first position, unless frames
//! before this segment were lost and reported: then it is the first of the lost positions, so that a later start does
//! not report them again.
//!
//! *Durable before* tells a torn group from damage. A group is written at once and then synced; after a power loss any
//! part of it may be missing, also from its middle. A frame that says it was written after position 7 was durable
//! proves that a missing frame 7 had been acknowledged; without such a proof it never was.
//!
//! The crc of a frame's header begins with the writer id, which senders do not know: bytes inside a payload that look
//! like a frame do not pass for one.
//!
//! Owns: encoding and checking of the two headers. Does not own: files.

use bytes::{Buf, BufMut};
use uuid::Uuid;

use super::Position;

/// Size of a segment's header.
pub(super) const SEGMENT_HEADER_BYTES: u64 = HEADER_BYTES as u64;
/// Size of a frame without its payload.
pub(super) const FRAME_HEADER_BYTES: u64 = HEADER_BYTES as u64;
/// How every frame begins.
pub(super) const FRAME_MARKER: [u8; 8] = *b"\xF5ESKFRM\xF6";

const HEADER_BYTES: usize = 64;
const SEALED_BYTES: usize = 60;
const SEGMENT_MAGIC: [u8; 8] = *b"\x89ESKWAL\n";
const FORMAT_VERSION: u32 = 1;

/// The bytes of either header.
pub(super) type HeaderBytes = [u8; HEADER_BYTES];

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) writer_id: Uuid,
    pub(super) epoch: u64,
    pub(super) first: Position,
    pub(super) missing_from: Position,
}

/// Why a segment's header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderFault {
    Damaged,
    Newer(u32),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> HeaderBytes {
        let mut bytes = [0; HEADER_BYTES];
        let mut fields = bytes.as_mut_slice();
        fields.put_slice(&SEGMENT_MAGIC);
        fields.put_u32_le(FORMAT_VERSION);
        fields.put_u32_le(0);
        fields.put_slice(self.writer_id.as_bytes());
        fields.put_u64_le(self.epoch);
        fields.put_u64_le(self.first.0);
        fields.put_u64_le(self.missing_from.0);
        seal(&mut bytes, 0);
        bytes
    }

    pub(super) fn decode(bytes: &HeaderBytes) -> Result<Self, HeaderFault> {
        let mut fields = bytes.as_slice();
        if take(&mut fields) != SEGMENT_MAGIC || !is_sealed(bytes, 0) {
            return Err(HeaderFault::Damaged);
        }
        let version = fields.get_u32_le();
        if version != FORMAT_VERSION {
            return Err(HeaderFault::Newer(version));
        }
        fields.advance(4);
        Ok(Self {
            writer_id: Uuid::from_bytes(take(&mut fields)),
            epoch: fields.get_u64_le(),
            first: Position(fields.get_u64_le()),
            missing_from: Position(fields.get_u64_le()),
        })
    }
}

/// What begins the crc of every frame header of one writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seal(u32);

impl Seal {
    pub(super) fn of(writer_id: Uuid) -> Self {
        Self(crc32c::crc32c(writer_id.as_bytes()))
    }
}

/// What a frame says before its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) payload_bytes: u32,
    pub(super) payload_crc: u32,
    pub(super) position: Position,
    pub(super) durable_before: Position,
    pub(super) received_micros: i64,
    pub(super) digest: [u8; 16],
    pub(super) events: u32,
}

impl FrameHeader {
    pub(super) fn encode(&self, writer: Seal) -> HeaderBytes {
        let mut bytes = [0; HEADER_BYTES];
        let mut fields = bytes.as_mut_slice();
        fields.put_slice(&FRAME_MARKER);
        fields.put_u32_le(self.payload_bytes);
        fields.put_u32_le(self.payload_crc);
        fields.put_u64_le(self.position.0);
        fields.put_u64_le(self.durable_before.0);
        fields.put_i64_le(self.received_micros);
        fields.put_slice(&self.digest);
        fields.put_u32_le(self.events);
        seal(&mut bytes, writer.0);
        bytes
    }

    /// `None` if these bytes are not a frame's header of this writer.
    pub(super) fn decode(bytes: &HeaderBytes, writer: Seal) -> Option<Self> {
        let mut fields = bytes.as_slice();
        if take(&mut fields) != FRAME_MARKER || !is_sealed(bytes, writer.0) {
            return None;
        }
        Some(Self {
            payload_bytes: fields.get_u32_le(),
            payload_crc: fields.get_u32_le(),
            position: Position(fields.get_u64_le()),
            durable_before: Position(fields.get_u64_le()),
            received_micros: fields.get_i64_le(),
            digest: take(&mut fields),
            events: fields.get_u32_le(),
        })
    }

    /// Size of the whole frame.
    pub(super) fn frame_bytes(&self) -> u64 {
        frame_bytes(u64::from(self.payload_bytes))
    }
}

/// Size on disk of a frame with a payload of this size.
pub(super) fn frame_bytes(payload_bytes: u64) -> u64 {
    FRAME_HEADER_BYTES + payload_bytes
}

fn seal(bytes: &mut HeaderBytes, start: u32) {
    let (sealed, crc) = bytes.split_at_mut(SEALED_BYTES);
    crc.copy_from_slice(&crc32c::crc32c_append(start, sealed).to_le_bytes());
}

fn is_sealed(bytes: &HeaderBytes, start: u32) -> bool {
    let (sealed, mut crc) = bytes.split_at(SEALED_BYTES);
    crc32c::crc32c_append(start, sealed) == crc.get_u32_le()
}

fn take<const N: usize>(fields: &mut &[u8]) -> [u8; N] {
    let mut taken = [0; N];
    fields.copy_to_slice(&mut taken);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> FrameHeader {
        FrameHeader {
            payload_bytes: 7,
            payload_crc: 8,
            position: Position(9),
            durable_before: Position(6),
            received_micros: -5,
            digest: *b"0123456789abcdef",
            events: 3,
        }
    }

    #[test]
    fn headers_read_back_as_written() {
        let segment = SegmentHeader {
            writer_id: Uuid::from_u128(7),
            epoch: 2,
            first: Position(11),
            missing_from: Position(10),
        };
        assert_eq!(SegmentHeader::decode(&segment.encode()), Ok(segment));
        let seal = Seal::of(segment.writer_id);
        assert_eq!(FrameHeader::decode(&frame().encode(seal), seal), Some(frame()));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let seal = Seal::of(Uuid::from_u128(7));
        let segment =
            SegmentHeader { writer_id: Uuid::nil(), epoch: 0, first: Position(1), missing_from: Position(1) };
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = frame().encode(seal);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::decode(&bytes, seal), None, "bit {bit}");
            let mut bytes = segment.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderFault::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_of_another_writer_does_not_pass() {
        let bytes = frame().encode(Seal::of(Uuid::from_u128(1)));
        assert_eq!(FrameHeader::decode(&bytes, Seal::of(Uuid::from_u128(2))), None);
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let segment =
            SegmentHeader { writer_id: Uuid::nil(), epoch: 0, first: Position(1), missing_from: Position(1) };
        let mut bytes = segment.encode();
        bytes[8] = 2;
        seal(&mut bytes, 0);
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderFault::Newer(2)));
    }
}
