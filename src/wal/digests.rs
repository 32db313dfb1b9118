//! The digests of the newest durable frames, kept past the frames themselves, so that a client's retry is recognised
//! also after a restart.
//!
//! While a frame is in a segment, its digest is read from there. When its segment is removed, the digest goes into the
//! file `digests` beside the segments, in the same order of events: first this file, then the removal.
//!
//! ```text
//! 0  8  magic "\x89ESKDIG\n"     then per digest:  0 16  digest     at the end: 4  crc of all before
//! 8  4  format version, 1                         16  8  received
//! 12 4  number of digests                         24  8  position
//! ```
//!
//! Owns: that file and the bounded list in memory. Does not own: what a retry is answered (`retry`).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut};

use super::Position;
use super::disk::{self, Disk, Failed};

/// How many digests are kept: 2 MiB, an hour of 18 requests a second.
pub(super) const RECENT_DIGESTS_MAX: usize = 65_536;

const FILE_NAME: &str = "digests";
const MAGIC: [u8; 8] = *b"\x89ESKDIG\n";
const FORMAT_VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
const ENTRY_BYTES: usize = 32;
const CRC_BYTES: usize = 4;
const FILE_BYTES_MAX: usize = HEADER_BYTES + RECENT_DIGESTS_MAX * ENTRY_BYTES + CRC_BYTES;

/// The digest of a request that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurableDigest {
    /// Keyed digest of the request.
    pub digest: [u8; 16],
    /// When the request was received, microseconds since the Unix epoch.
    pub received_micros: i64,
    /// Its place in the log.
    pub position: Position,
}

/// The newest digests, the oldest first.
#[derive(Debug, Default)]
pub(super) struct RecentDigests(VecDeque<DurableDigest>);

impl RecentDigests {
    pub(super) fn push(&mut self, digest: DurableDigest) {
        if self.0.len() == RECENT_DIGESTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(digest);
    }

    /// Puts digests before those that are here, as far as there is room.
    pub(super) fn prepend(&mut self, older: Vec<DurableDigest>) {
        let room = RECENT_DIGESTS_MAX - self.0.len();
        for digest in older.into_iter().rev().take(room) {
            self.0.push_front(digest);
        }
    }

    pub(super) fn to_vec(&self) -> Vec<DurableDigest> {
        self.0.iter().copied().collect()
    }

    /// Writes those up to a position. Later ones are in segments, and must not outlive them here: if such a segment is
    /// ever damaged, a retry is what brings the frame back.
    pub(super) fn save(&self, disk: &dyn Disk, directory: &Path, through: Position) -> Result<(), Failed> {
        let entries: Vec<_> = self.0.iter().filter(|entry| entry.position <= through).collect();
        let mut bytes = Vec::with_capacity(HEADER_BYTES + entries.len() * ENTRY_BYTES + CRC_BYTES);
        bytes.put_slice(&MAGIC);
        bytes.put_u32_le(FORMAT_VERSION);
        bytes.put_u32_le(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        for entry in entries {
            bytes.put_slice(&entry.digest);
            bytes.put_i64_le(entry.received_micros);
            bytes.put_u64_le(entry.position.0);
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.put_u32_le(crc);
        disk::replace_file(disk, &file_path(directory), &bytes)
    }
}

/// The digests of removed frames up to a position. A file that cannot be understood only costs the recognition of
/// retries from before this start, so it is reported and passed over.
pub(super) fn load(directory: &Path, through: Position) -> io::Result<Vec<DurableDigest>> {
    let path = file_path(directory);
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let Some(mut entries) = decode(&bytes) else {
        tracing::warn!(
            file = %path.display(),
            "the digests of earlier requests are damaged: retries of requests from before this start may be stored twice"
        );
        return Ok(Vec::new());
    };
    entries.retain(|entry| entry.position <= through);
    Ok(entries)
}

fn decode(bytes: &[u8]) -> Option<Vec<DurableDigest>> {
    let (content, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
    let (header, entries) = content.split_first_chunk::<HEADER_BYTES>()?;
    let (magic, mut fields) = header.split_first_chunk::<8>()?;
    let (version, count) = (fields.get_u32_le(), fields.get_u32_le());
    let is_whole = entries.len() == usize::try_from(count).ok()?.checked_mul(ENTRY_BYTES)?;
    if *magic != MAGIC
        || version != FORMAT_VERSION
        || !is_whole
        || u32::from_le_bytes(*crc) != crc32c::crc32c(content)
    {
        return None;
    }
    Some(entries.chunks_exact(ENTRY_BYTES).map(decode_entry).collect())
}

fn decode_entry(mut entry: &[u8]) -> DurableDigest {
    let mut digest = [0; 16];
    entry.copy_to_slice(&mut digest);
    DurableDigest { digest, received_micros: entry.get_i64_le(), position: Position(entry.get_u64_le()) }
}

fn file_path(directory: &Path) -> PathBuf {
    directory.join(FILE_NAME)
}
