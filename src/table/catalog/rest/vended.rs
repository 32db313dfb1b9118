//! Credentials of the storage that a catalog gives out with a table, and gives anew before they end.
//!
//! Owns: reading them from an answer, when they are asked for again. Does not own: the answer, the storage.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use object_store::gcp::GcpCredential;
use serde::Deserialize;

use super::RestTable;

/// Asked for anew this long before their end, or in the middle of a shorter life.
const RENEWED_BEFORE_MS: i64 = 5 * 60 * 1000;
/// The life of those that say nothing of it: what the shortest session of Amazon's lasts.
const LIFE_UNKNOWN_MS: i64 = 15 * 60 * 1000;

/// The part of a load-table answer that is about storage.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Grant {
    #[serde(default)]
    config: HashMap<String, Option<String>>,
    #[serde(default)]
    storage_credentials: Vec<StorageCredential>,
}

#[derive(Deserialize)]
struct StorageCredential {
    prefix: String,
    config: HashMap<String, Option<String>>,
}

/// What was given out for one location.
#[derive(Clone)]
pub(super) struct Vended {
    aws: Option<Arc<AwsCredential>>,
    gcp: Option<Arc<GcpCredential>>,
    renewed_at_ms: i64,
    ends_at_ms: i64,
}

impl Grant {
    /// Everything that holds for a location: the credential with the longest prefix of it over the rest.
    pub(super) fn properties(&self, location: &str) -> HashMap<String, String> {
        let best = self
            .storage_credentials
            .iter()
            .filter(|one| location.starts_with(&one.prefix))
            .max_by_key(|one| one.prefix.len());
        let all = self.config.iter().chain(best.into_iter().flat_map(|one| &one.config));
        all.filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect()
    }
}

impl Vended {
    /// The credentials among `properties`, if there are any.
    pub(super) fn of(properties: &HashMap<String, String>, now_ms: i64) -> Option<Self> {
        let text = |key: &str| properties.get(key).cloned();
        let aws = match (text("s3.access-key-id"), text("s3.secret-access-key")) {
            (Some(key_id), Some(secret_key)) => {
                Some(Arc::new(AwsCredential { key_id, secret_key, token: text("s3.session-token") }))
            }
            _ => None,
        };
        let gcp = text("gcs.oauth2.token").map(|bearer| Arc::new(GcpCredential { bearer }));
        if aws.is_none() && gcp.is_none() {
            return None;
        }
        let ends = ["s3.session-token-expires-at-ms", "gcs.oauth2.token-expires-at", "expiration-time"];
        let ends_at_ms = ends
            .iter()
            .filter_map(|key| properties.get(*key)?.parse::<i64>().ok())
            .min()
            .unwrap_or(now_ms.saturating_add(LIFE_UNKNOWN_MS));
        let life = ends_at_ms.saturating_sub(now_ms).max(0);
        let renewed_at_ms = ends_at_ms.saturating_sub(RENEWED_BEFORE_MS.min(life / 2));
        Some(Self { aws, gcp, renewed_at_ms, ends_at_ms })
    }

    pub(super) fn is_fresh(&self, now_ms: i64) -> bool {
        now_ms < self.renewed_at_ms
    }

    pub(super) fn is_good(&self, now_ms: i64) -> bool {
        now_ms < self.ends_at_ms
    }
}

impl fmt::Debug for Vended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vended").field("ends_at_ms", &self.ends_at_ms).finish_non_exhaustive()
    }
}

/// A table's credentials as `object_store` asks for them, before each of its requests.
#[derive(Debug, Clone)]
pub(in crate::table) struct VendedCredentials(Arc<RestTable>);

impl VendedCredentials {
    pub(super) fn new(table: Arc<RestTable>) -> Self {
        Self(table)
    }

    async fn current(&self) -> object_store::Result<Vended> {
        self.0
            .vended()
            .await
            .map_err(|error| object_store::Error::Generic { store: "catalog", source: error.into() })
    }

    fn lacks(what: &'static str) -> object_store::Error {
        object_store::Error::Generic {
            store: "catalog",
            source: format!(
                "the catalog gave out no credentials of {what} for this table; give them in [storage] and set \
                 vended_credentials = false"
            )
            .into(),
        }
    }
}

#[async_trait]
impl CredentialProvider for VendedCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.current().await?.aws.ok_or_else(|| Self::lacks("S3"))
    }
}

/// The same for Google's storage.
#[derive(Debug, Clone)]
pub(in crate::table) struct VendedGoogle(pub(in crate::table) VendedCredentials);

#[async_trait]
impl CredentialProvider for VendedGoogle {
    type Credential = GcpCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<GcpCredential>> {
        self.0.current().await?.gcp.ok_or_else(|| VendedCredentials::lacks("Google Cloud Storage"))
    }
}
