//! `esker serve`: start-up order, the ready line, and shutdown order.
//!
//! Owns: both orders. Start: registry, access, lock, key, tables, the policy beside their rows, WAL, listeners. Stop: listeners, requests in flight, WAL, last
//! flush, under one grace period. Does not own: what any part does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::admin::{self, AdminState};
use super::maintain::Care;
use super::status::RunFile;
use super::withdrawals::{self, Following};
use super::{AppError, access, drift, policies, print, startup, tables};
use crate::accounting::Accounting;
use crate::clock::{Clock, Ids, RandomIds, SystemClock};
use crate::columns::{Encoder, Layout};
use crate::config::Config;
use crate::drift::DriftStore;
use crate::flush::{self, FlushError, FlushOptions, FlushWatch, Flusher, Writer};
use crate::intake::{Intake, Parts};
use crate::maintain::CareWatch;
use crate::privacy::Gate;
use crate::receive::Limits;
use crate::receive::access::{Access, Port};
use crate::receive::budget::MemoryBudget;
use crate::receive::decode::NameFallback;
use crate::receive::stats::ReceiveStats;
use crate::receive::{grpc, http};
use crate::registry::Registry;
use crate::telemetry;
use crate::wal::{self, DamageKind, Position, Recovery, RetryLimits, RetryWindow, Wal, WalFiles, WalOptions};

/// How long the process waits, after everything has stopped, for calls that a disk does not answer.
const LEFT_BEHIND_TIME_MAX: Duration = Duration::from_secs(1);

/// The one line on stdout.
#[derive(Debug, Serialize)]
struct Ready {
    event: &'static str,
    pid: u32,
    grpc: SocketAddr,
    http: SocketAddr,
    admin: SocketAddr,
    /// Whether they speak TLS.
    tls: bool,
}

/// Runs the service until SIGTERM or Ctrl-C.
///
/// # Errors
/// Where a part cannot start, or the service had to stop itself.
pub fn command(config: Config) -> Result<(), AppError> {
    telemetry::init_logs(&config.log_filter).map_err(anyhow::Error::from)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(anyhow::Error::from)?;
    let ended = runtime.block_on(async {
        let shutdown = signals().context("signal handlers cannot be installed")?;
        run(config, shutdown).await
    });
    // What the disk still holds up belongs to nobody any more.
    runtime.shutdown_timeout(LEFT_BEHIND_TIME_MAX);
    ended
}

/// Hears SIGTERM and SIGINT from now on; the future resolves on the first. Called before the start, so that no signal
/// ends the process by the system's default once it has said that it is ready.
fn signals() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "stopping"),
            _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "stopping"),
        }
    })
}

/// Runs the service until `shutdown`.
///
/// # Errors
/// As [`command`].
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), AppError> {
    let hangups = access::hangups(&config);
    let service = Service::start(&config, hangups).await?;
    service.announce()?;
    service.supervise(shutdown, config.shutdown_grace).await
}

/// The running parts.
struct Service {
    wal: Arc<Wal>,
    flusher: JoinHandle<Result<(), FlushError>>,
    listeners: Vec<(&'static str, JoinHandle<std::io::Result<()>>)>,
    admin: JoinHandle<std::io::Result<()>>,
    ready: Ready,
    stop_listeners: CancellationToken,
    stop_flusher: CancellationToken,
    stop_admin: CancellationToken,
    /// Where the counts are left for `esker status` after the process ended.
    counts: (Arc<Accounting>, std::path::PathBuf),
    /// Left there as well.
    drift: (Arc<DriftStore>, std::path::PathBuf),
}

/// Sockets that are bound before anything is promised.
struct Sockets {
    grpc: TcpListener,
    http: TcpListener,
    admin: TcpListener,
}

impl Service {
    async fn start(config: &Config, hangups: Option<Signal>) -> Result<Self, AppError> {
        let (clock, ids): (Arc<dyn Clock>, Arc<dyn Ids>) = (Arc::new(SystemClock), Arc::new(RandomIds));
        let registry = Arc::new(Registry::load(&config.schemas)?);
        for name in &config.ignored_variables {
            tracing::warn!(
                name,
                "this environment variable names no key of the configuration and is ignored"
            );
        }
        for notice in registry.notices() {
            tracing::info!(notice, "registry");
        }
        let access = access::load(config, &clock)?;
        let layout = Layout::new(&registry).map_err(anyhow::Error::from)?;
        // The keys come before the lock that makes the directory a used one: a start that fails in between can be repeated.
        let used = wal::inspect(&config.data_dir, Position(0)).map_err(anyhow::Error::from)?.writer.is_some();
        let keyring = startup::keyring(config, !used, clock.now_micros())?;
        let files = WalFiles::lock(&config.data_dir, ids.as_ref()).map_err(anyhow::Error::from)?;
        let identity = files.identity();
        let gate = Gate::new(Arc::clone(&registry), &keyring, config.gate_options())?;
        let policy_version: Arc<str> = gate.policy_version().into();
        let writer = Writer { id: identity.writer_id, epoch: identity.epoch };
        policies::warn_of_mixed_columns(config, &gate).await;
        let destinations = tables::open(config, &registry, &layout, &clock, &ids, &files).await?;
        policies::store(config, &gate, destinations.tables()).await?;
        let sockets = Sockets::bind(config).await?;
        let committed = destinations.committed();
        let (wal, recovery) =
            Wal::open(files.witnessed(destinations.furthest()), committed, wal_options(config))
                .map_err(anyhow::Error::from)?;
        log_recovery(&recovery);
        let wal = Arc::new(wal);
        let accounting = Arc::new(Accounting::new());
        let window = RetryWindow::new(RetryLimits::default(), &recovery.digests);
        let options = FlushOptions { max_age: config.flush.max_age, max_bytes: config.flush.max_bytes };
        let flush = flush::Parts {
            wal: Arc::clone(&wal),
            destinations,
            accounting: Arc::clone(&accounting),
            clock: Arc::clone(&clock),
            ids,
            options,
            writer,
        };
        let flusher = Flusher::new(flush);
        flusher.recover().map_err(anyhow::Error::from)?;
        let encoder = Encoder::new(&layout, &registry, &policy_version)
            .with_consent_bases(gate.consent_bases().to_vec());
        let withdrawals = withdrawals::table(config);
        let withdrawn = Arc::clone(gate.withdrawn());
        withdrawals::load(&withdrawals, &wal, committed, &withdrawn).await?;
        let following = Following { table: withdrawals.clone(), withdrawn, clock: Arc::clone(&clock) };
        let names = NameFallback::new(config.receive.names.clone());
        let drift = drift::resume(&config.data_dir, &registry);
        let parts = Parts {
            names,
            drift: Arc::clone(&drift),
            quarantine: config.quarantine.table.clone(),
            withdrawals: withdrawals.name.clone(),
            gate,
            encoder,
            wal: Arc::clone(&wal),
            window,
            accounting: Arc::clone(&accounting),
            clock,
        };
        let counts = (accounting, config.data_dir.join(super::status::COUNTS_FILE));
        Self::spawn(
            config,
            (sockets, access, hangups),
            Intake::new(parts),
            flusher,
            wal,
            (counts, drift, following),
            policy_version,
        )
    }

    fn spawn(
        config: &Config,
        (sockets, access, hangups): (Sockets, Arc<Access>, Option<Signal>),
        intake: Intake,
        flusher: Flusher,
        wal: Arc<Wal>,
        (counts, drift, following): ((Arc<Accounting>, std::path::PathBuf), Arc<DriftStore>, Following),
        policy_version: Arc<str>,
    ) -> Result<Self, AppError> {
        let (stop_listeners, stop_flusher, stop_admin) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let stats = Arc::new(ReceiveStats::default());
        let limits = limits(config);
        let budget = MemoryBudget::new(config.receive.memory_bytes_max);
        let ready = sockets.ready(&access)?;
        let writer_id = wal.identity().writer_id;
        let run = RunFile {
            pid: ready.pid,
            admin: ready.admin,
            writer_id,
            fingerprint: access.fingerprint().map(|hex| hex.to_string()),
            token: access.local_token().map(|token| token.reveal().to_owned()),
        };
        super::status::save_run(&config.data_dir, &run)
            .with_context(|| format!("writing to {}", config.data_dir.display()))?;
        let state = AdminState {
            writer_id,
            accounting: Arc::clone(&counts.0),
            drift: Arc::clone(&drift),
            wal: Arc::clone(&wal),
            flush: flusher.watch(),
            care: CareWatch::default(),
            receive: Arc::clone(&stats),
            access: Arc::clone(&access),
            stopping: stop_listeners.clone(),
            policy_version,
            data_dir: config.data_dir.clone(),
        };
        let place = (config.data_dir.clone(), run);
        tokio::spawn(access::keep(Arc::clone(&access), hangups, place, stop_admin.clone()));
        tokio::spawn(following.run(stop_admin.clone()));
        tokio::spawn(Care::new(config, state.care.clone()).on_schedule(stop_listeners.clone()));
        tokio::spawn(save_counts(counts.clone(), flusher.watch(), stop_admin.clone()));
        let drift = (drift, config.data_dir.clone());
        tokio::spawn(drift::keep(Arc::clone(&drift.0), drift.1.clone(), stop_admin.clone()));
        let stop = || stop_listeners.clone().cancelled_owned();
        let listeners = vec![
            (
                "grpc",
                tokio::spawn(grpc::serve(
                    access.guard(sockets.grpc, Port::Grpc),
                    intake.clone(),
                    limits,
                    budget.clone(),
                    Arc::clone(&stats),
                    stop(),
                )),
            ),
            (
                "http",
                tokio::spawn(http::serve(
                    access.guard(sockets.http, Port::Http),
                    intake,
                    limits,
                    budget,
                    stats,
                    stop(),
                )),
            ),
        ];
        Ok(Self {
            wal,
            flusher: tokio::spawn(flusher.run(stop_flusher.clone())),
            listeners,
            admin: tokio::spawn(admin::serve(
                access.guard(sockets.admin, Port::Admin),
                state,
                limits,
                stop_admin.clone(),
            )),
            ready,
            stop_listeners,
            stop_flusher,
            stop_admin,
            counts,
            drift,
        })
    }
}

impl Service {
    /// Prints the ready line.
    fn announce(&self) -> Result<(), AppError> {
        let mut line = serde_json::to_string(&self.ready).map_err(anyhow::Error::from)?;
        line.push('\n');
        print(&line)?;
        tracing::info!(grpc = %self.ready.grpc, http = %self.ready.http, admin = %self.ready.admin, "ready");
        Ok(())
    }

    /// Waits for `shutdown`, or for a part that cannot go on, and stops everything in order.
    async fn supervise(
        mut self,
        shutdown: impl Future<Output = ()>,
        grace: Duration,
    ) -> Result<(), AppError> {
        let failure = tokio::select! {
            () = shutdown => None,
            reason = self.wal.halted() => Some(anyhow!("{reason}; nothing more was acknowledged; the process stops")),
            ended = &mut self.flusher => Some(ended_early("flusher", ended)),
            ended = first_to_end(&mut self.listeners) => Some(ended),
            ended = &mut self.admin => Some(ended_early("admin port", ended)),
        };
        if let Some(failure) = failure {
            tracing::error!(error = format!("{failure:#}"), "stopping after a failure");
            self.stop_listeners.cancel();
            save(&self.counts);
            drift::save(&self.drift.0, &self.drift.1);
            super::status::remove_run(&self.drift.1);
            return Err(failure.into());
        }
        let data_dir = self.drift.1.clone();
        let stopped = self.stop(grace).await;
        super::status::remove_run(&data_dir);
        stopped
    }

    /// Stop accepting, drain, sync, flush, commit; says which step the grace period cut short.
    async fn stop(self, grace: Duration) -> Result<(), AppError> {
        let deadline = tokio::time::Instant::now() + grace;
        let within = |step: &'static str| {
            move |_| {
                anyhow!(
                    "shutdown.grace ({grace:?}) ended while {step}; what was acknowledged is in the WAL and will be committed at the next start"
                )
            }
        };
        self.stop_listeners.cancel();
        for (name, listener) in self.listeners {
            let ended = tokio::time::timeout_at(deadline, listener)
                .await
                .map_err(within("requests were being drained"))?;
            ended.context("listener task").and_then(|outcome| outcome.context(name))?;
        }
        self.stop_flusher.cancel();
        let flushed = tokio::time::timeout_at(deadline, self.flusher)
            .await
            .map_err(within("the last rows were being committed"))?;
        flushed.context("flusher task")?.map_err(anyhow::Error::from)?;
        self.wal.close().await.map_err(anyhow::Error::from)?;
        save(&self.counts);
        drift::save(&self.drift.0, &self.drift.1);
        self.stop_admin.cancel();
        tracing::info!("stopped");
        Ok(())
    }
}

fn ended_early<E>(part: &str, ended: Result<Result<(), E>, tokio::task::JoinError>) -> anyhow::Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    match ended {
        Ok(Ok(())) => anyhow!("the {part} ended by itself"),
        Ok(Err(error)) => anyhow::Error::new(error).context(format!("the {part} stopped")),
        Err(error) => anyhow::Error::new(error).context(format!("the {part} broke")),
    }
}

async fn first_to_end(listeners: &mut [(&'static str, JoinHandle<std::io::Result<()>>)]) -> anyhow::Error {
    let waits = listeners.iter_mut().map(|(name, task)| {
        Box::pin(async move {
            let ended = task.await;
            ended_early(name, ended)
        })
    });
    futures::future::select_all(waits).await.0
}

impl Sockets {
    async fn bind(config: &Config) -> Result<Self, AppError> {
        let receive = &config.receive;
        Ok(Self {
            grpc: bind("receive.grpc", receive.grpc).await?,
            http: bind("receive.http", receive.http).await?,
            admin: bind("receive.admin", receive.admin).await?,
        })
    }

    fn ready(&self, access: &Access) -> Result<Ready, AppError> {
        let address = |socket: &TcpListener| socket.local_addr().map_err(anyhow::Error::from);
        Ok(Ready {
            event: "ready",
            pid: std::process::id(),
            grpc: address(&self.grpc)?,
            http: address(&self.http)?,
            admin: address(&self.admin)?,
            tls: access.has_tls(),
        })
    }
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("{key} = \"{address}\" cannot be bound; choose another address, or port 0 for any free port")
    })
}

fn wal_options(config: &Config) -> WalOptions {
    WalOptions {
        bytes_max: config.wal.bytes_max,
        segment_bytes: config.wal.segment_bytes,
        on_damage: config.wal.on_damage,
        ..WalOptions::default()
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        request_bytes_max: config.receive.request_bytes_max,
        connections_max: config.receive.connections_max,
        request_time_max: config.receive.request_time_max,
        // The other half is for the last flush, even where a client holds up its connection.
        drain_time_max: config.shutdown_grace / 2,
        ..Limits::default()
    }
}

fn log_recovery(recovery: &Recovery) {
    if recovery.frames > 0 {
        tracing::info!(
            requests = recovery.frames,
            events = recovery.events,
            "the WAL holds events of before this start"
        );
    }
    for place in &recovery.damage {
        let what = match place.kind {
            DamageKind::Torn if place.is_header() => {
                "the WAL's newest file has lost its beginning, which no crash alone does; what it held is unknown"
            }
            DamageKind::Torn => {
                "an unfinished write at the WAL's end was set aside; nothing proves that it was acknowledged"
            }
            DamageKind::Harmless => {
                "a damaged part of the WAL was set aside; all that it held is in the table"
            }
            DamageKind::Lost => "a damaged part of the WAL was set aside; acknowledged events are lost",
        };
        let (file, copy) = (place.file.display(), place.copy.as_ref().map(|copy| copy.display().to_string()));
        let frames_lost = place.frames_lost();
        tracing::warn!(%file, offset = place.offset, bytes = place.bytes, copy, frames_lost, "{what}");
    }
}

/// Leaves the counts on disk after each commit, for `esker status` once this process is gone.
async fn save_counts(
    counts: (Arc<Accounting>, std::path::PathBuf),
    flush: FlushWatch,
    stop: CancellationToken,
) {
    let mut saved = 0;
    let mut tick = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let commits = flush.report().commits;
        if commits != saved {
            saved = commits;
            save(&counts);
        }
    }
}

fn save((accounting, path): &(Arc<Accounting>, std::path::PathBuf)) {
    if let Err(error) = super::status::save_counts(path, &accounting.counts()) {
        tracing::warn!(%error, path = %path.display(), "the counts could not be saved; esker status will lack them");
    }
}
