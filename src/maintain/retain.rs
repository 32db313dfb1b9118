//! Retention: which data files hold nothing but rows that may no longer be kept.
//!
//! A table is partitioned by the UTC day of `event_time`, and a file holds one day. With a retention of N days, a day is kept
//! through N whole days after it: all its rows are then at least N days old. It leaves whole, or not at all.
//!
//! An event that arrives late, for a day that has passed, is stored like any other and leaves at the next run: refusing it is
//! the gate's business (`privacy.age_max`).
//!
//! Owns: the horizon, the choice. Does not own: the commit (`table`). The choice is pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Clock;
use crate::datafile::{date_of, day_of};
use crate::table::{LiveFile, Removed, Table, TableError};

/// Files without a day that are named in a report.
const EXAMPLES_MAX: usize = 10;

/// What is past its retention.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetentionPlan {
    /// The days, in order.
    pub days: BTreeSet<i32>,
    /// Data files.
    pub files: u64,
    /// Their rows.
    pub rows: u64,
    /// Their size.
    pub bytes: u64,
    /// Files whose day is not known: they are left alone.
    pub undated_files: u64,
    /// Some of them.
    pub undated_examples: Vec<String>,
}

/// The first day that is kept: all of the day before it is at least `retention_days` old.
#[must_use]
pub fn first_day_kept(now_micros: i64, retention_days: u32) -> i32 {
    day_of(now_micros).saturating_sub_unsigned(retention_days)
}

/// True where all rows of a file are of days before the first one that is kept.
#[must_use]
pub fn is_past(file: &LiveFile, first_day_kept: i32) -> bool {
    file.day.is_some_and(|day| day < first_day_kept)
}

/// What of `files` is past its retention.
#[must_use]
pub fn plan(files: &[LiveFile], first_day_kept: i32) -> RetentionPlan {
    let mut plan = RetentionPlan::default();
    for file in files {
        match file.day {
            None => {
                plan.undated_files += 1;
                if plan.undated_examples.len() < EXAMPLES_MAX {
                    plan.undated_examples.push(file.location.clone());
                }
            }
            Some(day) if is_past(file, first_day_kept) => {
                plan.days.insert(day);
                plan.files += 1;
                plan.rows += file.rows;
                plan.bytes += file.bytes;
            }
            Some(_) => {}
        }
    }
    plan
}

/// Removes what is past its retention, in one snapshot that says why.
///
/// # Errors
/// As [`Table::remove_files`].
pub(super) async fn run(
    table: &Table,
    retention_days: u32,
    clock: &dyn Clock,
) -> Result<Removed, TableError> {
    let first_kept = first_day_kept(clock.now_micros(), retention_days);
    let summary = BTreeMap::from([
        ("esker.retention.before".to_owned(), date_of(first_kept)),
        ("esker.retention.days".to_owned(), retention_days.to_string()),
    ]);
    table.remove_files(&|file| is_past(file, first_kept), &summary).await
}
