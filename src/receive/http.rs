//! OTLP/HTTP: `POST /v1/logs` with protobuf or JSON.
//!
//! Owns: paths, methods, content types and the framing of answers. Does not own: which status a refusal has (`reply`).

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap, HeaderValue,
    RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Method, Request, Response};
use hyper::body::Incoming;

use super::access::GuardedListener;
use super::budget::MemoryBudget;
use super::connection::{self, Handler, LastAnswer, ReplyBody, Versions};
use super::exchange::{Exchange, Received, outcome};
use super::inflate::{Encoding, inflate};
use super::json;
use super::limits::Limits;
use super::reply::{Receipt, Refusal, Sink, challenge, seconds};
use super::stats::{Protocol, ReceiveStats};

/// Serves OTLP/HTTP on `listener` (HTTP/1.1, and HTTP/2 with prior knowledge) until `shutdown` ends. Then no connection
/// is accepted any more, and requests in flight get their answers, within `limits.drain_time_max`.
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
    let handler = HttpHandler(exchange);
    connection::serve(listener, Versions::Http1And2, handler, drained, limits, stats, shutdown).await
}

#[derive(Debug, Clone)]
struct HttpHandler<S>(Exchange<S>);

impl<S: Sink> Handler for HttpHandler<S> {
    async fn handle(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let format = Format::of(request.headers());
        let protocol = match format {
            Some(Format::Protobuf) => Protocol::HttpProtobuf,
            Some(Format::Json) => Protocol::HttpJson,
            None => Protocol::HttpOther,
        };
        let count = self.0.count(protocol);
        let result = self.export(request, format, protocol).await;
        count.end(outcome(&result));
        // Who sent no known type is likely a person, who can read JSON.
        response(format.unwrap_or(Format::Json), &result)
    }
}

impl<S: Sink> HttpHandler<S> {
    async fn export(
        &self,
        request: Request<Incoming>,
        format: Option<Format>,
        protocol: Protocol,
    ) -> Result<Receipt, Refusal> {
        let (head, mut body) = request.into_parts();
        let awaits_continue = head.headers.contains_key(EXPECT);
        let head = self.0.admit(head, &mut body, awaits_continue).await?;
        let encoding = match check(&head, format) {
            Ok(encoding) => encoding,
            Err(refusal) => {
                self.0.turn_away(body, awaits_continue).await;
                return Err(refusal);
            }
        };
        let received = self.0.receive(body, 0, awaits_continue).await?;
        let wire_bytes = received.bytes.len();
        let request = self.open(received, encoding, format)?;
        self.0.stats.count_bytes(protocol, wire_bytes, request.bytes.len());
        self.0.hand_over(request).await
    }

    /// Decompresses a body, and turns JSON into protobuf.
    fn open(
        &self,
        received: Received,
        encoding: Encoding,
        format: Option<Format>,
    ) -> Result<Received, Refusal> {
        let Received { bytes, mut reservation } = received;
        let bytes = inflate(encoding, bytes, self.0.limits.request_bytes_max, &mut reservation)?;
        if format != Some(Format::Json) {
            return Ok(Received { bytes, reservation });
        }
        // Protobuf is never longer than the JSON that it was.
        reservation.grow_by(bytes.len() as u64)?;
        Ok(Received { bytes: json::to_protobuf(&bytes)?, reservation })
    }
}

/// What a request's head says before its body is read.
fn check(head: &http::request::Parts, format: Option<Format>) -> Result<Encoding, Refusal> {
    match head.uri.path() {
        "/v1/logs" => {}
        "/v1/traces" => {
            return Err(Refusal::NotServed("traces are not taken here; Esker takes /v1/logs only"));
        }
        "/v1/metrics" => {
            return Err(Refusal::NotServed("metrics are not taken here; Esker takes /v1/logs only"));
        }
        _ => return Err(Refusal::NotServed("nothing is served under this path; Esker takes /v1/logs only")),
    }
    if head.method != Method::POST {
        return Err(Refusal::WrongMethod);
    }
    if format.is_none() {
        return Err(Refusal::UnsupportedType);
    }
    Encoding::of(&head.headers, CONTENT_ENCODING)
}

/// How requests and answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Protobuf,
    Json,
}

impl Format {
    /// What the content type says; its parameters (`charset`) change nothing.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(CONTENT_TYPE)?.as_bytes();
        let essence = value.split(|byte| *byte == b';').next()?.trim_ascii();
        if essence.eq_ignore_ascii_case(b"application/x-protobuf") {
            Some(Self::Protobuf)
        } else if essence.eq_ignore_ascii_case(b"application/json") {
            Some(Self::Json)
        } else {
            None
        }
    }
}

fn response(format: Format, result: &Result<Receipt, Refusal>) -> Response<ReplyBody> {
    let (content_type, data) = match (format, result) {
        (Format::Protobuf, Ok(receipt)) => ("application/x-protobuf", receipt.response_protobuf()),
        (Format::Protobuf, Err(refusal)) => ("application/x-protobuf", refusal.status_protobuf()),
        (Format::Json, Ok(receipt)) => ("application/json", receipt.response_json()),
        (Format::Json, Err(refusal)) => ("application/json", refusal.status_json()),
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(data.len()));
    let data = Some(Bytes::from(data)).filter(|data| !data.is_empty());
    let mut response = Response::new(ReplyBody { data, trailers: None });
    if let Err(refusal) = result {
        let status = refusal.status();
        *response.status_mut() = status.http;
        if let Some(delay) = status.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds(delay)));
        }
        match refusal {
            Refusal::Denied(denial) => {
                drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge(*denial))));
                response.extensions_mut().insert(LastAnswer);
            }
            Refusal::WrongMethod => drop(headers.insert(ALLOW, HeaderValue::from_static("POST"))),
            Refusal::UnsupportedEncoding => {
                drop(headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd, identity")));
            }
            _ => {}
        }
    }
    *response.headers_mut() = headers;
    response
}
