//! Which REST catalog, and how Esker proves who it is.
//!
//! Owns: these values, and the one session that all tables of a catalog share. Does not own: their spelling in the
//! configuration, their use (`session`, `auth`).

use std::sync::Arc;

use tokio::sync::OnceCell;

use super::error::CatalogError;
use super::session::Session;
use crate::secret::ValueReference;

/// Which catalog orders a table's commits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CatalogOptions {
    /// The table's own folder.
    #[default]
    Files,
    /// A server.
    Rest(RestCatalogOptions),
}

/// A REST catalog and one of its warehouses. Clones share what was learned by talking to it.
#[derive(Clone)]
pub struct RestCatalogOptions {
    endpoint: Arc<Endpoint>,
    session: Arc<OnceCell<Arc<Session>>>,
}

/// How a REST catalog is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The section of the configuration that says so; for messages.
    pub section: &'static str,
    /// The address, without `/v1`.
    pub uri: String,
    /// The catalog's own name for the warehouse; empty where it has only one.
    pub warehouse: String,
    /// Where new tables are made; None where the catalog decides.
    pub location: Option<String>,
    /// How Esker proves who it is.
    pub auth: Auth,
    /// True: storage is opened with what the catalog gives out, where it gives any.
    pub vended_credentials: bool,
}

/// How Esker proves who it is to a catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// It does not.
    None,
    /// A token that something else keeps fresh.
    Bearer {
        /// The token.
        token: ValueReference,
    },
    /// OAuth 2's client credentials: a token is fetched, and fetched anew before it ends.
    OAuth2(OAuth2),
    /// Amazon's signature, version 4, with the credentials of this machine or process.
    SigV4 {
        /// The region that the catalog is in.
        region: String,
        /// `glue` or `s3tables`.
        service: String,
    },
    /// A Google access token, with the credentials of this machine or process.
    Google {
        /// The project that the requests are counted against.
        project: Option<String>,
    },
}

/// OAuth 2's client credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuth2 {
    /// Who Esker is.
    pub client_id: String,
    /// The proof.
    pub client_secret: ValueReference,
    /// What the token is to allow.
    pub scope: Option<String>,
    /// Where tokens are fetched; None: at the catalog itself.
    pub server: Option<String>,
}

impl RestCatalogOptions {
    /// A catalog that nobody has talked to yet.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint: Arc::new(endpoint), session: Arc::new(OnceCell::new()) }
    }

    /// How it is reached.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The session; the first call makes it.
    pub(super) async fn session(&self) -> Result<Arc<Session>, CatalogError> {
        let session = self
            .session
            .get_or_try_init(|| async { Session::connect(Arc::clone(&self.endpoint)).await.map(Arc::new) });
        session.await.cloned()
    }
}

impl std::fmt::Debug for RestCatalogOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.endpoint.fmt(f)
    }
}

impl PartialEq for RestCatalogOptions {
    fn eq(&self, other: &Self) -> bool {
        self.endpoint == other.endpoint
    }
}

impl Eq for RestCatalogOptions {}
