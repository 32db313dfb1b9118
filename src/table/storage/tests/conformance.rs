//! What every store must do, tried on a warehouse.

use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use crate::table::storage::Warehouse;

/// Objects under one folder: more than one page of a store whose pages are small.
const LISTED: usize = 7;

/// Fails where the store of the warehouse does anything else than Esker builds on. The folder `conformance` must be empty, and is
/// left so.
pub(super) async fn conforms(warehouse: &Warehouse) {
    let store = warehouse.store();
    let root = Path::from("conformance");
    assert!(keys(store.as_ref(), &root).await.is_empty(), "the folder is empty");
    let key = Path::from("conformance/event_time_day=2026-01-01/a.parquet");
    reads_and_writes(store.as_ref(), &key).await;
    creates(&store, &Path::from("conformance/v1.metadata.json")).await;
    lists_and_deletes(store.as_ref(), &root).await;
    takes_parts(store.as_ref(), &Path::from("conformance/parts.parquet")).await;
    assert!(keys(store.as_ref(), &root).await.is_empty(), "everything was deleted");
    warehouse.probe(&root, "conformance").await.unwrap();
}

async fn keys(store: &dyn ObjectStore, folder: &Path) -> Vec<String> {
    let mut keys: Vec<_> =
        store.list(Some(folder)).map_ok(|object| object.location.to_string()).try_collect().await.unwrap();
    keys.sort();
    keys
}

async fn text(store: &dyn ObjectStore, key: &Path) -> String {
    let bytes = store.get(key).await.unwrap().bytes().await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn reads_and_writes(store: &dyn ObjectStore, key: &Path) {
    assert!(matches!(store.get(key).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.head(key).await, Err(Error::NotFound { .. })));
    store.put(key, "0123456789".into()).await.unwrap();
    assert_eq!(text(store, key).await, "0123456789", "a read follows a write");
    assert_eq!(store.head(key).await.unwrap().size, 10);
    assert_eq!(store.get_range(key, 2..5).await.unwrap(), "234");
    let e_tag = store.get(key).await.unwrap().meta.e_tag;
    assert!(e_tag.is_some(), "every object has a tag");
    let unchanged = GetOptions { if_none_match: e_tag.clone(), ..GetOptions::default() };
    let same = store.get_opts(key, unchanged).await;
    assert!(matches!(same, Err(Error::NotModified { .. })), "{same:?}");
    store.put(key, "another text".into()).await.unwrap();
    let changed = GetOptions { if_none_match: e_tag, ..GetOptions::default() };
    assert_eq!(store.get_opts(key, changed).await.unwrap().bytes().await.unwrap(), "another text");
    store.put(key, PutPayload::new()).await.unwrap();
    assert_eq!(text(store, key).await, "", "an object may be empty");
    store.delete(key).await.unwrap();
    assert!(matches!(store.get(key).await, Err(Error::NotFound { .. })), "a read follows a deletion");
}

async fn creates(store: &Arc<dyn ObjectStore>, key: &Path) {
    let create = |text: String| {
        let (store, key) = (Arc::clone(store), key.clone());
        tokio::spawn(async move { store.put_opts(&key, text.into(), PutMode::Create.into()).await })
    };
    for round in 0..3 {
        let creates = (0..8).map(|writer| create(format!("{round}-{writer}")));
        let outcomes = futures::future::join_all(creates).await;
        let won: Vec<_> = outcomes
            .into_iter()
            .enumerate()
            .filter_map(|(writer, outcome)| match outcome.unwrap() {
                Ok(_) => Some(writer),
                Err(Error::AlreadyExists { .. }) => None,
                Err(error) => panic!("a create that lost says something else: {error}"),
            })
            .collect();
        let [winner] = won.as_slice() else { panic!("of creates at once {won:?} won") };
        assert_eq!(text(store.as_ref(), key).await, format!("{round}-{winner}"));
        // What was deleted can be created again.
        store.delete(key).await.unwrap();
    }
}

async fn lists_and_deletes(store: &dyn ObjectStore, root: &Path) {
    let folder = root.clone().join("listed");
    let beside = root.clone().join("listed-beside");
    store.put(&beside, "x".into()).await.unwrap();
    let mut expected = Vec::new();
    for number in 0..LISTED {
        let key = folder.clone().join(format!("day={number}")).join("file.parquet");
        store.put(&key, "x".into()).await.unwrap();
        expected.push(key.to_string());
    }
    assert_eq!(
        keys(store, &folder).await,
        expected,
        "a list follows a write, over all pages, and ends at the folder"
    );
    let tops = store.list_with_delimiter(Some(&folder)).await.unwrap();
    assert_eq!((tops.objects.len(), tops.common_prefixes.len()), (0, LISTED));
    for key in expected {
        store.delete(&Path::from(key)).await.unwrap();
    }
    assert!(keys(store, &folder).await.is_empty(), "a list follows a deletion");
    store.delete(&beside).await.unwrap();
}

async fn takes_parts(store: &dyn ObjectStore, key: &Path) {
    const PART: usize = 5 << 20;
    let mut upload = store.put_multipart(key).await.unwrap();
    upload.put_part(vec![1; PART].into()).await.unwrap();
    upload.abort().await.unwrap();
    assert!(
        matches!(store.head(key).await, Err(Error::NotFound { .. })),
        "a given up upload leaves no object"
    );
    let mut upload = store.put_multipart(key).await.unwrap();
    let parts = [upload.put_part(vec![1; PART].into()), upload.put_part(vec![2; PART].into())];
    // They may end in any order.
    for part in parts.into_iter().rev() {
        part.await.unwrap();
    }
    upload.put_part("end".into()).await.unwrap();
    assert!(
        matches!(store.head(key).await, Err(Error::NotFound { .. })),
        "an upload shows when it is complete"
    );
    upload.complete().await.unwrap();
    let size = 2 * PART as u64 + 3;
    assert_eq!(store.head(key).await.unwrap().size, size);
    let seam = PART as u64;
    assert_eq!(store.get_range(key, seam - 1..seam + 1).await.unwrap().as_ref(), [1, 2]);
    assert_eq!(store.get_range(key, size - 3..size).await.unwrap(), "end");
    store.delete(key).await.unwrap();
}
