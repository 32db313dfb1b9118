//! Stores of every kind under one suite; commits on stores that fail, lose answers and deliver late; what refusals say.

mod answers;
mod conformance;
mod faulty;

use std::collections::BTreeMap;

use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, PutMode, PutPayload};

use super::*;
use crate::clock::{Ids, RandomIds, SystemClock};
use crate::table::catalog::Catalog;
use crate::table::catalog::files::FilesCatalog;
use crate::table::tests::{append, claim, columns, files};
use crate::table::{CatalogOptions, Table, TableOptions};
use conformance::conforms;
use faulty::{Fault, Faulty};

fn memory() -> (Arc<Faulty>, Warehouse) {
    let store = Arc::new(Faulty::new(Arc::new(InMemory::new())));
    let warehouse = Warehouse::of(Arc::clone(&store) as Arc<dyn ObjectStore>, "s3://bucket/lake".to_owned());
    (store, warehouse)
}

fn options() -> TableOptions {
    TableOptions {
        warehouse: "s3://bucket/lake".to_owned(),
        catalog: CatalogOptions::Files,
        storage: Arc::default(),
        name: "product.events".to_owned(),
        retention_days: None,
    }
}

async fn open_in(warehouse: &Warehouse) -> Table {
    let catalog = FilesCatalog::new(warehouse, "product.events");
    let (clock, ids) = (Arc::new(SystemClock), Arc::new(RandomIds));
    Table::set_up(Arc::new(catalog), warehouse.clone(), &options(), &columns(), clock, ids).await.unwrap()
}

/// Every file that a reader of the newest snapshot needs, found by somebody who knows nothing but the store.
async fn rows_found(warehouse: &Warehouse) -> u64 {
    let fresh = Warehouse::of(warehouse.store(), warehouse.location().to_owned());
    let loaded = FilesCatalog::new(&fresh, "product.events").load().await.unwrap().unwrap();
    let Some(snapshot) = loaded.metadata.current_snapshot() else { return 0 };
    let file_io = fresh.file_io();
    let bytes = file_io.new_input(snapshot.manifest_list()).unwrap().read().await.unwrap();
    let version = ::iceberg::spec::FormatVersion::V2;
    let list = ::iceberg::spec::ManifestList::parse_with_version(&bytes, version).unwrap();
    let mut rows = 0;
    for manifest in list.entries() {
        for entry in manifest.load_manifest(&file_io).await.unwrap().entries() {
            assert!(file_io.new_input(entry.file_path()).unwrap().exists().await.unwrap());
            rows += entry.data_file().record_count();
        }
    }
    rows
}

#[tokio::test]
async fn a_local_folder_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    conforms(&Warehouse::open(&url, &StorageOptions::default()).unwrap()).await;
}

#[tokio::test]
async fn a_bucket_conforms() {
    let store = Arc::new(InMemory::new());
    let place = answers::place(fault::Provider::S3);
    let bucket = bucket::Bucket::new(Arc::clone(&store) as _, store, place);
    conforms(&Warehouse::bucket("s3", "bucket", Path::from("lake/deep"), bucket)).await;
}

/// The same suite on real servers: `tests/e2e/test_storage.py` starts them and says where they are.
#[tokio::test]
#[ignore = "needs a bucket: ESKER_CONFORMANCE_WAREHOUSE and the vendor's variables, set by tests/e2e/test_storage.py"]
async fn the_bucket_of_the_environment_conforms() {
    let location = crate::secret::environment("ESKER_CONFORMANCE_WAREHOUSE").unwrap();
    conforms(&Warehouse::open(&location, &answers::options_of_environment()).unwrap()).await;
}

#[tokio::test]
async fn the_probe_passes_an_honest_store_and_leaves_nothing() {
    let (store, warehouse) = memory();
    warehouse.probe(&Path::from("product/events/metadata"), "x").await.unwrap();
    assert_eq!(store.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_store_that_is_busy_at_start_does_not_stop_it() {
    for fault in [Fault::NotTaken, Fault::AnswerLost] {
        for number in 0..2 {
            let (store, warehouse) = memory();
            store.fail_call(number, fault);
            warehouse.probe(&Path::from("product/events/metadata"), "x").await.unwrap();
            assert_eq!(store.keys().await, Vec::<String>::new());
        }
    }
}

#[tokio::test]
async fn the_probe_refuses_each_lie_and_names_it() {
    for (lie, named) in [
        (Fault::Overwrites, "two commits could both succeed"),
        (Fault::Forgets, "does not show an object"),
        (Fault::HidesFromLists, "does not list"),
    ] {
        let (store, warehouse) = memory();
        store.lie(lie);
        let error = warehouse.probe(&Path::from("m"), "x").await.unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("use a store"), "{error}");
    }
}

#[tokio::test]
async fn a_flush_of_one_partition_takes_at_most_twelve_requests() {
    let (store, warehouse) = memory();
    let table = open_in(&warehouse).await;
    let writer = RandomIds.next_id();
    for position in 1..=5 {
        store.calls();
        append(&table, &[20_000], &claim(writer, 1, position, position)).await.unwrap();
        let calls = store.calls();
        assert!(calls.len() <= 12, "{}: {calls:#?}", calls.len());
        assert!(calls.iter().all(|call| !call.starts_with("list")), "{calls:#?}");
    }
    assert_eq!(rows_found(&warehouse).await, 5);
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_by_reading_and_not_sent_again() {
    let (store, warehouse) = memory();
    let table = open_in(&warehouse).await;
    store.fail("create product/events/metadata/v2", Fault::AnswerLost);
    let appended = append(&table, &[20_000], &claim(RandomIds.next_id(), 1, 1, 1)).await.unwrap();
    assert_eq!(appended.attempts, 1);
    assert_eq!(rows_found(&warehouse).await, 1);
}

#[tokio::test]
async fn a_commit_that_was_not_taken_is_sent_again() {
    let (store, warehouse) = memory();
    let table = open_in(&warehouse).await;
    store.fail("create product/events/metadata/v2", Fault::NotTaken);
    let appended = append(&table, &[20_000], &claim(RandomIds.next_id(), 1, 1, 1)).await.unwrap();
    assert_eq!(appended.attempts, 2);
    assert_eq!(rows_found(&warehouse).await, 1);
}

#[tokio::test]
async fn a_commit_that_lands_after_it_was_given_up_finds_all_its_files() {
    let (store, warehouse) = memory();
    let table = open_in(&warehouse).await;
    // The first attempt's request is under way while the table is read, and arrives just before the second's.
    store.fail("create product/events/metadata/v2", Fault::Late);
    let writer = RandomIds.next_id();
    append(&table, &[20_000, 20_001], &claim(writer, 1, 1, 1)).await.unwrap();
    assert_eq!(rows_found(&warehouse).await, 2);
    append(&table, &[20_000], &claim(writer, 1, 2, 2)).await.unwrap();
    assert_eq!(rows_found(&warehouse).await, 3);
}

#[tokio::test]
async fn any_single_failing_call_of_a_flush_loses_nothing_and_doubles_nothing() {
    // Every call of a flush fails once, in both ways, in turn.
    for fault in [Fault::NotTaken, Fault::AnswerLost] {
        for number in 0.. {
            let (store, warehouse) = memory();
            let table = open_in(&warehouse).await;
            let claim = claim(RandomIds.next_id(), 1, 1, 1);
            let written = files(&table, &[20_000, 20_001]).await;
            store.calls();
            store.fail_call(number, fault);
            let mut outcome = table.append(&written, &claim, &BTreeMap::new()).await;
            let is_over = store.calls().len() <= number;
            if let Err(error) = &outcome {
                assert!(error.is_retryable(), "call {number}: {error}");
                outcome = table.append(&written, &claim, &BTreeMap::new()).await;
            }
            outcome.unwrap();
            assert_eq!(rows_found(&warehouse).await, 2, "call {number}, {fault:?}");
            if is_over {
                assert!(number > 8, "the flush has more calls than {number}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_table_that_was_dropped_and_made_anew_is_not_taken_for_the_old_one() {
    let (store, warehouse) = memory();
    let table = open_in(&warehouse).await;
    let writer = RandomIds.next_id();
    append(&table, &[20_000], &claim(writer, 1, 1, 1)).await.unwrap();
    for key in store.keys().await {
        store.delete(&Path::from(key)).await.unwrap();
    }
    let gone = append(&table, &[20_000], &claim(writer, 1, 2, 2)).await.unwrap_err();
    assert!(matches!(gone, TableError::Gone { .. }), "{gone}");
    let other = open_in(&warehouse).await;
    append(&other, &[20_000], &claim(RandomIds.next_id(), 1, 1, 1)).await.unwrap();
    // The same version, another table.
    let error = append(&table, &[20_000], &claim(writer, 1, 2, 2)).await.unwrap_err();
    assert!(matches!(error, TableError::Gap { .. }), "{error}");
    assert_eq!(rows_found(&warehouse).await, 1);
}

#[tokio::test]
async fn an_upload_in_parts_is_given_up_where_a_part_or_its_end_fails() {
    for point in ["part lake", "complete lake"] {
        let (store, warehouse) = memory();
        store.fail(point, Fault::NotTaken);
        let target = crate::datafile::FileTarget {
            store: warehouse.store(),
            directory: Path::from("lake"),
            ..open_in(&warehouse).await.file_target(RandomIds.next_id()).unwrap()
        };
        let bytes = bytes::Bytes::from(vec![7; 20 << 20]);
        assert!(crate::datafile::upload_for_tests(&target, "x.parquet", bytes.clone()).await.is_err());
        let calls = store.calls();
        assert!(calls.iter().any(|call| call == "abort lake/x.parquet"), "{calls:#?}");
        assert!(store.parts_at_once_max() <= 4);
        crate::datafile::upload_for_tests(&target, "x.parquet", bytes).await.unwrap();
        assert_eq!(store.head(&Path::from("lake/x.parquet")).await.unwrap().size, 20 << 20);
    }
}

#[tokio::test]
async fn a_create_is_sent_by_the_client_that_never_repeats() {
    let (repeating, once) = (memory().0, memory().0);
    let place = answers::place(fault::Provider::Gcs);
    let bucket = bucket::Bucket::new(Arc::clone(&repeating) as _, Arc::clone(&once) as _, place);
    let key = Path::from("v1");
    bucket.put_opts(&key, PutPayload::from("1"), PutMode::Create.into()).await.unwrap();
    bucket.put(&key, PutPayload::from("2")).await.unwrap();
    assert_eq!((once.calls(), repeating.calls()), (vec!["create v1".to_owned()], vec!["put v1".to_owned()]));
}

#[test]
fn locations_are_taken_apart_and_wrong_ones_named() {
    let (bucket, prefix) = divided("bucket/a/b=c/").unwrap();
    assert_eq!((bucket, prefix.as_ref()), ("bucket", "a/b=c"));
    assert_eq!(divided("bucket").unwrap().1.as_ref(), "");
    for wrong in ["", "/a", "buck et/a", "b/a//b", "b/../c", "b/a%20b", "b/a?x"] {
        assert!(divided(wrong).is_err(), "{wrong}");
    }
    let error = Warehouse::open("abfs://x", &StorageOptions::default()).unwrap_err().to_string();
    assert!(error.contains("s3://BUCKET/PREFIX"), "{error}");
}
