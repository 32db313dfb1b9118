//! What the files found at a start mean: which frames stay, what is damaged, and whether that matters.
//!
//! Three kinds of damage ([`DamageKind`]). A *torn tail* was never acknowledged, as far as anything proves: it is set
//! aside and the log goes on. Damage to frames that the table already holds is *harmless*. Anything else is *lost*:
//! acknowledged frames that are nowhere else; only the operator may decide to go on without them.
//!
//! A gap counts as reported, and is not reported again, if the header of the segment after it declares it. This, and
//! the rule that a segment ends where the next one begins, make a repair that was cut short by a crash repeatable.
//!
//! Owns: that judgement, as a pure function of the scans and the committed position. Does not own: reading (`scan`) or
//! changing files (`repair`).

use std::path::PathBuf;

use super::error::WalError;
use super::frame::SEGMENT_HEADER_BYTES;
use super::scan::{Piece, Run, SegmentScan};
use super::{DamageKind, DamagedPlace, Position};

/// What is to be done so that only valid frames remain.
#[derive(Debug)]
pub(super) struct Plan {
    /// One for each scan.
    pub(super) segments: Vec<SegmentPlan>,
    pub(super) damage: Vec<FoundDamage>,
    /// The position that the next frame gets.
    pub(super) next: Position,
    /// For the next segment's header.
    pub(super) missing_from: Position,
}

/// What is to be done with one segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SegmentPlan {
    Keep(Run),
    /// Nothing in it waits for the table.
    Delete,
    /// Make a segment of each run.
    Rewrite(Vec<KeptRun>),
}

/// A run that becomes a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeptRun {
    pub(super) run: Run,
    pub(super) missing_from: Position,
}

/// Damage and where its bytes are.
#[derive(Debug)]
pub(super) struct FoundDamage {
    /// Index of the scan.
    pub(super) segment: usize,
    pub(super) place: DamagedPlace,
}

impl Plan {
    /// The error that stops a start which may not go on without the lost frames.
    pub(super) fn refusal(&self) -> Option<WalError> {
        let lost =
            || self.damage.iter().map(|found| &found.place).filter(|place| place.kind == DamageKind::Lost);
        let worst = lost().find(|place| place.lost.is_some())?;
        let (first, _) = worst.lost?;
        let (_, last) = lost().filter_map(|place| place.lost).next_back()?;
        Some(WalError::Damaged {
            file: worst.file.clone(),
            offset: worst.offset,
            frames: lost().map(DamagedPlace::frames_lost).sum(),
            first,
            last,
            places: lost().count(),
        })
    }
}

/// Judges what the scans, in the order of their positions, found. Frames up to `witnessed` are proven to have been durable.
pub(super) fn plan(
    scans: &[SegmentScan],
    committed: Position,
    witnessed: Position,
) -> Result<Plan, WalError> {
    let mut planner = Planner {
        committed,
        reached: committed,
        kept_to: None,
        gap_from: None,
        open: Vec::new(),
        damage: Vec::new(),
    };
    let mut segments = Vec::with_capacity(scans.len());
    for (index, scan) in scans.iter().enumerate() {
        let successor = scans.get(index + 1).map(|next| next.first);
        segments.push(planner.segment(index, scan, successor)?);
    }
    if planner.reached < witnessed {
        match scans.iter().enumerate().next_back() {
            Some((index, last)) => {
                planner.arrive(witnessed.next(), None, false, || place(index, last, last.file_bytes, 0));
            }
            None => planner.reached = witnessed,
        }
    }
    planner.settle(DamageKind::Torn, None);
    let next = planner.reached.next();
    let missing_from = planner.gap_from.unwrap_or(next);
    Ok(Plan { segments, damage: planner.damage, next, missing_from })
}

struct Planner {
    committed: Position,
    /// Every position up to here is accounted for: committed, kept, or known to be lost.
    reached: Position,
    /// The last position of the last run.
    kept_to: Option<Position>,
    /// Lost positions that the next segment must declare begin here.
    gap_from: Option<Position>,
    /// Damage whose meaning depends on what follows.
    open: Vec<FoundDamage>,
    damage: Vec<FoundDamage>,
}

impl Planner {
    fn segment(
        &mut self,
        index: usize,
        scan: &SegmentScan,
        successor: Option<Position>,
    ) -> Result<SegmentPlan, WalError> {
        if self.kept_to.is_some_and(|kept_to| scan.first <= kept_to) {
            return Err(WalError::Overlap { file: scan.path.clone(), first: scan.first });
        }
        let declared = scan.header.map(|header| header.missing_from);
        self.arrive(scan.first, declared, false, || place(index, scan, 0, 0));
        let runs = own_runs(scan, successor);
        let mut kept = Vec::new();
        let mut rest = runs.as_slice();
        for piece in &scan.pieces {
            match *piece {
                Piece::Damage { offset, bytes } => self.open.push(place(index, scan, offset, bytes)),
                Piece::Run(run) if rest.first() == Some(&run) => {
                    let proves = |later: &Run| later.durable_before > self.reached;
                    let may_be_torn = successor.is_none() && !rest.iter().any(proves);
                    self.arrive(run.first, None, may_be_torn, || place(index, scan, run.offset, 0));
                    rest = rest.get(1..).unwrap_or_default();
                    kept.extend(self.keep(run));
                }
                // The next segment holds it: an earlier repair was cut short.
                Piece::Run(_) => {}
            }
        }
        Ok(decide(scan, successor.is_none(), kept))
    }

    /// Accounts for what lies between the last position and a segment or run that begins at `first`.
    fn arrive(
        &mut self,
        first: Position,
        declared: Option<Position>,
        may_be_torn: bool,
        gap: impl FnOnce() -> FoundDamage,
    ) {
        let lost_first = self.reached.next();
        if first <= lost_first {
            self.settle(DamageKind::Harmless, None);
            return;
        }
        self.reached = first.previous();
        if let Some(declared) = declared.filter(|declared| *declared <= lost_first) {
            self.gap_from.get_or_insert(declared);
            self.open.clear();
            return;
        }
        self.gap_from.get_or_insert(lost_first);
        if self.open.is_empty() {
            self.open.push(gap());
        }
        let kind = if may_be_torn { DamageKind::Torn } else { DamageKind::Lost };
        let lost_last = declared.map_or(self.reached, |declared| declared.min(first).previous());
        self.settle(kind, Some((lost_first, lost_last)));
    }

    /// Gives the open damage its meaning. What is lost is counted once, at the first of the places.
    fn settle(&mut self, kind: DamageKind, lost: Option<(Position, Position)>) {
        let mut lost = lost;
        for mut found in self.open.drain(..) {
            found.place.kind = kind;
            found.place.lost = lost.take();
            self.damage.push(found);
        }
    }

    fn keep(&mut self, run: Run) -> Option<KeptRun> {
        self.kept_to = Some(run.last);
        self.reached = self.reached.max(run.last);
        if run.last <= self.committed {
            return None;
        }
        Some(KeptRun { run, missing_from: self.gap_from.take().unwrap_or(run.first) })
    }
}

/// The runs of a segment that are not also in the next one.
fn own_runs(scan: &SegmentScan, successor: Option<Position>) -> Vec<Run> {
    let is_own = |run: &Run| successor.is_none_or(|successor| run.first < successor);
    let runs = scan.pieces.iter().filter_map(|piece| match piece {
        Piece::Run(run) => Some(*run),
        Piece::Damage { .. } => None,
    });
    runs.filter(is_own).collect()
}

/// The last segment is always written again: nothing proves that its end was ever synced. The frames may be in the page
/// cache only, after a kill or a failed sync, and yet be acknowledged from now on, to a client that retries.
fn decide(scan: &SegmentScan, is_last: bool, kept: Vec<KeptRun>) -> SegmentPlan {
    let Some(only) = kept.first().copied() else { return SegmentPlan::Delete };
    let header_says_enough = scan.header.is_some_and(|header| header.missing_from <= only.missing_from);
    let is_whole = only.run.offset == SEGMENT_HEADER_BYTES && only.run.end == scan.file_bytes;
    if is_last || !header_says_enough || !is_whole {
        SegmentPlan::Rewrite(kept)
    } else {
        SegmentPlan::Keep(only.run)
    }
}

fn place(segment: usize, scan: &SegmentScan, offset: u64, bytes: u64) -> FoundDamage {
    let file = scan.path.clone();
    let copy: Option<PathBuf> = None;
    FoundDamage {
        segment,
        place: DamagedPlace { file, offset, bytes, kind: DamageKind::Torn, lost: None, copy },
    }
}
