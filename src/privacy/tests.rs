//! The gate as a whole: what is stored, what is not, and that every record and attribute is counted once.

pub(crate) mod fixture;
mod golden;

use proptest::prelude::*;

use super::*;
use crate::registry::{AttributeType, Primitive, PrivacyLevel};
use AttributeOutcome as A;
use fixture::{COMMITTED, NOW, Request, Sent, Value, clear_with, gate, key, otlp, registry_of};

/// What one attribute of a declared event becomes: its outcome, and the stored value as text.
fn treated(key: &str, value: impl Into<Value>) -> (AttributeOutcome, Option<String>) {
    treated_with(&gate(), key, value)
}

fn treated_with(gate: &Gate, key: &str, value: impl Into<Value>) -> (AttributeOutcome, Option<String>) {
    clear_with(gate, vec![Sent::named(COMMITTED).with(key, value)], |cleared| {
        let outcome = AttributeOutcome::ALL.into_iter().find(|o| cleared.tally().attributes(*o) > 0).unwrap();
        let shown = cleared.values(&cleared.events()[0]).first().map(|(_, value)| match value {
            ClearedValue::Int(int) => format!("int {int}"),
            ClearedValue::Double(double) => format!("double {double:?}"),
            ClearedValue::Bool(flag) => format!("bool {flag}"),
            text => cleared.text(text).unwrap().to_owned(),
        });
        (outcome, shown)
    })
}

fn kept(text: &str) -> (AttributeOutcome, Option<String>) {
    (A::Kept, Some(text.to_owned()))
}

#[test]
fn text_is_read_as_the_first_user_sends_it() {
    assert_eq!(treated("title", "plain"), kept("plain"));
    assert_eq!(treated("title", ""), kept(""));
    assert_eq!(treated("title", "\"7d4a7b1c-uuid\""), kept("7d4a7b1c-uuid"));
    assert_eq!(treated("title", r#""a \"b\" \u00e9""#), kept("a \"b\" é"));
    assert_eq!(treated("title", "\"broken\\\""), kept("\"broken\\\""));
    assert_eq!(treated("title", "\""), kept("\""));
    assert_eq!(treated("title", "\"\""), kept(""));
    assert_eq!(treated("title", "null"), (A::Null, None));
    assert_eq!(treated("title", Value::Empty), (A::Null, None));
    assert_eq!(treated("title", "\"null\""), kept("null"));
    assert_eq!(treated("title", "a\0b"), kept("a\0b"));
    assert_eq!(treated("title", 7), kept("7"));
    assert_eq!(treated("title", Value::Double(7.0)), kept("7"));
    assert_eq!(treated("title", Value::Double(-0.25)), kept("-0.25"));
    assert_eq!(treated("title", Value::Double(1e300)), kept("1e300"));
    assert_eq!(treated("title", Value::Bool(true)), kept("true"));
    assert_eq!(treated("title", Value::Text(vec![0xff, 0xfe])), (A::InvalidUtf8, None));
    assert_eq!(treated("title", Value::Bytes(b"abc".to_vec())), (A::TypeMismatch, None));
    assert_eq!(treated("title", otlp::array(vec![])), (A::TypeMismatch, None));
}

#[test]
fn integers_are_read_where_nothing_is_lost() {
    assert_eq!(treated("environment.id", 7), kept("int 7"));
    assert_eq!(treated("environment.id", "1710864000000"), kept("int 1710864000000"));
    assert_eq!(treated("environment.id", "\"-3\""), kept("int -3"));
    assert_eq!(treated("environment.id", Value::Double(3.0)), kept("int 3"));
    assert_eq!(treated("environment.id", "3.0"), kept("int 3"));
    assert_eq!(treated("environment.id", "9223372036854775807"), kept("int 9223372036854775807"));
    for lost in ["9223372036854775808", "9007199254740993.0", "3.5", "", "abc", "0x7", "true", "[1]", " 7"] {
        assert_eq!(treated("environment.id", lost), (A::TypeMismatch, None), "{lost}");
    }
    assert_eq!(treated("environment.id", Value::Double(3.5)), (A::TypeMismatch, None));
    assert_eq!(treated("environment.id", Value::Double(1e300)), (A::TypeMismatch, None));
    assert_eq!(treated("environment.id", Value::Bool(true)), (A::TypeMismatch, None));
    assert_eq!(treated("environment.id", "null"), (A::Null, None));
}

#[test]
fn doubles_are_read_where_they_are_finite() {
    assert_eq!(treated("score", Value::Double(0.5)), kept("double 0.5"));
    assert_eq!(treated("score", 2), kept("double 2.0"));
    assert_eq!(treated("score", "2.5e1"), kept("double 25.0"));
    assert_eq!(treated("score", "\"2.5\""), kept("double 2.5"));
    assert_eq!(treated("score", "much"), (A::TypeMismatch, None));
    assert_eq!(treated("score", Value::Bool(true)), (A::TypeMismatch, None));
    for wild in
        [Value::Double(f64::NAN), Value::Double(f64::INFINITY), "NaN".into(), "-inf".into(), "1e999".into()]
    {
        assert_eq!(treated("score", wild), (A::NotFinite, None));
    }
    assert_eq!(treated("title", Value::Double(f64::NAN)), (A::NotFinite, None));
}

#[test]
fn booleans_are_read_from_four_texts() {
    assert_eq!(treated("is_live", Value::Bool(false)), kept("bool false"));
    for (text, flag) in [("true", "true"), ("True", "true"), ("false", "false"), ("\"False\"", "false")] {
        assert_eq!(treated("is_live", text), kept(&format!("bool {flag}")));
    }
    assert_eq!(treated("is_live", 1), (A::TypeMismatch, None));
    assert_eq!(treated("is_live", "yes"), (A::TypeMismatch, None));
}

#[test]
fn arrays_become_canonical_json_of_their_element_type() {
    assert_eq!(treated("segment.ids", "[1, 2]"), kept("[1,2]"));
    assert_eq!(treated("segment.ids", r#" [ "1" , 2.0, null ] "#), kept("[1,2,null]"));
    assert_eq!(treated("segment.ids", "[]"), kept("[]"));
    assert_eq!(treated("segment.ids", otlp::array(vec![otlp::int(1), otlp::text("2")])), kept("[1,2]"));
    assert_eq!(treated("feature.tags", r#"["a", "b\n", 3, 18446744073709551615]"#), {
        kept(r#"["a","b\n","3","18446744073709551615"]"#)
    });
    // Inside an array, text is what it says.
    assert_eq!(treated("feature.tags", r#"["null", "\"q\""]"#), kept(r#"["null","\"q\""]"#));
    assert_eq!(treated("feature.tags", otlp::array(vec![otlp::text("ä\u{1}")])), kept("[\"ä\\u0001\"]"));
    assert_eq!(treated("segment.ids", "null"), (A::Null, None));
    for broken in ["[1, 2", "[1] 2", "1", "{}", "", "[1,]", "[[1]]", r#"["x"]"#, "[true]", "[1.5]"] {
        assert_eq!(treated("segment.ids", broken), (A::TypeMismatch, None), "{broken}");
    }
    assert_eq!(treated("segment.ids", otlp::array(vec![otlp::double(0.5)])), (A::TypeMismatch, None));
    assert_eq!(treated("segment.ids", otlp::array(vec![otlp::double(f64::NAN)])), (A::NotFinite, None));
    assert_eq!(treated("segment.ids", Value::Array(vec![0x0a, 0xff])), (A::TypeMismatch, None));
    assert_eq!(treated("segment.ids", 1), (A::TypeMismatch, None));
}

#[test]
fn any_values_become_canonical_json() {
    assert_eq!(treated("change.payload", "plain"), kept("\"plain\""));
    assert_eq!(treated("change.payload", "42"), kept("42"));
    assert_eq!(treated("change.payload", "null"), (A::Null, None));
    let json = r#"{"b": [1, 2.0, {"z": null}], "a": "x", "b": true}"#;
    assert_eq!(treated("change.payload", json), kept(r#"{"a":"x","b":true}"#));
    assert_eq!(treated("change.payload", "{broken"), kept("\"{broken\""));
    assert_eq!(treated("change.payload", 7), kept("7"));
    assert_eq!(treated("change.payload", Value::Double(7.0)), kept("7"));
    assert_eq!(treated("change.payload", Value::Bytes(vec![1, 2, 3])), kept("\"AQID\""));
    let list = otlp::list(vec![
        ("b", otlp::int(1)),
        ("a", otlp::text("null")),
        ("b", otlp::any(opentelemetry_proto::tonic::common::v1::any_value::Value::BoolValue(true))),
    ]);
    assert_eq!(treated("change.payload", list), kept(r#"{"a":"null","b":true}"#));
    assert_eq!(treated("change.payload", Value::Double(f64::NAN)), (A::NotFinite, None));
    assert_eq!(treated("change.payload", Value::KvList(vec![0x0a, 0x05, 1])), (A::TypeMismatch, None));
}

#[test]
fn nesting_is_bounded() {
    assert_eq!(treated("change.payload", otlp::nested(32)).0, A::Kept);
    assert_eq!(treated("change.payload", otlp::nested(33)), (A::TooDeep, None));
    let json = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(treated("change.payload", json(32).as_str()).0, A::Kept);
    assert_eq!(treated("change.payload", json(33).as_str()), (A::TooDeep, None));
    // Beyond what the JSON reader follows it is plain text, still bounded.
    assert_eq!(treated("change.payload", json(20_000).as_str()).0, A::Kept);
    assert_eq!(treated("segment.ids", json(20_000).as_str()), (A::TypeMismatch, None));
}

#[test]
fn enums_admit_members_only() {
    assert_eq!(treated("request.status", "success"), kept("success"));
    assert_eq!(treated("request.status", "\"error\""), kept("error"));
    assert_eq!(treated("request.status", "bob@example.org"), (A::NotAMember, None));
    assert_eq!(treated("request.status", 1), (A::NotAMember, None));
    assert_eq!(treated("request.status", "null"), (A::Null, None));
    assert_eq!(treated("http.status", 404), kept("int 404"));
    assert_eq!(treated("http.status", "200"), kept("int 200"));
    assert_eq!(treated("http.status", 500), (A::NotAMember, None));
}

#[test]
fn long_values_are_dropped() {
    let limit = GateOptions::default().value_bytes_max;
    assert_eq!(treated("title", "x".repeat(limit).as_str()).0, A::Kept);
    assert_eq!(treated("title", "x".repeat(limit + 1).as_str()), (A::TooLong, None));
    // As JSON it is longer than as sent.
    assert_eq!(treated("change.payload", "\"".repeat(limit).as_str()), (A::TooLong, None));
    assert_eq!(treated("change.payload", Value::Bytes(vec![0; limit])), (A::TooLong, None));
    assert_eq!(treated("title", "x".repeat(10 << 20).as_str()), (A::TooLong, None));
}

#[test]
fn pseudonyms_are_those_that_the_documented_recipe_gives() {
    let seven = "e1_a2lvxkk5_gy5imU2VnwmN6HH1aXNrrQNiZgMGutfQKhxBvAhQmTs";
    for value in [Value::Int(7), "7".into(), "\"7\"".into(), Value::Double(7.0)] {
        assert_eq!(treated("account.number", value), (A::Pseudonymised, Some(seven.to_owned())));
    }
    assert_eq!(treated("amplitude.user_id", 7), (A::Pseudonymised, Some(seven.to_owned())));
    assert_ne!(treated("amplitude.user_id", "07").1.unwrap(), seven);
    assert_eq!(treated("amplitude.user_id", ""), (A::Null, None));
    assert_eq!(treated("amplitude.user_id", "null"), (A::Null, None));
    assert_eq!(treated("account.number", "seven"), (A::TypeMismatch, None));
}

#[test]
fn another_key_gives_other_pseudonyms_and_ids() {
    let other = Gate::new(
        fixture::registry(),
        &Keyring::from_secrets(&[9; 32], &[9; 32], &[9; 32]),
        fixture::options(),
    )
    .unwrap();
    assert_ne!(treated("account.number", 7).1, treated_with(&other, "account.number", 7).1);
    let id = |gate: &Gate| {
        clear_with(gate, vec![Sent::flagsmith()], |c| (c.events()[0].digest, c.request_digest()))
    };
    assert_ne!(id(&gate()), id(&other));
}

#[test]
fn a_policy_that_would_mix_pseudonyms_and_plain_values_in_a_column_is_refused() {
    let levels = |value: serde_json::Value| LevelTreatments::parse(value.as_object().unwrap()).unwrap();
    let gate = |warehouse| {
        let rules = Rules { warehouse, ..Rules::default() };
        Gate::new(fixture::registry(), &key(), GateOptions { rules, ..fixture::options() }).map(drop)
    };
    // `organisation_id` is a column of numbers.
    let refused = gate(levels(serde_json::json!({"internal": "pseudonymise"}))).unwrap_err();
    assert!(matches!(refused, PolicyError::NotForPseudonyms { .. }), "{refused}");
    assert_eq!(gate(levels(serde_json::json!({"pseudonymous": "drop", "personal": "keep"}))), Ok(()));
}

#[test]
fn what_is_personal_sensitive_or_undeclared_is_not_stored() {
    let sent = Sent::named(COMMITTED)
        .with("exception", "Traceback")
        .with("auth.token", "t0ken")
        .with("unknown", "x")
        .with("header.cookie", "c");
    clear_with(&gate(), vec![sent], |cleared| {
        assert!(cleared.values.is_empty() && cleared.made.is_empty());
        let tally = cleared.tally();
        assert_eq!(tally.attributes(A::DroppedPersonal), 1);
        assert_eq!(tally.attributes(A::DroppedSensitive), 2);
        assert_eq!(tally.attributes(A::Undeclared), 1);
    });
}

#[test]
fn a_pseudonymised_value_does_not_stay_in_memory_that_goes_on() {
    clear_with(&gate(), vec![Sent::named(COMMITTED).with("account.number", 123_456_789)], |cleared| {
        assert!(!cleared.made.contains("123456789"));
    });
}

#[test]
fn the_last_of_equal_keys_counts() {
    let sent =
        Sent::named(COMMITTED).with("title", "a").with("is_live", Value::Bool(true)).with("title", "b");
    clear_with(&gate(), vec![sent.clone(), sent.with("title", Value::Bytes(vec![]))], |cleared| {
        let texts = |row: usize| -> Vec<_> {
            cleared
                .values(&cleared.events()[row])
                .iter()
                .filter_map(|(_, value)| cleared.text(value))
                .collect()
        };
        assert_eq!(texts(0), ["b"]);
        assert!(texts(1).is_empty(), "the last one is no text");
        assert_eq!(cleared.tally().attributes(A::Duplicate), 3);
    });
}

#[test]
fn of_attributes_that_share_a_column_the_first_key_with_a_value_fills_it() {
    let both = Sent::named(COMMITTED).with("organisation_id", 2).with("organisation.id", 1);
    let first_is_null = Sent::named(COMMITTED).with("organisation_id", 2).with("organisation.id", "null");
    let alone = Sent::named(COMMITTED).with("organisation_id", 2);
    clear_with(&gate(), vec![both, first_is_null, alone], |cleared| {
        let stored: Vec<_> = cleared.events().iter().map(|e| cleared.values(e).to_vec()).collect();
        let ints: Vec<_> = stored.iter().map(|values| values[0].1).collect();
        assert_eq!(ints, [ClearedValue::Int(1), ClearedValue::Int(2), ClearedValue::Int(2)]);
        assert!(stored.iter().all(|values| values.len() == 1));
        assert_eq!(cleared.tally().attributes(A::ColumnTaken), 1);
        assert_eq!(cleared.tally().attributes(A::Null), 1);
        assert_eq!(cleared.tally().attributes(A::Kept), 3);
    });
}

#[test]
fn keys_of_a_template_become_one_object() {
    let sent = Sent::named(COMMITTED)
        .with("header.x-b", "2")
        .with("header.x-a", 1)
        .with("header.x-b", "3")
        .with("header.x-n", "null")
        .with("header.x-l", otlp::array(vec![]))
        .with("header.", "no suffix")
        .with("header", "no dot")
        .with("header.cookie", "declared by itself, thus not the template's");
    clear_with(&gate(), vec![sent], |cleared| {
        let values = cleared.values(&cleared.events()[0]);
        assert_eq!(values.len(), 1);
        assert_eq!(cleared.text(&values[0].1), Some(r#"{"x-a":"1","x-b":"3"}"#));
        let tally = cleared.tally();
        for (outcome, count) in [
            (A::Kept, 2),
            (A::Duplicate, 1),
            (A::Null, 1),
            (A::TypeMismatch, 1),
            (A::Undeclared, 2),
            (A::DroppedSensitive, 1),
        ] {
            assert_eq!(tally.attributes(outcome), count, "{outcome:?}");
        }
    });
}

#[test]
fn templates_follow_their_level_and_the_longest_prefix() {
    let text = || Box::new(fixture::scalar(Primitive::String));
    let gate = Gate::new(
        registry_of(&[
            ("h", AttributeType::Template(text()), PrivacyLevel::Public, "h"),
            ("h.secret", AttributeType::Template(text()), PrivacyLevel::Sensitive, "h_secret"),
            ("p", AttributeType::Template(text()), PrivacyLevel::Pseudonymous, "p"),
        ]),
        &key(),
        GateOptions { value_bytes_max: 64, ..fixture::options() },
    )
    .unwrap();
    let sent = Sent::named(COMMITTED).with("h.a", "1").with("h.secret.b", "2").with("p.c", "3");
    clear_with(&gate, vec![sent], |cleared| {
        let values = cleared.values(&cleared.events()[0]);
        let texts: Vec<_> = values.iter().filter_map(|(_, value)| cleared.text(value)).collect();
        assert_eq!(texts[0], r#"{"a":"1"}"#);
        assert!(texts[1].starts_with("e1_") && texts.len() == 2, "{texts:?}");
        assert_eq!(cleared.tally().attributes(A::DroppedSensitive), 1);
    });
    let many = (0..20).fold(Sent::named(COMMITTED), |sent, i| sent.with(&format!("h.{i}"), "x"));
    clear_with(&gate, vec![many], |cleared| {
        assert_eq!(cleared.tally().attributes(A::TooLong), 20);
        assert!(cleared.values.is_empty());
    });
}

#[test]
fn an_event_needs_a_declared_name() {
    let invalid = Sent { name: vec![0xff], ..Sent::named("x") };
    let hello = "x.hello bob";
    let names =
        vec![Sent::named(""), Sent::named(hello), invalid, Sent::named(COMMITTED), Sent::named("Workflows")];
    clear_with(&gate(), names, |cleared| {
        assert_eq!(cleared.events().len(), 1);
        assert_eq!(cleared.tally().events(EventOutcome::Unnamed), 1);
        assert_eq!(cleared.tally().events(EventOutcome::Undeclared), 3);
        assert!(!format!("{:?}", cleared.tally()).contains("bob"));
    });
}

#[test]
fn times_are_the_event_s_else_the_observer_s_else_now() {
    let at = |time, observed| Sent { time, observed, ..Sent::named(COMMITTED) };
    let now = NOW as u64 * 1000;
    let sent = vec![at(now + 1999, 0), at(0, now + 5000), at(0, 0), at(now - 7000, now)];
    let times =
        clear_with(&gate(), sent, |c| c.events().iter().map(|e| e.event_time - NOW).collect::<Vec<_>>());
    assert_eq!(times, [1, 5, 0, -7]);
}

#[test]
fn times_out_of_range_are_rejected_not_dropped() {
    let day = 24 * 60 * 60 * 1_000_000_000_u64;
    let now = NOW as u64 * 1000;
    let at = |time| Sent { time, ..Sent::named(COMMITTED) };
    let inside = vec![at(now + day), at(now - 400 * day)];
    assert_eq!(clear_with(&gate(), inside, |c| c.events().len()), 2);
    let negative = -1_i64 as u64;
    let outside =
        vec![at(now + day + 1000), at(now - 400 * day - 1000), at(1), at(negative), at(u64::MAX / 2)];
    clear_with(&gate(), outside, |cleared| {
        assert!(cleared.events().is_empty());
        assert_eq!(cleared.tally().verdicts(Verdict::Rejected), 5);
        assert_eq!(cleared.tally().subjects()[0].subject(), Subject::Declared(1));
    });
}

#[test]
fn the_event_id_is_the_plausible_uid_else_a_digest() {
    let uid = |value: &str| Sent::named(COMMITTED).with("log.record.uid", value);
    let sent = vec![uid("01J-x"), uid("bob@example.org"), uid("a").with("log.record.uid", "b")];
    clear_with(&gate(), sent, |cleared| {
        let uids: Vec<_> = cleared.events().iter().map(|event| event.uid).collect();
        assert_eq!(uids, [Some("01J-x"), None, Some("b")]);
        assert_eq!(cleared.tally().attributes(A::Envelope), 2);
        assert_eq!(cleared.tally().attributes(A::Implausible), 1);
        assert_eq!(cleared.tally().attributes(A::Duplicate), 1);
    });
}

#[test]
fn a_declared_uid_follows_its_level() {
    let gate_of = |level| {
        let text = fixture::scalar(Primitive::String);
        Gate::new(registry_of(&[("log.record.uid", text, level, "uid")]), &key(), fixture::options()).unwrap()
    };
    let sent = || vec![Sent::named(COMMITTED).with("log.record.uid", "01J")];
    let public =
        clear_with(&gate_of(PrivacyLevel::Public), sent(), |c| (c.events()[0].uid.is_some(), c.values.len()));
    assert_eq!(public, (true, 1));
    for level in [PrivacyLevel::Pseudonymous, PrivacyLevel::Personal] {
        assert!(clear_with(&gate_of(level), sent(), |c| c.events()[0].uid.is_none()), "{level:?}");
    }
}

#[test]
fn name_attributes_are_the_envelope_s_where_they_are_the_name() {
    let sent = Sent::named(COMMITTED).with("event.name", COMMITTED).with("otel.event.name", "other");
    clear_with(&gate(), vec![sent], |cleared| {
        assert_eq!(cleared.tally().attributes(A::Envelope), 1);
        assert_eq!(cleared.tally().attributes(A::Undeclared), 1);
    });
}

#[test]
fn equal_events_of_a_request_differ_and_an_equal_request_is_equal() {
    let ids = |records: Vec<Sent>| {
        clear_with(&gate(), records, |cleared| {
            (cleared.events().iter().map(|event| event.digest).collect::<Vec<_>>(), cleared.request_digest())
        })
    };
    let twice = || vec![Sent::flagsmith(), Sent::flagsmith()];
    let (digests, request) = ids(twice());
    assert_ne!(digests[0], digests[1]);
    assert_eq!(ids(twice()), (digests.clone(), request));
    // A dropped record is part of the request, and of no event.
    let (with_dropped, other_request) = ids([twice(), vec![Sent::named("dropped")]].concat());
    assert_eq!(with_dropped, digests);
    assert_ne!(other_request, request);
}

#[test]
fn the_digests_depend_on_resource_and_scope() {
    let digests = |request: &Request| {
        let cleared = gate().clear(&request.raw(), NOW, &mut Silent);
        (cleared.events()[0].digest, cleared.request_digest())
    };
    let plain = Request::of(vec![Sent::flagsmith()]);
    let mut other_scope = Request::of(vec![Sent::flagsmith()]);
    other_scope.scope = "other";
    assert_ne!(digests(&plain), digests(&other_scope));
    let raw = plain.raw();
    let mut other_resource = plain.raw();
    other_resource.resources[0].encoded = b"other";
    let ids = |raw| gate().clear(raw, NOW, &mut Silent).events()[0].digest;
    assert_ne!(ids(&raw), ids(&other_resource));
}

#[test]
fn implausible_envelope_values_are_withheld_and_counted() {
    let mut request = Request::of(vec![Sent::flagsmith()]);
    request.resource[0].1 = Value::from("bob@example.org's service");
    request.scope = "some free text";
    let raw = request.raw();
    let cleared = gate().clear(&raw, NOW, &mut Silent);
    let event = &cleared.events()[0];
    assert_eq!((event.service_name, event.scope_name), (None, None));
    assert_eq!(event.service_version, Some("2.265.0"));
    assert_eq!(cleared.tally().subjects()[0].implausible_envelope(), 1);
}

#[test]
fn the_policy_version_follows_options_and_registry() {
    let version =
        |options| Gate::new(fixture::registry(), &key(), options).unwrap().policy_version().to_owned();
    let plain = version(fixture::options());
    assert_eq!(plain.len(), 12);
    assert!(plain.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(plain, version(fixture::options()));
    assert_ne!(plain, version(GateOptions::default()));
    assert_ne!(plain, version(GateOptions { value_bytes_max: 1, ..fixture::options() }));
    assert_ne!(plain, version(GateOptions { level_key: "level".to_owned(), ..fixture::options() }));
}

#[test]
fn a_policy_that_changes_consent_is_another_policy() {
    let changes: [fn(&mut ConsentOptions); 9] = [
        |_| {},
        |consent| consent.purposes[0] = Some(vec!["marketing".to_owned()]),
        |consent| consent.sources[0].form = SourceForm::Off,
        |consent| consent.sources[0].purpose = Some("marketing".to_owned()),
        |consent| consent.aliases.extend([("C1".to_owned(), "marketing".to_owned())]),
        |consent| consent.gpc_denies.clear(),
        |consent| consent.warehouse[1].denied = WarehouseRule::Drop,
        |consent| consent.warehouse[0].unknown = WarehouseRule::StripIdentity,
        |consent| consent.amplitude.unknown = true,
    ];
    let mut versions = std::collections::BTreeSet::new();
    for change in changes {
        let mut options = fixture::options();
        change(&mut options.consent);
        let gate = Gate::new(fixture::registry(), &key(), options).unwrap();
        versions.insert(gate.policy_version().to_owned());
    }
    assert_eq!(versions.len(), changes.len());
}

#[test]
fn debug_output_holds_no_value() {
    clear_with(&gate(), vec![Sent::named(COMMITTED).with("title", "marked")], |cleared| {
        assert!(!format!("{cleared:?} {:?}", cleared.events()).contains("marked"));
    });
}

#[test]
fn explain_shows_each_decision_and_only_stored_values() {
    let sent = Sent::named(COMMITTED)
        .with("title", "shown")
        .with("account.number", 7)
        .with("exception", "hidden")
        .with("score", "hidden")
        .with("unknown", "hidden")
        .with("log.record.uid", "01J");
    let request = Request::of(vec![Sent::named("nobody's"), sent]);
    let explained = explain(&gate(), &request.raw(), NOW);
    assert_eq!((explained[0].verdict, explained[0].reason), ("dropped", "undeclared"));
    let rows: Vec<_> = explained[1]
        .attributes
        .iter()
        .map(|a| (a.key.as_str(), a.level, a.treatment, a.reason, a.column.as_deref(), a.stored.clone()))
        .collect();
    let seven = serde_json::json!("e1_a2lvxkk5_gy5imU2VnwmN6HH1aXNrrQNiZgMGutfQKhxBvAhQmTs");
    let expected = [
        ("unknown", None, "drop", "undeclared", None, None),
        ("title", Some("internal"), "keep", "kept", Some("title"), Some("shown".into())),
        (
            "account.number",
            Some("pseudonymous"),
            "pseudonymise",
            "pseudonymised",
            Some("account_number"),
            Some(seven),
        ),
        ("exception", Some("personal"), "drop", "dropped_personal", None, None),
        ("score", Some("public"), "drop", "type_mismatch", None, None),
        ("log.record.uid", None, "envelope", "envelope", None, None),
    ];
    assert_eq!(rows, expected);
    let envelope = explained[1].envelope.as_ref().unwrap();
    assert_eq!(envelope.event_id, "01J");
    assert_eq!(envelope.event_time, "2026-11-22T21:30:03.9Z");
    assert!(!serde_json::to_string(&explained).unwrap().contains("hidden"));
}

/// Values that senders may send, of every kind and shape. Texts carry `mark`.
fn any_value(mark: &'static str) -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Empty),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_map(Value::Double),
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(Value::Bytes),
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(Value::Array),
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(Value::KvList),
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(Value::Text),
        proptest::sample::select(vec!["null", "[1, 2]", "\"x\"", "7", "true", "1e3", "{\"a\":1}"])
            .prop_map(Value::from),
        Just(Value::from(mark)),
        Just(Value::from(format!("\"{mark}\"").as_str())),
        Just(Value::from(format!("[\"{mark}\"]").as_str())),
        Just(otlp::array(vec![otlp::text(mark)])),
        Just(otlp::list(vec![(mark, otlp::text(mark))])),
    ]
}

const FORBIDDEN: &str = "FORBIDDEN-MARK";

fn any_attribute() -> impl Strategy<Value = (Vec<u8>, Value)> {
    let (stored, hidden): (Vec<_>, Vec<_>) =
        fixture::attributes().into_iter().partition(|(_, _, level, _)| *level <= PrivacyLevel::Internal);
    let keys = |declared: Vec<fixture::Declared>| {
        proptest::sample::select(declared.into_iter().map(|d| d.0.as_bytes().to_vec()).collect::<Vec<_>>())
    };
    let undeclared = prop_oneof![
        Just(b"log.record.uid".to_vec()),
        Just(b"event.name".to_vec()),
        Just(b"\xff".to_vec()),
        Just(FORBIDDEN.as_bytes().to_vec()),
    ];
    prop_oneof![
        (keys(stored), any_value("allowed")),
        (keys(hidden), any_value(FORBIDDEN)),
        // An id is stored as it is, so it is not among what must not appear.
        (undeclared, any_value("x y FORBIDDEN-MARK")),
        ("header\\.[a-c]{0,2}", any_value("allowed")).prop_map(|(key, value)| (key.into_bytes(), value)),
    ]
}

fn any_record() -> impl Strategy<Value = Sent> {
    let name = prop_oneof![
        4 => Just(COMMITTED.to_owned()),
        1 => Just("billing.invoice.sent".to_owned()),
        1 => Just(String::new()),
        1 => Just(FORBIDDEN.to_owned()),
    ];
    let time = prop_oneof![3 => Just(NOW as u64 * 1000), 1 => any::<u64>(), 1 => Just(0)];
    (name, time, proptest::collection::vec(any_attribute(), 0..12))
        .prop_map(|(name, time, attributes)| Sent { time, attributes, ..Sent::named(&name) })
}

/// Allocations while a request of so many copies of a record is cleared.
fn allocations(gate: &Gate, record: &Sent, copies: usize) -> u64 {
    let request = Request::of(vec![record.clone(); copies]);
    let raw = request.raw();
    allocation_counter::measure(|| drop(gate.clear(&raw, NOW, &mut Silent))).count_total
}

#[test]
fn an_attribute_costs_no_allocation() {
    let gate = gate();
    let record = Sent::flagsmith();
    let few = allocations(&gate, &record, 64);
    let many = allocations(&gate, &record, 4096);
    // What the request as a whole fills grows by doubling: a few more allocations for 64 times as many records.
    assert!(many <= few + 12, "{few} allocations for 64 records, {many} for 4096");
    assert!(few < 64, "{few}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn everything_received_is_counted_once_and_nothing_forbidden_is_stored(
        records in proptest::collection::vec(any_record(), 0..8),
    ) {
        let gate = gate();
        let request = Request::of(records);
        let raw = request.raw();
        let cleared = gate.clear(&raw, NOW, &mut Silent);
        let tally = cleared.tally();

        let sum: u64 = [Verdict::Cleared, Verdict::Dropped, Verdict::Rejected].map(|v| tally.verdicts(v)).iter().sum();
        prop_assert_eq!(tally.received(), raw.records().len() as u64);
        prop_assert_eq!(sum, tally.received());
        prop_assert_eq!(tally.verdicts(Verdict::Cleared), cleared.events().len() as u64);

        // Each attribute of a cleared record has one outcome.
        let ids: Vec<_> = cleared.events().iter().map(|event| event.digest).collect();
        let explained = explain(&gate, &raw, NOW);
        let sent: usize = raw.records().iter().zip(&explained)
            .filter(|(_, explained)| explained.verdict == "cleared")
            .map(|(record, _)| raw.attributes(&record.attributes).len())
            .sum();
        prop_assert_eq!(AttributeOutcome::ALL.map(|o| tally.attributes(o)).iter().sum::<u64>(), sent as u64);
        prop_assert_eq!(explained.iter().map(|event| event.attributes.len()).sum::<usize>(), sent);
        prop_assert_eq!(ids.len(), explained.iter().filter(|event| event.envelope.is_some()).count());

        // A column is set once, and every value is of its column's type.
        for event in cleared.events() {
            let mut columns: Vec<_> = cleared.values(event).iter().map(|(column, _)| *column).collect();
            columns.sort_unstable();
            prop_assert!(columns.windows(2).all(|pair| pair[0] != pair[1]));
        }

        let layout = crate::columns::Layout::new(gate.registry()).unwrap();
        let encoder = crate::columns::Encoder::new(&layout, gate.registry(), gate.policy_version());
        let mark = FORBIDDEN.as_bytes();
        for (_, batch) in encoder.encode(&cleared, NOW).unwrap() {
            let bytes = batch.to_ipc().unwrap();
            prop_assert!(!bytes.windows(mark.len()).any(|window| window == mark));
        }
    }

    #[test]
    fn a_coerced_value_is_read_again_as_itself(value in any_value("x")) {
        // Canonical text is a fixed point: what was stored once, sent again, is stored the same.
        for key in ["title", "environment.id", "score", "is_live", "segment.ids", "feature.tags", "change.payload"] {
            let (outcome, Some(shown)) = treated(key, value.clone()) else { continue };
            if outcome == A::Masked {
                // One in some hundred numbers of 19 digits has an issuer's prefix and a card's check digit.
                continue;
            }
            prop_assert_eq!(outcome, A::Kept);
            let text = shown.split_once(' ').map_or(shown.as_str(), |(kind, rest)| {
                if ["int", "double", "bool"].contains(&kind) && !["title", "feature.tags", "change.payload"].contains(&key) {
                    rest
                } else {
                    shown.as_str()
                }
            });
            if key == "title" && (text.starts_with('"') || text == "null") {
                // A text that itself looks quoted is unquoted once more; that is the documented reading.
                continue;
            }
            prop_assert_eq!(treated(key, text), (A::Kept, Some(shown.clone())), "{} {}", key, text);
        }
    }
}
