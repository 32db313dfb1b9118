//! OTLP/JSON as the specification and real SDKs write it, against prost.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use proptest::prelude::*;
use prost::Message;
use serde_json::json;

use super::*;
use crate::receive::decode::{NameFallback, RawEvents, VALUE_DEPTH_MAX};

fn parsed(json: &str) -> ExportLogsServiceRequest {
    let bytes = to_protobuf(json.as_bytes()).unwrap();
    assert!(RawEvents::decode(&bytes, &NameFallback::default()).is_ok());
    ExportLogsServiceRequest::decode(bytes).unwrap()
}

fn wrapped(record: &str) -> String {
    format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{record}]}}]}}]}}"#)
}

fn parsed_record(record: &str) -> LogRecord {
    parsed(&wrapped(record)).resource_logs[0].scope_logs[0].log_records[0].clone()
}

fn parsed_value(value: &str) -> Option<Value> {
    parsed_record(&format!(r#"{{"body":{value}}}"#)).body.unwrap().value
}

fn fault(json: &str) -> String {
    to_protobuf(json.as_bytes()).unwrap_err().to_string()
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn string(text: &str) -> Value {
    Value::StringValue(text.to_owned())
}

/// The shape of the example in the OTLP specification's repository: every kind of value, a resource and a scope.
#[test]
fn a_request_with_every_kind_of_value_is_read() {
    let request = parsed(
        r#"{"resourceLogs":[{
            "resource":{"attributes":[{"key":"service.name","value":{"stringValue":"my.service"}}]},
            "scopeLogs":[{
                "scope":{"name":"my.library","version":"1.0.0",
                    "attributes":[{"key":"my.scope.attribute","value":{"stringValue":"some scope attribute"}}]},
                "logRecords":[{
                    "timeUnixNano":"1544712660300000000","observedTimeUnixNano":"1544712660300000000",
                    "severityNumber":10,"severityText":"Information",
                    "traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"eee19b7ec3c1b174",
                    "body":{"stringValue":"Example log record"},
                    "attributes":[
                        {"key":"string.attribute","value":{"stringValue":"some string"}},
                        {"key":"boolean.attribute","value":{"boolValue":true}},
                        {"key":"int.attribute","value":{"intValue":"10"}},
                        {"key":"double.attribute","value":{"doubleValue":637.704}},
                        {"key":"array.attribute","value":{"arrayValue":{"values":[{"stringValue":"many"},{"stringValue":"values"}]}}},
                        {"key":"map.attribute","value":{"kvlistValue":{"values":[{"key":"some.map.key","value":{"stringValue":"some value"}}]}}},
                        {"key":"bytes.attribute","value":{"bytesValue":"AAEC/w=="}}
                    ]}]}]}]}"#,
    );
    let group = &request.resource_logs[0];
    assert_eq!(group.resource.as_ref().unwrap().attributes, [pair("service.name", string("my.service"))]);
    let scope = group.scope_logs[0].scope.as_ref().unwrap();
    assert_eq!((scope.name.as_str(), scope.version.as_str()), ("my.library", "1.0.0"));
    assert_eq!(scope.attributes.len(), 1);
    let record = &group.scope_logs[0].log_records[0];
    assert_eq!(record.time_unix_nano, 1_544_712_660_300_000_000);
    assert_eq!((record.severity_number, record.severity_text.as_str()), (10, "Information"));
    assert_eq!(record.trace_id, 0x5b8e_fff7_9803_8103_d269_b633_813f_c60c_u128.to_be_bytes());
    assert_eq!(record.span_id, 0xeee1_9b7e_c3c1_b174_u64.to_be_bytes());
    let many = vec![AnyValue { value: Some(string("many")) }, AnyValue { value: Some(string("values")) }];
    assert_eq!(
        record.attributes,
        [
            pair("string.attribute", string("some string")),
            pair("boolean.attribute", Value::BoolValue(true)),
            pair("int.attribute", Value::IntValue(10)),
            pair("double.attribute", Value::DoubleValue(637.704)),
            pair("array.attribute", Value::ArrayValue(ArrayValue { values: many })),
            pair(
                "map.attribute",
                Value::KvlistValue(KeyValueList { values: vec![pair("some.map.key", string("some value"))] })
            ),
            pair("bytes.attribute", Value::BytesValue(vec![0, 1, 2, 255])),
        ]
    );
}

#[test]
fn the_first_users_record_is_read() {
    let record = parsed_record(
        r#"{"timeUnixNano":"1795383003883013888","observedTimeUnixNano":"1795383003883037378","severityNumber":9,"severityText":"info",
            "body":{"stringValue":"change_request.committed"},"eventName":"workflows.change_request.committed","flags":1,
            "traceId":"779311cfd8322ce95f63bfca72fa5848","spanId":"0ff345cbdbc12b1f",
            "attributes":[{"key":"organisation.id","value":{"intValue":"1"}},{"key":"environment.id","value":{"intValue":"7"}},
             {"key":"feature_states.count","value":{"intValue":"3"}},{"key":"amplitude.device_id","value":{"stringValue":"f3e1-device"}},
             {"key":"amplitude.session_id","value":{"stringValue":"1710864000000"}},{"key":"amplitude.user_id","value":{"stringValue":"7d4a7b1c-uuid"}},
             {"key":"flagsmith.event","value":{"stringValue":"workflows.change_request.committed"}}]}"#,
    );
    assert_eq!(record.event_name, "workflows.change_request.committed");
    assert_eq!((record.time_unix_nano, record.flags), (1_795_383_003_883_013_888, 1));
    assert_eq!((record.trace_id.len(), record.span_id.len(), record.attributes.len()), (16, 8, 7));
    assert_eq!(record.attributes[0], pair("organisation.id", Value::IntValue(1)));
}

#[test]
fn numbers_are_read_as_javascript_writes_them() {
    let record =
        parsed_record(r#"{"timeUnixNano":1795383003883013888,"flags":"1","droppedAttributesCount":0}"#);
    assert_eq!((record.time_unix_nano, record.flags), (1_795_383_003_883_013_888, 1));
    for (json, expected) in [
        (r#"{"intValue":3}"#, Value::IntValue(3)),
        (r#"{"intValue":-3}"#, Value::IntValue(-3)),
        (r#"{"intValue":3.0}"#, Value::IntValue(3)),
        (r#"{"intValue":1e3}"#, Value::IntValue(1000)),
        (r#"{"intValue":"1e3"}"#, Value::IntValue(1000)),
        (r#"{"intValue":"-9223372036854775808"}"#, Value::IntValue(i64::MIN)),
        (r#"{"doubleValue":3}"#, Value::DoubleValue(3.0)),
        (r#"{"doubleValue":"0.5"}"#, Value::DoubleValue(0.5)),
        (r#"{"doubleValue":"Infinity"}"#, Value::DoubleValue(f64::INFINITY)),
        (r#"{"doubleValue":"-Infinity"}"#, Value::DoubleValue(f64::NEG_INFINITY)),
        (r#"{"boolValue":false}"#, Value::BoolValue(false)),
        (r#"{"bytesValue":"-_8"}"#, Value::BytesValue(vec![0xfb, 0xff])),
    ] {
        assert_eq!(parsed_value(json), Some(expected), "{json}");
    }
    let Some(Value::DoubleValue(nan)) = parsed_value(r#"{"doubleValue":"NaN"}"#) else { panic!("a double") };
    assert!(nan.is_nan());
}

#[test]
fn a_severity_may_be_a_number_or_a_name() {
    for (json, expected) in [
        ("9", 9),
        ("\"17\"", 17),
        ("\"SEVERITY_NUMBER_UNSPECIFIED\"", 0),
        ("\"SEVERITY_NUMBER_TRACE\"", 1),
        ("\"SEVERITY_NUMBER_WARN2\"", 14),
        ("\"SEVERITY_NUMBER_FATAL4\"", 24),
        ("null", 0),
        ("-1", -1),
    ] {
        assert_eq!(
            parsed_record(&format!(r#"{{"severityNumber":{json}}}"#)).severity_number,
            expected,
            "{json}"
        );
    }
    assert!(fault(&wrapped(r#"{"severityNumber":"SEVERITY_NUMBER_LOUD"}"#)).contains("does not fit"));
}

#[test]
fn unknown_members_snake_case_and_nulls_are_left_out() {
    let record = parsed_record(
        r#"{"event_name":"x","time_unix_nano":"5","future":{"deep":[1,{"x":null}]},"body":null,"attributes":null,"eventName":"a.b","traceId":""}"#,
    );
    assert_eq!(record, LogRecord { event_name: "a.b".to_owned(), ..LogRecord::default() });
    assert_eq!(parsed("{}"), ExportLogsServiceRequest::default());
    assert_eq!(parsed(r#" {"resourceLogs":null} "#), ExportLogsServiceRequest::default());
    assert_eq!(parsed_value("{}"), None);
}

#[test]
fn half_a_surrogate_pair_spoils_its_string_and_not_the_request() {
    let json =
        wrapped(r#"{"eventName":"a.b","severityText":"\ud800","body":{"stringValue":"\ud83d\ude00"}}"#);
    let bytes = to_protobuf(json.as_bytes()).unwrap();
    let events = RawEvents::decode(&bytes, &NameFallback::default()).unwrap();
    assert_eq!(events.records()[0].name, b"a.b");
    assert!(std::str::from_utf8(events.records()[0].severity_text).is_err());
}

#[test]
fn faults_have_a_reason_and_a_position_and_no_payload() {
    let secret = "s3cret";
    for (json, expected) in [
        (String::new(), "the JSON ends too early (line 1, column 0)"),
        ("[]".to_owned(), "a value has the wrong JSON type (line 1, column 0)"),
        (format!("\"{secret}\""), "a value has the wrong JSON type"),
        (format!("{{\"resourceLogs\": {secret}}}"), "this is not JSON"),
        (format!("{{}} {secret}"), "this is not JSON"),
        (wrapped(r#"{"body":{"doubleValue":1e999999}}"#), "a number is beyond the range of a 64-bit float"),
        (wrapped(r#"{"traceId":"\ud800"}"#), "an id is not hexadecimal"),
        (wrapped(r#"{"body":{"bytesValue":"\ud800"}}"#), "a bytes value is not base64"),
        (wrapped(r#"{"body":{"intValue":"\ud800"}}"#), "a string has half of a surrogate pair"),
        (wrapped(r#"{"body":{"intValue":"\x"}}"#), "a string has an escape that JSON does not know"),
        (wrapped("{\"timeUnixNano\":\"\t\"}"), "a string has a control character that is not escaped"),
        (r#"{"resourceLogs":["#.to_owned(), "the JSON ends too early"),
        (r#"{"resourceLogs":[null]}"#.to_owned(), "a value has the wrong JSON type"),
        (r#"{"resourceLogs":{}}"#.to_owned(), "a value has the wrong JSON type"),
        (wrapped(&format!(r#"{{"timeUnixNano":"{secret}"}}"#)), "a number or boolean does not fit its field"),
        (wrapped(r#"{"timeUnixNano":"-1"}"#), "a number or boolean does not fit its field"),
        (wrapped(r#"{"timeUnixNano":-1}"#), "a number or boolean does not fit its field"),
        (wrapped(r#"{"timeUnixNano":"18446744073709551616"}"#), "a number or boolean does not fit its field"),
        (wrapped(r#"{"timeUnixNano":1e30}"#), "a number or boolean does not fit its field"),
        (wrapped(r#"{"timeUnixNano":1.5}"#), "a number or boolean does not fit its field"),
        (wrapped(r#"{"flags":4294967296}"#), "a number or boolean does not fit its field"),
        (
            wrapped(r#"{"body":{"intValue":"9223372036854775808"}}"#),
            "a number or boolean does not fit its field",
        ),
        (wrapped(r#"{"body":{"boolValue":"true"}}"#), "a number or boolean does not fit its field"),
        (wrapped(r#"{"body":{"doubleValue":"inf"}}"#), "a number or boolean does not fit its field"),
        (wrapped(&format!(r#"{{"body":{{"bytesValue":"{secret}!"}}}}"#)), "a bytes value is not base64"),
        (wrapped(&format!(r#"{{"traceId":"{secret}"}}"#)), "an id is not hexadecimal"),
        (wrapped(r#"{"traceId":"abc"}"#), "an id is not hexadecimal"),
        (wrapped(r#"{"eventName":7}"#), "a value has the wrong JSON type"),
        (wrapped(r#"{"attributes":{"key":"x"}}"#), "a value has the wrong JSON type"),
    ] {
        let fault = fault(&json);
        assert!(fault.starts_with(expected), "{json}: {fault}");
        assert!(!fault.contains(secret) && fault.contains("line 1, column "), "{fault}");
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |levels| {
        let mut value = r#"{"intValue":1}"#.to_owned();
        for _ in 1..levels {
            value = format!(r#"{{"arrayValue":{{"values":[{value}]}}}}"#);
        }
        wrapped(&format!(r#"{{"body":{value}}}"#))
    };
    assert!(to_protobuf(nested(VALUE_DEPTH_MAX - 4).as_bytes()).is_ok());
    for levels in [100, 3_000] {
        assert!(fault(&nested(levels)).contains("nested more than 128 levels"));
    }
    let unknown = format!("{{\"x\":{}", "[".repeat(1_000_000));
    assert!(to_protobuf(unknown.as_bytes()).is_err());
}

fn value_json(value: &AnyValue) -> serde_json::Value {
    match &value.value {
        None => json!({}),
        Some(Value::StringValue(text)) => json!({ "stringValue": text }),
        Some(Value::BoolValue(value)) => json!({ "boolValue": value }),
        Some(Value::IntValue(value)) => json!({ "intValue": value.to_string() }),
        Some(Value::DoubleValue(value)) => json!({ "doubleValue": value }),
        Some(Value::BytesValue(bytes)) => {
            json!({ "bytesValue": base64::engine::general_purpose::STANDARD.encode(bytes) })
        }
        Some(Value::ArrayValue(array)) => {
            json!({ "arrayValue": { "values": array.values.iter().map(value_json).collect::<Vec<_>>() } })
        }
        Some(Value::KvlistValue(list)) => json!({ "kvlistValue": { "values": pairs_json(&list.values) } }),
        Some(Value::StringValueStrindex(_)) => unreachable!("logs have none"),
    }
}

fn pairs_json(pairs: &[KeyValue]) -> serde_json::Value {
    let pair = |pair: &KeyValue| match &pair.value {
        Some(value) => json!({ "value": value_json(value), "key": pair.key }),
        None => json!({ "key": pair.key }),
    };
    pairs.iter().map(pair).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn values() -> impl Strategy<Value = AnyValue> {
    let leaf = prop_oneof![
        Just(None),
        any::<String>().prop_map(|text| Some(Value::StringValue(text))),
        any::<bool>().prop_map(|value| Some(Value::BoolValue(value))),
        any::<i64>().prop_map(|value| Some(Value::IntValue(value))),
        any::<i32>().prop_map(|value| Some(Value::DoubleValue(f64::from(value) / 8.0))),
        any::<Vec<u8>>().prop_map(|bytes| Some(Value::BytesValue(bytes))),
    ]
    .prop_map(|value| AnyValue { value });
    leaf.prop_recursive(4, 24, 4, |inner| {
        let pairs = proptest::collection::vec((any::<String>(), proptest::option::of(inner.clone())), 0..4)
            .prop_map(|pairs| {
                pairs
                    .into_iter()
                    .map(|(key, value)| KeyValue { key, value, ..KeyValue::default() })
                    .collect::<Vec<_>>()
            });
        prop_oneof![
            proptest::collection::vec(inner, 0..4)
                .prop_map(|values| Value::ArrayValue(ArrayValue { values })),
            pairs.prop_map(|values| Value::KvlistValue(KeyValueList { values })),
        ]
        .prop_map(|value| AnyValue { value: Some(value) })
    })
}

proptest! {
    #[test]
    fn what_was_written_as_json_is_read_back_and_is_not_longer(
        body in values(),
        times in any::<(u64, u64)>(),
        severity_number in any::<i32>(),
        ids in any::<(Vec<u8>, Vec<u8>)>(),
        event_name in any::<String>(),
        counts in any::<(u32, u32)>(),
    ) {
        let expected = LogRecord {
            body: Some(body.clone()), time_unix_nano: times.0, observed_time_unix_nano: times.1, severity_number,
            trace_id: ids.0, span_id: ids.1, event_name, flags: counts.0, dropped_attributes_count: counts.1,
            severity_text: String::new(),
            attributes: vec![KeyValue { key: "k".to_owned(), value: Some(body), ..KeyValue::default() }],
        };
        let json = json!({
            "timeUnixNano": times.0.to_string(), "observedTimeUnixNano": times.1, "severityNumber": severity_number,
            "traceId": hex(&expected.trace_id), "spanId": hex(&expected.span_id).to_uppercase(),
            "body": value_json(expected.body.as_ref().unwrap()), "attributes": pairs_json(&expected.attributes),
            "eventName": expected.event_name, "flags": counts.0, "droppedAttributesCount": counts.1.to_string(),
        });
        let json = wrapped(&json.to_string());
        prop_assert!(to_protobuf(json.as_bytes()).unwrap().len() <= json.len());
        prop_assert_eq!(parsed(&json).resource_logs[0].scope_logs[0].log_records[0].clone(), expected);
    }

    #[test]
    fn changed_bytes_never_panic_and_never_make_more_than_they_are(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        end in any::<prop::sample::Index>(),
    ) {
        let json = wrapped(r#"{"eventName":"a\u00e9","attributes":[{"key":"k","value":{"kvlistValue":{"values":[{},{}]}}}],
            "timeUnixNano":1,"severityNumber":-1,"traceId":"00ff","body":{"bytesValue":"AAAA"}}"#);
        let mut bytes = json.into_bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - end.index(bytes.len() / 8));
        if let Ok(protobuf) = to_protobuf(&bytes) {
            prop_assert!(protobuf.len() <= bytes.len());
        }
    }
}
