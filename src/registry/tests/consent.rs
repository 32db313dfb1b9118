//! What events say of consent: purposes and withdrawals.

use super::*;

const USER: &str = "{ref: user.id, requirement_level: required}";

/// A file of a user's id and one event with these annotations beside its category, and these refs.
fn annotated(esker: &str, refs: &[&str]) -> String {
    let user = attribute("user.id", "string", "privacy: pseudonymous");
    let plain = attribute("plan.name", "string", "privacy: internal");
    let headers = attribute("header", "'template[string]'", "privacy: pseudonymous");
    let list = attribute("user.ids", "'string[]'", "privacy: pseudonymous");
    let flag = attribute("user.known", "boolean", "privacy: pseudonymous");
    let number = attribute("user.number", "int", "privacy: pseudonymous");
    let alias = attribute("user.alias", "string", "privacy: pseudonymous");
    let text = with_event(&[user, plain, headers, list, flag, number, alias], refs);
    text.replace("{category: product}", &format!("{{category: product, {esker}}}"))
}

fn loaded(esker: &str) -> Event {
    let registry = load(&annotated(esker, &["ref: plan.name", USER])).unwrap();
    registry.events()[0].clone()
}

#[test]
fn purposes_are_what_the_event_says_or_left_to_the_configuration() {
    let purposes = |esker: &str| loaded(esker).purposes;
    let named = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    assert_eq!(purposes("privacy: internal"), None);
    assert_eq!(purposes("purposes: []"), named(&[]));
    assert_eq!(purposes("purposes: [support, analytics]"), named(&["analytics", "support"]));
}

#[test]
fn purposes_that_cannot_be_are_refused() {
    for (esker, words) in [
        ("purposes: analytics", ["`purposes` is not a list", "[analytics]"]),
        ("purposes: {analytics: true}", ["`purposes` is not a list", "[]"]),
        ("purposes: [Analytics]", ["not the name of a purpose", "a-z"]),
        ("purposes: ['']", ["not the name of a purpose", "a-z"]),
        ("purposes: [7]", ["not the name of a purpose", "a-z"]),
        ("purposes: [analytics, analytics]", ["`analytics` twice", "once"]),
        ("purpose: [analytics]", ["`purpose` is not known", "purposes"]),
    ] {
        assert_one_problem(&annotated(esker, &["ref: user.id"]), &words);
    }
}

#[test]
fn a_withdrawal_names_the_attribute_of_the_person() {
    let registry = load(&annotated("withdrawal: {subject: user.id}", &["ref: plan.name", USER])).unwrap();
    let event = &registry.events()[0];
    let withdrawal = event.withdrawal.unwrap();
    assert_eq!(registry.attributes()[withdrawal.subject].key, "user.id");
    assert!(!withdrawal.lifts);
    assert_eq!(event.purposes.as_deref(), Some(&[][..]), "a withdrawal is kept whatever the consent is");
    assert!(loaded("withdrawal: {subject: user.id, lifts: true}").withdrawal.unwrap().lifts);
    assert_eq!(loaded("purposes: []").withdrawal, None);
}

#[test]
fn withdrawals_that_could_stop_nobody_are_refused() {
    let refs = [
        "{ref: plan.name, requirement_level: required}",
        USER,
        "{ref: header, requirement_level: required}",
        "{ref: user.ids, requirement_level: required}",
        "{ref: user.known, requirement_level: required}",
        "{ref: user.number, requirement_level: required}",
        "ref: user.alias",
    ];
    for (esker, words) in [
        ("withdrawal: user.id", ["does not name its `subject`", "{subject: user.id}"]),
        ("withdrawal: {}", ["does not name its `subject`", "{subject: user.id}"]),
        ("withdrawal: {subject: user.id, lifts: 'yes'}", ["`lifts` is neither", "lifts: true"]),
        ("withdrawal: {subject: user.id, lift: true}", ["`lift` is not known in `withdrawal`", "lifts"]),
        (
            "withdrawal: {subject: plan.name}",
            ["`plan.name`, which is not stored as a pseudonym", "pseudonymous"],
        ),
        ("withdrawal: {subject: header}", ["`header`, which is not one text", "type string or int"]),
        ("withdrawal: {subject: user.ids}", ["`user.ids`, which is not one text", "type string or int"]),
        ("withdrawal: {subject: user.known}", ["`user.known`, which is not one text", "type string or int"]),
        (
            "withdrawal: {subject: user.alias}",
            ["`user.alias`, which the event may lack", "{ref: user.alias, requirement_level: required}"],
        ),
        ("withdrawal: {subject: account.id}", ["`account.id`, which is no attribute", "ref: account.id"]),
        (
            "withdrawal: {subject: user.id}, purposes: [analytics]",
            ["would need consent", "take the `purposes` out"],
        ),
        ("withdrawal: {subject: user.id}, privacy: personal", ["not stored as a pseudonym", "level"]),
    ] {
        assert_one_problem(&annotated(esker, &refs), &words);
    }
    assert!(
        load(&annotated("withdrawal: {subject: user.number}", &refs)).is_ok(),
        "a number is one person too"
    );
    let dropped = "{ref: user.id, requirement_level: required, annotations: {esker: {treatment: drop}}}";
    let text = annotated("withdrawal: {subject: user.id}", &[dropped]);
    assert_one_problem(&text, &["not stored as a pseudonym", "without another treatment"]);
}

#[test]
fn what_is_said_of_consent_is_part_of_the_version() {
    let version =
        |esker: &str| load(&annotated(esker, &["ref: plan.name", USER])).unwrap().version().to_owned();
    let versions: BTreeSet<_> = [
        "privacy: public",
        "purposes: []",
        "purposes: [analytics]",
        "withdrawal: {subject: user.id}",
        "withdrawal: {subject: user.id, lifts: true}",
    ]
    .into_iter()
    .map(version)
    .collect();
    assert_eq!(versions.len(), 5);
    assert_eq!(version("purposes: [b, a]"), version("purposes: [a, b]"));
}
