//! The memory that requests may hold together, from the first byte of a body until its answer is known.
//!
//! Owns: counting it, and refusing at once where none is left. Does not own: how large one request may be (`Limits`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::reply::Refusal;

/// Enough for a few hundred usual requests (about 200 KiB) at a time, and for four of the largest.
pub const MEMORY_DEFAULT: u64 = 64 * 1024 * 1024;

/// Requests end within milliseconds, so that memory is soon free again; SDKs wait at least as long anyway.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What is counted: fine enough for small requests, and coarse enough for a 32-bit number of permits.
const UNIT_BYTES: u64 = 1024;

/// Memory for requests, shared by all listeners (`receive.limits.memory`). Cloning shares it.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    units: Arc<Semaphore>,
    total: usize,
}

impl MemoryBudget {
    /// A budget of this many bytes, rounded up to whole KiB.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let total = usize::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(usize::MAX);
        let total = total.min(Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(total)), total }
    }

    /// Takes memory out of the budget, until the reservation is dropped.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`], at once, where so much is not left.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, Refusal> {
        Ok(Reservation { held: self.take(bytes)?, budget: self.clone() })
    }

    /// Bytes that are reserved now.
    #[must_use]
    pub fn in_use(&self) -> u64 {
        (self.total.saturating_sub(self.units.available_permits()) as u64).saturating_mul(UNIT_BYTES)
    }

    /// Bytes in the whole budget.
    #[must_use]
    pub fn total(&self) -> u64 {
        (self.total as u64).saturating_mul(UNIT_BYTES)
    }

    fn take(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Refusal> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).map_err(|_| overloaded())?;
        Arc::clone(&self.units).try_acquire_many_owned(units).map_err(|error| match error {
            TryAcquireError::NoPermits | TryAcquireError::Closed => overloaded(),
        })
    }
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self::new(MEMORY_DEFAULT)
    }
}

fn overloaded() -> Refusal {
    Refusal::Overloaded { limit: "receive.limits.memory", retry_after: RETRY_AFTER }
}

/// A share of the budget. It goes where the request goes, and is free again when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    held: OwnedSemaphorePermit,
    budget: MemoryBudget,
}

impl Reservation {
    /// Adds to the reservation.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`], at once, where so much is not left; what was held before is still held.
    pub fn grow_by(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.held.merge(self.budget.take(bytes)?);
        Ok(())
    }

    /// Bytes that are held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.held.num_permits() as u64).saturating_mul(UNIT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_is_free_again_when_it_is_dropped() {
        let budget = MemoryBudget::new(10 * 1024);
        let mut first = budget.reserve(4 * 1024).unwrap();
        first.grow_by(1).unwrap();
        assert_eq!((first.bytes(), budget.in_use()), (5 * 1024, 5 * 1024));
        drop(first);
        assert_eq!(budget.in_use(), 0);
        assert_eq!(budget.total(), 10 * 1024);
    }

    #[test]
    fn an_exhausted_budget_refuses_at_once_and_keeps_what_was_held() {
        let budget = MemoryBudget::new(10 * 1024);
        let mut first = budget.reserve(9 * 1024).unwrap();
        assert_eq!(first.grow_by(2 * 1024), Err(overloaded()));
        assert_eq!(first.bytes(), 9 * 1024);
        assert_eq!(budget.reserve(u64::MAX).unwrap_err(), overloaded());
        drop(first);
        assert_eq!(budget.reserve(10 * 1024).unwrap().bytes(), 10 * 1024);
    }
}
