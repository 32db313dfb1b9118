//! An event that breaks its contract and is set aside.
//!
//! Owns: what the gate knows of such an event. Does not own: the decision (`pass`), the row that is made of it (`columns`).

use std::fmt;

use super::tally::EventOutcome;

/// An event that is set aside. It names its record and no value of it.
#[derive(Clone)]
pub struct QuarantinedEvent<'a> {
    /// The record's place in the request.
    pub record: u32,
    /// Index into `Registry::events`; None for an undeclared event.
    pub event: Option<u32>,
    /// Why: an outcome whose verdict is `Quarantined`.
    pub reason: EventOutcome,
    /// 128 bits of the keyed hash of content and ordinal.
    pub digest: [u8; 16],
    /// Microseconds since the Unix epoch, where the record has a time in range.
    pub occurred_micros: Option<i64>,
    /// From the resource, where it is a plausible name.
    pub service_name: Option<&'a str>,
    /// The attributes at fault: indices into `Registry::attributes`.
    pub faults: Box<[u32]>,
}

impl fmt::Debug for QuarantinedEvent<'_> {
    /// Shows why, and no value of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuarantinedEvent").field("reason", &self.reason).finish_non_exhaustive()
    }
}
