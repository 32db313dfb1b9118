//! What the care of a table needs to see and to do: its history, the expiry of snapshots, which files anything still needs, and
//! the deletion of those that nothing does.
//!
//! Dropping a file from the newest snapshot deletes nothing: an older snapshot still names it. Once the snapshot is expired, by
//! a commit that reading the table confirms, files that only it named can be deleted. Nothing can bring such a file back: a
//! commit on a state from before the expiry is refused.
//!
//! Owns: these commits and deletions, each safe to be cut short anywhere and to be begun again. Does not own: what is chosen
//! (`maintain`), the order of metadata files (`catalog`).

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use futures::{FutureExt, StreamExt, TryStreamExt};
use iceberg::io::FileIO;
use iceberg::spec::{
    MAIN_BRANCH, ManifestFile, Operation, Snapshot, SnapshotReference, SnapshotRetention, TableMetadata,
};
use iceberg::{TableRequirement, TableUpdate};

use super::catalog::{CommitOutcome, Versions};
use super::commit::{ATTEMPTS_MAX, BACK_OFF_FIRST};
use super::error::TableError;
use super::remove::day_place;
use super::{Found, Table, TableOptions, snapshot};
use crate::clock::{Clock, Ids};

/// Metadata files that are read, and files that are deleted, at the same time.
const AT_ONCE: usize = 8;

/// A snapshot, as its expiry sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFacts {
    /// Its id.
    pub id: i64,
    /// The one that it was made from.
    pub parent: Option<i64>,
    /// When it was made, milliseconds since the Unix epoch.
    pub made_ms: i64,
    /// True where it took rows out of the table: the snapshots before it hold what is no longer to be held.
    pub removes: bool,
}

/// A branch or a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Its name.
    pub name: String,
    /// What it points to.
    pub snapshot_id: i64,
    /// True for a branch: what it grew from belongs to it.
    pub is_branch: bool,
    /// The least number of snapshots to keep on a branch, where the table says so.
    pub snapshots_min: Option<u64>,
}

impl Reference {
    /// True for the branch that readers read.
    #[must_use]
    pub fn is_main(&self) -> bool {
        self.name == MAIN_BRANCH
    }
}

/// The snapshots of a table, and what points to them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// The newest snapshot.
    pub current: Option<i64>,
    /// All of them.
    pub snapshots: Vec<SnapshotFacts>,
    /// Branches and tags.
    pub references: Vec<Reference>,
}

/// A file in the table's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Its location.
    pub location: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written, milliseconds since the Unix epoch, by the store's clock.
    pub written_ms: i64,
}

/// Files that something still needs. It may say so of a file that nothing needs, at odds of one in 2^64 or so: that file then
/// stays. It never denies one.
#[derive(Debug)]
pub struct Needed {
    /// Of the table, with a slash at the end.
    folder: String,
    /// The first file that is not in the table's folder.
    outside: Option<String>,
    hasher: foldhash::fast::RandomState,
    files: HashSet<u64>,
    /// Manifest lists and manifests that were read.
    read: HashSet<String>,
}

impl Needed {
    /// True where something may need the file.
    #[must_use]
    pub fn has(&self, location: &str) -> bool {
        self.files.contains(&self.hasher.hash_one(location))
    }

    /// A file that the table names and that does not lie in its folder, if there is one: names by which a listing cannot be
    /// judged.
    #[must_use]
    pub fn outside(&self) -> Option<&str> {
        self.outside.as_deref()
    }

    /// How many of them are not among `stored` by the very same name. One is reason enough to take no file for an orphan: either
    /// a file is missing, or the store's names are not the table's, and then every file would look like an orphan.
    #[must_use]
    pub fn not_among(&self, stored: &[StoredFile]) -> usize {
        let listed = stored.iter().map(|file| self.hasher.hash_one(file.location.as_str()));
        self.files.difference(&listed.collect()).count()
    }

    fn add(&mut self, location: &str) {
        if self.outside.is_none() && !location.starts_with(&self.folder) {
            self.outside = Some(location.to_owned());
        }
        self.files.insert(self.hasher.hash_one(location));
    }
}

/// Snapshots that were expired.
#[derive(Debug, Default)]
pub struct Expired {
    /// Their ids.
    pub snapshots: Vec<i64>,
    /// The files that they named; others may name them too.
    pub files: Vec<String>,
}

impl Table {
    /// Opens a table that is there, to care for it. Makes nothing and changes nothing.
    ///
    /// # Errors
    /// If the warehouse or the metadata cannot be read.
    pub async fn open_existing(
        options: &TableOptions,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Result<Option<Self>, TableError> {
        let Some(Found { catalog, warehouse, loaded }) = options.look().await? else { return Ok(None) };
        let (loaded, altered) = (Mutex::new(loaded), AtomicBool::new(false));
        Ok(Some(Self { catalog, warehouse, clock, ids, columns: Vec::new(), loaded, altered }))
    }

    /// The oldest day that the newest snapshot of a table holds rows of, as a number since 1970-01-01. Reads no more than the
    /// list of manifests.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub async fn oldest_day(options: &TableOptions) -> Result<Option<i32>, TableError> {
        let Some(Found { warehouse, loaded, .. }) = options.look().await? else { return Ok(None) };
        let Some(current) = loaded.metadata.current_snapshot() else { return Ok(None) };
        let manifests = snapshot::manifests(&warehouse.file_io(), current).await?;
        let live = manifests.iter().filter(|manifest| snapshot::has_live_files(manifest));
        Ok(live.filter_map(|manifest| first_day(&loaded.metadata, manifest)).min())
    }

    /// False where files that nothing needs are not Esker's to delete: the catalog keeps its storage in order itself.
    #[must_use]
    pub fn may_delete_files(&self) -> bool {
        !self.catalog.manages_storage()
    }

    /// The table's own location.
    #[must_use]
    pub fn location(&self) -> &str {
        self.catalog.table_location()
    }

    /// Nothing yet that this table needs.
    #[must_use]
    pub fn needs_nothing_yet(&self) -> Needed {
        Needed {
            folder: format!("{}/", self.location()),
            outside: None,
            hasher: foldhash::fast::RandomState::default(),
            files: HashSet::new(),
            read: HashSet::new(),
        }
    }

    /// The snapshots as they are now.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub async fn history(&self) -> Result<History, TableError> {
        Ok(history(&self.reload().await?.metadata))
    }

    /// Expires the snapshots that `choose` names, in one commit; it is asked again where other writers are quicker. Answers once
    /// reading the table has shown that they are gone. Deletes no file.
    ///
    /// # Errors
    /// Where the table cannot be read or written. Then the expiry may have happened, and the next call finds out.
    pub async fn expire(
        &self,
        choose: &(dyn Fn(&History) -> Vec<i64> + Send + Sync),
        needed: &mut Needed,
    ) -> Result<Expired, TableError> {
        let mut back_off = BACK_OFF_FIRST;
        let mut sent = Expired::default();
        for attempt in 0..=ATTEMPTS_MAX {
            let base = self.reload().await?;
            let is_there = |id: &i64| base.metadata.snapshot_by_id(*id).is_some();
            if !sent.snapshots.is_empty() && !sent.snapshots.iter().any(is_there) {
                self.catalog.show(&base).await;
                return Ok(sent);
            }
            let chosen = choose(&history(&base.metadata));
            if chosen.is_empty() {
                return Ok(Expired::default());
            }
            if attempt == ATTEMPTS_MAX {
                break;
            }
            let files = self.files_of(&base.metadata, &chosen, needed).await?;
            let requirements = still_the_same(&base.metadata);
            let update = TableUpdate::RemoveSnapshots { snapshot_ids: chosen.clone() };
            sent = Expired { snapshots: chosen, files };
            match self.catalog.commit(&base, &requirements, vec![update]).await? {
                // Reading the table, at the top, decides.
                CommitOutcome::Committed => {}
                CommitOutcome::Conflicted => self.back_off(&mut back_off).await,
                CommitOutcome::Unknown(error) => {
                    tracing::warn!(%error, version = base.version, "the expiry's outcome is unknown; reading the table");
                    self.back_off(&mut back_off).await;
                }
            }
        }
        Err(TableError::Contended { attempts: ATTEMPTS_MAX })
    }

    /// The files that expiring these snapshots would leave to nobody, as the table is now.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub async fn only_in(&self, snapshots: &[i64]) -> Result<Vec<String>, TableError> {
        let metadata = self.reload().await?.metadata;
        let mut needed = self.needs_nothing_yet();
        let mut files = self.files_of(&metadata, snapshots, &mut needed).await?;
        files.retain(|file| !needed.has(file));
        Ok(files)
    }

    /// Adds what the snapshots of the table need, as it is now.
    ///
    /// # Errors
    /// If the table cannot be read. Then `needed` says too little, and nothing may be deleted by it.
    pub async fn add_needed(&self, needed: &mut Needed) -> Result<(), TableError> {
        let metadata = self.reload().await?.metadata;
        self.add_needed_by(&metadata, &[], needed).await
    }

    /// What lies in the table's folders of data and metadata, of the kinds that Esker writes there: data files, manifests, lists of
    /// manifests. Not the catalog's own files, nor those of a table that lies inside of these folders.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn stored_files(&self) -> Result<Vec<StoredFile>, TableError> {
        let (mut found, mut inner) = (Vec::new(), HashSet::new());
        for (folder, ending) in [("data", ".parquet"), ("metadata", ".avro")] {
            let prefix = self.warehouse.key(&format!("{}/{folder}", self.location()))?;
            let mut objects = self.warehouse.store().list(Some(&prefix));
            while let Some(object) = objects.try_next().await? {
                let key = object.location.as_ref();
                // A table of its own inside of this one's folders.
                if let Some((root, name)) = key.rsplit_once("/metadata/")
                    && name.ends_with(".metadata.json")
                    && root.starts_with(prefix.as_ref())
                {
                    inner.insert(format!("{}/{root}/", self.warehouse.location()));
                }
                if !key.ends_with(ending) {
                    continue;
                }
                found.push(StoredFile {
                    location: format!("{}/{}", self.warehouse.location(), object.location),
                    bytes: object.size,
                    written_ms: object.last_modified.timestamp_millis(),
                });
            }
        }
        if !inner.is_empty() {
            found.retain(|file| !inner.iter().any(|root| file.location.starts_with(root.as_str())));
        }
        Ok(found)
    }

    /// Deletes files of the table's folder; answers how many were there. One that is gone already is no error: an earlier run was
    /// cut short after it. One that lies elsewhere is left alone.
    ///
    /// # Errors
    /// Where the store fails; then some are deleted, and the rest is found again by a later run.
    pub async fn delete_files(&self, locations: Vec<String>) -> Result<u64, TableError> {
        let store = self.warehouse.store();
        let folder = format!("{}/", self.location());
        let ours = locations.into_iter().filter(|one| one.starts_with(&folder));
        let (keys, unusable): (Vec<_>, Vec<_>) =
            ours.map(|location| self.warehouse.key(&location)).partition(Result::is_ok);
        // What is no key is told of once all others are deleted.
        let deletions = keys.into_iter().chain(unusable).map(|key| {
            let store = Arc::clone(&store);
            async move {
                let key = key?;
                match object_store::ObjectStoreExt::delete(&store, &key).await {
                    Ok(()) => Ok(1),
                    Err(object_store::Error::NotFound { .. }) => Ok(0),
                    Err(error) => Err(TableError::from(error)),
                }
            }
        });
        futures::stream::iter(deletions)
            .buffered(AT_ONCE)
            .try_fold(0, |deleted, one: u64| async move { Ok(deleted + one) })
            .await
    }

    /// The metadata files that the catalog numbers, oldest first; none where it does not keep them by number.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn versions(&self) -> Result<Versions, TableError> {
        self.catalog.versions().await
    }

    /// Deletes old metadata files, in ascending order and one after another: what is left is never interrupted.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn remove_versions(&self, ascending: &[u64]) -> Result<(), TableError> {
        for version in ascending {
            self.catalog.remove_version(*version).await?;
        }
        Ok(())
    }

    /// Every file that these snapshots name and that is not known to be needed, after adding what all others need.
    async fn files_of(
        &self,
        metadata: &TableMetadata,
        snapshots: &[i64],
        needed: &mut Needed,
    ) -> Result<Vec<String>, TableError> {
        self.add_needed_by(metadata, snapshots, needed).await?;
        let file_io = self.warehouse.file_io();
        let (mut files, mut manifests) = (Vec::new(), HashSet::new());
        for snapshot in metadata.snapshots().filter(|one| snapshots.contains(&one.snapshot_id())) {
            for manifest in snapshot::manifests(&file_io, snapshot).await? {
                if !needed.has(&manifest.manifest_path) && manifests.insert(manifest.manifest_path.clone()) {
                    files.extend(data_files(&file_io, &manifest).await?);
                    files.push(manifest.manifest_path);
                }
            }
            files.push(snapshot.manifest_list().to_owned());
        }
        files.sort_unstable();
        files.dedup();
        files.retain(|file| !needed.has(file));
        Ok(files)
    }

    /// Adds what the snapshots, without those in `except`, need. What was read before is not read again: such files never change.
    async fn add_needed_by(
        &self,
        metadata: &TableMetadata,
        except: &[i64],
        needed: &mut Needed,
    ) -> Result<(), TableError> {
        let file_io = self.warehouse.file_io();
        let unread: Vec<&Snapshot> = metadata
            .snapshots()
            .filter(|one| !except.contains(&one.snapshot_id()) && !needed.read.contains(one.manifest_list()))
            .map(AsRef::as_ref)
            .collect();
        let reads: Vec<_> = unread.iter().map(|one| snapshot::manifests(&file_io, one).boxed()).collect();
        let lists: Vec<_> = futures::stream::iter(reads).buffered(AT_ONCE).try_collect().await?;
        for (snapshot, manifests) in unread.into_iter().zip(lists) {
            for manifest in manifests {
                if needed.read.contains(&manifest.manifest_path) {
                    continue;
                }
                for file in live_data_files(&file_io, &manifest).await? {
                    needed.add(&file);
                }
                needed.add(&manifest.manifest_path);
                needed.read.insert(manifest.manifest_path);
            }
            needed.add(snapshot.manifest_list());
            needed.read.insert(snapshot.manifest_list().to_owned());
        }
        Ok(())
    }
}

async fn live_data_files(file_io: &FileIO, manifest: &ManifestFile) -> Result<Vec<String>, TableError> {
    let loaded = manifest.load_manifest(file_io).await?;
    let live = loaded.entries().iter().filter(|entry| entry.is_alive());
    Ok(live.map(|entry| entry.file_path().to_owned()).collect())
}

/// All of them: a file that a snapshot removed is named by it as well.
async fn data_files(file_io: &FileIO, manifest: &ManifestFile) -> Result<Vec<String>, TableError> {
    let loaded = manifest.load_manifest(file_io).await?;
    Ok(loaded.entries().iter().map(|entry| entry.file_path().to_owned()).collect())
}

fn history(metadata: &TableMetadata) -> History {
    let snapshots = metadata.snapshots().map(|one| SnapshotFacts {
        id: one.snapshot_id(),
        parent: one.parent_snapshot_id(),
        made_ms: one.timestamp_ms(),
        removes: matches!(one.summary().operation, Operation::Delete | Operation::Overwrite),
    });
    let reference = |(name, reference): (String, SnapshotReference)| {
        let snapshots_min = match &reference.retention {
            SnapshotRetention::Branch { min_snapshots_to_keep, .. } => *min_snapshots_to_keep,
            SnapshotRetention::Tag { .. } => None,
        };
        Reference {
            name,
            snapshot_id: reference.snapshot_id,
            is_branch: reference.is_branch(),
            snapshots_min: snapshots_min.and_then(|least| u64::try_from(least).ok()),
        }
    };
    History {
        current: metadata.current_snapshot_id(),
        snapshots: snapshots.collect(),
        references: snapshot::references(metadata).into_iter().map(reference).collect(),
    }
}

/// An expiry was chosen by what every branch and tag points to: none may have moved.
fn still_the_same(metadata: &TableMetadata) -> Vec<TableRequirement> {
    let unmoved = |(name, reference): (String, SnapshotReference)| TableRequirement::RefSnapshotIdMatch {
        r#ref: name,
        snapshot_id: Some(reference.snapshot_id),
    };
    let uuid = TableRequirement::UuidMatch { uuid: metadata.uuid() };
    let (r#ref, snapshot_id) = (MAIN_BRANCH.to_owned(), metadata.current_snapshot_id());
    // Also where there is no `main` yet: then none may have come.
    let main = TableRequirement::RefSnapshotIdMatch { r#ref, snapshot_id };
    let others = snapshot::references(metadata).into_iter().filter(|(name, _)| name != MAIN_BRANCH);
    [uuid, main].into_iter().chain(others.map(unmoved)).collect()
}

/// The first day of a manifest's files, by what the list of manifests says of it.
fn first_day(metadata: &TableMetadata, manifest: &ManifestFile) -> Option<i32> {
    let spec = metadata.partition_spec_by_id(manifest.partition_spec_id)?;
    let field = manifest.partitions.as_ref()?.get(day_place(metadata, spec)?)?;
    let bytes: [u8; 4] = field.lower_bound.as_ref()?.as_slice().try_into().ok()?;
    Some(i32::from_le_bytes(bytes))
}
