//! From batches to uploaded files: cuts runs, has them sorted and encoded off the async threads, names and stores them.
//!
//! Owns: how much is held in memory, file names, the upload. Does not own: the order of rows, the encoding, the commit.

use std::sync::Arc;

use arrow::array::Array;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::FuturesUnordered;
use jiff::civil::Date;
use jiff::{Span, ToSpan};
use object_store::{MultipartUpload, ObjectStoreExt};
use tokio::task::spawn_blocking;

use super::encode::{EncodedFile, encode};
use super::layout::SortedRows;
use super::{DataFileError, FileTarget, RUN_BYTES_MAX, WrittenFile};

/// A file above this goes up in parts, so that a lost connection costs a part and not the file.
const SINGLE_PUT_BYTES_MAX: usize = 16 << 20;

/// Size of a part; S3 wants at least 5 MiB.
const PART_BYTES: usize = 8 << 20;

/// Parts on their way at once.
const PARTS_IN_FLIGHT_MAX: usize = 4;

/// Writes the rows of one commit as data files. Rows are held until a run is full; then the run is written.
#[derive(Debug)]
pub struct DataFileWriter {
    target: Arc<FileTarget>,
    run: Vec<RecordBatch>,
    run_bytes: usize,
    run_bytes_max: usize,
    written: Vec<WrittenFile>,
}

impl DataFileWriter {
    /// A writer of files to `target`.
    #[must_use]
    pub fn new(target: FileTarget) -> Self {
        Self::with_run_bytes_max(target, RUN_BYTES_MAX)
    }

    pub(crate) fn with_run_bytes_max(target: FileTarget, run_bytes_max: usize) -> Self {
        Self { target: Arc::new(target), run: Vec::new(), run_bytes: 0, run_bytes_max, written: Vec::new() }
    }

    /// Adds rows. Columns are matched by name; a column that the batch lacks is null.
    ///
    /// # Errors
    /// Where a full run could not be written. The writer must then be dropped; its files stay unnamed by any commit.
    pub async fn push(&mut self, batch: RecordBatch) -> Result<(), DataFileError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch_bytes = row_bytes(&batch);
        if self.run_bytes + batch_bytes > self.run_bytes_max {
            self.write_run().await?;
        }
        self.run_bytes += batch_bytes;
        self.run.push(batch);
        Ok(())
    }

    /// Bytes of the rows that are held.
    pub(crate) fn run_bytes(&self) -> usize {
        self.run_bytes
    }

    /// Writes what is left and tells all files, each of them durable.
    ///
    /// # Errors
    /// As for [`DataFileWriter::push`].
    pub async fn finish(mut self) -> Result<Vec<WrittenFile>, DataFileError> {
        self.write_run().await?;
        Ok(self.written)
    }

    /// Writes the rows that are held, full run or not: the run's days one after another, so that late events of a hundred
    /// days need no more memory than one.
    pub(crate) async fn write_run(&mut self) -> Result<(), DataFileError> {
        if self.run.is_empty() {
            return Ok(());
        }
        let batches: Arc<[RecordBatch]> = std::mem::take(&mut self.run).into();
        self.run_bytes = 0;
        let sorted = spawn_blocking({
            let batches = Arc::clone(&batches);
            move || SortedRows::of(&batches)
        })
        .await??;
        let sorted = Arc::new(sorted);
        for index in 0..sorted.day_count() {
            let (target, batches, sorted) =
                (Arc::clone(&self.target), Arc::clone(&batches), Arc::clone(&sorted));
            let encoded = spawn_blocking(move || match sorted.day(index) {
                Some((day, rows)) => encode(&target, &batches, rows).map(|file| Some((day, file))),
                None => Ok(None),
            })
            .await??;
            if let Some((day, file)) = encoded {
                let file = self.store(day, file).await?;
                self.written.push(file);
            }
        }
        Ok(())
    }

    async fn store(&self, day: i32, file: EncodedFile) -> Result<WrittenFile, DataFileError> {
        let name = format!(
            "event_time_day={}/{}-{}.parquet",
            date_of(day),
            self.target.file_prefix,
            self.written.len()
        );
        let location = format!("{}/{name}", self.target.location);
        let size_bytes = file.bytes.len() as u64;
        upload(&self.target, &name, file.bytes)
            .await
            .map_err(|source| DataFileError::Upload { location: location.clone(), source })?;
        Ok(WrittenFile {
            location,
            day,
            rows: file.rows,
            size_bytes,
            columns: file.columns,
            split_offsets: file.split_offsets,
        })
    }
}

pub(crate) async fn upload(target: &FileTarget, name: &str, bytes: Bytes) -> object_store::Result<()> {
    let key = name.split('/').fold(target.directory.clone(), |key, part| key.join(part));
    if bytes.len() <= SINGLE_PUT_BYTES_MAX {
        target.store.put(&key, bytes.into()).await?;
        return Ok(());
    }
    let mut upload = target.store.put_multipart(&key).await?;
    match upload_parts(upload.as_mut(), bytes).await {
        Ok(()) => Ok(()),
        Err(error) => {
            // The abort is a courtesy to the store's bill; the error that matters is the first one.
            upload.abort().await.ok();
            Err(error)
        }
    }
}

async fn upload_parts(upload: &mut dyn MultipartUpload, mut rest: Bytes) -> object_store::Result<()> {
    let mut parts = FuturesUnordered::new();
    while !rest.is_empty() {
        if parts.len() == PARTS_IN_FLIGHT_MAX {
            parts.try_next().await?;
        }
        let part = rest.split_to(rest.len().min(PART_BYTES));
        parts.push(upload.put_part(part.into()));
    }
    while parts.try_next().await?.is_some() {}
    upload.complete().await?;
    Ok(())
}

/// Bytes that the batch's own rows take. Not what its buffers span: batches that were decoded from one message share
/// its buffer, and would each count all of it.
pub(crate) fn row_bytes(batch: &RecordBatch) -> usize {
    batch
        .columns()
        .iter()
        .map(|column| {
            column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
        })
        .sum()
}

/// A partition's date as people write it. Days beyond the year 9999 keep their number.
fn date_of(day: i32) -> String {
    const EPOCH: Date = Date::constant(1970, 1, 1);
    let span: Result<Span, _> = 0.days().try_days(day);
    match span.and_then(|span| EPOCH.checked_add(span)) {
        Ok(date) => date.to_string(),
        Err(_) => format!("day{day}"),
    }
}
