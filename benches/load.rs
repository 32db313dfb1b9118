//! The load that the figures are measured on: 512 log records a request, 10 attributes each as a Flagsmith backend sends
//! them, one of them pseudonymised, one dropped, and six of them text that is scanned for leaks.
//!
//! Owns: making such requests, and making each one different from the last. Does not own: measuring.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a bench that cannot make its load must stop"
)]

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

/// Log records in a request.
pub(crate) const RECORDS: usize = 512;
/// Distinct users, each a UUID that becomes a pseudonym.
const USERS: u64 = 5_000;
/// Records that share a trace, as the events of one backend request do.
const RECORDS_PER_TRACE: usize = 4;
/// A trace id, the span id's tag and length, and the span id.
const TRACE_BYTES: usize = 16 + 2 + 8;

const EVENTS: [&str; 5] = [
    "workflows.change_request.committed",
    "features.flag.updated",
    "code_references.scan.created",
    "onboarding.environment.first_evaluated",
    "warehouse.delivery.completed",
];

const VERSIONS: [&str; 4] = ["3.8.0", "4.0.1", "5.2.0-rc.1", "10.1.3"];

/// A small, fast generator; the load must be the same in each run.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Starts the sequence.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next number (xorshift64*).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn int(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

fn record(random: &mut Random, time_unix_nano: u64, trace_id: Vec<u8>) -> LogRecord {
    let event = EVENTS[usize::try_from(random.below(EVENTS.len() as u64)).unwrap_or(0)];
    let user = random.below(USERS);
    let organisation = random.below(400);
    LogRecord {
        time_unix_nano,
        observed_time_unix_nano: time_unix_nano + 35_000,
        severity_number: 9,
        severity_text: "info".to_owned(),
        body: Some(AnyValue {
            value: Some(Value::StringValue(event.split_once('.').map_or(event, |(_, rest)| rest).to_owned())),
        }),
        event_name: event.to_owned(),
        trace_id,
        span_id: random.next().to_le_bytes().to_vec(),
        flags: 1,
        attributes: vec![
            int("organisation.id", organisation),
            int("feature.id", random.below(20_000)),
            text("environment.id", random.below(3_600).to_string()),
            text("sdk.label", if random.below(3) == 0 { "flagsmith-js-sdk" } else { "flagsmith-python-sdk" }),
            text("sdk.version", VERSIONS[usize::try_from(random.below(VERSIONS.len() as u64)).unwrap_or(0)]),
            text("resource.type", if random.below(2) == 0 { "issue" } else { "merge_request" }),
            text("feature.name", format!("checkout_redesign_{}", random.below(900))),
            text("amplitude.user_id", format!("7d4a7b1c-5f0e-4b61-9a3d-{user:012x}")),
            text("user_agent", "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0"),
            text("flagsmith.event", event),
        ],
        ..Default::default()
    }
}

/// An encoded request whose times and trace ids can be changed, so that the server meets it as a new one.
#[derive(Debug)]
pub(crate) struct Request {
    /// The encoded `ExportLogsServiceRequest`.
    pub(crate) body: Vec<u8>,
    /// Where each record's `time_unix_nano` lies in `body`.
    times: Vec<usize>,
    /// Where each record's trace id lies in `body`; its span id follows.
    traces: Vec<usize>,
}

impl Request {
    /// One request, from `seed`, dated at `now_unix_nano` and the milliseconds after it.
    pub(crate) fn new(seed: u64, now_unix_nano: u64) -> Self {
        let body = encode(seed, now_unix_nano);
        let mut from = 0;
        let mut find = |wanted: &[u8], length: usize| {
            let found = body[from..].windows(wanted.len()).position(|window| window == wanted);
            let start = from + found.expect("each record has the field") + wanted.len();
            from = start + length;
            start
        };
        let (mut times, mut traces) = (Vec::new(), Vec::new());
        for place in 0..RECORDS {
            // Field 1 of a log record, fixed64; fields 9 and 10, of 16 and 8 bytes.
            let time = (now_unix_nano + place as u64 * 1_000_000).to_le_bytes();
            times.push(find(&[&[0x09], &time[..]].concat(), 0) - 8);
            traces.push(find(&[0x4a, 16], TRACE_BYTES));
        }
        Self { body, times, traces }
    }

    /// Moves each record's time by `nanos` and gives it another trace and span.
    pub(crate) fn renew(&mut self, nanos: u64, random: &mut Random) {
        let mut trace = Vec::new();
        for (place, (time, ids)) in self.times.iter().zip(&self.traces).enumerate() {
            let bytes = &mut self.body[*time..*time + 8];
            let moved = u64::from_le_bytes(bytes.try_into().expect("eight bytes")) + nanos;
            bytes.copy_from_slice(&moved.to_le_bytes());
            if place % RECORDS_PER_TRACE == 0 {
                trace = [random.next().to_le_bytes(), random.next().to_le_bytes()].concat();
            }
            self.body[*ids..*ids + 16].copy_from_slice(&trace);
            // Past the trace id stand the span id's tag and length.
            self.body[*ids + 18..*ids + TRACE_BYTES].copy_from_slice(&random.next().to_le_bytes());
        }
    }
}

fn encode(seed: u64, now_unix_nano: u64) -> Vec<u8> {
    let mut random = Random::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut trace_id = Vec::new();
    let log_records = (0..RECORDS)
        .map(|place| {
            if place % RECORDS_PER_TRACE == 0 {
                trace_id = [random.next().to_le_bytes(), random.next().to_le_bytes()].concat();
            }
            record(&mut random, now_unix_nano + place as u64 * 1_000_000, trace_id.clone())
        })
        .collect();
    let resource = Resource {
        attributes: vec![
            text("telemetry.sdk.language", "python"),
            text("telemetry.sdk.name", "opentelemetry"),
            text("telemetry.sdk.version", "1.40.0"),
            text("service.name", "flagsmith-api"),
        ],
        ..Default::default()
    };
    let scope = InstrumentationScope {
        name: "common.core.otel".to_owned(),
        version: "3.16.0".to_owned(),
        ..Default::default()
    };
    let scope_logs = vec![ScopeLogs { scope: Some(scope), log_records, ..Default::default() }];
    let resource_logs = vec![ResourceLogs { resource: Some(resource), scope_logs, ..Default::default() }];
    ExportLogsServiceRequest { resource_logs }.encode_to_vec()
}
