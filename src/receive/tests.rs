//! The listeners, driven over real sockets.

mod access;
mod grpc;
mod http;

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Limits;
use super::access::GuardedListener;
use super::budget::MemoryBudget;
use super::reply::{Receipt, Refusal, Sink};
use super::stats::{Outcome, Protocol, ReceiveStats};

const KIB: u64 = 1024;

/// A sink that remembers what it was given, and answers what it was told, when it is let.
#[derive(Debug, Clone)]
struct FakeSink {
    seen: Arc<Mutex<Vec<Bytes>>>,
    answer: Arc<Mutex<Option<Result<Receipt, Refusal>>>>,
    entered: Arc<Semaphore>,
    gate: Arc<Semaphore>,
}

impl FakeSink {
    fn new() -> Self {
        Self {
            seen: Arc::default(),
            answer: Arc::new(Mutex::new(Some(Ok(Receipt::default())))),
            entered: Arc::new(Semaphore::new(0)),
            gate: Arc::new(Semaphore::new(1000)),
        }
    }

    /// A sink that answers only as often as `gate` gets permits.
    fn held() -> Self {
        Self { gate: Arc::new(Semaphore::new(0)), ..Self::new() }
    }

    fn answers(answer: Result<Receipt, Refusal>) -> Self {
        Self { answer: Arc::new(Mutex::new(Some(answer))), ..Self::new() }
    }

    fn panics() -> Self {
        Self { answer: Arc::default(), ..Self::new() }
    }

    /// Waits until one more request has arrived.
    async fn entered(&self) {
        let entered = tokio::time::timeout(Duration::from_secs(20), self.entered.acquire()).await;
        entered.expect("the request reaches the sink").unwrap().forget();
    }

    fn release(&self, requests: usize) {
        self.gate.add_permits(requests);
    }

    fn seen(&self) -> Vec<Bytes> {
        self.seen.lock().unwrap().clone()
    }
}

impl Sink for FakeSink {
    async fn accept(&self, request: Bytes) -> Result<Receipt, Refusal> {
        self.seen.lock().unwrap().push(request);
        self.entered.add_permits(1);
        self.gate.acquire().await.unwrap().forget();
        let answer = self.answer.lock().unwrap().clone();
        answer.expect("a sink that panics")
    }
}

/// A listener under test.
struct Service {
    address: SocketAddr,
    sink: FakeSink,
    stats: Arc<ReceiveStats>,
    budget: MemoryBudget,
    stop: CancellationToken,
    ended: JoinHandle<std::io::Result<()>>,
}

#[derive(Clone, Copy)]
enum Listener {
    Http,
    Grpc,
}

impl Service {
    async fn start(listener: Listener, sink: FakeSink, limits: Limits, budget: MemoryBudget) -> Self {
        Self::guarded(listener, sink, limits, budget, GuardedListener::open).await
    }

    async fn guarded(
        listener: Listener,
        sink: FakeSink,
        limits: Limits,
        budget: MemoryBudget,
        guard: impl FnOnce(TcpListener) -> GuardedListener,
    ) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let socket = guard(socket);
        let (stats, stop) = (Arc::new(ReceiveStats::default()), CancellationToken::new());
        let (parts, stopped) =
            ((sink.clone(), budget.clone(), Arc::clone(&stats)), stop.clone().cancelled_owned());
        let ended = match listener {
            Listener::Http => {
                tokio::spawn(super::http::serve(socket, parts.0, limits, parts.1, parts.2, stopped))
            }
            Listener::Grpc => {
                tokio::spawn(super::grpc::serve(socket, parts.0, limits, parts.1, parts.2, stopped))
            }
        };
        Self { address, sink, stats, budget, stop, ended }
    }

    async fn http(sink: FakeSink) -> Self {
        Self::start(Listener::Http, sink, small(), MemoryBudget::default()).await
    }

    async fn grpc(sink: FakeSink) -> Self {
        Self::start(Listener::Grpc, sink, small(), MemoryBudget::default()).await
    }

    /// Stops the listener, which must end by itself.
    async fn stop(self) {
        self.stop.cancel();
        self.ended.await.unwrap().unwrap();
        assert_eq!((self.stats.connections_open(), self.budget.in_use()), (0, 0));
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn connect_h2(&self) -> SendRequest<Full<Bytes>> {
        let stream = TokioIo::new(self.connect().await);
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// Sends an HTTP/1.1 request whose body is complete, and reads the answer until the connection ends.
    async fn send(&self, head: &str, body: &[u8]) -> Reply {
        let head =
            format!("{head}\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        exchange(self.connect().await, [head.as_bytes(), body].concat()).await
    }

    async fn post(&self, content_type: &str, body: &[u8]) -> Reply {
        self.send(&format!("POST /v1/logs HTTP/1.1\r\ncontent-type: {content_type}"), body).await
    }

    fn count(&self, protocol: Protocol, outcome: Outcome) -> u64 {
        self.stats.requests(protocol, outcome)
    }
}

/// Limits that a test reaches easily.
fn small() -> Limits {
    Limits { request_bytes_max: 256 * KIB, drain_time_max: Duration::from_secs(30), ..Limits::default() }
}

/// Writes and reads at the same time, because the answer may come before everything is written.
async fn exchange(stream: TcpStream, bytes: Vec<u8>) -> Reply {
    let (mut reader, mut writer) = stream.into_split();
    let writing = tokio::spawn(async move {
        // The server may close before it has everything.
        drop(writer.write_all(&bytes).await);
        writer
    });
    let mut answer = Vec::new();
    reader.read_to_end(&mut answer).await.unwrap();
    drop(writing.await.unwrap());
    Reply::parse(&answer)
}

/// An HTTP/1.1 answer.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn parse(answer: &[u8]) -> Self {
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer with a head");
        let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: answer[end + 4..].to_vec() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// An HTTP/2 answer.
#[derive(Debug)]
struct H2Reply {
    status: StatusCode,
    headers: HeaderMap,
    trailers: HeaderMap,
    body: Bytes,
}

async fn send_h2(sender: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> H2Reply {
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    H2Reply { status: head.status, headers: head.headers, trailers, body: body.to_bytes() }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// Waits for what another task is about to do.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("did not happen: {what}");
}

/// A body of `first` that then never goes on.
fn stalling(first: Bytes) -> impl hyper::body::Body<Data = Bytes, Error = std::convert::Infallible> {
    struct Stalling(Option<Bytes>);
    impl hyper::body::Body for Stalling {
        type Data = Bytes;
        type Error = std::convert::Infallible;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
            match self.0.take() {
                Some(bytes) => std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(bytes)))),
                None => std::pin::pin!(pending()).poll(context),
            }
        }
    }
    Stalling(Some(first))
}
