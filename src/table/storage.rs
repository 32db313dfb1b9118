//! The warehouse: from a location to an object store, and that store as Iceberg's `Storage`.
//!
//! Owns: resolving locations, and that what was put is durable. Does not own: what is stored.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use iceberg::io::{
    FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig,
    StorageFactory,
};
use iceberg::{Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use serde::{Deserialize, Serialize};

use super::catalog::rest::Placed;
use super::error::TableError;
use super::local::{self, SyncedLocal};

/// An opened warehouse.
#[derive(Debug, Clone)]
pub(super) struct Warehouse {
    store: Arc<dyn ObjectStore>,
    /// Canonical, without a slash at the end, e.g. `file:///srv/esker/warehouse`.
    location: String,
}

impl Warehouse {
    /// Opens `url`. A local folder is made where there is none; a relative one starts at the working directory.
    pub(super) fn open(url: &str) -> std::result::Result<Self, TableError> {
        let unusable = |problem: String| TableError::Warehouse { location: url.to_owned(), problem };
        let path = url
            .strip_prefix("file://")
            .filter(|path| !path.is_empty())
            .ok_or_else(|| unusable("only file:// locations are supported".to_owned()))?;
        let folder = PathBuf::from(path);
        std::fs::create_dir_all(&folder).map_err(|error| unusable(format!("cannot be created: {error}")))?;
        let folder =
            folder.canonicalize().map_err(|error| unusable(format!("cannot be resolved: {error}")))?;
        let text = folder.to_str().ok_or_else(|| unusable("its path is not UTF-8".to_owned()))?;
        let location = format!("file://{}", text.trim_end_matches('/'));
        let store = SyncedLocal::new(&folder).map_err(|error| unusable(error.to_string()))?;
        Ok(Self { store: Arc::new(store), location })
    }

    /// Opens the storage of a table that a catalog has placed somewhere.
    pub(super) fn of_table(placed: &Placed) -> std::result::Result<Self, TableError> {
        let location = placed.loaded.metadata.location().trim_end_matches('/');
        let unusable = |problem: String| TableError::Warehouse { location: location.to_owned(), problem };
        let Some(folder) = local_path(location) else {
            return Err(unusable("only file:// locations are supported".to_owned()));
        };
        std::fs::create_dir_all(folder).map_err(|error| unusable(format!("cannot be created: {error}")))?;
        let canonical = PathBuf::from(folder)
            .canonicalize()
            .map_err(|error| unusable(format!("cannot be resolved: {error}")))?;
        let store = SyncedLocal::new(&canonical).map_err(|error| unusable(error.to_string()))?;
        // As the catalog spells it: files are named by it.
        Ok(Self { store: Arc::new(store), location: location.to_owned() })
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

    /// Finds out whether the store honours a conditional create, on which every commit rests.
    pub(super) async fn probe(&self, folder: &Path, name: &str) -> std::result::Result<(), TableError> {
        let key = folder.clone().join(format!("{}{name}", local::PROBE_PREFIX));
        let create =
            || self.store.put_opts(&key, Bytes::from_static(b"probe").into(), PutMode::Create.into());
        create().await?;
        let second = create().await;
        // A probe that stays behind harms nobody.
        drop(self.store.delete(&key).await);
        match second {
            Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Ok(_) => Err(TableError::Warehouse {
                location: self.location.clone(),
                problem: "the store overwrites a file that a conditional create must refuse, so that two commits could \
                          both succeed; use a store that honours conditional creates"
                    .to_owned(),
            }),
            Err(error) => Err(error.into()),
        }
    }
}

/// The path of a local location. Hadoop's libraries write `file:/path` where others write `file:///path`.
fn local_path(location: &str) -> Option<&str> {
    let rest = location.strip_prefix("file:")?;
    Some(rest.strip_prefix("//").unwrap_or(rest))
}

/// Iceberg's `Storage` over the warehouse's store. Its serialised form holds nothing: it is made anew where it is needed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoreStorage {
    #[serde(skip)]
    warehouse: Option<Warehouse>,
}

impl StoreStorage {
    fn resolve(&self, location: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
        let warehouse = self.warehouse.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Unexpected, "a storage that was serialised has lost its warehouse")
        })?;
        Ok((warehouse.store(), warehouse.key(location)?))
    }
}

#[typetag::serde(name = "esker")]
impl StorageFactory for StoreStorage {
    fn build(&self, _: &StorageConfig) -> Result<Arc<dyn Storage>> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
#[typetag::serde(name = "esker")]
impl Storage for StoreStorage {
    async fn exists(&self, path: &str) -> Result<bool> {
        let (store, key) = self.resolve(path)?;
        match store.head(&key).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    async fn metadata(&self, path: &str) -> Result<FileMetadata> {
        let (store, key) = self.resolve(path)?;
        Ok(FileMetadata { size: store.head(&key).await.map_err(failed)?.size })
    }

    async fn read(&self, path: &str) -> Result<Bytes> {
        let (store, key) = self.resolve(path)?;
        store.get(&key).await.map_err(failed)?.bytes().await.map_err(failed)
    }

    async fn reader(&self, path: &str) -> Result<Box<dyn FileRead>> {
        let (store, key) = self.resolve(path)?;
        Ok(Box::new(StoreReader { store, key }))
    }

    async fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        let (store, key) = self.resolve(path)?;
        store.put(&key, bytes.into()).await.map_err(failed)?;
        Ok(())
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn FileWrite>> {
        let (store, key) = self.resolve(path)?;
        Ok(Box::new(StoreWriter { store, key, bytes: BytesMut::new() }))
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let (store, key) = self.resolve(path)?;
        store.delete(&key).await.map_err(failed)
    }

    async fn delete_prefix(&self, path: &str) -> Result<()> {
        let (store, prefix) = self.resolve(path)?;
        let mut found = store.list(Some(&prefix));
        while let Some(object) = found.next().await {
            store.delete(&object.map_err(failed)?.location).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn delete_stream(&self, mut paths: BoxStream<'static, String>) -> Result<()> {
        while let Some(path) = paths.next().await {
            Storage::delete(self, &path).await?;
        }
        Ok(())
    }

    fn new_input(&self, path: &str) -> Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), path.to_owned()))
    }
}

fn failed(error: object_store::Error) -> Error {
    Error::new(ErrorKind::Unexpected, "the object store failed").with_source(error)
}

struct StoreReader {
    store: Arc<dyn ObjectStore>,
    key: Path,
}

#[async_trait]
impl FileRead for StoreReader {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.store.get_range(&self.key, range).await.map_err(failed)
    }
}

/// Collects a metadata file, a few megabytes at most, and puts it whole.
struct StoreWriter {
    store: Arc<dyn ObjectStore>,
    key: Path,
    bytes: BytesMut,
}

#[async_trait]
impl FileWrite for StoreWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        let bytes = self.bytes.split().freeze();
        self.store.put(&self.key, bytes.into()).await.map_err(failed)?;
        Ok(())
    }
}

impl fmt::Debug for StoreReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreReader").field("key", &self.key).finish_non_exhaustive()
    }
}

impl fmt::Debug for StoreWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreWriter").field("key", &self.key).finish_non_exhaustive()
    }
}
