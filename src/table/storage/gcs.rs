//! A bucket of Google Cloud Storage.
//!
//! Owns: what the options mean to `object_store`'s client. Does not own: repeating and explaining (`bucket`).

use std::sync::Arc;

use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use object_store::{CredentialProvider, HeaderMap, HeaderValue, Result, RetryConfig};

use super::bucket::{self, Bucket};
use super::credentials::{CredentialFault, Explained, Token};
use super::fault::{self, Place, Provider};
use super::options::{GcsCredentials, GcsOptions};

pub(super) type Credentials = Arc<dyn CredentialProvider<Credential = object_store::gcp::GcpCredential>>;

/// The bucket `name`.
pub(super) fn open(name: &str, options: &GcsOptions) -> Result<Bucket> {
    open_vended(name, options, None)
}

/// The bucket `name`, with the credentials that a catalog gives out, where it does.
pub(super) fn open_vended(name: &str, options: &GcsOptions, vended: Option<Credentials>) -> Result<Bucket> {
    let endpoint =
        options.endpoint.as_deref().unwrap_or("https://storage.googleapis.com").trim_end_matches('/');
    let place = Place {
        provider: Provider::Gcs,
        bucket: name.to_owned(),
        endpoint: endpoint.to_owned(),
        region: None,
    };
    let credentials: Credentials = match (vended, &options.credentials) {
        (Some(vended), _) => vended,
        (None, GcsCredentials::Token(token)) => Arc::new(Token(token.clone())),
        (None, others) => {
            let client = client(name, options, None, bucket::repeated()).map_err(refused)?;
            Arc::new(Explained::new(Arc::clone(client.credentials()), advice(others)))
        }
    };
    let client = |retry| client(name, options, Some(Arc::clone(&credentials)), retry);
    Ok(Bucket::new(Arc::new(client(bucket::repeated())?), Arc::new(client(bucket::once())?), place))
}

fn client(
    name: &str,
    options: &GcsOptions,
    credentials: Option<Credentials>,
    retry: RetryConfig,
) -> Result<GoogleCloudStorage> {
    let mut client = bucket::client_options(options.endpoint.as_deref());
    if let Some(project) = &options.user_project {
        let value = HeaderValue::from_str(project).map_err(|_| {
            CredentialFault::error("gcs.user-project is no project's id".to_owned(), "correct it")
        })?;
        client = client.with_default_headers(HeaderMap::from_iter([(
            http::HeaderName::from_static("x-goog-user-project"),
            value,
        )]));
    }
    let mut builder =
        GoogleCloudStorageBuilder::new().with_bucket_name(name).with_client_options(client).with_retry(retry);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
    }
    builder = match (credentials, &options.credentials) {
        (Some(credentials), _) => builder.with_credentials(credentials),
        (None, GcsCredentials::Token(_) | GcsCredentials::Ambient) => builder,
        (None, GcsCredentials::File(path)) => builder.with_application_credentials(path.to_string_lossy()),
        (None, GcsCredentials::Json(text)) => {
            let text = text.read().map_err(|error| {
                CredentialFault::error(
                    format!("there are no credentials: {error}"),
                    "see gcs.credentials-json",
                )
            })?;
            builder.with_service_account_key(text.as_str())
        }
    };
    builder.build()
}

/// A credentials file that cannot be used. Its text may be in the parser's message, so that is not repeated.
fn refused(error: object_store::Error) -> object_store::Error {
    let text = error.to_string();
    let cause = if text.contains("unknown variant") {
        "the Google credentials are of a kind that is not supported: they must be of type service_account or authorized_user; \
         workload identity works through the metadata service, as on GKE, without a file"
            .to_owned()
    } else if text.contains("Unable to open") {
        format!("the Google credentials file cannot be read: {}", fault::outline(&error))
    } else if std::error::Error::source(&error).is_some_and(|source| source.is::<CredentialFault>()) {
        return error;
    } else {
        "the Google credentials cannot be used: they are not the JSON of a service account's key".to_owned()
    };
    CredentialFault::error(
        cause,
        "correct gcs.credentials-file, gcs.credentials-json or GOOGLE_APPLICATION_CREDENTIALS",
    )
}

fn advice(credentials: &GcsCredentials) -> (&'static str, &'static str) {
    match credentials {
        GcsCredentials::Ambient => (
            "there are no credentials: none are configured, and no metadata service gave a token",
            "set gcs.credentials-file or gcs.oauth2.token (or GOOGLE_APPLICATION_CREDENTIALS), or attach a service account to \
             the machine or, by workload identity, to the pod",
        ),
        _ => (
            "Google gave no token for these credentials",
            "see that the key was not revoked, that this machine's clock is right, and that Google can be reached",
        ),
    }
}
