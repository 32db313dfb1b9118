//! Who asks: credentials that are read when they are needed, roles that are taken on, and what it means where there are none.
//!
//! Owns: these providers. Does not own: the exchanges with metadata services and web identities, which `object_store` makes.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use object_store::aws::AwsCredential;
use object_store::gcp::GcpCredential;
use object_store::{CredentialProvider, Error, Result};

use super::fault;
use super::options::KeyId;
use crate::secret::{ValueError, ValueReference};

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
#[error("{cause}; {fix}")]
pub(super) struct CredentialFault {
    pub(super) cause: String,
    pub(super) fix: String,
}

impl CredentialFault {
    pub(super) fn error(cause: String, fix: impl Into<String>) -> Error {
        Error::Generic { store: "credentials", source: Box::new(Self { cause, fix: fix.into() }) }
    }

    fn unreadable(error: &ValueError) -> Error {
        Self::error(format!("there are no credentials: {error}"), "see [storage] in the configuration")
    }
}

/// Another provider, whose failures say what to do.
pub(super) struct Explained<C> {
    inner: Arc<dyn CredentialProvider<Credential = C>>,
    cause: &'static str,
    fix: &'static str,
}

impl<C> Explained<C> {
    pub(super) fn new(
        inner: Arc<dyn CredentialProvider<Credential = C>>,
        (cause, fix): (&'static str, &'static str),
    ) -> Self {
        Self { inner, cause, fix }
    }
}

impl<C> fmt::Debug for Explained<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Explained")
    }
}

#[async_trait]
impl<C: Send + Sync> CredentialProvider for Explained<C> {
    type Credential = C;

    async fn get_credential(&self) -> Result<Arc<C>> {
        self.inner.get_credential().await.map_err(|error| {
            CredentialFault::error(format!("{} ({})", self.cause, fault::outline(&error)), self.fix)
        })
    }
}

/// Keys that references name.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) id: KeyId,
    pub(super) secret: ValueReference,
    pub(super) session_token: Option<ValueReference>,
}

#[async_trait]
impl CredentialProvider for Keys {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>> {
        let word = |reference: &ValueReference| {
            reference
                .read_word()
                .map(|word| word.to_string())
                .map_err(|error| CredentialFault::unreadable(&error))
        };
        Ok(Arc::new(AwsCredential {
            key_id: match &self.id {
                KeyId::Plain(id) => id.clone(),
                KeyId::Reference(reference) => word(reference)?,
            },
            secret_key: word(&self.secret)?,
            token: self.session_token.as_ref().map(word).transpose()?,
        }))
    }
}

/// An access token that a reference names.
#[derive(Debug)]
pub(super) struct Token(pub(super) ValueReference);

#[async_trait]
impl CredentialProvider for Token {
    type Credential = GcpCredential;

    async fn get_credential(&self) -> Result<Arc<GcpCredential>> {
        let bearer = self.0.read_word().map_err(|error| CredentialFault::unreadable(&error))?.to_string();
        Ok(Arc::new(GcpCredential { bearer }))
    }
}
