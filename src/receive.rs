//! Receiving: listeners, authentication, caps, OTLP decoding and the mapping of outcomes to protocol statuses.
//!
//! Owns: what a client may send and what it is answered. Does not own: privacy rules, disk, tables.
//!
//! ```text
//! connection (TLS) -> http | grpc -> access -> body -> inflate -> (json) -> Sink::accept -> reply
//!                                                              decode
//! ```

pub mod access;
mod body;
pub mod budget;
mod connection;
pub mod decode;
mod exchange;
pub mod grpc;
pub mod http;
mod inflate;
pub mod json;
mod limits;
pub mod pages;
pub mod reply;
pub mod stats;
#[cfg(test)]
mod tests;

pub use self::limits::Limits;
