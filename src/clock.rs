//! Time and identifiers, as parameters: tests decide what time it is and which ids appear.
//!
//! Owns: the only calls of the system clock and of the id generator. Does not own: time-outs and intervals, which are
//! tokio's.

use std::fmt::Debug;
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Where wall-clock time comes from.
pub trait Clock: Debug + Send + Sync {
    /// Microseconds since the Unix epoch, UTC.
    fn now_micros(&self) -> i64;
}

/// Where new identifiers come from.
pub trait Ids: Debug + Send + Sync {
    /// A new identifier, unique for ever.
    fn next_id(&self) -> Uuid;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the system clock")]
    fn now_micros(&self) -> i64 {
        // A clock before 1970 reads as 1970: events then count as being from the future and are refused, visibly.
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// Random, time-ordered identifiers (UUID version 7).
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomIds;

impl Ids for RandomIds {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that makes ids")]
    fn next_id(&self) -> Uuid {
        Uuid::now_v7()
    }
}

/// A clock that stands still until it is told to move; for tests.
#[derive(Debug, Default)]
pub struct FixedClock(std::sync::atomic::AtomicI64);

impl FixedClock {
    /// A clock that shows `micros` since the Unix epoch.
    #[must_use]
    pub fn at(micros: i64) -> Self {
        Self(std::sync::atomic::AtomicI64::new(micros))
    }

    /// Sets the clock to `micros` since the Unix epoch.
    pub fn set(&self, micros: i64) {
        self.0.store(micros, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock for FixedClock {
    fn now_micros(&self) -> i64 {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}
