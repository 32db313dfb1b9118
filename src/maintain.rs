//! The care of a table: days whose retention has passed leave it, snapshots that nobody needs are expired, and the bytes that
//! only they named are deleted.
//!
//! A run has four steps, each of which begins with reading the table, so that a run which is cut short anywhere leaves a correct
//! table and the next one goes on:
//!
//! 1. `retain`: data files of days before the horizon leave the newest snapshot, in one commit.
//! 2. `expire`: snapshots that are old enough are expired, in one commit.
//! 3. `orphans`: files that only they named are deleted; so are files that nothing names and that are older than any commit
//!    that may still be under way, such as those of a run or a writer that was killed. Before those are deleted, the table is
//!    told, in one commit, so that a writer that slept does not commit them afterwards.
//! 4. `versions`: old numbered metadata files are deleted.
//!
//! Owns: what is chosen (the modules below, pure), the order of the steps, the report. Does not own: commits and deletions
//! (`table`), when a run begins (`app`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::datafile::date_of;
use crate::table::{Needed, Table, TableError};

pub mod retain;
pub mod expire;
pub mod orphans;
pub mod versions;

#[cfg(test)]
mod tests;

/// What a table's care goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long rows are kept, in days; None: for ever.
    pub retention_days: Option<u32>,
    /// A snapshot is expired once it has not been the newest for this long.
    pub snapshots_min_age: Duration,
    /// The newest snapshots that are kept whatever their age.
    pub snapshots_min_count: u64,
    /// Files that nothing names are deleted once they are this old.
    pub orphans_min_age: Duration,
    /// A metadata file is deleted once it has not been the newest for this long.
    pub metadata_min_age: Duration,
    /// The newest metadata files that are kept whatever their age.
    pub metadata_min_count: u64,
}

/// What a run did, or what it would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CareReport {
    /// How long rows are kept; None: for ever.
    pub retention_days: Option<u32>,
    /// The first day that is kept.
    pub first_day_kept: Option<String>,
    /// The days that left the table.
    pub days_removed: Vec<String>,
    /// Their data files.
    pub files_removed: u64,
    /// Their rows.
    pub rows_removed: u64,
    /// The size of their files.
    pub bytes_removed: u64,
    /// Live files that no day is known of. Retention leaves them alone.
    pub undated_files: u64,
    /// Some of them.
    pub undated_examples: Vec<String>,
    /// Snapshots that were expired.
    pub snapshots_expired: u64,
    /// Branches and tags without which more snapshots would have been expired.
    pub held_by: Vec<String>,
    /// Files deleted that expired snapshots alone had named: data files, manifests, lists of manifests.
    pub files_deleted: u64,
    /// Files deleted that nothing named.
    pub orphans_deleted: u64,
    /// Old metadata files deleted.
    pub metadata_files_deleted: u64,
    /// What was left undone, and why.
    pub notes: Vec<String>,
}

fn millis(age: Duration) -> i64 {
    i64::try_from(age.as_millis()).unwrap_or(i64::MAX)
}

/// Cares for a table, and writes into `report` what was done, also where a step fails: then the steps after it wait for the next
/// run.
///
/// # Errors
/// Where the table cannot be read or written.
pub async fn run(
    table: &Table,
    rules: &Rules,
    clock: &dyn Clock,
    report: &mut CareReport,
) -> Result<(), TableError> {
    let now_ms = || clock.now_micros() / 1000;
    let is_due = plan_retention(table, rules, clock, report).await?;
    // What was planned is not yet done.
    (report.files_removed, report.rows_removed, report.bytes_removed) = (0, 0, 0);
    let days = std::mem::take(&mut report.days_removed);
    if is_due {
        let removed = retain::run(table, rules.retention_days.unwrap_or_default(), clock).await?;
        report.files_removed = removed.files;
        report.rows_removed = removed.rows;
        report.bytes_removed = removed.bytes;
        report.days_removed = if removed.files > 0 { days } else { Vec::new() };
    }
    let mut needed = table.needs_nothing_yet();
    let choose = |history: &_| expire::plan(history, rules, now_ms()).expired;
    let expired = table.expire(&choose, &mut needed).await?;
    report.snapshots_expired = expired.snapshots.len() as u64;
    report.held_by = expire::plan(&table.history().await?, rules, now_ms()).held_by;
    let freed: BTreeSet<String> = expired.files.into_iter().collect();
    delete_unneeded(table, rules, now_ms(), freed, needed, report).await?;
    let old = versions::plan(&table.versions().await?, rules, now_ms());
    table.remove_versions(&old).await?;
    report.metadata_files_deleted = old.len() as u64;
    Ok(())
}

/// What a run would do now. Each step is planned on the table as it is, so what a step would leave for the next one to find is
/// not in it.
///
/// # Errors
/// Where the table cannot be read.
pub async fn plan(table: &Table, rules: &Rules, clock: &dyn Clock) -> Result<CareReport, TableError> {
    let now_ms = clock.now_micros() / 1000;
    let mut report = CareReport::default();
    plan_retention(table, rules, clock, &mut report).await?;
    let expiry = expire::plan(&table.history().await?, rules, now_ms);
    report.snapshots_expired = expiry.expired.len() as u64;
    report.held_by = expiry.held_by;
    let freed: BTreeSet<String> = table.only_in(&expiry.expired).await?.into_iter().collect();
    if !table.may_delete_files() {
        note_that_files_stay(&freed, &mut report);
        return Ok(report);
    }
    report.files_deleted = freed.len() as u64;
    if let Some(orphans) = find_orphans(table, rules, now_ms, table.needs_nothing_yet(), &mut report).await?.1
    {
        report.orphans_deleted = orphans.difference(&freed).count() as u64;
    }
    report.metadata_files_deleted = versions::plan(&table.versions().await?, rules, now_ms).len() as u64;
    Ok(report)
}

/// Plans the first step; false where nothing is past its retention.
async fn plan_retention(
    table: &Table,
    rules: &Rules,
    clock: &dyn Clock,
    report: &mut CareReport,
) -> Result<bool, TableError> {
    report.retention_days = rules.retention_days;
    let Some(days) = rules.retention_days else { return Ok(false) };
    let first_kept = retain::first_day_kept(clock.now_micros(), days);
    let plan = retain::plan(&table.live_files().await?, first_kept);
    report.first_day_kept = Some(date_of(first_kept));
    report.days_removed = plan.days.into_iter().map(date_of).collect();
    (report.files_removed, report.rows_removed, report.bytes_removed) = (plan.files, plan.rows, plan.bytes);
    (report.undated_files, report.undated_examples) = (plan.undated_files, plan.undated_examples);
    Ok(plan.files > 0)
}

/// Deletes the files that expired snapshots named, and orphans, as far as nothing needs them.
async fn delete_unneeded(
    table: &Table,
    rules: &Rules,
    now_ms: i64,
    freed: BTreeSet<String>,
    needed: Needed,
    report: &mut CareReport,
) -> Result<(), TableError> {
    if !table.may_delete_files() {
        note_that_files_stay(&freed, report);
        return Ok(());
    }
    let (mut needed, orphans) = find_orphans(table, rules, now_ms, needed, report).await?;
    let mut orphans: Vec<String> = orphans.unwrap_or_default().difference(&freed).cloned().collect();
    let freed: Vec<String> = freed.into_iter().filter(|file| !needed.has(file)).collect();
    // The expired snapshots' first: of the others it is not known how long they have been unneeded.
    report.files_deleted = table.delete_files(freed).await?;
    if orphans.is_empty() {
        return Ok(());
    }
    table.fence_orphans(orphans::before_ms(rules, now_ms)).await?;
    // A writer may have been quicker than the fence.
    table.add_needed(&mut needed).await?;
    orphans.retain(|file| !needed.has(file));
    report.orphans_deleted = table.delete_files(orphans).await?;
    Ok(())
}

fn note_that_files_stay(freed: &BTreeSet<String>, report: &mut CareReport) {
    if !freed.is_empty() {
        report.notes.push(format!(
            "{} files that expired snapshots alone named are left to the catalog, which manages the storage: see that its own \
             maintenance removes unreferenced files",
            freed.len()
        ));
    }
}

/// The files that nothing names; None where listing does not show what it must. With all that is needed.
async fn find_orphans(
    table: &Table,
    rules: &Rules,
    now_ms: i64,
    mut needed: Needed,
    report: &mut CareReport,
) -> Result<(Needed, Option<BTreeSet<String>>), TableError> {
    // In this order: what was needed before the listing must be in it; what a commit adds after it is not listed; and what one
    // added in between is found to be needed.
    let live = table.live_files().await?;
    table.add_needed(&mut needed).await?;
    let stored = table.stored_files().await?;
    let not_listed = needed.not_among(&stored);
    table.add_needed(&mut needed).await?;
    let problem = match (orphans::not_listed(&stored, &live), needed.outside()) {
        (Some(file), _) => format!(
            "the store does not list {file}, which the table holds; if another process just removed it, the next run goes on, \
             else restore it"
        ),
        (None, Some(file)) => format!("the table names {file}, which does not lie in its folder"),
        (None, None) if not_listed > 0 => format!(
            "the store does not list {not_listed} files that older snapshots, branches or tags need, or lists them by other names"
        ),
        (None, None) => {
            let orphans = orphans::plan(stored, |location| needed.has(location), rules, now_ms);
            return Ok((needed, Some(orphans.into_iter().map(|file| file.location).collect())));
        }
    };
    report.notes.push(format!("orphans were left alone: {problem}"));
    Ok((needed, None))
}

/// What the care of a table has done since the process started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CareTotals {
    /// Runs that ended well.
    pub runs: u64,
    /// Runs that failed.
    pub failures: u64,
    /// When the last run ended well, microseconds since the Unix epoch.
    pub last_run_micros: Option<i64>,
    /// Why the last run failed, while it is not overcome.
    pub trouble: Option<String>,
    /// Data files that retention removed from the table.
    pub files_removed: u64,
    /// Their rows.
    pub rows_removed: u64,
    /// Snapshots expired.
    pub snapshots_expired: u64,
    /// Files deleted from the store, of all kinds.
    pub files_deleted: u64,
}

/// The shared, current [`CareTotals`] of each table.
#[derive(Debug, Clone, Default)]
pub struct CareWatch(Arc<Mutex<BTreeMap<String, CareTotals>>>);

impl CareWatch {
    /// The totals now, by table.
    #[must_use]
    pub fn totals(&self) -> BTreeMap<String, CareTotals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a run, whichever way it ended.
    pub fn ended(&self, table: &str, report: &CareReport, outcome: &Result<(), TableError>, now_micros: i64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let totals = all.entry(table.to_owned()).or_default();
        match outcome {
            Ok(()) => {
                totals.runs += 1;
                totals.last_run_micros = Some(now_micros);
                totals.trouble = None;
            }
            Err(error) => {
                totals.failures += 1;
                totals.trouble = Some(error.to_string());
            }
        }
        totals.files_removed += report.files_removed;
        totals.rows_removed += report.rows_removed;
        totals.snapshots_expired += report.snapshots_expired;
        totals.files_deleted += report.files_deleted + report.orphans_deleted + report.metadata_files_deleted;
    }
}
