//! The envelope's values: what a sender says about an event besides its attributes.
//!
//! Owns: which names, versions and ids are plausible, severities, the event's time and its bounds. Does not own: columns.
//!
//! An envelope value is not declared by anyone, so it is stored only in a form that leaves no room for something else:
//! names and versions are short words without spaces, a severity is one of six.

use std::time::Duration;

use super::GateOptions;
use super::coerce::unquote;
use super::scan::Scanner;
use super::tally::AttributeOutcome;
use crate::receive::decode::{RawAttribute, RawEvents, RawRecord, RawResource, RawValue};
use crate::registry::{Category, PrivacyLevel};

const NAME_BYTES_MAX: usize = 128;
const VERSION_BYTES_MAX: usize = 64;
const UID_BYTES_MAX: usize = 128;

/// What a resource adds to the envelope of its events.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ResourceEnvelope<'a> {
    pub(super) service_name: Option<&'a str>,
    pub(super) service_version: Option<&'a str>,
    /// A value was there, but does not look like a name or version.
    pub(super) implausible: bool,
}

impl<'a> ResourceEnvelope<'a> {
    pub(super) fn new(raw: &RawEvents<'a>, resource: &RawResource<'a>, scanner: &Scanner) -> Self {
        let mut envelope = Self::default();
        for attribute in raw.attributes(&resource.attributes) {
            match attribute.key {
                b"service.name" => envelope.service_name = envelope.read(attribute, NAME_BYTES_MAX, scanner),
                b"service.version" => {
                    envelope.service_version = envelope.read(attribute, VERSION_BYTES_MAX, scanner);
                }
                _ => {}
            }
        }
        envelope
    }

    fn read(&mut self, attribute: &RawAttribute<'a>, bytes_max: usize, scanner: &Scanner) -> Option<&'a str> {
        let value = match attribute.value {
            RawValue::Str(text) => plausible_name(text, bytes_max, scanner),
            _ => None,
        };
        self.implausible |=
            value.is_none() && !matches!(attribute.value, RawValue::Empty | RawValue::Str(b""));
        value
    }
}

/// The scope's name, and whether there was one that is not plausible.
pub(super) fn scope_name<'a>(name: &'a [u8], scanner: &Scanner) -> (Option<&'a str>, bool) {
    let plausible = plausible_name(name, NAME_BYTES_MAX, scanner);
    (plausible, plausible.is_none() && !name.is_empty())
}

/// A name or version as people write them for software: `flagsmith-api`, `@scope/package`, `common.core.otel`, `1.2.3+4`.
/// An `@` is allowed only in front, as npm has it, so that no e-mail address passes.
fn plausible_name<'a>(text: &'a [u8], bytes_max: usize, scanner: &Scanner) -> Option<&'a str> {
    let (first, rest) = text.split_first()?;
    let plausible = text.len() <= bytes_max
        && (first.is_ascii_alphanumeric() || matches!(first, b'@' | b'_'))
        && rest.iter().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b':' | b'+' | b'-')
        });
    let text = if plausible { std::str::from_utf8(text).ok() } else { None };
    text.filter(|text| scanner.is_clean(text))
}

/// The value of `log.record.uid` as an event id: 1 to 128 letters, digits, `.`, `_`, `:`, `-`.
pub(super) fn uid<'a>(value: RawValue<'a>, scanner: &Scanner) -> Result<&'a str, AttributeOutcome> {
    let RawValue::Str(bytes) = value else {
        return Err(if value == RawValue::Empty {
            AttributeOutcome::Null
        } else {
            AttributeOutcome::TypeMismatch
        });
    };
    let text = std::str::from_utf8(bytes).map_err(|_| AttributeOutcome::InvalidUtf8)?;
    let is_plausible = |id: &str| {
        (1..=UID_BYTES_MAX).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'))
            && scanner.is_clean(id)
    };
    match unquote(text) {
        std::borrow::Cow::Borrowed("null") => Err(AttributeOutcome::Null),
        std::borrow::Cow::Borrowed(id) if is_plausible(id) => Ok(id),
        _ => Err(AttributeOutcome::Implausible),
    }
}

/// The level that a record states of itself. What is no level's name is read as the strictest: whoever wrote it meant to
/// restrict, and nobody knows how far. No value states nothing.
pub(super) fn level(value: RawValue<'_>) -> Option<PrivacyLevel> {
    let RawValue::Str(bytes) = value else {
        return (value != RawValue::Empty).then_some(PrivacyLevel::Sensitive);
    };
    match std::str::from_utf8(bytes).map(|text| unquote(text.trim()).to_ascii_lowercase()) {
        Ok(text) if text.is_empty() || text == "null" => None,
        Ok(text) => Some(PrivacyLevel::parse(&text).unwrap_or(PrivacyLevel::Sensitive)),
        Err(_) => Some(PrivacyLevel::Sensitive),
    }
}

/// The category that a record states of itself. What is no category's name is read as the most confined one, as a level is.
/// No value states nothing.
pub(super) fn category(value: RawValue<'_>) -> Option<Category> {
    let RawValue::Str(bytes) = value else {
        return (value != RawValue::Empty).then_some(Category::Security);
    };
    match std::str::from_utf8(bytes).map(|text| unquote(text.trim()).to_ascii_lowercase()) {
        Ok(text) if text.is_empty() || text == "null" => None,
        Ok(text) => Some(Category::parse(&text).unwrap_or(Category::Security)),
        Err(_) => Some(Category::Security),
    }
}

/// One of the six severities: by number, else by a well-known text. Other text is never stored.
pub(super) fn severity(number: i32, text: &[u8]) -> Option<&'static str> {
    const TEXTS: [(&str, &str); 19] = [
        ("info", "info"),
        ("debug", "debug"),
        ("warning", "warn"),
        ("error", "error"),
        ("critical", "fatal"),
        ("trace", "trace"),
        ("warn", "warn"),
        ("fatal", "fatal"),
        ("information", "info"),
        ("informational", "info"),
        ("notice", "info"),
        ("verbose", "debug"),
        ("err", "error"),
        ("exception", "error"),
        ("crit", "fatal"),
        ("alert", "fatal"),
        ("emergency", "fatal"),
        ("emerg", "fatal"),
        ("panic", "fatal"),
    ];
    match number {
        1..=4 => Some("trace"),
        5..=8 => Some("debug"),
        9..=12 => Some("info"),
        13..=16 => Some("warn"),
        17..=20 => Some("error"),
        21..=24 => Some("fatal"),
        _ => {
            TEXTS.iter().find(|(known, _)| text.eq_ignore_ascii_case(known.as_bytes())).map(|(_, name)| *name)
        }
    }
}

/// The span of event times that are accepted at one moment, in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeBounds {
    now: i64,
    oldest: i64,
    newest: i64,
}

impl TimeBounds {
    pub(super) fn at(now: i64, options: &GateOptions) -> Self {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self {
            now,
            oldest: now.saturating_sub(micros(options.age_max)),
            newest: now.saturating_add(micros(options.future_max)),
        }
    }

    /// When the request was received.
    pub(super) fn now(&self) -> i64 {
        self.now
    }

    /// When the event happened: its time, else the time at which it was observed, else now. None where that is out of
    /// bounds: such a time is a fault of the sender's clock, and each would open a partition of its own.
    pub(super) fn event_time(&self, record: &RawRecord<'_>) -> Option<i64> {
        let nanos = match (record.time_unix_nano, record.observed_time_unix_nano) {
            (0, 0) => return Some(self.now),
            (0, observed) => observed,
            (time, _) => time,
        };
        // A negative time is a huge one on the wire, thus out of bounds; 2^64 ns in microseconds fit an i64.
        let micros = i64::try_from(nanos / 1000).unwrap_or(i64::MAX);
        (self.oldest..=self.newest).contains(&micros).then_some(micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plausible_or_withheld() {
        for name in ["flagsmith-api", "@opentelemetry/sdk-logs", "common.core.otel", "3.12.0+build.5", "a"] {
            assert_eq!(scope_name(name.as_bytes(), &Scanner::new()), (Some(name), false));
        }
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for name in ["bob@example.org", "two words", "-x", "ünicode", "a\nb", "a\0", "\"quoted\"", &long] {
            assert_eq!(scope_name(name.as_bytes(), &Scanner::new()), (None, true), "{name}");
        }
        assert_eq!(scope_name(b"", &Scanner::new()), (None, false));
        assert_eq!(scope_name(b"\xff", &Scanner::new()), (None, true));
    }

    #[test]
    fn severities_are_one_of_six_or_absent() {
        let by_number: Vec<_> = [1, 5, 9, 13, 17, 21, 24].map(|number| severity(number, b"secret")).to_vec();
        let expected = ["trace", "debug", "info", "warn", "error", "fatal", "fatal"].map(Some);
        assert_eq!(by_number, expected);
        assert_eq!(severity(0, b"WARNING"), Some("warn"));
        assert_eq!(severity(0, b"Critical"), Some("fatal"));
        assert_eq!(severity(25, b"bob@example.org"), None);
        assert_eq!(severity(-1, b""), None);
    }

    #[test]
    fn ids_are_plausible_or_refused() {
        assert_eq!(uid(RawValue::Str(b"01J-a.b_c:9"), &Scanner::new()), Ok("01J-a.b_c:9"));
        assert_eq!(uid(RawValue::Str(b"\"7d4a7b1c-uuid\""), &Scanner::new()), Ok("7d4a7b1c-uuid"));
        assert_eq!(uid(RawValue::Str(b"null"), &Scanner::new()), Err(AttributeOutcome::Null));
        assert_eq!(uid(RawValue::Str(b""), &Scanner::new()), Err(AttributeOutcome::Implausible));
        assert_eq!(
            uid(RawValue::Str(b"bob@example.org"), &Scanner::new()),
            Err(AttributeOutcome::Implausible)
        );
        assert_eq!(uid(RawValue::Str(&[b'a'; 129]), &Scanner::new()), Err(AttributeOutcome::Implausible));
        assert_eq!(uid(RawValue::Int(1), &Scanner::new()), Err(AttributeOutcome::TypeMismatch));
        assert_eq!(uid(RawValue::Str(b"\xff"), &Scanner::new()), Err(AttributeOutcome::InvalidUtf8));
    }
}
