//! Whose log this is, and that only one process writes it: `LOCK` and `writer.json` in the data directory.
//!
//! Every start gets a new epoch, durable before anything else happens, so that a commit tells which start made it. A
//! lost `writer.json` is rebuilt from the segments: a start creates a segment before it can write to the table, so the
//! newest header names the last epoch that the table can have seen.
//!
//! Owns: the lock, the writer's id and its epoch. Does not own: the frames; what the table says of this writer.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Position;
use super::digests;
use super::disk::{self, FileSystem};
use super::error::WalError;
use super::frame::{HeaderFault, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::clock::Ids;

const LOCK_NAME: &str = "LOCK";
const IDENTITY_NAME: &str = "writer.json";
const LOG_NAME: &str = "wal";
/// The identity is one short line; what is longer is not an identity.
const IDENTITY_BYTES_MAX: u64 = 4096;

/// Who writes this log, and which of its starts this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterIdentity {
    /// Of this data directory, for ever.
    pub writer_id: Uuid,
    /// 1 at the first start, one more at each later one.
    pub epoch: u64,
}

/// A data directory that this process alone may write, and whose identity is known. The next step is to ask the table
/// which position of this writer it holds, and then [`Wal::open`](super::Wal::open).
#[derive(Debug)]
pub struct WalFiles {
    pub(super) directory: PathBuf,
    pub(super) identity: WriterIdentity,
    pub(super) lock: LockFile,
    pub(super) witnessed: Position,
}

impl WalFiles {
    /// Takes the data directory, creating it if it is not there, and begins a new epoch.
    ///
    /// # Errors
    /// If another process holds it, if it cannot be written, or if its identity is unreadable.
    pub fn lock(data_dir: &Path, ids: &dyn Ids) -> Result<Self, WalError> {
        let directory = log_directory(data_dir);
        create_directories(data_dir, &directory)?;
        let lock = LockFile::take(data_dir)?;
        let path = data_dir.join(IDENTITY_NAME);
        let last = match read_identity(&path)? {
            Some(last) => last,
            None => rebuild_identity(&path, &directory)?
                .unwrap_or_else(|| WriterIdentity { writer_id: ids.next_id(), epoch: 0 }),
        };
        let identity = WriterIdentity { writer_id: last.writer_id, epoch: last.epoch + 1 };
        write_identity(&path, identity)?;
        Ok(Self { directory, identity, lock, witnessed: Position(0) })
    }

    /// Names the last position that any table holds. A table may hold frames that are not committed, because others still
    /// lack them: the log must have them, and their positions are never used again.
    #[must_use]
    pub fn witnessed(self, position: Position) -> Self {
        Self { witnessed: position, ..self }
    }

    /// The last position that this data directory knows to have been in every table: 0 if it knows of none. It is what the
    /// digests of removed frames say; frames that are still here can be committed again and prove nothing.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn released(&self) -> Result<Position, WalError> {
        let digests = digests::load(&self.directory, Position(u64::MAX));
        let digests = digests.map_err(WalError::io("read the digests in", &self.directory))?;
        Ok(digests.iter().map(|entry| entry.position).max().unwrap_or_default())
    }

    /// Who writes this log.
    #[must_use]
    pub fn identity(&self) -> WriterIdentity {
        self.identity
    }
}

/// Holds the data directory until it is dropped, or until the process ends in any way.
#[derive(Debug)]
pub(super) struct LockFile(File);

impl LockFile {
    fn take(data_dir: &Path) -> Result<Self, WalError> {
        let path = data_dir.join(LOCK_NAME);
        let io = |action| WalError::io(action, &path);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io("open the lock file"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(WalError::InUse {
                    data_dir: data_dir.to_path_buf(),
                    holder: read_holder(data_dir),
                });
            }
            Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
        }
        file.set_len(0).map_err(io("write the lock file"))?;
        file.write_all(std::process::id().to_string().as_bytes()).map_err(io("write the lock file"))?;
        Ok(Self(file))
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Only the note of the process id: the lock itself ends when the file is closed, a line later. A note that
        // stays is what a killed process leaves, too.
        drop(self.0.set_len(0));
    }
}

/// The process id in the lock file: that of the holder, or of a process that was killed while it held it.
pub(super) fn read_holder(data_dir: &Path) -> Option<u32> {
    fs::read_to_string(data_dir.join(LOCK_NAME)).ok()?.trim().parse().ok()
}

/// Where the segments are.
pub(super) fn log_directory(data_dir: &Path) -> PathBuf {
    data_dir.join(LOG_NAME)
}

/// The identity of a data directory, without taking it; `None` if nobody has started there.
pub(super) fn peek_identity(data_dir: &Path) -> Result<Option<WriterIdentity>, WalError> {
    let path = data_dir.join(IDENTITY_NAME);
    match read_identity(&path)? {
        Some(identity) => Ok(Some(identity)),
        None if log_directory(data_dir).is_dir() => rebuild_identity(&path, &log_directory(data_dir)),
        None => Ok(None),
    }
}

#[derive(Serialize, Deserialize)]
struct IdentityFile {
    writer_id: String,
    epoch: u64,
}

fn read_identity(path: &Path) -> Result<Option<WriterIdentity>, WalError> {
    let problem = |problem: String| WalError::Identity { path: path.to_path_buf(), problem };
    let mut text = String::new();
    match File::open(path) {
        Ok(file) => match file.take(IDENTITY_BYTES_MAX).read_to_string(&mut text) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(problem(error.to_string()));
            }
            Err(error) => return Err(WalError::io("read", path)(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(WalError::io("read", path)(error)),
    }
    let file: IdentityFile = serde_json::from_str(&text).map_err(|error| problem(error.to_string()))?;
    let writer_id = Uuid::try_parse(&file.writer_id).map_err(|error| problem(error.to_string()))?;
    Ok(Some(WriterIdentity { writer_id, epoch: file.epoch }))
}

fn write_identity(path: &Path, identity: WriterIdentity) -> Result<(), WalError> {
    let file = IdentityFile { writer_id: identity.writer_id.to_string(), epoch: identity.epoch };
    let text = serde_json::to_vec(&file)
        .map_err(|error| WalError::Identity { path: path.to_path_buf(), problem: error.to_string() })?;
    disk::replace_file(&FileSystem, path, &text)
        .map_err(|failed| WalError::io(failed.step.action(), &failed.path)(failed.source))
}

/// `None` if there are no segments, so that nothing can be lost by a new identity.
fn rebuild_identity(path: &Path, directory: &Path) -> Result<Option<WriterIdentity>, WalError> {
    let segments = disk::list_segments(directory).map_err(WalError::io("list", directory))?;
    if segments.is_empty() {
        return Ok(None);
    }
    let mut found: Option<WriterIdentity> = None;
    for (_, segment) in segments {
        let Some(header) = read_segment_header(&segment)? else { continue };
        let newest = found.get_or_insert(WriterIdentity { writer_id: header.writer_id, epoch: 0 });
        if newest.writer_id != header.writer_id {
            let expected = newest.writer_id;
            return Err(WalError::ForeignSegment { file: segment, found: header.writer_id, expected });
        }
        newest.epoch = newest.epoch.max(header.epoch);
    }
    let lost = || WalError::IdentityLost { path: path.to_path_buf(), directory: directory.to_path_buf() };
    let identity = found.ok_or_else(lost)?;
    tracing::warn!(
        file = %path.display(), writer_id = %identity.writer_id, epoch = identity.epoch,
        "the writer identity was missing and was rebuilt from the log"
    );
    Ok(Some(identity))
}

/// `None` if the header is damaged.
fn read_segment_header(path: &Path) -> Result<Option<SegmentHeader>, WalError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SEGMENT_HEADER_BYTES).read_to_end(&mut bytes))
        .map_err(WalError::io("read", path))?;
    match bytes.as_slice().try_into().map(SegmentHeader::decode) {
        Ok(Ok(header)) => Ok(Some(header)),
        Ok(Err(HeaderFault::Newer(version))) => {
            Err(WalError::NewerFormat { file: path.to_path_buf(), version })
        }
        Ok(Err(HeaderFault::Damaged)) | Err(_) => Ok(None),
    }
}

/// The log's directory is for this user only: it holds events. A new directory's name is durable before use.
fn create_directories(data_dir: &Path, directory: &Path) -> Result<(), WalError> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(data_dir).map_err(WalError::io("create the data directory", data_dir))?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(WalError::io("create the directory", directory)(error));
        }
        _ => {}
    }
    for named in [Some(data_dir), data_dir.parent().filter(|parent| !parent.as_os_str().is_empty())] {
        let Some(named) = named else { continue };
        File::open(named)
            .and_then(|file| file.sync_all())
            .map_err(WalError::io("sync the directory", named))?;
    }
    Ok(())
}
