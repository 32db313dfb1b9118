//! Listing and replaying a real quarantine table, against a server that answers as told.

use std::collections::BTreeMap as Map;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arrow::array::StringArray;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use prost::Message as _;
use uuid::Uuid;

use super::repair::{Repairs, parse_setting};
use super::replay::{ReplayOptions, Report, count_again, replay};
use super::*;
use crate::clock::{Ids, RandomIds, SystemClock};
use crate::columns::quarantine::{columns, encode};
use crate::datafile::DataFileWriter;
use crate::privacy::quarantined::{Broken, Quarantine};
use crate::receive::decode::{NameFallback, RawEvents};
use crate::secret::Keyring;
use crate::table::{Table, WalClaim};
use crate::wal::Position;

const MARK: &str = "MARK8f3c";

fn record(name: &str) -> LogRecord {
    let value = Some(AnyValue { value: Some(Value::StringValue(MARK.to_owned())) });
    let attributes = vec![KeyValue { key: "order.id".to_owned(), value, ..KeyValue::default() }];
    LogRecord { event_name: name.to_owned(), attributes, ..LogRecord::default() }
}

/// A data directory with a quarantine table.
struct Lake {
    _folder: tempfile::TempDir,
    config: Config,
    writer: Uuid,
    position: u64,
    /// Stored in place of an event's id, as if somebody had moved the payload.
    stored_id: Option<&'static str>,
}

impl Lake {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!("data_dir = '{}'\n[receive]\nhttp = '127.0.0.1:0'", folder.path().display());
        let config = Config::from_toml(&config).unwrap();
        Self { _folder: folder, config, writer: RandomIds.next_id(), position: 0, stored_id: None }
    }

    /// Quarantines one event for each (id, name, reason) at a time, sealed to `key` if there is one.
    async fn quarantine(
        &mut self,
        events: &[(&str, &str, QuarantineReason)],
        received: i64,
        key: Option<&OpeningKey>,
    ) {
        let log_records = events.iter().map(|(_, name, _)| record(name)).collect();
        let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
        let logs = ResourceLogs { scope_logs, ..ResourceLogs::default() };
        let bytes = ExportLogsServiceRequest { resource_logs: vec![logs] }.encode_to_vec();
        let raw = RawEvents::decode(&bytes, &NameFallback::new(Vec::new())).unwrap();
        let names = Keyring::from_secrets(&[1; 32], &[1; 32], &[1; 32]).identity("names");
        let quarantine = Quarantine::new(key.map(|key| key.recipient().clone()), names);
        let mut admission = quarantine.request();
        let rows: Vec<_> = raw
            .records()
            .iter()
            .zip(events)
            .map(|(record, (id, name, reason))| {
                admission.admit(&Broken {
                    raw: &raw,
                    record,
                    uid: Some(id),
                    digest: [0; 16],
                    occurred: None,
                    service_name: Some("api"),
                    declared_name: (*reason != QuarantineReason::UndeclaredEvent).then_some(name),
                    reason: *reason,
                    faults: &["order.id"],
                    is_declared: &|_| true,
                    is_clean: &|_| true,
                })
            })
            .collect();
        let batch = encode(&rows, "policy", received).unwrap();
        let clock = Arc::new(SystemClock);
        let (options, columns) = (table_options(&self.config), columns());
        let table = Table::open_or_create(&options, &columns, clock, Arc::new(RandomIds)).await.unwrap();
        let mut writer = DataFileWriter::new(table.file_target(RandomIds.next_id()).unwrap());
        writer.push(self.moved(batch.record_batch())).await.unwrap();
        let files = writer.finish().await.unwrap();
        self.position += 1;
        let through = Position(self.position);
        let claim = WalClaim {
            writer_id: self.writer,
            epoch: 1,
            from: through,
            through,
            commit_id: RandomIds.next_id(),
        };
        table.append(&files, &claim, &Map::new()).await.unwrap();
    }

    fn moved(&self, rows: &RecordBatch) -> RecordBatch {
        let mut columns = rows.columns().to_vec();
        if let Some(id) = self.stored_id {
            let place = rows.schema().index_of(EVENT_ID).unwrap();
            columns[place] = Arc::new(StringArray::from_iter_values(vec![id; rows.num_rows()]));
        }
        RecordBatch::try_new(rows.schema(), columns).unwrap()
    }

    fn options(&self) -> ReplayOptions {
        ReplayOptions {
            private_key: PathBuf::new(),
            filter: Filter::default(),
            limit: 100,
            repairs: Repairs::default(),
            endpoint: Some("given".to_owned()),
            dry_run: false,
            show: false,
            wait: false,
            credentials: crate::app::client::Credentials::default(),
        }
    }
}

const BROKEN: QuarantineReason = QuarantineReason::TypeMismatch;
const UNDECLARED: QuarantineReason = QuarantineReason::UndeclaredEvent;

/// What the server does with each event's name: a status, and whether it rejects the record.
type Script = fn(&LogRecord, usize) -> (StatusCode, i64);

#[derive(Clone)]
struct Server {
    seen: Arc<Mutex<Vec<LogRecord>>>,
    script: Script,
}

impl Server {
    async fn start(script: Script) -> (String, Self) {
        let server = Self { seen: Arc::default(), script };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/logs", post(answer)).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (endpoint, server)
    }

    fn ids(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let mut ids: Vec<_> =
            seen.iter().map(|record| attribute(record, "log.record.uid").unwrap()).collect();
        ids.sort();
        ids
    }
}

async fn answer(State(server): State<Server>, body: Bytes) -> (StatusCode, Vec<u8>) {
    let request = ExportLogsServiceRequest::decode(body).unwrap();
    let record = request.resource_logs[0].scope_logs[0].log_records[0].clone();
    let mut seen = server.seen.lock().unwrap();
    let (status, rejected_log_records) = (server.script)(&record, seen.len());
    seen.push(record);
    let partial = ExportLogsPartialSuccess { rejected_log_records, error_message: MARK.to_owned() };
    let partial_success = (rejected_log_records > 0).then_some(partial);
    (status, ExportLogsServiceResponse { partial_success }.encode_to_vec())
}

fn attribute(record: &LogRecord, key: &str) -> Option<String> {
    let attribute = record.attributes.iter().find(|attribute| attribute.key == key)?;
    Some(match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        other => format!("{other:?}"),
    })
}

fn takes_all(_: &LogRecord, _: usize) -> (StatusCode, i64) {
    (StatusCode::OK, 0)
}

async fn listing(lake: &Lake, filter: Filter, limit: usize) -> Listing {
    gather(&lake.config, &filter, limit).await.unwrap()
}

#[tokio::test]
async fn the_newest_rows_that_fit_are_listed_and_all_are_counted() {
    let mut lake = Lake::new();
    assert_eq!(listing(&lake, Filter::default(), 10).await.matched, 0, "before there is a table");
    let key = OpeningKey::generate().unwrap();
    lake.quarantine(&[("a", "order.placed", BROKEN), ("b", "shop.opened", UNDECLARED)], 1_000, Some(&key))
        .await;
    lake.quarantine(&[("c", "order.placed", BROKEN)], 2_000, None).await;
    let all = listing(&lake, Filter::default(), 2).await;
    assert_eq!((all.matched, all.matched_with_payload, all.rows.len()), (3, 2, 2));
    assert_eq!(
        all.matched_by_reason,
        Map::from([("type_mismatch".to_owned(), 2), ("undeclared_event".to_owned(), 1)])
    );
    assert_eq!(
        (all.rows[0].event_id.as_str(), all.rows[0].received.as_str()),
        ("c", "1970-01-01T00:00:00.002Z")
    );
    assert_eq!(all.rows[0].attributes, [("order.id".to_owned(), "string".to_owned())]);
    assert!(listing_text(&all).contains("--limit"));

    let ids = async |filter: Filter| -> Vec<String> {
        listing(&lake, filter, 10).await.rows.into_iter().map(|row| row.event_id).collect()
    };
    assert_eq!(ids(Filter { since: Some(1_001), ..Filter::default() }).await, ["c"]);
    assert_eq!(ids(Filter { reason: Some(UNDECLARED), ..Filter::default() }).await, ["b"]);
    assert_eq!(ids(Filter { event: Some("order.placed".to_owned()), ..Filter::default() }).await, ["c", "a"]);
    assert_eq!(
        ids(Filter { event: Some("shop.opened".to_owned()), ..Filter::default() }).await,
        ["b"],
        "a claimed name"
    );
    assert_eq!(ids(Filter { service: Some("web".to_owned()), ..Filter::default() }).await, [""; 0]);
    assert_eq!(ids(Filter { event_ids: vec!["a".to_owned()], ..Filter::default() }).await, ["a"]);
    let shown = format!("{}{}", listing_text(&all), serde_json::to_string(&all).unwrap());
    assert!(!shown.contains(MARK), "{shown}");
}

#[tokio::test]
async fn a_replay_sends_each_event_once_repaired_and_with_its_rows_id() {
    let mut lake = Lake::new();
    let (key, other) = (OpeningKey::generate().unwrap(), OpeningKey::generate().unwrap());
    lake.quarantine(&[("a", "order.placed", BROKEN), ("b", "shop.opened", UNDECLARED)], 1_000, Some(&key))
        .await;
    lake.quarantine(&[("a", "order.placed", BROKEN)], 2_000, Some(&key)).await;
    lake.quarantine(&[("a", "order.placed", BROKEN), ("c", "order.placed", BROKEN)], 3_000, None).await;
    lake.quarantine(&[("d", "order.placed", BROKEN)], 4_000, Some(&other)).await;
    let (endpoint, server) = Server::start(takes_all).await;
    let repairs = Repairs { settings: vec![parse_setting("order.id=5").unwrap()], ..Repairs::default() };
    let options = ReplayOptions { repairs, ..lake.options() };
    let report = replay(&lake.config, &options, &key, &endpoint).await.unwrap();
    let expected = Report {
        selected: 4,
        without_payload: 1,
        sealed_to_another_key: 1,
        ready: 2,
        sent: 2,
        accepted: 2,
        ..Report::default()
    };
    assert_eq!(report, expected);
    assert_eq!(server.ids(), ["a", "b"]);
    for record in server.seen.lock().unwrap().iter() {
        assert_eq!(attribute(record, "order.id").unwrap(), "IntValue(5)");
    }
    let again = replay(&lake.config, &options, &key, &endpoint).await.unwrap();
    assert_eq!(
        (again.sent, server.ids().as_slice()),
        (2, ["a", "a", "b", "b"].map(str::to_owned).as_slice())
    );
}

#[tokio::test]
async fn what_the_server_refuses_is_counted_and_its_words_are_not_repeated() {
    let mut lake = Lake::new();
    let key = OpeningKey::generate().unwrap();
    let events =
        [("a", "partly.refused", BROKEN), ("b", "wholly.refused", BROKEN), ("c", "order.placed", BROKEN)];
    lake.quarantine(&events, 1_000, Some(&key)).await;
    let (endpoint, _) = Server::start(|record, _| match record.event_name.as_str() {
        "partly.refused" => (StatusCode::OK, 1),
        "wholly.refused" => (StatusCode::BAD_REQUEST, 0),
        _ => (StatusCode::OK, 0),
    })
    .await;
    let report = replay(&lake.config, &lake.options(), &key, &endpoint).await.unwrap();
    assert_eq!((report.sent, report.accepted, report.rejected), (3, 1, 2));
    assert!(!format!("{report:?}").contains(MARK));
}

#[tokio::test]
async fn a_server_under_pressure_is_waited_for_and_an_absent_one_stops_the_replay() {
    let mut lake = Lake::new();
    let key = OpeningKey::generate().unwrap();
    lake.quarantine(&[("a", "order.placed", BROKEN)], 1_000, Some(&key)).await;
    let (endpoint, server) = Server::start(|_, seen| match seen {
        0 => (StatusCode::SERVICE_UNAVAILABLE, 0),
        _ => (StatusCode::OK, 0),
    })
    .await;
    let report = replay(&lake.config, &lake.options(), &key, &endpoint).await.unwrap();
    assert_eq!((report.sent, report.accepted, server.ids().len()), (1, 1, 2));
    let report = replay(&lake.config, &lake.options(), &key, "http://127.0.0.1:1").await.unwrap();
    assert_eq!((report.ready, report.sent), (1, 0));
    assert!(report.stopped.unwrap().contains("esker serve"));
}

#[tokio::test]
async fn a_dry_run_sends_nothing_and_shows_keys_and_types_only_when_asked() {
    let mut lake = Lake::new();
    let key = OpeningKey::generate().unwrap();
    lake.quarantine(&[("a", "order.placed", BROKEN)], 1_000, Some(&key)).await;
    let options = ReplayOptions { dry_run: true, ..lake.options() };
    let report = replay(&lake.config, &options, &key, "").await.unwrap();
    assert_eq!((report.ready, report.sent, report.opened.len()), (1, 0, 0));
    let report = replay(&lake.config, &ReplayOptions { show: true, ..options }, &key, "").await.unwrap();
    let shown = format!("{report:?}");
    assert!(shown.contains("order.id") && shown.contains("\"string\"") && !shown.contains(MARK), "{shown}");
}

#[tokio::test]
async fn more_events_than_the_limit_are_not_sent_at_all() {
    let mut lake = Lake::new();
    let key = OpeningKey::generate().unwrap();
    lake.quarantine(&[("a", "order.placed", BROKEN), ("b", "order.placed", BROKEN)], 1_000, Some(&key)).await;
    let (endpoint, server) = Server::start(takes_all).await;
    let options = ReplayOptions { limit: 1, ..lake.options() };
    let error = replay(&lake.config, &options, &key, &endpoint).await.unwrap_err().to_string();
    assert!(error.contains("--limit"), "{error}");
    assert!(server.ids().is_empty());
}

#[tokio::test]
async fn a_payload_that_was_moved_to_another_row_is_not_sent() {
    let mut lake = Lake::new();
    let key = OpeningKey::generate().unwrap();
    lake.stored_id = Some("moved");
    lake.quarantine(&[("a", "order.placed", BROKEN)], 1_000, Some(&key)).await;
    lake.stored_id = None;
    lake.quarantine(&[("b", "order.placed", BROKEN)], 1_000, Some(&key)).await;
    let (endpoint, server) = Server::start(takes_all).await;
    let report = replay(&lake.config, &lake.options(), &key, &endpoint).await.unwrap();
    assert_eq!((report.selected, report.unreadable, report.sent), (2, 1, 1));
    assert_eq!(server.ids(), ["b"]);
}

#[tokio::test]
async fn events_that_come_back_into_quarantine_are_found_by_their_ids() {
    let mut lake = Lake::new();
    let key = OpeningKey::generate().unwrap();
    lake.quarantine(&[("a", "order.placed", BROKEN), ("b", "order.placed", BROKEN)], 1_000, Some(&key)).await;
    lake.quarantine(&[("b", "order.placed", BROKEN), ("z", "order.placed", BROKEN)], 5_000, None).await;
    let sent = ["a", "b"].map(str::to_owned).into();
    assert_eq!(count_again(&lake.config, &sent, 5_000).await.unwrap(), Some(1));
    assert_eq!(count_again(&lake.config, &sent, 5_001).await.unwrap(), Some(0));
}

#[test]
fn times_and_reasons_of_the_command_line_are_read_or_refused_with_the_fix() {
    assert_eq!(parse_time("1970-01-01T00:00:01Z"), Ok(1_000_000));
    assert_eq!(parse_time("1970-01-01T02:00:01+02:00"), Ok(1_000_000));
    assert!(parse_time("yesterday").unwrap_err().contains("RFC 3339"));
    assert_eq!(parse_reason("leak"), Ok(QuarantineReason::Leak));
    assert!(parse_reason("other").unwrap_err().contains("missing_required"));
}
