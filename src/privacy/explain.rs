//! What would happen to each event and attribute of a request, and why: the gate's own decisions, recorded.
//!
//! Owns: the record of decisions as `esker explain` shows it. Does not own: decisions. It is for a user's own file, so
//! names and keys appear; of values, only what would be stored appears, never what is dropped.

use serde::Serialize;
use serde_json::Value;

use super::{
    AttributeOutcome, Cleared, ClearedEvent, ClearedValue, EventOutcome, Gate, Observer, Subject, Verdict,
};
use crate::receive::decode::{RawAttribute, RawEvents, RawRecord};
use crate::registry::{Event, Registry};

/// What would happen to an event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExplainedEvent {
    /// Its place in the request, from 0.
    pub ordinal: u32,
    /// Its name as sent; empty where it has none.
    pub name: String,
    /// `cleared`, `dropped` or `rejected`.
    pub verdict: &'static str,
    /// Why: an event outcome, e.g. `cleared`, `undeclared`, `sensitive`.
    pub reason: &'static str,
    /// What would be stored besides attributes, where it is cleared.
    pub envelope: Option<ExplainedEnvelope>,
    /// Its attributes, in the order of the decisions; only where it is cleared.
    pub attributes: Vec<ExplainedAttribute>,
}

/// An event's envelope as it would be stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedEnvelope {
    /// The event's id.
    pub event_id: String,
    /// When it happened, RFC 3339 in UTC.
    pub event_time: String,
    /// The sending service.
    pub service_name: Option<String>,
    /// Its version.
    pub service_version: Option<String>,
    /// The instrumentation scope.
    pub scope_name: Option<String>,
    /// One of the six severities.
    pub severity: Option<&'static str>,
    /// 32 hex digits.
    pub trace_id: Option<String>,
    /// 16 hex digits.
    pub span_id: Option<String>,
}

/// What would happen to an attribute.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExplainedAttribute {
    /// Its key as sent.
    pub key: String,
    /// Its privacy level on this event, where the event declares it.
    pub level: Option<&'static str>,
    /// `keep`, `mask`, `pseudonymise`, `envelope` or `drop`.
    pub treatment: &'static str,
    /// Why: an attribute outcome, e.g. `kept`, `undeclared`, `type_mismatch`.
    pub reason: &'static str,
    /// The column that would hold it.
    pub column: Option<String>,
    /// The value that would be stored.
    pub stored: Option<Value>,
}

/// Explains what `gate` would do with each record of a request at the time `now_micros`.
#[must_use]
pub fn explain(gate: &Gate, raw: &RawEvents<'_>, now_micros: i64) -> Vec<ExplainedEvent> {
    let registry = gate.registry();
    let mut recorder = Recorder { registry, pending: Vec::new(), events: Vec::new() };
    let cleared = gate.clear(raw, now_micros, &mut recorder);
    let mut rows = cleared.events().iter();
    let cleared_only =
        recorder.events.iter_mut().filter(|event| event.reason == EventOutcome::Cleared.as_str());
    for (event, row) in cleared_only.zip(&mut rows) {
        event.envelope = Some(envelope(row));
        for attribute in &mut event.attributes {
            attribute.stored =
                attribute.column.as_deref().and_then(|column| stored(registry, &cleared, row, column));
        }
    }
    recorder.events
}

struct Recorder<'r> {
    registry: &'r Registry,
    /// The attributes of the record that comes next: key, declared, outcome.
    pending: Vec<(String, Option<usize>, AttributeOutcome)>,
    events: Vec<ExplainedEvent>,
}

impl Observer for Recorder<'_> {
    fn event(&mut self, record: &RawRecord<'_>, subject: Subject, outcome: EventOutcome) {
        let event = match subject {
            Subject::Declared(event) => self.registry.events().get(event as usize),
            Subject::Undeclared | Subject::Unnamed => None,
        };
        let pending = std::mem::take(&mut self.pending);
        self.events.push(ExplainedEvent {
            ordinal: record.ordinal,
            name: String::from_utf8_lossy(record.name).into_owned(),
            verdict: match outcome.verdict() {
                Verdict::Cleared => "cleared",
                Verdict::Quarantined => "quarantined",
                Verdict::Dropped => "dropped",
                Verdict::Rejected => "rejected",
            },
            reason: outcome.as_str(),
            envelope: None,
            attributes: pending
                .into_iter()
                .map(|(key, declared, outcome)| self.attribute_of(event, key, declared, outcome))
                .collect(),
        });
    }

    fn attribute(
        &mut self,
        attribute: &RawAttribute<'_>,
        declared: Option<usize>,
        outcome: AttributeOutcome,
    ) {
        self.pending.push((String::from_utf8_lossy(attribute.key).into_owned(), declared, outcome));
    }

    fn forget_attributes(&mut self) {
        self.pending.clear();
    }
}

impl Recorder<'_> {
    fn attribute_of(
        &self,
        event: Option<&Event>,
        key: String,
        declared: Option<usize>,
        outcome: AttributeOutcome,
    ) -> ExplainedAttribute {
        let used = event
            .and_then(|event| event.attributes.iter().find(|used| Some(used.attribute) == declared));
        let treatment = match outcome {
            AttributeOutcome::Kept => "keep",
            AttributeOutcome::Masked => "mask",
            AttributeOutcome::Reduced => "reduce",
            AttributeOutcome::Pseudonymised => "pseudonymise",
            AttributeOutcome::Envelope => "envelope",
            _ => "drop",
        };
        let is_stored = matches!(treatment, "keep" | "mask" | "reduce" | "pseudonymise");
        let column = declared
            .filter(|_| is_stored)
            .and_then(|declared| self.registry.attributes().get(declared))
            .and_then(|declared| self.registry.columns().get(declared.column))
            .map(|column| column.name.clone());
        ExplainedAttribute {
            key,
            level: used.map(|used| used.privacy.as_str()),
            treatment,
            reason: outcome.as_str(),
            column,
            stored: None,
        }
    }
}

fn envelope(row: &ClearedEvent<'_>) -> ExplainedEnvelope {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    ExplainedEnvelope {
        event_id: row.uid.map_or_else(|| hex(&row.digest), str::to_owned),
        event_time: jiff::Timestamp::from_microsecond(row.event_time)
            .map_or_else(|_| row.event_time.to_string(), |time| time.to_string()),
        service_name: owned(row.service_name),
        service_version: owned(row.service_version),
        scope_name: owned(row.scope_name),
        severity: row.severity,
        trace_id: row.trace_id.map(hex),
        span_id: row.span_id.map(hex),
    }
}

/// The value of a column as it would be stored.
fn stored(registry: &Registry, cleared: &Cleared<'_>, row: &ClearedEvent<'_>, column: &str) -> Option<Value> {
    let is_it = |index: u32| registry.columns().get(index as usize).is_some_and(|known| known.name == column);
    let (_, value) = cleared.values(row).iter().find(|(index, _)| is_it(*index))?;
    Some(match value {
        ClearedValue::Int(int) => Value::from(*int),
        ClearedValue::Double(double) => Value::from(*double),
        ClearedValue::Bool(flag) => Value::from(*flag),
        ClearedValue::Str(_) | ClearedValue::Made(..) => Value::from(cleared.text(value)?),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
