//! A look at the bytes of a batch before Arrow's reader gets them.
//!
//! Owns: checking that bytes are a stream such as a batch writes: one schema of flat columns, one record batch whose
//! counts and sizes agree, the end mark. Does not own: text, offsets and names, which are checked on the read columns.
//!
//! Arrow's reader answers errors for most damage, but panics on some (a length beyond its buffer, a type that it does not
//! know). What passes here cannot meet those.

use arrow::ipc::{
    self, Endianness, Field, FieldNode, Message, MessageHeader, Precision, RecordBatch, TimeUnit, Type,
    root_as_message,
};

use super::batch::ALIGNMENT;

const CONTINUATION: [u8; 4] = [0xff; 4];

/// The number of bytes that each kind of column needs for `rows` rows, by buffer: its values, or its offsets.
#[derive(Clone, Copy)]
enum Kind {
    Bytes,
    Wide,
    Bits,
}

/// Checks a whole stream; the error says what is wrong.
pub(super) fn inspect(bytes: &[u8]) -> Result<(), &'static str> {
    let mut rest = bytes;
    let (schema, _) = next_message(&mut rest)?.ok_or("there is no schema")?;
    let kinds = schema_kinds(&schema)?;
    let (batch, body) = next_message(&mut rest)?.ok_or("there are no rows")?;
    check_batch(&batch, body.len(), &kinds)?;
    if next_message(&mut rest)?.is_some() {
        return Err("there is more than one batch");
    }
    if rest.is_empty() { Ok(()) } else { Err("bytes follow the end mark") }
}

/// Takes the next message and its body off `rest`; None at the end mark.
fn next_message<'b>(rest: &mut &'b [u8]) -> Result<Option<(Message<'b>, &'b [u8])>, &'static str> {
    const CUT: &str = "it is cut off";
    if take(rest, 4).ok_or(CUT)? != CONTINUATION {
        return Err("a message does not begin as one");
    }
    let length = take(rest, 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes).ok_or(CUT)?;
    if length == 0 {
        return Ok(None);
    }
    let message = take(rest, length as usize).ok_or(CUT)?;
    let message = root_as_message(message).map_err(|_| "a message's header is broken")?;
    let body = usize::try_from(message.bodyLength()).ok().and_then(|length| take(rest, length)).ok_or(CUT)?;
    Ok(Some((message, body)))
}

fn take<'b>(rest: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (taken, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(taken)
}

fn schema_kinds(message: &Message<'_>) -> Result<Vec<Kind>, &'static str> {
    let schema = message.header_as_schema().ok_or("it does not begin with a schema")?;
    if message.bodyLength() != 0 || schema.endianness() != Endianness::Little {
        return Err("its schema is of another kind");
    }
    let fields = schema.fields().ok_or("its schema has no columns")?;
    fields.iter().map(|field| kind(&field).ok_or("a column is of another kind")).collect()
}

fn kind(field: &Field<'_>) -> Option<Kind> {
    let is_flat = field.dictionary().is_none() && field.children().is_none_or(|children| children.is_empty());
    if field.name().is_none() || !is_flat {
        return None;
    }
    match field.type_type() {
        Type::Utf8 | Type::Binary => Some(Kind::Bytes),
        Type::Bool => Some(Kind::Bits),
        Type::Int => {
            field.type_as_int().filter(|int| int.bitWidth() == 64 && int.is_signed()).map(|_| Kind::Wide)
        }
        Type::FloatingPoint => field
            .type_as_floating_point()
            .filter(|float| float.precision() == Precision::DOUBLE)
            .map(|_| Kind::Wide),
        Type::Timestamp => {
            field.type_as_timestamp().filter(|time| time.unit() == TimeUnit::MICROSECOND).map(|_| Kind::Wide)
        }
        _ => None,
    }
}

fn check_batch(message: &Message<'_>, body: usize, kinds: &[Kind]) -> Result<(), &'static str> {
    const DISAGREE: &str = "its sizes do not agree";
    if message.header_type() != MessageHeader::RecordBatch {
        return Err("its schema is not followed by rows");
    }
    let batch: RecordBatch<'_> = message.header_as_record_batch().ok_or(DISAGREE)?;
    if batch.compression().is_some() {
        return Err("it is compressed");
    }
    let rows = usize::try_from(batch.length()).map_err(|_| DISAGREE)?;
    let nodes = batch.nodes().ok_or(DISAGREE)?;
    let buffers = batch.buffers().ok_or(DISAGREE)?;
    let mut sizes = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        sizes.push(size_within(buffer, body).ok_or(DISAGREE)?);
    }
    let mut sizes = sizes.as_slice();
    for (kind, node) in kinds.iter().zip(nodes) {
        sizes = check_column(*kind, node, rows, sizes).ok_or(DISAGREE)?;
    }
    if nodes.len() == kinds.len() && sizes.is_empty() { Ok(()) } else { Err(DISAGREE) }
}

/// The buffer's size, where all of it lies within the body, at a place that suits every type.
fn size_within(buffer: &ipc::Buffer, body: usize) -> Option<usize> {
    let (start, length) = (usize::try_from(buffer.offset()).ok()?, usize::try_from(buffer.length()).ok()?);
    (start % ALIGNMENT == 0 && start.checked_add(length)? <= body).then_some(length)
}

/// Checks a column against the sizes of its buffers; answers the sizes behind it.
fn check_column<'s>(kind: Kind, node: &FieldNode, rows: usize, sizes: &'s [usize]) -> Option<&'s [usize]> {
    let nulls = usize::try_from(node.null_count()).ok()?;
    let (validity, values, behind) = match (kind, sizes) {
        (Kind::Bytes, [validity, offsets, _values, behind @ ..]) => (*validity, *offsets, behind),
        (Kind::Wide | Kind::Bits, [validity, values, behind @ ..]) => (*validity, *values, behind),
        _ => return None,
    };
    let bitmap = rows.div_ceil(8);
    let (needed, unit) = match kind {
        // Arrow allows no offsets at all for no rows.
        Kind::Bytes if rows == 0 => (0, 4),
        Kind::Bytes => (rows.checked_add(1)?.checked_mul(4)?, 4),
        Kind::Wide => (rows.checked_mul(8)?, 8),
        Kind::Bits => (bitmap, 1),
    };
    let agree = usize::try_from(node.length()) == Ok(rows)
        && nulls <= rows
        && (nulls == 0 || validity >= bitmap)
        && values >= needed
        && values % unit == 0;
    agree.then_some(behind)
}
