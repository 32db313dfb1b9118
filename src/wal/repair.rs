//! Carries a recovery plan out: copies of damaged bytes first, then segments that hold valid frames only.
//!
//! Segments are rewritten from the last to the first, each under a temporary name until it is whole and synced: a crash
//! in between leaves a log that the next start repairs to the same end (see `recover`).
//!
//! Owns: changing files at a start. Does not own: deciding what to change.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::disk::{self, Disk, Failed, Staged};
use super::error::WalError;
use super::frame::{SEGMENT_HEADER_BYTES, SegmentHeader};
use super::identity::WriterIdentity;
use super::recover::{FoundDamage, KeptRun, Plan, SegmentPlan};
use super::scan::{Run, SegmentScan};
use super::segments::Segment;
use super::{DamageKind, Position};

/// Every crash under load may leave a torn tail. Copies beyond this number go, the oldest first; those of lost frames
/// stay until someone removes them.
const TAIL_COPIES_MAX: usize = 16;
/// How the names of copies end.
pub(super) const COPY_SUFFIX: &str = ".damaged";
const TAIL_COPY_SUFFIX: &str = ".tail.damaged";
const COPY_CHUNK_BYTES: usize = 256 * 1024;

/// Where to repair, and as whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repair<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) directory: &'a Path,
    pub(super) identity: WriterIdentity,
}

impl Repair<'_> {
    /// Makes the directory hold exactly the frames that the plan keeps; returns their segments.
    pub(super) fn run(&self, scans: &[SegmentScan], plan: &mut Plan) -> Result<Vec<Segment>, WalError> {
        self.remove_unfinished()?;
        self.keep_copies(scans, &mut plan.damage)?;
        let mut segments = Vec::new();
        for (scan, segment) in scans.iter().zip(&plan.segments).rev() {
            self.repair_segment(scan, segment, &mut segments)?;
        }
        segments.reverse();
        self.sync_directory()?;
        Ok(segments)
    }

    fn repair_segment(
        &self,
        scan: &SegmentScan,
        plan: &SegmentPlan,
        segments: &mut Vec<Segment>,
    ) -> Result<(), WalError> {
        match plan {
            SegmentPlan::Keep(run) => segments.push(segment(scan.path.clone(), run)),
            SegmentPlan::Delete => self.remove(&scan.path)?,
            SegmentPlan::Rewrite(runs) => {
                // Opened once: a run may take the file's own name.
                let mut source = File::open(&scan.path).map_err(WalError::io("read", &scan.path))?;
                for kept in runs.iter().rev() {
                    segments.push(self.rewrite(&mut source, scan, kept)?);
                }
                if runs.iter().all(|kept| kept.run.first != scan.first) {
                    self.remove(&scan.path)?;
                }
            }
        }
        Ok(())
    }

    fn rewrite(&self, source: &mut File, scan: &SegmentScan, kept: &KeptRun) -> Result<Segment, WalError> {
        let header = SegmentHeader {
            writer_id: self.identity.writer_id,
            epoch: scan.header.map_or(self.identity.epoch, |header| header.epoch),
            first: kept.run.first,
            missing_from: kept.missing_from,
        };
        let mut staged = disk::begin_segment(self.disk, self.directory, &header).map_err(failed)?;
        copy_range(source, &scan.path, kept.run.offset, kept.run.end, &mut staged)?;
        let (_, path) = staged.publish(self.disk).map_err(failed)?;
        Ok(segment(path, &kept.run))
    }

    fn keep_copies(&self, scans: &[SegmentScan], damage: &mut [FoundDamage]) -> Result<(), WalError> {
        for FoundDamage { segment, place } in damage.iter_mut() {
            let Some(scan) = scans.get(*segment).filter(|_| place.bytes > 0) else { continue };
            let path = self.copy_path(scan.first, place.offset, place.kind);
            let mut source = File::open(&scan.path).map_err(WalError::io("read", &scan.path))?;
            let mut staged = Staged::begin(self.disk, path).map_err(failed)?;
            copy_range(&mut source, &scan.path, place.offset, place.offset + place.bytes, &mut staged)?;
            let (_, path) = staged.publish(self.disk).map_err(failed)?;
            place.copy = Some(path);
        }
        if damage.iter().any(|found| found.place.kind == DamageKind::Torn) {
            self.limit_tail_copies()?;
        }
        Ok(())
    }

    fn copy_path(&self, first: Position, offset: u64, kind: DamageKind) -> PathBuf {
        let suffix = if kind == DamageKind::Torn { TAIL_COPY_SUFFIX } else { COPY_SUFFIX };
        // The epoch makes the name new, although a position may be torn twice.
        let epoch = self.identity.epoch;
        self.directory.join(format!("{:020}.epoch-{epoch}.at-{offset}{suffix}", first.0))
    }

    fn limit_tail_copies(&self) -> Result<(), WalError> {
        let copies = disk::list_with_suffix(self.directory, TAIL_COPY_SUFFIX)
            .map_err(WalError::io("list", self.directory))?;
        let surplus = copies.len().saturating_sub(TAIL_COPIES_MAX);
        copies.iter().take(surplus).try_for_each(|copy| self.remove(copy))
    }

    fn remove_unfinished(&self) -> Result<(), WalError> {
        let unfinished = disk::list_with_suffix(self.directory, disk::STAGED_SUFFIX)
            .map_err(WalError::io("list", self.directory))?;
        unfinished.iter().try_for_each(|path| self.remove(path))
    }

    fn remove(&self, path: &Path) -> Result<(), WalError> {
        self.disk.remove(path).map_err(WalError::io("remove", path))
    }

    fn sync_directory(&self) -> Result<(), WalError> {
        self.disk.sync_directory(self.directory).map_err(WalError::io("sync the directory", self.directory))
    }
}

fn copy_range(
    source: &mut File,
    path: &Path,
    from: u64,
    to: u64,
    target: &mut Staged,
) -> Result<(), WalError> {
    let read = || WalError::io("read", path);
    source.seek(SeekFrom::Start(from)).map_err(read())?;
    let mut chunk = vec![0; COPY_CHUNK_BYTES];
    let mut left = to - from;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(COPY_CHUNK_BYTES).min(COPY_CHUNK_BYTES);
        let bytes = chunk.get_mut(..want).unwrap_or_default();
        source.read_exact(bytes).map_err(read())?;
        target.write(bytes).map_err(failed)?;
        left -= want as u64;
    }
    Ok(())
}

fn segment(path: PathBuf, run: &Run) -> Segment {
    Segment {
        path,
        first: run.first,
        frames: run.last.0 - run.first.previous().0,
        bytes: SEGMENT_HEADER_BYTES + run.end - run.offset,
        oldest_received_micros: run.oldest_received_micros,
    }
}

/// At a start, every failed step stops the start.
pub(super) fn failed(failed: Failed) -> WalError {
    let Failed { step, path, source }: Failed = failed;
    let source: io::Error = source;
    WalError::Io { action: step.action(), path, source }
}
