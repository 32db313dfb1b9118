//! `esker catalogue`: the data map of the registry and the configuration, as Markdown for people or as JSON.
//!
//! Owns: what is mapped, and where it is written. Does not own: the map (`privacy::DataMap`), the Markdown (`markdown`).
//! The same policy gives the same document, so that a difference in version control is a difference in policy.

mod markdown;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use super::{AppError, Format, print, startup};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, TableConfig};
use crate::privacy::{DataMap, Gate, MappedTable};
use crate::registry::Registry;
use crate::secret::Keyring;

/// Writes the catalogue to `out`, or prints it. `Format::Text` is Markdown.
///
/// # Errors
/// Where the registry is wrong, or `out` cannot be written.
pub fn command(config: &Config, format: Format, out: Option<&Path>) -> Result<(), AppError> {
    let map = map(config)?;
    let text = match format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&map).map_err(anyhow::Error::from)?),
        Format::Text => markdown::document(&map),
    };
    match out {
        None => print(&text)?,
        Some(file) => std::fs::write(file, text).with_context(|| file.display().to_string())?,
    }
    Ok(())
}

fn map(config: &Config) -> Result<DataMap, AppError> {
    let registry = Arc::new(Registry::load(&config.schemas)?);
    // No key is part of the map, so that a document can be made where there is none.
    let keys = Keyring::generate(SystemClock.now_micros()).map_err(anyhow::Error::from)?;
    let gate = Gate::new(registry, &keys, startup::gate_options(config))?;
    Ok(DataMap::of(&gate, tables(config)))
}

fn tables(config: &Config) -> Vec<MappedTable> {
    let mapped = |table: &TableConfig| MappedTable {
        name: table.name.clone(),
        warehouse: table.warehouse.clone(),
        retention: table.retention_days.map(|days| format!("{days} days")),
    };
    config.tables.iter().map(mapped).collect()
}
