//! The `type` of an attribute: primitives, arrays, `any`, templates and enums.
//!
//! Owns: reading a `type`, and how it is stored. Does not own: the level that may override it (`column`).

use serde_json::{Map, Value};

use super::parse::known_keys;
use super::problem::Place;
use super::{AttributeType, ColumnType, Primitive};

const TYPES: &str = "use string, int, double, boolean, an array of those such as string[], any, template[T] of those, or \
                     an enum with members";

/// Reads a `type`. On a problem it is reported, and `Any` stands in so that the same mistake is not reported again
/// by every ref to the attribute.
pub(super) fn read(value: Option<&Value>, place: &mut Place<'_>) -> AttributeType {
    match value {
        Some(Value::String(text)) => named(text).unwrap_or_else(|| {
            place.report(format!("the type `{text}` is not known"), TYPES);
            AttributeType::Any
        }),
        Some(Value::Object(map)) => enumeration(map, place).unwrap_or(AttributeType::Any),
        Some(_) => {
            place.report("`type` is neither a name nor a mapping with `members`", TYPES);
            AttributeType::Any
        }
        None => {
            place.report("has no `type`", TYPES);
            AttributeType::Any
        }
    }
}

fn named(text: &str) -> Option<AttributeType> {
    match text.strip_prefix("template[").and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => value_type(inner).map(|inner| AttributeType::Template(Box::new(inner))),
        None => value_type(text),
    }
}

fn value_type(text: &str) -> Option<AttributeType> {
    if text == "any" {
        return Some(AttributeType::Any);
    }
    match text.strip_suffix("[]") {
        Some(inner) => primitive(inner).map(AttributeType::Array),
        None => primitive(text).map(AttributeType::Scalar),
    }
}

fn primitive(text: &str) -> Option<Primitive> {
    match text {
        "string" => Some(Primitive::String),
        "int" => Some(Primitive::Int),
        "double" => Some(Primitive::Double),
        "boolean" => Some(Primitive::Boolean),
        _ => None,
    }
}

fn enumeration(map: &Map<String, Value>, place: &mut Place<'_>) -> Option<AttributeType> {
    known_keys(map, &["members"], "in `type`", place);
    let members = map.get("members").and_then(Value::as_array).filter(|members| !members.is_empty());
    let Some(members) = members else {
        place
            .report("the enum has no members", "list at least one member with `id`, `value` and `stability`");
        return None;
    };
    let mut values = Vec::with_capacity(members.len());
    let mut ids = Vec::with_capacity(members.len());
    for member in members {
        let (id, value) = enum_member(member, place)?;
        if ids.contains(&id) {
            place.report(format!("the enum has the id `{id}` twice"), "give each member its own id");
        }
        ids.push(id);
        values.push(value);
    }
    let of = values.first().map(|(of, _)| *of)?;
    if values.iter().any(|(other, _)| *other != of) {
        place.report("the enum mixes text and integer values", "give all members values of one type");
        return None;
    }
    let mut members: Vec<String> = values.into_iter().map(|(_, text)| text).collect();
    members.sort();
    let count = members.len();
    members.dedup();
    if members.len() < count {
        place.report("two members of the enum have the same value", "give each member its own value");
    }
    Some(AttributeType::Enum { values: of, members })
}

fn enum_member(member: &Value, place: &mut Place<'_>) -> Option<(String, (Primitive, String))> {
    let Some(map) = member.as_object() else {
        place.report("a member of the enum is not a mapping", "write it with `id`, `value` and `stability`");
        return None;
    };
    let known = ["id", "value", "brief", "note", "stability", "deprecated", "annotations"];
    known_keys(map, &known, "in an enum member", place);
    let Some(id) = map.get("id").and_then(Value::as_str) else {
        place.report("a member of the enum has no `id`", "give each member an `id` that is text");
        return None;
    };
    if map.get("stability").and_then(Value::as_str).is_none() {
        place.report(
            format!("the enum member `{id}` has no `stability`"),
            "add one, e.g. `stability: stable`",
        );
    }
    match map.get("value") {
        Some(Value::String(text)) => Some((id.to_owned(), (Primitive::String, text.clone()))),
        Some(Value::Number(number)) if number.is_i64() => {
            Some((id.to_owned(), (Primitive::Int, number.to_string())))
        }
        _ => {
            place.report(
                format!("the value of the enum member `{id}` is neither text nor an integer"),
                "give it a `value`, and quote it if it is text; for two truth values use the type boolean",
            );
            None
        }
    }
}

/// How values of a type are stored, and whether a text column holds JSON.
pub(super) fn storage(ty: &AttributeType) -> (ColumnType, bool) {
    match ty {
        AttributeType::Scalar(primitive) | AttributeType::Enum { values: primitive, .. } => {
            (column_type(*primitive), false)
        }
        AttributeType::Array(_) | AttributeType::Any | AttributeType::Template(_) => {
            (ColumnType::String, true)
        }
    }
}

fn column_type(primitive: Primitive) -> ColumnType {
    match primitive {
        Primitive::String => ColumnType::String,
        Primitive::Int => ColumnType::Long,
        Primitive::Double => ColumnType::Double,
        Primitive::Boolean => ColumnType::Boolean,
    }
}
