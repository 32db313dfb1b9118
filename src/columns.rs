//! Cleared events to Arrow: fixed envelope columns, then one typed column per declared attribute.
//!
//! Owns: the column layout (names, types, order, docs), the encoding of a request's events as one [`Batch`] for each table
//! that they go to, and the bytes of all of them together in the WAL (a [`Bundle`] of Arrow IPC streams). Does not own:
//! policy, which table an event goes to, nor Iceberg's field ids.

mod batch;
mod bundle;
mod encode;
mod inspect;
mod outcomes;
pub mod quarantine;
pub mod withdrawals;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::registry::{AttributeColumn, ColumnType, Registry};

pub use batch::{Batch, BatchError, EventCount};
pub use bundle::{Bundle, BundleWriter, Section};
pub use encode::{CELLS_MAX, EncodeError, Encoder};
pub use outcomes::{AttributeFate, OutcomeCounts};

/// UTC as Arrow and Parquet write it.
const UTC: &str = "+00:00";

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

impl TableColumn {
    /// The column as an Arrow field: name, type and nullability, without metadata.
    #[must_use]
    pub fn arrow_field(&self) -> Field {
        Field::new(&self.name, arrow_type(self.ty), !self.required)
    }
}

/// The Arrow type of a column type.
#[must_use]
pub fn arrow_type(ty: ColumnType) -> DataType {
    match ty {
        ColumnType::String => DataType::Utf8,
        ColumnType::Long => DataType::Int64,
        ColumnType::Double => DataType::Float64,
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        ColumnType::Binary => DataType::Binary,
    }
}

/// The envelope's columns, in table order. The discriminant is the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Envelope {
    EventId,
    EventName,
    Category,
    EventTime,
    ReceivedTime,
    ServiceName,
    ServiceVersion,
    ScopeName,
    Severity,
    TraceId,
    SpanId,
    Consent,
    ConsentBasis,
    PolicyVersion,
}

/// A fixed column's definition: name, type, required, bloom, bounds, doc.
type Fixed = (&'static str, ColumnType, bool, bool, bool, &'static str);

/// The envelope. Ids have no bounds: they are spread evenly, so that bounds would exclude nothing.
const ENVELOPE: [Fixed; 14] = {
    use ColumnType::{String as Text, Timestamp as Time};
    [
        (
            "event_id",
            Text,
            true,
            true,
            false,
            "The event's id: log.record.uid, or 128 bits (hex) of a keyed hash of the record and its place.",
        ),
        ("event_name", Text, true, false, true, "The event's name, as declared in the registry."),
        ("category", Text, true, false, true, "What the event is for: product, operational or security."),
        ("event_time", Time, true, false, true, "When it happened, by the sender's clock."),
        ("received_time", Time, true, false, true, "When Esker received it."),
        ("service_name", Text, false, false, true, "The sending service: resource attribute service.name."),
        ("service_version", Text, false, false, true, "Its version: resource attribute service.version."),
        ("scope_name", Text, false, false, true, "The instrumentation scope that emitted it."),
        ("severity", Text, false, false, true, "trace, debug, info, warn, error or fatal."),
        ("trace_id", Text, false, false, false, "The W3C trace it belongs to, 32 hex digits."),
        ("span_id", Text, false, false, false, "The span it belongs to, 16 hex digits."),
        (
            "consent",
            Text,
            false,
            false,
            true,
            "The consent under which it is kept: granted, denied, unknown or not_required; null where no rule asks for one.",
        ),
        (
            "consent_basis",
            Text,
            false,
            false,
            true,
            "What decided on the consent; null where no rule asks for one.",
        ),
        ("policy_version", Text, true, false, true, "The privacy policy that cleared it."),
    ]
};

/// Why a registry has no layout.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// An attribute's column has the name of an envelope column, in any letter case.
    #[error(
        "column `{column}` of {keys} is a column of the envelope; give the attribute another column name in schemas/"
    )]
    Reserved {
        /// The column's name.
        column: String,
        /// The attribute keys that fill it.
        keys: String,
    },
}

/// The columns of the table, in order: the envelope, then the declared attributes.
#[derive(Debug, Clone)]
pub struct Layout {
    columns: Vec<TableColumn>,
    schema: SchemaRef,
}

impl Layout {
    /// The layout of a registry: the envelope, then the registry's columns, sorted by name.
    pub fn new(registry: &Registry) -> Result<Self, LayoutError> {
        let mut columns: Vec<_> = ENVELOPE.iter().map(fixed_column).collect();
        for column in registry.columns() {
            // Engines compare names without case.
            if ENVELOPE.iter().any(|fixed| fixed.0.eq_ignore_ascii_case(&column.name)) {
                return Err(LayoutError::Reserved {
                    column: column.name.clone(),
                    keys: column.keys.join(", "),
                });
            }
            columns.push(attribute_column(column));
        }
        let fields: Vec<_> = columns.iter().map(TableColumn::arrow_field).collect();
        Ok(Self { columns, schema: Arc::new(Schema::new(fields)) })
    }

    /// All columns, in table order.
    #[must_use]
    pub fn columns(&self) -> &[TableColumn] {
        &self.columns
    }

    /// All columns as an Arrow schema, in table order, without metadata.
    #[must_use]
    pub fn arrow_schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

fn fixed_column(&(name, ty, required, bloom, bounds, doc): &Fixed) -> TableColumn {
    TableColumn { name: name.to_owned(), ty, required, doc: doc.to_owned(), bloom, bounds }
}

fn attribute_column(column: &AttributeColumn) -> TableColumn {
    let keys = column.keys.join(", ");
    let brief = column.brief.trim();
    TableColumn {
        name: column.name.clone(),
        ty: column.ty,
        required: false,
        doc: if brief.is_empty() {
            format!("Attribute {keys}.")
        } else {
            format!("{brief} (attribute {keys})")
        },
        bloom: column.pseudonymous,
        bounds: !column.pseudonymous,
    }
}
