//! Expiry: which snapshots nobody needs any more.
//!
//! Kept are: the newest snapshot; the newest so many of `main`, but none from before rows were taken out of the table, or what
//! they held would stay in a table that gets no more commits; those that were the newest until a short while ago, for whoever
//! still reads them; what a tag or a branch points to, and what a branch grew from since it left `main`. The rest is expired.
//!
//! The writers' positions need no snapshot: they are properties of the table.
//!
//! Owns: the choice, pure. Does not own: the commit (`table`).

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Rules, millis};
use crate::table::{History, SnapshotFacts};

/// What an expiry does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExpiryPlan {
    /// The snapshots to expire.
    pub expired: Vec<i64>,
    /// Branches and tags that keep snapshots which would otherwise be expired.
    pub held_by: Vec<String>,
}

/// Plans the expiry of a table's snapshots.
#[must_use]
pub fn plan(history: &History, rules: &Rules, now_ms: i64) -> ExpiryPlan {
    let by_id: HashMap<i64, &SnapshotFacts> = history.snapshots.iter().map(|one| (one.id, one)).collect();
    let main = lineage(&by_id, history.current);
    let of_main: HashSet<i64> = main.iter().copied().collect();
    let asked = history.references.iter().find(|reference| reference.is_main());
    let count = rules.snapshots_min_count.max(asked.and_then(|main| main.snapshots_min).unwrap_or(0)).max(1);
    let since_removal = main.iter().position(|id| by_id.get(id).is_some_and(|one| one.removes));
    let counted =
        usize::try_from(count).unwrap_or(usize::MAX).min(since_removal.map_or(usize::MAX, |place| place + 1));
    let mut kept: HashSet<i64> = main.iter().take(counted).copied().collect();
    let is_young = |since_ms: i64| now_ms.saturating_sub(since_ms) < millis(rules.snapshots_min_age);
    // A snapshot of `main` was the newest until its successor was made.
    let successors = main.iter().zip(main.iter().skip(1));
    kept.extend(
        successors.filter(|(newer, _)| made(&by_id, **newer).is_none_or(is_young)).map(|pair| pair.1),
    );
    // What is on no branch (staged, or rolled back) counts from when it was made.
    let elsewhere = history.snapshots.iter().filter(|one| !of_main.contains(&one.id));
    kept.extend(elsewhere.filter(|one| is_young(one.made_ms)).map(|one| one.id));
    let mut held_by = BTreeSet::new();
    let mut held = HashSet::new();
    for reference in history.references.iter().filter(|reference| !reference.is_main()) {
        let grown = if reference.is_branch { lineage(&by_id, Some(reference.snapshot_id)) } else { vec![] };
        let own = grown.into_iter().take_while(|id| !of_main.contains(id));
        for id in std::iter::once(reference.snapshot_id).chain(own) {
            if !kept.contains(&id) {
                held_by.insert(reference.name.clone());
            }
            held.insert(id);
        }
    }
    kept.extend(held);
    let expired = history.snapshots.iter().map(|one| one.id).filter(|id| !kept.contains(id)).collect();
    ExpiryPlan { expired, held_by: held_by.into_iter().collect() }
}

fn made(by_id: &HashMap<i64, &SnapshotFacts>, id: i64) -> Option<i64> {
    by_id.get(&id).map(|one| one.made_ms)
}

/// A snapshot and what it grew from, newest first, as far back as it is known.
fn lineage(by_id: &HashMap<i64, &SnapshotFacts>, head: Option<i64>) -> Vec<i64> {
    let mut found = Vec::new();
    let mut next = head.and_then(|id| by_id.get(&id));
    // Metadata that others wrote might go round in a circle.
    while let Some(one) = next.filter(|_| found.len() < by_id.len()) {
        found.push(one.id);
        next = one.parent.and_then(|id| by_id.get(&id));
    }
    found
}
