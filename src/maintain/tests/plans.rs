//! The pure plans.

use super::*;
use crate::table::{History, Reference, SnapshotFacts, StoredFile, Version, Versions};

fn file(day: Option<i32>, rows: u64) -> LiveFile {
    LiveFile { location: format!("file:///t/data/{day:?}-{rows}.parquet"), day, rows, bytes: rows * 10 }
}

#[test]
fn a_day_is_past_once_all_of_it_is_as_old_as_the_retention() {
    let midnight = 20_000 * DAY_MICROS;
    for (now, first_kept) in [(midnight, 19_990), (midnight - 1, 19_989), (midnight + DAY_MICROS - 1, 19_990)]
    {
        let first = retain::first_day_kept(now, 10);
        assert_eq!(first, first_kept);
        // The last moment of the day before it is at least ten days ago, and that of the first day kept is not.
        let end_of = |day: i32| (i64::from(day) + 1) * DAY_MICROS;
        assert!(now - end_of(first - 1) >= 10 * DAY_MICROS && now - end_of(first) < 10 * DAY_MICROS);
    }
    assert_eq!(retain::first_day_kept(i64::MIN, u32::MAX), i32::MIN, "no overflow");
}

#[test]
fn files_without_a_day_are_left_alone_and_named() {
    let files = [file(Some(9), 1), file(Some(10), 2), file(None, 3), file(Some(8), 4), file(Some(9), 5)];
    let plan = retain::plan(&files, 10);
    assert_eq!((plan.files, plan.rows, plan.bytes), (3, 10, 100));
    assert_eq!(plan.days.into_iter().collect::<Vec<_>>(), [8, 9]);
    assert_eq!((plan.undated_files, plan.undated_examples), (1, vec![files[2].location.clone()]));
}

/// `main` as a row of snapshots 1, 2, .. made at these times.
fn history(made: &[i64], removals: &[i64]) -> History {
    let snapshots: Vec<_> = (1..)
        .zip(made)
        .map(|(id, made_ms)| SnapshotFacts {
            id,
            parent: (id > 1).then(|| id - 1),
            made_ms: *made_ms,
            removes: removals.contains(&id),
        })
        .collect();
    let current = snapshots.last().map(|one| one.id);
    let main = current.map(|snapshot_id| reference("main", snapshot_id, true));
    History { current, snapshots, references: main.into_iter().collect() }
}

fn reference(name: &str, snapshot_id: i64, is_branch: bool) -> Reference {
    Reference { name: name.to_owned(), snapshot_id, is_branch, snapshots_min: None }
}

fn rules(age_ms: u64, count: u64) -> Rules {
    Rules { snapshots_min_age: Duration::from_millis(age_ms), snapshots_min_count: count, ..at_once(None) }
}

#[test]
fn a_snapshots_age_counts_from_when_it_stopped_being_the_newest() {
    let history = history(&[0, 100, 200, 300], &[]);
    let expired = |now, age, count| expire::plan(&history, &rules(age, count), now).expired;
    assert_eq!(expired(1000, 700, 1), [1, 2, 3]);
    assert_eq!(expired(1000, 701, 1), [1, 2], "the third was the newest until 300");
    assert_eq!(expired(1000, 10_000, 1), Vec::<i64>::new());
    assert_eq!(expired(1000, 0, 2), [1, 2]);
    assert_eq!(expired(1000, 0, 9), Vec::<i64>::new());
    assert_eq!(expired(-1000, 0, 1), Vec::<i64>::new(), "a clock behind the table expires nothing");
    assert_eq!(expire::plan(&History::default(), &rules(0, 1), 0), expire::ExpiryPlan::default());
}

#[test]
fn the_number_kept_reaches_no_further_back_than_the_newest_removal() {
    let history = history(&[0, 100, 200, 300, 400], &[2, 4]);
    let expired = |age, count| expire::plan(&history, &rules(age, count), 1000).expired;
    assert_eq!(expired(0, 10), [1, 2, 3]);
    assert_eq!(expired(10_000, 10), Vec::<i64>::new(), "the age holds for them");
}

#[test]
fn the_table_may_ask_for_more_snapshots_than_the_configuration() {
    let mut history = history(&[0, 100, 200], &[]);
    history.references[0].snapshots_min = Some(2);
    assert_eq!(expire::plan(&history, &rules(0, 1), 1000).expired, [1]);
}

#[test]
fn what_branches_and_tags_need_is_kept_and_they_are_named() {
    let mut history = history(&[0, 100, 200, 300], &[]);
    let aside = |id, parent, made_ms| SnapshotFacts { id, parent: Some(parent), made_ms, removes: false };
    history.snapshots.extend([aside(11, 2, 150), aside(12, 11, 160), aside(21, 1, 170)]);
    history.references.extend([reference("try", 12, true), reference("audit", 1, false)]);
    history.references.push(reference("newest", 4, false));
    let plan = expire::plan(&history, &rules(0, 1), 1000);
    // 2 is where `try` began, and belongs to `main`; 21 is on nothing.
    assert_eq!(plan.expired, [2, 3, 21]);
    assert_eq!(plan.held_by, ["audit", "try"]);
}

#[test]
fn a_history_in_a_circle_ends() {
    let mut history = history(&[0, 100], &[]);
    history.snapshots[0].parent = Some(2);
    assert_eq!(expire::plan(&history, &rules(0, 1), 1000).expired, [1]);
}

#[test]
fn orphans_are_old_and_unneeded() {
    let rules = at_once(None);
    let now = i64::try_from(rules.orphans_min_age.as_millis()).unwrap();
    let file = |name: &str, written_ms| StoredFile { location: name.to_owned(), bytes: 1, written_ms };
    let stored = vec![file("needed", 0), file("old", 0), file("young", 1)];
    let orphans = orphans::plan(stored, |name| name == "needed", &rules, now);
    assert_eq!(orphans.iter().map(|file| file.location.as_str()).collect::<Vec<_>>(), ["old"]);
}

#[test]
fn only_the_oldest_metadata_goes_and_nothing_near_the_hint_or_the_newest() {
    let hour = 3_600_000;
    let versions = |numbers: &[u64], hint| Versions {
        files: numbers.iter().map(|number| Version { number: *number, written_ms: *number as i64 }).collect(),
        hint,
    };
    let all: Vec<u64> = (1..=30).collect();
    let plan = |numbers: &[u64], hint, now| versions::plan(&versions(numbers, hint), &at_once(None), now);
    assert_eq!(plan(&all, Some(30), 10 * hour), (1..=20).collect::<Vec<_>>());
    assert_eq!(plan(&all, None, 10 * hour), (1..=20).collect::<Vec<_>>());
    assert_eq!(plan(&all, Some(15), 10 * hour), (1..=5).collect::<Vec<_>>(), "the hint went back");
    assert_eq!(plan(&all, Some(99), 10 * hour), (1..=20).collect::<Vec<_>>());
    assert_eq!(
        plan(&all, Some(30), hour + 8),
        (1..=7).collect::<Vec<_>>(),
        "8 was the newest until an hour ago"
    );
    assert_eq!(plan(&all[25..], Some(30), 10 * hour), Vec::<u64>::new());
    assert_eq!(plan(&[], None, 10 * hour), Vec::<u64>::new());
    // A stray of a writer that was killed as it took its version back.
    assert_eq!(plan(&[2, 28, 29, 30], Some(30), 10 * hour), [2]);
}
