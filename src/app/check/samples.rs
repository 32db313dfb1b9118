//! Two policies on the same samples: both gates decide on each record, and what they decide is held against each other.
//!
//! Owns: reading samples, and which decisions differ. Does not own: decisions: the gate of `serve` makes them, once as it was
//! and once as it would be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::difference::{Change, Comparison, Counter, Side};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::privacy::{ExplainedAttribute, ExplainedEvent, explain};
use crate::receive::decode::{NameFallback, RawEvents};
use crate::receive::json;

/// Longest sample file: each is held in memory.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Compares the policies on the OTLP/JSON in a file, or in all `.json` and `.jsonl` files of a folder.
pub(super) fn compare(
    config: &Config,
    before: &Side,
    after: &Side,
    target: &Path,
) -> anyhow::Result<Comparison> {
    let names = NameFallback::new(config.receive.names.clone());
    let now_micros = SystemClock.now_micros();
    let mut found = Found { before, after, counter: Counter::default(), records: 0, rejected_by_both: 0 };
    for file in files(target)? {
        for request in requests(&file)? {
            let raw = RawEvents::decode(&request, &names).with_context(|| file.display().to_string())?;
            let decide = |side: &Side| side.gate.as_ref().map(|gate| explain(gate, &raw, now_micros));
            let was = decide(before).unwrap_or_default();
            for (place, now) in decide(after).unwrap_or_default().iter().enumerate() {
                found.record(was.get(place), now);
            }
        }
    }
    let (events, attributes) = found.counter.into_changes();
    Ok(Comparison {
        kind: "samples",
        policy_version: after.map.policy_version.clone(),
        records: found.records,
        rejected_by_both: found.rejected_by_both,
        events,
        attributes,
        ..Comparison::default()
    })
}

fn files(target: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let is_folder = std::fs::metadata(target)
        .with_context(|| {
            format!(
                "{}: neither a file or folder of OTLP/JSON nor a table of the configuration; `table` is the primary one",
                target.display()
            )
        })?
        .is_dir();
    if !is_folder {
        return Ok(vec![target.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(target).with_context(|| target.display().to_string())? {
        let path = entry.with_context(|| target.display().to_string())?.path();
        if path.is_file() && path.extension().is_some_and(|one| one == "json" || one == "jsonl") {
            found.push(path);
        }
    }
    anyhow::ensure!(!found.is_empty(), "{}: holds no .json and no .jsonl file", target.display());
    found.sort();
    Ok(found)
}

/// The requests of a file: one as a whole, or one a line, as the collector's file exporter writes them.
fn requests(file: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let name = || file.display().to_string();
    let size = std::fs::metadata(file).with_context(name)?.len();
    anyhow::ensure!(size <= FILE_BYTES_MAX, "{}: larger than {FILE_BYTES_MAX} bytes; divide it", name());
    let text = std::fs::read(file).with_context(name)?;
    if let Ok(request) = json::to_protobuf(&text) {
        return Ok(vec![request.to_vec()]);
    }
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    lines
        .map(|(number, line)| {
            let request = json::to_protobuf(line);
            let what = "not an ExportLogsServiceRequest in OTLP/JSON";
            Ok(request.with_context(|| format!("{} line {}: {what}", file.display(), number + 1))?.to_vec())
        })
        .collect()
}

struct Found<'s> {
    before: &'s Side,
    after: &'s Side,
    counter: Counter,
    records: u64,
    rejected_by_both: u64,
}

impl Found<'_> {
    /// Holds both decisions on a record against each other. Without an earlier policy, `was` is None.
    fn record(&mut self, was: Option<&ExplainedEvent>, now: &ExplainedEvent) {
        self.records += 1;
        let was_verdict = was.map_or("dropped", |was| was.verdict);
        if was_verdict == "rejected" && now.verdict == "rejected" {
            self.rejected_by_both += 1;
            return;
        }
        // A name that neither policy declares may hold anything, and both drop its event.
        let Some(event) = now.declared.as_deref().or(was.and_then(|was| was.declared.as_deref())) else {
            return;
        };
        let (before, after) = (was.map_or_else(|| "undeclared".to_owned(), fate), fate(now));
        if before != after {
            let change = match (was_verdict, now.verdict) {
                ("cleared", "cleared") => Change::Table,
                (_, "cleared") => Change::NewlyKept,
                (_, "quarantined") if was_verdict != "quarantined" => Change::NewlyQuarantined,
                ("cleared", _) => Change::NewlyDropped,
                _ => Change::Reason,
            };
            self.counter.event(change, event, &before, &after, 1);
        }
        self.attributes(event, was, now);
    }

    fn attributes(&mut self, event: &str, was: Option<&ExplainedEvent>, now: &ExplainedEvent) {
        let (before, after) = (was.map(by_key).unwrap_or_default(), by_key(now));
        let keys: std::collections::BTreeSet<&str> = before.keys().chain(after.keys()).copied().collect();
        let mut typed = std::collections::BTreeSet::new();
        for key in keys {
            let (before, after) = (before.get(key).copied(), after.get(key).copied());
            let declared = |one: Option<&ExplainedAttribute>| one.and_then(|one| one.declared.clone());
            // What neither policy declares is not stored by either, and its key may hold anything.
            let Some(attribute) = declared(after).or_else(|| declared(before)) else { continue };
            let types =
                |side: &Side| side.used(event, &attribute).map(crate::privacy::MappedAttribute::full_type);
            if let (Some(before), Some(after)) = (types(self.before), types(self.after))
                && before != after
                && typed.insert(attribute.clone())
            {
                self.counter.attribute(Change::Type, (event, &attribute), (&before, &after), 1);
            }
            let (is_kept, would_be) = (is_stored(before), is_stored(after));
            let texts = (attribute_fate(was, before), attribute_fate(Some(now), after));
            let change = match (is_kept, would_be) {
                (false, true) => Change::NewlyKept,
                (true, false) => Change::NewlyDropped,
                (true, true) => Change::Treatment,
                (false, false) => continue,
            };
            if is_kept != would_be || texts.0 != texts.1 {
                self.counter.attribute(change, (event, &attribute), (&texts.0, &texts.1), 1);
            }
        }
    }
}

/// What becomes of an event.
fn fate(event: &ExplainedEvent) -> String {
    match (event.verdict, &event.table) {
        ("cleared", Some(table)) => format!("stored in {table}"),
        ("quarantined", _) if !event.faults.is_empty() => {
            format!("quarantined, {} ({})", event.reason, event.faults.join(", "))
        }
        ("dropped", _) if event.reason == "undeclared" => "undeclared".to_owned(),
        (verdict, _) => format!("{verdict}, {}", event.reason),
    }
}

/// Of attributes with one key, the one that is stored.
fn by_key(event: &ExplainedEvent) -> BTreeMap<&str, &ExplainedAttribute> {
    let mut found: BTreeMap<&str, &ExplainedAttribute> = BTreeMap::new();
    for one in &event.attributes {
        let slot = found.entry(&one.key).or_insert(one);
        if is_stored(Some(one)) {
            *slot = one;
        }
    }
    found
}

fn is_stored(attribute: Option<&ExplainedAttribute>) -> bool {
    attribute.is_some_and(|one| one.column.is_some())
}

/// What becomes of an attribute, without its value.
fn attribute_fate(event: Option<&ExplainedEvent>, attribute: Option<&ExplainedAttribute>) -> String {
    match attribute {
        Some(one) if one.column.is_some() => {
            let policy = one.policy.as_deref().unwrap_or(one.treatment);
            let masked =
                if one.treatment == "mask" && !policy.starts_with("mask") { ", leaks masked" } else { "" };
            format!("{policy}{masked}")
        }
        Some(one) if event.is_some_and(|event| event.verdict == "cleared") => {
            if one.reason == "undeclared" {
                "undeclared".to_owned()
            } else {
                format!("drop, {}", one.reason)
            }
        }
        _ => event.map_or_else(|| "undeclared".to_owned(), |event| format!("event {}", event.verdict)),
    }
}

#[cfg(test)]
mod tests;
