//! `esker explain FILE`: what would happen to each event and attribute of an OTLP/JSON file, and why.
//!
//! Owns: reading the file, and the words in which a decision is told. Does not own: the decisions: the same gate as in `serve` makes them.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
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
    let (keyring, is_made_up) = keyring(config, now_micros)?;
    let gate = Gate::new(registry, &keyring, config.gate_options())?;
    let events = explain(&gate, &raw, now_micros);
    let text = match format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&events).map_err(anyhow::Error::from)?),
        Format::Text if is_made_up => format!("{}{MADE_UP_KEY}\n", text(&events)),
        Format::Text => text(&events),
    };
    print(&text)?;
    if is_made_up && format == Format::Json {
        // Beside the answer, which is the events alone.
        drop(writeln!(std::io::stderr(), "{MADE_UP_KEY}"));
    }
    Ok(())
}

const MADE_UP_KEY: &str = "note: there is no key file yet, so the pseudonyms and event ids above were made with a key that \
                           is thrown away now; what `esker serve` stores will be different";

/// The configured ring, or a throw-away one before the first start has made it; and which of the two.
fn keyring(config: &Config, now_micros: i64) -> anyhow::Result<(Keyring, bool)> {
    match &config.privacy.key {
        SecretReference::File(path) if !path.exists() => Ok((Keyring::generate(now_micros)?, true)),
        _ => Ok((startup::keyring(config, false, now_micros)?, false)),
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
        let name = if event.name.is_empty() { "(no name)" } else { &printable(&event.name) };
        // Writing to a String cannot fail.
        writeln!(text, "{}. {name}: {}", event.ordinal + 1, headline(event)).ok();
        if let Some(way) = way(event) {
            writeln!(text, "   {way}").ok();
        }
        if let Some(envelope) = &event.envelope {
            writeln!(text, "   event_id {}, event_time {}", envelope.event_id, envelope.event_time).ok();
        }
        let lines: Vec<_> =
            event.attributes.iter().map(|one| (printable(&one.key), fate(one), reason(one))).collect();
        let width = lines.iter().map(|(key, ..)| key.chars().count()).max().unwrap_or(0);
        for (key, fate, reason) in &lines {
            writeln!(text, "   {key:width$}  {}", printable(fate)).ok();
            if let Some(reason) = reason {
                writeln!(text, "   {:width$}    {}", "", printable(reason)).ok();
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
    let consent = event.consent.map(|decision| {
        let basis = event.consent_basis.as_deref().unwrap_or("none");
        format!("consent {decision} ({basis})")
    });
    let parts: Vec<String> = [category, stated, consent, route].into_iter().flatten().collect();
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

/// The text with control characters, and those that turn the direction of writing, as escapes: the file's content must not
/// steer the terminal.
fn printable(text: &str) -> String {
    let steers = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if steers(letter) {
            shown.extend(letter.escape_unicode());
        } else {
            shown.push(letter);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_file_steers_the_terminal() {
        assert_eq!(printable("Grüße, 日本"), "Grüße, 日本");
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\u{a}");
        assert_eq!(printable("\u{9b}\u{202e}\u{7f}"), "\\u{9b}\\u{202e}\\u{7f}");
        let event = ExplainedEvent {
            ordinal: 0,
            name: "n\u{1b}]0;x\u{7}".to_owned(),
            verdict: "dropped",
            reason: "undeclared",
            declared: None,
            category: None,
            stated_level: None,
            route: None,
            table: None,
            consent: None,
            consent_basis: None,
            faults: Vec::new(),
            envelope: None,
            attributes: Vec::new(),
        };
        assert!(!text(&[event]).contains(['\u{1b}', '\u{7}']));
    }
}
