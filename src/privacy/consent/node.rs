//! A consent attribute's value, whichever way it was sent: OTLP's own arrays and lists, or JSON text.
//!
//! Owns: reading both into one tree that keeps every pair of equal keys. Does not own: what a value means (`form`).
//!
//! `serde_json::Value` would keep the last of equal keys only, and `{"analytics": false, "analytics": true}` would then grant.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::super::nested;
use crate::receive::decode::RawValue;

/// Longest value in bytes: more than any list of purposes, little enough that reading it costs no one else anything.
const VALUE_BYTES_MAX: usize = 16 * 1024;

/// Deepest nesting: what the vendors' objects need is three.
const DEPTH_MAX: usize = 8;

/// A value.
#[derive(Debug, PartialEq)]
pub(super) enum Node<'a> {
    Bool(bool),
    Int(i64),
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    Pairs(Vec<(Cow<'a, str>, Node<'a>)>),
    /// No value: as if the attribute were not there. Flagsmith's processor sends Python's `None` as the text `null`.
    Null,
    /// A number with a fraction: nothing that speaks of consent.
    Other,
}

impl<'a> Node<'a> {
    /// Reads a value; `None` where it cannot be read. Text that starts like a JSON array or object must be one.
    pub(super) fn read(value: RawValue<'a>) -> Option<Self> {
        Self::read_at(value, 0)
    }

    fn read_at(value: RawValue<'a>, depth: usize) -> Option<Self> {
        if depth > DEPTH_MAX {
            return None;
        }
        Some(match value {
            RawValue::Bool(flag) => Self::Bool(flag),
            RawValue::Int(int) => Self::Int(int),
            RawValue::Empty => Self::Null,
            RawValue::Double(_) => Self::Other,
            RawValue::Bytes(_) => return None,
            RawValue::Str(bytes) | RawValue::Array(bytes) | RawValue::KvList(bytes)
                if bytes.len() > VALUE_BYTES_MAX =>
            {
                return None;
            }
            RawValue::Str(bytes) => {
                let text = std::str::from_utf8(bytes).ok()?.trim();
                if depth == 0 && text.starts_with(['[', '{']) {
                    from_json(text)?
                } else if depth == 0 && text == "null" {
                    Self::Null
                } else {
                    Self::Text(text.into())
                }
            }
            RawValue::Array(encoded) => Self::List(
                nested::elements(encoded)
                    .map(|element| Self::read_at(element.ok()?, depth + 1))
                    .collect::<Option<_>>()?,
            ),
            RawValue::KvList(encoded) => Self::Pairs(
                nested::entries(encoded)
                    .map(|entry| {
                        let (key, value) = entry.ok()?;
                        Some((std::str::from_utf8(key).ok()?.into(), Self::read_at(value, depth + 1)?))
                    })
                    .collect::<Option<_>>()?,
            ),
        })
    }

    /// The text, where it is text.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The pairs, where it has pairs.
    pub(super) fn pairs(&self) -> Option<&[(Cow<'a, str>, Self)]> {
        match self {
            Self::Pairs(pairs) => Some(pairs),
            _ => None,
        }
    }
}

fn from_json(text: &str) -> Option<Node<'static>> {
    // serde_json itself stops at a depth of 128, which a stack holds; the forms do not look below the third.
    serde_json::from_str::<Node<'static>>(text).ok()
}

impl<'de> Deserialize<'de> for Node<'static> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node<'static>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Self::Value, E> {
        Ok(Node::Bool(flag))
    }

    fn visit_i64<E>(self, int: i64) -> Result<Self::Value, E> {
        Ok(Node::Int(int))
    }

    fn visit_u64<E>(self, int: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(int).map_or(Node::Other, Node::Int))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Node::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Node::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Node::Text(text.trim().to_owned().into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = sequence.next_element()? {
            elements.push(element);
        }
        Ok(Node::List(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, Node<'static>>()? {
            pairs.push((Cow::Owned(key), value));
        }
        Ok(Node::Pairs(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_are_all_kept() {
        let node =
            Node::read(RawValue::Str(br#" {"a": false, "a": true, "b": [1, "x", null, 0.5]} "#)).unwrap();
        let list = vec![Node::Int(1), Node::Text("x".into()), Node::Null, Node::Other];
        let pairs = vec![
            ("a".into(), Node::Bool(false)),
            ("a".into(), Node::Bool(true)),
            ("b".into(), Node::List(list)),
        ];
        assert_eq!(node, Node::Pairs(pairs));
    }

    #[test]
    fn what_cannot_be_read_is_not_guessed_at() {
        for text in ["[", "{", "{\"a\": tru}", "[1] x", "{\"a\" 1}", "[\"a\""] {
            assert_eq!(Node::read(RawValue::Str(text.as_bytes())), None, "{text}");
        }
        assert_eq!(Node::read(RawValue::Str(b"\xff")), None);
        assert_eq!(Node::read(RawValue::Bytes(b"granted")), None);
        assert_eq!(Node::read(RawValue::Array(b"\x0a\x7f")), None, "cut off");
        let deep = "[".repeat(100_000);
        assert_eq!(Node::read(RawValue::Str(deep.as_bytes())), None);
        let nested = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        assert_eq!(Node::read(RawValue::Str(nested.as_bytes())), None, "too deep");
        let long = format!("[{}1]", "1,".repeat(VALUE_BYTES_MAX));
        assert_eq!(Node::read(RawValue::Str(long.as_bytes())), None, "too long");
    }

    #[test]
    fn other_text_is_text() {
        assert_eq!(Node::read(RawValue::Str(b" a, b ")), Some(Node::Text("a, b".into())));
        assert_eq!(Node::read(RawValue::Double(0.5)), Some(Node::Other));
    }

    #[test]
    fn no_value_is_no_value_however_it_is_sent() {
        assert_eq!(Node::read(RawValue::Empty), Some(Node::Null));
        assert_eq!(Node::read(RawValue::Str(b"null")), Some(Node::Null));
        assert_eq!(
            Node::read(RawValue::Str(b"")),
            Some(Node::Text("".into())),
            "text of no length is a value"
        );
    }
}
