//! Tables that are cared for: by random histories, with other writers at work, and by processes that die at every step.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::clock::{FixedClock, Ids, RandomIds};
use crate::table::tests::faults::{Death, Faults};
use crate::table::tests::{append, claim, columns, files, live_files, options, status};
use crate::table::{LiveFile, TableOptions, WalClaim};
use crate::wal::Position;

const DAY_MICROS: i64 = 86_400_000_000;
const NAME: &str = "product.events";

mod plans;

/// A folder, in memory where the system has such: these tests make thousands of durable files, and cut no power.
fn home() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The real time, some days later, since the store writes its own times; and half a minute more, so that what is done next is
/// not from the future of a clock that stands.
fn clock_after(days: i64) -> Arc<FixedClock> {
    let half_a_minute = 30_000_000;
    Arc::new(FixedClock::at(crate::clock::SystemClock.now_micros() + days * DAY_MICROS + half_a_minute))
}

/// A claim whose files are written at this time.
fn claim_at(clock: &FixedClock, writer: Uuid, position: u64) -> WalClaim {
    let seconds = u64::try_from(clock.now_micros() / 1_000_000).unwrap();
    let made = uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0);
    WalClaim { commit_id: Uuid::new_v7(made), ..claim(writer, 1, position, position) }
}

fn today(clock: &FixedClock) -> i64 {
    clock.now_micros().div_euclid(DAY_MICROS)
}

/// Everything goes as soon as it may.
fn at_once(retention_days: Option<u32>) -> Rules {
    Rules {
        retention_days,
        snapshots_min_age: Duration::ZERO,
        snapshots_min_count: 1,
        orphans_min_age: Duration::from_secs(7200),
        metadata_min_age: Duration::from_secs(3600),
        metadata_min_count: 10,
    }
}

async fn open_with(folder: &Path, clock: &Arc<FixedClock>) -> Table {
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    Table::open_or_create(&options(folder), &columns(), clock, Arc::new(RandomIds)).await.unwrap()
}

async fn care(table: &Table, rules: &Rules, clock: &FixedClock) -> CareReport {
    let mut report = CareReport::default();
    run(table, rules, clock, &mut report).await.unwrap();
    report
}

/// A table with one file for each of these days, each appended by a commit of its own.
async fn table_of(folder: &Path, clock: &Arc<FixedClock>, days: &[i64], writer: Uuid) -> Table {
    let table = open_with(folder, clock).await;
    for (position, day) in (1..).zip(days) {
        append(&table, &[*day], &claim(writer, 1, position, position)).await.unwrap();
    }
    table
}

async fn live_days(table: &Table) -> Vec<i64> {
    let mut days: Vec<i64> =
        table.live_files().await.unwrap().iter().map(|file| i64::from(file.day.unwrap())).collect();
    days.sort_unstable();
    days
}

fn folder_of(folder: &Path) -> PathBuf {
    folder.join("warehouse/product/events")
}

/// Files below a folder whose names end so.
fn stored(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_str().unwrap().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Every data file on disk is live, and every manifest is needed by the one snapshot that is left.
async fn nothing_is_left_over(folder: &Path) {
    let live = live_files_alive(folder).await;
    let mut on_disk: Vec<_> = stored(&folder_of(folder).join("data"), ".parquet")
        .iter()
        .map(|path| format!("file://{}", path.canonicalize().unwrap().display()))
        .collect();
    on_disk.sort();
    assert_eq!(on_disk, live);
}

async fn live_files_alive(folder: &Path) -> Vec<String> {
    let table = open_with(folder, &clock_after(0)).await;
    let mut live: Vec<_> = table.live_files().await.unwrap().into_iter().map(|file| file.location).collect();
    live.sort();
    live
}

#[tokio::test]
async fn days_past_their_retention_leave_the_table_and_the_disk() {
    let folder = home();
    let clock = clock_after(0);
    let today = today(&clock);
    let writer = RandomIds.next_id();
    let days = [today - 40, today - 31, today - 30, today - 1, today];
    let table = table_of(folder.path(), &clock, &days, writer).await;
    let report = care(&table, &at_once(Some(30)), &clock).await;
    assert_eq!((report.files_removed, report.rows_removed, report.days_removed.len()), (2, 2, 2));
    assert_eq!(report.first_day_kept, Some(date_of(i32::try_from(today - 30).unwrap())));
    assert_eq!(live_days(&table).await, days[2..]);
    let status = status(folder.path()).await;
    assert_eq!((status.rows, status.data_files, status.snapshots), (3, 3, 1));
    assert!(status.bytes > 0);
    assert_eq!(report.snapshots_expired, 5);
    nothing_is_left_over(folder.path()).await;
    assert_eq!(table.writer_position(writer), Some((1, Position(5))));
    assert_eq!(care(&table, &at_once(Some(30)), &clock).await.files_removed, 0);
}

#[tokio::test]
async fn the_snapshot_says_why_and_repeats_what_those_before_it_said() {
    let folder = home();
    let clock = clock_after(0);
    let today = today(&clock);
    let (table, writer) = (open_with(folder.path(), &clock).await, RandomIds.next_id());
    let files = files(&table, &[today - 9, today]).await;
    let policies = BTreeMap::from([("esker.policy-versions".to_owned(), "abc".to_owned())]);
    table.append(&files, &claim(writer, 7, 1, 3), &policies).await.unwrap();
    care(&table, &at_once(Some(8)), &clock).await;
    let version = status(folder.path()).await.metadata_version;
    let path = folder_of(folder.path()).join(format!("metadata/v{version}.metadata.json"));
    let metadata: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let snapshots = metadata["snapshots"].as_array().unwrap();
    assert_eq!(snapshots.len(), 1);
    let summary = &snapshots[0]["summary"];
    let said = |key: &str| summary[key].as_str().unwrap_or("nothing").to_owned();
    assert_eq!(said("operation"), "delete");
    assert_eq!(said("esker.retention.before"), date_of(i32::try_from(today - 8).unwrap()));
    assert_eq!((said("deleted-records"), said("deleted-data-files")), ("1".to_owned(), "1".to_owned()));
    assert_eq!((said("total-records"), said("total-data-files")), ("1".to_owned(), "1".to_owned()));
    assert_eq!((said("esker.wal-through"), said("esker.writer-epoch")), ("3".to_owned(), "7".to_owned()));
    assert_eq!(
        (said("esker.policy-versions"), said("esker.commit-id")),
        ("abc".to_owned(), "nothing".to_owned())
    );
    let peek = Table::peek(&options(folder.path())).await.unwrap().unwrap();
    assert_eq!(peek.policy_versions(), ["abc"]);
}

#[tokio::test]
async fn no_manifest_keeps_values_of_rows_that_left() {
    let folder = home();
    let clock = clock_after(0);
    let today = today(&clock);
    let (table, writer) = (open_with(folder.path(), &clock).await, RandomIds.next_id());
    // Both days in one commit, so in one manifest. The least and greatest time of the old file end in 5 microseconds.
    append(&table, &[today - 9, today], &claim(writer, 1, 1, 1)).await.unwrap();
    let old = ((today - 9) * DAY_MICROS + 5).to_le_bytes();
    let holds = |path: &PathBuf| std::fs::read(path).unwrap().windows(8).any(|bytes| bytes == old);
    let metadata = folder_of(folder.path()).join("metadata");
    assert!(stored(&metadata, ".avro").iter().any(holds), "the manifest of the append has the bounds");
    care(&table, &at_once(Some(8)), &clock).await;
    assert!(!stored(&metadata, ".avro").iter().any(holds));
    // The append after it leaves out the manifest that tells of removed files alone.
    append(&table, &[today], &claim(writer, 1, 2, 2)).await.unwrap();
    assert_eq!(live_files(folder.path()).await.len(), 2, "no entry of its manifests is of a removed file");
}

#[tokio::test]
async fn a_late_event_leaves_at_the_next_run() {
    let folder = home();
    let clock = clock_after(0);
    let today = today(&clock);
    let (table, writer) = (open_with(folder.path(), &clock).await, RandomIds.next_id());
    append(&table, &[today - 100, today], &claim(writer, 1, 1, 1)).await.unwrap();
    care(&table, &at_once(Some(30)), &clock).await;
    append(&table, &[today - 100], &claim(writer, 1, 2, 2)).await.unwrap();
    assert_eq!(live_days(&table).await, [today - 100, today]);
    assert_eq!(care(&table, &at_once(Some(30)), &clock).await.rows_removed, 1);
    assert_eq!(live_days(&table).await, [today]);
    nothing_is_left_over(folder.path()).await;
}

#[tokio::test]
async fn without_a_retention_no_row_leaves_and_history_is_expired_all_the_same() {
    let folder = home();
    let clock = clock_after(0);
    let table = table_of(folder.path(), &clock, &[1, 2, 3], RandomIds.next_id()).await;
    let report = care(&table, &at_once(None), &clock).await;
    assert_eq!((report.rows_removed, report.snapshots_expired, report.first_day_kept), (0, 2, None));
    assert_eq!(live_days(&table).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_plan_says_what_a_run_does_and_changes_nothing() {
    let folder = home();
    let clock = clock_after(0);
    let today = today(&clock);
    let table = table_of(folder.path(), &clock, &[today - 40, today - 3, today], RandomIds.next_id()).await;
    let before = (stored(&folder_of(folder.path()), ""), status(folder.path()).await.metadata_version);
    let planned = plan(&table, &at_once(Some(30)), clock.as_ref()).await.unwrap();
    let after = (stored(&folder_of(folder.path()), ""), status(folder.path()).await.metadata_version);
    assert_eq!(before, after);
    assert_eq!((planned.files_removed, planned.rows_removed, planned.snapshots_expired), (1, 1, 2));
    assert_eq!(planned.days_removed, [date_of(i32::try_from(today - 40).unwrap())]);
    let done = care(&table, &at_once(Some(30)), &clock).await;
    assert_eq!((done.files_removed, done.days_removed), (planned.files_removed, planned.days_removed));
}

#[tokio::test]
async fn snapshots_stay_for_as_long_as_configured() {
    let folder = home();
    let clock = clock_after(0);
    let today = today(&clock);
    let table = table_of(folder.path(), &clock, &[today - 40, today], RandomIds.next_id()).await;
    let rules = Rules { snapshots_min_age: Duration::from_secs(3600), ..at_once(Some(30)) };
    let report = care(&table, &rules, &clock).await;
    assert_eq!((report.rows_removed, report.snapshots_expired, report.files_deleted), (1, 0, 0));
    assert_eq!(
        stored(&folder_of(folder.path()), ".parquet").len(),
        2,
        "a reader of the old snapshot may be at work"
    );
    clock.set(clock.now_micros() + 3601 * 1_000_000);
    let report = care(&table, &rules, &clock).await;
    assert_eq!(report.snapshots_expired, 2);
    nothing_is_left_over(folder.path()).await;
}

#[tokio::test]
async fn what_a_tag_needs_stays_and_the_tag_is_named() {
    let folder = home();
    let clock = clock_after(0);
    let today = today(&clock);
    let table = table_of(folder.path(), &clock, &[today - 40, today], RandomIds.next_id()).await;
    let tagged = table.history().await.unwrap().snapshots.iter().find(|one| one.parent.is_none()).unwrap().id;
    table.tag("audit", tagged).await;
    let report = care(&table, &at_once(Some(30)), &clock).await;
    assert_eq!((report.held_by, report.snapshots_expired), (vec!["audit".to_owned()], 1));
    assert_eq!(stored(&folder_of(folder.path()), ".parquet").len(), 2, "the tag needs the old file");
    assert_eq!(live_days(&table).await, [today]);
}

#[tokio::test]
async fn orphans_go_when_they_are_old_and_files_of_others_never() {
    let folder = home();
    let clock = clock_after(0);
    let table = table_of(folder.path(), &clock, &[20_000], RandomIds.next_id()).await;
    // A writer that was killed between its upload and its commit.
    let orphan = files(&table, &[20_001]).await.remove(0).location;
    let orphan = PathBuf::from(orphan.strip_prefix("file://").unwrap());
    let theirs = folder_of(folder.path()).join("metadata/stats.puffin");
    std::fs::write(&theirs, "x").unwrap();
    assert!(table.put_once("policies/a.json", b"{}".to_vec()).await.unwrap());
    assert_eq!(care(&table, &at_once(None), &clock).await.orphans_deleted, 0);
    assert!(orphan.exists());
    let later = clock_after(1);
    assert_eq!(care(&table, &at_once(None), &later).await.orphans_deleted, 1);
    assert!(!orphan.exists() && theirs.exists());
    assert!(folder_of(folder.path()).join("policies/a.json").exists());
    assert_eq!(live_days(&table).await, [20_000]);
}

#[tokio::test]
async fn where_a_live_file_is_not_listed_no_orphan_is_deleted() {
    let folder = home();
    let clock = clock_after(0);
    let table = table_of(folder.path(), &clock, &[20_000], RandomIds.next_id()).await;
    let orphan = files(&table, &[20_001]).await.remove(0).location;
    let live = table.live_files().await.unwrap().remove(0).location;
    std::fs::remove_file(live.strip_prefix("file://").unwrap()).unwrap();
    let report = care(&table, &at_once(None), &clock_after(1)).await;
    assert!(report.notes[0].contains(&live), "{:?}", report.notes);
    assert!(Path::new(orphan.strip_prefix("file://").unwrap()).exists());
}

#[tokio::test]
async fn where_a_file_that_only_a_tag_needs_is_not_listed_no_orphan_is_deleted() {
    let folder = home();
    let clock = clock_after(0);
    let today = today(&clock);
    let table = table_of(folder.path(), &clock, &[today - 40, today], RandomIds.next_id()).await;
    let first = table.history().await.unwrap().snapshots.iter().find(|one| one.parent.is_none()).unwrap().id;
    table.tag("audit", first).await;
    let live = table.live_files().await.unwrap();
    let old = &live.iter().find(|file| i64::from(file.day.unwrap()) == today - 40).unwrap().location;
    assert_eq!(care(&table, &at_once(Some(30)), &clock).await.held_by, ["audit"]);
    let orphan = files(&table, &[20_001]).await.remove(0).location;
    std::fs::remove_file(old.strip_prefix("file://").unwrap()).unwrap();
    let report = care(&table, &at_once(Some(30)), &clock_after(1)).await;
    assert_eq!(report.orphans_deleted, 0);
    assert!(report.notes[0].contains("does not list 1 files"), "{:?}", report.notes);
    assert!(Path::new(orphan.strip_prefix("file://").unwrap()).exists());
}

#[tokio::test]
async fn files_with_odd_names_are_deleted_as_they_are_called() {
    let folder = home();
    let table = table_of(folder.path(), &clock_after(0), &[20_000], RandomIds.next_id()).await;
    let data = folder_of(folder.path()).join("data");
    let names = ["odd name", "a%2Fb", "x#1", "ünï", "q?", "tilde~"];
    for name in names {
        std::fs::write(data.join(format!("{name}.parquet")), "x").unwrap();
    }
    let report = care(&table, &at_once(None), &clock_after(1)).await;
    assert_eq!((report.orphans_deleted, report.notes.len()), (names.len() as u64, 0), "{:?}", report.notes);
    nothing_is_left_over(folder.path()).await;
    let no_key = format!("{}/data//x.parquet", table.location());
    assert!(table.delete_files(vec![no_key]).await.is_err(), "what is no key was not deleted");
}

#[tokio::test]
async fn a_table_inside_of_the_tables_folder_is_none_of_its_orphans() {
    let folder = home();
    let clock = clock_after(0);
    let table = table_of(folder.path(), &clock, &[20_000], RandomIds.next_id()).await;
    let inner = TableOptions {
        warehouse: format!("file://{}/warehouse/product/events/data", folder.path().display()),
        ..options(folder.path())
    };
    let inner = Table::open_or_create(&inner, &columns(), clock, Arc::new(RandomIds)).await.unwrap();
    append(&inner, &[20_000], &claim(RandomIds.next_id(), 1, 1, 1)).await.unwrap();
    let orphan = files(&table, &[20_001]).await.remove(0).location;
    let report = care(&table, &at_once(None), &clock_after(1)).await;
    assert_eq!(report.orphans_deleted, 1, "{:?}", report.notes);
    assert!(!Path::new(orphan.strip_prefix("file://").unwrap()).exists());
    assert_eq!(stored(&folder_of(folder.path()).join("data/product"), ".parquet").len(), 1);
    assert_eq!(stored(&folder_of(folder.path()).join("data/product"), ".avro").len(), 2);
}

#[tokio::test]
async fn a_writer_that_slept_does_not_commit_files_that_were_taken_for_orphans() {
    let folder = home();
    let clock = clock_after(0);
    let table = table_of(folder.path(), &clock, &[20_000], RandomIds.next_id()).await;
    let (sleeper, writer) = (open_with(folder.path(), &clock).await, RandomIds.next_id());
    let slept = claim(writer, 1, 1, 1);
    let written = files(&sleeper, &[20_001]).await;
    let later = clock_after(1);
    assert_eq!(care(&table, &at_once(None), &later).await.orphans_deleted, 1);
    // It looked at its clock before; so what it sends first is on the state that it knew, and then it reads the table.
    sleeper.commit_as_last_read("asleep").await;
    let error = sleeper.append(&written, &slept, &BTreeMap::new()).await.unwrap_err();
    assert!(matches!(error, TableError::FilesTooOld { .. }), "{error}");
    assert_eq!(live_days(&table).await, [20_000]);
    // The rows are still in the WAL.
    append(&sleeper, &[20_001], &claim_at(&later, writer, 1)).await.unwrap();
    assert_eq!(live_days(&table).await, [20_000, 20_001]);
    // Where no orphan is to be deleted, no commit is made.
    let version = status(folder.path()).await.metadata_version;
    let rules = Rules { snapshots_min_count: 10, ..at_once(None) };
    care(&table, &rules, &clock).await;
    assert_eq!(status(folder.path()).await.metadata_version, version);
}

#[tokio::test]
async fn a_removal_that_was_made_though_its_twin_was_refused_keeps_its_manifests() {
    let folder = home();
    let clock = clock_after(0);
    let today = today(&clock);
    let table = table_of(folder.path(), &clock, &[today - 40, today], RandomIds.next_id()).await;
    let faults = Faults::default();
    let table = table.with_faults(&faults);
    faults.refuse_the_twin();
    let report = care(&table, &at_once(Some(30)), &clock).await;
    assert_eq!((report.rows_removed, live_days(&table).await), (1, vec![today]));
}

#[tokio::test]
async fn old_metadata_goes_and_what_is_left_is_found_from_any_hint() {
    let folder = home();
    let (clock, writer) = (clock_after(0), RandomIds.next_id());
    let table = open_with(folder.path(), &clock).await;
    for position in 1..=30 {
        table.append(&[], &claim(writer, 1, position, position), &BTreeMap::new()).await.unwrap();
    }
    assert_eq!(care(&table, &at_once(None), &clock).await.metadata_files_deleted, 0, "they are young");
    let later = clock_after(1);
    assert_eq!(care(&table, &at_once(None), &later).await.metadata_files_deleted, 21);
    let left = table.versions().await.unwrap().files;
    assert_eq!((left.first().unwrap().number, left.last().unwrap().number), (22, 31));
    let hint = folder_of(folder.path()).join("metadata/version-hint.text");
    for text in ["1", "21", "22", "30", "31", "32", "x"] {
        std::fs::write(&hint, text).unwrap();
        assert_eq!(status(folder.path()).await.metadata_version, 31, "hint {text}");
    }
    append(&table, &[20_000], &claim(writer, 1, 31, 31)).await.unwrap();
}

#[tokio::test]
async fn a_writer_that_slept_until_its_version_was_cleaned_up_takes_it_back() {
    let folder = home();
    let (clock, writer) = (clock_after(0), RandomIds.next_id());
    let table = open_with(folder.path(), &clock).await;
    let sleeper = open_with(folder.path(), &clock).await;
    for position in 1..=30 {
        table.append(&[], &claim(writer, 1, position, position), &BTreeMap::new()).await.unwrap();
    }
    care(&table, &at_once(None), &clock_after(1)).await;
    // It saw version 1, and sends version 2 now; and another makes the table anew that was not there when it looked.
    sleeper.commit_as_last_read("asleep").await;
    sleeper.create_again(&columns()).await;
    let metadata = folder_of(folder.path()).join("metadata");
    assert!(!metadata.join("v2.metadata.json").exists() && !metadata.join("v1.metadata.json").exists());
    assert_eq!(std::fs::read_to_string(metadata.join("version-hint.text")).unwrap(), "31");
    append(&sleeper, &[20_000], &claim(writer, 1, 31, 31)).await.unwrap();
    assert_eq!(status(folder.path()).await.metadata_version, 32);
}

#[tokio::test]
async fn appends_and_removals_at_once_all_count_and_exactly_once_holds() {
    let folder = home();
    let clock = clock_after(0);
    let today = today(&clock);
    open_with(folder.path(), &clock).await;
    let mut writers = Vec::new();
    for _ in 0..2 {
        let (table, writer) = (open_with(folder.path(), &clock).await, RandomIds.next_id());
        writers.push(tokio::spawn(async move {
            for position in 1..=8 {
                let claim = claim(writer, 1, position, position);
                let files = files(&table, &[today - 60, today]).await;
                while let Err(error) = table.append(&files, &claim, &BTreeMap::new()).await {
                    // Without a least age of snapshots, manifests may vanish while an append reads them.
                    assert!(error.is_retryable(), "{error}");
                }
            }
            (table, writer)
        }));
    }
    let carer = {
        let (folder, clock) = (folder.path().to_owned(), Arc::clone(&clock));
        tokio::spawn(async move {
            let table = open_with(&folder, &clock).await;
            let mut rows = 0;
            for _ in 0..12 {
                let mut report = CareReport::default();
                match run(&table, &at_once(Some(30)), clock.as_ref(), &mut report).await {
                    Ok(()) | Err(TableError::Contended { .. }) => rows += report.rows_removed,
                    // A manifest was deleted by nobody but this task, so every other error is a defect.
                    Err(error) => panic!("{error}"),
                }
            }
            rows
        })
    };
    let mut done = Vec::new();
    for writer in writers {
        done.push(writer.await.unwrap());
    }
    let mut removed = carer.await.unwrap();
    let table = open_with(folder.path(), &clock).await;
    removed += care(&table, &at_once(Some(30)), &clock).await.rows_removed;
    assert_eq!(removed, 16, "each old row left once");
    assert_eq!(live_days(&table).await, vec![today; 16], "each new row is there once");
    assert_eq!(status(folder.path()).await.rows, 16);
    for (_, writer) in done {
        assert_eq!(table.writer_position(writer), Some((1, Position(8))));
    }
    nothing_is_left_over(folder.path()).await;
}

#[tokio::test]
async fn a_removal_whose_answer_is_lost_is_found_by_reading_and_counted_once() {
    let folder = home();
    let clock = clock_after(0);
    let today = today(&clock);
    let table = table_of(folder.path(), &clock, &[today - 40, today], RandomIds.next_id()).await;
    let faults = Faults::default();
    let table = table.with_faults(&faults);
    faults.lose_answers(2);
    let report = care(&table, &at_once(Some(30)), &clock).await;
    assert_eq!((report.rows_removed, report.snapshots_expired), (1, 2));
    assert_eq!(status(folder.path()).await.rows, 1);
    nothing_is_left_over(folder.path()).await;
}

#[tokio::test]
async fn commits_that_fail_change_nothing_and_the_next_run_does_it() {
    let folder = home();
    let clock = clock_after(0);
    let today = today(&clock);
    let table = table_of(folder.path(), &clock, &[today - 40, today], RandomIds.next_id()).await;
    let faults = Faults::default();
    let table = table.with_faults(&faults);
    faults.down();
    let mut report = CareReport::default();
    let error = run(&table, &at_once(Some(30)), clock.as_ref(), &mut report).await.unwrap_err();
    assert!(error.is_retryable());
    assert_eq!((report.rows_removed, report.files_deleted), (0, 0), "what was planned is not told as done");
    assert_eq!(live_days(&table).await, [today - 40, today]);
    faults.heal();
    assert_eq!(care(&table, &at_once(Some(30)), &clock).await.rows_removed, 1);
}

/// A process is killed at each change that it makes to the store, and a later run finishes.
#[tokio::test]
async fn wherever_a_run_dies_the_table_is_right_and_a_later_run_finishes() {
    let rules = Rules { metadata_min_count: 3, ..at_once(Some(30)) };
    let mut deaths = 0;
    for change in 1.. {
        let mut came = false;
        for mute in [false, true] {
            let folder = home();
            // Two days later for the run, so that what it finds has the age to be deleted.
            let (clock, later) = (clock_after(0), clock_after(2));
            let today = today(&later);
            let writer = RandomIds.next_id();
            let days = [today - 40, today - 35, today - 3, today];
            let table = table_of(folder.path(), &clock, &days, writer).await;
            drop(files(&table, &[today - 50]).await);
            let death = Death::at(change, mute);
            let mortal = open_with(folder.path(), &clock).await.with_death(NAME, &death);
            let mut report = CareReport::default();
            let outcome = run(&mortal, &rules, later.as_ref(), &mut report).await;
            came |= death.came();
            deaths += u32::from(outcome.is_err());
            let what = format!("died at change {change}, mute {mute}: {outcome:?}");
            // Right after the death: all that may be kept is there once, and every live file can be read.
            let table = open_with(folder.path(), &clock).await;
            let live = table.live_files().await.unwrap();
            let kept = live.iter().filter(|file| i64::from(file.day.unwrap()) >= today - 30).count();
            assert_eq!(kept, 2, "{what}");
            for LiveFile { location, .. } in &live {
                assert!(Path::new(location.strip_prefix("file://").unwrap()).exists(), "{what}");
            }
            assert_eq!(status(folder.path()).await.rows, live.len() as u64, "{what}");
            assert_eq!(table.writer_position(writer), Some((1, Position(4))), "{what}");
            // Writers go on, and the next run finishes what is left.
            append(&table, &[today], &claim_at(&later, writer, 5)).await.unwrap();
            care(&table, &rules, &later).await;
            assert_eq!(live_days(&table).await, [today - 3, today, today], "{what}");
            nothing_is_left_over(folder.path()).await;
            let manifests = stored(&folder_of(folder.path()).join("metadata"), ".avro");
            assert!(manifests.len() <= 7, "{what}: {manifests:?}");
        }
        if !came {
            break;
        }
    }
    assert!(deaths > 20, "{deaths} deaths");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Random days, commits and horizons: no row inside the horizon leaves, and no file of a day before it stays live.
    #[test]
    fn exactly_the_days_before_the_horizon_leave(
        commits in prop::collection::vec(prop::collection::vec(-12i64..3, 1..5), 1..6),
        retention_days in 1u32..12,
        runs_after in prop::collection::vec(any::<bool>(), 6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = home();
            let clock = clock_after(0);
            let (today, writer) = (today(&clock), RandomIds.next_id());
            let table = open_with(folder.path(), &clock).await;
            let (mut expected, mut removed): (Vec<i64>, u64) = (Vec::new(), 0);
            let rules = at_once(Some(retention_days));
            let mut appended = 0;
            for ((position, offsets), runs) in (1..).zip(&commits).zip(&runs_after) {
                let days: Vec<i64> = offsets.iter().map(|offset| today + offset).collect();
                append(&table, &days, &claim(writer, 1, position, position)).await.unwrap();
                expected.extend(days.iter().filter(|day| **day >= today - i64::from(retention_days)));
                appended += days.len() as u64;
                if *runs {
                    removed += care(&table, &rules, &clock).await.rows_removed;
                }
            }
            removed += care(&table, &rules, &clock).await.rows_removed;
            let mut live: Vec<i64> = table.live_files().await.unwrap().iter()
                .flat_map(|file| vec![i64::from(file.day.unwrap()); usize::try_from(file.rows).unwrap()])
                .collect();
            live.sort_unstable();
            expected.sort_unstable();
            assert_eq!(live, expected);
            assert_eq!(removed + live.len() as u64, appended);
            assert_eq!(status(folder.path()).await.rows, live.len() as u64);
            nothing_is_left_over(folder.path()).await;
        });
    }
}

#[tokio::test]
async fn the_oldest_day_is_told_from_the_list_of_manifests() {
    let folder = home();
    let clock = clock_after(0);
    let (table_options, today): (TableOptions, _) = (options(folder.path()), today(&clock));
    assert_eq!(Table::oldest_day(&table_options).await.unwrap(), None);
    let table = open_with(folder.path(), &clock).await;
    assert_eq!(Table::oldest_day(&table_options).await.unwrap(), None);
    append(&table, &[today - 40, today], &claim(RandomIds.next_id(), 1, 1, 1)).await.unwrap();
    assert_eq!(Table::oldest_day(&table_options).await.unwrap().map(i64::from), Some(today - 40));
    care(&table, &at_once(Some(30)), &clock).await;
    assert_eq!(Table::oldest_day(&table_options).await.unwrap().map(i64::from), Some(today));
}
