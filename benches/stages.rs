//! One bench per stage of the journey, on the load of `load.rs`. Criterion shows the time of a request of 512 records; divide
//! by 512 for an event (its `thrpt` line does: `Kelem/s` are thousands of events per second).
//!
//! `cargo bench --bench stages`, or `-- --test` to run each once.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    dead_code,
    missing_docs,
    reason = "a bench that cannot make its load must stop; criterion's macros make undocumented items, and the journey alone renews requests"
)]

#[path = "load.rs"]
mod load;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement,
};
use esker::clock::{Clock, Ids, RandomIds, SystemClock};
use esker::columns::{Batch, BundleWriter, Encoder, Layout};
use esker::datafile::DataFileWriter;
use esker::privacy::{Gate, GateOptions, Silent};
use esker::receive::decode::{NameFallback, RawEvents};
use esker::registry::Registry;
use esker::secret::Keyring;
use esker::table::{Table, TableOptions};
use esker::wal::{NewFrame, Position, Wal, WalFiles, WalOptions};
use tokio::runtime::Runtime;

/// Requests that a data file is made of: 65,536 events.
const REQUESTS_PER_FILE: u64 = 128;

/// The stages, set up as `serve` does.
struct Stages {
    registry: Arc<Registry>,
    layout: Layout,
    gate: Gate,
    encoder: Encoder,
    now_micros: i64,
}

impl Stages {
    fn new() -> Self {
        let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/schemas");
        let registry = Arc::new(Registry::load(&schemas).expect("the bench's registry"));
        let layout = Layout::new(&registry).expect("a layout");
        let key = Keyring::from_secrets(&[7; 32], &[7; 32], &[7; 32]);
        let gate = Gate::new(Arc::clone(&registry), &key, GateOptions::default())
            .expect("the rules suit the registry");
        let encoder = Encoder::new(&layout, &registry, gate.policy_version());
        Self { registry, layout, gate, encoder, now_micros: SystemClock.now_micros() }
    }

    fn request(&self, seed: u64) -> Vec<u8> {
        let nanos = u64::try_from(self.now_micros).expect("a clock after 1970") * 1_000;
        load::Request::new(seed, nanos).body
    }

    fn batch(&self, seed: u64) -> Batch {
        let request = self.request(seed);
        let raw = decode(&request);
        let cleared = self.gate.clear(&raw, self.now_micros, &mut Silent);
        self.encoder.encode(&cleared, self.now_micros).expect("batches").pop().expect("one table's batch").1
    }
}

fn bundle(batch: &Batch) -> bytes::Bytes {
    let mut bundle = BundleWriter::for_batches([batch]);
    bundle.rows("product.events", batch).expect("bytes");
    bundle.finish()
}

fn decode(request: &[u8]) -> RawEvents<'_> {
    RawEvents::decode(request, &NameFallback::default()).expect("a valid request")
}

fn group<'c>(
    criterion: &'c mut Criterion,
    name: &str,
    events: u64,
) -> BenchmarkGroup<'c, measurement::WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(events)).sample_size(20).measurement_time(Duration::from_secs(3));
    group
}

/// Decode, clear, encode: no I/O.
fn memory(criterion: &mut Criterion) {
    let stages = Stages::new();
    let request = stages.request(1);
    let raw = decode(&request);
    let cleared = stages.gate.clear(&raw, stages.now_micros, &mut Silent);
    let batch = stages.batch(1);
    let mut group = group(criterion, "memory", load::RECORDS as u64);
    group.bench_function("decode", |b| b.iter(|| black_box(decode(black_box(&request)))));
    group.bench_function("clear", |b| {
        b.iter(|| black_box(stages.gate.clear(black_box(&raw), stages.now_micros, &mut Silent)));
    });
    group.bench_function("encode", |b| {
        b.iter(|| stages.encoder.encode(black_box(&cleared), stages.now_micros).expect("a batch"));
    });
    group.bench_function("bundle", |b| b.iter(|| bundle(black_box(&batch))));
    group.finish();
    assert!(!stages.registry.events().is_empty());
}

fn open_wal(folder: &Path) -> Wal {
    let files = WalFiles::lock(folder, &RandomIds).expect("an unused folder");
    Wal::open(files, Position(0), WalOptions::default()).expect("an open log").0
}

fn frame(stages: &Stages, payload: &bytes::Bytes) -> NewFrame {
    let digest = RandomIds.next_id().into_bytes();
    let events = u32::try_from(load::RECORDS).expect("few records");
    NewFrame { digest, received_micros: stages.now_micros, events, payload: payload.clone() }
}

/// Append with fdatasync, from one client and from four that share a sync; then reading a log back at a start.
fn wal(criterion: &mut Criterion) {
    let stages = Stages::new();
    let payload = bundle(&stages.batch(1));
    let runtime = Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let log = Arc::new(open_wal(folder.path()));
    let release = || runtime.block_on(log.release(log.durable())).expect("a release");
    let mut group = group(criterion, "wal", load::RECORDS as u64);
    for clients in [1_u64, 4] {
        group.throughput(Throughput::Elements(load::RECORDS as u64 * clients));
        group.bench_function(format!("append from {clients}"), |b| {
            b.iter_batched(
                || {
                    if log.status().bytes > 1 << 30 {
                        release();
                    }
                },
                |()| {
                    let appends = (0..clients).map(|_| {
                        let (log, frame) = (Arc::clone(&log), frame(&stages, &payload));
                        runtime.spawn(async move { log.append(frame).await })
                    });
                    for append in runtime.block_on(futures::future::join_all(appends)) {
                        append.expect("a task").expect("a durable frame");
                    }
                },
                BatchSize::PerIteration,
            );
        });
    }
    runtime.block_on(log.close()).expect("a clean end");
    // A log of its own: recovery must not be told of a table that holds what the appends left.
    let folder = tempfile::tempdir().expect("a folder");
    let log = open_wal(folder.path());
    const FRAMES: u64 = 200;
    for _ in 0..FRAMES {
        runtime.block_on(log.append(frame(&stages, &payload))).expect("a durable frame");
    }
    runtime.block_on(log.close()).expect("a clean end");
    drop(log);
    group.throughput(Throughput::Elements(load::RECORDS as u64 * FRAMES));
    group.bench_function("recover", |b| b.iter(|| drop(open_wal(folder.path()))));
    group.finish();
}

/// Sorting, Parquet and the upload to a local folder, synced.
fn data_file(criterion: &mut Criterion) {
    let stages = Stages::new();
    let runtime = Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let options = TableOptions {
        warehouse: format!("file://{}", folder.path().display()),
        name: "product.events".to_owned(),
        catalog: esker::table::CatalogOptions::Files,
        storage: Arc::default(),
        retention_days: None,
    };
    let (clock, ids): (Arc<dyn Clock>, Arc<dyn Ids>) = (Arc::new(SystemClock), Arc::new(RandomIds));
    let table = runtime
        .block_on(Table::open_or_create(&options, stages.layout.columns(), clock, ids))
        .expect("a new table");
    let batches: Vec<Batch> = (1..=REQUESTS_PER_FILE).map(|seed| stages.batch(seed)).collect();
    let mut group = group(criterion, "data file", load::RECORDS as u64 * REQUESTS_PER_FILE);
    group.sample_size(10);
    group.bench_function("write", |b| {
        b.iter(|| {
            let target = table.file_target(RandomIds.next_id()).expect("a target");
            runtime.block_on(async {
                let mut writer = DataFileWriter::new(target);
                for batch in &batches {
                    writer.push(batch.record_batch().clone()).await.expect("rows of the layout");
                }
                writer.finish().await.expect("files")
            })
        });
    });
    group.finish();
}

criterion_group!(benches, memory, wal, data_file);
criterion_main!(benches);
