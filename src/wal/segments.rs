//! The log's live segments, as the writer's thread leaves them and everyone else sees them.
//!
//! Owns: the list of segments, what is durable and released, whether the log is healthy. Does not own: any file.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::error::Poisoned;
use super::frame::SEGMENT_HEADER_BYTES;
use super::{Position, Waiting};

/// A segment file with what is durable in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) first: Position,
    pub(super) frames: u64,
    pub(super) bytes: u64,
    /// `i64::MAX` while there is no frame.
    pub(super) oldest_received_micros: i64,
}

impl Segment {
    pub(super) fn empty(path: PathBuf, first: Position) -> Self {
        Self { path, first, frames: 0, bytes: SEGMENT_HEADER_BYTES, oldest_received_micros: i64::MAX }
    }

    /// The last position; for an empty segment, the one before its first.
    pub(super) fn last(&self) -> Position {
        Position((self.first.0 + self.frames).saturating_sub(1))
    }
}

/// Whether frames can be appended.
#[derive(Debug, Clone)]
pub(super) enum Health {
    Running,
    Closed,
    Poisoned(Poisoned),
}

/// What the handle, the writer's thread and the readers share.
#[derive(Debug)]
pub(super) struct Shared {
    live: Mutex<Live>,
    pub(super) durable: watch::Sender<Position>,
    pub(super) health: watch::Sender<Health>,
}

/// Under one lock, held for a few instructions only.
#[derive(Debug, Clone)]
pub(super) struct Live {
    /// By position; the last one is being written.
    pub(super) segments: VecDeque<Segment>,
    pub(super) released: Position,
}

impl Shared {
    pub(super) fn new(segments: VecDeque<Segment>, released: Position, durable: Position) -> Self {
        Self {
            live: Mutex::new(Live { segments, released }),
            durable: watch::Sender::new(durable),
            health: watch::Sender::new(Health::Running),
        }
    }

    pub(super) fn live(&self) -> MutexGuard<'_, Live> {
        // Nothing panics while it holds this lock, and a half-made change would be of counters only.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn durable(&self) -> Position {
        *self.durable.borrow()
    }

    /// Stops the log for good.
    pub(super) fn poison(&self, action: &'static str, path: &Path, source: io::Error) -> Poisoned {
        let poisoned = Poisoned { action, path: path.to_path_buf(), source: Arc::new(source) };
        tracing::error!(error = %poisoned, "nothing more is acknowledged");
        self.health.send_replace(Health::Poisoned(poisoned.clone()));
        poisoned
    }

    pub(super) fn poisoned(&self) -> Option<Poisoned> {
        match &*self.health.borrow() {
            Health::Poisoned(poisoned) => Some(poisoned.clone()),
            Health::Running | Health::Closed => None,
        }
    }
}

impl Live {
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Notes a release; returns the whole segments up to there, without the one that is being written.
    pub(super) fn release(&mut self, through: Position) -> Vec<Segment> {
        self.released = self.released.max(through);
        let sealed = self.segments.len().saturating_sub(1);
        self.segments.iter().take(sealed).take_while(|segment| segment.last() <= through).cloned().collect()
    }

    /// Whether the segment that is being written holds frames, and none after a position.
    pub(super) fn is_active_released(&self, through: Position) -> bool {
        self.segments.back().is_some_and(|active| active.frames > 0 && active.last() <= through)
    }

    /// What waits after a position, counting whole segments.
    pub(super) fn waiting(&self, after: Position) -> Waiting {
        let mut waiting = Waiting::default();
        for segment in self.segments.iter().filter(|segment| segment.frames > 0 && segment.last() > after) {
            waiting.frames += segment.last().0 - segment.first.previous().max(after).0;
            waiting.bytes += segment.bytes - SEGMENT_HEADER_BYTES;
            let oldest = segment.oldest_received_micros;
            waiting.oldest_received_micros =
                Some(waiting.oldest_received_micros.map_or(oldest, |known| known.min(oldest)));
        }
        waiting
    }
}
