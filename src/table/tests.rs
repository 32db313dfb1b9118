//! The table on a real folder: created, evolved, appended to, by several writers, with outcomes that lie.

mod clocks;
pub(crate) mod faults;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use async_trait::async_trait;
use iceberg::spec::TableMetadata;
use iceberg::{TableRequirement, TableUpdate};

use super::*;
use crate::clock::{RandomIds, SystemClock};
use crate::datafile::{DataFileWriter, WrittenFile};
use crate::registry::ColumnType;

const DAY_MICROS: i64 = 86_400_000_000;

pub(crate) fn column(name: &str, ty: ColumnType, required: bool) -> TableColumn {
    TableColumn {
        name: name.to_owned(),
        ty,
        required,
        doc: format!("The {name}."),
        bloom: false,
        bounds: true,
    }
}

pub(crate) fn columns() -> Vec<TableColumn> {
    vec![
        column("event_name", ColumnType::String, true),
        column("event_time", ColumnType::Timestamp, true),
        column("organisation_id", ColumnType::Long, false),
    ]
}

pub(crate) fn options(folder: &std::path::Path) -> TableOptions {
    TableOptions {
        warehouse: format!("file://{}/warehouse", folder.display()),
        catalog: CatalogOptions::Files,
        name: "product.events".to_owned(),
        storage: Arc::default(),
        retention_days: None,
    }
}

pub(crate) async fn open(folder: &std::path::Path, columns: &[TableColumn]) -> Result<Table, TableError> {
    Table::open_or_create(&options(folder), columns, Arc::new(SystemClock), Arc::new(RandomIds)).await
}

pub(crate) async fn files(table: &Table, days: &[i64]) -> Vec<WrittenFile> {
    let target = table.file_target(RandomIds.next_id()).unwrap();
    let times = TimestampMicrosecondArray::from_iter_values(days.iter().map(|day| day * DAY_MICROS + 5));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("event_name", Arc::new(StringArray::from_iter_values(days.iter().map(|_| "a.b")))),
        ("event_time", Arc::new(times.with_timezone("+00:00"))),
        ("organisation_id", Arc::new(Int64Array::from_iter_values(days.iter().copied()))),
    ];
    let mut writer = DataFileWriter::new(target);
    writer.push(RecordBatch::try_from_iter(columns).unwrap()).await.unwrap();
    writer.finish().await.unwrap()
}

pub(crate) fn claim(writer_id: Uuid, epoch: u64, from: u64, through: u64) -> WalClaim {
    let commit_id = RandomIds.next_id();
    WalClaim { writer_id, epoch, from: Position(from), through: Position(through), commit_id }
}

pub(crate) async fn append(table: &Table, days: &[i64], claim: &WalClaim) -> Result<Appended, TableError> {
    let files = files(table, days).await;
    table.append(&files, claim, &BTreeMap::new()).await
}

pub(crate) async fn status(folder: &std::path::Path) -> TableStatus {
    Table::peek(&options(folder)).await.unwrap().unwrap().status()
}

/// The paths of all live data files, and the rows that they are said to hold.
pub(crate) async fn live_files(folder: &std::path::Path) -> Vec<(String, u64)> {
    let warehouse = Warehouse::open(&options(folder).warehouse, &StorageOptions::default()).unwrap();
    let loaded = FilesCatalog::new(&warehouse, "product.events").load().await.unwrap().unwrap();
    let Some(snapshot) = loaded.metadata.current_snapshot() else { return Vec::new() };
    let file_io = warehouse.file_io();
    let bytes = file_io.new_input(snapshot.manifest_list()).unwrap().read().await.unwrap();
    let list =
        iceberg::spec::ManifestList::parse_with_version(&bytes, iceberg::spec::FormatVersion::V2).unwrap();
    let mut found = Vec::new();
    for manifest in list.entries() {
        for entry in manifest.load_manifest(&file_io).await.unwrap().entries() {
            assert!(entry.is_alive());
            found.push((entry.file_path().to_owned(), entry.data_file().record_count()));
        }
    }
    found
}

#[tokio::test]
async fn a_new_table_is_made_once_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Table::peek(&options(folder.path())).await.unwrap().is_none(), "looking makes nothing");
    open(folder.path(), &columns()).await.unwrap();
    open(folder.path(), &columns()).await.unwrap();
    let status = status(folder.path()).await;
    assert_eq!((status.metadata_version, status.columns, status.rows), (1, 3, 0));
    let metadata = folder.path().join("warehouse/product/events/metadata");
    assert_eq!(std::fs::read_to_string(metadata.join("version-hint.text")).unwrap(), "1");
}

#[tokio::test]
async fn an_append_is_one_file_a_day_and_moves_the_writers_position() {
    let folder = tempfile::tempdir().unwrap();
    let table = open(folder.path(), &columns()).await.unwrap();
    let writer = RandomIds.next_id();
    append(&table, &[20_000, 20_001, 20_000], &claim(writer, 1, 1, 4)).await.unwrap();
    append(&table, &[20_001], &claim(writer, 1, 5, 5)).await.unwrap();
    let status = status(folder.path()).await;
    assert_eq!((status.rows, status.data_files, status.snapshots), (4, 3, 2));
    assert_eq!(live_files(folder.path()).await.iter().map(|(_, rows)| rows).sum::<u64>(), 4);
    assert_eq!(table.writer_position(writer), Some((1, Position(5))));
    assert_eq!(table.writer_position(RandomIds.next_id()), None);
}

#[tokio::test]
async fn the_same_span_again_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let table = open(folder.path(), &columns()).await.unwrap();
    let writer = RandomIds.next_id();
    append(&table, &[20_000], &claim(writer, 1, 1, 3)).await.unwrap();
    let again = append(&table, &[20_000], &claim(writer, 2, 1, 3)).await.unwrap();
    assert_eq!(again.attempts, 0);
    assert_eq!(status(folder.path()).await.rows, 1);
}

#[tokio::test]
async fn a_span_without_files_moves_the_position_alone() {
    let folder = tempfile::tempdir().unwrap();
    let table = open(folder.path(), &columns()).await.unwrap();
    let writer = RandomIds.next_id();
    table.append(&[], &claim(writer, 1, 1, 9), &BTreeMap::new()).await.unwrap();
    assert_eq!(table.writer_position(writer), Some((1, Position(9))));
    assert_eq!(status(folder.path()).await.snapshots, 0);
}

#[tokio::test]
async fn an_older_start_of_the_same_writer_is_fenced_out_and_a_gap_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let table = open(folder.path(), &columns()).await.unwrap();
    let writer = RandomIds.next_id();
    append(&table, &[20_000], &claim(writer, 3, 1, 3)).await.unwrap();
    let fenced = append(&table, &[20_000], &claim(writer, 2, 4, 4)).await.unwrap_err();
    assert!(matches!(fenced, TableError::Fenced { ours: 2, theirs: 3 }) && !fenced.is_retryable());
    let gap = append(&table, &[20_000], &claim(writer, 3, 5, 6)).await.unwrap_err();
    assert!(matches!(gap, TableError::Gap { in_table: 3, from: 5 }) && !gap.is_retryable());
    assert_eq!(status(folder.path()).await.rows, 1);
}

#[tokio::test]
async fn writers_at_once_all_get_their_rows_in_exactly_once() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path(), &columns()).await.unwrap();
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let table = open(folder.path(), &columns()).await.unwrap();
        tasks.push(tokio::spawn(async move {
            let writer = RandomIds.next_id();
            for position in 1..=5 {
                let claim = claim(writer, 1, position, position);
                let files = files(&table, &[20_000]).await;
                while let Err(error) = table.append(&files, &claim, &BTreeMap::new()).await {
                    assert!(matches!(error, TableError::Contended { .. }), "{error}");
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let mut live = live_files(folder.path()).await;
    live.sort();
    live.dedup();
    assert_eq!(live.len(), 20);
    assert_eq!(status(folder.path()).await.rows, 20);
}

#[tokio::test]
async fn many_appends_fold_their_manifests_and_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let table = open(folder.path(), &columns()).await.unwrap();
    let writer = RandomIds.next_id();
    for position in 1..=105 {
        append(&table, &[20_000], &claim(writer, 1, position, position)).await.unwrap();
    }
    let live = live_files(folder.path()).await;
    assert_eq!(live.len(), 105);
    assert_eq!(status(folder.path()).await.rows, 105);
}

#[tokio::test]
async fn new_columns_are_added_and_a_changed_type_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path(), &columns()).await.unwrap();
    let mut more = columns();
    more.push(column("feature_id", ColumnType::Long, false));
    open(folder.path(), &more).await.unwrap();
    assert_eq!(status(folder.path()).await.columns, 4);
    open(folder.path(), &columns()).await.unwrap();
    assert_eq!(status(folder.path()).await.columns, 4, "a column that is gone from the registry stays");
    more[3].ty = ColumnType::String;
    let error = open(folder.path(), &more).await.unwrap_err().to_string();
    assert!(error.contains("feature_id") && error.contains("long") && error.contains("string"), "{error}");
}

#[tokio::test]
async fn the_retention_is_recorded_changed_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    for (retention_days, recorded) in [(Some(90), Some("90d")), (Some(30), Some("30d")), (None, None)] {
        for _ in 0..2 {
            let options = TableOptions { retention_days, ..options(folder.path()) };
            Table::open_or_create(&options, &columns(), Arc::new(SystemClock), Arc::new(RandomIds))
                .await
                .unwrap();
        }
        assert_eq!(status(folder.path()).await.retention.as_deref(), recorded);
    }
    assert_eq!(
        status(folder.path()).await.metadata_version,
        4,
        "what is recorded already is not recorded again"
    );
}

#[tokio::test]
async fn sealed_bytes_are_stored_as_they_are_and_without_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let mut columns = columns();
    columns.push(column("sealed", ColumnType::Binary, false));
    let table = open(folder.path(), &columns).await.unwrap();
    let mut writer = DataFileWriter::new(table.file_target(RandomIds.next_id()).unwrap());
    let times = || TimestampMicrosecondArray::from_iter_values([5]).with_timezone("+00:00");
    let names = || StringArray::from_iter_values(["a.b"]);
    let with: Vec<(&str, ArrayRef)> = vec![
        ("event_name", Arc::new(names())),
        ("event_time", Arc::new(times())),
        ("sealed", Arc::new(arrow::array::BinaryArray::from_iter_values([b"text"]))),
    ];
    let without: Vec<(&str, ArrayRef)> =
        vec![("event_name", Arc::new(names())), ("event_time", Arc::new(times()))];
    for rows in [with, without] {
        writer.push(RecordBatch::try_from_iter(rows).unwrap()).await.unwrap();
    }
    let written = writer.finish().await.unwrap();
    let sealed = &written[0].columns[&4];
    assert_eq!((sealed.values, sealed.nulls, sealed.bounds.as_ref()), (2, 1, None));
    let claim = claim(RandomIds.next_id(), 1, 1, 1);
    table.append(&written, &claim, &BTreeMap::new()).await.unwrap();
    let path = written[0].location.strip_prefix("file://").unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(
        std::fs::File::open(path).unwrap(),
    );
    let rows = reader.unwrap().build().unwrap().next().unwrap().unwrap();
    let sealed = rows.column_by_name("sealed").unwrap();
    assert_eq!(arrow::array::AsArray::as_binary::<i32>(sealed.as_ref()).value(0), b"text");
}

#[tokio::test]
async fn openers_at_once_with_different_new_columns_all_succeed() {
    let folder = tempfile::tempdir().unwrap();
    let opens = (0..4).map(|number| {
        let mut more = columns();
        more.push(column(&format!("new_{number}"), ColumnType::String, false));
        let folder = folder.path().to_owned();
        tokio::spawn(async move { open(&folder, &more).await.map(drop) })
    });
    for outcome in futures::future::join_all(opens).await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(status(folder.path()).await.columns, 7);
}

#[tokio::test]
async fn a_table_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path(), &columns()).await.unwrap();
    let mut others = columns();
    others.push(column("event_id", ColumnType::String, true));
    let error = open(folder.path(), &others).await.unwrap_err();
    assert!(matches!(error, TableError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("event_id"), "{error}");
}

#[tokio::test]
async fn the_hint_may_be_missing_wrong_or_behind() {
    let folder = tempfile::tempdir().unwrap();
    let table = open(folder.path(), &columns()).await.unwrap();
    let writer = RandomIds.next_id();
    for position in 1..=3 {
        append(&table, &[20_000], &claim(writer, 1, position, position)).await.unwrap();
    }
    let hint = folder.path().join("warehouse/product/events/metadata/version-hint.text");
    for text in ["1", "99", "not a number", ""] {
        std::fs::write(&hint, text).unwrap();
        assert_eq!(status(folder.path()).await.metadata_version, 4, "hint {text:?}");
    }
    std::fs::remove_file(&hint).unwrap();
    assert_eq!(status(folder.path()).await.metadata_version, 4);
}

fn hint_file(folder: &std::path::Path) -> std::path::PathBuf {
    folder.join("warehouse/product/events/metadata/version-hint.text")
}

#[tokio::test]
async fn a_start_puts_the_hint_right_that_a_crash_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let table = open(folder.path(), &columns()).await.unwrap();
    append(&table, &[20_000], &claim(RandomIds.next_id(), 1, 1, 1)).await.unwrap();
    let hint = hint_file(folder.path());
    for text in [Some("1"), Some("99"), Some("not a number"), None] {
        match text {
            Some(text) => std::fs::write(&hint, text).unwrap(),
            None => std::fs::remove_file(&hint).unwrap(),
        }
        open(folder.path(), &columns()).await.unwrap();
        assert_eq!(std::fs::read_to_string(&hint).unwrap(), "2", "the hint was {text:?}");
    }
}

#[tokio::test]
async fn a_hint_never_goes_back_behind_another_writers_commit() {
    let folder = tempfile::tempdir().unwrap();
    let table = open(folder.path(), &columns()).await.unwrap();
    let stale = table.loaded();
    append(&table, &[20_000], &claim(RandomIds.next_id(), 1, 1, 1)).await.unwrap();
    table.catalog.show(&stale).await;
    assert_eq!(std::fs::read_to_string(hint_file(folder.path())).unwrap(), "2");
}

#[tokio::test]
async fn a_commit_that_was_found_by_reading_is_shown_by_the_hint() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = open(folder.path(), &columns()).await.unwrap();
    // The commit happens, its writer is told nothing, and the hint stays where it was.
    let catalog = Liar { hides: Some(hint_file(folder.path())), ..Liar::new(&table, 1, true) };
    table.catalog = Arc::new(catalog);
    let claim = claim(RandomIds.next_id(), 1, 1, 1);
    let files = files(&table, &[20_000]).await;
    table.append(&files, &claim, &BTreeMap::new()).await.unwrap();
    assert_eq!(std::fs::read_to_string(hint_file(folder.path())).unwrap(), "2");
    // The same where a start finds that the claim of the one before is in the table.
    std::fs::write(hint_file(folder.path()), "1").unwrap();
    table.append(&files, &claim, &BTreeMap::new()).await.unwrap();
    assert_eq!(std::fs::read_to_string(hint_file(folder.path())).unwrap(), "2");
}

/// A catalog whose commits end as scripted, whatever they do.
#[derive(Debug)]
struct Liar {
    inner: Arc<dyn Catalog>,
    lies: AtomicU32,
    /// True: the commit happens. False: it does not.
    happens: bool,
    /// The hint, where a lie leaves it as it was before the commit.
    hides: Option<std::path::PathBuf>,
}

impl Liar {
    fn new(table: &Table, lies: u32, happens: bool) -> Self {
        Self { inner: Arc::clone(&table.catalog), lies: AtomicU32::new(lies), happens, hides: None }
    }
}

#[async_trait]
impl Catalog for Liar {
    fn table_location(&self) -> &str {
        self.inner.table_location()
    }

    fn refuses_any_other_base(&self) -> bool {
        self.inner.refuses_any_other_base()
    }

    async fn load(&self) -> Result<Option<Loaded>, TableError> {
        self.inner.load().await
    }

    async fn show(&self, loaded: &Loaded) {
        self.inner.show(loaded).await;
    }

    async fn create(&self, metadata: TableMetadata) -> Result<CommitOutcome, TableError> {
        self.inner.create(metadata).await
    }

    async fn commit(
        &self,
        base: &Loaded,
        requirements: &[TableRequirement],
        updates: Vec<TableUpdate>,
    ) -> Result<CommitOutcome, TableError> {
        let lies = self.lies.load(Ordering::SeqCst);
        if lies == 0 {
            return self.inner.commit(base, requirements, updates).await;
        }
        self.lies.store(lies - 1, Ordering::SeqCst);
        if self.happens {
            let before = self.hides.as_ref().map(|hint| (hint, std::fs::read(hint).unwrap()));
            drop(self.inner.commit(base, requirements, updates).await?);
            if let Some((hint, text)) = before {
                std::fs::write(hint, text).unwrap();
            }
        }
        Ok(CommitOutcome::Unknown(TableError::Contended { attempts: 0 }))
    }
}

async fn append_through_a_liar(lies: u32, happens: bool) -> (Result<Appended, TableError>, TableStatus) {
    let folder = tempfile::tempdir().unwrap();
    let mut table = open(folder.path(), &columns()).await.unwrap();
    table.catalog = Arc::new(Liar::new(&table, lies, happens));
    let outcome = append(&table, &[20_000], &claim(RandomIds.next_id(), 1, 1, 1)).await;
    (outcome, status(folder.path()).await)
}

#[tokio::test]
async fn a_commit_that_happened_but_looked_lost_is_not_sent_again() {
    let (outcome, status) = append_through_a_liar(1, true).await;
    assert_eq!(outcome.unwrap().attempts, 1);
    assert_eq!((status.rows, status.snapshots), (1, 1));
}

#[tokio::test]
async fn a_commit_that_was_lost_is_sent_again_until_it_is_in() {
    let (outcome, status) = append_through_a_liar(2, false).await;
    assert_eq!(outcome.unwrap().attempts, 3);
    assert_eq!((status.rows, status.snapshots), (1, 1));
}

#[tokio::test]
async fn a_commit_that_never_succeeds_is_given_back_as_retryable_and_keeps_its_data_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = open(folder.path(), &columns()).await.unwrap();
    let honest = Arc::clone(&table.catalog);
    table.catalog = Arc::new(Liar::new(&table, u32::MAX, false));
    let claim = claim(RandomIds.next_id(), 1, 1, 1);
    let files = files(&table, &[20_000]).await;
    let error = table.append(&files, &claim, &BTreeMap::new()).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    table.catalog = honest;
    table.append(&files, &claim, &BTreeMap::new()).await.unwrap();
    let live = live_files(folder.path()).await;
    assert_eq!(live.len(), 1);
    assert!(std::path::Path::new(live[0].0.strip_prefix("file://").unwrap()).exists());
}

#[tokio::test]
async fn a_sleeper_that_commits_an_old_version_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let table = open(folder.path(), &columns()).await.unwrap();
    let sleeper = open(folder.path(), &columns()).await.unwrap();
    let writer = RandomIds.next_id();
    for position in 1..=4 {
        append(&table, &[20_000], &claim(writer, 1, position, position)).await.unwrap();
    }
    // Version 2 was cleaned up while the sleeper, whose base is version 1, slept: its conditional create succeeds.
    std::fs::remove_file(folder.path().join("warehouse/product/events/metadata/v2.metadata.json")).unwrap();
    let stale = sleeper.loaded();
    let update = TableUpdate::SetProperties { updates: [("sleeper".to_owned(), "1".to_owned())].into() };
    let outcome = sleeper.catalog.commit(&stale, &[], vec![update]).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Committed));
    // It even moved the hint back. The next load finds the newest all the same, and the sleeper's change is not in it.
    let newest = sleeper.reload().await.unwrap();
    assert_eq!(newest.version, 5);
    assert!(!newest.metadata.properties().contains_key("sleeper"));
}

#[tokio::test]
async fn a_file_beside_the_rows_is_put_once_and_read_without_making_anything() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = options(&folder.path().join("none"));
    assert_eq!(Table::read_beside(&nowhere, "policies/a.json").await.unwrap(), None);
    assert!(!folder.path().join("none").exists());
    let table = open(folder.path(), &columns()).await.unwrap();
    assert!(table.put_once("policies/a.json", b"one".to_vec()).await.unwrap());
    assert!(!table.put_once("policies/a.json", b"two".to_vec()).await.unwrap());
    let options = options(folder.path());
    assert_eq!(Table::read_beside(&options, "policies/a.json").await.unwrap().unwrap(), "one");
    assert_eq!(Table::read_beside(&options, "policies/b.json").await.unwrap(), None);
    let beside = std::path::Path::new(&status(folder.path()).await.location.replace("file://", ""))
        .join("policies/a.json");
    assert_eq!(std::fs::read_to_string(beside).unwrap(), "one");
}

#[tokio::test]
async fn what_a_start_would_refuse_is_told_without_a_start() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path(), &columns()).await.unwrap();
    let peek = Table::peek(&options(folder.path())).await.unwrap().unwrap();
    assert_eq!(peek.refusals(&columns()), Vec::<String>::new());
    assert_eq!(peek.policy_versions(), Vec::<String>::new());
    let mut changed = columns();
    let last = changed.last_mut().unwrap();
    last.ty = if last.ty == ColumnType::Boolean { ColumnType::Double } else { ColumnType::Boolean };
    let name = last.name.clone();
    let refusals = peek.refusals(&changed);
    assert!(refusals.len() == 1 && refusals[0].contains(&name), "{refusals:?}");
    assert!(open(folder.path(), &changed).await.is_err(), "as it says");
}
