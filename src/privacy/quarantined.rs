//! Events that break their contract: what may be stored of them, and their payload only sealed.
//!
//! Owns: the closed set of reasons, what of a broken event is stored in the clear (names and types, never a value), the
//! sealed payload's content, and the limits of all that per request. Does not own: which event is broken (the gate), the
//! table's columns (`columns`).
//!
//! The payload is one `ExportLogsServiceRequest` with the record alone, its resource and its scope, from the bytes that were
//! sent: what is opened later can go through the same gate. Schema URLs are left out.
//!
//! A payload costs two X25519 operations, of the order of 0.1 ms, and each of a request's records may be broken. So a
//! request's payloads are bounded in number and in bytes; what is over a limit is quarantined without payload, and counted.

use std::borrow::Cow;
use std::fmt;

use super::drift::{self, EVENT_BYTES_MAX, KEY_BYTES_MAX};
use super::json;
use super::seal::{Randomness, Recipient, system_randomness};
use crate::receive::decode::{RawAttribute, RawEvents, RawRecord, RawValue};
use crate::secret::DerivedKey;

/// Payloads that are sealed of one request: some tens of milliseconds of one core. An SDK's batch has 512 records at the most,
/// and one in which more than half is broken is understood without the rest.
pub const PAYLOADS_MAX: usize = 256;
/// Longest payload that is sealed, bytes. A product event with its resource has one to five thousand.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 10;
/// Bytes of payload that are sealed of one request. The resource is in each payload, so that without this a large one would
/// be multiplied.
pub const PAYLOADS_BYTES_MAX: usize = 4 << 20;
/// Attributes of one event whose names and types are stored.
pub const NAMES_MAX: usize = 64;
/// Declared keys at fault that are named for one event.
pub const FAULTS_MAX: usize = 16;
/// Bytes of names, types and faults that are stored of one request; later events of it have none.
pub const NAMES_BYTES_MAX: usize = 2 << 20;

/// The name under which undeclared events are stored.
pub const UNDECLARED: &str = "(undeclared)";

/// Why an event is in quarantine: the reason in its row, in reports and in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuarantineReason {
    /// It lacks an attribute that its declaration requires.
    MissingRequired,
    /// An attribute's value cannot be read as the declared type.
    TypeMismatch,
    /// An attribute's value is not a member of the declared enum.
    NotAMember,
    /// An attribute's value is too long, nested too deeply, not UTF-8 or not finite.
    InvalidValue,
    /// Something leaked into an attribute whose declaration asks for quarantine then.
    Leak,
    /// The registry does not declare the event.
    UndeclaredEvent,
}

impl QuarantineReason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::MissingRequired,
        Self::TypeMismatch,
        Self::NotAMember,
        Self::InvalidValue,
        Self::Leak,
        Self::UndeclaredEvent,
    ];

    /// Its name, as it is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingRequired => "missing_required",
            Self::TypeMismatch => "type_mismatch",
            Self::NotAMember => "not_a_member",
            Self::InvalidValue => "invalid_value",
            Self::Leak => "leak",
            Self::UndeclaredEvent => "undeclared_event",
        }
    }

    /// The reason of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

/// What the gate knows of an event that it does not clear.
#[derive(Clone, Copy)]
pub struct Broken<'s, 'a> {
    /// The request.
    pub raw: &'s RawEvents<'a>,
    /// The record in it.
    pub record: &'s RawRecord<'a>,
    /// `log.record.uid` where it was a plausible id.
    pub uid: Option<&'a str>,
    /// 128 bits of the keyed hash of content and ordinal; the event id where there is no uid.
    pub digest: [u8; 16],
    /// When it happened, microseconds since the Unix epoch, where that is within the accepted bounds.
    pub occurred: Option<i64>,
    /// From the resource, where it is a plausible name.
    pub service_name: Option<&'a str>,
    /// The event's name where the registry declares it.
    pub declared_name: Option<&'s str>,
    /// Why it is not cleared.
    pub reason: QuarantineReason,
    /// The declared keys at fault.
    pub faults: &'s [&'s str],
    /// Tells whether the registry declares a key.
    pub is_declared: &'s dyn Fn(&[u8]) -> bool,
    /// Tells whether the leak scan finds nothing in a text.
    pub is_clean: &'s dyn Fn(&str) -> bool,
}

impl fmt::Debug for Broken<'_, '_> {
    /// Shows the reason, and nothing that was sent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broken").field("reason", &self.reason).finish_non_exhaustive()
    }
}

/// An event as the quarantine table stores it. Made only by [`Admission::admit`].
#[derive(Clone)]
pub struct QuarantinedEvent<'a> {
    pub(crate) event_id: Cow<'a, str>,
    /// The declared name; None where there is none.
    pub(crate) declared_name: Option<String>,
    /// The name that an undeclared event claims, or its hash; None where it has no name.
    pub(crate) claimed_name: Option<String>,
    pub(crate) occurred: Option<i64>,
    pub(crate) service_name: Option<&'a str>,
    pub(crate) reason: QuarantineReason,
    /// Declared keys at fault, with commas between.
    pub(crate) detail: Option<String>,
    pub(crate) attribute_count: i64,
    /// JSON array of names.
    pub(crate) attribute_names: Option<String>,
    /// JSON array of types, in the order of the names.
    pub(crate) attribute_types: Option<String>,
    pub(crate) sealed: Option<String>,
    pub(crate) sealed_key_id: Option<String>,
}

impl fmt::Debug for QuarantinedEvent<'_> {
    /// Shows the reason only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuarantinedEvent").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl QuarantinedEvent<'_> {
    /// Why it is in quarantine.
    #[must_use]
    pub fn reason(&self) -> QuarantineReason {
        self.reason
    }

    /// The name to count and to store it under: the declared one, or [`UNDECLARED`].
    #[must_use]
    pub fn event_name(&self) -> &str {
        self.declared_name.as_deref().unwrap_or(UNDECLARED)
    }

    /// True where its payload is stored, sealed.
    #[must_use]
    pub fn has_payload(&self) -> bool {
        self.sealed.is_some()
    }
}

/// How broken events are written down. Made once; shared by all requests.
#[derive(Debug)]
pub struct Quarantine {
    recipient: Option<Recipient>,
    name_key: DerivedKey,
    randomness: Randomness,
}

impl Quarantine {
    /// Payloads are sealed to `recipient`; without one, none is kept. Names that are not shown are hashed under `name_key`.
    #[must_use]
    pub fn new(recipient: Option<Recipient>, name_key: DerivedKey) -> Self {
        Self { recipient, name_key, randomness: system_randomness }
    }

    /// Starts a request.
    #[must_use]
    pub fn request(&self) -> Admission<'_> {
        Admission { quarantine: self, payloads: 0, payload_bytes: 0, name_bytes: 0, without_payload: 0 }
    }
}

/// Takes the broken events of one request, within its limits.
#[derive(Debug)]
pub struct Admission<'q> {
    quarantine: &'q Quarantine,
    payloads: usize,
    payload_bytes: usize,
    name_bytes: usize,
    without_payload: u64,
}

impl Admission<'_> {
    /// Turns a broken event into what is stored of it.
    #[must_use]
    pub fn admit<'a>(&mut self, broken: &Broken<'_, 'a>) -> QuarantinedEvent<'a> {
        let event_id = broken.uid.map_or_else(|| Cow::Owned(hex(&broken.digest)), Cow::Borrowed);
        let sealed = self.seal(broken, &event_id);
        let recipient = self.quarantine.recipient.as_ref().filter(|_| sealed.is_some());
        let attributes = broken.raw.attributes(&broken.record.attributes);
        let (detail, names, types) = self.describe(broken, attributes);
        let claims = broken.declared_name.is_none() && !broken.record.name.is_empty();
        QuarantinedEvent {
            event_id,
            declared_name: broken.declared_name.map(str::to_owned),
            claimed_name: claims.then(|| self.shown(broken.record.name, EVENT_BYTES_MAX, broken)),
            occurred: broken.occurred,
            service_name: broken.service_name,
            reason: broken.reason,
            detail,
            attribute_count: i64::try_from(attributes.len()).unwrap_or(i64::MAX),
            attribute_names: names,
            attribute_types: types,
            sealed_key_id: recipient.map(|recipient| recipient.id().to_owned()),
            sealed,
        }
    }

    /// Events that have no payload although there is a recipient: they were over a limit, or could not be sealed.
    #[must_use]
    pub fn without_payload(&self) -> u64 {
        self.without_payload
    }

    fn seal(&mut self, broken: &Broken<'_, '_>, event_id: &str) -> Option<String> {
        let recipient = self.quarantine.recipient.as_ref()?;
        let envelope = Enclosure::of(broken.raw, broken.record);
        let length = envelope.length();
        let sealed = if self.payloads < PAYLOADS_MAX
            && length <= PAYLOAD_BYTES_MAX
            && self.payload_bytes + length <= PAYLOADS_BYTES_MAX
        {
            self.payloads += 1;
            self.payload_bytes += length;
            let reason = broken.reason.as_str();
            recipient.seal(&envelope.encode(), event_id, reason, self.quarantine.randomness).ok()
        } else {
            None
        };
        self.without_payload += u64::from(sealed.is_none());
        sealed
    }

    /// The faults, and the attributes' names and types; none once the request's bytes for such are used up.
    fn describe(
        &mut self,
        broken: &Broken<'_, '_>,
        attributes: &[RawAttribute<'_>],
    ) -> (Option<String>, Option<String>, Option<String>) {
        if self.name_bytes >= NAMES_BYTES_MAX {
            return (None, None, None);
        }
        let faults: Vec<_> = broken.faults.iter().take(FAULTS_MAX).copied().collect();
        let detail = faults.join(",");
        let (mut names, mut types) = (String::from("["), String::from("["));
        for (place, attribute) in attributes.iter().take(NAMES_MAX).enumerate() {
            json::separate(place, &mut names);
            json::separate(place, &mut types);
            match std::str::from_utf8(attribute.key) {
                Ok(key) if (broken.is_declared)(attribute.key) => json::push_string(&mut names, key),
                _ => json::push_string(&mut names, &self.shown(attribute.key, KEY_BYTES_MAX, broken)),
            }
            json::push_string(&mut types, type_name(&attribute.value));
        }
        names.push(']');
        types.push(']');
        self.name_bytes += detail.len() + names.len() + types.len();
        (Some(detail).filter(|detail| !detail.is_empty()), Some(names), Some(types))
    }

    /// A name from the wire as it may be stored: as the drift report shows it.
    fn shown(&self, name: &[u8], bytes_max: usize, broken: &Broken<'_, '_>) -> String {
        drift::shown(name, bytes_max, broken.is_clean, &self.quarantine.name_key)
    }
}

/// An attribute value's type in OTLP's terms.
fn type_name(value: &RawValue<'_>) -> &'static str {
    match value {
        RawValue::Empty => "empty",
        RawValue::Str(_) => "string",
        RawValue::Bool(_) => "boolean",
        RawValue::Int(_) => "int",
        RawValue::Double(_) => "double",
        RawValue::Bytes(_) => "bytes",
        RawValue::Array(_) => "array",
        RawValue::KvList(_) => "kvlist",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One record as a request of its own, framed around the bytes that were sent. (Where a made-up request gave its resource in
/// several parts, those bytes are no clean message; the gate that it is sent through later refuses it or drops what it does
/// not know, as it does with any request.)
struct Enclosure<'a> {
    resource: &'a [u8],
    scope: &'a [u8],
    record: &'a [u8],
}

/// `ExportLogsServiceRequest.resource_logs`, `ResourceLogs.resource` and `ScopeLogs.scope`: field 1, length-delimited.
const FIELD_1: u8 = 1 << 3 | 2;
/// `ResourceLogs.scope_logs` and `ScopeLogs.log_records`: field 2, length-delimited.
const FIELD_2: u8 = 2 << 3 | 2;

impl<'a> Enclosure<'a> {
    fn of(raw: &RawEvents<'a>, record: &RawRecord<'a>) -> Self {
        Self {
            resource: raw.resource(record).map_or(&[], |resource| resource.encoded),
            scope: raw.scope(record).map_or(&[], |scope| scope.encoded),
            record: record.encoded,
        }
    }

    fn length(&self) -> usize {
        field_length(self.resource_logs_length())
    }

    fn resource_logs_length(&self) -> usize {
        field_length(self.resource.len()) + field_length(self.scope_logs_length())
    }

    fn scope_logs_length(&self) -> usize {
        field_length(self.scope.len()) + field_length(self.record.len())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.length());
        push_head(FIELD_1, self.resource_logs_length(), &mut out);
        push_head(FIELD_1, self.resource.len(), &mut out);
        out.extend_from_slice(self.resource);
        push_head(FIELD_2, self.scope_logs_length(), &mut out);
        push_head(FIELD_1, self.scope.len(), &mut out);
        out.extend_from_slice(self.scope);
        push_head(FIELD_2, self.record.len(), &mut out);
        out.extend_from_slice(self.record);
        out
    }
}

fn push_head(tag: u8, mut length: usize, out: &mut Vec<u8>) {
    out.push(tag);
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// Bytes of a length-delimited field: a tag of one byte, the length, the content.
fn field_length(content: usize) -> usize {
    prost::length_delimiter_len(content) + 1 + content
}

#[cfg(test)]
mod tests;
