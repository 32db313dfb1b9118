//! An event's name, where the producer did not put it into the field that is meant for it.
//!
//! Owns: the order of precedence behind `event_name`. Does not own: which names are declared.

use super::{RawAttribute, RawValue};

/// Attributes that may carry the name, the first one before the second (OpenTelemetry's own, and its deprecated one).
const OTEL_EVENT_NAME: &[u8] = b"otel.event.name";
const EVENT_NAME: &[u8] = b"event.name";

/// Where producers that know no event names keep them; configured, and empty by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameFallback {
    rules: Vec<Rule>,
}

/// One producer's place for event names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The instrumentation scope that the rule is for, by exact name; any scope where there is none.
    pub scope: Option<String>,
    /// Where the name is.
    pub source: Source,
}

/// A part of a log record that may hold the event's name as a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The attribute with this key.
    Attribute(String),
    /// The body.
    Body,
}

impl NameFallback {
    /// Rules in order: the first whose scope fits and whose source holds a non-empty string gives the name.
    #[must_use]
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self { rules: rules.into_iter().collect() }
    }

    fn name<'a>(
        &self,
        scope: &[u8],
        attributes: &[RawAttribute<'a>],
        body: RawValue<'a>,
    ) -> Option<&'a [u8]> {
        self.rules
            .iter()
            .filter(|rule| rule.scope.as_ref().is_none_or(|wanted| wanted.as_bytes() == scope))
            .find_map(|rule| match &rule.source {
                Source::Attribute(key) => attribute_name(attributes, key.as_bytes()),
                Source::Body => text(body),
            })
    }
}

/// The name of a record whose `event_name` field is empty; empty if it has none anywhere.
pub(super) fn fallback_name<'a>(
    fallback: &NameFallback,
    scope: &[u8],
    attributes: &[RawAttribute<'a>],
    body: RawValue<'a>,
) -> &'a [u8] {
    attribute_name(attributes, OTEL_EVENT_NAME)
        .or_else(|| attribute_name(attributes, EVENT_NAME))
        .or_else(|| fallback.name(scope, attributes, body))
        .unwrap_or_default()
}

fn attribute_name<'a>(attributes: &[RawAttribute<'a>], key: &[u8]) -> Option<&'a [u8]> {
    attributes.iter().filter(|attribute| attribute.key == key).find_map(|attribute| text(attribute.value))
}

fn text(value: RawValue<'_>) -> Option<&[u8]> {
    match value {
        RawValue::Str(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}
