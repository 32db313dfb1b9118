//! Tests of the data files: what is in them, in what order, and what their metrics say.

use std::collections::HashMap;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Encoding;
use parquet::bloom_filter::Sbbf;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::*;

const DAY: i64 = 86_400_000_000;

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
}

/// event_id, event_name, event_time, user_id (pseudonymous), amount, ratio, paid, note, and a column nobody fills.
fn target(store: &Arc<InMemory>) -> FileTarget {
    let columns = [
        ("event_id", DataType::Utf8, false),
        ("event_name", DataType::Utf8, false),
        ("event_time", timestamp(), false),
        ("user_id", DataType::Utf8, true),
        ("amount", DataType::Int64, true),
        ("ratio", DataType::Float64, true),
        ("paid", DataType::Boolean, true),
        ("note", DataType::Utf8, true),
        ("empty_text", DataType::Utf8, true),
        ("empty_long", DataType::Int64, true),
        ("empty_double", DataType::Float64, true),
        ("empty_boolean", DataType::Boolean, true),
        ("empty_time", timestamp(), true),
    ];
    let fields: Vec<Field> = (1..)
        .zip(columns)
        .map(|(id, (name, ty, nullable)): (i32, _)| {
            Field::new(name, ty, nullable)
                .with_metadata(HashMap::from([("PARQUET:field_id".to_owned(), id.to_string())]))
        })
        .collect();
    let policies = fields
        .iter()
        .map(|field| ColumnPolicy {
            bloom: matches!(field.name().as_str(), "event_id" | "user_id"),
            bounds: !matches!(field.name().as_str(), "event_id" | "user_id"),
        })
        .collect();
    FileTarget {
        schema: Arc::new(Schema::new(fields)),
        policies,
        iceberg_schema: r#"{"type":"struct"}"#.to_owned(),
        store: Arc::<InMemory>::clone(store),
        directory: Path::from("t/data"),
        location: "memory:///t/data".to_owned(),
        file_prefix: "commit".to_owned(),
    }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))
        .unwrap()
}

fn text<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(values))
}

fn times(values: &[i64]) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values.to_vec()).with_timezone("+00:00"))
}

/// Events with ids `<prefix>0..`, of the given names and times.
fn events(prefix: &str, rows: &[(&str, i64)]) -> Vec<(&'static str, ArrayRef)> {
    let ids: Vec<String> = (0..rows.len()).map(|i| format!("{prefix}{i}")).collect();
    vec![
        ("event_id", text(ids.iter().map(|id| Some(id.as_str())))),
        ("event_name", text(rows.iter().map(|(name, _)| Some(*name)))),
        ("event_time", times(&rows.iter().map(|(_, time)| *time).collect::<Vec<_>>())),
    ]
}

async fn write(target: FileTarget, batches: Vec<RecordBatch>) -> Result<Vec<WrittenFile>, DataFileError> {
    let mut writer = DataFileWriter::new(target);
    for batch in batches {
        writer.push(batch).await?;
    }
    writer.finish().await
}

async fn bytes_of(store: &InMemory, file: &WrittenFile) -> Bytes {
    let key = Path::from(file.location.strip_prefix("memory:///").unwrap());
    let bytes = store.get(&key).await.unwrap().bytes().await.unwrap();
    assert_eq!(bytes.len() as u64, file.size_bytes);
    bytes
}

async fn rows_of(store: &InMemory, file: &WrittenFile) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes_of(store, file).await).unwrap();
    let schema = Arc::clone(reader.schema());
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

async fn metadata_of(store: &InMemory, file: &WrittenFile) -> ParquetMetaData {
    SerializedFileReader::new(bytes_of(store, file).await).unwrap().metadata().clone()
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    rows.column_by_name(name).unwrap()
}

fn texts(rows: &RecordBatch, name: &str) -> Vec<Option<String>> {
    column(rows, name).as_string::<i32>().iter().map(|value| value.map(str::to_owned)).collect()
}

fn some(values: &[&str]) -> Vec<Option<String>> {
    values.iter().map(|value| Some((*value).to_owned())).collect()
}

#[test]
fn a_moment_belongs_to_its_utc_day_also_before_1970() {
    assert_eq!(layout::day_of(0), 0);
    assert_eq!(layout::day_of(DAY - 1), 0);
    assert_eq!(layout::day_of(DAY), 1);
    assert_eq!(layout::day_of(-1), -1);
    assert_eq!(layout::day_of(-DAY), -1);
    assert_eq!(layout::day_of(-DAY - 1), -2);
    assert_eq!(layout::day_of(i64::MIN), -106_751_992);
}

#[tokio::test]
async fn rows_are_grouped_by_day_and_sorted_by_name_and_time() {
    let store = Arc::new(InMemory::new());
    let first =
        batch(events("a", &[("b", 20_479 * DAY + 5), ("a", 20_479 * DAY + 9), ("a", 20_478 * DAY + 1)]));
    let second = batch(events("z", &[("a", 20_479 * DAY + 2), ("b", 20_479 * DAY + 5), ("c", -1)]));
    let files = write(target(&store), vec![first, second]).await.unwrap();

    let locations: Vec<&str> = files.iter().map(|file| file.location.as_str()).collect();
    assert_eq!(
        locations,
        [
            "memory:///t/data/event_time_day=1969-12-31/commit-0.parquet",
            "memory:///t/data/event_time_day=2026-01-25/commit-1.parquet",
            "memory:///t/data/event_time_day=2026-01-26/commit-2.parquet",
        ]
    );
    assert_eq!(
        files.iter().map(|file| (file.day, file.rows)).collect::<Vec<_>>(),
        [(-1, 1), (20_478, 1), (20_479, 4)]
    );
    let rows = rows_of(&store, &files[2]).await;
    // Equal names and times keep the order of arrival.
    assert_eq!(texts(&rows, "event_id"), some(&["z0", "a1", "a0", "z1"]));
    assert_eq!(texts(&rows, "event_name"), some(&["a", "a", "b", "b"]));
}

#[tokio::test]
async fn values_come_back_and_absent_columns_are_null() {
    let store = Arc::new(InMemory::new());
    let mut with_amount = events("x", &[("n", 10), ("n", 30)]);
    with_amount.push(("amount", Arc::new(Int64Array::from(vec![Some(7), None]))));
    let mut with_others = events("y", &[("n", 20), ("n", 40)]);
    with_others.push(("user_id", text([Some("e1_k_u"), None])));
    with_others.push(("ratio", Arc::new(Float64Array::from(vec![None, Some(0.5)]))));
    with_others.push(("paid", Arc::new(BooleanArray::from(vec![Some(true), Some(false)]))));
    let files = write(target(&store), vec![batch(with_amount), batch(with_others)]).await.unwrap();

    assert_eq!(files.len(), 1);
    let rows = rows_of(&store, &files[0]).await;
    assert_eq!(rows.num_columns(), 13, "every column of the table is in the file");
    assert_eq!(texts(&rows, "event_id"), some(&["x0", "y0", "x1", "y1"]));
    let time = column(&rows, "event_time").as_primitive::<TimestampMicrosecondType>();
    assert_eq!(time.values(), &[10, 20, 30, 40]);
    assert_eq!(time.data_type(), &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
    let amount: Vec<_> = column(&rows, "amount").as_primitive::<Int64Type>().iter().collect();
    assert_eq!(amount, [Some(7), None, None, None]);
    assert_eq!(texts(&rows, "user_id"), [None, Some("e1_k_u".to_owned()), None, None]);
    let paid: Vec<_> = column(&rows, "paid").as_boolean().iter().collect();
    assert_eq!(paid, [None, Some(true), None, Some(false)]);
    for name in ["note", "empty_text", "empty_long", "empty_double", "empty_boolean", "empty_time"] {
        assert_eq!(column(&rows, name).null_count(), 4, "{name}");
    }
}

#[tokio::test]
async fn metrics_say_exactly_what_the_rows_hold() {
    let store = Arc::new(InMemory::new());
    let mut columns = events("i", &[("b", 3), ("a", 1), ("c", 2)]);
    columns.push(("user_id", text([Some("e1_b"), Some("e1_a"), None])));
    columns.push(("amount", Arc::new(Int64Array::from(vec![Some(-4), Some(9), None]))));
    columns.push(("ratio", Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(-0.5), Some(2.0)]))));
    columns.push(("paid", Arc::new(BooleanArray::from(vec![Some(false), None, None]))));
    let file = &write(target(&store), vec![batch(columns)]).await.unwrap()[0];

    let told = |id: i32| file.columns[&id].clone();
    assert_eq!(file.columns.len(), 13);
    assert!(file.columns.values().all(|metrics| metrics.values == 3 && metrics.size_bytes > 0));
    assert_eq!(told(2).bounds, Some((Bound::String("a".into()), Bound::String("c".into()))));
    assert_eq!(told(3).bounds, Some((Bound::Timestamp(1), Bound::Timestamp(3))));
    assert_eq!((told(4).nulls, told(4).bounds), (1, None), "pseudonyms have no bounds");
    assert_eq!((told(5).nulls, told(5).bounds), (1, Some((Bound::Long(-4), Bound::Long(9)))));
    assert_eq!((told(6).nans, told(6).bounds), (Some(1), Some((Bound::Double(-0.5), Bound::Double(2.0)))));
    assert_eq!((told(7).nulls, told(7).bounds), (2, Some((Bound::Boolean(false), Bound::Boolean(false)))));
    assert_eq!((told(9).nulls, told(9).nans, told(9).bounds), (3, None, None));
    assert_eq!((told(11).nulls, told(11).nans), (3, Some(0)));
    assert_eq!(file.split_offsets, [4]);
}

#[tokio::test]
async fn a_long_text_has_short_bounds_that_still_enclose_it() {
    let store = Arc::new(InMemory::new());
    let long = "é".repeat(5_000);
    let mut columns = events("i", &[("n", 1), ("n", 2)]);
    columns.push(("note", text([Some(long.as_str()), Some(long.as_str())])));
    let file = &write(target(&store), vec![batch(columns)]).await.unwrap()[0];
    let Some((Bound::String(least), Bound::String(greatest))) = &file.columns[&8].bounds else {
        panic!("no bounds: {:?}", file.columns[&8])
    };
    assert!(least.len() <= BOUND_BYTES_MAX && greatest.len() <= BOUND_BYTES_MAX);
    assert!(*least < long && long < *greatest, "{least} {greatest}");
}

#[tokio::test]
async fn the_footer_holds_nothing_of_pseudonyms_and_everything_readers_need() {
    let store = Arc::new(InMemory::new());
    let mut columns = events("i", &[("n", 1), ("n", 2)]);
    columns.push(("user_id", text([Some("e1_secret"), Some("e1_other")])));
    let file = &write(target(&store), vec![batch(columns)]).await.unwrap()[0];
    let metadata = metadata_of(&store, file).await;

    assert_eq!(metadata.num_row_groups(), 1);
    let footer = metadata.file_metadata().key_value_metadata().unwrap();
    let keys: Vec<_> = footer.iter().map(|pair| (pair.key.as_str(), pair.value.as_deref())).collect();
    assert_eq!(keys, [("iceberg.schema", Some(r#"{"type":"struct"}"#))]);
    for (index, chunk) in metadata.row_group(0).columns().iter().enumerate() {
        let name = chunk.column_descr().name();
        assert_eq!(chunk.column_descr().self_type().get_basic_info().id(), index as i32 + 1, "{name}");
        assert!(
            chunk.encodings().all(|encoding| matches!(
                encoding,
                Encoding::PLAIN | Encoding::RLE | Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY
            )),
            "{name} has an encoding that Iceberg's Spark reader refuses: {:?}",
            chunk.encodings().collect::<Vec<_>>()
        );
        let hidden = matches!(name, "event_id" | "user_id");
        assert_eq!(chunk.statistics().is_none(), hidden, "{name}");
        assert_eq!(chunk.bloom_filter_offset().is_some(), hidden, "{name}");
        if hidden {
            assert!(chunk.column_index_offset().is_none(), "{name}");
        }
    }
}

#[tokio::test]
async fn a_bloom_filter_knows_its_values_and_few_others() {
    let store = Arc::new(InMemory::new());
    let rows: Vec<(&str, i64)> = (0..5_000).map(|time| ("n", time)).collect();
    let mut columns = events("i", &rows);
    let users: Vec<String> = (0..5_000).map(|row| format!("e1_{}", row % 40)).collect();
    columns.push(("user_id", text(users.iter().map(|user| Some(user.as_str())))));
    let file = &write(target(&store), vec![batch(columns)]).await.unwrap()[0];
    let (bytes, metadata) = (bytes_of(&store, file).await, metadata_of(&store, file).await);
    let filter = |index: usize| {
        Sbbf::read_from_column_chunk(metadata.row_group(0).column(index), &bytes).unwrap().unwrap()
    };

    let ids = filter(0);
    assert!((0..5_000).all(|row| ids.check(format!("i{row}").as_str())));
    let mistaken = (0..5_000).filter(|row| ids.check(format!("other{row}").as_str())).count();
    assert!(mistaken < 150, "{mistaken} of 5000");
    let users = filter(3);
    assert!(users.check("e1_39"));
    assert!(users.num_blocks() * 32 <= 256, "40 distinct values fill {} bytes", users.num_blocks() * 32);
}

#[tokio::test]
async fn a_full_run_is_written_before_more_is_held() {
    let store = Arc::new(InMemory::new());
    let mut writer = DataFileWriter::with_run_bytes_max(target(&store), 1);
    for part in ["a", "b", "c"] {
        writer.push(batch(events(part, &[("n", 1), ("n", 2), ("n", 3)]))).await.unwrap();
    }
    let files = writer.finish().await.unwrap();
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 9);
    assert_eq!(files.len(), 3);
    assert_ne!(files[0].location, files[1].location);
    assert_eq!(rows_of(&store, &files[1]).await.num_rows() as u64, files[1].rows);
}

#[tokio::test]
async fn no_rows_make_no_file() {
    let store = Arc::new(InMemory::new());
    assert_eq!(write(target(&store), vec![]).await.unwrap(), []);
    assert_eq!(write(target(&store), vec![batch(events("x", &[]))]).await.unwrap(), []);
}

#[tokio::test]
async fn a_file_above_the_limit_goes_up_in_parts_and_arrives_whole() {
    let store = Arc::new(InMemory::new());
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state
    };
    let notes: Vec<String> =
        (0..20_000).map(|_| (0..125).map(|_| format!("{:016x}", noise())).collect()).collect();
    let rows: Vec<(&str, i64)> = (0..20_000).map(|time| ("n", time)).collect();
    let mut columns = events("i", &rows);
    columns.push(("note", text(notes.iter().map(|note| Some(note.as_str())))));
    let files = write(target(&store), vec![batch(columns)]).await.unwrap();
    assert!(files[0].size_bytes > 16 << 20, "{}", files[0].size_bytes);
    let read = rows_of(&store, &files[0]).await;
    assert_eq!(texts(&read, "note")[19_999].as_ref(), Some(&notes[19_999]));
}

#[tokio::test]
async fn rows_that_do_not_fit_the_table_are_refused_by_column_name() {
    let store = Arc::new(InMemory::new());
    let refused =
        async |columns: Vec<(&str, ArrayRef)>| write(target(&store), vec![batch(columns)]).await.unwrap_err();

    let mut unknown = events("x", &[("n", 1)]);
    unknown.push(("new_column", text([Some("v")])));
    assert!(
        matches!(refused(unknown).await, DataFileError::ColumnUnknown { column } if column == "new_column")
    );

    let mut retyped = events("x", &[("n", 1)]);
    retyped.push(("amount", text([Some("v")])));
    assert!(matches!(refused(retyped).await, DataFileError::ColumnType { column, .. } if column == "amount"));

    let mut null_id = events("x", &[("n", 1)]);
    null_id[0] = ("event_id", text([None]));
    assert!(
        matches!(refused(null_id).await, DataFileError::ColumnMissing { column } if column == "event_id")
    );

    let mut some_null = events("x", &[("n", 1), ("n", 2)]);
    some_null[0] = ("event_id", text([Some("x"), None]));
    assert!(
        matches!(refused(some_null).await, DataFileError::NullInRequired { column } if column == "event_id")
    );

    let nameless = events("x", &[("n", 1)]).into_iter().filter(|(name, _)| *name != "event_name").collect();
    assert!(
        matches!(refused(nameless).await, DataFileError::ColumnMissing { column } if column == "event_name")
    );

    let mut null_name = events("x", &[("n", 1)]);
    null_name[1] = ("event_name", text([None]));
    assert!(
        matches!(refused(null_name).await, DataFileError::NullInRequired { column } if column == "event_name")
    );
}
