//! The admin port: `/healthz`, `/readyz`, `/metrics`, `/status` and `/drift` (JSON), and a status page for people at `/`.
//!
//! Owns: what a running process tells of itself, and which of it needs no token. Does not own: the numbers, the listener
//! (`receive::pages`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use futures::FutureExt;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::accounting::{Accounting, Counts};
use crate::drift::{DriftStore, DriftSummary};
use crate::flush::FlushWatch;
use crate::maintain::{CareTotals, CareWatch};
use crate::receive::access::{Access, GuardedListener};
use crate::receive::stats::{Outcome, Protocol, ReceiveStats};
use crate::receive::{Limits, pages};
use crate::telemetry::{self, Metric, Sample};
use crate::wal::Wal;

use super::drift;
use super::status::LogStatus;

/// A service that cannot take a request of this size is not ready.
const ROOM_BYTES: u64 = 1 << 20;

/// What an orchestrator asks for, which has no token. They tell nothing but whether the service works.
const OPEN_PATHS: &[&str] = &["/healthz", "/readyz"];

/// Says whose data directory an answer is about. A port may by now belong to another process than the one that left its
/// number in a data directory.
pub(super) const WRITER_HEADER: &str = "esker-writer";

/// What the admin port reads.
#[derive(Debug, Clone)]
pub struct AdminState {
    /// The data directory's writer.
    pub writer_id: Uuid,
    /// Event counts.
    pub accounting: Arc<Accounting>,
    /// What arrives undeclared.
    pub drift: Arc<DriftStore>,
    /// The log.
    pub wal: Arc<Wal>,
    /// The flusher's progress.
    pub flush: FlushWatch,
    /// The care of the tables.
    pub care: CareWatch,
    /// The listeners' counts.
    pub receive: Arc<ReceiveStats>,
    /// Certificates and tokens.
    pub access: Arc<Access>,
    /// Cancelled once the service stops taking requests.
    pub stopping: CancellationToken,
    /// Registry and treatments in force.
    pub policy_version: Arc<str>,
    /// Where the log is.
    pub data_dir: PathBuf,
}

/// What a running process tells `esker status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LiveStatus {
    /// Registry and treatments in force.
    pub policy_version: String,
    /// Confirmed commits of this process.
    pub commits: u64,
    /// Failed flushes of this process.
    pub flush_failures: u64,
    /// The last commit, RFC 3339.
    pub last_commit: Option<String>,
    /// Why the last flush failed, while it is not overcome.
    pub trouble: Option<String>,
    /// The log.
    pub wal: LogStatus,
    /// Event counts of this process.
    pub counts: Counts,
    /// What arrives undeclared: totals and the most frequent.
    pub drift: DriftSummary,
    /// What the care of each table has done since this process started.
    #[serde(default)]
    pub care: BTreeMap<String, CareTotals>,
}

/// Serves the admin port until `stop`.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(
    listener: GuardedListener,
    state: AdminState,
    limits: Limits,
    stop: CancellationToken,
) -> io::Result<()> {
    let writer = HeaderValue::try_from(state.writer_id.to_string()).map_err(io::Error::other)?;
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(async |State(state): State<AdminState>| Json(live(&state))))
        .route("/drift", get(async |State(state): State<AdminState>| Json(state.drift.report())))
        .route("/", get(page))
        .layer(map_response(move |mut response: Response| {
            response.headers_mut().insert(WRITER_HEADER, writer.clone());
            std::future::ready(response)
        }))
        .with_state(state);
    pages::serve(listener, router, OPEN_PATHS, limits, stop.cancelled_owned()).await
}

/// Ready means: a request sent now would be stored.
async fn ready(State(state): State<AdminState>) -> Response {
    let problem = if state.stopping.is_cancelled() {
        Some("stopping")
    } else if state.wal.halted().now_or_never().is_some() {
        Some("the WAL failed to sync")
    } else if !state.wal.has_room(ROOM_BYTES) {
        Some("the WAL is at its limit (wal.max_bytes)")
    } else if !has_disk_space(&state.data_dir) {
        Some("the disk of data_dir is full, or cannot be asked")
    } else {
        None
    };
    match problem {
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")).into_response(),
        None if state.flush.report().trouble.is_some() => "ready, degraded: commits fail\n".into_response(),
        None => "ready\n".into_response(),
    }
}

/// Looks at the disk and not at past appends: a service that is not ready gets no request by which to find that it is.
fn has_disk_space(folder: &Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= ROOM_BYTES)
}

fn live(state: &AdminState) -> LiveStatus {
    let report = state.flush.report();
    LiveStatus {
        policy_version: state.policy_version.to_string(),
        commits: report.commits,
        flush_failures: report.failures,
        last_commit: report.last_commit_micros.map(rfc3339),
        trouble: report.trouble,
        wal: state.wal.status().into(),
        counts: state.accounting.counts(),
        drift: state.drift.report().summary(drift::TOP),
        care: state.care.totals(),
    }
}

/// Microseconds since the Unix epoch as RFC 3339 text.
pub(super) fn rfc3339(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros).map_or_else(|_| "?".to_owned(), |time| time.to_string())
}

async fn metrics(State(state): State<AdminState>) -> Response {
    let live = live(&state);
    let mut metrics = event_metrics(&live.counts);
    metrics.extend(wal_metrics(&live.wal));
    metrics.extend([
        Metric::counter("esker_commits", "Confirmed commits.", live.commits),
        Metric::counter("esker_flush_failures", "Flushes that failed and are repeated.", live.flush_failures),
        Metric::gauge("esker_flush_trouble", "1 while commits fail.", u64::from(live.trouble.is_some())),
    ]);
    metrics.extend(care_metrics(&live.care));
    metrics.extend(request_metrics(&state.receive));
    metrics.extend(super::access::metrics(&state.access));
    metrics.push(drift::metric(state.drift.counts()));
    match telemetry::render(metrics) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn event_metrics(counts: &Counts) -> Vec<Metric> {
    let mut totals = Vec::new();
    let mut in_flight = Vec::new();
    let mut reasons = Vec::new();
    for (event, count) in &counts.events {
        for (outcome, value) in [
            ("received", count.received),
            ("committed", count.committed),
            ("quarantined", count.quarantined),
            ("dropped", count.dropped),
            ("rejected", count.rejected),
        ] {
            let labels = vec![("event", event.clone()), ("outcome", outcome.to_owned())];
            totals.push(Sample { labels, value });
        }
        in_flight.push(Sample { labels: vec![("event", event.clone())], value: count.in_flight });
        for (outcome, by_reason) in [("dropped", &count.dropped_by), ("rejected", &count.rejected_by)] {
            for (reason, value) in by_reason {
                let labels = vec![
                    ("event", event.clone()),
                    ("outcome", outcome.to_owned()),
                    ("reason", reason.clone()),
                ];
                reasons.push(Sample { labels, value: *value });
            }
        }
    }
    let attributes = counts
        .attributes
        .iter()
        .map(|(outcome, value)| Sample { labels: vec![("outcome", outcome.clone())], value: *value });
    let metric = |name, help, counter, samples| Metric { name, help, counter, samples };
    vec![
        metric("esker_events", "Events by name and outcome.", true, totals),
        metric("esker_events_in_flight", "Events received and not yet settled.", false, in_flight),
        metric("esker_events_unstored", "Events dropped or rejected, by reason.", true, reasons),
        metric("esker_attributes", "Attributes by what became of them.", true, attributes.collect()),
    ]
}

fn wal_metrics(wal: &LogStatus) -> Vec<Metric> {
    vec![
        Metric::gauge("esker_wal_bytes", "Bytes of the WAL's files.", wal.bytes),
        Metric::gauge("esker_wal_backlog_bytes", "WAL bytes that no commit holds yet.", wal.backlog_bytes),
        Metric::gauge("esker_wal_backlog_frames", "Requests that no commit holds yet.", wal.backlog_frames),
    ]
}

fn care_metrics(care: &BTreeMap<String, CareTotals>) -> Vec<Metric> {
    let metric = |name, help, counter, value: fn(&CareTotals) -> u64| {
        let sample = |(table, totals): (&String, &CareTotals)| Sample {
            labels: vec![("table", table.clone())],
            value: value(totals),
        };
        Metric { name, help, counter, samples: care.iter().map(sample).collect() }
    };
    let seconds =
        |totals: &CareTotals| u64::try_from(totals.last_run_micros.unwrap_or(0) / 1_000_000).unwrap_or(0);
    vec![
        metric("esker_maintain_runs", "Runs of the tables' care that ended well.", true, |care| care.runs),
        metric("esker_maintain_failures", "Runs that failed.", true, |care| care.failures),
        metric("esker_maintain_last_run_seconds", "When a run last ended well, Unix time.", false, seconds),
        metric("esker_retention_files_removed", "Data files whose retention passed.", true, |care| {
            care.files_removed
        }),
        metric("esker_retention_rows_removed", "Rows whose retention passed.", true, |care| {
            care.rows_removed
        }),
        metric("esker_maintain_snapshots_expired", "Snapshots expired.", true, |care| care.snapshots_expired),
        metric("esker_maintain_files_deleted", "Files deleted from the store.", true, |care| {
            care.files_deleted
        }),
    ]
}

fn request_metrics(stats: &ReceiveStats) -> Vec<Metric> {
    let pairs =
        Protocol::ALL.into_iter().flat_map(|protocol| Outcome::ALL.map(|outcome| (protocol, outcome)));
    let samples = pairs.map(|(protocol, outcome)| Sample {
        labels: vec![("protocol", protocol.name().to_owned()), ("outcome", outcome.name().to_owned())],
        value: stats.requests(protocol, outcome),
    });
    let bytes = |count: fn(&ReceiveStats, Protocol) -> u64| {
        Protocol::ALL.map(|protocol| count(stats, protocol)).iter().sum()
    };
    vec![
        Metric {
            name: "esker_requests",
            help: "Requests by protocol and outcome.",
            counter: true,
            samples: samples.collect(),
        },
        Metric::counter(
            "esker_request_wire_bytes",
            "Bytes of bodies as sent.",
            bytes(ReceiveStats::wire_bytes),
        ),
        Metric::counter(
            "esker_request_bytes",
            "Bytes of bodies, decompressed.",
            bytes(ReceiveStats::request_bytes),
        ),
        Metric::counter("esker_connections", "Connections accepted.", stats.connections_total()),
        Metric::gauge("esker_connections_open", "Connections open now.", stats.connections_open()),
    ]
}

/// The status page. Everything on it is a declared name, a name that the gate shows, a reason or a number.
async fn page(State(state): State<AdminState>) -> Html<String> {
    let live = live(&state);
    let mut rows = String::new();
    for (name, count) in &live.counts.events {
        write!(
            rows,
            "<tr><th scope=row>{name}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            count.received, count.committed, count.quarantined, count.dropped, count.rejected, count.in_flight
        ).ok();
    }
    let trouble = live.trouble.as_deref().map_or_else(String::new, |text| {
        format!("<p class=trouble><strong>Commits fail:</strong> {}</p>", escape(text))
    });
    let page = include_str!("admin/page.html")
        .replace("{{policy}}", &escape(&live.policy_version))
        .replace("{{commits}}", &live.commits.to_string())
        .replace("{{last_commit}}", live.last_commit.as_deref().unwrap_or("none yet"))
        .replace("{{backlog_frames}}", &live.wal.backlog_frames.to_string())
        .replace("{{backlog_bytes}}", &bytesize::ByteSize(live.wal.backlog_bytes).to_string())
        .replace("{{trouble}}", &trouble)
        .replace("{{rows}}", &rows)
        .replace("{{drift}}", &drift::html(&live.drift));
    Html(page)
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
