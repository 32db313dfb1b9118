//! One pass over a request: every record and attribute gets exactly one outcome.
//!
//! Owns: the order of decisions, duplicates, shared columns, templates. Does not own: each single rule (its neighbours).
//!
//! A record's attributes are first chosen (which key, which treatment, the last of equal keys), then treated. All scratch
//! space is reused from record to record: a record costs no allocation.

use super::coerce::{as_text, coerce, fit, made_since};
use super::envelope::{self, ResourceEnvelope, TimeBounds};
use super::identity::Identities;
use super::json;
use super::policy::{AttributePlan, EventPlan, Treatment};
use super::tally::{AttributeOutcome, Counter, EventOutcome, Subject};
use super::{Cleared, ClearedEvent, ClearedValue, Gate, Observer};
use crate::receive::decode::{RawAttribute, RawEvents, RawRecord, RawValue};
use crate::registry::{LeakAction, PrivacyLevel, Trust};

/// Decides about every record of a request.
pub(super) fn clear<'a, O: Observer>(
    gate: &Gate,
    raw: &RawEvents<'a>,
    now_micros: i64,
    observer: &mut O,
) -> Cleared<'a> {
    let mut pass = Pass::new(gate, raw, now_micros, observer);
    for record in raw.records() {
        pass.record(record);
    }
    Cleared {
        tally: pass.counter.finish(),
        request_digest: pass.identities.finish(),
        events: pass.events,
        values: pass.store.values,
        made: pass.store.made,
    }
}

struct Pass<'g, 'r, 'a, O> {
    gate: &'g Gate,
    raw: &'r RawEvents<'a>,
    observer: &'g mut O,
    bounds: TimeBounds,
    resources: Vec<ResourceEnvelope<'a>>,
    /// Each scope's name, and whether it had one that is not plausible.
    scopes: Vec<(Option<&'a str>, bool)>,
    identities: Identities<'g>,
    counter: Counter,
    events: Vec<ClearedEvent<'a>>,
    /// The current record's own level.
    stated_level: PrivacyLevel,
    store: Store<'a>,
    scratch: Scratch<'r, 'a>,
}

/// What is kept.
#[derive(Default)]
struct Store<'a> {
    values: Vec<(u32, ClearedValue<'a>)>,
    made: String,
    /// Where the current record's values start.
    record_start: usize,
}

/// Space that is reused from record to record.
struct Scratch<'r, 'a> {
    chosen: Vec<Chosen<'r, 'a>>,
    /// Attributes whose column others fill as well; they wait until the order of their keys is known.
    sharing: Vec<Chosen<'r, 'a>>,
    templated: Vec<Templated<'r, 'a>>,
    /// By key number: in which round the key was last seen, and its place among the chosen.
    seen: Vec<(u32, u32)>,
    round: u32,
    /// By key number, the key that came behind it last time; at the end, the key that came first. Senders write the same
    /// attributes in the same order again and again, so a guess mostly spares the hashing of the key.
    followers: Vec<u32>,
    /// The event of the last declared record.
    last_event: u32,
    object: String,
    entry: String,
}

#[derive(Clone, Copy)]
struct Chosen<'r, 'a> {
    key: u32,
    treatment: Treatment,
    attribute: &'r RawAttribute<'a>,
}

#[derive(Clone, Copy)]
struct Templated<'r, 'a> {
    key: u32,
    treatment: Treatment,
    rest: &'a [u8],
    place: u32,
    attribute: &'r RawAttribute<'a>,
}

impl<'g, 'r, 'a, O: Observer> Pass<'g, 'r, 'a, O> {
    fn new(gate: &'g Gate, raw: &'r RawEvents<'a>, now_micros: i64, observer: &'g mut O) -> Self {
        Self {
            gate,
            raw,
            observer,
            bounds: TimeBounds::at(now_micros, &gate.options),
            resources: raw
                .resources
                .iter()
                .map(|resource| ResourceEnvelope::new(raw, resource, &gate.scanner))
                .collect(),
            scopes: raw.scopes.iter().map(|scope| envelope::scope_name(scope.name, &gate.scanner)).collect(),
            identities: Identities::new(&gate.identity_key, raw),
            counter: Counter::new(gate.policy.event_count()),
            events: Vec::with_capacity(raw.records.len()),
            stated_level: PrivacyLevel::default(),
            store: Store { values: Vec::with_capacity(raw.attributes.len()), ..Store::default() },
            scratch: Scratch {
                chosen: Vec::new(),
                sharing: Vec::new(),
                templated: Vec::new(),
                seen: vec![(0, 0); gate.policy.key_count()],
                round: 0,
                followers: vec![0; gate.policy.key_count() + 1],
                last_event: 0,
                object: String::new(),
                entry: String::new(),
            },
        }
    }

    fn record(&mut self, record: &'r RawRecord<'a>) {
        let digest = self.identities.record(record);
        let declared = match record.name {
            [] => None,
            name => self.gate.policy.event(name, self.scratch.last_event),
        };
        let (subject, outcome) = match declared {
            None if record.name.is_empty() => (Subject::Unnamed, EventOutcome::Unnamed),
            None => (Subject::Undeclared, EventOutcome::Undeclared),
            Some(event) => (Subject::Declared(event), self.event_outcome(event, record)),
        };
        self.counter.event(subject, outcome);
        self.observer.event(record, subject, outcome);
        if outcome == EventOutcome::Cleared
            && let Some(event) = declared
            && let Some(plan) = self.gate.policy.plan(event)
            && let Some(event_time) = self.bounds.event_time(record)
        {
            self.cleared(record, event, plan, event_time, digest);
        }
    }

    /// Decides about a declared event, and reads the level that the record states.
    fn event_outcome(&mut self, event: u32, record: &RawRecord<'a>) -> EventOutcome {
        let level_key = self.gate.options.level_key.as_bytes();
        let stated = self.raw.attributes(&record.attributes).iter();
        let stated = stated.filter(|attribute| attribute.key == level_key);
        self.stated_level = stated.map(|attribute| envelope::level(attribute.value)).max().unwrap_or_default();
        let level = self.gate.policy.plan(event).map_or(PrivacyLevel::Sensitive, |plan| plan.level);
        if level.max(self.stated_level) == PrivacyLevel::Sensitive {
            EventOutcome::Sensitive
        } else if self.bounds.event_time(record).is_none() {
            EventOutcome::TimeOutOfRange
        } else {
            EventOutcome::Cleared
        }
    }

    fn cleared(
        &mut self,
        record: &'r RawRecord<'a>,
        event: u32,
        plan: &EventPlan,
        event_time: i64,
        digest: [u8; 16],
    ) {
        self.scratch.last_event = event;
        let resource = self.resources.get(record.resource as usize).copied().unwrap_or_default();
        let (scope_name, scope_implausible) =
            self.scopes.get(record.scope as usize).copied().unwrap_or_default();
        if resource.implausible || scope_implausible {
            self.counter.implausible_envelope();
        }
        self.store.record_start = self.store.values.len();
        let uid = self.attributes(record, plan);
        self.events.push(ClearedEvent {
            event,
            uid,
            digest,
            event_time,
            service_name: resource.service_name,
            service_version: resource.service_version,
            scope_name,
            severity: envelope::severity(record.severity_number, record.severity_text),
            trace_id: record.trace_id,
            span_id: record.span_id,
            values: self.store.record_start as u32..self.store.values.len() as u32,
        });
    }

    /// Decides about a record's attributes; answers the event's id, if one of them is that.
    fn attributes(&mut self, record: &'r RawRecord<'a>, plan: &EventPlan) -> Option<&'a str> {
        self.scratch.chosen.clear();
        self.scratch.sharing.clear();
        self.scratch.templated.clear();
        // 2^32 records do not fit into a request, so a round is never met again.
        self.scratch.round = self.scratch.round.wrapping_add(1);
        let raw = self.raw;
        let mut previous = self.gate.policy.key_count();
        for (place, attribute) in (0..).zip(raw.attributes(&record.attributes)) {
            let key = self.key(attribute.key, &mut previous);
            self.choose(plan, key, place, attribute);
        }
        let mut uid = None;
        for at in 0..self.scratch.chosen.len() {
            if let Some(chosen) = self.scratch.chosen.get(at).copied() {
                self.treat(chosen, record, &mut uid);
            }
        }
        self.treat_sharing();
        self.treat_templates();
        uid
    }

    /// Finds a key's number; `previous` is the number of the key before it.
    fn key(&mut self, key: &[u8], previous: &mut usize) -> Option<u32> {
        let follower = self.scratch.followers.get_mut(*previous)?;
        let number = self.gate.policy.key(key, *follower)?;
        *follower = number;
        *previous = number as usize;
        Some(number)
    }

    /// Finds an attribute's treatment; the last attribute of a key takes the place of earlier ones.
    fn choose(&mut self, plan: &EventPlan, key: Option<u32>, place: u32, attribute: &'r RawAttribute<'a>) {
        let Some(key) = key else {
            return match plan.template(attribute.key) {
                Some((template, rest)) => {
                    let (key, treatment) = (template.key, template.treatment.at_least(self.stated_level));
                    self.scratch.templated.push(Templated { key, treatment, rest, place, attribute });
                }
                None => self.settle(attribute, None, AttributeOutcome::Undeclared),
            };
        };
        let treatment = plan.treatment(key).at_least(self.stated_level);
        if treatment == Treatment::Undeclared {
            return self.settle(attribute, None, AttributeOutcome::Undeclared);
        }
        let Scratch { chosen, seen, round, .. } = &mut self.scratch;
        let Some(seen) = seen.get_mut(key as usize) else { return };
        let earlier = if seen.0 == *round { chosen.get_mut(seen.1 as usize) } else { None };
        match earlier {
            Some(earlier) => {
                let replaced = std::mem::replace(&mut earlier.attribute, attribute);
                self.settle(replaced, self.declared(key), AttributeOutcome::Duplicate);
            }
            None => {
                *seen = (*round, chosen.len() as u32);
                chosen.push(Chosen { key, treatment, attribute });
            }
        }
    }

    fn treat(&mut self, chosen: Chosen<'r, 'a>, record: &RawRecord<'a>, uid: &mut Option<&'a str>) {
        let outcome = match chosen.treatment {
            Treatment::Undeclared => AttributeOutcome::Undeclared,
            Treatment::DropPersonal => AttributeOutcome::DroppedPersonal,
            Treatment::DropSensitive => AttributeOutcome::DroppedSensitive,
            Treatment::DropByRecord => AttributeOutcome::DroppedByRecord,
            Treatment::RecordLevel => AttributeOutcome::Envelope,
            Treatment::EventId => match envelope::uid(chosen.attribute.value, &self.gate.scanner) {
                Ok(id) => {
                    *uid = Some(id);
                    AttributeOutcome::Envelope
                }
                Err(refusal) => refusal,
            },
            Treatment::EventName => match chosen.attribute.value {
                RawValue::Str(name) if name == record.name => {
                    AttributeOutcome::Envelope
                }
                _ => AttributeOutcome::Undeclared,
            },
            Treatment::Keep | Treatment::Pseudonymise => {
                let Some(plan) = self.gate.policy.attribute(chosen.key) else { return };
                if chosen.treatment == Treatment::Keep && self.gate.policy.is_uid(chosen.key) {
                    *uid = envelope::uid(chosen.attribute.value, &self.gate.scanner).ok();
                }
                if plan.shared {
                    self.scratch.sharing.push(chosen);
                    return;
                }
                self.store.put(self.gate, plan, chosen)
            }
        };
        self.settle(chosen.attribute, self.declared(chosen.key), outcome);
    }

    /// Of attributes that share a column, the first in the order of their keys that has a value fills it.
    fn treat_sharing(&mut self) {
        // Key numbers follow the order of keys.
        self.scratch.sharing.sort_unstable_by_key(|chosen| chosen.key);
        for at in 0..self.scratch.sharing.len() {
            let Some(chosen) = self.scratch.sharing.get(at).copied() else { return };
            let Some(plan) = self.gate.policy.attribute(chosen.key) else { return };
            let outcome = if self.store.is_taken(plan.column) {
                AttributeOutcome::ColumnTaken
            } else {
                self.store.put(self.gate, plan, chosen)
            };
            self.settle(chosen.attribute, self.declared(chosen.key), outcome);
        }
    }

    /// Collects the keys below each template into one JSON object, in the order of keys.
    fn treat_templates(&mut self) {
        if self.scratch.templated.is_empty() {
            return;
        }
        let mut templated = std::mem::take(&mut self.scratch.templated);
        // Of equal keys the last one sent comes first, and the others are duplicates of it.
        templated.sort_unstable_by_key(|entry| (entry.key, entry.rest, std::cmp::Reverse(entry.place)));
        for entries in templated.chunk_by(|left, right| left.key == right.key) {
            self.treat_template(entries);
        }
        self.scratch.templated = templated;
    }

    fn treat_template(&mut self, entries: &[Templated<'r, 'a>]) {
        let Some((key, treatment)) = entries.first().map(|entry| (entry.key, entry.treatment)) else {
            return;
        };
        let Some(plan) = self.gate.policy.attribute(key) else { return };
        let dropped = match treatment {
            Treatment::Keep | Treatment::Pseudonymise if plan.shared && self.store.is_taken(plan.column) => {
                Some(AttributeOutcome::ColumnTaken)
            }
            Treatment::Keep | Treatment::Pseudonymise => None,
            Treatment::DropPersonal => Some(AttributeOutcome::DroppedPersonal),
            Treatment::DropSensitive => Some(AttributeOutcome::DroppedSensitive),
            Treatment::DropByRecord => Some(AttributeOutcome::DroppedByRecord),
            Treatment::Undeclared
            | Treatment::EventId
            | Treatment::EventName
            | Treatment::RecordLevel => Some(AttributeOutcome::Undeclared),
        };
        self.scratch.object.clear();
        self.scratch.object.push('{');
        let written = |pass: &mut Self, entry: &Templated<'r, 'a>, previous: Option<&[u8]>| match dropped {
            Some(outcome) => Some(outcome),
            None if previous == Some(entry.rest) => Some(AttributeOutcome::Duplicate),
            None => pass.write_entry(plan, entry).err(),
        };
        let (mut previous, mut pending) = (None, Vec::with_capacity(entries.len()));
        for entry in entries {
            match written(self, entry, previous) {
                Some(outcome) => self.settle(entry.attribute, self.declared(key), outcome),
                None => pending.push(entry),
            }
            previous = Some(entry.rest);
        }
        self.scratch.object.push('}');
        if pending.is_empty() {
            return;
        }
        let outcome = self.store.put_text(self.gate, plan, treatment, &self.scratch.object);
        for entry in pending {
            self.settle(entry.attribute, self.declared(key), outcome);
        }
    }

    /// Appends one entry of a template's object.
    fn write_entry(
        &mut self,
        plan: &AttributePlan,
        entry: &Templated<'r, 'a>,
    ) -> Result<(), AttributeOutcome> {
        let Scratch { object, entry: made, .. } = &mut self.scratch;
        let key = std::str::from_utf8(entry.rest).map_err(|_| AttributeOutcome::InvalidUtf8)?;
        made.clear();
        let bytes_max = self.gate.options.value_bytes_max;
        let value =
            coerce(entry.attribute.value, &plan.coercion, bytes_max, made)?.ok_or(AttributeOutcome::Null)?;
        json::separate(object.len() - 1, object);
        json::push_string(object, key);
        object.push(':');
        json::push_cleared(value, plan.coercion.makes_json(), made, object);
        Ok(())
    }

    fn declared(&self, key: u32) -> Option<usize> {
        let key = key as usize;
        (key < self.gate.policy.attribute_count()).then_some(key)
    }

    fn settle(&mut self, attribute: &RawAttribute<'a>, declared: Option<usize>, outcome: AttributeOutcome) {
        self.counter.attribute(outcome);
        self.observer.attribute(attribute, declared, outcome);
    }
}

impl<'a> Store<'a> {
    fn is_taken(&self, column: u32) -> bool {
        self.values.iter().skip(self.record_start).any(|(taken, _)| *taken == column)
    }

    /// Reads, treats and stores an attribute's value.
    fn put(&mut self, gate: &Gate, plan: &AttributePlan, chosen: Chosen<'_, 'a>) -> AttributeOutcome {
        let start = self.made.len();
        let value = chosen.attribute.value;
        if plan.trust == Trust::Server && matches!(value, RawValue::Str(text) if text != b"null") {
            return AttributeOutcome::Untrusted;
        }
        match coerce(value, &plan.coercion, gate.options.value_bytes_max, &mut self.made) {
            Ok(Some(value)) => self.put_value(gate, plan, chosen.treatment, value, start),
            Ok(None) => AttributeOutcome::Null,
            Err(refusal) => {
                self.made.truncate(start);
                refusal
            }
        }
    }

    /// Treats and stores text that was made elsewhere.
    fn put_text(
        &mut self,
        gate: &Gate,
        plan: &AttributePlan,
        treatment: Treatment,
        text: &str,
    ) -> AttributeOutcome {
        if text.len() > gate.options.value_bytes_max {
            return AttributeOutcome::TooLong;
        }
        let start = self.made.len();
        self.made.push_str(text);
        let value = made_since(start, &self.made);
        self.put_value(gate, plan, treatment, value, start)
    }

    /// Treats and stores a value whose made text, if any, begins at `start`.
    fn put_value(
        &mut self,
        gate: &Gate,
        plan: &AttributePlan,
        treatment: Treatment,
        value: ClearedValue<'a>,
        start: usize,
    ) -> AttributeOutcome {
        if treatment == Treatment::Pseudonymise {
            return self.put_pseudonym(gate, plan, value, start);
        }
        match fit(value, plan.column_type, &mut self.made) {
            Ok(value) => self.put_plain(gate, plan, value, start),
            Err(refusal) => {
                self.made.truncate(start);
                refusal
            }
        }
    }

    /// Stores a value as it is, or without what leaked into it.
    fn put_plain(
        &mut self,
        gate: &Gate,
        plan: &AttributePlan,
        value: ClearedValue<'a>,
        start: usize,
    ) -> AttributeOutcome {
        let mut masked = String::new();
        let leaked = plan.scanned
            && value.text(&self.made).is_some_and(|text| gate.scanner.mask(text, &mut masked).is_some());
        if !leaked {
            self.values.push((plan.column, value));
            return AttributeOutcome::Kept;
        }
        self.made.truncate(start);
        // A mask may stand where JSON has a number; what is not JSON any more must not be stored as JSON.
        let is_broken = plan.json && !json::is_json(&masked);
        if plan.leaks == LeakAction::Drop || is_broken {
            return AttributeOutcome::DroppedLeak;
        }
        self.made.push_str(&masked);
        self.values.push((plan.column, made_since(start, &self.made)));
        AttributeOutcome::Masked
    }

    fn put_pseudonym(
        &mut self,
        gate: &Gate,
        plan: &AttributePlan,
        value: ClearedValue<'a>,
        start: usize,
    ) -> AttributeOutcome {
        let value = as_text(value, &mut self.made);
        let code =
            value.text(&self.made).filter(|text| !text.is_empty()).map(|text| gate.pseudonyms.code(text));
        // The value itself must not stay in what was made.
        self.made.truncate(start);
        // Nothing is not somebody: without this, all who have no id would be one person.
        let Some(code) = code else { return AttributeOutcome::Null };
        gate.pseudonyms.push(code, &mut self.made);
        let pseudonym = made_since(start, &self.made);
        match fit(pseudonym, plan.column_type, &mut self.made) {
            Ok(value) => {
                self.values.push((plan.column, value));
                AttributeOutcome::Pseudonymised
            }
            Err(refusal) => {
                self.made.truncate(start);
                refusal
            }
        }
    }
}
