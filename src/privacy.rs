//! The privacy gate: the only way from a received event to one that may be stored.
//!
//! Owns: the only constructor of [`Cleared`], the treatment of each privacy level, coercion to declared types,
//! pseudonyms, the identity of events and requests, and the counts of all that. Does not own: I/O of any kind. Pure and
//! synchronous; what is not declared is not stored.
//!
//! | level | treatment |
//! |---|---|
//! | `public`, `internal` | stored as the declared type |
//! | `pseudonymous` | stored as a keyed pseudonym of the value's canonical text |
//! | `personal`, `sensitive` | not stored, and not read |
//!
//! An event's level is the least level of its attributes; a record may state a stricter one (`GateOptions::level_key`),
//! never a looser. A sensitive event is not stored at all. A text that is kept is scanned for what has no business in it
//! (an e-mail address, a token), which is masked, or else the value is dropped.
//!
//! Only a log record's own attributes can become columns. Of its resource, `service.name` and `service.version` go to
//! the envelope; other resource attributes describe processes, not what happened, and are not stored. Of several
//! attributes with one key, the last counts.

mod coerce;
mod envelope;
mod explain;
mod identity;
mod json;
mod nested;
mod pass;
mod policy;
mod pseudonym;
pub mod quarantined;
mod scan;
pub mod seal;
mod tally;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::receive::decode::{RawAttribute, RawEvents, RawRecord};
use crate::registry::Registry;
use crate::secret::{DerivedKey, MasterKey};
use identity::Identities;
use policy::Policy;
use pseudonym::Pseudonyms;
use scan::Scanner;

pub use explain::{ExplainedAttribute, ExplainedEnvelope, ExplainedEvent, explain};
pub use tally::{AttributeOutcome, EventOutcome, Subject, SubjectTally, Tally, Verdict};

/// Changes when the meaning of a treatment or of a coercion changes, so that `policy_version` tells the rows apart.
const TREATMENTS: &str = "esker-treatments-2";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The gate's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateOptions {
    /// Events from later than this after now are rejected: that clock is wrong.
    pub future_max: Duration,
    /// Events from longer ago than this are rejected. It bounds the number of daily partitions that a sender can touch;
    /// the default leaves room to load a year of history.
    pub age_max: Duration,
    /// Longest attribute value in bytes, as sent and as stored.
    pub value_bytes_max: usize,
    /// The attribute in which a record states its own level.
    pub level_key: String,
}

impl Default for GateOptions {
    fn default() -> Self {
        Self { future_max: DAY, age_max: 400 * DAY, value_bytes_max: 64 * 1024, level_key: "event.privacy_level".to_owned() }
    }
}

/// The compiled policy: decides what of a request may be stored.
#[derive(Debug)]
pub struct Gate {
    registry: Arc<Registry>,
    policy: Policy,
    pseudonyms: Pseudonyms,
    scanner: Scanner,
    identity_key: DerivedKey,
    options: GateOptions,
    version: String,
}

impl Gate {
    /// Compiles the registry into a gate.
    #[must_use]
    pub fn new(registry: Arc<Registry>, keys: &MasterKey, options: GateOptions) -> Self {
        Self {
            policy: Policy::new(&registry, &options.level_key),
            scanner: Scanner::new(),
            pseudonyms: Pseudonyms::new(keys),
            identity_key: Identities::purpose_key(keys),
            version: version(&registry, &options),
            registry,
            options,
        }
    }

    /// Decides about every record of a request, at the time `now_micros` (microseconds since the Unix epoch).
    #[must_use]
    pub fn clear<'a, O: Observer>(
        &self,
        raw: &RawEvents<'a>,
        now_micros: i64,
        observer: &mut O,
    ) -> Cleared<'a> {
        pass::clear(self, raw, now_micros, observer)
    }

    /// First 12 hex digits of the SHA-256 of what decides about a value: registry, options, treatments.
    #[must_use]
    pub fn policy_version(&self) -> &str {
        &self.version
    }

    /// The registry that the gate enforces.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

fn version(registry: &Registry, options: &GateOptions) -> String {
    let mut hash = Sha256::new();
    hash.update(TREATMENTS);
    hash.update(options.future_max.as_micros().to_le_bytes());
    hash.update(options.age_max.as_micros().to_le_bytes());
    hash.update((options.value_bytes_max as u64).to_le_bytes());
    hash.update((options.level_key.len() as u64).to_le_bytes());
    hash.update(&options.level_key);
    hash.update(registry.version());
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// Sees each decision as it is made. Production passes [`Silent`], which costs nothing; `esker explain` records, on the
/// very same path.
pub trait Observer {
    /// A record was decided about; its attributes follow where it was cleared.
    fn event(&mut self, record: &RawRecord<'_>, subject: Subject, outcome: EventOutcome);

    /// An attribute of that record was decided about. `declared` is an index into `Registry::attributes`, where the
    /// event declares it.
    fn attribute(&mut self, attribute: &RawAttribute<'_>, declared: Option<usize>, outcome: AttributeOutcome);
}

/// Observes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    #[inline]
    fn event(&mut self, _: &RawRecord<'_>, _: Subject, _: EventOutcome) {}

    #[inline]
    fn attribute(&mut self, _: &RawAttribute<'_>, _: Option<usize>, _: AttributeOutcome) {}
}

/// Events that may be stored: every value was declared, coerced and treated. Made only by the gate.
#[derive(Default)]
pub struct Cleared<'a> {
    pub(crate) events: Vec<ClearedEvent<'a>>,
    /// Values of all events; each event holds a range of it.
    pub(crate) values: Vec<(u32, ClearedValue<'a>)>,
    /// Text that the gate made (pseudonyms, canonical JSON, decimal text).
    pub(crate) made: String,
    tally: Tally,
    request_digest: [u8; 16],
}

impl fmt::Debug for Cleared<'_> {
    /// Shows counts only: even a value that may be stored has no place in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cleared").field("events", &self.events.len()).finish_non_exhaustive()
    }
}

impl<'a> Cleared<'a> {
    /// The cleared events, in request order.
    #[must_use]
    pub fn events(&self) -> &[ClearedEvent<'a>] {
        &self.events
    }

    /// An event's values: (index into `Registry::columns`, value), each column at most once.
    #[must_use]
    pub fn values(&self, event: &ClearedEvent<'a>) -> &[(u32, ClearedValue<'a>)] {
        self.values.get(event.values.start as usize..event.values.end as usize).unwrap_or_default()
    }

    /// The text of a value, where it is text.
    #[must_use]
    pub fn text<'s>(&'s self, value: &'s ClearedValue<'a>) -> Option<&'s str> {
        value.text(&self.made)
    }

    /// What became of each record and attribute of the request, in counts.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// A keyed digest of the whole request: all records in order, their resources and scopes, those that were dropped
    /// included. The same request gives the same digest whatever the registry says.
    #[must_use]
    pub fn request_digest(&self) -> [u8; 16] {
        self.request_digest
    }
}

/// A value that may be stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ClearedValue<'a> {
    /// Text borrowed from the request.
    Str(&'a str),
    /// Text made by the gate: a range of `Cleared::made`.
    Made(u32, u32),
    /// Integer.
    Int(i64),
    /// Floating point.
    Double(f64),
    /// Boolean.
    Bool(bool),
}

impl ClearedValue<'_> {
    /// The value's text, where it is text; `made` is what the gate made for it.
    pub(crate) fn text<'s>(&'s self, made: &'s str) -> Option<&'s str> {
        match self {
            Self::Str(text) => Some(text),
            Self::Made(start, end) => made.get(*start as usize..*end as usize),
            Self::Int(_) | Self::Double(_) | Self::Bool(_) => None,
        }
    }
}

/// The envelope of an event that may be stored.
#[derive(Clone)]
pub struct ClearedEvent<'a> {
    /// Index into `Registry::events`.
    pub event: u32,
    /// `log.record.uid` where it was a plausible id, else None.
    pub uid: Option<&'a str>,
    /// 128 bits of the keyed hash of content and ordinal; the event id where there is no uid.
    pub digest: [u8; 16],
    /// Microseconds since the Unix epoch.
    pub event_time: i64,
    /// From the resource, where it is a plausible name.
    pub service_name: Option<&'a str>,
    /// From the resource, where it is a plausible version.
    pub service_version: Option<&'a str>,
    /// The instrumentation scope's name, where it is a plausible name.
    pub scope_name: Option<&'a str>,
    /// `trace`, `debug`, `info`, `warn`, `error` or `fatal`.
    pub severity: Option<&'static str>,
    /// 16 bytes, not all zero.
    pub trace_id: Option<&'a [u8]>,
    /// 8 bytes, not all zero.
    pub span_id: Option<&'a [u8]>,
    /// The event's values, as a range of `Cleared::values`: (index into `Registry::columns`, value), each column once.
    pub values: std::ops::Range<u32>,
}

impl fmt::Debug for ClearedEvent<'_> {
    /// Shows which event it is, and no value of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClearedEvent").field("event", &self.event).finish_non_exhaustive()
    }
}
