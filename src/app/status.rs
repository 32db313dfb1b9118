//! `esker status`: the tables, the WAL's backlog, and where every event is.
//!
//! Owns: gathering it, from the running process where there is one, else from what it left. Does not own: the numbers.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::admin::{LiveStatus, WRITER_HEADER, rfc3339};
use super::client::{Client, Credentials};
use super::tables::{self, DaysHeld, NamedStatus};
use super::{AppError, Format, block_on, drift, print};
use crate::accounting::Counts;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::drift::DriftSummary;
use crate::table::{Peek, TableStatus};
use crate::wal::{self, LogInspection, Position, WalStatus};

/// The counts of the last run, in the data directory.
pub const COUNTS_FILE: &str = "counts.json";
/// Where a running process listens, in the data directory.
pub const RUN_FILE: &str = "run.json";

/// How long a process on the same machine may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// What a running process leaves in [`RUN_FILE`].
#[derive(Clone, Serialize, Deserialize)]
pub struct RunFile {
    /// Its process id.
    pub pid: u32,
    /// Its admin address.
    pub admin: SocketAddr,
    /// The writer of the data directory that it serves from: its answers name it.
    pub writer_id: Uuid,
    /// SHA-256 of its certificate, in hex, where it speaks TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// A token that is good as long as it runs, where requests need one. The file is then readable by its user only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl std::fmt::Debug for RunFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RunFile")
            .field("pid", &self.pid)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}

/// The WAL's files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogStatus {
    /// Their size.
    pub bytes: u64,
    /// How many.
    pub segments: u64,
    /// Requests that no commit holds yet.
    pub backlog_frames: u64,
    /// Their size; files that also hold earlier requests count whole.
    pub backlog_bytes: u64,
    /// When the oldest of them was received, RFC 3339.
    pub backlog_since: Option<String>,
}

impl From<WalStatus> for LogStatus {
    fn from(status: WalStatus) -> Self {
        Self {
            bytes: status.bytes,
            segments: status.segments as u64,
            backlog_frames: status.waiting.frames,
            backlog_bytes: if status.waiting.frames == 0 { 0 } else { status.waiting.bytes },
            backlog_since: status.waiting.oldest_received_micros.map(rfc3339),
        }
    }
}

impl From<LogInspection> for LogStatus {
    fn from(found: LogInspection) -> Self {
        Self {
            bytes: found.bytes,
            segments: found.segments,
            backlog_frames: found.frames_waiting,
            backlog_bytes: if found.frames_waiting == 0 { 0 } else { found.bytes },
            backlog_since: found.oldest_received_micros.map(rfc3339),
        }
    }
}

#[derive(Debug, Serialize)]
struct Status {
    /// The primary; None where it does not exist yet.
    table: Option<TableStatus>,
    /// All tables, the primary first.
    tables: Vec<NamedStatus>,
    wal: LogStatus,
    /// The running process's view; None where none answers.
    live: Option<LiveStatus>,
    /// Counts of the running process, else those that the last one left.
    counts: Counts,
    /// `running`, `last run`, or `none`.
    counts_of: &'static str,
    /// What arrived undeclared, since when; of the running process, else as the last one left it.
    drift: DriftSummary,
}

/// Gathers and prints the status. Changes nothing.
///
/// # Errors
/// Where the table or the data directory cannot be read.
pub fn command(config: &Config, format: Format) -> Result<(), AppError> {
    let status = block_on(async { Ok(gather(config).await?) })?;
    let text = match format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&status).map_err(anyhow::Error::from)?),
        Format::Text => text(&status),
    };
    print(&text)?;
    Ok(())
}

async fn gather(config: &Config) -> anyhow::Result<Status> {
    let found = tables::peek(config).await?;
    let primary = found.first().and_then(|(_, table)| table.as_ref());
    let live = live(&config.data_dir).await?;
    let wal = match &live {
        Some(live) => live.wal.clone(),
        None => {
            let writer = wal::inspect(&config.data_dir, Position(0))?.writer;
            let committed = match (primary, writer) {
                (Some(table), Some(writer)) => table.writer_position(writer.writer_id),
                _ => None,
            };
            wal::inspect(&config.data_dir, committed.map_or(Position(0), |(_, position)| position))?.into()
        }
    };
    let (counts, counts_of) = match &live {
        Some(live) => (live.counts.clone(), "running"),
        None => match load_counts(&config.data_dir.join(COUNTS_FILE))? {
            Some(counts) => (counts, "last run"),
            None => (Counts::default(), "none"),
        },
    };
    let table = primary.map(Peek::status);
    let now = SystemClock.now_micros();
    let (mut tables, all) = (Vec::with_capacity(found.len()), tables::all(config));
    for (name, peek) in found {
        let days = match all.iter().find(|options| options.name == name && peek.is_some()) {
            Some(options) => Some(DaysHeld::of(options, now).await?),
            None => None,
        };
        tables.push(NamedStatus { status: peek.map(|table| table.status()), name, days });
    }
    let drift = match &live {
        Some(live) => live.drift.clone(),
        None => {
            let left = drift::load(&config.data_dir.join(drift::DRIFT_FILE))?;
            left.unwrap_or_default().summary(drift::TOP)
        }
    };
    Ok(Status { table, tables, wal, live, counts, counts_of, drift })
}

/// Asks the process that serves from this data directory for its status, if one answers.
pub(super) async fn live(data_dir: &Path) -> anyhow::Result<Option<LiveStatus>> {
    ask(data_dir, "/status").await
}

/// Asks the process that serves from this data directory for a page of JSON, if one answers.
pub(super) async fn ask<T: serde::de::DeserializeOwned>(
    data_dir: &Path,
    path: &str,
) -> anyhow::Result<Option<T>> {
    let Some(run) = running(data_dir)? else { return Ok(None) };
    let client = Client::local(&run, &Credentials::default(), ANSWER_TIME_MAX)?;
    let scheme = if run.fingerprint.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}{path}", run.admin);
    let Ok(answer) = client.request(reqwest::Method::GET, &url).send().await else { return Ok(None) };
    // A killed process leaves its file behind, and its port may be another's by now.
    let is_ours =
        answer.headers().get(WRITER_HEADER).is_some_and(|writer| *writer == *run.writer_id.to_string());
    let Some(answer) = answer.error_for_status().ok().filter(|_| is_ours) else { return Ok(None) };
    Ok(answer.json().await.ok())
}

/// What the process that serves from this data directory left there, if one does, or did and was killed.
pub(super) fn running(data_dir: &Path) -> anyhow::Result<Option<RunFile>> {
    let path = data_dir.join(RUN_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(serde_json::from_str(&text).ok()),
        // Whether a process runs would be a guess.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(error).with_context(|| {
            format!(
                "{} holds a token and is for its user only; run this command as that user",
                path.display()
            )
        }),
        Err(_) => Ok(None),
    }
}

fn load_counts(path: &Path) -> anyhow::Result<Option<Counts>> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map(Some).with_context(|| path.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Leaves the counts of this process.
pub(super) fn save_counts(path: &Path, counts: &Counts) -> std::io::Result<()> {
    replace(path, &serde_json::to_vec(counts)?)
}

/// Leaves where this process listens.
pub(super) fn save_run(data_dir: &Path, run: &RunFile) -> std::io::Result<()> {
    let (path, bytes) = (data_dir.join(RUN_FILE), serde_json::to_vec(run)?);
    if run.token.is_none() {
        return replace(&path, &bytes);
    }
    let staged = path.with_extension("json.tmp");
    match std::fs::remove_file(&staged) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
    std::io::Write::write_all(&mut file, &bytes)?;
    std::fs::rename(&staged, path)
}

/// Takes that back: nothing listens there any more. Where it stays, its reader finds that nobody, or somebody else, answers.
pub(super) fn remove_run(data_dir: &Path) {
    drop(std::fs::remove_file(data_dir.join(RUN_FILE)));
}

/// Replaces a file at once, so that a reader never sees half of it.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let staged: PathBuf = path.with_extension("json.tmp");
    std::fs::write(&staged, bytes)?;
    std::fs::rename(&staged, path)
}

fn text(status: &Status) -> String {
    let mut text = String::new();
    for table in &status.tables {
        table_text(&mut text, table);
    }
    // Writing to a String cannot fail.
    writeln!(
        text,
        "WAL        {} in {} files; backlog {} requests ({})",
        ByteSize(status.wal.bytes),
        status.wal.segments,
        status.wal.backlog_frames,
        ByteSize(status.wal.backlog_bytes)
    )
    .ok();
    match &status.live {
        Some(live) => {
            let last = live.last_commit.as_deref().unwrap_or("none yet");
            writeln!(text, "Process    running; {} commits, the last {last}", live.commits).ok();
            if let Some(trouble) = &live.trouble {
                writeln!(text, "           TROUBLE: {trouble}").ok();
            }
            for (table, care) in &live.care {
                if let Some(trouble) = &care.trouble {
                    writeln!(text, "           TROUBLE in the care of {table}: {trouble}").ok();
                }
            }
        }
        None => {
            writeln!(text, "Process    not running").ok();
        }
    }
    writeln!(text, "\nEvents ({})", status.counts_of).ok();
    events(&mut text, &status.counts);
    text.push_str(&drift::text(&status.drift));
    text
}

fn table_text(text: &mut String, table: &NamedStatus) {
    let Some(status) = &table.status else {
        writeln!(text, "Table      {}: none yet; `esker serve` creates it", table.name).ok();
        return;
    };
    writeln!(text, "Table      {}: {}", table.name, status.location).ok();
    writeln!(
        text,
        "           {} rows in {} files ({}), {} snapshots, metadata version {}, {} columns{}",
        status.rows,
        status.data_files,
        ByteSize(status.bytes),
        status.snapshots,
        status.metadata_version,
        status.columns,
        status.retention.as_ref().map_or_else(String::new, |text| format!(", retention {text}")),
    )
    .ok();
    if let Some((days, oldest)) = table.days.as_ref().and_then(|days| Some((days, days.oldest.as_ref()?))) {
        let kept = days.first_kept.as_ref().map_or_else(String::new, |day| format!(", kept from {day} on"));
        let overdue =
            if days.overdue { "; older rows leave at the next run of `esker maintain`" } else { "" };
        writeln!(text, "           oldest day {oldest}{kept}{overdue}").ok();
    }
}

fn events(text: &mut String, counts: &Counts) {
    let width = counts.events.keys().map(String::len).max().unwrap_or(5).max(5);
    writeln!(
        text,
        "{:width$}  {:>10} = {:>10} + {:>11} + {:>8} + {:>8} + {:>9}",
        "event", "received", "committed", "quarantined", "dropped", "rejected", "in flight"
    )
    .ok();
    for (name, count) in &counts.events {
        writeln!(
            text,
            "{name:width$}  {:>10} = {:>10} + {:>11} + {:>8} + {:>8} + {:>9}",
            count.received,
            count.committed,
            count.quarantined,
            count.dropped,
            count.rejected,
            count.in_flight
        )
        .ok();
        for (what, by_reason) in [("dropped", &count.dropped_by), ("rejected", &count.rejected_by)] {
            for (reason, number) in by_reason {
                writeln!(text, "{:width$}    {what}: {number} {reason}", "").ok();
            }
        }
    }
    if !counts.attributes.is_empty() {
        writeln!(text, "\nAttributes").ok();
        for (outcome, number) in &counts.attributes {
            writeln!(text, "{number:>12} {outcome}").ok();
        }
    }
}
