//! How the log behaves when nothing is wrong with the disk, and what the tests of its faults share.

mod damage;
mod faults;
mod model;

use std::path::{Path, PathBuf};

use futures::future::join_all;
use tempfile::TempDir;
use uuid::Uuid;

use super::disk::list_segments;
use super::*;
use crate::clock::{Ids, RandomIds};

const HEADER_BYTES: u64 = 64;

pub(super) fn small_segments() -> WalOptions {
    WalOptions {
        segment_bytes: 1024,
        bytes_max: 1 << 20,
        payload_bytes_max: 64 << 10,
        ..WalOptions::default()
    }
}

pub(super) fn open(directory: &Path, committed: u64) -> (Wal, Recovery) {
    open_with(directory, committed, small_segments()).unwrap()
}

pub(super) fn open_with(
    directory: &Path,
    committed: u64,
    options: WalOptions,
) -> Result<(Wal, Recovery), WalError> {
    Wal::open(WalFiles::lock(directory, &RandomIds)?, Position(committed), options)
}

pub(super) fn digest_of(number: u64) -> [u8; 16] {
    u128::from(number).to_be_bytes()
}

/// A frame that is recognised by its number: its digest, its time and its payload follow from it.
pub(super) fn numbered(number: u64, payload_bytes: usize) -> NewFrame {
    NewFrame {
        digest: digest_of(number),
        received_micros: number.cast_signed() * 1000,
        events: 2,
        payload: Bytes::from(vec![number.to_le_bytes()[0]; payload_bytes]),
    }
}

pub(super) async fn append_all(wal: &Wal, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        wal.append(numbered(number, 200)).await.unwrap();
    }
}

pub(super) fn read_all(wal: &Wal, after: u64) -> Vec<Frame> {
    wal.read(Position(after), Position(u64::MAX)).collect::<Result<_, _>>().unwrap()
}

pub(super) fn positions(frames: &[Frame]) -> Vec<u64> {
    frames.iter().map(|frame| frame.position.0).collect()
}

pub(super) fn segment_files(directory: &Path) -> Vec<PathBuf> {
    list_segments(&directory.join("wal")).unwrap().into_iter().map(|(_, path)| path).collect()
}

pub(super) fn names_ending(directory: &Path, suffix: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory.join("wal")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(suffix)).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn what_was_appended_is_read_back_in_order_and_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let (wal, recovery) = open(directory.path(), 0);
    assert_eq!((recovery.frames, recovery.next, recovery.waiting), (0, Position(1), None));
    for number in 1..=20 {
        assert_eq!(wal.append(numbered(number, 200)).await.unwrap(), Position(number));
    }
    let before = read_all(&wal, 0);
    assert_eq!(positions(&before), (1..=20).collect::<Vec<_>>());
    let third = before[2].clone();
    let NewFrame { digest, received_micros, events, payload } = numbered(3, 200);
    assert_eq!(third, Frame { position: Position(3), digest, received_micros, events, payload });
    wal.close().await.unwrap();

    let (wal, recovery) = open(directory.path(), 5);
    assert_eq!(recovery.waiting, Some((Position(6), Position(20))));
    assert_eq!((recovery.frames, recovery.events, recovery.next), (15, 30, Position(21)));
    assert!(recovery.damage.is_empty());
    assert_eq!(read_all(&wal, 5), before[5..]);
    assert_eq!(wal.append(numbered(21, 1)).await.unwrap(), Position(21));
}

#[tokio::test]
async fn a_reader_honours_its_bounds_and_its_budget() {
    let directory = TempDir::new().unwrap();
    let (wal, _) = open(directory.path(), 0);
    append_all(&wal, 1..=12).await;
    let read = |after, through| wal.read(Position(after), Position(through));
    let numbers = |reader: FrameReader| positions(&reader.collect::<Result<Vec<_>, _>>().unwrap());
    assert_eq!(numbers(read(3, 7)), [4, 5, 6, 7]);
    assert_eq!(numbers(read(7, 7)), [0_u64; 0]);
    assert_eq!(numbers(read(11, 999)), [12]);
    assert_eq!(numbers(read(0, 12).with_bytes_max(650)), [1, 2, 3]);
    assert_eq!(numbers(read(0, 12).with_bytes_max(1)), [1], "one frame, however large");
}

#[tokio::test]
async fn many_appenders_get_each_position_once_and_are_grouped() {
    let directory = TempDir::new().unwrap();
    let (wal, _) = open(directory.path(), 0);
    let wal = Arc::new(wal);
    let appenders = (0..64).map(|appender| {
        let wal = Arc::clone(&wal);
        tokio::spawn(async move {
            let mut answers = Vec::new();
            for round in 0..10 {
                let number = appender * 10 + round;
                answers.push((wal.append(numbered(number, 50)).await.unwrap(), number));
            }
            answers
        })
    });
    let mut answers: Vec<_> = join_all(appenders).await.into_iter().flat_map(Result::unwrap).collect();
    answers.sort_unstable();
    assert!(answers.iter().map(|(position, _)| position.0).eq(1..=640));
    let frames = read_all(&wal, 0);
    assert!(
        frames
            .iter()
            .map(|frame| (frame.position, frame.digest))
            .eq(answers.into_iter().map(|(position, number)| (position, digest_of(number))))
    );
}

#[tokio::test]
async fn release_removes_whole_segments_and_an_idle_log_shrinks_to_nothing() {
    let directory = TempDir::new().unwrap();
    let (wal, _) = open(directory.path(), 0);
    append_all(&wal, 1..=10).await;
    assert_eq!(segment_files(directory.path()).len(), 4, "three frames of 264 bytes in each");
    assert_eq!(wal.waiting(Position(0)).frames, 10);
    assert_eq!(wal.status().waiting.oldest_received_micros, Some(1000));

    assert_eq!(wal.release(Position(7)).await.unwrap().segments, 2);
    assert_eq!(positions(&read_all(&wal, 0)), [7, 8, 9, 10], "7 shares a segment with 8");
    assert_eq!(wal.status().released, Position(7));

    wal.release(Position(10)).await.unwrap();
    let files = segment_files(directory.path());
    assert_eq!(files.len(), 1);
    assert_eq!(std::fs::metadata(&files[0]).unwrap().len(), HEADER_BYTES);
    assert_eq!((wal.status().bytes, wal.status().waiting), (HEADER_BYTES, Waiting::default()));
    assert_eq!(wal.append(numbered(11, 1)).await.unwrap(), Position(11));
}

#[tokio::test]
async fn a_rotation_makes_what_is_before_it_releasable() {
    let directory = TempDir::new().unwrap();
    let (wal, _) = open(directory.path(), 0);
    append_all(&wal, 1..=2).await;
    assert_eq!(wal.rotate().await.unwrap(), Position(2));
    append_all(&wal, 3..=3).await;
    assert_eq!(
        wal.waiting(Position(2)),
        Waiting { frames: 1, bytes: 264, oldest_received_micros: Some(3000) }
    );
    assert_eq!(wal.release(Position(2)).await.unwrap(), Released { segments: 1, bytes: 64 + 2 * 264 });
    assert_eq!(positions(&read_all(&wal, 0)), [3]);
    assert_eq!(wal.rotate().await.unwrap(), wal.rotate().await.unwrap(), "an empty segment is not rotated");
    assert_eq!(segment_files(directory.path()).len(), 2);
}

#[tokio::test]
async fn positions_are_never_used_again_although_the_log_was_lost() {
    let directory = TempDir::new().unwrap();
    let (wal, _) = open(directory.path(), 0);
    append_all(&wal, 1..=5).await;
    drop(wal);
    std::fs::remove_dir_all(directory.path().join("wal")).unwrap();
    let (wal, recovery) = open(directory.path(), 5);
    assert_eq!((recovery.frames, wal.durable()), (0, Position(5)));
    assert_eq!(wal.append(numbered(6, 1)).await.unwrap(), Position(6));
}

#[tokio::test]
async fn a_start_removes_what_the_table_already_holds() {
    let directory = TempDir::new().unwrap();
    let (wal, _) = open(directory.path(), 0);
    append_all(&wal, 1..=5).await;
    drop(wal);
    let (wal, recovery) = open(directory.path(), 5);
    assert_eq!((recovery.frames, wal.status().segments, wal.status().bytes), (0, 1, HEADER_BYTES));
}

#[tokio::test]
async fn the_cap_refuses_until_something_is_released() {
    let directory = TempDir::new().unwrap();
    let options =
        WalOptions { segment_bytes: 500, bytes_max: 1100, payload_bytes_max: 500, ..small_segments() };
    let (wal, _) = open_with(directory.path(), 0, options).unwrap();
    append_all(&wal, 1..=3).await;
    assert!(!wal.has_room(200));
    assert!(matches!(wal.append(numbered(4, 200)).await, Err(AppendError::Full { bytes_max: 1100, .. })));
    wal.release(Position(3)).await.unwrap();
    assert!(wal.has_room(200));
    assert_eq!(wal.append(numbered(4, 200)).await.unwrap(), Position(4));
    assert!(matches!(wal.append(numbered(5, 501)).await, Err(AppendError::TooLarge { bytes: 501, .. })));
}

#[tokio::test]
async fn a_second_process_is_told_who_holds_the_directory() {
    let directory = TempDir::new().unwrap();
    let (wal, _) = open(directory.path(), 0);
    let error = WalFiles::lock(directory.path(), &RandomIds).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, WalError::InUse { holder, .. } if holder == Some(std::process::id())));
    assert!(text.contains(directory.path().to_str().unwrap()), "{text}");
    wal.close().await.unwrap();
    WalFiles::lock(directory.path(), &RandomIds).unwrap();
}

#[tokio::test]
async fn each_start_has_the_same_writer_and_a_new_epoch() {
    let directory = TempDir::new().unwrap();
    let first = WalFiles::lock(directory.path(), &RandomIds).unwrap().identity();
    let second = WalFiles::lock(directory.path(), &RandomIds).unwrap().identity();
    assert_eq!((first.epoch, second.epoch), (1, 2));
    assert_eq!(first.writer_id, second.writer_id);
}

#[tokio::test]
async fn a_lost_identity_is_rebuilt_from_the_segments() {
    let directory = TempDir::new().unwrap();
    drop(open(directory.path(), 0));
    let (wal, _) = open(directory.path(), 0);
    let identity = wal.identity();
    append_all(&wal, 1..=2).await;
    drop(wal);
    std::fs::remove_file(directory.path().join("writer.json")).unwrap();
    let (wal, recovery) = open(directory.path(), 0);
    assert_eq!(wal.identity(), WriterIdentity { epoch: identity.epoch + 1, ..identity });
    assert_eq!(recovery.frames, 2);
}

#[tokio::test]
async fn an_unreadable_identity_is_an_error_that_says_what_to_do() {
    let directory = TempDir::new().unwrap();
    drop(open(directory.path(), 0));
    for content in ["", "{", "{\"writer_id\":\"x\",\"epoch\":1}", "\u{0}"] {
        std::fs::write(directory.path().join("writer.json"), content).unwrap();
        let error = WalFiles::lock(directory.path(), &RandomIds).unwrap_err();
        assert!(matches!(error, WalError::Identity { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_segment_of_another_writer_is_refused() {
    let (directory, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for directory in [&directory, &other] {
        let (wal, _) = open(directory.path(), 0);
        append_all(&wal, 1..=4).await;
    }
    let foreign = segment_files(other.path()).remove(0);
    std::fs::copy(&foreign, &segment_files(directory.path())[0]).unwrap();
    let error = open_with(directory.path(), 0, small_segments()).unwrap_err();
    assert!(matches!(error, WalError::ForeignSegment { .. }), "{error}");
}

#[tokio::test]
async fn an_unwritable_data_directory_is_named() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = WalFiles::lock(&file.join("data"), &RandomIds).unwrap_err();
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn after_close_everything_is_refused_and_what_was_queued_is_there() {
    let directory = TempDir::new().unwrap();
    let (wal, _) = open(directory.path(), 0);
    let (appended, closed) = tokio::join!(wal.append(numbered(1, 10)), wal.close());
    closed.unwrap();
    assert_eq!(appended.unwrap(), Position(1));
    assert!(matches!(wal.append(numbered(2, 10)).await, Err(AppendError::Closed)));
    assert!(matches!(wal.rotate().await, Err(ControlError::Closed)));
    drop(wal);
    assert_eq!(open(directory.path(), 0).1.frames, 1);
}

#[tokio::test]
async fn an_append_that_nobody_waits_for_still_settles_its_claim() {
    let directory = TempDir::new().unwrap();
    let (wal, _) = open(directory.path(), 0);
    let window = RetryWindow::new(RetryLimits::default(), &[]);
    let Claim::New(claim) = window.claim(digest_of(7), 0) else { panic!("the window is empty") };
    let mut append = Box::pin(wal.append_claimed(numbered(7, 10), claim));
    assert!(futures::poll!(append.as_mut()).is_pending());
    drop(append);
    wal.close().await.unwrap();
    assert!(matches!(window.claim(digest_of(7), 1), Claim::Durable(Position(1))));
}

#[tokio::test]
async fn digests_outlive_their_released_frames_and_restarts() {
    let directory = TempDir::new().unwrap();
    let (wal, _) = open(directory.path(), 0);
    append_all(&wal, 1..=4).await;
    wal.release(Position(3)).await.unwrap();
    drop(wal);
    for committed in [3, 4, 4] {
        let (_, recovery) = open(directory.path(), committed);
        let known: Vec<_> = recovery.digests.iter().map(|known| (known.position.0, known.digest)).collect();
        assert_eq!(known, (1..=4).map(|number| (number, digest_of(number))).collect::<Vec<_>>());
    }
    std::fs::write(directory.path().join("wal/digests"), b"damaged").unwrap();
    assert!(open(directory.path(), 4).1.digests.is_empty());
}

#[tokio::test]
async fn the_log_knows_what_it_has_released() {
    let directory = TempDir::new().unwrap();
    let released = || WalFiles::lock(directory.path(), &OneId).unwrap().released().unwrap();
    assert_eq!(released(), Position(0));
    let (wal, _) = open(directory.path(), 0);
    append_all(&wal, 1..=10).await;
    wal.close().await.unwrap();
    assert_eq!(released(), Position(0), "what is still here can be committed again");
    let (wal, _) = open(directory.path(), 0);
    wal.release(Position(8)).await.unwrap();
    wal.close().await.unwrap();
    assert!((6..=8).contains(&released().0), "whole segments: {}", released());
    let (wal, _) = open(directory.path(), 8);
    wal.release(Position(10)).await.unwrap();
    wal.close().await.unwrap();
    assert_eq!(released(), Position(10));
}

#[tokio::test]
async fn what_a_kill_leaves_at_any_moment_holds_every_acknowledged_frame() {
    let directory = TempDir::new().unwrap();
    let (wal, _) = open(directory.path(), 0);
    let wal = Arc::new(wal);
    let load = tokio::spawn({
        let wal = Arc::clone(&wal);
        async move {
            for round in 0..40 {
                join_all((0..8).map(|number| wal.append(numbered(round * 8 + number, 300)))).await;
            }
        }
    });
    for _ in 0..20 {
        let left = TempDir::new().unwrap();
        let acknowledged = wal.durable();
        let copied = directory.path().to_path_buf();
        let target = left.path().to_path_buf();
        tokio::task::spawn_blocking(move || copy_as_left(&copied, &target)).await.unwrap();
        let (copy, recovery) = open(left.path(), 0);
        assert!(recovery.frames >= acknowledged.0);
        assert_eq!(recovery.frames_lost(DamageKind::Lost), 0);
        assert!(positions(&read_all(&copy, 0)).into_iter().eq(1..=recovery.frames));
    }
    load.await.unwrap();
}

/// Copies what another process would find if this one were killed now, segments in order as they are written.
fn copy_as_left(from: &Path, to: &Path) {
    std::fs::create_dir(to.join("wal")).unwrap();
    std::fs::copy(from.join("writer.json"), to.join("writer.json")).unwrap();
    for path in segment_files(from) {
        std::fs::copy(&path, to.join("wal").join(path.file_name().unwrap())).unwrap();
    }
}

#[tokio::test]
async fn a_look_from_outside_sees_the_log_while_it_is_open() {
    let directory = TempDir::new().unwrap();
    assert_eq!(inspect(directory.path(), Position(0)).unwrap(), LogInspection::default());
    let (wal, _) = open(directory.path(), 0);
    append_all(&wal, 1..=5).await;
    let found = inspect(directory.path(), Position(2)).unwrap();
    assert_eq!(found.writer, Some(wal.identity()));
    assert_eq!(found.holder, Some(std::process::id()));
    assert_eq!((found.segments, found.bytes), (2, wal.status().bytes));
    assert_eq!(found.positions, Some((Position(1), Position(5))));
    assert_eq!((found.frames_waiting, found.events_waiting, found.unreadable_bytes), (3, 6, 0));
    wal.close().await.unwrap();
    assert_eq!(inspect(directory.path(), Position(5)).unwrap().holder, None);
}

#[test]
fn limits_that_contradict_each_other_are_named() {
    let wrong = WalOptions { bytes_max: 1 << 20, ..WalOptions::default() };
    assert!(wrong.validate().unwrap_err().to_string().starts_with("wal.bytes_max: "));
    WalOptions::default().validate().unwrap();
}

#[derive(Debug)]
pub(super) struct OneId;

impl Ids for OneId {
    fn next_id(&self) -> Uuid {
        Uuid::from_u128(1)
    }
}
