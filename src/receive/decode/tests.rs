//! The walk against prost's decoder, and against bytes that no encoder writes.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use super::*;

/// What a record is, in a form that both decoders can be turned into. Debug text is compared, so that NaN equals NaN.
#[derive(Debug)]
#[expect(dead_code, reason = "its debug text is what is compared")]
struct Seen {
    resource: Vec<(String, AnyValue)>,
    scope: String,
    ordinal: usize,
    name: String,
    times: (u64, u64),
    severity: (i32, String),
    ids: (Option<Vec<u8>>, Option<Vec<u8>>),
    attributes: Vec<(String, AnyValue)>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn owned(value: RawValue<'_>) -> AnyValue {
    let value = match value {
        RawValue::Empty => None,
        RawValue::Str(bytes) => Some(Value::StringValue(text(bytes))),
        RawValue::Bool(value) => Some(Value::BoolValue(value)),
        RawValue::Int(value) => Some(Value::IntValue(value)),
        RawValue::Double(value) => Some(Value::DoubleValue(value)),
        RawValue::Bytes(bytes) => Some(Value::BytesValue(bytes.to_vec())),
        RawValue::Array(array) => {
            Some(Value::ArrayValue(ArrayValue { values: ArrayElements::new(array).map(owned).collect() }))
        }
        RawValue::KvList(kvlist) => Some(Value::KvlistValue(KeyValueList {
            values: KvPairs::new(kvlist)
                .map(|pair| KeyValue {
                    key: text(pair.key),
                    value: Some(owned(pair.value)),
                    ..KeyValue::default()
                })
                .collect(),
        })),
    };
    AnyValue { value }
}

/// An unset value and an empty one are the same; and in nested pairs too.
fn normal(value: Option<&AnyValue>) -> AnyValue {
    let value = value.and_then(|value| value.value.clone()).and_then(|value| match value {
        Value::ArrayValue(array) => Some(Value::ArrayValue(ArrayValue {
            values: array.values.iter().map(|value| normal(Some(value))).collect(),
        })),
        Value::KvlistValue(list) => Some(Value::KvlistValue(KeyValueList {
            values: list
                .values
                .iter()
                .map(|pair| KeyValue {
                    key: pair.key.clone(),
                    value: Some(normal(pair.value.as_ref())),
                    ..KeyValue::default()
                })
                .collect(),
        })),
        Value::StringValueStrindex(_) => None,
        value => Some(value),
    });
    AnyValue { value }
}

fn seen_by_walk(events: &RawEvents<'_>) -> Vec<Seen> {
    let attributes = |range: &Range<u32>| -> Vec<(String, AnyValue)> {
        events.attributes(range).iter().map(|a: &RawAttribute<'_>| (text(a.key), owned(a.value))).collect()
    };
    let seen = |record: &RawRecord<'_>| Seen {
        resource: attributes(&events.resource(record).unwrap().attributes),
        scope: text(events.scope(record).unwrap().name),
        ordinal: record.ordinal as usize,
        name: text(record.name),
        times: (record.time_unix_nano, record.observed_time_unix_nano),
        severity: (record.severity_number, text(record.severity_text)),
        ids: (record.trace_id.map(<[u8]>::to_vec), record.span_id.map(<[u8]>::to_vec)),
        attributes: attributes(&record.attributes),
    };
    events.records().iter().map(seen).collect()
}

fn seen_by_prost(request: &ExportLogsServiceRequest) -> Vec<Seen> {
    let pairs = |list: &[KeyValue]| -> Vec<(String, AnyValue)> {
        list.iter().map(|pair| (pair.key.clone(), normal(pair.value.as_ref()))).collect()
    };
    let id = |bytes: &[u8], len| (bytes.len() == len && bytes.iter().any(|b| *b > 0)).then(|| bytes.to_vec());
    let mut all = Vec::new();
    for group in &request.resource_logs {
        for scope_logs in &group.scope_logs {
            for record in &scope_logs.log_records {
                all.push(Seen {
                    resource: group.resource.as_ref().map(|r| pairs(&r.attributes)).unwrap_or_default(),
                    scope: scope_logs.scope.as_ref().map(|s| s.name.clone()).unwrap_or_default(),
                    ordinal: all.len(),
                    name: expected_name(record),
                    times: (record.time_unix_nano, record.observed_time_unix_nano),
                    severity: (record.severity_number, record.severity_text.clone()),
                    ids: (id(&record.trace_id, 16), id(&record.span_id, 8)),
                    attributes: pairs(&record.attributes),
                });
            }
        }
    }
    all
}

fn expected_name(record: &LogRecord) -> String {
    let by_key = |key: &str| {
        record.attributes.iter().filter(|pair| pair.key == key).find_map(|pair| match &pair.value {
            Some(AnyValue { value: Some(Value::StringValue(text)) }) if !text.is_empty() => {
                Some(text.clone())
            }
            _ => None,
        })
    };
    Some(record.event_name.clone())
        .filter(|name| !name.is_empty())
        .or_else(|| by_key("otel.event.name"))
        .or_else(|| by_key("event.name"))
        .unwrap_or_default()
}

fn any_value() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        Just(None),
        ".{0,6}".prop_map(|text| Some(Value::StringValue(text))),
        any::<bool>().prop_map(|value| Some(Value::BoolValue(value))),
        any::<i64>().prop_map(|value| Some(Value::IntValue(value))),
        any::<f64>().prop_map(|value| Some(Value::DoubleValue(value))),
        vec(any::<u8>(), 0..5).prop_map(|bytes| Some(Value::BytesValue(bytes))),
    ]
    .prop_map(|value| AnyValue { value });
    leaf.prop_recursive(4, 16, 4, |inner| {
        let pair = ("[a-z]{0,3}", inner.clone()).prop_map(|(key, value)| pair(&key, value));
        prop_oneof![
            vec(inner, 0..4).prop_map(|values| Value::ArrayValue(ArrayValue { values })),
            vec(pair, 0..4).prop_map(|values| Value::KvlistValue(KeyValueList { values })),
        ]
        .prop_map(|value| AnyValue { value: Some(value) })
    })
}

fn pair(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}

fn string(text: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text.to_owned())) }
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> {
    let key = prop_oneof![
        4 => "[a-z.]{0,8}",
        1 => Just("event.name".to_owned()),
        1 => Just("otel.event.name".to_owned()),
    ];
    vec((key, any_value()).prop_map(|(key, value)| pair(&key, value)), 0..5)
}

prop_compose! {
    fn record()(
        times in any::<(u64, u64)>(),
        severity_number in any::<i32>(),
        severity_text in "[a-z]{0,5}",
        body in proptest::option::of(any_value()),
        attributes in attributes(),
        counts in any::<(u32, u32)>(),
        trace_id in prop_oneof![Just(vec![0; 16]), vec(any::<u8>(), 16), vec(any::<u8>(), 0..18)],
        span_id in prop_oneof![Just(vec![0; 8]), vec(any::<u8>(), 8), vec(any::<u8>(), 0..10)],
        event_name in prop_oneof![Just(String::new()), "[a-z.]{1,12}".prop_map(|name| name)],
    ) -> LogRecord {
        LogRecord {
            time_unix_nano: times.0, observed_time_unix_nano: times.1, severity_number, severity_text, body, attributes,
            dropped_attributes_count: counts.0, flags: counts.1, trace_id, span_id, event_name,
        }
    }
}

prop_compose! {
    fn scope_logs()(
        scope in proptest::option::of(("[a-z.]{0,8}", attributes())),
        log_records in vec(record(), 0..4),
    ) -> ScopeLogs {
        let scope = scope.map(|(name, attributes)| InstrumentationScope {
            name, version: "1".to_owned(), attributes, dropped_attributes_count: 1,
        });
        ScopeLogs { scope, log_records, schema_url: "https://schema".to_owned() }
    }
}

prop_compose! {
    fn resource_logs()(
        attributes in proptest::option::of(attributes()),
        scope_logs in vec(scope_logs(), 0..3),
    ) -> ResourceLogs {
        let resource = attributes.map(|attributes| Resource { attributes, ..Resource::default() });
        ResourceLogs { resource, scope_logs, schema_url: String::new() }
    }
}

fn requests() -> impl Strategy<Value = ExportLogsServiceRequest> {
    vec(resource_logs(), 0..3).prop_map(|resource_logs| ExportLogsServiceRequest { resource_logs })
}

fn decode(bytes: &[u8]) -> Result<RawEvents<'_>, DecodeError> {
    RawEvents::decode(bytes, &NameFallback::default())
}

fn assert_seen_alike(walk: &RawEvents<'_>, request: &ExportLogsServiceRequest) {
    assert_eq!(format!("{:#?}", seen_by_walk(walk)), format!("{:#?}", seen_by_prost(request)));
}

proptest! {
    #[test]
    fn what_prost_encodes_is_read_as_it_was(request in requests()) {
        let bytes = request.encode_to_vec();
        assert_seen_alike(&decode(&bytes).unwrap(), &request);
    }

    #[test]
    fn the_order_of_fields_makes_no_difference(request in requests(), seed in any::<u64>()) {
        let bytes = reordered(&request.encode_to_vec(), &REQUEST_LEVELS, seed);
        assert_seen_alike(&decode(&bytes).unwrap(), &request);
    }

    #[test]
    fn unknown_fields_of_every_wire_type_are_skipped(request in requests(), seed in any::<u64>()) {
        // Fields 13, 14, 1000 and 536870911, which no message of the request has.
        let unknown = [&[0x68, 0x96, 0x01][..], &[0x71, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0xc2, 0x3e, 3, 9, 9, 9], &[0xfd, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3, 4]].concat();
        let bytes = [reordered(&[&request.encode_to_vec()[..], &unknown].concat(), &REQUEST_LEVELS, seed), unknown].concat();
        assert_seen_alike(&decode(&bytes).unwrap(), &request);
    }

    #[test]
    fn what_prost_takes_is_taken_alike_or_refused_for_a_stated_reason(
        request in requests(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = request.encode_to_vec();
        for (at, byte) in changes.iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        let walked = decode(&bytes);
        if let Ok(by_prost) = ExportLogsServiceRequest::decode(&*bytes) {
            match walked {
                Ok(events) => assert_seen_alike(&events, &by_prost),
                // Groups, and lists in several parts.
                Err(error) => prop_assert!(matches!(error, DecodeError::WireType | DecodeError::SplitValue), "{error:?}"),
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(events) = decode(&bytes) {
            for record in events.records() {
                for attribute in events.attributes(&record.attributes) {
                    if let RawValue::Array(bytes) | RawValue::KvList(bytes) = attribute.value {
                        prop_assert!(ArrayElements::new(bytes).count() + KvPairs::new(bytes).count() < 1000);
                    }
                }
            }
        }
        // The iterators are given decoded bytes only, and must be safe with any.
        prop_assert!(ArrayElements::new(&bytes).count() + KvPairs::new(&bytes).count() <= 2 * bytes.len());
    }
}

proptest! {
    // Each case is as many requests as it has bytes.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_request_cut_off_anywhere_is_taken_only_where_prost_takes_it(request in requests()) {
        let bytes = request.encode_to_vec();
        for end in 0..bytes.len() {
            let cut = &bytes[..end];
            let by_prost = ExportLogsServiceRequest::decode(cut);
            match decode(cut) {
                Ok(events) => assert_seen_alike(&events, &by_prost.unwrap()),
                Err(_) => prop_assert!(by_prost.is_err(), "cut at {end} of {}", bytes.len()),
            }
        }
    }
}

/// A message's fields that hold messages, and those in turn.
struct Levels(&'static [(u32, Levels)]);

const REQUEST_LEVELS: Levels = Levels(&[(1, Levels(&[(1, VALUE_LEVELS), (2, SCOPE_LOGS_LEVELS)]))]);
const SCOPE_LOGS_LEVELS: Levels = Levels(&[(2, Levels(&[(6, VALUE_LEVELS)]))]);
const VALUE_LEVELS: Levels = Levels(&[]);

/// The same message with its fields in another order, at every level; those of one number keep theirs.
fn reordered(bytes: &[u8], levels: &Levels, seed: u64) -> Vec<u8> {
    let mut fields: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut wire = Wire::new(bytes);
    loop {
        let start = bytes.len() - wire.remaining();
        let Some(tag) = wire.tag().unwrap() else { break };
        let number = tag >> 3;
        let field = match levels.0.iter().find(|(nested, _)| *nested == number) {
            Some((_, levels)) => {
                let payload = reordered(wire.bytes().unwrap(), levels, seed);
                let mut field = Vec::new();
                prost::encoding::bytes::encode(number, &payload, &mut field);
                field
            }
            None => {
                wire.pass(tag).unwrap();
                bytes[start..bytes.len() - wire.remaining()].to_vec()
            }
        };
        let rank = (u64::from(number) ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7;
        fields.push((rank, field));
    }
    fields.sort_by_key(|(rank, _)| *rank);
    fields.into_iter().flat_map(|(_, field)| field).collect()
}

fn of_record(record: LogRecord) -> ExportLogsServiceRequest {
    let scope = InstrumentationScope { name: "shop".to_owned(), ..InstrumentationScope::default() };
    let scope_logs =
        vec![ScopeLogs { scope: Some(scope), log_records: vec![record], schema_url: String::new() }];
    let resource_logs = vec![ResourceLogs { resource: None, scope_logs, schema_url: String::new() }];
    ExportLogsServiceRequest { resource_logs }
}

/// A field with a length-delimited payload.
fn field(number: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::bytes::encode(number, &payload.to_vec(), &mut bytes);
    bytes
}

/// A request with one record of these bytes.
fn with_record(record: &[u8]) -> Vec<u8> {
    field(1, &field(2, &field(2, record)))
}

#[test]
fn the_name_comes_from_the_first_place_that_has_one() {
    let cases = [
        ("by.field", vec![("otel.event.name", "by.otel"), ("event.name", "by.plain")], "by.field"),
        ("", vec![("event.name", "by.plain"), ("otel.event.name", "by.otel")], "by.otel"),
        ("", vec![("otel.event.name", ""), ("event.name", "by.plain")], "by.plain"),
        ("", vec![("kind", "by.rule")], "by.rule"),
        ("", vec![("other", "x")], "by.body"),
    ];
    let rule = |scope: &str, source| Rule { scope: Some(scope.to_owned()), source };
    let fallback = NameFallback::new(vec![
        rule("another", Source::Attribute("other".to_owned())),
        rule("shop", Source::Attribute("kind".to_owned())),
        Rule { scope: None, source: Source::Body },
    ]);
    for (event_name, attributes, expected) in cases {
        let record = LogRecord {
            event_name: event_name.to_owned(),
            attributes: attributes.iter().map(|(key, value)| pair(key, string(value))).collect(),
            body: Some(string("by.body")),
            ..LogRecord::default()
        };
        let bytes = of_record(record).encode_to_vec();
        let events = RawEvents::decode(&bytes, &fallback).unwrap();
        assert_eq!(text(events.records()[0].name), expected);
        let without_rules = if expected == "by.rule" || expected == "by.body" { "" } else { expected };
        assert_eq!(text(decode(&bytes).unwrap().records()[0].name), without_rules);
    }
}

#[test]
fn a_name_that_is_no_string_is_no_name() {
    let number = AnyValue { value: Some(Value::IntValue(7)) };
    let record = LogRecord { attributes: vec![pair("event.name", number)], ..LogRecord::default() };
    let bytes = of_record(record).encode_to_vec();
    assert_eq!(decode(&bytes).unwrap().records()[0].name, b"");
}

#[test]
fn invalid_utf8_is_handed_on_as_it_is() {
    let bytes = with_record(&field(12, b"caf\xe9"));
    assert_eq!(decode(&bytes).unwrap().records()[0].name, b"caf\xe9");
}

#[test]
fn encoded_parts_are_the_bytes_that_were_sent() {
    let resource = field(1, b"");
    let record = field(12, b"a.b");
    let scope = field(1, b"shop");
    let group = [field(2, &[field(2, &record), field(1, &scope)].concat()), field(1, &resource)].concat();
    let bytes = field(1, &group);
    let events = decode(&bytes).unwrap();
    let [seen] = events.records() else { panic!("one record") };
    assert_eq!(seen.encoded, record);
    assert_eq!(events.resource(seen).unwrap().encoded, resource);
    assert_eq!(events.scope(seen).unwrap().encoded, scope);
    assert_eq!(events.scope(seen).unwrap().name, b"shop");
}

#[test]
fn a_resource_in_two_parts_is_merged_and_both_count_for_its_identity() {
    let attribute = |key: &[u8]| field(1, &field(1, key));
    let between = field(2, &field(2, &field(12, b"a.b")));
    let group = [field(1, &attribute(b"x")), between.clone(), field(1, &attribute(b"y"))].concat();
    let bytes = field(1, &group);
    let events = decode(&bytes).unwrap();
    let resource = events.resource(&events.records()[0]).unwrap();
    let keys: Vec<_> = events.attributes(&resource.attributes).iter().map(|a| a.key).collect();
    assert_eq!(keys, [b"x", b"y"]);
    assert_eq!(resource.encoded, [attribute(b"x"), between, vec![0x0a, 5], attribute(b"y")].concat());
}

#[test]
fn the_last_of_a_repeated_field_counts() {
    let record = [field(12, b"first"), field(12, b"last"), vec![0x10, 5], vec![0x10, 9]].concat();
    let bytes = with_record(&record);
    let events = decode(&bytes).unwrap();
    assert_eq!((events.records()[0].name, events.records()[0].severity_number), (&b"last"[..], 9));

    let value = [field(1, b"text"), vec![0x18, 7]].concat();
    let attribute = [field(2, &value), field(2, b""), field(1, b"k")].concat();
    let bytes = with_record(&field(6, &attribute));
    let events = decode(&bytes).unwrap();
    let [attribute] = events.attributes(&events.records()[0].attributes) else { panic!("one attribute") };
    assert_eq!(
        (attribute.key, attribute.value),
        (&b"k"[..], RawValue::Int(7)),
        "an empty part changes nothing"
    );
}

#[test]
fn malformed_bytes_have_a_reason_each() {
    let cases: [(&str, Vec<u8>, DecodeError); 12] = [
        ("length beyond the end", vec![0x0a, 5, 0], DecodeError::Truncated),
        ("tag cut off", vec![0x8a], DecodeError::Truncated),
        ("length of 2^63", [vec![0x0a], vec![0xff; 9], vec![0x00]].concat(), DecodeError::Truncated),
        ("length of eleven bytes", [vec![0x0a], vec![0x80; 10], vec![1]].concat(), DecodeError::LongVarint),
        (
            "varint of 65 bits",
            with_record(&[vec![0x10], vec![0xff; 9], vec![2]].concat()),
            DecodeError::LongVarint,
        ),
        ("field number 0", vec![0x02, 0], DecodeError::FieldNumber),
        ("field number over 29 bits", vec![0x82, 0x80, 0x80, 0x80, 0x10, 0], DecodeError::FieldNumber),
        ("start of a group", vec![0x6b, 0x6c], DecodeError::WireType),
        ("wire type 7", vec![0x6f], DecodeError::WireType),
        ("time as a varint", with_record(&[0x08, 1]), DecodeError::WireType),
        ("resource as a varint", field(1, &[0x08, 1]), DecodeError::WireType),
        ("fixed64 cut off", with_record(&[0x09, 1, 2, 3]), DecodeError::Truncated),
    ];
    for (what, bytes, expected) in cases {
        assert_eq!(decode(&bytes).unwrap_err(), expected, "{what}");
    }
}

#[test]
fn faults_inside_of_nested_values_bodies_and_scopes_are_found() {
    let truncated = [0x0a, 9, 1];
    let array = field(5, &truncated);
    let kvlist = field(6, &field(1, &field(2, &array)));
    for value in [&array, &kvlist] {
        for bytes in [
            with_record(&field(6, &field(2, value))),
            with_record(&field(5, value)),
            field(1, &field(2, &field(1, &field(3, &field(2, value))))),
            field(1, &field(1, &field(1, &field(2, value)))),
        ] {
            assert_eq!(decode(&bytes).unwrap_err(), DecodeError::Truncated);
        }
    }
    let split = [field(5, b""), field(5, b"")].concat();
    assert_eq!(decode(&with_record(&field(5, &split))).unwrap_err(), DecodeError::SplitValue);
}

#[test]
fn values_may_be_nested_to_the_limit_and_no_deeper() {
    let nested = |levels: u32| {
        let mut value = field(1, b"leaf");
        for level in 1..levels {
            value = if level % 2 == 0 {
                field(5, &field(1, &value))
            } else {
                field(6, &field(1, &field(2, &value)))
            };
        }
        with_record(&field(6, &field(2, &value)))
    };
    assert!(decode(&nested(VALUE_DEPTH_MAX)).is_ok());
    assert_eq!(decode(&nested(VALUE_DEPTH_MAX + 1)).unwrap_err(), DecodeError::TooDeep);
    assert_eq!(decode(&nested(3_000)).unwrap_err(), DecodeError::TooDeep);
}

#[test]
fn tiny_parts_cannot_fill_the_memory() {
    let too_many = |bytes: &[u8], part| {
        assert_eq!(decode(bytes).unwrap_err(), DecodeError::TooMany(part));
    };
    let records = |count| field(1, &field(2, &[0x12, 0].repeat(count)));
    assert_eq!(decode(&records(RECORDS_MAX)).unwrap().records().len(), RECORDS_MAX);
    too_many(&records(RECORDS_MAX + 1), Part::Record);
    too_many(&with_record(&[0x32, 0].repeat(ATTRIBUTES_MAX + 1)), Part::Attribute);
    too_many(&[0x0a, 0].repeat(GROUPS_MAX + 1), Part::Resource);
    too_many(&field(1, &[0x12, 0].repeat(GROUPS_MAX + 1)), Part::Scope);
}

#[test]
fn rows_are_as_small_as_the_limits_assume() {
    assert_eq!(size_of::<RawRecord<'_>>(), 120);
    assert_eq!(size_of::<RawAttribute<'_>>(), 40);
    assert_eq!(size_of::<DecodeError>(), 1);
}
