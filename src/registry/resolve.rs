//! What refs and group refs point at: each event's full list of attributes.
//!
//! Owns: duplicates, unknown refs, nested groups and their cycles, which level is in force for an event, keys that a
//! template makes ambiguous. Does not own: columns (`column`).

use std::collections::{BTreeMap, HashMap};

use super::annotation::{self, DeclaredWithdrawal};
use super::parse::{Declared, Definition, EventDefinition, Group, Refinement, Use};
use super::problem::{Place, Problem};
use super::{
    Attribute, AttributeType, Category, Event, EventAttribute, Primitive, PrivacyLevel, Requirement,
    Treatment, Withdrawal,
};

/// A table of more columns is one that no engine reads well; far above any catalogue seen.
const ATTRIBUTES_MAX: usize = 2_000;

/// Groups in groups; Weaver itself advises against any nesting.
const GROUP_DEPTH_MAX: usize = 16;

/// An event whose refs are all followed.
#[derive(Debug)]
pub(super) struct ResolvedEvent {
    pub(super) name: String,
    category: Category,
    privacy: PrivacyLevel,
    brief: String,
    consent: annotation::Consent,
    /// By key.
    pub(super) attributes: BTreeMap<String, ResolvedUse>,
}

/// How one event uses one attribute.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResolvedUse {
    requirement: Requirement,
    pub(super) privacy: PrivacyLevel,
    pub(super) treatment: Option<Treatment>,
}

struct Index<'a> {
    definitions: HashMap<&'a str, &'a Definition>,
    groups: HashMap<&'a str, &'a Group>,
}

/// Follows every ref. The events come back sorted by name.
pub(super) fn resolve(declared: &Declared, problems: &mut Vec<Problem>) -> Vec<ResolvedEvent> {
    let index = index(declared, problems);
    check_templates(&declared.attributes, problems);
    let mut expander = Expander { index: &index, groups: HashMap::new() };
    for group in &declared.groups {
        // Also the groups that no event uses: a mistake in them is a mistake.
        expander.group(group, &mut Vec::new(), problems);
    }
    let mut events = BTreeMap::new();
    for event in &declared.events {
        let uses = expander.uses(&event.uses, &mut Vec::new(), (&event.file, &event.name), problems);
        let resolved = resolve_event(event, uses, &index, problems);
        if events.insert(event.name.as_str(), resolved).is_some() {
            Place::new(&event.file, &event.name, problems)
                .report("the event is declared twice", "declare it once; an event may have many attributes");
        }
    }
    if events.is_empty() && problems.is_empty() {
        Place::new("schemas", "", problems)
            .report("no file declares an event, so nothing could be stored", "declare the first in `events`");
    }
    events.into_values().collect()
}

/// What groups say of whole categories, in the order of [`Category::ALL`].
pub(super) fn categories(declared: &Declared, problems: &mut Vec<Problem>) -> [Option<Vec<String>>; 3] {
    Category::ALL.map(|category| {
        let mut said = declared.groups.iter().filter_map(|group| {
            let one = group.category.as_ref().filter(|one| one.category == category)?;
            Some((group, one))
        });
        let (first, purposes) = said.next()?;
        for (group, _) in said {
            Place::new(&group.file, &group.id, problems).report(
                format!(
                    "the purposes of the category {} are declared twice, also by {} in {}",
                    category.as_str(),
                    first.id,
                    first.file
                ),
                "declare them once; an event with other purposes names its own",
            );
        }
        Some(purposes.purposes.clone())
    })
}

/// The public form of the events, once the attributes have their final places.
pub(super) fn events(resolved: Vec<ResolvedEvent>, attributes: &[Attribute]) -> Vec<Event> {
    let places: HashMap<&str, usize> =
        attributes.iter().enumerate().map(|(place, attribute)| (attribute.key.as_str(), place)).collect();
    let event = |event: ResolvedEvent| Event {
        name: event.name,
        category: event.category,
        privacy: event.privacy,
        brief: event.brief,
        withdrawal: event.consent.withdrawal.and_then(|declared| {
            let subject = *places.get(declared.subject.as_str())?;
            Some(Withdrawal { subject, lifts: declared.lifts })
        }),
        purposes: event.consent.purposes,
        attributes: event
            .attributes
            .iter()
            .filter_map(|(key, used)| {
                let attribute = *places.get(key.as_str())?;
                let ResolvedUse { requirement, privacy, treatment } = *used;
                Some(EventAttribute { attribute, requirement, privacy, treatment })
            })
            .collect(),
    };
    resolved.into_iter().map(event).collect()
}

fn index<'a>(declared: &'a Declared, problems: &mut Vec<Problem>) -> Index<'a> {
    let mut definitions: HashMap<&str, &Definition> = HashMap::new();
    for definition in &declared.attributes {
        if let Some(first) = definitions.insert(&definition.key, definition) {
            Place::new(&definition.file, &definition.key, problems).report(
                format!("the attribute is defined twice, also in {}", first.file),
                "define it once and refine it at a ref; attributes are global",
            );
        }
    }
    if let Some(definition) = declared.attributes.get(ATTRIBUTES_MAX) {
        Place::new(&definition.file, "", problems).report(
            format!("{} attributes are declared, more than {ATTRIBUTES_MAX}", declared.attributes.len()),
            "gather rare attributes in one of type any or template[T]",
        );
    }
    let mut groups: HashMap<&str, &Group> = HashMap::new();
    for group in &declared.groups {
        if let Some(first) = groups.insert(&group.id, group) {
            Place::new(&group.file, &group.id, problems).report(
                format!("the group is declared twice, also in {}", first.file),
                "give one another id",
            );
        }
    }
    Index { definitions, groups }
}

/// A key must belong to one attribute: its own, or the one template that it starts with.
fn check_templates(definitions: &[Definition], problems: &mut Vec<Problem>) {
    let mut keys: Vec<&Definition> = definitions.iter().collect();
    keys.sort_by(|a, b| a.key.cmp(&b.key));
    for template in keys.iter().filter(|one| matches!(one.ty, AttributeType::Template(_))) {
        let prefix = format!("{}.", template.key);
        let start = keys.partition_point(|other| other.key.as_str() < prefix.as_str());
        for other in keys.iter().skip(start).take_while(|other| other.key.starts_with(&prefix)) {
            Place::new(&other.file, &other.key, problems).report(
                format!(
                    "the key also matches the template `{}`, so its value would have two places",
                    template.key
                ),
                "rename one of them, or let the template alone hold the value",
            );
        }
    }
}

fn resolve_event(
    event: &EventDefinition,
    uses: Uses<'_>,
    index: &Index<'_>,
    problems: &mut Vec<Problem>,
) -> ResolvedEvent {
    let mut attributes = BTreeMap::new();
    for (key, refinement) in uses {
        let definition = index.definitions.get(key).copied();
        let defined = definition.and_then(|definition| definition.privacy);
        let Some(privacy) = refinement.privacy.or(defined) else {
            Place::new(&event.file, &event.name, problems).report(
                format!("`{key}` has no privacy level, neither where it is defined nor here"),
                "add `annotations: {esker: {privacy: ...}}` to the definition, or to this ref",
            );
            continue;
        };
        let requirement = refinement.requirement.unwrap_or(Requirement::Optional);
        let privacy = privacy.max(event.privacy);
        let treatment = treatment(event, definition, refinement.treatment.as_ref(), problems);
        if privacy == PrivacyLevel::Sensitive
            && treatment.is_some_and(|treatment| treatment != Treatment::Drop)
        {
            Place::new(&event.file, &event.name, problems).report(
                format!("`{key}` is sensitive and has a treatment that would store some of it"),
                "take the `treatment` out: sensitive values are never stored; or lower its level if it is not sensitive",
            );
        }
        attributes.insert(key.to_owned(), ResolvedUse { requirement, privacy, treatment });
    }
    if let Some(withdrawal) = &event.consent.withdrawal {
        let used =
            attributes.get(&withdrawal.subject).zip(index.definitions.get(withdrawal.subject.as_str()));
        let used = used.map(|(used, definition)| (used, &definition.ty));
        check_subject(withdrawal, used, &mut Place::new(&event.file, &event.name, problems));
    }
    let (name, brief, consent) = (event.name.clone(), event.brief.clone(), event.consent.clone());
    ResolvedEvent { name, category: event.category, privacy: event.privacy, brief, consent, attributes }
}

/// Only a pseudonym that the event itself carries can be held against those of later events.
fn check_subject(
    withdrawal: &DeclaredWithdrawal,
    used: Option<(&ResolvedUse, &AttributeType)>,
    place: &mut Place<'_>,
) {
    let subject = &withdrawal.subject;
    let Some((used, ty)) = used else {
        place.report(
            format!("its `withdrawal` is of `{subject}`, which is no attribute of the event"),
            format!("add `- ref: {subject}` to its attributes, or name one that is there"),
        );
        return;
    };
    if used.privacy != PrivacyLevel::Pseudonymous
        || used.treatment.is_some_and(|treatment| treatment != Treatment::Pseudonymise)
    {
        place.report(
            format!("its `withdrawal` is of `{subject}`, which is not stored as a pseudonym in this event"),
            "make its level pseudonymous here, without another treatment: withdrawals are matched by pseudonym",
        );
    }
    // A withdrawal of nobody would be stored and stop nobody.
    if !matches!(ty, AttributeType::Scalar(Primitive::String | Primitive::Int)) {
        place.report(
            format!("its `withdrawal` is of `{subject}`, which is not one text or number"),
            "name an attribute of type string or int",
        );
    } else if used.requirement != Requirement::Required {
        place.report(
            format!("its `withdrawal` is of `{subject}`, which the event may lack"),
            format!("write `- {{ref: {subject}, requirement_level: required}}`"),
        );
    }
}

/// The treatment that the ref names, else the definition.
fn treatment(
    event: &EventDefinition,
    definition: Option<&Definition>,
    refined: Option<&serde_json::Value>,
    problems: &mut Vec<Problem>,
) -> Option<Treatment> {
    let definition = definition?;
    let place = || format!("{} (ref to `{}`)", event.name, definition.key);
    match refined {
        Some(value) => Some(annotation::treatment(
            value,
            &definition.ty,
            &mut Place::new(&event.file, place(), problems),
        )),
        None => definition.treatment,
    }
}

/// By key.
type Uses<'a> = BTreeMap<&'a str, Refinement>;

/// Expands each group once, so that a mistake in a group is told once and not by every event that uses it.
struct Expander<'a> {
    index: &'a Index<'a>,
    groups: HashMap<&'a str, Uses<'a>>,
}

impl<'a> Expander<'a> {
    fn group(&mut self, group: &'a Group, path: &mut Vec<&'a str>, problems: &mut Vec<Problem>) -> Uses<'a> {
        if let Some(done) = self.groups.get(group.id.as_str()) {
            return done.clone();
        }
        path.push(&group.id);
        let uses = self.uses(&group.uses, path, (&group.file, &group.id), problems);
        path.pop();
        self.groups.insert(&group.id, uses.clone());
        uses
    }

    /// The attributes of a list of uses. A direct `ref` refines what a group says of the same attribute, wherever it
    /// stands in the list; two groups may not both say something of it.
    fn uses(
        &mut self,
        uses: &'a [Use],
        path: &mut Vec<&'a str>,
        (file, item): (&str, &str),
        problems: &mut Vec<Problem>,
    ) -> Uses<'a> {
        let mut attributes = Uses::new();
        for used in uses {
            let Use::Group(id) = used else { continue };
            let Some(group) = enter(id, self.index, path, &mut Place::new(file, item, problems)) else {
                continue;
            };
            for (key, refinement) in self.group(group, path, problems) {
                if attributes.insert(key, refinement).is_some() {
                    Place::new(file, item, problems).report(
                        format!("two of its groups refer to `{key}`; the second is `{id}`"),
                        "take it out of one group",
                    );
                }
            }
        }
        for (key, own) in direct(uses, self.index, &mut Place::new(file, item, problems)) {
            let from_group = attributes.remove(key).unwrap_or_default();
            let refined = Refinement {
                requirement: own.requirement.or(from_group.requirement),
                privacy: own.privacy.or(from_group.privacy),
                treatment: own.treatment.or(from_group.treatment),
            };
            attributes.insert(key, refined);
        }
        attributes
    }
}

/// The direct refs of a list of uses.
fn direct<'a>(uses: &'a [Use], index: &Index<'a>, place: &mut Place<'_>) -> Uses<'a> {
    let mut attributes = Uses::new();
    for used in uses {
        let Use::Attribute { key, refinement } = used else { continue };
        if !index.definitions.contains_key(key.as_str()) {
            place.report(format!("refers to `{key}`, which no file defines"), "define it in `attributes`");
            continue;
        }
        if attributes.insert(key.as_str(), refinement.clone()).is_some() {
            place.report(format!("refers to `{key}` twice"), "keep one ref");
        }
    }
    attributes
}

fn enter<'a>(id: &'a str, index: &Index<'a>, path: &[&str], place: &mut Place<'_>) -> Option<&'a Group> {
    if path.contains(&id) {
        place.report(
            format!("its groups go in a circle: {} -> {id}", path.join(" -> ")),
            "take one `ref_group` of the circle out",
        );
        return None;
    }
    if path.len() == GROUP_DEPTH_MAX {
        place.report(
            format!("nests groups more than {GROUP_DEPTH_MAX} deep"),
            "refer to the attributes directly",
        );
        return None;
    }
    let group = index.groups.get(id).copied();
    if group.is_none() {
        place.report(
            format!("refers to the group `{id}`, which no file declares"),
            "declare it in `attribute_groups`",
        );
    }
    group
}
