//! The log's limits.
//!
//! Owns: their defaults and which of them contradict each other. Does not own: reading configuration.

use super::error::WalError;
use super::frame::{SEGMENT_HEADER_BYTES, frame_bytes};

/// What to do about acknowledged frames that cannot be read and are not in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDamage {
    /// Do not start: an operator decides.
    #[default]
    Refuse,
    /// Keep a copy of the damaged bytes, count the lost frames, and go on.
    SetAside,
}

/// The log's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalOptions {
    /// The size at which a segment is followed by the next; only a group larger than this exceeds it.
    pub segment_bytes: u64,
    /// The most that all segments may hold.
    pub bytes_max: u64,
    /// The largest payload.
    pub payload_bytes_max: u64,
    /// How many frames may wait for the writer's thread.
    pub queue_frames_max: usize,
    /// How many bytes of payload may wait for the writer's thread; a larger payload waits alone.
    pub queue_bytes_max: u32,
    /// What to do about damage.
    pub on_damage: OnDamage,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            bytes_max: 4 << 30,
            payload_bytes_max: 32 << 20,
            queue_frames_max: 1024,
            queue_bytes_max: 32 << 20,
            on_damage: OnDamage::Refuse,
        }
    }
}

impl WalOptions {
    /// Checks that the limits agree with each other.
    ///
    /// # Errors
    /// If they do not, naming the key.
    pub fn validate(&self) -> Result<(), WalError> {
        let wrong = |key, problem: String| Err(WalError::Options { key, problem });
        if self.payload_bytes_max == 0 || self.payload_bytes_max > u64::from(u32::MAX) {
            return wrong("wal.payload_bytes_max", format!("must be from 1 to {} bytes", u32::MAX));
        }
        let smallest = self.segment_bytes.saturating_add(frame_bytes(self.payload_bytes_max));
        if self.bytes_max < smallest {
            let problem = format!("must be at least {smallest}: one segment and the largest frame");
            return wrong("wal.bytes_max", problem);
        }
        if self.segment_bytes <= SEGMENT_HEADER_BYTES {
            return wrong("wal.segment_bytes", format!("must be over {SEGMENT_HEADER_BYTES} bytes"));
        }
        if self.queue_frames_max == 0 || self.queue_bytes_max == 0 {
            return wrong("wal.queue_frames_max", "the queue must have room for a frame".to_owned());
        }
        Ok(())
    }
}
