//! Everything Iceberg: load, evolve, produce a snapshot, commit, and settle what is unknown. Only this folder imports
//! the `iceberg` crate.
//!
//! Owns: storage by location, the catalogs, metadata, snapshots. Does not own: when to flush, what a file contains.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{DataType, Schema};
use serde::Serialize;
use uuid::Uuid;

mod beside;
mod care;
mod catalog;
mod commit;
mod error;
mod fence;
mod local;
pub mod read;
mod remove;
mod schema;
mod snapshot;
mod storage;

#[cfg(test)]
pub(crate) mod tests;

pub use beside::POLICIES_FOLDER;
pub use care::{Expired, History, Needed, Reference, SnapshotFacts, StoredFile};
use catalog::files::FilesCatalog;
use catalog::rest::RestCatalog;
pub use catalog::rest::{Auth, CatalogError, CatalogOptions, Endpoint, OAuth2, RestCatalogOptions};
use catalog::{Catalog, CommitOutcome, Loaded};
pub use catalog::{Version, Versions};
pub use commit::{Appended, WalClaim};
pub use error::TableError;
pub use remove::{LiveFile, Removed};
use storage::Warehouse;
pub use storage::{
    AssumeRole, GcsCredentials, GcsOptions, KeyId, S3Credentials, S3Encryption, S3Options, StorageOptions,
};

use crate::clock::{Clock, Ids, SystemClock};
use crate::columns::TableColumn;
use crate::datafile::{ColumnPolicy, FileTarget};
use crate::wal::Position;

/// Attempts to create or evolve the table while other writers do the same.
const SET_UP_ATTEMPTS_MAX: u32 = 20;

/// Which table.
#[derive(Debug, Clone)]
pub struct TableOptions {
    /// The warehouse's location: `file://PATH`, `s3://BUCKET/PREFIX` or `gs://BUCKET/PREFIX`; with a REST catalog, its name
    /// there.
    pub warehouse: String,
    /// What orders its commits.
    pub catalog: CatalogOptions,
    /// What its store needs to know.
    pub storage: Arc<StorageOptions>,
    /// `namespace.table`.
    pub name: String,
    /// How long its rows are to be kept, in days; recorded in the table.
    pub retention_days: Option<u32>,
}

impl TableOptions {
    /// Where the table is looked for, in words.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.catalog {
            CatalogOptions::Files => self.warehouse.clone(),
            CatalogOptions::Rest(rest) if self.warehouse.is_empty() => {
                format!("the catalog {}", rest.endpoint().uri)
            }
            CatalogOptions::Rest(rest) => {
                format!("the warehouse {} of the catalog {}", self.warehouse, rest.endpoint().uri)
            }
        }
    }

    /// False where the warehouse is a local folder that does not exist: opening it would make it.
    fn has_warehouse(&self) -> bool {
        matches!(self.catalog, CatalogOptions::Rest(_))
            || self.warehouse.strip_prefix("file://").is_none_or(|path| std::path::Path::new(path).exists())
    }

    /// The table, its catalog and its storage, if there is one. Makes nothing.
    async fn look(&self) -> Result<Option<Found>, TableError> {
        if !self.has_warehouse() {
            return Ok(None);
        }
        match &self.catalog {
            CatalogOptions::Files => {
                let warehouse = Warehouse::open(&self.warehouse, &self.storage)?;
                let catalog = FilesCatalog::new(&warehouse, &self.name);
                let loaded = catalog.load().await?;
                Ok(loaded.map(|loaded| Found { catalog: Arc::new(catalog), warehouse, loaded }))
            }
            CatalogOptions::Rest(rest) => {
                let catalog = RestCatalog::open(rest, &self.name, Arc::new(SystemClock)).await?;
                let Some(placed) = catalog.locate().await? else { return Ok(None) };
                let warehouse = Warehouse::of_table(&placed, &self.storage)?;
                Ok(Some(Found { catalog: Arc::new(catalog), warehouse, loaded: placed.loaded }))
            }
        }
    }
}

/// A table that is there.
struct Found {
    catalog: Arc<dyn Catalog>,
    warehouse: Warehouse,
    loaded: Loaded,
}

/// The table as `esker status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct TableStatus {
    /// Where it is.
    pub location: String,
    /// The number of the newest metadata file.
    pub metadata_version: u64,
    /// The current schema.
    pub schema_id: i32,
    /// Its columns.
    pub columns: usize,
    /// Snapshots that can be read.
    pub snapshots: usize,
    /// The newest, if there is one.
    pub current_snapshot_id: Option<i64>,
    /// When it was made, milliseconds since the Unix epoch.
    pub current_snapshot_ms: Option<i64>,
    /// Live data files.
    pub data_files: u64,
    /// Rows in them.
    pub rows: u64,
    /// Their size.
    pub bytes: u64,
    /// How long rows are to be kept, as the table records it.
    pub retention: Option<String>,
}

/// An open table.
#[derive(Debug)]
pub struct Table {
    catalog: Arc<dyn Catalog>,
    warehouse: Warehouse,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    columns: Vec<TableColumn>,
    /// As last read.
    loaded: Mutex<Loaded>,
    /// True where the last commit found that somebody had altered the table.
    altered: AtomicBool,
}

impl Table {
    /// Opens the table, making it or adding columns to it where it lacks them.
    ///
    /// # Errors
    /// If the warehouse cannot be used, or the table was not made for Esker or holds other types than `columns`.
    pub async fn open_or_create(
        options: &TableOptions,
        columns: &[TableColumn],
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Result<Self, TableError> {
        if let CatalogOptions::Rest(rest) = &options.catalog {
            let catalog = RestCatalog::open(rest, &options.name, Arc::clone(&clock)).await?;
            Self::prepare(&catalog, options, columns).await?;
            // Only now the catalog knows where the table lies, and gives out what opens that place.
            let gone = || TableError::Gone { location: catalog.table_location().to_owned() };
            let placed = catalog.locate().await?.ok_or_else(gone)?;
            let warehouse = Warehouse::of_table(&placed, &options.storage)?;
            let (columns, loaded) = (columns.to_vec(), Mutex::new(placed.loaded));
            let (catalog, altered) = (Arc::new(catalog), AtomicBool::new(false));
            return Ok(Self { catalog, warehouse, clock, ids, columns, loaded, altered });
        }
        let warehouse = Warehouse::open(&options.warehouse, &options.storage)?;
        let catalog = FilesCatalog::new(&warehouse, &options.name);
        // Before the first own file, so that a start that fails on a full disk can free what an earlier one left.
        warehouse.sweep(catalog.table_location()).await;
        warehouse.probe(catalog.metadata_folder(), &ids.next_id().simple().to_string()).await?;
        Self::set_up(Arc::new(catalog), warehouse, options, columns, clock, ids).await
    }

    /// Tries out the warehouse of a table, as each start does: creates, reads, lists and deletes one small object. Leaves
    /// nothing behind. A REST catalog is asked for the table instead: only it knows where that lies.
    ///
    /// # Errors
    /// If the warehouse cannot be used: why, and what to do.
    pub async fn probe(options: &TableOptions, ids: &dyn Ids) -> Result<(), TableError> {
        if let CatalogOptions::Rest(rest) = &options.catalog {
            RestCatalog::open(rest, &options.name, Arc::new(SystemClock)).await?.load().await?;
            return Ok(());
        }
        let warehouse = Warehouse::open(&options.warehouse, &options.storage)?;
        let catalog = FilesCatalog::new(&warehouse, &options.name);
        warehouse.probe(catalog.metadata_folder(), &ids.next_id().simple().to_string()).await
    }

    async fn set_up(
        catalog: Arc<dyn Catalog>,
        warehouse: Warehouse,
        options: &TableOptions,
        columns: &[TableColumn],
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Result<Self, TableError> {
        let loaded = Mutex::new(Self::prepare(catalog.as_ref(), options, columns).await?);
        let (columns, altered) = (columns.to_vec(), AtomicBool::new(false));
        Ok(Self { catalog, warehouse, clock, ids, columns, loaded, altered })
    }

    /// Makes the table, adds columns, records the retention, as far as that is wanting.
    async fn prepare(
        catalog: &dyn Catalog,
        options: &TableOptions,
        columns: &[TableColumn],
    ) -> Result<Loaded, TableError> {
        for _ in 0..SET_UP_ATTEMPTS_MAX {
            let outcome = match catalog.load().await? {
                None => {
                    let metadata = schema::new_table(catalog.table_location(), &options.name, columns)?;
                    catalog.create(metadata).await?
                }
                Some(loaded) => {
                    schema::check_ours(&loaded, columns)?;
                    let retention = || schema::retention_change(&loaded, options.retention_days);
                    match schema::evolution(&loaded, columns)?.or_else(retention) {
                        Some(change) => catalog.commit(&loaded, &change.requirements, change.updates).await?,
                        None => {
                            catalog.show(&loaded).await;
                            return Ok(loaded);
                        }
                    }
                }
            };
            match outcome {
                // Whatever happened, the next reading shows it.
                CommitOutcome::Committed | CommitOutcome::Conflicted => {}
                CommitOutcome::Unknown(error) => {
                    tracing::warn!(%error, "the outcome of setting up the table is unknown; reading it");
                }
            }
        }
        Err(TableError::Contended { attempts: SET_UP_ATTEMPTS_MAX })
    }

    /// Where a commit was refused because somebody had altered the table: adds the columns that are gone from it, as new ones.
    /// Rows that were written for the columns before do not fit any more.
    ///
    /// # Errors
    /// [`TableError::Altered`] where more than columns is different.
    pub async fn conform(&self) -> Result<(), TableError> {
        if !self.altered.load(Ordering::Relaxed) {
            return Ok(());
        }
        for _ in 0..SET_UP_ATTEMPTS_MAX {
            let loaded = self.reload().await?;
            let Some(change) = schema::evolution(&loaded, &self.columns)? else {
                schema::check_unaltered(&loaded, &self.columns)?;
                self.altered.store(false, Ordering::Relaxed);
                return Ok(());
            };
            if let CommitOutcome::Unknown(error) =
                self.catalog.commit(&loaded, &change.requirements, change.updates).await?
            {
                tracing::warn!(%error, "the outcome of adding columns is unknown; reading the table");
            }
        }
        Err(TableError::Contended { attempts: SET_UP_ATTEMPTS_MAX })
    }

    /// Reads the table's status, if there is a table. Makes and changes nothing.
    ///
    /// # Errors
    /// If the warehouse or the metadata cannot be read.
    pub async fn peek(options: &TableOptions) -> Result<Option<Peek>, TableError> {
        if let CatalogOptions::Rest(rest) = &options.catalog {
            // The metadata is in the catalog's answer: the storage is not opened.
            let catalog = RestCatalog::open(rest, &options.name, Arc::new(SystemClock)).await?;
            return Ok(catalog.load().await?.map(Peek));
        }
        Ok(options.look().await?.map(|found| Peek(found.loaded)))
    }

    /// The last epoch and position of a writer that the table held when it was last read.
    #[must_use]
    pub fn writer_position(&self, writer_id: Uuid) -> Option<(u64, Position)> {
        commit::writer_position(&self.loaded().metadata, writer_id)
    }

    /// Where the data files of a commit go, and what they look like, under the schema that was last read.
    ///
    /// # Errors
    /// If the schema has no Arrow form, which only another writer's column can cause.
    pub fn file_target(&self, commit_id: Uuid) -> Result<FileTarget, TableError> {
        let metadata = self.loaded().metadata;
        let schema = metadata.current_schema();
        let arrow = iceberg::arrow::schema_to_arrow_schema(schema)?;
        // A column that this registry does not know is left out, and so null to every reader: it may have a type that Esker
        // does not write.
        let known = arrow.fields().iter().filter_map(|field| {
            let column = self.columns.iter().find(|column| column.name == *field.name())?;
            Some((Arc::clone(field), ColumnPolicy { bloom: column.bloom, bounds: column.bounds }))
        });
        let (fields, policies): (Vec<_>, Vec<_>) = known.unzip();
        let arrow = with_small_offsets(&Schema::new(fields));
        let location = format!("{}/data", metadata.location());
        let relative = location.strip_prefix(self.warehouse.location()).unwrap_or(&location);
        Ok(FileTarget {
            schema: Arc::new(arrow),
            policies,
            iceberg_schema: serde_json::to_string(schema.as_ref()).map_err(|error| TableError::Metadata {
                location: metadata.location().to_owned(),
                problem: error.to_string(),
            })?,
            store: self.warehouse.store(),
            directory: object_store::path::Path::from(relative),
            location,
            file_prefix: commit_id.simple().to_string(),
        })
    }

    /// Reads the newest metadata.
    async fn reload(&self) -> Result<Loaded, TableError> {
        let loaded = self
            .catalog
            .load()
            .await?
            .ok_or_else(|| TableError::Gone { location: self.catalog.table_location().to_owned() })?;
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = loaded.clone();
        Ok(loaded)
    }

    fn loaded(&self) -> Loaded {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The schema as batches have it: the crate gives binary columns 64-bit offsets, which no batch needs.
fn with_small_offsets(schema: &Schema) -> Schema {
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::LargeBinary => Arc::new(field.as_ref().clone().with_data_type(DataType::Binary)),
        _ => Arc::clone(field),
    });
    Schema::new(fields.collect::<Vec<_>>())
}

/// A table's metadata, for looking at.
#[derive(Debug)]
pub struct Peek(Loaded);

impl Peek {
    /// The last epoch and position of a writer.
    #[must_use]
    pub fn writer_position(&self, writer_id: Uuid) -> Option<(u64, Position)> {
        commit::writer_position(&self.0.metadata, writer_id)
    }

    /// The newest metadata file.
    #[must_use]
    pub fn metadata_location(&self) -> &str {
        &self.0.metadata_location
    }

    /// The table's numbers.
    #[must_use]
    pub fn status(&self) -> TableStatus {
        let metadata = &self.0.metadata;
        let snapshot = metadata.current_snapshot();
        let total = |key: &str| {
            let summary = snapshot.map(|snapshot| &snapshot.summary().additional_properties);
            summary.and_then(|summary| summary.get(key)?.parse().ok()).unwrap_or(0)
        };
        TableStatus {
            location: metadata.location().to_owned(),
            metadata_version: self.0.version,
            schema_id: metadata.current_schema_id(),
            columns: metadata.current_schema().as_struct().fields().len(),
            snapshots: metadata.snapshots().len(),
            current_snapshot_id: metadata.current_snapshot_id(),
            current_snapshot_ms: snapshot.map(|snapshot| snapshot.timestamp_ms()),
            data_files: total("total-data-files"),
            rows: total("total-records"),
            bytes: total("total-files-size"),
            retention: metadata.properties().get(schema::RETENTION).cloned(),
        }
    }
}
