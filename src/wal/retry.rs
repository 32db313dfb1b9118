//! Recognises a client's retry of a request that is already durable, or on its way there.
//!
//! A request is claimed by its digest before it is appended. The claim travels with the frame through the log: it is
//! settled by the thread that syncs, so a client that hangs up while its frame is being written finds, on its retry,
//! that the frame is there.
//!
//! Owns: the bounded window of digests and the claims on it. Does not own: computing digests; keeping them over a
//! restart (`digests`).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::Position;
use super::digests::{DurableDigest, RECENT_DIGESTS_MAX};

/// How far back retries are recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryLimits {
    /// Digests of durable requests that are kept; those of requests in flight are bounded by the requests.
    pub entries_max: usize,
    /// The age after which a digest is forgotten.
    pub age_max: Duration,
}

impl Default for RetryLimits {
    fn default() -> Self {
        Self { entries_max: RECENT_DIGESTS_MAX, age_max: Duration::from_secs(60 * 60) }
    }
}

/// The digests of requests that are durable or in flight. Clones share one window.
#[derive(Debug, Clone)]
pub struct RetryWindow(Arc<Mutex<Window>>);

/// What the window knows of a digest.
#[derive(Debug)]
#[must_use]
pub enum Claim {
    /// Nothing: the caller now stores this request.
    New(ClaimGuard),
    /// It is durable, at this position: the caller acknowledges without storing.
    Durable(Position),
    /// Another request with this digest is being stored: the caller waits for its end.
    InFlight(InFlight),
}

impl RetryWindow {
    /// A window that knows the digests which a recovery found.
    #[must_use]
    pub fn new(limits: RetryLimits, known: &[DurableDigest]) -> Self {
        let mut window = Window { limits, states: HashMap::new(), durable: VecDeque::new() };
        for entry in known {
            window.remember(*entry);
        }
        Self(Arc::new(Mutex::new(window)))
    }

    /// Claims a digest for a request that was received now.
    pub fn claim(&self, digest: [u8; 16], now_micros: i64) -> Claim {
        let mut window = self.lock();
        window.forget_old(now_micros);
        match window.states.entry(digest) {
            Entry::Occupied(known) => match known.get() {
                State::Durable(position) => Claim::Durable(*position),
                State::InFlight(settled) => Claim::InFlight(InFlight(settled.clone())),
            },
            Entry::Vacant(free) => {
                let settle = watch::Sender::new(None);
                free.insert(State::InFlight(settle.subscribe()));
                drop(window);
                Claim::New(ClaimGuard { window: self.clone(), digest, received_micros: now_micros, settle })
            }
        }
    }

    /// How many digests are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().states.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        // Nothing panics while it holds this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to store the request with this digest. Dropped without [`durable`](Self::durable), it frees the digest.
#[derive(Debug)]
pub struct ClaimGuard {
    window: RetryWindow,
    digest: [u8; 16],
    received_micros: i64,
    settle: watch::Sender<Option<Position>>,
}

impl ClaimGuard {
    /// The claimed digest.
    #[must_use]
    pub fn digest(&self) -> [u8; 16] {
        self.digest
    }

    /// The request is durable: its retries are recognised from here on.
    pub fn durable(self, position: Position) {
        let entry = DurableDigest { digest: self.digest, received_micros: self.received_micros, position };
        self.window.lock().remember(entry);
        self.settle.send_replace(Some(position));
    }
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        if self.settle.borrow().is_none() {
            self.window.lock().states.remove(&self.digest);
        }
    }
}

/// Another request with the same digest, on its way to the disk.
#[derive(Debug)]
pub struct InFlight(watch::Receiver<Option<Position>>);

impl InFlight {
    /// Waits for its end: its position, or `None` if it was not stored; then the digest can be claimed again.
    pub async fn settled(mut self) -> Option<Position> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|position| *position)
    }
}

#[derive(Debug)]
enum State {
    InFlight(watch::Receiver<Option<Position>>),
    Durable(Position),
}

#[derive(Debug)]
struct Window {
    limits: RetryLimits,
    states: HashMap<[u8; 16], State>,
    /// The durable ones, the oldest first.
    durable: VecDeque<DurableDigest>,
}

impl Window {
    fn remember(&mut self, entry: DurableDigest) {
        self.states.insert(entry.digest, State::Durable(entry.position));
        self.durable.push_back(entry);
        while self.durable.len() > self.limits.entries_max {
            self.forget_oldest();
        }
    }

    fn forget_old(&mut self, now_micros: i64) {
        let age_max = i64::try_from(self.limits.age_max.as_micros()).unwrap_or(i64::MAX);
        let too_old = now_micros.saturating_sub(age_max);
        while self.durable.front().is_some_and(|oldest| oldest.received_micros < too_old) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.durable.pop_front() else { return };
        // The digest may be known again by a later position.
        if matches!(self.states.get(&oldest.digest), Some(State::Durable(position)) if *position == oldest.position)
        {
            self.states.remove(&oldest.digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MICROS: i64 = 3_600_000_000;

    fn window(entries_max: usize) -> RetryWindow {
        RetryWindow::new(RetryLimits { entries_max, ..RetryLimits::default() }, &[])
    }

    fn new_claim(window: &RetryWindow, digest: u8, now_micros: i64) -> ClaimGuard {
        match window.claim([digest; 16], now_micros) {
            Claim::New(guard) => guard,
            other => panic!("expected a new claim, got {other:?}"),
        }
    }

    #[test]
    fn a_durable_request_is_recognised() {
        let window = window(10);
        new_claim(&window, 1, 0).durable(Position(7));
        assert!(matches!(window.claim([1; 16], 5), Claim::Durable(Position(7))));
    }

    #[test]
    fn a_claim_that_is_dropped_frees_its_digest() {
        let window = window(10);
        drop(new_claim(&window, 1, 0));
        assert!(window.is_empty());
        drop(new_claim(&window, 1, 0));
    }

    #[tokio::test]
    async fn a_second_request_waits_for_the_first() {
        let window = window(10);
        let first = new_claim(&window, 1, 0);
        let Claim::InFlight(second) = window.claim([1; 16], 0) else { panic!("expected it to be in flight") };
        let waiting = tokio::spawn(second.settled());
        first.durable(Position(3));
        assert_eq!(waiting.await.unwrap(), Some(Position(3)));
    }

    #[tokio::test]
    async fn a_second_request_learns_that_the_first_failed() {
        let window = window(10);
        let first = new_claim(&window, 1, 0);
        let Claim::InFlight(second) = window.claim([1; 16], 0) else { panic!("expected it to be in flight") };
        drop(first);
        assert_eq!(second.settled().await, None);
        drop(new_claim(&window, 1, 0));
    }

    #[test]
    fn the_window_is_bounded_by_count_and_by_age() {
        let window = window(2);
        for digest in 1..=3 {
            new_claim(&window, digest, i64::from(digest)).durable(Position(u64::from(digest)));
        }
        assert_eq!(window.len(), 2);
        assert!(matches!(window.claim([1; 16], 4), Claim::New(_)), "the oldest makes room");
        assert!(matches!(window.claim([3; 16], HOUR_MICROS + 3), Claim::Durable(_)));
        assert!(matches!(window.claim([3; 16], HOUR_MICROS + 4), Claim::New(_)), "an hour is over");
    }

    #[test]
    fn what_a_recovery_found_is_recognised() {
        let known = [DurableDigest { digest: [9; 16], received_micros: 1, position: Position(4) }];
        let window = RetryWindow::new(RetryLimits::default(), &known);
        assert!(matches!(window.claim([9; 16], 2), Claim::Durable(Position(4))));
    }

    #[test]
    fn forgetting_an_older_frame_keeps_a_newer_one_with_the_same_digest() {
        let entry =
            |position| DurableDigest { digest: [9; 16], received_micros: 1, position: Position(position) };
        let limits = RetryLimits { entries_max: 1, ..RetryLimits::default() };
        let window = RetryWindow::new(limits, &[entry(4), entry(5)]);
        assert!(matches!(window.claim([9; 16], 2), Claim::Durable(Position(5))));
    }
}
