//! The encoding of a request's cleared events, as one batch for each table that they go to.
//!
//! Owns: column builders that exist only where a value came, and are padded with nulls only when the next one comes. Does
//! not own: the layout, the batches' bytes, nor which table an event goes to.
//!
//! Arrow is dense: one value in a column costs a slot in every row. A hostile request could make a column of each
//! attribute with one value each among a great many rows, so the number of cells of a request is bounded.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Float64Builder, Int64Builder, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{FieldRef, Schema};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::{Batch, ENVELOPE, Envelope, Layout, UTC};
use crate::privacy::{Cleared, ClearedEvent, ClearedValue};
use crate::registry::{ColumnType, Registry};

/// Most cells (rows times columns that hold a value) of one request: about 24 MiB of empty ones. An ordinary request of
/// 512 events has some 13,000; the most records that a request may have, of 24 columns each, are within it.
pub const CELLS_MAX: usize = 3 * 512 * 1024;

/// Most bytes of text of one column of one batch: Arrow's offsets are 32 bits wide.
const COLUMN_BYTES_MAX: usize = i32::MAX as usize;

/// Text is expected to be about this long; a wrong guess costs a reallocation or some unused memory.
const TEXT_BYTES_EXPECTED: usize = 16;

/// Most tables that one request feeds; more than a configuration may name.
const TABLES_MAX: usize = 64;

/// Why events could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// Too many rows times columns.
    #[error(
        "{rows} events with {columns} columns are more than {CELLS_MAX} cells; send fewer events in a request"
    )]
    TooManyCells {
        /// Events of the request.
        rows: usize,
        /// Columns that hold a value.
        columns: usize,
    },
    /// Too much text in one column.
    #[error("one column holds more than {COLUMN_BYTES_MAX} bytes of text; send fewer events in a request")]
    TooMuchText,
    /// Events go to more tables than there can be.
    #[error("events go to {tables} tables; this is a defect of Esker, please report it")]
    TooManyTables {
        /// How many.
        tables: usize,
    },
    /// A value is not of its column's type: the gate and the encoder were made from different registries.
    #[error(
        "column `{column}` was given a value of another type; this is a defect of Esker, please report it"
    )]
    WrongType {
        /// The column's name.
        column: String,
    },
    /// Arrow refused the columns.
    #[error("Arrow refused the encoded columns; this is a defect of Esker, please report it")]
    Arrow(#[source] ArrowError),
}

/// Encodes cleared events. Made once; shared by all requests.
#[derive(Debug)]
pub struct Encoder {
    fields: Vec<FieldRef>,
    types: Vec<ColumnType>,
    events: Vec<String>,
    policy_version: String,
    consent_bases: Vec<String>,
}

impl Encoder {
    /// An encoder for the events that a gate with this registry clears.
    #[must_use]
    pub fn new(layout: &Layout, registry: &Registry, policy_version: &str) -> Self {
        Self {
            fields: layout.arrow_schema().fields().iter().map(Arc::clone).collect(),
            types: layout.columns().iter().map(|column| column.ty).collect(),
            events: registry.events().iter().map(|event| event.name.clone()).collect(),
            policy_version: policy_version.to_owned(),
            consent_bases: Vec::new(),
        }
    }

    /// The same encoder with the texts to which [`ClearedEvent::consent_basis`] points.
    #[must_use]
    pub fn with_consent_bases(self, consent_bases: Vec<String>) -> Self {
        Self { consent_bases, ..self }
    }

    /// Encodes all events of a request, received at `received_micros` (microseconds since the Unix epoch): for each table
    /// that has some, its place in [`Gate::tables`](crate::privacy::Gate::tables) and its rows.
    pub fn encode(
        &self,
        cleared: &Cleared<'_>,
        received_micros: i64,
    ) -> Result<Vec<(u16, Batch)>, EncodeError> {
        let events = cleared.events();
        let mut tables = Vec::with_capacity(1);
        for (table, rows) in rows_by_table(events)? {
            tables.push((table, Columns::new(self, rows, events.len())));
        }
        // Most requests feed one table, and most others in long stretches: the last one is mostly the next.
        let mut at = 0;
        for event in events {
            if tables.get(at).is_none_or(|(table, _)| *table != event.table) {
                at = tables.iter().position(|(table, _)| *table == event.table).unwrap_or(usize::MAX);
            }
            let Some((_, columns)) = tables.get_mut(at) else {
                // Each event's table was counted just now.
                return Err(EncodeError::TooManyTables { tables: usize::from(event.table) });
            };
            let row = columns.next_row();
            self.push_envelope(columns, row, event)?;
            for (column, value) in cleared.values(event) {
                columns.push(ENVELOPE.len() + *column as usize, row, value, &cleared.made)?;
            }
        }
        let finish = |(table, mut columns): (u16, Columns<'_>)| {
            columns.fill(Envelope::PolicyVersion, &self.policy_version)?;
            columns.fill_time(Envelope::ReceivedTime, received_micros)?;
            Ok((table, columns.finish()?))
        };
        tables.into_iter().map(finish).collect()
    }

    fn consent_basis(&self, event: &ClearedEvent<'_>) -> Option<&str> {
        self.consent_bases.get(usize::from(event.consent_basis?)).map(String::as_str)
    }

    fn push_envelope(
        &self,
        columns: &mut Columns<'_>,
        row: usize,
        event: &ClearedEvent<'_>,
    ) -> Result<(), EncodeError> {
        let mut hex = [0; 32];
        let id = event.uid.unwrap_or_else(|| hex_text(&event.digest, &mut hex));
        columns.text(Envelope::EventId, row, id)?;
        if let Some(name) = self.events.get(event.event as usize) {
            columns.text(Envelope::EventName, row, name)?;
        }
        columns.text(Envelope::Category, row, event.category.as_str())?;
        columns.push(Envelope::EventTime as usize, row, &ClearedValue::Int(event.event_time), "")?;
        let optional = [
            (Envelope::ServiceName, event.service_name),
            (Envelope::ServiceVersion, event.service_version),
            (Envelope::ScopeName, event.scope_name),
            (Envelope::Severity, event.severity),
            (Envelope::Consent, event.consent),
            (Envelope::ConsentBasis, self.consent_basis(event)),
        ];
        for (column, text) in optional {
            if let Some(text) = text {
                columns.text(column, row, text)?;
            }
        }
        for (column, id) in [(Envelope::TraceId, event.trace_id), (Envelope::SpanId, event.span_id)] {
            if let Some(id) = id {
                columns.text(column, row, hex_text(id, &mut hex))?;
            }
        }
        Ok(())
    }
}

/// How many events go to each table, in the order in which the request first shows each. It looks at the events and at no
/// value: a builder that knows its number of rows grows no buffer.
fn rows_by_table(events: &[ClearedEvent<'_>]) -> Result<Vec<(u16, usize)>, EncodeError> {
    let mut counts: Vec<(u16, usize)> = Vec::with_capacity(1);
    let mut at = 0;
    for event in events {
        if counts.get(at).is_none_or(|(table, _)| *table != event.table) {
            at = counts.iter().position(|(table, _)| *table == event.table).unwrap_or(counts.len());
        }
        match counts.get_mut(at) {
            Some((_, rows)) => *rows += 1,
            None => counts.push((event.table, 1)),
        }
    }
    let tables = counts.len();
    if tables <= TABLES_MAX { Ok(counts) } else { Err(EncodeError::TooManyTables { tables }) }
}

/// The columns of one batch, while it is encoded.
struct Columns<'e> {
    encoder: &'e Encoder,
    rows: usize,
    /// The rows of all batches of the request: a column costs at most a cell for each, so that the limit holds for all
    /// batches together.
    request_rows: usize,
    /// Rows that were begun.
    begun: usize,
    /// How many columns hold a value.
    used: usize,
    builders: Vec<Option<Column>>,
}

/// A column with a value. It may be shorter than the rows so far: what is missing is null.
struct Column {
    length: usize,
    builder: Builder,
}

enum Builder {
    Text { builder: StringBuilder, bytes: usize },
    Long(Int64Builder),
    Double(Float64Builder),
    Boolean(BooleanBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Binary(BinaryBuilder),
}

impl<'e> Columns<'e> {
    fn new(encoder: &'e Encoder, rows: usize, request_rows: usize) -> Self {
        let builders = std::iter::repeat_with(|| None).take(encoder.types.len()).collect();
        Self { encoder, rows, request_rows, begun: 0, used: 0, builders }
    }

    /// Begins a row; tells its number.
    fn next_row(&mut self) -> usize {
        self.begun += 1;
        self.begun - 1
    }

    fn text(&mut self, column: Envelope, row: usize, text: &str) -> Result<(), EncodeError> {
        self.push(column as usize, row, &ClearedValue::Str(text), "")
    }

    /// Sets a cell. Rows come in order, and a cell is set once.
    fn push(
        &mut self,
        place: usize,
        row: usize,
        value: &ClearedValue<'_>,
        made: &str,
    ) -> Result<(), EncodeError> {
        let column = self.column(place)?;
        if column.length < row {
            column.builder.push_nulls(row - column.length);
        }
        column.length = row + 1;
        match column.builder.push(value, made) {
            Ok(()) => Ok(()),
            Err(Refused::TooMuchText) => Err(EncodeError::TooMuchText),
            Err(Refused::WrongType) => Err(self.wrong_type(place)),
        }
    }

    /// Sets every cell of a text column to the same text.
    fn fill(&mut self, column: Envelope, text: &str) -> Result<(), EncodeError> {
        let rows = self.rows;
        if text.len().saturating_mul(rows) > COLUMN_BYTES_MAX {
            return Err(EncodeError::TooMuchText);
        }
        let column = self.column(column as usize)?;
        column.length = rows;
        if let Builder::Text { builder, .. } = &mut column.builder {
            builder.append_value_n(text, rows);
        }
        Ok(())
    }

    /// Sets every cell of a timestamp column to the same time.
    fn fill_time(&mut self, column: Envelope, micros: i64) -> Result<(), EncodeError> {
        let rows = self.rows;
        let column = self.column(column as usize)?;
        column.length = rows;
        if let Builder::Timestamp(builder) = &mut column.builder {
            builder.append_value_n(micros, rows);
        }
        Ok(())
    }

    /// The column at a place, begun if this is its first value.
    #[inline]
    fn column(&mut self, place: usize) -> Result<&mut Column, EncodeError> {
        if self.builders.get(place).is_none_or(Option::is_none) {
            self.begin(place)?;
        }
        match self.builders.get_mut(place) {
            Some(Some(column)) => Ok(column),
            _ => Err(EncodeError::WrongType { column: format!("#{place}") }),
        }
    }

    #[cold]
    fn begin(&mut self, place: usize) -> Result<(), EncodeError> {
        self.used += 1;
        if self.used.saturating_mul(self.request_rows) > CELLS_MAX {
            return Err(EncodeError::TooManyCells { rows: self.request_rows, columns: self.used });
        }
        let Some(ty) = self.encoder.types.get(place) else { return Err(self.wrong_type(place)) };
        let builder = Builder::new(*ty, self.rows);
        if let Some(slot) = self.builders.get_mut(place) {
            *slot = Some(Column { length: 0, builder });
        }
        Ok(())
    }

    fn wrong_type(&self, place: usize) -> EncodeError {
        let name =
            self.encoder.fields.get(place).map_or_else(|| format!("#{place}"), |field| field.name().clone());
        EncodeError::WrongType { column: name }
    }

    fn finish(self) -> Result<Batch, EncodeError> {
        let rows = self.rows;
        let mut fields = Vec::with_capacity(self.used);
        let mut arrays = Vec::with_capacity(self.used);
        for ((field, ty), column) in self.encoder.fields.iter().zip(&self.encoder.types).zip(self.builders) {
            let column = match column {
                Some(column) => column,
                None if field.is_nullable() => continue,
                // Arrow refuses the nulls of a required column that got no value.
                None => Column { length: 0, builder: Builder::new(*ty, rows) },
            };
            fields.push(Arc::clone(field));
            arrays.push(column.finish(rows));
        }
        let schema = Arc::new(Schema::new(fields));
        RecordBatch::try_new(schema, arrays).map(Batch::new).map_err(EncodeError::Arrow)
    }
}

impl Column {
    fn finish(mut self, rows: usize) -> ArrayRef {
        if self.length < rows {
            self.builder.push_nulls(rows - self.length);
        }
        match self.builder {
            Builder::Text { mut builder, .. } => Arc::new(builder.finish()),
            Builder::Long(mut builder) => Arc::new(builder.finish()),
            Builder::Double(mut builder) => Arc::new(builder.finish()),
            Builder::Boolean(mut builder) => Arc::new(builder.finish()),
            Builder::Timestamp(mut builder) => Arc::new(builder.finish()),
            Builder::Binary(mut builder) => Arc::new(builder.finish()),
        }
    }
}

enum Refused {
    TooMuchText,
    WrongType,
}

impl Builder {
    fn new(ty: ColumnType, rows: usize) -> Self {
        match ty {
            ColumnType::String => Self::Text {
                builder: StringBuilder::with_capacity(rows, rows.saturating_mul(TEXT_BYTES_EXPECTED)),
                bytes: 0,
            },
            ColumnType::Long => Self::Long(Int64Builder::with_capacity(rows)),
            ColumnType::Double => Self::Double(Float64Builder::with_capacity(rows)),
            ColumnType::Boolean => Self::Boolean(BooleanBuilder::with_capacity(rows)),
            ColumnType::Timestamp => {
                Self::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows).with_timezone(UTC))
            }
            // No cleared value is bytes, so a column of such stays empty here.
            ColumnType::Binary => Self::Binary(BinaryBuilder::with_capacity(rows, 0)),
        }
    }

    #[inline]
    fn push(&mut self, value: &ClearedValue<'_>, made: &str) -> Result<(), Refused> {
        match (self, value) {
            (Self::Text { builder, bytes }, ClearedValue::Str(_) | ClearedValue::Made(..)) => {
                let text = value.text(made).ok_or(Refused::WrongType)?;
                *bytes += text.len();
                if *bytes > COLUMN_BYTES_MAX {
                    return Err(Refused::TooMuchText);
                }
                builder.append_value(text);
            }
            (Self::Long(builder), ClearedValue::Int(int)) => builder.append_value(*int),
            (Self::Double(builder), ClearedValue::Double(double)) => builder.append_value(*double),
            (Self::Boolean(builder), ClearedValue::Bool(flag)) => builder.append_value(*flag),
            (Self::Timestamp(builder), ClearedValue::Int(micros)) => builder.append_value(*micros),
            _ => return Err(Refused::WrongType),
        }
        Ok(())
    }

    fn push_nulls(&mut self, count: usize) {
        match self {
            Self::Text { builder, .. } => builder.append_nulls(count),
            Self::Long(builder) => builder.append_nulls(count),
            Self::Double(builder) => builder.append_nulls(count),
            Self::Boolean(builder) => builder.append_nulls(count),
            Self::Timestamp(builder) => builder.append_nulls(count),
            Self::Binary(builder) => builder.append_nulls(count),
        }
    }
}

/// Writes lower-case hex digits into `out`; bytes that do not fit are left out (the longest id is 16 bytes).
fn hex_text<'o>(bytes: &[u8], out: &'o mut [u8; 32]) -> &'o str {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble & 15)).copied().unwrap_or(b'0');
    let mut length = 0;
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        if let [high, low] = pair {
            (*high, *low) = (digit(byte >> 4), digit(*byte));
            length += 2;
        }
    }
    out.get(..length).and_then(|digits| std::str::from_utf8(digits).ok()).unwrap_or_default()
}
