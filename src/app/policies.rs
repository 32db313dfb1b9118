//! The policy written out, once for each version, so that the `policy_version` of a row can be looked up for as long as the
//! row is there.
//!
//! Owns: where the data maps lie: `<data_dir>/policies/<version>.json`, and the same in each table's folder, which stays with
//! the rows when the server is gone. Does not own: the map (`privacy::DataMap`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

use super::mixed::mixed_columns;
use super::{AppError, startup, status};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, TableConfig};
use crate::privacy::{DataMap, Gate, MappedTable};
use crate::registry::Registry;
use crate::secret::Keyring;
use crate::table::{POLICIES_FOLDER, Peek, Table, TableOptions};

/// Longest data map that is read; the largest registry that is allowed makes some 10 MiB.
const MAP_BYTES_MAX: u64 = 64 << 20;

/// A data map that an earlier start wrote, and where it lies.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) map: DataMap,
    pub(super) from: String,
}

/// The policy of the configuration, compiled and written out. No key is part of the map, so there need be none: the gate
/// has keys of its own, made for the moment.
pub(super) fn current(config: &Config) -> Result<(Gate, DataMap), AppError> {
    let registry = Arc::new(Registry::load(&config.schemas)?);
    let keys = throw_away_keys()?;
    let gate = Gate::new(registry, &keys, config.gate_options())?;
    let map = map(config, &gate);
    Ok((gate, map))
}

/// Keys for a gate that stores nothing.
pub(super) fn throw_away_keys() -> anyhow::Result<Keyring> {
    Ok(Keyring::generate(SystemClock.now_micros())?)
}

/// The policy that `gate` enforces, written out.
pub(super) fn map(config: &Config, gate: &Gate) -> DataMap {
    let mapped = |table: &TableConfig| MappedTable {
        name: table.name.clone(),
        warehouse: table.warehouse.clone(),
        retention: table.retention_days.map(|days| format!("{days} days")),
        ..MappedTable::default()
    };
    DataMap::of(gate, config.tables.iter().map(mapped).collect())
}

/// Leaves the policy in the data directory and in each table's folder, where it is not there yet. Before the first row of
/// this policy can be acknowledged, so that no row names a version that nobody can look up.
pub(super) async fn store(config: &Config, gate: &Gate, tables: &[Table]) -> anyhow::Result<()> {
    let map = map(config, gate);
    let mut bytes = serde_json::to_vec_pretty(&map)?;
    bytes.push(b'\n');
    let file = path(&config.data_dir, &map.policy_version);
    if !file.exists() {
        startup::create_parent(&file)?;
        status::replace(&file, &bytes).with_context(|| format!("writing {}", file.display()))?;
    }
    for table in tables {
        let name = format!("{POLICIES_FOLDER}/{}.json", map.policy_version);
        table
            .put_once(&name, bytes.clone())
            .await
            .with_context(|| format!("writing {name} beside a table's rows"))?;
    }
    Ok(())
}

/// The policy that was last in force: the one of the table's newest rows, else the one of the last start.
pub(super) async fn last_in_force(
    config: &Config,
    table: Option<&TableConfig>,
    versions: &[String],
) -> anyhow::Result<Option<Stored>> {
    let newest = newest(&config.data_dir)?;
    // Where the newest rows were stored under several, the one of the last start is the last of them.
    let last = newest.as_ref().map(|stored| &stored.map.policy_version).filter(|one| versions.contains(one));
    if let (Some(table), Some(version)) = (table, last.or(versions.last()))
        && let Some(stored) = stored(config, table, version).await?
    {
        return Ok(Some(stored));
    }
    Ok(newest)
}

/// Warns of columns in which this policy would store pseudonyms where the last one stored plain values, or the other way round. What
/// cannot be read is no reason not to start: opening the tables tells what is wrong with them.
pub(super) async fn warn_of_mixed_columns(config: &Config, gate: &Gate) {
    let after = map(config, gate);
    for table in &config.tables {
        let before = async {
            let peek = Table::peek(&TableOptions::from(table)).await?;
            let versions = peek.as_ref().map(Peek::policy_versions).unwrap_or_default();
            // Without rows there is nothing to mix.
            if versions.is_empty() { Ok(None) } else { last_in_force(config, Some(table), &versions).await }
        };
        match before.await {
            Ok(None) => {}
            Ok(Some(before)) => {
                for mixed in mixed_columns(&before.map, &after, &table.name) {
                    tracing::warn!(
                        attribute = mixed.attribute,
                        column = mixed.column,
                        table = mixed.table,
                        before = mixed.before,
                        after = mixed.after,
                        "{mixed}; see docs/policy.md"
                    );
                }
            }
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                table = table.name,
                "the policy that was last in force could not be read, so changes of treatment are not told"
            ),
        }
    }
}

/// The policy of a version, from beside the table or from the data directory; None where neither has it.
pub(super) async fn stored(
    config: &Config,
    table: &TableConfig,
    version: &str,
) -> anyhow::Result<Option<Stored>> {
    let name = format!("{POLICIES_FOLDER}/{version}.json");
    if let Some(bytes) = Table::read_beside(&TableOptions::from(table), &name).await? {
        let from = format!("{name} of {}", table.name);
        return Ok(Some(Stored { map: parse(&bytes, &from)?, from }));
    }
    let file = path(&config.data_dir, version);
    if file.exists() { read(&file).map(Some) } else { Ok(None) }
}

/// The policy that the last start left in the data directory; None where there is none.
pub(super) fn newest(data_dir: &Path) -> anyhow::Result<Option<Stored>> {
    let folder = data_dir.join(POLICIES_FOLDER);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| folder.display().to_string()),
    };
    let mut found: Vec<(std::time::SystemTime, PathBuf)> = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| folder.display().to_string())?;
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            found.push((entry.metadata()?.modified()?, path));
        }
    }
    found.into_iter().max().map(|(_, path)| read(&path)).transpose()
}

/// Reads a data map.
pub(super) fn read(file: &Path) -> anyhow::Result<Stored> {
    let from = file.display().to_string();
    let size = std::fs::metadata(file).with_context(|| from.clone())?.len();
    anyhow::ensure!(size <= MAP_BYTES_MAX, "{from}: larger than any data map ({MAP_BYTES_MAX} bytes)");
    let bytes = std::fs::read(file).with_context(|| from.clone())?;
    Ok(Stored { map: parse(&bytes, &from)?, from })
}

fn parse(bytes: &[u8], from: &str) -> anyhow::Result<DataMap> {
    serde_json::from_slice(bytes)
        .with_context(|| format!("{from}: not a data map; `esker catalogue --format json` writes one"))
}

fn path(data_dir: &Path, version: &str) -> PathBuf {
    data_dir.join(POLICIES_FOLDER).join(format!("{version}.json"))
}
