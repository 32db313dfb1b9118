//! Reads durable frames back, in the order of their positions, checking each.
//!
//! Blocking file reads, mostly from the page cache: call it where blocking is allowed. Memory: one payload at a time,
//! and a small buffer.
//!
//! Owns: iterating over frames. Does not own: which segments there are; repairing anything.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use bytes::Bytes;

use super::error::ReadError;
use super::frame::{FRAME_HEADER_BYTES, FrameHeader, HeaderBytes, SEGMENT_HEADER_BYTES, Seal};
use super::segments::Segment;
use super::{Frame, Position};

const BUFFER_BYTES: usize = 64 * 1024;

/// An iterator over durable frames; it ends at the position it was made for, or after an error.
#[derive(Debug)]
pub struct FrameReader {
    seal: Seal,
    after: Position,
    through: Position,
    bytes_left: u64,
    /// Those that are still to be read.
    segments: VecDeque<Segment>,
    open: Option<OpenSegment>,
    returned_any: bool,
}

impl FrameReader {
    pub(super) fn new(
        seal: Seal,
        segments: impl IntoIterator<Item = Segment>,
        after: Position,
        through: Position,
    ) -> Self {
        let holds_some =
            |segment: &Segment| segment.frames > 0 && segment.last() > after && segment.first <= through;
        let segments = segments.into_iter().filter(holds_some).collect();
        Self { seal, after, through, bytes_left: u64::MAX, segments, open: None, returned_any: false }
    }

    /// Ends before the frame whose payload would bring the sum over this budget, but never before the first one.
    #[must_use]
    pub fn with_bytes_max(mut self, bytes_max: u64) -> Self {
        self.bytes_left = bytes_max;
        self
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, ReadError> {
        loop {
            let Some(open) = self.open.as_mut().filter(|open| !open.is_at_end()) else {
                let Some(segment) = self.segments.pop_front() else { return Ok(None) };
                self.open = Some(OpenSegment::open(segment)?);
                continue;
            };
            let header = open.header(self.seal)?;
            if header.position > self.through {
                return Ok(None);
            }
            if header.position <= self.after {
                open.skip(&header)?;
                continue;
            }
            let bytes = u64::from(header.payload_bytes);
            if bytes > self.bytes_left && self.returned_any {
                return Ok(None);
            }
            self.bytes_left = self.bytes_left.saturating_sub(bytes);
            self.returned_any = true;
            return open.payload(&header).map(Some);
        }
    }
}

impl Iterator for FrameReader {
    type Item = Result<Frame, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_frame().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.segments.clear();
            self.open = None;
        }
        next
    }
}

#[derive(Debug)]
struct OpenSegment {
    file: BufReader<File>,
    path: PathBuf,
    offset: u64,
    /// The end of what was durable when the reader was made.
    end: u64,
    expected: Position,
}

impl OpenSegment {
    fn open(segment: Segment) -> Result<Self, ReadError> {
        let Segment { path, first, bytes, .. } = segment;
        let opened = File::open(&path).and_then(|file| {
            let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
            file.seek_relative(SEGMENT_HEADER_BYTES.cast_signed()).map(|()| file)
        });
        match opened {
            Ok(file) => Ok(Self { file, path, offset: SEGMENT_HEADER_BYTES, end: bytes, expected: first }),
            Err(source) => Err(ReadError::Io { file: path, offset: 0, source }),
        }
    }

    fn is_at_end(&self) -> bool {
        self.offset >= self.end
    }

    fn header(&mut self, seal: Seal) -> Result<FrameHeader, ReadError> {
        let mut bytes: HeaderBytes = [0; 64];
        self.file.read_exact(&mut bytes).map_err(|source| self.failed(source))?;
        let fits = |header: &FrameHeader| {
            header.position == self.expected && self.offset + header.frame_bytes() <= self.end
        };
        FrameHeader::decode(&bytes, seal).filter(fits).ok_or_else(|| self.damaged())
    }

    fn skip(&mut self, header: &FrameHeader) -> Result<(), ReadError> {
        self.file.seek_relative(i64::from(header.payload_bytes)).map_err(|source| self.failed(source))?;
        self.advance(header);
        Ok(())
    }

    fn payload(&mut self, header: &FrameHeader) -> Result<Frame, ReadError> {
        // Bounded by the length of the file: `header` checked that the frame ends within it.
        let mut payload = vec![0; usize::try_from(header.payload_bytes).unwrap_or(usize::MAX)];
        self.file.read_exact(&mut payload).map_err(|source| self.failed(source))?;
        if crc32c::crc32c(&payload) != header.payload_crc {
            return Err(self.damaged());
        }
        self.advance(header);
        Ok(Frame {
            position: header.position,
            digest: header.digest,
            received_micros: header.received_micros,
            events: header.events,
            payload: Bytes::from(payload),
        })
    }

    fn advance(&mut self, header: &FrameHeader) {
        self.offset += FRAME_HEADER_BYTES + u64::from(header.payload_bytes);
        self.expected = header.position.next();
    }

    fn failed(&self, source: io::Error) -> ReadError {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return self.damaged();
        }
        ReadError::Io { file: self.path.clone(), offset: self.offset, source }
    }

    fn damaged(&self) -> ReadError {
        ReadError::Damaged { file: self.path.clone(), offset: self.offset, expected: self.expected }
    }
}
