//! HTTP as a REST catalog needs it: nothing is sent twice, nothing waits for ever, nothing grows without end.
//!
//! Owns: the client's settings, reading bodies within a cap, why a request failed, in words. Does not own: what is asked.

use std::error::Error;
use std::time::Duration;

use reqwest::{Client, Response, redirect};

use super::error::one_line;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// For a request and its whole answer, where the request says nothing else.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// Connections are closed by the other side, too, and a request on one that is just being closed has an unknown outcome; so
/// they are not kept for long.
const IDLE_TIME_MAX: Duration = Duration::from_secs(20);

/// A client. A redirect is not followed: it would carry the credential elsewhere, and a commit twice.
pub(super) fn client(is_loopback: bool) -> Result<Client, reqwest::Error> {
    let builder = Client::builder()
        .connect_timeout(CONNECT_TIME_MAX)
        .timeout(REQUEST_TIME_MAX)
        .pool_idle_timeout(IDLE_TIME_MAX)
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .user_agent(concat!("esker/", env!("CARGO_PKG_VERSION")));
    if is_loopback { builder.no_proxy().build() } else { builder.build() }
}

/// Reads a body of at most `bytes_max`.
pub(super) async fn read(mut answer: Response, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| cause(&error))? {
        if body.len() + chunk.len() > bytes_max {
            return Err(format!("the answer is longer than {bytes_max} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Why a request failed, down to the first cause, without the address that whoever reports it names anyway.
pub(super) fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return if error.is_connect() { "no connection in time" } else { "no answer in time" }.to_owned();
    }
    let mut last: &dyn Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    one_line(&last.to_string())
}
