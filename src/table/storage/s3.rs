//! A bucket of Amazon S3, or of what speaks its protocol.
//!
//! Owns: what the options mean to `object_store`'s client. Does not own: repeating and explaining (`bucket`).

use std::sync::Arc;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::{CredentialProvider, Result, RetryConfig};

use super::bucket::{self, Bucket};
use super::credentials::{Explained, Keys};
use super::fault::{Place, Provider};
use super::options::{S3Credentials, S3Encryption, S3Options};
use super::role::AssumedRole;

const REGION: &str = "us-east-1";

pub(super) type Credentials = Arc<dyn CredentialProvider<Credential = AwsCredential>>;

/// The bucket `name`.
pub(super) fn open(name: &str, options: &S3Options) -> Result<Bucket> {
    open_vended(name, options, None)
}

/// The bucket `name`, with the credentials that a catalog gives out, where it does.
pub(super) fn open_vended(name: &str, options: &S3Options, vended: Option<Credentials>) -> Result<Bucket> {
    let region = options.region.clone().unwrap_or_else(|| REGION.to_owned());
    let endpoint = options.endpoint.clone().map(|endpoint| endpoint.trim_end_matches('/').to_owned());
    let place = Place {
        provider: Provider::S3,
        bucket: name.to_owned(),
        endpoint: endpoint.clone().unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com")),
        region: Some(region),
    };
    let credentials = match vended {
        Some(vended) => vended,
        None => credentials(name, options)?,
    };
    let client = |retry| client(name, options, Some(Arc::clone(&credentials)), retry);
    Ok(Bucket::new(Arc::new(client(bucket::repeated())?), Arc::new(client(bucket::once())?), place))
}

fn client(
    name: &str,
    options: &S3Options,
    credentials: Option<Credentials>,
    retry: RetryConfig,
) -> Result<AmazonS3> {
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(name)
        .with_region(options.region.as_deref().unwrap_or(REGION))
        .with_client_options(bucket::client_options(options.endpoint.as_deref()))
        .with_retry(retry)
        .with_request_payer(options.requester_pays);
    let path_style = options.path_style.unwrap_or(options.endpoint.is_some());
    builder = builder.with_virtual_hosted_style_request(!path_style);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(match (path_style, endpoint.split_once("://")) {
            // The client takes an endpoint of this style with the bucket in it.
            (false, Some((scheme, host))) => format!("{scheme}://{name}.{}", host.trim_end_matches('/')),
            _ => endpoint.clone(),
        });
    }
    builder = encryption(builder, options)?;
    if let Some(credentials) = credentials {
        builder = builder.with_credentials(credentials);
    }
    source(builder, options).build()
}

fn encryption(mut builder: AmazonS3Builder, options: &S3Options) -> Result<AmazonS3Builder> {
    let (kind, kms_key) = match &options.encryption {
        None => return Ok(builder),
        Some(S3Encryption::S3) => ("AES256", None),
        Some(S3Encryption::Kms { key }) => ("aws:kms", key.as_ref()),
        Some(S3Encryption::DsseKms { key }) => ("aws:kms:dsse", key.as_ref()),
    };
    builder = builder.with_config("aws_server_side_encryption".parse()?, kind);
    if let Some(kms_key) = kms_key {
        builder = builder.with_config("aws_sse_kms_key_id".parse()?, kms_key);
    }
    Ok(match options.bucket_key {
        Some(enabled) => builder.with_bucket_key(enabled),
        None => builder,
    })
}

/// Tells the client where its own providers find credentials.
fn source(builder: AmazonS3Builder, options: &S3Options) -> AmazonS3Builder {
    let set = |builder: AmazonS3Builder, key, value: &str| builder.with_config(key, value);
    match &options.credentials {
        S3Credentials::Keys { .. } | S3Credentials::Instance => builder,
        S3Credentials::WebIdentity { token_file, role_arn, session_name } => {
            let file = token_file.to_string_lossy();
            let mut builder = set(builder, AmazonS3ConfigKey::WebIdentityTokenFile, &file);
            builder = set(builder, AmazonS3ConfigKey::RoleArn, role_arn);
            if let Some(name) = session_name {
                builder = set(builder, AmazonS3ConfigKey::RoleSessionName, name);
            }
            match &options.sts_endpoint {
                Some(endpoint) => set(builder, AmazonS3ConfigKey::StsEndpoint, endpoint),
                None => builder,
            }
        }
        S3Credentials::Container { relative_uri } => {
            set(builder, AmazonS3ConfigKey::ContainerCredentialsRelativeUri, relative_uri)
        }
        S3Credentials::ContainerFull { uri, token_file } => {
            let file = token_file.to_string_lossy();
            let builder = set(builder, AmazonS3ConfigKey::ContainerCredentialsFullUri, uri);
            set(builder, AmazonS3ConfigKey::ContainerAuthorizationTokenFile, &file)
        }
        S3Credentials::InstanceAt(endpoint) => builder.with_metadata_endpoint(endpoint),
    }
}

/// One provider for both clients, so that a token is fetched once.
pub(super) fn credentials(name: &str, options: &S3Options) -> Result<Credentials> {
    let own: Credentials = match &options.credentials {
        S3Credentials::Keys { id, secret, session_token } => {
            let (id, secret, session_token) = (id.clone(), secret.clone(), session_token.clone());
            Arc::new(Keys { id, secret, session_token })
        }
        others => {
            let provider = Arc::clone(client(name, options, None, bucket::repeated())?.credentials());
            Arc::new(Explained::new(provider, advice(others)))
        }
    };
    Ok(match &options.assume_role {
        None => own,
        Some(role) => Arc::new(AssumedRole::new(role.clone(), own, options)?),
    })
}

/// What it means where a source has no credentials, and what to do.
fn advice(credentials: &S3Credentials) -> (&'static str, &'static str) {
    match credentials {
        S3Credentials::WebIdentity { .. } => (
            "the web identity token was not exchanged for credentials",
            "check AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE, and that the role trusts the token's issuer",
        ),
        S3Credentials::Container { .. } | S3Credentials::ContainerFull { .. } => (
            "the container's agent gave no credentials",
            "check that the task or the pod has a role, and AWS_CONTAINER_CREDENTIALS_*",
        ),
        _ => (
            "there are no credentials: none are configured, and this machine's metadata service gave none",
            "set s3.access-key-id and s3.secret-access-key (or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), or attach a role \
             to the machine or the pod",
        ),
    }
}
