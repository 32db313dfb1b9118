//! What one policy does that another does not, and how that is told.
//!
//! Owns: the report of a comparison (its JSON is an interface) and its text. Does not own: finding the differences. Names of
//! events and attributes appear only where one of the two policies declares them; values never do.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context;
use serde::Serialize;

use super::super::mixed::MixedColumn;
use super::policies::{Stored, throw_away_keys};
use crate::privacy::{DataMap, Gate, MappedAttribute};

/// One of the two policies.
#[derive(Debug)]
pub(super) struct Side {
    /// None where there is no policy: nothing is declared.
    pub(super) gate: Option<Gate>,
    pub(super) map: DataMap,
}

impl Side {
    /// The policy that was in force; one that declares nothing, where there was none.
    pub(super) fn of(stored: Option<&Stored>) -> anyhow::Result<Self> {
        let Some(stored) = stored else { return Ok(Self { gate: None, map: nothing() }) };
        let gate = stored
            .map
            .restore(&throw_away_keys()?)
            .with_context(|| format!("the baseline {}", stored.from))?;
        Ok(Self { gate: Some(gate), map: stored.map.clone() })
    }

    /// What is assumed of the policy where its map does not tell.
    pub(super) fn assumptions(&self) -> Option<String> {
        let is_silent = !self.map.format.is_empty() && self.map.consent.is_none();
        is_silent.then(|| {
            "the baseline was written by a version that did not write down consent: it is compared as if it had this version's \
             defaults, no purposes on events and no withdrawals"
                .to_owned()
        })
    }

    /// An attribute, as an event uses it.
    pub(super) fn used(&self, event: &str, key: &str) -> Option<&MappedAttribute> {
        let event = self.map.events.iter().find(|one| one.name == event)?;
        event.attributes.iter().find(|one| one.key == key)
    }
}

/// A map in which nothing is declared.
fn nothing() -> DataMap {
    use crate::privacy::MappedSettings;
    DataMap {
        format: String::new(),
        policy_version: String::new(),
        registry_version: String::new(),
        settings: MappedSettings {
            future_max_ms: 0,
            age_max_ms: 0,
            value_bytes_max: 0,
            level_attribute: String::new(),
            category_attribute: String::new(),
            tenant_attribute: None,
            quarantine_broken: false,
            quarantine_undeclared: false,
        },
        levels: Vec::new(),
        tables: Vec::new(),
        routes: Vec::new(),
        consent: None,
        envelope: Vec::new(),
        events: Vec::new(),
    }
}

/// What was compared, and what differs.
#[derive(Debug, Default, Serialize)]
pub(super) struct Comparison {
    /// As given.
    pub(super) target: String,
    /// `samples` or `table`.
    pub(super) kind: &'static str,
    /// The policy that was in force; None where none was found, so that everything is new.
    pub(super) baseline: Option<Baseline>,
    /// The policy of the configuration.
    pub(super) policy_version: String,
    /// Records of the samples; 0 for a table.
    pub(super) records: u64,
    /// Records that both policies reject, for example because they are too old: they show no difference.
    pub(super) rejected_by_both: u64,
    /// Differences of events.
    pub(super) events: Vec<EventChange>,
    /// Differences of attributes.
    pub(super) attributes: Vec<AttributeChange>,
    /// Columns of the table that rows would no longer fill. They stay, as nulls.
    pub(super) columns_no_longer_filled: Vec<String>,
    /// Columns that the table would get.
    pub(super) columns_new: Vec<String>,
    /// Columns that hold plain values and would get pseudonyms, or the other way round.
    pub(super) mixed_columns: Vec<MixedColumn>,
    /// Why a start would be refused.
    pub(super) refusals: Vec<String>,
    /// What the comparison cannot tell.
    pub(super) notes: Vec<String>,
}

/// Which policy was in force.
#[derive(Debug, Serialize)]
pub(super) struct Baseline {
    pub(super) policy_version: String,
    /// Where it was found.
    pub(super) from: String,
}

/// A difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Change {
    /// Was not stored, and would be.
    NewlyKept,
    /// Was stored, and would not be.
    NewlyDropped,
    /// Would be set aside, and was not.
    NewlyQuarantined,
    /// Another part of it would be stored.
    Treatment,
    /// Its declared type is another one.
    Type,
    /// Would be stored in another table.
    Table,
    /// Its purposes, or what becomes of it without consent, are others.
    Consent,
    /// Is not stored in either case, for different reasons.
    Reason,
    /// Is declared now.
    New,
    /// Is not declared any more.
    Removed,
}

impl Change {
    fn as_str(self) -> &'static str {
        match self {
            Self::NewlyKept => "newly kept",
            Self::NewlyDropped => "newly dropped",
            Self::NewlyQuarantined => "newly quarantined",
            Self::Treatment => "treatment",
            Self::Type => "type",
            Self::Table => "table",
            Self::Consent => "consent",
            Self::Reason => "reason",
            Self::New => "new",
            Self::Removed => "removed",
        }
    }
}

/// An event that is dealt with otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct EventChange {
    pub(super) change: Change,
    pub(super) event: String,
    pub(super) before: String,
    pub(super) after: String,
    /// Records of the samples that show it; 0 for a table.
    pub(super) count: u64,
}

/// An attribute of an event that is dealt with otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct AttributeChange {
    pub(super) change: Change,
    pub(super) event: String,
    pub(super) attribute: String,
    pub(super) before: String,
    pub(super) after: String,
    /// Records of the samples that show it; 0 for a table.
    pub(super) count: u64,
}

/// Counts differences that are alike.
#[derive(Debug, Default)]
pub(super) struct Counter {
    events: BTreeMap<(Change, String, String, String), u64>,
    attributes: BTreeMap<(Change, String, String, String, String), u64>,
}

impl Counter {
    pub(super) fn event(&mut self, change: Change, event: &str, before: &str, after: &str, count: u64) {
        let key = (change, event.to_owned(), before.to_owned(), after.to_owned());
        *self.events.entry(key).or_default() += count;
    }

    pub(super) fn attribute(
        &mut self,
        change: Change,
        (event, attribute): (&str, &str),
        (before, after): (&str, &str),
        count: u64,
    ) {
        let key = (change, event.to_owned(), attribute.to_owned(), before.to_owned(), after.to_owned());
        *self.attributes.entry(key).or_default() += count;
    }

    pub(super) fn into_changes(self) -> (Vec<EventChange>, Vec<AttributeChange>) {
        let event =
            |((change, event, before, after), count)| EventChange { change, event, before, after, count };
        let attribute = |((change, event, attribute, before, after), count)| AttributeChange {
            change,
            event,
            attribute,
            before,
            after,
            count,
        };
        (self.events.into_iter().map(event).collect(), self.attributes.into_iter().map(attribute).collect())
    }
}

/// The report for people.
pub(super) fn text(comparison: &Comparison) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    match &comparison.baseline {
        Some(baseline) => {
            writeln!(text, "policy {} compared with {}", comparison.policy_version, baseline.policy_version)
                .ok();
            writeln!(text, "  that one is from {}", baseline.from).ok();
        }
        None => {
            writeln!(text, "policy {} compared with nothing", comparison.policy_version).ok();
            text.push_str("  no earlier policy was found, so everything is new; name one with --baseline\n");
        }
    }
    if comparison.kind == "samples" {
        writeln!(text, "  {} records in {}", comparison.records, comparison.target).ok();
    }
    if comparison.rejected_by_both > 0 {
        writeln!(text, "  {} of them are rejected by both and show nothing", comparison.rejected_by_both)
            .ok();
    }
    let times = |count: u64| if count == 0 { String::new() } else { format!("  ({count} records)") };
    for one in &comparison.events {
        let EventChange { change, event, before, after, count } = one;
        writeln!(text, "{:<18} {event}: {before} -> {after}{}", change.as_str(), times(*count)).ok();
    }
    for one in &comparison.attributes {
        let AttributeChange { change, event, attribute, before, after, count } = one;
        writeln!(text, "{:<18} {event} {attribute}: {before} -> {after}{}", change.as_str(), times(*count))
            .ok();
    }
    for (what, columns) in
        [("no longer filled", &comparison.columns_no_longer_filled), ("new column", &comparison.columns_new)]
    {
        for column in columns {
            writeln!(text, "{what:<18} {column}").ok();
        }
    }
    for mixed in &comparison.mixed_columns {
        writeln!(text, "{:<18} {mixed}", "mixed column").ok();
    }
    for refusal in &comparison.refusals {
        writeln!(text, "{:<18} {refusal}", "refused").ok();
    }
    for note in &comparison.notes {
        writeln!(text, "note: {note}").ok();
    }
    if comparison.is_empty() {
        text.push_str("no difference\n");
    }
    text
}

impl Comparison {
    fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.attributes.is_empty()
            && self.columns_no_longer_filled.is_empty()
            && self.columns_new.is_empty()
            && self.mixed_columns.is_empty()
            && self.refusals.is_empty()
    }
}
