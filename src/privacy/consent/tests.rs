//! Consent as senders say it: real shapes in, decisions out; and the rules that hold whatever is said.

use std::sync::LazyLock;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};

use super::*;
use crate::receive::decode::NameFallback;
use Decision::{Denied, Granted, NotRequired, Unknown};

const REGISTRY: &str = r"
file_format: definition/2
attributes:
  - {key: user.id, type: string, stability: stable, brief: The user., annotations: {esker: {privacy: pseudonymous}}}
events:
  - {name: shop.ads.clicked, stability: stable, brief: B., annotations: {esker: {category: product, purposes: [advertising]}}}
  - {name: shop.both.done, stability: stable, brief: B., annotations: {esker: {category: product, purposes: [analytics, advertising]}}}
  - {name: shop.free.done, stability: stable, brief: B., annotations: {esker: {category: product, purposes: []}}}
  - {name: shop.job.failed, stability: stable, brief: B., annotations: {esker: {category: operational}}}
  - {name: shop.order.placed, stability: stable, brief: B., annotations: {esker: {category: product}}}
  - {name: shop.user.withdrew, stability: stable, brief: B., attributes: [{ref: user.id, requirement_level: required}], annotations: {esker: {category: product, withdrawal: {subject: user.id}}}}
";

fn registry() -> &'static Registry {
    static LOADED: LazyLock<Registry> =
        LazyLock::new(|| Registry::from_files(&[("test.yaml".to_owned(), REGISTRY.to_owned())]).unwrap());
    &LOADED
}

fn number(event: &str) -> u32 {
    registry().events().iter().position(|known| known.name == event).unwrap() as u32
}

fn policy() -> ConsentPolicy {
    let mut options = ConsentOptions::default();
    for (alias, purpose) in
        [("C0002", "analytics"), ("Marketing and Ads", "advertising"), ("C0009", "nobodys")]
    {
        options.aliases.insert(alias.to_owned(), purpose.to_owned());
    }
    ConsentPolicy::new(&options, registry()).unwrap()
}

/// JSON as OTLP's own values: an array is an array, an object a list of pairs, text is text.
fn otlp(value: &Value) -> AnyValue {
    let value = match value {
        Value::Null => None,
        Value::Bool(flag) => Some(any_value::Value::BoolValue(*flag)),
        Value::Number(number) => Some(match number.as_i64() {
            Some(int) => any_value::Value::IntValue(int),
            None => any_value::Value::DoubleValue(number.as_f64().unwrap()),
        }),
        Value::String(text) => Some(any_value::Value::StringValue(text.clone())),
        Value::Array(elements) => {
            Some(any_value::Value::ArrayValue(ArrayValue { values: elements.iter().map(otlp).collect() }))
        }
        Value::Object(entries) => Some(any_value::Value::KvlistValue(KeyValueList {
            values: entries.iter().map(|(key, value)| pair(key, value)).collect(),
        })),
    };
    AnyValue { value }
}

fn pair(key: &str, value: &Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(otlp(value)), ..Default::default() }
}

type Attributes<'a> = &'a [(&'a str, Value)];

/// What a request of one record reads as, on the way that the gate takes.
fn read(policy: &ConsentPolicy, resource: Attributes<'_>, record: Attributes<'_>) -> Reading {
    let pairs = |attributes: Attributes<'_>| attributes.iter().map(|(key, value)| pair(key, value)).collect();
    let record = LogRecord { attributes: pairs(record), ..Default::default() };
    let request = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(Resource { attributes: pairs(resource), ..Default::default() }),
            scope_logs: vec![ScopeLogs { log_records: vec![record], ..Default::default() }],
            ..Default::default()
        }],
    }
    .encode_to_vec();
    let raw = RawEvents::decode(&request, &NameFallback::default()).unwrap();
    let mut reading = policy.resource(&raw, &raw.resources[0]);
    for attribute in raw.attributes(&raw.records()[0].attributes) {
        if let Some(role) = policy.role(attribute.key) {
            reading.see(policy, role, attribute.key, attribute.value, true);
        }
    }
    reading
}

fn decide(
    policy: &ConsentPolicy,
    event: &str,
    resource: Attributes<'_>,
    record: Attributes<'_>,
) -> (Decision, String) {
    let (decision, basis) = policy.decide(&read(policy, resource, record), number(event));
    (decision, policy.bases()[usize::from(basis)].clone())
}

/// The decision about an event that needs analytics, and about one that needs advertising.
fn decisions(record: Attributes<'_>) -> (Decision, Decision) {
    let policy = policy();
    let reading = read(&policy, &[], record);
    let of = |event| policy.decide(&reading, number(event)).0;
    (of("shop.order.placed"), of("shop.ads.clicked"))
}

#[test]
fn each_form_is_read_as_its_senders_write_it() {
    let cases: Vec<(&str, Value, Decision, Decision)> = vec![
        // Lists, in the three ways that a list can be sent.
        ("consent.granted", json!(["analytics"]), Granted, Denied),
        ("consent.granted", json!(["Analytics", "Marketing and Ads"]), Granted, Granted),
        ("consent.granted", json!("[\"analytics\", \"advertising\"]"), Granted, Granted),
        ("consent.granted", json!(" analytics , C0005,"), Granted, Denied),
        ("consent.granted", json!("c0002"), Granted, Denied),
        ("consent.granted", json!(["support", "C0009"]), Denied, Denied),
        ("consent.granted", json!([]), Denied, Denied),
        ("consent.granted", json!(""), Denied, Denied),
        ("consent.denied", json!(["analytics"]), Denied, Unknown),
        ("consent.denied", json!("[\"C0002\"]"), Denied, Unknown),
        ("consent.denied", json!("analytics,advertising"), Denied, Denied),
        ("consent.denied", json!([]), Unknown, Unknown),
        ("consent.granted", json!({"C0002": "Performance"}), Granted, Denied),
        ("consent.granted", json!({"analytics": "false"}), Denied, Denied),
        ("consent.granted", json!({"analytics": true}), Denied, Denied),
        ("consent.granted", json!(["analytics", null]), Granted, Denied),
        ("consent.granted", json!([null]), Denied, Denied),
        // Maps and single purposes.
        ("consent.categories", json!({"analytics": true, "advertising": false}), Granted, Denied),
        ("consent.categories", json!("{\"analytics\": true}"), Granted, Denied),
        ("consent.categories", json!({"analytics": "granted", "advertising": "denied"}), Granted, Denied),
        ("consent.categories", json!({"analytics": 1, "advertising": "0"}), Granted, Denied),
        ("consent.categories", json!({}), Denied, Denied),
        ("consent.categories", json!("{}"), Denied, Denied),
        ("consent.categories", json!({"support": true}), Denied, Denied),
        ("consent.categories", json!({"analytics": null, "advertising": true}), Denied, Granted),
        ("consent.categories.analytics", json!(true), Granted, Unknown),
        ("consent.categories.Analytics", json!("True"), Granted, Unknown),
        ("consent.categories.analytics", json!(false), Denied, Unknown),
        ("consent.categories.C0002", json!("denied"), Denied, Unknown),
        ("consent.categories.support", json!(false), Unknown, Unknown),
        ("consent.categories.", json!(false), Unknown, Unknown),
        // A state of everything.
        ("consent.status", json!("granted"), Granted, Granted),
        ("consent.status", json!("GRANTED"), Granted, Granted),
        ("consent.status", json!("denied"), Denied, Denied),
        ("consent.status", json!("withdrawn"), Denied, Denied),
        ("consent.status", json!("expired"), Denied, Denied),
        ("consent.status", json!("pending"), Unknown, Unknown),
        ("consent.status", json!("unknown"), Unknown, Unknown),
        // Global Privacy Control: absence and false are no preference.
        ("consent.gpc", json!(true), Unknown, Denied),
        ("consent.gpc", json!("1"), Unknown, Denied),
        ("consent.gpc", json!(1), Unknown, Denied),
        ("consent.gpc", json!(false), Unknown, Unknown),
        ("http.request.header.sec-gpc", json!(["1"]), Unknown, Denied),
        ("global_privacy_control_opt_out", json!("true"), Unknown, Denied),
        // Google's consent mode.
        ("analytics_storage", json!("granted"), Granted, Unknown),
        ("analytics_storage", json!("denied"), Denied, Unknown),
        ("ad_storage", json!("granted"), Unknown, Granted),
        ("ad_user_data", json!("denied"), Unknown, Denied),
        ("ad_personalization", json!("denied"), Unknown, Denied),
        ("security_storage", json!("granted"), Unknown, Unknown),
        // RudderStack, whole and flattened.
        (
            "context.consentManagement",
            json!({"allowedConsentIds": ["C0002"], "deniedConsentIds": ["Marketing and Ads"],
                   "provider": "oneTrust", "resolutionStrategy": "and"}),
            Granted,
            Denied,
        ),
        (
            "context.consentManagement",
            json!(r#"{"allowedConsentIds":[],"deniedConsentIds":["C0002"],"provider":"ketch"}"#),
            Denied,
            Denied,
        ),
        (
            "consentManagement",
            json!({"allowedConsentIds": {"C0002": "Performance"}, "deniedConsentIds": {"Marketing and Ads": "Ads"}}),
            Granted,
            Denied,
        ),
        ("consentManagement", json!({"allowedConsentIds": ["C0001"]}), Denied, Denied),
        ("consentManagement", json!({"allowedConsentIds": null}), Denied, Denied),
        ("consentManagement.allowedConsentIds", json!(r#"{"C0002": "Performance"}"#), Granted, Denied),
        ("consentManagement.deniedConsentIds", json!({"C0002": "Performance"}), Denied, Unknown),
        ("context.consentManagement.allowedConsentIds", json!(["C0001"]), Denied, Denied),
        ("context.consentManagement", json!({"deniedConsentIds": ["C0002"]}), Denied, Unknown),
        ("context.consentManagement", json!({"provider": "custom"}), Denied, Denied),
        ("context.consentManagement.allowedConsentIds", json!(["C0002"]), Granted, Denied),
        ("context.consentManagement.deniedConsentIds", json!("[\"C0002\"]"), Denied, Unknown),
        // Segment.
        (
            "context.consent",
            json!({"categoryPreferences": {"Advertising": true, "Analytics": false}}),
            Denied,
            Granted,
        ),
        ("context.consent", json!(r#"{"categoryPreferences":{"Analytics":true}}"#), Granted, Denied),
        ("context.consent", json!({"categoryPreferences": {}}), Denied, Denied),
        ("context.consent", json!({}), Denied, Denied),
        ("context.consent", json!({"categoryPreferences": {"Marketing": true}}), Denied, Denied),
        ("context.consent", json!({"categoryPreferences": null}), Denied, Denied),
        (
            "context.consent.categoryPreferences",
            json!({"Analytics": true, "Functional": true}),
            Granted,
            Denied,
        ),
        ("context.consent.categoryPreferences", json!("{\"Advertising\":false}"), Denied, Denied),
        ("context.consent.categoryPreferences.Analytics", json!(true), Granted, Unknown),
        // Snowplow.
        (
            "consent_preferences",
            json!({"eventType": "allow_all", "basisForProcessing": "consent"}),
            Granted,
            Granted,
        ),
        (
            "consent_preferences",
            json!({"eventType": "allow_selected", "consentScopes": ["analytics"]}),
            Granted,
            Denied,
        ),
        ("consent_preferences", json!({"eventType": "allow_selected"}), Denied, Denied),
        ("consent_preferences", json!({"consentScopes": ["analytics"]}), Denied, Denied),
        ("consent_preferences", json!(r#"{"eventType":"deny_all"}"#), Denied, Denied),
        ("consent_preferences.eventType", json!("deny_all"), Denied, Denied),
        ("consent_preferences.event_type", json!("withdrawn"), Denied, Denied),
        ("consent_preferences.eventType", json!("expired"), Denied, Denied),
        ("consent_preferences.eventType", json!("pending"), Unknown, Unknown),
        ("consent_preferences.eventType", json!("implicit_consent"), Unknown, Unknown),
        ("consent_preferences.eventType", json!("allow_selected"), Denied, Denied),
        ("consent_preferences.consentScopes", json!(["analytics"]), Unknown, Unknown),
        // Nothing of ours.
        ("consent", json!("granted"), Unknown, Unknown),
        ("consent.version", json!("granted"), Unknown, Unknown),
        ("my.consent.granted", json!(["analytics"]), Unknown, Unknown),
    ];
    for (key, value, analytics, advertising) in cases {
        assert_eq!(decisions(&[(key, value.clone())]), (analytics, advertising), "{key} = {value}");
    }
}

#[test]
fn what_cannot_be_read_denies_what_it_could_have_granted() {
    let broken =
        [json!(0.5), json!(7), json!("[\"analytics\""), json!({"analytics": {"x": 1}}), json!([[1]])];
    for value in &broken {
        for key in [
            "consent.granted",
            "consent.denied",
            "consent.status",
            "context.consentManagement",
            "context.consent",
        ] {
            assert_eq!(decisions(&[(key, value.clone())]), (Denied, Denied), "{key} = {value}");
        }
        for key in ["consent.categories.analytics", "analytics_storage"] {
            assert_eq!(decisions(&[(key, value.clone())]), (Denied, Unknown), "{key} = {value}");
        }
        assert_eq!(decisions(&[("consent.gpc", value.clone())]), (Unknown, Denied), "gpc = {value}");
    }
    for value in [json!("analytics"), json!(true), json!(["analytics"]), json!("{\"analytics\": tru}")] {
        assert_eq!(decisions(&[("consent.categories", value.clone())]), (Denied, Denied), "{value}");
    }
    assert_eq!(decisions(&[("consent.categories", json!({"analytics": "maybe"}))]), (Denied, Denied));
    assert_eq!(decisions(&[("consent.granted", json!(["analytics", 7]))]), (Denied, Denied));
    assert_eq!(decisions(&[("consent_preferences.eventType", json!("allow_most"))]), (Denied, Denied));
    let duplicate = json!(r#"{"analytics": false, "analytics": true}"#);
    assert_eq!(
        decisions(&[("consent.categories", duplicate)]),
        (Denied, Denied),
        "both of equal keys are read"
    );
}

#[test]
fn no_value_says_nothing_under_any_key() {
    let policy = policy();
    for key in
        policy.keys().map(|key| std::str::from_utf8(key).unwrap()).chain(["consent.categories.analytics"])
    {
        for value in [json!(null), json!("null"), json!(" null ")] {
            assert_eq!(decisions(&[(key, value.clone())]), (Unknown, Unknown), "{key} = {value}");
            let granted = [(key, value), ("analytics_storage", json!("granted"))];
            assert_eq!(decisions(&granted).0, Granted, "{key}");
        }
    }
    assert_eq!(decisions(&[("http.request.header.sec-gpc", json!([null]))]), (Unknown, Unknown));
}

#[test]
fn what_a_list_of_grants_leaves_out_is_denied_unless_granted_elsewhere() {
    let policy = policy();
    let of = |event: &str, record: Attributes<'_>| decide(&policy, event, &[], record);
    let is = |decision, basis: &str| (decision, basis.to_owned());
    let marketing = ("consent.granted", json!(["marketing"]));
    let (granted, denied) = (("analytics_storage", json!("granted")), ("analytics_storage", json!("denied")));
    let pending = ("consent.status", json!("pending"));
    let order = "shop.order.placed";
    assert_eq!(of(order, std::slice::from_ref(&marketing)), is(Denied, "record:consent.granted"));
    assert_eq!(of(order, &[pending, marketing.clone()]), is(Denied, "record:consent.granted"));
    assert_eq!(of(order, &[marketing.clone(), granted.clone()]), is(Granted, "record:analytics_storage"));
    assert_eq!(of(order, &[granted.clone(), marketing.clone()]), is(Granted, "record:analytics_storage"));
    assert_eq!(of(order, &[marketing.clone(), denied]), is(Denied, "record:analytics_storage"));
    // Two lists leave out one purpose each: both are granted.
    let analytics = ("context.consent", json!({"categoryPreferences": {"Analytics": true}}));
    let advertising = ("consent.granted", json!(["advertising"]));
    assert_eq!(of("shop.both.done", &[analytics.clone(), advertising]), is(Granted, "several"));
    assert_eq!(of("shop.both.done", &[analytics, marketing.clone()]), is(Denied, "record:context.consent"));
    // Of an event's two purposes one is granted elsewhere, and the other by nobody.
    assert_eq!(of("shop.both.done", &[marketing, granted]), is(Denied, "record:consent.granted"));
}

#[test]
fn snowplows_scopes_grant_nothing_without_their_event_type() {
    let scopes = ("consent_preferences.consentScopes", json!(["analytics"]));
    for (event_type, decision) in [
        ("implicit_consent", Unknown),
        ("pending", Unknown),
        ("allow_selected", Denied),
        ("withdrawn", Denied),
        ("allow_all", Granted),
    ] {
        let flattened = [("consent_preferences.eventType", json!(event_type)), scopes.clone()];
        assert_eq!(decisions(&flattened).0, decision, "{event_type}");
    }
}

#[test]
fn deny_beats_allow_wherever_either_stands() {
    let (granted, denied) =
        (("consent.granted", json!(["analytics"])), ("analytics_storage", json!("denied")));
    let policy = policy();
    let order = |resource: Attributes<'_>, record: Attributes<'_>| {
        decide(&policy, "shop.order.placed", resource, record)
    };
    let pair = |basis: &str| (Denied, basis.to_owned());
    let (grants, denies) = (std::slice::from_ref(&granted), std::slice::from_ref(&denied));
    assert_eq!(order(grants, denies), pair("record:analytics_storage"));
    assert_eq!(order(denies, grants), pair("resource:analytics_storage"));
    assert_eq!(order(&[], &[granted.clone(), denied.clone()]), pair("record:analytics_storage"));
    assert_eq!(order(&[], &[denied.clone(), granted.clone()]), pair("record:analytics_storage"));
    let twice = [("consent.status", json!("granted")), ("consent.status", json!("denied"))];
    assert_eq!(order(&[], &twice), pair("record:consent.status"));
}

#[test]
fn the_basis_names_what_decided() {
    let policy = policy();
    let of = |event: &str, resource: Attributes<'_>, record: Attributes<'_>| {
        decide(&policy, event, resource, record)
    };
    let is = |decision, basis: &str| (decision, basis.to_owned());
    let order = "shop.order.placed";
    assert_eq!(of(order, &[], &[]), is(Unknown, "none"));
    let granted = [("consent.granted", json!(["analytics"]))];
    assert_eq!(of(order, &[], &granted), is(Granted, "record:consent.granted"));
    assert_eq!(of(order, &granted, &[]), is(Granted, "resource:consent.granted"));
    let single = [("consent.categories.Analytics", json!(true))];
    assert_eq!(of(order, &[], &single), is(Granted, "record:consent.categories.*"));
    let pending = [("consent.status", json!("pending"))];
    assert_eq!(of(order, &pending, &[]), is(Unknown, "resource:consent.status"));
    assert_eq!(of(order, &pending, &granted), is(Granted, "record:consent.granted"));
    // A denial of another purpose did not decide.
    let other = [("ad_storage", json!("denied")), ("consent.denied", json!(["analytics"]))];
    assert_eq!(of(order, &[], &other), is(Denied, "record:consent.denied"));
    // Two purposes, each from another attribute.
    let both = "shop.both.done";
    assert_eq!(of(both, &granted, &[]), is(Denied, "resource:consent.granted"));
    assert_eq!(of(both, &single, &[]), is(Unknown, "none"));
    assert_eq!(of(both, &granted, &[("ad_storage", json!("granted"))]), is(Granted, "several"));
    assert_eq!(of(both, &granted, &[("consent.gpc", json!(true))]), is(Denied, "record:consent.gpc"));
    // No consent needed, whatever is said.
    let denied = [("consent.status", json!("denied"))];
    assert_eq!(of("shop.free.done", &[], &denied), is(NotRequired, "registry"));
    assert_eq!(of("shop.job.failed", &[], &denied), is(NotRequired, "configuration"));
    assert_eq!(of("shop.user.withdrew", &[], &denied), is(NotRequired, "registry"));
    assert_eq!(policy.decide(&Reading::default(), 99), (Unknown, ConsentPolicy::NONE));
}

#[test]
fn more_sources_than_are_told_apart_still_decide_rightly() {
    let mut options = ConsentOptions::default();
    let purposes: Vec<String> = ('a'..='h').map(String::from).collect();
    options.purposes[0] = Some(purposes.clone());
    let policy = ConsentPolicy::new(&options, registry()).unwrap();
    let mut said: Vec<_> =
        purposes.iter().map(|purpose| (format!("consent.categories.{purpose}"), json!(true))).collect();
    let attributes = |said: &[(String, Value)]| -> (Decision, String) {
        let said: Vec<_> = said.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        decide(&policy, "shop.order.placed", &[], &said)
    };
    assert_eq!(attributes(&said), (Granted, "several".to_owned()));
    assert_eq!(attributes(&said[1..]).0, Unknown);
    said[7].1 = json!(false);
    assert_eq!(attributes(&said), (Denied, "record:consent.categories.*".to_owned()));
}

#[test]
fn withdrawal_stops_everything_but_withdrawals() {
    let policy = policy();
    for event in ["shop.order.placed", "shop.free.done", "shop.job.failed"] {
        assert_eq!(policy.decide_withdrawn(number(event)), (Denied, ConsentPolicy::WITHDRAWAL), "{event}");
    }
    assert_eq!(policy.decide_withdrawn(number("shop.user.withdrew")), (NotRequired, ConsentPolicy::REGISTRY));
    assert_eq!(policy.bases()[usize::from(ConsentPolicy::WITHDRAWAL)], "withdrawal");
}

#[test]
fn sources_can_be_replaced_added_and_taken_away() {
    let mut options = ConsentOptions::default();
    let source = |key: &str, form, purpose: Option<&str>| ConsentSource {
        key: key.to_owned(),
        form,
        purpose: purpose.map(str::to_owned),
    };
    options.set_source(source("consent.status", SourceForm::Status, Some("analytics")));
    options.set_source(source("ad_storage", SourceForm::Off, None));
    options.set_source(source("user.opted_in", SourceForm::PurposeBool, Some("analytics")));
    options.set_source(source("dnt", SourceForm::Gpc, Some("analytics")));
    options.set_source(source("privacy.", SourceForm::PurposeBool, None));
    let policy = ConsentPolicy::new(&options, registry()).unwrap();
    let of = |key, value| {
        let reading = read(&policy, &[], &[(key, value)]);
        let of = |event| policy.decide(&reading, number(event)).0;
        (of("shop.order.placed"), of("shop.ads.clicked"))
    };
    assert_eq!(of("consent.status", json!("denied")), (Denied, Unknown));
    assert_eq!(of("consent.status", json!(7)), (Denied, Unknown));
    assert_eq!(of("ad_storage", json!("denied")), (Unknown, Unknown));
    assert_eq!(of("user.opted_in", json!(true)), (Granted, Unknown));
    assert_eq!(of("dnt", json!(true)), (Denied, Unknown));
    assert_eq!(of("privacy.advertising", json!(false)), (Unknown, Denied));
    assert_eq!(policy.role(b"ad_storage"), None);
}

#[test]
fn keys_without_a_meaning_have_no_role() {
    let policy = policy();
    for key in ["", "c", "consent", "consent.categorie", "organisation.id", "context.consent.x", "é"] {
        assert_eq!(policy.role(key.as_bytes()), None, "{key}");
        assert_eq!(policy.prefix_role(key.as_bytes()), None, "{key}");
    }
    assert!(policy.prefix_role(b"consent.granted").is_none(), "a whole key is not known by its start");
    assert!(policy.prefix_role(b"consent.categories.x").is_some());
    for key in policy.keys() {
        assert!(policy.role(key).is_some());
    }
}

#[test]
fn the_warehouse_follows_category_and_decision() {
    use WarehouseRule::{Drop, Store, StripIdentity};
    let policy = policy();
    for category in Category::ALL {
        assert_eq!(policy.warehouse(category, Granted), Store);
        assert_eq!(policy.warehouse(category, NotRequired), Store);
        assert_eq!(policy.warehouse(category, Unknown), Store);
    }
    let denied = Category::ALL.map(|category| policy.warehouse(category, Denied));
    assert_eq!(denied, [StripIdentity, Store, Store]);
    assert!(Store < StripIdentity && StripIdentity < Drop);
    let mut options = ConsentOptions::default();
    options.warehouse[2] = WarehouseConsent { denied: Drop, unknown: StripIdentity };
    let policy = ConsentPolicy::new(&options, registry()).unwrap();
    assert_eq!(policy.warehouse(Category::Security, Unknown), StripIdentity);
    assert_eq!(policy.warehouse(Category::Security, Denied), Drop);
}

#[test]
fn amplitude_gets_only_what_has_consent_to_its_purpose() {
    let closed = policy();
    let (order, ads, free) =
        (number("shop.order.placed"), number("shop.ads.clicked"), number("shop.free.done"));
    assert!(closed.allows_amplitude(order, Granted));
    assert!(!closed.allows_amplitude(ads, Granted), "consent to advertising is none to analytics");
    for decision in [Denied, Unknown, NotRequired] {
        assert!(!closed.allows_amplitude(order, decision) && !closed.allows_amplitude(free, decision));
    }
    assert!(!closed.allows_amplitude(99, Granted));
    let withdrew = number("shop.user.withdrew");
    let mut options = ConsentOptions::default();
    (options.amplitude.unknown, options.amplitude.not_required) = (true, true);
    let open = ConsentPolicy::new(&options, registry()).unwrap();
    assert!(open.allows_amplitude(order, Unknown) && open.allows_amplitude(free, NotRequired));
    for decision in [Granted, Denied, Unknown, NotRequired] {
        assert!(!open.allows_amplitude(withdrew, decision), "a withdrawal is not Amplitude's business");
    }
    assert!(open.allows_amplitude(ads, Granted), "nothing is known of analytics, and that may go");
    assert!(!open.allows_amplitude(order, Denied), "a refusal is never overruled");
}

#[test]
fn an_events_purposes_are_its_own_or_its_categorys() {
    let policy = policy();
    assert_eq!(policy.purposes(number("shop.order.placed")), ["analytics"]);
    assert_eq!(policy.purposes(number("shop.both.done")), ["advertising", "analytics"]);
    assert!(policy.purposes(number("shop.free.done")).is_empty());
    assert!(policy.purposes(number("shop.job.failed")).is_empty());
}

#[test]
fn options_that_cannot_be_are_refused() {
    let error = |options: &ConsentOptions| ConsentPolicy::new(options, registry()).unwrap_err();
    let mut many = ConsentOptions::default();
    many.purposes[0] = Some((0..PURPOSES_MAX).map(|number| format!("p{number}")).collect());
    // With analytics, for Amplitude, and advertising, of the registry.
    assert_eq!(error(&many), ConsentError::Purposes { count: PURPOSES_MAX + 2 });
    let mut ambiguous = ConsentOptions::default();
    ambiguous.aliases.insert("Analytics".to_owned(), "advertising".to_owned());
    assert!(error(&ambiguous).to_string().contains("`Analytics`"));
    let mut same = ConsentOptions::default();
    same.aliases.insert("Analytics".to_owned(), "analytics".to_owned());
    assert!(ConsentPolicy::new(&same, registry()).is_ok());
    let mut sources = ConsentOptions::default();
    for number in 0..SOURCES_MAX {
        let key = format!("source.{number}");
        sources.set_source(ConsentSource { key, form: SourceForm::Status, purpose: None });
    }
    assert!(matches!(error(&sources), ConsentError::Sources { .. }));
}

#[test]
fn the_last_of_64_purposes_counts_like_the_first() {
    let mut options = ConsentOptions::default();
    let purposes: Vec<_> = (2..PURPOSES_MAX).map(|number| format!("p{number}")).collect();
    options.purposes[0] = Some(purposes.clone());
    let policy = ConsentPolicy::new(&options, registry()).unwrap();
    let all = purposes.join(",");
    let order = "shop.order.placed";
    assert_eq!(decide(&policy, order, &[], &[("consent.granted", json!(all))]).0, Granted);
    let but_last = all.replace("p9,", "");
    assert_eq!(decide(&policy, order, &[], &[("consent.granted", json!(but_last))]).0, Denied);
    assert_eq!(decide(&policy, order, &[], &[("consent.denied", json!("p9"))]).0, Denied);
}

#[test]
fn decisions_are_read_and_written_by_the_same_names() {
    for decision in [Granted, Denied, Unknown, NotRequired] {
        assert_eq!(serde_json::from_value::<Decision>(json!(decision.as_str())).unwrap(), decision);
    }
    for rule in [WarehouseRule::Store, WarehouseRule::StripIdentity, WarehouseRule::Drop] {
        assert_eq!(serde_json::from_value::<WarehouseRule>(json!(rule.as_str())).unwrap(), rule);
    }
}

/// Attributes that can say anything at all, good and broken.
fn attribute() -> impl Strategy<Value = (&'static str, Value)> {
    let keys = [
        "consent.granted",
        "consent.denied",
        "consent.categories",
        "consent.categories.analytics",
        "consent.categories.advertising",
        "consent.status",
        "consent.gpc",
        "analytics_storage",
        "ad_storage",
        "context.consentManagement",
        "context.consentManagement.allowedConsentIds",
        "context.consent",
        "context.consent.categoryPreferences.Analytics",
        "consent_preferences",
        "consent_preferences.eventType",
        "organisation.id",
    ];
    let values = [
        json!(null),
        json!("null"),
        json!(true),
        json!(false),
        json!("granted"),
        json!("denied"),
        json!("pending"),
        json!("allow_all"),
        json!("analytics"),
        json!("analytics,advertising"),
        json!(["analytics"]),
        json!(["advertising", "C0002"]),
        json!([]),
        json!({"analytics": true}),
        json!({"analytics": false, "advertising": true}),
        json!({"allowedConsentIds": ["analytics", "advertising"]}),
        json!({"categoryPreferences": {"Analytics": true, "Advertising": true}}),
        json!({"eventType": "allow_selected", "consentScopes": ["analytics"]}),
        json!("[\"analytics\"]"),
        json!("{\"analytics\": true"),
    ];
    (prop::sample::select(keys.to_vec()), prop::sample::select(values.to_vec()))
}

fn denial() -> impl Strategy<Value = (&'static str, Value)> {
    prop::sample::select(vec![
        ("consent.denied", json!(["analytics", "advertising"])),
        ("consent.status", json!("denied")),
        ("consent.status", json!("withdrawn")),
        ("consent.categories", json!({"analytics": false, "advertising": false})),
        ("consent.granted", json!([])),
        ("context.consent", json!({"categoryPreferences": {}})),
        ("consent_preferences.eventType", json!("deny_all")),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is said, in whichever order and place: one denial of all decides, and more attributes never undo a refusal,
    /// nor make a decision unknown. Only what lists left out can be granted by one more.
    #[test]
    fn a_denial_is_final(
        resource in prop::collection::vec(attribute(), 0..4),
        record in prop::collection::vec(attribute(), 0..6),
        denial in denial(),
        place in any::<prop::sample::Index>(),
        in_record in any::<bool>(),
        more in attribute(),
    ) {
        let policy = policy();
        let decisions = |resource: Attributes<'_>, record: Attributes<'_>| {
            let reading = read(&policy, resource, record);
            ["shop.order.placed", "shop.ads.clicked", "shop.both.done"].map(|event| policy.decide(&reading, number(event)).0)
        };
        let reading = read(&policy, &resource, &record);
        let refused = ["shop.order.placed", "shop.ads.clicked", "shop.both.done"]
            .map(|event| reading.denial(policy.events[number(event) as usize].purposes).is_some());
        let before = decisions(&resource, &record);
        let (mut more_resource, mut more_record) = (resource.clone(), record.clone());
        let target = if in_record { &mut more_record } else { &mut more_resource };
        target.insert(place.index(target.len() + 1), more);
        for ((before, refused), after) in before.into_iter().zip(refused).zip(decisions(&more_resource, &more_record)) {
            prop_assert!(!refused || (before, after) == (Denied, Denied), "{before:?} became {after:?}");
            prop_assert!(before == Unknown || after != Unknown, "{before:?} became unknown");
        }
        let target = if in_record { &mut more_record } else { &mut more_resource };
        target.insert(place.index(target.len() + 1), denial);
        prop_assert_eq!(decisions(&more_resource, &more_record), [Denied; 3]);
        // An event that needs two purposes is granted only where both are.
        if before[2] == Granted {
            prop_assert_eq!((before[0], before[1]), (Granted, Granted));
        }
    }

    /// Nothing that can be sent makes reading panic, and an attribute of no meaning changes nothing.
    #[test]
    fn any_bytes_are_read(key in prop::collection::vec(any::<u8>(), 0..30), value in prop::collection::vec(any::<u8>(), 0..60)) {
        use crate::receive::decode::RawValue;
        let policy = policy();
        for value in [RawValue::Str(&value), RawValue::Bytes(&value), RawValue::Array(&value), RawValue::KvList(&value)] {
            let mut reading = Reading::default();
            if let Some(role) = policy.role(&key) {
                reading.see(&policy, role, &key, value, true);
            }
            for known in policy.keys() {
                if let Some(role) = policy.role(known) {
                    reading.see(&policy, role, known, value, true);
                }
            }
            prop_assert_eq!(policy.decide(&reading, number("shop.order.placed")).0, Denied);
        }
    }
}

/// The registry's events, with what a group says of product events.
fn registry_with_category(purposes: &str) -> Registry {
    let file = format!(
        "file_format: definition/2\nattribute_groups:\n  - {{id: category.product, visibility: public, stability: stable, brief: For., \
         annotations: {{esker: {{category: product, purposes: {purposes}}}}}}}\nevents:\n{}{}{}",
        "  - {name: a.own, stability: stable, brief: x, annotations: {esker: {category: product, purposes: [own]}}}\n",
        "  - {name: b.plain, stability: stable, brief: x, annotations: {esker: {category: product}}}\n",
        "  - {name: c.job, stability: stable, brief: x, annotations: {esker: {category: operational}}}\n",
    );
    Registry::from_files(&[("a.yaml".to_owned(), file)]).unwrap()
}

#[test]
fn an_event_beats_its_category_in_the_registry_and_that_beats_the_configuration() {
    let registry = registry_with_category("[care]");
    let purposes = |options: &ConsentOptions| {
        let policy = ConsentPolicy::new(options, &registry).unwrap();
        [0, 1, 2].map(|event| policy.purposes(event).join(" "))
    };
    assert_eq!(purposes(&ConsentOptions::default()), ["own", "care", ""]);
    let mut options = ConsentOptions::default();
    options.purposes[1] = Some(vec!["telemetry".to_owned()]);
    assert_eq!(purposes(&options), ["own", "care", "telemetry"]);
    options.purposes[0] = Some(vec!["care".to_owned(), "care".to_owned()]);
    assert_eq!(purposes(&options), ["own", "care", "telemetry"], "both say the same");
    options.purposes[0] = Some(vec!["analytics".to_owned()]);
    let error = ConsentPolicy::new(&options, &registry).unwrap_err().to_string();
    assert!(
        error.contains("[care] in schemas/") && error.contains("[analytics] in consent.purposes.product"),
        "{error}"
    );
}

#[test]
fn a_category_that_needs_no_consent_by_the_registry_says_so_in_its_basis() {
    let registry = registry_with_category("[]");
    let policy = ConsentPolicy::new(&ConsentOptions::default(), &registry).unwrap();
    let basis = |event| policy.decide(&Reading::default(), event);
    assert_eq!(basis(1), (NotRequired, ConsentPolicy::REGISTRY));
    assert_eq!(basis(2), (NotRequired, ConsentPolicy::CONFIGURATION));
}
