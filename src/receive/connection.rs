//! Listeners and connections: accepting, time-outs, and the way they end.
//!
//! Owns: how many connections there are, how long they may be silent (their TLS handshakes included), and the drain at
//! shutdown. Does not own: requests, certificates (`access`).

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{HeaderMap, Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::{Channel, Entrance, GuardedListener, handshake};
use super::limits::Limits;
use super::stats::ReceiveStats;

/// A request's head may be this large.
const HEAD_BYTES_MAX: u32 = 16 * 1024;

/// What hyper may buffer of an HTTP/1 connection.
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;

/// What a client may send on an HTTP/2 stream and connection before it is read. Bodies are read at once, so that it fills
/// up only where the machine is too slow; larger windows are needed only over long distances.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;

/// How often an HTTP/2 client is asked whether it is still there, and how long it may take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long accepting pauses where the process has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How long a connection that is to close may go on without a request that begins, runs or ends. hyper says goodbye first,
/// but does not end a connection whose client sent half a head, or answers no ping.
const CLOSING_SILENCE: Duration = Duration::from_secs(1);

/// Marks an answer after which the connection closes, so that a stranger does not keep its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastAnswer;

/// Answers a request.
pub(super) trait Handler: Clone + Send + Sync + 'static {
    fn handle(&self, request: Request<Incoming>) -> impl Future<Output = Response<ReplyBody>> + Send;
}

/// Which versions of HTTP a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Versions {
    Http1And2,
    Http2,
}

/// Accepts and serves connections until `shutdown` ends, and then until the requests in flight ended or the limit of the
/// drain is reached. `accepting` holds work that requests left behind. `closing` is cancelled when the drain begins.
pub(super) async fn serve<H: Handler>(
    listener: GuardedListener,
    versions: Versions,
    handler: H,
    (accepting, closing): (TaskTracker, CancellationToken),
    limits: Arc<Limits>,
    stats: Arc<ReceiveStats>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let connections = Connections {
        slots: Arc::new(Semaphore::new(limits.connections_max.clamp(1, Semaphore::MAX_PERMITS))),
        builder: Arc::new(builder(versions, &limits)),
        handler,
        entrance: listener.entrance,
        stats,
        tasks: TaskTracker::new(),
        closing,
        aborting: CancellationToken::new(),
        limits,
    };
    let accepted = connections.accept_until(listener.listener, shutdown).await;
    connections.drain(accepting).await;
    accepted
}

fn builder(versions: Versions, limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    if versions == Versions::Http2 {
        builder = builder.http2_only();
    }
    builder
        .http1()
        .timer(TokioTimer::new())
        // hyper's time for a head includes the pause before it; the first head's own limit is kept below.
        .header_read_timeout(limits.idle_time_max)
        .max_buf_size(HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(HEAD_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Everything that the connections of one listener share.
#[derive(Debug)]
struct Connections<H> {
    slots: Arc<Semaphore>,
    builder: Arc<Builder<TokioExecutor>>,
    handler: H,
    entrance: Entrance,
    stats: Arc<ReceiveStats>,
    tasks: TaskTracker,
    closing: CancellationToken,
    aborting: CancellationToken,
    limits: Arc<Limits>,
}

impl<H: Handler> Connections<H> {
    async fn accept_until(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => return Ok(()),
                accepted = accept(&listener, &self.slots) => accepted,
            };
            match accepted {
                Ok((stream, slot)) => self.spawn(stream, slot),
                Err(error) => match after_failed_accept(&error) {
                    AfterFailure::Continue => {}
                    AfterFailure::Pause => {
                        tracing::warn!(%error, "cannot accept a connection; raise the limit of open files");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    AfterFailure::Stop => return Err(error),
                },
            }
        }
    }

    fn spawn(&self, stream: TcpStream, slot: OwnedSemaphorePermit) {
        // Answers are small and awaited. Where it cannot be set, they are only slower.
        drop(stream.set_nodelay(true));
        let connection = Connection {
            builder: Arc::clone(&self.builder),
            handler: self.handler.clone(),
            entrance: self.entrance.clone(),
            limits: Arc::clone(&self.limits),
            closing: self.closing.clone(),
        };
        let (stats, aborting) = (Arc::clone(&self.stats), self.aborting.clone());
        self.tasks.spawn(async move {
            let _open = stats.open_connection();
            let _slot = slot;
            aborting.run_until_cancelled(Box::pin(connection.serve(stream))).await
        });
    }

    /// Lets the requests in flight end, within the limit.
    async fn drain(&self, accepting: TaskTracker) {
        let deadline = Instant::now() + self.limits.drain_time_max;
        self.closing.cancel();
        self.tasks.close();
        accepting.close();
        let ended = timeout_at(deadline, async {
            self.tasks.wait().await;
            accepting.wait().await;
        });
        if ended.await.is_err() {
            tracing::warn!(
                limit_s = self.limits.drain_time_max.as_secs_f32(),
                connections = self.tasks.len(),
                requests = accepting.len(),
                "the drain's limit was reached; closing the connections that are left"
            );
            self.aborting.cancel();
            self.tasks.wait().await;
        }
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

enum AfterFailure {
    Continue,
    Pause,
    Stop,
}

/// Most faults of `accept` are those of one connection, or pass.
fn after_failed_accept(error: &io::Error) -> AfterFailure {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, InvalidInput};
    match error.kind() {
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted => AfterFailure::Continue,
        // The listener itself is no listener (any more).
        InvalidInput => AfterFailure::Stop,
        _ => AfterFailure::Pause,
    }
}

/// One connection's task.
struct Connection<H> {
    builder: Arc<Builder<TokioExecutor>>,
    handler: H,
    entrance: Entrance,
    limits: Arc<Limits>,
    closing: CancellationToken,
}

impl<H: Handler> Connection<H> {
    /// Serves until the client closes, the connection was silent for too long, or the listener drains.
    async fn serve(self, stream: TcpStream) {
        // One limit for the handshake and the first request's head together.
        let deadline = Instant::now() + self.limits.head_time_max;
        let entering = handshake(stream, self.entrance.tls(), deadline);
        match self.closing.run_until_cancelled(entering).await {
            Some(Ok(channel)) => self.serve_requests(channel, deadline).await,
            Some(Err(failure)) => self.entrance.count_failure(failure),
            // No request can have come through it yet.
            None => {}
        }
    }

    async fn serve_requests(self, channel: Channel, head_deadline: Instant) {
        let activity = Arc::new(Activity::default());
        let service = service_fn(|request| {
            let (handler, running) = (self.handler.clone(), Activity::begin(&activity));
            async move {
                let is_http1 = request.version() < Version::HTTP_2;
                let mut response = handler.handle(request).await;
                if response.extensions().get::<LastAnswer>().is_some() {
                    running.close_connection();
                    if is_http1 {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                }
                drop(running);
                Ok::<_, Infallible>(response)
            }
        });
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(channel), service));
        let mut seen = 0;
        let mut closing = false;
        let mut silence = pin!(sleep_until(head_deadline));
        loop {
            tokio::select! {
                // A broken connection concerns its client alone, which will see it.
                _ = connection.as_mut() => return,
                () = self.closing.cancelled(), if !closing => {}
                () = activity.last_answer.notified(), if !closing => {}
                () = silence.as_mut() => {
                    let is_silent = activity.silent_since(&mut seen);
                    if is_silent && closing {
                        return;
                    }
                    if !is_silent {
                        let pause = if closing { CLOSING_SILENCE } else { self.limits.idle_time_max };
                        silence.as_mut().reset(Instant::now() + pause);
                        continue;
                    }
                }
            }
            closing = true;
            connection.as_mut().graceful_shutdown();
            silence.as_mut().reset(Instant::now() + CLOSING_SILENCE);
        }
    }
}

/// Requests of one connection.
#[derive(Debug, Default)]
struct Activity {
    /// Requests that began, and requests that ended.
    changes: AtomicU64,
    running: AtomicU64,
    last_answer: Notify,
}

impl Activity {
    fn begin(this: &Arc<Self>) -> Running {
        this.changes.fetch_add(1, Relaxed);
        this.running.fetch_add(1, Relaxed);
        Running(Arc::clone(this))
    }

    /// Whether nothing began, ran or ended since `seen`, which is brought up to date.
    fn silent_since(&self, seen: &mut u64) -> bool {
        let changes = self.changes.load(Relaxed);
        let silent = changes == *seen && self.running.load(Relaxed) == 0;
        *seen = changes;
        silent
    }
}

/// A request that runs until this is dropped.
struct Running(Arc<Activity>);

impl Running {
    /// Has the connection close once its requests are answered.
    fn close_connection(&self) {
        self.0.last_answer.notify_one();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.changes.fetch_add(1, Relaxed);
        self.0.running.fetch_sub(1, Relaxed);
    }
}

/// An answer's body: one piece of data and, for gRPC, trailers.
#[derive(Debug, Default)]
pub(super) struct ReplyBody {
    pub(super) data: Option<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.data.take().map(Frame::data);
        let frame = data.or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, Bytes::len) as u64)
    }
}
