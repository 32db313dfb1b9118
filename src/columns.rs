//! Cleared events to Arrow: fixed envelope columns, then one typed column per declared attribute.
//!
//! Owns: the column layout (names, types, order, docs) and the encoding of a request's events as one [`Batch`], and
//! a batch's bytes in the WAL (an Arrow IPC stream). Does not own: policy, nor Iceberg's field ids.

use arrow::record_batch::RecordBatch;

use crate::registry::ColumnType;

/// A column of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableColumn {
    /// Its name in the table.
    pub name: String,
    /// Its type.
    pub ty: ColumnType,
    /// True where it is never null.
    pub required: bool,
    /// What it holds, with the source attribute keys.
    pub doc: String,
    /// True where a data file gets a bloom filter for it.
    pub bloom: bool,
    /// True where a data file's metadata may hold its least and greatest value.
    pub bounds: bool,
}

/// The columns of the table, in order: the envelope, then the declared attributes.
#[derive(Debug, Clone)]
pub struct Layout {
    columns: Vec<TableColumn>,
}

impl Layout {
    /// All columns, in table order.
    #[must_use]
    pub fn columns(&self) -> &[TableColumn] {
        &self.columns
    }
}

/// One request's stored events. Holds only the columns that have a value in it.
#[derive(Debug, Clone)]
pub struct Batch {
    pub(crate) rows: RecordBatch,
}
