//! One round: the durable frames after the primary's position, read once and written as data files of every table.
//!
//! Owns: which rows go into which table's files, how much memory all of them share, what a round's snapshots say. Does not
//! own: when a round begins, nor its commits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use uuid::Uuid;

use super::destination::{PRIMARY, Standings, TableKind};
use super::{FlushError, Writer};
use crate::columns::{AttributeFate, Batch, Bundle, OutcomeCounts};
use crate::datafile::{DataFileWriter, FileTarget, RUN_BYTES_MAX, WrittenFile, row_bytes};
use crate::table::WalClaim;
use crate::wal::{FrameReader, Position, Wal};

/// What a round makes part of the tables. The files are uploaded and wait for their commits.
#[derive(Debug)]
pub(super) struct Round {
    /// In the order of their commits: the primary is the last.
    pub(super) parts: VecDeque<Part>,
    /// The last position.
    pub(super) through: Position,
    /// When the oldest of its requests was received.
    pub(super) oldest_micros: i64,
}

/// One table's part of a round. The primary has one in every round, if need be without files.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) place: usize,
    pub(super) files: Vec<WrittenFile>,
    pub(super) claim: WalClaim,
    /// Rows by event name.
    pub(super) rows: BTreeMap<String, u64>,
    /// Goes into the snapshot's summary.
    pub(super) summary: BTreeMap<String, String>,
}

/// Reads frames and writes their rows as data files; None where there was no frame.
pub(super) async fn write(
    frames: FrameReader,
    targets: Vec<FileTarget>,
    standings: Standings,
    writer: Writer,
    commit_id: Uuid,
) -> Result<Option<Round>, FlushError> {
    let committed = standings.position(PRIMARY);
    let (mut through, mut oldest_micros) = (committed, i64::MAX);
    let mut files = Files::new(targets, RUN_BYTES_MAX);
    let mut outcomes = Outcomes::default();
    for frame in frames {
        let frame = frame?;
        through = frame.position;
        oldest_micros = oldest_micros.min(frame.received_micros);
        let payload = |source| FlushError::Payload { position: frame.position, source };
        let bundle = Bundle::parse(frame.payload).map_err(payload)?;
        if let Some(counts) = bundle.outcomes() {
            outcomes.add(counts);
        }
        for section in bundle.sections() {
            if let Some((place, _)) = standings.lacks(section.table(), frame.position)? {
                files.push(place, &section.batch().map_err(payload)?).await?;
            }
        }
    }
    if through == committed {
        return Ok(None);
    }
    let claim = |place| WalClaim {
        writer_id: writer.id,
        epoch: writer.epoch,
        from: standings.position(place).next(),
        through,
        commit_id,
    };
    let parts = files.finish(claim, &outcomes.summary(committed.next(), through)).await?;
    Ok(Some(Round { parts, through, oldest_micros }))
}

/// Rows in the WAL that some table lacks, by event name; copies of other rows are not counted.
///
/// # Errors
/// Where a frame cannot be read, or is for a table that is not there any more.
pub(super) fn backlog(wal: &Wal, standings: &Standings) -> Result<BTreeMap<String, u64>, FlushError> {
    let mut rows = BTreeMap::new();
    for frame in wal.read(standings.position(PRIMARY), Position(u64::MAX)) {
        let frame = frame?;
        let payload = |source| FlushError::Payload { position: frame.position, source };
        for section in Bundle::parse(frame.payload).map_err(payload)?.sections() {
            match standings.lacks(section.table(), frame.position)? {
                None | Some((_, TableKind::Withdrawals)) => {}
                Some(_) => count(&mut rows, &section.batch().map_err(payload)?),
            }
        }
    }
    Ok(rows)
}

fn count(rows: &mut BTreeMap<String, u64>, batch: &Batch) {
    for count in batch.event_counts() {
        *rows.entry(count.name).or_default() += count.events;
    }
}

/// The data files of a round, of each table that gets rows. All tables together hold at most one run's bytes: memory does
/// not grow with their number. Where that is used up, the table that holds most writes its run.
pub(super) struct Files {
    tables: Vec<TableFiles>,
    run_bytes_max: usize,
}

struct TableFiles {
    writer: DataFileWriter,
    rows: BTreeMap<String, u64>,
}

impl Files {
    pub(super) fn new(targets: Vec<FileTarget>, run_bytes_max: usize) -> Self {
        let files = |target| TableFiles { writer: DataFileWriter::new(target), rows: BTreeMap::new() };
        Self { tables: targets.into_iter().map(files).collect(), run_bytes_max }
    }

    pub(super) async fn push(&mut self, place: usize, batch: &Batch) -> Result<(), FlushError> {
        self.make_room(row_bytes(batch.record_batch())).await?;
        if let Some(table) = self.tables.get_mut(place) {
            count(&mut table.rows, batch);
            table.writer.push(batch.record_batch().clone()).await?;
        }
        Ok(())
    }

    async fn make_room(&mut self, bytes: usize) -> Result<(), FlushError> {
        while self.tables.iter().map(|table| table.writer.run_bytes()).sum::<usize>() + bytes
            > self.run_bytes_max
        {
            let fullest = self.tables.iter_mut().max_by_key(|table| table.writer.run_bytes());
            match fullest.filter(|table| table.writer.run_bytes() > 0) {
                Some(table) => table.writer.write_run().await?,
                // One batch alone may be larger than a run.
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Writes what is left. The round's outcomes are told once: by the primary's snapshot or, where the primary gets none,
    /// by that of another table.
    pub(super) async fn finish(
        self,
        claim: impl Fn(usize) -> WalClaim,
        outcomes: &BTreeMap<String, String>,
    ) -> Result<VecDeque<Part>, FlushError> {
        let mut parts = VecDeque::new();
        for (place, table) in self.tables.into_iter().enumerate() {
            let files = table.writer.finish().await?;
            if files.is_empty() && place != PRIMARY {
                continue;
            }
            let by_event = serde_json::to_string(&table.rows).unwrap_or_default();
            let summary = BTreeMap::from([("esker.rows-by-event".to_owned(), by_event)]);
            parts.push_back(Part { place, files, claim: claim(place), rows: table.rows, summary });
        }
        // The primary was the first; its commit is the last.
        parts.rotate_left(usize::from(parts.len() > 1));
        if let Some(teller) = parts.iter_mut().rfind(|part| !part.files.is_empty()) {
            teller.summary.extend(outcomes.clone());
        }
        Ok(parts)
    }
}

/// What became of the attributes of a round's requests, and how many events were set aside.
#[derive(Default)]
struct Outcomes {
    policy_versions: BTreeSet<String>,
    /// By key of the summary.
    counts: BTreeMap<&'static str, u64>,
}

impl Outcomes {
    fn add(&mut self, counts: &OutcomeCounts) {
        if !self.policy_versions.contains(counts.policy_version()) {
            self.policy_versions.insert(counts.policy_version().to_owned());
        }
        for fate in AttributeFate::ALL {
            *self.counts.entry(fate.summary_key()).or_default() += counts.count(fate);
        }
    }

    /// As a snapshot's summary has it, with the span of the WAL that it is about: where a crash between two commits makes
    /// two tables tell of the same requests, the spans overlap, and who adds them up can see it.
    fn summary(&self, from: Position, through: Position) -> BTreeMap<String, String> {
        if self.policy_versions.is_empty() {
            return BTreeMap::new();
        }
        let versions = self.policy_versions.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let mut summary = BTreeMap::from([
            ("esker.policy-versions".to_owned(), versions),
            ("esker.attributes-from".to_owned(), from.to_string()),
            ("esker.attributes-through".to_owned(), through.to_string()),
        ]);
        summary.extend(self.counts.iter().map(|(key, count)| ((*key).to_owned(), count.to_string())));
        summary
    }
}
