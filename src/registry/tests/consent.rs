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

/// A group that speaks for a category.
fn category(id: &str, esker: &str) -> String {
    format!(
        "  - {{id: {id}, visibility: public, stability: stable, brief: What for., annotations: {{esker: {{{esker}}}}}}}\n"
    )
}

fn with_categories(groups: &[String], esker: &str) -> String {
    let text = annotated(esker, &["ref: plan.name", USER]);
    format!("attribute_groups:\n{}{text}", groups.concat())
}

#[test]
fn a_group_says_what_the_events_of_a_category_are_for() {
    let groups = [
        category("category.product", "category: product, purposes: [b, a]"),
        category("category.security", "category: security, purposes: []"),
    ];
    let registry = load(&with_categories(&groups, "privacy: public")).unwrap();
    let of = |category| registry.category_purposes(category).map(<[String]>::to_vec);
    assert_eq!(of(Category::Product), Some(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!((of(Category::Operational), of(Category::Security)), (None, Some(Vec::new())));
    assert_eq!(registry.events()[0].purposes, None, "it is not the event that says so");
    let version =
        |groups: &[String]| load(&with_categories(groups, "privacy: public")).unwrap().version().to_owned();
    let versions: BTreeSet<_> =
        [version(&groups), version(&groups[..1]), version(&groups[1..]), version(&[])].into();
    assert_eq!(versions.len(), 4);
}

#[test]
fn what_a_group_may_not_say_of_a_category_is_refused() {
    let good = "category: product, purposes: [a]";
    for (groups, words) in [
        (vec![category("g", "purposes: [a]")], vec!["g: has no `annotations.esker.category`"]),
        (vec![category("g", "category: sales, purposes: [a]")], vec!["`category` is not known"]),
        (vec![category("g", "category: product")], vec!["does not name its `purposes`", "`[]`"]),
        (vec![category("g", "category: product, purposes: a")], vec!["`purposes` is not a list"]),
        (
            vec![category("g", &format!("{good}, privacy: public"))],
            vec!["`privacy` is not known", "of a group"],
        ),
        (
            vec![category("g", good), category("h", "category: product, purposes: [a]")],
            vec![
                "h: the purposes of the category product are declared twice, also by g in test.yaml",
                "once",
            ],
        ),
        (
            vec![category("g", good).replace("annotations", "attributes: [{ref: plan.name}], annotations")],
            vec!["has both attributes and `annotations.esker`", "without attributes"],
        ),
        (
            vec![category("g", good).replace("public, stability: stable, brief: What for.", "internal")],
            vec!["`annotations` is not known on an internal group"],
        ),
    ] {
        assert_one_problem(&with_categories(&groups, "privacy: public"), &words);
    }
}
