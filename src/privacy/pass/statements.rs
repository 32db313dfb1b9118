//! What a record states of somebody's consent: whose, and whether the statement counts.
//!
//! Owns: finding the subject, and what must hold for a statement to be noted. Does not own: what several statements come to
//! (`withdrawn`), which event is one (`registry`).
//!
//! The two statements are not alike. A withdrawal counts wherever its subject can be read, whatever routes, treatments, a stated
//! level or the contract make of its event: its sender is answered that it was taken, and the person relies on it. A lift opens what
//! was closed, so it counts only where its event is stored, with its subject.

use super::super::{Observer, StatedWithdrawal};
use super::{Candidate, Pass};
use crate::receive::decode::{RawAttribute, RawRecord};
use crate::registry::Event;

impl<'r, 'a, O: Observer> Pass<'_, 'r, 'a, O> {
    /// True where an event withdraws consent.
    pub(super) fn withdraws(&self, event: u32) -> bool {
        let declared = self.gate.registry.events().get(event as usize);
        declared.is_some_and(|event| event.withdrawal.is_some_and(|one| !one.lifts))
    }

    /// Notes whose consent the event withdraws, if it does. Its controls have been read, nothing of it was decided yet.
    pub(super) fn note_withdrawal(&mut self, record: &RawRecord<'a>, event: u32) {
        if self.withdraws(event) {
            // A wrong clock does not undo it: then it was made when it was received.
            let made_micros = self.bounds.event_time(record).unwrap_or_else(|| self.bounds.now());
            self.note(record, event, made_micros);
        }
    }

    /// Notes whose consent the event gives again, if it does. Its values are stored by now.
    pub(super) fn note_lift(&mut self, candidate: Candidate<'_, 'a>) {
        let Candidate { record, event, event_time, .. } = candidate;
        let declared = self.gate.registry.events().get(event as usize);
        let lift = declared.and_then(|declared| declared.withdrawal).filter(|one| one.lifts);
        let subject = lift.and_then(|lift| self.gate.registry.attributes().get(lift.subject));
        if subject.is_some_and(|subject| self.store.is_taken(subject.column as u32)) {
            self.note(record, event, event_time);
        }
    }

    fn note(&mut self, record: &RawRecord<'a>, event: u32, made_micros: i64) {
        let Some(declared) = self.gate.registry.events().get(event as usize) else { return };
        let Some(withdrawal) = declared.withdrawal else { return };
        let subjects = self.subjects(record, declared, withdrawal.subject);
        self.withdrawals.extend(subjects.into_iter().map(|subject| StatedWithdrawal {
            event_name: declared.name.clone(),
            subject,
            made_micros,
            lifts: withdrawal.lifts,
        }));
    }

    /// The subject's pseudonyms under every key: it must be found again under each. Read as its column is filled: of the
    /// attributes that share it, the first in the order of their keys that has a value.
    fn subjects(&mut self, record: &RawRecord<'a>, declared: &Event, subject: usize) -> Vec<String> {
        let gate = self.gate;
        let attributes = gate.registry.attributes();
        let Some(column) = attributes.get(subject).map(|subject| subject.column) else { return Vec::new() };
        let declares = |key: u32| declared.attributes.iter().any(|one| one.attribute == key as usize);
        self.store.set_tenant(None);
        for key in gate.policy.tenant_keys().iter().copied().filter(|key| declares(*key)) {
            if let (Some(plan), Some(sent)) = (gate.policy.attribute(key), self.last(record, key))
                && self.read_tenant(plan, sent)
            {
                break;
            }
        }
        for key in (0..).zip(attributes).filter(|(_, one)| one.column == column).map(|(key, _)| key) {
            if let (true, Some(plan), Some(sent)) =
                (declares(key), gate.policy.attribute(key), self.last(record, key))
            {
                let subjects = self.store.pseudonyms(gate, plan, sent.value, &mut self.scratch.entry);
                if !subjects.is_empty() {
                    return subjects;
                }
            }
        }
        Vec::new()
    }

    /// The attribute of a record that counts for a key: the last one.
    fn last(&self, record: &RawRecord<'a>, key: u32) -> Option<&'r RawAttribute<'a>> {
        let raw = self.raw;
        let attributes = raw.attributes(&record.attributes).iter().zip(&self.scratch.keys);
        attributes.rev().find(|(_, (number, _))| *number == Some(key)).map(|(attribute, _)| attribute)
    }
}

#[cfg(test)]
mod tests;
