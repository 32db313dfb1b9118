//! What `annotations.esker` may say.
//!
//! Owns: the values of each annotation and their messages. Does not own: where an annotation may stand (`parse`), what it
//! does to a value (`privacy`). What is not known is a problem, never ignored: a misspelt level must not open a door.

use serde_json::{Map, Value};

use super::parse::known_keys;
use super::problem::Place;
use super::treatment::TREATMENTS;
use super::{
    AttributeType, Category, LeakAction, Normalisation, Primitive, PrivacyLevel, Reduction, Treatment, Trust,
};

/// Longest name of a purpose: rows and reports show it.
pub const PURPOSE_BYTES_MAX: usize = 64;

const LEVELS: &str = "use public, internal, pseudonymous, personal or sensitive";
const CATEGORIES: &str = "use product, operational or security";

/// `privacy`.
pub(super) fn level(esker: &Map<String, Value>, place: &mut Place<'_>) -> Option<PrivacyLevel> {
    let level = esker.get("privacy")?.as_str().and_then(PrivacyLevel::parse);
    if level.is_none() {
        place.report("the `privacy` level is not known", LEVELS);
    }
    Some(level.unwrap_or(PrivacyLevel::Sensitive))
}

/// `category`.
pub(super) fn category(esker: &Map<String, Value>, place: &mut Place<'_>) -> Category {
    let problem = match esker.get("category").map(|name| name.as_str().and_then(Category::parse)) {
        Some(Some(category)) => return category,
        Some(None) => "the `category` is not known",
        None => "has no `annotations.esker.category`",
    };
    place.report(problem, CATEGORIES);
    Category::Product
}

/// What an event says of consent.
#[derive(Debug, Clone, Default)]
pub(super) struct Consent {
    /// `purposes`, sorted.
    pub(super) purposes: Option<Vec<String>>,
    pub(super) withdrawal: Option<DeclaredWithdrawal>,
}

/// The purposes of a category's events that name none themselves.
#[derive(Debug, Clone)]
pub(super) struct CategoryPurposes {
    pub(super) category: Category,
    /// Sorted.
    pub(super) purposes: Vec<String>,
}

/// `withdrawal`, before its subject is looked up.
#[derive(Debug, Clone)]
pub(super) struct DeclaredWithdrawal {
    /// An attribute's key.
    pub(super) subject: String,
    pub(super) lifts: bool,
}

/// `purposes` and `withdrawal` of an event.
pub(super) fn consent(esker: &Map<String, Value>, place: &mut Place<'_>) -> Consent {
    let purposes = purposes(esker, place);
    let Some(withdrawal) = withdrawal(esker, place) else { return Consent { purposes, withdrawal: None } };
    if purposes.as_ref().is_some_and(|purposes| !purposes.is_empty()) {
        place.report(
            "an event with `withdrawal` has `purposes`, so that a withdrawal would need consent to be kept",
            "take the `purposes` out; such an event needs no consent",
        );
    }
    Consent { purposes: Some(Vec::new()), withdrawal: Some(withdrawal) }
}

/// What a group says for a whole category: `category` and `purposes`. A group that says so is nothing else: it has no attributes, so
/// that no event seems to choose it.
pub(super) fn category_purposes(
    esker: &Map<String, Value>,
    has_attributes: bool,
    place: &mut Place<'_>,
) -> Option<CategoryPurposes> {
    known_keys(esker, &["category", "purposes"], "in `annotations.esker` of a group", place);
    if has_attributes {
        place.report(
            "has both attributes and `annotations.esker`, which speaks for a whole category and not for the events that use the group",
            "move the annotation to a public group without attributes",
        );
    }
    let category = category(esker, place);
    if !esker.contains_key("purposes") {
        place.report(
            "speaks for a category and does not name its `purposes`",
            "add e.g. `purposes: [analytics]`, or `[]` where events of the category need no consent",
        );
    }
    Some(CategoryPurposes { category, purposes: purposes(esker, place)? })
}

/// True where a purpose may have this name.
#[must_use]
pub fn is_purpose(name: &str) -> bool {
    name.len() <= PURPOSE_BYTES_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn purposes(esker: &Map<String, Value>, place: &mut Place<'_>) -> Option<Vec<String>> {
    const LIST: &str = "write a list of names of a-z, 0-9 and `_`, e.g. `purposes: [analytics]`, or `[]` for an event \
                        that needs no consent";
    let Some(items) = esker.get("purposes")?.as_array() else {
        place.report("`purposes` is not a list", LIST);
        return None;
    };
    let mut purposes = Vec::with_capacity(items.len());
    for item in items {
        match item.as_str().filter(|name| is_purpose(name)) {
            Some(name) if purposes.iter().any(|known| known == name) => {
                place.report(format!("names the purpose `{name}` twice"), "name it once");
            }
            Some(name) => purposes.push(name.to_owned()),
            None => place.report("an item of `purposes` is not the name of a purpose", LIST),
        }
    }
    purposes.sort();
    Some(purposes)
}

fn withdrawal(esker: &Map<String, Value>, place: &mut Place<'_>) -> Option<DeclaredWithdrawal> {
    const MAPPING: &str =
        "write e.g. `withdrawal: {subject: user.id}`, with `lifts: true` where consent is given again";
    let value = esker.get("withdrawal")?;
    let map = value.as_object();
    if let Some(map) = map {
        known_keys(map, &["subject", "lifts"], "in `withdrawal`", place);
    }
    let lifts = match map.and_then(|map| map.get("lifts")) {
        None => Some(false),
        Some(lifts) => lifts.as_bool(),
    };
    match (map.and_then(|map| map.get("subject")).and_then(Value::as_str), lifts) {
        (Some(subject), Some(lifts)) => Some(DeclaredWithdrawal { subject: subject.to_owned(), lifts }),
        (None, _) => {
            place.report("`withdrawal` does not name its `subject`", MAPPING);
            None
        }
        (_, None) => {
            place.report("`lifts` is neither true nor false", MAPPING);
            None
        }
    }
}

/// `same_column_as`.
pub(super) fn same_column_as(esker: &Map<String, Value>, place: &mut Place<'_>) -> Option<String> {
    let value = esker.get("same_column_as")?;
    if !value.is_string() {
        place.report(
            "`same_column_as` is not text",
            "give it the key of the attribute whose column this one fills",
        );
    }
    value.as_str().map(str::to_owned)
}

/// `leaks`.
pub(super) fn leaks(esker: &Map<String, Value>, ty: &AttributeType, place: &mut Place<'_>) -> LeakAction {
    let Some(value) = esker.get("leaks") else { return LeakAction::Mask };
    if !holds_free_text(ty) {
        place.report(
            "`leaks` means nothing here: only free text is scanned, not numbers, booleans and enums",
            "take `leaks` out",
        );
    }
    match value.as_str() {
        Some("mask") => LeakAction::Mask,
        Some("drop") => LeakAction::Drop,
        Some("quarantine") => LeakAction::Quarantine,
        _ => {
            place.report("the `leaks` action is not known", "use mask, drop or quarantine");
            LeakAction::Drop
        }
    }
}

/// `treatment`, of an attribute of this type.
pub(super) fn treatment(value: &Value, ty: &AttributeType, place: &mut Place<'_>) -> Treatment {
    let Some(treatment) = Treatment::parse(value) else {
        place.report("the `treatment` is not known", TREATMENTS);
        return Treatment::Drop;
    };
    if let Treatment::Reduce(reduction) = treatment
        && let Some(fix) = misfit(reduction, ty)
    {
        place.report(format!("the treatment `{treatment}` does not suit its type"), fix);
    }
    treatment
}

/// Why a reduction cannot read values of a type; `None` where it can.
fn misfit(reduction: Reduction, ty: &AttributeType) -> Option<&'static str> {
    let is = |primitive| *ty == AttributeType::Scalar(primitive);
    match reduction {
        Reduction::Mask(_) if !holds_free_text(ty) => Some("mask text: string, string[], any or a template"),
        Reduction::TruncateIp | Reduction::KeepDomain | Reduction::CoarsenDate(_)
            if !is(Primitive::String) =>
        {
            Some("use it on an attribute of type string")
        }
        Reduction::CoarsenNumber(_) if !is(Primitive::Int) && !is(Primitive::Double) => {
            Some("use it on an attribute of type int or double")
        }
        _ => None,
    }
}

/// `normalise`: a name or a list of names.
pub(super) fn normalise(
    esker: &Map<String, Value>,
    ty: &AttributeType,
    place: &mut Place<'_>,
) -> Normalisation {
    let Some(value) = esker.get("normalise") else { return Normalisation::default() };
    if !matches!(ty, AttributeType::Scalar(Primitive::String)) {
        place.report("`normalise` means nothing here: only text is normalised", "take `normalise` out");
    }
    Normalisation::parse(value).unwrap_or_else(|| {
        place.report("the `normalise` step is not known", "use trim, lowercase, email, or a list of them");
        Normalisation::default()
    })
}

/// `trust`.
pub(super) fn trust(esker: &Map<String, Value>, ty: &AttributeType, place: &mut Place<'_>) -> Trust {
    let Some(value) = esker.get("trust") else { return Trust::Anyone };
    if value.as_str() != Some("server") {
        place.report("the `trust` is not known", "use server, or leave it out");
    } else if !matches!(
        ty,
        AttributeType::Scalar(Primitive::Int | Primitive::Double | Primitive::Boolean)
            | AttributeType::Enum { values: Primitive::Int, .. }
    ) {
        place.report(
            "`trust: server` cannot be checked on text: what a client sends looks like what the server sends",
            "use it on int, double and boolean attributes, or leave it out",
        );
    }
    Trust::Server
}

/// True where a value of this type can be text that a sender chose.
fn holds_free_text(ty: &AttributeType) -> bool {
    match ty {
        AttributeType::Scalar(primitive) | AttributeType::Array(primitive) => {
            matches!(primitive, Primitive::String)
        }
        AttributeType::Any => true,
        AttributeType::Template(entry) => holds_free_text(entry),
        AttributeType::Enum { .. } => false,
    }
}
