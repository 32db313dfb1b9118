//! The drift report: what arrives that nobody declared, from which service, and since when.
//!
//! Owns: the report over the life of a data directory, and its bounds. Does not own: collecting from a request and the form
//! of names (`privacy`), files and presentation (`app`). Names are in it only as the gate shows them: declared, plain, or
//! hashed; never a value.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::privacy::{DriftEntry, DriftKind, EVENT_BYTES_MAX, Gate, KEY_BYTES_MAX, ValueType, is_shown_name};
use crate::registry::Registry;

/// Entries in the report: some 500 KiB. A registry that lacks more than this is best proposed in several rounds.
pub const ENTRIES_MAX: usize = 2_000;

/// Services that metrics and the overflow tell apart; each is a label.
pub const SERVICES_MAX: usize = 50;

/// Where the sender has no plausible name.
pub const NO_SERVICE: &str = "(none)";

/// Services beyond [`SERVICES_MAX`].
pub const OTHER_SERVICES: &str = "(other)";

/// Something undeclared, as one service sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftItem {
    /// The sending service; None where it has no plausible name.
    pub service: Option<String>,
    /// What it is.
    pub kind: DriftKind,
    /// The event's name, or `#` and the hash of one that may hold a value.
    pub event: String,
    /// The attribute's key, or its hash; None for an event.
    pub key: Option<String>,
    /// How often with a value of each type; empty for an event.
    pub types: BTreeMap<ValueType, u64>,
    /// How often. A request that a client repeats counts again.
    pub count: u64,
    /// When it was first received, RFC 3339.
    #[serde(with = "rfc3339")]
    pub first_seen: i64,
    /// When it was last received, RFC 3339.
    #[serde(with = "rfc3339")]
    pub last_seen: i64,
}

/// The report at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftReport {
    /// The most frequent first.
    pub entries: Vec<DriftItem>,
    /// What found no room since the process started, in occurrences by service.
    pub overflow: BTreeMap<String, u64>,
}

/// A short form of the report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftSummary {
    /// Records of undeclared events, of all entries.
    pub event_records: u64,
    /// Different undeclared events, by service.
    pub events: u64,
    /// Undeclared attributes of declared events, occurrences of all entries.
    pub attribute_records: u64,
    /// Different undeclared attributes of declared events, by event and service.
    pub attributes: u64,
    /// Occurrences that found no room in the report since the process started.
    pub overflow: u64,
    /// The most frequent entries; attributes of undeclared events are left to the whole report.
    pub top: Vec<DriftItem>,
}

/// Counts of this process for metrics: (service, kind, occurrences).
pub type DriftCounts = Vec<(String, DriftKind, u64)>;

type Key = (Option<String>, DriftKind, String, Option<String>);

#[derive(Debug, Clone, Default)]
struct Seen {
    types: BTreeMap<ValueType, u64>,
    count: u64,
    first: i64,
    last: i64,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Key, Seen>,
    overflow: BTreeMap<String, u64>,
    /// Since the process started: a counter must not go back, as one would that is read from a file.
    counts: BTreeMap<(String, DriftKind), u64>,
    changes: u64,
}

/// The report that a process keeps.
#[derive(Debug, Default)]
pub struct DriftStore {
    state: Mutex<State>,
}

impl DriftStore {
    /// Goes on from an earlier report, without what `registry` now declares. What is no report of Esker's is left out.
    #[must_use]
    pub fn resume(report: &DriftReport, registry: &Registry) -> Self {
        let still_undeclared = |item: &DriftItem| !is_declared(item, registry);
        let items = report.valid().entries.into_iter().filter(still_undeclared);
        let entries = items.map(|item| {
            let DriftItem { service, kind, event, key, types, count, first_seen, last_seen } = item;
            ((service, kind, event, key), Seen { types, count, first: first_seen, last: last_seen })
        });
        // The overflow starts anew: what found no room before may find it now.
        Self { state: Mutex::new(State { entries: entries.collect(), ..State::default() }) }
    }

    /// Adds what a request carried that is undeclared.
    pub fn merge(&self, gate: &Gate, found: &[DriftEntry<'_>], now_micros: i64) {
        if found.is_empty() {
            return;
        }
        // Hashing and scanning of names stay outside of the lock.
        let named: Vec<(Option<Key>, &DriftEntry<'_>)> =
            found.iter().map(|entry| (key(gate, entry), entry)).collect();
        let mut state = self.lock();
        state.changes += 1;
        for (key, entry) in named {
            state.count(entry);
            state.add(key, entry, now_micros);
        }
    }

    /// The whole report.
    #[must_use]
    pub fn report(&self) -> DriftReport {
        let state = self.lock();
        let mut entries: Vec<DriftItem> = state.entries.iter().map(item).collect();
        let overflow = state.overflow.clone();
        drop(state);
        // Stable: equal counts stay in the order of service, kind and name.
        entries.sort_by_key(|item| std::cmp::Reverse(item.count));
        DriftReport { entries, overflow }
    }

    /// Counts of this process, by at most [`SERVICES_MAX`] services, [`NO_SERVICE`] and [`OTHER_SERVICES`].
    #[must_use]
    pub fn counts(&self) -> DriftCounts {
        let state = self.lock();
        state.counts.iter().map(|((service, kind), count)| (service.clone(), *kind, *count)).collect()
    }

    /// Grows with each change: says whether a saved report is still up to date.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is plain numbers: a poisoned lock still guards counts that are at worst one request behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn count(&mut self, entry: &DriftEntry<'_>) {
        let known = |service: &str| self.counts.keys().any(|(known, _)| known == service);
        let service = entry.service.unwrap_or(NO_SERVICE);
        let service = if known(service) || self.services() < SERVICES_MAX { service } else { OTHER_SERVICES };
        *self.counts.entry((service.to_owned(), entry.kind)).or_default() += entry.count;
    }

    /// Labels in use.
    fn services(&self) -> usize {
        let mut services: Vec<&String> = self.counts.keys().map(|(service, _)| service).collect();
        services.dedup();
        services.len()
    }

    fn add(&mut self, key: Option<Key>, entry: &DriftEntry<'_>, now_micros: i64) {
        let is_full = self.entries.len() >= ENTRIES_MAX;
        let Some(key) = key.filter(|key| !is_full || self.entries.contains_key(key)) else {
            let service = entry.service.unwrap_or(NO_SERVICE);
            let has_room = self.overflow.contains_key(service) || self.overflow.len() < SERVICES_MAX;
            let service = if has_room { service } else { OTHER_SERVICES };
            *self.overflow.entry(service.to_owned()).or_default() += entry.count;
            return;
        };
        let seen = self.entries.entry(key).or_insert_with(|| Seen { first: now_micros, ..Seen::default() });
        seen.count += entry.count;
        seen.last = seen.last.max(now_micros);
        for (ty, count) in ValueType::ALL.into_iter().zip(entry.types).filter(|(_, count)| *count > 0) {
            *seen.types.entry(ty).or_default() += u64::from(count);
        }
    }
}

impl DriftReport {
    /// Only what Esker itself can have written, and no more than it would: a file may have been edited by anyone.
    #[must_use]
    pub fn valid(&self) -> Self {
        let is_valid = |item: &&DriftItem| {
            is_shown_name(&item.event, EVENT_BYTES_MAX)
                && item.key.as_deref().is_none_or(|key| is_shown_name(key, KEY_BYTES_MAX))
                && item.key.is_none() == (item.kind == DriftKind::Event)
                && item.service.as_deref().is_none_or(is_service)
        };
        let entries = self.entries.iter().filter(is_valid).take(ENTRIES_MAX).cloned().collect();
        let is_label =
            |service: &str| service == NO_SERVICE || service == OTHER_SERVICES || is_service(service);
        let overflow = self.overflow.iter().filter(|(service, _)| is_label(service)).take(SERVICES_MAX + 2);
        Self { entries, overflow: overflow.map(|(service, count)| (service.clone(), *count)).collect() }
    }

    /// The short form, with at most `top` entries.
    #[must_use]
    pub fn summary(&self, top: usize) -> DriftSummary {
        let of = |kind: DriftKind| self.entries.iter().filter(move |item| item.kind == kind);
        let records = |kind: DriftKind| of(kind).map(|item| item.count).sum();
        let shown = self.entries.iter().filter(|item| item.kind != DriftKind::EventAttribute).take(top);
        DriftSummary {
            event_records: records(DriftKind::Event),
            events: of(DriftKind::Event).count() as u64,
            attribute_records: records(DriftKind::Attribute),
            attributes: of(DriftKind::Attribute).count() as u64,
            overflow: self.overflow.values().sum(),
            top: shown.cloned().collect(),
        }
    }
}

fn key(gate: &Gate, entry: &DriftEntry<'_>) -> Option<Key> {
    let event = gate.shown_event(entry.event)?;
    let key = (entry.kind != DriftKind::Event).then(|| gate.shown_key(entry.key));
    Some((entry.service.map(str::to_owned), entry.kind, event, key))
}

fn item((key, seen): (&Key, &Seen)) -> DriftItem {
    let (service, kind, event, key) = key.clone();
    let Seen { types, count, first, last } = seen.clone();
    DriftItem { service, kind, event, key, types, count, first_seen: first, last_seen: last }
}

/// True where the registry has come to declare it.
fn is_declared(item: &DriftItem, registry: &Registry) -> bool {
    let Some(event) = registry.events().iter().find(|event| event.name == item.event) else {
        // Drift of an event that was declared and is not any more starts anew, as an undeclared event.
        return item.kind == DriftKind::Attribute;
    };
    let Some(key) = &item.key else { return true };
    let declares = event
        .attributes
        .iter()
        .any(|used| registry.attributes().get(used.attribute).is_some_and(|attribute| attribute.key == *key));
    // Of an event that is declared by now, what is still undeclared comes again as its attribute.
    declares || item.kind == DriftKind::EventAttribute
}

/// A name that the envelope may hold.
fn is_service(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'@' | b'.' | b'_' | b'/' | b':' | b'+' | b'-')
        })
}

/// Microseconds since the Unix epoch as RFC 3339 text.
mod rfc3339 {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _, ser::Error as _};

    pub(super) fn serialize<S: Serializer>(micros: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        let time = jiff::Timestamp::from_microsecond(*micros).map_err(S::Error::custom)?;
        serializer.collect_str(&time)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time: jiff::Timestamp = text.parse().map_err(|_| D::Error::custom("a time is not RFC 3339"))?;
        Ok(time.as_microsecond())
    }
}

#[cfg(test)]
mod tests;
