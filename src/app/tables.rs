//! The tables of the configuration, opened to be fed or looked at from outside.
//!
//! Owns: mapping the sections to each table's options, and what a table is called in messages. Does not own: what a table is.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use serde::Serialize;

use crate::clock::{Clock, Ids};
use crate::columns::{Layout, TableColumn, quarantine, withdrawals};
use crate::config::tables::withdrawals_name;
use crate::config::{Config, TableConfig};
use crate::datafile::date_of;
use crate::flush::{Destination, Destinations, TableKind};
use crate::maintain::retain::first_day_kept;
use crate::registry::Registry;
use crate::table::{CatalogOptions, Peek, Table, TableError, TableOptions, TableStatus, WalClaim};
use crate::wal::{OnDamage, Position, WalFiles, WriterIdentity};

/// A table of the configuration, as `esker status` shows it.
#[derive(Debug, Serialize)]
pub(super) struct NamedStatus {
    /// `namespace.table`.
    pub(super) name: String,
    /// None where it does not exist yet.
    pub(super) status: Option<TableStatus>,
    /// The days that it holds, and those that it may hold; None where it does not exist yet.
    pub(super) days: Option<DaysHeld>,
}

/// The days of a table.
#[derive(Debug, Serialize)]
pub(super) struct DaysHeld {
    /// The oldest day that the newest snapshot has rows of.
    pub(super) oldest: Option<String>,
    /// The first day that the configured retention keeps; None: all are kept.
    pub(super) first_kept: Option<String>,
    /// True where older rows wait for the next run of the table's care.
    pub(super) overdue: bool,
}

impl DaysHeld {
    /// Looks at a table.
    pub(super) async fn of(options: &TableOptions, now_micros: i64) -> Result<Self, TableError> {
        let oldest = Table::oldest_day(options).await?;
        let first_kept = options.retention_days.map(|days| first_day_kept(now_micros, days));
        let overdue = oldest.zip(first_kept).is_some_and(|(oldest, first)| oldest < first);
        Ok(Self { oldest: oldest.map(date_of), first_kept: first_kept.map(date_of), overdue })
    }
}

impl From<&TableConfig> for TableOptions {
    fn from(table: &TableConfig) -> Self {
        Self {
            warehouse: table.warehouse.clone(),
            catalog: table.catalog.clone(),
            storage: Arc::clone(&table.storage),
            name: table.name.clone(),
            retention_days: table.retention_days,
        }
    }
}

/// A table that a service keeps.
struct Kept {
    options: TableOptions,
    kind: TableKind,
    columns: Vec<TableColumn>,
}

/// Every table that a configuration and a registry ask for; the first is the primary. Those that Esker keeps for itself lie
/// beside the primary.
async fn kept(config: &Config, registry: &Registry, layout: &Layout) -> anyhow::Result<Vec<Kept>> {
    let events = |table: &TableConfig| Kept {
        options: table.into(),
        kind: TableKind::Events,
        columns: layout.columns().to_vec(),
    };
    let mut kept: Vec<_> = config.tables.iter().map(events).collect();
    let primary = config.tables.first().context("the configuration has no table")?;
    let [quarantine, withdrawals] = beside(config, primary);
    kept.push(Kept { options: quarantine, kind: TableKind::Quarantine, columns: quarantine::columns() });
    // Where it exists, the log may have rows for it, though the registry's events that withdraw consent are gone.
    let exists = async || {
        let found = Table::peek(&withdrawals).await;
        found.map(|peek| peek.is_some()).with_context(|| format!("the table `{}`", withdrawals.name))
    };
    if registry.events().iter().any(|event| event.withdrawal.is_some()) || exists().await? {
        let columns = withdrawals::columns();
        kept.push(Kept { options: withdrawals, kind: TableKind::Withdrawals, columns });
    }
    Ok(kept)
}

/// The tables that Esker keeps for itself: the quarantine, with a retention of its own, and the withdrawals of consent. These
/// hold for as long as there is a table, whatever is kept of the events: a subject who withdrew has not consented again.
fn beside(config: &Config, primary: &TableConfig) -> [TableOptions; 2] {
    let options = |name, retention_days| TableOptions { name, retention_days, ..primary.into() };
    [
        options(config.quarantine.table.clone(), config.quarantine.retention_days),
        options(withdrawals_name(&primary.name), None),
    ]
}

/// Every table that there may be, the primary first. Needs no registry.
pub(super) fn all(config: &Config) -> Vec<TableOptions> {
    let others = config.tables.first().map(|primary| beside(config, primary));
    config.tables.iter().map(TableOptions::from).chain(others.into_iter().flatten()).collect()
}

/// Opens every table, or makes it.
///
/// # Errors
/// Where one cannot be used; where the primary does not hold what this data directory has committed: then before anything
/// was made.
pub(super) async fn open(
    config: &Config,
    registry: &Registry,
    layout: &Layout,
    clock: &Arc<dyn Clock>,
    ids: &Arc<dyn Ids>,
    files: &WalFiles,
) -> anyhow::Result<Destinations> {
    let WriterIdentity { writer_id, epoch } = files.identity();
    let abandoned = abandoned(config, files).await?;
    let mut opened = Vec::new();
    for Kept { options, kind, columns } in kept(config, registry, layout).await? {
        let table = Table::open_or_create(&options, &columns, Arc::clone(clock), Arc::clone(ids)).await;
        let table = table.with_context(|| format!("the table `{}`", options.name))?;
        opened.push(Destination { name: options.name, table, kind });
    }
    let mut opened = opened.into_iter();
    let primary = opened.next().context("the configuration has no table")?;
    if let Some((from, through)) = abandoned {
        // From here on the table stands where the data directory does, and the log's next frames follow.
        let claim = WalClaim { writer_id, epoch, from, through, commit_id: ids.next_id() };
        primary.table.append(&[], &claim, &BTreeMap::new()).await?;
        tracing::error!(
            table = primary.name,
            from = from.0,
            through = through.0,
            "the table does not hold these requests, which this data directory had committed; going on without them, as \
             wal.on_damage says"
        );
    }
    Ok(Destinations::new(primary, opened.collect(), writer_id))
}

/// The first and the last position that this data directory has committed and the primary does not hold, where the
/// configuration says to go on without them. Another table may always be behind, so it tells nothing.
async fn abandoned(config: &Config, files: &WalFiles) -> anyhow::Result<Option<(Position, Position)>> {
    let released = files.released()?;
    let primary = config.tables.first().context("the configuration has no table")?;
    if released == Position(0) {
        return Ok(None);
    }
    let options = TableOptions::from(primary);
    let found = Table::peek(&options).await.with_context(|| format!("the table `{}`", options.name))?;
    let held = found.and_then(|table| table.writer_position(files.identity().writer_id));
    let in_table = held.map_or(Position(0), |(_, position)| position);
    if in_table >= released {
        return Ok(None);
    }
    if config.wal.on_damage == OnDamage::SetAside {
        return Ok(Some((in_table.next(), released)));
    }
    let warehouse = options.place();
    Err(TableError::NotThisTable { name: options.name, warehouse, in_table, released }.into())
}

/// Tries out the warehouse of every table of events, as each start does, and names those that can be used. Leaves nothing behind.
/// A REST catalog is asked for its tables, and is not among the warehouses.
///
/// # Errors
/// Where one cannot be used: which, why, and what to do.
pub(super) async fn probe(config: &Config, ids: &dyn Ids) -> Result<Vec<String>, TableError> {
    let mut usable = Vec::new();
    for table in &config.tables {
        Table::probe(&table.into(), ids).await?;
        if table.catalog == CatalogOptions::Files && !usable.contains(&table.warehouse) {
            usable.push(table.warehouse.clone());
        }
    }
    Ok(usable)
}

/// Looks at every table; None for one that does not exist yet. Makes and changes nothing, and needs no registry: a table
/// that only some registries ask for is left out where it does not exist.
pub(super) async fn peek(config: &Config) -> Result<Vec<(String, Option<Peek>)>, TableError> {
    let mut found = Vec::with_capacity(config.tables.len());
    for table in &config.tables {
        found.push((table.name.clone(), Table::peek(&TableOptions::from(table)).await?));
    }
    if let Some(primary) = config.tables.first() {
        for options in beside(config, primary) {
            if let Some(peek) = Table::peek(&options).await? {
                found.push((options.name, Some(peek)));
            }
        }
    }
    Ok(found)
}
