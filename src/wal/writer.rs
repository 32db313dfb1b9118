//! The one thread that writes the log.
//!
//! It takes everything that waits, writes it with one vectored write, syncs once, and only then answers. A failed sync
//! is never tried again: the pages may be gone although a second sync says all is well, so the log is poisoned and
//! every append fails until a restart has read back what the disk holds. A full disk is not that: the unfinished write
//! is cut off, its appends fail, and the log goes on.
//!
//! Owns: group commit, rotation, which segments a release may remove, the cap on the log's size. Does not own:
//! recovery; removing files.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::Position;
use super::digests::{DurableDigest, RecentDigests};
use super::disk::{self, Disk, Failed, LogFile, write_all};
use super::error::{AppendError, ControlError, Poisoned};
use super::frame::{FrameHeader, SEGMENT_HEADER_BYTES, Seal, SegmentHeader, frame_bytes};
use super::identity::{LockFile, WriterIdentity};
use super::retry::ClaimGuard;
use super::segments::{Health, Segment, Shared};

/// A group's frames: one vectored write takes at most 1,024 slices on Linux, and a frame is two.
const GROUP_FRAMES_MAX: usize = 512;
/// A group's bytes, beyond which another frame waits for the next group: bounds how long the first one waits.
const GROUP_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What the thread is asked to do, in order.
#[derive(Debug)]
pub(super) enum Command {
    Append(Pending),
    Rotate(oneshot::Sender<Result<Position, ControlError>>),
    Release(Position, oneshot::Sender<Result<Vec<Segment>, ControlError>>),
    Close,
}

/// A frame that waits for its place.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) digest: [u8; 16],
    pub(super) received_micros: i64,
    pub(super) events: u32,
    pub(super) payload: Bytes,
    pub(super) payload_bytes: u32,
    pub(super) payload_crc: u32,
    pub(super) claim: Option<ClaimGuard>,
    /// The part of the queue's bytes that it takes while it waits.
    pub(super) _queued: OwnedSemaphorePermit,
    pub(super) reply: oneshot::Sender<Result<Position, AppendError>>,
}

impl Pending {
    fn frame_bytes(&self) -> u64 {
        frame_bytes(u64::from(self.payload_bytes))
    }

    fn fail(self, error: AppendError) {
        // Whoever waited may be gone; then nobody needs the answer.
        drop(self.reply.send(Err(error)));
    }
}

/// Limits that the thread keeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct WriterLimits {
    pub(super) segment_bytes: u64,
    pub(super) bytes_max: u64,
}

/// The thread's state.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) directory: PathBuf,
    pub(super) identity: WriterIdentity,
    pub(super) limits: WriterLimits,
    pub(super) shared: Arc<Shared>,
    pub(super) recent: RecentDigests,
    pub(super) active: Box<dyn LogFile>,
    /// Held as long as this thread may write.
    pub(super) lock: LockFile,
}

impl Writer {
    /// Works until it is told to close or the handle is gone.
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let _end = EndNote { shared: Arc::clone(&self.shared), directory: self.directory.clone() };
        let mut next = None;
        while let Some(command) = next.take().or_else(|| commands.blocking_recv()) {
            match command {
                Command::Append(first) => {
                    let (group, following) = gather(first, &mut commands);
                    next = following;
                    self.append(group);
                }
                Command::Rotate(reply) => drop(reply.send(self.rotate())),
                Command::Release(through, reply) => drop(reply.send(self.release(through))),
                Command::Close => break,
            }
        }
        self.shared.health.send_if_modified(|health| {
            let was_running = matches!(health, Health::Running);
            if was_running {
                *health = Health::Closed;
            }
            was_running
        });
        // Only now, so that whoever is refused is told why: what still waits in the queue is dropped unanswered.
        drop(commands);
        drop(self.lock);
    }

    fn append(&mut self, group: Vec<Pending>) {
        if let Some(poisoned) = self.shared.poisoned() {
            return fail_all(group, &poisoned.into());
        }
        let group = self.admit(group);
        if group.is_empty() {
            return;
        }
        match self.commit(&group) {
            Ok(first) => self.acknowledge(group, first),
            Err(error) => fail_all(group, &error),
        }
    }

    /// Refuses what would bring the log over its cap.
    fn admit(&self, group: Vec<Pending>) -> Vec<Pending> {
        let bytes_max = self.limits.bytes_max;
        let mut bytes = self.shared.live().bytes();
        let mut admitted = Vec::with_capacity(group.len());
        for pending in group {
            if bytes + pending.frame_bytes() > bytes_max {
                pending.fail(AppendError::Full { bytes, bytes_max });
            } else {
                bytes += pending.frame_bytes();
                admitted.push(pending);
            }
        }
        admitted
    }

    /// Makes a group durable; returns its first position.
    fn commit(&mut self, group: &[Pending]) -> Result<Position, AppendError> {
        let bytes = group.iter().map(Pending::frame_bytes).sum();
        self.make_room(bytes)?;
        let (path, length) = self.active_end();
        let durable = self.shared.durable();
        let headers = self.headers(group, durable);
        if let Err(error) = self.write(group, &headers) {
            return Err(self.undo(error, &path, length));
        }
        self.active.sync().map_err(|source| self.poison("sync", &path, source))?;
        let last = Position(durable.0 + group.len() as u64);
        self.publish(group, bytes, last);
        Ok(durable.next())
    }

    fn headers(&self, group: &[Pending], durable: Position) -> Vec<[u8; 64]> {
        let seal = Seal::of(self.identity.writer_id);
        let mut position = durable;
        let mut encode = |pending: &Pending| {
            position = position.next();
            let header = FrameHeader {
                payload_bytes: pending.payload_bytes,
                payload_crc: pending.payload_crc,
                position,
                durable_before: durable,
                received_micros: pending.received_micros,
                digest: pending.digest,
                events: pending.events,
            };
            header.encode(seal)
        };
        group.iter().map(&mut encode).collect()
    }

    fn write(&mut self, group: &[Pending], headers: &[[u8; 64]]) -> io::Result<()> {
        let mut slices = Vec::with_capacity(group.len() * 2);
        for (header, pending) in headers.iter().zip(group) {
            slices.push(IoSlice::new(header));
            slices.push(IoSlice::new(&pending.payload));
        }
        write_all(self.active.as_mut(), &mut slices)
    }

    /// Cuts an unfinished write off. It was not synced, so whatever a crash leaves of it was never acknowledged.
    fn undo(&mut self, error: io::Error, path: &Path, length: u64) -> AppendError {
        if !disk::is_no_space(&error) {
            return self.poison("write", path, error).into();
        }
        match self.active.truncate(length) {
            Ok(()) => AppendError::NoSpace,
            Err(source) => self.poison("cut an unfinished write off", path, source).into(),
        }
    }

    /// Makes the group visible to readers. Before this, nobody sees it; after this, it may be acknowledged.
    fn publish(&mut self, group: &[Pending], bytes: u64, last: Position) {
        let oldest = group.iter().map(|pending| pending.received_micros).min().unwrap_or(i64::MAX);
        if let Some(active) = self.shared.live().segments.back_mut() {
            active.frames += group.len() as u64;
            active.bytes += bytes;
            active.oldest_received_micros = active.oldest_received_micros.min(oldest);
        }
        self.shared.durable.send_replace(last);
    }

    fn acknowledge(&mut self, group: Vec<Pending>, first: Position) {
        let mut position = first;
        for pending in group {
            let Pending { digest, received_micros, claim, reply, .. } = pending;
            self.recent.push(DurableDigest { digest, received_micros, position });
            if let Some(claim) = claim {
                claim.durable(position);
            }
            // Whoever waited may be gone; the frame stays, and its digest is known.
            drop(reply.send(Ok(position)));
            position = position.next();
        }
    }

    fn make_room(&mut self, bytes: u64) -> Result<(), AppendError> {
        let (_, length) = self.active_end();
        if length == SEGMENT_HEADER_BYTES || length + bytes <= self.limits.segment_bytes {
            return Ok(());
        }
        self.begin_segment().map_err(|failed| {
            let Failed { step, path, source } = failed;
            if step.poisons() {
                self.poison(step.action(), &path, source).into()
            } else if disk::is_no_space(&source) {
                AppendError::NoSpace
            } else {
                AppendError::Io { action: step.action(), path, source: Arc::new(source) }
            }
        })
    }

    fn active_end(&self) -> (PathBuf, u64) {
        let live = self.shared.live();
        live.segments.back().map_or_else(
            || (self.directory.clone(), SEGMENT_HEADER_BYTES),
            |active| (active.path.clone(), active.bytes),
        )
    }

    fn begin_segment(&mut self) -> Result<(), Failed> {
        let first = self.shared.durable().next();
        let WriterIdentity { writer_id, epoch } = self.identity;
        let header = SegmentHeader { writer_id, epoch, first, missing_from: first };
        let staged = disk::begin_segment(self.disk.as_ref(), &self.directory, &header)?;
        let (file, path) = staged.publish(self.disk.as_ref())?;
        self.active = file;
        self.shared.live().segments.push_back(Segment::empty(path, first));
        Ok(())
    }

    fn rotate(&mut self) -> Result<Position, ControlError> {
        self.check_health()?;
        let (_, length) = self.active_end();
        if length > SEGMENT_HEADER_BYTES {
            self.begin_segment().map_err(|failed| self.control_error(failed))?;
        }
        Ok(self.shared.durable())
    }

    /// Notes a release; returns the whole segments that may go now, their digests kept. Their removal is not for this
    /// thread (see `release`).
    fn release(&mut self, through: Position) -> Result<Vec<Segment>, ControlError> {
        self.check_health()?;
        let through = through.min(self.shared.durable());
        let doomed = self.shared.live().release(through);
        if !doomed.is_empty() {
            self.save_digests(through)?;
        }
        Ok(doomed)
    }

    /// A full disk must not keep the log from shrinking: then the digests are only remembered until the next restart.
    fn save_digests(&mut self, through: Position) -> Result<(), ControlError> {
        match self.recent.save(self.disk.as_ref(), &self.directory, through) {
            Ok(()) => Ok(()),
            Err(failed) if failed.step.poisons() => Err(self.control_error(failed)),
            Err(failed) => {
                tracing::warn!(
                    file = %failed.path.display(), error = %failed.source,
                    "cannot keep the digests of released requests: after a restart, their retries may be stored twice"
                );
                Ok(())
            }
        }
    }

    fn check_health(&self) -> Result<(), ControlError> {
        self.shared.poisoned().map_or(Ok(()), |poisoned| Err(poisoned.into()))
    }

    fn control_error(&self, failed: Failed) -> ControlError {
        let Failed { step, path, source } = failed;
        if step.poisons() {
            return self.poison(step.action(), &path, source).into();
        }
        ControlError::Io { action: step.action(), path, source: Arc::new(source) }
    }

    fn poison(&self, action: &'static str, path: &Path, source: io::Error) -> Poisoned {
        self.shared.poison(action, path, source)
    }
}

/// Poisons the log if the thread ends in any way but the intended ones: whoever waits for it must not wait for ever.
struct EndNote {
    shared: Arc<Shared>,
    directory: PathBuf,
}

impl Drop for EndNote {
    fn drop(&mut self) {
        self.shared.health.send_if_modified(|health| {
            let ended_early = matches!(health, Health::Running);
            if ended_early {
                let source = Arc::new(io::Error::other("the thread that writes the log ended"));
                *health =
                    Health::Poisoned(Poisoned { action: "write", path: self.directory.clone(), source });
            }
            ended_early
        });
    }
}

/// Everything that waits, up to the limits of a group; and the command that ended it, if it was another one.
fn gather(first: Pending, commands: &mut mpsc::Receiver<Command>) -> (Vec<Pending>, Option<Command>) {
    let mut bytes = first.frame_bytes();
    let mut group = vec![first];
    while group.len() < GROUP_FRAMES_MAX && bytes < GROUP_BYTES_MAX {
        match commands.try_recv() {
            Ok(Command::Append(pending)) => {
                bytes += pending.frame_bytes();
                group.push(pending);
            }
            Ok(other) => return (group, Some(other)),
            Err(_) => break,
        }
    }
    (group, None)
}

fn fail_all(group: Vec<Pending>, error: &AppendError) {
    for pending in group {
        pending.fail(error.clone());
    }
}
