//! What one segment file holds: runs of valid frames, and the bytes between them that are none.
//!
//! Owns: telling frames from damage, and finding the next frame after damage. Does not own: what damage means for the
//! log (`recover`); changing any file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::Position;
use super::error::WalError;
use super::frame::{
    FRAME_HEADER_BYTES, FRAME_MARKER, FrameHeader, HeaderBytes, HeaderFault, SEGMENT_HEADER_BYTES, Seal,
    SegmentHeader,
};

/// How much is read at once while looking for the next frame, and while checking a payload.
const WINDOW_BYTES: usize = 64 * 1024;

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Also every payload's crc.
    Everything,
    /// Headers only: quick, for a look from outside.
    Headers,
}

/// One segment file as it was found.
#[derive(Debug)]
pub(super) struct SegmentScan {
    pub(super) path: PathBuf,
    /// The first position according to the file's name.
    pub(super) first: Position,
    pub(super) file_bytes: u64,
    /// `None` if it is damaged, or does not fit the file's name.
    pub(super) header: Option<SegmentHeader>,
    pub(super) pieces: Vec<Piece>,
}

/// A stretch of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    Run(Run),
    Damage { offset: u64, bytes: u64 },
}

/// Valid frames that follow each other without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) offset: u64,
    pub(super) end: u64,
    pub(super) first: Position,
    pub(super) last: Position,
    /// What the last frame says was durable before it; the frames before it say less or the same.
    pub(super) durable_before: Position,
    pub(super) oldest_received_micros: i64,
    /// Events in those frames that are not committed.
    pub(super) events: u64,
}

/// What to look for.
#[derive(Debug, Clone, Copy)]
pub(super) struct ScanOptions {
    pub(super) writer_id: Uuid,
    pub(super) committed: Position,
    pub(super) depth: Depth,
}

/// Reads one segment and calls `found` with every valid frame.
pub(super) fn scan_segment(
    path: &Path,
    first: Position,
    options: ScanOptions,
    found: &mut dyn FnMut(&FrameHeader),
) -> Result<SegmentScan, WalError> {
    let io = || WalError::io("read", path);
    let file = File::open(path).map_err(io())?;
    let file_bytes = file.metadata().map_err(io())?.len();
    let mut scanner = Scanner {
        file: BufReader::with_capacity(WINDOW_BYTES, file),
        at: 0,
        file_bytes,
        seal: Seal::of(options.writer_id),
        depth: options.depth,
        window: vec![0; WINDOW_BYTES],
    };
    let header = match scanner.segment_header().map_err(io())? {
        Ok(header) if header.writer_id != options.writer_id => {
            let (found, expected) = (header.writer_id, options.writer_id);
            return Err(WalError::ForeignSegment { file: path.to_path_buf(), found, expected });
        }
        Ok(header) => Some(header).filter(|header| header.first == first),
        Err(HeaderFault::Newer(version)) => {
            return Err(WalError::NewerFormat { file: path.to_path_buf(), version });
        }
        Err(HeaderFault::Damaged) => None,
    };
    let mut pieces = Pieces { list: Vec::new(), committed: options.committed, floor: first };
    if header.is_none() {
        pieces.damage(0, SEGMENT_HEADER_BYTES.min(file_bytes));
    }
    scanner.frames(&mut pieces, found).map_err(io())?;
    Ok(SegmentScan { path: path.to_path_buf(), first, file_bytes, header, pieces: pieces.list })
}

/// What is at an offset.
enum Found {
    Frame(FrameHeader),
    /// A frame whose header is sound, and whose payload is not: the next one begins at `end`.
    DamagedPayload {
        end: u64,
    },
    Nothing,
}

struct Scanner {
    file: BufReader<File>,
    at: u64,
    file_bytes: u64,
    seal: Seal,
    depth: Depth,
    window: Vec<u8>,
}

impl Scanner {
    fn segment_header(&mut self) -> io::Result<Result<SegmentHeader, HeaderFault>> {
        Ok(self.header_bytes(0)?.map_or(Err(HeaderFault::Damaged), |bytes| SegmentHeader::decode(&bytes)))
    }

    fn frames(&mut self, pieces: &mut Pieces, found: &mut dyn FnMut(&FrameHeader)) -> io::Result<()> {
        let mut offset = SEGMENT_HEADER_BYTES;
        while offset < self.file_bytes {
            let end = match self.frame_at(offset)? {
                Found::Frame(frame) if frame.position >= pieces.floor => {
                    pieces.frame(offset, &frame);
                    found(&frame);
                    offset + frame.frame_bytes()
                }
                Found::DamagedPayload { end } => {
                    pieces.damage(offset, end);
                    end
                }
                Found::Frame(_) | Found::Nothing => {
                    let end = self.find_frame(offset + 1)?;
                    pieces.damage(offset, end);
                    end
                }
            };
            offset = end;
        }
        Ok(())
    }

    fn frame_at(&mut self, offset: u64) -> io::Result<Found> {
        let Some(header) =
            self.header_bytes(offset)?.and_then(|bytes| FrameHeader::decode(&bytes, self.seal))
        else {
            return Ok(Found::Nothing);
        };
        let end = offset + header.frame_bytes();
        if end > self.file_bytes {
            return Ok(Found::Nothing);
        }
        if self.depth == Depth::Headers || self.payload_crc(header.payload_bytes)? == header.payload_crc {
            return Ok(Found::Frame(header));
        }
        Ok(Found::DamagedPayload { end })
    }

    /// The offset of the next sound frame header, or the end of the file.
    fn find_frame(&mut self, from: u64) -> io::Result<u64> {
        let overlap = FRAME_MARKER.len() as u64 - 1;
        let mut start = from;
        while start + FRAME_HEADER_BYTES <= self.file_bytes {
            let mut window = std::mem::take(&mut self.window);
            let filled = self.fill(start, &mut window)?;
            let marks = window.get(..filled).unwrap_or_default().windows(FRAME_MARKER.len()).enumerate();
            for (distance, _) in marks.filter(|(_, bytes)| *bytes == FRAME_MARKER) {
                let offset = start + distance as u64;
                if !matches!(self.frame_at(offset)?, Found::Nothing) {
                    self.window = window;
                    return Ok(offset);
                }
            }
            self.window = window;
            start += (filled as u64).saturating_sub(overlap).max(1);
        }
        Ok(self.file_bytes)
    }

    fn header_bytes(&mut self, offset: u64) -> io::Result<Option<HeaderBytes>> {
        let mut bytes: HeaderBytes = [0; 64];
        Ok((self.fill(offset, &mut bytes)? == bytes.len()).then_some(bytes))
    }

    fn payload_crc(&mut self, payload_bytes: u32) -> io::Result<u32> {
        let mut crc = 0;
        let mut left = u64::from(payload_bytes);
        while left > 0 {
            let available = self.file.fill_buf()?;
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(available.len());
            let Some(bytes) = available.get(..take).filter(|bytes| !bytes.is_empty()) else { break };
            crc = crc32c::crc32c_append(crc, bytes);
            self.file.consume(take);
            self.at += take as u64;
            left -= take as u64;
        }
        Ok(crc)
    }

    /// Reads at an offset; less than asked for only at the end of the file.
    fn fill(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.seek_relative(offset.cast_signed() - self.at.cast_signed())?;
        self.at = offset;
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read(rest) {
                Ok(0) => break,
                Ok(read) => {
                    filled += read;
                    self.at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

/// Collects neighbouring frames and neighbouring damage into pieces.
struct Pieces {
    list: Vec<Piece>,
    committed: Position,
    /// The lowest position that the next frame may have: positions only grow.
    floor: Position,
}

impl Pieces {
    fn frame(&mut self, offset: u64, frame: &FrameHeader) {
        let events = if frame.position > self.committed { u64::from(frame.events) } else { 0 };
        let end = offset + frame.frame_bytes();
        match self.list.last_mut() {
            Some(Piece::Run(run)) if run.last.next() == frame.position => {
                run.end = end;
                run.last = frame.position;
                run.durable_before = frame.durable_before;
                run.oldest_received_micros = run.oldest_received_micros.min(frame.received_micros);
                run.events += events;
            }
            _ => self.list.push(Piece::Run(Run {
                offset,
                end,
                first: frame.position,
                last: frame.position,
                durable_before: frame.durable_before,
                oldest_received_micros: frame.received_micros,
                events,
            })),
        }
        self.floor = frame.position.next();
    }

    fn damage(&mut self, offset: u64, end: u64) {
        match self.list.last_mut() {
            Some(Piece::Damage { offset, bytes }) => *bytes = end - *offset,
            _ => self.list.push(Piece::Damage { offset, bytes: end - offset }),
        }
    }
}
