//! Whole data files leave the table: a snapshot of the operation `delete`, exactly as chosen, whatever becomes of an attempt.
//!
//! Each attempt begins with reading the table, and chooses among the files that are live then. So files that another writer
//! added meanwhile are judged as well, and those that another process removed are not removed twice. A commit counts once the
//! newest metadata holds its snapshot.
//!
//! The writers' positions are properties of the table (`commit`), which this commit does not touch. What the summary of the
//! newest snapshot says of writer and policies goes on into this one, so that expiring the snapshots before it loses nothing.
//!
//! A manifest that holds removed files is written anew as two: the files that stay, and those that are removed. Of the removed
//! ones no least and greatest values are kept; and the next append leaves the second manifest out, since it has no live file.
//!
//! Owns: that commit. Does not own: which files (`maintain`), deleting their bytes (`care`).

use std::collections::{BTreeMap, HashMap};

use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, Literal, ManifestContentType, ManifestEntry, ManifestFile,
    Operation, PartitionSpec, PrimitiveLiteral, SnapshotSummaryCollector, Summary, TableMetadata, Transform,
};
use iceberg::{Error, ErrorKind};

use super::Table;
use super::catalog::{CommitOutcome, Loaded};
use super::commit::{ATTEMPTS_MAX, BACK_OFF_FIRST};
use super::error::TableError;
use super::snapshot::{self, Produced, Scribe};
use crate::datafile::TIME_COLUMN;

/// What a snapshot without rows says again, of the newest snapshot before it that does.
const SAID_AGAIN: [&str; 4] =
    ["esker.writer-id", "esker.writer-epoch", "esker.wal-through", "esker.policy-versions"];

/// A live data file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveFile {
    /// Its location.
    pub location: String,
    /// The UTC day of its rows, as a number since 1970-01-01; None where its partition does not tell.
    pub day: Option<i32>,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

/// What left the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// The snapshot that removed it; None where nothing was removed.
    pub snapshot_id: Option<i64>,
    /// Data files.
    pub files: u64,
    /// Their rows.
    pub rows: u64,
    /// Their size.
    pub bytes: u64,
}

/// A commit that was sent.
struct Sent {
    snapshot_id: i64,
    removed: Removed,
    /// Its manifests, and its list of them.
    metadata_files: Vec<String>,
    was_refused: bool,
}

impl Table {
    /// The live data files, as the table is now.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub async fn live_files(&self) -> Result<Vec<LiveFile>, TableError> {
        let base = self.reload().await?;
        let mut found = Vec::new();
        let Some(current) = base.metadata.current_snapshot() else { return Ok(found) };
        let file_io = self.warehouse.file_io();
        for manifest in snapshot::manifests(&file_io, current).await? {
            if manifest.content != ManifestContentType::Data || !snapshot::has_live_files(&manifest) {
                continue;
            }
            let place = day_place(&base.metadata, spec_of(&base.metadata, &manifest)?);
            let loaded = manifest.load_manifest(&file_io).await?;
            let live = loaded.entries().iter().filter(|entry| entry.is_alive());
            found.extend(live.map(|entry| live_file(entry, place)));
        }
        Ok(found)
    }

    /// Removes the live data files that `doomed` names, in one snapshot, and says `summary` in it. `doomed` is asked again of
    /// the files that are live then, where other writers are quicker.
    ///
    /// # Errors
    /// Where the table cannot be read or written. Then the removal may have happened: the next call finds out by reading.
    pub async fn remove_files(
        &self,
        doomed: &(dyn Fn(&LiveFile) -> bool + Send + Sync),
        summary: &BTreeMap<String, String>,
    ) -> Result<Removed, TableError> {
        let mut back_off = BACK_OFF_FIRST;
        let mut sent: Vec<Sent> = Vec::new();
        for attempt in 0..=ATTEMPTS_MAX {
            let base = self.reload().await?;
            let ours = sent.iter().find(|sent| base.metadata.snapshot_by_id(sent.snapshot_id).is_some());
            if let Some(ours) = ours {
                self.catalog.show(&base).await;
                return Ok(ours.removed);
            }
            // A refusal may be the answer to a request that was sent twice, of which the first was taken: only now it is one.
            for refused in sent.extract_if(.., |sent| sent.was_refused) {
                self.remove(refused.metadata_files).await;
            }
            if attempt == ATTEMPTS_MAX {
                break;
            }
            let Some((produced, removed)) = self.produce_removal(&base, doomed, summary).await? else {
                return Ok(Removed::default());
            };
            let Produced { requirements, updates, metadata_files } = produced;
            let outcome = self.catalog.commit(&base, &requirements, updates).await?;
            if let Some(snapshot_id) = removed.snapshot_id {
                let was_refused = matches!(outcome, CommitOutcome::Conflicted);
                sent.push(Sent { snapshot_id, removed, metadata_files, was_refused });
            }
            match outcome {
                // Reading the table, at the top, decides.
                CommitOutcome::Committed => {}
                CommitOutcome::Conflicted => {
                    tracing::debug!(version = base.version, "another writer committed first");
                    self.back_off(&mut back_off).await;
                }
                // Its manifests stay, even where the next reading lacks it: if it is found nowhere, they are orphans.
                CommitOutcome::Unknown(error) => {
                    tracing::warn!(%error, version = base.version, "the removal's outcome is unknown; reading the table");
                    self.back_off(&mut back_off).await;
                }
            }
        }
        Err(TableError::Contended { attempts: ATTEMPTS_MAX })
    }

    /// Writes the manifests of a removal; None where no live file is doomed.
    async fn produce_removal(
        &self,
        base: &Loaded,
        doomed: &(dyn Fn(&LiveFile) -> bool + Send + Sync),
        summary: &BTreeMap<String, String>,
    ) -> Result<Option<(Produced, Removed)>, TableError> {
        let metadata = &base.metadata;
        let Some(current) = metadata.current_snapshot() else { return Ok(None) };
        let (file_io, snapshot_id) = (self.warehouse.file_io(), self.unused_snapshot_id(metadata));
        let mut scribe = Scribe::new(&self.warehouse, metadata, self.ids.next_id(), snapshot_id);
        let mut collector = SnapshotSummaryCollector::default();
        let mut removed = Removed { snapshot_id: Some(snapshot_id), ..Removed::default() };
        let mut manifests = Vec::new();
        for manifest in snapshot::manifests(&file_io, current).await? {
            if !snapshot::has_live_files(&manifest) {
                continue;
            }
            if manifest.content != ManifestContentType::Data {
                manifests.push(manifest);
                continue;
            }
            let spec = spec_of(metadata, &manifest)?;
            let place = day_place(metadata, spec);
            let loaded = manifest.load_manifest(&file_io).await?;
            let live = loaded.entries().iter().filter(|entry| entry.is_alive());
            let (leaving, staying): (Vec<_>, Vec<_>) =
                live.partition(|entry| doomed(&live_file(entry, place)));
            if leaving.is_empty() {
                manifests.push(manifest);
                continue;
            }
            let mut writer = scribe.manifest_writer_of(spec)?;
            for entry in leaving {
                let bare = without_bounds(entry.data_file(), &manifest)?;
                collector.remove_file(&bare, metadata.current_schema().clone(), spec.clone().into());
                removed.files += 1;
                removed.rows += entry.record_count();
                removed.bytes += entry.file_size_in_bytes();
                let sequence =
                    entry.sequence_number.ok_or_else(|| snapshot::lacks(&manifest, "sequence number"))?;
                writer.add_delete_file(bare, sequence, entry.file_sequence_number)?;
            }
            manifests.push(writer.write_manifest_file().await?);
            if !staying.is_empty() {
                let mut writer = scribe.manifest_writer_of(spec)?;
                for entry in staying {
                    snapshot::carry(&mut writer, &manifest, entry)?;
                }
                manifests.push(writer.write_manifest_file().await?);
            }
        }
        if removed.files == 0 {
            return Ok(None);
        }
        let mut properties = snapshot::with_totals(metadata, collector.build());
        properties.extend(said_before(metadata));
        properties.extend(summary.clone());
        let summary = Summary { operation: Operation::Delete, additional_properties: properties };
        let timestamp_ms = (self.clock.now_micros() / 1000).max(metadata.last_updated_ms());
        Ok(Some((scribe.snapshot(manifests, timestamp_ms, summary).await?, removed)))
    }
}

fn spec_of<'m>(
    metadata: &'m TableMetadata,
    manifest: &ManifestFile,
) -> Result<&'m PartitionSpec, TableError> {
    let spec = metadata.partition_spec_by_id(manifest.partition_spec_id);
    Ok(spec.ok_or_else(|| snapshot::lacks(manifest, "partition spec"))?.as_ref())
}

/// The place of day(event_time) among a spec's fields, where it has it.
pub(super) fn day_place(metadata: &TableMetadata, spec: &PartitionSpec) -> Option<usize> {
    let is_day = |source_id, transform| {
        transform == Transform::Day
            && metadata.current_schema().name_by_field_id(source_id) == Some(TIME_COLUMN)
    };
    spec.fields().iter().position(|field| is_day(field.source_id, field.transform))
}

fn live_file(entry: &ManifestEntry, day_place: Option<usize>) -> LiveFile {
    let partition = entry.data_file().partition().fields();
    let day = day_place.and_then(|place| match partition.get(place)? {
        Some(Literal::Primitive(PrimitiveLiteral::Int(day))) => Some(*day),
        _ => None,
    });
    LiveFile {
        location: entry.file_path().to_owned(),
        day,
        rows: entry.record_count(),
        bytes: entry.file_size_in_bytes(),
    }
}

/// The record of a removed file: values of its rows, such as the least and the greatest, have left with it.
fn without_bounds(file: &DataFile, manifest: &ManifestFile) -> Result<DataFile, TableError> {
    let mut builder = DataFileBuilder::default();
    builder
        .content(DataContentType::Data)
        .file_path(file.file_path().to_owned())
        .file_format(file.file_format())
        .partition(file.partition().clone())
        .partition_spec_id(manifest.partition_spec_id)
        .record_count(file.record_count())
        .file_size_in_bytes(file.file_size_in_bytes());
    builder.build().map_err(|error| {
        Error::new(ErrorKind::Unexpected, "a removed file's record is incomplete").with_source(error).into()
    })
}

/// What the newest snapshots say of writer and policies, each from the newest that says it.
fn said_before(metadata: &TableMetadata) -> HashMap<String, String> {
    let mut said = HashMap::new();
    let mut next = metadata.current_snapshot();
    // A history is finite, but metadata that others wrote might go round in a circle.
    for _ in 0..metadata.snapshots().len() {
        let Some(snapshot) = next else { break };
        for key in SAID_AGAIN {
            if let Some(value) = snapshot.summary().additional_properties.get(key) {
                said.entry(key.to_owned()).or_insert_with(|| value.clone());
            }
        }
        next = snapshot.parent_snapshot_id().and_then(|id| metadata.snapshot_by_id(id));
    }
    said
}
