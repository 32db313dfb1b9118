//! The data map as a document: a record of processing that a privacy officer can read and file.
//!
//! Owns: its sections, their order and their words; consent has a file of its own. Does not own: any fact in it (`privacy::DataMap`).

mod consent;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::privacy::{DataMap, Destination, MappedAttribute, MappedEvent};

/// From this many events on, what all of them carry is told once and not in each.
const COMMON_FROM: usize = 3;

const CATEGORIES: [(&str, &str); 3] = [
    ("product", "What users do with the product, to understand and improve it"),
    ("operational", "How the service fares, to run and repair it"),
    ("security", "Access and abuse, to protect users and the service"),
];

const LEVELS: [(&str, &str); 5] = [
    ("public", "May be shown to anyone"),
    ("internal", "About the business, not about a person"),
    ("pseudonymous", "Identifies a person or device"),
    ("personal", "Personal data, or text that may hold some"),
    ("sensitive", "Secrets and special categories of personal data; no configuration can keep them"),
];

/// By the first word of a treatment; the rest is its parameter.
const TREATMENTS: [(&str, &str); 7] = [
    (
        "keep",
        "The value itself. Kept text is scanned, and what looks like an e-mail address or a secret is masked",
    ),
    (
        "pseudonymise",
        "A keyed code (HMAC-SHA256) in place of the value: equal values stay equal, and without the key nobody can tell which value it was. It remains personal data for whoever holds the key",
    ),
    (
        "mask",
        "The value without what the scan finds in it (or the named classes of that), each replaced with the name of its class",
    ),
    ("truncate_ip", "The network of an IP address: /24 of an IPv4 address, /48 of an IPv6 address"),
    ("coarsen", "A number down to a multiple of the given one, or a time down to its day or month"),
    ("keep_domain", "The domain of an e-mail address"),
    ("drop", "Nothing. The value is discarded in memory, before anything is written"),
];

/// What each column of the envelope holds.
const ENVELOPE: [(&str, &str); 14] = [
    ("event_id", "The event's id, from the sender or computed with a key"),
    ("event_name", "Which event it is, as declared here"),
    ("category", "What the event is for, as declared here"),
    ("event_time", "When it happened, by the sender's clock"),
    ("received_time", "When it was received"),
    ("service_name", "The program that sent it"),
    ("service_version", "Its version"),
    ("scope_name", "The part of the program that emitted it"),
    ("severity", "One of six words, trace to fatal"),
    (
        "trace_id",
        "The request that it belongs to, a random number; joins events of one request, also with traces kept elsewhere",
    ),
    ("span_id", "The step of that request, a random number"),
    ("consent", "The decision on consent under which it is kept; empty where no rule asks for one"),
    ("consent_basis", "What decided on the consent; empty where no rule asks for one"),
    ("policy_version", "The version of this policy that let it pass"),
];

/// The whole document.
pub(super) fn document(map: &DataMap) -> String {
    let common = common(map);
    let mut text = String::new();
    head(&mut text, map);
    categories(&mut text, map);
    consent::section(&mut text, map);
    levels(&mut text, map);
    storage(&mut text, map);
    routes(&mut text, map);
    safeguards(&mut text);
    personal_data(&mut text, map);
    envelope(&mut text, map);
    if !common.is_empty() {
        text.push_str("\n## Carried by every event\n\nEach event may carry these, besides what its own table lists.\n\n");
        attribute_table(&mut text, &common);
    }
    for (category, purpose) in CATEGORIES {
        let events: Vec<_> = map.events.iter().filter(|event| event.category == category).collect();
        if events.is_empty() {
            continue;
        }
        // Writing to a String cannot fail.
        writeln!(text, "\n## Events: {category}\n\n{purpose}.").ok();
        for one in events {
            event(&mut text, one, &common);
        }
    }
    text
}

fn head(text: &mut String, map: &DataMap) {
    let tables: Vec<String> = map.tables.iter().map(|table| code(&table.name)).collect();
    writeln!(text, "# Record of processing: events in {}\n", tables.join(", ")).ok();
    text.push_str(
        "What Esker receives, what it keeps, and in which form. It is made by `esker catalogue` from the registry and the\n\
         configuration that the service enforces; it is not edited by hand. What stands here is decided in memory, before\n\
         anything is written to a disk. **Whatever is not listed here is not stored.**\n\n",
    );
    let stored = map.events.iter().filter(|event| event.stored).count();
    let treated = |treatment: &str| {
        let keys = map.uses().filter(|(_, one)| {
            one.treatments.get(&Destination::Warehouse).is_some_and(|one| word(one) == treatment)
        });
        keys.map(|(_, one)| one.key.as_str()).collect::<BTreeSet<_>>().len()
    };
    text.push_str("| | |\n|---|---|\n");
    writeln!(
        text,
        "| Policy version | {} (column `policy_version` of each row) |",
        code(&map.policy_version)
    )
    .ok();
    writeln!(text, "| Registry version | {} |", code(&map.registry_version)).ok();
    writeln!(text, "| Events | {}, of which {stored} are stored |", map.events.len()).ok();
    writeln!(text, "| Attributes | {} |", map.keys().len()).ok();
    writeln!(text, "| kept as they are | {} |", treated("keep")).ok();
    let reduced = ["mask", "truncate_ip", "coarsen", "keep_domain"].map(treated).iter().sum::<usize>();
    writeln!(text, "| kept in part | {reduced} |").ok();
    writeln!(text, "| kept as pseudonyms | {} |", treated("pseudonymise")).ok();
    writeln!(text, "| received and never stored | {} |", treated("drop")).ok();
    if map.uses().map(|(_, one)| (&one.key, &one.level)).collect::<BTreeSet<_>>().len() > map.keys().len() {
        text.push_str(
            "\nSome attributes have another level on some events, and count in two lines here and below.\n",
        );
    }
}

fn categories(text: &mut String, map: &DataMap) {
    text.push_str("\n## Categories\n\n| Category | What it is for | Events |\n|---|---|---:|\n");
    for (category, purpose) in CATEGORIES {
        let count = map.events.iter().filter(|event| event.category == category).count();
        writeln!(text, "| {category} | {purpose} | {count} |").ok();
    }
}

fn levels(text: &mut String, map: &DataMap) {
    text.push_str("\n## Levels and treatments\n\nEach attribute has a level; the level decides the treatment at each destination.\n\n");
    let mut titles = vec!["Level".to_owned(), "Meaning".to_owned()];
    titles.extend(Destination::ALL.map(title));
    titles.extend(["Decided by", "Attributes"].map(str::to_owned));
    row(text, &titles);
    row(text, &titles.iter().map(|_| "---".to_owned()).collect::<Vec<_>>());
    for level in &map.levels {
        let meaning = LEVELS.iter().find(|(name, _)| *name == level.level).map_or("", |(_, meaning)| meaning);
        let keys: BTreeSet<_> =
            map.uses().filter(|(_, one)| one.level == level.level).map(|(_, one)| &one.key).collect();
        let mut cells = vec![level.level.clone(), meaning.to_owned()];
        cells.extend(treatments(&level.treatments));
        cells.push(rules(&level.rules));
        cells.push(keys.len().to_string());
        row(text, &cells);
    }
    text.push_str(
        "\nWhat `schemas/` names for an attribute holds over the policy of its level; of that and a table's own policy, the stricter\n\
         holds. The column *Decided by* of each attribute names the rule.\n",
    );
    text.push_str(
        "\nA value that cannot be read as the attribute's type is dropped. *Server only* in an attribute's notes: callers can write\n\
         attributes into a service's events (W3C baggage), always as text; what should be a number and is text is dropped.\n",
    );
    text.push_str("\n| Treatment | What is left of the value |\n|---|---|\n");
    for (treatment, meaning) in TREATMENTS {
        writeln!(text, "| {treatment} | {meaning} |").ok();
    }
}

fn storage(text: &mut String, map: &DataMap) {
    text.push_str(
        "\n## Where it is stored, and for how long\n\n| Table | Location | Kept |\n|---|---|---|\n",
    );
    for table in &map.tables {
        let kept = table.retention.as_deref().unwrap_or("without limit: no retention is configured");
        writeln!(text, "| {} | {} | {} |", code(&table.name), code(&table.warehouse), plain(kept)).ok();
    }
    text.push_str(
        "\nUntil a row is in its table it waits in the write-ahead log, a file on the server's disk, in the same treated form.\n\
         The column Amplitude tells what the policy lets leave for Amplitude; this version of Esker sends nothing there.\n",
    );
}

/// Which events go to which table.
fn routes(text: &mut String, map: &DataMap) {
    let primary = map.tables.first().map(|table| code(&table.name)).unwrap_or_default();
    if map.routes.is_empty() {
        writeln!(text, "\nEvery event goes to {primary}.").ok();
        return;
    }
    text.push_str("\nThe first route that matches decides where an event goes.\n\n");
    text.push_str(
        "| Route | Category | Events | Resource | Consent | Goes to |\n|---:|---|---|---|---|---|\n",
    );
    for (number, route) in (1..).zip(&map.routes) {
        let any = || "any".to_owned();
        let events: Vec<String> = route.events.iter().map(|event| code(event)).collect();
        let resource = route.resource.as_ref();
        let cells = [
            number.to_string(),
            route.category.clone().unwrap_or_else(any),
            if events.is_empty() { any() } else { events.join(", ") },
            resource.map_or_else(any, |one| format!("{} is {}", code(&one.key), code(&one.value))),
            route.consent.clone().unwrap_or_else(any),
            route.table.as_deref().map_or_else(|| "**nowhere: dropped**".to_owned(), code),
        ];
        row(text, &cells);
    }
    let cells = ["", "any", "any", "any", "any", primary.as_str()].map(str::to_owned);
    row(text, &cells);
}

/// The measures that hold whatever the policy says, and what a program cannot know.
fn safeguards(text: &mut String) {
    text.push_str(
        "\n## Safeguards\n\n\
         - What is not declared here, and what is to be dropped, is discarded in memory. It reaches no disk, log, error message or\n  \
           metric.\n\
         - Pseudonyms are made with a secret key. It stands in no table and no log, and its file can be read by the service's user\n  \
           only, or it is handed over in an environment variable.\n\
         - A record may ask for a stricter level than the one here, never for a looser one.\n\
         - Only a few words, ids and times of a record itself are kept besides its attributes, and only where they look like what\n  \
           they should be.\n\
         - Each row names the version of the policy under which it was stored.\n\
         \nNot in this document, because the service does not know it: the controller, the legal basis of each purpose, who reads the\n\
         warehouse, and how access to it is protected.\n",
    );
}

/// What identifies or concerns people, in one list.
fn personal_data(text: &mut String, map: &DataMap) {
    let mut found: BTreeMap<(&str, &str), (&MappedAttribute, usize)> = BTreeMap::new();
    for (_, one) in map.uses() {
        if !matches!(one.level.as_str(), "public" | "internal") {
            found.entry((&one.key, &one.level)).or_insert((one, 0)).1 += 1;
        }
    }
    text.push_str("\n## Personal data and secrets\n\n");
    if found.is_empty() {
        text.push_str("None is declared.\n");
        return;
    }
    text.push_str("Every attribute that identifies or concerns a person, or is a secret. All others describe things.\n\n");
    let mut titles = vec!["Attribute".to_owned(), "What it is".to_owned(), "Level".to_owned()];
    titles.extend(Destination::ALL.map(title));
    titles.push("Events".to_owned());
    row(text, &titles);
    row(text, &titles.iter().map(|_| "---".to_owned()).collect::<Vec<_>>());
    let order = |level: &str| LEVELS.iter().position(|(name, _)| *name == level);
    let mut found: Vec<_> = found.into_values().collect();
    found.sort_by_key(|(one, _)| (order(&one.level), one.key.clone()));
    for (one, events) in found {
        let mut cells = vec![code(&one.key), plain(&one.brief), one.level.clone()];
        cells.extend(treatments(&one.treatments));
        cells.push(if events == map.events.len() { "all".to_owned() } else { events.to_string() });
        row(text, &cells);
    }
}

fn envelope(text: &mut String, map: &DataMap) {
    text.push_str("\n## Columns of every row\n\nTaken from the record itself, not from its attributes.\n\n");
    text.push_str("| Column | What it holds |\n|---|---|\n");
    for column in &map.envelope {
        let meaning = ENVELOPE.iter().find(|(name, _)| name == column).map_or("", |(_, meaning)| meaning);
        writeln!(text, "| {} | {meaning} |", code(column)).ok();
    }
}

fn event(text: &mut String, event: &MappedEvent, common: &[&MappedAttribute]) {
    writeln!(text, "\n### {}\n\n{}", code(&event.name), plain(&event.brief)).ok();
    if !event.stored {
        writeln!(text, "\n**Not stored**: the event as a whole is {}.", event.level).ok();
    } else if event.level != "public" {
        writeln!(text, "\nThe event as a whole is {}: each of its attributes is at least that.", event.level)
            .ok();
    }
    consent::of_event(text, event);
    let is_common = |one: &MappedAttribute| common.iter().any(|known| same_use(known, one));
    let own: Vec<&MappedAttribute> = event.attributes.iter().filter(|one| !is_common(one)).collect();
    text.push('\n');
    if own.is_empty() {
        text.push_str(if common.is_empty() {
            "No attributes.\n"
        } else {
            "Nothing besides what every event carries.\n"
        });
        return;
    }
    attribute_table(text, &own);
}

/// What every event carries in the same way.
fn common(map: &DataMap) -> Vec<&MappedAttribute> {
    let Some((first, others)) = map.events.split_first().filter(|_| map.events.len() >= COMMON_FROM) else {
        return Vec::new();
    };
    let mut common: Vec<&MappedAttribute> = Vec::new();
    for key in first.attributes.iter().map(|one| &one.key) {
        let uses: Option<Vec<&MappedAttribute>> = std::iter::once(first)
            .chain(others)
            .map(|event| event.attributes.iter().find(|one| one.key == *key))
            .collect();
        // The weakest use stands for all; an event that needs it, or treats it otherwise, lists it again.
        let Some(uses) = uses else { continue };
        let weakest = uses.iter().find(|one| one.requirement == "optional").or(uses.first());
        common.extend(weakest.copied());
    }
    common
}

fn same_use(left: &MappedAttribute, right: &MappedAttribute) -> bool {
    left.key == right.key
        && left.level == right.level
        && left.requirement == right.requirement
        && left.treatments == right.treatments
}

fn attribute_table(text: &mut String, attributes: &[&MappedAttribute]) {
    let mut titles: Vec<String> =
        ["Attribute", "What it is", "Column", "Type", "Level", "Needed"].map(str::to_owned).into();
    titles.extend(Destination::ALL.map(title));
    titles.extend(["Decided by", "Notes"].map(str::to_owned));
    row(text, &titles);
    row(text, &titles.iter().map(|_| "---".to_owned()).collect::<Vec<_>>());
    for one in attributes {
        let is_stored = one.treatments.get(&Destination::Warehouse).is_some_and(|one| one != "drop");
        let needed = if one.requirement == "required" { "yes" } else { "" };
        let mut cells = vec![code(&one.key), plain(&one.brief)];
        cells.push(if is_stored { code(&one.column) } else { "–".to_owned() });
        cells.extend([one.ty.clone(), one.level.clone(), needed.to_owned()]);
        cells.extend(treatments(&one.treatments));
        cells.push(rules(&one.rules));
        cells.push(notes(one, is_stored));
        row(text, &cells);
    }
}

fn notes(attribute: &MappedAttribute, is_stored: bool) -> String {
    let mut notes = Vec::new();
    if !attribute.members.is_empty() {
        let members: Vec<String> = attribute.members.iter().map(|member| code(member)).collect();
        notes.push(format!("one of {}", members.join(", ")));
    }
    if attribute.trust == "server" {
        notes.push("server only".to_owned());
    }
    if attribute.treatments.values().any(|treatment| treatment == "pseudonymise")
        && !attribute.normalise.is_empty()
    {
        notes.push(format!("before the pseudonym is made: {}", attribute.normalise.join(", ")));
    }
    // Masking is the rule, so that only the exceptions are worth a word.
    match attribute.leaks.as_deref() {
        Some("drop") if is_stored => notes.push("dropped as a whole if it holds a leak".to_owned()),
        Some("quarantine") if is_stored => {
            notes.push("its event is set aside if it holds a leak".to_owned());
        }
        _ => {}
    }
    for (table, own) in &attribute.tables {
        if Some(&own.treatment) != attribute.treatments.get(&Destination::Warehouse) {
            notes.push(format!("in {}: {} ({})", code(table), plain(&own.treatment), plain(&own.rule)));
        }
    }
    notes.join("; ")
}

/// The rules behind treatments, each once; the destination stands beside one that does not hold for all.
fn rules(rules: &BTreeMap<Destination, String>) -> String {
    let mut named: Vec<&String> = Vec::new();
    for rule in Destination::ALL.iter().filter_map(|destination| rules.get(destination)) {
        if !named.contains(&rule) {
            named.push(rule);
        }
    }
    named.into_iter().map(|rule| plain(rule)).collect::<Vec<_>>().join("; ")
}

/// A treatment's name without its parameter.
fn word(treatment: &str) -> &str {
    treatment.split(' ').next().unwrap_or(treatment)
}

fn treatments(treatments: &BTreeMap<Destination, String>) -> impl Iterator<Item = String> {
    Destination::ALL.map(|one| treatments.get(&one).map_or("drop", String::as_str).to_owned()).into_iter()
}

fn title(destination: Destination) -> String {
    match destination {
        Destination::Warehouse => "Warehouse".to_owned(),
        Destination::Amplitude => "Amplitude".to_owned(),
    }
}

fn row(text: &mut String, cells: &[String]) {
    writeln!(text, "| {} |", cells.join(" | ")).ok();
}

/// Text that stays text in a table's cell.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '*' | '`' | '[' | ']' | '\\' => out.extend(['\\', c]),
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A name in code font. A pipe would end the cell, and a back-tick the font.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('`', "'").replace('|', "\\|").replace(|c: char| c.is_control(), " "))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::privacy::{Gate, GateOptions, MappedTable};
    use crate::registry::{ENVELOPE_COLUMNS, Registry};
    use crate::secret::Keyring;

    fn map_of(registry: Registry) -> DataMap {
        let gate = Gate::new(
            Arc::new(registry),
            &Keyring::from_secrets(&[7; 32], &[7; 32], &[7; 32]),
            GateOptions::default(),
        )
        .unwrap();
        let table = MappedTable {
            name: "product.events".to_owned(),
            warehouse: "file:///data".to_owned(),
            ..MappedTable::default()
        };
        DataMap::of(&gate, vec![table])
    }

    fn shipped() -> DataMap {
        map_of(Registry::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")).unwrap())
    }

    /// A registry of one event, whose brief tries to break the table.
    fn small(event: &str, brief: &str) -> DataMap {
        let file = format!(
            "file_format: definition/2\nattributes:\n  - {{key: a, type: string, stability: stable, brief: {brief:?}, \
             annotations: {{esker: {{privacy: internal, leaks: drop}}}}}}\nevents:\n  - {{name: a.b, stability: stable, \
             brief: x, annotations: {{esker: {{category: product{event}}}}}, attributes: [{{ref: a}}]}}\n"
        );
        map_of(Registry::from_files(&[("a.yaml".to_owned(), file)]).unwrap())
    }

    #[test]
    fn every_event_and_attribute_is_in_the_document() {
        let (map, text) = (shipped(), document(&shipped()));
        for event in &map.events {
            assert!(text.contains(&format!("\n### `{}`\n", event.name)), "{}", event.name);
        }
        for key in map.keys() {
            assert!(text.contains(&format!("| `{key}` |")), "{key}");
        }
        assert!(text.contains(&map.policy_version) && text.contains("product.events"));
        assert!(text.contains("no retention is configured"));
    }

    #[test]
    fn every_row_of_a_table_has_as_many_cells_as_its_head() {
        let consent = crate::privacy::consent_datamap_for_tests();
        for text in [document(&shipped()), document(&consent), document(&small("", "a | b `c` <d> \\ *e*"))] {
            let mut cells = None;
            for line in text.lines() {
                if !line.starts_with('|') {
                    cells = None;
                    continue;
                }
                let count = line.replace("\\|", "").matches('|').count();
                assert_eq!(*cells.get_or_insert(count), count, "{line}");
            }
        }
    }

    #[test]
    fn personal_data_is_listed_with_what_becomes_of_it() {
        let text = document(&shipped());
        let section =
            text.split("## Personal data and secrets").nth(1).unwrap().split("\n## ").next().unwrap();
        let line =
            |key: &str| section.lines().find(|line| line.contains(&format!("`{key}`"))).unwrap().to_owned();
        assert!(line("user.id").contains("| pseudonymous | pseudonymise | pseudonymise | all |"));
        assert!(line("exception").contains("| sensitive | drop | drop |"));
        assert!(!section.contains("`organisation.id`"));
    }

    #[test]
    fn a_sensitive_event_and_a_stricter_one_say_so() {
        assert!(document(&small(", privacy: sensitive", "x")).contains("**Not stored**"));
        assert!(
            document(&small(", privacy: pseudonymous", "x")).contains("The event as a whole is pseudonymous")
        );
        assert!(document(&small("", "x")).contains("dropped as a whole if it holds a leak"));
    }

    #[test]
    fn each_column_of_the_envelope_has_a_meaning() {
        for column in ENVELOPE_COLUMNS {
            assert!(ENVELOPE.iter().any(|(name, _)| *name == column), "{column}");
        }
    }

    #[test]
    fn the_document_names_rules_routes_and_what_other_tables_do() {
        let text = document(&crate::privacy::datamap_for_tests());
        let line = |part: &str| text.lines().find(|line| line.contains(part)).unwrap_or_default().to_owned();
        let mail = line("`a.mail` | An address. | `a_mail`");
        assert!(
            mail.contains(
                "| pseudonymise | drop | privacy.policy.warehouse.personal; default for personal in"
            ),
            "{mail}"
        );
        assert!(mail.contains("in `eu.events`: drop (tables.policy.personal of eu.events)"), "{mail}");
        assert!(mail.contains("trim, lowercase"), "{mail}");
        assert!(line("`a.ip` | A client. | `a_ip`").contains("treatment in schemas/"));
        assert!(text.contains("| 1 | security | `b.*` | `region` is `eu` | any | `eu.events` |"), "{text}");
        assert!(text.contains("| 2 | any | `b.failed` | any | any | **nowhere: dropped** |"));
        assert!(document(&shipped()).contains("Every event goes to `product.events`."));
    }

    #[test]
    fn the_document_says_what_events_are_for_and_what_happens_without_consent() {
        let text = document(&crate::privacy::consent_datamap_for_tests());
        for said in [
            "| marketing |  | 1 |",
            "| statistics | `C0002` | 1 |",
            "| none: no consent is asked for |  | 1 |",
            "| product | statistics | consent.purposes.product | drop | strip_identity |",
            "with consent to the purpose orders. Events of which nothing says whether it was given may go there",
            "| `c.left` | `user.id` | consent is withdrawn |",
            "| security | safety | purposes of the category in schemas/ | drop | store |",
            "Purposes: marketing, orders (purposes in schemas/).",
            "Purposes: none: needs no consent (purposes in schemas/).",
            "By this event the person in `user.id` gives consent again.",
            "`opted.*`",
            "*Global Privacy Control* refuses marketing.",
        ] {
            assert!(text.contains(said), "{said}\n{text}");
        }
        assert!(!text.contains("`ad_storage`"), "that source is off");
        assert!(document(&shipped()).contains("No event is declared by which somebody withdraws consent"));
        let old = DataMap { consent: None, ..shipped() };
        assert!(document(&old).contains("did not write down consent"));
    }

    #[test]
    fn each_level_category_and_treatment_of_the_map_has_a_meaning() {
        let map = shipped();
        for level in &map.levels {
            assert!(LEVELS.iter().any(|(name, _)| *name == level.level));
            for treatment in level.treatments.values() {
                assert!(TREATMENTS.iter().any(|(name, _)| *name == word(treatment)), "{treatment}");
            }
        }
        for event in &map.events {
            assert!(CATEGORIES.iter().any(|(name, _)| *name == event.category));
        }
    }
}
