//! Who withdrew consent: read at the start from the table of withdrawals and from the WAL, then followed, since other
//! replicas commit to the same table.
//!
//! Owns: where the set comes from, and how often it is read again. Does not own: what a withdrawal does (`privacy`).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arrow::array::{Array, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::columns::Bundle;
use crate::columns::withdrawals::{EVENT_TIME, LIFTS, MADE_TIME, SUBJECT};
use crate::config::Config;
use crate::config::tables::withdrawals_name;
use crate::privacy::{Statement, Withdrawn};
use crate::table::TableOptions;
use crate::table::read::{TableReader, TimeRange};
use crate::wal::{Position, Wal};

/// How often the table is read again: until then, what another replica was told is not known here.
const FOLLOW_EVERY: Duration = Duration::from_secs(30);

/// A row may be committed this much later than it was received, and is then still found; longer outages are made up for by the
/// next start.
const OVERLAP_MICROS: i64 = 48 * 60 * 60 * 1_000_000;

/// The table of withdrawals.
pub(super) fn table(config: &Config) -> TableOptions {
    let primary = config.tables.first();
    TableOptions {
        warehouse: primary.map(|primary| primary.warehouse.clone()).unwrap_or_default(),
        catalog: primary.map(|primary| primary.catalog.clone()).unwrap_or_default(),
        storage: primary.map(|primary| Arc::clone(&primary.storage)).unwrap_or_default(),
        name: primary.map(|primary| withdrawals_name(&primary.name)).unwrap_or_default(),
        retention_days: None,
    }
}

/// Fills the set before the first request is taken.
pub(super) async fn load(
    options: &TableOptions,
    wal: &Wal,
    committed: Position,
    withdrawn: &Withdrawn,
) -> anyhow::Result<()> {
    read_table(options, TimeRange::ALL, withdrawn).await?;
    for frame in wal.read(committed, Position(u64::MAX)) {
        let bundle = Bundle::parse(frame?.payload).context("the WAL")?;
        for section in bundle.sections().iter().filter(|one| one.table() == Some(&options.name)) {
            add(section.batch().context("the WAL")?.record_batch(), withdrawn);
        }
    }
    if !withdrawn.is_empty() {
        tracing::info!(subjects = withdrawn.len(), "withdrawals of consent are in force");
    }
    Ok(())
}

/// What it takes to read the table again and again.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) table: TableOptions,
    pub(super) withdrawn: Arc<Withdrawn>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Following {
    /// Reads the table now and then, until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(FOLLOW_EVERY) => {}
            }
            let since = TimeRange::since(self.clock.now_micros() - OVERLAP_MICROS);
            if let Err(error) = read_table(&self.table, since, &self.withdrawn).await {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the table of withdrawals could not be read; those that other replicas were told are not known yet"
                );
            }
        }
    }
}

async fn read_table(options: &TableOptions, range: TimeRange, withdrawn: &Withdrawn) -> anyhow::Result<()> {
    let name = || format!("the table `{}`", options.name);
    let Some(reader) = TableReader::open(options).await.with_context(name)? else { return Ok(()) };
    let columns = [SUBJECT, EVENT_TIME, LIFTS, MADE_TIME];
    // A table that no start of this version has opened for writing lacks the last.
    let (_, earlier) = columns.split_last().unwrap_or((&"", &[]));
    let columns = if reader.has_column(MADE_TIME) { &columns } else { earlier };
    let mut rows = reader.scan(columns, range).await.with_context(name)?;
    while let Some(batch) = rows.try_next().await.with_context(name)? {
        add(&batch, withdrawn);
    }
    Ok(())
}

fn add(batch: &RecordBatch, withdrawn: &Withdrawn) {
    let time = |name: &str| {
        let column = batch.column_by_name(name)?;
        column.as_primitive_opt::<TimestampMicrosecondType>()
    };
    let columns = (
        batch.column_by_name(SUBJECT).and_then(|column| column.as_string_opt::<i32>()),
        time(EVENT_TIME),
        batch.column_by_name(LIFTS).and_then(|column| column.as_boolean_opt()),
    );
    let (Some(subjects), Some(received), Some(lifts)) = columns else { return };
    let made = time(MADE_TIME);
    for (row, ((subject, received), lifts)) in
        subjects.iter().zip(received.iter()).zip(lifts.iter()).enumerate()
    {
        if let (Some(subject), Some(received_micros), Some(lifts)) = (subject, received, lifts) {
            // Where nobody wrote down when it was made, it counts from its receipt, as it did then.
            let made = made.filter(|made| made.is_valid(row)).map(|made| made.value(row));
            let made_micros = made.unwrap_or(received_micros);
            withdrawn.insert(subject, Statement { made_micros, received_micros, lifts });
        }
    }
}
