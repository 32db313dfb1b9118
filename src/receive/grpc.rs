//! OTLP/gRPC: the unary call `LogsService/Export`.
//!
//! Owns: gRPC's framing of one message, its compression, and the trailers of answers. Does not own: which status a
//! refusal has (`reply`).
//!
//! gRPC is spoken here directly over HTTP/2. One unary method needs few lines, and a message's bytes so come under the
//! memory budget from the first one on, which a general server's own buffers would not.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::access::GuardedListener;
use super::budget::MemoryBudget;
use super::connection::{self, Handler, LastAnswer, ReplyBody, Versions};
use super::exchange::{Exchange, Received, outcome};
use super::inflate::{Encoding, inflate};
use super::limits::Limits;
use super::reply::{GrpcCode, Receipt, Refusal, Sink};
use super::stats::{Protocol, ReceiveStats};

const EXPORT_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const TRACES_PREFIX: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/";
const METRICS_PREFIX: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/";

/// A message's prefix: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Serves OTLP/gRPC on `listener` (HTTP/2 with prior knowledge) until `shutdown` ends. Then no connection is accepted any
/// more, and requests in flight get their answers, within `limits.drain_time_max`.
///
/// # Errors
/// Where the listener itself fails.
pub async fn serve<S: Sink>(
    listener: GuardedListener,
    sink: S,
    limits: Limits,
    budget: MemoryBudget,
    stats: Arc<ReceiveStats>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let exchange = Exchange::new(sink, listener.entrance.clone(), limits, budget, Arc::clone(&stats));
    let drained = (exchange.accepting.clone(), exchange.closing.clone());
    let limits = Arc::clone(&exchange.limits);
    let handler = GrpcHandler(exchange);
    connection::serve(listener, Versions::Http2, handler, drained, limits, stats, shutdown).await
}

#[derive(Debug, Clone)]
struct GrpcHandler<S>(Exchange<S>);

impl<S: Sink> Handler for GrpcHandler<S> {
    async fn handle(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let count = self.0.count(Protocol::Grpc);
        let (head, mut body) = request.into_parts();
        // Who does not speak gRPC is answered in plain HTTP, as gRPC has it.
        let not_grpc = not_grpc(&head);
        let admitted = self.0.admit(head, &mut body, false).await;
        let is_denied = admitted.is_err();
        let mut response = if let Some(refusal) = not_grpc {
            let refusal = match admitted {
                Ok(_) => {
                    self.0.turn_away(body, false).await;
                    refusal
                }
                Err(denied) => denied,
            };
            count.end(refusal.status().outcome);
            plain(refusal.status().http)
        } else {
            let result = match admitted {
                Ok(head) => self.export(&head, body).await,
                Err(denied) => Err(denied),
            };
            count.end(outcome(&result));
            response(&result)
        };
        if is_denied {
            response.extensions_mut().insert(LastAnswer);
        }
        response
    }
}

impl<S: Sink> GrpcHandler<S> {
    async fn export(&self, head: &http::request::Parts, body: Incoming) -> Result<Receipt, Refusal> {
        let encoding = match check(head) {
            Ok(encoding) => encoding,
            Err(refusal) => {
                self.0.turn_away(body, false).await;
                return Err(refusal);
            }
        };
        let received = self.0.receive(body, PREFIX_BYTES as u64, false).await?;
        let wire_bytes = received.bytes.len();
        let request = self.open(received, encoding)?;
        self.0.stats.count_bytes(Protocol::Grpc, wire_bytes, request.bytes.len());
        self.0.hand_over(request).await
    }

    /// Takes the one message out of the body.
    fn open(&self, received: Received, encoding: Encoding) -> Result<Received, Refusal> {
        let Received { mut bytes, mut reservation } = received;
        let limit = self.0.limits.request_bytes_max;
        let Some([compressed, length @ ..]) = bytes.first_chunk::<PREFIX_BYTES>().copied() else {
            return Err(Refusal::Malformed("the gRPC message has no prefix"));
        };
        let message = bytes.split_off(PREFIX_BYTES);
        if message.len() as u64 != u64::from(u32::from_be_bytes(length)) {
            return Err(Refusal::Malformed("the gRPC body is not exactly one message"));
        }
        let bytes = match compressed {
            0 => message,
            1 if encoding == Encoding::Identity => {
                return Err(Refusal::Malformed(
                    "the gRPC message is compressed, but grpc-encoding names nothing",
                ));
            }
            1 => inflate(encoding, message, limit, &mut reservation)?,
            _ => return Err(Refusal::Malformed("the gRPC message's compressed flag is neither 0 nor 1")),
        };
        Ok(Received { bytes, reservation })
    }
}

fn not_grpc(head: &http::request::Parts) -> Option<Refusal> {
    let is_grpc = head.headers.get(CONTENT_TYPE).is_some_and(|value| is_grpc_type(value.as_bytes()));
    if head.method != Method::POST {
        Some(Refusal::WrongMethod)
    } else if !is_grpc {
        Some(Refusal::UnsupportedType)
    } else {
        None
    }
}

/// `application/grpc` and its message formats; but not gRPC-Web, and no message format but protobuf.
fn is_grpc_type(value: &[u8]) -> bool {
    let essence = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    [&b"application/grpc"[..], b"application/grpc+proto"]
        .iter()
        .any(|known| essence.eq_ignore_ascii_case(known))
}

fn check(head: &http::request::Parts) -> Result<Encoding, Refusal> {
    match head.uri.path() {
        EXPORT_PATH => Encoding::of(&head.headers, GRPC_ENCODING),
        path if path.starts_with(TRACES_PREFIX) => {
            Err(Refusal::NotServed("traces are not taken here; Esker takes LogsService/Export only"))
        }
        path if path.starts_with(METRICS_PREFIX) => {
            Err(Refusal::NotServed("metrics are not taken here; Esker takes LogsService/Export only"))
        }
        _ => Err(Refusal::NotServed("this method is not served; Esker takes LogsService/Export only")),
    }
}

fn response(result: &Result<Receipt, Refusal>) -> Response<ReplyBody> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
    headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity,gzip,zstd"));
    let body = match result {
        Ok(receipt) => {
            let mut trailers = HeaderMap::new();
            trailers.insert(GRPC_STATUS, HeaderValue::from(GrpcCode::Ok as i32));
            ReplyBody { data: Some(message(&receipt.response_protobuf())), trailers: Some(trailers) }
        }
        Err(refusal) => {
            headers.extend(status_headers(refusal));
            ReplyBody::default()
        }
    };
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    response
}

/// The status in the headers, where an answer has no message.
fn status_headers(refusal: &Refusal) -> HeaderMap {
    let status = refusal.status();
    let mut headers = HeaderMap::new();
    headers.insert(GRPC_STATUS, HeaderValue::from(status.grpc as i32));
    let details = STANDARD_NO_PAD.encode(refusal.status_protobuf());
    for (name, value) in
        [(GRPC_MESSAGE, percent_encoded(&refusal.to_string())), (GRPC_STATUS_DETAILS, details)]
    {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    headers
}

/// gRPC's own encoding of messages: everything but printable ASCII, and `%`.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

fn message(payload: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX_BYTES + payload.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    framed.put_slice(payload);
    framed.freeze()
}

fn plain(status: StatusCode) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::default());
    *response.status_mut() = status;
    response
}
