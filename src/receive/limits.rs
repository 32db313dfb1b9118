//! What one client, one connection and one request may use.
//!
//! Owns: the limits' names, defaults and reasons. Does not own: the memory that all requests share (`MemoryBudget`).

use std::time::Duration;

/// The limits of one listener (`receive.limits.*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// A request's bytes, as sent and decompressed alike (`request_bytes`). SDKs send some 200 KiB.
    pub request_bytes: u64,
    /// Connections open at a time (`connections`). Further ones wait in the kernel's bounded backlog.
    pub connections: usize,
    /// Requests that one HTTP/2 connection may have open at a time (`streams_per_connection`).
    pub streams_per_connection: u32,
    /// How long a new connection may take until its first request's head has arrived (`header_read`).
    pub header_read: Duration,
    /// How long a request's body may take to arrive (`body_read`). SDKs give up after 10 s themselves.
    pub body_read: Duration,
    /// A connection is closed once it was without a request for this long, and for twice as long at the latest (`idle`).
    pub idle: Duration,
    /// How long requests in flight may take to end at shutdown (`drain`).
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes: 16 * 1024 * 1024,
            connections: 256,
            streams_per_connection: 64,
            header_read: Duration::from_secs(10),
            body_read: Duration::from_secs(20),
            idle: Duration::from_secs(60),
            drain: Duration::from_secs(10),
        }
    }
}
