//! A warehouse as Iceberg's `Storage`, through which metadata, manifests and data files are read and written.
//!
//! Owns: that mapping, and keeping the manifest list that was written last. Does not own: the store, nor what is stored.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use iceberg::io::{
    FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage, StorageConfig, StorageFactory,
};
use iceberg::{Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use super::Warehouse;

/// Largest manifest list that is kept.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// The manifest list that was written last: the next snapshot begins with it, and its name is used once, so it cannot have
/// changed meanwhile.
#[derive(Debug, Clone, Default)]
pub(super) struct LastList(Arc<Mutex<Option<(String, Bytes)>>>);

impl LastList {
    fn keep(&self, path: &str, bytes: &Bytes) {
        if path.contains("/metadata/snap-") && bytes.len() <= KEPT_BYTES_MAX {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((path.to_owned(), bytes.clone()));
        }
    }

    fn get(&self, path: &str) -> Option<Bytes> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().filter(|(of, _)| of == path).map(|(_, bytes)| bytes.clone())
    }
}

/// Iceberg's `Storage` over the warehouse's store. Its serialised form holds nothing: it is made anew where it is needed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StoreStorage {
    #[serde(skip)]
    pub(super) warehouse: Option<Warehouse>,
}

impl StoreStorage {
    fn warehouse(&self) -> Result<&Warehouse> {
        self.warehouse.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Unexpected, "a storage that was serialised has lost its warehouse")
        })
    }

    fn resolve(&self, location: &str) -> Result<(Arc<dyn ObjectStore>, Path)> {
        let warehouse = self.warehouse()?;
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
        if let Some(kept) = self.warehouse()?.last_list.get(path) {
            return Ok(kept);
        }
        let (store, key) = self.resolve(path)?;
        store.get(&key).await.map_err(failed)?.bytes().await.map_err(failed)
    }

    async fn reader(&self, path: &str) -> Result<Box<dyn FileRead>> {
        let (store, key) = self.resolve(path)?;
        Ok(Box::new(StoreReader { store, key }))
    }

    async fn write(&self, path: &str, bytes: Bytes) -> Result<()> {
        let (store, key) = self.resolve(path)?;
        store.put(&key, bytes.clone().into()).await.map_err(failed)?;
        self.warehouse()?.last_list.keep(path, &bytes);
        Ok(())
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn FileWrite>> {
        let (store, key) = self.resolve(path)?;
        let (path, last_list) = (path.to_owned(), self.warehouse()?.last_list.clone());
        Ok(Box::new(StoreWriter { store, key, bytes: BytesMut::new(), path, last_list }))
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
    path: String,
    last_list: LastList,
}

#[async_trait]
impl FileWrite for StoreWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        let bytes = self.bytes.split().freeze();
        self.store.put(&self.key, bytes.clone().into()).await.map_err(failed)?;
        self.last_list.keep(&self.path, &bytes);
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
