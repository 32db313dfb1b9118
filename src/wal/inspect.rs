//! A look at a log from outside, while its server may be running.
//!
//! Owns: reading the directory without the lock and without changing anything. Does not own: judging damage: what looks
//! like an unreadable end may be a write that is going on.

use std::fs;
use std::io;
use std::path::Path;

use super::Position;
use super::disk;
use super::error::WalError;
use super::identity::{self, WriterIdentity};
use super::repair::COPY_SUFFIX;
use super::scan::{Depth, Piece, ScanOptions, scan_segment};

/// What a look from outside finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogInspection {
    /// Whose log it is; `None` if no server has started there.
    pub writer: Option<WriterIdentity>,
    /// The process id in the lock file: of the server, or of one that was killed.
    pub holder: Option<u32>,
    /// Segment files.
    pub segments: u64,
    /// Their size.
    pub bytes: u64,
    /// The first and the last position in them.
    pub positions: Option<(Position, Position)>,
    /// Frames after the committed position.
    pub frames_waiting: u64,
    /// Events in those frames.
    pub events_waiting: u64,
    /// When the oldest frame was received, microseconds since the Unix epoch, counting whole segments.
    pub oldest_received_micros: Option<i64>,
    /// Bytes that are no frame: damage, or a write that is going on.
    pub unreadable_bytes: u64,
    /// Copies of damaged bytes that earlier starts set aside.
    pub damaged_copies: u64,
    /// Their size.
    pub damaged_copies_bytes: u64,
}

/// Looks at the log of a data directory. `committed` is what the table holds of it; frames up to there do not wait.
///
/// # Errors
/// If the files cannot be read or are not this release's.
pub fn inspect(data_dir: &Path, committed: Position) -> Result<LogInspection, WalError> {
    let mut found = LogInspection::default();
    let Some(writer) = identity::peek_identity(data_dir)? else { return Ok(found) };
    found.writer = Some(writer);
    found.holder = identity::read_holder(data_dir);
    let directory = identity::log_directory(data_dir);
    let list = || WalError::io("list", &directory);
    let options = ScanOptions { writer_id: writer.writer_id, committed, depth: Depth::Headers };
    for (first, path) in disk::list_segments(&directory).map_err(list())? {
        match scan_segment(&path, first, options, &mut |_| {}) {
            Ok(scan) => {
                found.segments += 1;
                found.bytes += scan.file_bytes;
                scan.pieces.iter().for_each(|piece| found.add(piece, committed));
            }
            // The server released it in the meantime.
            Err(WalError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    for copy in disk::list_with_suffix(&directory, COPY_SUFFIX).map_err(list())? {
        found.damaged_copies += 1;
        found.damaged_copies_bytes += fs::metadata(&copy).map_or(0, |copy| copy.len());
    }
    Ok(found)
}

impl LogInspection {
    fn add(&mut self, piece: &Piece, committed: Position) {
        let run = match piece {
            Piece::Damage { bytes, .. } => {
                self.unreadable_bytes += bytes;
                return;
            }
            Piece::Run(run) => run,
        };
        self.positions = Some((self.positions.map_or(run.first, |(first, _)| first), run.last));
        if run.last > committed {
            self.frames_waiting += run.last.0 - run.first.previous().max(committed).0;
            self.events_waiting += run.events;
            let oldest = self.oldest_received_micros.unwrap_or(i64::MAX).min(run.oldest_received_micros);
            self.oldest_received_micros = Some(oldest);
        }
    }
}
