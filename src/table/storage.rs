//! The warehouse: from a location to an object store, and that store as Iceberg's `Storage`.
//!
//! A local folder is a store of our own whose puts are durable (`local`); a bucket is `object_store`'s client in a wrapper that
//! repeats what may be repeated (`bucket`). Both order commits by one thing: a create that fails where the key is taken.
//!
//! Owns: resolving locations, and that what was put is durable. Does not own: what is stored.

use std::path::PathBuf;
use std::sync::Arc;

use ::iceberg::io::{FileIO, FileIOBuilder};
use ::iceberg::{Error, ErrorKind, Result};
use object_store::ObjectStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;

use super::catalog::rest::{Placed, VendedGoogle};
use super::error::TableError;
use super::local::{self, SyncedLocal};

mod bucket;
mod credentials;
mod fault;
mod gcs;
mod iceberg;
mod options;
mod probe;
mod role;
mod s3;

#[cfg(test)]
mod tests;

pub(super) use fault::said;
use iceberg::{LastList, StoreStorage};
pub use options::{
    AssumeRole, GcsCredentials, GcsOptions, KeyId, S3Credentials, S3Encryption, S3Options, StorageOptions,
};

/// An opened warehouse.
#[derive(Debug, Clone)]
pub(super) struct Warehouse {
    store: Arc<dyn ObjectStore>,
    /// Canonical, without a slash at the end, e.g. `file:///srv/esker/warehouse`.
    location: String,
    last_list: LastList,
}

impl Warehouse {
    /// Opens `url`. A local folder is made where there is none; a relative one starts at the working directory. Of a bucket
    /// nothing is asked yet.
    pub(super) fn open(url: &str, options: &StorageOptions) -> std::result::Result<Self, TableError> {
        let unusable = |problem: String| TableError::Warehouse { location: url.to_owned(), problem };
        let failed = |error: object_store::Error| unusable(said(&error));
        match url.split_once("://") {
            Some(("file", path)) if !path.is_empty() => Self::local(path).map_err(unusable),
            Some(("s3", path)) => {
                let (bucket, prefix) = divided(path).map_err(unusable)?;
                Ok(Self::bucket("s3", bucket, prefix, s3::open(bucket, &options.s3).map_err(failed)?))
            }
            Some(("gs", path)) => {
                let (bucket, prefix) = divided(path).map_err(unusable)?;
                Ok(Self::bucket("gs", bucket, prefix, gcs::open(bucket, &options.gcs).map_err(failed)?))
            }
            _ => Err(unusable("must be file://PATH, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX".to_owned())),
        }
    }

    fn local(path: &str) -> std::result::Result<Self, String> {
        let folder = PathBuf::from(path);
        std::fs::create_dir_all(&folder).map_err(|error| format!("cannot be created: {error}"))?;
        let folder = folder.canonicalize().map_err(|error| format!("cannot be resolved: {error}"))?;
        let text = folder.to_str().ok_or("its path is not UTF-8")?;
        let location = format!("file://{}", text.trim_end_matches('/'));
        let store = SyncedLocal::new(&folder).map_err(|error| error.to_string())?;
        Ok(Self::of(Arc::new(store), location))
    }

    fn bucket(scheme: &str, bucket: &str, prefix: Path, store: impl ObjectStore) -> Self {
        if prefix.as_ref().is_empty() {
            return Self::of(Arc::new(store), format!("{scheme}://{bucket}"));
        }
        let location = format!("{scheme}://{bucket}/{prefix}");
        Self::of(Arc::new(PrefixStore::new(store, prefix)), location)
    }

    fn of(store: Arc<dyn ObjectStore>, location: String) -> Self {
        Self { store, location, last_list: LastList::default() }
    }

    /// The same warehouse with another store around its own.
    #[cfg(test)]
    pub(super) fn with_store(
        mut self,
        wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>,
    ) -> Self {
        self.store = wrap(self.store);
        self
    }

    /// Opens the storage of a table that a catalog has placed somewhere. Of a bucket it is the whole: which prefixes a table's files
    /// have is the catalog's affair.
    pub(super) fn of_table(
        placed: &Placed,
        options: &StorageOptions,
    ) -> std::result::Result<Self, TableError> {
        let location = placed.loaded.metadata.location().trim_end_matches('/');
        let unusable = |problem: String| TableError::Warehouse { location: location.to_owned(), problem };
        let failed = |error: object_store::Error| unusable(said(&error));
        if let Some(folder) = local_path(location) {
            let mut warehouse = Self::local(folder).map_err(unusable)?;
            // As the catalog spells it: files are named by it.
            location.clone_into(&mut warehouse.location);
            return Ok(warehouse);
        }
        let (scheme, path) = location.split_once("://").unwrap_or_default();
        let bucket = path.split('/').next().unwrap_or_default();
        let (given, vended) = (&placed.properties.0, placed.credentials.clone());
        match scheme {
            "s3" | "s3a" | "s3n" => {
                let store = s3::open_vended(bucket, &options.s3.completed_by(given), vended.map(|it| Arc::new(it) as _));
                Ok(Self::bucket(scheme, bucket, Path::default(), store.map_err(failed)?))
            }
            "gs" => {
                let vended = vended.map(|credentials| Arc::new(VendedGoogle(credentials)) as _);
                let store = gcs::open_vended(bucket, &options.gcs.completed_by(given), vended);
                Ok(Self::bucket(scheme, bucket, Path::default(), store.map_err(failed)?))
            }
            _ => Err(unusable(
                "the catalog has the table in a place that Esker cannot reach; it reaches file://, s3:// and gs://".to_owned(),
            )),
        }
    }

    /// The store; its keys are relative to the warehouse.
    pub(super) fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// The warehouse's own location.
    pub(super) fn location(&self) -> &str {
        &self.location
    }

    /// Iceberg's view of the warehouse.
    pub(super) fn file_io(&self) -> FileIO {
        let storage = StoreStorage { warehouse: Some(self.clone()) };
        FileIOBuilder::new(Arc::new(storage)).build()
    }

    /// Removes what killed processes left behind in a folder, given by its location. Only a local store has such things.
    pub(super) async fn sweep(&self, location: &str) {
        let Some(folder) = location.strip_prefix("file://").map(PathBuf::from) else { return };
        let sweep = tokio::task::spawn_blocking(move || local::sweep(&folder));
        match sweep.await {
            Ok(swept) if swept > 0 => {
                tracing::info!(swept, location, "removed unfinished files that killed processes left behind");
            }
            _ => {}
        }
    }

    /// The key of a location inside the warehouse.
    pub(super) fn key(&self, location: &str) -> Result<Path> {
        let outside = || {
            Error::new(
                ErrorKind::DataInvalid,
                format!("the table names a file outside of the warehouse {}: {location}", self.location),
            )
        };
        let inside = match (local_path(location), local_path(&self.location)) {
            (Some(path), Some(folder)) => path.strip_prefix(folder),
            _ => location.strip_prefix(&self.location),
        };
        let relative = inside.filter(|rest| rest.is_empty() || rest.starts_with('/')).ok_or_else(outside)?;
        Path::parse(relative).map_err(|_| outside())
    }
}

/// The path of a local location. Hadoop's libraries write `file:/path` where others write `file:///path`.
fn local_path(location: &str) -> Option<&str> {
    let rest = location.strip_prefix("file:")?;
    Some(rest.strip_prefix("//").unwrap_or(rest))
}

/// A bucket's name and the prefix in it.
fn divided(path: &str) -> std::result::Result<(&str, Path), String> {
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if bucket.is_empty() || !bucket.chars().all(plain) {
        return Err("names no bucket; it must be s3://BUCKET/PREFIX or gs://BUCKET/PREFIX".to_owned());
    }
    let prefix = prefix.trim_end_matches('/');
    let parsed = Path::parse(prefix)
        .ok()
        .filter(|parsed| parsed.as_ref() == prefix && !prefix.contains(['%', '?', '#']));
    let wrong = || format!("the prefix `{prefix}` must be plain text between single slashes");
    Ok((bucket, parsed.ok_or_else(wrong)?))
}
