//! The messages of OTLP logs as tables: which JSON member is which protobuf field.
//!
//! Owns: names, numbers and kinds of fields. Does not own: how a value is read or written.

/// A message: its fields by their JSON names.
#[derive(Debug)]
pub(super) struct Shape(&'static [Field]);

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    name: &'static str,
    /// The field's number in protobuf.
    pub(super) number: u32,
    /// What its value is.
    pub(super) kind: Kind,
}

/// How a field's value looks in JSON and on the wire.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Text,
    Hex,
    Base64,
    Bool,
    Double,
    Int64,
    UInt32,
    Fixed32,
    Fixed64,
    SeverityNumber,
    Message(&'static Shape),
    Repeated(&'static Shape),
}

impl Shape {
    /// The field with this JSON name; unknown ones are ignored, as OTLP demands.
    pub(super) fn field(&self, name: &[u8]) -> Option<&'static Field> {
        self.0.iter().find(|field| field.name.as_bytes() == name)
    }
}

const fn field(name: &'static str, number: u32, kind: Kind) -> Field {
    Field { name, number, kind }
}

/// `ExportLogsServiceRequest`.
pub(super) static REQUEST: Shape = Shape(&[field("resourceLogs", 1, Kind::Repeated(&RESOURCE_LOGS))]);

static RESOURCE_LOGS: Shape = Shape(&[
    field("resource", 1, Kind::Message(&RESOURCE)),
    field("scopeLogs", 2, Kind::Repeated(&SCOPE_LOGS)),
    field("schemaUrl", 3, Kind::Text),
]);

/// Without `entityRefs`, which tell only how the attributes are grouped.
static RESOURCE: Shape = Shape(&[
    field("attributes", 1, Kind::Repeated(&KEY_VALUE)),
    field("droppedAttributesCount", 2, Kind::UInt32),
]);

static SCOPE_LOGS: Shape = Shape(&[
    field("scope", 1, Kind::Message(&SCOPE)),
    field("logRecords", 2, Kind::Repeated(&LOG_RECORD)),
    field("schemaUrl", 3, Kind::Text),
]);

static SCOPE: Shape = Shape(&[
    field("name", 1, Kind::Text),
    field("version", 2, Kind::Text),
    field("attributes", 3, Kind::Repeated(&KEY_VALUE)),
    field("droppedAttributesCount", 4, Kind::UInt32),
]);

static LOG_RECORD: Shape = Shape(&[
    field("timeUnixNano", 1, Kind::Fixed64),
    field("severityNumber", 2, Kind::SeverityNumber),
    field("severityText", 3, Kind::Text),
    field("body", 5, Kind::Message(&ANY_VALUE)),
    field("attributes", 6, Kind::Repeated(&KEY_VALUE)),
    field("droppedAttributesCount", 7, Kind::UInt32),
    field("flags", 8, Kind::Fixed32),
    field("traceId", 9, Kind::Hex),
    field("spanId", 10, Kind::Hex),
    field("observedTimeUnixNano", 11, Kind::Fixed64),
    field("eventName", 12, Kind::Text),
]);

static KEY_VALUE: Shape = Shape(&[field("key", 1, Kind::Text), field("value", 2, Kind::Message(&ANY_VALUE))]);

static ANY_VALUE: Shape = Shape(&[
    field("stringValue", 1, Kind::Text),
    field("boolValue", 2, Kind::Bool),
    field("intValue", 3, Kind::Int64),
    field("doubleValue", 4, Kind::Double),
    field("arrayValue", 5, Kind::Message(&ARRAY_VALUE)),
    field("kvlistValue", 6, Kind::Message(&KEY_VALUE_LIST)),
    field("bytesValue", 7, Kind::Base64),
]);

static ARRAY_VALUE: Shape = Shape(&[field("values", 1, Kind::Repeated(&ANY_VALUE))]);

static KEY_VALUE_LIST: Shape = Shape(&[field("values", 1, Kind::Repeated(&KEY_VALUE))]);
