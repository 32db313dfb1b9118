//! `esker check`: is the configuration usable, and what does the registry declare; with `--against`, what it would change.
//!
//! Owns: the report, and what is compared with what. Does not own: the rules (`registry`, `config`), finding differences
//! (`samples`, `table`).

mod difference;
mod samples;
mod table;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::{AppError, Format, block_on, policies, print, startup, tables};
use crate::clock::{Clock, RandomIds, SystemClock};
use crate::columns::Layout;
use crate::config::{Config, TableConfig};
use crate::privacy::Gate;
use crate::registry::Registry;
use crate::secret::Keyring;
use difference::{Comparison, Side};
use policies::Stored;

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
    /// Those that were tried out, and can be used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warehouses: Vec<String>,
}

/// Loads the registry and prints what it declares. With `warehouse`, tries out the warehouses as well.
///
/// # Errors
/// Every problem of the registry at once; exit code 2. Where a warehouse cannot be used; exit code 1.
pub fn command(config: &Config, warehouse: bool, format: Format) -> Result<(), AppError> {
    let registry = Registry::load(&config.schemas)?;
    let registry = Arc::new(registry);
    // A throw-away key: what is checked is whether the rules and the registry agree.
    let key = Keyring::generate(SystemClock.now_micros()).map_err(anyhow::Error::from)?;
    Gate::new(Arc::clone(&registry), &key, startup::gate_options(config))?;
    let columns = Layout::new(&registry).map_err(anyhow::Error::from)?.columns().len();
    let mut report = report(config, &registry, columns);
    if warehouse {
        let probe = tables::probe(config, &RandomIds);
        report.warehouses = block_on(async { Ok(probe.await.map_err(anyhow::Error::from)?) })?;
    }
    let text = match format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&report).map_err(anyhow::Error::from)?),
        Format::Text => text(&report),
    };
    print(&text)?;
    Ok(())
}

/// What `--against` names besides a table of the configuration.
const PRIMARY: &str = "table";

/// Compares the policy of the configuration with the one that was last in force, on samples or on a table's columns. Changes
/// nothing, and shows no value.
///
/// # Errors
/// Where a start with this configuration would be refused, exit code 1; where the configuration or the target is wrong.
pub fn against(
    config: &Config,
    target: &str,
    baseline: Option<&Path>,
    format: Format,
) -> Result<(), AppError> {
    let (gate, map) = policies::current(config)?;
    let table = config.tables.iter().position(|table| table.name == target);
    let place = table.or((target == PRIMARY).then_some(0));
    let peeked = block_on(async { Ok(tables::peek(config).await.map_err(anyhow::Error::from)?) })?;
    let peek = peeked.get(place.unwrap_or(0)).and_then(|(_, peek)| peek.as_ref());
    let at = config.tables.get(place.unwrap_or(0));
    let versions = peek.map(crate::table::Peek::policy_versions).unwrap_or_default();
    let baseline = match baseline {
        Some(file) => Some(policies::read(file)?),
        None => block_on(async { Ok(last_in_force(config, at, &versions).await?) })?,
    };
    let (before, after) = (Side::of(baseline.as_ref())?, Side { gate: Some(gate), map });
    let mut comparison = match place {
        Some(_) => table::compare(&before, &after, at, peek)?,
        None => samples::compare(config, &before, &after, Path::new(target))?,
    };
    comparison.target = target.to_owned();
    comparison.baseline = baseline
        .map(|stored| difference::Baseline { policy_version: stored.map.policy_version, from: stored.from });
    print(&match format {
        Format::Json => {
            format!("{}\n", serde_json::to_string_pretty(&comparison).map_err(anyhow::Error::from)?)
        }
        Format::Text => difference::text(&comparison),
    })?;
    refused(&comparison)
}

fn refused(comparison: &Comparison) -> Result<(), AppError> {
    match comparison.refusals.len() {
        0 => Ok(()),
        count => Err(anyhow::anyhow!(
            "`esker serve` would refuse to start on {}: {count} of its columns do not fit",
            comparison.target
        )
        .into()),
    }
}

/// The policy that was last in force: the one of the table's newest rows, else the one of the last start.
async fn last_in_force(
    config: &Config,
    table: Option<&TableConfig>,
    versions: &[String],
) -> anyhow::Result<Option<Stored>> {
    let newest = policies::newest(&config.data_dir)?;
    // Where the newest rows were stored under several, the one of the last start is the last of them.
    let last = newest.as_ref().map(|stored| &stored.map.policy_version).filter(|one| versions.contains(one));
    if let (Some(table), Some(version)) = (table, last.or(versions.last()))
        && let Some(stored) = policies::stored(config, table, version).await?
    {
        return Ok(Some(stored));
    }
    Ok(newest)
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
        warehouses: Vec::new(),
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
    for warehouse in &report.warehouses {
        writeln!(text, "  {warehouse}: can be used (creates once, reads, lists, deletes)").ok();
    }
    for notice in &report.notices {
        writeln!(text, "  note: {notice}").ok();
    }
    text
}
