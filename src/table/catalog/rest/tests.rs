//! The REST catalog against a strict server in this process: real requirement checks over real files, and answers that are
//! late, lost, wrong or refused.

mod catalog_server;
mod signature;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use serde_json::json;

use self::catalog_server::{CatalogServer, Fault};
use super::*;
use crate::clock::{FixedClock, Ids, RandomIds, SystemClock};
use crate::columns::TableColumn;
use crate::datafile::{DataFileWriter, WrittenFile};
use crate::registry::ColumnType;
use crate::secret::ValueReference;
use crate::table::read::{TableReader, TimeRange};
use crate::table::{Appended, Table, TableOptions, WalClaim};
use crate::wal::Position;
use futures::TryStreamExt;

const SECRET: &str = "correct-horse-battery";

fn column(name: &str, ty: ColumnType, required: bool) -> TableColumn {
    TableColumn { name: name.to_owned(), ty, required, doc: String::new(), bloom: false, bounds: true }
}

fn columns() -> Vec<TableColumn> {
    vec![
        column("event_name", ColumnType::String, true),
        column("event_time", ColumnType::Timestamp, true),
        column("organisation_id", ColumnType::Long, false),
    ]
}

fn secret_file(folder: &std::path::Path) -> ValueReference {
    let path = folder.join("secret");
    std::fs::write(&path, SECRET).unwrap();
    ValueReference::File(path)
}

fn endpoint(uri: &str, auth: Auth) -> Endpoint {
    Endpoint {
        section: "catalog",
        uri: uri.to_owned(),
        warehouse: "lake".to_owned(),
        location: None,
        auth,
        vended_credentials: true,
    }
}

fn options(endpoint: Endpoint) -> TableOptions {
    TableOptions {
        warehouse: endpoint.warehouse.clone(),
        catalog: CatalogOptions::Rest(RestCatalogOptions::new(endpoint)),
        storage: Arc::default(),
        name: "product.events".to_owned(),
        retention_days: None,
    }
}

async fn open_as(options: &TableOptions, columns: &[TableColumn]) -> Result<Table, TableError> {
    Table::open_or_create(options, columns, Arc::new(SystemClock), Arc::new(RandomIds)).await
}

async fn open(server: &CatalogServer) -> Result<Table, TableError> {
    open_as(&options(endpoint(server.uri(), Auth::None)), &columns()).await
}

async fn files(table: &Table, rows: i64) -> Vec<WrittenFile> {
    let mut writer = DataFileWriter::new(table.file_target(RandomIds.next_id()).unwrap());
    let times =
        TimestampMicrosecondArray::from_iter_values((0..rows).map(|row| 20_000 * 86_400_000_000 + row));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("event_name", Arc::new(StringArray::from_iter_values((0..rows).map(|_| "a.b")))),
        ("event_time", Arc::new(times.with_timezone("+00:00"))),
        ("organisation_id", Arc::new(Int64Array::from_iter_values(0..rows))),
    ];
    writer.push(RecordBatch::try_from_iter(columns).unwrap()).await.unwrap();
    writer.finish().await.unwrap()
}

fn claim(writer_id: uuid::Uuid, from: u64, through: u64) -> WalClaim {
    let commit_id = RandomIds.next_id();
    WalClaim { writer_id, epoch: 1, from: Position(from), through: Position(through), commit_id }
}

async fn append(table: &Table, rows: i64, claim: &WalClaim) -> Result<Appended, TableError> {
    let files = if rows == 0 { Vec::new() } else { files(table, rows).await };
    table.append(&files, claim, &BTreeMap::new()).await
}

/// Rows as a reader finds them, which opens every manifest and every data file.
async fn rows(server: &CatalogServer) -> usize {
    let options = options(endpoint(server.uri(), Auth::None));
    let reader = TableReader::open(&options).await.unwrap().unwrap();
    let batches = reader.scan(&["organisation_id"], TimeRange::ALL).await.unwrap();
    batches.try_fold(0, |sum, batch| async move { Ok(sum + batch.num_rows()) }).await.unwrap()
}

#[tokio::test]
async fn a_table_is_made_with_its_namespace_found_again_and_appended_to() {
    let server = CatalogServer::start().await;
    let nothing = Table::peek(&options(endpoint(server.uri(), Auth::None))).await.unwrap();
    assert!(nothing.is_none() && server.requests("POST").is_empty(), "looking makes nothing");
    let table = open(&server).await.unwrap();
    open(&server).await.unwrap();
    assert_eq!(server.requests("POST").len(), 3, "the table, refused; its namespace; the table");
    let writer = RandomIds.next_id();
    for position in 1..=3 {
        append(&table, 2, &claim(writer, position, position)).await.unwrap();
    }
    assert_eq!(table.writer_position(writer), Some((1, Position(3))));
    assert_eq!(rows(&server).await, 6);
    let status = Table::peek(&options(endpoint(server.uri(), Auth::None))).await.unwrap().unwrap().status();
    assert_eq!((status.rows, status.snapshots, status.metadata_version), (6, 3, 4));
    assert!(server.paths().iter().all(|path| path == "/v1/config" || path.starts_with("/v1/lake%2F1/")));
}

#[tokio::test]
async fn columns_are_added_and_what_others_did_is_kept() {
    let server = CatalogServer::start().await;
    let table = open(&server).await.unwrap();
    append(&table, 1, &claim(RandomIds.next_id(), 1, 1)).await.unwrap();
    // Somebody tags the snapshot, makes a branch, sets a property.
    let snapshot = server.metadata()["current-snapshot-id"].clone();
    server.change(&json!({ "requirements": [], "updates": [
        { "action": "set-snapshot-ref", "ref-name": "audit", "type": "tag", "snapshot-id": snapshot },
        { "action": "set-snapshot-ref", "ref-name": "trial", "type": "branch", "snapshot-id": snapshot },
        { "action": "set-properties", "updates": { "owner": "data-team" } },
    ]}));
    let mut more = columns();
    more.push(column("feature_id", ColumnType::Long, false));
    let table = open_as(&options(endpoint(server.uri(), Auth::None)), &more).await.unwrap();
    append(&table, 1, &claim(RandomIds.next_id(), 1, 1)).await.unwrap();
    let metadata = server.metadata();
    assert_eq!(metadata["refs"]["audit"]["snapshot-id"], snapshot);
    assert_eq!(metadata["refs"]["trial"]["snapshot-id"], snapshot);
    assert_ne!(metadata["refs"]["main"]["snapshot-id"], snapshot);
    assert_eq!(metadata["properties"]["owner"], "data-team");
    assert_eq!(rows(&server).await, 2);
}

#[tokio::test]
async fn columns_of_types_that_esker_never_writes_are_left_to_whoever_added_them() {
    let server = CatalogServer::start().await;
    let table = open(&server).await.unwrap();
    append(&table, 2, &claim(RandomIds.next_id(), 1, 1)).await.unwrap();
    let mut schema = server.metadata()["schemas"][0].clone();
    let list = json!({ "type": "list", "element-id": 11, "element": "string", "element-required": false });
    let fields = schema["fields"].as_array_mut().unwrap();
    // In the middle, so that what is written after it would be off by one.
    fields.insert(1, json!({ "id": 10, "name": "labels", "type": list, "required": false }));
    fields.push(json!({ "id": 12, "name": "score", "type": "int", "required": false }));
    schema["schema-id"] = 1.into();
    server.change(&json!({ "requirements": [], "updates": [
        { "action": "add-schema", "schema": schema },
        { "action": "set-current-schema", "schema-id": -1 },
    ]}));
    append(&open(&server).await.unwrap(), 3, &claim(RandomIds.next_id(), 1, 1)).await.unwrap();
    assert_eq!(rows(&server).await, 5);
    schema["fields"][1]["required"] = true.into();
    schema["schema-id"] = 2.into();
    server.change(&json!({ "requirements": [], "updates": [
        { "action": "add-schema", "schema": schema },
        { "action": "set-current-schema", "schema-id": -1 },
    ]}));
    let error = open(&server).await.unwrap_err();
    assert!(error.to_string().contains("requires the column labels"), "{error}");
}

#[tokio::test]
async fn writers_at_once_lose_nothing() {
    let server = CatalogServer::start().await;
    open(&server).await.unwrap();
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let table = open(&server).await.unwrap();
        tasks.push(tokio::spawn(async move {
            let writer = RandomIds.next_id();
            for position in 1..=4 {
                let claim = claim(writer, position, position);
                let files = files(&table, 1).await;
                while let Err(error) = table.append(&files, &claim, &BTreeMap::new()).await {
                    assert!(matches!(error, TableError::Contended { .. }), "{error}");
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(rows(&server).await, 16);
}

#[tokio::test]
async fn an_unclear_answer_is_settled_by_loading_whatever_had_happened() {
    for status in [500, 502, 503, 504] {
        for fault in [Fault::AnswerAfter(status), Fault::AnswerInstead(status)] {
            let server = CatalogServer::start().await;
            let table = open(&server).await.unwrap();
            server.next_commit(fault);
            let appended = append(&table, 3, &claim(RandomIds.next_id(), 1, 1)).await.unwrap();
            let attempts = if matches!(fault, Fault::AnswerAfter(_)) { 1 } else { 2 };
            assert_eq!((appended.attempts, rows(&server).await), (attempts, 3), "{fault:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_settled_by_loading() {
    let server = CatalogServer::start().await;
    let table = open(&server).await.unwrap();
    server.next_commit(Fault::BreakOffAfter);
    let appended = append(&table, 3, &claim(RandomIds.next_id(), 1, 1)).await.unwrap();
    assert_eq!((appended.attempts, rows(&server).await), (1, 3));
}

#[tokio::test]
async fn a_commit_that_is_made_long_after_it_was_given_up_finds_its_files() {
    let server = CatalogServer::start().await;
    let table = open(&server).await.unwrap();
    let writer = RandomIds.next_id();
    append(&table, 1, &claim(writer, 1, 1)).await.unwrap();
    // 504 at once; the table is loaded, without it; only then it is made.
    server.next_commit(Fault::AfterTheNextLoad);
    append(&table, 3, &claim(writer, 2, 2)).await.unwrap();
    assert_eq!(rows(&server).await, 4, "every manifest that the snapshot names is there");
}

#[tokio::test]
async fn a_position_without_rows_is_never_moved_back_by_a_late_commit() {
    let server = CatalogServer::start().await;
    let table = open(&server).await.unwrap();
    let writer = RandomIds.next_id();
    append(&table, 2, &claim(writer, 1, 1)).await.unwrap();
    append(&table, 0, &claim(writer, 2, 2)).await.unwrap();
    let late = server.last_commit();
    append(&table, 0, &claim(writer, 3, 3)).await.unwrap();
    append(&table, 0, &claim(writer, 4, 4)).await.unwrap();
    assert_eq!(server.post_again(&late).await, 409);
    assert_eq!(open(&server).await.unwrap().writer_position(writer), Some((1, Position(4))));
    append(&table, 2, &claim(writer, 5, 5)).await.unwrap();
    assert_eq!(rows(&server).await, 4);
}

#[tokio::test]
async fn a_refused_commit_is_an_error_and_leaves_nothing_behind() {
    let server = CatalogServer::start().await;
    let table = open(&server).await.unwrap();
    let before = server.metadata_files();
    for (status, said) in [(400, "change the table"), (403, "catalog.auth"), (429, "asked again")] {
        server.next_commit(Fault::AnswerInstead(status));
        let error = append(&table, 1, &claim(RandomIds.next_id(), 1, 1)).await.unwrap_err();
        assert!(error.to_string().contains(said) && error.is_retryable(), "{status}: {error}");
    }
    assert_eq!(server.metadata_files(), before, "manifests of refused commits are removed");
}

#[tokio::test]
async fn a_catalog_that_went_away_costs_nothing_but_time() {
    let server = CatalogServer::start().await;
    let table = open(&server).await.unwrap();
    let (files, claim) = (files(&table, 2).await, claim(RandomIds.next_id(), 1, 1));
    server.stop().await;
    let error = table.append(&files, &claim, &BTreeMap::new()).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("catalog.uri"), "{error}");
    server.start_again().await;
    table.append(&files, &claim, &BTreeMap::new()).await.unwrap();
    assert_eq!(rows(&server).await, 2);
}

#[tokio::test]
async fn a_dropped_table_is_told_and_not_made_again() {
    let server = CatalogServer::start().await;
    let table = open(&server).await.unwrap();
    server.drop_table();
    let error = append(&table, 1, &claim(RandomIds.next_id(), 1, 1)).await.unwrap_err();
    assert!(matches!(error, TableError::Gone { .. }), "{error}");
    assert!(error.to_string().contains("product.events in the catalog http://127.0.0.1"), "{error}");
}

#[tokio::test]
async fn a_column_that_somebody_dropped_is_added_anew_and_other_changes_wait() {
    let server = CatalogServer::start().await;
    let table = open(&server).await.unwrap();
    let writer = RandomIds.next_id();
    append(&table, 2, &claim(writer, 1, 1)).await.unwrap();
    let mut schema = server.metadata()["schemas"][0].clone();
    schema["fields"].as_array_mut().unwrap().retain(|field| field["name"] != "organisation_id");
    schema["schema-id"] = 1.into();
    server.change(&json!({ "requirements": [], "updates": [
        { "action": "add-schema", "schema": schema },
        { "action": "set-current-schema", "schema-id": -1 },
    ]}));
    let error = append(&table, 3, &claim(writer, 2, 2)).await.unwrap_err();
    assert!(matches!(error, TableError::Altered { .. }) && error.is_retryable(), "{error}");
    assert!(error.to_string().contains("organisation_id"), "{error}");
    table.conform().await.unwrap();
    append(&table, 3, &claim(writer, 2, 2)).await.unwrap();
    assert_eq!(rows(&server).await, 5);
    // Another partitioning is somebody's decision, which only somebody can undo.
    let specs = server.metadata()["partition-specs"].clone();
    server.edit(json!({ "partition-specs": [{ "spec-id": 0, "fields": [] }] }));
    append(&table, 1, &claim(writer, 3, 3)).await.unwrap_err();
    let error = table.conform().await.unwrap_err();
    assert!(matches!(error, TableError::Altered { .. }) && error.to_string().contains("day"), "{error}");
    server.edit(json!({ "partition-specs": specs }));
    table.conform().await.unwrap();
    append(&table, 1, &claim(writer, 3, 3)).await.unwrap();
    assert_eq!(rows(&server).await, 6);
}

fn oauth2(folder: &std::path::Path, server: Option<String>) -> Auth {
    Auth::OAuth2(OAuth2 {
        client_id: "esker".to_owned(),
        client_secret: secret_file(folder),
        scope: Some("catalog".to_owned()),
        server,
    })
}

#[tokio::test]
async fn a_token_is_fetched_once_and_anew_before_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    for (lifetime, many) in [(3600, false), (0, true)] {
        let server = CatalogServer::start().await;
        server.require_tokens(SECRET, lifetime);
        let options = options(endpoint(server.uri(), oauth2(folder.path(), None)));
        let table = open_as(&options, &columns()).await.unwrap();
        append(&table, 1, &claim(RandomIds.next_id(), 1, 1)).await.unwrap();
        let (fetched, requests) = (server.tokens_given(), server.paths().len());
        assert_eq!(fetched > 1, many, "{fetched} tokens for {requests} requests");
    }
}

#[tokio::test]
async fn a_refused_token_is_replaced_and_the_commit_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = CatalogServer::start().await;
    server.require_tokens(SECRET, 3600);
    let table =
        open_as(&options(endpoint(server.uri(), oauth2(folder.path(), None))), &columns()).await.unwrap();
    server.next_commit(Fault::RevokeTokens);
    let appended = append(&table, 2, &claim(RandomIds.next_id(), 1, 1)).await.unwrap();
    assert_eq!((appended.attempts, server.tokens_given()), (1, 2));
    server.allow_all();
    assert_eq!(rows(&server).await, 2);
}

#[tokio::test]
async fn a_wrong_secret_is_told_without_being_shown() {
    let folder = tempfile::tempdir().unwrap();
    let server = CatalogServer::start().await;
    server.require_tokens("another", 3600);
    let options = options(endpoint(server.uri(), oauth2(folder.path(), None)));
    let error = open_as(&options, &columns()).await.unwrap_err();
    let text = format!("{error} {error:?} {options:?}");
    assert!(text.contains("client_secret") && text.contains("invalid_client"), "{text}");
    assert!(!text.contains(SECRET), "the server repeated it: {text}");
}

#[tokio::test]
async fn a_bearer_token_is_read_anew_for_each_request() {
    let folder = tempfile::tempdir().unwrap();
    let server = CatalogServer::start().await;
    server.require_bearer("first");
    let token = folder.path().join("token");
    std::fs::write(&token, "first\n").unwrap();
    let auth = Auth::Bearer { token: ValueReference::File(token.clone()) };
    let options = options(endpoint(server.uri(), auth));
    let table = open_as(&options, &columns()).await.unwrap();
    server.require_bearer("second");
    let error = append(&table, 1, &claim(RandomIds.next_id(), 1, 1)).await.unwrap_err();
    let text = format!("{error} {error:?} {table:?}");
    assert!(error.is_retryable() && text.contains("catalog.auth") && !text.contains("first"), "{text}");
    std::fs::write(&token, "second\n").unwrap();
    append(&table, 1, &claim(RandomIds.next_id(), 1, 1)).await.unwrap();
}

#[tokio::test]
async fn what_answers_wrongly_is_told_from_what_does_not_answer() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error =
        open_as(&options(endpoint(&format!("http://{nobody}"), Auth::None)), &columns()).await.unwrap_err();
    assert!(error.to_string().contains("catalog.uri") && error.to_string().contains("refused"), "{error}");
    let server = CatalogServer::start().await;
    let wrong = endpoint(&format!("{}/elsewhere", server.uri()), Auth::None);
    let error = open_as(&options(wrong), &columns()).await.unwrap_err();
    assert!(error.to_string().contains("no Iceberg REST catalog"), "{error}");
    let unknown = Endpoint { warehouse: "mars".to_owned(), ..endpoint(server.uri(), Auth::None) };
    let error = open_as(&options(unknown), &columns()).await.unwrap_err();
    assert!(error.to_string().contains("catalog.warehouse") && error.to_string().contains("mars"), "{error}");
}

#[tokio::test]
async fn a_table_that_somebody_else_made_is_refused_with_the_reason() {
    for (change, reason) in [
        (json!({ "format-version": 3, "next-row-id": 0 }), "its format version is v3"),
        (json!({ "format-version": 1 }), "its format version is v1"),
        (
            json!({ "partition-specs": [{ "spec-id": 0, "fields": [] }] }),
            "not partitioned by day(event_time)",
        ),
    ] {
        let server = CatalogServer::start().await;
        open(&server).await.unwrap();
        server.edit(change);
        let error = open(&server).await.unwrap_err();
        assert!(matches!(error, TableError::Foreign { .. }) && error.to_string().contains(reason), "{error}");
        assert!(error.to_string().contains("table.name"), "{error}");
    }
    let server = CatalogServer::start().await;
    let other =
        [column("event_name", ColumnType::String, true), column("event_time", ColumnType::Timestamp, true)];
    open_as(&options(endpoint(server.uri(), Auth::None)), &other).await.unwrap();
    let mut ours = columns();
    ours[2].required = true;
    let error = open_as(&options(endpoint(server.uri(), Auth::None)), &ours).await.unwrap_err();
    assert!(error.to_string().contains("no column organisation_id"), "{error}");
}

fn grant(ends_at_ms: i64) -> HashMap<String, String> {
    [
        ("s3.access-key-id".to_owned(), "ASIA".to_owned()),
        ("s3.secret-access-key".to_owned(), SECRET.to_owned()),
        ("s3.session-token".to_owned(), "token".to_owned()),
        ("s3.session-token-expires-at-ms".to_owned(), ends_at_ms.to_string()),
    ]
    .into()
}

#[tokio::test]
async fn credentials_are_asked_for_where_they_end_soon_and_only_then() {
    const HOUR_MS: i64 = 60 * 60 * 1000;
    let server = CatalogServer::start().await;
    open(&server).await.unwrap();
    server.vend(grant(HOUR_MS));
    let clock = Arc::new(FixedClock::at(0));
    let CatalogOptions::Rest(rest) = options(endpoint(server.uri(), Auth::None)).catalog else { panic!() };
    let catalog =
        RestCatalog::open(&rest, "product.events", Arc::clone(&clock) as Arc<dyn Clock>).await.unwrap();
    let placed = catalog.locate().await.unwrap().unwrap();
    let credentials = placed.credentials.as_ref().unwrap();
    let key = || async {
        use object_store::CredentialProvider as _;
        credentials.get_credential().await.map(|key| key.key_id.clone())
    };
    let asked = server.delegations();
    for _ in 0..3 {
        catalog.load().await.unwrap();
        assert_eq!(key().await.unwrap(), "ASIA");
    }
    assert_eq!(server.delegations(), asked, "an hour is long");
    server.vend(grant(2 * HOUR_MS));
    clock.set((HOUR_MS - 4 * 60 * 1000) * 1000);
    assert_eq!(key().await.unwrap(), "ASIA");
    assert_eq!(server.delegations(), asked + 1, "four minutes before the end");
    // The catalog is down near the next end: what is good is used, what has ended is not.
    server.stop().await;
    clock.set((2 * HOUR_MS - 60 * 1000) * 1000);
    assert_eq!(key().await.unwrap(), "ASIA");
    clock.set(2 * HOUR_MS * 1000);
    assert!(key().await.unwrap_err().to_string().contains("catalog.uri"));
    let shown = format!("{placed:?} {catalog:?}");
    assert!(!shown.contains(SECRET) && !shown.contains("ASIA"), "{shown}");
}

#[tokio::test]
async fn credentials_are_not_asked_for_where_that_is_switched_off() {
    let server = CatalogServer::start().await;
    server.vend(grant(i64::MAX));
    let own = Endpoint { vended_credentials: false, ..endpoint(server.uri(), Auth::None) };
    open_as(&options(own), &columns()).await.unwrap();
    assert_eq!(server.delegations(), 0);
}

#[test]
fn the_credential_with_the_longest_prefix_holds() {
    let credential = |prefix: &str, key: &str| json!({ "prefix": prefix, "config": { "s3.access-key-id": key, "s3.secret-access-key": "s" } });
    let grant: Grant = serde_json::from_value(json!({
        "config": { "s3.access-key-id": "general", "s3.region": "eu-west-1" },
        "storage-credentials": [
            credential("s3://b", "bucket"), credential("s3://b/t", "table"), credential("s3://other", "other"),
        ],
    }))
    .unwrap();
    let properties = grant.properties("s3://b/t/events");
    assert_eq!(
        (properties["s3.access-key-id"].as_str(), properties["s3.region"].as_str()),
        ("table", "eu-west-1")
    );
    assert_eq!(grant.properties("gs://x")["s3.access-key-id"], "general");
}

#[test]
fn the_version_is_read_from_the_names_that_catalogs_give() {
    for (location, version) in [
        ("s3://b/t/metadata/v12.metadata.json", Some(12)),
        ("s3://b/t/metadata/00003-6c8e.metadata.json", Some(3)),
        ("s3://b/t/metadata/abc.metadata.json", None),
        ("", None),
    ] {
        assert_eq!(version_of(location), version, "{location}");
    }
}
