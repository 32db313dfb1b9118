//! `esker quarantine replay`: opens sealed payloads, repairs them, and sends each through the running server's own gate.
//!
//! Owns: choosing rows, sending, counting. Does not own: the changes (`repair`), keys (`key_file`).
//!
//! The table is read twice. The first pass, without payloads, finds the newest row of each event that is meant, so that an event
//! which was quarantined again after an earlier replay is sent once. The second pass opens and sends, one at a time. A
//! replayed event carries its row's id: one that is sent twice is recognised by it.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use futures::TryStreamExt;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use prost::Message as _;
use serde::Serialize;

use super::repair::{Repairs, outline};
use super::{Filter, key_file, table_options, text, time};
use crate::app::client::{Client, Credentials};
use crate::app::{AppError, Format, block_on, print, status};
use crate::clock::{Clock, SystemClock};
use crate::columns::quarantine::{
    CLAIMED_NAME, EVENT_ID, EVENT_NAME, EVENT_TIME, REASON, SEALED, SEALED_KEY_ID, SERVICE_NAME,
};
use crate::config::Config;
use crate::privacy::seal::OpeningKey;
use crate::table::read::{TableReader, TimeRange};

/// How often one event is sent to a server that asks to wait.
const ATTEMPTS_MAX: u32 = 5;
/// The longest that a server may make the replay wait before one attempt.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
/// Beyond two flushes, how long a commit may take.
const COMMIT_TIME_MAX: Duration = Duration::from_secs(10);

/// What to replay, and how.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// The file of the private key.
    pub private_key: PathBuf,
    /// Which rows.
    pub filter: Filter,
    /// Most events of one replay; if more are meant, none is sent.
    pub limit: usize,
    /// What is changed before sending.
    pub repairs: Repairs,
    /// The server's OTLP/HTTP address; None: as configured.
    pub endpoint: Option<String>,
    /// Open and repair, but do not send.
    pub dry_run: bool,
    /// With `dry_run`: show the names, keys and types of what would be sent.
    pub show: bool,
    /// Wait for the commit also where the endpoint was given.
    pub wait: bool,
    /// What the server wants to see.
    pub credentials: Credentials,
}

/// What became of the rows, in counts.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Report {
    /// Events that fit the filter.
    pub(super) selected: u64,
    /// Of these: stored without payload.
    pub(super) without_payload: u64,
    /// Of these: sealed to another key.
    pub(super) sealed_to_another_key: u64,
    /// Of these: the payload did not open, or is no OTLP.
    pub(super) unreadable: u64,
    /// Of these: opened and repaired.
    pub(super) ready: u64,
    /// Of these: sent, and answered.
    pub(super) sent: u64,
    /// Of these: taken by the server, which still may drop or quarantine them, as its policy says.
    pub(super) accepted: u64,
    /// Of the sent: refused by the server.
    pub(super) rejected: u64,
    /// Of the accepted: in quarantine again. None where that is not known.
    pub(super) quarantined_again: Option<u64>,
    /// Why the rest was not sent.
    pub(super) stopped: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) opened: Vec<Opened>,
}

/// An opened event, for `--show`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Opened {
    pub(super) event_id: String,
    pub(super) event_name: String,
    pub(super) attributes: Vec<(String, &'static str)>,
}

/// Replays, and prints the counts.
///
/// # Errors
/// Where the key, the table or the server cannot be used. What was sent before is printed all the same.
pub fn command(config: &Config, options: &ReplayOptions, format: Format) -> Result<(), AppError> {
    let key = key_file::load(&options.private_key)?;
    let endpoint = match &options.endpoint {
        Some(endpoint) => endpoint.clone(),
        None if options.dry_run => String::new(),
        None => configured_endpoint(config)?,
    };
    let report = block_on(async { Ok(replay(config, options, &key, &endpoint).await?) })?;
    let text = match format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&report).map_err(anyhow::Error::from)?),
        Format::Text => report_text(&report, options.dry_run),
    };
    print(&text)?;
    match report.stopped {
        Some(problem) => Err(anyhow!(problem).into()),
        None => Ok(()),
    }
}

fn configured_endpoint(config: &Config) -> anyhow::Result<String> {
    let mut address = config.receive.http;
    if address.port() == 0 {
        bail!("receive.http has port 0, so the server's port is not known; name it with --endpoint");
    }
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let scheme = if config.receive.access.files.tls.is_some() { "https" } else { "http" };
    Ok(format!("{scheme}://{address}"))
}

pub(super) async fn replay(
    config: &Config,
    options: &ReplayOptions,
    key: &OpeningKey,
    endpoint: &str,
) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let Some(reader) = TableReader::open(&table_options(config)).await? else { return Ok(report) };
    let meant = select(&reader, options, key, &mut report).await?;
    let started = SystemClock.now_micros();
    let mut sent = HashSet::new();
    let sender = Sender::new(config, options, endpoint)?;
    let outcome = send_all(&reader, options, key, meant, &sender, &mut sent, &mut report).await;
    report.stopped = outcome.err().map(|error| format!("{error:#}"));
    if !options.dry_run && (options.endpoint.is_none() || options.wait) {
        report.quarantined_again = quarantined_again(config, &sent, started).await?;
    }
    Ok(report)
}

/// The newest row of each event that is meant: its id and time.
async fn select(
    reader: &TableReader,
    options: &ReplayOptions,
    key: &OpeningKey,
    report: &mut Report,
) -> anyhow::Result<HashMap<String, i64>> {
    const COLUMNS: [&str; 7] =
        [EVENT_ID, EVENT_TIME, EVENT_NAME, CLAIMED_NAME, SERVICE_NAME, REASON, SEALED_KEY_ID];
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum Payload {
        None,
        Another,
        Ours,
    }
    let mut newest: HashMap<String, (Payload, i64)> = HashMap::new();
    let mut batches = reader.scan(&COLUMNS, options.filter.range()).await?;
    while let Some(batch) = batches.try_next().await? {
        for row in (0..batch.num_rows()).filter(|row| options.filter.matches(&batch, *row)) {
            let (Some(id), Some(time)) = (text(&batch, EVENT_ID, row), time(&batch, EVENT_TIME, row)) else {
                continue;
            };
            let payload = match text(&batch, SEALED_KEY_ID, row) {
                None => Payload::None,
                Some(id) if id == key.recipient().id() => Payload::Ours,
                Some(_) => Payload::Another,
            };
            // A row that can be opened is better than a newer one that cannot.
            match newest.get_mut(id) {
                Some(known) => *known = (*known).max((payload, time)),
                None => drop(newest.insert(id.to_owned(), (payload, time))),
            }
        }
        if newest.len() > options.limit {
            bail!(
                "more than {} events fit, and nothing was sent; narrow the choice (--since, --reason, --event), or raise --limit",
                options.limit
            );
        }
    }
    report.selected = newest.len() as u64;
    let count = |wanted| newest.values().filter(|(payload, _)| *payload == wanted).count() as u64;
    report.without_payload = count(Payload::None);
    report.sealed_to_another_key = count(Payload::Another);
    let ours = newest.into_iter().filter(|(_, (payload, _))| *payload == Payload::Ours);
    Ok(ours.map(|(id, (_, time))| (id, time)).collect())
}

/// Opens, repairs and sends the meant rows; `sent` is filled with the ids of those that the server took.
async fn send_all(
    reader: &TableReader,
    options: &ReplayOptions,
    key: &OpeningKey,
    mut meant: HashMap<String, i64>,
    sender: &Sender,
    sent: &mut HashSet<String>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let Some(first) = meant.values().min() else { return Ok(()) };
    let mut batches = reader.scan(&[EVENT_ID, EVENT_TIME, REASON, SEALED], TimeRange::since(*first)).await?;
    while let Some(batch) = batches.try_next().await? {
        for row in 0..batch.num_rows() {
            let (Some(id), Some(reason), Some(sealed)) =
                (text(&batch, EVENT_ID, row), text(&batch, REASON, row), text(&batch, SEALED, row))
            else {
                continue;
            };
            if meant.get(id).copied() != time(&batch, EVENT_TIME, row) {
                continue;
            }
            meant.remove(id);
            let Ok(mut request) = open(key, sealed, id, reason) else {
                report.unreadable += 1;
                continue;
            };
            if options.repairs.apply(&mut request, id).is_err() {
                report.unreadable += 1;
                continue;
            }
            report.ready += 1;
            if options.dry_run {
                if options.show {
                    let (event_name, attributes) = outline(&mut request)?;
                    report.opened.push(Opened { event_id: id.to_owned(), event_name, attributes });
                }
                continue;
            }
            let taken = sender.send(request.encode_to_vec()).await?;
            report.sent += 1;
            if taken {
                report.accepted += 1;
                sent.insert(id.to_owned());
            } else {
                report.rejected += 1;
            }
        }
    }
    Ok(())
}

fn open(key: &OpeningKey, sealed: &str, id: &str, reason: &str) -> anyhow::Result<ExportLogsServiceRequest> {
    let payload = key.open(sealed, id, reason)?;
    // The decoder's error could quote what it met, so it is not passed on.
    ExportLogsServiceRequest::decode(payload.as_slice()).map_err(|_| anyhow!("the payload is not OTLP"))
}

/// A client of the server's OTLP/HTTP port.
struct Sender {
    client: Client,
    url: String,
}

impl Sender {
    /// Where no endpoint was given, the server is the one of the data directory, which is known by what it left there.
    fn new(config: &Config, options: &ReplayOptions, endpoint: &str) -> anyhow::Result<Self> {
        let local = match options.endpoint {
            None => status::running(&config.data_dir)?,
            Some(_) => None,
        };
        let client = match &local {
            Some(run) => Client::local(run, &options.credentials, ANSWER_TIME_MAX)?,
            None => Client::remote(endpoint, &options.credentials, ANSWER_TIME_MAX)?,
        };
        Ok(Self { client, url: format!("{}/v1/logs", endpoint.trim_end_matches('/')) })
    }

    /// Sends one request; false where the server refuses it for good.
    async fn send(&self, body: Vec<u8>) -> anyhow::Result<bool> {
        for attempt in 1..=ATTEMPTS_MAX {
            let request = self
                .client
                .request(reqwest::Method::POST, &self.url)
                .header("content-type", "application/x-protobuf");
            let answer = request.body(body.clone()).send().await.with_context(|| {
                format!(
                    "sending to {}; is `esker serve` running, and is --endpoint its HTTP address?",
                    self.url
                )
            })?;
            let status = answer.status();
            if status.is_success() {
                let body = answer.bytes().await.with_context(|| format!("the answer of {}", self.url))?;
                let answer = ExportLogsServiceResponse::decode(body).map_err(|_| {
                    anyhow!("{} does not answer as OTLP; is --endpoint the HTTP address?", self.url)
                })?;
                return Ok(answer.partial_success.is_none_or(|partial| partial.rejected_log_records == 0));
            }
            if matches!(status.as_u16(), 401 | 403) {
                bail!("{} wants a valid token; name a file that holds one with --token-file", self.url);
            }
            if !(status.is_server_error() || status.as_u16() == 429) {
                return Ok(false);
            }
            if attempt < ATTEMPTS_MAX {
                let wait =
                    answer.headers().get("retry-after").and_then(|text| text.to_str().ok()?.parse().ok());
                tokio::time::sleep(Duration::from_secs(wait.unwrap_or(1)).min(RETRY_AFTER_MAX)).await;
            }
        }
        bail!("{} asked to wait {ATTEMPTS_MAX} times; replay the rest once it has room again", self.url)
    }
}

/// How many of the sent events the server put into quarantine again, once it has committed them all. None where no server runs
/// from the configured data directory, or it does not commit in time.
async fn quarantined_again(
    config: &Config,
    sent: &HashSet<String>,
    since: i64,
) -> anyhow::Result<Option<u64>> {
    if sent.is_empty() {
        return Ok(Some(0));
    }
    if !committed(config, SystemClock.now_micros()).await {
        return Ok(None);
    }
    count_again(config, sent, since).await
}

/// How many of these ids came into quarantine at `since` or later.
pub(super) async fn count_again(
    config: &Config,
    sent: &HashSet<String>,
    since: i64,
) -> anyhow::Result<Option<u64>> {
    let Some(reader) = TableReader::open(&table_options(config)).await? else { return Ok(None) };
    let mut again = HashSet::new();
    let mut batches = reader.scan(&[EVENT_ID], TimeRange::since(since)).await?;
    while let Some(batch) = batches.try_next().await? {
        let ids = (0..batch.num_rows()).filter_map(|row| text(&batch, EVENT_ID, row));
        again.extend(ids.filter_map(|id| sent.get(id)));
    }
    Ok(Some(again.len() as u64))
}

/// Waits until everything that the local server acknowledged up to `moment` is committed.
async fn committed(config: &Config, moment: i64) -> bool {
    let give_up = tokio::time::Instant::now() + config.flush.max_age * 2 + COMMIT_TIME_MAX;
    loop {
        let Ok(Some(live)) = status::live(&config.data_dir).await else { return false };
        match live.wal.backlog_since.map(|since| super::parse_time(&since)) {
            None => return true,
            Some(Ok(since)) if since > moment => return true,
            Some(_) if tokio::time::Instant::now() >= give_up => return false,
            Some(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

fn report_text(report: &Report, dry_run: bool) -> String {
    let mut text = String::new();
    let mut line = |count: u64, what: &str| {
        // Writing to a String cannot fail.
        writeln!(text, "{count:>10} {what}").ok();
    };
    line(report.selected, "events fit");
    for (count, what) in [
        (report.without_payload, "  have no payload"),
        (report.sealed_to_another_key, "  are sealed to another key"),
        (report.unreadable, "  have a payload that does not open or is no OTLP"),
    ] {
        if count > 0 {
            line(count, what);
        }
    }
    if dry_run {
        line(report.ready, "  could be sent; nothing was, as this is a dry run");
    } else {
        line(report.sent, "  were sent");
        line(report.accepted, "    accepted");
        line(report.rejected, "    rejected");
        match report.quarantined_again {
            Some(count) => line(count, "    accepted, and in quarantine again"),
            None => text.push_str("           whether some are in quarantine again is not known yet\n"),
        }
    }
    for opened in &report.opened {
        writeln!(text, "\n{}  {}", opened.event_id, opened.event_name).ok();
        for (key, kind) in &opened.attributes {
            writeln!(text, "  {key}: {kind}").ok();
        }
    }
    text
}
