//! A run's columns, wherever its batches have them, and their values in file order.
//!
//! Owns: the match of columns by name, the gather, the guess whether values repeat. Does not own: the order of rows (`layout`),
//! Parquet. Pure and synchronous.

use arrow::array::{Array, ArrayRef, AsArray, StringArray, new_empty_array, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use foldhash::{HashMap, HashSet, HashSetExt};

use super::DataFileError;

/// Rows that are looked at to guess how many distinct values a text column has.
const SAMPLE_ROWS: usize = 4096;

/// One column of the run.
#[derive(Debug)]
pub(crate) struct ColumnSources<'a> {
    field: &'a Field,
    /// The batches' arrays, and for each batch the index of its array.
    arrays: Vec<&'a dyn Array>,
    index_of_batch: Vec<Option<usize>>,
    /// The same arrays, where the column is text.
    texts: Vec<&'a StringArray>,
}

/// Finds every column of the table in the batches, in table order.
pub(crate) fn columns_of<'a>(
    schema: &'a Schema,
    batches: &'a [RecordBatch],
) -> Result<Vec<ColumnSources<'a>>, DataFileError> {
    let mut columns: Vec<ColumnSources<'a>> = schema
        .fields()
        .iter()
        .map(|field| ColumnSources {
            field: field.as_ref(),
            arrays: Vec::new(),
            index_of_batch: vec![None; batches.len()],
            texts: Vec::new(),
        })
        .collect();
    let places: HashMap<&str, usize> =
        schema.fields().iter().enumerate().map(|(place, field)| (field.name().as_str(), place)).collect();
    for (index, batch) in batches.iter().enumerate() {
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let column = places.get(field.name().as_str()).and_then(|place| columns.get_mut(*place));
            match column {
                Some(column) => column.add(index, array)?,
                None => return Err(DataFileError::ColumnUnknown { column: field.name().clone() }),
            }
        }
    }
    Ok(columns)
}

impl<'a> ColumnSources<'a> {
    fn add(&mut self, batch: usize, array: &'a ArrayRef) -> Result<(), DataFileError> {
        if array.data_type() != self.field.data_type() {
            return Err(DataFileError::ColumnType {
                column: self.field.name().clone(),
                expected: self.field.data_type().clone(),
                found: array.data_type().clone(),
            });
        }
        if let Some(slot) = self.index_of_batch.get_mut(batch) {
            *slot = Some(self.arrays.len());
        }
        self.arrays.push(array.as_ref());
        self.texts.extend(array.as_string_opt::<i32>());
        Ok(())
    }

    /// True where some batch has the column.
    pub(crate) fn is_present(&self) -> bool {
        !self.arrays.is_empty()
    }

    /// Whether the column's values repeat so much that a dictionary of at most `bytes_max` makes it smaller. A dictionary
    /// of values that hardly repeat costs CPU and bytes.
    pub(crate) fn repeats(&self, rows: &[(usize, usize)], bytes_max: usize) -> bool {
        match self.field.data_type() {
            DataType::Utf8 => {}
            DataType::Timestamp(..) | DataType::Boolean | DataType::Binary => return false,
            _ => return true,
        }
        let stride = rows.len().div_ceil(SAMPLE_ROWS).max(1);
        let mut distinct = HashSet::new();
        let (mut sampled, mut sampled_bytes) = (0usize, 0usize);
        for text in rows.iter().step_by(stride).filter_map(|row| self.text(*row)) {
            sampled += 1;
            sampled_bytes += text.len();
            distinct.insert(text);
        }
        let repeats = sampled - distinct.len();
        if repeats == 0 {
            return sampled < 2;
        }
        if stride == 1 {
            return distinct.len() * 2 <= sampled;
        }
        // The birthday paradox turned round: n samples of d equally likely values collide about n²/2d times. Samples are
        // drawn without putting back, hence the second term.
        let total = sampled * stride;
        let with_replacement = sampled * sampled / (2 * repeats);
        let estimated_distinct = with_replacement * total / (with_replacement + total);
        let mean_bytes = sampled_bytes / sampled + size_of::<u32>();
        estimated_distinct * mean_bytes <= bytes_max && estimated_distinct * 2 <= total
    }

    /// The column's values for `rows`, in their order. `None` where all are null.
    pub(crate) fn gather(&self, rows: &[(usize, usize)]) -> Result<Option<ArrayRef>, DataFileError> {
        if self.arrays.is_empty() {
            return self.all_null(rows.len());
        }
        let array = if self.index_of_batch.iter().all(Option::is_some) {
            interleave(&self.arrays, rows)?
        } else {
            self.gather_with_gaps(rows)?
        };
        if array.null_count() == array.len() {
            return self.all_null(rows.len());
        }
        if !self.field.is_nullable() && array.null_count() > 0 {
            return Err(DataFileError::NullInRequired { column: self.field.name().clone() });
        }
        Ok(Some(array))
    }

    fn all_null(&self, rows: usize) -> Result<Option<ArrayRef>, DataFileError> {
        if self.field.is_nullable() {
            Ok(None)
        } else if rows == 0 {
            Ok(Some(new_empty_array(self.field.data_type())))
        } else {
            Err(DataFileError::ColumnMissing { column: self.field.name().clone() })
        }
    }

    /// One row's text, where the row has one.
    fn text(&self, (batch, row): (usize, usize)) -> Option<&'a str> {
        let texts: &'a StringArray = self.texts.get((*self.index_of_batch.get(batch)?)?)?;
        (row < texts.len() && texts.is_valid(row)).then(|| texts.value(row))
    }

    /// As `interleave`, with rows of batches that lack the column pointed at one null.
    fn gather_with_gaps(&self, rows: &[(usize, usize)]) -> Result<ArrayRef, DataFileError> {
        let gap = new_null_array(self.field.data_type(), 1);
        let mut arrays = self.arrays.clone();
        arrays.push(gap.as_ref());
        let gap_at = (arrays.len() - 1, 0);
        let rows: Vec<(usize, usize)> = rows
            .iter()
            .map(|(batch, row)| match self.index_of_batch.get(*batch) {
                Some(Some(array)) => (*array, *row),
                _ => gap_at,
            })
            .collect();
        Ok(interleave(&arrays, &rows)?)
    }
}
