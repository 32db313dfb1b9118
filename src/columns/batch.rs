//! A batch of stored events and its bytes in the WAL.
//!
//! Owns: the Arrow IPC stream of a batch (written, and read back without trust), the events' counts by name. Does not
//! own: how rows came about (`encode`), frames and checksums (`wal`).
//!
//! The bytes are a plain Arrow IPC stream: a schema (names and types only, no docs: they would be longer than a small
//! request), one record batch, the end mark. Any Arrow implementation reads it.

use arrow::array::{Array, AsArray, StringArray};
use arrow::buffer::Buffer;
use arrow::error::ArrowError;
use arrow::ipc::MetadataVersion;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;

use super::inspect::inspect;
use super::{ENVELOPE, Envelope, arrow_type};
use crate::registry::ColumnType;

/// What every table has, whatever else its layout: by these it is partitioned and sorted.
const SHARED: [Envelope; 2] = [Envelope::EventName, Envelope::EventTime];

/// The types that a column can have.
const TYPES: [ColumnType; 6] = [
    ColumnType::String,
    ColumnType::Long,
    ColumnType::Double,
    ColumnType::Boolean,
    ColumnType::Timestamp,
    ColumnType::Binary,
];

/// What every buffer of a batch begins at: a multiple of this. Eight suits every column type; Arrow's default of 64 adds
/// some 100 bytes for each column of each request.
pub(super) const ALIGNMENT: usize = 8;

/// Room for the schema and the batch's own header, for each column; a wrong guess costs a reallocation.
const HEADER_BYTES_EXPECTED: usize = 320;

/// Why a batch could not be written or read. Never holds a value.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Arrow could not write the batch.
    #[error("cannot write a batch of events; this is a defect of Esker, please report it")]
    Write(#[source] ArrowError),
    /// There are more sections, or more bytes in one, than a bundle holds.
    #[error("a request feeds more tables, or one table with more bytes, than a bundle can hold")]
    Unbundled,
    /// The bytes are not a batch of events.
    #[error(
        "the bytes are not a batch of events ({problem}); they were damaged or written by another program"
    )]
    Malformed {
        /// What is wrong with them.
        problem: &'static str,
    },
}

/// How many events of a name are in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventCount {
    /// The event's name, as declared.
    pub name: String,
    /// How many events have it.
    pub events: u64,
}

/// One request's rows for one table. Holds only the columns that have a value in it.
#[derive(Clone)]
pub struct Batch {
    rows: RecordBatch,
}

impl std::fmt::Debug for Batch {
    /// Shows the size only: rows have no place in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("rows", &self.rows()).finish_non_exhaustive()
    }
}

impl Batch {
    /// Rows of any table's layout, from an encoder.
    pub(super) fn new(rows: RecordBatch) -> Self {
        Self { rows }
    }

    /// Number of events.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.num_rows()
    }

    /// True where there is no event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// The events as Arrow has them.
    #[must_use]
    pub fn record_batch(&self) -> &RecordBatch {
        &self.rows
    }

    /// How many events of each name, in the order in which the batch first shows each.
    #[must_use]
    pub fn event_counts(&self) -> Vec<EventCount> {
        let mut counts: Vec<(&str, u64)> = Vec::new();
        let Some(names) = self.names() else { return Vec::new() };
        for name in names.iter().flatten() {
            // A request shows few names, and mostly the same one again.
            match counts.iter_mut().rev().find(|(known, _)| *known == name) {
                Some((_, events)) => *events += 1,
                None => counts.push((name, 1)),
            }
        }
        counts.into_iter().map(|(name, events)| EventCount { name: name.to_owned(), events }).collect()
    }

    /// About how long the batch's stream becomes.
    pub(super) fn ipc_bytes_expected(&self) -> usize {
        self.rows.columns().iter().map(|column| column.get_buffer_memory_size()).sum::<usize>()
            + self.rows.num_columns() * HEADER_BYTES_EXPECTED
    }

    /// Appends the batch to `bytes` as an Arrow IPC stream.
    pub(super) fn write_ipc(&self, bytes: Vec<u8>) -> Result<Vec<u8>, BatchError> {
        let options =
            IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5).map_err(BatchError::Write)?;
        let mut writer = StreamWriter::try_new_with_options(bytes, &self.rows.schema(), options)
            .map_err(BatchError::Write)?;
        writer.write(&self.rows).map_err(BatchError::Write)?;
        writer.into_inner().map_err(BatchError::Write)
    }

    /// The batch as an Arrow IPC stream.
    #[cfg(test)]
    pub(crate) fn to_ipc(&self) -> Result<Bytes, BatchError> {
        self.write_ipc(Vec::new()).map(Bytes::from)
    }

    /// Reads a batch back. Its columns share the memory of `bytes` where that is aligned. Nothing is trusted: text,
    /// offsets, sizes, types and names are checked.
    pub fn from_ipc(bytes: Bytes) -> Result<Self, BatchError> {
        inspect(&bytes).map_err(|problem| BatchError::Malformed { problem })?;
        let mut buffer = Buffer::from(bytes);
        // The reader's error would quote what it met, so it is not passed on.
        let rows = match StreamDecoder::new().decode(&mut buffer) {
            Ok(Some(rows)) => rows,
            Ok(None) | Err(_) => return Err(BatchError::Malformed { problem: "its columns are broken" }),
        };
        check_columns(&rows)?;
        Ok(Self { rows })
    }

    fn names(&self) -> Option<&StringArray> {
        let (name, ..) = ENVELOPE.get(Envelope::EventName as usize)?;
        self.rows.column_by_name(name)?.as_string_opt::<i32>()
    }
}

/// Checks what all layouts share: the columns of [`SHARED`], known types, each name once. A layout's own columns are
/// matched with the table when a data file is written.
fn check_columns(rows: &RecordBatch) -> Result<(), BatchError> {
    let malformed = |problem| BatchError::Malformed { problem };
    for place in SHARED {
        let Some(&(name, ty, ..)) = ENVELOPE.get(place as usize) else { continue };
        match rows.column_by_name(name) {
            Some(column) if *column.data_type() != arrow_type(ty) => {
                return Err(malformed("a column that every table has is of another type"));
            }
            Some(column) if column.null_count() > 0 => {
                return Err(malformed("a column that every table has holds nulls"));
            }
            Some(_) => {}
            None => return Err(malformed("a column that every table has is missing")),
        }
    }
    let fields = rows.schema_ref().fields();
    let types = TYPES.map(arrow_type);
    if fields.iter().any(|field| !types.contains(field.data_type())) {
        return Err(malformed("a column has a type that no column has"));
    }
    let mut names: Vec<_> = fields.iter().map(|field| field.name().as_str()).collect();
    names.sort_unstable();
    match names.windows(2).any(|pair| pair.first() == pair.last()) {
        true => Err(malformed("two columns have one name")),
        false => Ok(()),
    }
}
