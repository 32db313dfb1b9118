//! The write-ahead log: what is in it when `append` answers survives `kill -9` and power loss.
//!
//! Owns: the disk format, group commit, fdatasync, replay, release, the cap on disk use. Does not own: what a payload
//! means.

use std::fmt;

use bytes::Bytes;

/// A frame's place in the log of one data directory: 1 for the first ever appended, then without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the log keeps: one accepted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its place.
    pub position: Position,
    /// Keyed digest of the request, to recognise a client's retry.
    pub digest: [u8; 16],
    /// When it was received, microseconds since the Unix epoch.
    pub received_micros: i64,
    /// Number of events in the payload.
    pub events: u32,
    /// Opaque here; an Arrow IPC stream in practice.
    pub payload: Bytes,
}
