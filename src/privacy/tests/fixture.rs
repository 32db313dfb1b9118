//! A small registry and requests in the shapes of real senders, for the tests of `privacy` and `columns`.

use std::sync::Arc;

use crate::privacy::{Cleared, Gate, GateOptions, Silent};
use crate::receive::decode::{RawAttribute, RawEvents, RawRecord, RawResource, RawScope, RawValue};
use crate::registry::{
    Attribute, AttributeColumn, AttributeType, Category, ColumnType, Event, EventAttribute, LeakAction,
    Normalisation, Primitive, PrivacyLevel, Registry, Requirement, Trust,
};
use crate::secret::Keyring;

/// 2026-11-22T21:30:03Z, near the captured record's time.
pub(crate) const NOW: i64 = 1_795_383_003_900_000;

pub(crate) fn key() -> Keyring {
    let counting = std::array::from_fn(|i| i as u8);
    Keyring::from_secrets(&counting, &counting, &std::array::from_fn(|i| 32 + i as u8))
}

pub(crate) fn scalar(primitive: Primitive) -> AttributeType {
    AttributeType::Scalar(primitive)
}

fn members(values: Primitive, members: &[&str]) -> AttributeType {
    AttributeType::Enum { values, members: members.iter().map(|member| (*member).to_owned()).collect() }
}

/// Key, type, level, column.
pub(crate) type Declared = (&'static str, AttributeType, PrivacyLevel, &'static str);

pub(crate) fn attributes() -> Vec<Declared> {
    use Primitive::{Boolean, Double, Int, String as Text};
    use PrivacyLevel::{Internal, Personal, Pseudonymous, Public, Sensitive};
    vec![
        ("account.number", scalar(Int), Pseudonymous, "account_number"),
        ("amplitude.device_id", scalar(Text), Pseudonymous, "amplitude_device_id"),
        ("amplitude.session_id", scalar(Int), Internal, "amplitude_session_id"),
        ("amplitude.user_id", scalar(Text), Pseudonymous, "amplitude_user_id"),
        ("auth.token", scalar(Text), Sensitive, "auth_token"),
        ("change.payload", AttributeType::Any, Internal, "change_payload"),
        ("environment.id", scalar(Int), Internal, "environment_id"),
        ("exception", scalar(Text), Personal, "exception"),
        ("feature.tags", AttributeType::Array(Text), Public, "feature_tags"),
        ("feature_states.count", scalar(Int), Internal, "feature_states_count"),
        ("flagsmith.event", scalar(Text), Public, "flagsmith_event"),
        ("header", AttributeType::Template(Box::new(scalar(Text))), Internal, "header"),
        ("header.cookie", scalar(Text), Sensitive, "header_cookie"),
        ("http.status", members(Int, &["200", "404"]), Public, "http_status"),
        ("is_live", scalar(Boolean), Public, "is_live"),
        ("organisation.id", scalar(Int), Internal, "organisation_id"),
        ("organisation_id", scalar(Int), Internal, "organisation_id"),
        ("request.status", members(Text, &["success", "error"]), Public, "request_status"),
        ("score", scalar(Double), Public, "score"),
        ("segment.ids", AttributeType::Array(Int), Internal, "segment_ids"),
        ("title", scalar(Text), Internal, "title"),
        ("user.email", scalar(Text), Personal, "user_email"),
    ]
}

pub(crate) fn column_type(ty: &AttributeType, level: PrivacyLevel) -> ColumnType {
    match ty {
        _ if level == PrivacyLevel::Pseudonymous => ColumnType::String,
        AttributeType::Scalar(Primitive::Int) | AttributeType::Enum { values: Primitive::Int, .. } => {
            ColumnType::Long
        }
        AttributeType::Scalar(Primitive::Double) => ColumnType::Double,
        AttributeType::Scalar(Primitive::Boolean) => ColumnType::Boolean,
        _ => ColumnType::String,
    }
}

/// A registry of two events: one that declares everything, and one that declares a little.
pub(crate) fn registry() -> Arc<Registry> {
    registry_of(&attributes())
}

pub(crate) fn registry_of(declared: &[Declared]) -> Arc<Registry> {
    let mut columns: Vec<AttributeColumn> = Vec::new();
    for (key, ty, level, column) in declared {
        match columns.iter_mut().find(|known| known.name == *column) {
            Some(known) => known.keys.push((*key).to_owned()),
            None => columns.push(AttributeColumn {
                name: (*column).to_owned(),
                ty: column_type(ty, *level),
                keys: vec![(*key).to_owned()],
                brief: "An attribute.".to_owned(),
                pseudonymous: *level == PrivacyLevel::Pseudonymous,
            }),
        }
    }
    columns.sort_by(|left, right| left.name.cmp(&right.name));
    let place = |column: &str| columns.iter().position(|known| known.name == column).unwrap();
    let attributes: Vec<_> = declared
        .iter()
        .map(|(key, ty, privacy, column)| Attribute {
            key: (*key).to_owned(),
            ty: ty.clone(),
            privacy: *privacy,
            brief: "An attribute.".to_owned(),
            treatment: None,
            normalise: Normalisation::default(),
            leaks: LeakAction::Mask,
            trust: Trust::Anyone,
            column: place(column),
        })
        .collect();
    let uses = |attribute: usize, privacy| EventAttribute {
        attribute,
        requirement: Requirement::Optional,
        privacy,
        treatment: None,
    };
    let event = |name: &str, category, attributes| Event {
        name: name.to_owned(),
        category,
        privacy: PrivacyLevel::Public,
        brief: "An event.".to_owned(),
        purposes: None,
        withdrawal: None,
        attributes,
    };
    let all =
        attributes.iter().enumerate().map(|(index, attribute)| uses(index, attribute.privacy)).collect();
    let few = attributes.iter().enumerate().filter(|(_, attribute)| attribute.key == "environment.id");
    let few = few.map(|(index, _)| uses(index, PrivacyLevel::Internal)).collect();
    let events = vec![
        event("billing.invoice.sent", Category::Operational, few),
        event("workflows.change_request.committed", Category::Product, all),
    ];
    Arc::new(Registry::for_tests(attributes, events, columns, "0123456789ab"))
}

/// Everything by default, save that a wrong value costs its attribute and not its event: most tests look at one attribute.
pub(crate) fn options() -> GateOptions {
    GateOptions { quarantine_broken: false, ..GateOptions::default() }
}

pub(crate) fn gate() -> Gate {
    Gate::new(registry(), &key(), options()).unwrap()
}

pub(crate) const COMMITTED: &str = "workflows.change_request.committed";

/// A log record that a test owns.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) name: Vec<u8>,
    pub(crate) time: u64,
    pub(crate) observed: u64,
    pub(crate) severity: (i32, &'static str),
    pub(crate) trace: bool,
    pub(crate) attributes: Vec<(Vec<u8>, Value)>,
}

/// An attribute's value that a test owns.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Empty,
    Text(Vec<u8>),
    Bool(bool),
    Int(i64),
    Double(f64),
    Bytes(Vec<u8>),
    /// An encoded `ArrayValue`.
    Array(Vec<u8>),
    /// An encoded `KeyValueList`.
    KvList(Vec<u8>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.as_bytes().to_vec())
    }
}

impl From<i64> for Value {
    fn from(int: i64) -> Self {
        Self::Int(int)
    }
}

impl Value {
    pub(crate) fn raw(&self) -> RawValue<'_> {
        match self {
            Self::Empty => RawValue::Empty,
            Self::Text(bytes) => RawValue::Str(bytes),
            Self::Bool(flag) => RawValue::Bool(*flag),
            Self::Int(int) => RawValue::Int(*int),
            Self::Double(double) => RawValue::Double(*double),
            Self::Bytes(bytes) => RawValue::Bytes(bytes),
            Self::Array(bytes) => RawValue::Array(bytes),
            Self::KvList(bytes) => RawValue::KvList(bytes),
        }
    }
}

impl Sent {
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: name.as_bytes().to_vec(),
            time: NOW as u64 * 1000,
            observed: 0,
            severity: (9, "info"),
            trace: false,
            attributes: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.attributes.push((key.as_bytes().to_vec(), value.into()));
        self
    }

    /// The record that flagsmith-common's processor was seen to send.
    pub(crate) fn flagsmith() -> Self {
        let mut sent = Self::named(COMMITTED)
            .with("organisation.id", 1)
            .with("environment.id", 7)
            .with("feature_states.count", 3)
            .with("amplitude.device_id", "f3e1-device")
            .with("amplitude.session_id", "1710864000000")
            .with("amplitude.user_id", "7d4a7b1c-uuid")
            .with("flagsmith.event", COMMITTED);
        sent.time = 1_795_383_003_883_013_888;
        sent.observed = 1_795_383_003_883_037_378;
        sent.trace = true;
        sent
    }
}

/// A request of one resource and one scope.
pub(crate) struct Request {
    records: Vec<(Vec<u8>, Sent)>,
    pub(crate) resource: Vec<(&'static str, Value)>,
    pub(crate) scope: &'static str,
    resource_encoded: Vec<u8>,
}

const TRACE_ID: [u8; 16] =
    [0x77, 0x93, 0x11, 0xcf, 0xd8, 0x32, 0x2c, 0xe9, 0x5f, 0x63, 0xbf, 0xca, 0x72, 0xfa, 0x58, 0x48];
const SPAN_ID: [u8; 8] = [0x0f, 0xf3, 0x45, 0xcb, 0xdb, 0xc1, 0x2b, 0x1f];

impl Request {
    pub(crate) fn of(records: Vec<Sent>) -> Self {
        let resource = vec![
            ("service.name", Value::from("flagsmith-api")),
            ("service.version", Value::from("2.265.0")),
            ("host.name", Value::from("secret-host")),
        ];
        Self {
            // What stands for the record's wire bytes need only differ where the record differs.
            records: records.into_iter().map(|sent| (format!("{sent:?}").into_bytes(), sent)).collect(),
            resource_encoded: format!("{resource:?}").into_bytes(),
            resource,
            scope: "common.core.otel",
        }
    }

    pub(crate) fn raw(&self) -> RawEvents<'_> {
        let mut raw = RawEvents::default();
        raw.attributes.extend(
            self.resource.iter().map(|(key, value)| RawAttribute { key: key.as_bytes(), value: value.raw() }),
        );
        raw.resources
            .push(RawResource { encoded: &self.resource_encoded, attributes: 0..self.resource.len() as u32 });
        raw.scopes.push(RawScope { name: self.scope.as_bytes(), encoded: self.scope.as_bytes() });
        for (ordinal, (encoded, sent)) in (0..).zip(&self.records) {
            let start = raw.attributes.len() as u32;
            raw.attributes
                .extend(sent.attributes.iter().map(|(key, value)| RawAttribute { key, value: value.raw() }));
            raw.records.push(RawRecord {
                resource: 0,
                scope: 0,
                ordinal,
                encoded,
                name: &sent.name,
                time_unix_nano: sent.time,
                observed_time_unix_nano: sent.observed,
                severity_number: sent.severity.0,
                severity_text: sent.severity.1.as_bytes(),
                trace_id: sent.trace.then_some(&TRACE_ID[..]),
                span_id: sent.trace.then_some(&SPAN_ID[..]),
                attributes: start..raw.attributes.len() as u32,
            });
        }
        raw
    }
}

/// Clears a request and hands the result on.
pub(crate) fn clear_with<T>(gate: &Gate, records: Vec<Sent>, then: impl FnOnce(&Cleared<'_>) -> T) -> T {
    let request = Request::of(records);
    let raw = request.raw();
    then(&gate.clear(&raw, NOW, &mut Silent))
}

pub(crate) mod otlp {
    //! Encoded nested values.
    use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value};
    use prost::Message;

    pub(crate) fn any(value: any_value::Value) -> AnyValue {
        AnyValue { value: Some(value) }
    }

    pub(crate) fn int(value: i64) -> AnyValue {
        any(any_value::Value::IntValue(value))
    }

    pub(crate) fn text(value: &str) -> AnyValue {
        any(any_value::Value::StringValue(value.to_owned()))
    }

    pub(crate) fn double(value: f64) -> AnyValue {
        any(any_value::Value::DoubleValue(value))
    }

    pub(crate) fn array(values: Vec<AnyValue>) -> super::Value {
        super::Value::Array(ArrayValue { values }.encode_to_vec())
    }

    pub(crate) fn list(entries: Vec<(&str, AnyValue)>) -> super::Value {
        super::Value::KvList(inner_list(entries).encode_to_vec())
    }

    pub(crate) fn inner_list(entries: Vec<(&str, AnyValue)>) -> KeyValueList {
        let values = entries.into_iter().map(|(key, value)| KeyValue {
            key: key.to_owned(),
            value: Some(value),
            ..Default::default()
        });
        KeyValueList { values: values.collect() }
    }

    /// Arrays within arrays.
    pub(crate) fn nested(depth: usize) -> super::Value {
        let innermost = ArrayValue { values: Vec::new() };
        let wrap = |inner, _| ArrayValue { values: vec![any(any_value::Value::ArrayValue(inner))] };
        super::Value::Array((1..depth).fold(innermost, wrap).encode_to_vec())
    }
}
