//! What a bucket's refusal means, in words: the cause, and what to do about it.
//!
//! Owns: telling causes apart by status and code, and that no answer's text but its code and message is passed on: bodies repeat
//! requests, and requests carry credentials. Does not own: whether a call is made again.

use std::error::Error as StdError;
use std::fmt;

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

use super::credentials::CredentialFault;

/// Longest message of a store that is passed on, bytes.
const MESSAGE_BYTES_MAX: usize = 200;

/// Which protocol the bucket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    S3,
    Gcs,
}

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Get,
    Put,
    Delete,
    List,
}

impl Operation {
    fn verb(self) -> &'static str {
        match self {
            Self::Get => "reading",
            Self::Put => "writing",
            Self::Delete => "deleting",
            Self::List => "listing",
        }
    }

    fn permission(self, provider: Provider) -> &'static str {
        match (provider, self) {
            (Provider::S3, Self::Get) => "s3:GetObject and s3:ListBucket",
            (Provider::S3, Self::Put) => "s3:PutObject and s3:AbortMultipartUpload",
            (Provider::S3, Self::Delete) => "s3:DeleteObject",
            (Provider::S3, Self::List) => "s3:ListBucket",
            (Provider::Gcs, Self::Get) => "storage.objects.get",
            (Provider::Gcs, Self::Put) => "storage.objects.create, and storage.objects.delete to overwrite",
            (Provider::Gcs, Self::Delete) => "storage.objects.delete",
            (Provider::Gcs, Self::List) => "storage.objects.list",
        }
    }
}

/// Where a bucket is, for messages.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) provider: Provider,
    pub(super) bucket: String,
    /// The address that is asked.
    pub(super) endpoint: String,
    /// The region that requests are signed for.
    pub(super) region: Option<String>,
}

/// A failed call.
#[derive(Debug)]
pub(super) struct StoreFault {
    message: String,
}

impl fmt::Display for StoreFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for StoreFault {}

/// What a store's error says: the fault's own words, where it is one of a bucket.
pub(in crate::table) fn said(error: &Error) -> String {
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = source {
        if error.is::<StoreFault>() || error.is::<CredentialFault>() {
            return error.to_string();
        }
        source = error.source();
    }
    format!("the object store failed: {error}; check that it can be reached and written")
}

/// What a failed exchange came to: its status, else its innermost cause. Nothing of what was sent.
pub(super) fn outline(error: &Error) -> String {
    let answer = Answer::of(error);
    match (answer.status, answer.code.as_str()) {
        (Some(status), "") => format!("HTTP {status}"),
        (Some(status), code) => format!("HTTP {status}, {code}"),
        _ => short(&answer.root).to_owned(),
    }
}

/// An answer, taken apart.
#[derive(Debug, Default)]
struct Answer {
    status: Option<u16>,
    code: String,
    message: String,
    /// The region that S3 says is the right one.
    region: String,
    /// The transport's failure.
    transport: Option<HttpErrorKind>,
    /// The innermost cause.
    root: String,
    /// Where not even the credentials could be had: why, and what to do.
    credentials: Option<(String, String)>,
    /// All of it. Never passed on.
    text: String,
}

impl Answer {
    fn of(error: &Error) -> Self {
        let mut answer = Self { text: error.to_string(), ..Self::default() };
        let mut source: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(error) = source {
            if let Some(http) = error.downcast_ref::<HttpError>() {
                answer.transport = Some(http.kind());
            }
            if let Some(fault) = error.downcast_ref::<CredentialFault>() {
                answer.credentials = Some((fault.cause.clone(), fault.fix.clone()));
            }
            answer.root = error.to_string();
            source = error.source();
        }
        let text = std::mem::take(&mut answer.text);
        answer.status = between(&text, "status code: ", " ").and_then(|status| status.parse().ok());
        answer.code = between(&text, "<Code>", "</Code>").unwrap_or_default().to_owned();
        answer.message = between(&text, "<Message>", "</Message>").unwrap_or_default().to_owned();
        answer.region = between(&text, "<Region>", "</Region>").unwrap_or_default().to_owned();
        answer.text = text;
        answer
    }

    /// True where the code is one of these, in an answer or in an entry of a bulk delete.
    fn is(&self, codes: &[&str]) -> bool {
        codes.iter().any(|code| self.code == *code || (self.code.is_empty() && self.text.contains(code)))
    }
}

pub(super) fn between<'t>(text: &'t str, start: &str, end: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(start)?;
    Some(rest.split_once(end)?.0)
}

impl Place {
    /// The same error with a fault as its source. What is an answer and no failure (there is no such object; there is one
    /// already; it has not changed) stays as it is.
    pub(super) fn explain(&self, error: Error, operation: Operation, key: &str) -> Error {
        let answer = Answer::of(&error);
        let is_about_the_bucket = answer.code == "NoSuchBucket" || answer.code == "NoSuchUpload";
        let is_answer = matches!(
            error,
            Error::NotFound { .. }
                | Error::AlreadyExists { .. }
                | Error::Precondition { .. }
                | Error::NotModified { .. }
        );
        if is_answer && !is_about_the_bucket {
            return error;
        }
        let (cause, fix) = self.cause(&answer, operation);
        let where_it_is = match operation {
            Operation::List => format!("{key} in the bucket {}", self.bucket),
            _ => format!("{key} of the bucket {}", self.bucket),
        };
        let message = format!("{} {where_it_is} failed: {cause}; {fix}", operation.verb());
        let source = Box::new(StoreFault { message });
        let (path, store) = (key.to_owned(), "bucket");
        match error {
            Error::PermissionDenied { .. } => Error::PermissionDenied { path, source },
            Error::Unauthenticated { .. } => Error::Unauthenticated { path, source },
            _ => Error::Generic { store, source },
        }
    }

    fn cause(&self, answer: &Answer, operation: Operation) -> (String, String) {
        let told = |text: &str| {
            let mut text = text.to_owned();
            let code = if answer.code.is_empty() { None } else { Some(answer.code.as_str()) };
            match (answer.status, code) {
                (Some(status), Some(code)) => text = format!("{text} (HTTP {status}, {code})"),
                (Some(status), None) => text = format!("{text} (HTTP {status})"),
                _ => {}
            }
            text
        };
        if let Some((cause, fix)) = &answer.credentials {
            return (cause.clone(), fix.clone());
        }
        if let Some(kind) = answer.transport {
            return self.unreachable(kind, &answer.root);
        }
        if answer.is(&["NoSuchBucket"]) {
            return (
                told(&format!("there is no bucket {} at {}", self.bucket, self.endpoint)),
                "create it, or correct table.warehouse or the endpoint in [storage]".to_owned(),
            );
        }
        if let Some((cause, fix)) = match self.provider {
            Provider::S3 => self.s3_cause(answer),
            Provider::Gcs => Self::gcs_cause(answer),
        } {
            return (told(&cause), fix);
        }
        match answer.status {
            Some(401 | 403) => self.denied(answer, operation, &told),
            // A bulk delete succeeds as a whole, and says so of each object.
            _ if answer.is(&["AccessDenied"]) => self.denied(answer, operation, &told),
            Some(404) => (
                told("the endpoint knows no such address"),
                format!("check that {} serves the bucket {}", self.endpoint, self.bucket),
            ),
            Some(429 | 503) => (
                told("the store asks for fewer requests, or is overloaded"),
                "it is tried again; if it goes on, flush less often (flush.max_age)".to_owned(),
            ),
            Some(501) => (
                told("the store does not know this kind of request"),
                "use a store that implements it: docs/storage.md says what is needed".to_owned(),
            ),
            Some(500..) => (
                told("the store itself failed"),
                format!("it is tried again; if it goes on, see the status page of {}", self.endpoint),
            ),
            _ => {
                let message = if answer.message.is_empty() { &answer.root } else { &answer.message };
                (told(short(message)), "check [storage] and table.warehouse".to_owned())
            }
        }
    }

    fn denied(
        &self,
        answer: &Answer,
        operation: Operation,
        told: &dyn Fn(&str) -> String,
    ) -> (String, String) {
        if answer.text.contains("kms:") {
            return (
                told("the key management service denies these credentials the encryption key"),
                "grant kms:GenerateDataKey and kms:Decrypt on the key of s3.sse.key, or of the bucket"
                    .to_owned(),
            );
        }
        let fix = format!(
            "grant {} on the bucket {} and its objects, and see that no bucket policy denies it",
            operation.permission(self.provider),
            self.bucket
        );
        (told("these credentials lack the permission"), fix)
    }

    fn s3_cause(&self, answer: &Answer) -> Option<(String, String)> {
        let both = |cause: &str, fix: &str| Some((cause.to_owned(), fix.to_owned()));
        let redirected = matches!(answer.status, Some(301 | 307)) || answer.text.contains("redirect without");
        let elsewhere =
            ["AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"];
        if redirected || answer.is(&elsewhere) {
            let ours = self.region.as_deref().unwrap_or("us-east-1");
            let fix = match answer.region.as_str() {
                "" => "set s3.region to the bucket's region".to_owned(),
                theirs => format!("set s3.region = \"{theirs}\""),
            };
            return Some((format!("the bucket is not in the region {ours}"), fix));
        }
        if answer.is(&["ExpiredToken", "TokenRefreshRequired"]) {
            return both(
                "the session token has expired",
                "renew the temporary keys that s3.session-token and the two keys beside it name (a file is read again for \
                 each request), or use a role",
            );
        }
        if answer.is(&["InvalidToken"]) {
            return both(
                "the session token is not valid",
                "check s3.session-token: it belongs to the keys beside it",
            );
        }
        if answer.is(&["RequestTimeTooSkewed", "RequestExpired"]) {
            return both(
                "this machine's clock differs too much from the store's",
                "set the clock (run an NTP client); no event is lost meanwhile",
            );
        }
        if answer.is(&["InvalidAccessKeyId"]) {
            return both(
                "the store does not know this access key",
                "check s3.access-key-id, and that the key is active",
            );
        }
        if answer.is(&["SignatureDoesNotMatch"]) {
            return both(
                "the secret key does not belong to the access key",
                "check s3.secret-access-key; behind a proxy, that it leaves the host and the path as they are",
            );
        }
        if answer.is(&["InvalidBucketName"]) {
            return both("this is no name of a bucket", "correct table.warehouse");
        }
        None
    }

    fn gcs_cause(answer: &Answer) -> Option<(String, String)> {
        let both = |cause: &str, fix: &str| Some((cause.to_owned(), fix.to_owned()));
        if answer.is(&["UserProjectMissing", "UserProjectAccountProblem"]) {
            return both(
                "the requester pays for this bucket",
                "set gcs.user-project to the project that pays",
            );
        }
        if answer.status == Some(401) || answer.is(&["AuthenticationRequired", "InvalidSecurity"]) {
            return both(
                "the access token has expired, or is not valid",
                "renew the token that gcs.oauth2.token names (a file is read again for each request), or use a service \
                 account, whose tokens are renewed",
            );
        }
        None
    }

    fn unreachable(&self, kind: HttpErrorKind, root: &str) -> (String, String) {
        let endpoint = &self.endpoint;
        match kind {
            HttpErrorKind::Timeout => (
                format!("{endpoint} did not answer in time"),
                "check the network between here and there; it is tried again".to_owned(),
            ),
            HttpErrorKind::Connect => (
                format!("{endpoint} cannot be reached: {}", short(root)),
                "check that it runs, that its name resolves, and that its certificate is trusted here"
                    .to_owned(),
            ),
            _ => (
                format!("the connection to {endpoint} broke: {}", short(root)),
                "check the network between here and there; it is tried again".to_owned(),
            ),
        }
    }
}

pub(super) fn short(text: &str) -> &str {
    let end = (0..=MESSAGE_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}
