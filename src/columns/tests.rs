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
        ("consent", "unknown"),
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
        Sent::named("billing.invoice.sent").with("environment.id", 7),
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
        &[("environment_id", "7")],
        &[("title", "last"), ("score", "0.5")],
        &[("is_live", "true"), ("header", r#"{"a":"b"}"#)],
        &[],
    ];
    for (at, expected) in expected.iter().enumerate() {
        assert_eq!(attributes(at), cells(expected), "row {at}");
    }
    for absent in ["consent_basis", "trace_id", "account_number"] {
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
    let two = [
        encode(vec![Sent::flagsmith()]).to_ipc().unwrap(),
        encode(vec![Sent::flagsmith()]).to_ipc().unwrap(),
    ]
    .concat();
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

/// A request whose events go to the tables of these places in turn.
fn encode_to(places: &[u16], records: Vec<Sent>) -> Vec<(u16, Batch)> {
    let gate = gate();
    let layout = Layout::new(gate.registry()).unwrap();
    let encoder = Encoder::new(&layout, gate.registry(), gate.policy_version())
        .with_consent_bases(vec!["default".to_owned(), "consent.analytics".to_owned()]);
    let request = fixture::Request::of(records);
    let raw = request.raw();
    let mut cleared = gate.clear(&raw, NOW, &mut crate::privacy::Silent);
    for (event, place) in cleared.events.iter_mut().zip(places.iter().cycle()) {
        event.table = *place;
        (event.consent, event.consent_basis) = (Some("granted"), Some(*place));
    }
    encoder.encode(&cleared, NOW).unwrap()
}

#[test]
fn each_table_gets_the_rows_of_its_events_in_their_order() {
    let titles = ["a", "b", "c", "d", "e"].map(|title| Sent::named(COMMITTED).with("title", title));
    let batches = encode_to(&[2, 0, 0], titles.to_vec());
    let shown: Vec<_> = batches
        .iter()
        .map(|(table, batch)| {
            (*table, (0..batch.rows()).map(|at| row(batch, at)["title"].clone()).collect::<String>())
        })
        .collect();
    assert_eq!(shown, [(2, "ad".to_owned()), (0, "bce".to_owned())]);
    for (_, batch) in &batches {
        Batch::from_ipc(batch.to_ipc().unwrap()).unwrap();
    }
}

#[test]
fn the_decision_on_consent_and_what_decided_it_are_columns() {
    let batches = encode_to(&[1, 7], vec![Sent::named(COMMITTED), Sent::named(COMMITTED)]);
    let stored = row(&batches[0].1, 0);
    assert_eq!(
        (stored["consent"].as_str(), stored["consent_basis"].as_str()),
        ("granted", "consent.analytics")
    );
    assert!(!row(&batches[1].1, 0).contains_key("consent_basis"), "a basis that nobody knows is not made up");
}

#[test]
fn rows_of_another_layout_are_read_back() {
    use arrow::array::{BinaryArray, StringArray, TimestampMicrosecondArray};
    let times = TimestampMicrosecondArray::from(vec![NOW, NOW + 1]).with_timezone(UTC);
    let columns: [(&str, ArrayRef); 3] = [
        ("event_time", Arc::new(times)),
        ("event_name", Arc::new(StringArray::from(vec!["(undeclared)", "a.b"]))),
        ("sealed_payload", Arc::new(BinaryArray::from(vec![Some(&[0xff, 0x00][..]), None]))),
    ];
    let batch = Batch::new(RecordBatch::try_from_iter(columns.clone()).unwrap());
    let again = Batch::from_ipc(batch.to_ipc().unwrap()).unwrap();
    assert_eq!(again.record_batch(), batch.record_batch());
    assert_eq!(again.event_counts().len(), 2);
    for lacking in 0..2 {
        let kept = columns.iter().enumerate().filter(|(place, _)| *place != lacking);
        let rows = RecordBatch::try_from_iter(kept.map(|(_, column)| column.clone())).unwrap();
        assert!(Batch::from_ipc(Batch::new(rows).to_ipc().unwrap()).is_err(), "without column {lacking}");
    }
}

#[test]
fn a_bundle_is_read_back_by_table_without_a_copy_of_its_larger_part() {
    let large = encode(vec![Sent::flagsmith(); 40]);
    let small = encode(vec![Sent::named(COMMITTED)]);
    let counts =
        clear_with(&gate(), vec![Sent::flagsmith()], |cleared| OutcomeCounts::of(cleared.tally(), "abc"));
    let mut writer = BundleWriter::for_batches([&large, &small]);
    writer.rows("product.events", &large).unwrap();
    writer.rows("eu.events", &small).unwrap();
    writer.outcomes(&counts).unwrap();
    let payload = writer.finish();
    let bundle = Bundle::parse(payload.clone()).unwrap();
    assert_eq!(bundle.outcomes(), Some(&counts));
    assert_eq!(counts.count(AttributeFate::Pseudonymised), 2);
    let memory = payload.as_ptr_range();
    for (section, (table, batch, shares)) in
        bundle.sections().iter().zip([("product.events", &large, true), ("eu.events", &small, false)])
    {
        assert_eq!(section.table(), Some(table));
        let again = section.batch().unwrap();
        assert_eq!(again.record_batch(), batch.record_batch());
        let names = again.record_batch().column_by_name("event_name").unwrap().to_data();
        assert_eq!(memory.contains(&names.buffers()[1].as_ptr()), shares, "{table}");
    }
}

#[test]
fn a_bundle_that_was_cut_or_lengthened_is_refused() {
    let batch = encode(vec![Sent::flagsmith()]);
    let mut writer = BundleWriter::for_batches([&batch]);
    writer.rows("product.events", &batch).unwrap();
    let payload = writer.finish();
    for length in 0..payload.len() {
        assert!(Bundle::parse(payload.slice(..length)).is_err(), "cut at {length} of {}", payload.len());
    }
    assert!(Bundle::parse([&payload[..], &[0; 8]].concat().into()).is_err());
    let mut later = payload.to_vec();
    later[4] = 2;
    assert!(Bundle::parse(later.into()).unwrap_err().to_string().contains("later version"));
}

proptest! {
    #[test]
    fn a_bundle_keeps_what_it_is_given(rows in proptest::collection::btree_map("[a-z_]{1,9}\\.[a-z_]{1,40}", 1..6_usize, 0..5)) {
        let batches: BTreeMap<_, _> =
            rows.iter().map(|(name, rows)| (name, encode(vec![Sent::flagsmith(); *rows]))).collect();
        let mut writer = BundleWriter::for_batches(batches.values());
        for (name, batch) in &batches {
            writer.rows(name, batch).unwrap();
        }
        let bundle = Bundle::parse(writer.finish()).unwrap();
        prop_assert_eq!(bundle.sections().len(), batches.len());
        for (section, (name, batch)) in bundle.sections().iter().zip(&batches) {
            prop_assert_eq!(section.table(), Some(name.as_str()));
            let again = section.batch().unwrap();
            prop_assert_eq!(again.record_batch(), batch.record_batch());
        }
    }

    #[test]
    fn hostile_bundles_never_panic(
        places in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..6),
        noise in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let batch = encode(vec![Sent::flagsmith(), Sent::named(COMMITTED)]);
        let counts = clear_with(&gate(), vec![], |cleared| OutcomeCounts::of(cleared.tally(), "abc"));
        let mut writer = BundleWriter::for_batches([&batch]);
        writer.outcomes(&counts).unwrap();
        writer.rows("product.events", &batch).unwrap();
        let mut bytes = writer.finish().to_vec();
        for (place, byte) in places {
            // Mostly within the headers, where a length decides.
            let place = place as usize % if byte % 2 == 0 { 160 } else { bytes.len() };
            bytes[place] = byte;
        }
        for payload in [bytes, noise.clone(), [b"ESKB\x01\0\x02\0".to_vec(), noise].concat()] {
            if let Ok(bundle) = Bundle::parse(payload.into()) {
                bundle.sections().iter().for_each(|section| drop(section.batch()));
            }
        }
    }
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
