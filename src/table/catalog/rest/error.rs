//! What a REST catalog answers instead of what was wanted.
//!
//! Owns: the messages, and reading the error bodies of the specification. Does not own: what is done about them.

use serde::Deserialize;

use crate::secret::ValueError;

/// Most of a server's own words that a message repeats, characters.
const WORDS_MAX: usize = 400;

/// Why a REST catalog did not do what it was asked. Holds no credential.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// No answer.
    #[error(
        "{section}.uri = {uri}: the catalog cannot be reached ({problem}); check the address, and that it runs"
    )]
    Unreachable {
        /// The section of the configuration.
        section: &'static str,
        /// The configured address.
        uri: String,
        /// What happened.
        problem: String,
    },
    /// Something answers, but no Iceberg REST catalog.
    #[error(
        "{section}.uri = {uri}: what answers there is no Iceberg REST catalog ({problem}); the address is the one before /v1"
    )]
    NotACatalog {
        /// The section of the configuration.
        section: &'static str,
        /// The configured address.
        uri: String,
        /// What it answered.
        problem: String,
    },
    /// The catalog does not know this warehouse.
    #[error(
        "{section}.warehouse = {warehouse:?}: the catalog does not take it ({words}); name one of its warehouses"
    )]
    Warehouse {
        /// The section of the configuration.
        section: &'static str,
        /// The configured name.
        warehouse: String,
        /// What it answered.
        words: String,
    },
    /// The catalog refuses the credential.
    #[error(
        "{section}.auth: the catalog refused to {action} ({words}); check the credential, and what it is allowed to do"
    )]
    Denied {
        /// The section of the configuration.
        section: &'static str,
        /// What was asked for.
        action: &'static str,
        /// What it answered.
        words: String,
    },
    /// There is no credential to show.
    #[error("{section}.{key}: {source}")]
    Credential {
        /// The section of the configuration.
        section: &'static str,
        /// The key.
        key: &'static str,
        /// Why.
        source: ValueError,
    },
    /// No token was given out.
    #[error(
        "{section}.auth = \"oauth2\": {server} gave no token ({problem}); check client_id, client_secret, scope and server"
    )]
    Token {
        /// The section of the configuration.
        section: &'static str,
        /// Where it was asked for.
        server: String,
        /// What it answered.
        problem: String,
    },
    /// This machine or process has no credentials of its cloud.
    #[error("{section}.auth = \"{auth}\": no credentials were found here ({problem})")]
    Cloud {
        /// The section of the configuration.
        section: &'static str,
        /// Which kind.
        auth: &'static str,
        /// What happened.
        problem: String,
    },
    /// The catalog understood the request and does not do it.
    #[error("the catalog refused to {action}: {words}")]
    Refused {
        /// What was asked for.
        action: &'static str,
        /// What it answered.
        words: String,
    },
    /// The catalog has a problem of its own.
    #[error("the catalog failed to {action}: {words}; it will be asked again")]
    Failed {
        /// What was asked for.
        action: &'static str,
        /// What it answered.
        words: String,
    },
    /// The answer makes no sense.
    #[error("the catalog's answer to {action} is not as the Iceberg REST specification has it: {problem}")]
    Answer {
        /// What was asked for.
        action: &'static str,
        /// What is wrong.
        problem: String,
    },
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorModel,
}

#[derive(Deserialize)]
struct ErrorModel {
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    r#type: Option<String>,
}

/// What a catalog says of its refusal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Explanation {
    /// The status and its words, on one line, not too long.
    pub(super) words: String,
    /// True where the body is as the specification has it, so that it was a catalog that spoke.
    pub(super) is_catalog: bool,
}

impl Explanation {
    pub(super) fn of(status: http::StatusCode, body: &[u8]) -> Self {
        let parsed = serde_json::from_slice::<ErrorBody>(body).ok().map(|body| body.error);
        let Some(ErrorModel { message, r#type }) = parsed else {
            return Self { words: format!("HTTP {status}"), is_catalog: false };
        };
        let kind = r#type.map(|kind| format!(", {kind}")).unwrap_or_default();
        let message = message.map(|message| format!(": {message}")).unwrap_or_default();
        Self { words: one_line(&format!("HTTP {}{kind}{message}", status.as_u16())), is_catalog: true }
    }
}

/// A server's words without line breaks and control characters, and cut where they are long.
pub(super) fn one_line(text: &str) -> String {
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS_MAX).collect();
    if text.chars().nth(WORDS_MAX).is_some() {
        line.push('…');
    }
    line
}
