//! The second half of the journey: durable rows -> data files -> one commit -> released WAL span.
//!
//! Owns: when to flush, how much one commit takes, and what to do when it fails. Does not own: how a file is written, how
//! a commit is made sure of.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::accounting::Accounting;
use crate::clock::{Clock, Ids};
use crate::columns::{Batch, BatchError};
use crate::datafile::{DataFileError, DataFileWriter, WrittenFile};
use crate::table::{Table, TableError, WalClaim};
use crate::wal::{ControlError, FrameReader, Position, ReadError, Wal};

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// When to flush.
#[derive(Debug, Clone, Copy)]
pub struct FlushOptions {
    /// Age of the oldest durable, uncommitted request.
    pub max_age: Duration,
    /// WAL bytes; also the most that one commit takes.
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

/// Files that are uploaded and wait for their commit.
#[derive(Debug)]
struct Pending {
    files: Vec<WrittenFile>,
    claim: WalClaim,
    rows: BTreeMap<String, u64>,
    oldest_micros: i64,
}

/// What the flusher brings together.
#[derive(Debug)]
pub struct Parts {
    /// Where durable rows are.
    pub wal: Arc<Wal>,
    /// Where they go.
    pub table: Table,
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
    committed: Position,
    pending: Option<Pending>,
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
            Self::Table(error) => error.is_retryable(),
            Self::Log(error) => matches!(error, ControlError::Io { .. }),
            Self::Read(_) | Self::Payload { .. } | Self::Interrupted(_) => false,
        }
    }
}

impl Flusher {
    /// A flusher that goes on after `committed`, the position that the table names.
    #[must_use]
    pub fn new(parts: Parts, committed: Position) -> Self {
        Self { parts, watch: FlushWatch::default(), committed, pending: None }
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
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.pending.is_none() && self.parts.wal.durable() <= self.committed
    }

    /// Returns when a flush is due: by age, by bytes, or because the service stops.
    async fn wait_until_due(&self, stop: &CancellationToken) {
        if self.pending.is_some() {
            return;
        }
        let mut durable = self.parts.wal.durable_changes();
        let mut due: Option<Instant> = None;
        loop {
            let waiting = *durable.borrow_and_update() > self.committed;
            if stop.is_cancelled()
                || (waiting && self.parts.wal.waiting(self.committed).bytes >= self.parts.options.max_bytes)
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
        let pending = match self.pending.take() {
            Some(pending) => pending,
            None => match self.write_files().await? {
                Some(pending) => pending,
                None => return Ok(()),
            },
        };
        let summary = BTreeMap::from([(
            "esker.rows-by-event".to_owned(),
            serde_json::to_string(&pending.rows).unwrap_or_default(),
        )]);
        if let Err(error) = self.parts.table.append(&pending.files, &pending.claim, &summary).await {
            // The files stay: their commit may yet be found in the table, and a repeated attempt uses them again.
            self.pending = Some(pending);
            return Err(error.into());
        }
        self.released(pending).await
    }

    /// The commit is confirmed: count its rows and let the WAL go.
    async fn released(&mut self, pending: Pending) -> Result<(), FlushError> {
        let now = self.parts.clock.now_micros();
        let through = pending.claim.through;
        self.parts.accounting.committed(&pending.rows);
        self.committed = through;
        match self.parts.wal.release(through).await {
            Ok(_) => {}
            // The span is in the table: what stays of it on disk is harmless, and the next release removes it.
            Err(ControlError::Io { action, path, source }) => {
                tracing::warn!(action, path = %path.display(), %source, "a committed WAL span could not be removed yet");
            }
            Err(error) => return Err(error.into()),
        }
        self.watch.update(|report| {
            report.commits += 1;
            report.last_commit_micros = Some(now);
            report.trouble = None;
        });
        tracing::info!(
            rows = pending.rows.values().sum::<u64>(),
            files = pending.files.len(),
            through = through.0,
            oldest_age_ms = (now - pending.oldest_micros) / 1000,
            "committed"
        );
        Ok(())
    }

    /// Reads the durable frames back and writes them as data files. Sorting and encoding take their time, so this runs on
    /// a thread of its own and the listeners keep theirs.
    async fn write_files(&self) -> Result<Option<Pending>, FlushError> {
        let commit_id = self.parts.ids.next_id();
        let target = self.parts.table.file_target(commit_id)?;
        // A new segment begins here, so that all that is read now can be removed once it is committed.
        let through = self.parts.wal.rotate().await?;
        let frames =
            self.parts.wal.read(self.committed, through).with_bytes_max(self.parts.options.max_bytes);
        let (writer, committed) = (self.parts.writer, self.committed);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            runtime.block_on(write_frames(frames, DataFileWriter::new(target), writer, committed, commit_id))
        })
        .await
        .map_err(FlushError::Interrupted)?
    }
}

async fn write_frames(
    frames: FrameReader,
    mut files: DataFileWriter,
    writer: Writer,
    committed: Position,
    commit_id: Uuid,
) -> Result<Option<Pending>, FlushError> {
    let mut rows = BTreeMap::new();
    let (mut through, mut oldest_micros) = (committed, i64::MAX);
    for frame in frames {
        let frame = frame?;
        through = frame.position;
        oldest_micros = oldest_micros.min(frame.received_micros);
        let batch = Batch::from_ipc(frame.payload)
            .map_err(|source| FlushError::Payload { position: frame.position, source })?;
        for count in batch.event_counts() {
            *rows.entry(count.name).or_default() += count.events;
        }
        files.push(batch.record_batch().clone()).await?;
    }
    if through == committed {
        return Ok(None);
    }
    let claim = WalClaim {
        writer_id: writer.id,
        epoch: writer.epoch,
        from: Position(committed.0 + 1),
        through,
        commit_id,
    };
    Ok(Some(Pending { files: files.finish().await?, claim, rows, oldest_micros }))
}
