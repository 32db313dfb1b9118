//! Receiving: listeners, authentication, caps, OTLP decoding and the mapping of outcomes to protocol statuses.
//!
//! Owns: what a client may send and what it is answered. Does not own: privacy rules, disk, tables.

pub mod decode;
pub mod grpc;
pub mod http;
pub mod json;
pub mod reply;
