//! Durable rows to Parquet files: groups by day, sorts, sizes and uploads.
//!
//! Owns: the content and name of a data file, and the metrics that describe it. Does not own: Iceberg's metadata.
//!
//! A run of rows (at most [`RUN_BYTES_MAX`]) is sorted by day, event name and event time; each day of it becomes one
//! file with one row group. One row group a file keeps the file's bounds equal to Parquet's own statistics, and the
//! columns are gathered, encoded and dropped one at a time, so that memory stays near the size of the run.

mod encode;
mod gather;
mod layout;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::errors::ParquetError;

pub use writer::DataFileWriter;
pub(crate) use writer::row_bytes;
#[cfg(test)]
pub(crate) use writer::upload as upload_for_tests;

/// The column whose UTC day is the partition; also the second sort column.
pub const TIME_COLUMN: &str = "event_time";

/// The first sort column.
pub const NAME_COLUMN: &str = "event_name";

/// Rows that are sorted and written together. Small enough that a run, its sort keys and its encoded files stay well
/// under the service's 300 MiB, large enough (some 150,000 events) that files compress and prune well.
pub const RUN_BYTES_MAX: usize = 64 << 20;

/// Longest least or greatest text value that a file's metadata holds: event names and ids fit, documents do not.
pub const BOUND_BYTES_MAX: usize = 64;

/// How one column is laid down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ColumnPolicy {
    /// True where the file gets a bloom filter for it.
    pub bloom: bool,
    /// True where the file's footer and metrics may hold its least and greatest value.
    pub bounds: bool,
}

/// Where data files go and what they look like.
#[derive(Debug, Clone)]
pub struct FileTarget {
    /// The table's columns in table order; each field carries `PARQUET:field_id`.
    pub schema: SchemaRef,
    /// One per column of `schema`, in its order.
    pub policies: Vec<ColumnPolicy>,
    /// The Iceberg schema as JSON, for the footer key `iceberg.schema`, without which Snowflake refuses a file.
    pub iceberg_schema: String,
    /// The store that holds the table.
    pub store: Arc<dyn ObjectStore>,
    /// The directory for data files, as a key of `store`.
    pub directory: Path,
    /// The same directory as a full location, e.g. `file:///srv/warehouse/product/events/data`.
    pub location: String,
    /// Start of every file's name: the id of the commit that will name the files.
    pub file_prefix: String,
}

/// Why rows did not become a data file. Holds no values of rows.
#[derive(Debug, thiserror::Error)]
pub enum DataFileError {
    /// A batch has no value at all for a column that is never null.
    #[error(
        "the rows have no column `{column}`, which is required: the batch was not made by this version's encoder"
    )]
    ColumnMissing {
        /// The column.
        column: String,
    },
    /// A null where there must be none.
    #[error(
        "column `{column}` is required and holds a null: the batch was not made by this version's encoder"
    )]
    NullInRequired {
        /// The column.
        column: String,
    },
    /// A batch's column has another type than the table's.
    #[error(
        "column `{column}` is {found} in the rows and {expected} in the table; undo the change of its type"
    )]
    ColumnType {
        /// The column.
        column: String,
        /// The table's type.
        expected: DataType,
        /// The batch's type.
        found: DataType,
    },
    /// A batch has a column that the table lacks.
    #[error("the rows have a column `{column}` that the table lacks: evolve the table before writing")]
    ColumnUnknown {
        /// The column.
        column: String,
    },
    /// Arrow refused.
    #[error("cannot sort or gather rows: {0}")]
    Arrow(#[from] ArrowError),
    /// Parquet refused.
    #[error("cannot encode a Parquet file: {0}")]
    Parquet(#[from] ParquetError),
    /// The store refused. The rows are still in the write-ahead log, so the write can be tried again.
    #[error(
        "cannot store the data file {location}: {source}; check the store's space, permissions and reachability"
    )]
    Upload {
        /// The file.
        location: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// The encoder's thread panicked.
    #[error("the encoding of a data file was cut short: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl DataFileError {
    /// True where the same write may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Upload { .. })
    }
}

/// A least or greatest value of a column in a file. Text longer than [`BOUND_BYTES_MAX`] is cut: the least value to a
/// prefix of it, the greatest to one that is rounded up, so that both still enclose every value.
#[derive(Debug, Clone, PartialEq)]
pub enum Bound {
    /// Text.
    String(String),
    /// Integer.
    Long(i64),
    /// Floating point; never NaN.
    Double(f64),
    /// Boolean.
    Boolean(bool),
    /// Microseconds since the Unix epoch.
    Timestamp(i64),
}

/// What a data file says of one column.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ColumnMetrics {
    /// Compressed bytes.
    pub size_bytes: u64,
    /// Values, nulls included.
    pub values: u64,
    /// Nulls.
    pub nulls: u64,
    /// NaNs, for doubles.
    pub nans: Option<u64>,
    /// Least and greatest value, where the column may have bounds.
    pub bounds: Option<(Bound, Bound)>,
}

/// A finished, uploaded Parquet file.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenFile {
    /// Full location, e.g. `file:///…/data/event_time_day=2026-11-22/….parquet`.
    pub location: String,
    /// The partition: days since 1970-01-01 of event_time, UTC.
    pub day: i32,
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub size_bytes: u64,
    /// By Iceberg field id.
    pub columns: BTreeMap<i32, ColumnMetrics>,
    /// Byte offsets of the row groups.
    pub split_offsets: Vec<i64>,
}
