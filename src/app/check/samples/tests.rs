use super::*;
use crate::app::policies::throw_away_keys;
use crate::privacy::{DataMap, Destination, datamap_for_tests};

fn side(map: &DataMap) -> Side {
    Side { gate: Some(map.restore(&throw_away_keys().unwrap()).unwrap()), map: map.clone() }
}

fn record(name: &str, attributes: &[(&str, serde_json::Value)]) -> serde_json::Value {
    let value = |value: &serde_json::Value| match value {
        serde_json::Value::String(_) => serde_json::json!({"stringValue": value}),
        other => serde_json::json!({"intValue": other.to_string()}),
    };
    let attributes: Vec<_> =
        attributes.iter().map(|(key, one)| serde_json::json!({"key": key, "value": value(one)})).collect();
    serde_json::json!({"eventName": name, "attributes": attributes})
}

fn request(records: &[serde_json::Value]) -> String {
    serde_json::json!({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).to_string()
}

fn compared(before: &Side, after: &Side, text: &str) -> Comparison {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("one.jsonl"), text).unwrap();
    std::fs::write(folder.path().join("README.md"), "not a sample").unwrap();
    let config = Config::from_toml("").unwrap();
    let compared = compare(&config, before, after, folder.path()).unwrap();
    let shown = serde_json::to_string(&compared).unwrap() + &super::super::difference::text(&compared);
    assert!(!shown.contains("mark-"), "no value is shown: {shown}");
    compared
}

fn shown(comparison: &Comparison) -> Vec<String> {
    let events = comparison
        .events
        .iter()
        .map(|one| format!("{:?} {}: {} -> {} x{}", one.change, one.event, one.before, one.after, one.count));
    let attributes = comparison.attributes.iter().map(|one| {
        format!(
            "{:?} {} {}: {} -> {} x{}",
            one.change, one.event, one.attribute, one.before, one.after, one.count
        )
    });
    events.chain(attributes).collect()
}

#[test]
fn the_same_policy_makes_no_difference_and_undeclared_names_are_not_shown() {
    let map = datamap_for_tests();
    let lines = [
        request(&[record("a.done", &[("a.plain", 1.into()), ("mark-key", "mark-value".into())])]),
        request(&[record("mark-event", &[("a.plain", 1.into())]), record("b.failed", &[])]),
    ];
    let compared = compared(&side(&map), &side(&map), &lines.join("\n"));
    assert_eq!(shown(&compared), Vec::<String>::new());
    assert_eq!(compared.records, 3);
}

#[test]
fn what_a_change_does_to_samples_is_counted_by_event_and_attribute() {
    let before = datamap_for_tests();
    let mut after = before.clone();
    let done = &mut after.events[0];
    for one in &mut done.attributes {
        match one.key.as_str() {
            "a.kind" => one.declared_treatment = Some("drop".to_owned()),
            "a.text" => one.declared_treatment = Some("mask email".to_owned()),
            _ => {}
        }
    }
    done.attributes.retain(|one| one.key != "a.note");
    for level in after.levels.iter_mut().filter(|level| level.level == "personal") {
        level.treatments.insert(Destination::Warehouse, "drop".to_owned());
    }
    after.routes.clear();
    let done = record(
        "a.done",
        &[
            ("a.plain", 1.into()),
            ("a.mail", "mark-bob".into()),
            ("a.kind", 1.into()),
            ("a.text", "mark-text".into()),
            ("a.note.mark-x", "mark-note".into()),
        ],
    );
    let compared =
        compared(&side(&before), &side(&after), &request(&[done.clone(), done, record("b.failed", &[])]));
    assert_eq!(
        shown(&compared),
        [
            "NewlyKept b.failed: dropped, routed_nowhere -> stored in product.events x1",
            "NewlyDropped a.done a.kind: keep -> drop, dropped_by_policy x2",
            "NewlyDropped a.done a.mail: pseudonymise -> drop, dropped_personal x2",
            "NewlyDropped a.done a.note: keep -> undeclared x2",
            "Treatment a.done a.text: keep -> mask email x2",
        ]
    );
}

#[test]
fn an_event_that_would_break_its_contract_and_one_that_nobody_knew_are_told() {
    let before = datamap_for_tests();
    let mut after = before.clone();
    for one in after.events[0].attributes.iter_mut().filter(|one| one.key == "a.plain") {
        one.ty = "boolean".to_owned();
    }
    let sample = request(&[record("a.done", &[("a.plain", 7.into())])]);
    let changed = compared(&side(&before), &side(&after), &sample);
    assert_eq!(
        shown(&changed),
        [
            "NewlyQuarantined a.done: stored in product.events -> quarantined, type_mismatch (a.plain) x1",
            "NewlyDropped a.done a.plain: keep -> event quarantined x1",
            "Type a.done a.plain: int -> boolean x1",
        ]
    );
    let nothing = Side::of(None).unwrap();
    let new = compared(&nothing, &side(&before), &sample);
    assert_eq!(
        shown(&new),
        [
            "NewlyKept a.done: undeclared -> stored in product.events x1",
            "NewlyKept a.done a.plain: undeclared -> keep x1"
        ]
    );
}

#[test]
fn a_target_that_is_nothing_is_told() {
    let map = datamap_for_tests();
    let config = Config::from_toml("").unwrap();
    let error = compare(&config, &side(&map), &side(&map), Path::new("/no/such")).unwrap_err();
    assert!(format!("{error:#}").contains("`table` is the primary one"), "{error:#}");
}

#[test]
fn the_stored_map_s_consent_decides_and_not_the_defaults() {
    let map = crate::privacy::consent_datamap_for_tests();
    // Granted under another name, refused without one, unknown, and one that somebody else's purpose grants.
    let lines: Vec<String> = ["C0002", "orders", "statistics"]
        .iter()
        .map(|granted| {
            request(&[record(
                "a.seen",
                &[("user.id", "mark-u".into()), ("consent.granted", (*granted).into())],
            )])
        })
        .chain([request(&[record("a.seen", &[("user.id", "mark-u".into())])])])
        .collect();
    let same = compared(&side(&map), &side(&map), &lines.join("\n"));
    assert_eq!(shown(&same), Vec::<String>::new());
    // What this map would be with the defaults of consent, as an earlier version's is read.
    let silent = DataMap { consent: None, ..map.clone() };
    let other = compared(&side(&silent), &side(&map), &lines.join("\n"));
    assert_eq!(
        shown(&other),
        [
            "NewlyDropped a.seen: stored in product.events -> dropped, no_consent x1",
            "NewlyKept a.seen user.id: drop, dropped_by_consent -> pseudonymise x2",
            "NewlyDropped a.seen user.id: pseudonymise -> drop, dropped_by_consent x1",
        ]
    );
    assert!(side(&silent).assumptions().unwrap().contains("defaults"));
    assert_eq!(side(&map).assumptions(), None);
    assert_eq!(Side::of(None).unwrap().assumptions(), None);
}
