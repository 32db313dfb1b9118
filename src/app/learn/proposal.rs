//! From a drift report to the text of a registry file that a person reviews.
//!
//! Owns: which entries can be declared, what is left out and why, the file's text. Does not own: the suggestions
//! (`suggest`), whether the registry takes it (`crate::registry`, which is asked).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::suggest::{guess_type, suggest_level};
use crate::app::admin::rfc3339;
use crate::drift::{DriftItem, DriftReport, NO_SERVICE};
use crate::privacy::{DriftKind, ValueType, is_hashed_name};
use crate::registry::{Registry, RegistryError};

/// What the registry calls the proposal in its problems.
pub(super) const LABEL: &str = "(proposal)";

/// Attributes that one file proposes, the most frequent ones: more than a person reviews at once.
const ATTRIBUTES_MAX: usize = 500;

/// Services named for one attribute.
const SERVICES_MAX: usize = 3;

const BRIEF: &str = "Proposed by esker learn; describe it before use.";

/// What arrived of one key or event, over services and events.
#[derive(Debug, Clone, Default)]
struct Seen {
    types: BTreeMap<ValueType, u64>,
    count: u64,
    services: BTreeSet<String>,
    since: Option<i64>,
}

/// What the file will say.
#[derive(Debug, Default)]
pub(super) struct Proposal {
    /// New attributes by key.
    attributes: BTreeMap<String, Seen>,
    /// New events by name, with their keys.
    events: BTreeMap<String, (Seen, BTreeSet<String>)>,
    /// Keys that declared events lack.
    pub(super) additions: BTreeMap<String, BTreeSet<String>>,
    /// Names that cannot be declared as they are, and why.
    left_out: BTreeMap<String, String>,
    hashed: BTreeSet<String>,
    beyond_limit: usize,
}

impl Proposal {
    /// Sorts the report's entries into what is new and what is declared elsewhere.
    pub(super) fn of(report: &DriftReport, registry: &Registry) -> Self {
        let mut proposal = Self::default();
        let declared: BTreeSet<&str> = registry.attributes().iter().map(|one| one.key.as_str()).collect();
        for item in &report.entries {
            proposal.item(item, registry, &declared);
        }
        proposal.leave_out_rare();
        proposal.leave_out_column_clashes(registry);
        proposal
    }

    fn item(&mut self, item: &DriftItem, registry: &Registry, declared: &BTreeSet<&str>) {
        let names = [Some(&item.event), item.key.as_ref()];
        if let Some(hashed) = names.into_iter().flatten().find(|name| is_hashed_name(name)) {
            self.hashed.insert(hashed.clone());
            return;
        }
        let event = registry.events().iter().find(|event| event.name == item.event);
        let Some(key) = &item.key else {
            if event.is_none() {
                self.events.entry(item.event.clone()).or_default().0.add(item);
            }
            return;
        };
        match event {
            None if item.kind == DriftKind::EventAttribute => {
                self.events.entry(item.event.clone()).or_default().1.insert(key.clone());
            }
            // The report is older than the registry: the event is gone from it.
            None => return,
            Some(event) => {
                let has_it = |used: &crate::registry::EventAttribute| {
                    registry.attributes().get(used.attribute).is_some_and(|attribute| attribute.key == *key)
                };
                if event.attributes.iter().any(has_it) {
                    return;
                }
                self.additions.entry(item.event.clone()).or_default().insert(key.clone());
            }
        }
        if !declared.contains(key.as_str()) {
            self.attributes.entry(key.clone()).or_default().add(item);
        }
    }

    fn leave_out_rare(&mut self) {
        let mut by_count: Vec<(u64, String)> =
            self.attributes.iter().map(|(key, seen)| (seen.count, key.clone())).collect();
        by_count.sort_by(|left, right| right.0.cmp(&left.0).then_with(|| left.1.cmp(&right.1)));
        for (_, key) in by_count.into_iter().skip(ATTRIBUTES_MAX) {
            self.forget(&key);
            self.beyond_limit += 1;
        }
    }

    /// Two keys of one column need a word of whoever knows whether they mean the same.
    fn leave_out_column_clashes(&mut self, registry: &Registry) {
        let mut owners: BTreeMap<String, String> = registry
            .columns()
            .iter()
            .filter_map(|column| Some((column.name.clone(), column.keys.first()?.clone())))
            .collect();
        let keys: Vec<String> = self.attributes.keys().cloned().collect();
        for key in keys {
            // A key in the report is of lower-case letters, digits, `_` and dots.
            match owners.get(&key.replace('.', "_")) {
                None => {
                    owners.insert(key.replace('.', "_"), key);
                }
                Some(owner) => {
                    let why = format!(
                        "its column is also that of `{owner}`; if both mean the same, declare it with `same_column_as: {owner}`"
                    );
                    self.leave_out(&key, why);
                }
            }
        }
    }

    fn leave_out(&mut self, name: &str, why: String) {
        self.forget(name);
        self.events.remove(name);
        self.left_out.insert(name.to_owned(), why);
    }

    /// Takes a new attribute out, and all refs to it.
    fn forget(&mut self, key: &str) {
        self.attributes.remove(key);
        for (_, keys) in self.events.values_mut() {
            keys.remove(key);
        }
        for keys in self.additions.values_mut() {
            keys.remove(key);
        }
        self.additions.retain(|_, keys| !keys.is_empty());
    }

    /// True where a file is needed: for what no file declares.
    pub(super) fn declares_something(&self) -> bool {
        !self.attributes.is_empty() || !self.events.is_empty()
    }

    /// Leaves out what the registry refuses, until it takes the rest.
    pub(super) fn settle(
        mut self,
        check: impl Fn(&str) -> Result<Registry, RegistryError>,
    ) -> Result<Self, RegistryError> {
        loop {
            let text = self.text();
            let Err(error) = check(&text) else { return Ok(self) };
            let of_proposal = error.problems().iter().filter(|problem| problem.file == LABEL);
            let refused: Vec<(String, String)> = of_proposal
                .filter(|problem| {
                    self.attributes.contains_key(&problem.item) || self.events.contains_key(&problem.item)
                })
                .map(|problem| (problem.item.clone(), problem.what.clone()))
                .collect();
            if refused.is_empty() {
                return Err(error);
            }
            for (name, why) in refused {
                self.leave_out(&name, why);
            }
        }
    }

    /// The file's text.
    pub(super) fn text(&self) -> String {
        let mut text = HEADER.to_owned();
        self.comment_left_out(&mut text);
        text.push_str("\nfile_format: definition/2\n");
        if !self.attributes.is_empty() {
            text.push_str("\nattributes:");
        }
        for (key, seen) in &self.attributes {
            attribute(&mut text, key, seen);
        }
        if !self.events.is_empty() {
            text.push_str("\nevents:");
        }
        for (name, (seen, keys)) in &self.events {
            event(&mut text, name, seen, keys);
        }
        self.comment_additions(&mut text);
        text
    }

    /// What a patch says before its changes: what could not be part of it.
    pub(super) fn preamble(&self) -> String {
        let mut text = String::new();
        self.comment_left_out(&mut text);
        self.comment_additions(&mut text);
        text
    }

    fn comment_left_out(&self, text: &mut String) {
        if !self.declares_something() && self.additions.is_empty() {
            text.push_str("#\n# The drift report holds nothing that could be declared.\n");
        }
        // Writing to a String cannot fail.
        if !self.hashed.is_empty() {
            writeln!(
                text,
                "#\n# Left out, because they may hold values: names, {} of them (`#` and a hash in the drift report). A name is not the\n\
                 # place for a value: send it as an attribute.",
                self.hashed.len()
            )
            .ok();
        }
        if self.beyond_limit > 0 {
            writeln!(
                text,
                "#\n# Left out: {} rarer attributes. Declare these first, then learn again.",
                self.beyond_limit
            )
            .ok();
        }
        for (name, why) in &self.left_out {
            writeln!(text, "#\n# Left out: `{name}`: {}.", one_line(why)).ok();
        }
    }

    fn comment_additions(&self, text: &mut String) {
        if self.additions.is_empty() {
            return;
        }
        text.push_str(
            "\n# These events are declared, and carry what they do not declare. An event is declared in one place, so add to its\n\
             # `attributes` there what it shall keep:\n",
        );
        for (event, keys) in &self.additions {
            writeln!(text, "#\n#   {event}").ok();
            for key in keys {
                writeln!(text, "#     - {}", reference(key)).ok();
            }
        }
    }
}

impl Seen {
    fn add(&mut self, item: &DriftItem) {
        self.count += item.count;
        self.services.insert(item.service.clone().unwrap_or_else(|| NO_SERVICE.to_owned()));
        self.since = Some(self.since.map_or(item.first_seen, |since| since.min(item.first_seen)));
        for (ty, count) in &item.types {
            *self.types.entry(*ty).or_default() += count;
        }
    }

    /// Whence and since when.
    fn origin(&self) -> String {
        let mut services: Vec<&str> = self.services.iter().map(String::as_str).take(SERVICES_MAX).collect();
        if self.services.len() > SERVICES_MAX {
            services.push("others");
        }
        let since = self.since.map_or_else(String::new, |since| format!(" since {}", rfc3339(since)));
        one_line(&format!("from {}{since}", services.join(", ")))
    }
}

const HEADER: &str = "\
# Proposed by `esker learn` for review, from the names and types of what arrived undeclared; no value was looked at.
#
# Before this goes into the registry's folder: delete what shall not be declared, describe the rest, and decide each level
# and type. A level here is a suggestion from the key's words; a type cannot change once its column exists.
# Then run `esker check`.
";

fn attribute(text: &mut String, key: &str, seen: &Seen) {
    let guess = guess_type(&seen.types);
    let (level, why) = suggest_level(key, guess.ty);
    let types: Vec<String> =
        seen.types.iter().map(|(ty, count)| format!("{count} {}", ty.as_str())).collect();
    writeln!(text, "\n  # {}, {}", types.join(", "), seen.origin()).ok();
    if let Some(note) = guess.note {
        writeln!(text, "  # Type: {note}.").ok();
    }
    writeln!(text, "  # Level: {why}.").ok();
    writeln!(text, "  - key: {}", quoted(key)).ok();
    writeln!(text, "    type: {}", guess.ty).ok();
    writeln!(text, "    stability: development\n    brief: {BRIEF}").ok();
    writeln!(text, "    annotations: {{esker: {{privacy: {}}}}}", level.as_str()).ok();
}

fn event(text: &mut String, name: &str, seen: &Seen, keys: &BTreeSet<String>) {
    writeln!(text, "\n  # {} records, {}", seen.count, seen.origin()).ok();
    writeln!(text, "  - name: {}", quoted(name)).ok();
    writeln!(text, "    stability: development\n    requirement_level: recommended\n    brief: {BRIEF}").ok();
    writeln!(text, "    annotations: {{esker: {{category: product}}}}").ok();
    if !keys.is_empty() {
        text.push_str("    attributes:\n");
    }
    for key in keys {
        writeln!(text, "      - {}", reference(key)).ok();
    }
}

/// The item of an event's `attributes` that refers to a key.
pub(super) fn reference(key: &str) -> String {
    format!("{{ref: {}, requirement_level: recommended}}", quoted(key))
}

/// A text as YAML in double quotes, whatever it holds: `null`, `on` and `1e3` are names here. A JSON string is one.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What goes into a comment must not end it.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
