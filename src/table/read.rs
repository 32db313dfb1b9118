//! Reading rows back: the live data files of the current snapshot, by column name, with bounded memory.
//!
//! Owns: projection (by field id, so that columns which are newer than a file read as null), the time range that is read,
//! which also says which files are opened. Does not own: what the rows mean.
//!
//! Files are read one after another, and a file has one row group: memory holds the wanted columns of one file, at most
//! `datafile::RUN_BYTES_MAX` before compression.

use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use futures::StreamExt;
use futures::stream::BoxStream;
use iceberg::expr::{Predicate, Reference};
use iceberg::spec::Datum;
use iceberg::{Error, ErrorKind, Runtime, TableIdent};

use super::error::TableError;
use super::{Found, TableOptions};
use crate::datafile::TIME_COLUMN;

/// Rows in a batch.
const BATCH_ROWS: usize = 1024;

/// Batches of rows. They hold the columns that were asked for, in that order.
pub type Rows = BoxStream<'static, Result<RecordBatch, TableError>>;

/// Which rows: those whose `event_time`, in microseconds since the Unix epoch, is in this range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeRange {
    /// The first moment; None: from the beginning.
    pub from: Option<i64>,
    /// The first moment after it; None: no end.
    pub before: Option<i64>,
}

impl TimeRange {
    /// All rows.
    pub const ALL: Self = Self { from: None, before: None };

    /// The rows from this moment on.
    #[must_use]
    pub fn since(micros: i64) -> Self {
        Self { from: Some(micros), before: None }
    }

    fn predicate(self) -> Option<Predicate> {
        let time = || Reference::new(TIME_COLUMN);
        let from = self.from.map(|from| time().greater_than_or_equal_to(Datum::timestamptz_micros(from)));
        let before = self.before.map(|before| time().less_than(Datum::timestamptz_micros(before)));
        match (from, before) {
            (Some(from), Some(before)) => Some(from.and(before)),
            (one, other) => one.or(other),
        }
    }
}

/// A table as it was when it was opened for reading: later commits do not change what is read.
#[derive(Debug)]
pub struct TableReader {
    table: iceberg::table::Table,
    /// The current schema in Arrow's terms.
    schema: Schema,
}

impl TableReader {
    /// Opens a table for reading, if there is one. Makes and changes nothing. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the warehouse or the metadata cannot be read.
    pub async fn open(options: &TableOptions) -> Result<Option<Self>, TableError> {
        let Some(Found { warehouse, loaded, .. }) = options.look().await? else { return Ok(None) };
        let schema = iceberg::arrow::schema_to_arrow_schema(loaded.metadata.current_schema())?;
        let table = iceberg::table::Table::builder()
            .file_io(warehouse.file_io())
            .metadata_location(loaded.metadata_location)
            .metadata(loaded.metadata)
            .identifier(TableIdent::from_strs(options.name.split('.'))?)
            .runtime(Runtime::try_current()?)
            .readonly(true)
            .build()?;
        Ok(Some(Self { table, schema }))
    }

    /// True where the table has this column.
    #[must_use]
    pub fn has_column(&self, name: &str) -> bool {
        self.schema.field_with_name(name).is_ok()
    }

    /// Reads these columns of the rows in `range`, in no particular order. A column that is newer than a row's file is null in
    /// it.
    ///
    /// # Errors
    /// If the table has no such column, or its metadata cannot be read; the stream gives the errors of data files.
    pub async fn scan(&self, columns: &[&str], range: TimeRange) -> Result<Rows, TableError> {
        let wanted = self.projection(columns)?;
        let Some(snapshot) = self.table.metadata().current_snapshot() else {
            return Ok(futures::stream::empty().boxed());
        };
        // The crate reads with the snapshot's schema, which lacks a column until the first append that follows its addition.
        let known = snapshot.schema(self.table.metadata())?;
        let known: Vec<_> =
            columns.iter().copied().filter(|column| known.field_by_name(column).is_some()).collect();
        // A batch without columns has no length, so one that every row has is read along.
        let read = if known.is_empty() { vec![TIME_COLUMN] } else { known };
        let mut scan = self
            .table
            .scan()
            .select(read)
            .with_batch_size(Some(BATCH_ROWS))
            .with_data_file_concurrency_limit(1);
        if let Some(predicate) = range.predicate() {
            scan = scan.with_filter(predicate);
        }
        let rows = scan.build()?.to_arrow().await?;
        Ok(rows.map(move |batch| Ok(fit(&batch?, &wanted)?)).boxed())
    }

    fn projection(&self, columns: &[&str]) -> Result<SchemaRef, TableError> {
        let fields = columns.iter().map(|column| {
            let field = self.schema.field_with_name(column).map_err(|_| {
                Error::new(
                    ErrorKind::DataInvalid,
                    format!("the table {} has no column {column}", self.table.identifier()),
                )
            })?;
            Ok(Field::new(field.name(), field.data_type().clone(), field.is_nullable()))
        });
        Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>, TableError>>()?)))
    }
}

/// The wanted columns of a batch: those that it lacks as nulls, and each of the wanted type (the crate gives constants another
/// encoding).
fn fit(batch: &RecordBatch, wanted: &SchemaRef) -> Result<RecordBatch, Error> {
    let column = |field: &Arc<Field>| -> Result<ArrayRef, arrow::error::ArrowError> {
        match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => cast(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        }
    };
    let columns = wanted.fields().iter().map(column).collect::<Result<Vec<_>, _>>();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    columns
        .and_then(|columns| RecordBatch::try_new_with_options(Arc::clone(wanted), columns, &options))
        .map_err(|error| {
            Error::new(ErrorKind::DataInvalid, "a data file does not fit the table's schema")
                .with_source(error)
        })
}

#[cfg(test)]
mod tests;
