//! What each request to a REST catalog carries as proof, and how that is kept fresh.
//!
//! A token of OAuth 2 is replaced well before it ends, and at once where the catalog says 401. The signature of Amazon and
//! the access tokens of Google come from `object_store`, which finds and renews both clouds' credentials.
//!
//! Owns: tokens, signatures. Does not own: sending requests, what an answer means.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use object_store::aws::{AmazonS3Builder, AwsAuthorizer, AwsCredential, AwsCredentialProvider};
use object_store::client::{HttpRequest, HttpRequestBody};
use object_store::gcp::{GcpCredentialProvider, GoogleCloudStorageBuilder};
use reqwest::{Client, Request};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::error::{CatalogError, one_line};
use super::options::{Auth, Endpoint, OAuth2};
use super::transport;

/// What a token lives where its server does not say: a short while, so that it is asked for again soon.
const LIFETIME_UNKNOWN: Duration = Duration::from_secs(300);
/// Longest life that is believed.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Part of a token's life after which it is replaced, in percent.
const REPLACED_AFTER_PERCENT: u32 = 80;
/// Largest answer of a token server, bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Puts proof on requests.
pub(super) struct Authorizer {
    endpoint: Arc<Endpoint>,
    proof: Proof,
}

enum Proof {
    None,
    Bearer,
    OAuth2 { options: OAuth2, server: String, token: Mutex<Tokens> },
    SigV4 { credentials: AwsCredentialProvider, region: String, service: String },
    Google { credentials: GcpCredentialProvider, project: Option<HeaderValue> },
}

#[derive(Default)]
struct Tokens {
    current: Option<Token>,
    /// How many there have been.
    count: u64,
}

struct Token {
    header: HeaderValue,
    replaced_at: Instant,
    ends_at: Instant,
}

/// Which token a request carried. A token that is refused is replaced once, however many requests carried it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Carried(u64);

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// RFC 6749's error body. The description is the server's, who may repeat what it was sent.
#[derive(Deserialize)]
struct TokenRefusal {
    error: String,
    #[serde(default)]
    error_description: Option<String>,
}

impl Authorizer {
    /// # Errors
    /// Where the credentials of a cloud cannot be looked for.
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Result<Self, CatalogError> {
        let cloud = |auth, error: object_store::Error| CatalogError::Cloud {
            section: endpoint.section,
            auth,
            problem: one_line(&error.to_string()),
        };
        let proof = match &endpoint.auth {
            Auth::None => Proof::None,
            Auth::Bearer { .. } => Proof::Bearer,
            Auth::OAuth2(options) => Proof::OAuth2 {
                options: options.clone(),
                server: options.server.clone().unwrap_or_else(|| format!("{}/v1/oauth/tokens", endpoint.uri)),
                token: Mutex::default(),
            },
            // The bucket's name is never used: the stores are made for their credentials.
            Auth::SigV4 { region, service } => Proof::SigV4 {
                credentials: AmazonS3Builder::from_env()
                    .with_bucket_name("none")
                    .with_region(region)
                    .build()
                    .map_err(|error| cloud("sigv4", error))?
                    .credentials()
                    .clone(),
                region: region.clone(),
                service: service.clone(),
            },
            Auth::Google { project } => Proof::Google {
                credentials: GoogleCloudStorageBuilder::from_env()
                    .with_bucket_name("none")
                    .build()
                    .map_err(|error| cloud("google", error))?
                    .credentials()
                    .clone(),
                project: project.as_deref().and_then(|project| HeaderValue::from_str(project).ok()),
            },
        };
        Ok(Self { endpoint, proof })
    }

    /// Puts the proof on a request whose body is `body`; tells which token it is, where another could be had.
    pub(super) async fn authorize(
        &self,
        http: &Client,
        request: &mut Request,
        body: &[u8],
    ) -> Result<Option<Carried>, CatalogError> {
        let section = self.endpoint.section;
        match &self.proof {
            Proof::None => Ok(None),
            Proof::Bearer => {
                if let Auth::Bearer { token } = &self.endpoint.auth {
                    // Read for each request: whoever keeps it fresh replaces the file.
                    let text = token.read_word().map_err(|source| CatalogError::Credential {
                        section,
                        key: "token",
                        source,
                    })?;
                    request.headers_mut().insert(AUTHORIZATION, self.bearer(&text)?);
                }
                Ok(None)
            }
            Proof::OAuth2 { options, server, token } => {
                let mut tokens = token.lock().await;
                let header = self.current(http, options, server, &mut tokens).await?;
                request.headers_mut().insert(AUTHORIZATION, header);
                Ok(Some(Carried(tokens.count)))
            }
            Proof::SigV4 { credentials, region, service } => {
                let credential =
                    credentials.get_credential().await.map_err(|error| self.cloud("sigv4", &error))?;
                sign(request, body, &credential, region, service).map_err(|problem| CatalogError::Cloud {
                    section,
                    auth: "sigv4",
                    problem,
                })?;
                Ok(None)
            }
            Proof::Google { credentials, project } => {
                let credential =
                    credentials.get_credential().await.map_err(|error| self.cloud("google", &error))?;
                let header = self.bearer(&credential.bearer)?;
                request.headers_mut().insert(AUTHORIZATION, header);
                if let Some(project) = project {
                    request.headers_mut().insert("x-goog-user-project", project.clone());
                }
                Ok(None)
            }
        }
    }

    /// The catalog refused this token: the next request carries another.
    pub(super) async fn refuse(&self, carried: Carried) {
        if let Proof::OAuth2 { token, .. } = &self.proof {
            let mut tokens = token.lock().await;
            if tokens.count == carried.0 {
                tokens.current = None;
            }
        }
    }

    /// The token in force: where its life nears its end, a new one. One that cannot be replaced is used to its end.
    async fn current(
        &self,
        http: &Client,
        options: &OAuth2,
        server: &str,
        tokens: &mut Tokens,
    ) -> Result<HeaderValue, CatalogError> {
        let now = Instant::now();
        if let Some(token) = tokens.current.as_ref().filter(|token| now < token.replaced_at) {
            return Ok(token.header.clone());
        }
        match self.fetch(http, options, server).await {
            Ok(token) => {
                let header = token.header.clone();
                tokens.current = Some(token);
                tokens.count += 1;
                Ok(header)
            }
            Err(error) => match tokens.current.as_ref().filter(|token| now < token.ends_at) {
                Some(token) => {
                    tracing::warn!(%error, "the catalog's token could not be replaced yet; the old one is still good");
                    Ok(token.header.clone())
                }
                None => Err(error),
            },
        }
    }

    async fn fetch(&self, http: &Client, options: &OAuth2, server: &str) -> Result<Token, CatalogError> {
        let section = self.endpoint.section;
        let failed = |problem: String| CatalogError::Token { section, server: server.to_owned(), problem };
        let secret = options.client_secret.read().map_err(|source| CatalogError::Credential {
            section,
            key: "client_secret",
            source,
        })?;
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", options.client_id.as_str()),
            ("client_secret", secret.as_str()),
        ];
        form.extend(options.scope.as_deref().map(|scope| ("scope", scope)));
        let asked_at = Instant::now();
        let request = http.post(server).form(&form);
        let answer = request.send().await.map_err(|error| failed(transport::cause(&error)))?;
        let status = answer.status();
        let body = transport::read(answer, ANSWER_BYTES_MAX).await.map_err(&failed)?;
        if !status.is_success() {
            let said = serde_json::from_slice::<TokenRefusal>(&body).map(|refusal| {
                let description = refusal.error_description.map(|text| format!(": {text}"));
                format!(", {}{}", refusal.error, description.unwrap_or_default())
            });
            let said = format!("HTTP {}{}", status.as_u16(), said.unwrap_or_default());
            return Err(failed(one_line(&said.replace(secret.as_str(), "***"))));
        }
        let answer: TokenAnswer = serde_json::from_slice(&body)
            // Not serde's own message, which may repeat a part of the answer.
            .map_err(|_| failed("its answer is not what RFC 6749 has: access_token is missing".to_owned()))?;
        if let Some(kind) = answer.token_type.as_deref().filter(|kind| !kind.eq_ignore_ascii_case("bearer")) {
            return Err(failed(format!("its token is of the type {}, not bearer", one_line(kind))));
        }
        let life = answer.expires_in.map_or(LIFETIME_UNKNOWN, Duration::from_secs).min(LIFETIME_MAX);
        Ok(Token {
            header: self.bearer(&Zeroizing::new(answer.access_token))?,
            replaced_at: asked_at + life * REPLACED_AFTER_PERCENT / 100,
            ends_at: asked_at + life,
        })
    }

    fn bearer(&self, token: &str) -> Result<HeaderValue, CatalogError> {
        let text = Zeroizing::new(format!("Bearer {token}"));
        let mut header = HeaderValue::from_str(&text).map_err(|_| CatalogError::Cloud {
            section: self.endpoint.section,
            auth: "bearer",
            problem: "the token has characters that no header may have".to_owned(),
        })?;
        header.set_sensitive(true);
        Ok(header)
    }

    fn cloud(&self, auth: &'static str, error: &object_store::Error) -> CatalogError {
        let problem = one_line(&error.to_string());
        CatalogError::Cloud { section: self.endpoint.section, auth, problem }
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorizer").field("auth", &self.endpoint.auth).finish_non_exhaustive()
    }
}

/// Signs a request as Amazon's services want it, at this moment. All headers that it has are part of the signature.
pub(super) fn sign(
    request: &mut Request,
    body: &[u8],
    credential: &AwsCredential,
    region: &str,
    service: &str,
) -> Result<(), String> {
    let mut twin: HttpRequest = http::Request::builder()
        .method(request.method().clone())
        .uri(request.url().as_str())
        .body(HttpRequestBody::from(body.to_vec()))
        .map_err(|error| error.to_string())?;
    *twin.headers_mut() = request.headers().clone();
    AwsAuthorizer::new(credential, service, region).authorize(&mut twin, None);
    let headers = request.headers_mut();
    for (name, value) in twin.headers() {
        let mut value = value.clone();
        value.set_sensitive(name == AUTHORIZATION || name == "x-amz-security-token");
        headers.insert(name, value);
    }
    Ok(())
}
