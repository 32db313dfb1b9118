//! The write-ahead log: what is in it when `append` answers survives `kill -9` and power loss.
//!
//! A start is two steps, because the table must be asked in between:
//!
//! ```text
//! WalFiles::lock(data_dir)      the lock, the writer's id, a new epoch
//!   -> the table: which position of this writer is committed?
//! Wal::open(files, committed)   read and check every segment, repair, begin a segment
//! ```
//!
//! Then `append` from any number of tasks; `rotate`, `read`, and after a confirmed commit `release`, from the one that
//! flushes.
//!
//! In journey order: `identity` and `opening` (`scan`, `recover`, `repair`) are the start; `writer` is the thread behind
//! `append`; `reader` gives frames to the flush; `digests` and `retry` recognise a client's retry; `inspect` looks from
//! outside. `frame` is the format on disk, `disk` the file operations, `segments` what all of them share.
//!
//! Owns: the disk format, group commit, fdatasync, replay, release, the cap on disk use. Does not own: what a payload
//! means.

mod digests;
mod disk;
mod error;
mod frame;
mod identity;
mod inspect;
mod opening;
mod options;
mod reader;
mod recover;
mod release;
mod repair;
mod retry;
mod scan;
mod segments;
#[cfg(test)]
mod tests;
mod writer;

pub use digests::DurableDigest;
pub use error::{AppendError, ControlError, Poisoned, ReadError, WalError};
pub use identity::{WalFiles, WriterIdentity};
pub use inspect::{LogInspection, inspect};
pub use opening::{DamageKind, DamagedPlace, Recovery};
pub use options::{OnDamage, WalOptions};
pub use reader::FrameReader;
pub use retry::{Claim, ClaimGuard, InFlight, RetryLimits, RetryWindow};

use std::fmt;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use disk::{Disk, FileSystem};
use frame::{Seal, frame_bytes};
use release::Remover;
use segments::{Health, Segment, Shared};
use writer::{Command, Pending};

/// A frame's place in the log of one data directory: 1 for the first ever appended, then without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl Position {
    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before this; before the first there is `Position(0)`, which no frame has.
    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

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

/// A frame that has no place yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFrame {
    /// Keyed digest of the request, to recognise a client's retry.
    pub digest: [u8; 16],
    /// When it was received, microseconds since the Unix epoch.
    pub received_micros: i64,
    /// Number of events in the payload.
    pub events: u32,
    /// Opaque here.
    pub payload: Bytes,
}

/// Durable frames that are not released.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many.
    pub frames: u64,
    /// Their size on disk; a segment that also holds earlier frames counts whole.
    pub bytes: u64,
    /// When the oldest was received, microseconds since the Unix epoch; a segment that also holds earlier frames counts
    /// whole. `None` if none waits.
    pub oldest_received_micros: Option<i64>,
}

/// What a release removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Released {
    /// Segment files.
    pub segments: u64,
    /// Their size.
    pub bytes: u64,
}

/// The log at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalStatus {
    /// Size of all segments.
    pub bytes: u64,
    /// The most that it may become.
    pub bytes_max: u64,
    /// Segment files.
    pub segments: usize,
    /// The last durable position.
    pub durable: Position,
    /// The last released position.
    pub released: Position,
    /// What is durable and not released.
    pub waiting: Waiting,
}

/// The log of one data directory, open for appending. Share it in an `Arc`.
///
/// Dropping it without [`close`](Self::close) ends it as well, after everything that was queued; the drop waits for
/// that.
#[derive(Debug)]
pub struct Wal {
    identity: WriterIdentity,
    options: WalOptions,
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    queue_bytes: Arc<Semaphore>,
    remover: Remover,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Wal {
    /// Checks every segment, repairs what may be repaired, and opens the log for appending. Blocks: it reads the whole
    /// log. `committed` is the last position of this writer that the table holds: frames up to there need not be
    /// readable any more, and positions up to there are never used again.
    ///
    /// # Errors
    /// If frames that are not committed are damaged and [`WalOptions::on_damage`] does not allow to go on, or if the
    /// files cannot be read or written. Nothing has been changed if damage is the reason.
    pub fn open(
        files: WalFiles,
        committed: Position,
        options: WalOptions,
    ) -> Result<(Self, Recovery), WalError> {
        Self::open_on(Arc::new(FileSystem), files, committed, options)
    }

    fn open_on(
        disk: Arc<dyn Disk>,
        files: WalFiles,
        committed: Position,
        options: WalOptions,
    ) -> Result<(Self, Recovery), WalError> {
        options.validate()?;
        let identity = files.identity;
        let directory = files.directory.clone();
        let (writer, recovery) = opening::open(Arc::clone(&disk), files, committed, &options)?;
        let shared = Arc::clone(&writer.shared);
        let (commands, queue) = mpsc::channel(options.queue_frames_max);
        let thread = thread::Builder::new()
            .name("esker-wal".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(WalError::io("start the thread that writes", &directory))?;
        let queue_bytes = Arc::new(Semaphore::new(options.queue_bytes_max as usize));
        let remover = Remover { disk, directory, shared: Arc::clone(&shared), turn: Arc::default() };
        let thread = Mutex::new(Some(thread));
        Ok((Self { identity, options, shared, commands, queue_bytes, remover, thread }, recovery))
    }

    /// Who writes this log.
    #[must_use]
    pub fn identity(&self) -> WriterIdentity {
        self.identity
    }

    /// Appends a frame; answers when it is durable. If the future is dropped, the frame may still be appended.
    ///
    /// # Errors
    /// If the frame is not durable. Except after [`AppendError::Poisoned`], it is then not in the log.
    pub async fn append(&self, frame: NewFrame) -> Result<Position, AppendError> {
        self.append_with(frame, None).await
    }

    /// Like [`append`](Self::append), for a request whose digest was claimed: the claim is settled together with the
    /// frame, also if the future is dropped. The frame gets the claim's digest.
    ///
    /// # Errors
    /// As [`append`](Self::append); the digest is then free again.
    pub async fn append_claimed(&self, frame: NewFrame, claim: ClaimGuard) -> Result<Position, AppendError> {
        let frame = NewFrame { digest: claim.digest(), ..frame };
        self.append_with(frame, Some(claim)).await
    }

    async fn append_with(&self, frame: NewFrame, claim: Option<ClaimGuard>) -> Result<Position, AppendError> {
        let NewFrame { digest, received_micros, events, payload } = frame;
        let bytes = payload.len() as u64;
        let too_large = || AppendError::TooLarge { bytes, bytes_max: self.options.payload_bytes_max };
        if bytes > self.options.payload_bytes_max {
            return Err(too_large());
        }
        let payload_bytes = u32::try_from(bytes).map_err(|_| too_large())?;
        let queued = Arc::clone(&self.queue_bytes)
            .acquire_many_owned(payload_bytes.min(self.options.queue_bytes_max))
            .await
            .map_err(|_| AppendError::Closed)?;
        // Here and not in the writer's thread, which everyone waits for.
        let payload_crc = crc32c::crc32c(&payload);
        let (reply, answer) = oneshot::channel();
        let pending = Pending {
            digest,
            received_micros,
            events,
            payload,
            payload_bytes,
            payload_crc,
            claim,
            _queued: queued,
            reply,
        };
        if self.commands.send(Command::Append(pending)).await.is_err() {
            return Err(self.ended());
        }
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }

    /// Whether a payload of this size fits under the cap now. A quick look for whoever is about to make one.
    #[must_use]
    pub fn has_room(&self, payload_bytes: u64) -> bool {
        self.shared.live().bytes().saturating_add(frame_bytes(payload_bytes)) <= self.options.bytes_max
    }

    /// The last durable position.
    #[must_use]
    pub fn durable(&self) -> Position {
        self.shared.durable()
    }

    /// To wait for [`durable`](Self::durable) to change.
    #[must_use]
    pub fn durable_changes(&self) -> watch::Receiver<Position> {
        self.shared.durable.subscribe()
    }

    /// Ends when the log has stopped for good, and says why: the process must then stop, too.
    pub fn halted(&self) -> impl Future<Output = Poisoned> + Send + use<> {
        let mut health = self.shared.health.subscribe();
        async move {
            if let Ok(health) = health.wait_for(|health| matches!(health, Health::Poisoned(_))).await
                && let Health::Poisoned(poisoned) = &*health
            {
                return poisoned.clone();
            }
            pending().await
        }
    }

    /// Begins a new segment, so that everything up to the returned position can be released whole.
    ///
    /// # Errors
    /// If the log has stopped, or the segment cannot be made; then it stays as it was.
    pub async fn rotate(&self) -> Result<Position, ControlError> {
        self.control(Command::Rotate).await
    }

    /// Reads durable frames after a position and up to another, which is lowered to what is durable now. See
    /// [`FrameReader`] for the cost; frames that are released while they are read may be missed.
    #[must_use]
    pub fn read(&self, after: Position, through: Position) -> FrameReader {
        let through = through.min(self.durable());
        let segments = self.shared.live().segments.clone();
        FrameReader::new(Seal::of(self.identity.writer_id), segments, after, through)
    }

    /// Removes whole segments up to a position. If nothing waits after it, the log shrinks to an empty segment;
    /// otherwise, frames that share a segment with later ones stay until those are released, too.
    ///
    /// # Errors
    /// If the log has stopped, or a file cannot be removed: it is then tried again at the next release.
    pub async fn release(&self, through: Position) -> Result<Released, ControlError> {
        let turn = self.remover.turn().await;
        let (sealed, turn) = self.remover.remove(turn, self.releasable(through).await?).await?;
        if !self.shared.live().is_active_released(through) {
            return Ok(sealed);
        }
        // After the first removal, which may just have made the room that a new segment needs.
        self.rotate().await?;
        let (last, _) = self.remover.remove(turn, self.releasable(through).await?).await?;
        Ok(Released { segments: sealed.segments + last.segments, bytes: sealed.bytes + last.bytes })
    }

    async fn releasable(&self, through: Position) -> Result<Vec<Segment>, ControlError> {
        self.control(|reply| Command::Release(through, reply)).await
    }

    /// What is durable after a position: exact if the position is the end of a segment, as after a rotation.
    #[must_use]
    pub fn waiting(&self, after: Position) -> Waiting {
        self.shared.live().waiting(after)
    }

    /// The log now.
    #[must_use]
    pub fn status(&self) -> WalStatus {
        let live = self.shared.live();
        WalStatus {
            bytes: live.bytes(),
            bytes_max: self.options.bytes_max,
            segments: live.segments.len(),
            durable: self.shared.durable(),
            released: live.released,
            waiting: live.waiting(live.released),
        }
    }

    /// Appends what is queued, then ends the writer's thread and gives the data directory back.
    ///
    /// # Errors
    /// If the log had stopped before.
    pub async fn close(&self) -> Result<(), ControlError> {
        drop(self.remover.turn().await);
        // If the thread is gone already, there is nobody to tell.
        drop(self.commands.send(Command::Close).await);
        if let Some(thread) = self.take_thread() {
            // A panic has poisoned the log already.
            drop(tokio::task::spawn_blocking(move || drop(thread.join())).await);
        }
        self.shared.poisoned().map_or(Ok(()), |poisoned| Err(poisoned.into()))
    }

    async fn control<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, ControlError>>) -> Command,
    ) -> Result<T, ControlError> {
        let (reply, answer) = oneshot::channel();
        let ended = || self.shared.poisoned().map_or(ControlError::Closed, ControlError::Poisoned);
        self.commands.send(command(reply)).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    fn ended(&self) -> AppendError {
        self.shared.poisoned().map_or(AppendError::Closed, AppendError::Poisoned)
    }

    fn take_thread(&self) -> Option<JoinHandle<()>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        // The thread ends when no sender is left.
        drop(std::mem::replace(&mut self.commands, mpsc::channel(1).0));
        if let Some(thread) = self.take_thread() {
            drop(thread.join());
        }
    }
}
