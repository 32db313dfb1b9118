//! A role of AWS that is taken on by its ARN, with other credentials: `AssumeRole` of the security token service.
//!
//! Owns: the request, and keeping its answer for as long as it holds. Does not own: signing, which `object_store` does.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use http::{HeaderValue, Method, Uri, header};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpRequest, ReqwestConnector};
use object_store::{CredentialProvider, Result};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::bucket;
use super::credentials::CredentialFault;
use super::fault::{between, short};
use super::options::{AssumeRole, S3Options};

/// How long a session holds. Every role allows this long.
const SESSION: Duration = Duration::from_secs(3600);
/// How long before its end a session is replaced: longer than any request takes.
const SPARE: Duration = Duration::from_secs(300);
const ANSWER_BYTES_MAX: usize = 64 << 10;
const FIX: &str = "see that the trust policy of client.assume-role.arn names these credentials (and the external id), and that \
                   the security token service can be reached";

/// A provider of a role's credentials.
pub(super) struct AssumedRole {
    role: AssumeRole,
    by: Arc<dyn CredentialProvider<Credential = AwsCredential>>,
    client: HttpClient,
    endpoint: Uri,
    region: String,
    /// How long a session is used.
    pub(super) holds: Duration,
    session: Mutex<Option<(Arc<AwsCredential>, Instant)>>,
}

impl AssumedRole {
    /// The role, taken on with the credentials that `by` provides.
    pub(super) fn new(
        role: AssumeRole,
        by: Arc<dyn CredentialProvider<Credential = AwsCredential>>,
        options: &S3Options,
    ) -> Result<Self> {
        let region = options.region.clone().unwrap_or_else(|| "us-east-1".to_owned());
        let endpoint =
            options.sts_endpoint.clone().unwrap_or_else(|| format!("https://sts.{region}.amazonaws.com"));
        let client = ReqwestConnector::default().connect(&bucket::client_options(Some(&endpoint)))?;
        let address = format!("{}/", endpoint.trim_end_matches('/'));
        let endpoint = address.parse().map_err(|_| {
            CredentialFault::error(
                format!("{endpoint} is no address"),
                "correct the endpoint of the token service",
            )
        })?;
        let holds = SESSION.saturating_sub(SPARE);
        Ok(Self { role, by, client, endpoint, region, holds, session: Mutex::new(None) })
    }

    async fn assume(&self) -> Result<AwsCredential> {
        let failed = |why: &str| {
            CredentialFault::error(format!("the role {} cannot be taken on: {why}", self.role.arn), FIX)
        };
        let by = self.by.get_credential().await?;
        let mut request = HttpRequest::new(self.form().into());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        let form = HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8");
        request.headers_mut().insert(header::CONTENT_TYPE, form);
        AwsAuthorizer::new(&by, "sts", &self.region).authorize(&mut request, None);
        let unreachable = |error: HttpError| failed(&error.to_string());
        let answer = self.client.execute(request).await.map_err(unreachable)?;
        let status = answer.status();
        let mut parts = answer.into_body().bytes_stream();
        let mut body = Vec::new();
        while let Some(part) = parts.next().await {
            body.extend_from_slice(&part.map_err(unreachable)?);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(failed("the token service's answer is too long"));
            }
        }
        let text = str::from_utf8(&body);
        let text = text.map_err(|_| failed("the token service answered with something else than text"))?;
        if !status.is_success() {
            let code = between(text, "<Code>", "</Code>").unwrap_or_default();
            return Err(failed(&format!("HTTP {}, {}", status.as_u16(), short(code))));
        }
        let part = |name: &str| between(text, &format!("<{name}>"), &format!("</{name}>")).map(str::to_owned);
        match (part("AccessKeyId"), part("SecretAccessKey"), part("SessionToken")) {
            (Some(key_id), Some(secret_key), token @ Some(_)) => {
                Ok(AwsCredential { key_id, secret_key, token })
            }
            _ => Err(failed("the token service's answer holds no credentials")),
        }
    }

    fn form(&self) -> String {
        let name = self.role.session_name.as_deref().unwrap_or("esker");
        let mut form = format!(
            "Action=AssumeRole&Version=2011-06-15&DurationSeconds={}&RoleArn={}&RoleSessionName={}",
            SESSION.as_secs(),
            encoded(&self.role.arn),
            encoded(name)
        );
        if let Some(external_id) = &self.role.external_id {
            form.push_str("&ExternalId=");
            form.push_str(&encoded(external_id));
        }
        form
    }
}

/// Percent-encoded for a form.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[async_trait]
impl CredentialProvider for AssumedRole {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>> {
        // Whoever comes meanwhile waits, and finds the new session.
        let mut session = self.session.lock().await;
        if let Some((credential, until)) = session.as_ref()
            && Instant::now() < *until
        {
            return Ok(Arc::clone(credential));
        }
        let credential = Arc::new(self.assume().await?);
        *session = Some((Arc::clone(&credential), Instant::now() + self.holds));
        Ok(credential)
    }
}

impl fmt::Debug for AssumedRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AssumedRole").field("role", &self.role).finish_non_exhaustive()
    }
}
