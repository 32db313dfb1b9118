//! The registry and the operator's rules, compiled for lookups by the bytes that arrive.
//!
//! Owns: event and attribute lookup, the action for each attribute of each event in each table, templates. Does not own:
//! values, nor the rules' order of precedence (`rules`).
//!
//! Every attribute key of the registry has a number; an event's plan is a dense table of one action per number. Keys with a
//! meaning of their own (`log.record.uid`, the event name's attributes, the record's level and category) have numbers
//! behind the attributes'.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::action::{Action, DropReason, Reductions};
use super::coerce::Coercion;
use super::consent::{ConsentPolicy, Role};
use super::rules::{LevelTreatments, Rules};
use super::{GateOptions, PolicyError};
use crate::registry::{
    Attribute, AttributeType, Category, ColumnType, Event, EventAttribute, LeakAction, Normalisation,
    PrivacyLevel, Reduction, Registry, Requirement, Treatment, Trust,
};

const UID_KEY: &str = "log.record.uid";
const NAME_KEYS: [&str; 2] = ["event.name", "otel.event.name"];

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
    pub(super) normalise: Normalisation,
}

/// A template that an event declares.
#[derive(Debug)]
pub(super) struct TemplatePlan {
    /// The attribute's key and a dot.
    prefix: Box<[u8]>,
    /// The attribute's number.
    pub(super) key: u32,
}

/// What an event may carry.
#[derive(Debug)]
pub(super) struct EventPlan {
    /// Longest prefix first.
    templates: Box<[TemplatePlan]>,
    /// Numbers of the keys that it must carry.
    pub(super) required: Box<[u32]>,
    pub(super) level: PrivacyLevel,
    pub(super) category: Category,
}

impl EventPlan {
    /// The event's template with the longest prefix that a key has, and the rest of the key.
    pub(super) fn template<'k>(&self, key: &'k [u8]) -> Option<(&TemplatePlan, &'k [u8])> {
        self.templates.iter().find_map(|template| {
            let rest = key.strip_prefix(&*template.prefix)?;
            (!rest.is_empty()).then_some((template, rest))
        })
    }
}

/// What happens to the attributes of one event in one table.
#[derive(Debug)]
pub(super) struct Actions {
    /// By key number.
    all: Box<[Action]>,
    /// By key number, where identity must be stripped for want of consent.
    stripped: Box<[Action]>,
}

impl Actions {
    pub(super) fn of(&self, strip_identity: bool) -> &[Action] {
        if strip_identity { &self.stripped } else { &self.all }
    }
}

/// The compiled registry.
#[derive(Debug)]
pub(super) struct Policy {
    events: HashMap<Box<[u8]>, u32, FixedState>,
    keys: HashMap<Box<[u8]>, u32, FixedState>,
    /// By key number, the key; a template's is empty, as no attribute has it.
    key_texts: Vec<Box<[u8]>>,
    /// By key number, what the key means for consent.
    roles: Vec<Option<Role>>,
    /// By event number.
    event_names: Vec<Box<[u8]>>,
    plans: Vec<EventPlan>,
    /// By table, then by event number.
    actions: Vec<Vec<Actions>>,
    attributes: Vec<AttributePlan>,
    reductions: Reductions,
    uid_key: Option<u32>,
    level_key: Option<u32>,
    category_key: Option<u32>,
    /// The attributes that name the tenant, in the order in which they count.
    tenant_keys: Vec<u32>,
}

impl Policy {
    pub(super) fn new(
        registry: &Registry,
        options: &GateOptions,
        consent: &ConsentPolicy,
    ) -> Result<Self, PolicyError> {
        let Keys { keys, key_texts, reserved } = Keys::new(registry, options, consent);
        let mut reductions = Reductions::default();
        let mut actions = Vec::with_capacity(options.tables.len());
        for table in &options.tables {
            let compile = |event: &Event| {
                event_actions(registry, event, &reserved, &mut reductions, |used| {
                    options.rules.warehouse(used, &table.name, &table.levels).0
                })
            };
            actions.push(registry.events().iter().map(compile).collect());
            check_columns(registry, &options.rules, &table.name, &table.levels)?;
        }
        let number = |key: &str| keys.get(key.as_bytes()).copied();
        let events =
            registry.events().iter().zip(0..).map(|(event, number)| (event.name.as_bytes().into(), number));
        Ok(Self {
            events: events.collect(),
            event_names: registry.events().iter().map(|event| event.name.as_bytes().into()).collect(),
            roles: key_texts.iter().map(|key| consent.role(key)).collect(),
            key_texts,
            uid_key: number(UID_KEY),
            level_key: number(&options.level_key),
            category_key: number(&options.category_key),
            tenant_keys: tenant_keys(registry, options)?,
            keys,
            plans: registry.events().iter().map(|event| event_plan(registry, event)).collect(),
            actions,
            attributes: attribute_plans(registry),
            reductions,
        })
    }

    /// The number of the declared event with this name. `guess` is tried first.
    pub(super) fn event(&self, name: &[u8], guess: u32) -> Option<u32> {
        match self.event_names.get(guess as usize) {
            Some(guessed) if **guessed == *name => Some(guess),
            _ => self.events.get(name).copied(),
        }
    }

    #[inline]
    pub(super) fn plan(&self, event: u32) -> Option<&EventPlan> {
        self.plans.get(event as usize)
    }

    /// What happens to the attributes of an event in a table.
    #[inline]
    pub(super) fn actions(&self, table: usize, event: u32) -> Option<&Actions> {
        self.actions.get(table)?.get(event as usize)
    }

    /// The number of a key that is declared, or has a meaning of its own. `guess` is tried first.
    #[inline]
    pub(super) fn key(&self, key: &[u8], guess: u32) -> Option<u32> {
        match self.key_texts.get(guess as usize) {
            Some(guessed) if **guessed == *key && !key.is_empty() => Some(guess),
            _ => self.keys.get(key).copied(),
        }
    }

    /// What a key means for consent.
    #[inline]
    pub(super) fn role(&self, key: u32) -> Option<Role> {
        self.roles.get(key as usize).copied().flatten()
    }

    #[inline]
    pub(super) fn attribute(&self, key: u32) -> Option<&AttributePlan> {
        self.attributes.get(key as usize)
    }

    pub(super) fn reduction(&self, place: u8) -> Option<Reduction> {
        self.reductions.get(place)
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

    pub(super) fn is_level(&self, key: u32) -> bool {
        self.level_key == Some(key)
    }

    pub(super) fn is_category(&self, key: u32) -> bool {
        self.category_key == Some(key)
    }

    pub(super) fn tenant_keys(&self) -> &[u32] {
        &self.tenant_keys
    }
}

/// The numbers of keys.
struct Keys {
    keys: HashMap<Box<[u8]>, u32, FixedState>,
    key_texts: Vec<Box<[u8]>>,
    /// The actions for the numbers behind the attributes'.
    reserved: Vec<Action>,
}

impl Keys {
    fn new(registry: &Registry, options: &GateOptions, consent: &ConsentPolicy) -> Self {
        let mut keys: HashMap<Box<[u8]>, u32, FixedState> = HashMap::default();
        for (number, attribute) in (0_u32..).zip(registry.attributes()) {
            // A template's own key stands for the keys below it; by itself it is not an attribute.
            if !matches!(attribute.ty, AttributeType::Template(_)) {
                keys.insert(attribute.key.as_bytes().into(), number);
            }
        }
        let declared = registry.attributes().len();
        let mut reserved = Vec::new();
        let controls = [&options.level_key, &options.category_key].map(|key| (key.as_str(), Action::Control));
        let names = NAME_KEYS.map(|key| (key, Action::EventName));
        let own = [(UID_KEY, Action::EventId)].into_iter().chain(controls).chain(names);
        let own = own.map(|(key, action)| (key.as_bytes(), action));
        for (key, action) in own.chain(consent.keys().map(|key| (key, Action::Control))) {
            let number = (declared + reserved.len()) as u32;
            if let hashbrown::hash_map::Entry::Vacant(vacant) = keys.entry(key.into()) {
                vacant.insert(number);
                reserved.push(action);
            }
        }
        let mut key_texts = vec![Box::default(); declared + reserved.len()];
        for (key, number) in &keys {
            if let Some(text) = key_texts.get_mut(*number as usize) {
                *text = key.clone();
            }
        }
        Self { keys, key_texts, reserved }
    }
}

fn event_plan(registry: &Registry, event: &Event) -> EventPlan {
    let mut templates = Vec::new();
    let mut required = Vec::new();
    for used in &event.attributes {
        let Some(attribute) = registry.attributes().get(used.attribute) else { continue };
        let key = used.attribute as u32;
        if matches!(attribute.ty, AttributeType::Template(_)) {
            templates.push(TemplatePlan { prefix: format!("{}.", attribute.key).into_bytes().into(), key });
        }
        if used.requirement == Requirement::Required {
            required.push(key);
        }
    }
    templates.sort_by_key(|template| std::cmp::Reverse(template.prefix.len()));
    EventPlan {
        templates: templates.into(),
        required: required.into(),
        level: event.privacy,
        category: event.category,
    }
}

fn event_actions(
    registry: &Registry,
    event: &Event,
    reserved: &[Action],
    reductions: &mut Reductions,
    treatment: impl Fn(&EventAttribute) -> Treatment,
) -> Actions {
    let mut all = vec![Action::Undeclared; registry.attributes().len()];
    all.extend_from_slice(reserved);
    let mut stripped = all.clone();
    for used in &event.attributes {
        let action = reductions.action(treatment(used), used.privacy);
        let is_identity = action == Action::Pseudonymise
            || (used.privacy >= PrivacyLevel::Pseudonymous && !matches!(action, Action::Drop(_)));
        if let (Some(slot), Some(strip)) = (all.get_mut(used.attribute), stripped.get_mut(used.attribute)) {
            *slot = action;
            *strip = if is_identity { Action::Drop(DropReason::Consent) } else { action };
        }
    }
    Actions { all: all.into(), stripped: stripped.into() }
}

/// A column of numbers cannot hold pseudonyms, and a column of plain values must not.
fn check_columns(
    registry: &Registry,
    rules: &Rules,
    table: &str,
    own: &LevelTreatments,
) -> Result<(), PolicyError> {
    let mut plain = vec![false; registry.columns().len()];
    let mut pseudonyms = plain.clone();
    for used in registry.events().iter().flat_map(|event| &event.attributes) {
        let Some(attribute) = registry.attributes().get(used.attribute) else { continue };
        let marks = match rules.warehouse(used, table, own).0 {
            Treatment::Pseudonymise => &mut pseudonyms,
            Treatment::Keep | Treatment::Reduce(_) => &mut plain,
            Treatment::Drop => continue,
        };
        if let Some(mark) = marks.get_mut(attribute.column) {
            *mark = true;
        }
    }
    for ((column, plain), pseudonyms) in registry.columns().iter().zip(plain).zip(pseudonyms) {
        let column_name = || column.name.clone();
        if pseudonyms && plain {
            return Err(PolicyError::Mixed { table: table.to_owned(), column: column_name() });
        }
        if pseudonyms && !column.pseudonymous {
            return Err(PolicyError::NotForPseudonyms { table: table.to_owned(), column: column_name() });
        }
    }
    Ok(())
}

/// The tenant's attribute and those that share its column.
fn tenant_keys(registry: &Registry, options: &GateOptions) -> Result<Vec<u32>, PolicyError> {
    let Some(key) = &options.tenant_key else { return Ok(Vec::new()) };
    let of_key = |attribute: &&Attribute| attribute.key == *key;
    let tenant = registry.attributes().iter().find(of_key);
    let tenant = tenant.filter(|one| matches!(one.ty, AttributeType::Scalar(_)));
    let column = tenant.ok_or_else(|| PolicyError::Tenant { key: key.clone() })?.column;
    let sharing = (0_u32..).zip(registry.attributes()).filter(|(_, attribute)| attribute.column == column);
    let mut keys: Vec<_> = sharing.collect();
    keys.sort_by_key(|(_, attribute)| attribute.key != *key);
    Ok(keys.into_iter().map(|(number, _)| number).collect())
}

fn attribute_plans(registry: &Registry) -> Vec<AttributePlan> {
    let mut users = vec![0_usize; registry.columns().len()];
    for attribute in registry.attributes() {
        if let Some(count) = users.get_mut(attribute.column) {
            *count += 1;
        }
    }
    let plan = |attribute: &Attribute| {
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
            normalise: attribute.normalise,
            coercion,
        }
    };
    registry.attributes().iter().map(plan).collect()
}
