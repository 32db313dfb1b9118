//! Which row goes where: the order of a run's rows.
//!
//! Owns: the grouping by day, the sort. Does not own: the gathering of values in that order (`gather`), Parquet, names,
//! uploads. Pure and synchronous.

use std::collections::hash_map::Entry;
use std::ops::Range;

use arrow::array::{Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use foldhash::HashMap;

use super::{DataFileError, NAME_COLUMN, TIME_COLUMN};

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// The day that a moment belongs to, UTC; before 1970 it is negative.
pub(crate) fn day_of(micros: i64) -> i32 {
    let day = micros.div_euclid(MICROS_PER_DAY);
    // An i64 of microseconds spans 292,000 years, so its days fit.
    i32::try_from(day).unwrap_or(if day < 0 { i32::MIN } else { i32::MAX })
}

/// A row's place in the file: the derived order is the sort order, and batch and row make it total and stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SortKey {
    day: i32,
    name_rank: u32,
    time: i64,
    batch: u32,
    row: u32,
}

/// A run's rows in file order.
#[derive(Debug)]
pub(crate) struct SortedRows {
    /// (batch, row) of each row.
    rows: Vec<(usize, usize)>,
    /// Each day with its part of `rows`, in order of days.
    days: Vec<(i32, Range<usize>)>,
}

impl SortedRows {
    /// Sorts the rows of all batches by day, event name and event time.
    pub(crate) fn of(batches: &[RecordBatch]) -> Result<Self, DataFileError> {
        let mut keys = unsorted_keys(batches)?;
        keys.sort_unstable();
        let mut days: Vec<(i32, Range<usize>)> = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            match days.last_mut() {
                Some((day, range)) if *day == key.day => range.end = index + 1,
                _ => days.push((key.day, index..index + 1)),
            }
        }
        let rows = keys.into_iter().map(|key| (key.batch as usize, key.row as usize)).collect();
        Ok(Self { rows, days })
    }

    /// How many days, so files, the run has.
    pub(crate) fn day_count(&self) -> usize {
        self.days.len()
    }

    /// The `index`th day and its rows.
    pub(crate) fn day(&self, index: usize) -> Option<(i32, &[(usize, usize)])> {
        let (day, range) = self.days.get(index)?;
        Some((*day, self.rows.get(range.clone())?))
    }
}

/// One key a row, in input order, with names replaced by their rank among the run's names.
fn unsorted_keys(batches: &[RecordBatch]) -> Result<Vec<SortKey>, DataFileError> {
    let mut keys = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    let mut names = NameRanks::default();
    for (batch_index, batch) in (0u32..).zip(batches) {
        let batch_names = required::<StringArray>(batch, NAME_COLUMN, &DataType::Utf8)?;
        let batch_times = required::<TimestampMicrosecondArray>(batch, TIME_COLUMN, &DataType::Int64)?;
        for ((row, name), time) in (0u32..).zip(batch_names.iter().flatten()).zip(batch_times.values().iter())
        {
            let key = SortKey {
                day: day_of(*time),
                name_rank: names.seen(name),
                time: *time,
                batch: batch_index,
                row,
            };
            keys.push(key);
        }
    }
    let ranks = names.ranks();
    for key in &mut keys {
        key.name_rank = ranks.get(key.name_rank as usize).copied().unwrap_or(u32::MAX);
    }
    Ok(keys)
}

/// A column that every batch must have, without nulls.
fn required<'a, A: Array + 'static>(
    batch: &'a RecordBatch,
    column: &str,
    expected: &DataType,
) -> Result<&'a A, DataFileError> {
    let array = batch
        .column_by_name(column)
        .ok_or_else(|| DataFileError::ColumnMissing { column: column.to_owned() })?;
    if array.null_count() > 0 {
        return Err(DataFileError::NullInRequired { column: column.to_owned() });
    }
    array.as_any().downcast_ref().ok_or_else(|| DataFileError::ColumnType {
        column: column.to_owned(),
        expected: expected.clone(),
        found: array.data_type().clone(),
    })
}

/// Numbers names in the order of their appearance, and knows at the end the order of the names themselves.
#[derive(Default)]
struct NameRanks<'a> {
    numbers: HashMap<&'a str, u32>,
    last: Option<(&'a str, u32)>,
}

impl<'a> NameRanks<'a> {
    fn seen(&mut self, name: &'a str) -> u32 {
        // Producers repeat themselves: most rows carry the name of the row before.
        if let Some((last, number)) = self.last
            && last == name
        {
            return number;
        }
        let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        let number = match self.numbers.entry(name) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => *new.insert(next),
        };
        self.last = Some((name, number));
        number
    }

    /// The rank of each number.
    fn ranks(self) -> Vec<u32> {
        let mut by_name: Vec<(&str, u32)> = self.numbers.into_iter().collect();
        by_name.sort_unstable();
        let mut ranks = vec![0; by_name.len()];
        for (rank, (_, number)) in (0u32..).zip(by_name) {
            if let Some(slot) = ranks.get_mut(number as usize) {
                *slot = rank;
            }
        }
        ranks
    }
}
