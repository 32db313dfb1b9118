//! The first half of the journey: request -> cleared events -> durable frame -> receipt.
//!
//! Owns: the order of the steps, and that a request which is already durable is answered without storing it again. Does not
//! own: protocols (`receive`), rules (`privacy`), the table.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::accounting::{Accounting, Delta};
use crate::clock::Clock;
use crate::columns::{BundleWriter, CELLS_MAX, EncodeError, Encoder, OutcomeCounts, quarantine, withdrawals};
use crate::drift::DriftStore;
use crate::privacy::{Cleared, Gate, Silent, StatedWithdrawal};
use crate::receive::decode::{NameFallback, RawEvents};
use crate::receive::reply::{Receipt, Refusal, Sink};
use crate::wal::{AppendError, Claim, NewFrame, RetryWindow, Wal};

/// Requests up to this size are cleared on the task that received them; larger ones would keep its thread from other
/// connections for milliseconds and go to the blocking pool.
const INLINE_BYTES_MAX: usize = 256 << 10;

const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Records up to this number are cleared on the task that received them. A small body may hold a great many empty records,
/// and each of those may become a row of every column.
const INLINE_RECORDS_MAX: usize = 2048;

/// Larger requests that are taken at a time, from their decoding until they are durable. Such a request can take ten times
/// the memory of its body: what bounds the memory of the service is that they do so one after another. (An SDK's batch of
/// 512 records, and a Collector's of some thousand, is not large.)
const LARGE_REQUESTS_MAX: usize = 1;

/// Bytes of encoded rows that may wait for the WAL. What is over it is refused for now: the client sends again.
const WAITING_BYTES_MAX: usize = 32 << 20;

/// Takes requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Intake {
    parts: Arc<Parts>,
    large: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// What the intake brings together.
#[derive(Debug)]
pub struct Parts {
    /// Where event names are found.
    pub names: NameFallback,
    /// The privacy gate.
    pub gate: Gate,
    /// Arrow encoding.
    pub encoder: Encoder,
    /// The table of events that are set aside.
    pub quarantine: String,
    /// The table of withdrawals of consent.
    pub withdrawals: String,
    /// The log.
    pub wal: Arc<Wal>,
    /// Requests that were taken lately.
    pub window: RetryWindow,
    /// Event counts.
    pub accounting: Arc<Accounting>,
    /// What arrives undeclared.
    pub drift: Arc<DriftStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// A request that passed the gate.
struct Prepared {
    digest: [u8; 16],
    delta: Delta,
    received_micros: i64,
    withdrawals: Vec<StatedWithdrawal>,
    /// None where nothing is left to store.
    payload: Option<(u32, Bytes)>,
}

/// The request is too large to be prepared on the task that received it.
struct Large;

impl Intake {
    /// Brings the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            parts: Arc::new(parts),
            large: Arc::new(Semaphore::new(LARGE_REQUESTS_MAX)),
            waiting: Arc::new(Semaphore::new(WAITING_BYTES_MAX)),
        }
    }

    /// Takes a large request, when its turn comes.
    async fn accept_large(&self, request: Bytes) -> Result<Receipt, Refusal> {
        let _turn = Arc::clone(&self.large).acquire_owned().await.map_err(|_| stopped())?;
        let parts = Arc::clone(&self.parts);
        let prepared = tokio::task::spawn_blocking(move || parts.prepare(&request, usize::MAX))
            .await
            .map_err(|_| stopped())?;
        match prepared? {
            Ok(prepared) => self.parts.store(prepared).await,
            Err(Large) => Err(unencoded()),
        }
    }
}

impl Sink for Intake {
    // The receiver runs this in a task of its own, so that a client that goes away leaves no frame half accounted for.
    async fn accept(&self, request: Bytes) -> Result<Receipt, Refusal> {
        if request.len() > INLINE_BYTES_MAX {
            return self.accept_large(request).await;
        }
        match self.parts.prepare(&request, INLINE_RECORDS_MAX)? {
            Ok(prepared) => {
                drop(request);
                let bytes = prepared.payload.as_ref().map_or(0, |(_, payload)| payload.len());
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                let _waiting = self.waiting.try_acquire_many(bytes).map_err(|_| Refusal::Overloaded {
                    limit: "the memory of rows that wait for the write-ahead log",
                    retry_after: RETRY_AFTER,
                })?;
                self.parts.store(prepared).await
            }
            Err(Large) => self.accept_large(request).await,
        }
    }
}

impl Parts {
    /// Decodes, clears and encodes. No I/O. A request of more than `records_max` records is left alone.
    fn prepare(&self, request: &[u8], records_max: usize) -> Result<Result<Prepared, Large>, Refusal> {
        let received_micros = self.clock.now_micros();
        let raw = RawEvents::decode(request, &self.names)?;
        if raw.records().len() > records_max {
            return Ok(Err(Large));
        }
        let cleared = self.gate.clear(&raw, received_micros, &mut Silent);
        self.drift.merge(&self.gate, cleared.drift(), received_micros);
        let payload = self.payload(&cleared, received_micros)?;
        Ok(Ok(Prepared {
            digest: cleared.request_digest(),
            delta: Delta::of(cleared.tally(), self.gate.registry()),
            received_micros,
            withdrawals: cleared.withdrawals().to_vec(),
            payload,
        }))
    }

    /// All rows of the request as one payload, so that one frame makes them durable in all tables or in none. None where
    /// nothing is to be stored.
    fn payload(&self, cleared: &Cleared<'_>, received_micros: i64) -> Result<Option<(u32, Bytes)>, Refusal> {
        let batches = self.encoder.encode(cleared, received_micros).map_err(refuse_unencoded)?;
        let set_aside = match cleared.quarantined() {
            [] => None,
            events => {
                let version = self.gate.policy_version();
                Some(quarantine::encode(events, version, received_micros).map_err(refuse_unencoded)?)
            }
        };
        // Of its own, whatever became of its event: a withdrawal may be all that there is to store.
        let copies = match cleared.withdrawals() {
            [] => None,
            stated => {
                let version = self.gate.policy_version();
                Some(withdrawals::encode(stated, version, received_micros).map_err(refuse_unencoded)?)
            }
        };
        if batches.is_empty() && set_aside.is_none() && copies.is_none() {
            return Ok(None);
        }
        let every_batch = batches.iter().map(|(_, batch)| batch).chain(&set_aside).chain(&copies);
        let mut bundle = BundleWriter::for_batches(every_batch);
        let mut rows = 0;
        for (table, batch) in &batches {
            let name = self.gate.tables().nth(usize::from(*table)).ok_or_else(unencoded)?;
            bundle.rows(name, batch).map_err(|_| unencoded())?;
            rows += batch.rows();
        }
        if let Some(batch) = &set_aside {
            bundle.rows(&self.quarantine, batch).map_err(|_| unencoded())?;
            rows += batch.rows();
        }
        if let Some(copies) = &copies {
            bundle.rows(&self.withdrawals, copies).map_err(|_| unencoded())?;
        }
        let outcomes = OutcomeCounts::of(cleared.tally(), self.gate.policy_version());
        bundle.outcomes(&outcomes).map_err(|_| unencoded())?;
        Ok(Some((u32::try_from(rows).map_err(|_| unencoded())?, bundle.finish())))
    }

    /// Makes the rows durable, once.
    async fn store(&self, prepared: Prepared) -> Result<Receipt, Refusal> {
        let Prepared { digest, delta, received_micros, withdrawals, payload } = prepared;
        let receipt = Receipt { rejected: delta.rejected(), message: delta.message() };
        let Some((events, payload)) = payload else {
            self.accounting.received(&delta);
            return Ok(receipt);
        };
        let guard = loop {
            match self.window.claim(digest, received_micros) {
                Claim::New(guard) => break guard,
                Claim::Durable(_) => {
                    self.accounting.received(&delta.into_duplicates());
                    return Ok(receipt);
                }
                // The same request is being written: its fate is this one's fate, or this one's turn comes.
                Claim::InFlight(other) => drop(other.settled().await),
            }
        };
        self.accounting.received(&delta);
        match self.wal.append_claimed(NewFrame { digest, received_micros, events, payload }, guard).await {
            Ok(_) => {
                self.accounting.stored(&delta);
                // Durable now, so they hold from now on, also after a restart.
                for one in &withdrawals {
                    self.gate.withdrawn().insert(&one.subject, one.statement(received_micros));
                }
                Ok(receipt)
            }
            Err(error) => {
                self.accounting.not_stored(&delta, "wal_unavailable");
                Err(refusal(&error))
            }
        }
    }
}

fn refusal(error: &AppendError) -> Refusal {
    match error {
        AppendError::Full { .. } => Refusal::Overloaded { limit: "wal.max_bytes", retry_after: RETRY_AFTER },
        AppendError::NoSpace | AppendError::Io { .. } => Refusal::Unavailable {
            reason: "the data directory cannot be written, its disk may be full",
            retry_after: RETRY_AFTER,
        },
        AppendError::Poisoned(_) => {
            Refusal::Unavailable { reason: "the write-ahead log failed to sync", retry_after: RETRY_AFTER }
        }
        AppendError::Closed => stopped(),
        AppendError::TooLarge { bytes_max, .. } => Refusal::TooLarge { limit: *bytes_max },
    }
}

fn refuse_unencoded(error: EncodeError) -> Refusal {
    match error {
        // The rows would take too much memory; the same bytes would do so for ever.
        EncodeError::TooManyCells { .. } | EncodeError::TooMuchText => {
            Refusal::TooMany { what: "cells", limit: CELLS_MAX }
        }
        _ => unencoded(),
    }
}

fn unencoded() -> Refusal {
    Refusal::Unavailable { reason: "the events could not be encoded", retry_after: RETRY_AFTER }
}

fn stopped() -> Refusal {
    Refusal::Unavailable { reason: "the service is stopping", retry_after: RETRY_AFTER }
}
