//! One file's text to what it declares, before anything refers to anything.
//!
//! Owns: the syntax of `definition/2` as far as events need it, and which annotations stand where. Does not own: what
//! an annotation says (`annotation`), what refs point at (`resolve`), types (`kind`), columns (`column`).

use serde_json::{Map, Value};

use super::problem::{Place, Problem};
use super::{
    AttributeType, Category, LeakAction, Normalisation, PrivacyLevel, Requirement, Treatment, Trust,
    annotation, kind,
};

/// OTLP recommends no more for an event's name.
const EVENT_NAME_BYTES_MAX: usize = 256;
/// Columns are named by keys, and engines cap a column's name at 255 bytes.
const KEY_BYTES_MAX: usize = 255;

/// A registry file is a list of flat records; deeper YAML is a mistake or an attack.
const YAML_DEPTH_MAX: usize = 32;
const YAML_NODES_MAX: usize = 1_000_000;
/// Aliases may repeat a record, but may not be a bomb.
const YAML_REPLAYED_MAX: usize = 100_000;

const STABILITIES: &str = "use development, alpha, beta, release_candidate or stable";
const REQUIREMENTS: &str = "use required, recommended, opt_in, or a mapping of conditionally_required, recommended or \
                            opt_in to a text";

/// What all files declare.
#[derive(Debug, Default)]
pub(super) struct Declared {
    pub(super) attributes: Vec<Definition>,
    pub(super) groups: Vec<Group>,
    pub(super) events: Vec<EventDefinition>,
    pub(super) notices: Vec<String>,
}

/// An item of `attributes`.
#[derive(Debug)]
pub(super) struct Definition {
    pub(super) file: String,
    pub(super) key: String,
    pub(super) ty: AttributeType,
    pub(super) brief: String,
    pub(super) privacy: Option<PrivacyLevel>,
    pub(super) same_column_as: Option<String>,
    pub(super) treatment: Option<Treatment>,
    pub(super) normalise: Normalisation,
    pub(super) leaks: LeakAction,
    pub(super) trust: Trust,
}

/// An item of `attribute_groups`.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) file: String,
    pub(super) id: String,
    /// What it says for a whole category.
    pub(super) category: Option<annotation::CategoryPurposes>,
    pub(super) uses: Vec<Use>,
}

/// An item of `events`.
#[derive(Debug)]
pub(super) struct EventDefinition {
    pub(super) file: String,
    pub(super) name: String,
    pub(super) category: Category,
    pub(super) privacy: PrivacyLevel,
    pub(super) brief: String,
    pub(super) consent: annotation::Consent,
    pub(super) uses: Vec<Use>,
}

/// What a ref says of the attribute it points at.
#[derive(Debug, Clone, Default)]
pub(super) struct Refinement {
    pub(super) requirement: Option<Requirement>,
    pub(super) privacy: Option<PrivacyLevel>,
    /// As written: whether it suits the type shows once the ref is followed.
    pub(super) treatment: Option<Value>,
}

/// An item of an event's or a group's `attributes`.
#[derive(Debug)]
pub(super) enum Use {
    /// `ref`, with what it refines.
    Attribute { key: String, refinement: Refinement },
    /// `ref_group`.
    Group(String),
}

/// Reads one file into `declared`.
pub(super) fn file(name: &str, text: &str, declared: &mut Declared, problems: &mut Vec<Problem>) {
    let mut place = Place::new(name, "", problems);
    let root: Value = match serde_saphyr::from_str_with_options(text, yaml_options()) {
        Ok(root) => root,
        Err(error) => {
            place.report(format!("is not valid YAML: {error}"), "correct the file there");
            return;
        }
    };
    let Value::Object(root) = root else {
        place.report("is not a mapping", "start it with `file_format: definition/2`");
        return;
    };
    if !has_known_format(&root, &mut place) {
        return;
    }
    check_sections(name, &root, &mut declared.notices, &mut place);
    for (number, item) in section(&root, "attributes", &mut place).iter().enumerate() {
        declared.attributes.extend(attribute(name, item, number, &mut place));
    }
    for (number, item) in section(&root, "attribute_groups", &mut place).iter().enumerate() {
        declared.groups.extend(group(name, item, number, &mut place));
    }
    for (number, item) in section(&root, "events", &mut place).iter().enumerate() {
        declared.events.extend(event(name, item, number, &mut place));
    }
}

fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: YAML_DEPTH_MAX, max_nodes: YAML_NODES_MAX },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: YAML_REPLAYED_MAX },
        strict_booleans: true,
        with_snippet: false,
    }
}

fn has_known_format(root: &Map<String, Value>, place: &mut Place<'_>) -> bool {
    match root.get("file_format").and_then(Value::as_str) {
        Some("definition/2") => true,
        Some(other) => {
            place.report(
                format!("has the file format `{other}`"),
                "rewrite it as `file_format: definition/2`, the only one that Esker reads",
            );
            false
        }
        None => {
            place.report(
                "has no `file_format`",
                "start it with `file_format: definition/2`, or move it elsewhere",
            );
            false
        }
    }
}

fn check_sections(name: &str, root: &Map<String, Value>, notices: &mut Vec<String>, place: &mut Place<'_>) {
    for key in root.keys() {
        match key.as_str() {
            "file_format" | "attributes" | "attribute_groups" | "events" => {}
            "metrics" | "spans" | "entities" | "metric_refinements" | "span_refinements"
            | "entity_refinements" => {
                notices.push(format!("{name}: `{key}` says nothing about events and was not read"));
            }
            "imports" => place.report(
                "`imports` of other registries are not read",
                "copy the attributes and events that you need into this registry",
            ),
            "event_refinements" => {
                place.report(
                    "`event_refinements` are not read",
                    "declare each of them in `events` with its own name",
                );
            }
            other => place.report(
                format!("the section `{other}` is not known"),
                "use attributes, attribute_groups and events; look for a misspelling",
            ),
        }
    }
}

fn section<'a>(root: &'a Map<String, Value>, name: &str, place: &mut Place<'_>) -> &'a [Value] {
    match root.get(name) {
        None | Some(Value::Null) => &[],
        Some(Value::Array(items)) => items,
        Some(_) => {
            place.report(format!("`{name}` is not a list"), "write each item after a dash");
            &[]
        }
    }
}

fn attribute(file: &str, item: &Value, number: usize, place: &mut Place<'_>) -> Option<Definition> {
    let (map, key) = named_item(item, "attributes", "key", number, place)?;
    let mut place = place.item(key);
    if !is_attribute_key(key) {
        place.report(
            "the key is not one that SDKs send",
            format!("use letters, digits, `_`, `-`, and single dots between them, at most {KEY_BYTES_MAX}"),
        );
        return None;
    }
    let known = ["key", "type", "stability", "brief", "note", "examples", "deprecated", "annotations"];
    known_keys(map, &known, "on an attribute", &mut place);
    check_stability(map, true, &mut place);
    check_deprecated(map, &mut place);
    let none = Map::new();
    let esker = esker(map, &mut place).unwrap_or(&none);
    let known = ["privacy", "treatment", "normalise", "same_column_as", "leaks", "trust"];
    known_keys(esker, &known, "in `annotations.esker` of an attribute", &mut place);
    let ty = kind::read(map.get("type"), &mut place);
    Some(Definition {
        file: file.to_owned(),
        key: key.to_owned(),
        privacy: annotation::level(esker, &mut place),
        same_column_as: annotation::same_column_as(esker, &mut place),
        treatment: esker.get("treatment").map(|value| annotation::treatment(value, &ty, &mut place)),
        normalise: annotation::normalise(esker, &ty, &mut place),
        leaks: annotation::leaks(esker, &ty, &mut place),
        trust: annotation::trust(esker, &ty, &mut place),
        brief: brief(map, &mut place),
        ty,
    })
}

fn group(file: &str, item: &Value, number: usize, place: &mut Place<'_>) -> Option<Group> {
    let (map, id) = named_item(item, "attribute_groups", "id", number, place)?;
    let mut place = place.item(id);
    match map.get("visibility").and_then(Value::as_str) {
        Some("internal") => {
            known_keys(map, &["id", "visibility", "attributes"], "on an internal group", &mut place)
        }
        Some("public") => {
            let known =
                ["id", "visibility", "attributes", "brief", "note", "stability", "deprecated", "annotations"];
            known_keys(map, &known, "on a public group", &mut place);
            check_stability(map, true, &mut place);
            check_deprecated(map, &mut place);
            brief(map, &mut place);
        }
        _ => place.report("has no known `visibility`", "use internal or public"),
    }
    let uses = uses(map, &mut place);
    let esker = esker(map, &mut place);
    let category = esker.and_then(|esker| annotation::category_purposes(esker, !uses.is_empty(), &mut place));
    Some(Group { file: file.to_owned(), id: id.to_owned(), category, uses })
}

fn event(file: &str, item: &Value, number: usize, place: &mut Place<'_>) -> Option<EventDefinition> {
    let (map, name) = named_item(item, "events", "name", number, place)?;
    let mut place = place.item(name);
    if !is_event_name(name) {
        place.report(
            "the name is not that of an event",
            format!(
                "use at least two parts of a-z, 0-9 and `_` with a dot between them, at most \
                 {EVENT_NAME_BYTES_MAX} bytes, and no values in it"
            ),
        );
        return None;
    }
    let known = [
        "name",
        "stability",
        "brief",
        "note",
        "requirement_level",
        "deprecated",
        "annotations",
        "attributes",
        "entity_associations",
    ];
    known_keys(map, &known, "on an event", &mut place);
    check_stability(map, true, &mut place);
    check_deprecated(map, &mut place);
    if !matches!(map.get("requirement_level").map(Value::as_str), None | Some(Some("recommended" | "opt_in")))
    {
        place.report(
            "the event's `requirement_level` is not known",
            "use recommended or opt_in, or leave it out",
        );
    }
    let (category, privacy, consent) = event_annotations(map, &mut place);
    let (name, brief) = (name.to_owned(), brief(map, &mut place));
    let uses = uses(map, &mut place);
    Some(EventDefinition { file: file.to_owned(), name, category, privacy, brief, consent, uses })
}

/// An item as a mapping, with its name; without a name nothing can refer to it.
fn named_item<'a>(
    item: &'a Value,
    section: &str,
    key: &str,
    number: usize,
    place: &mut Place<'_>,
) -> Option<(&'a Map<String, Value>, &'a str)> {
    let map = item.as_object();
    let name = map.and_then(|map| map.get(key)).and_then(Value::as_str);
    if name.is_none() {
        place.report(
            format!("item {} of `{section}` has no `{key}`", number + 1),
            format!("write it as a mapping with a `{key}` that is text"),
        );
    }
    map.zip(name)
}

fn uses(map: &Map<String, Value>, place: &mut Place<'_>) -> Vec<Use> {
    let items = section(map, "attributes", place);
    items.iter().filter_map(|item| one_use(item, place)).collect()
}

fn one_use(item: &Value, place: &mut Place<'_>) -> Option<Use> {
    let map = item.as_object();
    let text = |key| map.and_then(|map| map.get(key)).and_then(Value::as_str);
    match (map, text("ref"), text("ref_group")) {
        (Some(map), Some(key), None) => Some(attribute_use(map, key, place)),
        (Some(map), None, Some(group)) => {
            known_keys(map, &["ref_group"], "beside `ref_group`", place);
            Some(Use::Group(group.to_owned()))
        }
        _ => {
            place.report(
                "an item of `attributes` is not one `ref` or one `ref_group`",
                "write e.g. `- ref: user.id`",
            );
            None
        }
    }
}

fn attribute_use(map: &Map<String, Value>, key: &str, place: &mut Place<'_>) -> Use {
    let known =
        ["ref", "brief", "note", "examples", "requirement_level", "stability", "deprecated", "annotations"];
    known_keys(map, &known, &format!("on the ref to `{key}`"), place);
    check_stability(map, false, place);
    check_deprecated(map, place);
    let none = Map::new();
    let esker = esker(map, place).unwrap_or(&none);
    let beside = format!("in `annotations.esker` of the ref to `{key}`");
    known_keys(esker, &["privacy", "treatment"], &beside, place);
    let refinement = Refinement {
        requirement: requirement(map, key, place),
        privacy: annotation::level(esker, place),
        treatment: esker.get("treatment").cloned(),
    };
    Use::Attribute { key: key.to_owned(), refinement }
}

fn requirement(map: &Map<String, Value>, key: &str, place: &mut Place<'_>) -> Option<Requirement> {
    let known = match map.get("requirement_level")? {
        Value::String(text) => match text.as_str() {
            "required" => Some(Requirement::Required),
            "recommended" | "opt_in" => Some(Requirement::Optional),
            _ => None,
        },
        Value::Object(map) if map.len() == 1 => ["conditionally_required", "recommended", "opt_in"]
            .iter()
            .any(|name| map.get(*name).is_some_and(Value::is_string))
            .then_some(Requirement::Optional),
        _ => None,
    };
    if known.is_none() {
        place.report(format!("the `requirement_level` of `{key}` is not known"), REQUIREMENTS);
    }
    known
}

fn esker<'a>(map: &'a Map<String, Value>, place: &mut Place<'_>) -> Option<&'a Map<String, Value>> {
    let annotations = match map.get("annotations")? {
        Value::Object(annotations) => annotations,
        _ => {
            place.report(
                "`annotations` is not a mapping",
                "write e.g. `annotations: {esker: {privacy: internal}}`",
            );
            return None;
        }
    };
    let esker = annotations.get("esker")?;
    if !esker.is_object() {
        place.report("`annotations.esker` is not a mapping", "write e.g. `esker: {privacy: internal}`");
    }
    esker.as_object()
}

/// The category and the level of an event, and what it says of consent.
fn event_annotations(
    map: &Map<String, Value>,
    place: &mut Place<'_>,
) -> (Category, PrivacyLevel, annotation::Consent) {
    let none = Map::new();
    let esker = esker(map, place).unwrap_or(&none);
    let known = ["category", "privacy", "purposes", "withdrawal"];
    known_keys(esker, &known, "in `annotations.esker` of an event", place);
    // What an event's level is not said to be is left to its attributes.
    let level = annotation::level(esker, place).unwrap_or(PrivacyLevel::Public);
    (annotation::category(esker, place), level, annotation::consent(esker, place))
}

fn brief(map: &Map<String, Value>, place: &mut Place<'_>) -> String {
    let brief = map.get("brief").and_then(Value::as_str).map_or("", str::trim);
    if brief.is_empty() {
        place.report("has no `brief`", "say in one line what it is");
    }
    brief.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn check_stability(map: &Map<String, Value>, needed: bool, place: &mut Place<'_>) {
    match map.get("stability").map(Value::as_str) {
        Some(Some("development" | "experimental" | "alpha" | "beta" | "release_candidate" | "stable")) => {}
        None if !needed => {}
        None => place.report("has no `stability`", STABILITIES),
        Some(_) => place.report("the `stability` is not known", STABILITIES),
    }
}

fn check_deprecated(map: &Map<String, Value>, place: &mut Place<'_>) {
    let Some(deprecated) = map.get("deprecated") else { return };
    let text = |key| deprecated.get(key).and_then(Value::as_str).is_some();
    let complete = match deprecated.get("reason").and_then(Value::as_str) {
        Some("renamed") => text("renamed_to"),
        Some("obsoleted" | "uncategorized" | "unspecified") => text("note"),
        _ => false,
    };
    if !complete {
        place.report(
            "`deprecated` does not say why",
            "give it `reason: renamed` with `renamed_to`, or `reason: obsoleted` or `uncategorized` with a `note`",
        );
    }
}

/// Reports each key of `map` that is not in `known`.
pub(super) fn known_keys(map: &Map<String, Value>, known: &[&str], whereabouts: &str, place: &mut Place<'_>) {
    for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
        place.report(
            format!("`{key}` is not known {whereabouts}"),
            format!("use one of {}", known.join(", ")),
        );
    }
}

fn is_event_name(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    name.len() <= EVENT_NAME_BYTES_MAX && name.contains('.') && name.split('.').all(part)
}

fn is_attribute_key(key: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    key.len() <= KEY_BYTES_MAX && key.split('.').all(part)
}
