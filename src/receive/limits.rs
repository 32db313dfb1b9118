//! What one client, one connection and one request may use.
//!
//! Owns: the limits' names, defaults and reasons. Does not own: the memory that all requests share (`MemoryBudget`).

use std::time::Duration;

/// The limits of one listener (`receive.limits.*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A request's bytes, as sent and decompressed alike (`request_bytes`). SDKs send some 200 KiB.
    pub request_bytes_max: u64,
    /// Connections open at a time (`connections`). Further ones wait in the kernel's bounded backlog.
    pub connections_max: usize,
    /// How long a request's body may take to arrive (`request_time`). SDKs give up after 10 s themselves.
    pub request_time_max: Duration,
    /// Requests that one HTTP/2 connection may have open at a time.
    pub streams_max: u32,
    /// Bodies without a valid token that are read at a time, to be thrown away; further such requests are answered unread.
    /// It bounds the memory of strangers, which must not come out of the budget of those who have a token.
    pub strangers_max: usize,
    /// How long a new connection may take until its first request's head has arrived, before it
    /// is told to go; a second later it is closed.
    pub head_time_max: Duration,
    /// A connection is closed once it was without a request for this long, and for twice as long at the latest.
    pub idle_time_max: Duration,
    /// How long requests in flight may take to end at shutdown.
    pub drain_time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes_max: 16 * 1024 * 1024,
            connections_max: 256,
            request_time_max: Duration::from_secs(20),
            streams_max: 64,
            strangers_max: 256,
            head_time_max: Duration::from_secs(10),
            idle_time_max: Duration::from_secs(60),
            drain_time_max: Duration::from_secs(10),
        }
    }
}
