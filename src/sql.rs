//! What a data team runs in its own engine: set-up, one view for each declared event, and useful queries, as text.
//!
//! Owns: the SQL of six engines, the names of views, which attribute plays which role. Does not own: where the tables are (the caller
//! says it in a [`Lake`]), what is declared and what becomes of it (`privacy::DataMap`), how the text is printed. Pure: nothing is
//! read, nothing is run, and a secret can only be a placeholder because none comes in.
//!
//! The way of a script: `roles` chooses the attributes that queries need -> `names` gives each view its name -> `setup`, `views` and
//! `queries` write their sections in one `dialect`. Every statement ends with `;` at the end of a line, and nothing else does.

mod dialect;
mod lake;
mod names;
mod queries;
mod roles;
mod setup;
#[cfg(test)]
mod tests;
mod types;
mod views;

use std::fmt::Write as _;

use crate::columns::Layout;
use crate::privacy::{DataMap, MappedAttribute, MappedEvent};

pub use dialect::Engine;
pub use lake::{Auth, Catalog, Lake, LakeTable, Storage};
pub use roles::RoleOptions;
pub use types::{TypeMapping, mapping};

use names::Names;
use roles::Roles;

/// Longest line of a comment.
const WIDTH: usize = 110;

/// Which part of the script is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Secrets, integrations, tables.
    Setup,
    /// Views.
    Views,
    /// Queries.
    Queries,
    /// Everything, in this order.
    All,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// For which engine.
    pub engine: Engine,
    /// Which part.
    pub section: Section,
    /// The schema (a dataset, a database) that the views go to.
    pub schema: String,
    /// What plays which role in the queries.
    pub roles: RoleOptions,
}

/// Why there is no script.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The schema's name needs no quotes anywhere, so that people can type it.
    #[error("--schema {0}: use lower case letters, digits and _, starting with a letter, at most 60 of them")]
    Schema(String),
    /// No event of the table stores the attribute.
    #[error("--{role} {key}: no event stores such an attribute in this table; {hint}")]
    Attribute {
        /// The option.
        role: &'static str,
        /// What was given.
        key: String,
        /// What could be meant.
        hint: String,
    },
    /// No such event is stored.
    #[error("--{role} {name}: no such event is declared and stored; {hint}")]
    Event {
        /// The option.
        role: &'static str,
        /// What was given.
        name: String,
        /// What could be meant.
        hint: String,
    },
}

/// The script.
///
/// # Errors
/// Where an option names what is not there.
pub fn script(map: &DataMap, layout: &Layout, lake: &Lake, options: &Options) -> Result<String, SqlError> {
    check_schema(&options.schema)?;
    let roles = Roles::choose(map, &lake.events.name, &options.roles)?;
    let names = Names::new(map, layout, lake);
    let script = Script { engine: options.engine, schema: &options.schema, map, layout, lake, roles, names };
    let mut text = script.head(options.section);
    let wants = |section| options.section == section || options.section == Section::All;
    if wants(Section::Setup) {
        setup::write(&script, &mut text);
    }
    if wants(Section::Views) {
        views::write(&script, &mut text);
    }
    if wants(Section::Queries) {
        queries::write(&script, &mut text);
    }
    Ok(text)
}

fn check_schema(schema: &str) -> Result<(), SqlError> {
    let plain = schema.starts_with(|c: char| c.is_ascii_lowercase())
        && schema.len() <= 60
        && schema.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if plain { Ok(()) } else { Err(SqlError::Schema(schema.to_owned())) }
}

/// Everything that the sections are written from.
#[derive(Debug)]
struct Script<'a> {
    engine: Engine,
    schema: &'a str,
    map: &'a DataMap,
    layout: &'a Layout,
    lake: &'a Lake,
    roles: Roles<'a>,
    names: Names<'a>,
}

impl Script<'_> {
    fn head(&self, section: Section) -> String {
        let engine = self.engine;
        let mut text = String::new();
        comment(
            &mut text,
            &format!(
                "Esker, {}: the table {} at {}, registry {}, policy {}.",
                engine.label(),
                self.lake.events.name,
                self.lake.events.location,
                self.map.registry_version,
                self.map.policy_version,
            ),
        );
        comment(
            &mut text,
            "Made by `esker sql`. Run it again after a change of schemas/: views are replaced, all else stays.",
        );
        if section == Section::All || section == Section::Setup {
            comment(
                &mut text,
                "No secret is in this text: <...> stands where you put your own value. A script without such a place runs as it is.",
            );
        }
        text
    }

    /// The full name of an event's view, or of a table beside the views.
    fn view(&self, name: &str) -> String {
        let name = if names::is_own(name) { name.to_owned() } else { self.engine.ident(name) };
        self.engine.qualified(self.schema, &name)
    }

    /// The events that have a row in this table, with the attributes of which something is stored there.
    fn stored_events(&self) -> impl Iterator<Item = &MappedEvent> {
        self.map.events.iter().filter(|event| event.stored)
    }

    fn is_stored(&self, attribute: &MappedAttribute) -> bool {
        is_stored(attribute, &self.lake.events.name)
    }
}

/// True where something of the attribute reaches the table.
fn is_stored(attribute: &MappedAttribute, table: &str) -> bool {
    attribute.treatment_in(table) != "drop"
}

/// Writes a section's title.
fn title(text: &mut String, name: &str) {
    // Writing to a String cannot fail.
    writeln!(text, "\n-- {}\n-- {name}\n-- {}", "=".repeat(76), "=".repeat(76)).ok();
}

/// Writes a comment, each line of which begins with `--` and none of which ends with `;`.
fn comment(text: &mut String, sentence: &str) {
    for line in wrapped(sentence, WIDTH) {
        writeln!(text, "-- {line}").ok();
    }
}

/// The words on lines of at most `width` characters; a longer word has a line of its own.
fn wrapped(sentence: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in sentence.split_whitespace() {
        if let Some(line) = lines.last_mut() {
            if line.is_empty() {
                line.push_str(word);
                continue;
            }
            if line.chars().count() + 1 + word.chars().count() <= width {
                line.push(' ');
                line.push_str(word);
                continue;
            }
        }
        lines.push(word.to_owned());
    }
    // A `;` at the end of a line is the end of a statement.
    for line in &mut lines {
        if line.ends_with(';') {
            line.pop();
            line.push(',');
        }
    }
    lines
}

/// The text on one line, without control characters: a brief comes from a file that people write.
fn one_line(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches(';').to_owned()
}
