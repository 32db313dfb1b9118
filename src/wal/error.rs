//! What can go wrong with the log, in words that say what to do.
//!
//! Owns: the error types of `wal`. Does not own: their mapping to protocol statuses.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::Position;

/// Why the log cannot be opened or looked at.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Another process holds the data directory.
    #[error(
        "the data directory {} is in use by another esker process{}; stop that process, or give this one another \
         `data_dir`",
        data_dir.display(),
        describe_holder(*holder)
    )]
    InUse {
        /// The directory.
        data_dir: PathBuf,
        /// The process id that the holder wrote into the lock file, if it could be read.
        holder: Option<u32>,
    },
    /// The operating system refused.
    #[error(
        "cannot {action} {}: {source}; check that this user may read and write there, and that the disk has room and \
         is healthy",
        path.display()
    )]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// `writer.json` cannot be understood.
    #[error(
        "{} is not readable as a writer identity ({problem}); restore it from a backup, or delete it: it is then \
         rebuilt from the headers of the log's segments",
        path.display()
    )]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No writer identity, and the log's segments cannot supply one.
    #[error(
        "{} is missing, and no segment in {} tells whose log it is; restore one of them from a backup, or move the \
         segments away to start with an empty log",
        path.display(),
        directory.display()
    )]
    IdentityLost {
        /// The identity file.
        path: PathBuf,
        /// Where the segments are.
        directory: PathBuf,
    },
    /// A segment was written by another writer.
    #[error(
        "{} belongs to writer {found}, but this data directory is writer {expected}; move the file back to the data \
         directory that it came from",
        file.display()
    )]
    ForeignSegment {
        /// The segment.
        file: PathBuf,
        /// The writer in its header.
        found: Uuid,
        /// The writer of this data directory.
        expected: Uuid,
    },
    /// A segment is written in a format of a later release.
    #[error("{} has log format {version}, which this release cannot read; run the release that wrote it", file.display())]
    NewerFormat {
        /// The segment.
        file: PathBuf,
        /// The format version in its header.
        version: u32,
    },
    /// Two segments hold the same positions.
    #[error(
        "{} begins at position {first}, which the segment before it also holds; one of the two was copied or renamed: \
         move it away",
        file.display()
    )]
    Overlap {
        /// The later segment.
        file: PathBuf,
        /// Its first position.
        first: Position,
    },
    /// Acknowledged frames that are not in the table yet cannot be read.
    #[error(
        "the log is damaged: {} at byte {offset}: {frames} acknowledged frames (positions {first} to {last}) cannot be \
         read and are not in the table ({places} damaged places in all). Either restore the file from a backup, or set \
         `wal.on_damage = \"set_aside\"`, which keeps a copy of the damaged bytes, drops them from the log, counts them \
         and goes on",
        file.display()
    )]
    Damaged {
        /// The first damaged file.
        file: PathBuf,
        /// Where in it the damage begins.
        offset: u64,
        /// How many frames are lost, over all places.
        frames: u64,
        /// The first lost position.
        first: Position,
        /// The last lost position.
        last: Position,
        /// How many places in the log lost frames.
        places: usize,
    },
    /// Limits that contradict each other.
    #[error("{key}: {problem}")]
    Options {
        /// The key in the configuration.
        key: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

impl WalError {
    /// For `map_err`: an I/O error with what was tried, and on what.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}

/// Why a frame was not appended. The frame is not in the log, except after `Poisoned`, when nobody can know.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The log's own cap is reached: retry once the table has taken what waits.
    #[error(
        "the log holds {bytes} of at most {bytes_max} bytes; it drains as soon as the table can be written"
    )]
    Full {
        /// Bytes in the log.
        bytes: u64,
        /// The cap, `wal.bytes_max`.
        bytes_max: u64,
    },
    /// The disk is full: retry once there is room.
    #[error("the disk of the log is full; free some space, the log goes on by itself")]
    NoSpace,
    /// A new segment cannot be begun: the log goes on, and the next append tries again.
    #[error("cannot {action} {}: {source}; check the log's directory and the limit of open files", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// The payload is over the cap of one frame: it will never fit.
    #[error(
        "a payload of {bytes} bytes is over the log's {bytes_max} bytes for one frame (`wal.payload_bytes_max`)"
    )]
    TooLarge {
        /// The payload's size.
        bytes: u64,
        /// The cap.
        bytes_max: u64,
    },
    /// The log stopped for good.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    /// The log was closed.
    #[error("the log is closed: the process is shutting down")]
    Closed,
}

/// The log stopped: a sync failed, so what the disk holds is unknown. Only a restart, which reads it back, can tell.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the log stopped because it could not {action} {}: {source}; check the disk, then restart", path.display())]
pub struct Poisoned {
    /// What failed.
    pub action: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// The system's answer.
    pub source: Arc<io::Error>,
}

/// Why a rotation, a release or a close did not end well.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ControlError {
    /// It did not happen, the log goes on, and a later attempt may succeed.
    #[error("cannot {action} {}: {source}; the log goes on, and this is tried again later", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// The log stopped for good.
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
    /// The log was closed.
    #[error("the log is closed: the process is shutting down")]
    Closed,
}

/// Why frames cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system refused.
    #[error("cannot read {} at byte {offset}: {source}; check the disk", file.display())]
    Io {
        /// The segment.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// What was written is not what is read.
    #[error(
        "{} is damaged at byte {offset}, where frame {expected} should be; restart: the log is then checked, and the \
         damage is reported with the ways out",
        file.display()
    )]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// The frame that should be there.
        expected: Position,
    },
}

fn describe_holder(holder: Option<u32>) -> String {
    holder.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}
