//! The registry, compiled for lookups by the bytes that arrive.
//!
//! Owns: event and attribute lookup, the treatment of each attribute on each event, templates. Does not own: values.
//!
//! Every attribute key of the registry has a number; an event's plan is a dense table of one treatment per number. Keys
//! with a meaning of their own (`log.record.uid`, the event name's attributes, the
//! record's level) have numbers behind the attributes'.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::coerce::Coercion;
use crate::registry::{AttributeType, ColumnType, Event, LeakAction, PrivacyLevel, Registry, Trust};

const UID_KEY: &str = "log.record.uid";
const NAME_KEYS: [&str; 2] = ["event.name", "otel.event.name"];

/// What happens to an attribute of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Treatment {
    /// The event does not declare it.
    Undeclared,
    Keep,
    Pseudonymise,
    DropPersonal,
    DropSensitive,
    /// The record's own level forbids it.
    DropByRecord,
    /// It is the event's id.
    EventId,
    /// It is the event's name, where it equals the name by precedence.
    EventName,
    /// It is the record's own level, which was read before.
    RecordLevel,
}

impl Treatment {
    fn of(level: PrivacyLevel) -> Self {
        match level {
            PrivacyLevel::Public | PrivacyLevel::Internal => Self::Keep,
            PrivacyLevel::Pseudonymous => Self::Pseudonymise,
            PrivacyLevel::Personal => Self::DropPersonal,
            PrivacyLevel::Sensitive => Self::DropSensitive,
        }
    }

    /// The treatment where the record states a level: the stricter of both. What would have to become a pseudonym has no
    /// place in a column of plain values, so it is dropped.
    pub(super) fn at_least(self, stated: PrivacyLevel) -> Self {
        match (self, Self::of(stated)) {
            (Self::Keep, Self::Keep) | (Self::Pseudonymise, Self::Keep | Self::Pseudonymise) => self,
            (Self::Keep | Self::Pseudonymise, _) => Self::DropByRecord,
            _ => self,
        }
    }
}

/// How an attribute's values are read, and where they go.
#[derive(Debug)]
pub(super) struct AttributePlan {
    pub(super) coercion: Coercion,
    /// Index into `Registry::columns`.
    pub(super) column: u32,
    pub(super) column_type: ColumnType,
    /// Another attribute fills the same column.
    pub(super) shared: bool,
    /// The stored text is JSON.
    pub(super) json: bool,
    /// A stored value can hold text that a sender chose, and is scanned for leaks.
    pub(super) scanned: bool,
    pub(super) leaks: LeakAction,
    pub(super) trust: Trust,
}

/// A template that an event declares.
#[derive(Debug)]
pub(super) struct TemplatePlan {
    /// The attribute's key and a dot.
    prefix: Box<[u8]>,
    /// The attribute's number.
    pub(super) key: u32,
    pub(super) treatment: Treatment,
}

/// What an event may carry.
#[derive(Debug)]
pub(super) struct EventPlan {
    /// By key number.
    treatments: Box<[Treatment]>,
    /// Longest prefix first.
    templates: Box<[TemplatePlan]>,
    pub(super) level: PrivacyLevel,
}

impl EventPlan {
    pub(super) fn treatment(&self, key: u32) -> Treatment {
        self.treatments.get(key as usize).copied().unwrap_or(Treatment::Undeclared)
    }

    /// The event's template with the longest prefix that a key has, and the rest of the key.
    pub(super) fn template<'k>(&self, key: &'k [u8]) -> Option<(&TemplatePlan, &'k [u8])> {
        self.templates.iter().find_map(|template| {
            let rest = key.strip_prefix(&*template.prefix)?;
            (!rest.is_empty()).then_some((template, rest))
        })
    }
}

/// The compiled registry.
#[derive(Debug)]
pub(super) struct Policy {
    events: HashMap<Box<[u8]>, u32, FixedState>,
    keys: HashMap<Box<[u8]>, u32, FixedState>,
    /// By key number, the key; a template's is empty, as no attribute has it.
    key_texts: Vec<Box<[u8]>>,
    /// By event number.
    event_names: Vec<Box<[u8]>>,
    plans: Vec<EventPlan>,
    attributes: Vec<AttributePlan>,
    uid_key: Option<u32>,
}

impl Policy {
    pub(super) fn new(registry: &Registry, level_key: &str) -> Self {
        let mut keys: HashMap<Box<[u8]>, u32, FixedState> = HashMap::default();
        for (number, attribute) in (0_u32..).zip(registry.attributes()) {
            // A template's own key stands for the keys below it; by itself it is not an attribute.
            if !matches!(attribute.ty, AttributeType::Template(_)) {
                keys.insert(attribute.key.as_bytes().into(), number);
            }
        }
        let declared = registry.attributes().len();
        let mut reserved = Vec::new();
        let with_meaning = [(UID_KEY, Treatment::EventId), (level_key, Treatment::RecordLevel)];
        let names = NAME_KEYS.map(|key| (key, Treatment::EventName));
        for (key, treatment) in with_meaning.into_iter().chain(names) {
            let number = (declared + reserved.len()) as u32;
            if let hashbrown::hash_map::Entry::Vacant(vacant) = keys.entry(key.as_bytes().into()) {
                vacant.insert(number);
                reserved.push(treatment);
            }
        }
        let events =
            registry.events().iter().zip(0..).map(|(event, number)| (event.name.as_bytes().into(), number));
        let mut key_texts = vec![Box::default(); declared + reserved.len()];
        for (key, number) in &keys {
            if let Some(text) = key_texts.get_mut(*number as usize) {
                *text = key.clone();
            }
        }
        Self {
            events: events.collect(),
            event_names: registry.events().iter().map(|event| event.name.as_bytes().into()).collect(),
            key_texts,
            uid_key: keys.get(UID_KEY.as_bytes()).copied(),
            keys,
            plans: registry.events().iter().map(|e| event_plan(registry, e, &reserved)).collect(),
            attributes: attribute_plans(registry),
        }
    }

    /// The number of the declared event with this name. `guess` is tried first.
    pub(super) fn event(&self, name: &[u8], guess: u32) -> Option<u32> {
        match self.event_names.get(guess as usize) {
            Some(guessed) if **guessed == *name => Some(guess),
            _ => self.events.get(name).copied(),
        }
    }

    pub(super) fn plan(&self, event: u32) -> Option<&EventPlan> {
        self.plans.get(event as usize)
    }

    /// The number of a key that is declared, or has a meaning of its own. `guess` is tried first.
    #[inline]
    pub(super) fn key(&self, key: &[u8], guess: u32) -> Option<u32> {
        match self.key_texts.get(guess as usize) {
            Some(guessed) if **guessed == *key && !key.is_empty() => Some(guess),
            _ => self.keys.get(key).copied(),
        }
    }

    pub(super) fn attribute(&self, key: u32) -> Option<&AttributePlan> {
        self.attributes.get(key as usize)
    }

    pub(super) fn attribute_count(&self) -> usize {
        self.attributes.len()
    }

    pub(super) fn event_count(&self) -> usize {
        self.plans.len()
    }

    pub(super) fn key_count(&self) -> usize {
        self.key_texts.len()
    }

    pub(super) fn is_uid(&self, key: u32) -> bool {
        self.uid_key == Some(key)
    }
}

fn event_plan(registry: &Registry, event: &Event, reserved: &[Treatment]) -> EventPlan {
    let mut treatments = vec![Treatment::Undeclared; registry.attributes().len()];
    treatments.extend_from_slice(reserved);
    let mut templates = Vec::new();
    for used in &event.attributes {
        let Some(attribute) = registry.attributes().get(used.attribute) else { continue };
        let treatment = Treatment::of(used.privacy);
        if matches!(attribute.ty, AttributeType::Template(_)) {
            let prefix = format!("{}.", attribute.key).into_bytes().into();
            templates.push(TemplatePlan { prefix, key: used.attribute as u32, treatment });
        } else if let Some(slot) = treatments.get_mut(used.attribute) {
            *slot = treatment;
        }
    }
    templates.sort_by_key(|template| std::cmp::Reverse(template.prefix.len()));
    EventPlan { treatments: treatments.into(), templates: templates.into(), level: event.privacy }
}

fn attribute_plans(registry: &Registry) -> Vec<AttributePlan> {
    let mut users = vec![0_usize; registry.columns().len()];
    for attribute in registry.attributes() {
        if let Some(count) = users.get_mut(attribute.column) {
            *count += 1;
        }
    }
    let plan = |attribute: &crate::registry::Attribute| {
        let coercion = Coercion::new(&attribute.ty);
        // A template's keys are the sender's own text, whatever its values are.
        let template = matches!(attribute.ty, AttributeType::Template(_));
        AttributePlan {
            column: attribute.column as u32,
            column_type: registry.columns().get(attribute.column).map_or(ColumnType::String, |one| one.ty),
            shared: users.get(attribute.column).is_some_and(|count| *count > 1),
            json: template || coercion.makes_json(),
            scanned: template || coercion.holds_free_text(),
            leaks: attribute.leaks,
            trust: attribute.trust,
            coercion,
        }
    };
    registry.attributes().iter().map(plan).collect()
}
