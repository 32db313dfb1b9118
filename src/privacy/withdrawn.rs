//! Who withdrew consent: the subjects whose later events must be treated as without it.
//!
//! Owns: the set in memory, and what several withdrawals and lifts of a subject come to. Does not own: where they are kept
//! (the table of withdrawals), who fills the set, when a withdrawal takes effect.
//!
//! A subject is known by its pseudonym only. Each statement has two times: when it was made, by the sender's clock, and when it was
//! received, by ours. Neither alone will do: a statement may wait for hours in a phone without a network, and a clock may be wrong.
//! So consent is given again only where both agree: of all lifts, the one that was made last must have been **made after every
//! withdrawal, and received no earlier than any**. From this follows:
//!
//! - A withdrawal stops everything that is received after it, however old it says it is, until somebody lifts it afterwards.
//! - A lift that arrives late does not undo a withdrawal that was made after it.
//! - A withdrawal that arrives late and says that it is older than a lift stops all the same: its clock may be slow. Consent given once
//!   more ends that.
//! - A lift that is sent again is the same lift, received when it first was: it does not undo what was received meanwhile.
//! - At equal times of making, the withdrawal counts. No time of making is later than that of receipt: what says so is wrong.
//!
//! An entry is made of maxima, and of a minimum where those are equal, so the order in which statements become known, after a start or from another replica, makes no
//! difference.
//!
//! **Memory.** An entry takes 48 bytes and a byte of the table's own, and a table is between 7/16 and 7/8 full: 56 to 112 bytes
//! per subject, whatever the pseudonym's length, and half as much again while a table grows. It grows with the people who
//! ever withdrew, not with the traffic. Nothing is ever forgotten to make room, as that would undo somebody's withdrawal;
//! beyond [`SUBJECTS_MAX`] (below 1.7 GB) everyone counts as withdrawn instead.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use sha2::{Digest as _, Sha256};

/// The most subjects that are remembered.
pub const SUBJECTS_MAX: usize = 16 << 20;

/// Characters of the base64 of a pseudonym's code.
const CODE_CHARACTERS: usize = 43;

/// The subjects who withdrew consent.
pub struct Withdrawn {
    subjects: RwLock<HashMap<[u8; 16], Entry, RandomState>>,
    /// How many of them are withdrawn now.
    count: AtomicUsize,
    /// More subjects than can be remembered: nobody is known not to have withdrawn.
    overflowed: AtomicBool,
    subjects_max: usize,
}

/// That somebody withdraws consent, or gives it again. Times are in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// When it was made, by the sender's clock.
    pub made_micros: i64,
    /// When it was received.
    pub received_micros: i64,
    /// Consent is given again.
    pub lifts: bool,
}

/// What a subject's statements come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// The latest time at which a withdrawal was made.
    withdrawal_made: i64,
    /// The latest time at which a withdrawal was received.
    withdrawal_received: i64,
    /// Of the lift that was made last, when it was made, and the earliest time at which it was received.
    lift: (i64, i64),
}

impl Entry {
    const NOTHING: Self =
        Self { withdrawal_made: i64::MIN, withdrawal_received: i64::MIN, lift: (i64::MIN, i64::MIN) };

    fn with(mut self, statement: Statement) -> Self {
        let Statement { made_micros, received_micros, lifts } = statement;
        let made = made_micros.min(received_micros);
        if lifts {
            let (latest, first_received) = self.lift;
            if made > latest {
                self.lift = (made, received_micros);
            } else if made == latest {
                // Sent again, it says nothing new, and must not undo what was received meanwhile.
                self.lift = (made, received_micros.min(first_received));
            }
        } else {
            self.withdrawal_made = self.withdrawal_made.max(made);
            self.withdrawal_received = self.withdrawal_received.max(received_micros);
        }
        self
    }

    fn is_withdrawn(self) -> bool {
        let (made, received) = self.lift;
        self.withdrawal_made > i64::MIN
            && !(made > self.withdrawal_made && received >= self.withdrawal_received)
    }
}

impl fmt::Debug for Withdrawn {
    /// Shows how many they are, not who.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Withdrawn").field("count", &self.len()).finish_non_exhaustive()
    }
}

impl Default for Withdrawn {
    fn default() -> Self {
        Self::with_room_for(SUBJECTS_MAX)
    }
}

impl Withdrawn {
    /// Nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with_room_for(subjects_max: usize) -> Self {
        Self {
            subjects: RwLock::default(),
            count: AtomicUsize::new(0),
            overflowed: AtomicBool::new(false),
            subjects_max,
        }
    }

    /// The person with this pseudonym says so.
    pub fn insert(&self, subject: &str, statement: Statement) {
        let key = key(subject);
        let mut subjects = self.subjects.write().unwrap_or_else(PoisonError::into_inner);
        let before = subjects.get(&key).copied();
        if before.is_none() && subjects.len() >= self.subjects_max {
            self.overflowed.store(true, Ordering::Release);
            return;
        }
        let before = before.unwrap_or(Entry::NOTHING);
        let after = before.with(statement);
        subjects.insert(key, after);
        // Under the lock, so that the count is that of the entries.
        match (before.is_withdrawn(), after.is_withdrawn()) {
            (false, true) => self.count.fetch_add(1, Ordering::Release),
            (true, false) => self.count.fetch_sub(1, Ordering::Release),
            _ => 0,
        };
    }

    /// True where what is known of this pseudonym comes to a withdrawal.
    #[must_use]
    pub fn is_withdrawn(&self, subject: &str) -> bool {
        if self.is_empty() {
            return false;
        }
        if self.is_full() {
            return true;
        }
        let subjects = self.subjects.read().unwrap_or_else(PoisonError::into_inner);
        subjects.get(&key(subject)).is_some_and(|entry| entry.is_withdrawn())
    }

    /// How many subjects are withdrawn, of those that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// True where nobody is withdrawn. Two atomic loads: the gate asks for each pseudonym.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0 && !self.is_full()
    }

    /// True where there were more than [`SUBJECTS_MAX`], so that everyone counts as withdrawn.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.overflowed.load(Ordering::Acquire)
    }
}

/// 128 bits that stand for a subject. A pseudonym ends in the base64 of an HMAC, of which half is taken as it is; any other
/// text is hashed.
fn key(subject: &str) -> [u8; 16] {
    let mut code = [0_u8; 32];
    let text = subject.len().checked_sub(CODE_CHARACTERS).and_then(|start| subject.get(start..));
    if subject.starts_with("e1_")
        && let Some(text) = text
        && URL_SAFE_NO_PAD.decode_slice(text, &mut code) == Ok(code.len())
    {
        return half(code);
    }
    half(Sha256::digest(subject).into())
}

fn half(code: [u8; 32]) -> [u8; 16] {
    let mut key = [0; 16];
    key.iter_mut().zip(code).for_each(|(to, from)| *to = from);
    key
}

#[cfg(test)]
mod tests;
