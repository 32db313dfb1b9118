//! Removes released segments, off the thread that writes: unlinking a segment of 64 MiB takes some 50 ms on ext4, which
//! nobody who waits for an acknowledgement should wait for as well.
//!
//! Owns: the removal of files, one release at a time. Does not own: which segments may go, which the writer's thread
//! decides after it kept their digests.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use super::Released;
use super::disk::Disk;
use super::error::ControlError;
use super::segments::{Segment, Shared};

/// What a removal needs.
#[derive(Debug, Clone)]
pub(super) struct Remover {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) directory: PathBuf,
    pub(super) shared: Arc<Shared>,
    /// Held by the removal itself, so that it ends before the log is closed, also if nobody waits for it any more.
    pub(super) turn: Arc<Mutex<()>>,
}

impl Remover {
    /// Waits until no other removal goes on.
    pub(super) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// Removes segments, the oldest first, and makes that durable.
    pub(super) async fn remove(
        &self,
        turn: OwnedMutexGuard<()>,
        doomed: Vec<Segment>,
    ) -> Result<(Released, OwnedMutexGuard<()>), ControlError> {
        if doomed.is_empty() {
            return Ok((Released::default(), turn));
        }
        let remover = self.clone();
        let removal =
            tokio::task::spawn_blocking(move || remover.remove_files(&doomed).map(|gone| (gone, turn)));
        // It ends early only if the runtime is going down; the next start removes what is left.
        removal.await.unwrap_or(Err(ControlError::Closed))
    }

    fn remove_files(&self, doomed: &[Segment]) -> Result<Released, ControlError> {
        let mut released = Released::default();
        for segment in doomed {
            match self.disk.remove(&segment.path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    let (path, source) = (segment.path.clone(), Arc::new(source));
                    return Err(ControlError::Io { action: "remove", path, source });
                }
                _ => {}
            }
            self.shared.live().segments.retain(|live| live.first != segment.first);
            released.segments += 1;
            released.bytes += segment.bytes;
        }
        self.disk
            .sync_directory(&self.directory)
            .map_err(|source| self.shared.poison("sync the directory", &self.directory, source))?;
        Ok(released)
    }
}
