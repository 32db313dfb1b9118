//! What is collected of a request, in which form names are shown, and the limits.

use super::*;
use crate::privacy::tests::fixture::{COMMITTED, NOW, Request, Sent, Value, clear_with, gate, otlp};
use crate::privacy::{Cleared, Silent};

/// Kind, event, key, types and count of an entry, as they may be shown.
type Shown = (DriftKind, String, String, Vec<(&'static str, u32)>, u64);

fn entries(cleared: &Cleared<'_>) -> Vec<Shown> {
    let gate = gate();
    let types = |entry: &DriftEntry<'_>| {
        let counted = ValueType::ALL.iter().zip(entry.types).filter(|(_, count)| *count > 0);
        counted.map(|(ty, count)| (ty.as_str(), count)).collect()
    };
    cleared
        .drift()
        .iter()
        .map(|entry| {
            let event = gate.shown_event(entry.event).unwrap_or_else(|| "(overflow)".to_owned());
            (entry.kind, event, gate.shown_key(entry.key), types(entry), entry.count)
        })
        .collect()
}

fn entry(kind: DriftKind, event: &str, key: &str, types: &[(&'static str, u32)], count: u64) -> Shown {
    (kind, event.to_owned(), key.to_owned(), types.to_vec(), count)
}

#[test]
fn undeclared_attributes_of_a_declared_event_are_counted_by_key_and_type() {
    let sent = || Sent::flagsmith().with("new.key", 1).with("other", "x");
    let last = Sent::named(COMMITTED).with("other", "null").with("new.key", "7").with("title", "declared");
    clear_with(&gate(), vec![sent(), sent(), last], |cleared| {
        let expected = [
            entry(DriftKind::Attribute, COMMITTED, "new.key", &[("string", 1), ("int", 2)], 3),
            entry(DriftKind::Attribute, COMMITTED, "other", &[("empty", 1), ("string", 2)], 3),
        ];
        assert_eq!(entries(cleared), expected);
    });
}

#[test]
fn every_kind_of_value_is_told_apart() {
    let values = [
        (Value::Empty, "empty"),
        ("x".into(), "string"),
        (1.into(), "int"),
        (Value::Double(0.5), "double"),
        (Value::Bool(true), "boolean"),
        (Value::Bytes(vec![1]), "bytes"),
        (otlp::array(vec![]), "array"),
        (otlp::list(vec![]), "kvlist"),
    ];
    for (place, (value, name)) in values.into_iter().enumerate() {
        assert_eq!(ValueType::ALL[place] as usize, place);
        clear_with(&gate(), vec![Sent::named(COMMITTED).with("new", value)], |cleared| {
            assert_eq!(entries(cleared)[0].3, [(name, 1)]);
        });
    }
}

#[test]
fn an_undeclared_event_is_counted_with_all_its_attributes() {
    let sent = |count| {
        Sent::named("new.thing.done")
            .with("organisation.id", count)
            .with("new.count", count)
            .with("event.name", "new.thing.done")
            .with("log.record.uid", "01J")
            .with("event.privacy_level", "public")
    };
    clear_with(&gate(), vec![sent(1), Sent::flagsmith(), sent(2)], |cleared| {
        let expected = [
            entry(DriftKind::Event, "new.thing.done", &gate().shown_key(b""), &[], 2),
            entry(DriftKind::EventAttribute, "new.thing.done", "organisation.id", &[("int", 2)], 2),
            entry(DriftKind::EventAttribute, "new.thing.done", "new.count", &[("int", 2)], 2),
        ];
        assert_eq!(entries(cleared), expected, "keys with a meaning of their own are no drift");
    });
}

#[test]
fn an_attribute_that_only_another_event_declares_is_drift() {
    clear_with(&gate(), vec![Sent::named("billing.invoice.sent").with("title", "x")], |cleared| {
        let expected = [entry(DriftKind::Attribute, "billing.invoice.sent", "title", &[("string", 1)], 1)];
        assert_eq!(entries(cleared), expected);
    });
}

#[test]
fn entries_are_told_apart_by_service_and_equal_services_are_one() {
    let records = vec![Sent::named(COMMITTED).with("new", 1); 4];
    let (plain, mut other) = (Request::of(records.clone()), Request::of(records));
    other.resource[0].1 = Value::from("worker");
    let mut raw = plain.raw();
    let other = other.raw();
    for (place, resource) in [(1_u32, &other.resources[0]), (2, &plain.raw().resources[0])] {
        let start = raw.attributes.len() as u32;
        let source = if place == 1 { &other } else { &raw };
        let copied = source.attributes(&resource.attributes).to_vec();
        raw.attributes.extend(copied);
        let mut resource = resource.clone();
        resource.attributes = start..raw.attributes.len() as u32;
        raw.resources.push(resource);
    }
    for (record, resource) in raw.records.iter_mut().zip([0, 1, 2, 2]) {
        record.resource = resource;
    }
    let cleared = gate().clear(&raw, NOW, &mut Silent);
    let by_service: Vec<_> = cleared.drift().iter().map(|entry| (entry.service, entry.count)).collect();
    assert_eq!(by_service, [(Some("flagsmith-api"), 3), (Some("worker"), 1)]);
}

#[test]
fn more_keys_than_the_limit_are_counted_and_not_kept() {
    let many = ENTRIES_PER_REQUEST_MAX + 10;
    let sent = (0..many).fold(Sent::named(COMMITTED), |sent, n| sent.with(&format!("k{n}"), 1));
    clear_with(&gate(), vec![sent.clone(), sent], |cleared| {
        let (overflow, kept): (Vec<_>, Vec<_>) =
            cleared.drift().iter().partition(|entry| entry.event == DriftEvent::Overflow);
        assert_eq!(kept.len(), ENTRIES_PER_REQUEST_MAX);
        assert!(kept.iter().all(|entry| entry.count == 2));
        assert_eq!(overflow.len(), 1);
        assert_eq!((overflow[0].service, overflow[0].count), (Some("flagsmith-api"), 20));
    });
}

#[test]
fn more_names_than_the_limit_are_counted_by_kind_and_not_kept() {
    let many = ENTRIES_PER_REQUEST_MAX + 10;
    let sent = (0..many).map(|n| Sent::named(&format!("e{n}.happened")).with("k", 1)).collect();
    clear_with(&gate(), sent, |cleared| {
        let sum =
            |kind| cleared.drift().iter().filter(|entry| entry.kind == kind).map(|entry| entry.count).sum();
        let counted: (u64, u64) = (sum(DriftKind::Event), sum(DriftKind::EventAttribute));
        assert_eq!(counted, (many as u64, many as u64));
        assert!(cleared.drift().len() <= ENTRIES_PER_REQUEST_MAX + 2);
    });
}

#[test]
fn names_that_somebody_wrote_in_code_are_shown() {
    let gate = gate();
    for name in ["organisation.id", "a", "http.response.status_code", "oauth2_metadata.2fa.year_2026", "x.y_"]
    {
        assert_eq!(gate.shown_key(name.as_bytes()), name);
        assert_eq!(gate.shown_event(DriftEvent::Undeclared(name.as_bytes())).as_deref(), Some(name));
    }
}

#[test]
fn names_that_may_hold_a_value_are_hashed() {
    let gate = gate();
    let long = "a".repeat(KEY_BYTES_MAX + 1);
    let bad: [&[u8]; 15] = [
        b"hello bob",
        b"x.hello bob",
        b"bob@example.org",
        b"Bob",
        b"user.Bob",
        b"",
        b".a",
        b"a..b",
        b"a.",
        b"1a",
        b"call.4930123456",
        b"at_20261122",
        b"user.f3e1a2b4c5",
        b"\xff",
        long.as_bytes(),
    ];
    for name in bad {
        let shown = gate.shown_key(name);
        assert!(is_hashed_name(&shown), "{name:?} is shown as {shown}");
        assert_eq!(shown, gate.shown_key(name), "the same name stays the same");
    }
    let mut hashes: Vec<_> = bad.iter().map(|name| gate.shown_key(name)).collect();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), bad.len());
    // An event's name may be longer than a key.
    assert_eq!(gate.shown_event(DriftEvent::Undeclared(long.as_bytes())), Some(long.clone()));
    let longer = "a".repeat(EVENT_BYTES_MAX + 1);
    assert!(is_hashed_name(&gate.shown_event(DriftEvent::Undeclared(longer.as_bytes())).unwrap()));
}

#[test]
fn the_hash_depends_on_the_key() {
    use crate::privacy::{Gate, tests::fixture};
    let other = crate::secret::Keyring::from_secrets(&[9; 32], &[9; 32], &[9; 32]);
    let other = Gate::new(fixture::registry(), &other, fixture::options()).unwrap();
    assert_ne!(other.shown_key(b"hello bob"), gate().shown_key(b"hello bob"));
}

#[test]
fn debug_output_holds_no_name() {
    clear_with(&gate(), vec![Sent::named("x.hello bob").with("bob.key", "v")], |cleared| {
        assert!(!format!("{:?} {cleared:?}", cleared.drift()).contains("bob"));
    });
}
