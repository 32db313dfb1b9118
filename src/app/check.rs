//! `esker check`: is the configuration usable, and what does the registry declare.
//!
//! Owns: the report. Does not own: the rules (`registry`, `config`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::Serialize;

use super::{AppError, Format, print, startup};
use crate::columns::Layout;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::privacy::Gate;
use crate::registry::Registry;
use crate::secret::Keyring;

#[derive(Debug, Serialize)]
struct Report {
    schemas: String,
    version: String,
    events: usize,
    events_by_category: BTreeMap<String, usize>,
    attributes: usize,
    attributes_by_privacy: BTreeMap<String, usize>,
    columns: usize,
    notices: Vec<String>,
}

/// Loads the registry and prints what it declares.
///
/// # Errors
/// Every problem of the registry at once; exit code 2.
pub fn command(config: &Config, format: Format) -> Result<(), AppError> {
    let registry = Registry::load(&config.schemas)?;
    let registry = Arc::new(registry);
    // A throw-away key: what is checked is whether the rules and the registry agree.
    let key = Keyring::generate(SystemClock.now_micros()).map_err(anyhow::Error::from)?;
    Gate::new(Arc::clone(&registry), &key, startup::gate_options(config))?;
    let columns = Layout::new(&registry).map_err(anyhow::Error::from)?.columns().len();
    let report = report(config, &registry, columns);
    let text = match format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&report).map_err(anyhow::Error::from)?),
        Format::Text => text(&report),
    };
    print(&text)?;
    Ok(())
}

fn report(config: &Config, registry: &Registry, columns: usize) -> Report {
    let mut events_by_category = BTreeMap::<String, usize>::new();
    for event in registry.events() {
        *events_by_category.entry(format!("{:?}", event.category).to_lowercase()).or_default() += 1;
    }
    let mut attributes_by_privacy = BTreeMap::<String, usize>::new();
    for attribute in registry.attributes() {
        *attributes_by_privacy.entry(format!("{:?}", attribute.privacy).to_lowercase()).or_default() += 1;
    }
    Report {
        schemas: config.schemas.display().to_string(),
        version: registry.version().to_owned(),
        events: registry.events().len(),
        events_by_category,
        attributes: registry.attributes().len(),
        attributes_by_privacy,
        columns,
        notices: registry.notices().to_vec(),
    }
}

fn text(report: &Report) -> String {
    let list = |counts: &BTreeMap<String, usize>| {
        counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
    };
    let mut text = String::new();
    // Writing to a String cannot fail.
    writeln!(text, "{}: ok, version {}", report.schemas, report.version).ok();
    writeln!(text, "  {} events ({})", report.events, list(&report.events_by_category)).ok();
    writeln!(text, "  {} attributes ({})", report.attributes, list(&report.attributes_by_privacy)).ok();
    writeln!(text, "  {} table columns", report.columns).ok();
    for notice in &report.notices {
        writeln!(text, "  note: {notice}").ok();
    }
    text
}
