//! Refs are added where people would add them, in every way of writing, and nothing else in a file changes.

use super::*;

const HEAD: &str = "\
# A head that stays.
file_format: definition/2
attributes:
  - {key: a.one, type: string, stability: stable, brief: x, annotations: {esker: {privacy: public}}}
  - {key: a.two, type: string, stability: stable, brief: x, annotations: {esker: {privacy: public}}}
  - {key: a.three, type: string, stability: stable, brief: x, annotations: {esker: {privacy: public}}}
events:
";

const NOTHING: &str = "file_format: definition/2\n";

/// The lines that are taken away and added in a file of these events, of which `x.done` shall get `a.two` and `a.three`.
fn changes(events: &str) -> Option<Vec<String>> {
    let files = vec![("sub/a.yaml".to_owned(), format!("{HEAD}{events}"))];
    assert!(Registry::from_files(&files).is_ok(), "{:?}", Registry::from_files(&files));
    let keys = ["a.two", "a.three"].map(str::to_owned).into();
    let mut additions = Additions::from([("x.done".to_owned(), keys)]);
    let changed = add(&files, &mut additions, NOTHING);
    if !additions.is_empty() {
        assert_eq!(changed, files);
        return None;
    }
    let registry = Registry::from_files(&changed).unwrap();
    let event = registry.events().iter().find(|event| event.name == "x.done").unwrap();
    assert!(event.attributes.len() >= 2);
    let patch = patch(&files, &changed, None);
    assert!(patch.starts_with("--- a/sub/a.yaml\n+++ b/sub/a.yaml\n@@ "), "{patch}");
    let lines = patch.lines().skip(2).filter(|line| line.starts_with(['+', '-']));
    Some(lines.map(str::to_owned).collect())
}

fn refs(indent: &str) -> Vec<String> {
    ["a.three", "a.two"]
        .map(|key| format!("+{indent}- {{ref: \"{key}\", requirement_level: recommended}}"))
        .into()
}

const COMMON: &str = "stability: stable, brief: x, annotations: {esker: {category: product}}";

#[test]
fn a_list_of_dashes_gets_lines_behind_its_last_item() {
    let block = "  - name: x.done\n    stability: stable\n    brief: x\n    annotations: {esker: {category: product}}\n    attributes:\n";
    let next = format!("\n  # The next one.\n  - {{name: y.done, {COMMON}}}\n");
    for (item, indent) in [
        ("      - ref: a.one\n        requirement_level: required\n", "      "),
        ("      - {ref: a.one}  # as it is\n", "      "),
        ("    - ref: a.one\n", "    "),
        (
            "      - ref: a.one\n        note: |\n          Several lines,\n\n          # none of them a comment\n",
            "      ",
        ),
    ] {
        assert_eq!(changes(&format!("{block}{item}{next}")), Some(refs(indent)), "{item}");
        assert_eq!(changes(&format!("{block}{item}")), Some(refs(indent)), "{item} at the end of the file");
    }
    // Keys behind the list belong to the event still.
    let behind = block.replace("    brief: x\n", "");
    assert_eq!(changes(&format!("{behind}      - ref: a.one\n    brief: x\n{next}")), Some(refs("      ")));
}

#[test]
fn a_file_that_does_not_end_its_last_line_is_no_trouble() {
    let events = "  - name: x.done\n    stability: stable\n    brief: x\n    annotations: {esker: {category: product}}\n    \
                  attributes:\n      - ref: a.one";
    let changed = changes(events).unwrap();
    assert_eq!(changed[0], "-      - ref: a.one");
    assert_eq!(changed[2..], refs("      "));
}

#[test]
fn a_list_in_brackets_gets_items_behind_its_last_one() {
    let added = "{ref: \"a.three\", requirement_level: recommended}, {ref: \"a.two\", requirement_level: recommended}";
    for (list, wanted) in [
        ("[{ref: a.one}]", format!("[{{ref: a.one}}, {added}]")),
        (
            "[{ref: a.one, note: \"a ] and a }\"}]",
            format!("[{{ref: a.one, note: \"a ] and a }}\"}}, {added}]"),
        ),
        ("[{ref: a.one, note: 'it''s ]'},]", format!("[{{ref: a.one, note: 'it''s ]'}}, {added}]")),
    ] {
        let line = format!("  - {{name: x.done, {COMMON}, attributes: {list}}}");
        let changed = changes(&format!("{line}\n")).unwrap();
        let wanted = format!("  - {{name: x.done, {COMMON}, attributes: {wanted}}}");
        assert_eq!(changed, [format!("-{line}"), format!("+{wanted}")], "{list}");
    }
}

#[test]
fn an_event_without_attributes_gets_a_list() {
    let block = "  - name: x.done\n    stability: stable\n    brief: x\n    annotations:\n      esker: {category: product}\n";
    let mut wanted = vec!["+    attributes:".to_owned()];
    wanted.extend(refs("      "));
    assert_eq!(changes(block), Some(wanted.clone()));
    assert_eq!(changes(&format!("{block}\n  - {{name: y.done, {COMMON}}}\n")), Some(wanted));
    let line = format!("  - {{name: x.done, {COMMON}}}");
    let changed = changes(&format!("{line}\n")).unwrap();
    assert!(changed[1].ends_with(", attributes: [{ref: \"a.three\", requirement_level: recommended}, {ref: \"a.two\", requirement_level: recommended}]}"), "{changed:?}");
}

#[test]
fn what_would_change_something_else_is_not_placed() {
    // The list is another event's as well, through an alias.
    let events = format!(
        "  - {{name: y.done, {COMMON}, attributes: &list [{{ref: a.one}}]}}\n  - {{name: x.done, {COMMON}, attributes: *list}}\n"
    );
    assert_eq!(changes(&events), None);
    // The key is there already, without an item.
    assert_eq!(changes(&format!("  - {{name: x.done, {COMMON}, attributes: []}}\n")), None);
}

#[test]
fn line_ends_stay_as_they_are() {
    let text = format!("{HEAD}  - name: x.done\n    attributes:\n      - ref: a.one\n").replace('\n', "\r\n");
    let changed = with_refs(&text, "x.done", &["a.two".to_owned()].into()).unwrap();
    assert!(changed.ends_with("- {ref: \"a.two\", requirement_level: recommended}\r\n"), "{changed}");
    assert_eq!(changed.matches('\n').count(), changed.matches("\r\n").count());
}

#[test]
fn every_event_of_the_shipped_registry_can_be_added_to() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let files = Registry::files(&folder).unwrap();
    let registry = Registry::load(&folder).unwrap();
    let proposal = "file_format: definition/2\nattributes:\n  - {key: brand.new, type: string, stability: stable, brief: x, \
                    annotations: {esker: {privacy: public}}}\n";
    let mut changed = files.clone();
    // Some of each file, as each trial reads the whole registry twice.
    let events: Vec<_> = registry.events().iter().step_by(7).map(|event| event.name.clone()).collect();
    for name in &events {
        let mut additions = Additions::from([(name.clone(), ["brand.new".to_owned()].into())]);
        changed = add(&changed, &mut additions, proposal);
        assert!(additions.is_empty(), "{name}");
    }
    let patch = patch(&files, &changed, Some(("learned.yaml", proposal)));
    let lines = |start: &str| patch.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(patch.matches("ref: \"brand.new\"").count(), events.len());
    assert!(lines("--- a/") > 1 && lines("--- /dev/null") == 1, "{patch}");
}

#[test]
fn the_new_file_takes_nobody_s_name() {
    let files = |names: &[&str]| -> Vec<File> {
        names.iter().map(|name| ((*name).to_owned(), String::new())).collect()
    };
    assert_eq!(new_name(&files(&["a.yaml"])), "learned.yaml");
    assert_eq!(new_name(&files(&["learned.yaml", "learned-2.yaml"])), "learned-3.yaml");
}
