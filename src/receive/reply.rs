//! What a client is answered: the outcomes of a request and the one place that turns them into OTLP statuses.
//!
//! Owns: the receiver's contract with what takes the events (`Sink`), and the status mapping for gRPC and HTTP. Does not
//! own: why an event was refused.

use std::time::Duration;

use bytes::Bytes;

/// Takes a whole request and answers once its fate is known. `intake` implements it.
pub trait Sink: Clone + Send + Sync + 'static {
    /// `request` is an encoded protobuf `ExportLogsServiceRequest`, decompressed.
    fn accept(&self, request: Bytes) -> impl Future<Output = Result<Receipt, Refusal>> + Send;
}

/// The request's stored events are durable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receipt {
    /// Log records that were rejected and must not be sent again as they are.
    pub rejected: u64,
    /// Why, in words that hold no payload; empty where nothing was rejected.
    pub message: String,
}

/// Why nothing of a request was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The bytes are no valid OTLP; sending them again cannot help.
    #[error("the request is not valid OTLP: {0}")]
    Malformed(&'static str),
    /// The request, or what it decompresses to, is over a limit.
    #[error("the request is larger than the limit of {limit} bytes (receive.limits.request_bytes)")]
    TooLarge {
        /// The limit in force.
        limit: u64,
    },
    /// A limit of memory or disk is reached; the client should wait and send again.
    #[error("{limit} is reached; send the request again after {} s", retry_after.as_secs())]
    Overloaded {
        /// The name of the configured limit.
        limit: &'static str,
        /// How long to wait.
        retry_after: Duration,
    },
    /// The service is stopping or cannot write; another replica, or this one later, may take the request.
    #[error("the service cannot store events now: {reason}; send the request again after {} s", retry_after.as_secs())]
    Unavailable {
        /// Why, without payload.
        reason: &'static str,
        /// How long to wait.
        retry_after: Duration,
    },
}
