//! The registry as its users meet it: texts in, a registry or all problems out; and the repository's own `schemas/`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::*;

mod consent;

const HEAD: &str = "file_format: definition/2\n";

fn load(text: &str) -> Result<Registry, RegistryError> {
    Registry::from_files(&[("test.yaml".to_owned(), format!("{HEAD}{text}"))])
}

fn attribute(key: &str, ty: &str, esker: &str) -> String {
    format!(
        "  - {{key: {key}, type: {ty}, stability: stable, brief: Something., annotations: {{esker: {{{esker}}}}}}}\n"
    )
}

/// A file with these attributes and one event that refers to `refs`.
fn with_event(attributes: &[String], refs: &[&str]) -> String {
    let refs: String = refs.iter().map(|one| format!("      - {one}\n")).collect();
    format!("attributes:\n{}events:\n{}", attributes.concat(), event("shop.order.placed", &refs))
}

fn event(name: &str, refs: &str) -> String {
    let attributes = if refs.is_empty() { String::new() } else { format!("    attributes:\n{refs}") };
    format!(
        "  - name: {name}\n    stability: stable\n    brief: It happened.\n    annotations: {{esker: {{category: product}}}}\n{attributes}"
    )
}

fn problems(text: &str) -> String {
    load(text).map(|registry| format!("{registry:?}")).unwrap_err().to_string()
}

/// The only problem, which must hold all the given words.
fn assert_one_problem(text: &str, words: &[&str]) {
    let error = load(text).unwrap_err();
    assert_eq!(error.problems().len(), 1, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "`{word}` is not in: {error}");
    }
}

fn column<'a>(registry: &'a Registry, name: &str) -> &'a AttributeColumn {
    registry.columns().iter().find(|column| column.name == name).unwrap()
}

fn find<'a>(registry: &'a Registry, name: &str) -> &'a Event {
    registry.events().iter().find(|event| event.name == name).unwrap()
}

/// The event's attributes by key.
fn uses<'a>(registry: &'a Registry, event: &'a Event) -> BTreeMap<&'a str, &'a EventAttribute> {
    let key = |used: &EventAttribute| registry.attributes()[used.attribute].key.as_str();
    event.attributes.iter().map(|used| (key(used), used)).collect()
}

// What is read.

#[test]
fn every_type_is_read_and_has_its_column_type() {
    let types = [
        ("string", AttributeType::Scalar(Primitive::String), ColumnType::String),
        ("int", AttributeType::Scalar(Primitive::Int), ColumnType::Long),
        ("double", AttributeType::Scalar(Primitive::Double), ColumnType::Double),
        ("boolean", AttributeType::Scalar(Primitive::Boolean), ColumnType::Boolean),
        ("string[]", AttributeType::Array(Primitive::String), ColumnType::String),
        ("int[]", AttributeType::Array(Primitive::Int), ColumnType::String),
        ("double[]", AttributeType::Array(Primitive::Double), ColumnType::String),
        ("boolean[]", AttributeType::Array(Primitive::Boolean), ColumnType::String),
        ("any", AttributeType::Any, ColumnType::String),
        (
            "template[string]",
            AttributeType::Template(Box::new(AttributeType::Scalar(Primitive::String))),
            ColumnType::String,
        ),
        (
            "template[int[]]",
            AttributeType::Template(Box::new(AttributeType::Array(Primitive::Int))),
            ColumnType::String,
        ),
        ("template[any]", AttributeType::Template(Box::new(AttributeType::Any)), ColumnType::String),
        (
            "{members: [{id: b, value: B, stability: stable}, {id: a, value: A, stability: stable, brief: The a.}]}",
            AttributeType::Enum { values: Primitive::String, members: vec!["A".to_owned(), "B".to_owned()] },
            ColumnType::String,
        ),
        (
            "{members: [{id: ok, value: 0, stability: stable}, {id: no, value: -1, stability: stable}]}",
            AttributeType::Enum { values: Primitive::Int, members: vec!["-1".to_owned(), "0".to_owned()] },
            ColumnType::Long,
        ),
    ];
    for (text, ty, column_type) in types {
        let quoted = if text.starts_with('{') { text.to_owned() } else { format!("'{text}'") };
        let registry =
            load(&with_event(&[attribute("some.key", &quoted, "privacy: internal")], &["ref: some.key"]))
                .unwrap_or_else(|error| panic!("{quoted}: {error}"));
        assert_eq!(registry.attributes()[0].ty, ty, "{quoted}");
        assert_eq!(registry.columns()[0].ty, column_type, "{quoted}");
    }
}

#[test]
fn attributes_events_and_columns_come_sorted_and_point_at_each_other() {
    let text = format!(
        "attributes:\n{}{}{}events:\n{}{}",
        attribute("z.last", "string", "privacy: public"),
        attribute("a.first", "int", "privacy: internal"),
        attribute("m-Middle.Key", "boolean", "privacy: personal"),
        event("b.second", "      - {ref: z.last, requirement_level: required}\n      - ref: a.first\n"),
        event("a.first", ""),
    );
    let registry = load(&text).unwrap();
    let keys: Vec<_> = registry.attributes().iter().map(|one| one.key.as_str()).collect();
    assert_eq!(keys, ["a.first", "m-Middle.Key", "z.last"]);
    let names: Vec<_> = registry.columns().iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["a_first", "m_middle_key", "z_last"]);
    for attribute in registry.attributes() {
        assert_eq!(registry.columns()[attribute.column].keys, [attribute.key.as_str()]);
    }
    assert_eq!(registry.events()[0].name, "a.first");
    assert!(registry.events()[0].attributes.is_empty());
    let uses = uses(&registry, &registry.events()[1]);
    assert_eq!(uses["z.last"].requirement, Requirement::Required);
    assert_eq!(uses["a.first"].requirement, Requirement::Optional);
}

#[test]
fn each_form_of_requirement_level_is_read() {
    let levels = [
        ("required", Requirement::Required),
        ("recommended", Requirement::Optional),
        ("opt_in", Requirement::Optional),
        ("{conditionally_required: If it is known.}", Requirement::Optional),
        ("{recommended: If cheap.}", Requirement::Optional),
        ("{opt_in: If wanted.}", Requirement::Optional),
    ];
    for (level, expected) in levels {
        let used = format!("{{ref: some.key, requirement_level: {level}}}");
        let registry =
            load(&with_event(&[attribute("some.key", "int", "privacy: internal")], &[&used])).unwrap();
        assert_eq!(registry.events()[0].attributes[0].requirement, expected, "{level}");
    }
}

#[test]
fn groups_nest_and_a_direct_ref_refines_them_wherever_it_stands() {
    let text = format!(
        "attributes:\n{}{}attribute_groups:\n\
         \x20 - {{id: inner, visibility: internal, attributes: [{{ref: a.key, requirement_level: required, annotations: {{esker: {{privacy: personal}}}}}}]}}\n\
         \x20 - {{id: outer, visibility: public, stability: stable, brief: All., attributes: [{{ref_group: inner}}, {{ref: b.key}}]}}\n\
         events:\n{}{}",
        attribute("a.key", "string", "privacy: internal"),
        attribute("b.key", "string", "privacy: internal"),
        event("x.plain", "      - ref_group: outer\n"),
        event(
            "x.refined",
            "      - {ref: a.key, requirement_level: opt_in}\n      - ref_group: outer\n      - {ref: b.key, annotations: {esker: {privacy: public}}}\n"
        ),
    );
    let registry = load(&text).unwrap();
    let plain = uses(&registry, find(&registry, "x.plain"));
    assert_eq!(
        (plain["a.key"].requirement, plain["a.key"].privacy),
        (Requirement::Required, PrivacyLevel::Personal)
    );
    assert_eq!(plain["b.key"].privacy, PrivacyLevel::Internal);
    let refined = uses(&registry, find(&registry, "x.refined"));
    assert_eq!(refined["a.key"].requirement, Requirement::Optional);
    // A ref that says nothing of the level does not undo the stricter one of the group.
    assert_eq!(refined["a.key"].privacy, PrivacyLevel::Personal);
    assert_eq!(refined["b.key"].privacy, PrivacyLevel::Public);
}

#[test]
fn a_level_may_stand_on_the_refs_alone_and_the_strictest_becomes_the_attributes_own() {
    let text = format!(
        "attributes:\n  - {{key: a.key, type: string, stability: stable, brief: Something.}}\nevents:\n{}{}",
        event("x.one", "      - {ref: a.key, annotations: {esker: {privacy: internal}}}\n"),
        event("x.two", "      - {ref: a.key, annotations: {esker: {privacy: sensitive}}}\n"),
    );
    let registry = load(&text).unwrap();
    assert_eq!(registry.attributes()[0].privacy, PrivacyLevel::Sensitive);
    assert_eq!(find(&registry, "x.one").attributes[0].privacy, PrivacyLevel::Internal);
}

#[test]
fn a_pseudonymous_attribute_has_a_text_column_whatever_its_type() {
    let registry =
        load(&with_event(&[attribute("user.id", "int", "privacy: pseudonymous")], &["ref: user.id"]))
            .unwrap();
    assert_eq!(column(&registry, "user_id").ty, ColumnType::String);
    assert!(column(&registry, "user_id").pseudonymous);
}

#[test]
fn two_keys_share_a_column_when_they_say_so() {
    let attributes = [
        attribute("organisation_id", "int", "privacy: internal, same_column_as: organisation.id"),
        attribute("organisation.id", "int", "privacy: internal"),
    ];
    let registry = load(&with_event(&attributes, &["ref: organisation.id", "ref: organisation_id"])).unwrap();
    assert_eq!(registry.columns().len(), 1);
    assert_eq!(registry.columns()[0].keys, ["organisation.id", "organisation_id"]);
    assert!(registry.attributes().iter().all(|attribute| attribute.column == 0));
}

#[test]
fn other_signals_are_left_alone_with_a_notice() {
    let text = format!("spans: [{{type: x}}]\nmetrics: []\nevents:\n{}", event("a.b", ""));
    let registry = load(&text).unwrap();
    assert_eq!(registry.notices().len(), 2);
    assert!(registry.notices()[0].contains("test.yaml") && registry.notices()[0].contains("metrics"));
}

#[test]
fn annotations_of_other_tools_are_left_alone() {
    let text =
        "attributes:\n  - {key: a.key, type: string, stability: stable, brief: Something., annotations: \
                {code_generation: {exclude: true}, esker: {privacy: public}}}\nevents:\n"
            .to_owned()
            + &event("a.b", "      - ref: a.key\n");
    assert!(load(&text).is_ok());
}

// What is refused.

#[test]
fn every_problem_of_every_file_is_told_at_once() {
    let files = [
        (
            "one.yaml".to_owned(),
            format!("{HEAD}attributes:\n{}", attribute("a.key", "text", "privacy: internal")),
        ),
        ("two.yaml".to_owned(), format!("{HEAD}events:\n{}", event("a.b", "      - ref: unknown.key\n"))),
        ("three.yaml".to_owned(), "groups: []".to_owned()),
        ("four.yaml".to_owned(), format!("{HEAD}attributes: [")),
    ];
    let error = Registry::from_files(&files).unwrap_err();
    let found: Vec<_> = error.problems().iter().map(|one| (one.file.as_str(), one.item.as_str())).collect();
    assert_eq!(
        found,
        [("one.yaml", "a.key"), ("three.yaml", ""), ("four.yaml", ""), ("two.yaml", "a.b")],
        "{error}"
    );
    assert!(error.to_string().starts_with("the registry has 4 problems\n  one.yaml: a.key: "), "{error}");
    assert!(error.problems().iter().all(|problem| !problem.fix.is_empty()));
}

#[test]
fn a_wrong_format_is_refused() {
    let of =
        |text: &str| Registry::from_files(&[("f.yaml".to_owned(), text.to_owned())]).unwrap_err().to_string();
    assert!(of("file_format: definition/1\n").contains("definition/1"));
    assert!(of("attributes: []\n").contains("file_format: definition/2"));
    assert!(of("").contains("definition/2"));
    assert!(of("- a\n- b\n").contains("not a mapping"));
    assert!(of("file_format: definition/2\nevents: {}\n").contains("`events` is not a list"));
}

#[test]
fn hostile_yaml_is_refused_and_not_followed() {
    let deep = format!("{HEAD}events: {}{}", "[".repeat(5_000), "]".repeat(5_000));
    let error = Registry::from_files(&[("deep.yaml".to_owned(), deep)]).unwrap_err();
    assert!(error.to_string().contains("not valid YAML"), "{error}");

    let mut bomb = format!("{HEAD}x0: &x0 [a, a, a, a, a, a, a, a, a, a]\n");
    for level in 1..10 {
        let references = vec![format!("*x{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("x{level}: &x{level} [{references}]\n"));
    }
    let error = Registry::from_files(&[("bomb.yaml".to_owned(), bomb)]).unwrap_err();
    assert!(error.to_string().contains("not valid YAML"), "{error}");
}

#[test]
fn a_yaml_key_that_stands_twice_is_refused() {
    assert!(problems("events: []\nevents: []\n").contains("not valid YAML"));
}

#[test]
fn imports_and_unknown_sections_are_refused() {
    let event = event("a.b", "");
    assert_one_problem(&format!("imports: {{events: [x.*]}}\nevents:\n{event}"), &["`imports`", "copy"]);
    assert_one_problem(&format!("event_refinements: []\nevents:\n{event}"), &["`event_refinements`"]);
    assert_one_problem(&format!("atributes: []\nevents:\n{event}"), &["`atributes`", "misspelling"]);
}

#[test]
fn unknown_words_are_refused_wherever_they_stand() {
    let base = attribute("a.key", "int", "privacy: internal");
    let cases = [
        (
            with_event(&[attribute("a.key", "int", "privacy: internal, consent: x")], &[]),
            "`consent` is not known",
        ),
        (with_event(&[attribute("a.key", "int", "privacy: secret")], &[]), "`privacy` level"),
        (with_event(&[attribute("a.key", "int", "privacy: [internal]")], &[]), "`privacy` level"),
        (with_event(&[base.replace("brief:", "breif:")], &[]), "`breif` is not known"),
        (with_event(&[base.replace("stability: stable", "stability: solid")], &[]), "`stability`"),
        (
            with_event(&[base.replace("annotations: {esker: {privacy: internal}}", "annotations: x")], &[]),
            "mapping",
        ),
        (
            with_event(std::slice::from_ref(&base), &["{ref: a.key, requirement_level: must}"]),
            "`requirement_level`",
        ),
        (
            with_event(
                std::slice::from_ref(&base),
                &["{ref: a.key, requirement_level: conditionally_required}"],
            ),
            "level",
        ),
        (with_event(std::slice::from_ref(&base), &["{ref: a.key, level: required}"]), "`level` is not known"),
        (
            with_event(
                std::slice::from_ref(&base),
                &["{ref: a.key, annotations: {esker: {same_column_as: b}}}"],
            ),
            "`same_column_as` is not known",
        ),
        (with_event(std::slice::from_ref(&base), &["{ref_group: g, ref: a.key}"]), "not one `ref`"),
        (with_event(&[], &[]).replace("category: product", "category: fun"), "`category`"),
        (with_event(&[], &[]).replace("category: product", "kind: product"), "`kind` is not known"),
        (with_event(&[], &[]).replace("annotations: {esker: {category: product}}", "note: x"), "category"),
        (with_event(&[base.replace("brief:", "deprecated: {reason: old}, brief:")], &[]), "`deprecated`"),
        (
            format!(
                "{}attribute_groups: [{{id: g, visibility: secret}}]\n",
                with_event(std::slice::from_ref(&base), &[])
            ),
            "`visibility`",
        ),
    ];
    for (text, expected) in cases {
        let told = problems(&text);
        assert!(told.contains(expected), "`{expected}` is not in: {told}");
    }
}

#[test]
fn unknown_types_and_broken_enums_are_refused() {
    let of =
        |ty: &str| problems(&with_event(&[attribute("a.key", ty, "privacy: internal")], &["ref: a.key"]));
    for ty in ["text", "'int[][]'", "'template[template[int]]'", "'any[]'", "'template[]'", "7"] {
        assert!(of(ty).contains("test.yaml: a.key: "), "{}", of(ty));
        assert_eq!(of(ty).matches("\n").count(), 1, "told once, not again by the ref: {}", of(ty));
    }
    assert!(of("{members: []}").contains("no members"));
    assert!(of("{members: [{id: a, value: true, stability: stable}]}").contains("boolean"));
    assert!(
        of("{members: [{id: a, value: 1.5, stability: stable}]}").contains("neither text nor an integer")
    );
    assert!(
        of("{members: [{id: a, value: 1, stability: stable}, {id: b, value: x, stability: stable}]}")
            .contains("mixes")
    );
    assert!(
        of("{members: [{id: a, value: x, stability: stable}, {id: b, value: x, stability: stable}]}")
            .contains("same value")
    );
    assert!(
        of("{members: [{id: a, value: x, stability: stable}, {id: a, value: y, stability: stable}]}")
            .contains("twice")
    );
    assert!(of("{members: [{id: a, value: x}]}").contains("stability"));
}

#[test]
fn names_with_spaces_values_or_capitals_are_not_events() {
    for name in [
        "order placed.x",
        "order",
        "Order.placed",
        "order..placed",
        ".order",
        "order.",
        "order.é",
        "x.hello-bob",
    ] {
        let told = problems(&format!("events:\n{}", event(&format!("'{name}'"), "")));
        assert!(told.contains("not that of an event"), "{name}: {told}");
    }
    let longest = format!("a.{}", "b".repeat(254));
    assert!(load(&format!("events:\n{}", event(&longest, ""))).is_ok());
    assert!(load(&format!("events:\n{}", event(&format!("{longest}b"), ""))).is_err());
}

#[test]
fn keys_that_no_sdk_sends_are_refused() {
    for key in ["a b", "a..b", ".a", "a.", "a/b", "ä", "a$b"] {
        let told = problems(&with_event(&[attribute(&format!("'{key}'"), "int", "privacy: public")], &[]));
        assert!(told.contains("not one that SDKs send"), "{key}: {told}");
    }
    let key = "k".repeat(255);
    assert!(load(&with_event(&[attribute(&key, "int", "privacy: public")], &[])).is_ok());
    assert!(load(&with_event(&[attribute(&format!("{key}k"), "int", "privacy: public")], &[])).is_err());
}

#[test]
fn an_attribute_without_a_level_is_refused_used_or_not() {
    let bare = "  - {key: a.key, type: string, stability: stable, brief: Something.}\n".to_owned();
    assert!(
        problems(&with_event(std::slice::from_ref(&bare), &["ref: a.key"]))
            .contains("`a.key` has no privacy level")
    );
    assert!(problems(&with_event(&[bare], &[])).contains("no event that uses it gives one"));
}

#[test]
fn duplicates_are_refused_across_files() {
    let one = with_event(&[attribute("a.key", "int", "privacy: internal")], &["ref: a.key", "ref: a.key"]);
    let text = format!("{HEAD}{one}attribute_groups: [{{id: g, visibility: internal}}]\n");
    let error = Registry::from_files(&[("one.yaml".to_owned(), text.clone()), ("two.yaml".to_owned(), text)])
        .unwrap_err();
    let told = error.to_string();
    for expected in [
        "two.yaml: a.key: the attribute is defined twice, also in one.yaml",
        "two.yaml: g: the group is declared twice, also in one.yaml",
        "two.yaml: shop.order.placed: the event is declared twice",
        "refers to `a.key` twice",
    ] {
        assert!(told.contains(expected), "`{expected}` is not in: {told}");
    }
}

#[test]
fn groups_in_a_circle_are_told_with_their_path() {
    let text = format!(
        "attribute_groups:\n\
         \x20 - {{id: a, visibility: internal, attributes: [{{ref_group: b}}]}}\n\
         \x20 - {{id: b, visibility: internal, attributes: [{{ref_group: a}}]}}\nevents:\n{}",
        event("x.y", "      - ref_group: a\n")
    );
    let told = problems(&text);
    assert!(told.contains("test.yaml: b: its groups go in a circle: a -> b -> a"), "{told}");
    assert_eq!(told.lines().count(), 2, "{told}");
}

#[test]
fn a_mistake_in_a_group_is_told_once_however_many_events_use_it() {
    let text = format!(
        "attribute_groups: [{{id: g, visibility: internal, attributes: [{{ref: unknown.key}}]}}]\nevents:\n{}{}",
        event("x.one", "      - ref_group: g\n"),
        event("x.two", "      - ref_group: g\n")
    );
    assert_one_problem(&text, &["test.yaml: g: refers to `unknown.key`"]);
}

#[test]
fn unknown_groups_and_groups_that_overlap_are_refused() {
    let text = format!(
        "attributes:\n{}attribute_groups:\n\
         \x20 - {{id: a, visibility: internal, attributes: [{{ref: k.k}}]}}\n\
         \x20 - {{id: b, visibility: internal, attributes: [{{ref: k.k}}]}}\nevents:\n{}",
        attribute("k.k", "int", "privacy: public"),
        event("x.y", "      - ref_group: a\n      - ref_group: b\n      - ref_group: c\n")
    );
    let told = problems(&text);
    assert!(told.contains("two of its groups refer to `k.k`; the second is `b`"), "{told}");
    assert!(told.contains("refers to the group `c`, which no file declares"), "{told}");
}

#[test]
fn keys_that_would_share_a_column_must_say_so() {
    let dotted = attribute("a.id", "int", "privacy: internal");
    assert_one_problem(
        &with_event(&[dotted.clone(), attribute("a_id", "int", "privacy: internal")], &[]),
        &["a_id", "its column `a_id` is also that of `a.id`", "same_column_as: a.id"],
    );
    assert_one_problem(
        &with_event(&[dotted.clone(), attribute("A.Id", "int", "privacy: internal")], &[]),
        &["its column `a_id` is also that of"],
    );
    let alias = |target: &str, ty: &str| {
        attribute("a_id", ty, &format!("privacy: internal, same_column_as: {target}"))
    };
    assert_one_problem(
        &with_event(&[dotted.clone(), alias("a.id", "string")], &[]),
        &["type is not that of `a.id`"],
    );
    assert_one_problem(
        &with_event(&[attribute("b.id", "int", "privacy: internal"), alias("b.id", "int")], &[]),
        &["is not that of `b.id`", "remove `same_column_as`"],
    );
    assert_one_problem(&with_event(&[alias("c.id", "int")], &[]), &["`c.id`, which no file defines"]);
    assert!(problems(&with_event(&[alias("a_id", "int")], &[])).contains("points elsewhere"));
}

#[test]
fn json_text_and_plain_text_do_not_share_a_column() {
    let attributes = [
        attribute("a.b", "any", "privacy: internal"),
        attribute("a_b", "string", "privacy: internal, same_column_as: a.b"),
    ];
    assert_one_problem(&with_event(&attributes, &[]), &["type is not that of `a.b`"]);
}

#[test]
fn pseudonyms_and_plain_values_do_not_share_a_column() {
    let attributes = [attribute("user.id", "string", "privacy: pseudonymous")];
    let refined = "{ref: user.id, annotations: {esker: {privacy: internal}}}";
    let text = format!(
        "{}{}",
        with_event(&attributes, &["ref: user.id"]),
        event("x.y", &format!("      - {refined}\n"))
    );
    assert_one_problem(&text, &["user.id", "pseudonyms of some events and plain values of others"]);

    let keys = [
        attribute("user.id", "string", "privacy: pseudonymous"),
        attribute("user_id", "string", "privacy: internal, same_column_as: user.id"),
    ];
    assert_one_problem(&with_event(&keys, &[]), &["pseudonyms of some events"]);
    // A stricter level stores nothing, so it may stand beside.
    let dropped = refined.replace("internal", "personal");
    let text = format!(
        "{}{}",
        with_event(&attributes, &["ref: user.id"]),
        event("x.y", &format!("      - {dropped}\n"))
    );
    assert!(load(&text).is_ok());
}

#[test]
fn names_of_the_envelope_and_of_engines_are_refused() {
    for key in ENVELOPE_COLUMNS {
        assert_one_problem(
            &with_event(&[attribute(&key.replace('_', "."), "string", "privacy: public")], &[]),
            &["is one that every event fills"],
        );
    }
    for key in ["pos", "file.path", "_file", "_hidden", "-x", "filename"] {
        assert_one_problem(
            &with_event(&[attribute(&format!("'{key}'"), "string", "privacy: public")], &[]),
            &["keeps for itself"],
        );
    }
    assert_one_problem(
        &with_event(&[attribute("3d.model", "string", "privacy: public")], &[]),
        &["start with a digit"],
    );
}

#[test]
fn a_template_that_makes_a_key_ambiguous_is_refused() {
    let template = attribute("http.header", "'template[string]'", "privacy: internal");
    let inside = attribute("http.header.host", "string", "privacy: internal");
    assert_one_problem(
        &with_event(&[template.clone(), inside], &[]),
        &["http.header.host", "template `http.header`"],
    );
    let nested = attribute("http.header.x", "'template[int]'", "privacy: internal");
    assert_one_problem(
        &with_event(&[template.clone(), nested], &[]),
        &["http.header.x", "template `http.header`"],
    );
    let beside = attribute("http.headers", "string", "privacy: internal");
    assert!(load(&with_event(&[template, beside], &[])).is_ok());
}

#[test]
fn a_registry_without_events_is_refused() {
    assert_one_problem(
        &format!("attributes:\n{}", attribute("a.key", "int", "privacy: public")),
        &["no file declares an event"],
    );
}

// Folders.

#[test]
fn a_folder_is_read_in_any_division_without_the_manifest() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("deeper")).unwrap();
    let attributes = format!("{HEAD}attributes:\n{}", attribute("a.key", "int", "privacy: public"));
    std::fs::write(folder.path().join("deeper/attributes.yml"), attributes).unwrap();
    std::fs::write(
        folder.path().join("events.yaml"),
        format!("{HEAD}events:\n{}", event("a.b", "      - ref: a.key\n")),
    )
    .unwrap();
    std::fs::write(folder.path().join("manifest.yaml"), "name: x\n").unwrap();
    std::fs::write(folder.path().join("README.md"), "Not YAML.").unwrap();
    let registry = Registry::load(folder.path()).unwrap();
    assert_eq!((registry.attributes().len(), registry.events().len()), (1, 1));
}

#[test]
fn folders_that_are_missing_empty_or_not_text_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("nowhere");
    assert!(Registry::load(&missing).unwrap_err().to_string().contains("nowhere"));
    assert!(Registry::load(folder.path()).unwrap_err().to_string().contains("holds no .yaml"));
    std::fs::write(folder.path().join("bad.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    let told = Registry::load(folder.path()).unwrap_err().to_string();
    assert!(told.contains("bad.yaml: cannot be read as UTF-8"), "{told}");
}

// The version.

#[test]
fn the_version_follows_what_is_stored_and_nothing_else() {
    let attributes =
        [attribute("a.key", "int", "privacy: internal"), attribute("b.key", "string", "privacy: public")];
    let text = with_event(&attributes, &["ref: a.key", "ref: b.key"]);
    let version = |text: &str| load(text).unwrap().version().to_owned();
    let base = version(&text);
    assert_eq!(base.len(), 12);
    assert!(base.bytes().all(|byte| byte.is_ascii_hexdigit()));

    let (first, second) = text.split_once("events:").unwrap();
    let files = [
        ("z.yaml".to_owned(), format!("{HEAD}# A comment.\n{first}")),
        ("a.yaml".to_owned(), format!("{HEAD}events:{second}")),
    ];
    assert_eq!(Registry::from_files(&files).unwrap().version(), base, "the division into files");
    assert_eq!(version(&text.replace("Something.", "Another brief.")), base);
    assert_eq!(version(&text.replace("stability: stable", "stability: beta")), base);
    let turned = with_event(&[attributes[1].clone(), attributes[0].clone()], &["ref: b.key", "ref: a.key"]);
    assert_eq!(version(&turned), base, "the order");

    let changes = [
        text.replace("type: int", "type: double"),
        text.replace("privacy: internal", "privacy: public"),
        text.replace("ref: a.key", "{ref: a.key, requirement_level: required}"),
        text.replace("ref: a.key", "{ref: a.key, annotations: {esker: {privacy: personal}}}"),
        text.replace("shop.order.placed", "shop.order.sent"),
        text.replace("category: product", "category: security"),
        text.replace("a.key", "c.key"),
        text.replace("      - ref: a.key\n", ""),
    ];
    let versions: BTreeSet<_> = changes.iter().map(|text| version(text)).chain([base]).collect();
    assert_eq!(versions.len(), changes.len() + 1, "every change has its own version");
}

// The registry of the first user.

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Event name to attribute keys, as Flagsmith's own catalogue has them.
fn catalogue() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join("tests/fixtures/flagsmith-events.tsv")).unwrap();
    let row = |line: &str| {
        let mut cells = line.split('\t');
        let name = cells.next().unwrap().to_owned();
        let keys = cells.nth(1).unwrap_or_default();
        (name, keys.split(',').filter(|key| !key.is_empty()).map(str::to_owned).collect())
    };
    text.lines().skip(1).map(row).collect()
}

#[test]
fn the_shipped_registry_has_exactly_the_events_of_the_catalogue() {
    let registry = Registry::load(&root().join("schemas")).unwrap();
    let names: BTreeSet<_> = registry.events().iter().map(|event| event.name.clone()).collect();
    assert_eq!(names.len(), 90);
    assert_eq!(names, catalogue().into_keys().collect());
    assert!(registry.notices().is_empty(), "{:?}", registry.notices());
}

#[test]
fn the_shipped_registry_declares_every_attribute_of_every_event() {
    let registry = Registry::load(&root().join("schemas")).unwrap();
    for (name, keys) in catalogue() {
        let declared = uses(&registry, find(&registry, &name));
        for key in &keys {
            assert!(declared.contains_key(key.as_str()), "{name} lacks {key}");
        }
        if keys.contains("exc_info") {
            assert!(declared.contains_key("exception"), "{name} lacks what exc_info becomes on the wire");
        }
        for session in
            ["amplitude.user_id", "amplitude.device_id", "amplitude.session_id", "flagsmith.event", "user.id"]
        {
            assert!(declared.contains_key(session), "{name} lacks {session}");
        }
    }
}

#[test]
fn the_shipped_registry_declares_nothing_that_no_event_uses() {
    let registry = Registry::load(&root().join("schemas")).unwrap();
    let used: BTreeSet<usize> =
        registry.events().iter().flat_map(|event| &event.attributes).map(|used| used.attribute).collect();
    assert_eq!(used.len(), registry.attributes().len());
}

#[test]
fn the_shipped_registry_stores_no_value_that_tells_of_a_person_or_a_secret() {
    let registry = Registry::load(&root().join("schemas")).unwrap();
    let dropped = [
        "exception",
        "exc_info",
        "headers",
        "payload",
        "url",
        "path",
        "s3.key",
        "environment.key",
        "environment_api_key",
        "sentry_response_body",
        "redirect_uris",
        "user_agent",
        "client.name",
        "error_description",
        "error_message",
        "token.issuer",
        "gitlab_instance_url",
    ];
    let pseudonymised = [
        "user.id",
        "amplitude.user_id",
        "amplitude.device_id",
        "amplitude.session_id",
        "token.sub",
        "gitlab.project.path",
        "gitlab_project.path",
        "subscription.id",
    ];
    for event in registry.events() {
        let uses = uses(&registry, event);
        for key in dropped.iter().filter_map(|key| uses.get(key)) {
            assert!(key.privacy >= PrivacyLevel::Personal, "{}", event.name);
        }
        for key in pseudonymised.iter().filter_map(|key| uses.get(key)) {
            assert_eq!(key.privacy, PrivacyLevel::Pseudonymous, "{}", event.name);
        }
    }
    // The one attribute whose meaning depends on the event: a code here, the text of an exception there.
    let level = |event: &str| uses(&registry, find(&registry, event))["error"].privacy;
    assert_eq!(level("oauth2_metadata.registration.rejected"), PrivacyLevel::Internal);
    assert_eq!(level("sentry_change_tracking.request_failure"), PrivacyLevel::Sensitive);
}

#[test]
fn the_shipped_registry_joins_the_keys_that_mean_the_same() {
    let registry = Registry::load(&root().join("schemas")).unwrap();
    for (name, keys) in [
        ("organisation_id", ["organisation.id", "organisation_id"]),
        ("project_id", ["project.id", "project_id"]),
        ("environment_id", ["environment.id", "environment_id"]),
        ("segment_id", ["segment.id", "segment_id"]),
        ("gitlab_project_path", ["gitlab.project.path", "gitlab_project.path"]),
    ] {
        assert_eq!(column(&registry, name).keys, keys);
    }
    assert_eq!(column(&registry, "organisation_id").ty, ColumnType::Long);
    assert_eq!(column(&registry, "amplitude_session_id").ty, ColumnType::String);
}

#[test]
fn the_shipped_registry_trusts_only_the_server_s_own_numbers() {
    let registry = Registry::load(&root().join("schemas")).unwrap();
    for attribute in registry.attributes() {
        // A number that arrives as text came from baggage; where the server itself may send text, nothing can be told.
        let is_number = attribute.ty == AttributeType::Scalar(Primitive::Int);
        let trusts = is_number && attribute.key != "environment_id";
        assert_eq!(attribute.trust == Trust::Server, trusts, "{}", attribute.key);
    }
}
