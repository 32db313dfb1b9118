//! A disk that fails on demand, and what the log makes of it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use tempfile::TempDir;

use super::super::disk::{Disk, FileSystem, LogFile};
use super::super::*;
use super::{OneId, numbered, open, positions, read_all, segment_files, small_segments};

/// What the disk is to do; shared by the test and the disk.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Faults(Arc<(Mutex<FaultPlan>, Condvar)>);

#[derive(Debug, Default)]
pub(in super::super) struct FaultPlan {
    /// Errors of the next syncs of files; `None` is a success.
    pub(in super::super) syncs: VecDeque<Option<i32>>,
    /// Syncs wait while this is set.
    pub(in super::super) hold_syncs: bool,
    /// Syncs that have begun.
    pub(in super::super) syncs_begun: u64,
    /// Bytes that still fit on the disk.
    pub(in super::super) room: Option<u64>,
    /// The most that one write takes.
    pub(in super::super) write_max: Option<usize>,
    pub(in super::super) fail_write: Option<i32>,
    pub(in super::super) fail_truncate: bool,
    pub(in super::super) fail_directory_sync: bool,
    /// Changes to the directory or its files that still succeed: then the process is as good as dead.
    pub(in super::super) changes_left: Option<u32>,
    pub(in super::super) fail_create: Option<i32>,
    pub(in super::super) fail_remove: Option<i32>,
    /// What a power loss leaves for certain, by file.
    pub(in super::super) synced_bytes: BTreeMap<PathBuf, u64>,
}

pub(in super::super) const EIO: i32 = 5;
/// Only for a test that fails: a sync that never begins.
const SYNC_WAIT_MAX: Duration = Duration::from_secs(60);
const EACCES: i32 = 13;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

impl Faults {
    pub(in super::super) fn plan(&self) -> MutexGuard<'_, FaultPlan> {
        self.0.0.lock().unwrap()
    }

    pub(in super::super) fn release_syncs(&self) {
        self.plan().hold_syncs = false;
        self.0.1.notify_all();
    }

    /// Waits, off the runtime's thread, until so many syncs have begun.
    pub(in super::super) async fn syncs_begun(&self, count: u64) {
        let faults = self.clone();
        let wait = move || {
            let until = |plan: &mut FaultPlan| plan.syncs_begun < count;
            let waited = faults.0.1.wait_timeout_while(faults.plan(), SYNC_WAIT_MAX, until).unwrap().1;
            assert!(!waited.timed_out(), "no sync begins");
        };
        tokio::task::spawn_blocking(wait).await.unwrap();
    }

    fn sync(&self) -> io::Result<()> {
        let mut plan = self.plan();
        plan.syncs_begun += 1;
        self.0.1.notify_all();
        let mut plan = self.0.1.wait_while(plan, |plan| plan.hold_syncs).unwrap();
        plan.syncs.pop_front().flatten().map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code)))
    }

    fn change(&self) -> io::Result<()> {
        match self.plan().changes_left.as_mut() {
            Some(0) => Err(io::Error::from_raw_os_error(EIO)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(in super::super) fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(FaultyDisk(self.clone()))
    }
}

#[derive(Debug)]
struct FaultyDisk(Faults);

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        self.0.change()?;
        if let Some(code) = self.0.plan().fail_create {
            return Err(io::Error::from_raw_os_error(code));
        }
        let file = FaultyFile {
            path: final_path(path),
            written: 0,
            faults: self.0.clone(),
            file: File::create(path)?,
        };
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.change()?;
        FileSystem.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.change()?;
        let mut plan = self.0.plan();
        if let Some(code) = plan.fail_remove {
            return Err(io::Error::from_raw_os_error(code));
        }
        plan.synced_bytes.remove(path);
        FileSystem.remove(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        if self.0.plan().fail_directory_sync {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        assert!(path.is_dir());
        Ok(())
    }
}

/// The name that a staged file will have.
fn final_path(path: &Path) -> PathBuf {
    PathBuf::from(path.to_str().unwrap().trim_end_matches(".tmp"))
}

#[derive(Debug)]
struct FaultyFile {
    path: PathBuf,
    written: u64,
    faults: Faults,
    file: File,
}

impl LogFile for FaultyFile {
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.faults.change()?;
        let mut plan = self.faults.plan();
        if let Some(code) = plan.fail_write {
            return Err(io::Error::from_raw_os_error(code));
        }
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        bytes.truncate(plan.write_max.unwrap_or(usize::MAX));
        if let Some(room) = plan.room.as_mut() {
            bytes.truncate(usize::try_from(*room).unwrap());
            *room -= bytes.len() as u64;
            if bytes.is_empty() {
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
        }
        io::Write::write_all(&mut self.file, &bytes)?;
        self.written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.faults.sync()?;
        self.faults.plan().synced_bytes.insert(self.path.clone(), self.written);
        Ok(())
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        let mut plan = self.faults.plan();
        if plan.fail_truncate {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        if let Some(room) = plan.room.as_mut() {
            *room += self.written - bytes;
        }
        self.written = bytes;
        self.file.truncate(bytes)
    }
}

fn open_faulty(directory: &Path) -> (Wal, Faults) {
    let faults = Faults::default();
    let files = WalFiles::lock(directory, &OneId).unwrap();
    let (wal, _) = Wal::open_on(faults.disk(), files, Position(0), small_segments()).unwrap();
    faults.plan().syncs_begun = 0;
    (wal, faults)
}

#[tokio::test]
async fn nothing_is_acknowledged_or_readable_before_its_sync() {
    let directory = TempDir::new().unwrap();
    let (wal, faults) = open_faulty(directory.path());
    faults.plan().hold_syncs = true;
    let mut append = Box::pin(wal.append(numbered(1, 10)));
    assert!(futures::poll!(append.as_mut()).is_pending());
    faults.syncs_begun(1).await;
    assert!(futures::poll!(append.as_mut()).is_pending(), "it is written, and its sync goes on");
    assert_eq!(wal.durable(), Position(0));
    assert!(read_all(&wal, 0).is_empty());
    faults.release_syncs();
    assert_eq!(append.await.unwrap(), Position(1));
    assert_eq!(positions(&read_all(&wal, 0)), [1]);
}

#[tokio::test]
async fn all_that_waits_shares_one_sync() {
    let directory = TempDir::new().unwrap();
    let (wal, faults) = open_faulty(directory.path());
    faults.plan().hold_syncs = true;
    let mut first = Box::pin(wal.append(numbered(1, 10)));
    assert!(futures::poll!(first.as_mut()).is_pending());
    faults.syncs_begun(1).await;
    let mut rest = Box::pin(join_all((2..=9).map(|number| wal.append(numbered(number, 10)))));
    assert!(futures::poll!(rest.as_mut()).is_pending());
    faults.release_syncs();
    first.await.unwrap();
    assert!(rest.await.into_iter().map(Result::unwrap).eq((2..=9).map(Position)));
    assert_eq!(faults.plan().syncs_begun, 2);
}

#[tokio::test]
async fn a_failed_sync_stops_the_log_for_good() {
    let directory = TempDir::new().unwrap();
    let (wal, faults) = open_faulty(directory.path());
    let window = RetryWindow::new(RetryLimits::default(), &[]);
    wal.append(numbered(1, 10)).await.unwrap();
    let halted = wal.halted();
    faults.plan().hold_syncs = true;
    faults.plan().syncs = [Some(EIO)].into();
    let Claim::New(claim) = window.claim([2; 16], 0) else { panic!("the window is empty") };
    let mut second = Box::pin(wal.append_claimed(numbered(2, 10), claim));
    assert!(futures::poll!(second.as_mut()).is_pending());
    faults.syncs_begun(2).await;
    let mut third = Box::pin(wal.append(numbered(3, 10)));
    assert!(futures::poll!(third.as_mut()).is_pending());
    faults.release_syncs();

    assert!(matches!(second.await, Err(AppendError::Poisoned(_))));
    assert!(matches!(third.await, Err(AppendError::Poisoned(_))), "what waited behind it");
    assert!(matches!(wal.append(numbered(4, 10)).await, Err(AppendError::Poisoned(_))), "what comes later");
    assert!(matches!(wal.rotate().await, Err(ControlError::Poisoned(_))));
    assert!(matches!(wal.release(Position(1)).await, Err(ControlError::Poisoned(_))));
    assert!(halted.await.to_string().contains("sync"));
    assert_eq!(faults.plan().syncs_begun, 2, "it was not tried again");
    assert_eq!(wal.durable(), Position(1));
    assert_eq!(positions(&read_all(&wal, 0)), [1]);
    assert!(window.is_empty(), "its digest is free for the retry");
    assert!(matches!(wal.close().await, Err(ControlError::Poisoned(_))));
}

#[tokio::test]
async fn a_failed_sync_of_the_directory_stops_the_log() {
    let directory = TempDir::new().unwrap();
    let (wal, faults) = open_faulty(directory.path());
    wal.append(numbered(1, 10)).await.unwrap();
    faults.plan().fail_directory_sync = true;
    assert!(matches!(wal.rotate().await, Err(ControlError::Poisoned(_))));
    assert!(matches!(wal.append(numbered(2, 10)).await, Err(AppendError::Poisoned(_))));
}

#[tokio::test]
async fn a_full_disk_fails_the_group_and_the_log_goes_on_when_there_is_room() {
    let directory = TempDir::new().unwrap();
    let (wal, faults) = open_faulty(directory.path());
    wal.append(numbered(1, 100)).await.unwrap();
    faults.plan().room = Some(150);
    assert!(matches!(wal.append(numbered(2, 100)).await, Err(AppendError::NoSpace)));
    assert_eq!(wal.append(numbered(3, 50)).await.unwrap(), Position(2), "a smaller one still fits");
    let error = wal.append(numbered(4, 100)).await.unwrap_err();
    assert!(matches!(error, AppendError::NoSpace), "{error}");
    faults.plan().room = None;
    assert_eq!(wal.append(numbered(5, 100)).await.unwrap(), Position(3));
    assert!(wal.halted().now_or_never().is_none());
    drop(wal);
    let (wal, recovery) = open(directory.path(), 0);
    assert!(recovery.damage.is_empty());
    let digests: Vec<_> = read_all(&wal, 0).iter().map(|frame| frame.digest).collect();
    assert_eq!(digests, [1, 3, 5].map(super::digest_of));
}

#[tokio::test]
async fn a_full_disk_does_not_keep_the_log_from_shrinking() {
    let directory = TempDir::new().unwrap();
    let (wal, faults) = open_faulty(directory.path());
    super::append_all(&wal, 1..=7).await;
    faults.plan().room = Some(0);
    assert!(matches!(wal.append(numbered(8, 900)).await, Err(AppendError::NoSpace)), "no room for a segment");
    assert!(
        matches!(wal.release(Position(7)).await, Err(ControlError::Io { .. })),
        "nor for the last rotation"
    );
    assert_eq!(positions(&read_all(&wal, 0)), [7]);
    faults.plan().room = None;
    wal.release(Position(7)).await.unwrap();
    assert_eq!(segment_files(directory.path()).len(), 1);
    assert_eq!(wal.append(numbered(8, 900)).await.unwrap(), Position(8));
}

#[tokio::test]
async fn an_unfinished_write_that_cannot_be_cut_off_stops_the_log() {
    let directory = TempDir::new().unwrap();
    let (wal, faults) = open_faulty(directory.path());
    faults.plan().room = Some(10);
    faults.plan().fail_truncate = true;
    assert!(matches!(wal.append(numbered(1, 100)).await, Err(AppendError::Poisoned(_))));
    wal.halted().await;
}

#[tokio::test]
async fn an_ill_disk_stops_the_log_at_the_write() {
    let directory = TempDir::new().unwrap();
    let (wal, faults) = open_faulty(directory.path());
    faults.plan().fail_write = Some(EIO);
    assert!(matches!(wal.append(numbered(1, 100)).await, Err(AppendError::Poisoned(_))));
}

#[tokio::test]
async fn short_writes_are_continued() {
    let directory = TempDir::new().unwrap();
    let (wal, faults) = open_faulty(directory.path());
    faults.plan().write_max = Some(7);
    super::append_all(&wal, 1..=5).await;
    assert_eq!(positions(&read_all(&wal, 0)), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_segment_that_cannot_be_made_fails_the_append_only() {
    let directory = TempDir::new().unwrap();
    let (wal, faults) = open_faulty(directory.path());
    super::append_all(&wal, 1..=3).await;
    faults.plan().fail_create = Some(EMFILE);
    assert!(matches!(wal.append(numbered(4, 200)).await, Err(AppendError::Io { .. })));
    faults.plan().fail_create = None;
    assert_eq!(wal.append(numbered(4, 200)).await.unwrap(), Position(4));
}

#[tokio::test]
async fn a_segment_that_cannot_be_removed_is_tried_again() {
    let directory = TempDir::new().unwrap();
    let (wal, faults) = open_faulty(directory.path());
    super::append_all(&wal, 1..=7).await;
    faults.plan().fail_remove = Some(EACCES);
    assert!(matches!(wal.release(Position(6)).await, Err(ControlError::Io { action: "remove", .. })));
    assert_eq!((wal.status().segments, wal.status().released), (3, Position(6)));
    faults.plan().fail_remove = None;
    assert_eq!(wal.release(Position(6)).await.unwrap().segments, 2);
    assert!(wal.halted().now_or_never().is_none());
}
