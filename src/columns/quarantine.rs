//! Quarantined events to Arrow: the columns of the quarantine table, and the encoding of a request's broken events.
//!
//! Owns: that table's layout. Does not own: what of a broken event may be stored (`privacy::quarantined`), the batch's bytes.
//!
//! The sealed payload is base64 text and not binary: every engine reads text alike, and the `iceberg` crate cannot read files
//! from before a binary column was added.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray, StringBuilder, TimestampMicrosecondArray};
use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;

use super::{Batch, EncodeError, Fixed, TableColumn, UTC, fixed_column};
use crate::privacy::quarantined::QuarantinedEvent;
use crate::registry::ColumnType;

/// The event's id.
pub const EVENT_ID: &str = "event_id";
/// The declared name, or `(undeclared)`.
pub const EVENT_NAME: &str = "event_name";
/// When it was received; the partition.
pub const EVENT_TIME: &str = "event_time";
/// When it happened.
pub const OCCURRED_TIME: &str = "occurred_time";
/// Who sent it.
pub const SERVICE_NAME: &str = "service_name";
/// Why it is here.
pub const REASON: &str = "reason";
/// Which declared attributes are at fault.
pub const DETAIL: &str = "detail";
/// What an undeclared event calls itself.
pub const CLAIMED_NAME: &str = "claimed_name";
/// How many attributes it came with.
pub const ATTRIBUTE_COUNT: &str = "attribute_count";
/// Their names.
pub const ATTRIBUTE_NAMES: &str = "attribute_names";
/// Their types.
pub const ATTRIBUTE_TYPES: &str = "attribute_types";
/// The policy that sent it here.
pub const POLICY_VERSION: &str = "policy_version";
/// The sealed payload.
pub const SEALED: &str = "sealed";
/// To which key.
pub const SEALED_KEY_ID: &str = "sealed_key_id";

const LAYOUT: [Fixed; 14] = {
    use ColumnType::{Long, String as Text, Timestamp as Time};
    [
        (
            EVENT_ID,
            Text,
            true,
            true,
            false,
            "The event's id, which it keeps where it is replayed: log.record.uid, or 128 bits (hex) of a keyed hash.",
        ),
        (EVENT_NAME, Text, true, false, true, "The declared event name, or (undeclared)."),
        (EVENT_TIME, Time, true, false, true, "When Esker received it."),
        (OCCURRED_TIME, Time, false, false, true, "When it happened, by the sender's clock."),
        (SERVICE_NAME, Text, false, false, true, "The sending service: resource attribute service.name."),
        (
            REASON,
            Text,
            true,
            false,
            true,
            "Why it is here: missing_required, type_mismatch, not_a_member, invalid_value, leak or undeclared_event.",
        ),
        (DETAIL, Text, false, false, true, "The declared attribute keys at fault, with commas between."),
        (
            CLAIMED_NAME,
            Text,
            false,
            false,
            false,
            "The name that an undeclared event claims, or # and its hash.",
        ),
        (ATTRIBUTE_COUNT, Long, true, false, true, "How many attributes it came with."),
        (
            ATTRIBUTE_NAMES,
            Text,
            false,
            false,
            false,
            "Their keys, a JSON array; one that is neither declared nor looks like a key is # and its hash.",
        ),
        (ATTRIBUTE_TYPES, Text, false, false, false, "Their types, a JSON array in the order of the names."),
        (POLICY_VERSION, Text, true, false, true, "The privacy policy that sent it here."),
        (
            SEALED,
            Text,
            false,
            false,
            false,
            "The record, sealed by HPKE (base64), see docs/quarantine.md; null without a recipient or over a limit.",
        ),
        (SEALED_KEY_ID, Text, false, false, true, "The id of the public key that it is sealed to."),
    ]
};

/// The columns of the quarantine table, in table order.
#[must_use]
pub fn columns() -> Vec<TableColumn> {
    LAYOUT.iter().map(fixed_column).collect()
}

/// Encodes a request's broken events, received at `received_micros` (microseconds since the Unix epoch).
///
/// # Errors
/// Where Arrow refuses the columns, which would be a defect.
pub fn encode(
    events: &[QuarantinedEvent<'_>],
    policy_version: &str,
    received_micros: i64,
) -> Result<Batch, EncodeError> {
    let rows = events.len();
    let times = |array: TimestampMicrosecondArray| Arc::new(array.with_timezone(UTC)) as ArrayRef;
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(LAYOUT.len());
    for (name, ..) in LAYOUT {
        arrays.push(match name {
            EVENT_TIME => times(TimestampMicrosecondArray::from_value(received_micros, rows)),
            OCCURRED_TIME => times(events.iter().map(|event| event.occurred).collect()),
            ATTRIBUTE_COUNT => {
                Arc::new(Int64Array::from_iter_values(events.iter().map(|event| event.attribute_count)))
            }
            POLICY_VERSION => {
                let mut builder = StringBuilder::with_capacity(rows, rows * policy_version.len());
                builder.append_value_n(policy_version, rows);
                Arc::new(builder.finish())
            }
            name => Arc::new(events.iter().map(|event| text(event, name)).collect::<StringArray>()),
        });
    }
    let fields: Vec<_> = columns().iter().map(TableColumn::arrow_field).collect();
    // As in every batch, a column without a value is left out.
    let (fields, arrays): (Vec<_>, Vec<_>) = fields
        .into_iter()
        .zip(arrays)
        .filter(|(field, array)| !field.is_nullable() || array.null_count() < array.len())
        .unzip();
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays);
    rows.map(Batch::new).map_err(EncodeError::Arrow)
}

/// An event's value in a text column.
fn text<'e>(event: &'e QuarantinedEvent<'_>, column: &str) -> Option<&'e str> {
    match column {
        EVENT_ID => Some(&event.event_id),
        EVENT_NAME => Some(event.event_name()),
        SERVICE_NAME => event.service_name,
        REASON => Some(event.reason.as_str()),
        DETAIL => event.detail.as_deref(),
        CLAIMED_NAME => event.claimed_name.as_deref(),
        ATTRIBUTE_NAMES => event.attribute_names.as_deref(),
        ATTRIBUTE_TYPES => event.attribute_types.as_deref(),
        SEALED => event.sealed.as_deref(),
        SEALED_KEY_ID => event.sealed_key_id.as_deref(),
        _ => None,
    }
}
