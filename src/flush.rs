//! The second half of the journey: durable rows -> data files -> a commit to each table -> released WAL span.
//!
//! A round reads the frames after the primary's position once and writes the files of every table. Then it commits: the
//! tables that got rows first, the primary last and always, and only then the WAL's span is let go. Wherever a round is cut
//! short, each table knows what it holds, so that the next round, or the next start, gives each table what it lacks.
//!
//! Owns: when to flush, how much one round takes, the order of its commits, and what to do when one fails. Does not own: how
//! a file is written, how a commit is made sure of.

mod destination;
mod round;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::accounting::Accounting;
use crate::clock::{Clock, Ids};
use crate::columns::BatchError;
use crate::datafile::DataFileError;
use crate::table::TableError;
use crate::wal::{ControlError, Position, ReadError, Wal};
use round::{Part, Round};

pub use destination::{Destination, Destinations, TableKind};

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// When to flush.
#[derive(Debug, Clone, Copy)]
pub struct FlushOptions {
    /// Age of the oldest durable, uncommitted request.
    pub max_age: Duration,
    /// WAL bytes; also the most that one round takes.
    pub max_bytes: u64,
}

/// Why the flusher stopped for good; the process must stop too.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// The WAL cannot be read back.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The WAL has stopped.
    #[error(transparent)]
    Log(#[from] ControlError),
    /// What the WAL holds is not what was written.
    #[error("the WAL's frame {position} holds no readable rows")]
    Payload {
        /// Which frame.
        position: Position,
        /// What is wrong with it.
        source: BatchError,
    },
    /// The WAL holds rows for a table that the configuration does not name.
    #[error(
        "the WAL holds rows for the table `{table}` (frame {position} is the first), which the configuration does not \
         name any more: put it back (`[[tables]]` with name = \"{table}\"; without `[[routes]]` it gets no new rows), start, \
         and remove it once `esker status` shows no backlog"
    )]
    UnknownTable {
        /// Its name.
        table: String,
        /// The first frame that is for it.
        position: Position,
    },
    /// Rows could not be written as data files.
    #[error(transparent)]
    Files(#[from] DataFileError),
    /// The table could not be committed to.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The thread that wrote data files ended.
    #[error("the thread that writes data files ended: {0}")]
    Interrupted(tokio::task::JoinError),
}

/// What the flusher did so far; shown by the admin port.
#[derive(Debug, Clone, Default)]
pub struct FlushReport {
    /// Confirmed commits.
    pub commits: u64,
    /// Attempts that ended in an error and will be repeated.
    pub failures: u64,
    /// When the last commit was confirmed, microseconds since the Unix epoch.
    pub last_commit_micros: Option<i64>,
    /// The last attempt's error, while it is not overcome.
    pub trouble: Option<String>,
}

/// A shared, current [`FlushReport`].
#[derive(Debug, Clone, Default)]
pub struct FlushWatch(Arc<Mutex<FlushReport>>);

impl FlushWatch {
    /// The report now.
    #[must_use]
    pub fn report(&self) -> FlushReport {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, change: impl FnOnce(&mut FlushReport)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What the flusher brings together.
#[derive(Debug)]
pub struct Parts {
    /// Where durable rows are.
    pub wal: Arc<Wal>,
    /// Where they go.
    pub destinations: Destinations,
    /// Where the move is counted.
    pub accounting: Arc<Accounting>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Names of commits and their files.
    pub ids: Arc<dyn Ids>,
    /// Triggers.
    pub options: FlushOptions,
    /// Who commits.
    pub writer: Writer,
}

/// Moves durable rows to the table. One per process.
#[derive(Debug)]
pub struct Flusher {
    parts: Parts,
    watch: FlushWatch,
    /// A round whose commits are not all confirmed.
    pending: Option<Round>,
}

/// Who commits.
#[derive(Debug, Clone, Copy)]
pub struct Writer {
    /// The data directory's writer.
    pub id: Uuid,
    /// Its epoch.
    pub epoch: u64,
}

impl FlushError {
    /// True where the same attempt may succeed later: a store or catalog that cannot be reached now.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Files(error) => error.is_retryable(),
            Self::Table(error) => error.is_retryable() || matches!(error, TableError::FilesTooOld { .. }),
            Self::Log(error) => matches!(error, ControlError::Io { .. }),
            Self::Read(_) | Self::Payload { .. } | Self::UnknownTable { .. } | Self::Interrupted(_) => false,
        }
    }
}

/// Waits before the next attempt, and tells how long to wait after it. A stop ends a long wait at once: the store may be
/// healthy again, and only the grace period is left. From then on the waits stay short.
async fn back_off(retry: Duration, stop: &CancellationToken) -> Duration {
    if stop.is_cancelled() {
        tokio::time::sleep(RETRY_FIRST).await;
        return RETRY_FIRST;
    }
    tokio::select! {
        () = stop.cancelled() => RETRY_FIRST,
        () = tokio::time::sleep(retry) => (retry * 2).min(RETRY_MAX),
    }
}

impl Flusher {
    /// A flusher that goes on where each table stands.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { parts, watch: FlushWatch::default(), pending: None }
    }

    /// Counts the rows that the WAL holds and some table lacks. Called once, before anything is received.
    ///
    /// # Errors
    /// Where the WAL cannot be read back, or holds rows for a table that is not among the destinations.
    pub fn recover(&self) -> Result<(), FlushError> {
        let rows = round::backlog(&self.parts.wal, &self.parts.destinations.standings())?;
        self.parts.accounting.recovered(&rows);
        Ok(())
    }

    /// What the flusher did so far.
    #[must_use]
    pub fn watch(&self) -> FlushWatch {
        self.watch.clone()
    }

    /// Flushes as the triggers say until `stop`, then once more until the WAL is empty.
    ///
    /// # Errors
    /// [`FlushError`]: the process must stop. Passing trouble (a store that cannot be reached) is retried instead.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), FlushError> {
        let mut retry = RETRY_FIRST;
        loop {
            self.wait_until_due(&stop).await;
            if stop.is_cancelled() && self.is_empty() {
                return Ok(());
            }
            match self.flush().await {
                Ok(()) => retry = RETRY_FIRST,
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, retry_ms = retry.as_millis(), "the flush failed and will be repeated");
                    self.watch.update(|report| {
                        report.failures += 1;
                        report.trouble = Some(error.to_string());
                    });
                    retry = back_off(retry, &stop).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.pending.is_none() && self.parts.wal.durable() <= self.committed()
    }

    fn committed(&self) -> Position {
        self.parts.destinations.committed()
    }

    /// Returns when a flush is due: by age, by bytes, or because the service stops.
    async fn wait_until_due(&self, stop: &CancellationToken) {
        if self.pending.is_some() {
            return;
        }
        let mut durable = self.parts.wal.durable_changes();
        let committed = self.committed();
        let mut due: Option<Instant> = None;
        loop {
            let waiting = *durable.borrow_and_update() > committed;
            if stop.is_cancelled()
                || (waiting && self.parts.wal.waiting(committed).bytes >= self.parts.options.max_bytes)
            {
                return;
            }
            if waiting {
                // Measured from when this task saw the row: at most the time of the flush before it, later.
                due.get_or_insert_with(|| Instant::now() + self.parts.options.max_age);
            }
            let deadline = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                () = stop.cancelled() => return,
                changed = durable.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(deadline) => if waiting { return },
            }
        }
    }

    /// Writes what is durable now (at most `max_bytes`) as data files, commits them, and releases their span.
    async fn flush(&mut self) -> Result<(), FlushError> {
        let mut round = match self.pending.take() {
            Some(round) => round,
            None => match self.write_files().await? {
                Some(round) => round,
                None => return Ok(()),
            },
        };
        while let Some(part) = round.parts.pop_front() {
            if let Err(error) = self.commit(&part).await {
                if matches!(
                    error,
                    FlushError::Table(TableError::FilesTooOld { .. } | TableError::Altered { .. })
                ) {
                    // They are too old, or were written for columns that are not there any more. The WAL still has the rows: the next
                    // attempt reads it again, and writes anew what no table holds yet. Should the outcome of an earlier attempt be
                    // unknown, the table tells it before they are committed.
                    return Err(error);
                }
                // The files stay: their commit may yet be found in the table, and a repeated attempt uses them again. What
                // other tables have confirmed is done.
                round.parts.push_front(part);
                self.pending = Some(round);
                return Err(error);
            }
        }
        self.release(&round).await
    }

    /// Adds a part to its table, and counts its rows.
    async fn commit(&mut self, part: &Part) -> Result<(), FlushError> {
        let destinations = &mut self.parts.destinations;
        let (Some(table), Some(standing)) =
            (destinations.table(part.place), destinations.standing(part.place))
        else {
            // A round is made for these very tables.
            let (table, position) = (format!("#{}", part.place), part.claim.from);
            return Err(FlushError::UnknownTable { table, position });
        };
        let (name, kind) = (Arc::clone(&standing.name), standing.kind);
        table.append(&part.files, &part.claim, &part.summary).await?;
        match kind {
            TableKind::Events => self.parts.accounting.committed(&part.rows),
            TableKind::Quarantine => self.parts.accounting.quarantined(&part.rows),
            TableKind::Withdrawals => {}
        }
        destinations.reached(part.place, part.claim.through);
        let now = self.parts.clock.now_micros();
        self.watch.update(|report| {
            report.commits += 1;
            report.last_commit_micros = Some(now);
        });
        tracing::info!(
            table = &*name,
            rows = part.rows.values().sum::<u64>(),
            files = part.files.len(),
            through = part.claim.through.0,
            "committed"
        );
        Ok(())
    }

    /// Every commit of the round is confirmed: the WAL may go.
    async fn release(&mut self, round: &Round) -> Result<(), FlushError> {
        match self.parts.wal.release(round.through).await {
            Ok(_) => {}
            // The span is in the tables: what stays of it on disk is harmless, and the next release removes it.
            Err(ControlError::Io { action, path, source }) => {
                tracing::warn!(action, path = %path.display(), %source, "a committed WAL span could not be removed yet");
            }
            Err(error) => return Err(error.into()),
        }
        self.watch.update(|report| report.trouble = None);
        let oldest_age_ms = (self.parts.clock.now_micros() - round.oldest_micros) / 1000;
        tracing::debug!(through = round.through.0, oldest_age_ms, "released");
        Ok(())
    }

    /// Reads the durable frames back and writes them as data files. Sorting and encoding take their time, so this runs on
    /// a thread of its own and the listeners keep theirs.
    async fn write_files(&self) -> Result<Option<Round>, FlushError> {
        let commit_id = self.parts.ids.next_id();
        let tables = self.parts.destinations.tables();
        for table in tables {
            table.conform().await?;
        }
        let targets =
            tables.iter().map(|table| table.file_target(commit_id)).collect::<Result<Vec<_>, _>>()?;
        // A new segment begins here, so that all that is read now can be removed once it is committed.
        let through = self.parts.wal.rotate().await?;
        let frames =
            self.parts.wal.read(self.committed(), through).with_bytes_max(self.parts.options.max_bytes);
        let (writer, standings) = (self.parts.writer, self.parts.destinations.standings());
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            runtime.block_on(round::write(frames, targets, standings, writer, commit_id))
        })
        .await
        .map_err(FlushError::Interrupted)?
    }
}
