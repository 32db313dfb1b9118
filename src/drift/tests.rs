//! The report: what is added, what is bounded, what survives a restart, and that no value is in it.

use super::*;
use crate::privacy::tests::fixture::{COMMITTED, NOW, Request, Sent, Value, gate, registry};
use crate::privacy::{ENTRIES_PER_REQUEST_MAX, Silent};

const SECOND: i64 = 1_000_000;

fn merge_from(store: &DriftStore, service: &str, records: Vec<Sent>, now: i64) {
    let mut request = Request::of(records);
    request.resource[0].1 = Value::from(service);
    let raw = request.raw();
    let gate = gate();
    store.merge(&gate, gate.clear(&raw, NOW, &mut Silent).drift(), now);
}

fn merge(store: &DriftStore, records: Vec<Sent>, now: i64) {
    merge_from(store, "flagsmith-api", records, now);
}

fn json(report: &DriftReport) -> String {
    serde_json::to_string(report).unwrap()
}

#[test]
fn requests_add_up_and_the_most_frequent_comes_first() {
    let store = DriftStore::default();
    merge(&store, vec![Sent::named(COMMITTED).with("rare", 1).with("often", "x")], NOW);
    merge(&store, vec![Sent::named(COMMITTED).with("often", 7); 2], NOW + SECOND);
    let report = store.report();
    let shown: Vec<_> =
        report.entries.iter().map(|item| (item.key.as_deref().unwrap(), item.count)).collect();
    assert_eq!(shown, [("often", 3), ("rare", 1)]);
    let often = &report.entries[0];
    assert_eq!(often.types, BTreeMap::from([(ValueType::String, 1), (ValueType::Int, 2)]));
    assert_eq!((often.first_seen, often.last_seen), (NOW, NOW + SECOND));
    assert_eq!((often.service.as_deref(), often.event.as_str()), (Some("flagsmith-api"), COMMITTED));
}

#[test]
fn names_and_keys_that_carry_values_are_hashed_and_values_are_nowhere() {
    let store = DriftStore::default();
    let sent = Sent::named("x.hello bob").with("user bob", "bob-value").with("plain.key", "bob-value");
    merge(&store, vec![sent, Sent::named(COMMITTED).with("bob@example.org", "bob-value")], NOW);
    merge_from(&store, "bob's service", vec![Sent::named("hello bob")], NOW);
    let report = store.report();
    assert_eq!(report.entries.len(), 5);
    let text = format!("{} {store:?} {:?}", json(&report), store.counts());
    assert!(!text.contains("bob"), "{text}");
    assert!(text.contains("plain.key"));
    let hashed = report.entries.iter().filter(|item| item.event.starts_with('#')).count();
    assert_eq!(hashed, 4);
}

#[test]
fn a_full_report_only_counts_what_is_new() {
    let store = DriftStore::default();
    let request = |from: usize| {
        (from..from + ENTRIES_PER_REQUEST_MAX)
            .fold(Sent::named(COMMITTED), |sent, n| sent.with(&format!("k{n}"), 1))
    };
    let mut sent = 0;
    while sent <= ENTRIES_MAX {
        merge(&store, vec![request(sent)], NOW);
        sent += ENTRIES_PER_REQUEST_MAX;
    }
    merge(&store, vec![request(0)], NOW);
    let report = store.report();
    assert_eq!(report.entries.len(), ENTRIES_MAX);
    let over = (sent - ENTRIES_MAX) as u64;
    assert_eq!(report.overflow, BTreeMap::from([("flagsmith-api".to_owned(), over)]));
    assert_eq!(report.entries[0].count, 2, "what is known still counts");
    assert_eq!(report.summary(3).overflow, over);
}

#[test]
fn services_are_bounded_in_counts_and_overflow() {
    let store = DriftStore::default();
    for n in 0..SERVICES_MAX + 20 {
        merge_from(&store, &format!("service-{n}"), vec![Sent::named(COMMITTED).with("new", 1)], NOW);
    }
    merge_from(&store, "no plausible name", vec![Sent::named(COMMITTED).with("new", 1)], NOW);
    let counts = store.counts();
    assert_eq!(counts.len(), SERVICES_MAX + 1);
    let other: Vec<_> = counts.iter().filter(|(service, ..)| service == OTHER_SERVICES).collect();
    assert_eq!(other[0].2, 21);
    assert_eq!(counts.iter().map(|(.., count)| count).sum::<u64>(), SERVICES_MAX as u64 + 21);
    assert_eq!(store.report().entries.len(), SERVICES_MAX + 21, "the report tells them apart");
}

#[test]
fn a_report_is_resumed_with_its_first_times_but_counters_start_anew() {
    let store = DriftStore::default();
    merge(&store, vec![Sent::named("new.thing.done").with("k", 1)], NOW);
    let saved: DriftReport = serde_json::from_str(&json(&store.report())).unwrap();
    assert_eq!(saved, store.report());
    let resumed = DriftStore::resume(&saved, &registry());
    assert_eq!(resumed.report(), saved);
    assert!(resumed.counts().is_empty());
    merge(&resumed, vec![Sent::named("new.thing.done").with("k", 1)], NOW + SECOND);
    let entry = &resumed.report().entries[0];
    assert_eq!((entry.count, entry.first_seen, entry.last_seen), (2, NOW, NOW + SECOND));
}

#[test]
fn what_is_declared_by_now_leaves_the_report() {
    let item = |kind, event: &str, key: Option<&str>| DriftItem {
        service: None,
        kind,
        event: event.to_owned(),
        key: key.map(str::to_owned),
        types: BTreeMap::new(),
        count: 1,
        first_seen: NOW,
        last_seen: NOW,
    };
    let kept = [
        item(DriftKind::Attribute, COMMITTED, Some("still.undeclared")),
        item(DriftKind::Event, "new.thing.done", None),
        item(DriftKind::EventAttribute, "new.thing.done", Some("title")),
    ];
    let gone = [
        item(DriftKind::Attribute, COMMITTED, Some("title")),
        item(DriftKind::Event, COMMITTED, None),
        item(DriftKind::EventAttribute, COMMITTED, Some("still.undeclared")),
        item(DriftKind::Attribute, "removed.event.done", Some("title")),
    ];
    let report = DriftReport { entries: [&kept[..], &gone[..]].concat(), ..DriftReport::default() };
    let resumed = DriftStore::resume(&report, &registry()).report();
    assert_eq!(resumed.entries.len(), kept.len());
    assert!(kept.iter().all(|item| resumed.entries.contains(item)));
}

#[test]
fn what_esker_did_not_write_is_not_read_back() {
    let store = DriftStore::default();
    merge(&store, vec![Sent::named(COMMITTED).with("fine", 1)], NOW);
    let text = json(&store.report());
    for (from, to) in
        [("fine", "hello bob"), (COMMITTED, "Hello"), ("flagsmith-api", "a\\nb"), ("\"fine\"", "null")]
    {
        assert!(text.contains(from));
        let edited: DriftReport = serde_json::from_str(&text.replace(from, to)).unwrap();
        assert!(edited.valid().entries.is_empty(), "{to}");
    }
    assert!(serde_json::from_str::<DriftReport>(&text.replace("2026-", "year ")).is_err());
}

#[test]
fn the_summary_leaves_attributes_of_undeclared_events_to_the_whole_report() {
    let store = DriftStore::default();
    merge(&store, vec![Sent::named("new.thing.done").with("k", 1).with("l", 1); 3], NOW);
    merge(&store, vec![Sent::named(COMMITTED).with("m", 1).with("n", 1)], NOW);
    let summary = store.report().summary(2);
    assert_eq!((summary.events, summary.event_records), (1, 3));
    assert_eq!((summary.attributes, summary.attribute_records), (2, 2));
    let top: Vec<_> = summary.top.iter().map(|item| item.kind).collect();
    assert_eq!(top, [DriftKind::Event, DriftKind::Attribute]);
}
