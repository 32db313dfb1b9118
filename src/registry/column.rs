//! Attributes to columns: names, types, and which attributes share one.
//!
//! Owns: the name of a column, reserved names, collisions and `same_column_as`, the type that a level forces, an
//! attribute's own level. Does not own: the envelope's columns beyond their names (`columns`).

use std::collections::{BTreeMap, HashMap, HashSet};

use super::kind;
use super::parse::Definition;
use super::problem::{Place, Problem};
use super::resolve::ResolvedEvent;
use super::{Attribute, AttributeColumn, ColumnType, PrivacyLevel, Treatment};

/// The columns that every event fills, in table order. An attribute may not take one of these names.
pub const ENVELOPE_COLUMNS: [&str; 14] = [
    "event_id",
    "event_name",
    "category",
    "event_time",
    "received_time",
    "service_name",
    "service_version",
    "scope_name",
    "severity",
    "trace_id",
    "span_id",
    "consent",
    "consent_basis",
    "policy_version",
];

/// Names that Iceberg's delete files or an engine's own hidden columns use. Those that start with `_` are refused as a
/// whole: Iceberg (`_file`, `_pos`, `_row_id`) and BigQuery (`_TABLE_`, `_PARTITION`) keep that space.
const RESERVED: [&str; 8] =
    ["pos", "file_path", "row", "rowid", "filename", "file_row_number", "file_index", "iceberg_snapshot_id"];

/// The column's name for an attribute's key.
fn column_name(key: &str) -> String {
    key.chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' })
        .collect()
}

/// The attributes, sorted by key, and their columns, sorted by name.
pub(super) fn lay_out(
    definitions: &[Definition],
    events: &[ResolvedEvent],
    problems: &mut Vec<Problem>,
) -> (Vec<Attribute>, Vec<AttributeColumn>) {
    // Of two definitions of one key (already reported) the last counts, as in `resolve`.
    let by_key: BTreeMap<&str, &Definition> = definitions.iter().map(|one| (one.key.as_str(), one)).collect();
    let levels = levels(&by_key, events, problems);
    let mut by_name = BTreeMap::<String, Vec<&Definition>>::new();
    for definition in by_key.values() {
        by_name.entry(column_name(&definition.key)).or_default().push(definition);
    }
    let mut columns = Vec::with_capacity(by_name.len());
    let mut places = HashMap::with_capacity(by_key.len());
    for (name, sharers) in by_name {
        for definition in &sharers {
            places.insert(definition.key.as_str(), columns.len());
            check_name(&name, definition, problems);
        }
        columns.push(column(name, &sharers, &levels, problems));
    }
    check_targets(&by_key, problems);
    let attribute = |definition: &&Definition| Attribute {
        key: definition.key.clone(),
        ty: definition.ty.clone(),
        privacy: own_level(definition, &levels),
        brief: definition.brief.clone(),
        treatment: definition.treatment,
        normalise: definition.normalise,
        leaks: definition.leaks,
        trust: definition.trust,
        column: places.get(definition.key.as_str()).copied().unwrap_or_default(),
    };
    (by_key.values().map(attribute).collect(), columns)
}

/// A level in force, and the treatment that the files name beside it.
type InForce = (PrivacyLevel, Option<Treatment>);

/// What is in force for each attribute: what the events that use it say, or its own where none does.
fn levels<'a>(
    definitions: &BTreeMap<&'a str, &'a Definition>,
    events: &[ResolvedEvent],
    problems: &mut Vec<Problem>,
) -> HashMap<&'a str, HashSet<InForce>> {
    let mut levels: HashMap<&str, HashSet<InForce>> = HashMap::new();
    for (key, used) in events.iter().flat_map(|event| &event.attributes) {
        if let Some((key, _)) = definitions.get_key_value(key.as_str()) {
            levels.entry(key).or_default().insert((used.privacy, used.treatment));
        }
    }
    for (key, definition) in definitions {
        if levels.contains_key(key) {
            continue;
        }
        match definition.privacy {
            Some(level) => {
                levels.insert(key, HashSet::from([(level, definition.treatment)]));
            }
            None => Place::new(&definition.file, *key, problems).report(
                "has no privacy level, and no event that uses it gives one",
                "add `annotations: {esker: {privacy: ...}}`",
            ),
        }
    }
    levels
}

fn own_level(definition: &Definition, levels: &HashMap<&str, HashSet<InForce>>) -> PrivacyLevel {
    let strictest =
        || levels.get(definition.key.as_str()).and_then(|all| all.iter().map(|(level, _)| *level).max());
    definition.privacy.or_else(strictest).unwrap_or(PrivacyLevel::Sensitive)
}

fn check_name(name: &str, definition: &Definition, problems: &mut Vec<Problem>) {
    let mut place = Place::new(&definition.file, &definition.key, problems);
    if ENVELOPE_COLUMNS.contains(&name) {
        place.report(
            format!("its column `{name}` is one that every event fills"),
            "remove the attribute: Esker takes this from the record itself; or declare another key",
        );
    } else if RESERVED.contains(&name) || name.starts_with('_') {
        place.report(
            format!("its column `{name}` has a name that Iceberg or an engine keeps for itself"),
            "send and declare another key",
        );
    } else if name.starts_with(|c: char| c.is_ascii_digit()) {
        place.report(format!("its column `{name}` would start with a digit"), "send and declare another key");
    }
}

/// What a column holds of a use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The value, or a part of it, as its own type.
    Plain,
    /// A pseudonym, which is text.
    Pseudonym,
    /// What the configuration's policy decides: nothing, a part of it or a pseudonym. It must have room for the last.
    Open,
    /// Nothing.
    Nothing,
}

fn form((level, treatment): &InForce) -> Form {
    match (treatment, level) {
        (Some(Treatment::Pseudonymise), _) | (None, PrivacyLevel::Pseudonymous) => Form::Pseudonym,
        (Some(Treatment::Drop), _) | (None, PrivacyLevel::Sensitive) => Form::Nothing,
        (Some(Treatment::Keep | Treatment::Reduce(_)), _)
        | (None, PrivacyLevel::Public | PrivacyLevel::Internal) => Form::Plain,
        (None, PrivacyLevel::Personal) => Form::Open,
    }
}

/// One column, and whether all that fill it agree.
fn column(
    name: String,
    sharers: &[&Definition],
    levels: &HashMap<&str, HashSet<InForce>>,
    problems: &mut Vec<Problem>,
) -> AttributeColumn {
    check_sharing(&name, sharers, problems);
    let in_force = || sharers.iter().filter_map(|one| levels.get(one.key.as_str())).flatten();
    let pseudonymous = in_force().any(|one| form(one) == Form::Pseudonym);
    let text = in_force().any(|one| matches!(form(one), Form::Pseudonym | Form::Open));
    let root = sharers.iter().find(|one| one.same_column_as.is_none()).or(sharers.first());
    if let Some(root) = root
        && pseudonymous
        && in_force().any(|one| form(one) == Form::Plain)
    {
        Place::new(&root.file, &root.key, problems).report(
            format!("its column `{name}` would hold pseudonyms of some events and plain values of others"),
            "use one level for all events, or send the plain values under another key",
        );
    }
    let declared = root.map_or(ColumnType::String, |root| kind::storage(&root.ty).0);
    AttributeColumn {
        name,
        ty: if text { ColumnType::String } else { declared },
        keys: sharers.iter().map(|one| one.key.clone()).collect(),
        brief: root.map(|root| root.brief.clone()).unwrap_or_default(),
        pseudonymous: in_force().any(|one| matches!(form(one), Form::Pseudonym | Form::Open)),
    }
}

/// Keys that make one column name must say that they mean it: one is the column's own, all others point to it.
fn check_sharing(name: &str, sharers: &[&Definition], problems: &mut Vec<Problem>) {
    let mut roots = sharers.iter().filter(|one| one.same_column_as.is_none());
    let Some(root) = roots.next() else { return };
    for other in roots {
        Place::new(&other.file, &other.key, problems).report(
            format!("its column `{name}` is also that of `{}`", root.key),
            format!(
                "if both mean the same, add `annotations: {{esker: {{same_column_as: {}}}}}`; else rename one",
                root.key
            ),
        );
    }
    for other in sharers.iter().filter(|other| other.same_column_as.is_some()) {
        if kind::storage(&other.ty) != kind::storage(&root.ty) {
            Place::new(&other.file, &other.key, problems).report(
                format!("its type is not that of `{}`, whose column it fills", root.key),
                "give both the same type, or rename one",
            );
        }
    }
}

/// `same_column_as` must name a defined attribute of the same column name that is the column's own.
fn check_targets(definitions: &BTreeMap<&str, &Definition>, problems: &mut Vec<Problem>) {
    for definition in definitions.values() {
        let Some(target) = &definition.same_column_as else { continue };
        let mut place = Place::new(&definition.file, &definition.key, problems);
        match definitions.get(target.as_str()) {
            None => place.report(
                format!("`same_column_as` names `{target}`, which no file defines"),
                "name the attribute whose column this one fills",
            ),
            Some(_) if column_name(target) != column_name(&definition.key) => place.report(
                format!("its column `{}` is not that of `{target}`", column_name(&definition.key)),
                "remove `same_column_as`: the two do not collide",
            ),
            Some(other) if other.same_column_as.is_some() => place.report(
                format!("`same_column_as` names `{target}`, which itself points elsewhere"),
                "let one of the keys have no `same_column_as`, and let all others name that one",
            ),
            Some(_) => {}
        }
    }
}
