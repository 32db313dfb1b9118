//! Orphans: files in the table's folders that nothing names, such as those of a writer that was killed before its commit.
//!
//! A file that nothing names yet may belong to a commit that is under way. So only old ones are orphans, of two days at least
//! (`config::maintain`), and a writer whose commit was held up for a day writes its files again (`table::commit`). A writer may
//! also sleep between looking at its clock and committing: so before orphans are deleted, the table is told (`table::fence`).
//!
//! Owns: the choice, pure. Does not own: listing and deleting (`table`).

use std::collections::HashSet;

use super::{Rules, millis};
use crate::table::{LiveFile, StoredFile};

/// The stored files that nothing needs and that are old enough.
#[must_use]
pub fn plan(
    stored: Vec<StoredFile>,
    is_needed: impl Fn(&str) -> bool,
    rules: &Rules,
    now_ms: i64,
) -> Vec<StoredFile> {
    let is_old = |file: &StoredFile| file.written_ms <= before_ms(rules, now_ms);
    stored.into_iter().filter(|file| is_old(file) && !is_needed(&file.location)).collect()
}

/// Files that were written after this time are none.
#[must_use]
pub fn before_ms(rules: &Rules, now_ms: i64) -> i64 {
    now_ms.saturating_sub(millis(rules.orphans_min_age))
}

/// A live file that is not among those listed. One is reason enough to delete nothing: either a file is missing, or the store's
/// names are not the table's, and then every file would look like an orphan.
#[must_use]
pub fn not_listed<'f>(stored: &[StoredFile], live: &'f [LiveFile]) -> Option<&'f str> {
    let listed: HashSet<&str> = stored.iter().map(|file| file.location.as_str()).collect();
    live.iter().map(|file| file.location.as_str()).find(|file| !listed.contains(file))
}
