//! From the bytes of an `ExportLogsServiceRequest` to borrowed views of its log records: one walk, no copies.
//!
//! Owns: the protobuf messages of OTLP logs, and the limits of one request's tables. Does not own: what an attribute may
//! keep.
//!
//! The walk holds to protobuf's rules: fields come in any order, unknown ones are skipped, the last of a repeated scalar
//! counts, and a message that comes in parts is merged. It is stricter in two places that no encoder reaches: groups are
//! refused, and so is one array or key-value list in several parts. Strings are not checked to be UTF-8.

mod name;
#[cfg(test)]
mod tests;
mod value;
mod wire;

use std::ops::Range;

use self::name::fallback_name;
use self::value::{push_usual_key_value, read_any_value, read_key_value};
use self::wire::{Wire, WireType::*, known, tag};
use super::reply::Refusal;

pub use self::name::{NameFallback, Rule, Source};
pub use self::value::{ArrayElements, KvPairs, VALUE_DEPTH_MAX};

/// Log records in one request. A record is two bytes on the wire at the least but 120 in memory, so that the number is
/// bounded apart from the request's size; SDKs send 512, collectors 8,192.
pub const RECORDS_MAX: usize = 65_536;

/// Attributes in one request, of records and resources. One is two bytes on the wire at the least and 40 in memory; the
/// limit is above what a request of 16 MiB with real keys can hold.
pub const ATTRIBUTES_MAX: usize = 524_288;

/// Resources in one request, and scopes in one request.
pub const GROUPS_MAX: usize = 65_536;

/// Why bytes are no `ExportLogsServiceRequest` that is taken. Never holds a part of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// A length or number reaches beyond the end.
    Truncated,
    /// A varint of more than 64 bits.
    LongVarint,
    /// A field number of 0 or over 29 bits.
    FieldNumber,
    /// A wire type that the field does not have, or a group.
    WireType,
    /// Values nested more deeply than [`VALUE_DEPTH_MAX`].
    TooDeep,
    /// An array or key-value list in several parts.
    SplitValue,
    /// More of something than one request may hold.
    TooMany(Part),
}

/// Something that a request may hold only so many of. (Errors stay one byte long, and so pass in registers.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Log records, up to [`RECORDS_MAX`].
    Record,
    /// Attributes, up to [`ATTRIBUTES_MAX`].
    Attribute,
    /// Resources, up to [`GROUPS_MAX`].
    Resource,
    /// Scopes, up to [`GROUPS_MAX`].
    Scope,
}

impl Part {
    /// The parts' name in the plural.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Record => "log records",
            Self::Attribute => "attributes",
            Self::Resource => "resources",
            Self::Scope => "scopes",
        }
    }

    /// How many there may be.
    #[must_use]
    pub fn limit(self) -> usize {
        match self {
            Self::Record => RECORDS_MAX,
            Self::Attribute => ATTRIBUTES_MAX,
            Self::Resource | Self::Scope => GROUPS_MAX,
        }
    }
}

impl DecodeError {
    /// The fault in words that hold no payload.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Truncated => "the protobuf ends in the middle of a field",
            Self::LongVarint => "the protobuf holds a varint of more than 64 bits",
            Self::FieldNumber => "the protobuf holds a field number that cannot be",
            Self::WireType => "a protobuf field has the wrong wire type",
            Self::TooDeep => "attribute values are nested more than 32 deep; flatten them",
            Self::SplitValue => "an array or key-value list is split over several protobuf fields",
            Self::TooMany(_) => "one request holds too many parts; send smaller batches",
        }
    }
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for DecodeError {}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::TooMany(part) => Self::TooMany { what: part.name(), limit: part.limit() },
            _ => Self::Malformed(error.reason()),
        }
    }
}

/// The decoded request: flat tables of views that borrow from the request's bytes. Made only by decoding.
#[derive(Debug, Default)]
pub struct RawEvents<'a> {
    pub(crate) resources: Vec<RawResource<'a>>,
    pub(crate) scopes: Vec<RawScope<'a>>,
    pub(crate) records: Vec<RawRecord<'a>>,
    /// Attributes of records and of resources, each owner holding a range of it.
    pub(crate) attributes: Vec<RawAttribute<'a>>,
}

/// An OTLP resource.
#[derive(Debug, Clone)]
pub struct RawResource<'a> {
    /// The encoded bytes of the `Resource` message: part of a record's identity.
    pub encoded: &'a [u8],
    /// Its attributes, as a range of [`RawEvents::attributes`].
    pub attributes: Range<u32>,
}

/// An OTLP instrumentation scope.
#[derive(Debug, Clone)]
pub struct RawScope<'a> {
    /// The scope's name; may be empty, may be invalid UTF-8.
    pub name: &'a [u8],
    /// The encoded bytes of the `InstrumentationScope` message: part of a record's identity.
    pub encoded: &'a [u8],
}

/// A log record. It is an event where it has a name.
#[derive(Debug, Clone)]
pub struct RawRecord<'a> {
    /// Index into the resources.
    pub resource: u32,
    /// Index into the scopes.
    pub scope: u32,
    /// Place in the request, from 0, over all resources and scopes.
    pub ordinal: u32,
    /// The encoded bytes of the `LogRecord` message.
    pub encoded: &'a [u8],
    /// The event's name by precedence (`event_name` field, attributes `otel.event.name`, `event.name`, the configured
    /// fallback); empty where there is none. May be invalid UTF-8.
    pub name: &'a [u8],
    /// `time_unix_nano`, or 0.
    pub time_unix_nano: u64,
    /// `observed_time_unix_nano`, or 0.
    pub observed_time_unix_nano: u64,
    /// `severity_number` as sent.
    pub severity_number: i32,
    /// `severity_text` as sent.
    pub severity_text: &'a [u8],
    /// The trace id where it is 16 bytes and not all zero.
    pub trace_id: Option<&'a [u8]>,
    /// The span id where it is 8 bytes and not all zero.
    pub span_id: Option<&'a [u8]>,
    /// Its attributes, as a range of [`RawEvents::attributes`], duplicates included.
    pub attributes: Range<u32>,
}

/// A key and its value, as sent. Neither was checked to be UTF-8.
#[derive(Debug, Clone, Copy)]
pub struct RawAttribute<'a> {
    /// The key's bytes.
    pub key: &'a [u8],
    /// The value.
    pub value: RawValue<'a>,
}

/// An OTLP `AnyValue`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RawValue<'a> {
    /// No value was set.
    Empty,
    /// `string_value`.
    Str(&'a [u8]),
    /// `bool_value`.
    Bool(bool),
    /// `int_value`.
    Int(i64),
    /// `double_value`.
    Double(f64),
    /// `bytes_value`.
    Bytes(&'a [u8]),
    /// `array_value`, still encoded (an `ArrayValue` message). Its structure and nesting depth were checked.
    Array(&'a [u8]),
    /// `kvlist_value`, still encoded (a `KeyValueList` message). Its structure and nesting depth were checked.
    KvList(&'a [u8]),
}

impl<'a> RawEvents<'a> {
    /// Reads an encoded `ExportLogsServiceRequest`.
    ///
    /// # Errors
    /// The first fault of the bytes, or the limit that they exceed.
    pub fn decode(bytes: &'a [u8], fallback: &NameFallback) -> Result<Self, DecodeError> {
        let mut walk = Walk { events: Self::sized_for(bytes.len()), fallback };
        walk.request(bytes)?;
        Ok(walk.events)
    }

    /// Room for the records of a usual request of this size (400 bytes a record, 40 an attribute).
    fn sized_for(request_bytes: usize) -> Self {
        Self {
            resources: Vec::new(),
            scopes: Vec::new(),
            records: Vec::with_capacity((request_bytes / 320).min(RECORDS_MAX)),
            attributes: Vec::with_capacity((request_bytes / 32).min(ATTRIBUTES_MAX)),
        }
    }

    /// The log records, in request order.
    #[must_use]
    pub fn records(&self) -> &[RawRecord<'a>] {
        &self.records
    }

    /// The resource of a record.
    #[must_use]
    pub fn resource(&self, record: &RawRecord<'a>) -> Option<&RawResource<'a>> {
        self.resources.get(record.resource as usize)
    }

    /// The scope of a record.
    #[must_use]
    pub fn scope(&self, record: &RawRecord<'a>) -> Option<&RawScope<'a>> {
        self.scopes.get(record.scope as usize)
    }

    /// The attributes in a range that a record or resource holds.
    #[must_use]
    pub fn attributes(&self, range: &Range<u32>) -> &[RawAttribute<'a>] {
        self.attributes.get(range.start as usize..range.end as usize).unwrap_or_default()
    }
}

const REQUEST_RESOURCE_LOGS: u32 = tag(1, Len);
const REQUEST_KNOWN: u32 = known(&[1]);

const RESOURCE_LOGS_RESOURCE: u32 = tag(1, Len);
const RESOURCE_LOGS_SCOPE_LOGS: u32 = tag(2, Len);
const RESOURCE_LOGS_KNOWN: u32 = known(&[1, 2]);

const RESOURCE_ATTRIBUTE: u32 = tag(1, Len);
const RESOURCE_KNOWN: u32 = known(&[1]);

const SCOPE_LOGS_SCOPE: u32 = tag(1, Len);
const SCOPE_LOGS_RECORD: u32 = tag(2, Len);
const SCOPE_LOGS_KNOWN: u32 = known(&[1, 2]);

const SCOPE_NAME: u32 = tag(1, Len);
const SCOPE_ATTRIBUTE: u32 = tag(3, Len);
const SCOPE_KNOWN: u32 = known(&[1, 3]);

const RECORD_TIME: u32 = tag(1, Fixed64);
const RECORD_SEVERITY_NUMBER: u32 = tag(2, Varint);
const RECORD_SEVERITY_TEXT: u32 = tag(3, Len);
const RECORD_BODY: u32 = tag(5, Len);
const RECORD_ATTRIBUTE: u32 = tag(6, Len);
const RECORD_DROPPED_ATTRIBUTES: u32 = tag(7, Varint);
const RECORD_FLAGS: u32 = tag(8, Fixed32);
const RECORD_TRACE_ID: u32 = tag(9, Len);
const RECORD_SPAN_ID: u32 = tag(10, Len);
const RECORD_OBSERVED_TIME: u32 = tag(11, Fixed64);
const RECORD_EVENT_NAME: u32 = tag(12, Len);
const RECORD_KNOWN: u32 = known(&[1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12]);

/// The walk over one request, and the tables that it fills.
struct Walk<'a, 'f> {
    events: RawEvents<'a>,
    fallback: &'f NameFallback,
}

impl<'a> Walk<'a, '_> {
    fn request(&mut self, bytes: &'a [u8]) -> Result<(), DecodeError> {
        let mut wire = Wire::new(bytes);
        while let Some(tag) = wire.tag()? {
            match tag {
                REQUEST_RESOURCE_LOGS => self.resource_logs(wire.bytes()?)?,
                _ => wire.skip(tag, REQUEST_KNOWN)?,
            }
        }
        Ok(())
    }

    /// Two passes, because the resource may stand behind the records that it belongs to.
    fn resource_logs(&mut self, bytes: &'a [u8]) -> Result<(), DecodeError> {
        let start = index(self.events.attributes.len());
        let encoded = parts(bytes, RESOURCE_LOGS_RESOURCE, |resource| self.resource(resource))?;
        let attributes = start..index(self.events.attributes.len());
        let resource = index(self.events.resources.len());
        push(&mut self.events.resources, RawResource { encoded, attributes }, Part::Resource)?;

        let mut wire = Wire::new(bytes);
        while let Some(tag) = wire.tag()? {
            match tag {
                RESOURCE_LOGS_SCOPE_LOGS => self.scope_logs(wire.bytes()?, resource)?,
                RESOURCE_LOGS_RESOURCE => wire.pass(tag)?,
                _ => wire.skip(tag, RESOURCE_LOGS_KNOWN)?,
            }
        }
        Ok(())
    }

    fn resource(&mut self, bytes: &'a [u8]) -> Result<(), DecodeError> {
        let mut wire = Wire::new(bytes);
        while let Some(tag) = wire.tag()? {
            match tag {
                RESOURCE_ATTRIBUTE => self.attribute(wire.bytes()?)?,
                _ => wire.skip(tag, RESOURCE_KNOWN)?,
            }
        }
        Ok(())
    }

    fn scope_logs(&mut self, bytes: &'a [u8], resource: u32) -> Result<(), DecodeError> {
        let mut name: &'a [u8] = &[];
        let encoded = parts(bytes, SCOPE_LOGS_SCOPE, |part| read_scope(part, &mut name))?;
        let scope = index(self.events.scopes.len());
        push(&mut self.events.scopes, RawScope { name, encoded }, Part::Scope)?;

        let mut wire = Wire::new(bytes);
        while let Some(tag) = wire.tag()? {
            match tag {
                SCOPE_LOGS_RECORD => self.record(wire.bytes()?, resource, scope, name)?,
                SCOPE_LOGS_SCOPE => wire.pass(tag)?,
                _ => wire.skip(tag, SCOPE_LOGS_KNOWN)?,
            }
        }
        Ok(())
    }

    fn record(
        &mut self,
        bytes: &'a [u8],
        resource: u32,
        scope: u32,
        scope_name: &[u8],
    ) -> Result<(), DecodeError> {
        let first = self.events.attributes.len();
        let ordinal = index(self.events.records.len());
        let mut record = RawRecord::empty(bytes, resource, scope, ordinal);
        let mut body = RawValue::Empty;
        let mut wire = Wire::new(bytes);
        while let Some(tag) = wire.tag()? {
            match tag {
                RECORD_ATTRIBUTE => self.attribute(wire.bytes()?)?,
                RECORD_TIME => record.time_unix_nano = wire.fixed64()?,
                RECORD_OBSERVED_TIME => record.observed_time_unix_nano = wire.fixed64()?,
                RECORD_SEVERITY_NUMBER => record.severity_number = low_32_bits(wire.varint()?),
                RECORD_SEVERITY_TEXT => record.severity_text = wire.bytes()?,
                RECORD_BODY => read_any_value::<true>(wire.bytes()?, 1, &mut body)?,
                RECORD_TRACE_ID => record.trace_id = id(wire.bytes()?, 16),
                RECORD_SPAN_ID => record.span_id = id(wire.bytes()?, 8),
                RECORD_EVENT_NAME => record.name = wire.bytes()?,
                RECORD_DROPPED_ATTRIBUTES | RECORD_FLAGS => wire.pass(tag)?,
                _ => wire.skip(tag, RECORD_KNOWN)?,
            }
        }
        if record.name.is_empty() {
            let attributes = self.events.attributes.get(first..).unwrap_or_default();
            record.name = fallback_name(self.fallback, scope_name, attributes, body);
        }
        record.attributes = index(first)..index(self.events.attributes.len());
        push(&mut self.events.records, record, Part::Record)
    }

    #[inline]
    fn attribute(&mut self, bytes: &'a [u8]) -> Result<(), DecodeError> {
        let table = &mut self.events.attributes;
        if table.len() < ATTRIBUTES_MAX && push_usual_key_value(bytes, table).is_some() {
            return Ok(());
        }
        push(table, read_key_value::<true>(bytes, 1)?, Part::Attribute)
    }
}

impl<'a> RawRecord<'a> {
    fn empty(encoded: &'a [u8], resource: u32, scope: u32, ordinal: u32) -> Self {
        Self {
            resource,
            scope,
            ordinal,
            encoded,
            name: &[],
            time_unix_nano: 0,
            observed_time_unix_nano: 0,
            severity_number: 0,
            severity_text: &[],
            trace_id: None,
            span_id: None,
            attributes: 0..0,
        }
    }
}

/// Calls `read` with each part of the message field under `wanted`, and gives the slice from the first part's start to
/// the last one's end. There is one part in all but made-up requests, and the slice is then that part.
fn parts<'a>(
    bytes: &'a [u8],
    wanted: u32,
    mut read: impl FnMut(&'a [u8]) -> Result<(), DecodeError>,
) -> Result<&'a [u8], DecodeError> {
    let mut span: Option<Range<usize>> = None;
    let mut wire = Wire::new(bytes);
    while let Some(tag) = wire.tag()? {
        if tag != wanted {
            wire.pass(tag)?;
            continue;
        }
        let part = wire.bytes()?;
        let end = bytes.len() - wire.remaining();
        let start = span.map_or(end - part.len(), |span| span.start);
        span = Some(start..end);
        read(part)?;
    }
    Ok(span.and_then(|span| bytes.get(span)).unwrap_or_default())
}

fn read_scope<'a>(bytes: &'a [u8], name: &mut &'a [u8]) -> Result<(), DecodeError> {
    let mut wire = Wire::new(bytes);
    while let Some(tag) = wire.tag()? {
        match tag {
            SCOPE_NAME => *name = wire.bytes()?,
            // Not kept, but a request is valid as a whole or not at all.
            SCOPE_ATTRIBUTE => read_key_value::<true>(wire.bytes()?, 1).map(drop)?,
            _ => wire.skip(tag, SCOPE_KNOWN)?,
        }
    }
    Ok(())
}

#[inline]
fn push<T>(table: &mut Vec<T>, row: T, part: Part) -> Result<(), DecodeError> {
    if table.len() >= part.limit() {
        return Err(DecodeError::TooMany(part));
    }
    table.push(row);
    Ok(())
}

/// A table's length as an index: every table's limit is far below 32 bits.
fn index(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// protobuf truncates enum values to 32 bits.
fn low_32_bits(value: u64) -> i32 {
    (value as u32).cast_signed()
}

/// An id is absent where its length is wrong or all its bytes are zero.
fn id(bytes: &[u8], len: usize) -> Option<&[u8]> {
    (bytes.len() == len && bytes.iter().any(|byte| *byte != 0)).then_some(bytes)
}
