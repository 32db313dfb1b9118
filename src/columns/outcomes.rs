//! What became of a request's attributes, and how many of its events were set aside, small enough to travel with its rows.
//!
//! Owns: the classes that a commit's summary counts, and their bytes in the WAL. Does not own: the outcomes themselves
//! (`privacy`), nor what is counted in memory (`accounting`).

use crate::privacy::{AttributeOutcome, Tally, Verdict};

/// Longest policy version that is read back.
const POLICY_VERSION_BYTES_MAX: usize = 64;

/// What became of an attribute, in the classes of a proof. What became part of the envelope, and what had no value, is in
/// none of them; of an event that is set aside no attribute is counted, but the event itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeFate {
    /// Stored as it is.
    Kept,
    /// Stored as a keyed pseudonym.
    Pseudonymised,
    /// Stored without what leaked into it.
    Masked,
    /// Stored with less detail than it had.
    Reduced,
    /// Not stored.
    Dropped,
    /// Set aside. It counts events, not attributes: none of their attributes is stored.
    Quarantined,
}

impl AttributeFate {
    /// Every class, in the order of its bytes.
    pub const ALL: [Self; 6] =
        [Self::Kept, Self::Pseudonymised, Self::Masked, Self::Reduced, Self::Dropped, Self::Quarantined];

    /// Its key in a snapshot's summary, which says what is counted.
    #[must_use]
    pub fn summary_key(self) -> &'static str {
        match self {
            Self::Kept => "esker.attributes-kept",
            Self::Pseudonymised => "esker.attributes-pseudonymised",
            Self::Masked => "esker.attributes-masked",
            Self::Reduced => "esker.attributes-reduced",
            Self::Dropped => "esker.attributes-dropped",
            Self::Quarantined => "esker.events-quarantined",
        }
    }

    /// The class of an outcome.
    fn of(outcome: AttributeOutcome) -> Option<Self> {
        match outcome {
            AttributeOutcome::Kept => Some(Self::Kept),
            AttributeOutcome::Pseudonymised => Some(Self::Pseudonymised),
            AttributeOutcome::Masked => Some(Self::Masked),
            AttributeOutcome::Envelope | AttributeOutcome::Null => None,
            AttributeOutcome::Reduced => Some(Self::Reduced),
            AttributeOutcome::DroppedPersonal
            | AttributeOutcome::DroppedSensitive
            | AttributeOutcome::DroppedByPolicy
            | AttributeOutcome::DroppedByConsent
            | AttributeOutcome::DroppedByRecord
            | AttributeOutcome::DroppedLeak
            | AttributeOutcome::LeakQuarantined
            | AttributeOutcome::Unreducible
            | AttributeOutcome::KeyDestroyed
            | AttributeOutcome::Untrusted
            | AttributeOutcome::Undeclared
            | AttributeOutcome::Duplicate
            | AttributeOutcome::ColumnTaken
            | AttributeOutcome::TypeMismatch
            | AttributeOutcome::NotAMember
            | AttributeOutcome::TooLong
            | AttributeOutcome::TooDeep
            | AttributeOutcome::InvalidUtf8
            | AttributeOutcome::NotFinite
            | AttributeOutcome::Implausible => Some(Self::Dropped),
        }
    }
}

/// Attributes by what became of them, and the events that were set aside, under one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutcomeCounts {
    policy_version: String,
    counts: [u64; AttributeFate::ALL.len()],
}

impl OutcomeCounts {
    /// The counts of a request that the policy of this version decided on.
    #[must_use]
    pub fn of(tally: &Tally, policy_version: &str) -> Self {
        let mut counts = [0; AttributeFate::ALL.len()];
        for outcome in AttributeOutcome::ALL {
            if let Some(count) = AttributeFate::of(outcome).and_then(|fate| counts.get_mut(fate as usize)) {
                *count += tally.attributes(outcome);
            }
        }
        if let Some(count) = counts.get_mut(AttributeFate::Quarantined as usize) {
            *count = tally.verdicts(Verdict::Quarantined);
        }
        Self { policy_version: policy_version.to_owned(), counts }
    }

    /// The policy that decided.
    #[must_use]
    pub fn policy_version(&self) -> &str {
        &self.policy_version
    }

    /// How many attributes met this fate; of [`AttributeFate::Quarantined`], how many events.
    #[must_use]
    pub fn count(&self, fate: AttributeFate) -> u64 {
        self.counts.get(fate as usize).copied().unwrap_or(0)
    }

    /// One byte with the version's length, the version, then each count as eight bytes, least first.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let version = self.policy_version.as_bytes();
        let version = version.get(..version.len().min(POLICY_VERSION_BYTES_MAX)).unwrap_or_default();
        let mut bytes = Vec::with_capacity(1 + version.len() + size_of_val(&self.counts));
        bytes.push(version.len() as u8);
        bytes.extend_from_slice(version);
        bytes.extend(self.counts.iter().flat_map(|count| count.to_le_bytes()));
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first()?;
        let (version, rest) = rest.split_at_checked(usize::from(*length))?;
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if version.len() > POLICY_VERSION_BYTES_MAX || !version.iter().all(is_plain) {
            return None;
        }
        let (words, rest) = rest.as_chunks::<8>();
        if !rest.is_empty() || words.len() != AttributeFate::ALL.len() {
            return None;
        }
        let mut counts = [0; AttributeFate::ALL.len()];
        for (count, word) in counts.iter_mut().zip(words) {
            *count = u64::from_le_bytes(*word);
        }
        Some(Self { policy_version: std::str::from_utf8(version).ok()?.to_owned(), counts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::tests::fixture::{COMMITTED, Sent, clear_with, key, registry};
    use crate::privacy::{Gate, GateOptions};

    #[test]
    fn an_event_that_is_set_aside_counts_as_one_and_its_attributes_do_not() {
        let gate = Gate::new(registry(), &key(), GateOptions::default()).unwrap();
        let sent = vec![
            Sent::named(COMMITTED).with("organisation.id", "no number").with("title", "x"),
            Sent::named(COMMITTED).with("title", "x").with("user.email", "x"),
        ];
        let counts = clear_with(&gate, sent, |cleared| OutcomeCounts::of(cleared.tally(), "abc"));
        let found = AttributeFate::ALL.map(|fate| (fate.summary_key(), counts.count(fate)));
        assert_eq!(found[0], ("esker.attributes-kept", 1));
        assert_eq!(found[4], ("esker.attributes-dropped", 1));
        assert_eq!(found[5], ("esker.events-quarantined", 1));
    }
}
