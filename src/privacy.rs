//! The privacy gate: the only way from a received event to one that may be stored.
//!
//! Owns: the only constructor of [`Cleared`], the treatment of each privacy level, coercion to declared types,
//! pseudonyms, the identity of events and requests, and the counts of all that. Does not own: I/O of any kind. Pure and
//! synchronous; what is not declared is not stored.
//!
//! A record passes in this order: its event (`policy`), what it states of itself and its consent (`pass`, `consent`), its
//! table (`route`), the action for each attribute there (`rules` at start, `action`), reading and treating the value (`coerce`,
//! `treat`, `pseudonym`, `scan`, all through `store`), the event's contract, and then it is cleared or set aside
//! (`quarantined`, `seal`). docs/treatments.md says what each level and treatment means.
//!
//! An event's level is the least level of its attributes; a record may state a stricter one (`GateOptions::level_key`),
//! never a looser. A sensitive event is not stored at all. A text that is kept is scanned for what has no business in it
//! (an e-mail address, a token), which is masked, or else the value is dropped.
//!
//! Only a log record's own attributes can become columns. Of its resource, `service.name` and `service.version` go to
//! the envelope; other resource attributes describe processes, not what happened, and are not stored. Of several
//! attributes with one key, the last counts.

mod action;
mod coerce;
mod consent;
mod datamap;
mod drift;
mod envelope;
mod explain;
mod identity;
mod json;
mod nested;
mod normalise;
mod options;
mod pass;
mod policy;
mod pseudonym;
mod restore;
mod route;
mod rules;
mod store;
pub mod quarantined;
mod scan;
pub mod seal;
mod tally;
mod treat;
mod withdrawn;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::receive::decode::{RawAttribute, RawEvents, RawRecord};
use crate::registry::{Category, Registry};
use crate::secret::{DerivedKey, Keyring};
use identity::IdentityKey;
use policy::Policy;
use quarantined::Quarantine;
use route::Router;
use scan::Scanner;

pub use consent::{
    AmplitudeConsent, Basis, CONSENT_NAME_BYTES_MAX, ConsentError, ConsentOptions, ConsentPolicy,
    ConsentSource, Decision, PURPOSES_MAX, Reading, Role, SOURCES_MAX, SourceForm, WarehouseConsent,
    WarehouseRule,
};
#[cfg(test)]
pub(crate) use datamap::tests::{consent_map as consent_datamap_for_tests, rich_map as datamap_for_tests};
pub use datamap::{
    DataMap, MappedAttribute, MappedCategory, MappedConsent, MappedConsentSource, MappedEvent, MappedLevel,
    MappedResource, MappedRoute, MappedSettings, MappedTable, MappedTreatment, MappedWithdrawal,
};
pub use drift::{
    DriftEntry, DriftEvent, DriftKind, ENTRIES_PER_REQUEST_MAX, EVENT_BYTES_MAX, KEY_BYTES_MAX, ValueType,
    is_hashed_name, is_shown_name,
};
pub use explain::{ExplainedAttribute, ExplainedEnvelope, ExplainedEvent, LevelSource, explain};
pub use options::{GateOptions, PolicyError, TableRules};
pub use pseudonym::Pseudonyms;
pub use quarantined::{QuarantineReason, QuarantinedEvent};
pub use restore::RestoreError;
pub use route::{EventPattern, ResourceMatch, Route, RouteTarget};
pub use rules::{Destination, LevelTreatments, Rule, RuleError, Rules};
pub use tally::{AttributeOutcome, EventOutcome, Subject, SubjectTally, Tally, Verdict};
pub use withdrawn::{SUBJECTS_MAX, Statement, Withdrawn};

/// Changes when the meaning of a treatment or of a coercion changes, so that `policy_version` tells the rows apart.
const TREATMENTS: &str = "esker-treatments-2";

/// The purpose of the pseudonyms in the tables.
const WAREHOUSE: &str = "warehouse";

/// The compiled policy: decides what of a request may be stored.
#[derive(Debug)]
pub struct Gate {
    registry: Arc<Registry>,
    policy: Policy,
    router: Router,
    pseudonyms: Pseudonyms,
    scanner: Scanner,
    quarantine: Quarantine,
    consent: ConsentPolicy,
    withdrawn: Arc<Withdrawn>,
    identity_key: IdentityKey,
    drift_key: DerivedKey,
    options: GateOptions,
    version: String,
}

impl Gate {
    /// Compiles the registry and the operator's rules into a gate.
    ///
    /// # Errors
    /// [`PolicyError`], where the rules contradict the registry.
    pub fn new(registry: Arc<Registry>, keys: &Keyring, options: GateOptions) -> Result<Self, PolicyError> {
        let consent = ConsentPolicy::new(&options.consent, &registry)?;
        Ok(Self {
            policy: Policy::new(&registry, &options, &consent)?,
            consent,
            withdrawn: Arc::default(),
            router: Router::new(&options.routes, &registry),
            scanner: Scanner::new(),
            quarantine: Quarantine::new(options.recipient.clone(), keys.identity("drift")),
            pseudonyms: Pseudonyms::new(keys, WAREHOUSE),
            identity_key: IdentityKey::new(keys),
            drift_key: keys.identity("drift"),
            version: version(&registry, &options),
            registry,
            options,
        })
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

    /// True where a value is the id of a subject who withdrew consent, under whichever key that was.
    fn is_withdrawn(&self, tenant: Option<&str>, text: &str) -> bool {
        !self.withdrawn.is_empty()
            && self.pseudonyms.all(tenant, text).any(|pseudonym| self.withdrawn.is_withdrawn(&pseudonym))
    }

    /// Who withdrew consent. Whoever makes withdrawals durable adds them here.
    #[must_use]
    pub fn withdrawn(&self) -> &Arc<Withdrawn> {
        &self.withdrawn
    }

    /// What may have decided on consent, by the number that cleared events carry.
    #[must_use]
    pub fn consent_bases(&self) -> &[String] {
        self.consent.bases()
    }

    /// The names of the tables that events go to; the first is the primary.
    #[must_use]
    pub fn tables(&self) -> impl ExactSizeIterator<Item = &str> {
        self.options.tables.iter().map(|table| table.name.as_str())
    }

    /// The event of a drift entry as it may be shown and kept: its name, or the hash of one that may hold a value.
    #[must_use]
    pub fn shown_event(&self, event: DriftEvent<'_>) -> Option<String> {
        match event {
            DriftEvent::Declared(event) => {
                self.registry.events().get(event as usize).map(|event| event.name.clone())
            }
            DriftEvent::Undeclared(name) => {
                Some(drift::shown(name, EVENT_BYTES_MAX, |text| self.scanner.is_clean(text), &self.drift_key))
            }
            DriftEvent::Overflow => None,
        }
    }

    /// A key from the wire as it may be shown and kept.
    #[must_use]
    pub fn shown_key(&self, key: &[u8]) -> String {
        drift::shown(key, KEY_BYTES_MAX, |text| self.scanner.is_clean(text), &self.drift_key)
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
    // Their debug forms name every field and quote every text, so no two rules have one form.
    let GateOptions { level_key, category_key, tenant_key, rules, tables, routes, consent, .. } = options;
    let quarantine = (options.quarantine_broken, options.quarantine_undeclared);
    hash.update(format!(
        "{:?}",
        (level_key, category_key, tenant_key, rules, tables, routes, consent, quarantine)
    ));
    hash.update(registry.version());
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// Sees each decision as it is made. Production passes [`Silent`], which costs nothing; `esker explain` records, on the
/// very same path.
pub trait Observer {
    /// A record was decided about, its attributes before it.
    fn event(&mut self, record: &RawRecord<'_>, subject: Subject, outcome: EventOutcome);

    /// An attribute of the record that comes next was decided about. `declared` is an index into `Registry::attributes`, where the
    /// event declares it.
    fn attribute(&mut self, attribute: &RawAttribute<'_>, declared: Option<usize>, outcome: AttributeOutcome);

    /// The attributes so far are decided about anew: the record turned out to be of a subject who withdrew consent.
    fn forget_attributes(&mut self);
}

/// Observes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    #[inline]
    fn event(&mut self, _: &RawRecord<'_>, _: Subject, _: EventOutcome) {}

    #[inline]
    fn attribute(&mut self, _: &RawAttribute<'_>, _: Option<usize>, _: AttributeOutcome) {}

    #[inline]
    fn forget_attributes(&mut self) {}
}

/// Events that may be stored: every value was declared, coerced and treated. Made only by the gate.
#[derive(Default)]
pub struct Cleared<'a> {
    pub(crate) events: Vec<ClearedEvent<'a>>,
    quarantined: Vec<QuarantinedEvent<'a>>,
    withdrawals: Vec<StatedWithdrawal>,
    /// Values of all events; each event holds a range of it.
    pub(crate) values: Vec<(u32, ClearedValue<'a>)>,
    /// Text that the gate made (pseudonyms, canonical JSON, decimal text).
    pub(crate) made: String,
    tally: Tally,
    drift: Vec<DriftEntry<'a>>,
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

    /// The events that are set aside, in request order.
    #[must_use]
    pub fn quarantined(&self) -> &[QuarantinedEvent<'a>] {
        &self.quarantined
    }

    /// What events say of somebody's consent from now on.
    #[must_use]
    pub fn withdrawals(&self) -> &[StatedWithdrawal] {
        &self.withdrawals
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

    /// What of the request is undeclared, by event, key and service.
    #[must_use]
    pub fn drift(&self) -> &[DriftEntry<'a>] {
        &self.drift
    }

    /// A keyed digest of the whole request: all records in order, their resources and scopes, those that were dropped
    /// included. The same request gives the same digest whatever the registry says.
    #[must_use]
    pub fn request_digest(&self) -> [u8; 16] {
        self.request_digest
    }
}

/// An event's word that somebody withdraws consent, or gives it again.
#[derive(Clone, PartialEq, Eq)]
pub struct StatedWithdrawal {
    /// The event's name, as declared.
    pub event_name: String,
    /// The pseudonym of the subject.
    pub subject: String,
    /// When it was made, by the sender's clock: microseconds since the Unix epoch.
    pub made_micros: i64,
    /// Consent is given again.
    pub lifts: bool,
}

impl StatedWithdrawal {
    /// As it counts once it is durable, received at `received_micros`.
    #[must_use]
    pub fn statement(&self, received_micros: i64) -> Statement {
        Statement { made_micros: self.made_micros, received_micros, lifts: self.lifts }
    }
}

impl fmt::Debug for StatedWithdrawal {
    /// Shows which event it is, and not whose.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatedWithdrawal").field("event_name", &self.event_name).finish_non_exhaustive()
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
    /// The registry's category, or what the record states where that is more confined.
    pub category: Category,
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
    /// Where it goes: a place in [`Gate::tables`]; 0 is the primary table.
    pub table: u16,
    /// `granted`, `denied`, `unknown` or `not_required`; None where no rule asks for consent.
    pub consent: Option<&'static str>,
    /// What decided on the consent: a place in the list that the encoder was given.
    pub consent_basis: Option<u16>,
    /// The event's values, as a range of `Cleared::values`: (index into `Registry::columns`, value), each column once.
    pub values: std::ops::Range<u32>,
}

impl fmt::Debug for ClearedEvent<'_> {
    /// Shows which event it is, and no value of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClearedEvent").field("event", &self.event).finish_non_exhaustive()
    }
}
