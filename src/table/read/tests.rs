//! Reading back what was appended: projection, newer columns, time ranges, and a view that later commits do not change.

use std::collections::BTreeMap;

use arrow::array::{AsArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use futures::TryStreamExt;

use super::*;
use crate::clock::{Ids, RandomIds, SystemClock};
use crate::columns::TableColumn;
use crate::datafile::DataFileWriter;
use crate::registry::ColumnType;
use crate::table::{CatalogOptions, Table, WalClaim};
use crate::wal::Position;

const DAY_MICROS: i64 = 86_400_000_000;

struct Fixture {
    folder: tempfile::TempDir,
    writer: uuid::Uuid,
    position: u64,
}

impl Fixture {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), writer: RandomIds.next_id(), position: 0 }
    }

    fn options(&self) -> TableOptions {
        TableOptions {
            retention_days: None,
            catalog: CatalogOptions::Files,
            warehouse: format!("file://{}/warehouse", self.folder.path().display()),
            name: "product.events".to_owned(),
            storage: Arc::default(),
        }
    }

    async fn open(&self, columns: &[TableColumn]) -> Table {
        let clock = Arc::new(SystemClock);
        Table::open_or_create(&self.options(), columns, clock, Arc::new(RandomIds)).await.unwrap()
    }

    /// Appends one row for each (time, number), and with it a note where there is one.
    async fn append(&mut self, table: &Table, rows: &[(i64, i64)], note: Option<&str>) {
        let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.0));
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            ("event_name", Arc::new(StringArray::from_iter_values(rows.iter().map(|_| "a.b")))),
            ("event_time", Arc::new(times.with_timezone("+00:00"))),
            ("number", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)))),
        ];
        if let Some(note) = note {
            columns.push(("note", Arc::new(StringArray::from_iter_values(rows.iter().map(|_| note)))));
        }
        let mut writer = DataFileWriter::new(table.file_target(RandomIds.next_id()).unwrap());
        writer.push(RecordBatch::try_from_iter(columns).unwrap()).await.unwrap();
        let files = writer.finish().await.unwrap();
        self.position += 1;
        let (from, through) = (Position(self.position), Position(self.position));
        let claim =
            WalClaim { writer_id: self.writer, epoch: 1, from, through, commit_id: RandomIds.next_id() };
        table.append(&files, &claim, &BTreeMap::new()).await.unwrap();
    }

    async fn reader(&self) -> TableReader {
        TableReader::open(&self.options()).await.unwrap().unwrap()
    }
}

fn columns(with_note: bool) -> Vec<TableColumn> {
    let column = |name: &str, ty, required| TableColumn {
        name: name.to_owned(),
        ty,
        required,
        doc: String::new(),
        bloom: false,
        bounds: true,
    };
    let mut columns = vec![
        column("event_name", ColumnType::String, true),
        column("event_time", ColumnType::Timestamp, true),
        column("number", ColumnType::Long, false),
    ];
    if with_note {
        columns.push(column("note", ColumnType::String, false));
    }
    columns
}

/// The numbers of the rows, sorted.
async fn numbers(reader: &TableReader, range: TimeRange) -> Vec<i64> {
    let batches: Vec<_> = reader.scan(&["number"], range).await.unwrap().try_collect().await.unwrap();
    let mut numbers: Vec<i64> = batches
        .iter()
        .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec())
        .collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn there_is_nothing_to_read_where_no_table_or_no_row_is() {
    let fixture = Fixture::new();
    assert!(TableReader::open(&fixture.options()).await.unwrap().is_none());
    assert!(!fixture.folder.path().join("warehouse").exists(), "looking makes nothing");
    fixture.open(&columns(false)).await;
    assert_eq!(numbers(&fixture.reader().await, TimeRange::ALL).await, [0; 0]);
}

#[tokio::test]
async fn rows_come_back_with_the_wanted_columns_in_the_wanted_order() {
    let mut fixture = Fixture::new();
    let table = fixture.open(&columns(false)).await;
    fixture.append(&table, &[(5, 1), (DAY_MICROS + 5, 2)], None).await;
    fixture.append(&table, &[(6, 3)], None).await;
    let reader = fixture.reader().await;
    assert_eq!(numbers(&reader, TimeRange::ALL).await, [1, 2, 3]);
    let rows = reader.scan(&["number", "event_time", "event_name"], TimeRange::ALL).await.unwrap();
    let batches: Vec<_> = rows.try_collect().await.unwrap();
    for batch in &batches {
        let names: Vec<_> = batch.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["number", "event_time", "event_name"]);
        let (numbers, times) = (
            batch.column(0).as_primitive::<Int64Type>(),
            batch.column(1).as_primitive::<TimestampMicrosecondType>(),
        );
        for row in 0..batch.num_rows() {
            let expected = [5, DAY_MICROS + 5, 6][numbers.value(row) as usize - 1];
            assert_eq!(times.value(row), expected);
            assert_eq!(batch.column(2).as_string::<i32>().value(row), "a.b");
        }
    }
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    let Err(error) = reader.scan(&["nothing"], TimeRange::ALL).await else { panic!("it must be refused") };
    assert!(error.to_string().contains("nothing"), "{error}");
}

#[tokio::test]
async fn a_newer_column_is_null_in_older_files_and_before_the_first_append() {
    let notes = async |fixture: &Fixture| -> Vec<(i64, Option<String>)> {
        let reader = fixture.reader().await;
        assert!(reader.has_column("note") && !reader.has_column("nothing"));
        for only in [&["note"][..], &["note", "number"]] {
            let rows = reader.scan(only, TimeRange::ALL).await.unwrap();
            let batches: Vec<_> = rows.try_collect().await.unwrap();
            if only.len() == 1 {
                assert!(batches.iter().all(|batch| batch.num_rows() > 0 && batch.num_columns() == 1));
                continue;
            }
            let mut found = Vec::new();
            for batch in &batches {
                let (notes, numbers) =
                    (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<Int64Type>());
                let note =
                    |row| arrow::array::Array::is_valid(notes, row).then(|| notes.value(row).to_owned());
                found.extend((0..batch.num_rows()).map(|row| (numbers.value(row), note(row))));
            }
            found.sort();
            return found;
        }
        unreachable!()
    };
    let mut fixture = Fixture::new();
    let table = fixture.open(&columns(false)).await;
    fixture.append(&table, &[(5, 1)], None).await;
    let table = fixture.open(&columns(true)).await;
    assert_eq!(notes(&fixture).await, [(1, None)]);
    fixture.append(&table, &[(6, 2)], Some("later")).await;
    assert_eq!(notes(&fixture).await, [(1, None), (2, Some("later".to_owned()))]);
}

#[tokio::test]
async fn a_range_of_time_is_exact_and_opens_no_file_of_another_day() {
    let mut fixture = Fixture::new();
    let table = fixture.open(&columns(false)).await;
    let rows: Vec<_> = (0..4).map(|day| (day * DAY_MICROS + 100, day)).collect();
    fixture.append(&table, &rows, None).await;
    let reader = fixture.reader().await;
    let at = |day: i64| day * DAY_MICROS + 100;
    assert_eq!(numbers(&reader, TimeRange::since(at(2))).await, [2, 3]);
    assert_eq!(numbers(&reader, TimeRange::since(at(2) + 1)).await, [3]);
    assert_eq!(numbers(&reader, TimeRange { from: Some(at(1)), before: Some(at(3)) }).await, [1, 2]);
    assert_eq!(numbers(&reader, TimeRange { from: None, before: Some(at(1)) }).await, [0]);
    // Without the other days' files the range still reads: they are not opened.
    for day in ["1970-01-01", "1970-01-04"] {
        let data = fixture.folder.path().join("warehouse/product/events/data");
        std::fs::remove_dir_all(data.join(format!("event_time_day={day}"))).unwrap();
    }
    assert_eq!(numbers(&reader, TimeRange { from: Some(at(1)), before: Some(at(3)) }).await, [1, 2]);
    let rows = reader.scan(&["number"], TimeRange::ALL).await.unwrap();
    assert!(rows.try_collect::<Vec<_>>().await.is_err(), "a lost file is an error, not fewer rows");
}

#[tokio::test]
async fn later_commits_do_not_change_what_is_read() {
    let mut fixture = Fixture::new();
    let table = fixture.open(&columns(false)).await;
    fixture.append(&table, &[(5, 1)], None).await;
    let reader = fixture.reader().await;
    fixture.append(&table, &[(6, 2)], None).await;
    assert_eq!(numbers(&reader, TimeRange::ALL).await, [1]);
    assert_eq!(numbers(&fixture.reader().await, TimeRange::ALL).await, [1, 2]);
}

#[tokio::test]
async fn many_rows_come_in_batches_of_bounded_size() {
    let mut fixture = Fixture::new();
    let table = fixture.open(&columns(false)).await;
    let rows: Vec<_> = (0..5000).map(|number| (number, number)).collect();
    fixture.append(&table, &rows, None).await;
    let reader = fixture.reader().await;
    let batches: Vec<_> =
        reader.scan(&["number"], TimeRange::ALL).await.unwrap().try_collect().await.unwrap();
    assert!(batches.iter().all(|batch| batch.num_rows() <= BATCH_ROWS));
    assert_eq!(numbers(&reader, TimeRange::ALL).await, (0..5000).collect::<Vec<_>>());
}
