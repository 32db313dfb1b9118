//! What both protocols do with a request: read it within the limits, hand it to the sink, count its end.
//!
//! Owns: the order of these steps and the life of the memory that a request holds. Does not own: how a protocol frames
//! requests and answers.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http_body::Body;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Entrance;
use super::body;
use super::budget::{MemoryBudget, Reservation};
use super::limits::Limits;
use super::reply::{Receipt, Refusal, Sink};
use super::stats::{Outcome, Protocol, ReceiveStats, RequestCount};

/// What a request takes besides its body: tasks, headers, buffers. It bounds how many requests there can be at a time.
const REQUEST_BYTES_MIN: u64 = 8 * 1024;

/// How long a client waits where its request's task died.
const RETRY_AFTER_FAILURE: std::time::Duration = std::time::Duration::from_secs(5);

/// How much of a refused body is read and thrown away, as a multiple of the request limit. A client that is still sending
/// when the connection closes sees a broken connection instead of the answer, and then sends the same again.
const DISCARD_REQUESTS_MAX: u64 = 4;

/// How much of a body that has no valid token is read and thrown away, so that an honest client with a wrong token sees the
/// answer; SDKs send some 200 KiB. A stranger's larger body ends with the connection.
const DISCARD_STRANGER_BYTES_MAX: u64 = 1024 * 1024;

/// One listener's share in everything that requests need. Cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct Exchange<S> {
    sink: S,
    entrance: Entrance,
    pub(super) limits: Arc<Limits>,
    budget: MemoryBudget,
    pub(super) stats: Arc<ReceiveStats>,
    /// Requests that the sink is working on. They outlive their connections.
    pub(super) accepting: TaskTracker,
    /// Cancelled when the listener drains. The rest of a refused body is not waited for then.
    pub(super) closing: CancellationToken,
    /// Places for bodies without a valid token.
    strangers: Arc<Semaphore>,
}

/// A body that was read, and the memory that it holds.
pub(super) struct Received {
    pub(super) bytes: Bytes,
    pub(super) reservation: Reservation,
}

impl<S: Sink> Exchange<S> {
    pub(super) fn new(
        sink: S,
        entrance: Entrance,
        limits: Limits,
        budget: MemoryBudget,
        stats: Arc<ReceiveStats>,
    ) -> Self {
        let strangers = Arc::new(Semaphore::new(limits.strangers_max.min(Semaphore::MAX_PERMITS)));
        Self {
            sink,
            entrance,
            limits: Arc::new(limits),
            budget,
            stats,
            accepting: TaskTracker::new(),
            closing: CancellationToken::new(),
            strangers,
        }
    }

    /// Reads a body of at most the request limit and `framing_bytes`. Where it is refused, the rest of it is read too and
    /// thrown away, unless the client waits for a `100 Continue` and has not sent it.
    pub(super) async fn receive<B>(
        &self,
        mut body: B,
        framing_bytes: u64,
        awaits_continue: bool,
    ) -> Result<Received, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let deadline = Instant::now() + self.limits.request_time_max;
        let received = self.read(&mut body, framing_bytes, deadline).await;
        if received.is_err() && !awaits_continue {
            self.discard(&mut body, self.discarded_bytes_max(), deadline).await;
        }
        received
    }

    /// Judges a request by its head, before anything of its body is read. The body of one that is refused is for the
    /// most part not read at all, and its head is not held meanwhile.
    pub(super) async fn admit<B>(
        &self,
        head: Parts,
        body: &mut B,
        awaits_continue: bool,
    ) -> Result<Parts, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let Err(denied) = self.entrance.admit(&head.headers) else { return Ok(head) };
        drop(head);
        if !awaits_continue && let Ok(_place) = self.strangers.try_acquire() {
            let deadline = Instant::now() + self.limits.head_time_max;
            self.discard(body, DISCARD_STRANGER_BYTES_MAX, deadline).await;
        }
        Err(denied)
    }

    /// Gets rid of the body of a request that its head already condemned.
    pub(super) async fn turn_away<B>(&self, mut body: B, awaits_continue: bool)
    where
        B: Body<Data = Bytes> + Unpin,
    {
        if !awaits_continue {
            let deadline = Instant::now() + self.limits.request_time_max;
            self.discard(&mut body, self.discarded_bytes_max(), deadline).await;
        }
    }

    async fn discard<B>(&self, body: &mut B, bytes_max: u64, deadline: Instant)
    where
        B: Body<Data = Bytes> + Unpin,
    {
        self.closing.run_until_cancelled(body::discard(body, bytes_max, deadline)).await;
    }

    fn discarded_bytes_max(&self) -> u64 {
        self.limits.request_bytes_max.saturating_mul(DISCARD_REQUESTS_MAX)
    }

    async fn read<B>(&self, body: &mut B, framing_bytes: u64, deadline: Instant) -> Result<Received, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let mut reservation = self.budget.reserve(REQUEST_BYTES_MIN)?;
        let bytes_max = self.limits.request_bytes_max.saturating_add(framing_bytes);
        let bytes = body::read(body, bytes_max, &mut reservation, &self.limits, deadline).await?;
        Ok(Received { bytes, reservation })
    }

    /// Hands a request to the sink and waits for its fate. The memory is free again when the sink is done with it, whether
    /// or not the client still waits.
    pub(super) async fn hand_over(&self, request: Received) -> Result<Receipt, Refusal> {
        let sink = self.sink.clone();
        let accepting = self.accepting.spawn(async move {
            let outcome = sink.accept(request.bytes).await;
            drop(request.reservation);
            outcome
        });
        accepting.await.unwrap_or(Err(Refusal::Unavailable {
            reason: "the task that took the request failed",
            retry_after: RETRY_AFTER_FAILURE,
        }))
    }

    /// Counts a request from its head on.
    pub(super) fn count(&self, protocol: Protocol) -> RequestCount<'_> {
        RequestCount::new(&self.stats, protocol)
    }
}

/// How a request is counted.
pub(super) fn outcome(result: &Result<Receipt, Refusal>) -> Outcome {
    match result {
        Ok(receipt) => receipt.outcome(),
        Err(refusal) => refusal.status().outcome,
    }
}
