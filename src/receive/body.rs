//! A request's body, from the wire into memory that the budget knows of.
//!
//! Owns: reading within the limits of size, time and memory, and getting rid of what is refused. Does not own:
//! decompression.

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::budget::Reservation;
use super::limits::Limits;
use super::reply::Refusal;

/// The first buffer of a body that comes in several frames; it doubles from there.
const BUFFER_FIRST_BYTES: u64 = 64 * 1024;

/// Reads a whole body. What it takes is added to `reservation`.
pub(super) async fn read<B>(
    body: &mut B,
    bytes_max: u64,
    reservation: &mut Reservation,
    limits: &Limits,
    deadline: Instant,
) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let hint = body.size_hint();
    if hint.lower() > bytes_max {
        return Err(Refusal::TooLarge { limit: limits.request_bytes_max });
    }
    // The announced length bounds the buffer, but memory is taken only for what arrives.
    let expected = hint.upper().unwrap_or(bytes_max);
    let buffer =
        Buffer { bytes: Vec::new(), expected, bytes_max, reservation, limit: limits.request_bytes_max };
    timeout_at(deadline, collect(body, buffer))
        .await
        .unwrap_or(Err(Refusal::Stalled { limit: limits.request_time_max }))
}

async fn collect<B>(body: &mut B, mut buffer: Buffer<'_>) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let Some(first) = next_data(body).await? else { return Ok(Bytes::new()) };
    if body.is_end_stream() {
        // One frame, as small requests are, needs no copy.
        buffer.account(first.len() as u64)?;
        return Ok(first);
    }
    buffer.append(&first)?;
    while let Some(data) = next_data(body).await? {
        buffer.append(&data)?;
    }
    Ok(Bytes::from(buffer.bytes))
}

/// The next frame that holds data.
async fn next_data<B>(body: &mut B) -> Result<Option<Bytes>, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    while let Some(frame) = body.frame().await {
        // Nobody may be left to read this answer; it is counted.
        let frame = frame.map_err(|_| Refusal::Malformed("the body ended before its end"))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// A growing body whose whole capacity is in the budget.
struct Buffer<'r> {
    bytes: Vec<u8>,
    expected: u64,
    bytes_max: u64,
    reservation: &'r mut Reservation,
    /// The limit that the client is told.
    limit: u64,
}

impl Buffer<'_> {
    fn account(&mut self, bytes: u64) -> Result<(), Refusal> {
        if bytes > self.bytes_max {
            return Err(Refusal::TooLarge { limit: self.limit });
        }
        self.reservation.grow_by(bytes)
    }

    fn append(&mut self, data: &[u8]) -> Result<(), Refusal> {
        let needed = (self.bytes.len() + data.len()) as u64;
        if needed > self.bytes_max {
            return Err(Refusal::TooLarge { limit: self.limit });
        }
        let capacity = self.bytes.capacity() as u64;
        if needed > capacity {
            let doubled = capacity.saturating_mul(2).max(BUFFER_FIRST_BYTES);
            let larger = doubled.min(self.expected).min(self.bytes_max).max(needed);
            self.reservation.grow_by(larger - capacity)?;
            self.bytes.reserve_exact(usize::try_from(larger).unwrap_or(usize::MAX) - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

/// Reads the rest of a refused body, up to so much, and keeps nothing of it.
pub(super) async fn discard<B>(body: &mut B, bytes_max: u64, deadline: Instant)
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut left = bytes_max;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
            if left == 0 {
                break;
            }
        }
    };
    // Whether it ended in time makes no difference: the answer is sent now.
    drop(timeout_at(deadline, reading).await);
}
