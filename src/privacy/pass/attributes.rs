//! A record's attributes: which of them count, in which order, and what becomes of each.
//!
//! Owns: duplicates, shared columns, templates, the record's tenant, what an outcome says of the event's contract. Does not
//! own: which action an attribute gets (`policy`), applying it (`store`), the fate of the record.

use super::super::action::Action;
use super::super::coerce::{as_text, coerce};
use super::super::policy::{AttributePlan, EventPlan};
use super::super::store::is_untrusted;
use super::super::tally::AttributeOutcome;
use super::super::{Observer, envelope, json};
use super::{Candidate, Chosen, Pass, Scratch, Templated};
use crate::receive::decode::{RawAttribute, RawRecord, RawValue};
use crate::registry::Treatment;

/// Longest tenant that is read, bytes.
const TENANT_BYTES_MAX: usize = 1024;

impl<'g, 'r, 'a, O: Observer> Pass<'g, 'r, 'a, O> {
    /// Decides about a record's attributes; answers the event's id, if one of them is that.
    pub(super) fn attributes(
        &mut self,
        candidate: Candidate<'r, 'a>,
        plan: &EventPlan,
        actions: &[Action],
        least: Treatment,
    ) -> Option<&'a str> {
        let record = candidate.record;
        self.scratch.chosen.clear();
        self.scratch.sharing.clear();
        self.scratch.templated.clear();
        self.scratch.faults.clear();
        self.scratch.unusable.clear();
        // 2^32 records do not fit into a request, so a round is never met again.
        self.scratch.round = self.scratch.round.wrapping_add(1);
        let raw = self.raw;
        for (place, attribute) in (0..).zip(raw.attributes(&record.attributes)) {
            let (key, role) = self.scratch.keys.get(place as usize).copied().unwrap_or_default();
            if key.is_none() && role.is_some() {
                self.settle(attribute, None, AttributeOutcome::Envelope);
                continue;
            }
            let action =
                |key: u32| actions.get(key as usize).copied().unwrap_or(Action::Undeclared).at_least(least);
            self.choose(plan, &action, key, place, attribute);
        }
        self.find_tenant();
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

    /// The record's tenant: the first of the tenant's attributes that has a value.
    fn find_tenant(&mut self) {
        let policy = &self.gate.policy;
        if policy.tenant_keys().is_empty() {
            return;
        }
        self.store.set_tenant(None);
        for key in policy.tenant_keys() {
            let chosen = self.scratch.chosen.iter().find(|chosen| chosen.key == *key);
            let (Some(chosen), Some(plan)) = (chosen, policy.attribute(*key)) else { continue };
            let attribute = chosen.attribute;
            if self.read_tenant(plan, attribute) {
                return;
            }
        }
    }

    /// Takes an attribute's value as the record's tenant; false where it has none that counts.
    pub(super) fn read_tenant(&mut self, plan: &AttributePlan, attribute: &RawAttribute<'a>) -> bool {
        // Or a caller could choose under whose key its pseudonyms are made.
        if is_untrusted(plan, attribute.value) {
            return false;
        }
        let text = &mut self.scratch.entry;
        text.clear();
        let Ok(Some(value)) = coerce(attribute.value, &plan.coercion, TENANT_BYTES_MAX, text) else {
            return false;
        };
        let value = as_text(value, text);
        self.store.set_tenant(Some(value.text(text).unwrap_or_default()));
        true
    }

    /// Finds a key's number; `previous` is the number of the key before it.
    pub(super) fn key(&mut self, key: &[u8], previous: &mut usize) -> Option<u32> {
        let follower = self.scratch.followers.get_mut(*previous)?;
        let number = self.gate.policy.key(key, *follower)?;
        *follower = number;
        *previous = number as usize;
        Some(number)
    }

    /// Finds an attribute's action; the last attribute of a key takes the place of earlier ones.
    fn choose(
        &mut self,
        plan: &EventPlan,
        action: &impl Fn(u32) -> Action,
        key: Option<u32>,
        place: u32,
        attribute: &'r RawAttribute<'a>,
    ) {
        let Some(key) = key else {
            return match plan.template(attribute.key) {
                Some((template, rest)) => {
                    let (key, action) = (template.key, action(template.key));
                    self.scratch.templated.push(Templated { key, action, rest, place, attribute });
                }
                None => self.settle_undeclared(attribute),
            };
        };
        let action = action(key);
        if action == Action::Undeclared {
            return self.settle_undeclared(attribute);
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
                chosen.push(Chosen { key, action, attribute });
            }
        }
    }

    fn treat(&mut self, chosen: Chosen<'r, 'a>, record: &RawRecord<'a>, uid: &mut Option<&'a str>) {
        let outcome = match chosen.action {
            Action::Undeclared => AttributeOutcome::Undeclared,
            Action::Drop(reason) => {
                // It is there, though it is not stored: its event keeps its contract.
                if !is_null(chosen.attribute.value) {
                    self.has_value(chosen.key);
                }
                reason.outcome()
            }
            Action::Control => AttributeOutcome::Envelope,
            Action::EventId => match envelope::uid(chosen.attribute.value, &self.gate.scanner) {
                Ok(id) => {
                    *uid = Some(id);
                    AttributeOutcome::Envelope
                }
                Err(refusal) => refusal,
            },
            Action::EventName => match chosen.attribute.value {
                RawValue::Str(name) if name == record.name => AttributeOutcome::Envelope,
                _ => AttributeOutcome::Undeclared,
            },
            Action::Keep | Action::Reduce(_) | Action::Pseudonymise => {
                let Some(plan) = self.gate.policy.attribute(chosen.key) else { return };
                if chosen.action == Action::Keep && self.gate.policy.is_uid(chosen.key) {
                    *uid = envelope::uid(chosen.attribute.value, &self.gate.scanner).ok();
                }
                if plan.shared {
                    self.scratch.sharing.push(chosen);
                    return;
                }
                self.put(plan, chosen)
            }
        };
        self.settle(chosen.attribute, self.declared(chosen.key), outcome);
    }

    /// Stores a value, and notes what that says of the event's contract.
    #[inline]
    fn put(&mut self, plan: &AttributePlan, chosen: Chosen<'r, 'a>) -> AttributeOutcome {
        let outcome = self.store.put(self.gate, plan, chosen.action, chosen.attribute.value);
        self.judge(chosen.key, outcome);
        outcome
    }

    #[inline]
    fn judge(&mut self, key: u32, outcome: AttributeOutcome) {
        match outcome {
            AttributeOutcome::Null => {}
            AttributeOutcome::TypeMismatch
            | AttributeOutcome::NotAMember
            | AttributeOutcome::LeakQuarantined => self.scratch.faults.push((key, outcome)),
            AttributeOutcome::TooLong
            | AttributeOutcome::TooDeep
            | AttributeOutcome::InvalidUtf8
            | AttributeOutcome::NotFinite => self.scratch.unusable.push(key),
            _ => self.has_value(key),
        }
    }

    #[inline]
    fn has_value(&mut self, key: u32) {
        if let Some(valued) = self.scratch.valued.get_mut(key as usize) {
            *valued = self.scratch.round;
        }
    }

    /// Of attributes that share a column, the first in the order of their keys that has a value fills it.
    fn treat_sharing(&mut self) {
        // Key numbers follow the order of keys.
        self.scratch.sharing.sort_unstable_by_key(|chosen| chosen.key);
        for at in 0..self.scratch.sharing.len() {
            let Some(chosen) = self.scratch.sharing.get(at).copied() else { return };
            let Some(plan) = self.gate.policy.attribute(chosen.key) else { return };
            let outcome = if self.store.is_taken(plan.column) {
                self.has_value(chosen.key);
                AttributeOutcome::ColumnTaken
            } else {
                self.put(plan, chosen)
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
        let Some((key, action)) = entries.first().map(|entry| (entry.key, entry.action)) else {
            return;
        };
        let Some(plan) = self.gate.policy.attribute(key) else { return };
        let dropped = match action {
            Action::Keep | Action::Reduce(_) | Action::Pseudonymise => {
                let is_taken = plan.shared && self.store.is_taken(plan.column);
                is_taken.then_some(AttributeOutcome::ColumnTaken)
            }
            Action::Drop(reason) => Some(reason.outcome()),
            Action::Undeclared | Action::EventId | Action::EventName | Action::Control => {
                Some(AttributeOutcome::Undeclared)
            }
        };
        if dropped.is_some() {
            self.has_value(key);
        }
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
        let outcome = self.store.put_text(self.gate, plan, action, &self.scratch.object);
        self.judge(key, outcome);
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

    #[inline]
    pub(super) fn declared(&self, key: u32) -> Option<usize> {
        let key = key as usize;
        (key < self.gate.policy.attribute_count()).then_some(key)
    }

    pub(super) fn settle_undeclared(&mut self, attribute: &RawAttribute<'a>) {
        self.drift.attribute(attribute);
        self.settle(attribute, None, AttributeOutcome::Undeclared);
    }

    #[inline]
    pub(super) fn settle(
        &mut self,
        attribute: &RawAttribute<'a>,
        declared: Option<usize>,
        outcome: AttributeOutcome,
    ) {
        self.counter.attribute(outcome);
        self.observer.attribute(attribute, declared, outcome);
    }
}

/// True where an attribute says nothing.
fn is_null(value: RawValue<'_>) -> bool {
    matches!(value, RawValue::Empty | RawValue::Str(b"null"))
}
