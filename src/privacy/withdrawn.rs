//! Who withdrew consent: the subjects whose later events must be treated as without it.
//!
//! Owns: the set in memory, and which of several withdrawals and lifts of a subject counts. Does not own: where they are kept
//! (the table of withdrawals), who fills the set, when a withdrawal takes effect.
//!
//! A subject is known by its pseudonym only. Of a subject's entries the one with the latest time counts, and at equal times
//! the withdrawal: so the order in which they become known, after a start or from another replica, makes no difference.
//!
//! **Memory.** An entry takes 32 bytes and a byte of the table's own, and a table is between 7/16 and 7/8 full: 38 to 76 bytes
//! per subject, whatever the pseudonym's length, and half as much again while a table grows. It grows with the people who
//! ever withdrew, not with the traffic. Nothing is ever forgotten to make room, as that would undo somebody's withdrawal;
//! beyond [`SUBJECTS_MAX`] (below 1.3 GB) everyone counts as withdrawn instead.

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
    subjects: RwLock<HashMap<[u8; 16], Latest, RandomState>>,
    /// How many of them are withdrawn now.
    count: AtomicUsize,
    /// More subjects than can be remembered: nobody is known not to have withdrawn.
    overflowed: AtomicBool,
    subjects_max: usize,
}

/// The entry of a subject that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Latest {
    time_micros: i64,
    lifts: bool,
}

impl Latest {
    fn yields_to(self, later: Self) -> bool {
        later.time_micros > self.time_micros
            || (later.time_micros == self.time_micros && self.lifts && !later.lifts)
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

    /// The person with this pseudonym withdrew at that time, or with `lifts` consented again.
    pub fn insert(&self, subject: &str, time_micros: i64, lifts: bool) {
        let (key, new) = (key(subject), Latest { time_micros, lifts });
        let mut subjects = self.subjects.write().unwrap_or_else(PoisonError::into_inner);
        let before = subjects.get(&key).copied();
        if before.is_none() && subjects.len() >= self.subjects_max {
            self.overflowed.store(true, Ordering::Release);
            return;
        }
        if before.is_some_and(|before| !before.yields_to(new)) {
            return;
        }
        subjects.insert(key, new);
        // Under the lock, so that the count is that of the entries.
        match (before.is_some_and(|before| !before.lifts), !lifts) {
            (false, true) => self.count.fetch_add(1, Ordering::Release),
            (true, false) => self.count.fetch_sub(1, Ordering::Release),
            _ => 0,
        };
    }

    /// True where the latest that is known of this pseudonym is a withdrawal.
    #[must_use]
    pub fn is_withdrawn(&self, subject: &str) -> bool {
        if self.is_empty() {
            return false;
        }
        if self.is_full() {
            return true;
        }
        let subjects = self.subjects.read().unwrap_or_else(PoisonError::into_inner);
        subjects.get(&key(subject)).is_some_and(|latest| !latest.lifts)
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALICE: &str = "e1_a2lvxkk5_gy5imU2VnwmN6HH1aXNrrQNiZgMGutfQKhxBvAhQmTs";
    const BOB: &str = "e1_a2lvxkk5_Gy5imU2VnwmN6HH1aXNrrQNiZgMGutfQKhxBvAhQmTs";

    #[test]
    fn only_who_withdrew_is_withdrawn() {
        let withdrawn = Withdrawn::new();
        assert!(withdrawn.is_empty() && !withdrawn.is_withdrawn(ALICE));
        withdrawn.insert(ALICE, 10, false);
        assert!(withdrawn.is_withdrawn(ALICE) && !withdrawn.is_withdrawn(BOB) && !withdrawn.is_withdrawn(""));
        assert!(!withdrawn.is_empty());
        assert_eq!(withdrawn.len(), 1);
        withdrawn.insert(ALICE, 20, false);
        assert_eq!(withdrawn.len(), 1, "once more is nothing more");
    }

    #[test]
    fn the_latest_counts_and_a_tie_is_a_withdrawal() {
        let withdrawn = Withdrawn::new();
        withdrawn.insert(ALICE, 10, false);
        withdrawn.insert(ALICE, 9, true);
        assert!(withdrawn.is_withdrawn(ALICE), "an earlier lift");
        withdrawn.insert(ALICE, 10, true);
        assert!(withdrawn.is_withdrawn(ALICE), "a tie");
        withdrawn.insert(ALICE, 11, true);
        assert!(!withdrawn.is_withdrawn(ALICE) && withdrawn.is_empty());
        withdrawn.insert(ALICE, 10, false);
        assert!(!withdrawn.is_withdrawn(ALICE), "a withdrawal from before the lift");
        withdrawn.insert(ALICE, 11, false);
        assert!(withdrawn.is_withdrawn(ALICE), "a tie, the other way round");
    }

    #[test]
    fn texts_that_are_no_pseudonyms_are_subjects_of_their_own() {
        let withdrawn = Withdrawn::new();
        for subject in ["", "7", "e1_", "e1_é", &ALICE[3..], &format!("{ALICE}=")] {
            assert!(!withdrawn.is_withdrawn(subject), "{subject}");
            withdrawn.insert(subject, 1, false);
            assert!(withdrawn.is_withdrawn(subject), "{subject}");
        }
        assert_eq!(withdrawn.len(), 6);
        assert!(!withdrawn.is_withdrawn(ALICE));
    }

    #[test]
    fn beyond_its_room_everyone_counts_as_withdrawn() {
        let withdrawn = Withdrawn::with_room_for(1);
        withdrawn.insert(ALICE, 1, true);
        assert!(withdrawn.is_empty());
        withdrawn.insert(ALICE, 2, false);
        assert!(!withdrawn.is_full() && !withdrawn.is_withdrawn(BOB), "a known subject needs no room");
        withdrawn.insert(BOB, 1, true);
        assert!(withdrawn.is_full() && withdrawn.is_withdrawn(BOB) && withdrawn.is_withdrawn("anyone"));
        withdrawn.insert(ALICE, 3, true);
        assert!(!withdrawn.is_empty(), "also where nobody that is remembered is withdrawn");
    }

    #[test]
    fn debug_names_nobody() {
        let withdrawn = Withdrawn::new();
        withdrawn.insert("alice@example.org", 1, false);
        assert_eq!(format!("{withdrawn:?}"), "Withdrawn { count: 1, .. }");
    }

    #[test]
    fn an_entry_is_as_small_as_the_header_says() {
        assert_eq!(size_of::<([u8; 16], Latest)>(), 32);
    }

    proptest! {
        #[test]
        fn the_order_of_entries_makes_no_difference(
            entries in prop::collection::vec((0..3_u8, 0..4_i64, any::<bool>()), 0..12),
            seed in any::<u64>(),
        ) {
            let (one, other) = (Withdrawn::new(), Withdrawn::new());
            for (subject, time, lifts) in &entries {
                one.insert(&subject.to_string(), *time, *lifts);
            }
            let mut shuffled = entries.clone();
            shuffled.sort_by_key(|entry| {
                use std::hash::BuildHasher as _;
                foldhash::fast::FixedState::with_seed(seed).hash_one(entry)
            });
            for (subject, time, lifts) in &shuffled {
                other.insert(&subject.to_string(), *time, *lifts);
            }
            let mut withdrawn = 0;
            for subject in (0..3_u8).map(|subject| subject.to_string()) {
                // The rule, said another way: no lift is later than every withdrawal.
                let of = |wanted: bool| {
                    entries.iter().filter(|entry| entry.0.to_string() == subject && entry.2 == wanted).map(|entry| entry.1).max()
                };
                let expected = of(false).is_some_and(|time| of(true).is_none_or(|lifted| lifted <= time));
                prop_assert_eq!(one.is_withdrawn(&subject), expected);
                prop_assert_eq!(other.is_withdrawn(&subject), expected);
                withdrawn += usize::from(expected);
            }
            prop_assert_eq!(one.len(), withdrawn);
            prop_assert_eq!(other.len(), withdrawn);
        }
    }
}
