//! The withdrawals of consent: who withdrew, when, and whether a later event lifted it.
//!
//! Owns: their columns and encoding. Does not own: which event is one (`registry`), what follows from it (`privacy`). Each row is
//! a copy of what an event's own row says, in a small table that a start, another replica and the sync can read whole.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;

use super::encode::EncodeError;
use super::{Batch, Fixed, TableColumn, UTC, fixed_column};
use crate::privacy::StatedWithdrawal;
use crate::registry::ColumnType;

/// The event's name.
pub const EVENT_NAME: &str = "event_name";
/// When it was received: from then on it holds. The partition.
pub const EVENT_TIME: &str = "event_time";
/// When it was made, by the sender's clock. Rows of earlier versions lack it.
pub const MADE_TIME: &str = "made_time";
/// Whose consent.
pub const SUBJECT: &str = "subject";
/// Whether it is given again.
pub const LIFTS: &str = "lifts";
/// The policy that read it.
pub const POLICY_VERSION: &str = "policy_version";

const LAYOUT: [Fixed; 6] = [
    (
        EVENT_NAME,
        ColumnType::String,
        true,
        false,
        true,
        "The declared event by which consent was withdrawn or given again.",
    ),
    (EVENT_TIME, ColumnType::Timestamp, true, false, true, "When Esker received it: it holds from then on."),
    (
        SUBJECT,
        ColumnType::String,
        true,
        true,
        false,
        "The pseudonym of the subject, as in the events' own columns.",
    ),
    (LIFTS, ColumnType::Boolean, true, false, false, "True where the event gives consent again."),
    (POLICY_VERSION, ColumnType::String, true, false, true, "The privacy policy that read it."),
    (MADE_TIME, ColumnType::Timestamp, false, false, true, "When it was made, by the sender's clock."),
];

/// The columns of the table of withdrawals, in table order.
#[must_use]
pub fn columns() -> Vec<TableColumn> {
    LAYOUT.iter().map(fixed_column).collect()
}

/// Encodes a request's withdrawals, received at `received_micros` (microseconds since the Unix epoch).
///
/// # Errors
/// Where Arrow refuses the columns, which would be a defect.
pub fn encode(
    withdrawals: &[StatedWithdrawal],
    policy_version: &str,
    received_micros: i64,
) -> Result<Batch, EncodeError> {
    let rows = withdrawals.len();
    let text = |of: fn(&StatedWithdrawal) -> &str| -> ArrayRef {
        Arc::new(withdrawals.iter().map(|one| Some(of(one))).collect::<StringArray>())
    };
    let arrays: Vec<ArrayRef> = vec![
        text(|one| &one.event_name),
        Arc::new(TimestampMicrosecondArray::from_value(received_micros, rows).with_timezone(UTC)),
        text(|one| &one.subject),
        Arc::new(withdrawals.iter().map(|one| Some(one.lifts)).collect::<BooleanArray>()),
        Arc::new(std::iter::repeat_n(Some(policy_version), rows).collect::<StringArray>()),
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(withdrawals.iter().map(|one| one.made_micros))
                .with_timezone(UTC),
        ),
    ];
    let fields: Vec<_> = columns().iter().map(TableColumn::arrow_field).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map(Batch::new).map_err(EncodeError::Arrow)
}
