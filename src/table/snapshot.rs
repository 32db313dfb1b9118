//! The snapshot producer: data files to manifests, a manifest list and a snapshot, on a state that was just loaded.
//!
//! Owns: what a snapshot contains and says. Does not own: whether it is committed.

use std::collections::{BTreeMap, HashMap};

use iceberg::io::FileIO;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, FormatVersion, Literal, MAIN_BRANCH,
    ManifestContentType, ManifestEntry, ManifestFile, ManifestList, ManifestListWriter, ManifestWriter,
    ManifestWriterBuilder, Operation, PartitionSpec, Snapshot, SnapshotReference, SnapshotRetention,
    SnapshotSummaryCollector, Struct, Summary, TableMetadata,
};
use iceberg::{Error, ErrorKind, TableRequirement, TableUpdate};

use super::catalog::Loaded;
use super::error::TableError;
use super::storage::Warehouse;
use crate::datafile::{Bound, ColumnMetrics, WrittenFile};

/// Data manifests that a snapshot may carry before an append folds the small ones into one: each is a file that every reader
/// opens.
const MANIFESTS_MAX: usize = 100;
/// Manifests up to this size, bytes, are folded.
const SMALL_MANIFEST_BYTES: i64 = 4 << 20;

/// What a new snapshot is made of, besides its base.
#[derive(Debug)]
pub(super) struct Append<'a> {
    /// The files that it adds.
    pub(super) files: &'a [WrittenFile],
    /// Names its metadata files.
    pub(super) commit_id: uuid::Uuid,
    /// Its id, positive and not used in the table.
    pub(super) snapshot_id: i64,
    /// Milliseconds since the Unix epoch.
    pub(super) timestamp_ms: i64,
    /// Goes into the summary.
    pub(super) summary: BTreeMap<String, String>,
}

/// A snapshot that waits for its commit.
#[derive(Debug)]
pub(super) struct Produced {
    /// What the commit demands.
    pub(super) requirements: Vec<TableRequirement>,
    /// What it changes.
    pub(super) updates: Vec<TableUpdate>,
    /// The metadata files written for it: garbage if it is not committed.
    pub(super) metadata_files: Vec<String>,
}

/// Writes the manifests and the manifest list of an append to `base`.
pub(super) async fn produce(
    warehouse: &Warehouse,
    base: &Loaded,
    append: Append<'_>,
) -> Result<Produced, TableError> {
    let metadata = &base.metadata;
    let mut scribe = Scribe::new(warehouse, metadata, append.commit_id, append.snapshot_id);
    let files =
        append.files.iter().map(|file| data_file(metadata, file)).collect::<Result<Vec<_>, TableError>>()?;
    let mut manifests = Vec::new();
    // A manifest without files is none: such a snapshot only marks a position.
    if !files.is_empty() {
        manifests.push(scribe.new_manifest(&files).await?);
    }
    manifests.extend(scribe.carried().await?);
    let summary = summary(metadata, &files, append.summary);
    scribe.snapshot(manifests, append.timestamp_ms, summary).await
}

/// Writes one snapshot's metadata files.
pub(super) struct Scribe<'a> {
    warehouse: &'a Warehouse,
    metadata: &'a TableMetadata,
    commit_id: uuid::Uuid,
    snapshot_id: i64,
    number: usize,
    written: Vec<String>,
}

impl<'a> Scribe<'a> {
    /// For the snapshot of this id, on top of `metadata`'s newest. `commit_id` names its files.
    pub(super) fn new(
        warehouse: &'a Warehouse,
        metadata: &'a TableMetadata,
        commit_id: uuid::Uuid,
        snapshot_id: i64,
    ) -> Self {
        Self { warehouse, metadata, commit_id, snapshot_id, number: 0, written: Vec::new() }
    }

    /// Writes the manifest list, and gives the commit that makes the snapshot the newest.
    pub(super) async fn snapshot(
        mut self,
        manifests: Vec<ManifestFile>,
        timestamp_ms: i64,
        summary: Summary,
    ) -> Result<Produced, TableError> {
        let metadata = self.metadata;
        let manifest_list = self.manifest_list(manifests).await?;
        let snapshot = Snapshot::builder()
            .with_snapshot_id(self.snapshot_id)
            .with_parent_snapshot_id(metadata.current_snapshot_id())
            .with_sequence_number(metadata.next_sequence_number())
            .with_timestamp_ms(timestamp_ms)
            .with_manifest_list(manifest_list)
            .with_summary(summary)
            .with_schema_id(metadata.current_schema_id())
            .build();
        let reference = SnapshotReference::new(self.snapshot_id, main_retention(metadata));
        Ok(Produced {
            requirements: vec![
                TableRequirement::UuidMatch { uuid: metadata.uuid() },
                TableRequirement::RefSnapshotIdMatch {
                    r#ref: MAIN_BRANCH.to_owned(),
                    snapshot_id: metadata.current_snapshot_id(),
                },
            ],
            updates: vec![
                TableUpdate::AddSnapshot { snapshot },
                TableUpdate::SetSnapshotRef { ref_name: MAIN_BRANCH.to_owned(), reference },
            ],
            metadata_files: self.written,
        })
    }

    fn next_manifest(&mut self) -> String {
        let location = format!(
            "{}/metadata/{}-m{}.avro",
            self.metadata.location(),
            self.commit_id.simple(),
            self.number
        );
        self.number += 1;
        self.written.push(location.clone());
        location
    }

    fn manifest_writer(&mut self) -> Result<ManifestWriter, TableError> {
        self.manifest_writer_of(&self.metadata.default_partition_spec().clone())
    }

    /// A writer of a manifest whose files lie in the partitions of `spec`.
    pub(super) fn manifest_writer_of(&mut self, spec: &PartitionSpec) -> Result<ManifestWriter, TableError> {
        let output = self.warehouse.file_io().new_output(self.next_manifest())?;
        let schema = self.metadata.current_schema().clone();
        let spec = spec.clone();
        Ok(ManifestWriterBuilder::new(output, Some(self.snapshot_id), schema, spec).build_v2_data())
    }

    /// The manifest of the added files. Their sequence number is inherited: it is known once the commit succeeds.
    async fn new_manifest(&mut self, files: &[DataFile]) -> Result<ManifestFile, TableError> {
        const INHERITED: i64 = -1;
        let mut writer = self.manifest_writer()?;
        for file in files {
            writer.add_file(file.clone(), INHERITED)?;
        }
        Ok(writer.write_manifest_file().await?)
    }

    /// The manifests of the snapshot before, the small ones folded where there are many.
    async fn carried(&mut self) -> Result<Vec<ManifestFile>, TableError> {
        let Some(current) = self.metadata.current_snapshot() else { return Ok(Vec::new()) };
        let file_io = self.warehouse.file_io();
        let mut manifests = manifests(&file_io, current).await?;
        manifests.retain(has_live_files);
        let spec_id = self.metadata.default_partition_spec_id();
        let (small, mut kept): (Vec<_>, Vec<_>) = manifests.into_iter().partition(|manifest| {
            manifest.content == ManifestContentType::Data
                && manifest.partition_spec_id == spec_id
                && manifest.manifest_length <= SMALL_MANIFEST_BYTES
        });
        if small.len() < MANIFESTS_MAX {
            kept.extend(small);
            return Ok(kept);
        }
        let mut writer = self.manifest_writer()?;
        for manifest in small {
            for entry in
                manifest.load_manifest(&file_io).await?.entries().iter().filter(|entry| entry.is_alive())
            {
                carry(&mut writer, &manifest, entry)?;
            }
        }
        kept.insert(0, writer.write_manifest_file().await?);
        Ok(kept)
    }

    async fn manifest_list(&mut self, manifests: Vec<ManifestFile>) -> Result<String, TableError> {
        let location = format!(
            "{}/metadata/snap-{}-{}.avro",
            self.metadata.location(),
            self.snapshot_id,
            self.commit_id.simple()
        );
        self.written.push(location.clone());
        let output = self.warehouse.file_io().new_output(&location)?;
        let mut writer = ManifestListWriter::v2(
            output.writer().await?,
            self.snapshot_id,
            self.metadata.current_snapshot_id(),
            self.metadata.next_sequence_number(),
        );
        writer.add_manifests(manifests.into_iter())?;
        writer.close().await?;
        Ok(location)
    }
}

/// The manifests of a snapshot.
pub(super) async fn manifests(
    file_io: &FileIO,
    snapshot: &Snapshot,
) -> Result<Vec<ManifestFile>, TableError> {
    let bytes = file_io.new_input(snapshot.manifest_list())?.read().await?;
    let list = ManifestList::parse_with_version(&bytes, FormatVersion::V2)?;
    Ok(list.consume_entries().into_iter().collect())
}

/// False for a manifest that tells of removed files alone: the snapshot that removed them says so, and none after it has to.
pub(super) fn has_live_files(manifest: &ManifestFile) -> bool {
    manifest.has_added_files() || manifest.has_existing_files()
}

/// Writes a live file of `manifest` into another manifest, as it was.
pub(super) fn carry(
    writer: &mut ManifestWriter,
    manifest: &ManifestFile,
    entry: &ManifestEntry,
) -> Result<(), TableError> {
    let snapshot_id = entry.snapshot_id.ok_or_else(|| lacks(manifest, "snapshot id"))?;
    let sequence = entry.sequence_number.ok_or_else(|| lacks(manifest, "sequence number"))?;
    writer.add_existing_file(entry.data_file().clone(), snapshot_id, sequence, entry.file_sequence_number)?;
    Ok(())
}

/// A manifest that is not as the specification says.
pub(super) fn lacks(manifest: &ManifestFile, what: &str) -> Error {
    let text = format!("{} lacks a {what} of a file", manifest.manifest_path);
    Error::new(ErrorKind::DataInvalid, text)
}

/// The retention settings of `main`, which a commit must not reset.
fn main_retention(metadata: &TableMetadata) -> SnapshotRetention {
    let main = references(metadata).into_iter().find(|(name, _)| name == MAIN_BRANCH);
    main.map_or(
        SnapshotRetention::Branch {
            min_snapshots_to_keep: None,
            max_snapshot_age_ms: None,
            max_ref_age_ms: None,
        },
        |(_, reference)| reference.retention,
    )
}

/// Every branch and tag.
pub(super) fn references(metadata: &TableMetadata) -> BTreeMap<String, SnapshotReference> {
    // The crate has no accessor for references; their serialised form is the specification's.
    let refs = serde_json::to_value(metadata).ok().and_then(|json| json.get("refs").cloned());
    refs.and_then(|refs| serde_json::from_value(refs).ok()).unwrap_or_default()
}

fn summary(metadata: &TableMetadata, files: &[DataFile], ours: BTreeMap<String, String>) -> Summary {
    let mut collector = SnapshotSummaryCollector::default();
    for file in files {
        collector.add_file(
            file,
            metadata.current_schema().clone(),
            metadata.default_partition_spec().clone(),
        );
    }
    let mut properties = with_totals(metadata, collector.build());
    properties.extend(ours);
    Summary { operation: Operation::Append, additional_properties: properties }
}

/// What a snapshot adds and removes, and the totals that follow from it and the snapshot before.
pub(super) fn with_totals(
    metadata: &TableMetadata,
    mut properties: HashMap<String, String>,
) -> HashMap<String, String> {
    let before = metadata.current_snapshot().map(|snapshot| &snapshot.summary().additional_properties);
    for (total, added, removed) in [
        ("total-records", "added-records", "deleted-records"),
        ("total-data-files", "added-data-files", "deleted-data-files"),
        ("total-files-size", "added-files-size", "removed-files-size"),
        ("total-delete-files", "added-delete-files", "removed-delete-files"),
        ("total-position-deletes", "added-position-deletes", "removed-position-deletes"),
        ("total-equality-deletes", "added-equality-deletes", "removed-equality-deletes"),
    ] {
        let number = |found: Option<&String>| found.and_then(|text| text.parse::<u64>().ok());
        let previous = match before {
            // A snapshot of another writer may lack a total; then nobody knows it.
            Some(before) => number(before.get(total)),
            None => Some(0),
        };
        if let Some(previous) = previous {
            let sum = previous + number(properties.get(added)).unwrap_or(0);
            let rest = sum.saturating_sub(number(properties.get(removed)).unwrap_or(0));
            properties.insert(total.to_owned(), rest.to_string());
        }
    }
    properties
}

/// Iceberg's record of a data file.
fn data_file(metadata: &TableMetadata, file: &WrittenFile) -> Result<DataFile, TableError> {
    let per_column = |value: fn(&ColumnMetrics) -> Option<u64>| -> HashMap<i32, u64> {
        file.columns.iter().filter_map(|(id, metrics)| Some((*id, value(metrics)?))).collect()
    };
    let bounds = |pick: fn(&(Bound, Bound)) -> &Bound| -> HashMap<i32, Datum> {
        let bound = |metrics: &ColumnMetrics| metrics.bounds.as_ref().map(|both| datum(pick(both)));
        file.columns.iter().filter_map(|(id, metrics)| Some((*id, bound(metrics)?))).collect()
    };
    let mut builder = DataFileBuilder::default();
    builder
        .content(DataContentType::Data)
        .file_path(file.location.clone())
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::from_iter([Some(Literal::date(file.day))]))
        .partition_spec_id(metadata.default_partition_spec_id())
        .record_count(file.rows)
        .file_size_in_bytes(file.size_bytes)
        .column_sizes(per_column(|metrics| Some(metrics.size_bytes)))
        .value_counts(per_column(|metrics| Some(metrics.values)))
        .null_value_counts(per_column(|metrics| Some(metrics.nulls)))
        .nan_value_counts(per_column(|metrics| metrics.nans))
        .lower_bounds(bounds(|(lower, _)| lower))
        .upper_bounds(bounds(|(_, upper)| upper))
        .split_offsets(Some(file.split_offsets.clone()));
    if let Ok(sort_order) = i32::try_from(metadata.default_sort_order_id()) {
        builder.sort_order_id(sort_order);
    }
    builder.build().map_err(|error| {
        Error::new(ErrorKind::Unexpected, "a data file's record is incomplete").with_source(error).into()
    })
}

fn datum(bound: &Bound) -> Datum {
    match bound {
        Bound::String(text) => Datum::string(text),
        Bound::Long(number) => Datum::long(*number),
        Bound::Double(number) => Datum::double(*number),
        Bound::Boolean(truth) => Datum::bool(*truth),
        Bound::Timestamp(micros) => Datum::timestamptz_micros(*micros),
    }
}
