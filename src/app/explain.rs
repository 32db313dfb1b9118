//! `esker explain FILE`: what would happen to each event and attribute of an OTLP/JSON file, and why.
//!
//! Owns: reading the file, and the words in which a decision is told. Does not own: the decisions: the same gate as in `serve` makes them.

use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use super::{AppError, Format, print, startup};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, SecretReference};
use crate::privacy::{ExplainedAttribute, ExplainedEvent, Gate, LevelSource, explain};
use crate::receive::decode::{NameFallback, RawEvents};
use crate::receive::json;
use crate::registry::Registry;
use crate::secret::Keyring;

/// Explains the file. Stores nothing, and uses the data directory's keys where there are any, so that the pseudonyms shown
/// are those that would be stored.
///
/// # Errors
/// Where the registry is wrong, or the file is not OTLP/JSON.
pub fn command(config: &Config, file: &Path, format: Format) -> Result<(), AppError> {
    let registry = Arc::new(Registry::load(&config.schemas)?);
    let request = read(file)?;
    let request = json::to_protobuf(&request)
        .with_context(|| format!("{}: not an ExportLogsServiceRequest in OTLP/JSON", file.display()))?;
    let names = NameFallback::new(config.receive.names.clone());
    let raw = RawEvents::decode(&request, &names).map_err(anyhow::Error::from)?;
    let now_micros = SystemClock.now_micros();
    let gate = Gate::new(registry, &keyring(config, now_micros)?, startup::gate_options(config))?;
    let events = explain(&gate, &raw, now_micros);
    let text = match format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&events).map_err(anyhow::Error::from)?),
        Format::Text => text(&events),
    };
    print(&text)?;
    Ok(())
}

/// The configured ring, or a throw-away one before the first start has made it.
fn keyring(config: &Config, now_micros: i64) -> anyhow::Result<Keyring> {
    match &config.privacy.key {
        SecretReference::File(path) if !path.exists() => Ok(Keyring::generate(now_micros)?),
        _ => startup::keyring(config, false, now_micros),
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("standard input")?;
        return Ok(bytes);
    }
    std::fs::read(file).with_context(|| file.display().to_string())
}

fn text(events: &[ExplainedEvent]) -> String {
    let mut text = String::new();
    for event in events {
        let name = if event.name.is_empty() { "(no name)" } else { &event.name };
        // Writing to a String cannot fail.
        writeln!(text, "{}. {name}: {}", event.ordinal + 1, headline(event)).ok();
        if let Some(way) = way(event) {
            writeln!(text, "   {way}").ok();
        }
        if let Some(envelope) = &event.envelope {
            writeln!(text, "   event_id {}, event_time {}", envelope.event_id, envelope.event_time).ok();
        }
        let width = event.attributes.iter().map(|attribute| attribute.key.len()).max().unwrap_or(0);
        for attribute in &event.attributes {
            writeln!(text, "   {:width$}  {}", attribute.key, fate(attribute)).ok();
            if let Some(reason) = reason(attribute) {
                writeln!(text, "   {:width$}    {reason}", "").ok();
            }
        }
    }
    text
}

fn headline(event: &ExplainedEvent) -> String {
    let table = event.table.as_deref().unwrap_or_default();
    match event.verdict {
        "cleared" => format!("stored in {table}"),
        "quarantined" if event.faults.is_empty() => format!("quarantined, {}", event.reason),
        "quarantined" => format!("quarantined, {}: {}", event.reason, event.faults.join(", ")),
        verdict => format!("{verdict}, {}", event.reason),
    }
}

/// What decided on the event as a whole.
fn way(event: &ExplainedEvent) -> Option<String> {
    let category = event.category.map(|category| format!("category {category}"));
    let stated = event.stated_level.map(|level| format!("the record states the level {level}"));
    let route = match (event.route, &event.table) {
        (Some(route), _) => Some(format!("route {route}")),
        (None, Some(_)) => Some("no route matches, so the primary table".to_owned()),
        (None, None) => None,
    };
    let parts: Vec<String> = [category, stated, route].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// One attribute's line: its level, what happens, and what would be stored.
fn fate(attribute: &ExplainedAttribute) -> String {
    let level = attribute.level.unwrap_or("undeclared");
    match (&attribute.column, &attribute.stored) {
        (Some(column), Some(stored)) => format!("{level}: {} -> {column} = {stored}", attribute.treatment),
        _ => format!("{level}: {} ({})", attribute.treatment, attribute.reason),
    }
}

/// The rule that decided, where the level comes from, and what else tells why.
fn reason(attribute: &ExplainedAttribute) -> Option<String> {
    let rule = attribute.policy.as_ref().zip(attribute.rule.as_ref());
    let rule = rule.map(|(policy, rule)| format!("{policy}, by {rule}"));
    let level = attribute.level_from.map(|from| match from {
        LevelSource::Attribute => "level of the attribute",
        LevelSource::Ref => "level of the event's ref",
        LevelSource::Event => "level of the event",
    });
    let leaks = (!attribute.leaks.is_empty()).then(|| format!("found: {}", attribute.leaks.join(", ")));
    let parts: Vec<String> =
        [rule, level.map(str::to_owned), attribute.why.clone(), leaks].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}
