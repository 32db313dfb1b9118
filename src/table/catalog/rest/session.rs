//! Talking to one REST catalog about one warehouse: the handshake, the paths, and what each status means.
//!
//! Owns: requests, proof on them, that a refused token is replaced and the request made once more, telling "nothing was
//! done" from "nobody knows". Does not own: what a table is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use reqwest::{Client, Request, Url};
use serde::Deserialize;
use serde_json::Value;

use super::auth::Authorizer;
use super::error::{CatalogError, Explanation};
use super::options::Endpoint;
use super::transport;

/// Largest answer, bytes. A table's metadata is some kilobytes for each snapshot that it keeps.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Largest part of an error's body that is looked at, bytes; a longer body is no catalog's.
const ERROR_BYTES_MAX: usize = 256 << 10;
/// Iceberg's own status for a token that has ended.
const AUTHENTICATION_TIMEOUT: u16 = 419;

/// A catalog that answered.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) endpoint: Arc<Endpoint>,
    http: Client,
    authorizer: Authorizer,
    /// `{uri}/v1`, and the prefix that the catalog wants in each path.
    base: String,
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct Call {
    /// In messages: "to …".
    pub(super) action: &'static str,
    pub(super) method: Method,
    /// After the prefix, for example `namespaces/product/tables`.
    pub(super) path: String,
    pub(super) body: Option<Value>,
    /// Asks for credentials of the storage.
    pub(super) delegate: bool,
    /// Longer than others may take.
    pub(super) time_max: Option<Duration>,
}

/// What the catalog said.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
}

/// No answer.
#[derive(Debug)]
pub(super) struct Silence {
    pub(super) error: CatalogError,
    /// False: nothing can have been done.
    pub(super) was_sent: bool,
}

#[derive(Debug, Deserialize)]
struct CatalogConfig {
    #[serde(default)]
    defaults: HashMap<String, Option<String>>,
    #[serde(default)]
    overrides: HashMap<String, Option<String>>,
}

impl Session {
    /// Asks the catalog for its configuration, by which also the address, the warehouse and the credential are tried.
    pub(super) async fn connect(endpoint: Arc<Endpoint>) -> Result<Self, CatalogError> {
        let unreachable = |problem: String| CatalogError::Unreachable {
            section: endpoint.section,
            uri: endpoint.uri.clone(),
            problem,
        };
        let uri = Url::parse(&endpoint.uri).map_err(|error| unreachable(error.to_string()))?;
        let http = transport::client(is_loopback(&uri)).map_err(|error| unreachable(error.to_string()))?;
        let authorizer = Authorizer::new(Arc::clone(&endpoint))?;
        let mut session =
            Self { base: format!("{}/v1", endpoint.uri), endpoint: Arc::clone(&endpoint), http, authorizer };
        let mut path = Url::parse(&format!("{}/config", session.base))
            .map_err(|error| unreachable(error.to_string()))?;
        if !endpoint.warehouse.is_empty() {
            path.query_pairs_mut().append_pair("warehouse", &endpoint.warehouse);
        }
        let answer = session.send_to(path, &Call::get("say how it is configured", String::new())).await;
        let answer = answer.map_err(|silence| silence.error)?;
        let not_a_catalog = |problem: String| CatalogError::NotACatalog {
            section: endpoint.section,
            uri: endpoint.uri.clone(),
            problem,
        };
        if !answer.status.is_success() {
            let Explanation { words, is_catalog } = Explanation::of(answer.status, &answer.body);
            return Err(match answer.status.as_u16() {
                401 | 403 | AUTHENTICATION_TIMEOUT => session.denied("say how it is configured", words),
                400 | 404 if is_catalog => CatalogError::Warehouse {
                    section: endpoint.section,
                    warehouse: endpoint.warehouse.clone(),
                    words,
                },
                429 | 500.. => CatalogError::Failed { action: "say how it is configured", words },
                _ => not_a_catalog(words),
            });
        }
        let config: CatalogConfig = serde_json::from_slice(&answer.body)
            .map_err(|_| not_a_catalog("HTTP 200, without the JSON of /v1/config".to_owned()))?;
        let prefix = config.overrides.get("prefix").or_else(|| config.defaults.get("prefix"));
        if let Some(Some(prefix)) =
            prefix.filter(|prefix| prefix.as_ref().is_some_and(|text| !text.is_empty()))
        {
            // As it came: a catalog that wants slashes escaped has escaped them.
            session.base = format!("{}/{}", session.base, prefix.trim_matches('/'));
        }
        Ok(session)
    }

    pub(super) async fn send(&self, call: &Call) -> Result<Answer, Silence> {
        let url = Url::parse(&format!("{}/{}", self.base, call.path))
            .map_err(|error| Silence { error: self.unreachable(error.to_string()), was_sent: false })?;
        self.send_to(url, call).await
    }

    /// Makes a request. Where a token was refused, nothing was done, so it is made once more with another.
    async fn send_to(&self, url: Url, call: &Call) -> Result<Answer, Silence> {
        let unsent = |error| Silence { error, was_sent: false };
        let body = match &call.body {
            Some(body) => serde_json::to_vec(body).map_err(|error| {
                unsent(CatalogError::Answer { action: call.action, problem: error.to_string() })
            })?,
            None => Vec::new(),
        };
        let mut renewed = false;
        loop {
            let mut request = self.request(url.clone(), call, &body);
            let carried = self.authorizer.authorize(&self.http, &mut request, &body).await.map_err(unsent)?;
            let answer = self.exchange(request).await?;
            match carried {
                Some(carried)
                    if !renewed && matches!(answer.status.as_u16(), 401 | AUTHENTICATION_TIMEOUT) =>
                {
                    self.authorizer.refuse(carried).await;
                    renewed = true;
                }
                _ => return Ok(answer),
            }
        }
    }

    fn request(&self, url: Url, call: &Call, body: &[u8]) -> Request {
        let mut request = Request::new(call.method.clone(), url);
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if call.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if call.delegate {
            headers.insert("x-iceberg-access-delegation", HeaderValue::from_static("vended-credentials"));
        }
        if call.body.is_some() {
            *request.body_mut() = Some(body.to_vec().into());
        }
        *request.timeout_mut() = call.time_max;
        request
    }

    async fn exchange(&self, request: Request) -> Result<Answer, Silence> {
        let answer = self.http.execute(request).await.map_err(|error| Silence {
            error: self.unreachable(transport::cause(&error)),
            // A connection that was never made has carried nothing; all else may have arrived.
            was_sent: !error.is_connect() && !error.is_builder(),
        })?;
        let status = answer.status();
        let bytes_max = if status.is_success() { ANSWER_BYTES_MAX } else { ERROR_BYTES_MAX };
        match transport::read(answer, bytes_max).await {
            Ok(body) => Ok(Answer { status, body }),
            // What a refusal said is lost; that it was one is not.
            Err(_) if status.is_client_error() => Ok(Answer { status, body: Vec::new() }),
            Err(problem) => Err(Silence { error: self.unreachable(problem), was_sent: true }),
        }
    }

    fn unreachable(&self, problem: String) -> CatalogError {
        CatalogError::Unreachable { section: self.endpoint.section, uri: self.endpoint.uri.clone(), problem }
    }

    fn denied(&self, action: &'static str, words: String) -> CatalogError {
        CatalogError::Denied { section: self.endpoint.section, action, words }
    }

    /// What an answer that is no success means, where the caller knows no better.
    pub(super) fn refusal(&self, action: &'static str, answer: &Answer) -> CatalogError {
        let Explanation { words, .. } = Explanation::of(answer.status, &answer.body);
        match answer.status.as_u16() {
            401 | 403 | AUTHENTICATION_TIMEOUT => self.denied(action, words),
            429 | 500.. => CatalogError::Failed { action, words },
            _ => CatalogError::Refused { action, words },
        }
    }
}

impl Call {
    pub(super) fn get(action: &'static str, path: String) -> Self {
        Self { action, method: Method::GET, path, body: None, delegate: false, time_max: None }
    }

    pub(super) fn post(action: &'static str, path: String, body: Value) -> Self {
        Self { action, method: Method::POST, path, body: Some(body), delegate: false, time_max: None }
    }
}

fn is_loopback(uri: &Url) -> bool {
    match uri.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
        None => false,
    }
}
