//! The `files` catalog: a table is a folder, a commit is the conditional create of `metadata/v{N}.metadata.json`, and
//! `metadata/version-hint.text` says about where the newest is.
//!
//! The hint is written after the commit, by whoever gets there: it may be missing, late, or go backwards. So loading
//! starts at the hint and probes forward; without a usable hint it lists. Readers go by the hint alone: so whoever opens
//! the table, or finds its commit in it, puts the hint right. A writer that slept can only create a version
//! that nobody had created, and whether that counts is decided by what a later load shows.
//!
//! Old versions are removed in ascending order, each after the one before it is gone. So the versions that are left are those
//! up to the newest, without a gap; and whoever creates version N+1 and finds that version N is gone has slept so long that
//! N+1 was removed before: it takes its version back, leaves the hint alone, and has lost.
//!
//! What was read last is kept with its tag, so that a load that finds nothing new costs three small requests: the hint, the
//! question whether the file still is what it was, and the question whether the next one exists.
//!
//! Time never goes back in the metadata, whatever the clocks of the writers show: a version is not older than the one before it.
//! And what is about to be written is read first: no version is made that its readers would refuse.
//!
//! Owns: names and order of metadata files, and their times. Does not own: what else is in them.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::TryStreamExt;
use iceberg::spec::TableMetadata;
use iceberg::{TableRequirement, TableUpdate};
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode};
use serde_json::Value;

use super::{Catalog, CommitOutcome, Loaded, Version, Versions};
use crate::clock::{Clock, SystemClock};
use crate::table::error::TableError;
use crate::table::storage::Warehouse;

const HINT: &str = "version-hint.text";
/// A hint is a number; what is longer is none.
const HINT_BYTES_MAX: usize = 32;

/// Times that a version may vanish between being found and being read.
const LOADS_MAX: u32 = 10;

/// One table's folder.
#[derive(Debug)]
pub(in crate::table) struct FilesCatalog {
    store: Arc<dyn ObjectStore>,
    metadata_folder: Path,
    table_location: String,
    last: Mutex<Option<Last>>,
}

/// What a load found.
#[derive(Debug, Clone)]
struct Last {
    loaded: Loaded,
    /// The store's tag of that metadata file.
    e_tag: Option<String>,
    /// What the hint said then.
    hint: Option<u64>,
}

/// What looking for the newest version came to.
enum Newest {
    Found(Last),
    NoTable,
    /// It was old, and was removed while this process looked for newer ones. That is not a table that is not there.
    Vanished,
}

impl FilesCatalog {
    /// The catalog of `name` (`namespace.table`) in `warehouse`.
    pub(in crate::table) fn new(warehouse: &Warehouse, name: &str) -> Self {
        let relative = name.replace('.', "/");
        Self {
            store: warehouse.store(),
            metadata_folder: Path::from(relative.as_str()).join("metadata"),
            table_location: format!("{}/{relative}", warehouse.location()),
            last: Mutex::new(None),
        }
    }

    /// The folder that holds the metadata, as a key of the store.
    pub(in crate::table) fn metadata_folder(&self) -> &Path {
        &self.metadata_folder
    }

    fn key(&self, version: u64) -> Path {
        self.metadata_folder.clone().join(format!("v{version}.metadata.json"))
    }

    fn location(&self, version: u64) -> String {
        format!("{}/metadata/v{version}.metadata.json", self.table_location)
    }

    fn last(&self) -> Option<Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads one version; None where it does not exist. One that is as it was is not sent again.
    async fn read(&self, version: u64, last: Option<&Last>) -> Result<Option<Last>, TableError> {
        let last = last.filter(|last| last.loaded.version == version && last.e_tag.is_some());
        let options =
            GetOptions { if_none_match: last.and_then(|last| last.e_tag.clone()), ..GetOptions::default() };
        let (bytes, e_tag) = match (self.store.get_opts(&self.key(version), options).await, last) {
            (Ok(found), _) => {
                let e_tag = found.meta.e_tag.clone();
                (found.bytes().await?, e_tag)
            }
            (Err(object_store::Error::NotModified { .. }), Some(last)) => return Ok(Some(last.clone())),
            (Err(object_store::Error::NotFound { .. }), _) => return Ok(None),
            (Err(error), _) => return Err(error.into()),
        };
        let metadata = serde_json::from_slice(&bytes).map_err(|error| TableError::Metadata {
            location: self.location(version),
            problem: error.to_string(),
        })?;
        let metadata_location = self.location(version);
        let loaded = Loaded { metadata: Arc::new(metadata), metadata_location, version };
        Ok(Some(Last { loaded, e_tag, hint: None }))
    }

    async fn exists(&self, version: u64) -> Result<bool, TableError> {
        match self.store.head(&self.key(version)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The hint's number, where there is a usable hint.
    async fn hint(&self) -> Result<Option<u64>, TableError> {
        let key = self.metadata_folder.clone().join(HINT);
        match self.store.get(&key).await {
            Ok(found) => {
                let bytes = found.bytes().await?;
                let text = bytes.get(..bytes.len().min(HINT_BYTES_MAX)).unwrap_or_default();
                Ok(std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// All versions, oldest first.
    async fn listed(&self) -> Result<Vec<Version>, TableError> {
        let mut objects = self.store.list(Some(&self.metadata_folder));
        let mut found = Vec::new();
        while let Some(object) = objects.try_next().await? {
            let name = object.location.filename();
            let number = name.and_then(|name| name.strip_prefix('v')?.strip_suffix(".metadata.json"));
            if let Some(number) = number.and_then(|number| number.parse().ok()) {
                found.push(Version { number, written_ms: object.last_modified.timestamp_millis() });
            }
        }
        found.sort_unstable_by_key(|version| version.number);
        Ok(found)
    }

    /// The greatest version by listing.
    async fn greatest_listed(&self) -> Result<Option<u64>, TableError> {
        Ok(self.listed().await?.last().map(|version| version.number))
    }

    /// True where a version that was just created is no successor of anything: its name had been in use, and was free again.
    async fn is_stray(&self, version: u64) -> Result<bool, TableError> {
        if version > 1 {
            return Ok(!self.exists(version - 1).await?);
        }
        Ok(self.greatest_listed().await? > Some(version))
    }

    async fn newest(&self) -> Result<Newest, TableError> {
        let (last, hint) = (self.last(), self.hint().await?);
        let known = last.as_ref().map(|last| last.loaded.version);
        // Without a hint nothing says how far behind `known` is: it may be so far that its successors were cleaned up.
        let found = match hint {
            Some(hint) => self.read(known.map_or(hint, |known| known.max(hint)), last.as_ref()).await?,
            None => None,
        };
        let mut found = match found {
            Some(found) => found,
            None => match self.greatest_listed().await? {
                Some(version) => match self.read(version, last.as_ref()).await? {
                    Some(found) => found,
                    None => return Ok(Newest::Vanished),
                },
                None => return Ok(Newest::NoTable),
            },
        };
        let start = found.loaded.version;
        let mut newest = start;
        while self.exists(newest + 1).await? {
            newest += 1;
        }
        if newest > start {
            match self.read(newest, last.as_ref()).await? {
                Some(newest) => found = newest,
                None => return Ok(Newest::Vanished),
            }
        }
        found.hint = hint;
        Ok(Newest::Found(found))
    }

    async fn put(&self, version: u64, metadata: &Value) -> Result<CommitOutcome, TableError> {
        let bytes = serde_json::to_vec(metadata).map_err(|error| unfit(&error))?;
        // What cannot be read again would make the table unreadable to everyone, this process included.
        serde_json::from_slice::<TableMetadata>(&bytes).map_err(|error| unfit(&error))?;
        match self.store.put_opts(&self.key(version), bytes.into(), PutMode::Create.into()).await {
            Ok(_) => match self.is_stray(version).await {
                Ok(false) => {
                    self.write_hint(version).await;
                    Ok(CommitOutcome::Committed)
                }
                Ok(true) => {
                    tracing::warn!(
                        version,
                        "this process slept while others committed and cleaned up; its commit is taken back"
                    );
                    match self.remove_version(version).await {
                        Ok(()) => Ok(CommitOutcome::Conflicted),
                        // It may still stand there.
                        Err(error) => Ok(CommitOutcome::Unknown(error)),
                    }
                }
                Err(error) => Ok(CommitOutcome::Unknown(error)),
            },
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(CommitOutcome::Conflicted)
            }
            Err(error) => Ok(CommitOutcome::Unknown(error.into())),
        }
    }

    /// Best effort: readers that go by the hint see the commit before, and loading probes forward.
    async fn write_hint(&self, version: u64) {
        let key = self.metadata_folder.clone().join(HINT);
        // No newline: DuckDB takes the text as it is.
        if let Err(error) = self.store.put(&key, version.to_string().into()).await {
            tracing::warn!(%error, version, "version-hint.text was not written; the next commit, or the next start, writes it");
        }
    }
}

#[async_trait]
impl Catalog for FilesCatalog {
    fn table_location(&self) -> &str {
        &self.table_location
    }

    fn refuses_any_other_base(&self) -> bool {
        true
    }

    async fn load(&self) -> Result<Option<Loaded>, TableError> {
        for _ in 0..LOADS_MAX {
            let newest = match self.newest().await? {
                Newest::Found(found) => Some(found),
                Newest::NoTable => None,
                Newest::Vanished => continue,
            };
            self.last.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&newest);
            return Ok(newest.map(|newest| newest.loaded));
        }
        Err(TableError::Contended { attempts: LOADS_MAX })
    }

    /// Writes the hint where a crash, or an answer that was lost, left it behind: readers that go by it would not see what
    /// was committed until the next commit.
    async fn show(&self, loaded: &Loaded) {
        let last = self.last().filter(|last| last.loaded.version == loaded.version);
        let hint = match last {
            Some(last) => Ok(last.hint),
            None => self.hint().await,
        };
        match hint {
            Ok(Some(hint)) if hint == loaded.version => {}
            // Another writer was quicker. A hint to nothing is no hint.
            Ok(Some(hint)) if hint > loaded.version && matches!(self.exists(hint).await, Ok(true)) => {}
            Ok(_) => self.write_hint(loaded.version).await,
            Err(error) => {
                tracing::warn!(%error, version = loaded.version, "version-hint.text could not be read");
            }
        }
    }

    async fn create(&self, metadata: TableMetadata) -> Result<CommitOutcome, TableError> {
        self.put(1, &serde_json::to_value(&metadata).map_err(|error| unfit(&error))?).await
    }

    async fn commit(
        &self,
        base: &Loaded,
        requirements: &[TableRequirement],
        updates: Vec<TableUpdate>,
    ) -> Result<CommitOutcome, TableError> {
        // The conditional create makes sure that `base` is the newest, so what holds for it holds for the commit.
        if requirements.iter().any(|requirement| requirement.check(Some(&base.metadata)).is_err()) {
            return Ok(CommitOutcome::Conflicted);
        }
        self.put(base.version + 1, &changed(base, updates)?).await
    }

    async fn versions(&self) -> Result<Versions, TableError> {
        // The hint first: it only grows, but for writers that slept, and the lower one is the careful one.
        let hint = self.hint().await?;
        Ok(Versions { files: self.listed().await?, hint })
    }

    async fn remove_version(&self, number: u64) -> Result<(), TableError> {
        match self.store.delete(&self.key(number)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The metadata with `updates`.
///
/// The crate's builder dates a change that adds no snapshot by the machine's clock, and fails, or makes what its own reader
/// refuses, where that is behind the table's newest time by more than a minute. So it is shown a table whose times lie back by
/// the difference, and what it makes of that is put forward again.
fn changed(base: &Loaded, updates: Vec<TableUpdate>) -> Result<Value, TableError> {
    let metadata = &base.metadata;
    let newest_ms =
        metadata.history().last().map_or(0, |entry| entry.timestamp_ms).max(metadata.last_updated_ms());
    let ahead_ms = newest_ms - SystemClock.now_micros() / 1000;
    // A snapshot says itself when it was made: not before its base.
    let has_time = updates.iter().any(|update| matches!(update, TableUpdate::AddSnapshot { .. }));
    let shift_ms = if has_time { 0 } else { ahead_ms.max(0) };
    let start = if shift_ms > 0 {
        let mut earlier = serde_json::to_value(metadata.as_ref()).map_err(|error| unfit(&error))?;
        shift(&mut earlier, -shift_ms);
        serde_json::from_value(earlier).map_err(|error| unfit(&error))?
    } else {
        TableMetadata::clone(metadata)
    };
    let mut builder = start.into_builder(Some(base.metadata_location.clone()));
    for update in updates {
        builder = update.apply(builder)?;
    }
    let mut made = serde_json::to_value(&builder.build()?.metadata).map_err(|error| unfit(&error))?;
    shift(&mut made, shift_ms);
    if let (true, Some(time)) = (shift_ms > 0, made.get_mut("last-updated-ms")) {
        // Not a moment more: commits in a row would move it on and on.
        *time = newest_ms.into();
    }
    Ok(made)
}

/// Moves the times of the table and of its logs; those of snapshots stay.
fn shift(metadata: &mut Value, by_ms: i64) {
    let mut times: Vec<&mut Value> = Vec::new();
    let Some(metadata) = metadata.as_object_mut() else { return };
    for (key, value) in metadata {
        match (key.as_str(), value) {
            ("last-updated-ms", time) => times.push(time),
            ("snapshot-log" | "metadata-log", Value::Array(entries)) => {
                times.extend(entries.iter_mut().filter_map(|entry| entry.get_mut("timestamp-ms")));
            }
            _ => {}
        }
    }
    for time in times {
        if let Some(ms) = time.as_i64() {
            *time = (ms + by_ms).into();
        }
    }
}

/// Nothing was sent, so that it may be tried again.
fn unfit(error: &serde_json::Error) -> TableError {
    let problem = format!("nothing was committed, since nobody could read it: {error}");
    iceberg::Error::new(iceberg::ErrorKind::DataInvalid, problem).into()
}
