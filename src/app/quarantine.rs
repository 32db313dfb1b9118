//! `esker quarantine list | replay | keygen`: looking at broken events, and sending repaired ones through the gate again.
//!
//! Owns: which rows are meant, and printing. Does not own: sealing (`privacy::seal`), why an event is here (the gate).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use serde::Serialize;

use super::admin::rfc3339;
use super::{AppError, Format, block_on, print};
use crate::columns::quarantine::{
    ATTRIBUTE_COUNT, ATTRIBUTE_NAMES, ATTRIBUTE_TYPES, CLAIMED_NAME, DETAIL, EVENT_ID, EVENT_NAME,
    EVENT_TIME, OCCURRED_TIME, POLICY_VERSION, REASON, SEALED_KEY_ID, SERVICE_NAME,
};
use crate::config::Config;
use crate::privacy::quarantined::QuarantineReason;
use crate::privacy::seal::OpeningKey;
use crate::table::TableOptions;
use crate::table::read::{TableReader, TimeRange};

pub mod key_file;
pub mod repair;
pub mod replay;

/// Which rows of the quarantine are meant: those that fit everything that is set.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Their ids; empty: any.
    pub event_ids: Vec<String>,
    /// Why they are here.
    pub reason: Option<QuarantineReason>,
    /// Who sent them.
    pub service: Option<String>,
    /// Their declared name, or the one that they claim.
    pub event: Option<String>,
    /// Received at or after this, microseconds since the Unix epoch.
    pub since: Option<i64>,
}

impl Filter {
    fn range(&self) -> TimeRange {
        TimeRange { from: self.since, before: None }
    }

    fn matches(&self, batch: &RecordBatch, row: usize) -> bool {
        let is = |column: &str, wanted: &str| text(batch, column, row) == Some(wanted);
        (self.event_ids.is_empty()
            || text(batch, EVENT_ID, row).is_some_and(|id| self.event_ids.iter().any(|wanted| wanted == id)))
            && self.reason.is_none_or(|reason| is(REASON, reason.as_str()))
            && self.service.as_deref().is_none_or(|service| is(SERVICE_NAME, service))
            && self.event.as_deref().is_none_or(|event| is(EVENT_NAME, event) || is(CLAIMED_NAME, event))
    }
}

/// A time of the command line, RFC 3339, in microseconds since the Unix epoch.
///
/// # Errors
/// What is wrong with it.
pub fn parse_time(text: &str) -> Result<i64, String> {
    text.parse::<jiff::Timestamp>()
        .map(jiff::Timestamp::as_microsecond)
        .map_err(|_| "must be RFC 3339, for example 2026-11-22T00:00:00Z".to_owned())
}

/// A reason of the command line.
///
/// # Errors
/// Where there is no such reason: which there are.
pub fn parse_reason(text: &str) -> Result<QuarantineReason, String> {
    QuarantineReason::parse(text).ok_or_else(|| {
        format!("must be one of {}", QuarantineReason::ALL.map(QuarantineReason::as_str).join(", "))
    })
}

/// Makes a key pair: the private half goes to a new file, the public half is printed.
///
/// # Errors
/// Where the file exists or cannot be written.
pub fn keygen(out: &Path) -> Result<(), AppError> {
    let key = OpeningKey::generate().map_err(anyhow::Error::from)?;
    key_file::create(out, &key)?;
    print(&format!("{}\n", key.recipient()))?;
    Ok(())
}

/// A row as `list` shows it.
#[derive(Debug, Serialize)]
struct Listed {
    event_id: String,
    event_name: String,
    claimed_name: Option<String>,
    received: String,
    occurred: Option<String>,
    service_name: Option<String>,
    reason: String,
    detail: Option<String>,
    attribute_count: i64,
    /// Name and type of each; not all where there are more than are stored.
    attributes: Vec<(String, String)>,
    policy_version: String,
    /// The id of the key that opens its payload; None where it has none.
    sealed_key_id: Option<String>,
    #[serde(skip)]
    received_micros: i64,
}

#[derive(Debug, Serialize)]
struct Listing {
    table: String,
    /// Rows that fit the filter.
    matched: u64,
    matched_by_reason: BTreeMap<String, u64>,
    matched_with_payload: u64,
    /// The newest of them.
    rows: Vec<Listed>,
}

/// Lists the newest `limit` rows that fit. Needs no key, and makes and changes nothing.
///
/// # Errors
/// Where the table cannot be read.
pub fn list(config: &Config, filter: &Filter, limit: usize, format: Format) -> Result<(), AppError> {
    let listing = block_on(async { Ok(gather(config, filter, limit).await?) })?;
    let text = match format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&listing).map_err(anyhow::Error::from)?),
        Format::Text => listing_text(&listing),
    };
    print(&text)?;
    Ok(())
}

async fn gather(config: &Config, filter: &Filter, limit: usize) -> anyhow::Result<Listing> {
    const COLUMNS: [&str; 13] = [
        EVENT_ID,
        EVENT_NAME,
        EVENT_TIME,
        OCCURRED_TIME,
        SERVICE_NAME,
        REASON,
        DETAIL,
        CLAIMED_NAME,
        ATTRIBUTE_COUNT,
        ATTRIBUTE_NAMES,
        ATTRIBUTE_TYPES,
        POLICY_VERSION,
        SEALED_KEY_ID,
    ];
    let mut listing = Listing {
        table: config.quarantine.table.clone(),
        matched: 0,
        matched_by_reason: BTreeMap::new(),
        matched_with_payload: 0,
        rows: Vec::new(),
    };
    let Some(reader) = TableReader::open(&table_options(config)).await? else { return Ok(listing) };
    let mut batches = reader.scan(&COLUMNS, filter.range()).await?;
    while let Some(batch) = batches.try_next().await? {
        for row in (0..batch.num_rows()).filter(|row| filter.matches(&batch, *row)) {
            let listed = listed(&batch, row)?;
            listing.matched += 1;
            listing.matched_with_payload += u64::from(listed.sealed_key_id.is_some());
            *listing.matched_by_reason.entry(listed.reason.clone()).or_default() += 1;
            listing.rows.push(listed);
        }
        // Rows come in no order, so the newest are known at the end; until then twice as many are held at the most.
        if listing.rows.len() >= limit.saturating_mul(2) {
            keep_newest(&mut listing.rows, limit);
        }
    }
    keep_newest(&mut listing.rows, limit);
    Ok(listing)
}

fn keep_newest(rows: &mut Vec<Listed>, limit: usize) {
    rows.sort_by(|left, right| {
        (right.received_micros, &left.event_id).cmp(&(left.received_micros, &right.event_id))
    });
    rows.truncate(limit);
}

fn listed(batch: &RecordBatch, row: usize) -> anyhow::Result<Listed> {
    let owned = |column: &str| text(batch, column, row).map(str::to_owned);
    let needed = |column: &str| owned(column).ok_or_else(|| anyhow!("a row has no {column}"));
    let array = |column: &str| -> anyhow::Result<Vec<String>> {
        let Some(json) = text(batch, column, row) else { return Ok(Vec::new()) };
        serde_json::from_str(json).with_context(|| format!("the column {column}"))
    };
    let received_micros = time(batch, EVENT_TIME, row).context("a row has no event_time")?;
    Ok(Listed {
        event_id: needed(EVENT_ID)?,
        event_name: needed(EVENT_NAME)?,
        claimed_name: owned(CLAIMED_NAME),
        received: rfc3339(received_micros),
        occurred: time(batch, OCCURRED_TIME, row).map(rfc3339),
        service_name: owned(SERVICE_NAME),
        reason: needed(REASON)?,
        detail: owned(DETAIL),
        attribute_count: batch
            .column_by_name(ATTRIBUTE_COUNT)
            .and_then(|column| column.as_primitive_opt::<Int64Type>())
            .map_or(0, |column| column.value(row)),
        attributes: array(ATTRIBUTE_NAMES)?.into_iter().zip(array(ATTRIBUTE_TYPES)?).collect(),
        policy_version: needed(POLICY_VERSION)?,
        sealed_key_id: owned(SEALED_KEY_ID),
        received_micros,
    })
}

/// Where the quarantine is.
fn table_options(config: &Config) -> TableOptions {
    TableOptions {
        warehouse: config.tables.first().map(|primary| primary.warehouse.clone()).unwrap_or_default(),
        catalog: config.tables.first().map(|primary| primary.catalog.clone()).unwrap_or_default(),
        storage: config.tables.first().map(|primary| Arc::clone(&primary.storage)).unwrap_or_default(),
        name: config.quarantine.table.clone(),
        retention_days: None,
    }
}

/// A row's text in a column; None where it is null.
fn text<'b>(batch: &'b RecordBatch, column: &str, row: usize) -> Option<&'b str> {
    let column = batch.column_by_name(column)?.as_string_opt::<i32>()?;
    column.is_valid(row).then(|| column.value(row))
}

/// A row's time in a column; None where it is null.
fn time(batch: &RecordBatch, column: &str, row: usize) -> Option<i64> {
    let column = batch.column_by_name(column)?.as_primitive_opt::<TimestampMicrosecondType>()?;
    column.is_valid(row).then(|| column.value(row))
}

fn listing_text(listing: &Listing) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let reasons: Vec<_> =
        listing.matched_by_reason.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    writeln!(
        text,
        "{}: {} events fit ({}), {} of them with a sealed payload",
        listing.table,
        listing.matched,
        if reasons.is_empty() { "none".to_owned() } else { reasons.join(", ") },
        listing.matched_with_payload
    )
    .ok();
    for row in &listing.rows {
        let name = row
            .claimed_name
            .as_ref()
            .map_or_else(|| row.event_name.clone(), |claimed| format!("{} {claimed}", row.event_name));
        let service = row.service_name.as_deref().unwrap_or("-");
        let detail = row.detail.as_ref().map_or_else(String::new, |keys| format!(" ({keys})"));
        let payload = row
            .sealed_key_id
            .as_ref()
            .map_or_else(|| "no payload".to_owned(), |id| format!("sealed to {id}"));
        writeln!(text, "\n{}  {name}  from {service}: {}{detail}", row.received, row.reason).ok();
        writeln!(text, "  event_id {}, policy {}, {payload}", row.event_id, row.policy_version).ok();
        let attributes: Vec<_> =
            row.attributes.iter().map(|(name, kind)| format!("{name}: {kind}")).collect();
        let more = usize::try_from(row.attribute_count).unwrap_or(0).saturating_sub(attributes.len());
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        writeln!(text, "  {}{more}", attributes.join(", ")).ok();
    }
    let shown = listing.rows.len() as u64;
    if shown < listing.matched {
        writeln!(text, "\nThe newest {shown} are shown; --limit shows more.").ok();
    }
    text
}

#[cfg(test)]
mod tests;
