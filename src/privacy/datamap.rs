//! The data map: of every declared event and attribute, what is received, at which level, and what becomes of it where.
//!
//! Owns: the map's shape (its JSON is an interface) and building it from the gate. Does not own: its presentation
//! (`app::catalogue`). It is the policy written out, so that one version of it can be looked up later.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Gate;
use super::rules::{Destination, LevelTreatments};
use crate::registry::{
    Attribute, AttributeType, ENVELOPE_COLUMNS, Event, EventAttribute, LeakAction, Primitive,
    PrivacyLevel, Requirement, Trust,
};

/// Changes when a field of the JSON changes its meaning.
const FORMAT: &str = "esker-datamap-1";

/// What is declared, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DataMap {
    /// The format of this map.
    pub format: &'static str,
    /// Stands in every row that this policy cleared.
    pub policy_version: String,
    /// The registry's own version.
    pub registry_version: String,
    /// What happens to a level by default, by destination.
    pub levels: Vec<MappedLevel>,
    /// The tables that rows go to.
    pub tables: Vec<MappedTable>,
    /// The columns that every row has besides its attributes.
    pub envelope: Vec<&'static str>,
    /// Every declared event, by name.
    pub events: Vec<MappedEvent>,
}

/// What happens to a level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MappedLevel {
    /// The level.
    pub level: &'static str,
    /// The treatment, by destination.
    pub treatments: BTreeMap<Destination, String>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MappedTable {
    /// `namespace.table`.
    pub name: String,
    /// Where it lies, a URL.
    pub warehouse: String,
    /// How long its rows are kept; None where nothing ends it.
    pub retention: Option<String>,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MappedEvent {
    /// Its name.
    pub name: String,
    /// What it is for: `product`, `operational` or `security`.
    pub category: &'static str,
    /// The least level of its attributes.
    pub level: &'static str,
    /// One line for people.
    pub brief: String,
    /// False where the event as a whole is too sensitive to be stored.
    pub stored: bool,
    /// What it may carry, by key. Anything else that it carries is dropped.
    pub attributes: Vec<MappedAttribute>,
}

/// An attribute, as one event uses it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MappedAttribute {
    /// The key on the wire.
    pub key: String,
    /// The column that it fills, if it is stored.
    pub column: String,
    /// The declared type, as registry files spell it; `enum` with its members in `members`.
    #[serde(rename = "type")]
    pub ty: String,
    /// The values that an enum admits; empty for other types.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    /// One line for people.
    pub brief: String,
    /// The level in force.
    pub level: &'static str,
    /// `required` or `optional`.
    pub requirement: &'static str,
    /// The treatment, by destination.
    pub treatments: BTreeMap<Destination, String>,
    /// Whose value it may hold: `anyone` or `server`.
    pub trust: &'static str,
    /// What happens where a kept value holds a leak: `mask` or `drop`; None where its values cannot hold one.
    pub leaks: Option<&'static str>,
}

impl DataMap {
    /// The policy that `gate` enforces, written out, and the tables that its rows go to. No key is part of it.
    #[must_use]
    pub fn of(gate: &Gate, tables: Vec<MappedTable>) -> Self {
        let registry = gate.registry();
        let levels = PrivacyLevel::ALL.map(|level| MappedLevel {
            level: level.as_str(),
            treatments: treatments(
                gate,
                &EventAttribute { attribute: 0, requirement: Requirement::Optional, privacy: level, treatment: None },
            ),
        });
        Self {
            format: FORMAT,
            policy_version: gate.policy_version().to_owned(),
            registry_version: registry.version().to_owned(),
            levels: levels.into(),
            tables,
            envelope: ENVELOPE_COLUMNS.into(),
            events: registry.events().iter().map(|event| mapped_event(gate, event)).collect(),
        }
    }

    /// Every attribute that an event uses, once for each event.
    pub fn uses(&self) -> impl Iterator<Item = (&MappedEvent, &MappedAttribute)> {
        self.events.iter().flat_map(|event| event.attributes.iter().map(move |attribute| (event, attribute)))
    }

    /// The keys that events use, each once.
    #[must_use]
    pub fn keys(&self) -> BTreeSet<&str> {
        self.uses().map(|(_, attribute)| attribute.key.as_str()).collect()
    }
}

fn mapped_event(gate: &Gate, event: &Event) -> MappedEvent {
    let stored = event.privacy != PrivacyLevel::Sensitive;
    let attribute = |used: &EventAttribute| {
        let attribute = gate.registry().attributes().get(used.attribute)?;
        Some(mapped_attribute(gate, attribute, used))
    };
    MappedEvent {
        name: event.name.clone(),
        category: event.category.as_str(),
        level: event.privacy.as_str(),
        brief: event.brief.clone(),
        stored,
        attributes: event.attributes.iter().filter_map(attribute).collect(),
    }
}

fn mapped_attribute(gate: &Gate, attribute: &Attribute, used: &EventAttribute) -> MappedAttribute {
    let columns = gate.registry().columns();
    let (ty, members) = spelt(&attribute.ty);
    MappedAttribute {
        key: attribute.key.clone(),
        column: columns.get(attribute.column).map(|column| column.name.clone()).unwrap_or_default(),
        ty,
        members,
        brief: attribute.brief.clone(),
        level: used.privacy.as_str(),
        requirement: match used.requirement {
            Requirement::Required => "required",
            Requirement::Optional => "optional",
        },
        treatments: treatments(gate, used),
        trust: match attribute.trust {
            Trust::Anyone => "anyone",
            Trust::Server => "server",
        },
        leaks: holds_free_text(&attribute.ty).then_some(match attribute.leaks {
            LeakAction::Mask => "mask",
            LeakAction::Drop => "drop",
            LeakAction::Quarantine => "quarantine",
        }),
    }
}

/// What happens to an attribute of an event, by destination, in the primary table.
fn treatments(gate: &Gate, used: &EventAttribute) -> BTreeMap<Destination, String> {
    let rules = &gate.options.rules;
    let of = |destination| match destination {
        Destination::Warehouse => rules.warehouse(used, "", &LevelTreatments::default()),
        Destination::Amplitude => rules.amplitude(used),
    };
    Destination::ALL.into_iter().map(|destination| (destination, of(destination).0.to_string())).collect()
}

/// True where a kept value can hold text that a sender chose; only such are scanned.
fn holds_free_text(ty: &AttributeType) -> bool {
    match ty {
        AttributeType::Scalar(primitive) | AttributeType::Array(primitive) => *primitive == Primitive::String,
        // A template's keys are the sender's own text, whatever its values are.
        AttributeType::Any | AttributeType::Template(_) => true,
        AttributeType::Enum { .. } => false,
    }
}

/// A type as registry files spell it, and the members of an enum.
fn spelt(ty: &AttributeType) -> (String, Vec<String>) {
    let primitive = |primitive: &Primitive| match primitive {
        Primitive::String => "string",
        Primitive::Int => "int",
        Primitive::Double => "double",
        Primitive::Boolean => "boolean",
    };
    match ty {
        AttributeType::Scalar(of) => (primitive(of).to_owned(), Vec::new()),
        AttributeType::Array(of) => (format!("{}[]", primitive(of)), Vec::new()),
        AttributeType::Any => ("any".to_owned(), Vec::new()),
        AttributeType::Template(entry) => (format!("template[{}]", spelt(entry).0), Vec::new()),
        AttributeType::Enum { members, .. } => ("enum".to_owned(), members.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::AttributeOutcome;
    use crate::privacy::tests::fixture::{COMMITTED, Sent, clear_with, gate};

    fn map() -> DataMap {
        DataMap::of(&gate(), Vec::new())
    }

    #[test]
    fn every_event_and_attribute_of_the_registry_is_in_the_map() {
        let (map, gate) = (map(), gate());
        assert_eq!(map.events.len(), gate.registry().events().len());
        assert_eq!(map.keys().len(), gate.registry().attributes().len());
        assert_eq!(map.policy_version, gate.policy_version());
        assert_eq!(map.envelope.len(), ENVELOPE_COLUMNS.len());
    }

    #[test]
    fn the_warehouse_s_treatments_are_those_that_the_gate_applies() {
        let map = map();
        let values = [
            ("title", "x"),
            ("score", "1"),
            ("amplitude.user_id", "u"),
            ("account.number", "7"),
            ("user.email", "x"),
            ("auth.token", "x"),
        ];
        for (key, value) in values {
            let (_, mapped) =
                map.uses().find(|(event, one)| event.name == COMMITTED && one.key == key).unwrap();
            let treatment = mapped.treatments[&Destination::Warehouse].as_str();
            clear_with(&gate(), vec![Sent::named(COMMITTED).with(key, value)], |cleared| {
                let found = |outcome| cleared.tally().attributes(outcome) == 1;
                let applied = if found(AttributeOutcome::Kept) {
                    "keep"
                } else if found(AttributeOutcome::Pseudonymised) {
                    "pseudonymise"
                } else {
                    assert!(
                        found(AttributeOutcome::DroppedPersonal) || found(AttributeOutcome::DroppedSensitive)
                    );
                    "drop"
                };
                assert_eq!(treatment, applied, "{key}");
            });
        }
    }

    #[test]
    fn what_an_event_refines_is_in_force_there() {
        let map = map();
        let level = |event: &str| {
            map.uses().find(|(e, a)| e.name == event && a.key == "environment.id").unwrap().1.level
        };
        assert_eq!((level(COMMITTED), level("billing.invoice.sent")), ("internal", "internal"));
    }

    #[test]
    fn types_are_spelt_as_in_registry_files() {
        let map = map();
        let of = |key: &str| {
            let (_, one) = map.uses().find(|(e, a)| e.name == COMMITTED && a.key == key).unwrap();
            (one.ty.clone(), one.members.len(), one.leaks)
        };
        assert_eq!(of("organisation.id"), ("int".to_owned(), 0, None));
        assert_eq!(of("segment.ids"), ("int[]".to_owned(), 0, None));
        assert_eq!(of("header"), ("template[string]".to_owned(), 0, Some("mask")));
        assert_eq!(of("request.status"), ("enum".to_owned(), 2, None));
        assert_eq!(of("change.payload"), ("any".to_owned(), 0, Some("mask")));
    }

    #[test]
    fn the_json_names_destinations_and_treatments() {
        let json = serde_json::to_value(map()).unwrap();
        assert_eq!(json["format"], "esker-datamap-1");
        assert_eq!(json["levels"][2]["treatments"]["warehouse"], "pseudonymise");
        assert_eq!(json["events"][1]["attributes"][0]["treatments"]["amplitude"], "pseudonymise");
    }
}
