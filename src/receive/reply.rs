//! What a client is answered: the outcomes of a request and the one place that turns them into OTLP statuses.
//!
//! Owns: the receiver's contract with what takes the events (`Sink`), the status mapping for gRPC and HTTP, and the
//! answers' bodies. Does not own: why an event was refused.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use prost::Message;

use super::access::Denial;
use super::json::JsonError;
use super::stats::Outcome;

/// Takes a whole request and answers once its fate is known. `intake` implements it.
///
/// The receiver runs it in a task of its own, so that it runs to its end even if the client goes away.
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
    /// Who sends it may not.
    #[error("{}", denied(*.0))]
    Denied(Denial),
    /// The bytes are no valid OTLP; sending them again cannot help.
    #[error("the request is not valid OTLP: {0}")]
    Malformed(&'static str),
    /// The bytes are no valid OTLP/JSON; sending them again cannot help.
    #[error("the request is not valid OTLP/JSON: {0}")]
    MalformedJson(#[from] JsonError),
    /// The request, or what it decompresses to, is over a limit.
    #[error(
        "the request is larger than the limit of {limit} bytes (receive.limits.request_bytes); send smaller batches"
    )]
    TooLarge {
        /// The limit in force.
        limit: u64,
    },
    /// The request holds more of something than one request may.
    #[error("the request holds more than {limit} {what}; send smaller batches")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit in force.
        limit: usize,
    },
    /// The body did not arrive in time.
    #[error("the request's body did not arrive within {} s (receive.limits.request_time)", limit.as_secs_f32())]
    Stalled {
        /// The limit in force.
        limit: Duration,
    },
    /// The content type is none that is read.
    #[error("the content type is not supported; send application/x-protobuf or application/json")]
    UnsupportedType,
    /// The compression is none that is read.
    #[error("the compression is not supported; send gzip, zstd or none")]
    UnsupportedEncoding,
    /// Nothing is served under this path or method name.
    #[error("{0}")]
    NotServed(&'static str),
    /// The path takes POST only.
    #[error("only POST is served here")]
    WrongMethod,
    /// A limit of memory or disk is reached; the client should wait and send again.
    #[error("{limit} is reached; send the request again after {} s", seconds(*retry_after))]
    Overloaded {
        /// The name of the configured limit.
        limit: &'static str,
        /// How long to wait.
        retry_after: Duration,
    },
    /// The service is stopping or cannot write; another replica, or this one later, may take the request.
    #[error("the service cannot store events now: {reason}; send the request again after {} s", seconds(*retry_after))]
    Unavailable {
        /// Why, without payload.
        reason: &'static str,
        /// How long to wait.
        retry_after: Duration,
    },
}

/// The canonical codes of gRPC that are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcCode {
    /// Success.
    Ok = 0,
    /// A permanent fault of the request.
    InvalidArgument = 3,
    /// Too slow; may be sent again.
    DeadlineExceeded = 4,
    /// The token opens something else.
    PermissionDenied = 7,
    /// Not served here.
    Unimplemented = 12,
    /// To be sent again later.
    Unavailable = 14,
    /// No valid token.
    Unauthenticated = 16,
}

/// How a refusal is told in both protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The status of the HTTP response.
    pub http: StatusCode,
    /// The code of the gRPC response, and in the body of the HTTP one.
    pub grpc: GrpcCode,
    /// How long the client should wait before it sends the request again; none where it should not.
    pub retry_after: Option<Duration>,
    /// How the request is counted.
    pub outcome: Outcome,
}

impl Refusal {
    /// The one mapping of refusals to statuses.
    ///
    /// A request over a limit is `INVALID_ARGUMENT` and not `RESOURCE_EXHAUSTED`: OTLP forbids sending the latter again
    /// unless it carries a `RetryInfo`, but released SDKs (Python's among them) do so regardless, and the same bytes would
    /// be too large for ever. Pressure is 503 and not 429, because released SDKs drop a batch on 429.
    #[must_use]
    pub fn status(&self) -> Status {
        let (http, grpc, retry_after, outcome) = match self {
            Self::Denied(Denial::WrongUse) => {
                (StatusCode::FORBIDDEN, GrpcCode::PermissionDenied, None, Outcome::Denied)
            }
            Self::Denied(_) => (StatusCode::UNAUTHORIZED, GrpcCode::Unauthenticated, None, Outcome::Denied),
            Self::Malformed(_) | Self::MalformedJson(_) => {
                (StatusCode::BAD_REQUEST, GrpcCode::InvalidArgument, None, Outcome::Malformed)
            }
            Self::TooLarge { .. } | Self::TooMany { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, GrpcCode::InvalidArgument, None, Outcome::TooLarge)
            }
            Self::Stalled { .. } => {
                (StatusCode::REQUEST_TIMEOUT, GrpcCode::DeadlineExceeded, None, Outcome::Stalled)
            }
            Self::UnsupportedType | Self::UnsupportedEncoding => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, GrpcCode::Unimplemented, None, Outcome::Unsupported)
            }
            Self::NotServed(_) => {
                (StatusCode::NOT_FOUND, GrpcCode::Unimplemented, None, Outcome::Unsupported)
            }
            Self::WrongMethod => {
                (StatusCode::METHOD_NOT_ALLOWED, GrpcCode::Unimplemented, None, Outcome::Unsupported)
            }
            Self::Overloaded { retry_after, .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                GrpcCode::Unavailable,
                Some(*retry_after),
                Outcome::Overloaded,
            ),
            Self::Unavailable { retry_after, .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                GrpcCode::Unavailable,
                Some(*retry_after),
                Outcome::Unavailable,
            ),
        };
        Status { http, grpc, retry_after, outcome }
    }

    /// The refusal as an encoded `google.rpc.Status`, with a `RetryInfo` where the request may be sent again.
    pub(super) fn status_protobuf(&self) -> Vec<u8> {
        let status = self.status();
        let details = status.retry_after.map(|delay| wire::Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: wire::RetryInfo { retry_delay: Some(wire_duration(delay)) }.encode_to_vec(),
        });
        let details = details.into_iter().collect();
        wire::Status { code: status.grpc as i32, message: self.to_string(), details }.encode_to_vec()
    }

    /// The refusal as a `google.rpc.Status` in JSON.
    pub(super) fn status_json(&self) -> Vec<u8> {
        serde_json::json!({ "code": self.status().grpc as i32, "message": self.to_string() })
            .to_string()
            .into_bytes()
    }
}

impl Receipt {
    /// How the request is counted.
    pub(super) fn outcome(&self) -> Outcome {
        if self.rejected == 0 { Outcome::Accepted } else { Outcome::Partial }
    }

    /// Whether there is anything to tell beside the success. A message without rejected records is a warning.
    fn is_partial(&self) -> bool {
        self.rejected > 0 || !self.message.is_empty()
    }

    /// An encoded `ExportLogsServiceResponse`.
    pub(super) fn response_protobuf(&self) -> Vec<u8> {
        let partial_success = self.is_partial().then(|| wire::PartialSuccess {
            rejected_log_records: i64::try_from(self.rejected).unwrap_or(i64::MAX),
            error_message: self.message.clone(),
        });
        wire::Response { partial_success }.encode_to_vec()
    }

    /// An `ExportLogsServiceResponse` in JSON.
    pub(super) fn response_json(&self) -> Vec<u8> {
        if !self.is_partial() {
            return b"{}".to_vec();
        }
        let rejected = self.rejected.to_string();
        serde_json::json!({
            "partialSuccess": { "rejectedLogRecords": rejected, "errorMessage": self.message }
        })
        .to_string()
        .into_bytes()
    }
}

/// What is said of a denial. Whoever guesses learns from it no more than that a guess was wrong; a token that is expired or
/// for another port was made here, and its owner is told what to do.
fn denied(denial: Denial) -> &'static str {
    match denial {
        Denial::Missing => "a token is needed; send the header `authorization: Bearer TOKEN`",
        Denial::Malformed => {
            "the authorization header holds no bearer token; send `authorization: Bearer TOKEN`"
        }
        Denial::Unknown => "the token is not valid; see receive.tokens_file and `esker tokens new --help`",
        Denial::Expired => "the token has expired; make another with `esker tokens new`",
        Denial::WrongUse => "the token opens another port; `send` is for OTLP, `read` for the admin port",
    }
}

/// The `WWW-Authenticate` of a denial, as RFC 6750 has it.
pub(super) fn challenge(denial: Denial) -> &'static str {
    match denial {
        Denial::Missing => "Bearer realm=\"esker\"",
        Denial::Malformed => "Bearer realm=\"esker\", error=\"invalid_request\"",
        Denial::Unknown | Denial::Expired => "Bearer realm=\"esker\", error=\"invalid_token\"",
        Denial::WrongUse => "Bearer realm=\"esker\", error=\"insufficient_scope\"",
    }
}

/// A delay in whole seconds, rounded up, and one at the least: what `Retry-After` can say.
pub(super) fn seconds(delay: Duration) -> u64 {
    delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0)).max(1)
}

fn wire_duration(delay: Duration) -> wire::Duration {
    wire::Duration {
        seconds: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
        nanos: delay.subsec_nanos().cast_signed(),
    }
}

/// The few protobuf messages that answers are made of.
mod wire {
    /// `google.rpc.Status`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Status {
        #[prost(int32, tag = "1")]
        pub(super) code: i32,
        #[prost(string, tag = "2")]
        pub(super) message: String,
        #[prost(message, repeated, tag = "3")]
        pub(super) details: Vec<Any>,
    }

    /// `google.protobuf.Any`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Any {
        #[prost(string, tag = "1")]
        pub(super) type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) value: Vec<u8>,
    }

    /// `google.rpc.RetryInfo`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct RetryInfo {
        #[prost(message, optional, tag = "1")]
        pub(super) retry_delay: Option<Duration>,
    }

    /// `google.protobuf.Duration`.
    #[derive(Clone, Copy, PartialEq, prost::Message)]
    pub(super) struct Duration {
        #[prost(int64, tag = "1")]
        pub(super) seconds: i64,
        #[prost(int32, tag = "2")]
        pub(super) nanos: i32,
    }

    /// `ExportLogsServiceResponse`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Response {
        #[prost(message, optional, tag = "1")]
        pub(super) partial_success: Option<PartialSuccess>,
    }

    /// `ExportLogsPartialSuccess`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct PartialSuccess {
        #[prost(int64, tag = "1")]
        pub(super) rejected_log_records: i64,
        #[prost(string, tag = "2")]
        pub(super) error_message: String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pressure_and_outages_ask_the_client_to_send_again() {
        let wait = Duration::from_millis(1500);
        let again = [
            Refusal::Overloaded { limit: "wal.limits.bytes", retry_after: wait },
            Refusal::Unavailable { reason: "stopping", retry_after: wait },
        ];
        for refusal in again {
            let status = refusal.status();
            assert_eq!(status.http, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!((status.grpc, status.retry_after), (GrpcCode::Unavailable, Some(wait)));
        }
        let never = [
            Refusal::Malformed("x"),
            Refusal::TooLarge { limit: 1 },
            Refusal::TooMany { what: "log records", limit: 1 },
            Refusal::UnsupportedType,
            Refusal::UnsupportedEncoding,
            Refusal::NotServed("x"),
            Refusal::WrongMethod,
        ];
        for refusal in never {
            let status = refusal.status();
            assert!(status.http.is_client_error() && status.retry_after.is_none(), "{refusal:?}");
            assert!(
                matches!(status.grpc, GrpcCode::InvalidArgument | GrpcCode::Unimplemented),
                "{refusal:?}"
            );
        }
    }

    #[test]
    fn a_status_carries_its_retry_info() {
        let refusal = Refusal::Overloaded { limit: "x", retry_after: Duration::from_millis(2500) };
        let status = wire::Status::decode(&*refusal.status_protobuf()).unwrap();
        assert_eq!(
            (status.code, status.message.as_str()),
            (14, "x is reached; send the request again after 3 s")
        );
        let info = wire::RetryInfo::decode(&*status.details[0].value).unwrap();
        assert_eq!(info.retry_delay, Some(wire::Duration { seconds: 2, nanos: 500_000_000 }));
    }

    #[test]
    fn full_success_has_an_empty_body_and_partial_success_a_count_and_a_message() {
        assert_eq!(Receipt::default().response_protobuf(), b"");
        assert_eq!(Receipt::default().response_json(), b"{}");
        let partial = Receipt { rejected: 3, message: "3 were not declared".to_owned() };
        assert_eq!(
            partial.response_json(),
            br#"{"partialSuccess":{"errorMessage":"3 were not declared","rejectedLogRecords":"3"}}"#
        );
        let response = wire::Response::decode(&*partial.response_protobuf()).unwrap();
        assert_eq!(response.partial_success.unwrap().rejected_log_records, 3);
    }
}
