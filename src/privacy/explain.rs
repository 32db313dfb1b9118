//! What would happen to each event and attribute of a request, and why: the gate's own decisions, recorded.
//!
//! Owns: the record of decisions as `esker explain` shows it, and which rule stands behind each. Does not own: decisions. It
//! is for a user's own file, so names and keys appear; of values, only what would be stored appears, never what is dropped,
//! and of what leaked into a value only its class.

use serde::Serialize;
use serde_json::Value;

use super::coerce::{as_text, coerce};
use super::envelope;
use super::route::{Route, RouteTarget};
use super::{
    AttributeOutcome, Cleared, ClearedEvent, ClearedValue, EventOutcome, Gate, Observer, QuarantinedEvent,
    Subject, TableRules, Verdict,
};
use crate::receive::decode::{RawAttribute, RawEvents, RawRecord};
use crate::registry::{
    Attribute, AttributeType, Category, Event, EventAttribute, LeakClass, PrivacyLevel, Treatment,
};

/// What would happen to an event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExplainedEvent {
    /// Its place in the request, from 0.
    pub ordinal: u32,
    /// Its name as sent; empty where it has none.
    pub name: String,
    /// Its name, where it is declared.
    pub declared: Option<String>,
    /// `cleared`, `quarantined`, `dropped` or `rejected`.
    pub verdict: &'static str,
    /// Why: an event outcome, e.g. `cleared`, `undeclared`, `sensitive`.
    pub reason: &'static str,
    /// The registry's category, or what the record states where that is more confined; where the event is declared.
    pub category: Option<&'static str>,
    /// The level that the record states of itself, where it states one.
    pub stated_level: Option<&'static str>,
    /// The number of the route that decided, from 1; None where no route did.
    pub route: Option<usize>,
    /// Where its row goes, or would go if it kept its contract; None where no table gets it.
    pub table: Option<String>,
    /// The decision on its consent, where it is cleared.
    pub consent: Option<&'static str>,
    /// What decided on it.
    pub consent_basis: Option<String>,
    /// Where it is set aside: the declared attributes at fault.
    pub faults: Vec<String>,
    /// What would be stored besides attributes, where it is cleared.
    pub envelope: Option<ExplainedEnvelope>,
    /// Its attributes, in the order of the decisions; only where there were any to make.
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
    /// The decision on its consent, where a rule asks for one.
    pub consent: Option<&'static str>,
}

/// What would happen to an attribute.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExplainedAttribute {
    /// Its key as sent.
    pub key: String,
    /// The key of its declaration, where the event declares it; for a template's entry, that of the template.
    pub declared: Option<String>,
    /// Its privacy level on this event, where the event declares it.
    pub level: Option<&'static str>,
    /// Where that level comes from.
    pub level_from: Option<LevelSource>,
    /// `keep`, `mask`, `reduce`, `pseudonymise`, `envelope`, `quarantine` or `drop`: what happened to this value.
    pub treatment: &'static str,
    /// Why: an attribute outcome, e.g. `kept`, `undeclared`, `type_mismatch`.
    pub reason: &'static str,
    /// What the policy says happens to such values, with its parameter, e.g. `coarsen to 10`.
    pub policy: Option<String>,
    /// The rule that says so.
    pub rule: Option<String>,
    /// The reason in words, where the rule alone does not tell.
    pub why: Option<String>,
    /// The classes of what leaked into it; never the finding itself.
    pub leaks: Vec<&'static str>,
    /// The column that would hold it.
    pub column: Option<String>,
    /// The value that would be stored.
    pub stored: Option<Value>,
}

/// What decided on the level of an attribute of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LevelSource {
    /// The attribute's own declaration.
    Attribute,
    /// The event's ref to it.
    Ref,
    /// The event's own level, which is the least of its attributes'.
    Event,
}

impl LevelSource {
    fn of(attribute: &Attribute, event: &Event, used: &EventAttribute) -> Self {
        if used.privacy == attribute.privacy {
            Self::Attribute
        } else if used.privacy == event.privacy {
            Self::Event
        } else {
            Self::Ref
        }
    }
}

/// Explains what `gate` would do with each record of a request at the time `now_micros`.
#[must_use]
pub fn explain(gate: &Gate, raw: &RawEvents<'_>, now_micros: i64) -> Vec<ExplainedEvent> {
    let mut recorder = Recorder { gate, pending: Vec::new(), seen: Vec::new() };
    let cleared = gate.clear(raw, now_micros, &mut recorder);
    let mut rows = cleared.events().iter();
    let mut aside = cleared.quarantined().iter();
    let explained = recorder.seen.into_iter().zip(raw.records());
    explained
        .map(|(seen, record)| {
            let row = if seen.outcome == EventOutcome::Cleared { rows.next() } else { None };
            let is_set_aside = seen.outcome.verdict() == Verdict::Quarantined;
            let set_aside = if is_set_aside { aside.next() } else { None };
            Explainer { gate, raw, record, seen: &seen, row, cleared: &cleared }.event(set_aside)
        })
        .collect()
}

/// A record that was decided about.
struct Seen {
    subject: Subject,
    outcome: EventOutcome,
    attributes: Vec<SeenAttribute>,
}

struct SeenAttribute {
    key: String,
    declared: Option<usize>,
    outcome: AttributeOutcome,
    leaks: Vec<&'static str>,
}

struct Recorder<'g> {
    gate: &'g Gate,
    /// The attributes of the record that comes next.
    pending: Vec<SeenAttribute>,
    seen: Vec<Seen>,
}

impl Observer for Recorder<'_> {
    fn event(&mut self, _: &RawRecord<'_>, subject: Subject, outcome: EventOutcome) {
        let attributes = std::mem::take(&mut self.pending);
        self.seen.push(Seen { subject, outcome, attributes });
    }

    fn attribute(
        &mut self,
        attribute: &RawAttribute<'_>,
        declared: Option<usize>,
        outcome: AttributeOutcome,
    ) {
        let leaked = matches!(
            outcome,
            AttributeOutcome::Masked | AttributeOutcome::DroppedLeak | AttributeOutcome::LeakQuarantined
        );
        let leaks = declared.filter(|_| leaked).map(|declared| leaks(self.gate, attribute, declared));
        self.pending.push(SeenAttribute {
            key: String::from_utf8_lossy(attribute.key).into_owned(),
            declared,
            outcome,
            leaks: leaks.unwrap_or_default(),
        });
    }

    fn forget_attributes(&mut self) {
        self.pending.clear();
    }
}

/// The classes of what a value holds, read as the gate reads it; a template's entry with its key, which is stored as well.
fn leaks(gate: &Gate, attribute: &RawAttribute<'_>, declared: usize) -> Vec<&'static str> {
    let Some(plan) = gate.policy.attribute(declared as u32) else { return Vec::new() };
    let mut made = String::new();
    let value = coerce(attribute.value, &plan.coercion, gate.options.value_bytes_max, &mut made);
    let mut text = match value {
        Ok(Some(value)) => {
            let value = as_text(value, &mut made);
            value.text(&made).unwrap_or_default().to_owned()
        }
        _ => String::new(),
    };
    let is_template = |one: &Attribute| matches!(one.ty, AttributeType::Template(_));
    if gate.registry.attributes().get(declared).is_some_and(is_template) {
        text.push(' ');
        text.push_str(&String::from_utf8_lossy(attribute.key));
    }
    let found = gate.scanner.mask(&text, &mut String::new());
    found.into_iter().flat_map(|classes| classes.iter().map(LeakClass::as_str)).collect()
}

/// One record's explanation.
struct Explainer<'e, 'a> {
    gate: &'e Gate,
    raw: &'e RawEvents<'a>,
    record: &'e RawRecord<'a>,
    seen: &'e Seen,
    /// Where it is cleared.
    row: Option<&'e ClearedEvent<'a>>,
    cleared: &'e Cleared<'a>,
}

impl Explainer<'_, '_> {
    fn event(&self, set_aside: Option<&QuarantinedEvent<'_>>) -> ExplainedEvent {
        let event = self.declared_event();
        let (stated_level, stated_category) = self.stated();
        let category =
            event.map(|event| stated_category.map_or(event.category, |one| one.max(event.category)));
        let (route, table) = self.destination(category);
        let rules = table.and_then(|place| self.gate.options.tables.get(place));
        let attribute = |one: &SeenAttribute| self.attribute(one, event, rules, stated_level);
        let faults = set_aside.and_then(|event| event.detail.as_deref()).into_iter();
        ExplainedEvent {
            ordinal: self.record.ordinal,
            name: String::from_utf8_lossy(self.record.name).into_owned(),
            declared: event.map(|event| event.name.clone()),
            verdict: match self.seen.outcome.verdict() {
                Verdict::Cleared => "cleared",
                Verdict::Quarantined => "quarantined",
                Verdict::Dropped => "dropped",
                Verdict::Rejected => "rejected",
            },
            reason: self.seen.outcome.as_str(),
            category: category.map(Category::as_str),
            stated_level: stated_level.map(PrivacyLevel::as_str),
            route: route.map(|place| place + 1),
            table: rules.map(|table| table.name.clone()),
            faults: faults.flat_map(|keys| keys.split(',')).map(str::to_owned).collect(),
            consent: self.row.and_then(|row| row.consent),
            consent_basis: self
                .row
                .and_then(|row| self.gate.consent_bases().get(usize::from(row.consent_basis?)))
                .cloned(),
            envelope: self.row.map(envelope_of),
            attributes: self.seen.attributes.iter().map(attribute).collect(),
        }
    }

    fn declared_event(&self) -> Option<&Event> {
        match self.seen.subject {
            Subject::Declared(event) => self.gate.registry.events().get(event as usize),
            Subject::Undeclared | Subject::Unnamed => None,
        }
    }

    /// The level and the category that the record states of itself.
    fn stated(&self) -> (Option<PrivacyLevel>, Option<Category>) {
        let (mut level, mut category) = (None, None);
        let policy = &self.gate.policy;
        for attribute in self.raw.attributes(&self.record.attributes) {
            let Some(key) = policy.key(attribute.key, 0) else { continue };
            if policy.is_level(key) {
                level = level.max(envelope::level(attribute.value));
            } else if policy.is_category(key) {
                category = category.max(envelope::category(attribute.value));
            }
        }
        (level, category)
    }

    /// The route that decided, and the place of the table that the event goes to.
    fn destination(&self, category: Option<Category>) -> (Option<usize>, Option<usize>) {
        let (Subject::Declared(event), Some(category)) = (self.seen.subject, category) else {
            return (None, None);
        };
        let resource = self.raw.resources.get(self.record.resource as usize);
        let resource = resource.map(|one| self.gate.router.resource(self.raw, one)).unwrap_or_default();
        // The decision on consent is the row's, where there is one; what was dropped by a route has none to show.
        let wanted = match (self.row, self.seen.outcome) {
            (Some(row), _) => Some(RouteTarget::Table(usize::from(row.table))),
            (None, EventOutcome::RoutedNowhere) => Some(RouteTarget::Drop),
            (None, _) if self.seen.outcome.verdict() == Verdict::Quarantined => None,
            (None, _) => return (None, None),
        };
        let consent = self.row.and_then(|row| row.consent);
        let holds = |route: &Route| {
            let consents = route.consent.is_none_or(|one| consent.is_none() || consent == Some(one.as_str()));
            consents && wanted.is_none_or(|wanted| route.target == wanted)
        };
        let route = self.gate.router.matching(event, category, &resource).find(|(_, route)| holds(route));
        let table = match (self.row, route) {
            (Some(row), _) => Some(usize::from(row.table)),
            (None, Some((_, route))) => match route.target {
                RouteTarget::Table(place) => Some(place),
                RouteTarget::Drop => None,
            },
            (None, None) => (wanted != Some(RouteTarget::Drop)).then_some(0),
        };
        (route.map(|(place, _)| place), table)
    }

    fn attribute(
        &self,
        seen: &SeenAttribute,
        event: Option<&Event>,
        table: Option<&TableRules>,
        stated: Option<PrivacyLevel>,
    ) -> ExplainedAttribute {
        let registry = self.gate.registry();
        let declared = seen.declared.and_then(|place| registry.attributes().get(place));
        let used = event
            .and_then(|event| event.attributes.iter().find(|used| Some(used.attribute) == seen.declared));
        let treatment = match seen.outcome {
            AttributeOutcome::Kept => "keep",
            AttributeOutcome::Masked => "mask",
            AttributeOutcome::Reduced => "reduce",
            AttributeOutcome::Pseudonymised => "pseudonymise",
            AttributeOutcome::Envelope => "envelope",
            AttributeOutcome::LeakQuarantined => "quarantine",
            _ => "drop",
        };
        let is_stored =
            self.row.is_some() && matches!(treatment, "keep" | "mask" | "reduce" | "pseudonymise");
        let column = declared.filter(|_| is_stored).and_then(|one| registry.columns().get(one.column));
        let column = column.map(|column| column.name.clone());
        let decided = used.zip(table).map(|(used, table)| self.decided(used, table));
        let level_from = |(attribute, event, used)| LevelSource::of(attribute, event, used);
        ExplainedAttribute {
            key: seen.key.clone(),
            declared: declared.filter(|_| used.is_some()).map(|one| one.key.clone()),
            level: used.map(|used| used.privacy.as_str()),
            level_from: declared
                .zip(event)
                .zip(used)
                .map(|((one, event), used)| level_from((one, event, used))),
            treatment,
            reason: seen.outcome.as_str(),
            policy: decided.as_ref().map(|(treatment, _)| treatment.to_string()),
            rule: decided.map(|(_, rule)| rule),
            why: self.why(seen.outcome, stated, table.map(|table| table.levels).unwrap_or_default()),
            leaks: seen.leaks.clone(),
            stored: column.as_deref().zip(self.row).and_then(|(column, row)| self.stored(row, column)),
            column,
        }
    }

    fn decided(&self, used: &EventAttribute, table: &TableRules) -> (Treatment, String) {
        let (treatment, rule) = self.gate.options.rules.warehouse(used, &table.name, &table.levels);
        (treatment, rule.to_string())
    }

    /// The reason of an outcome in words, where the rule alone does not tell.
    fn why(
        &self,
        outcome: AttributeOutcome,
        stated: Option<PrivacyLevel>,
        own: super::LevelTreatments,
    ) -> Option<String> {
        let set_aside = self.seen.outcome.verdict() == Verdict::Quarantined;
        let text = match outcome {
            AttributeOutcome::Kept
            | AttributeOutcome::Reduced
            | AttributeOutcome::Pseudonymised
            | AttributeOutcome::Masked
                if set_aside =>
            {
                "not stored, as its event is set aside"
            }
            AttributeOutcome::Kept
            | AttributeOutcome::Reduced
            | AttributeOutcome::Pseudonymised
            | AttributeOutcome::DroppedPersonal
            | AttributeOutcome::DroppedSensitive
            | AttributeOutcome::DroppedByPolicy => return None,
            AttributeOutcome::DroppedByRecord => {
                let level = stated.unwrap_or_default();
                let least = self.gate.options.rules.stated(level, &own);
                let level = level.as_str();
                return Some(format!(
                    "the record states the level {level} ({least}), at which its column may not hold it"
                ));
            }
            AttributeOutcome::Masked => "what leaked into it is masked",
            AttributeOutcome::Envelope => "read for the envelope, or for the decision on the event",
            AttributeOutcome::Null => "it has no value",
            AttributeOutcome::DroppedByConsent => "the consent that it needs was refused or is not known",
            AttributeOutcome::DroppedLeak => "something leaked into it, and so it is dropped as a whole",
            AttributeOutcome::LeakQuarantined => "something leaked into it, and so its event is set aside",
            AttributeOutcome::Unreducible => "its treatment cannot read it",
            AttributeOutcome::KeyDestroyed => "the key of its tenant was destroyed",
            AttributeOutcome::Untrusted => {
                "it is the server's own (trust: server), but arrived as text, as baggage does"
            }
            AttributeOutcome::Undeclared => "the event does not declare it",
            AttributeOutcome::Duplicate => "a later attribute of the record has the same key",
            AttributeOutcome::ColumnTaken => "another attribute already fills the column that both share",
            AttributeOutcome::TypeMismatch => "it cannot be read as its declared type",
            AttributeOutcome::NotAMember => "it is not a member of the declared enum",
            AttributeOutcome::TooLong => "it is too long",
            AttributeOutcome::TooDeep => "it is nested too deeply",
            AttributeOutcome::InvalidUtf8 => "its text is not UTF-8",
            AttributeOutcome::NotFinite => "it is an infinity or not a number",
            AttributeOutcome::Implausible => "it does not look like what belongs there",
        };
        Some(text.to_owned())
    }

    /// The value of a column as it would be stored.
    fn stored(&self, row: &ClearedEvent<'_>, column: &str) -> Option<Value> {
        let columns = self.gate.registry.columns();
        let is_it = |index: u32| columns.get(index as usize).is_some_and(|known| known.name == column);
        let values = self.cleared.values.get(row.values.start as usize..row.values.end as usize)?;
        let (_, value) = values.iter().find(|(index, _)| is_it(*index))?;
        Some(match value {
            ClearedValue::Int(int) => Value::from(*int),
            ClearedValue::Double(double) => Value::from(*double),
            ClearedValue::Bool(flag) => Value::from(*flag),
            ClearedValue::Str(_) | ClearedValue::Made(..) => Value::from(self.cleared.text(value)?),
        })
    }
}

fn envelope_of(row: &ClearedEvent<'_>) -> ExplainedEnvelope {
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
        consent: row.consent,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::datamap::tests::rich_gate;
    use crate::privacy::tests::fixture::{NOW, Request, Sent, Value as Given};

    fn explained(region: &str, sent: Vec<Sent>) -> Vec<ExplainedEvent> {
        let mut request = Request::of(sent);
        request.resource.push(("region", Given::from(region)));
        explain(&rich_gate(), &request.raw(), NOW)
    }

    #[test]
    fn the_route_and_the_table_of_an_event_are_told() {
        let of = |region, name| {
            let event = explained(region, vec![Sent::named(name).with("a.plain", 1)]).remove(0);
            (event.verdict, event.route, event.table.unwrap_or_default())
        };
        assert_eq!(of("eu", "b.failed"), ("cleared", Some(1), "eu.events".to_owned()));
        assert_eq!(of("us", "b.failed"), ("dropped", Some(2), String::new()));
        assert_eq!(of("eu", "a.done"), ("cleared", None, "product.events".to_owned()));
        assert_eq!(of("eu", "c.unknown"), ("dropped", None, String::new()));
    }

    #[test]
    fn the_rule_and_the_level_of_each_attribute_are_told() {
        let sent =
            Sent::named("b.failed").with("a.text", "secret-mark").with("a.kind", 2).with("x", "secret-mark");
        let event = explained("eu", vec![sent]).remove(0);
        assert!(!serde_json::to_string(&event).unwrap().contains("secret-mark"));
        let of = |key: &str| event.attributes.iter().find(|one| one.key == key).unwrap();
        let text = of("a.text");
        assert_eq!((text.level, text.level_from), (Some("sensitive"), Some(LevelSource::Ref)));
        assert_eq!(text.rule.as_deref(), Some("sensitive values are never stored"));
        assert_eq!(
            (of("a.kind").level_from, of("a.kind").stored.clone()),
            (Some(LevelSource::Ref), Some(2.into()))
        );
        let undeclared = of("x");
        assert_eq!((undeclared.rule.as_deref(), undeclared.declared.as_deref()), (None, None));
        assert_eq!(undeclared.why.as_deref(), Some("the event does not declare it"));
    }

    #[test]
    fn a_level_that_the_record_states_and_a_broken_contract_are_told() {
        let stated = Sent::named("a.done").with("a.plain", 1).with("event.privacy_level", "personal");
        let event = explained("eu", vec![stated, Sent::named("a.done").with("a.kind", 2)]);
        assert_eq!(event[0].stated_level, Some("personal"));
        let plain = event[0].attributes.iter().find(|one| one.key == "a.plain").unwrap();
        assert_eq!((plain.reason, plain.stored.clone()), ("dropped_by_record", None));
        assert!(
            plain.why.as_deref().unwrap().contains("the level personal (pseudonymise)"),
            "{:?}",
            plain.why
        );
        assert_eq!((event[1].verdict, event[1].reason), ("quarantined", "missing_required"));
        assert_eq!(event[1].faults, ["a.plain"]);
        assert!(event[1].attributes.iter().all(|one| one.stored.is_none() && one.column.is_none()));
    }

    #[test]
    fn of_a_leak_the_class_is_told_and_nothing_else() {
        let sent = Sent::named("a.done").with("a.plain", 1).with("a.text", "to bob@example.org");
        let event = explained("eu", vec![sent]).remove(0);
        let text = event.attributes.iter().find(|one| one.key == "a.text").unwrap();
        assert_eq!((text.reason, text.leaks.as_slice()), ("dropped_leak", ["email"].as_slice()));
        assert!(!serde_json::to_string(&event).unwrap().contains("bob"));
    }
}
