//! One pass over a request: every record and attribute gets exactly one outcome.
//!
//! Owns: the order of decisions, the contract of an event. Does not own: its attributes one by one (`attributes`), what it states of
//! somebody's consent (`statements`), each single rule (its neighbours).
//!
//! A record is read twice. First for what it says of itself (its level, its category, consent, its tenant), which decides
//! where it goes and which treatments hold; then its attributes are chosen (the last of equal keys) and treated. All
//! scratch space is reused from record to record: a record costs no allocation.

mod attributes;
mod statements;

use super::action::Action;
use super::consent::{Decision, Reading, Role, WarehouseRule};
use super::drift::Collector;
use super::envelope::{self, ResourceEnvelope, TimeBounds};
use super::identity::Identities;
use super::policy::EventPlan;
use super::quarantined::{Admission, Broken, QuarantineReason, QuarantinedEvent};
use super::route::RouteTarget;
use super::store::Store;
use super::tally::{AttributeOutcome, Counter, EventOutcome, Subject};
use super::{Cleared, ClearedEvent, Gate, Observer, StatedWithdrawal};
use crate::receive::decode::{RawAttribute, RawEvents, RawRecord};
use crate::registry::{Category, PrivacyLevel, Treatment};

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
        drift: pass.drift.finish(),
        request_digest: pass.identities.finish(),
        events: pass.events,
        quarantined: pass.quarantined,
        withdrawals: pass.withdrawals,
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
    /// What each resource says of consent.
    consents: Vec<Reading>,
    /// By resource, then by route: whether the resource meets the route's condition.
    routes: Vec<Vec<bool>>,
    /// Each scope's name, and whether it had one that is not plausible.
    scopes: Vec<(Option<&'a str>, bool)>,
    identities: Identities<'g>,
    counter: Counter,
    drift: Collector<'a>,
    events: Vec<ClearedEvent<'a>>,
    quarantined: Vec<QuarantinedEvent<'a>>,
    withdrawals: Vec<StatedWithdrawal>,
    admission: Admission<'g>,
    store: Store<'a>,
    scratch: Scratch<'r, 'a>,
}

/// What a record says of itself.
#[derive(Clone, Copy)]
struct Stated {
    level: Option<PrivacyLevel>,
    category: Option<Category>,
    consent: Reading,
}

/// A declared record on its way.
#[derive(Clone, Copy)]
struct Candidate<'r, 'a> {
    record: &'r RawRecord<'a>,
    event: u32,
    event_time: i64,
    digest: [u8; 16],
    stated: Stated,
}

/// Space that is reused from record to record.
struct Scratch<'r, 'a> {
    /// For each attribute of the record, its key's number, and what the key means for consent.
    keys: Vec<(Option<u32>, Option<Role>)>,
    chosen: Vec<Chosen<'r, 'a>>,
    /// Attributes whose column others fill as well; they wait until the order of their keys is known.
    sharing: Vec<Chosen<'r, 'a>>,
    templated: Vec<Templated<'r, 'a>>,
    /// By key number: in which round the key was last seen, and its place among the chosen.
    seen: Vec<(u32, u32)>,
    /// By key number: in which round the key last had a value.
    valued: Vec<u32>,
    round: u32,
    /// By key number, the key that came behind it last time; at the end, the key that came first. Senders write the same
    /// attributes in the same order again and again, so a guess mostly spares the hashing of the key.
    followers: Vec<u32>,
    /// The event of the last declared record.
    last_event: u32,
    /// The keys at fault of the current record, and the outcome that says so.
    faults: Vec<(u32, AttributeOutcome)>,
    /// The keys whose value cannot be used, though it may be of its type.
    unusable: Vec<u32>,
    object: String,
    entry: String,
}

#[derive(Clone, Copy)]
struct Chosen<'r, 'a> {
    key: u32,
    action: Action,
    attribute: &'r RawAttribute<'a>,
}

#[derive(Clone, Copy)]
struct Templated<'r, 'a> {
    key: u32,
    action: Action,
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
            consents: raw.resources.iter().map(|resource| gate.consent.resource(raw, resource)).collect(),
            routes: raw.resources.iter().map(|resource| gate.router.resource(raw, resource)).collect(),
            scopes: raw.scopes.iter().map(|scope| envelope::scope_name(scope.name, &gate.scanner)).collect(),
            identities: Identities::new(&gate.identity_key, raw),
            counter: Counter::new(gate.policy.event_count()),
            drift: Collector::new(gate.policy.event_count()),
            events: Vec::with_capacity(raw.records.len()),
            quarantined: Vec::new(),
            withdrawals: Vec::new(),
            admission: gate.quarantine.request(),
            store: Store::with_capacity(raw.attributes.len()),
            scratch: Scratch {
                keys: Vec::new(),
                chosen: Vec::new(),
                sharing: Vec::new(),
                templated: Vec::new(),
                seen: vec![(0, 0); gate.policy.key_count()],
                valued: vec![0; gate.policy.key_count()],
                round: 0,
                followers: vec![0; gate.policy.key_count() + 1],
                last_event: 0,
                faults: Vec::new(),
                unusable: Vec::new(),
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
            None => (Subject::Undeclared, self.undeclared(record, digest)),
            Some(event) => (Subject::Declared(event), self.declared_event(record, event, digest)),
        };
        self.counter.event(subject, outcome);
        self.observer.event(record, subject, outcome);
    }

    fn undeclared(&mut self, record: &'r RawRecord<'a>, digest: [u8; 16]) -> EventOutcome {
        self.note_undeclared(record);
        if !self.gate.options.quarantine_undeclared {
            return EventOutcome::Undeclared;
        }
        let uid = self.uid(record);
        self.set_aside(record, None, uid, digest, QuarantineReason::UndeclaredEvent);
        EventOutcome::SetAside(QuarantineReason::UndeclaredEvent)
    }

    /// Notes an undeclared event and its attributes for the drift report; keys with a meaning of their own are none.
    fn note_undeclared(&mut self, record: &'r RawRecord<'a>) {
        let service = self.resources.get(record.resource as usize).and_then(|resource| resource.service_name);
        self.drift.undeclared(record.name, record.resource, service);
        let raw = self.raw;
        for attribute in raw.attributes(&record.attributes) {
            let key = self.gate.policy.key(attribute.key, 0);
            if key.is_none_or(|key| self.declared(key).is_some()) {
                self.drift.attribute(attribute);
            }
        }
    }

    /// Decides about a declared event, in the order in which a rule may end the matter.
    fn declared_event(&mut self, record: &'r RawRecord<'a>, event: u32, digest: [u8; 16]) -> EventOutcome {
        self.scratch.last_event = event;
        let Some(plan) = self.gate.policy.plan(event) else { return EventOutcome::Undeclared };
        let stated = self.read_controls(record);
        // First: whatever becomes of the event, the person withdrew.
        self.note_withdrawal(record, event);
        if stated.level.max(Some(plan.level)) == Some(PrivacyLevel::Sensitive) {
            return EventOutcome::Sensitive;
        }
        // A withdrawal is not lost to a wrong clock: it holds from its receipt.
        let in_spite = || self.withdraws(event).then(|| self.bounds.now());
        let Some(event_time) = self.bounds.event_time(record).or_else(in_spite) else {
            return EventOutcome::TimeOutOfRange;
        };
        let candidate = Candidate { record, event, event_time, digest, stated };
        self.attempt(plan, candidate, false)
    }

    /// Finds the number of every key, and reads what the record says of itself.
    fn read_controls(&mut self, record: &RawRecord<'a>) -> Stated {
        let policy = &self.gate.policy;
        let consent = self.consents.get(record.resource as usize).copied().unwrap_or_default();
        let mut stated = Stated { level: None, category: None, consent };
        let mut previous = policy.key_count();
        self.scratch.keys.clear();
        for attribute in self.raw.attributes(&record.attributes) {
            let key = self.key(attribute.key, &mut previous);
            let role = match key {
                Some(key) => policy.role(key),
                None => self.gate.consent.prefix_role(attribute.key),
            };
            self.scratch.keys.push((key, role));
            if let Some(role) = role {
                stated.consent.see(&self.gate.consent, role, attribute.key, attribute.value, true);
            }
            let Some(key) = key else { continue };
            if policy.is_level(key) {
                stated.level = stated.level.max(envelope::level(attribute.value));
            } else if policy.is_category(key) {
                stated.category = stated.category.max(envelope::category(attribute.value));
            }
        }
        stated
    }

    /// Routes and treats an event; where it turns out to be of a subject who withdrew, once more as one without consent.
    fn attempt(
        &mut self,
        plan: &'g EventPlan,
        candidate: Candidate<'r, 'a>,
        withdrawn: bool,
    ) -> EventOutcome {
        let Candidate { record, event, stated, .. } = candidate;
        let category = stated.category.map_or(plan.category, |stated| stated.max(plan.category));
        let (consent, basis) = if withdrawn {
            self.gate.consent.decide_withdrawn(event)
        } else {
            self.gate.consent.decide(&stated.consent, event)
        };
        // By the registry's category: a record that states another one could free itself of consent.
        let mut rule = self.gate.consent.warehouse(plan.category, consent);
        if withdrawn && consent == Decision::Denied {
            rule = rule.max(WarehouseRule::StripIdentity);
        }
        if rule == WarehouseRule::Drop {
            return EventOutcome::NoConsent;
        }
        let strip_identity = rule == WarehouseRule::StripIdentity;
        let routes = self.routes.get(record.resource as usize).map(Vec::as_slice).unwrap_or_default();
        let table = match self.gate.router.route(event, category, routes, Some(consent)) {
            RouteTarget::Table(table) => table,
            RouteTarget::Drop => return EventOutcome::RoutedNowhere,
        };
        let Some(actions) = self.gate.policy.actions(table, event) else {
            return EventOutcome::RoutedNowhere;
        };
        self.store.begin();
        let service = self.resources.get(record.resource as usize).and_then(|resource| resource.service_name);
        self.drift.declared(event, record.resource, service);
        let uid = self.attributes(candidate, plan, actions.of(strip_identity), self.least(stated, table));
        if self.store.withdrawn && !withdrawn {
            self.forget();
            return self.attempt(plan, candidate, true);
        }
        if let Some(broken) = self.broken_contract(plan) {
            self.store.take_back();
            self.counter.forget_attributes();
            self.set_aside(record, Some(event), uid, candidate.digest, broken);
            return EventOutcome::SetAside(broken);
        }
        self.note_lift(candidate);
        let resource = self.resources.get(record.resource as usize).copied().unwrap_or_default();
        let (scope_name, scope_implausible) =
            self.scopes.get(record.scope as usize).copied().unwrap_or_default();
        if resource.implausible || scope_implausible {
            self.counter.implausible_envelope();
        }
        self.events.push(ClearedEvent {
            event,
            category,
            uid,
            digest: candidate.digest,
            event_time: candidate.event_time,
            service_name: resource.service_name,
            service_version: resource.service_version,
            scope_name,
            severity: envelope::severity(record.severity_number, record.severity_text),
            // A trace leads to whoever made the request.
            trace_id: record.trace_id.filter(|_| !strip_identity),
            span_id: record.span_id.filter(|_| !strip_identity),
            table: u16::try_from(table).unwrap_or_default(),
            consent: Some(consent.as_str()),
            consent_basis: Some(basis),
            values: self.store.range(),
        });
        EventOutcome::Cleared
    }

    fn forget(&mut self) {
        self.store.take_back();
        self.counter.forget_attributes();
        self.observer.forget_attributes();
    }

    /// What the level that a record states does to its attributes in a table.
    fn least(&self, stated: Stated, table: usize) -> Treatment {
        let options = &self.gate.options;
        match (stated.level, options.tables.get(table)) {
            (Some(level), Some(table)) => options.rules.stated(level, &table.levels),
            (Some(_), None) => Treatment::Drop,
            (None, _) => Treatment::Keep,
        }
    }

    /// Whether the event breaks its contract: a wrong value, or none where one is required.
    fn broken_contract(&mut self, plan: &EventPlan) -> Option<QuarantineReason> {
        let leaked = |(_, outcome): &(u32, AttributeOutcome)| *outcome == AttributeOutcome::LeakQuarantined;
        if self.scratch.faults.iter().any(leaked) {
            self.scratch.faults.retain(leaked);
            return Some(QuarantineReason::Leak);
        }
        if !self.gate.options.quarantine_broken {
            return None;
        }
        if let Some((_, outcome)) = self.scratch.faults.first() {
            return Some(match outcome {
                AttributeOutcome::NotAMember => QuarantineReason::NotAMember,
                _ => QuarantineReason::TypeMismatch,
            });
        }
        let Scratch { valued, round, faults, unusable, .. } = &mut self.scratch;
        let missing = |key: &u32| valued.get(*key as usize) != Some(round);
        faults.extend(plan.required.iter().copied().filter(missing).map(|key| (key, AttributeOutcome::Null)));
        let is_unusable = faults.iter().any(|(key, _)| unusable.contains(key));
        let reason =
            if is_unusable { QuarantineReason::InvalidValue } else { QuarantineReason::MissingRequired };
        (!faults.is_empty()).then_some(reason)
    }

    fn set_aside(
        &mut self,
        record: &RawRecord<'a>,
        event: Option<u32>,
        uid: Option<&'a str>,
        digest: [u8; 16],
        reason: QuarantineReason,
    ) {
        let gate = self.gate;
        let resource = self.resources.get(record.resource as usize).copied().unwrap_or_default();
        let declared = event.and_then(|event| gate.registry.events().get(event as usize));
        let key = |(key, _): &(u32, AttributeOutcome)| gate.registry.attributes().get(*key as usize);
        let faults: Vec<_> =
            self.scratch.faults.iter().filter_map(key).map(|attribute| attribute.key.as_str()).collect();
        let broken = Broken {
            raw: self.raw,
            record,
            uid,
            digest,
            occurred: self.bounds.event_time(record),
            service_name: resource.service_name,
            declared_name: declared.map(|event| event.name.as_str()),
            reason,
            faults: &faults,
            is_declared: &|key| gate.policy.key(key, 0).is_some(),
            is_clean: &|text| gate.scanner.is_clean(text),
        };
        self.quarantined.push(self.admission.admit(&broken));
        self.scratch.faults.clear();
    }

    /// An undeclared event's own id, where it has a plausible one.
    fn uid(&self, record: &RawRecord<'a>) -> Option<&'a str> {
        let is_uid =
            |key: &[u8]| self.gate.policy.key(key, 0).is_some_and(|key| self.gate.policy.is_uid(key));
        let attributes = self.raw.attributes(&record.attributes).iter();
        let found = attributes.rev().find(|attribute| is_uid(attribute.key))?;
        envelope::uid(found.value, &self.gate.scanner).ok()
    }
}
