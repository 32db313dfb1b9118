//! `esker maintain`, and the schedule by which `esker serve` does the same.
//!
//! Owns: which tables by which rules, when, and what is told of it. Does not own: what a run does (`maintain`).
//!
//! A run reads and commits as another writer would: it needs no lock, and any number of processes may do it at the same time.
//! In `esker serve` it has a thread of its own, away from those that answer requests.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{AppError, Format, block_on, print, tables};
use crate::clock::{Clock, Ids, RandomIds, SystemClock};
use crate::config::Config;
use crate::config::maintain::MaintainConfig;
use crate::maintain::{self, CareReport, CareWatch, Rules};
use crate::table::{Table, TableError, TableOptions};

/// The first run of a process begins within this time, and within an interval.
const FIRST_RUN_WITHIN: Duration = Duration::from_secs(60);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The care of all tables of a configuration.
#[derive(Debug)]
pub(super) struct Care {
    tables: Vec<TableOptions>,
    config: MaintainConfig,
    age_max: Duration,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    watch: CareWatch,
}

/// What was done to a table, or would be.
#[derive(Debug, Serialize)]
struct TableOutcome {
    name: String,
    /// False where it does not exist yet.
    exists: bool,
    #[serde(flatten)]
    report: CareReport,
    /// Why the run could not go on.
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Answer {
    dry_run: bool,
    tables: Vec<TableOutcome>,
}

/// Cares for every table once, and prints what was done.
///
/// # Errors
/// Where a table could not be read or written; the others are cared for all the same.
pub fn command(config: &Config, dry_run: bool, format: Format) -> Result<(), AppError> {
    let care = Care::new(config, CareWatch::default());
    let answer = block_on(async { Ok(care.once(dry_run).await) })?;
    let failed = answer.tables.iter().filter(|table| table.error.is_some()).count();
    print(&match format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&answer).map_err(anyhow::Error::from)?),
        Format::Text => text(&answer),
    })?;
    if failed > 0 {
        let why = anyhow::anyhow!("{failed} of {} tables could not be cared for", answer.tables.len());
        return Err(why.into());
    }
    Ok(())
}

impl Care {
    /// For the tables of a configuration. What is done is counted in `watch`.
    pub(super) fn new(config: &Config, watch: CareWatch) -> Self {
        Self {
            tables: tables::all(config),
            config: config.maintain,
            age_max: config.privacy.age_max,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            watch,
        }
    }

    /// Cares for the tables again and again, until `stop`. A run that is under way then is cut short; the next one goes on.
    pub(super) async fn on_schedule(self, stop: CancellationToken) {
        self.say_what_arrives_too_late();
        let Some(interval) = self.config.interval else {
            tracing::info!("maintain.interval is 0s: tables are cared for by `esker maintain` alone");
            return;
        };
        let this = Arc::new(self);
        // Replicas that start together do not begin together.
        let mut wait = interval.min(FIRST_RUN_WITHIN).mul_f64(this.random());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let (care, stopped) = (Arc::clone(&this), stop.clone());
            let runtime = tokio::runtime::Handle::current();
            let run = tokio::task::spawn_blocking(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = stopped.cancelled() => {}
                        _ = care.once(false) => {}
                    }
                });
            });
            if let Err(error) = run.await {
                tracing::error!(%error, "the thread that cares for the tables ended; it begins again at the next run");
            }
            wait = interval.mul_f64(0.9 + 0.2 * this.random());
        }
    }

    /// Every table in turn. One that fails does not keep the others waiting.
    async fn once(&self, dry_run: bool) -> Answer {
        let mut outcomes = Vec::with_capacity(self.tables.len());
        for options in &self.tables {
            let mut report = CareReport::default();
            let outcome = self.table(options, dry_run, &mut report).await;
            let exists = !matches!(outcome, Ok(false));
            let outcome = outcome.map(drop);
            if !dry_run && exists {
                self.watch.ended(&options.name, &report, &outcome, self.clock.now_micros());
                log(&options.name, &report, &outcome);
            }
            let error = outcome.err().map(|error| error.to_string());
            outcomes.push(TableOutcome { name: options.name.clone(), exists, report, error });
        }
        Answer { dry_run, tables: outcomes }
    }

    /// One table; false where there is none yet.
    async fn table(
        &self,
        options: &TableOptions,
        dry_run: bool,
        report: &mut CareReport,
    ) -> Result<bool, TableError> {
        let (clock, ids) = (Arc::clone(&self.clock), Arc::clone(&self.ids));
        let Some(table) = Table::open_existing(options, clock, ids).await? else { return Ok(false) };
        let rules = self.rules(options);
        if dry_run {
            *report = maintain::plan(&table, &rules, self.clock.as_ref()).await?;
        } else {
            maintain::run(&table, &rules, self.clock.as_ref(), report).await?;
        }
        Ok(true)
    }

    fn rules(&self, options: &TableOptions) -> Rules {
        Rules {
            retention_days: options.retention_days,
            snapshots_min_age: self.config.snapshots_min_age,
            snapshots_min_count: self.config.snapshots_min_count,
            orphans_min_age: self.config.orphans_min_age,
            metadata_min_age: self.config.metadata_min_age,
            metadata_min_count: self.config.metadata_min_count,
        }
    }

    fn say_what_arrives_too_late(&self) {
        for table in &self.tables {
            if table.retention_days.is_some_and(|days| DAY * days < self.age_max) {
                tracing::info!(
                    table = table.name,
                    retention_days = table.retention_days,
                    age_max_days = self.age_max.as_secs() / DAY.as_secs(),
                    "events that are older than this table's retention are accepted and leave again at the next run of its \
                     care; lower privacy.age_max to refuse them"
                );
            }
        }
    }

    /// From 0 to 1.
    fn random(&self) -> f64 {
        let (_, low) = self.ids.next_id().as_u64_pair();
        f64::from(u32::try_from(low & u64::from(u32::MAX)).unwrap_or(0)) / f64::from(u32::MAX)
    }
}

fn log(table: &str, report: &CareReport, outcome: &Result<(), TableError>) {
    let CareReport { files_removed, rows_removed, snapshots_expired, .. } = *report;
    let files_deleted = report.files_deleted + report.orphans_deleted + report.metadata_files_deleted;
    if rows_removed > 0 {
        let before = report.first_day_kept.as_deref();
        tracing::info!(
            table,
            before,
            files_removed,
            rows_removed,
            "rows past their retention left the table"
        );
    }
    if report.undated_files > 0 {
        let (files, example) = (report.undated_files, report.undated_examples.first());
        tracing::warn!(table, files, example, "files without a day partition: retention leaves them alone");
    }
    for note in &report.notes {
        tracing::warn!(table, note, "left undone");
    }
    match outcome {
        Ok(()) => tracing::info!(table, snapshots_expired, files_deleted, "cared for the table"),
        Err(error) => {
            tracing::warn!(table, %error, "the table could not be cared for; the next run tries again")
        }
    }
}

fn text(answer: &Answer) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for TableOutcome { name, exists, report, error } in &answer.tables {
        if !exists {
            writeln!(text, "{name}: none yet").ok();
            continue;
        }
        let verb = if answer.dry_run { "would leave" } else { "left" };
        let retention = match (report.retention_days, &report.first_day_kept) {
            (Some(days), Some(first)) => format!("retention {days}d, kept from {first} on"),
            (Some(days), None) => format!("retention {days}d"),
            (None, _) => "no retention: rows stay".to_owned(),
        };
        writeln!(text, "{name}: {retention}").ok();
        if let (Some(first), Some(last)) = (report.days_removed.first(), report.days_removed.last()) {
            let days = if first == last { first.clone() } else { format!("{first} to {last}") };
            writeln!(
                text,
                "  {} rows in {} files ({}) of {} days {verb}: {days}",
                report.rows_removed,
                report.files_removed,
                ByteSize(report.bytes_removed),
                report.days_removed.len(),
            )
            .ok();
        }
        let verb = if answer.dry_run { "would be" } else { "were" };
        writeln!(
            text,
            "  {} snapshots {verb} expired; {} files of theirs, {} orphans and {} old metadata files {verb} deleted",
            report.snapshots_expired,
            report.files_deleted,
            report.orphans_deleted,
            report.metadata_files_deleted
        )
        .ok();
        if report.undated_files > 0 {
            let examples = report.undated_examples.join(", ");
            writeln!(text, "  {} files have no day and are left alone: {examples}", report.undated_files)
                .ok();
        }
        if !report.held_by.is_empty() {
            let names = report.held_by.join(", ");
            writeln!(text, "  branches or tags that keep older snapshots, and their rows: {names}").ok();
        }
        for note in &report.notes {
            writeln!(text, "  NOTE: {note}").ok();
        }
        if let Some(error) = error {
            writeln!(text, "  FAILED: {error}").ok();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_reads_as_what_was_done_or_would_be() {
        let report = CareReport {
            retention_days: Some(30),
            first_day_kept: Some("2026-10-26".to_owned()),
            days_removed: vec!["2026-10-01".to_owned(), "2026-10-02".to_owned()],
            files_removed: 3,
            rows_removed: 7,
            held_by: vec!["audit".to_owned()],
            ..CareReport::default()
        };
        let table = |exists, error: Option<&str>| TableOutcome {
            name: "a.b".to_owned(),
            exists,
            report: report.clone(),
            error: error.map(str::to_owned),
        };
        let planned = text(&Answer { dry_run: true, tables: vec![table(true, None)] });
        assert!(planned.contains("7 rows in 3 files"), "{planned}");
        assert!(planned.contains("would leave: 2026-10-01 to 2026-10-02"), "{planned}");
        assert!(planned.contains("kept from 2026-10-26 on") && planned.contains("audit"), "{planned}");
        let done =
            text(&Answer { dry_run: false, tables: vec![table(true, Some("store")), table(false, None)] });
        assert!(done.contains("days left: ") && done.contains("FAILED: store"), "{done}");
        assert!(done.contains("a.b: none yet"), "{done}");
    }
}
