//! Rows as they are stored, the batch's bytes, and fitting old batches to new tables.

use std::collections::BTreeMap;

use arrow::array::{ArrayRef, Int64Array};
use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::privacy::tests::fixture::{self, COMMITTED, NOW, Sent, Value, clear_with, gate};
use crate::registry::{Primitive, PrivacyLevel};
use arrow::record_batch::RecordBatch;

fn encode(records: Vec<Sent>) -> Batch {
    let gate = gate();
    let layout = Layout::new(gate.registry()).unwrap();
    let encoder = Encoder::new(&layout, gate.registry(), gate.policy_version());
    clear_with(&gate, records, |cleared| {
        let mut batches = encoder.encode(cleared, NOW).unwrap();
        assert_eq!(batches.len(), 1, "all events go to the primary table");
        batches.pop().unwrap().1
    })
}

/// A row's cells by column; absent where null.
fn row(batch: &Batch, row: usize) -> BTreeMap<String, String> {
    let rows = batch.record_batch();
    let cells =
        rows.schema_ref().fields().iter().zip(rows.columns()).filter(|(_, column)| column.is_valid(row));
    cells.map(|(field, column)| (field.name().clone(), array_value_to_string(column, row).unwrap())).collect()
}

fn cells(cells: &[(&str, &str)]) -> BTreeMap<String, String> {
    cells.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_record_as_flagsmith_sends_it_is_stored_as_this_row() {
    let stored = row(&encode(vec![Sent::flagsmith()]), 0);
    let expected = cells(&[
        ("event_id", stored["event_id"].as_str()),
        ("event_name", "workflows.change_request.committed"),
        ("category", "product"),
        ("event_time", "2026-11-22T21:30:03.883013Z"),
        ("received_time", "2026-11-22T21:30:03.900Z"),
        ("service_name", "flagsmith-api"),
        ("service_version", "2.265.0"),
        ("scope_name", "common.core.otel"),
        ("severity", "info"),
        ("trace_id", "779311cfd8322ce95f63bfca72fa5848"),
        ("span_id", "0ff345cbdbc12b1f"),
        ("policy_version", gate().policy_version()),
        ("organisation_id", "1"),
        ("environment_id", "7"),
        ("feature_states_count", "3"),
        ("amplitude_device_id", "e1_a2lvxkk5_bLUfjasnpoESqZ9uo75BIrcLUS3GU1irMkjQgcr-p94"),
        ("amplitude_session_id", "1710864000000"),
        ("amplitude_user_id", "e1_a2lvxkk5_LsdUR03Nbzy8rZkcTu0brfmDd3l2VYw6eylKebMKzTs"),
        ("flagsmith_event", "workflows.change_request.committed"),
    ]);
    assert_eq!(stored, expected);
    assert_eq!(stored["event_id"].len(), 32);
    assert!(stored["event_id"].bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
}

#[test]
fn columns_without_a_value_are_absent_and_gaps_are_null() {
    let batch = encode(vec![
        Sent::named(COMMITTED).with("title", "first"),
        Sent::named(COMMITTED),
        Sent::named("billing.invoice.sent").with("account.number", 7),
        Sent::named(COMMITTED).with("title", "last").with("score", Value::Double(0.5)),
        Sent::named(COMMITTED).with("is_live", Value::Bool(true)).with("header.a", "b"),
        Sent::named(COMMITTED),
    ]);
    let attributes = |at: usize| -> BTreeMap<_, _> {
        let fixed: Vec<_> = ENVELOPE.iter().map(|column| column.0).collect();
        row(&batch, at).into_iter().filter(|(name, _)| !fixed.contains(&name.as_str())).collect()
    };
    assert_eq!(batch.rows(), 6);
    let expected: [&[(&str, &str)]; 6] = [
        &[("title", "first")],
        &[],
        &[("account_number", "7")],
        &[("title", "last"), ("score", "0.5")],
        &[("is_live", "true"), ("header", r#"{"a":"b"}"#)],
        &[],
    ];
    for (at, expected) in expected.iter().enumerate() {
        assert_eq!(attributes(at), cells(expected), "row {at}");
    }
    for absent in ["consent", "consent_basis", "trace_id", "environment_id"] {
        assert!(batch.record_batch().column_by_name(absent).is_none(), "{absent}");
    }
    let names: Vec<_> = batch.event_counts().into_iter().map(|count| (count.name, count.events)).collect();
    assert_eq!(names, [(COMMITTED.to_owned(), 5), ("billing.invoice.sent".to_owned(), 1)]);
}

#[test]
fn equal_requests_give_equal_bytes() {
    let bytes = || encode(vec![Sent::flagsmith(), Sent::named(COMMITTED)]).to_ipc().unwrap();
    assert_eq!(bytes(), bytes());
}

#[test]
fn a_request_of_which_nothing_is_stored_has_no_batch() {
    let gate = gate();
    let layout = Layout::new(gate.registry()).unwrap();
    let encoder = Encoder::new(&layout, gate.registry(), gate.policy_version());
    let batches =
        clear_with(&gate, vec![Sent::named("undeclared")], |cleared| encoder.encode(cleared, NOW).unwrap());
    assert!(batches.is_empty());
}

#[test]
fn a_batch_comes_back_from_its_bytes_without_a_copy() {
    let batch = encode(vec![Sent::flagsmith(), Sent::named(COMMITTED).with("score", Value::Double(1.5))]);
    let bytes = batch.to_ipc().unwrap();
    let again = Batch::from_ipc(bytes.clone()).unwrap();
    assert_eq!(again.record_batch(), batch.record_batch());
    let memory = bytes.as_ptr_range();
    let values = again.record_batch().column_by_name("event_name").unwrap().to_data();
    assert!(memory.contains(&values.buffers()[1].as_ptr()), "the text lies in the bytes themselves");
}

#[test]
fn truncated_bytes_are_refused() {
    let bytes = encode(vec![Sent::flagsmith()]).to_ipc().unwrap();
    for length in 0..bytes.len() - 8 {
        assert!(Batch::from_ipc(bytes.slice(..length)).is_err(), "cut at {length} of {}", bytes.len());
    }
}

#[test]
fn bytes_of_other_columns_are_refused() {
    let ints: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let alien = RecordBatch::try_from_iter([("event_id", ints)]).unwrap();
    let refused = Batch::from_ipc(Batch::new(alien).to_ipc().unwrap()).unwrap_err();
    assert!(matches!(refused, BatchError::Malformed { .. }), "{refused}");
    assert!(Batch::from_ipc(Bytes::new()).is_err());
    let two = [encode(vec![Sent::flagsmith()]).to_ipc().unwrap(), encode(vec![Sent::flagsmith()]).to_ipc().unwrap()].concat();
    assert!(Batch::from_ipc(two.into()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn damaged_bytes_never_panic(places in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6)) {
        let mut bytes = encode(vec![Sent::flagsmith(), Sent::named(COMMITTED)]).to_ipc().unwrap().to_vec();
        for (place, byte) in places {
            let place = place as usize % bytes.len();
            bytes[place] = byte;
        }
        if let Ok(batch) = Batch::from_ipc(bytes.into()) {
            drop(batch.event_counts());
        }
    }
}

#[test]
fn the_layout_is_the_envelope_then_the_attributes_by_name() {
    let layout = Layout::new(gate().registry()).unwrap();
    let names: Vec<_> = layout.columns().iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names[..14], crate::registry::ENVELOPE_COLUMNS, "the registry keeps these names free");
    assert!(names[14..].is_sorted());
    assert_eq!(names[Envelope::PolicyVersion as usize], "policy_version");
    assert_eq!(names[Envelope::SpanId as usize], "span_id");
    let of = |name: &str| layout.columns().iter().find(|column| column.name == name).unwrap();
    let (id, user, organisation) = (of("event_id"), of("amplitude_user_id"), of("organisation_id"));
    assert!(id.bloom && !id.bounds && id.required);
    assert!(user.bloom && !user.bounds && !user.required);
    assert!(!organisation.bloom && organisation.bounds);
    assert!(organisation.doc.contains("organisation.id, organisation_id"), "{}", organisation.doc);
    assert!(!of("trace_id").bounds && !of("span_id").bounds);
    assert_eq!(of("event_time").arrow_field().data_type(), &arrow_type(ColumnType::Timestamp));
}

#[test]
fn an_attribute_with_an_envelope_column_s_name_is_refused() {
    let text = fixture::scalar(Primitive::String);
    let registry = fixture::registry_of(&[("Severity", text, PrivacyLevel::Public, "Severity")]);
    let message = Layout::new(&registry).unwrap_err().to_string();
    assert!(message.contains("`Severity`") && message.contains("schemas/"), "{message}");
}

#[test]
fn a_request_of_too_many_cells_is_refused() {
    let rows = CELLS_MAX / 7;
    let records = vec![Sent::named(COMMITTED); rows];
    let gate = gate();
    let layout = Layout::new(gate.registry()).unwrap();
    let encoder = Encoder::new(&layout, gate.registry(), gate.policy_version());
    let outcome = clear_with(&gate, records, |cleared| encoder.encode(cleared, NOW).map(|_| ()));
    assert!(matches!(outcome, Err(EncodeError::TooManyCells { .. })));
}
