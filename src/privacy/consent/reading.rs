//! What a record and its resource say of consent, as their attributes are seen one by one.
//!
//! Owns: how several attributes add up, and which of them decided. Does not own: what one attribute says (`form`), what an
//! event needs (`consent`).

use super::form::{self, Statement};
use super::node::Node;
use super::{Basis, ConsentPolicy, Role};
use crate::receive::decode::RawValue;

/// Sources that are told apart, of those that grant and of those that deny. More than a real sender uses at once.
const SAID_MAX: usize = 4;

/// The state of reading: small, copied from the resource's for each of its records, and free of allocation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    granted: Said,
    denied: Said,
    left_out: Said,
    undecided: Option<Basis>,
}

/// Purposes, and who said it of them first.
#[derive(Debug, Clone, Copy, Default)]
struct Said {
    all: u64,
    by: [(u64, Basis); SAID_MAX],
}

impl Said {
    fn add(&mut self, purposes: u64, basis: Basis) {
        let new = purposes & !self.all;
        if new == 0 {
            return;
        }
        self.all |= new;
        match self.by.iter_mut().find(|(known, _)| *known == 0) {
            Some(free) => *free = (new, basis),
            None => {
                if let Some(last) = self.by.last_mut() {
                    *last = (last.0 | new, ConsentPolicy::SEVERAL);
                }
            }
        }
    }

    /// Who was the first to say it of any of these purposes.
    fn first(&self, purposes: u64) -> Option<Basis> {
        self.by.iter().find(|(known, _)| known & purposes != 0).map(|(_, basis)| *basis)
    }

    /// Who said it of all these purposes.
    fn whole(&self, purposes: u64) -> Basis {
        let mut each = self.by.iter().filter(|(known, _)| known & purposes != 0);
        match (each.next(), each.next()) {
            (Some((_, basis)), None) => *basis,
            _ => ConsentPolicy::SEVERAL,
        }
    }
}

impl Reading {
    /// Takes an attribute in. `role` is what the policy answered for its key; `from_record` tells a record's attribute from a
    /// resource's.
    pub fn see(
        &mut self,
        policy: &ConsentPolicy,
        role: Role,
        key: &[u8],
        value: RawValue<'_>,
        from_record: bool,
    ) {
        let Some(source) = policy.source(role) else { return };
        let purposes = match source.prefix_bytes {
            0 => source.purposes,
            prefix => policy.names.bit(key.get(prefix..).unwrap_or_default()),
        };
        let Statement { granted, denied, left_out, undecided } =
            form::read(source.form, purposes, &policy.names, Node::read(value).as_ref());
        let basis = source.basis + Basis::from(!from_record);
        self.granted.add(granted, basis);
        self.denied.add(denied, basis);
        self.left_out.add(left_out, basis);
        if undecided {
            self.undecided.get_or_insert(basis);
        }
    }

    /// Who denied any of these purposes.
    pub(super) fn denial(&self, purposes: u64) -> Option<Basis> {
        self.denied.first(purposes)
    }

    /// Who granted all of these purposes.
    pub(super) fn grant(&self, purposes: u64) -> Option<Basis> {
        (purposes & !self.granted.all == 0).then(|| self.granted.whole(purposes))
    }

    /// Who lists what was granted without one of these purposes, which nobody else grants either.
    pub(super) fn omission(&self, purposes: u64) -> Option<Basis> {
        self.left_out.first(purposes & !self.granted.all)
    }

    /// Who said that nothing was decided yet.
    pub(super) fn undecided(&self) -> Option<Basis> {
        self.undecided
    }
}
