//! What a request carries that the registry does not declare: which event, which key, which types, from whom, how often.
//!
//! Owns: collecting it while a request is cleared, and the form in which a name from the wire may be shown. Does not own:
//! the report over many requests (`crate::drift`). Values are never looked at, only their kinds.
//!
//! Senders write the same attributes in the same order again and again. So each entry remembers which one came behind it,
//! and mostly a comparison with that guess finds an attribute's entry: no hashing, and no allocation once each is known.
//!
//! A name from the wire may hold a value (`hello bob`). It is shown only where it looks like a name that somebody wrote
//! down in code: the grammar of attribute keys, short, few digits, nothing that the leak scan knows. Any other is shown as
//! `#` and 12 hex digits of a keyed hash: the same name stays the same, and nobody can confirm a guess without the key.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::receive::decode::{RawAttribute, RawValue};
use crate::secret::DerivedKey;

/// Distinct entries of one request. Far above what one program sends; what exceeds it is only counted.
pub const ENTRIES_PER_REQUEST_MAX: usize = 512;

/// Services of one request whose overflow is told apart.
const OVERFLOW_SERVICES_MAX: usize = 50;

/// Longest key that is shown.
pub const KEY_BYTES_MAX: usize = 64;

/// Longest event name that is shown.
pub const EVENT_BYTES_MAX: usize = 128;

/// More digits than this in one word of a name make it a number that somebody put there: an id, a date, a phone number.
const DIGITS_PER_WORD_MAX: usize = 4;

/// Hex digits of a name's hash.
const HASH_DIGITS: usize = 12;

/// No entry.
const NONE: u32 = u32::MAX;

/// What is undeclared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    /// An event. Each record of it counts once.
    Event,
    /// An attribute that its declared event does not declare.
    Attribute,
    /// An attribute of an undeclared event; another event may declare it.
    EventAttribute,
}

impl DriftKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Event, Self::Attribute, Self::EventAttribute];

    /// Its name, as reports and metrics show it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Attribute => "attribute",
            Self::EventAttribute => "event_attribute",
        }
    }
}

/// The kind of a value on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueType {
    /// No value, or the text `null`, which is read as none.
    Empty,
    /// Text.
    String,
    /// Integer.
    Int,
    /// Floating point.
    Double,
    /// True or false.
    Boolean,
    /// Bytes.
    Bytes,
    /// A list.
    Array,
    /// A list of keys and values.
    Kvlist,
}

impl ValueType {
    /// Every type; the place of each is its discriminant.
    pub const ALL: [Self; 8] = [
        Self::Empty,
        Self::String,
        Self::Int,
        Self::Double,
        Self::Boolean,
        Self::Bytes,
        Self::Array,
        Self::Kvlist,
    ];

    fn of(value: RawValue<'_>) -> Self {
        match value {
            RawValue::Empty | RawValue::Str(b"null") => Self::Empty,
            RawValue::Str(_) => Self::String,
            RawValue::Int(_) => Self::Int,
            RawValue::Double(_) => Self::Double,
            RawValue::Bool(_) => Self::Boolean,
            RawValue::Bytes(_) => Self::Bytes,
            RawValue::Array(_) => Self::Array,
            RawValue::KvList(_) => Self::Kvlist,
        }
    }

    /// Its name, as reports show it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::String => "string",
            Self::Int => "int",
            Self::Double => "double",
            Self::Boolean => "boolean",
            Self::Bytes => "bytes",
            Self::Array => "array",
            Self::Kvlist => "kvlist",
        }
    }
}

/// The event that an entry is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum DriftEvent<'a> {
    /// An index into `Registry::events`.
    Declared(u32),
    /// The name as sent.
    Undeclared(&'a [u8]),
    /// Not told apart any more: the request holds too many different names.
    Overflow,
}

impl fmt::Debug for DriftEvent<'_> {
    /// Shows no name: what a sender wrote has no place in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Declared(_) => "Declared",
            Self::Undeclared(_) => "Undeclared",
            Self::Overflow => "Overflow",
        })
    }
}

/// Something undeclared, as often as one service sent it in a request.
#[derive(Clone)]
pub struct DriftEntry<'a> {
    /// What it is.
    pub kind: DriftKind,
    /// The event, or the event that carries the attribute.
    pub event: DriftEvent<'a>,
    /// The attribute's key as sent; empty for an event.
    pub key: &'a [u8],
    /// The sending service, where its name is plausible.
    pub service: Option<&'a str>,
    /// How often.
    pub count: u64,
    /// How often with a value of each type, by the place in [`ValueType::ALL`]; all zero for an event.
    pub types: [u32; ValueType::ALL.len()],
    site: Site,
    /// The entry that came behind this one last time.
    next: u32,
}

impl fmt::Debug for DriftEntry<'_> {
    /// Shows no name: what a sender wrote has no place in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriftEntry")
            .field("kind", &self.kind)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

/// Where an attribute stands: numbers of the request's services and of events, the undeclared behind the declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Site {
    service: u32,
    event: u32,
}

/// Collects while a request is cleared.
pub(super) struct Collector<'a> {
    entries: Vec<DriftEntry<'a>>,
    /// By site and key; an event's own entry has no key.
    places: HashMap<(Site, Option<&'a [u8]>), u32>,
    declared_events: u32,
    /// Numbers of undeclared events.
    names: HashMap<&'a [u8], u32>,
    services: HashMap<Option<&'a str>, u32>,
    overflow: Vec<(Option<&'a str>, [u64; DriftKind::ALL.len()])>,
    /// By declared event, the entry that was met first in its last record that had one.
    firsts: Vec<u32>,
    /// The resource of the current record, and what is known of it.
    resource: u32,
    service: Option<&'a str>,
    site: Site,
    event: DriftEvent<'a>,
    kind: DriftKind,
    /// The entry met last in the current record.
    previous: u32,
}

impl<'a> Collector<'a> {
    /// Allocates nothing: most requests hold nothing undeclared.
    pub(super) fn new(declared_events: usize) -> Self {
        Self {
            entries: Vec::new(),
            places: HashMap::new(),
            declared_events: declared_events as u32,
            names: HashMap::new(),
            services: HashMap::new(),
            overflow: Vec::new(),
            firsts: Vec::new(),
            resource: NONE,
            service: None,
            site: Site { service: 0, event: 0 },
            event: DriftEvent::Overflow,
            kind: DriftKind::Attribute,
            previous: NONE,
        }
    }

    /// A record of a declared event begins.
    #[inline]
    pub(super) fn declared(&mut self, event: u32, resource: u32, service: Option<&'a str>) {
        self.enter(resource, service);
        (self.event, self.kind, self.previous) = (DriftEvent::Declared(event), DriftKind::Attribute, NONE);
        self.site.event = event;
    }

    /// A record of an undeclared event begins.
    pub(super) fn undeclared(&mut self, name: &'a [u8], resource: u32, service: Option<&'a str>) {
        self.enter(resource, service);
        let next = self.declared_events + self.names.len() as u32;
        let number = match self.names.get(name) {
            Some(number) => Some(*number),
            None if self.names.len() >= ENTRIES_PER_REQUEST_MAX => None,
            None => {
                self.names.insert(name, next);
                Some(next)
            }
        };
        self.previous = NONE;
        self.kind = DriftKind::Event;
        match number {
            Some(number) => {
                self.event = DriftEvent::Undeclared(name);
                self.site.event = number;
                if let Some(place) = self.place(None) {
                    self.count(place, None);
                }
            }
            None => {
                self.event = DriftEvent::Overflow;
                self.overflow();
            }
        }
        self.kind = DriftKind::EventAttribute;
    }

    /// The current record carries an undeclared attribute.
    #[inline]
    pub(super) fn attribute(&mut self, attribute: &RawAttribute<'a>) {
        let guess = match self.entries.get(self.previous as usize) {
            Some(previous) => previous.next,
            None => self.firsts.get(self.site.event as usize).copied().unwrap_or(NONE),
        };
        let is_it = |entry: &DriftEntry<'a>| {
            entry.site == self.site && entry.kind == self.kind && entry.key == attribute.key
        };
        let place = if self.entries.get(guess as usize).is_some_and(is_it) {
            guess
        } else {
            let Some(place) = self.place(Some(attribute.key)) else { return };
            place
        };
        self.count(place, Some(ValueType::of(attribute.value)));
    }

    /// What was collected; what was only counted comes last.
    pub(super) fn finish(mut self) -> Vec<DriftEntry<'a>> {
        for (service, counts) in &self.overflow {
            for (kind, count) in DriftKind::ALL.into_iter().zip(counts).filter(|(_, count)| **count > 0) {
                self.entries.push(DriftEntry {
                    kind,
                    event: DriftEvent::Overflow,
                    key: &[],
                    service: *service,
                    count: *count,
                    types: Default::default(),
                    site: self.site,
                    next: NONE,
                });
            }
        }
        self.entries
    }

    #[inline]
    fn enter(&mut self, resource: u32, service: Option<&'a str>) {
        if self.resource == resource {
            return;
        }
        self.resource = resource;
        let is_first = self.services.is_empty();
        if service == self.service && !is_first {
            return;
        }
        self.service = service;
        let next = self.services.len() as u32;
        // No more of them than resources, whose number is bounded.
        self.site.service = *self.services.entry(service).or_insert(next);
    }

    /// The place of the current event's entry, or of its attribute's; made where there is none and room for it.
    #[cold]
    fn place(&mut self, key: Option<&'a [u8]>) -> Option<u32> {
        if self.event == DriftEvent::Overflow {
            self.overflow();
            return None;
        }
        if let Some(place) = self.places.get(&(self.site, key)) {
            return Some(*place);
        }
        if self.entries.len() >= ENTRIES_PER_REQUEST_MAX {
            self.overflow();
            return None;
        }
        let place = self.entries.len() as u32;
        self.places.insert((self.site, key), place);
        self.entries.push(DriftEntry {
            kind: self.kind,
            event: self.event,
            key: key.unwrap_or_default(),
            service: self.service,
            count: 0,
            types: Default::default(),
            site: self.site,
            next: NONE,
        });
        Some(place)
    }

    #[inline]
    fn count(&mut self, place: u32, value: Option<ValueType>) {
        if let Some(previous) = self.entries.get_mut(self.previous as usize) {
            previous.next = place;
        } else if self.kind == DriftKind::Attribute {
            if self.firsts.is_empty() {
                self.firsts = vec![NONE; self.declared_events as usize];
            }
            if let Some(first) = self.firsts.get_mut(self.site.event as usize) {
                *first = place;
            }
        }
        self.previous = place;
        if let Some(entry) = self.entries.get_mut(place as usize) {
            entry.count += 1;
            if let Some(count) = value.and_then(|value| entry.types.get_mut(value as usize)) {
                *count += 1;
            }
        }
    }

    #[cold]
    fn overflow(&mut self) {
        let kind = self.kind as usize;
        let known = self.overflow.iter().position(|(service, _)| *service == self.service);
        let place = known.unwrap_or_else(|| {
            let service = if self.overflow.len() < OVERFLOW_SERVICES_MAX { self.service } else { None };
            match self.overflow.iter().position(|(known, _)| *known == service) {
                Some(place) => place,
                None => {
                    self.overflow.push((service, Default::default()));
                    self.overflow.len() - 1
                }
            }
        });
        if let Some(count) = self.overflow.get_mut(place).and_then(|(_, counts)| counts.get_mut(kind)) {
            *count += 1;
        }
    }
}

impl fmt::Debug for Collector<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

/// A name from the wire as it may be shown, and kept on disk: as it is where it looks like a name that somebody wrote down in code
/// and the leak scan finds nothing in it (`is_clean`), else its keyed hash.
pub(super) fn shown(
    name: &[u8],
    bytes_max: usize,
    is_clean: impl Fn(&str) -> bool,
    key: &DerivedKey,
) -> String {
    match std::str::from_utf8(name) {
        Ok(text) if is_name(text, bytes_max) && is_clean(text) => text.to_owned(),
        _ => {
            let code = key.mac(name);
            let digits = code.iter().take(HASH_DIGITS / 2).map(|byte| format!("{byte:02x}"));
            std::iter::once("#".to_owned()).chain(digits).collect()
        }
    }
}

/// True for a text that a name from the wire can be shown as: what is read back from a file must be nothing else.
#[must_use]
pub fn is_shown_name(text: &str, bytes_max: usize) -> bool {
    is_hashed_name(text) || is_name(text, bytes_max)
}

/// True for the hash of a name that is not shown.
#[must_use]
pub fn is_hashed_name(text: &str) -> bool {
    text.strip_prefix('#').is_some_and(|digits| {
        digits.len() == HASH_DIGITS && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The grammar of names: lower-case words of letters, digits and `_` with single dots between them.
fn is_name(text: &str, bytes_max: usize) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
    };
    let few_digits = |word: &str| word.bytes().filter(u8::is_ascii_digit).count() <= DIGITS_PER_WORD_MAX;
    text.len() <= bytes_max
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.split('.').all(part)
        && text.split(['.', '_']).all(few_digits)
}

#[cfg(test)]
mod tests;
