//! Old numbered metadata files, which pile up with every commit of the `files` catalog.
//!
//! Loading begins at the hint and looks for the next version until there is none, so nothing near the hint or the newest may go,
//! and what is left must have no gap: only the oldest go, in ascending order. Young ones stay for readers that were given one by
//! its name, and for writers that sleep.
//!
//! Owns: the choice, pure. Does not own: deleting (`table`).

use super::{Rules, millis};
use crate::table::Versions;

/// The versions to delete, in ascending order.
#[must_use]
pub fn plan(versions: &Versions, rules: &Rules, now_ms: i64) -> Vec<u64> {
    let Some(newest) = versions.files.last() else { return Vec::new() };
    let near = versions.hint.map_or(newest.number, |hint| hint.min(newest.number));
    let successors = versions.files.iter().zip(versions.files.iter().skip(1));
    successors
        .take_while(|(file, successor)| {
            file.number.saturating_add(rules.metadata_min_count.max(1)) <= near
                && now_ms.saturating_sub(successor.written_ms) >= millis(rules.metadata_min_age)
        })
        .map(|(file, _)| file.number)
        .collect()
}
