//! The data map: of every declared event and attribute, what is received, at which level, and what becomes of it where.
//!
//! Owns: the map's shape (its JSON is an interface) and building it from the gate. Does not own: its presentation
//! (`app::catalogue`). It is the policy written out, so that one version of it can be looked up later.

mod consent;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::rules::{Destination, LevelTreatments, Rule};
use super::{EventPattern, Gate, GateOptions, ResourceMatch, Route, RouteTarget};
use crate::registry::{
    Attribute, AttributeType, ENVELOPE_COLUMNS, Event, EventAttribute, LeakAction, Normalisation, Primitive,
    PrivacyLevel, Requirement, Treatment, Trust,
};

pub use consent::{MappedCategory, MappedConsent, MappedConsentSource, MappedWithdrawal};

/// Changes when a field of the JSON changes its meaning.
pub(super) const FORMAT: &str = "esker-datamap-1";

/// What is declared, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataMap {
    /// The format of this map.
    pub format: String,
    /// Stands in every row that this policy cleared.
    pub policy_version: String,
    /// The registry's own version.
    pub registry_version: String,
    /// What decides besides levels, tables and routes.
    pub settings: MappedSettings,
    /// What happens to a level by default, by destination.
    pub levels: Vec<MappedLevel>,
    /// The tables that rows go to; the first is the primary.
    pub tables: Vec<MappedTable>,
    /// Which events go where; the first that matches decides, and without one the primary table gets the event.
    pub routes: Vec<MappedRoute>,
    /// What decides about consent. None in a map of a version that did not write it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub consent: Option<MappedConsent>,
    /// The columns that every row has besides its attributes.
    pub envelope: Vec<String>,
    /// Every declared event, by name.
    pub events: Vec<MappedEvent>,
}

/// What decides about records as wholes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedSettings {
    /// Events from later than this after they arrive are rejected.
    pub future_max_ms: u64,
    /// Events from longer ago than this are rejected.
    pub age_max_ms: u64,
    /// Longest value.
    pub value_bytes_max: u64,
    /// The attribute in which a record states its own level.
    pub level_attribute: String,
    /// The attribute in which a record states its own category.
    pub category_attribute: String,
    /// The attribute that names the tenant, where tenants have keys of their own.
    pub tenant_attribute: Option<String>,
    /// An event that breaks its contract is set aside.
    pub quarantine_broken: bool,
    /// An undeclared event is set aside.
    pub quarantine_undeclared: bool,
}

/// What happens to a level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedLevel {
    /// The level.
    pub level: String,
    /// The treatment, by destination.
    pub treatments: BTreeMap<Destination, String>,
    /// The rule that decides it, by destination.
    pub rules: BTreeMap<Destination, String>,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedTable {
    /// `namespace.table`.
    pub name: String,
    /// Where it lies, a URL.
    pub warehouse: String,
    /// How long its rows are kept; None where nothing ends it.
    pub retention: Option<String>,
    /// Its own treatments, by level. [`DataMap::of`] fills this in.
    pub policy: BTreeMap<String, String>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedRoute {
    /// The event's category; None for all.
    pub category: Option<String>,
    /// Names of events, or their beginnings and `*`; empty for all.
    pub events: Vec<String>,
    /// A resource attribute and its value.
    pub resource: Option<MappedResource>,
    /// The decision on the event's consent.
    pub consent: Option<String>,
    /// Where it leads; None where events are dropped.
    pub table: Option<String>,
}

/// A condition on a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedResource {
    /// The attribute's key.
    pub key: String,
    /// Its value as text.
    pub value: String,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MappedEvent {
    /// Its name.
    pub name: String,
    /// What it is for: `product`, `operational` or `security`.
    pub category: String,
    /// The least level of its attributes.
    pub level: String,
    /// One line for people.
    pub brief: String,
    /// False where the event as a whole is too sensitive to be stored.
    pub stored: bool,
    /// The purposes to which consent is asked for; empty where it needs none. None in a map that does not tell.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub purposes: Option<Vec<String>>,
    /// The rule that says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub purposes_rule: Option<String>,
    /// Whose consent it withdraws or gives again, where it does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub withdrawal: Option<MappedWithdrawal>,
    /// What it may carry, by key. Anything else that it carries is dropped.
    pub attributes: Vec<MappedAttribute>,
}

/// An attribute, as one event uses it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MappedAttribute {
    /// The key on the wire.
    pub key: String,
    /// The column that it fills, if it is stored.
    pub column: String,
    /// The declared type, as registry files spell it; `enum` with its members in `members`.
    #[serde(rename = "type")]
    pub ty: String,
    /// The values that an enum admits; empty for other types.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub members: Vec<String>,
    /// The type of an enum's values, `string` or `int`; None for other types.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub members_type: Option<String>,
    /// One line for people.
    pub brief: String,
    /// The level in force.
    pub level: String,
    /// `required` or `optional`.
    pub requirement: String,
    /// The treatment that the registry names for it, whatever its level.
    pub declared_treatment: Option<String>,
    /// The treatment, by destination; of the warehouse, that of tables without a policy of their own.
    pub treatments: BTreeMap<Destination, String>,
    /// The rule that decides it, by destination.
    pub rules: BTreeMap<Destination, String>,
    /// The treatment in each table that has a policy of its own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub tables: BTreeMap<String, MappedTreatment>,
    /// What is done to text before a pseudonym is made of it: `trim`, `lowercase`.
    pub normalise: Vec<String>,
    /// Whose value it may hold: `anyone` or `server`.
    pub trust: String,
    /// What happens where a kept value holds a leak: `mask`, `drop` or `quarantine`; None where its values cannot hold one.
    pub leaks: Option<String>,
}

/// A treatment, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedTreatment {
    /// The treatment.
    pub treatment: String,
    /// The rule that decides it.
    pub rule: String,
}

impl DataMap {
    /// The policy that `gate` enforces, written out, and the tables that its rows go to. No key is part of it.
    #[must_use]
    pub fn of(gate: &Gate, tables: Vec<MappedTable>) -> Self {
        let registry = gate.registry();
        let levels = PrivacyLevel::ALL.map(|level| mapped_level(gate, level));
        let own = |name: &str| gate.options.tables.iter().find(|table| table.name == name);
        let with_policy = |table: MappedTable| {
            let levels = own(&table.name).into_iter().flat_map(|own| own.levels.iter());
            let policy = levels.map(|(level, one)| (level.as_str().to_owned(), one.to_string())).collect();
            MappedTable { policy, ..table }
        };
        Self {
            format: FORMAT.to_owned(),
            policy_version: gate.policy_version().to_owned(),
            registry_version: registry.version().to_owned(),
            settings: settings(&gate.options),
            levels: levels.into(),
            tables: tables.into_iter().map(with_policy).collect(),
            routes: gate.options.routes.iter().map(|route| mapped_route(gate, route)).collect(),
            consent: Some(MappedConsent::of(gate)),
            envelope: ENVELOPE_COLUMNS.map(str::to_owned).into(),
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

impl MappedAttribute {
    /// What becomes of it in a table.
    #[must_use]
    pub fn treatment_in(&self, table: &str) -> &str {
        let general = || self.treatments.get(&Destination::Warehouse).map_or("drop", String::as_str);
        self.tables.get(table).map_or_else(general, |own| own.treatment.as_str())
    }

    /// Its type with the values that an enum admits, so that two declarations can be compared.
    #[must_use]
    pub fn full_type(&self) -> String {
        if self.members.is_empty() { self.ty.clone() } else { format!("enum of {}", self.members.join(", ")) }
    }
}

fn settings(options: &GateOptions) -> MappedSettings {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    MappedSettings {
        future_max_ms: millis(options.future_max),
        age_max_ms: millis(options.age_max),
        value_bytes_max: options.value_bytes_max as u64,
        level_attribute: options.level_key.clone(),
        category_attribute: options.category_key.clone(),
        tenant_attribute: options.tenant_key.clone(),
        quarantine_broken: options.quarantine_broken,
        quarantine_undeclared: options.quarantine_undeclared,
    }
}

fn mapped_level(gate: &Gate, level: PrivacyLevel) -> MappedLevel {
    let plain =
        EventAttribute { attribute: 0, requirement: Requirement::Optional, privacy: level, treatment: None };
    let (treatments, rules) = decided(gate, &plain);
    MappedLevel { level: level.as_str().to_owned(), treatments, rules }
}

fn mapped_route(gate: &Gate, route: &Route) -> MappedRoute {
    let Route { category, events, resource, consent, target } = route;
    MappedRoute {
        category: category.map(|category| category.as_str().to_owned()),
        events: events
            .iter()
            .map(|pattern| match pattern {
                EventPattern::Name(name) => name.clone(),
                EventPattern::Prefix(prefix) => format!("{prefix}*"),
            })
            .collect(),
        resource: resource
            .as_ref()
            .map(|ResourceMatch { key, value }| MappedResource { key: key.clone(), value: value.clone() }),
        consent: consent.map(|consent| consent.as_str().to_owned()),
        table: match target {
            RouteTarget::Drop => None,
            RouteTarget::Table(place) => gate.options.tables.get(*place).map(|table| table.name.clone()),
        },
    }
}

fn mapped_event(gate: &Gate, event: &Event) -> MappedEvent {
    let (purposes, purposes_rule) = consent::of_event(gate, event);
    let stored = event.privacy != PrivacyLevel::Sensitive;
    let attribute = |used: &EventAttribute| {
        let attribute = gate.registry().attributes().get(used.attribute)?;
        Some(mapped_attribute(gate, attribute, used))
    };
    MappedEvent {
        name: event.name.clone(),
        category: event.category.as_str().to_owned(),
        level: event.privacy.as_str().to_owned(),
        brief: event.brief.clone(),
        stored,
        purposes: Some(purposes),
        purposes_rule: Some(purposes_rule),
        withdrawal: consent::withdrawal(gate, event),
        attributes: event.attributes.iter().filter_map(attribute).collect(),
    }
}

fn mapped_attribute(gate: &Gate, attribute: &Attribute, used: &EventAttribute) -> MappedAttribute {
    let columns = gate.registry().columns();
    let (ty, members) = spelt(&attribute.ty);
    let (treatments, rules) = decided(gate, used);
    MappedAttribute {
        key: attribute.key.clone(),
        column: columns.get(attribute.column).map(|column| column.name.clone()).unwrap_or_default(),
        ty,
        members,
        members_type: match &attribute.ty {
            AttributeType::Enum { values, .. } => Some(spelt_primitive(*values).to_owned()),
            _ => None,
        },
        brief: attribute.brief.clone(),
        level: used.privacy.as_str().to_owned(),
        requirement: match used.requirement {
            Requirement::Required => "required".to_owned(),
            Requirement::Optional => "optional".to_owned(),
        },
        declared_treatment: used.treatment.map(|treatment| treatment.to_string()),
        treatments,
        rules,
        tables: in_tables(gate, used),
        normalise: steps(attribute.normalise),
        trust: match attribute.trust {
            Trust::Anyone => "anyone".to_owned(),
            Trust::Server => "server".to_owned(),
        },
        leaks: holds_free_text(&attribute.ty).then(|| match attribute.leaks {
            LeakAction::Mask => "mask".to_owned(),
            LeakAction::Drop => "drop".to_owned(),
            LeakAction::Quarantine => "quarantine".to_owned(),
        }),
    }
}

/// What happens to an attribute of an event, and which rule says so, by destination.
fn decided(
    gate: &Gate,
    used: &EventAttribute,
) -> (BTreeMap<Destination, String>, BTreeMap<Destination, String>) {
    let rules = &gate.options.rules;
    let of = |destination| -> (Treatment, Rule) {
        match destination {
            Destination::Warehouse => rules.warehouse(used, "", &LevelTreatments::default()),
            Destination::Amplitude => rules.amplitude(used),
        }
    };
    let found = Destination::ALL.map(|destination| (destination, of(destination)));
    let treatments = found.iter().map(|(at, (treatment, _))| (*at, treatment.to_string())).collect();
    let rules = found.iter().map(|(at, (_, rule))| (*at, rule.to_string())).collect();
    (treatments, rules)
}

/// What happens to an attribute in the tables that have a policy of their own.
fn in_tables(gate: &Gate, used: &EventAttribute) -> BTreeMap<String, MappedTreatment> {
    let own = gate.options.tables.iter().filter(|table| !table.levels.is_empty());
    own.map(|table| {
        let (treatment, rule) = gate.options.rules.warehouse(used, &table.name, &table.levels);
        let mapped = MappedTreatment { treatment: treatment.to_string(), rule: rule.to_string() };
        (table.name.clone(), mapped)
    })
    .collect()
}

fn steps(normalise: Normalisation) -> Vec<String> {
    let steps = [(normalise.trim, "trim"), (normalise.lowercase, "lowercase")];
    steps.into_iter().filter(|(taken, _)| *taken).map(|(_, step)| step.to_owned()).collect()
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

fn spelt_primitive(primitive: Primitive) -> &'static str {
    match primitive {
        Primitive::String => "string",
        Primitive::Int => "int",
        Primitive::Double => "double",
        Primitive::Boolean => "boolean",
    }
}

/// A type as registry files spell it, and the members of an enum.
fn spelt(ty: &AttributeType) -> (String, Vec<String>) {
    match ty {
        AttributeType::Scalar(of) => (spelt_primitive(*of).to_owned(), Vec::new()),
        AttributeType::Array(of) => (format!("{}[]", spelt_primitive(*of)), Vec::new()),
        AttributeType::Any => ("any".to_owned(), Vec::new()),
        AttributeType::Template(entry) => (format!("template[{}]", spelt(entry).0), Vec::new()),
        AttributeType::Enum { members, .. } => ("enum".to_owned(), members.clone()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
