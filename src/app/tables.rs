//! The tables of the configuration, opened to be fed or looked at from outside.
//!
//! Owns: mapping the sections to each table's options, and what a table is called in messages. Does not own: what a table is.

use std::sync::Arc;

use anyhow::Context;
use serde::Serialize;
use uuid::Uuid;

use crate::clock::{Clock, Ids};
use crate::columns::TableColumn;
use crate::config::{Config, TableConfig};
use crate::flush::{Destination, Destinations, TableKind};
use crate::table::{Peek, Table, TableError, TableOptions, TableStatus};

/// A table of the configuration, as `esker status` shows it.
#[derive(Debug, Serialize)]
pub(super) struct NamedStatus {
    /// `namespace.table`.
    pub(super) name: String,
    /// None where it does not exist yet.
    pub(super) status: Option<TableStatus>,
}

impl From<&TableConfig> for TableOptions {
    fn from(table: &TableConfig) -> Self {
        Self {
            warehouse: table.warehouse.clone(),
            name: table.name.clone(),
            retention_days: table.retention_days,
        }
    }
}

/// Opens every table of events, or makes it.
pub(super) async fn open(
    config: &Config,
    columns: &[TableColumn],
    clock: &Arc<dyn Clock>,
    ids: &Arc<dyn Ids>,
    writer_id: Uuid,
) -> anyhow::Result<Destinations> {
    let mut opened = Vec::with_capacity(config.tables.len());
    for table in &config.tables {
        let options = TableOptions::from(table);
        let open = Table::open_or_create(&options, columns, Arc::clone(clock), Arc::clone(ids)).await;
        let open = open.with_context(|| format!("the table `{}`", table.name))?;
        opened.push(Destination { name: table.name.clone(), table: open, kind: TableKind::Events });
    }
    let mut opened = opened.into_iter();
    let primary = opened.next().context("the configuration has no table")?;
    Ok(Destinations::new(primary, opened.collect(), writer_id))
}

/// Looks at every table; None for one that does not exist yet. Makes and changes nothing.
pub(super) async fn peek(config: &Config) -> Result<Vec<(String, Option<Peek>)>, TableError> {
    let mut found = Vec::with_capacity(config.tables.len());
    for table in &config.tables {
        found.push((table.name.clone(), Table::peek(&TableOptions::from(table)).await?));
    }
    Ok(found)
}
