//! Durable rows to Parquet files: groups by day, sorts, sizes and uploads.
//!
//! Owns: the content and name of a data file, and the metrics that describe it. Does not own: Iceberg's metadata.

use std::collections::BTreeMap;

/// A least or greatest value of a column in a file, untruncated.
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
