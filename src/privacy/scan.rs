//! The leak scan: finds in a text what should not be in it.
//!
//! Owns: the classes of leaks, the order of the searches, what a masked text looks like. Does not own: how one class is
//! found (the files in `scan/`), what is done about a finding (`pass`), which values are scanned (`policy`).
//!
//! | class | what is found |
//! |---|---|
//! | email | an address with a dotted domain; `user@host` without a dot is none |
//! | card | 13 to 19 digits, alone or in groups, with an issuer's prefix and a valid Luhn digit |
//! | iban | a known country's length and valid mod-97 digits, alone or in groups |
//! | ip | IPv4 in four parts of at most 255, IPv6; not `x.0.0.0`, as browsers write their versions |
//! | phone | `+`, then 8 to 15 digits with the usual separators |
//! | token | what follows `Bearer` or `Basic`, an `Authorization` or `Cookie` header, a JWT |
//! | private_key | a PEM private key, also when its end is missing |
//! | access_key | a key with a well-known prefix: AWS, Google, GitHub, Slack, Stripe and others |
//! | secret | a password in a URL, the value of a query parameter, JSON member or assignment whose name says secret |
//!
//! What has no shape of its own is not found: a name, a street, a national phone number, a password in prose.
//!
//! A text is first glanced at, once and byte by byte; each search runs only where the glance saw the characters that it
//! needs, so that a clean text costs little more than the glance. Where there are escapes (`\u0040`, `\"`, `%40`, `&#64;`,
//! at any depth) or characters that look like others (a full-width `＠`, a no-break space), the text is searched a second
//! time with these undone. Every search takes time linear in the length of the text, whatever the text is.

mod address;
mod decode;
mod glance;
mod keys;
mod numbers;
mod secrets;
#[cfg(test)]
mod tests;

use crate::registry::{LeakClass, LeakClasses};
use decode::{Decoded, decode};
use glance::Glance;
use keys::Keys;

/// Texts up to this length are searched without an allocation even where they hold escapes.
const DECODED_ON_STACK_MAX: usize = 512;

/// After so many rounds a text that still is not clean is masked as a whole.
const MASK_ROUNDS_MAX: usize = 4;

/// Of two classes the one that names the mask where their findings overlap: the one that says most about the harm.
fn weightier(one: LeakClass, other: LeakClass) -> LeakClass {
    let rank = |class| match class {
        LeakClass::PrivateKey => 0,
        LeakClass::AccessKey => 1,
        LeakClass::Token => 2,
        LeakClass::Secret => 3,
        LeakClass::Iban => 4,
        LeakClass::Card => 5,
        LeakClass::Email => 6,
        LeakClass::Phone => 7,
        LeakClass::Ip => 8,
    };
    if rank(other) < rank(one) { other } else { one }
}

/// What stands in a masked text.
const fn mask_of(class: LeakClass) -> &'static str {
    match class {
        LeakClass::PrivateKey => "[private_key]",
        LeakClass::AccessKey => "[access_key]",
        LeakClass::Token => "[token]",
        LeakClass::Secret => "[secret]",
        LeakClass::Iban => "[iban]",
        LeakClass::Card => "[card]",
        LeakClass::Email => "[email]",
        LeakClass::Phone => "[phone]",
        LeakClass::Ip => "[ip]",
    }
}

/// Where a leak is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: usize,
    end: usize,
    class: LeakClass,
}

/// What the searches found; a clean text costs no allocation.
#[derive(Debug, Default)]
struct Found {
    spans: Vec<Span>,
}

impl Found {
    fn push(&mut self, start: usize, end: usize, class: LeakClass) {
        if start < end {
            self.spans.push(Span { start, end, class });
        }
    }
}

/// Finds leaks in texts. Built once, shared by all requests.
#[derive(Debug)]
pub(super) struct Scanner {
    keys: Keys,
}

impl Scanner {
    /// Prepares the searches.
    #[must_use]
    pub(super) fn new() -> Self {
        Self { keys: Keys::new() }
    }

    /// True where nothing is found in the text.
    #[must_use]
    pub(super) fn is_clean(&self, text: &str) -> bool {
        self.is_clean_of(text, LeakClasses::ALL)
    }

    /// Appends the text to `out` with a mask in the place of each finding. Answers what was found, or None where the text
    /// is clean, and then appends nothing.
    pub(super) fn mask(&self, text: &str, out: &mut String) -> Option<LeakClasses> {
        self.mask_classes(text, LeakClasses::ALL, out)
    }

    /// As `mask`, but only for findings of these classes. What is appended is clean of them.
    pub(super) fn mask_classes(
        &self,
        text: &str,
        classes: LeakClasses,
        out: &mut String,
    ) -> Option<LeakClasses> {
        if self.is_clean_of(text, classes) {
            return None;
        }
        let mut findings = LeakClasses::NONE;
        let mut masked = text.to_owned();
        // One round nearly always does. A second one is needed where escapes of several depths hid a rest of a value.
        for _ in 0..MASK_ROUNDS_MAX {
            let spans = self.spans(&masked, classes);
            if spans.is_empty() {
                break;
            }
            findings = spans.iter().fold(findings, |all, span| all.with(span.class));
            masked = replaced(&masked, &spans);
        }
        if !self.is_clean_of(&masked, classes) {
            findings = findings.with(LeakClass::Secret);
            mask_of(LeakClass::Secret).clone_into(&mut masked);
        }
        out.push_str(&masked);
        Some(findings)
    }

    #[inline]
    fn is_clean_of(&self, text: &str, classes: LeakClasses) -> bool {
        let glance = Glance::at(text.as_bytes());
        glance.sees_nothing() || self.search_is_clean(text.as_bytes(), glance, classes)
    }

    // By itself, so that a text in which nothing was seen costs no set-up.
    #[inline(never)]
    fn search_is_clean(&self, bytes: &[u8], glance: Glance, classes: LeakClasses) -> bool {
        let mut found = Found::default();
        self.search(bytes, glance, &mut found);
        if glance.may_be_escaped() {
            self.search_decoded(bytes, &mut found);
        }
        !found.spans.iter().any(|span| classes.contains(span.class))
    }

    /// Searches the text with its escapes undone, where it has any; the spans are places in the undone text.
    fn search_decoded(&self, bytes: &[u8], found: &mut Found) {
        // An undone text is never longer than the text.
        if bytes.len() <= DECODED_ON_STACK_MAX {
            let mut buffer = [0_u8; DECODED_ON_STACK_MAX];
            let mut length = 0;
            let changed = decode(bytes, &mut |byte, _| {
                if let Some(slot) = buffer.get_mut(length) {
                    *slot = byte;
                    length += 1;
                }
            });
            if let Some(undone) = buffer.get(..length).filter(|_| changed) {
                self.search(undone, Glance::at(undone), found);
            }
        } else {
            let mut undone = Vec::new();
            if decode(bytes, &mut |byte, _| undone.push(byte)) {
                self.search(&undone, Glance::at(&undone), found);
            }
        }
    }

    fn search(&self, text: &[u8], glance: Glance, found: &mut Found) {
        if glance.has_at() {
            address::emails(text, found);
        }
        if glance.may_hold_card() {
            numbers::cards(text, found);
        }
        if glance.may_hold_iban() {
            numbers::ibans(text, found);
        }
        if glance.may_hold_phone() {
            numbers::phones(text, found);
        }
        if glance.may_hold_ipv4() {
            address::ipv4(text, found);
        }
        if glance.may_hold_ipv6() {
            address::ipv6(text, found);
        }
        if glance.may_hold_assignment() {
            secrets::assignments(text, found);
        }
        if glance.may_hold_key() {
            self.keys.find(text, found);
        }
    }

    /// The findings in the text's own places, in order and without overlaps.
    fn spans(&self, text: &str, classes: LeakClasses) -> Vec<Span> {
        let bytes = text.as_bytes();
        let glance = Glance::at(bytes);
        let mut raw = Found::default();
        self.search(bytes, glance, &mut raw);
        let mut undone = Found::default();
        if glance.may_be_escaped() {
            let decoded = Decoded::new(bytes);
            if decoded.changed {
                self.search(&decoded.text, Glance::at(&decoded.text), &mut undone);
                for span in &mut undone.spans {
                    (span.start, span.end) = (decoded.source(span.start), decoded.source(span.end));
                }
            }
        }
        let wanted = |found: Found| -> Vec<Span> {
            found.spans.into_iter().filter(|span| classes.contains(span.class)).collect()
        };
        let mut spans = merged(bytes, wanted(undone));
        // What was found with the escapes undone has the better bounds: the raw text of `\nbob@example.org` seems to hold
        // an address that begins with the `n` of the escape.
        let raw: Vec<Span> = wanted(raw)
            .into_iter()
            .filter(|span| {
                let behind = spans.partition_point(|other| other.end <= span.start);
                spans.get(behind).is_none_or(|other| other.start >= span.end)
            })
            .collect();
        spans.extend(raw);
        merged(bytes, spans)
    }
}

/// Sorts the spans and joins those that overlap.
fn merged(text: &[u8], mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable_by_key(|span| (span.start, span.end, span.class as u8));
    let mut merged: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match merged.last_mut() {
            Some(last) if span.start < last.end => {
                if span.end > last.end {
                    last.end = span.end;
                }
                last.class = weightier(last.class, span.class);
            }
            _ => merged.push(Span { end: secrets::quoted_end(text, span), ..span }),
        }
    }
    merged
}

fn replaced(text: &str, spans: &[Span]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut kept_from = 0;
    for span in spans {
        let start = text.floor_char_boundary(span.start);
        out.push_str(text.get(kept_from..start).unwrap_or_default());
        out.push_str(mask_of(span.class));
        kept_from = text.ceil_char_boundary(span.end);
    }
    out.push_str(text.get(kept_from..).unwrap_or_default());
    out
}

/// The byte at a place; 0 outside of the text, which no search takes for a part of anything.
#[inline]
fn byte(text: &[u8], at: usize) -> u8 {
    text.get(at).copied().unwrap_or(0)
}

/// The byte before a place.
#[inline]
fn before(text: &[u8], at: usize) -> u8 {
    at.checked_sub(1).map_or(0, |at| byte(text, at))
}

/// Where the bytes from `from` on that belong to a set end.
#[inline]
fn run_end(text: &[u8], from: usize, belongs: impl Fn(u8) -> bool) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    from + rest.iter().position(|byte| !belongs(*byte)).unwrap_or(rest.len())
}

/// Where the bytes before `to` that belong to a set begin, at most back to `floor`.
#[inline]
fn run_start(text: &[u8], floor: usize, to: usize, belongs: impl Fn(u8) -> bool) -> usize {
    let rest = text.get(floor..to).unwrap_or_default();
    floor + rest.iter().rposition(|byte| !belongs(*byte)).map_or(0, |last| last + 1)
}

/// The length of the mask that stands at a place, or 0.
fn mask_length(text: &[u8]) -> usize {
    let masks = LeakClass::ALL.map(mask_of);
    masks.iter().find(|mask| text.starts_with(mask.as_bytes())).map_or(0, |mask| mask.len())
}

/// True where a value is made of masks only: what was masked once must not count as a finding again.
fn is_masked(mut value: &[u8]) -> bool {
    while !value.is_empty() {
        match mask_length(value) {
            0 => return false,
            length => value = value.get(length..).unwrap_or_default(),
        }
    }
    true
}
