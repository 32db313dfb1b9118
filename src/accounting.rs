//! Where every received event is: received = committed + quarantined + dropped + rejected + in flight, per event name,
//! at all times.
//!
//! Owns: the counts, changed only in steps that keep the equation. Does not own: how they are shown (`telemetry`, `app`).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::privacy::{AttributeOutcome, EventOutcome, SubjectTally, Tally, Verdict};
use crate::registry::Registry;

/// Why what was sent again is not stored again.
const DUPLICATE_REQUEST: &str = "duplicate_request";

/// The counts of one event name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventCounts {
    /// Records that arrived in requests whose fate is decided or being decided, and rows found in the WAL at start.
    pub received: u64,
    /// Rows that a confirmed commit of an event table holds.
    pub committed: u64,
    /// Events set aside for breaking their contract, in a confirmed commit of the quarantine table.
    pub quarantined: u64,
    /// Records that the policy does not store, and repetitions of what is stored already.
    pub dropped: u64,
    /// Records refused; the client was told.
    pub rejected: u64,
    /// Rows on their way: being written to the WAL, or in it and not committed.
    pub in_flight: u64,
    /// `dropped` by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub dropped_by: BTreeMap<String, u64>,
    /// `rejected` by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub rejected_by: BTreeMap<String, u64>,
}

/// All counts at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// By event name. Names that never arrived are absent.
    pub events: BTreeMap<String, EventCounts>,
    /// What became of attributes, by outcome.
    pub attributes: BTreeMap<String, u64>,
}

/// What one request adds, by event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// (name, rows to be stored, dropped by reason, rejected by reason).
    pub events: Vec<EventDelta>,
    /// (outcome, count).
    pub attributes: Vec<(&'static str, u64)>,
}

/// One event's part of a [`Delta`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventDelta {
    /// A declared name, `(undeclared)` or `(unnamed)`; never a name from the wire.
    pub name: String,
    /// Rows to be stored.
    pub cleared: u64,
    /// Events to be set aside.
    pub quarantined: u64,
    /// Not stored, by reason.
    pub dropped: Vec<(&'static str, u64)>,
    /// Refused, by reason.
    pub rejected: Vec<(&'static str, u64)>,
}

/// The counts of this process.
#[derive(Debug, Default)]
pub struct Accounting {
    counts: Mutex<Counts>,
}

impl Accounting {
    /// All zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A request's events were decided on; those that are to be stored or set aside are now in flight. Of their attributes nothing can
    /// be said before it is known whether they are stored: [`Accounting::stored`] or [`Accounting::not_stored`] follows.
    pub fn received(&self, delta: &Delta) {
        let mut counts = self.lock();
        for event in &delta.events {
            let entry = counts.events.entry(event.name.clone()).or_default();
            entry.in_flight += event.in_flight();
            let mut received = event.in_flight();
            for (reason, count) in &event.dropped {
                entry.dropped += count;
                *entry.dropped_by.entry((*reason).to_owned()).or_default() += count;
                received += count;
            }
            for (reason, count) in &event.rejected {
                entry.rejected += count;
                *entry.rejected_by.entry((*reason).to_owned()).or_default() += count;
                received += count;
            }
            entry.received += received;
        }
        if !delta.is_in_flight() {
            counts.add_attributes(delta);
        }
    }

    /// What is to be stored or set aside of a request that was counted is durable.
    pub fn stored(&self, delta: &Delta) {
        if delta.is_in_flight() {
            self.lock().add_attributes(delta);
        }
    }

    /// Nothing of a request that was counted is stored after all: the client was told to send again.
    pub fn not_stored(&self, delta: &Delta, reason: &'static str) {
        let mut counts = self.lock();
        for event in delta.events.iter().filter(|event| event.in_flight() > 0) {
            let entry = counts.events.entry(event.name.clone()).or_default();
            entry.in_flight = entry.in_flight.saturating_sub(event.in_flight());
            entry.rejected += event.in_flight();
            *entry.rejected_by.entry(reason.to_owned()).or_default() += event.in_flight();
        }
        // No attribute was kept, nor kept out: nothing came of any of them.
        let attributes: u64 = delta.attributes.iter().map(|(_, count)| count).sum();
        if delta.is_in_flight() && attributes > 0 {
            *counts.attributes.entry(reason.to_owned()).or_default() += attributes;
        }
    }

    /// Rows of event tables and of the quarantine found in the WAL at start: received before, in flight again.
    pub fn recovered(&self, rows: &BTreeMap<String, u64>) {
        let mut counts = self.lock();
        for (name, count) in rows {
            let entry = counts.events.entry(name.clone()).or_default();
            entry.received += count;
            entry.in_flight += count;
        }
    }

    /// A confirmed commit of an event table holds these rows.
    pub fn committed(&self, rows: &BTreeMap<String, u64>) {
        self.landed(rows, |entry| &mut entry.committed);
    }

    /// A confirmed commit of the quarantine table holds these rows.
    pub fn quarantined(&self, rows: &BTreeMap<String, u64>) {
        self.landed(rows, |entry| &mut entry.quarantined);
    }

    fn landed(&self, rows: &BTreeMap<String, u64>, place: fn(&mut EventCounts) -> &mut u64) {
        let mut counts = self.lock();
        for (name, count) in rows {
            let entry = counts.events.entry(name.clone()).or_default();
            entry.in_flight = entry.in_flight.saturating_sub(*count);
            *place(entry) += count;
        }
    }

    /// The counts now, as one consistent picture.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // The counts are plain numbers, changed without a step that can panic: a poisoned lock still guards a true state.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn add_attributes(&mut self, delta: &Delta) {
        for (outcome, count) in &delta.attributes {
            *self.attributes.entry((*outcome).to_owned()).or_default() += count;
        }
    }
}

impl Delta {
    /// True where something of it is on its way once it is counted.
    fn is_in_flight(&self) -> bool {
        self.events.iter().any(|event| event.in_flight() > 0)
    }

    /// What the gate decided on a request.
    #[must_use]
    pub fn of(tally: &Tally, registry: &Registry) -> Self {
        let attributes = AttributeOutcome::ALL
            .iter()
            .map(|outcome| (outcome.as_str(), tally.attributes(*outcome)))
            .filter(|(_, count)| *count > 0)
            .collect();
        Self {
            events: tally.subjects().iter().map(|subject| EventDelta::of(subject, registry)).collect(),
            attributes,
        }
    }

    /// The same records, none of them stored because they are stored already.
    #[must_use]
    pub fn into_duplicates(mut self) -> Self {
        for event in &mut self.events {
            let stored = std::mem::take(&mut event.cleared) + std::mem::take(&mut event.quarantined);
            if stored > 0 {
                event.dropped.push((DUPLICATE_REQUEST, stored));
            }
        }
        // Nor is any attribute kept, or kept out, a second time.
        let attributes = std::mem::take(&mut self.attributes);
        let repeated: u64 = attributes.iter().map(|(_, count)| count).sum();
        if repeated > 0 {
            self.attributes.push((DUPLICATE_REQUEST, repeated));
        }
        self
    }

    /// Records that the client is told of as rejected.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.events.iter().flat_map(|event| &event.rejected).map(|(_, count)| count).sum()
    }

    /// One sentence on the rejected records; empty where there are none. Holds reasons and numbers only.
    #[must_use]
    pub fn message(&self) -> String {
        let mut by_reason = BTreeMap::<&str, u64>::new();
        for (reason, count) in self.events.iter().flat_map(|event| &event.rejected) {
            *by_reason.entry(reason).or_default() += count;
        }
        if by_reason.is_empty() {
            return String::new();
        }
        let parts: Vec<String> =
            by_reason.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        format!("log records rejected: {}; do not send them again as they are", parts.join(", "))
    }
}

impl EventDelta {
    /// Events that are on their way once the request is counted.
    fn in_flight(&self) -> u64 {
        self.cleared + self.quarantined
    }

    fn of(subject: &SubjectTally, registry: &Registry) -> Self {
        let by_reason = |verdict: Verdict| {
            EventOutcome::ALL
                .iter()
                .filter(|outcome| outcome.verdict() == verdict)
                .map(|outcome| (outcome.as_str(), subject.events(*outcome)))
                .filter(|(_, count)| *count > 0)
                .collect()
        };
        Self {
            name: subject.subject().name(registry).to_owned(),
            cleared: subject.verdicts(Verdict::Cleared),
            quarantined: subject.verdicts(Verdict::Quarantined),
            dropped: by_reason(Verdict::Dropped),
            rejected: by_reason(Verdict::Rejected),
        }
    }
}

impl EventCounts {
    /// Invariant 3 for this name.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.received == self.committed + self.quarantined + self.dropped + self.rejected + self.in_flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta() -> Delta {
        Delta {
            events: vec![
                EventDelta {
                    name: "a.b".to_owned(),
                    cleared: 5,
                    quarantined: 3,
                    dropped: vec![],
                    rejected: vec![("time_out_of_range", 2)],
                },
                EventDelta {
                    name: "(undeclared)".to_owned(),
                    cleared: 0,
                    quarantined: 0,
                    dropped: vec![("undeclared", 3)],
                    rejected: vec![],
                },
            ],
            attributes: vec![("kept", 20)],
        }
    }

    fn rows(count: u64) -> BTreeMap<String, u64> {
        BTreeMap::from([("a.b".to_owned(), count)])
    }

    #[test]
    fn every_step_keeps_the_equation() {
        let accounting = Accounting::new();
        let balanced = || accounting.counts().events.values().all(EventCounts::balances);
        accounting.received(&delta());
        assert!(balanced());
        accounting.received(&delta());
        accounting.not_stored(&delta(), "wal_full");
        assert!(balanced());
        accounting.received(&delta().into_duplicates());
        assert!(balanced());
        accounting.recovered(&rows(7));
        accounting.committed(&rows(12));
        assert!(balanced());
        accounting.quarantined(&rows(3));
        assert!(balanced());
        let counts = accounting.counts().events.remove("a.b").unwrap();
        assert_eq!((counts.received, counts.committed, counts.quarantined), (37, 12, 3));
        assert_eq!((counts.dropped, counts.rejected, counts.in_flight), (8, 14, 0));
        assert_eq!(counts.rejected_by["wal_full"], 8);
    }

    #[test]
    fn the_attributes_of_a_duplicate_are_not_kept_again() {
        let accounting = Accounting::new();
        accounting.received(&delta());
        accounting.stored(&delta());
        accounting.received(&delta().into_duplicates());
        let attributes = accounting.counts().attributes;
        assert_eq!((attributes["kept"], attributes["duplicate_request"]), (20, 20));
    }

    #[test]
    fn attributes_count_as_kept_once_their_rows_are_durable_and_not_before() {
        let accounting = Accounting::new();
        accounting.received(&delta());
        assert_eq!(accounting.counts().attributes, BTreeMap::new());
        accounting.not_stored(&delta(), "wal_unavailable");
        accounting.received(&delta());
        accounting.stored(&delta());
        let attributes = accounting.counts().attributes;
        assert_eq!(attributes, BTreeMap::from([("kept".to_owned(), 20), ("wal_unavailable".to_owned(), 20)]));
    }

    #[test]
    fn where_nothing_is_to_be_stored_attributes_count_at_once() {
        let mut dropped = delta();
        dropped.events.remove(0);
        let accounting = Accounting::new();
        accounting.received(&dropped);
        accounting.stored(&dropped);
        assert_eq!(accounting.counts().attributes["kept"], 20, "and once");
    }

    #[test]
    fn the_message_names_reasons_and_numbers_only() {
        assert_eq!(
            delta().message(),
            "log records rejected: 2 time_out_of_range; do not send them again as they are"
        );
        assert_eq!(delta().rejected(), 2);
        assert_eq!(Delta::default().message(), "");
    }
}
