//! What is stored of broken events: never a value, the payload sealed and whole, all within limits.

use arrow::array::{Array, AsArray};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;

use super::*;
use crate::columns::quarantine::{columns, encode};
use crate::privacy::seal::{OpeningKey, SealError};
use crate::receive::decode::NameFallback;
use crate::secret::Keyring;

const MARK: &str = "MARK8f3c";

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

fn record(name: &str, attributes: Vec<KeyValue>) -> LogRecord {
    LogRecord {
        event_name: name.to_owned(),
        time_unix_nano: 1_795_383_003_900_000_000,
        body: Some(AnyValue { value: Some(Value::StringValue(format!("body {MARK}"))) }),
        attributes,
        ..LogRecord::default()
    }
}

fn request(records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let resource = Resource { attributes: vec![text("service.name", "api")], ..Resource::default() };
    let scope = InstrumentationScope { name: "scope".to_owned(), ..InstrumentationScope::default() };
    let scope_logs = vec![ScopeLogs { scope: Some(scope), log_records: records, ..ScopeLogs::default() }];
    let logs = ResourceLogs { resource: Some(resource), scope_logs, ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![logs] }
}

fn quarantine(key: Option<&OpeningKey>) -> Quarantine {
    let name_key = Keyring::from_secrets(&[9; 32], &[9; 32], &[9; 32]).identity("names");
    Quarantine::new(key.map(|key| key.recipient().clone()), name_key)
}

fn decode(bytes: &[u8]) -> RawEvents<'_> {
    RawEvents::decode(bytes, &NameFallback::new(Vec::new())).unwrap()
}

/// Admits every record of a request as broken in the same way; `order.placed` is declared, with `order.id`.
fn admit<'a>(quarantine: &Quarantine, raw: &RawEvents<'a>) -> (Vec<QuarantinedEvent<'a>>, u64) {
    let mut admission = quarantine.request();
    let is_declared = |key: &[u8]| key == b"order.id" || key == b"X-Order";
    let is_clean = |text: &str| text != "looks.leaky";
    let events = raw.records().iter().map(|record| {
        let declared = record.name == b"order.placed";
        admission.admit(&Broken {
            raw,
            record,
            uid: None,
            digest: [u8::try_from(record.ordinal % 256).unwrap(); 16],
            occurred: Some(7),
            service_name: Some("api"),
            declared_name: declared.then_some("order.placed"),
            reason: if declared { QuarantineReason::TypeMismatch } else { QuarantineReason::UndeclaredEvent },
            faults: if declared { &["order.id", "order.total"] } else { &[] },
            is_declared: &is_declared,
            is_clean: &is_clean,
        })
    });
    (events.collect(), admission.without_payload())
}

#[test]
fn names_and_types_are_stored_and_no_value_is() {
    let attributes = vec![
        text("order.id", MARK),
        text("X-Order", MARK),
        attribute("new.key", Value::IntValue(4_111_111)),
        text(&format!("Key {MARK}"), "x"),
        text("user.0123456789", "x"),
        text("looks.leaky", "x"),
        KeyValue { key: "none".to_owned(), ..Default::default() },
    ];
    let bytes = request(vec![record("order.placed", attributes)]).encode_to_vec();
    let raw = decode(&bytes);
    let (events, without_payload) = admit(&quarantine(None), &raw);
    let event = &events[0];
    assert_eq!((event.event_name(), event.event_id.len()), ("order.placed", 32));
    assert_eq!(event.detail.as_deref(), Some("order.id,order.total"));
    let names: Vec<String> = serde_json::from_str(event.attribute_names.as_deref().unwrap()).unwrap();
    assert_eq!(
        names[..3],
        ["order.id", "X-Order", "new.key"],
        "what is declared is shown whatever it looks like"
    );
    for hashed in &names[3..6] {
        assert!(hashed.len() == 13 && hashed.starts_with('#'), "{hashed}");
    }
    assert_eq!(names[6], "none");
    let types: Vec<String> = serde_json::from_str(event.attribute_types.as_deref().unwrap()).unwrap();
    assert_eq!(types, ["string", "string", "int", "string", "string", "string", "empty"]);
    assert_eq!((event.attribute_count, event.has_payload(), without_payload), (7, false, 0));
    let stored = format!("{:?}", encode(&events, "policy", 8).unwrap().record_batch());
    assert!(!stored.contains(MARK) && !stored.contains("4111111"), "{stored}");
    assert!(!format!("{events:?}").contains("order"), "debug output shows the reason only");
}

#[test]
fn an_undeclared_events_name_is_stored_only_where_it_looks_like_one() {
    let names = ["shop.opened", "hello bob", "user.20260131", ""];
    let bytes = request(names.iter().map(|name| record(name, vec![])).collect()).encode_to_vec();
    let raw = decode(&bytes);
    let (events, _) = admit(&quarantine(None), &raw);
    let claimed: Vec<_> = events.iter().map(|event| event.claimed_name.as_deref()).collect();
    assert_eq!((claimed[0], claimed[3]), (Some("shop.opened"), None));
    for hashed in [claimed[1].unwrap(), claimed[2].unwrap()] {
        assert!(hashed.len() == 13 && hashed.starts_with('#'), "{hashed}");
    }
    assert_ne!(claimed[1], claimed[2]);
    assert!(events.iter().all(|event| event.event_name() == UNDECLARED));
    let (again, _) = admit(&quarantine(None), &raw);
    assert_eq!(again[1].claimed_name.as_deref(), claimed[1], "a hash stays the same");
}

#[test]
fn the_payload_is_the_record_with_its_resource_and_scope_and_opens_with_the_key() {
    let key = OpeningKey::generate().unwrap();
    let records = vec![record("order.placed", vec![text("order.id", MARK)]), record("shop.opened", vec![])];
    let whole = request(records.clone());
    let bytes = whole.encode_to_vec();
    let raw = decode(&bytes);
    let (events, _) = admit(&quarantine(Some(&key)), &raw);
    for (event, sent) in events.iter().zip(records) {
        let sealed = event.sealed.as_deref().unwrap();
        assert_eq!(event.sealed_key_id.as_deref(), Some(key.recipient().id()));
        assert!(!sealed.contains(MARK));
        let opened = key.open(sealed, &event.event_id, event.reason.as_str()).unwrap();
        let payload = ExportLogsServiceRequest::decode(opened.as_slice()).unwrap();
        assert_eq!(payload, request(vec![sent]), "exactly that record, its resource and its scope");
        assert_eq!(decode(&opened).records().len(), 1);
        assert_eq!(key.open(sealed, &event.event_id, "leak"), Err(SealError::Closed));
    }
}

#[test]
fn a_record_without_resource_and_scope_is_a_payload_too() {
    let mut whole = request(vec![record("order.placed", vec![])]);
    whole.resource_logs[0].resource = None;
    whole.resource_logs[0].scope_logs[0].scope = None;
    let bytes = whole.encode_to_vec();
    let raw = decode(&bytes);
    let enclosure = Enclosure::of(&raw, &raw.records()[0]);
    assert_eq!(enclosure.encode().len(), enclosure.length());
    let again = ExportLogsServiceRequest::decode(enclosure.encode().as_slice()).unwrap();
    assert_eq!(
        again.resource_logs[0].scope_logs[0].log_records,
        whole.resource_logs[0].scope_logs[0].log_records
    );
}

#[test]
fn the_frames_lengths_are_right_on_both_sides_of_a_longer_varint() {
    for length in [1, 60, 100, 126, 127, 128, 200, 16_300, 16_400] {
        let sent = record("order.placed", vec![text("order.id", &"x".repeat(length))]);
        let bytes = request(vec![sent.clone()]).encode_to_vec();
        let raw = decode(&bytes);
        let enclosure = Enclosure::of(&raw, &raw.records()[0]);
        assert_eq!(enclosure.encode().len(), enclosure.length());
        assert_eq!(
            ExportLogsServiceRequest::decode(enclosure.encode().as_slice()).unwrap(),
            request(vec![sent])
        );
    }
}

#[test]
fn a_flood_of_broken_events_costs_a_bounded_number_of_seals() {
    let key = OpeningKey::generate().unwrap();
    let records = vec![record("order.placed", vec![]); PAYLOADS_MAX + 10];
    let bytes = request(records).encode_to_vec();
    let raw = decode(&bytes);
    let (events, without_payload) = admit(&quarantine(Some(&key)), &raw);
    assert_eq!(events.iter().filter(|event| event.has_payload()).count(), PAYLOADS_MAX);
    assert_eq!(without_payload, 10);
    let last = events.last().unwrap();
    assert!(last.sealed.is_none() && last.sealed_key_id.is_none() && last.attribute_names.is_some());
}

#[test]
fn large_payloads_and_large_resources_are_bounded_in_bytes() {
    let key = OpeningKey::generate().unwrap();
    let large = record("order.placed", vec![text("order.id", &"x".repeat(PAYLOAD_BYTES_MAX))]);
    let bytes = request(vec![large, record("order.placed", vec![])]).encode_to_vec();
    let raw = decode(&bytes);
    let (events, without_payload) = admit(&quarantine(Some(&key)), &raw);
    assert_eq!((events[0].has_payload(), events[1].has_payload(), without_payload), (false, true, 1));

    let mut whole = request(vec![record("order.placed", vec![]); 60]);
    let resource = whole.resource_logs[0].resource.as_mut().unwrap();
    resource.attributes.push(text("big", &"x".repeat(200 << 10)));
    let bytes = whole.encode_to_vec();
    let raw = decode(&bytes);
    let (events, without_payload) = admit(&quarantine(Some(&key)), &raw);
    let sealed = events.iter().filter(|event| event.has_payload()).count();
    assert!(
        (PAYLOADS_BYTES_MAX / (201 << 10)..=PAYLOADS_BYTES_MAX / (200 << 10)).contains(&sealed),
        "{sealed}"
    );
    assert_eq!(without_payload, 60 - sealed as u64);
}

#[test]
fn names_are_bounded_for_an_event_and_for_a_request() {
    let many = (0..200).map(|number| text(&format!("Key{number}"), "x")).collect::<Vec<_>>();
    let records = vec![record("order.placed", many); 1500];
    let bytes = request(records).encode_to_vec();
    let raw = decode(&bytes);
    let (events, _) = admit(&quarantine(None), &raw);
    let names: Vec<String> = serde_json::from_str(events[0].attribute_names.as_deref().unwrap()).unwrap();
    assert_eq!((names.len(), events[0].attribute_count), (NAMES_MAX, 200));
    let bytes: usize = events.iter().filter_map(|event| event.attribute_names.as_deref()).map(str::len).sum();
    assert!(bytes < NAMES_BYTES_MAX + (4 << 10), "{bytes}");
    let last = events.last().unwrap();
    assert!(last.attribute_names.is_none() && last.attribute_types.is_none() && last.detail.is_none());
}

#[test]
fn rows_have_the_declared_columns_types_and_values() {
    let key = OpeningKey::generate().unwrap();
    let bytes = request(vec![record("order.placed", vec![]), record("shop.opened", vec![])]).encode_to_vec();
    let raw = decode(&bytes);
    let (events, _) = admit(&quarantine(Some(&key)), &raw);
    let batch = encode(&events, "0123456789ab", 1_000).unwrap();
    let rows = batch.record_batch();
    let declared = columns();
    for field in rows.schema_ref().fields() {
        let column = declared.iter().find(|column| column.name == *field.name()).unwrap();
        assert_eq!(column.arrow_field(), **field);
    }
    let order: Vec<_> = rows.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
    let places: Vec<_> =
        order.iter().map(|name| declared.iter().position(|column| column.name == **name).unwrap()).collect();
    assert!(places.is_sorted(), "table order");
    let text = |column: &str, row| {
        let column = rows.column_by_name(column).unwrap().as_string::<i32>();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    assert_eq!(text("event_name", 0).as_deref(), Some("order.placed"));
    assert_eq!(text("event_name", 1).as_deref(), Some("(undeclared)"));
    assert_eq!(text("claimed_name", 0), None);
    assert_eq!(text("claimed_name", 1).as_deref(), Some("shop.opened"));
    assert_eq!(text("reason", 1).as_deref(), Some("undeclared_event"));
    assert_eq!(text("policy_version", 1).as_deref(), Some("0123456789ab"));
    assert_eq!(text("detail", 1), None);
    assert_eq!(batch.event_counts().len(), 2);
    // Without a payload in it, the batch has no such column.
    let (events, _) = admit(&quarantine(None), &raw);
    let rows = encode(&events, "p", 1).unwrap();
    assert!(rows.record_batch().column_by_name("sealed").is_none());
    assert_eq!(encode(&[], "p", 1).unwrap().rows(), 0);
}

#[test]
fn without_randomness_an_event_is_quarantined_without_its_payload() {
    let key = OpeningKey::generate().unwrap();
    let mut quarantine = quarantine(Some(&key));
    quarantine.randomness = |_| Err(SealError::Random);
    let bytes = request(vec![record("order.placed", vec![])]).encode_to_vec();
    let raw = decode(&bytes);
    let (events, without_payload) = admit(&quarantine, &raw);
    assert_eq!((events[0].has_payload(), without_payload), (false, 1));
}

#[test]
fn reasons_have_names_of_their_own_that_read_back() {
    for reason in QuarantineReason::ALL {
        assert_eq!(QuarantineReason::parse(reason.as_str()), Some(reason));
    }
    assert_eq!(QuarantineReason::parse("other"), None);
}
