//! The proposed file passes the check beside the shipped registry, reuses what is declared, and says what it left out.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::registry::{AttributeType, PrivacyLevel};

const SINCE: i64 = 1_795_383_003_900_000;

fn schemas() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

fn registry() -> Registry {
    Registry::load(&schemas()).unwrap()
}

fn item(kind: DriftKind, event: &str, key: Option<&str>, types: &[(ValueType, u64)]) -> DriftItem {
    let count = types.iter().map(|(_, count)| count).sum::<u64>().max(1);
    DriftItem {
        service: Some("flagsmith-api".to_owned()),
        kind,
        event: event.to_owned(),
        key: key.map(str::to_owned),
        types: types.iter().copied().collect(),
        count,
        first_seen: SINCE,
        last_seen: SINCE,
    }
}

/// The proposal's text, and the shipped registry with it.
fn proposed(entries: Vec<DriftItem>) -> (String, Registry) {
    let report = DriftReport { entries, ..DriftReport::default() };
    let check = |text: &str| Registry::load_with(&schemas(), LABEL, text);
    let text = Proposal::of(&report, &registry()).settle(check).unwrap().text();
    let with_it = check(&text).unwrap();
    (text, with_it)
}

fn parsed(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

fn new_event() -> Vec<DriftItem> {
    use ValueType::{Empty, Int, String as Text};
    let of = |key, types: &[_]| item(DriftKind::EventAttribute, "reports.export.created", Some(key), types);
    vec![
        item(DriftKind::Event, "reports.export.created", None, &[]),
        of("organisation.id", &[(Int, 3)]),
        of("export.count", &[(Int, 2), (Empty, 1)]),
        of("export.label", &[(Text, 2), (Int, 1)]),
        of("reporter.email", &[(Text, 3)]),
    ]
}

#[test]
fn a_new_event_is_declared_with_new_attributes_and_refs_to_known_ones() {
    let (text, with_it) = proposed(new_event());
    let event = with_it.events().iter().find(|event| event.name == "reports.export.created").unwrap();
    let of = |key: &str| {
        let place = with_it.attributes().iter().position(|one| one.key == key).unwrap();
        let used = event.attributes.iter().find(|used| used.attribute == place).unwrap();
        (with_it.attributes()[place].ty.clone(), used.privacy)
    };
    let scalar = AttributeType::Scalar;
    use crate::registry::Primitive::{Int, String as Text};
    assert_eq!(of("organisation.id"), (scalar(Int), PrivacyLevel::Internal));
    assert_eq!(of("export.count"), (scalar(Int), PrivacyLevel::Internal));
    assert_eq!(of("export.label"), (scalar(Text), PrivacyLevel::Personal));
    assert_eq!(of("reporter.email"), (scalar(Text), PrivacyLevel::Personal));
    assert_eq!(event.attributes.len(), 4);
    let keys: Vec<_> =
        parsed(&text)["attributes"].as_array().unwrap().iter().map(|a| a["key"].clone()).collect();
    assert_eq!(
        keys,
        ["export.count", "export.label", "reporter.email"],
        "what is declared is not declared again"
    );
    assert!(text.contains("# 2 string, 1 int, from flagsmith-api since 2026-11-22T21:30:03.9Z"), "{text}");
    assert!(text.contains("# Type: `int` reads both"), "{text}");
    assert!(text.contains("# Level: `email` names personal data"), "{text}");
}

#[test]
fn attributes_that_a_declared_event_lacks_are_defined_and_shown_as_refs_to_add() {
    use ValueType::{Double, String as Text};
    let event = "features.flag.updated";
    let of = |key, types: &[_]| item(DriftKind::Attribute, event, Some(key), types);
    let entries = vec![
        of("update.duration", &[(Double, 1)]),
        of("sdk.label", &[(Text, 1)]),
        // The event has come to declare this one.
        of("feature.id", &[(Text, 1)]),
    ];
    let (text, with_it) = proposed(entries);
    assert!(text.contains("#   features.flag.updated\n#     - {ref: \"sdk.label\""), "{text}");
    assert!(text.contains("#     - {ref: \"update.duration\", requirement_level: recommended}"), "{text}");
    assert!(!text.contains("feature.id"), "{text}");
    assert_eq!(with_it.events().len(), registry().events().len());
    assert_eq!(with_it.attributes().len(), registry().attributes().len() + 1);
}

#[test]
fn the_lines_to_add_are_yaml_that_the_event_takes() {
    let one = item(DriftKind::Attribute, "features.flag.updated", Some("on"), &[(ValueType::Boolean, 1)]);
    let (text, _) = proposed(vec![one]);
    let line = text.lines().find_map(|line| line.strip_prefix("#     ")).unwrap();
    assert_eq!(parsed(line)[0]["ref"], "on");
}

#[test]
fn hashed_names_are_counted_and_appear_nowhere() {
    let mut entries = new_event();
    entries.push(item(DriftKind::Event, "#0123456789ab", None, &[]));
    entries.push(item(DriftKind::EventAttribute, "#0123456789ab", Some("inner"), &[(ValueType::Int, 1)]));
    entries.push(item(
        DriftKind::Attribute,
        "features.flag.updated",
        Some("#ba9876543210"),
        &[(ValueType::Int, 1)],
    ));
    let (text, _) = proposed(entries);
    assert!(text.contains("names, 2 of them"), "{text}");
    assert!(!text.contains("0123456789ab") && !text.contains("ba98") && !text.contains("inner"), "{text}");
}

#[test]
fn what_the_registry_refuses_is_left_out_with_its_reason() {
    let of = |key| item(DriftKind::Attribute, "features.flag.updated", Some(key), &[(ValueType::Int, 1)]);
    let entries = vec![
        item(DriftKind::Event, "oneword", None, &[]),
        of("event.time"),   // a column of every event
        of("file.path"),    // a column of Iceberg's own
        of("feature.name"), // the column of `feature_name`
        of("a.b_c"),        // two new keys of one column
        of("a_b.c"),
        of("fine.count"),
    ];
    let (text, with_it) = proposed(entries);
    for left_out in ["oneword", "event.time", "file.path", "feature.name", "a_b.c"] {
        assert!(text.contains(&format!("# Left out: `{left_out}`: ")), "{left_out}: {text}");
    }
    assert!(text.contains("same_column_as: feature_name"), "{text}");
    let known = |key: &str| with_it.attributes().iter().any(|one| one.key == key);
    assert!(known("fine.count") && known("a.b_c") && !known("a_b.c"));
}

#[test]
fn a_key_of_a_declared_template_is_left_out() {
    let of = |key| item(DriftKind::Attribute, "a.b", Some(key), &[(ValueType::Int, 1)]);
    let file = "file_format: definition/2\nattributes:\n  - {key: label, type: \"template[string]\", stability: stable, \
                brief: x, annotations: {esker: {privacy: public}}}\nevents:\n  - {name: a.b, stability: stable, brief: x, \
                annotations: {esker: {category: product}}, attributes: []}\n";
    let files =
        |text: &str| vec![("a.yaml".to_owned(), file.to_owned()), (LABEL.to_owned(), text.to_owned())];
    let registry = Registry::from_files(&files("file_format: definition/2\n")).unwrap();
    let report = DriftReport { entries: vec![of("label.colour"), of("other")], ..DriftReport::default() };
    let text =
        Proposal::of(&report, &registry).settle(|text| Registry::from_files(&files(text))).unwrap().text();
    assert!(text.contains("# Left out: `label.colour`: the key also matches the template"), "{text}");
    assert!(text.contains("key: \"other\"") && !text.contains("ref: \"label.colour\""), "{text}");
}

#[test]
fn an_empty_report_gives_a_valid_file_that_says_so() {
    let (text, with_it) = proposed(Vec::new());
    assert!(text.contains("nothing that could be declared"));
    assert_eq!(with_it.version(), registry().version());
}

#[test]
fn only_the_most_frequent_attributes_are_proposed() {
    let of = |n: usize| {
        let key = format!("key_{}", n % 10_000);
        item(DriftKind::Attribute, "features.flag.updated", Some(&key), &[(ValueType::Int, n as u64)])
    };
    let (text, with_it) = proposed((1..=ATTRIBUTES_MAX + 30).map(of).collect());
    assert!(text.contains("Left out: 30 rarer attributes"), "{text}");
    let known = |key: &str| with_it.attributes().iter().any(|one| one.key == key);
    assert!(known("key_31") && !known("key_30"));
}

#[test]
fn service_names_cannot_break_out_of_a_comment() {
    let mut one = item(DriftKind::Event, "new.thing.done", None, &[]);
    one.service = Some("x\nattributes: [1]".to_owned());
    let (text, _) = proposed(vec![one]);
    assert!(text.contains("from x attributes: [1] since"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Every name that the report can show, YAML's own words among them, is written so that it is read back as itself.
    #[test]
    fn any_report_gives_a_file_that_passes_the_check(
        names in proptest::collection::btree_set(
            prop_oneof![
                3 => "[a-z][a-z0-9_]{0,8}(\\.[a-z0-9_]{1,6}){0,2}",
                1 => proptest::sample::select(vec!["null", "on", "yes", "true", "y", "e3", "off.no", "id"])
                    .prop_map(str::to_owned),
            ],
            0..12,
        ),
        types in proptest::collection::btree_map(proptest::sample::select(ValueType::ALL.to_vec()), 1..9_u64, 0..4),
    ) {
        let types: Vec<_> = types.into_iter().collect();
        let events = ["zz.new.happened", "features.flag.updated"];
        let entries = names.iter().flat_map(|name| {
            let kinds = [DriftKind::EventAttribute, DriftKind::Attribute];
            let keys = events.iter().zip(kinds).map(|(event, kind)| item(kind, event, Some(name), &types));
            keys.chain([item(DriftKind::Event, &format!("{name}.happened"), None, &[])]).collect::<Vec<_>>()
        });
        let (text, with_it) = proposed(entries.collect());
        for name in &names {
            let is_there = with_it.attributes().iter().any(|one| one.key == *name);
            prop_assert!(is_there || text.contains(&format!("Left out: `{name}`")), "{}: {}", name, text);
        }
    }

    #[test]
    fn any_text_is_quoted_so_that_yaml_reads_it_back(text in "\\PC{0,40}") {
        prop_assert_eq!(&parsed(&format!("- {}", quoted(&text)))[0], &Value::from(text));
    }
}
