//! From the bytes of an `ExportLogsServiceRequest` to borrowed views of its log records: one walk, no copies.
//!
//! Owns: the protobuf wire format and the order of event-name precedence. Does not own: what an attribute may keep.

use std::ops::Range;

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
