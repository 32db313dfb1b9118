//! The views: all events, all events once, what is declared, one view for each event, what was set aside.
//!
//! Owns: their columns, their comments, and how each engine is told a comment. Does not own: where the table is read from (`setup`).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::names::{DECLARED, EVENTS, QUARANTINE, UNIQUE, WITHDRAWALS};
use super::{Engine, Script, WIDTH, comment, one_line, setup, title};
use crate::columns::{TableColumn, quarantine, withdrawals};
use crate::privacy::{MappedAttribute, MappedEvent};
use crate::registry::ENVELOPE_COLUMNS;

/// Longest comment of a view or a column, in characters: BigQuery takes 1,024 of a column.
const COMMENT_CHARS_MAX: usize = 1000;

const ABOUT_UNIQUE: &str = "A row is there twice only where a client sent it again and another replica took it, after a crash or a time-out. Copies agree on id, name \
     and time; of these the first received stays. All three are in PARTITION BY, so that a filter on event_name or event_time still keeps \
     an engine from reading the whole history.";

/// The column that numbers the copies of an event.
const COPY: &str = "esker_copy";

/// A view.
struct View {
    name: String,
    comment: String,
    columns: Vec<ViewColumn>,
    /// What follows the list of columns.
    from: String,
}

/// A column of a view.
struct ViewColumn {
    /// As it is written in SQL.
    name: String,
    /// What it is computed from, where that is not its name.
    expression: Option<String>,
    /// None where it is told elsewhere.
    comment: Option<String>,
}

pub(super) fn write(script: &Script<'_>, text: &mut String) {
    title(text, &format!("Views in {}", script.schema));
    comment(
        text,
        &format!(
            "The views are read where the table is: they hold no rows. Filter on event_time, by which the table is partitioned (by UTC \
             day), and an engine reads only those days. {} is that day.",
            script.names.date
        ),
    );
    create(script, text, "", &events(script));
    create(script, text, ABOUT_UNIQUE, &unique(script));
    if let Some(view) = declared(script) {
        create(script, text, "", &view);
    }
    if let Some(table) = &script.lake.quarantine {
        let about = "Events that broke their contract; event_time is when they were received. `esker quarantine list` shows them too.";
        let view = beside(script, QUARANTINE, about, &quarantine::columns(), &setup::relation(script, table));
        create(script, text, "", &view);
    }
    if let Some(table) = &script.lake.withdrawals {
        let about = "Who withdrew consent, and who gave it again; event_time is when that was received.";
        let view =
            beside(script, WITHDRAWALS, about, &withdrawals::columns(), &setup::relation(script, table));
        create(script, text, "", &view);
    }
    writeln!(text).ok();
    comment(text, "One view for each declared event, with the columns that its attributes fill.");
    for event in &script.map.events {
        if event.stored {
            create(script, text, &missing(script, event), &of_event(script, event));
        } else {
            writeln!(text).ok();
            comment(
                text,
                &format!("{} has no view: it is too sensitive to be stored.", one_line(&event.name)),
            );
        }
    }
}

fn events(script: &Script<'_>) -> View {
    let mut columns: Vec<_> =
        script.layout.columns().iter().map(|column| table_column(script, column)).collect();
    columns.push(date(script));
    View {
        name: EVENTS.to_owned(),
        comment: format!("All events of {}, as stored.", script.lake.events.name),
        columns,
        from: format!("FROM {}", setup::relation(script, &script.lake.events)),
    }
}

fn unique(script: &Script<'_>) -> View {
    let names: Vec<_> = script.layout.columns().iter().map(|column| name(script, &column.name)).collect();
    let mut list = names.clone();
    list.push(script.names.date.to_owned());
    let columns =
        list.iter().map(|name| ViewColumn { name: name.clone(), expression: None, comment: None }).collect();
    let from = format!(
        "FROM (\n  SELECT\n    *,\n    ROW_NUMBER() OVER (PARTITION BY event_id, event_name, event_time ORDER BY received_time) AS {COPY}\n  \
         FROM {}\n) AS copies\nWHERE {COPY} = 1",
        script.view(EVENTS)
    );
    View {
        name: UNIQUE.to_owned(),
        comment: "All events, each once: the first received.".to_owned(),
        columns,
        from,
    }
}

/// What the registry declares, as rows; None where it declares nothing that is stored.
fn declared(script: &Script<'_>) -> Option<View> {
    let engine = script.engine;
    let mut rows = Vec::new();
    for event in script.stored_events() {
        let literals = [
            &event.name,
            &event.category,
            &event.level,
            script.names.event(&event.name),
            &one_line(&event.brief),
        ]
        .map(|item| engine.text(item));
        rows.push(literals.to_vec());
    }
    let names = ["event_name", "category", "privacy_level", "view_name", "brief"];
    let first = rows.first_mut()?;
    for (literal, name) in first.iter_mut().zip(names) {
        *literal = format!("{literal} AS {name}");
    }
    let selects: Vec<_> = rows.iter().map(|row| format!("  SELECT {}", row.join(", "))).collect();
    Some(View {
        name: DECLARED.to_owned(),
        comment: "The events that the registry declares, with their views.".to_owned(),
        columns: names
            .iter()
            .map(|name| ViewColumn { name: (*name).to_owned(), expression: None, comment: None })
            .collect(),
        from: format!("FROM (\n{}\n) AS declared", selects.join("\n  UNION ALL\n")),
    })
}

/// A view of a table that Esker keeps beside that of the events.
fn beside(script: &Script<'_>, view: &str, about: &str, columns: &[TableColumn], relation: &str) -> View {
    let mut columns: Vec<_> = columns.iter().map(|column| table_column(script, column)).collect();
    columns.push(date(script));
    View { name: view.to_owned(), comment: about.to_owned(), columns, from: format!("FROM {relation}") }
}

fn of_event(script: &Script<'_>, event: &MappedEvent) -> View {
    let mut columns: Vec<ViewColumn> = ENVELOPE_COLUMNS
        .iter()
        .map(|name| ViewColumn { name: (*name).to_owned(), expression: None, comment: None })
        .collect();
    columns.push(ViewColumn { name: script.names.date.to_owned(), expression: None, comment: None });
    // Two keys may fill one column.
    let mut by_column: BTreeMap<&str, Vec<&MappedAttribute>> = BTreeMap::new();
    for attribute in event.attributes.iter().filter(|one| script.is_stored(one)) {
        by_column.entry(&attribute.column).or_default().push(attribute);
    }
    for (column, attributes) in by_column {
        columns.push(ViewColumn {
            name: script.engine.ident(column),
            expression: None,
            comment: Some(attribute_comment(script, &attributes)),
        });
    }
    View {
        name: script.names.event(&event.name).to_owned(),
        comment: format!(
            "{} Event {}, category {}, level {}.",
            sentence(&event.brief),
            event.name,
            event.category,
            event.level
        ),
        columns,
        from: format!("FROM {}\nWHERE event_name = {}", script.view(EVENTS), script.engine.text(&event.name)),
    }
}

/// Says which attributes of an event have no column, and why; nothing where all have one.
fn missing(script: &Script<'_>, event: &MappedEvent) -> String {
    let left_out: Vec<_> = event
        .attributes
        .iter()
        .filter(|attribute| !script.is_stored(attribute))
        .map(|attribute| format!("{} ({})", one_line(&attribute.key), attribute.level))
        .collect();
    if left_out.is_empty() {
        return String::new();
    }
    format!("{}: not stored, by policy: {}.", one_line(&event.name), left_out.join(", "))
}

fn attribute_comment(script: &Script<'_>, attributes: &[&MappedAttribute]) -> String {
    let table = &script.lake.events.name;
    let keys: Vec<_> = attributes.iter().map(|one| one.key.as_str()).collect();
    let brief = attributes.first().map(|one| sentence(&one.brief)).unwrap_or_default();
    let mut levels: Vec<_> = attributes
        .iter()
        .map(|one| match one.treatment_in(table) {
            "keep" => one.level.clone(),
            "pseudonymise" => format!("{}, stored as a pseudonym", one.level),
            treatment => format!("{}, stored after {treatment}", one.level),
        })
        .collect();
    levels.dedup();
    let is_json =
        |one: &&MappedAttribute| one.ty == "any" || one.ty.ends_with("[]") || one.ty.starts_with("template");
    let json = if attributes.iter().any(is_json) { " JSON text." } else { "" };
    let comment = format!("{brief}{json} Attribute {}; {}.", keys.join(", "), levels.join("; "));
    comment.trim().to_owned()
}

/// A text that ends like a sentence, or nothing.
fn sentence(text: &str) -> String {
    let text = one_line(text);
    if text.is_empty() || text.ends_with(['.', '!', '?']) { text } else { format!("{text}.") }
}

/// A column's name as SQL has it: the envelope's plain, others in quotes.
fn name(script: &Script<'_>, column: &str) -> String {
    let is_plain = ENVELOPE_COLUMNS.contains(&column)
        || quarantine::columns().iter().any(|own| own.name == column)
        || withdrawals::columns().iter().any(|own| own.name == column);
    if is_plain { column.to_owned() } else { script.engine.ident(column) }
}

fn table_column(script: &Script<'_>, column: &TableColumn) -> ViewColumn {
    ViewColumn { name: name(script, &column.name), expression: None, comment: Some(one_line(&column.doc)) }
}

fn date(script: &Script<'_>) -> ViewColumn {
    ViewColumn {
        name: script.names.date.to_owned(),
        expression: Some(script.engine.utc_day("event_time")),
        comment: Some("The UTC day of event_time.".to_owned()),
    }
}

/// Writes the statements that make a view and tell what it is, below a comment where there is something to say.
fn create(script: &Script<'_>, text: &mut String, note: &str, view: &View) {
    let engine = script.engine;
    let full = script.view(&view.name);
    let about = engine.text(&short(&view.comment));
    let head = match engine {
        Engine::DuckDb | Engine::ClickHouse => format!("CREATE OR REPLACE VIEW {full} AS"),
        Engine::Trino => format!("CREATE OR REPLACE VIEW {full}\nCOMMENT {about}\nSECURITY INVOKER AS"),
        Engine::Snowflake => {
            format!("CREATE OR REPLACE VIEW {full} (\n{}\n)\nCOMMENT = {about}\nAS", listed(engine, view))
        }
        Engine::Spark => {
            format!("CREATE OR REPLACE VIEW {full} (\n{}\n)\nCOMMENT {about}\nAS", listed(engine, view))
        }
        Engine::BigQuery => {
            format!(
                "CREATE OR REPLACE VIEW {full} (\n{}\n)\nOPTIONS (description = {about})\nAS",
                listed(engine, view)
            )
        }
    };
    let tail = match engine {
        Engine::ClickHouse => format!("\nCOMMENT {about}"),
        _ => String::new(),
    };
    writeln!(text).ok();
    if !note.is_empty() {
        comment(text, note);
    }
    writeln!(text, "{head}\nSELECT\n{}\n{}{tail};", selected(script, view), view.from).ok();
    if engine == Engine::DuckDb {
        writeln!(text, "COMMENT ON VIEW {full} IS {about};").ok();
        for column in &view.columns {
            if let Some(comment) = &column.comment {
                let comment = engine.text(&short(comment));
                writeln!(text, "COMMENT ON COLUMN {full}.{} IS {comment};", column.name).ok();
            }
        }
    }
}

/// The columns with their comments, where an engine takes them in front of the query.
fn listed(engine: Engine, view: &View) -> String {
    let items = view.columns.iter().map(|column| {
        let told = column.comment.as_ref().map(|comment| match engine {
            Engine::BigQuery => format!(" OPTIONS (description = {})", engine.text(&short(comment))),
            _ => format!(" COMMENT {}", engine.text(&short(comment))),
        });
        Item {
            packs: told.is_none(),
            sql: format!("{}{}", column.name, told.unwrap_or_default()),
            comment: None,
        }
    });
    laid_out(items.collect())
}

/// The columns of the query; where an engine takes no comments of columns, they stand behind each.
fn selected(script: &Script<'_>, view: &View) -> String {
    let tells = matches!(script.engine, Engine::Trino | Engine::ClickHouse);
    let items = view.columns.iter().map(|column| {
        let comment = column.comment.as_deref().filter(|_| tells);
        match &column.expression {
            Some(expression) => {
                Item { packs: false, sql: format!("{expression} AS {}", column.name), comment }
            }
            None => Item { packs: comment.is_none(), sql: column.name.clone(), comment },
        }
    });
    laid_out(items.collect())
}

/// An item of a list of columns.
struct Item<'a> {
    sql: String,
    /// It may share its line with others.
    packs: bool,
    comment: Option<&'a str>,
}

/// A list of columns, with what needs no line of its own packed together.
fn laid_out(items: Vec<Item<'_>>) -> String {
    let last = items.len().saturating_sub(1);
    let (mut lines, mut open) = (Vec::<String>::new(), false);
    for (place, item) in items.into_iter().enumerate() {
        let comma = if place == last { "" } else { "," };
        let told = item.comment.map(|comment| format!("  -- {comment}")).unwrap_or_default();
        let text = format!("{}{comma}{told}", item.sql);
        match lines.last_mut() {
            Some(line) if open && item.packs && line.len() + 1 + text.len() <= WIDTH => {
                line.push(' ');
                line.push_str(&text);
            }
            _ => lines.push(format!("  {text}")),
        }
        open = item.packs;
    }
    lines.join("\n")
}

fn short(comment: &str) -> String {
    if comment.chars().count() <= COMMENT_CHARS_MAX {
        return comment.to_owned();
    }
    comment.chars().take(COMMENT_CHARS_MAX - 3).chain("...".chars()).collect()
}
