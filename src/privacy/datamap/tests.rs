//! The map of a registry and a policy in which something decides at each place.

use super::*;
use crate::privacy::AttributeOutcome;
use crate::privacy::tests::fixture::{COMMITTED, Sent, clear_with, gate, key};
use crate::privacy::{Rules, TableRules};
use crate::registry::{Category, Registry};
use serde_json::json;
use std::sync::Arc;

fn map() -> DataMap {
    DataMap::of(&gate(), Vec::new())
}

#[test]
fn every_event_and_attribute_of_the_registry_is_in_the_map() {
    let (map, gate) = (map(), gate());
    assert_eq!(map.events.len(), gate.registry().events().len());
    assert_eq!(map.keys().len(), gate.registry().attributes().len());
    assert_eq!(map.policy_version, gate.policy_version());
    assert_eq!(map.envelope.len(), ENVELOPE_COLUMNS.len());
}

#[test]
fn the_warehouse_s_treatments_are_those_that_the_gate_applies() {
    let map = map();
    let values = [
        ("title", "x"),
        ("score", "1"),
        ("amplitude.user_id", "u"),
        ("account.number", "7"),
        ("user.email", "x"),
        ("auth.token", "x"),
    ];
    for (key, value) in values {
        let (_, mapped) = map.uses().find(|(event, one)| event.name == COMMITTED && one.key == key).unwrap();
        let treatment = mapped.treatments[&Destination::Warehouse].as_str();
        clear_with(&gate(), vec![Sent::named(COMMITTED).with(key, value)], |cleared| {
            let found = |outcome| cleared.tally().attributes(outcome) == 1;
            let applied = if found(AttributeOutcome::Kept) {
                "keep"
            } else if found(AttributeOutcome::Pseudonymised) {
                "pseudonymise"
            } else {
                assert!(
                    found(AttributeOutcome::DroppedPersonal) || found(AttributeOutcome::DroppedSensitive)
                );
                "drop"
            };
            assert_eq!(treatment, applied, "{key}");
        });
    }
}

/// A registry and a policy in which something decides at each place that can decide.
pub(crate) const FILE: &str = r#"
file_format: definition/2
attributes:
  - {key: a.plain, type: int, stability: stable, brief: A number., annotations: {esker: {privacy: internal, trust: server}}}
  - {key: a.mail, type: string, stability: stable, brief: An address., annotations: {esker: {privacy: personal, normalise: email}}}
  - {key: a.ip, type: string, stability: stable, brief: A client., annotations: {esker: {privacy: personal, treatment: truncate_ip}}}
  - {key: a.text, type: string, stability: stable, brief: Text., annotations: {esker: {privacy: internal, leaks: drop}}}
  - {key: a_text, type: string, stability: stable, brief: Text., annotations: {esker: {privacy: internal, same_column_as: a.text}}}
  - {key: a.note, type: "template[string]", stability: stable, brief: Notes., annotations: {esker: {privacy: internal}}}
  - key: a.kind
    type: {members: [{id: one, value: 1, stability: stable, brief: x}, {id: two, value: 2, stability: stable, brief: x}]}
    stability: stable
    brief: A kind.
    annotations: {esker: {privacy: public}}
events:
  - name: a.done
    stability: stable
    brief: Done.
    annotations: {esker: {category: product}}
    attributes:
      - {ref: a.plain, requirement_level: required}
      - {ref: a.mail}
      - {ref: a.ip}
      - {ref: a.text}
      - {ref: a_text}
      - {ref: a.note}
      - {ref: a.kind}
  - name: b.failed
    stability: stable
    brief: Failed.
    annotations: {esker: {category: security}}
    attributes:
      - {ref: a.text, annotations: {esker: {privacy: sensitive}}}
      - {ref: a.kind, annotations: {esker: {privacy: internal}}}
"#;

pub(crate) fn rich_gate() -> Gate {
    let levels = |value: serde_json::Value| LevelTreatments::parse(value.as_object().unwrap()).unwrap();
    let registry = Registry::from_files(&[("a.yaml".to_owned(), FILE.to_owned())]).unwrap();
    let table = |name: &str, levels| TableRules { name: name.to_owned(), levels };
    let options = GateOptions {
        rules: Rules {
            warehouse: levels(json!({"personal": "pseudonymise"})),
            amplitude: levels(json!({"internal": "drop"})),
        },
        tables: vec![
            table("product.events", LevelTreatments::default()),
            table("eu.events", levels(json!({"personal": "drop", "public": {"coarsen": 2}}))),
        ],
        routes: vec![
            Route {
                category: Some(Category::Security),
                events: vec![EventPattern::Prefix("b.".to_owned())],
                resource: Some(ResourceMatch { key: "region".to_owned(), value: "eu".to_owned() }),
                consent: None,
                target: RouteTarget::Table(1),
            },
            Route {
                category: None,
                events: vec![EventPattern::Name("b.failed".to_owned())],
                resource: None,
                consent: None,
                target: RouteTarget::Drop,
            },
        ],
        ..GateOptions::default()
    };
    Gate::new(Arc::new(registry), &key(), options).unwrap()
}

pub(crate) fn rich_map() -> DataMap {
    let table = |name: &str| MappedTable {
        name: name.to_owned(),
        warehouse: "file:///data".to_owned(),
        ..MappedTable::default()
    };
    DataMap::of(&rich_gate(), vec![table("product.events"), table("eu.events")])
}

#[test]
fn what_an_event_refines_is_in_force_there() {
    let map = rich_map();
    let level = |event: &str, key: &str| {
        map.uses().find(|(e, a)| e.name == event && a.key == key).unwrap().1.level.clone()
    };
    assert_eq!(
        (level("a.done", "a.text"), level("b.failed", "a.text")),
        ("internal".into(), "sensitive".into())
    );
    assert_eq!(
        (level("a.done", "a.kind"), level("b.failed", "a.kind")),
        ("public".into(), "internal".into())
    );
}

#[test]
fn each_treatment_names_the_rule_that_decided_it() {
    let map = rich_map();
    let of = |event: &str, key: &str| {
        let (_, one) = map.uses().find(|(e, a)| e.name == event && a.key == key).unwrap();
        let at = |destination| format!("{}: {}", one.treatments[&destination], one.rules[&destination]);
        let own = &one.tables["eu.events"];
        (at(Destination::Warehouse), at(Destination::Amplitude), format!("{}: {}", own.treatment, own.rule))
    };
    let texts = |one: &str, two: &str, three: &str| (one.to_owned(), two.to_owned(), three.to_owned());
    assert_eq!(
        of("a.done", "a.plain"),
        texts(
            "keep: default for internal in warehouse",
            "drop: privacy.policy.amplitude.internal",
            "keep: default for internal in warehouse"
        )
    );
    assert_eq!(
        of("a.done", "a.mail"),
        texts(
            "pseudonymise: privacy.policy.warehouse.personal",
            "drop: default for personal in amplitude",
            "drop: tables.policy.personal of eu.events"
        )
    );
    assert_eq!(of("a.done", "a.ip").0, "truncate_ip: treatment in schemas/");
    assert_eq!(of("a.done", "a.kind").2, "coarsen to 2: tables.policy.public of eu.events");
    assert_eq!(of("b.failed", "a.text").0, "drop: sensitive values are never stored");
    assert_eq!(map.tables[1].policy["public"], "coarsen to 2");
    assert!(map.tables[0].policy.is_empty());
    let plain = map.uses().find(|(_, one)| one.key == "a.plain").unwrap().1;
    assert_eq!((plain.trust.as_str(), plain.requirement.as_str()), ("server", "required"));
    let mail = map.uses().find(|(_, one)| one.key == "a.mail").unwrap().1;
    assert_eq!(mail.normalise, ["trim", "lowercase"]);
    assert_eq!(
        (mail.treatment_in("eu.events"), mail.treatment_in("product.events")),
        ("drop", "pseudonymise")
    );
}

#[test]
fn routes_are_in_the_map_and_the_map_is_read_back_as_it_was() {
    let map = rich_map();
    let [first, second] = map.routes.as_slice() else { panic!("{:?}", map.routes) };
    assert_eq!((first.table.as_deref(), second.table.as_deref()), (Some("eu.events"), None));
    assert_eq!((first.category.as_deref(), first.events[0].as_str()), (Some("security"), "b.*"));
    let json = serde_json::to_string(&map).unwrap();
    assert_eq!(serde_json::from_str::<DataMap>(&json).unwrap(), map);
}

#[test]
fn types_are_spelt_as_in_registry_files() {
    let map = map();
    let of = |key: &str| {
        let (_, one) = map.uses().find(|(e, a)| e.name == COMMITTED && a.key == key).unwrap();
        (one.ty.clone(), one.members.len(), one.leaks.as_deref())
    };
    assert_eq!(of("organisation.id"), ("int".to_owned(), 0, None));
    assert_eq!(of("segment.ids"), ("int[]".to_owned(), 0, None));
    assert_eq!(of("header"), ("template[string]".to_owned(), 0, Some("mask")));
    assert_eq!(of("request.status"), ("enum".to_owned(), 2, None));
    assert_eq!(of("change.payload"), ("any".to_owned(), 0, Some("mask")));
}

#[test]
fn the_json_names_destinations_and_treatments() {
    let json = serde_json::to_value(map()).unwrap();
    assert_eq!(json["format"], "esker-datamap-1");
    assert_eq!(json["levels"][2]["treatments"]["warehouse"], "pseudonymise");
    assert_eq!(json["events"][1]["attributes"][0]["treatments"]["amplitude"], "pseudonymise");
}

/// A registry and options in which everything about consent differs from what is assumed without a word.
pub(crate) fn consent_map() -> DataMap {
    use crate::privacy::{
        AmplitudeConsent, ConsentOptions, ConsentSource, SourceForm, WarehouseConsent, WarehouseRule,
    };
    let file = r#"
file_format: definition/2
attributes:
  - {key: user.id, type: string, stability: stable, brief: Who., annotations: {esker: {privacy: pseudonymous}}}
attribute_groups:
  - id: category.security
    visibility: public
    stability: stable
    brief: Access and abuse.
    annotations: {esker: {category: security, purposes: [safety]}}
events:
  - name: a.bought
    stability: stable
    brief: Bought.
    annotations: {esker: {category: product, purposes: [orders, marketing]}}
    attributes: [{ref: user.id}]
  - name: a.seen
    stability: stable
    brief: Seen.
    annotations: {esker: {category: product}}
    attributes: [{ref: user.id}]
  - name: c.left
    stability: stable
    brief: Left.
    annotations: {esker: {category: product, withdrawal: {subject: user.id}}}
    attributes: [{ref: user.id, requirement_level: required}]
  - name: c.returned
    stability: stable
    brief: Returned.
    annotations: {esker: {category: product, withdrawal: {subject: user.id, lifts: true}}}
    attributes: [{ref: user.id, requirement_level: required}]
  - name: d.failed
    stability: stable
    brief: Failed.
    annotations: {esker: {category: operational, purposes: []}}
    attributes: [{ref: user.id}]
  - name: e.refused
    stability: stable
    brief: Refused.
    annotations: {esker: {category: security}}
    attributes: [{ref: user.id}]
"#;
    let registry = Registry::from_files(&[("a.yaml".to_owned(), file.to_owned())]).unwrap();
    let mut consent = ConsentOptions {
        gpc_denies: vec!["marketing".to_owned()],
        aliases: [("C0002".to_owned(), "statistics".to_owned())].into(),
        amplitude: AmplitudeConsent { purpose: "orders".to_owned(), unknown: true, not_required: true },
        ..ConsentOptions::default()
    };
    let [product, operational, _] = &mut consent.purposes;
    *product = Some(vec!["statistics".to_owned()]);
    *operational = Some(vec!["care".to_owned()]);
    let [product, _, security] = &mut consent.warehouse;
    *product = WarehouseConsent { denied: WarehouseRule::Drop, unknown: WarehouseRule::StripIdentity };
    security.denied = WarehouseRule::Drop;
    for (key, form, purpose) in [
        ("opted.", SourceForm::PurposeBool, None),
        ("user.opted_in", SourceForm::PurposeBool, Some("statistics".to_owned())),
        ("ad_storage", SourceForm::Off, None),
    ] {
        consent.set_source(ConsentSource { key: key.to_owned(), form, purpose });
    }
    let options = GateOptions { consent, ..GateOptions::default() };
    let gate = Gate::new(Arc::new(registry), &key(), options).unwrap();
    DataMap::of(&gate, vec![MappedTable { name: "product.events".to_owned(), ..MappedTable::default() }])
}

#[test]
fn what_decides_about_consent_is_in_the_map() {
    let map = consent_map();
    let event = |name: &str| map.events.iter().find(|event| event.name == name).unwrap();
    let purposes = |name: &str| {
        let event = event(name);
        format!("{}: {}", event.purposes.clone().unwrap().join(" "), event.purposes_rule.clone().unwrap())
    };
    assert_eq!(purposes("a.bought"), "marketing orders: purposes in schemas/");
    assert_eq!(purposes("a.seen"), "statistics: consent.purposes.product");
    assert_eq!(purposes("c.left"), ": withdrawal in schemas/");
    assert_eq!(purposes("d.failed"), ": purposes in schemas/");
    assert_eq!(purposes("e.refused"), "safety: purposes of the category in schemas/");
    assert_eq!(
        event("c.returned").withdrawal,
        Some(MappedWithdrawal { subject: "user.id".to_owned(), lifts: true })
    );
    let consent = map.consent.clone().unwrap();
    assert!(consent.withdrawals);
    let json = serde_json::to_value(&map).unwrap();
    assert_eq!(json["consent"]["categories"][0]["denied"], "drop");
    assert_eq!(json["consent"]["categories"][0]["unknown"], "strip_identity");
    assert_eq!(json["consent"]["aliases"]["C0002"], "statistics");
    assert_eq!(json["consent"]["amplitude_purpose"], "orders");
    assert_eq!(serde_json::from_value::<DataMap>(json).unwrap(), map);
}

#[test]
fn a_map_of_an_earlier_version_is_read_and_says_nothing_of_consent() {
    let mut json = serde_json::to_value(rich_map()).unwrap();
    json.as_object_mut().unwrap().remove("consent");
    for event in json["events"].as_array_mut().unwrap() {
        for field in ["purposes", "purposes_rule", "withdrawal"] {
            event.as_object_mut().unwrap().remove(field);
        }
    }
    let old: DataMap = serde_json::from_value(json).unwrap();
    assert!(old.consent.is_none() && old.events.iter().all(|event| event.purposes.is_none()));
    assert!(old.restore(&key()).is_ok());
}
