//! What became of each event and attribute of a request, in counts.
//!
//! Owns: the closed sets of outcomes and their names, and counting by construction: each record is counted once, so
//! received = cleared + dropped + rejected always holds. Does not own: metrics, messages. Nothing from the wire is in it.

use super::quarantined::QuarantineReason;
use crate::registry::Registry;

/// What an event is counted under. Never a name from the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A declared event: an index into [`Registry::events`].
    Declared(u32),
    /// Every event that the registry does not declare.
    Undeclared,
    /// Every record without a name.
    Unnamed,
}

impl Subject {
    /// The event's name, `(undeclared)` or `(unnamed)`.
    #[must_use]
    pub fn name<'r>(&self, registry: &'r Registry) -> &'r str {
        match self {
            Self::Declared(event) => {
                registry.events().get(*event as usize).map_or("(undeclared)", |event| event.name.as_str())
            }
            Self::Undeclared => "(undeclared)",
            Self::Unnamed => "(unnamed)",
        }
    }
}

/// The kinds of outcome that an event can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Goes on to be stored.
    Cleared,
    /// Breaks its contract, and is set aside.
    Quarantined,
    /// Not stored, as the policy says; the sender is not told.
    Dropped,
    /// Not stored because it is at fault; the sender is told by a partial success.
    Rejected,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventOutcome {
    /// May be stored.
    Cleared,
    /// The registry does not declare it.
    Undeclared,
    /// It has no name.
    Unnamed,
    /// Its level is `sensitive`, or it says so itself.
    Sensitive,
    /// Its route is `drop`.
    RoutedNowhere,
    /// The consent that it needs was refused or is not known, and the policy does not store it without.
    NoConsent,
    /// It is set aside, for this reason.
    SetAside(QuarantineReason),
    /// It happened too long ago, or too far in the future.
    TimeOutOfRange,
}

impl EventOutcome {
    /// Every outcome.
    pub const ALL: [Self; 13] = [
        Self::Cleared,
        Self::Undeclared,
        Self::Unnamed,
        Self::Sensitive,
        Self::RoutedNowhere,
        Self::NoConsent,
        Self::TimeOutOfRange,
        Self::SetAside(QuarantineReason::MissingRequired),
        Self::SetAside(QuarantineReason::TypeMismatch),
        Self::SetAside(QuarantineReason::NotAMember),
        Self::SetAside(QuarantineReason::InvalidValue),
        Self::SetAside(QuarantineReason::Leak),
        Self::SetAside(QuarantineReason::UndeclaredEvent),
    ];

    /// Its name, as reports and metrics show it; of an event that is set aside, the reason in its row.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cleared => "cleared",
            Self::Undeclared => "undeclared",
            Self::Unnamed => "unnamed",
            Self::Sensitive => "sensitive",
            Self::RoutedNowhere => "routed_nowhere",
            Self::NoConsent => "no_consent",
            Self::TimeOutOfRange => "time_out_of_range",
            Self::SetAside(reason) => reason.as_str(),
        }
    }

    /// Its kind.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Cleared => Verdict::Cleared,
            Self::Undeclared | Self::Unnamed | Self::Sensitive | Self::RoutedNowhere | Self::NoConsent => {
                Verdict::Dropped
            }
            Self::SetAside(_) => Verdict::Quarantined,
            Self::TimeOutOfRange => Verdict::Rejected,
        }
    }

    /// Its place in [`EventOutcome::ALL`].
    fn place(self) -> usize {
        match self {
            Self::Cleared => 0,
            Self::Undeclared => 1,
            Self::Unnamed => 2,
            Self::Sensitive => 3,
            Self::RoutedNowhere => 4,
            Self::NoConsent => 5,
            Self::TimeOutOfRange => 6,
            Self::SetAside(reason) => 7 + reason as usize,
        }
    }
}

/// What became of an attribute of a cleared event. Each attribute that was sent has exactly one outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttributeOutcome {
    /// Stored.
    Kept,
    /// Stored with what leaked into it masked.
    Masked,
    /// A part of it is stored, as its treatment says.
    Reduced,
    /// Stored as a keyed pseudonym.
    Pseudonymised,
    /// Became part of the envelope (the event's id or its name), or decided on the event (its level).
    Envelope,
    /// Has no value.
    Null,
    /// Its level is `personal`.
    DroppedPersonal,
    /// Its level is `sensitive`.
    DroppedSensitive,
    /// Its treatment is `drop`.
    DroppedByPolicy,
    /// The consent without which it may not be stored was refused or is not known.
    DroppedByConsent,
    /// The record states a stricter level than the registry, and at that level its column may not hold it.
    DroppedByRecord,
    /// Something leaked into it, and its declaration says that it is then not stored.
    DroppedLeak,
    /// Something leaked into it, and its declaration says that its event is then set aside.
    LeakQuarantined,
    /// Its treatment cannot read it.
    Unreducible,
    /// The key of its tenant's pseudonyms was destroyed.
    KeyDestroyed,
    /// It is the server's own by declaration, but arrived as text, as baggage does.
    Untrusted,
    /// The event does not declare it.
    Undeclared,
    /// A later attribute of the record has the same key.
    Duplicate,
    /// Another attribute already filled the column that both share.
    ColumnTaken,
    /// Its value cannot be read as the declared type.
    TypeMismatch,
    /// It is not a member of the declared enum.
    NotAMember,
    /// It is longer than `value_bytes_max`.
    TooLong,
    /// It is nested more deeply than is read.
    TooDeep,
    /// Its text is not UTF-8.
    InvalidUtf8,
    /// It is an infinity or not a number, which the engines store and compare differently.
    NotFinite,
    /// It belongs into the envelope, but does not look like what belongs there (an id, a service's name or version).
    Implausible,
}

impl AttributeOutcome {
    /// Every outcome.
    pub const ALL: [Self; 26] = [
        Self::Kept,
        Self::Masked,
        Self::Reduced,
        Self::Pseudonymised,
        Self::Envelope,
        Self::Null,
        Self::DroppedPersonal,
        Self::DroppedSensitive,
        Self::DroppedByPolicy,
        Self::DroppedByConsent,
        Self::DroppedByRecord,
        Self::DroppedLeak,
        Self::LeakQuarantined,
        Self::Unreducible,
        Self::KeyDestroyed,
        Self::Untrusted,
        Self::Undeclared,
        Self::Duplicate,
        Self::ColumnTaken,
        Self::TypeMismatch,
        Self::NotAMember,
        Self::TooLong,
        Self::TooDeep,
        Self::InvalidUtf8,
        Self::NotFinite,
        Self::Implausible,
    ];

    /// Its name, as reports and metrics show it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Masked => "masked",
            Self::Reduced => "reduced",
            Self::Pseudonymised => "pseudonymised",
            Self::Envelope => "envelope",
            Self::Null => "null",
            Self::DroppedPersonal => "dropped_personal",
            Self::DroppedSensitive => "dropped_sensitive",
            Self::DroppedByPolicy => "dropped_by_policy",
            Self::DroppedByConsent => "dropped_by_consent",
            Self::DroppedByRecord => "dropped_by_record",
            Self::DroppedLeak => "dropped_leak",
            Self::LeakQuarantined => "leak_quarantined",
            Self::Unreducible => "unreducible",
            Self::KeyDestroyed => "key_destroyed",
            Self::Untrusted => "untrusted",
            Self::Undeclared => "undeclared",
            Self::Duplicate => "duplicate",
            Self::ColumnTaken => "column_taken",
            Self::TypeMismatch => "type_mismatch",
            Self::NotAMember => "not_a_member",
            Self::TooLong => "too_long",
            Self::TooDeep => "too_deep",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::NotFinite => "not_finite",
            Self::Implausible => "implausible",
        }
    }
}

/// The counts of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectTally {
    subject: Subject,
    events: [u64; EventOutcome::ALL.len()],
    attributes: [u64; AttributeOutcome::ALL.len()],
    implausible_envelope: u64,
}

impl SubjectTally {
    fn new(subject: Subject) -> Self {
        Self {
            subject,
            events: [0; EventOutcome::ALL.len()],
            attributes: [0; AttributeOutcome::ALL.len()],
            implausible_envelope: 0,
        }
    }

    /// What is counted.
    #[must_use]
    pub fn subject(&self) -> Subject {
        self.subject
    }

    /// Records that were received: the sum of all outcomes, as each record has exactly one.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.events.iter().sum()
    }

    /// Records with an outcome of this kind.
    #[must_use]
    pub fn verdicts(&self, verdict: Verdict) -> u64 {
        EventOutcome::ALL.iter().filter(|outcome| outcome.verdict() == verdict).map(|o| self.events(*o)).sum()
    }

    /// Records with this outcome.
    #[must_use]
    pub fn events(&self, outcome: EventOutcome) -> u64 {
        self.events.get(outcome.place()).copied().unwrap_or(0)
    }

    /// Attributes of cleared records with this outcome.
    #[must_use]
    pub fn attributes(&self, outcome: AttributeOutcome) -> u64 {
        self.attributes.get(outcome as usize).copied().unwrap_or(0)
    }

    /// Cleared records whose service name, service version or scope name was withheld because it does not look like one.
    #[must_use]
    pub fn implausible_envelope(&self) -> u64 {
        self.implausible_envelope
    }
}

/// The counts of one request, by subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    subjects: Vec<SubjectTally>,
}

impl Tally {
    /// The counts by subject, in the order in which the request first showed each.
    #[must_use]
    pub fn subjects(&self) -> &[SubjectTally] {
        &self.subjects
    }

    /// All records of the request.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.subjects.iter().map(SubjectTally::received).sum()
    }

    /// Records with an outcome of this kind.
    #[must_use]
    pub fn verdicts(&self, verdict: Verdict) -> u64 {
        self.subjects.iter().map(|subject| subject.verdicts(verdict)).sum()
    }

    /// Records with this outcome.
    #[must_use]
    pub fn events(&self, outcome: EventOutcome) -> u64 {
        self.subjects.iter().map(|subject| subject.events(outcome)).sum()
    }

    /// Attributes of cleared records with this outcome.
    #[must_use]
    pub fn attributes(&self, outcome: AttributeOutcome) -> u64 {
        self.subjects.iter().map(|subject| subject.attributes(outcome)).sum()
    }
}

/// Counts while a request is cleared.
#[derive(Debug)]
pub(super) struct Counter {
    tally: Tally,
    /// For each declared event, its place in the tally + 1, or 0.
    declared: Vec<u32>,
    /// The attributes of the record that is being decided about.
    attributes: Vec<AttributeOutcome>,
    implausible_envelope: bool,
}

impl Counter {
    pub(super) fn new(declared_events: usize) -> Self {
        Self {
            tally: Tally::default(),
            declared: vec![0; declared_events],
            attributes: Vec::new(),
            implausible_envelope: false,
        }
    }

    /// Counts a record, together with its attributes, which were counted before.
    pub(super) fn event(&mut self, subject: Subject, outcome: EventOutcome) {
        let place = self.place(subject);
        if let Some(tally) = self.tally.subjects.get_mut(place) {
            if let Some(count) = tally.events.get_mut(outcome.place()) {
                *count += 1;
            }
            for attribute in &self.attributes {
                if let Some(count) = tally.attributes.get_mut(*attribute as usize) {
                    *count += 1;
                }
            }
            tally.implausible_envelope += u64::from(self.implausible_envelope);
        }
        self.forget_attributes();
    }

    /// Counts an attribute of the record that is counted next.
    #[inline]
    pub(super) fn attribute(&mut self, outcome: AttributeOutcome) {
        self.attributes.push(outcome);
    }

    /// The record that is counted next is not stored as its attributes were decided about.
    pub(super) fn forget_attributes(&mut self) {
        self.attributes.clear();
        self.implausible_envelope = false;
    }

    /// Counts that the envelope of the record that is counted next lacks a value because it was implausible.
    pub(super) fn implausible_envelope(&mut self) {
        self.implausible_envelope = true;
    }

    pub(super) fn finish(self) -> Tally {
        self.tally
    }

    fn place(&mut self, subject: Subject) -> usize {
        let next = self.tally.subjects.len();
        let found = match subject {
            Subject::Declared(event) => match self.declared.get_mut(event as usize) {
                Some(place) if *place != 0 => Some(*place as usize - 1),
                Some(place) => {
                    *place = next as u32 + 1;
                    None
                }
                None => None,
            },
            // At most every declared event stands before these two, and a request mostly shows few.
            _ => self.tally.subjects.iter().position(|tally| tally.subject == subject),
        };
        found.unwrap_or_else(|| {
            self.tally.subjects.push(SubjectTally::new(subject));
            next
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_counted_in_its_own_cell_and_has_its_own_name() {
        for (place, outcome) in AttributeOutcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, place);
            assert!(AttributeOutcome::ALL.iter().filter(|o| o.as_str() == outcome.as_str()).count() == 1);
        }
        for (place, outcome) in EventOutcome::ALL.iter().enumerate() {
            assert_eq!(outcome.place(), place);
            assert!(EventOutcome::ALL.iter().filter(|o| o.as_str() == outcome.as_str()).count() == 1);
        }
        for reason in QuarantineReason::ALL {
            assert!(EventOutcome::ALL.contains(&EventOutcome::SetAside(reason)), "{reason:?}");
        }
    }

    #[test]
    fn subjects_are_counted_apart() {
        let mut counter = Counter::new(3);
        counter.attribute(AttributeOutcome::Kept);
        counter.event(Subject::Declared(2), EventOutcome::Cleared);
        counter.event(Subject::Unnamed, EventOutcome::Unnamed);
        counter.event(Subject::Declared(0), EventOutcome::TimeOutOfRange);
        counter.event(Subject::Declared(2), EventOutcome::Cleared);
        counter.event(Subject::Unnamed, EventOutcome::Unnamed);
        let tally = counter.finish();
        let counts: Vec<_> = tally.subjects().iter().map(|s| (s.subject(), s.received())).collect();
        assert_eq!(counts, [(Subject::Declared(2), 2), (Subject::Unnamed, 2), (Subject::Declared(0), 1)]);
        assert_eq!(tally.received(), 5);
        assert_eq!(tally.verdicts(Verdict::Dropped), 2);
        assert_eq!(tally.attributes(AttributeOutcome::Kept), 1);
    }
}
