//! Files that lie in a table's folder beside its data and metadata, and belong to nobody but Esker: the policies under which
//! rows were stored.
//!
//! Iceberg knows nothing of them: no snapshot and no manifest names them. Whatever removes orphans must spare this folder
//! whole, for as long as the table is there: rows name the versions that lie in it.
//!
//! Owns: their place, and that one that is there is never changed. Does not own: what is in them.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};

use super::catalog::files::FilesCatalog;
use super::storage::Warehouse;
use super::{CatalogOptions, Found, Peek, Table, TableError, TableOptions, schema};
use crate::columns::TableColumn;

/// The folder of the policies, in the table's own.
pub const POLICIES_FOLDER: &str = "policies";

/// The summary's key for the policies of a snapshot's rows.
const POLICY_VERSIONS: &str = "esker.policy-versions";

impl Table {
    /// Puts a file into the table's folder, if it is not there; answers whether it was put. One that is there is left alone.
    /// A managed bucket may refuse it, which is logged.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn put_once(&self, name: &str, bytes: Vec<u8>) -> Result<bool, TableError> {
        let key = self.warehouse.key(&format!("{}/{name}", self.loaded().metadata.location()))?;
        match self.warehouse.store().put_opts(&key, bytes.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(false)
            }
            Err(object_store::Error::PermissionDenied { .. }) if self.catalog.manages_storage() => {
                tracing::warn!(
                    name,
                    table = self.catalog.table_location(),
                    "the table's bucket takes only files that Iceberg knows, so this one is kept in the data directory alone: \
                     keep a copy of it for as long as the table"
                );
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a file from a table's folder; None where it is not there. Makes nothing.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn read_beside(options: &TableOptions, name: &str) -> Result<Option<Bytes>, TableError> {
        if !options.has_warehouse() {
            return Ok(None);
        }
        let (warehouse, key) = match &options.catalog {
            CatalogOptions::Files => {
                let warehouse = Warehouse::open(&options.warehouse, &options.storage)?;
                let catalog = FilesCatalog::new(&warehouse, &options.name);
                // The folder of the metadata lies in the table's own.
                let folder = catalog.metadata_folder().as_ref().trim_end_matches("metadata").to_owned();
                (warehouse, Path::from(format!("{folder}{name}")))
            }
            CatalogOptions::Rest(_) => {
                let Some(Found { warehouse, loaded, .. }) = options.look().await? else { return Ok(None) };
                let key = warehouse.key(&format!("{}/{name}", loaded.metadata.location()))?;
                (warehouse, key)
            }
        };
        match warehouse.store().get(&key).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Peek {
    /// The names of the table's columns.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.0.metadata.current_schema().as_struct().fields().iter().map(|field| field.name.as_str())
    }

    /// The policies under which the rows of the newest snapshot that tells were stored; the last is the version that sorts
    /// last, not the one that came last.
    #[must_use]
    pub fn policy_versions(&self) -> Vec<String> {
        let mut snapshots: Vec<_> = self.0.metadata.snapshots().collect();
        snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.sequence_number()));
        let told = snapshots.iter().find_map(|one| one.summary().additional_properties.get(POLICY_VERSIONS));
        told.into_iter().flat_map(|versions| versions.split(',')).map(str::to_owned).collect()
    }

    /// Why a start with these columns would be refused, each reason in words; empty where it would not.
    #[must_use]
    pub fn refusals(&self, columns: &[TableColumn]) -> Vec<String> {
        let foreign = schema::check_ours(&self.0, columns).err();
        let types = schema::type_conflicts(&self.0, columns);
        foreign.into_iter().chain(types).map(|error| error.to_string()).collect()
    }
}
