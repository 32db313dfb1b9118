//! One day's sorted rows to the bytes of a Parquet file.
//!
//! Owns: encodings, compression, statistics, bloom filters, the footer, the file's metrics. Does not own: the order of
//! rows, names, uploads. Pure and synchronous; runs on a blocking thread.
//!
//! Only the encodings PLAIN and dictionary and version-1 data pages are used: the vectorised Parquet reader of
//! Iceberg's Spark runtime, in all but its newest releases, refuses DELTA encodings.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves,
};
use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::{ColumnCloseResult, ColumnWriter, get_column_writer};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, KeyValue, ParquetMetaData, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedFileWriter, SerializedPageWriter, TrackedWrite};
use parquet::schema::types::{ColumnDescPtr, ColumnPath};

use super::gather::{ColumnSources, columns_of};
use super::{
    BOUND_BYTES_MAX, Bound, ColumnMetrics, ColumnPolicy, DataFileError, FileTarget, NAME_COLUMN, TIME_COLUMN,
};

/// Footer key that Snowflake demands of an Iceberg data file.
const ICEBERG_SCHEMA_KEY: &str = "iceberg.schema";

/// zstd level. Most bytes of an event are random identifiers, on which level 3 spends an eighth more instructions of the
/// whole encoding and gains nothing (54.3 bytes an event at level 1, 55.0 at level 3).
const ZSTD_LEVEL: i32 = 1;

/// Largest dictionary of a column. Above Parquet's usual 1 MiB because trace and span ids repeat over a few rows each,
/// which the sort pulls apart: at 1 MiB an event takes 67 bytes instead of 54.
const DICTIONARY_BYTES_MAX: usize = 4 << 20;

/// Chance that a bloom filter sends a reader to a file in vain. Costs about 1.3 bytes an event for the event ids, and
/// next to nothing for pseudonyms, as the filters are folded to the values that there are.
const BLOOM_FALSE_POSITIVE_RATE: f64 = 0.01;

/// A finished file, still in memory.
#[derive(Debug)]
pub(crate) struct EncodedFile {
    pub(crate) bytes: Bytes,
    pub(crate) rows: u64,
    pub(crate) columns: BTreeMap<i32, ColumnMetrics>,
    pub(crate) split_offsets: Vec<i64>,
}

/// What only the rows can tell of a column, as Parquet's statistics may be switched off for it.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    nulls: u64,
    nans: Option<u64>,
}

/// Encodes the given rows of a run as one file with one row group.
pub(crate) fn encode(
    target: &FileTarget,
    batches: &[RecordBatch],
    rows: &[(usize, usize)],
) -> Result<EncodedFile, DataFileError> {
    let fields = target.schema.fields();
    let sources = columns_of(&target.schema, batches)?;
    let repeats: Vec<bool> =
        sources.iter().map(|source| source.repeats(rows, DICTIONARY_BYTES_MAX)).collect();
    let properties = Arc::new(writer_properties(target, &sources, &repeats, rows.len())?);
    let parquet_schema = ArrowSchemaConverter::new().convert(&target.schema)?;
    let mut bytes = Vec::new();
    let mut file =
        SerializedFileWriter::new(&mut bytes, parquet_schema.root_schema_ptr(), Arc::clone(&properties))?;
    let mut writers = column_writers(target, &sources, &properties)?.into_iter();

    let mut counts = Vec::with_capacity(fields.len());
    let mut null_chunks = NullChunks { rows: rows.len(), properties: null_properties()?, made: Vec::new() };
    let mut row_group = file.next_row_group()?;
    for ((field, source), descriptor) in fields.iter().zip(&sources).zip(parquet_schema.columns()) {
        let writer = if source.is_present() { writers.next() } else { None };
        match (source.gather(rows)?, writer) {
            (Some(values), Some(writer)) => {
                counts.push(Counts { nulls: values.null_count() as u64, nans: nan_count(&values) });
                encode_column(field, &values, writer)?.append_to_row_group(&mut row_group)?;
            }
            _ => {
                counts.push(Counts { nulls: rows.len() as u64, nans: no_nans(field) });
                let (bytes, close) = null_chunks.of(descriptor)?;
                row_group.append_column(&bytes, close)?;
            }
        }
    }
    row_group.close()?;
    let metadata = file.close()?;
    let columns = column_metrics(target, &metadata, &counts);
    let split_offsets = metadata.row_groups().iter().filter_map(|group| group.file_offset()).collect();
    Ok(EncodedFile { bytes: bytes.into(), rows: rows.len() as u64, columns, split_offsets })
}

/// Writers for the columns that some batch has, in table order. A writer holds tables of its own, which for a column
/// that no event of the run has would cost more than the column.
fn column_writers(
    target: &FileTarget,
    sources: &[ColumnSources<'_>],
    properties: &Arc<WriterProperties>,
) -> Result<Vec<ArrowColumnWriter>, ParquetError> {
    let fields = target.schema.fields().iter().zip(sources);
    let present = fields.filter(|(_, source)| source.is_present()).map(|(field, _)| Arc::clone(field));
    let schema = Arc::new(Schema::new(present.collect::<Vec<_>>()));
    let parquet_schema = ArrowSchemaConverter::new().convert(&schema)?;
    // Only a file writer can make a factory, so this one writes to nowhere.
    let nowhere =
        SerializedFileWriter::new(std::io::sink(), parquet_schema.root_schema_ptr(), Arc::clone(properties))?;
    ArrowRowGroupWriterFactory::new(&nowhere, schema).create_column_writers(0)
}

fn encode_column(
    field: &Field,
    values: &ArrayRef,
    mut writer: ArrowColumnWriter,
) -> Result<ArrowColumnChunk, ParquetError> {
    for leaf in compute_leaves(field, values)? {
        writer.write(&leaf)?;
    }
    writer.close()
}

fn writer_properties(
    target: &FileTarget,
    sources: &[ColumnSources<'_>],
    repeats: &[bool],
    rows: usize,
) -> Result<WriterProperties, ParquetError> {
    let mut builder = base_properties()?
        .set_key_value_metadata(Some(vec![KeyValue::new(
            ICEBERG_SCHEMA_KEY.to_owned(),
            target.iceberg_schema.clone(),
        )]))
        .set_sorting_columns(Some(sorting_columns(target)));
    let columns = target.schema.fields().iter().zip(sources).zip(repeats).zip(policies(target));
    for (((field, source), repeats), policy) in columns {
        let path = ColumnPath::from(field.name().as_str());
        if !policy.bounds {
            builder = builder.set_column_statistics_enabled(path.clone(), EnabledStatistics::None);
        } else if field.name() == NAME_COLUMN || field.name() == TIME_COLUMN {
            // The file is sorted by these two, so their page statistics let readers skip pages.
            builder = builder.set_column_statistics_enabled(path.clone(), EnabledStatistics::Page);
        }
        if policy.bloom && source.is_present() {
            builder = builder
                .set_column_bloom_filter_fpp(path.clone(), BLOOM_FALSE_POSITIVE_RATE)
                // Sized for all-distinct values; the writer folds it to what the values really need.
                .set_column_bloom_filter_ndv(path.clone(), rows.max(1) as u64);
        }
        if !repeats {
            builder = builder.set_column_dictionary_enabled(path, false);
        }
    }
    Ok(builder.build())
}

fn base_properties() -> Result<WriterPropertiesBuilder, ParquetError> {
    Ok(WriterProperties::builder()
        .set_created_by(concat!("esker ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(BOUND_BYTES_MAX))
        .set_column_index_truncate_length(Some(BOUND_BYTES_MAX))
        .set_dictionary_page_size_limit(DICTIONARY_BYTES_MAX)
        .set_max_row_group_row_count(None))
}

/// The policies in column order; a column without one gets neither bloom filter nor bounds.
fn policies(target: &FileTarget) -> impl Iterator<Item = ColumnPolicy> + '_ {
    target.policies.iter().copied().chain(std::iter::repeat(ColumnPolicy::default()))
}

fn sorting_columns(target: &FileTarget) -> Vec<SortingColumn> {
    [NAME_COLUMN, TIME_COLUMN]
        .iter()
        .filter_map(|name| target.schema.index_of(name).ok())
        .filter_map(|index| i32::try_from(index).ok())
        .map(|column_idx| SortingColumn { column_idx, descending: false, nulls_first: true })
        .collect()
}

/// The chunks of columns that are null in all rows. They differ only in their description, so one is encoded for each
/// physical type and copied: an event uses some 25 of the table's columns.
struct NullChunks {
    rows: usize,
    properties: Arc<WriterProperties>,
    made: Vec<(parquet::basic::Type, Bytes, ColumnCloseResult)>,
}

impl NullChunks {
    fn of(&mut self, descriptor: &ColumnDescPtr) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
        let physical = descriptor.physical_type();
        if !self.made.iter().any(|(made, _, _)| *made == physical) {
            let (bytes, close) = encode_nulls(descriptor, self.rows, &self.properties)?;
            self.made.push((physical, bytes, close));
        }
        let (_, bytes, close) = self
            .made
            .iter()
            .find(|(made, _, _)| *made == physical)
            .ok_or_else(|| ParquetError::General("a chunk of nulls was not kept".to_owned()))?;
        let close = ColumnCloseResult { metadata: described(&close.metadata, descriptor)?, ..close.clone() };
        Ok((bytes.clone(), close))
    }
}

/// The same chunk as a chunk of another column.
fn described(
    chunk: &ColumnChunkMetaData,
    descriptor: &ColumnDescPtr,
) -> Result<ColumnChunkMetaData, ParquetError> {
    let mut builder = ColumnChunkMetaData::builder(Arc::clone(descriptor))
        .set_compression(chunk.compression())
        .set_encodings_mask(*chunk.encodings_mask())
        .set_total_compressed_size(chunk.compressed_size())
        .set_total_uncompressed_size(chunk.uncompressed_size())
        .set_num_values(chunk.num_values())
        .set_data_page_offset(chunk.data_page_offset());
    if let Some(statistics) = chunk.statistics() {
        builder = builder.set_statistics(statistics.clone());
    }
    builder.build()
}

fn null_properties() -> Result<Arc<WriterProperties>, ParquetError> {
    Ok(Arc::new(
        base_properties()?.set_dictionary_enabled(false).set_data_page_row_count_limit(usize::MAX).build(),
    ))
}

fn encode_nulls(
    descriptor: &ColumnDescPtr,
    rows: usize,
    properties: &Arc<WriterProperties>,
) -> Result<(Bytes, ColumnCloseResult), ParquetError> {
    let mut sink = TrackedWrite::new(Vec::new());
    let page_writer = Box::new(SerializedPageWriter::new(&mut sink));
    let null_levels = vec![0i16; rows];
    let levels = Some(null_levels.as_slice());
    let close = match get_column_writer(Arc::clone(descriptor), Arc::clone(properties), page_writer) {
        ColumnWriter::BoolColumnWriter(mut writer) => {
            writer.write_batch(&[], levels, None)?;
            writer.close()
        }
        ColumnWriter::Int64ColumnWriter(mut writer) => {
            writer.write_batch(&[], levels, None)?;
            writer.close()
        }
        ColumnWriter::DoubleColumnWriter(mut writer) => {
            writer.write_batch(&[], levels, None)?;
            writer.close()
        }
        ColumnWriter::ByteArrayColumnWriter(mut writer) => {
            writer.write_batch(&[], levels, None)?;
            writer.close()
        }
        _ => Err(ParquetError::NYI(format!("columns of type {}", descriptor.physical_type()))),
    }?;
    Ok((sink.into_inner()?.into(), close))
}

fn nan_count(values: &ArrayRef) -> Option<u64> {
    let doubles = values.as_any().downcast_ref::<Float64Array>()?;
    Some(doubles.iter().flatten().filter(|value| value.is_nan()).count() as u64)
}

fn no_nans(field: &Field) -> Option<u64> {
    (field.data_type() == &DataType::Float64).then_some(0)
}

fn column_metrics(
    target: &FileTarget,
    metadata: &ParquetMetaData,
    counts: &[Counts],
) -> BTreeMap<i32, ColumnMetrics> {
    let chunks = metadata.row_groups().iter().flat_map(|group| group.columns());
    target
        .schema
        .fields()
        .iter()
        .zip(chunks)
        .zip(counts)
        .filter_map(|((field, chunk), counts)| {
            let metrics = ColumnMetrics {
                size_bytes: u64::try_from(chunk.compressed_size()).unwrap_or(0),
                values: u64::try_from(chunk.num_values()).unwrap_or(0),
                nulls: counts.nulls,
                nans: counts.nans,
                bounds: chunk.statistics().and_then(|statistics| bounds(field, statistics)),
            };
            Some((field_id(field)?, metrics))
        })
        .collect()
}

/// The Iceberg field id that the schema gives a column.
fn field_id(field: &Field) -> Option<i32> {
    field.metadata().get(PARQUET_FIELD_ID_META_KEY)?.parse().ok()
}

fn bounds(field: &Field, statistics: &Statistics) -> Option<(Bound, Bound)> {
    match statistics {
        Statistics::Boolean(s) => Some((Bound::Boolean(*s.min_opt()?), Bound::Boolean(*s.max_opt()?))),
        Statistics::Double(s) => Some((Bound::Double(*s.min_opt()?), Bound::Double(*s.max_opt()?))),
        Statistics::Int64(s) => {
            let bound = |micros: i64| match field.data_type() {
                DataType::Timestamp(..) => Bound::Timestamp(micros),
                _ => Bound::Long(micros),
            };
            Some((bound(*s.min_opt()?), bound(*s.max_opt()?)))
        }
        Statistics::ByteArray(s) if field.data_type() == &DataType::Utf8 => {
            let text = |bytes: &parquet::data_type::ByteArray| {
                bytes.as_utf8().ok().map(|text| Bound::String(text.to_owned()))
            };
            Some((text(s.min_opt()?)?, text(s.max_opt()?)?))
        }
        _ => None,
    }
}
