//! Several tables fed by one log, with commits that fail, answers that are lost, and restarts in between: whatever happens,
//! every row is in its table once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::accounting::{Delta, EventCounts, EventDelta};
use crate::clock::{RandomIds, SystemClock};
use crate::columns::{Batch, BundleWriter, Encoder, Layout, OutcomeCounts};
use crate::privacy::Tally;
use crate::privacy::tests::fixture::{COMMITTED, NOW, Sent, clear_with, gate};
use crate::table::tests::faults::Faults;
use crate::table::{CatalogOptions, Table, TableOptions, TableStatus};
use crate::wal::{NewFrame, WalFiles, WalOptions};

const PRIMARY: &str = "product.events";
const REGIONAL: &str = "eu.events";
const QUARANTINE: &str = "product.events_quarantine";
const WITHDRAWALS: &str = "product.events_withdrawals";

const ALL: [(&str, TableKind); 4] = [
    (PRIMARY, TableKind::Events),
    (REGIONAL, TableKind::Events),
    (QUARANTINE, TableKind::Quarantine),
    (WITHDRAWALS, TableKind::Withdrawals),
];

/// What stays when a service dies.
struct Home {
    folder: TempDir,
    /// One for each of [`ALL`].
    faults: Vec<Faults>,
    max_bytes: u64,
}

/// A running service, without its listeners.
struct Life {
    flusher: Flusher,
    accounting: Arc<Accounting>,
    wal: Arc<Wal>,
}

/// `count` rows as a gate and an encoder make them.
fn rows(count: usize) -> Batch {
    let gate = gate();
    let layout = Layout::new(gate.registry()).unwrap();
    let encoder = Encoder::new(&layout, gate.registry(), gate.policy_version());
    clear_with(&gate, vec![Sent::named(COMMITTED).with("title", "x"); count], |cleared| {
        encoder.encode(cleared, NOW).unwrap().pop().unwrap().1
    })
}

/// A request's rows by table, with what became of its attributes.
fn bundle(tables: &[(&str, usize)]) -> Bytes {
    let batches: Vec<_> = tables.iter().map(|(table, count)| (*table, rows(*count))).collect();
    let mut bundle = BundleWriter::for_batches(batches.iter().map(|(_, batch)| batch));
    for (table, batch) in &batches {
        bundle.rows(table, batch).unwrap();
    }
    let title = |tally: &Tally| OutcomeCounts::of(tally, "abc123");
    let one = vec![Sent::named(COMMITTED).with("title", "x").with("user.email", "a@b.c")];
    bundle.outcomes(&clear_with(&gate(), one, |cleared| title(cleared.tally()))).unwrap();
    bundle.finish()
}

impl Home {
    fn new() -> Self {
        let faults = ALL.iter().map(|_| Faults::default()).collect();
        Self { folder: TempDir::new().unwrap(), faults, max_bytes: 1 << 20 }
    }

    fn options(&self, name: &str) -> TableOptions {
        let warehouse = format!("file://{}/warehouse", self.folder.path().display());
        let (catalog, storage, name) = (CatalogOptions::Files, Arc::default(), name.to_owned());
        TableOptions { warehouse, catalog, storage, name, retention_days: None }
    }

    async fn start(&self) -> Life {
        self.start_with(&ALL).await
    }

    /// As `esker serve` starts, with these tables.
    async fn start_with(&self, tables: &[(&str, TableKind)]) -> Life {
        let layout = Layout::new(gate().registry()).unwrap();
        let mut opened = Vec::new();
        for (name, kind) in tables {
            let (clock, ids) = (Arc::new(SystemClock), Arc::new(RandomIds));
            let table =
                Table::open_or_create(&self.options(name), layout.columns(), clock, ids).await.unwrap();
            let place = ALL.iter().position(|(known, _)| known == name).unwrap();
            let table = table.with_faults(&self.faults[place]);
            opened.push(Destination { name: (*name).to_owned(), table, kind: *kind });
        }
        let files = WalFiles::lock(self.folder.path(), &RandomIds).unwrap();
        let writer = Writer { id: files.identity().writer_id, epoch: files.identity().epoch };
        let mut opened = opened.into_iter();
        let destinations = Destinations::new(opened.next().unwrap(), opened.collect(), writer.id);
        let files = files.witnessed(destinations.furthest());
        let (wal, _) = Wal::open(files, destinations.committed(), WalOptions::default()).unwrap();
        let (wal, accounting) = (Arc::new(wal), Arc::new(Accounting::new()));
        let flusher = Flusher::new(Parts {
            wal: Arc::clone(&wal),
            destinations,
            accounting: Arc::clone(&accounting),
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            options: FlushOptions { max_age: Duration::from_secs(1), max_bytes: self.max_bytes },
            writer,
        });
        Life { flusher, accounting, wal }
    }

    async fn status(&self, name: &str) -> TableStatus {
        Table::peek(&self.options(name)).await.unwrap().unwrap().status()
    }

    /// The rows of each of [`ALL`].
    async fn rows(&self) -> [u64; 4] {
        let mut rows = [0; 4];
        for (count, (name, _)) in rows.iter_mut().zip(ALL) {
            *count = self.status(name).await.rows;
        }
        rows
    }

    /// The summary of a table's newest snapshot.
    async fn summary(&self, name: &str) -> BTreeMap<String, String> {
        let version = self.status(name).await.metadata_version;
        let path: PathBuf =
            name.split('.').fold(self.folder.path().join("warehouse"), |path, part| path.join(part));
        let text = std::fs::read_to_string(path.join(format!("metadata/v{version}.metadata.json"))).unwrap();
        let metadata: Value = serde_json::from_str(&text).unwrap();
        let snapshots = metadata["snapshots"].as_array().unwrap();
        let current = &metadata["current-snapshot-id"];
        let newest = snapshots.iter().find(|snapshot| snapshot["snapshot-id"] == *current).unwrap();
        serde_json::from_value(newest["summary"].clone()).unwrap()
    }
}

impl Life {
    /// A request arrives and is durable.
    async fn receive(&self, tables: &[(&str, usize)]) {
        let of = |kinds: &[TableKind]| -> u64 {
            let is_of = |name: &str| ALL.iter().any(|(known, kind)| *known == name && kinds.contains(kind));
            tables.iter().filter(|(name, _)| is_of(name)).map(|(_, count)| *count as u64).sum()
        };
        let event = EventDelta {
            name: COMMITTED.to_owned(),
            cleared: of(&[TableKind::Events]),
            quarantined: of(&[TableKind::Quarantine]),
            ..EventDelta::default()
        };
        let events = u32::try_from(event.cleared + event.quarantined).unwrap();
        self.accounting.received(&Delta { events: vec![event], attributes: Vec::new() });
        self.append(bundle(tables), events).await;
    }

    async fn append(&self, payload: Bytes, events: u32) {
        let digest = RandomIds.next_id().into_bytes();
        self.wal.append(NewFrame { digest, received_micros: NOW, events, payload }).await.unwrap();
    }

    fn counts(&self) -> EventCounts {
        let counts = self.accounting.counts().events.remove(COMMITTED).unwrap_or_default();
        assert!(counts.balances(), "{counts:?}");
        counts
    }

    /// Rounds until nothing waits.
    async fn flush_all(&mut self) -> Result<(), FlushError> {
        while !self.flusher.is_empty() {
            self.flusher.flush().await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn one_request_feeds_several_tables_and_the_log_is_let_go() {
    let home = Home::new();
    let mut life = home.start().await;
    life.receive(&[(PRIMARY, 3), (REGIONAL, 2), (QUARANTINE, 1), (WITHDRAWALS, 4)]).await;
    assert_eq!(life.counts().in_flight, 6, "copies are no events");
    life.flush_all().await.unwrap();
    assert_eq!(home.rows().await, [3, 2, 1, 4]);
    let counts = life.counts();
    assert_eq!((counts.received, counts.committed, counts.quarantined, counts.in_flight), (6, 5, 1, 0));
    assert_eq!(life.wal.status().waiting.frames, 0);
}

#[tokio::test]
async fn a_frame_of_withdrawals_alone_is_flushed_and_let_go() {
    let home = Home::new();
    let life = home.start().await;
    life.receive(&[(WITHDRAWALS, 2)]).await;
    drop(life);
    let mut life = home.start().await;
    life.flusher.recover().unwrap();
    assert_eq!(life.counts().in_flight, 0, "copies are no events");
    life.flush_all().await.unwrap();
    assert_eq!(home.rows().await, [0, 0, 0, 2]);
    assert_eq!(life.wal.status().waiting.frames, 0);
    drop(life);
    let life = home.start().await;
    assert!(life.flusher.is_empty(), "it is not written twice");
}

#[tokio::test]
async fn a_table_without_rows_is_not_committed_to_and_the_primary_always_is() {
    let home = Home::new();
    let mut life = home.start().await;
    life.receive(&[(REGIONAL, 2)]).await;
    life.flush_all().await.unwrap();
    let (primary, regional) = (home.status(PRIMARY).await, home.status(REGIONAL).await);
    assert_eq!((primary.metadata_version, primary.snapshots), (2, 0), "its position alone");
    assert_eq!((regional.metadata_version, regional.snapshots, regional.rows), (2, 1, 2));
    assert_eq!(home.status(QUARANTINE).await.metadata_version, 1);
    life.receive(&[(PRIMARY, 1)]).await;
    life.flush_all().await.unwrap();
    assert_eq!(home.status(REGIONAL).await.metadata_version, 2);
    life.receive(&[(REGIONAL, 1)]).await;
    life.flush_all().await.unwrap();
    assert_eq!(home.rows().await, [1, 3, 0, 0], "a table that was behind goes on where it stands");
}

#[tokio::test]
async fn a_crash_between_two_tables_commits_stores_every_row_once() {
    let home = Home::new();
    let mut life = home.start().await;
    life.receive(&[(PRIMARY, 3), (REGIONAL, 2), (QUARANTINE, 1)]).await;
    home.faults[0].down();
    assert!(life.flush_all().await.unwrap_err().is_transient());
    assert_eq!(home.rows().await, [0, 2, 1, 0], "the primary is the last");
    let counts = life.counts();
    assert_eq!((counts.committed, counts.quarantined, counts.in_flight), (2, 1, 3));
    drop(life);

    home.faults[0].heal();
    let mut life = home.start().await;
    life.flusher.recover().unwrap();
    assert_eq!(life.counts().in_flight, 3, "what other tables have is not in flight");
    life.receive(&[(REGIONAL, 5), (WITHDRAWALS, 1)]).await;
    life.flush_all().await.unwrap();
    assert_eq!(home.rows().await, [3, 7, 1, 1]);
    assert_eq!((life.counts().committed, life.counts().in_flight), (8, 0));
}

/// Ids as a process made them that was held up since 1970.
#[derive(Debug)]
struct OldIds;

impl Ids for OldIds {
    fn next_id(&self) -> Uuid {
        let mut bytes = RandomIds.next_id().into_bytes();
        bytes[..6].fill(0);
        Uuid::from_bytes(bytes)
    }
}

#[tokio::test]
async fn files_whose_commit_was_held_up_for_too_long_are_written_again() {
    let home = Home::new();
    let mut life = home.start().await;
    life.receive(&[(PRIMARY, 3), (REGIONAL, 2)]).await;
    let ids = std::mem::replace(&mut life.flusher.parts.ids, Arc::new(OldIds));
    let held_up = life.flush_all().await.unwrap_err();
    assert!(held_up.is_transient() && held_up.to_string().contains("held up for"), "{held_up}");
    // The care of the tables may have deleted them meanwhile.
    for table in ["product", "eu"] {
        let data = home.folder.path().join(format!("warehouse/{table}/events/data"));
        std::fs::remove_dir_all(&data).unwrap();
    }
    assert_eq!(home.rows().await, [0, 0, 0, 0]);
    life.flusher.parts.ids = ids;
    life.flush_all().await.unwrap();
    assert_eq!(home.rows().await, [3, 2, 0, 0]);
    assert_eq!((life.counts().committed, life.counts().in_flight), (5, 0));
    assert_eq!(life.wal.status().waiting.frames, 0);
}

#[tokio::test]
async fn trouble_with_one_table_loses_and_doubles_nothing() {
    let home = Home::new();
    let mut life = home.start().await;
    life.receive(&[(PRIMARY, 3), (REGIONAL, 2), (QUARANTINE, 1)]).await;
    home.faults[2].down();
    for _ in 0..3 {
        assert!(life.flush_all().await.unwrap_err().is_transient());
        assert_eq!(home.rows().await, [0, 2, 0, 0]);
        assert_eq!((life.counts().committed, life.counts().in_flight), (2, 4));
        assert_eq!(life.wal.status().waiting.frames, 1, "the log keeps what one table lacks");
    }
    // What arrives meanwhile waits for its own round.
    life.receive(&[(PRIMARY, 1), (REGIONAL, 1)]).await;
    home.faults[2].heal();
    life.flush_all().await.unwrap();
    assert_eq!(home.rows().await, [4, 3, 1, 0]);
    assert_eq!((life.counts().committed, life.counts().quarantined, life.counts().in_flight), (7, 1, 0));
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_by_the_next_attempt() {
    for (muted, _) in ALL.iter().enumerate() {
        let home = Home::new();
        let mut life = home.start().await;
        life.receive(&[(PRIMARY, 3), (REGIONAL, 2), (QUARANTINE, 1), (WITHDRAWALS, 1)]).await;
        home.faults[muted].mute();
        life.flush_all().await.unwrap_err();
        home.faults[muted].heal();
        life.flush_all().await.unwrap();
        assert_eq!(home.rows().await, [3, 2, 1, 1]);
        assert_eq!((life.counts().committed, life.counts().quarantined), (5, 1));
    }
}

#[tokio::test]
async fn rows_for_a_table_that_was_removed_stop_the_start() {
    let home = Home::new();
    let life = home.start().await;
    life.receive(&[(PRIMARY, 3), (REGIONAL, 2)]).await;
    drop(life);
    let life = home.start_with(&[(PRIMARY, TableKind::Events)]).await;
    let refusal = life.flusher.recover().unwrap_err();
    assert!(!refusal.is_transient());
    let text = refusal.to_string();
    assert!(
        text.contains("`eu.events`") && text.contains("[[tables]]") && text.contains("esker status"),
        "{text}"
    );
    drop(life);
    // Put back, and once it has its rows it may go.
    let mut life = home.start().await;
    life.flusher.recover().unwrap();
    life.flush_all().await.unwrap();
    drop(life);
    home.start_with(&[(PRIMARY, TableKind::Events)]).await.flusher.recover().unwrap();
    assert_eq!(home.rows().await, [3, 2, 0, 0]);
}

#[tokio::test]
async fn frames_that_another_table_holds_are_missed_by_the_next_start() {
    let home = Home::new();
    let mut life = home.start().await;
    life.receive(&[(PRIMARY, 3), (REGIONAL, 2)]).await;
    home.faults[0].down();
    life.flush_all().await.unwrap_err();
    drop(life);
    // The log loses its end, cut exactly before a frame: alone, that leaves no trace.
    let log = home.folder.path().join("wal");
    for file in std::fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|kind| kind == "wal") {
            std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(64).unwrap();
        }
    }
    let files = WalFiles::lock(home.folder.path(), &RandomIds).unwrap().witnessed(Position(1));
    let refusal = Wal::open(files, Position(0), WalOptions::default()).unwrap_err();
    assert!(refusal.to_string().contains("wal.on_damage"), "{refusal}");
    let options = WalOptions { on_damage: crate::wal::OnDamage::SetAside, ..WalOptions::default() };
    let files = WalFiles::lock(home.folder.path(), &RandomIds).unwrap().witnessed(Position(1));
    let (_, recovery) = Wal::open(files, Position(0), options).unwrap();
    assert_eq!(recovery.next, Position(2), "a position that a table holds is not used again");
    assert_eq!(recovery.frames_lost(crate::wal::DamageKind::Lost), 1);
}

#[tokio::test]
async fn a_payload_of_before_there_were_bundles_goes_to_the_primary() {
    let home = Home::new();
    let mut life = home.start().await;
    life.append(rows(3).to_ipc().unwrap(), 3).await;
    life.flusher.recover().unwrap();
    life.flush_all().await.unwrap();
    assert_eq!(home.rows().await, [3, 0, 0, 0]);
}

#[tokio::test]
async fn a_rounds_outcomes_are_told_by_one_snapshot() {
    let home = Home::new();
    let mut life = home.start().await;
    life.receive(&[(PRIMARY, 3), (REGIONAL, 2)]).await;
    life.receive(&[(PRIMARY, 1)]).await;
    life.flush_all().await.unwrap();
    let (told, other) = (home.summary(PRIMARY).await, home.summary(REGIONAL).await);
    assert_eq!(told["esker.policy-versions"], "abc123");
    assert_eq!(
        (told["esker.attributes-kept"].as_str(), told["esker.attributes-dropped"].as_str()),
        ("2", "2")
    );
    assert_eq!(
        (told["esker.attributes-from"].as_str(), told["esker.attributes-through"].as_str()),
        ("1", "2")
    );
    assert_eq!(told["esker.rows-by-event"], format!("{{\"{COMMITTED}\":4}}"));
    assert!(!other.contains_key("esker.policy-versions"));
    assert_eq!(other["esker.rows-by-event"], format!("{{\"{COMMITTED}\":2}}"));
    // Where the primary gets no snapshot, another table tells.
    life.receive(&[(REGIONAL, 2)]).await;
    life.flush_all().await.unwrap();
    let told = home.summary(REGIONAL).await;
    assert_eq!((told["esker.attributes-kept"].as_str(), told["esker.attributes-from"].as_str()), ("1", "3"));
}

#[tokio::test]
async fn all_tables_share_the_memory_of_one_run() {
    let home = Home::new();
    let life = home.start().await;
    let targets =
        |id| life.flusher.parts.destinations.tables().iter().map(move |table| table.file_target(id).unwrap());
    let mut files = round::Files::new(targets(RandomIds.next_id()).collect(), 1);
    for place in [0, 1, 0] {
        files.push(place, &rows(2)).await.unwrap();
    }
    let claim = |_| crate::table::WalClaim {
        writer_id: RandomIds.next_id(),
        epoch: 1,
        from: Position(1),
        through: Position(1),
        commit_id: RandomIds.next_id(),
    };
    let parts = files.finish(claim, &BTreeMap::new()).await.unwrap();
    let files: Vec<_> = parts.iter().map(|part| (part.place, part.files.len())).collect();
    assert_eq!(files, [(1, 1), (0, 2)], "each batch was written before the next was held");
}

#[tokio::test]
async fn a_stop_ends_the_wait_after_a_failure_and_flushes() {
    let home = Home::new();
    let life = home.start().await;
    life.receive(&[(PRIMARY, 3)]).await;
    home.faults[0].down();
    let (watch, stop) = (life.flusher.watch(), CancellationToken::new());
    let running = tokio::spawn(life.flusher.run(stop.clone()));
    // The waits are 0.5, 1 and 2 seconds: the stop comes at the beginning of the third.
    while watch.report().failures < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    home.faults[0].heal();
    let stopped = Instant::now();
    stop.cancel();
    running.await.unwrap().unwrap();
    assert!(stopped.elapsed() < Duration::from_millis(1500), "{:?}", stopped.elapsed());
    assert_eq!(home.rows().await[0], 3);
}

#[tokio::test]
async fn a_stop_while_the_store_is_away_tries_again_and_again() {
    let home = Home::new();
    let life = home.start().await;
    life.receive(&[(PRIMARY, 3)]).await;
    home.faults[0].down();
    let (watch, stop) = (life.flusher.watch(), CancellationToken::new());
    stop.cancel();
    let running = tokio::spawn(life.flusher.run(stop));
    let started = Instant::now();
    while watch.report().failures < 4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        started.elapsed() < Duration::from_millis(3000),
        "the waits did not stay short: {:?}",
        started.elapsed()
    );
    home.faults[0].heal();
    running.await.unwrap().unwrap();
    assert_eq!(home.rows().await[0], 3);
}

#[derive(Debug, Clone)]
enum Step {
    Receive(Vec<(usize, usize)>),
    Down(usize),
    Mute(usize),
    Heal,
    Flush,
    /// A commit to this table fails, or its answer is lost, and the service dies of it.
    Crash {
        place: usize,
        mute: bool,
    },
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let receive = proptest::collection::btree_map(0..4_usize, 1..4_usize, 1..4)
        .prop_map(|tables| Step::Receive(tables.into_iter().collect()));
    let step = prop_oneof![
        4 => receive,
        1 => (0..4_usize).prop_map(Step::Down),
        1 => (0..4_usize).prop_map(Step::Mute),
        1 => Just(Step::Heal),
        3 => Just(Step::Flush),
        2 => (0..4_usize, any::<bool>()).prop_map(|(place, mute)| Step::Crash { place, mute }),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails_every_row_is_in_its_table_once(steps in steps(), max_bytes in 1..40_000_u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (found, sent) = runtime.block_on(live(steps, max_bytes));
        prop_assert_eq!(found, sent);
    }
}

/// Plays the steps, heals everything, and tells the rows that the tables hold and those that they should.
async fn live(steps: Vec<Step>, max_bytes: u64) -> ([u64; 4], [u64; 4]) {
    let home = Home { max_bytes, ..Home::new() };
    let mut life = home.start().await;
    let mut sent = [0; 4];
    for step in steps {
        match step {
            Step::Receive(tables) => {
                let named: Vec<_> = tables.iter().map(|(place, count)| (ALL[*place].0, *count)).collect();
                life.receive(&named).await;
                tables.iter().for_each(|(place, count)| sent[*place] += *count as u64);
            }
            Step::Down(place) => home.faults[place].down(),
            Step::Mute(place) => home.faults[place].mute(),
            Step::Heal => home.faults.iter().for_each(Faults::heal),
            Step::Flush => drop(life.flush_all().await),
            Step::Crash { place, mute } => {
                if mute {
                    home.faults[place].mute()
                } else {
                    home.faults[place].down()
                }
                drop(life.flush_all().await);
                home.faults.iter().for_each(Faults::heal);
                drop(life);
                life = home.start().await;
                life.flusher.recover().unwrap();
            }
            Step::Restart => {
                drop(life);
                life = home.start().await;
                life.flusher.recover().unwrap();
            }
        }
        life.counts();
    }
    home.faults.iter().for_each(Faults::heal);
    life.flush_all().await.unwrap();
    assert_eq!(life.counts().in_flight, 0);
    (home.rows().await, sent)
}
