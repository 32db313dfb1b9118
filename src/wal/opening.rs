//! A start: read every segment, judge, repair, and begin a segment for the new epoch.
//!
//! Nothing is changed before it is certain that the log may be opened.
//!
//! Owns: the order of these steps, and the report of what was found. Does not own: the judgement (`recover`) or the
//! changes (`repair`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Position;
use super::digests::{self, DurableDigest, RecentDigests};
use super::disk::{self, Disk};
use super::error::WalError;
use super::frame::{FrameHeader, SegmentHeader};
use super::identity::WalFiles;
use super::options::{OnDamage, WalOptions};
use super::recover::{self, Plan, SegmentPlan};
use super::repair::{self, Repair};
use super::scan::{Depth, ScanOptions, SegmentScan, scan_segment};
use super::segments::{Segment, Shared};
use super::writer::{Writer, WriterLimits};

/// What a start found in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The first and the last frame that wait for the table; `None` if none does.
    pub waiting: Option<(Position, Position)>,
    /// How many frames wait.
    pub frames: u64,
    /// How many events are in them.
    pub events: u64,
    /// The position that the next frame gets.
    pub next: Position,
    /// The digests of the newest durable requests, the oldest first, for the retry window.
    pub digests: Vec<DurableDigest>,
    /// What was damaged.
    pub damage: Vec<DamagedPlace>,
}

impl Recovery {
    /// How many frames were lost, as far as that is known: the end of a torn tail cannot tell.
    #[must_use]
    pub fn frames_lost(&self, kind: DamageKind) -> u64 {
        self.places(kind).map(DamagedPlace::frames_lost).sum()
    }

    /// How many bytes were set aside.
    #[must_use]
    pub fn bytes_set_aside(&self, kind: DamageKind) -> u64 {
        self.places(kind).map(|place| place.bytes).sum()
    }

    fn places(&self, kind: DamageKind) -> impl Iterator<Item = &DamagedPlace> {
        self.damage.iter().filter(move |place| place.kind == kind)
    }
}

/// What damage means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamageKind {
    /// The unfinished end of the last write: nothing proves that it was ever acknowledged.
    Torn,
    /// Nothing that the table does not hold.
    Harmless,
    /// Acknowledged frames that are nowhere else.
    Lost,
}

/// A damaged place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedPlace {
    /// The segment.
    pub file: PathBuf,
    /// Where in it the damage began.
    pub offset: u64,
    /// How many bytes of it are damaged; 0 if frames are missing without a trace.
    pub bytes: u64,
    /// What the damage means.
    pub kind: DamageKind,
    /// The first and the last position that are missing because of it, if that is known.
    pub lost: Option<(Position, Position)>,
    /// Where a copy of the damaged bytes is.
    pub copy: Option<PathBuf>,
}

impl DamagedPlace {
    /// Whether it is the segment's own header, which is synced before the file gets its name: no crash alone does that, and
    /// what the segment held is unknown.
    #[must_use]
    pub fn is_header(&self) -> bool {
        self.offset == 0
    }

    /// How many positions are missing because of it, if that is known; else 0.
    #[must_use]
    pub fn frames_lost(&self) -> u64 {
        self.lost.map_or(0, |(first, last)| last.0 - first.previous().0)
    }
}

/// Opens the log of a data directory, given what the table holds of it.
pub(super) fn open(
    disk: Arc<dyn Disk>,
    files: WalFiles,
    committed: Position,
    options: &WalOptions,
) -> Result<(Writer, Recovery), WalError> {
    let WalFiles { directory, identity, lock, witnessed } = files;
    let scan_options = ScanOptions { writer_id: identity.writer_id, committed, depth: Depth::Everything };
    let mut recent = RecentDigests::default();
    let scans = scan_all(&directory, scan_options, &mut |frame| {
        let FrameHeader { digest, received_micros, position, .. } = *frame;
        recent.push(DurableDigest { digest, received_micros, position });
    })?;
    let mut plan = recover::plan(&scans, committed, witnessed)?;
    if let Some(refusal) = plan.refusal().filter(|_| options.on_damage == OnDamage::Refuse) {
        return Err(refusal);
    }
    recent.prepend(
        digests::load(&directory, committed).map_err(WalError::io("read the digests in", &directory))?,
    );
    recent.save(disk.as_ref(), &directory, committed).map_err(repair::failed)?;
    let repair = Repair { disk: disk.as_ref(), directory: &directory, identity };
    let mut segments = repair.run(&scans, &mut plan)?;
    let recovery = report(&plan, committed, &recent);
    let header = SegmentHeader {
        writer_id: identity.writer_id,
        epoch: identity.epoch,
        first: plan.next,
        missing_from: plan.missing_from,
    };
    let staged = disk::begin_segment(disk.as_ref(), &directory, &header).map_err(repair::failed)?;
    let (active, path) = staged.publish(disk.as_ref()).map_err(repair::failed)?;
    segments.push(Segment::empty(path, plan.next));
    let shared = Arc::new(Shared::new(segments.into(), committed, plan.next.previous()));
    let limits = WriterLimits { segment_bytes: options.segment_bytes, bytes_max: options.bytes_max };
    Ok((Writer { disk, directory, identity, limits, shared, recent, active, lock }, recovery))
}

/// Scans the segments of a directory, in order.
pub(super) fn scan_all(
    directory: &Path,
    options: ScanOptions,
    found: &mut dyn FnMut(&FrameHeader),
) -> Result<Vec<SegmentScan>, WalError> {
    let segments = disk::list_segments(directory).map_err(WalError::io("list", directory))?;
    segments.iter().map(|(first, path)| scan_segment(path, *first, options, found)).collect()
}

fn report(plan: &Plan, committed: Position, recent: &RecentDigests) -> Recovery {
    let mut recovery = Recovery {
        waiting: None,
        frames: 0,
        events: 0,
        next: plan.next,
        digests: recent.to_vec(),
        damage: plan.damage.iter().map(|found| found.place.clone()).collect(),
    };
    let runs = plan.segments.iter().flat_map(|segment| match segment {
        SegmentPlan::Keep(run) => vec![*run],
        SegmentPlan::Rewrite(kept) => kept.iter().map(|kept| kept.run).collect(),
        SegmentPlan::Delete => Vec::new(),
    });
    for run in runs {
        let before = run.first.previous().max(committed);
        recovery.frames += run.last.0 - before.0;
        recovery.events += run.events;
        let first = recovery.waiting.map_or(before.next(), |(first, _)| first);
        recovery.waiting = Some((first, run.last));
    }
    warn(&recovery);
    recovery
}

/// One line for each kind of damage, however many places there are.
fn warn(recovery: &Recovery) {
    for kind in [DamageKind::Torn, DamageKind::Harmless, DamageKind::Lost] {
        let Some(first) = recovery.places(kind).next() else { continue };
        let (file, offset) = (first.file.display(), first.offset);
        let (places, bytes) = (recovery.places(kind).count(), recovery.bytes_set_aside(kind));
        let frames = recovery.frames_lost(kind);
        let copy = first.copy.as_ref().map(|copy| copy.display().to_string()).unwrap_or_default();
        match kind {
            DamageKind::Torn if first.is_header() => tracing::error!(
                %file, offset, bytes, copy,
                "the newest segment of the log has lost its beginning, which no crash alone does: requests that were \
                 acknowledged last may be lost; check the disk"
            ),
            DamageKind::Torn => tracing::warn!(
                %file, offset, bytes, copy,
                "the last write to the log was not finished: its bytes were set aside; nothing shows that they were acknowledged"
            ),
            DamageKind::Harmless => tracing::warn!(
                %file, offset, places, bytes, copy, "the log was damaged where the table holds everything: nothing is lost"
            ),
            DamageKind::Lost => tracing::error!(
                %file, offset, places, bytes, frames, copy,
                "acknowledged frames are lost: the damaged bytes were set aside, as `wal.on_damage` says"
            ),
        }
    }
}
