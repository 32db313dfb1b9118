//! Decompression of request bodies.
//!
//! Owns: gzip and zstd within the limits of size and memory. Does not own: reading the compressed bytes.

use std::io::Read;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use http::HeaderMap;
use http::header::HeaderName;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::budget::Reservation;
use super::reply::Refusal;

/// The largest zstd window, as a power of two: 16 MiB, what a whole request may have. It is memory beside the output.
const ZSTD_WINDOW_LOG_MAX: u32 = 24;

/// What a zstd decoder takes without its window.
const ZSTD_CONTEXT_BYTES: u64 = 512 * 1024;

/// What a gzip decoder takes.
const GZIP_CONTEXT_BYTES: u64 = 64 * 1024;

/// The first room for a body whose length is not known; it doubles from there.
const OUTPUT_FIRST_BYTES: u64 = 16 * 1024;

/// How well a body may claim to be compressed before its claim is left aside; batches reach 20 to 1 at the best.
const RATIO_BELIEVED: u64 = 32;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// What this header says (`content-encoding`, `grpc-encoding`).
    pub(super) fn of(headers: &HeaderMap, name: HeaderName) -> Result<Self, Refusal> {
        let Some(value) = headers.get(name) else { return Ok(Self::Identity) };
        match value.as_bytes() {
            value if value.eq_ignore_ascii_case(b"gzip") => Ok(Self::Gzip),
            value if value.eq_ignore_ascii_case(b"zstd") => Ok(Self::Zstd),
            value if value.is_empty() || value.eq_ignore_ascii_case(b"identity") => Ok(Self::Identity),
            _ => Err(Refusal::UnsupportedEncoding),
        }
    }
}

/// Decompresses a body to at most `limit` bytes. What that takes is added to `reservation`.
pub(super) fn inflate(
    encoding: Encoding,
    body: Bytes,
    limit: u64,
    reservation: &mut Reservation,
) -> Result<Bytes, Refusal> {
    let output = Output { bytes: Vec::new(), limit, reservation };
    match encoding {
        Encoding::Identity => Ok(body),
        Encoding::Gzip => gzip(&body, output),
        Encoding::Zstd => zstd(&body, output),
    }
}

/// Decompressed bytes, whose whole capacity is in the budget.
struct Output<'r> {
    bytes: Vec<u8>,
    limit: u64,
    reservation: &'r mut Reservation,
}

impl Output<'_> {
    /// Makes room for `expected` bytes in all, or for twice as many as before. Over the limit there is none.
    fn grow_to(&mut self, expected: u64) -> Result<(), Refusal> {
        let capacity = self.bytes.capacity() as u64;
        if capacity >= self.limit {
            return Err(Refusal::TooLarge { limit: self.limit });
        }
        let larger = expected.max(capacity.saturating_mul(2)).max(OUTPUT_FIRST_BYTES).min(self.limit);
        self.reservation.grow_by(larger.saturating_sub(capacity))?;
        self.bytes.reserve_exact(usize::try_from(larger).unwrap_or(usize::MAX) - self.bytes.len());
        Ok(())
    }

    fn spare(&self) -> u64 {
        // A vector may have more room than was asked for, and the limit counts.
        (self.bytes.capacity() as u64).min(self.limit) - self.bytes.len() as u64
    }
}

fn gzip(body: &[u8], mut output: Output<'_>) -> Result<Bytes, Refusal> {
    const FAULT: Refusal = Refusal::Malformed("the body is not valid gzip, or ends too early");

    output.reservation.grow_by(GZIP_CONTEXT_BYTES)?;
    let mut reader = MultiGzDecoder::new(body);
    let expected = gzip_length(body);
    loop {
        let spare = output.spare();
        reader.by_ref().take(spare).read_to_end(&mut output.bytes).map_err(|_| FAULT)?;
        // Room is made for what is there, and not for what might be.
        let mut next = [0];
        if reader.read(&mut next).map_err(|_| FAULT)? == 0 {
            return Ok(Bytes::from(output.bytes));
        }
        output.grow_to(expected)?;
        output.bytes.extend_from_slice(&next);
    }
}

/// The length that the last four bytes tell. It may be a lie, and is believed only within reason.
fn gzip_length(body: &[u8]) -> u64 {
    let told = body.last_chunk().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)));
    told.min((body.len() as u64).saturating_mul(RATIO_BELIEVED))
}

fn zstd(body: &[u8], mut output: Output<'_>) -> Result<Bytes, Refusal> {
    const FAULT: Refusal = Refusal::Malformed("the body is not valid zstd, or ends too early");

    output.reservation.grow_by(ZSTD_CONTEXT_BYTES)?;
    let mut decoder = Decoder::new().map_err(|_| FAULT)?;
    decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).map_err(|_| FAULT)?;
    let mut input = InBuffer::around(body);
    let mut window_held = 0;
    while let Some(frame) = body.get(input.pos()..).filter(|rest| !rest.is_empty()) {
        let length = zstd_length(frame);
        let window = zstd_window(frame).unwrap_or(0).min(length.unwrap_or(u64::MAX));
        output.reservation.grow_by(window.saturating_sub(window_held))?;
        window_held = window_held.max(window);
        if let Some(length) = length.filter(|length| *length > output.spare()) {
            output.grow_to((output.bytes.len() as u64).saturating_add(length))?;
        }
        zstd_frame(&mut decoder, &mut input, &mut output)?.ok_or(FAULT)?;
    }
    Ok(Bytes::from(output.bytes))
}

/// Decompresses one frame; none where it is faulty or ends too early.
fn zstd_frame(
    decoder: &mut Decoder<'_>,
    input: &mut InBuffer<'_>,
    output: &mut Output<'_>,
) -> Result<Option<()>, Refusal> {
    loop {
        let before = (input.pos(), output.bytes.len());
        let produced = output.bytes.len();
        let mut buffer = OutBuffer::around_pos(&mut output.bytes, produced);
        let Ok(hint) = decoder.run(input, &mut buffer) else { return Ok(None) };
        if hint == 0 {
            return Ok(Some(()));
        }
        if (input.pos(), output.bytes.len()) == before {
            if output.spare() > 0 {
                return Ok(None);
            }
            output.grow_to(0)?;
        }
    }
}

/// The decompressed length that a zstd frame tells, if it does.
fn zstd_length(frame: &[u8]) -> Option<u64> {
    zstd::zstd_safe::get_frame_content_size(frame).ok().flatten()
}

/// The window that a zstd frame asks for (RFC 8878, 3.1.1.1), as far as the decoder grants it: none for a frame that is
/// none, or that needs only as much as its content has.
fn zstd_window(frame: &[u8]) -> Option<u64> {
    const SINGLE_SEGMENT: u8 = 1 << 5;

    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, window, ..] = *frame else { return None };
    let granted = 1 << ZSTD_WINDOW_LOG_MAX;
    if descriptor & SINGLE_SEGMENT != 0 {
        return Some(granted);
    }
    let base = 1u64 << (10 + u32::from(window >> 3));
    Some((base + base / 8 * u64::from(window & 7)).min(granted))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::receive::budget::MemoryBudget;

    const LIMIT: u64 = 1024 * 1024;

    fn gzipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// A frame that does not tell its length.
    fn zstd_streamed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd_whole(bytes: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(bytes, 3).unwrap()
    }

    fn forms(bytes: &[u8]) -> [(Encoding, Vec<u8>); 3] {
        [
            (Encoding::Gzip, gzipped(bytes)),
            (Encoding::Zstd, zstd_streamed(bytes)),
            (Encoding::Zstd, zstd_whole(bytes)),
        ]
    }

    fn inflated(encoding: Encoding, body: &[u8]) -> (Result<Bytes, Refusal>, u64) {
        let mut reservation = MemoryBudget::default().reserve(0).unwrap();
        let result = inflate(encoding, Bytes::copy_from_slice(body), LIMIT, &mut reservation);
        (result, reservation.bytes())
    }

    #[test]
    fn bodies_up_to_the_limit_come_out_as_they_went_in() {
        for length in [0, 1, 1000, 70_000, LIMIT - 1, LIMIT] {
            let bytes: Vec<u8> = (0..length).map(|i| ((i * i) >> 7) as u8).collect();
            for (encoding, body) in forms(&bytes) {
                let (result, held) = inflated(encoding, &body);
                assert_eq!(result.unwrap(), bytes, "{encoding:?} {length}");
                assert!(held >= length, "the memory is accounted for");
            }
        }
    }

    #[test]
    fn a_bomb_ends_at_the_limit_and_takes_no_more_memory_than_that() {
        let zeros = vec![0; 64 * LIMIT as usize];
        for (encoding, body) in forms(&zeros) {
            let (result, held) = inflated(encoding, &body);
            assert_eq!(result.unwrap_err(), Refusal::TooLarge { limit: LIMIT });
            // The output at most, a zstd window of level 3 (2 MiB), and the decoder.
            assert!(held <= LIMIT + 2 * LIMIT + ZSTD_CONTEXT_BYTES, "{encoding:?} held {held}");
        }
    }

    #[test]
    fn one_byte_over_the_limit_is_too_much() {
        let bytes = vec![7; LIMIT as usize + 1];
        for (encoding, body) in forms(&bytes) {
            assert_eq!(inflated(encoding, &body).0.unwrap_err(), Refusal::TooLarge { limit: LIMIT });
        }
    }

    #[test]
    fn several_members_or_frames_are_one_body() {
        let gzip = [gzipped(b"one "), gzipped(b"two")].concat();
        assert_eq!(inflated(Encoding::Gzip, &gzip).0.unwrap(), &b"one two"[..]);
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9];
        let zstd = [&zstd_whole(b"one ")[..], &skippable, &zstd_streamed(b"two")].concat();
        assert_eq!(inflated(Encoding::Zstd, &zstd).0.unwrap(), &b"one two"[..]);
    }

    #[test]
    fn a_body_that_ends_too_early_is_malformed() {
        let bytes: Vec<u8> = (0..5000u32).map(|i| ((i * i) >> 5) as u8).collect();
        for (encoding, body) in forms(&bytes) {
            for end in [1, 4, 9, body.len() / 2, body.len() - 5, body.len() - 1] {
                let result = inflated(encoding, &body[..end]).0;
                assert!(matches!(result, Err(Refusal::Malformed(_))), "{encoding:?} {end}: {result:?}");
            }
            let garbage = [&body[..], b"garbage!"].concat();
            assert!(matches!(inflated(encoding, &garbage).0, Err(Refusal::Malformed(_))));
        }
    }

    #[test]
    fn a_window_over_the_limit_is_refused_before_it_is_allocated() {
        // A frame header that asks for a window of 2 GiB and one raw block.
        let body = [0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 9, 0, 0, b'x'];
        let (result, held) = inflated(Encoding::Zstd, &body);
        assert!(matches!(result, Err(Refusal::Malformed(_))), "{result:?}");
        assert!(held <= (1 << ZSTD_WINDOW_LOG_MAX) + ZSTD_CONTEXT_BYTES);
    }

    #[test]
    fn what_does_not_fit_the_budget_is_refused_as_overload() {
        let bytes = vec![1; LIMIT as usize];
        for (encoding, body) in forms(&bytes) {
            let mut reservation = MemoryBudget::new(LIMIT / 2).reserve(0).unwrap();
            let result = inflate(encoding, Bytes::from(body), LIMIT, &mut reservation);
            assert!(matches!(result, Err(Refusal::Overloaded { .. })), "{encoding:?}");
        }
    }

    #[test]
    fn an_unknown_compression_is_unsupported() {
        let mut headers = HeaderMap::new();
        let name = http::header::CONTENT_ENCODING;
        assert_eq!(Encoding::of(&headers, name.clone()), Ok(Encoding::Identity));
        for (value, expected) in [
            ("GZIP", Ok(Encoding::Gzip)),
            ("zstd", Ok(Encoding::Zstd)),
            ("identity", Ok(Encoding::Identity)),
            ("br", Err(Refusal::UnsupportedEncoding)),
            ("gzip, zstd", Err(Refusal::UnsupportedEncoding)),
        ] {
            headers.insert(name.clone(), value.parse().unwrap());
            assert_eq!(Encoding::of(&headers, name.clone()), expected, "{value}");
        }
    }
}
