//! Access while the service runs: reading its files at the start, again when they change, and showing how that goes.
//!
//! Owns: when files are read again, what is logged and counted of it. Does not own: what the files mean (`receive::access`).
//!
//! Content decides, not modification times: every few seconds the files are read and compared. So it does not matter
//! whether a file was written over, renamed into place, or reached through a link that now leads elsewhere, as Kubernetes
//! replaces mounted secrets. SIGHUP does the same at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::AppError;
use super::status::{self, RunFile};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::receive::access::{Access, Denial, HandshakeFailure, Port, TlsFiles};
use crate::telemetry::{Metric, Sample};

/// How old what is in force may become after the files changed.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// How long a change must last to count: longer than a copy of two small files takes.
const RELOAD_PAUSE: Duration = Duration::from_millis(500);

/// Reads the files, and says where the operator took the protection away.
pub(super) fn load(config: &Config, clock: &Arc<dyn Clock>) -> Result<Arc<Access>, AppError> {
    let access = Access::load(config.receive.access.files.clone(), Arc::clone(clock))?;
    for note in open_addresses(config) {
        tracing::warn!("{note}");
    }
    warn_of_expiry(&access, clock.as_ref());
    Ok(access)
}

/// Clients refuse a certificate that has ended, and their errors are on their side.
fn warn_of_expiry(access: &Access, clock: &dyn Clock) {
    if let Some(expires) = access.certificate_expires()
        && expires.as_microsecond() <= clock.now_micros()
    {
        tracing::warn!(%expires, "the certificate of receive.tls.cert has expired; clients will refuse it");
    }
}

/// The addresses that `receive.insecure` leaves open, as sentences.
pub(super) fn open_addresses(config: &Config) -> Vec<String> {
    let (receive, files) = (&config.receive, &config.receive.access.files);
    let lacks = match (&files.tls, &files.tokens) {
        (Some(_), Some(_)) => return Vec::new(),
        (Some(_), None) => "without tokens",
        (None, Some(_)) => "without TLS",
        (None, None) => "without TLS and tokens",
    };
    [("receive.grpc", receive.grpc), ("receive.http", receive.http), ("receive.admin", receive.admin)]
        .into_iter()
        .filter(|(_, address)| !address.ip().to_canonical().is_loopback())
        .map(|(key, address)| {
            format!("{key} = {address} can be reached from other machines {lacks} (receive.insecure = true)")
        })
        .collect()
}

/// Checks the files as a start would, TLS and tokens each where its files are on this machine; answers what is to be noted.
pub(super) fn check(config: &Config) -> Result<Vec<String>, AppError> {
    let mut files = config.receive.access.files.clone();
    let mut notes = open_addresses(config);
    let mut missing = |what: &str, key: &str, path: &Path| {
        let is_missing = !path.exists();
        if is_missing {
            notes.push(format!("{key}: {} is not on this machine, so {what} not checked", path.display()));
        }
        is_missing
    };
    let of_tls = files.tls.iter().flat_map(TlsFiles::named);
    if of_tls.filter(|(key, path)| missing("TLS was", key, path)).count() > 0 {
        files.tls = None;
    }
    files.tokens = files.tokens.filter(|path| !missing("tokens were", "receive.tokens_file", path));
    Access::load(files, Arc::new(SystemClock))?;
    Ok(notes)
}

/// Hears SIGHUP from now on, where there are files to read again; elsewhere it keeps its usual meaning. Called before the
/// start, so that no SIGHUP ends the process while it starts.
pub(super) fn hangups(config: &Config) -> Option<Signal> {
    let files = &config.receive.access.files;
    if files.tls.is_none() && files.tokens.is_none() {
        return None;
    }
    match signal(SignalKind::hangup()) {
        Ok(hangups) => Some(hangups),
        Err(error) => {
            tracing::warn!(%error, "SIGHUP cannot be heard; certificates and tokens are still read again by themselves");
            None
        }
    }
}

/// Reads the files again until `stop`; `run` is brought up to date where the certificate changed.
pub(super) async fn keep(
    access: Arc<Access>,
    mut hangups: Option<Signal>,
    (data_dir, mut run): (PathBuf, RunFile),
    stop: CancellationToken,
) {
    if !access.has_tls() && !access.has_tokens() {
        return;
    }
    let mut tick = interval(RELOAD_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
            () = heard(&mut hangups) => {}
        }
        let reading = Arc::clone(&access);
        // A slow disk must hold up neither requests nor a stop.
        let reading = tokio::task::spawn_blocking(move || reading.reload(RELOAD_PAUSE));
        let Some(found) = stop.run_until_cancelled(reading).await else { return };
        let Ok(found) = found else { continue };
        for reloaded in found {
            let what = reloaded.what;
            match reloaded.outcome {
                Ok(()) => {
                    tracing::info!(what, "changed files were read; new connections and requests see them");
                    warn_of_expiry(&access, &SystemClock);
                    if access.refuses_all() {
                        tracing::warn!(
                            "receive.tokens_file lists no token; every request from another machine is refused"
                        );
                    }
                }
                Err(error) => {
                    tracing::error!(what, %error, "changed files cannot be used; what was in force before stays");
                }
            }
        }
        let fingerprint = access.fingerprint().map(|hex| hex.to_string());
        if fingerprint != run.fingerprint {
            run.fingerprint = fingerprint;
            if let Err(error) = status::save_run(&data_dir, &run) {
                tracing::warn!(%error, "run.json could not be written; esker status will not find this process");
            }
        }
    }
}

async fn heard(hangups: &mut Option<Signal>) {
    match hangups {
        Some(hangups) => drop(hangups.recv().await),
        None => std::future::pending().await,
    }
}

/// Counts of refusals, tokens and reloads.
pub(super) fn metrics(access: &Access) -> Vec<Metric> {
    let metric = |name, help, counter, samples| Metric { name, help, counter, samples };
    let mut metrics = Vec::new();
    if access.has_tls() {
        let pairs = Port::ALL.into_iter().flat_map(|port| {
            HandshakeFailure::ALL
                .map(|failure| (port, failure.name(), access.handshake_failures(port, failure)))
        });
        let help = "Connections that failed in the TLS handshake, by reason.";
        metrics.push(metric("esker_tls_handshake_failures", help, true, by_port_and_reason(pairs)));
    }
    if access.has_tokens() {
        let pairs = Port::ALL
            .into_iter()
            .flat_map(|port| Denial::ALL.map(|denial| (port, denial.name(), access.denials(port, denial))));
        let help = "Requests without a valid token, by reason.";
        metrics.push(metric("esker_denied", help, true, by_port_and_reason(pairs)));
        let tokens = access.token_list();
        let sample = |name: &str, value| Sample { labels: vec![("token", name.to_owned())], value };
        let requests = tokens.iter().map(|token| sample(&token.name, token.requests)).collect();
        let ends = tokens.iter().filter_map(|token| {
            let seconds = u64::try_from(token.expires?.as_second()).unwrap_or(0);
            Some(sample(&token.name, seconds))
        });
        let help = "When tokens expire, seconds since 1970.";
        metrics.extend([
            metric("esker_token_requests", "Requests by the name of their token.", true, requests),
            metric("esker_token_expiry_timestamp_seconds", help, false, ends.collect()),
        ]);
    }
    if let Some(expires) = access.certificate_expires() {
        let seconds = u64::try_from(expires.as_second()).unwrap_or(0);
        let help = "When the certificate in force expires, seconds since 1970.";
        metrics.push(Metric::gauge("esker_tls_certificate_expiry_timestamp_seconds", help, seconds));
    }
    let (mut reloads, mut stale) = (Vec::new(), Vec::new());
    for count in access.reloads() {
        let what = ("what", count.what.to_owned());
        for (outcome, value) in [("used", count.reloads), ("refused", count.failures)] {
            reloads.push(Sample { labels: vec![what.clone(), ("outcome", outcome.to_owned())], value });
        }
        stale.push(Sample { labels: vec![what], value: u64::from(count.is_stale) });
    }
    let help = "1 while changed files of certificates or tokens cannot be used and older ones are in force.";
    metrics.extend([
        metric("esker_access_reloads", "Changed files of certificates and tokens.", true, reloads),
        metric("esker_access_stale", help, false, stale),
    ]);
    metrics.retain(|metric| !metric.samples.is_empty());
    metrics
}

fn by_port_and_reason(counts: impl Iterator<Item = (Port, &'static str, u64)>) -> Vec<Sample> {
    let sample = |(port, reason, value): (Port, &'static str, u64)| Sample {
        labels: vec![("port", port.name().to_owned()), ("reason", reason.to_owned())],
        value,
    };
    counts.map(sample).collect()
}
