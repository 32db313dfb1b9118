//! The admin port's listener: requests for pages, under the same limits, TLS and tokens as the OTLP ports.
//!
//! Owns: which requests reach the pages. Does not own: the pages (`app`).

use std::io;
use std::sync::Arc;

use axum::Router;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::{Entrance, GuardedListener};
use super::connection::{self, Handler, LastAnswer, ReplyBody, Versions};
use super::limits::Limits;
use super::reply::{Refusal, challenge};
use super::stats::ReceiveStats;

/// Serves a router of pages (HTTP/1.1 and HTTP/2) until `shutdown` ends. Paths in `open_paths` need no token.
///
/// # Errors
/// Where the listener itself fails.
pub async fn serve(
    listener: GuardedListener,
    router: Router,
    open_paths: &'static [&'static str],
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let pages = TowerToHyperService::new(router);
    let handler = PagesHandler { entrance: listener.entrance.clone(), pages, open_paths };
    // Who watches is not counted among those who send.
    let (stats, limits) = (Arc::new(ReceiveStats::default()), Arc::new(limits));
    let drained = (TaskTracker::new(), CancellationToken::new());
    connection::serve(listener, Versions::Http1And2, handler, drained, limits, stats, shutdown).await
}

#[derive(Debug, Clone)]
struct PagesHandler {
    entrance: Entrance,
    pages: TowerToHyperService<Router>,
    open_paths: &'static [&'static str],
}

impl Handler for PagesHandler {
    async fn handle(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        if !self.open_paths.contains(&request.uri().path())
            && let Err(refusal) = self.entrance.admit(request.headers())
        {
            return denied(&refusal);
        }
        let (head, body) = match self.pages.call(request).await {
            Ok(response) => response.into_parts(),
            Err(never) => match never {},
        };
        // Pages are made whole before they are sent.
        let Ok(body) = body.collect().await else {
            return reply(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new());
        };
        let mut response = reply(head.status, body.to_bytes());
        *response.headers_mut() = head.headers;
        response
    }
}

/// Also offers `Basic`, with the token as the password, so that a browser asks for it.
fn denied(refusal: &Refusal) -> Response<ReplyBody> {
    let mut response = reply(refusal.status().http, Bytes::from(format!("{refusal}\n")));
    response.extensions_mut().insert(LastAnswer);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Refusal::Denied(denial) = refusal {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge(*denial)));
        headers
            .append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"esker\", charset=\"UTF-8\""));
    }
    response
}

fn reply(status: StatusCode, body: Bytes) -> Response<ReplyBody> {
    let mut response =
        Response::new(ReplyBody { data: Some(body).filter(|body| !body.is_empty()), trailers: None });
    *response.status_mut() = status;
    response
}
