//! What a warehouse in a bucket needs to be known of, beside its location.
//!
//! Owns: these types. Does not own: the keys of the configuration that fill them (`config`), what a store makes of them
//! (`s3`, `gcs`).

use std::collections::HashMap;
use std::path::PathBuf;

use crate::secret::ValueReference;

/// All stores; each uses its own part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageOptions {
    /// For `s3://` locations.
    pub s3: S3Options,
    /// For `gs://` locations.
    pub gcs: GcsOptions,
}

/// Amazon S3, and what speaks its protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Options {
    /// Another endpoint than Amazon's, without the bucket.
    pub endpoint: Option<String>,
    /// The bucket's region; None: `us-east-1`, which stores that have no regions take.
    pub region: Option<String>,
    /// The bucket in the path instead of the host's name; None: where there is an endpoint.
    pub path_style: Option<bool>,
    /// Who asks.
    pub credentials: S3Credentials,
    /// The role to take on, with these credentials.
    pub assume_role: Option<AssumeRole>,
    /// Another endpoint of the security token service than the region's.
    pub sts_endpoint: Option<String>,
    /// Whoever asks pays.
    pub requester_pays: bool,
    /// Encryption at rest; None: as the bucket is set.
    pub encryption: Option<S3Encryption>,
    /// One data key for many objects; None: as the bucket is set.
    pub bucket_key: Option<bool>,
}

impl S3Options {
    /// These options; what they leave open is as a catalog says, in Iceberg's property names.
    pub(super) fn completed_by(&self, given: &HashMap<String, String>) -> Self {
        let text = |keys: [&str; 2]| keys.iter().find_map(|key| given.get(*key)).cloned();
        let path_style = given.get("s3.path-style-access").map(|value| value.eq_ignore_ascii_case("true"));
        Self {
            endpoint: self.endpoint.clone().or_else(|| given.get("s3.endpoint").cloned()),
            region: self.region.clone().or_else(|| text(["s3.region", "client.region"])),
            path_style: self.path_style.or(path_style),
            ..self.clone()
        }
    }
}

impl GcsOptions {
    /// As for S3.
    pub(super) fn completed_by(&self, given: &HashMap<String, String>) -> Self {
        let endpoint = self.endpoint.clone().or_else(|| given.get("gcs.service.host").cloned());
        Self { endpoint, ..self.clone() }
    }
}

/// Where the credentials for S3 come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum S3Credentials {
    /// Keys that are read again for each request, so that a rotated file is followed.
    Keys {
        /// The key's id, which is not secret.
        id: KeyId,
        /// The key.
        secret: ValueReference,
        /// Of temporary keys.
        session_token: Option<ValueReference>,
    },
    /// A token in a file, exchanged for keys (IRSA and other OpenID Connect providers).
    WebIdentity {
        /// The file; read again at each exchange.
        token_file: PathBuf,
        /// The role.
        role_arn: String,
        /// How the session is called in the audit log.
        session_name: Option<String>,
    },
    /// The endpoint of a container's agent (ECS).
    Container {
        /// Its path at the agent's address.
        relative_uri: String,
    },
    /// The same with an address and a token of its own (EKS Pod Identity).
    ContainerFull {
        /// Its address.
        uri: String,
        /// The file of its token.
        token_file: PathBuf,
    },
    /// The machine's role, from its metadata service.
    #[default]
    Instance,
    /// The machine's role, from a metadata service elsewhere than at its usual address.
    InstanceAt(String),
}

/// An access key's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyId {
    /// As it is.
    Plain(String),
    /// By reference.
    Reference(ValueReference),
}

/// A role to take on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssumeRole {
    /// Its ARN.
    pub arn: String,
    /// What its owner may demand to be told.
    pub external_id: Option<String>,
    /// How the session is called in the audit log.
    pub session_name: Option<String>,
}

/// Encryption at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum S3Encryption {
    /// With the store's own keys (SSE-S3).
    S3,
    /// With a key of the key management service (SSE-KMS).
    Kms {
        /// Its id; None: the bucket's default.
        key: Option<String>,
    },
    /// The same, twice (DSSE-KMS).
    DsseKms {
        /// Its id; None: the bucket's default.
        key: Option<String>,
    },
}

/// Google Cloud Storage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcsOptions {
    /// Another endpoint than Google's.
    pub endpoint: Option<String>,
    /// Who asks.
    pub credentials: GcsCredentials,
    /// The project that pays, where the requester does.
    pub user_project: Option<String>,
}

/// Where the credentials for Google Cloud Storage come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum GcsCredentials {
    /// An access token, read again for each request, so that whoever refreshes it in its file is followed.
    Token(ValueReference),
    /// The text of a credentials file.
    Json(ValueReference),
    /// A credentials file.
    File(PathBuf),
    /// The well-known file of the `gcloud` tool where it is there, else the metadata service: the machine's service account,
    /// or the one that workload identity gives.
    #[default]
    Ambient,
}
