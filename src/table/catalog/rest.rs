//! The `rest` catalog: a server holds the pointer to the newest metadata, and moves it where a request's requirements hold.
//!
//! A commit is sent once. Whether one that got no clear answer was made is told by loading the table, as for every catalog
//! (`table::commit`); the server may still make it later, so what it names is not touched before its requirements can no
//! longer hold.
//!
//! Owns: requests and answers about one table. Does not own: talking to the server (`session`), what a commit contains.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use iceberg::spec::{FormatVersion, TableMetadata};
use iceberg::{TableRequirement, TableUpdate};
use serde::Deserialize;
use serde_json::{Value, json};

mod auth;
mod error;
mod options;
mod session;
mod transport;
mod vended;

pub use error::CatalogError;
pub use options::{Auth, CatalogOptions, Endpoint, OAuth2, RestCatalogOptions};
pub(in crate::table) use vended::{VendedCredentials, VendedGoogle};

use super::{Catalog, CommitOutcome, Loaded};
use crate::clock::Clock;
use crate::table::error::TableError;
use error::Explanation;
use session::{Answer, Call, Session, Silence};
use vended::{Grant, Vended};

/// A commit may wait in the server for others; the longer Esker waits for its answer, the seldomer the outcome is unknown.
const COMMIT_TIME_MAX: Duration = Duration::from_secs(60);
const LOAD: &str = "load the table";
const CREATE: &str = "create the table";
const CREATE_NAMESPACE: &str = "create the namespace";
const COMMIT: &str = "change the table";

/// One table of a REST catalog.
#[derive(Debug)]
pub(in crate::table) struct RestCatalog(Arc<RestTable>);

#[derive(Debug)]
pub(super) struct RestTable {
    session: Arc<Session>,
    namespace: String,
    name: String,
    /// What the table is called in messages.
    place: String,
    clock: Arc<dyn Clock>,
    vending: Mutex<Vending>,
    /// Held by whoever renews what was vended: one request serves all.
    renewing: tokio::sync::Mutex<()>,
}

/// Whether the catalog gives out credentials.
#[derive(Debug, Clone)]
enum Vending {
    /// It was not asked yet.
    Unknown,
    /// It does not, or is not to.
    Never,
    /// The newest.
    Vended(Vended),
}

/// A table, and how its files are reached.
#[derive(Debug)]
pub(in crate::table) struct Placed {
    pub(in crate::table) loaded: Loaded,
    /// The storage's properties as the catalog gives them, credentials among them; never to be shown.
    pub(in crate::table) properties: Properties,
    /// Credentials that are renewed by asking the catalog, where it gives any.
    pub(in crate::table) credentials: Option<VendedCredentials>,
}

/// Properties of a storage, some of them secret.
#[derive(Clone, Default)]
pub(in crate::table) struct Properties(pub(in crate::table) HashMap<String, String>);

impl std::fmt::Debug for Properties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct LoadAnswer {
    #[serde(default)]
    metadata_location: Option<String>,
    metadata: TableMetadata,
}

impl RestCatalog {
    /// The catalog of `name` (`namespace.table`). The first call for a catalog talks to it.
    pub(in crate::table) async fn open(
        options: &RestCatalogOptions,
        name: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TableError> {
        let session = options.session().await?;
        let (namespace, table) = name.split_once('.').unwrap_or(("default", name));
        let place = match &options.endpoint().location {
            Some(location) => format!("{location}/{}", name.replace('.', "/")),
            None => format!("{name} in the catalog {}", options.endpoint().uri),
        };
        let vending = if options.endpoint().vended_credentials { Vending::Unknown } else { Vending::Never };
        Ok(Self(Arc::new(RestTable {
            session,
            namespace: namespace.to_owned(),
            name: table.to_owned(),
            place,
            clock,
            vending: Mutex::new(vending),
            renewing: tokio::sync::Mutex::default(),
        })))
    }

    /// The newest metadata, and how the table's files are reached; None where there is no table.
    pub(in crate::table) async fn locate(&self) -> Result<Option<Placed>, TableError> {
        let Some((loaded, properties)) = self.0.load().await? else { return Ok(None) };
        let vends = matches!(*self.0.vending(), Vending::Vended(_));
        let credentials = vends.then(|| VendedCredentials::new(Arc::clone(&self.0)));
        Ok(Some(Placed { loaded, properties: Properties(properties), credentials }))
    }
}

impl RestTable {
    fn tables(&self) -> String {
        format!("namespaces/{}/tables", self.namespace)
    }

    fn path(&self) -> String {
        format!("{}/{}", self.tables(), self.name)
    }

    fn vending(&self) -> std::sync::MutexGuard<'_, Vending> {
        self.vending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> i64 {
        self.clock.now_micros() / 1000
    }

    /// Credentials are asked for only where they are needed: each time costs the catalog a request to its cloud.
    fn wants_credentials(&self) -> bool {
        match &*self.vending() {
            Vending::Unknown => true,
            Vending::Never => false,
            Vending::Vended(vended) => !vended.is_fresh(self.now_ms()),
        }
    }

    async fn load(&self) -> Result<Option<(Loaded, HashMap<String, String>)>, TableError> {
        let delegate = self.wants_credentials();
        let call = Call { delegate, ..Call::get(LOAD, self.path()) };
        let answer = self.session.send(&call).await.map_err(|silence| silence.error)?;
        if answer.status == StatusCode::NOT_FOUND && Explanation::of(answer.status, &answer.body).is_catalog {
            return Ok(None);
        }
        if !answer.status.is_success() {
            return Err(self.session.refusal(LOAD, &answer).into());
        }
        let loaded = self.loaded(&answer.body)?;
        let grant: Grant = serde_json::from_slice(&answer.body).unwrap_or_default();
        let properties = grant.properties(loaded.metadata.location());
        if delegate {
            let vended = Vended::of(&properties, self.now_ms()).map_or(Vending::Never, Vending::Vended);
            let mut vending = self.vending();
            // One answer without credentials, after others with them, is no reason to give up what is still good.
            if !matches!((&*vending, &vended), (Vending::Vended(_), Vending::Never)) {
                *vending = vended;
            }
        }
        Ok(Some((loaded, properties)))
    }

    fn loaded(&self, body: &[u8]) -> Result<Loaded, TableError> {
        let answer: LoadAnswer =
            serde_json::from_slice(body).map_err(|error| self.unreadable(body, &error))?;
        let metadata_location = answer.metadata_location.unwrap_or_default();
        let version =
            version_of(&metadata_location).unwrap_or(answer.metadata.metadata_log().len() as u64 + 1);
        Ok(Loaded { metadata: Arc::new(answer.metadata), metadata_location, version })
    }

    /// Why an answer is no table that Esker can read: another format is told from nonsense.
    fn unreadable(&self, body: &[u8], error: &serde_json::Error) -> TableError {
        let json = serde_json::from_slice::<Value>(body).ok();
        let metadata = json.as_ref().and_then(|json| json.get("metadata"));
        let number = metadata.and_then(|metadata| metadata.get("format-version")?.as_u64());
        match number {
            Some(version) if version != FormatVersion::V2 as u64 => TableError::Foreign {
                location: self.place.clone(),
                problem: format!("its format version is v{version}, Esker writes 2"),
            },
            // The error tells place and kind, and may repeat a name, but no row: there are none in metadata.
            _ => CatalogError::Answer { action: LOAD, problem: error.to_string() }.into(),
        }
    }

    /// Credentials that last a while longer; the catalog is asked where they do not.
    async fn vended(&self) -> Result<Vended, TableError> {
        let known = |good: fn(&Vended, i64) -> bool| match &*self.vending() {
            Vending::Vended(vended) if good(vended, self.now_ms()) => Some(vended.clone()),
            _ => None,
        };
        if let Some(vended) = known(Vended::is_fresh) {
            return Ok(vended);
        }
        let renewing = self.renewing.lock().await;
        if let Some(vended) = known(Vended::is_fresh) {
            return Ok(vended);
        }
        let outcome = self.load().await;
        drop(renewing);
        // What nears its end and could not be renewed is used until then.
        match (known(Vended::is_good), outcome) {
            (Some(vended), Ok(_)) => Ok(vended),
            (Some(vended), Err(error)) => {
                tracing::warn!(%error, "the storage's credentials could not be renewed yet; the old ones are still good");
                Ok(vended)
            }
            (None, Err(error)) => Err(error),
            (None, Ok(None)) => Err(TableError::Gone { location: self.place.clone() }),
            (None, Ok(Some(_))) => Err(CatalogError::Answer {
                action: LOAD,
                problem: "the credentials of the storage have ended, and the answer has no new ones"
                    .to_owned(),
            }
            .into()),
        }
    }

    async fn post(&self, call: &Call) -> Result<Result<Answer, TableError>, TableError> {
        match self.session.send(call).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(Silence { error, was_sent: true }) => Ok(Err(error.into())),
            Err(Silence { error, was_sent: false }) => Err(error.into()),
        }
    }

    /// What the answer to a change says of it.
    fn outcome(&self, action: &'static str, answer: &Answer) -> Result<CommitOutcome, TableError> {
        match answer.status.as_u16() {
            200..300 => Ok(CommitOutcome::Committed),
            // 404: the table is gone, as the next load shows.
            409 => Ok(CommitOutcome::Conflicted),
            404 if Explanation::of(answer.status, &answer.body).is_catalog => Ok(CommitOutcome::Conflicted),
            // Other statuses that no catalog should answer, and whatever stands between may.
            100..200 | 300..400 | 500.. | 408 => {
                Ok(CommitOutcome::Unknown(self.session.refusal(action, answer).into()))
            }
            _ => Err(self.session.refusal(action, answer).into()),
        }
    }

    fn creation(&self, metadata: &TableMetadata) -> Result<Value, TableError> {
        let unserialised = |error: serde_json::Error| TableError::Metadata {
            location: self.place.clone(),
            problem: error.to_string(),
        };
        let mut properties = metadata.properties().clone();
        properties.insert("format-version".to_owned(), "2".to_owned());
        let mut body = json!({
            "name": self.name,
            "schema": serde_json::to_value(metadata.current_schema().as_ref()).map_err(unserialised)?,
            "partition-spec":
                serde_json::to_value(metadata.default_partition_spec().as_ref()).map_err(unserialised)?,
            "write-order":
                serde_json::to_value(metadata.default_sort_order().as_ref()).map_err(unserialised)?,
            "stage-create": false,
            "properties": properties,
        });
        if let (Some(location), Some(body)) = (&self.session.endpoint.location, body.as_object_mut()) {
            body.insert("location".to_owned(), format!("{location}/{}/{}", self.namespace, self.name).into());
        }
        Ok(body)
    }
}

#[async_trait]
impl Catalog for RestCatalog {
    fn table_location(&self) -> &str {
        &self.0.place
    }

    fn refuses_any_other_base(&self) -> bool {
        false
    }

    fn manages_storage(&self) -> bool {
        true
    }

    async fn load(&self) -> Result<Option<Loaded>, TableError> {
        Ok(self.0.load().await?.map(|(loaded, _)| loaded))
    }

    /// Its readers ask the catalog.
    async fn show(&self, _: &Loaded) {}

    async fn create(&self, metadata: TableMetadata) -> Result<CommitOutcome, TableError> {
        let table = &self.0;
        let call = Call {
            time_max: Some(COMMIT_TIME_MAX),
            ..Call::post(CREATE, table.tables(), table.creation(&metadata)?)
        };
        let answer = match table.post(&call).await? {
            Ok(answer) => answer,
            Err(error) => return Ok(CommitOutcome::Unknown(error)),
        };
        if answer.status != StatusCode::NOT_FOUND || !Explanation::of(answer.status, &answer.body).is_catalog
        {
            return table.outcome(CREATE, &answer);
        }
        let body = json!({ "namespace": [table.namespace], "properties": {} });
        let namespace = Call::post(CREATE_NAMESPACE, "namespaces".to_owned(), body);
        match table.post(&namespace).await? {
            Ok(made) if made.status.is_success() || made.status == StatusCode::CONFLICT => {}
            Ok(refused) => return Err(table.session.refusal(CREATE_NAMESPACE, &refused).into()),
            Err(error) => return Ok(CommitOutcome::Unknown(error)),
        }
        match table.post(&call).await? {
            // Now that the namespace is there, it is no conflict.
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => {
                Err(table.session.refusal(CREATE, &answer).into())
            }
            Ok(answer) => table.outcome(CREATE, &answer),
            Err(error) => Ok(CommitOutcome::Unknown(error)),
        }
    }

    async fn commit(
        &self,
        base: &Loaded,
        requirements: &[TableRequirement],
        updates: Vec<TableUpdate>,
    ) -> Result<CommitOutcome, TableError> {
        let table = &self.0;
        // What does not hold for the base holds for nothing newer either; and the server is spared it.
        if requirements.iter().any(|requirement| requirement.check(Some(&base.metadata)).is_err()) {
            return Ok(CommitOutcome::Conflicted);
        }
        let unserialised =
            |error: serde_json::Error| CatalogError::Answer { action: COMMIT, problem: error.to_string() };
        let body = json!({
            "identifier": { "namespace": [table.namespace], "name": table.name },
            "requirements": serde_json::to_value(requirements).map_err(unserialised)?,
            "updates": serde_json::to_value(updates).map_err(unserialised)?,
        });
        let call = Call { time_max: Some(COMMIT_TIME_MAX), ..Call::post(COMMIT, table.path(), body) };
        match table.post(&call).await? {
            Ok(answer) => table.outcome(COMMIT, &answer),
            Err(error) => Ok(CommitOutcome::Unknown(error)),
        }
    }
}

/// The number at the beginning of a metadata file's name, `v3.metadata.json` or `00003-<uuid>.metadata.json`.
fn version_of(location: &str) -> Option<u64> {
    let name = location.rsplit('/').next()?;
    let digits = name.strip_prefix('v').unwrap_or(name);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests;
