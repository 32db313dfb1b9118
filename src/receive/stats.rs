//! What the listeners count, for whoever shows it.
//!
//! Owns: counters of requests, bytes and connections. Does not own: counts of events (`intake`), and how counts are shown.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// OTLP/gRPC.
    Grpc,
    /// OTLP/HTTP with protobuf.
    HttpProtobuf,
    /// OTLP/HTTP with JSON.
    HttpJson,
    /// HTTP with another content type, or none.
    HttpOther,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 4] = [Self::Grpc, Self::HttpProtobuf, Self::HttpJson, Self::HttpOther];

    /// Its name in a metric's label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
            Self::HttpJson => "http/json",
            Self::HttpOther => "http/other",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Everything in it was taken.
    Accepted,
    /// Some log records were rejected.
    Partial,
    /// It came without a valid token.
    Denied,
    /// It was no valid OTLP.
    Malformed,
    /// It was over a limit of size or number.
    TooLarge,
    /// Its body did not arrive in time.
    Stalled,
    /// Its path, method, content type or compression is not served.
    Unsupported,
    /// A limit of memory or disk was reached.
    Overloaded,
    /// The service could not store.
    Unavailable,
    /// The client went away before the answer.
    Abandoned,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 10] = [
        Self::Accepted,
        Self::Partial,
        Self::Denied,
        Self::Malformed,
        Self::TooLarge,
        Self::Stalled,
        Self::Unsupported,
        Self::Overloaded,
        Self::Unavailable,
        Self::Abandoned,
    ];

    /// Its name in a metric's label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Partial => "partial",
            Self::Denied => "denied",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Stalled => "stalled",
            Self::Unsupported => "unsupported",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Counters of all listeners since the start.
#[derive(Debug, Default)]
pub struct ReceiveStats {
    requests: [[AtomicU64; Outcome::ALL.len()]; Protocol::ALL.len()],
    wire_bytes: [AtomicU64; Protocol::ALL.len()],
    request_bytes: [AtomicU64; Protocol::ALL.len()],
    connections_total: AtomicU64,
    connections_open: AtomicU64,
}

impl ReceiveStats {
    /// Requests that came by this protocol and ended so.
    #[must_use]
    pub fn requests(&self, protocol: Protocol, outcome: Outcome) -> u64 {
        self.requests.get(protocol as usize).and_then(|row| row.get(outcome as usize)).map_or(0, read)
    }

    /// Every protocol, outcome and number of requests, for a metric.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(&'static str, &'static str, u64)> {
        let pairs =
            Protocol::ALL.into_iter().flat_map(|protocol| Outcome::ALL.map(|outcome| (protocol, outcome)));
        pairs
            .map(|(protocol, outcome)| (protocol.name(), outcome.name(), self.requests(protocol, outcome)))
            .collect()
    }

    /// Bytes of all requests' bodies, decompressed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.request_bytes.iter().map(read).sum()
    }

    /// Bytes of bodies that were read whole, as they came over the wire.
    #[must_use]
    pub fn wire_bytes(&self, protocol: Protocol) -> u64 {
        self.wire_bytes.get(protocol as usize).map_or(0, read)
    }

    /// Bytes of the same bodies after decompression.
    #[must_use]
    pub fn request_bytes(&self, protocol: Protocol) -> u64 {
        self.request_bytes.get(protocol as usize).map_or(0, read)
    }

    /// Connections accepted.
    #[must_use]
    pub fn connections_total(&self) -> u64 {
        read(&self.connections_total)
    }

    /// Connections open now.
    #[must_use]
    pub fn connections_open(&self) -> u64 {
        read(&self.connections_open)
    }

    pub(super) fn count_request(&self, protocol: Protocol, outcome: Outcome) {
        if let Some(counter) = self.requests.get(protocol as usize).and_then(|row| row.get(outcome as usize))
        {
            counter.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn count_bytes(&self, protocol: Protocol, wire: usize, request: usize) {
        let counters = [(&self.wire_bytes, wire), (&self.request_bytes, request)];
        for (table, bytes) in counters {
            if let Some(counter) = table.get(protocol as usize) {
                counter.fetch_add(bytes as u64, Relaxed);
            }
        }
    }

    pub(super) fn open_connection(&self) -> OpenConnection<'_> {
        self.connections_total.fetch_add(1, Relaxed);
        self.connections_open.fetch_add(1, Relaxed);
        OpenConnection(self)
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

/// Counts as open until it is dropped.
#[derive(Debug)]
pub(super) struct OpenConnection<'a>(&'a ReceiveStats);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.connections_open.fetch_sub(1, Relaxed);
    }
}

/// One request on its way: counted once, as abandoned unless its end was told.
#[derive(Debug)]
pub(super) struct RequestCount<'a> {
    stats: &'a ReceiveStats,
    protocol: Protocol,
    outcome: Outcome,
}

impl<'a> RequestCount<'a> {
    pub(super) fn new(stats: &'a ReceiveStats, protocol: Protocol) -> Self {
        Self { stats, protocol, outcome: Outcome::Abandoned }
    }

    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for RequestCount<'_> {
    fn drop(&mut self) {
        self.stats.count_request(self.protocol, self.outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_once_and_as_abandoned_unless_its_end_was_told() {
        let stats = ReceiveStats::default();
        RequestCount::new(&stats, Protocol::Grpc).end(Outcome::Partial);
        drop(RequestCount::new(&stats, Protocol::HttpJson));
        for protocol in Protocol::ALL {
            for outcome in Outcome::ALL {
                let expected = [(Protocol::Grpc, Outcome::Partial), (Protocol::HttpJson, Outcome::Abandoned)]
                    .contains(&(protocol, outcome));
                assert_eq!(
                    stats.requests(protocol, outcome),
                    u64::from(expected),
                    "{protocol:?} {outcome:?}"
                );
            }
        }
    }
}
