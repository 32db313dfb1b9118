//! What orders the commits of all writers: load the newest metadata, and replace it only if it is still the newest.
//!
//! Owns: the catalogs' contract. Does not own: what a commit contains, nor whether it is tried again.

use std::sync::Arc;

use async_trait::async_trait;
use iceberg::spec::TableMetadata;
use iceberg::{TableRequirement, TableUpdate};

use super::error::TableError;

pub(super) mod files;
pub(super) mod rest;

/// The table as it was when it was read.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    /// Its metadata.
    pub(super) metadata: Arc<TableMetadata>,
    /// Where that stands.
    pub(super) metadata_location: String,
    /// The number of that metadata file.
    pub(super) version: u64,
}

/// How a commit ended. Only reading the table makes sure of it.
#[must_use]
#[derive(Debug)]
pub(super) enum CommitOutcome {
    /// The catalog took it.
    Committed,
    /// The table was no longer as it had been loaded; nothing was changed.
    Conflicted,
    /// It may or may not have been taken.
    Unknown(TableError),
}

/// The metadata files of a catalog that keeps them by number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Versions {
    /// Oldest first.
    pub files: Vec<Version>,
    /// Where loading begins to look for the newest, if that is known.
    pub hint: Option<u64>,
}

/// A numbered metadata file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Its number.
    pub number: u64,
    /// When it was written, milliseconds since the Unix epoch, by the store's clock.
    pub written_ms: i64,
}

/// A place that holds the pointer to a table's newest metadata.
#[async_trait]
pub(super) trait Catalog: std::fmt::Debug + Send + Sync {
    /// The table's own location, with or without a table in it; where only the catalog knows that, what the table is called
    /// there.
    fn table_location(&self) -> &str;

    /// True where a commit is refused if anything at all has changed since its base. Where this is false, a commit that was
    /// given up may still be made after later ones, unless its requirements rule that out.
    fn refuses_any_other_base(&self) -> bool;

    /// True where the catalog may keep a table's folder to files that Iceberg knows, as managed buckets do.
    fn manages_storage(&self) -> bool {
        false
    }

    /// The newest metadata; None where there is no table.
    async fn load(&self) -> Result<Option<Loaded>, TableError>;

    /// Makes sure that readers who do not ask this catalog, but follow what it leaves for them, find `loaded`. Best effort:
    /// what fails is logged, and made good by the next call.
    async fn show(&self, loaded: &Loaded);

    /// Makes the table, if there is none.
    async fn create(&self, metadata: TableMetadata) -> Result<CommitOutcome, TableError>;

    /// Applies `updates` to `base`, if `requirements` hold and `base` is still the newest. Never tries again itself.
    /// An error means that nothing was sent, or that it was refused.
    async fn commit(
        &self,
        base: &Loaded,
        requirements: &[TableRequirement],
        updates: Vec<TableUpdate>,
    ) -> Result<CommitOutcome, TableError>;

    /// The metadata files, where this catalog keeps them by number and leaves their removal to Esker.
    async fn versions(&self) -> Result<Versions, TableError> {
        Ok(Versions::default())
    }

    /// Removes an old metadata file. Whoever removes several does so in ascending order, each after the one before is gone:
    /// what is left has no gap.
    async fn remove_version(&self, _number: u64) -> Result<(), TableError> {
        Ok(())
    }
}
