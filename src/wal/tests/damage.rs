//! What a start makes of damaged files.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::super::*;
use super::OneId;
use super::faults::Faults;
use super::{
    append_all, names_ending, numbered, open, open_with, positions, read_all, segment_files, small_segments,
};

const FRAME_BYTES: usize = 264;

fn set_aside() -> WalOptions {
    WalOptions { on_damage: OnDamage::SetAside, ..small_segments() }
}

/// Ten frames of 264 bytes: segments 1-3, 4-6, 7-9 and 10.
async fn ten_frames() -> TempDir {
    let directory = TempDir::new().unwrap();
    let (wal, _) = open(directory.path(), 0);
    append_all(&wal, 1..=10).await;
    wal.close().await.unwrap();
    directory
}

fn change(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    edit(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Flips a byte in the payload of the nth frame of a segment.
fn hurt(directory: &Path, segment: usize, frame: usize) {
    change(&segment_files(directory)[segment], |bytes| bytes[64 + FRAME_BYTES * frame + 100] ^= 1);
}

fn refused(directory: &Path, committed: u64) -> WalError {
    open_with(directory, committed, small_segments()).unwrap_err()
}

#[tokio::test]
async fn a_torn_tail_is_set_aside_and_the_log_goes_on() {
    let directory = ten_frames().await;
    let last = segment_files(directory.path()).remove(3);
    change(&last, |bytes| bytes.truncate(200));
    let (wal, recovery) = open(directory.path(), 0);
    assert_eq!((recovery.frames, recovery.next), (9, Position(10)));
    let [place] = recovery.damage.as_slice() else { panic!("{:?}", recovery.damage) };
    assert_eq!((place.kind, place.offset, place.bytes), (DamageKind::Torn, 64, 136));
    assert_eq!(fs::metadata(place.copy.as_ref().unwrap()).unwrap().len(), 136);
    assert_eq!(wal.append(numbered(10, 1)).await.unwrap(), Position(10));
    drop(wal);
    let (wal, recovery) = open(directory.path(), 0);
    assert!(recovery.damage.is_empty(), "it is reported once");
    assert_eq!(read_all(&wal, 0).len(), 10);
}

#[tokio::test]
async fn a_newest_segment_without_its_header_is_reported_even_if_nothing_is_left_of_it() {
    for left in [0, 10, 64] {
        let directory = ten_frames().await;
        let last = segment_files(directory.path()).remove(3);
        change(&last, |bytes| {
            bytes.truncate(left);
            bytes.fill(0);
        });
        let (wal, recovery) = open(directory.path(), 0);
        let [place] = recovery.damage.as_slice() else { panic!("{:?}", recovery.damage) };
        assert_eq!((place.kind, place.offset, place.bytes), (DamageKind::Torn, 0, left as u64));
        assert!(place.is_header());
        assert_eq!(place.copy.is_some(), left > 0);
        assert!(
            recovery.digests.iter().all(|known| known.digest != super::digest_of(10)),
            "a retry stores it"
        );
        assert_eq!(read_all(&wal, 0).len(), 9);
    }
}

#[tokio::test]
async fn garbage_and_zeros_behind_the_last_frame_are_a_torn_tail() {
    for junk in [vec![0; 5000], vec![0xA5; 70], b"\xF5ESKFRM\xF6".repeat(50)] {
        let directory = ten_frames().await;
        change(&segment_files(directory.path())[3], |bytes| bytes.extend_from_slice(&junk));
        let (wal, recovery) = open(directory.path(), 0);
        assert_eq!(recovery.bytes_set_aside(DamageKind::Torn), junk.len() as u64);
        assert_eq!(read_all(&wal, 0).len(), 10);
    }
}

#[tokio::test]
async fn copies_of_torn_tails_are_limited() {
    let directory = TempDir::new().unwrap();
    for _ in 0..20 {
        let (wal, _) = open(directory.path(), 0);
        append_all(&wal, 1..=1).await;
        drop(wal);
        let last = segment_files(directory.path()).pop().unwrap();
        change(&last, |bytes| bytes.extend_from_slice(b"torn"));
    }
    assert_eq!(names_ending(directory.path(), ".tail.damaged").len(), 16);
}

#[tokio::test]
async fn damage_in_the_middle_refuses_to_start_and_changes_nothing() {
    let directory = ten_frames().await;
    hurt(directory.path(), 1, 1);
    let names = || names_ending(directory.path(), "");
    let before = names();
    let error = refused(directory.path(), 0);
    let text = error.to_string();
    let WalError::Damaged { file, offset, frames, first, last, places } = error else { panic!("{text}") };
    assert_eq!(file, segment_files(directory.path())[1]);
    assert_eq!((offset, frames, first, last, places), (64 + 264, 1, Position(5), Position(5), 1));
    for hint in ["restore the file from a backup", "wal.on_damage = \"set_aside\""] {
        assert!(text.contains(hint), "{text}");
    }
    assert_eq!(names(), before);
}

#[tokio::test]
async fn damage_in_the_middle_is_set_aside_on_request_and_reported_once() {
    let directory = ten_frames().await;
    hurt(directory.path(), 0, 0);
    hurt(directory.path(), 1, 1);
    let (wal, recovery) = open_with(directory.path(), 0, set_aside()).unwrap();
    assert_eq!(positions(&read_all(&wal, 0)), [2, 3, 4, 6, 7, 8, 9, 10]);
    assert_eq!((recovery.frames, recovery.frames_lost(DamageKind::Lost)), (8, 2));
    assert!(
        recovery.digests.iter().all(|known| ![1, 5].contains(&known.position.0)),
        "a retry is stored again"
    );
    assert!(recovery.damage.iter().all(|place| place.copy.as_ref().unwrap().exists()));
    drop(wal);
    let (wal, recovery) = open(directory.path(), 0);
    assert!(recovery.damage.is_empty());
    assert_eq!(positions(&read_all(&wal, 0)), [2, 3, 4, 6, 7, 8, 9, 10]);
    assert_eq!(wal.append(numbered(11, 1)).await.unwrap(), Position(11));
}

#[tokio::test]
async fn damage_to_committed_frames_is_harmless() {
    let directory = ten_frames().await;
    hurt(directory.path(), 0, 0);
    hurt(directory.path(), 1, 1);
    assert!(matches!(refused(directory.path(), 4), WalError::Damaged { frames: 1, .. }));
    let (wal, recovery) = open(directory.path(), 5);
    assert_eq!(positions(&read_all(&wal, 5)), [6, 7, 8, 9, 10]);
    assert!(recovery.damage.iter().all(|place| place.kind == DamageKind::Harmless));
    assert_eq!(recovery.damage.len(), 2);
}

#[tokio::test]
async fn a_missing_segment_is_a_gap_of_its_frames() {
    let directory = ten_frames().await;
    fs::remove_file(&segment_files(directory.path())[1]).unwrap();
    assert!(matches!(refused(directory.path(), 3), WalError::Damaged { frames: 3, first: Position(4), .. }));
    let (wal, recovery) = open_with(directory.path(), 4, set_aside()).unwrap();
    assert_eq!(recovery.frames_lost(DamageKind::Lost), 2);
    assert_eq!(positions(&read_all(&wal, 4)), [7, 8, 9, 10]);
    drop(wal);
    open(directory.path(), 4);
}

#[tokio::test]
async fn a_lost_end_before_a_newer_empty_segment_is_noticed() {
    let directory = ten_frames().await;
    drop(open(directory.path(), 0));
    fs::remove_file(&segment_files(directory.path())[3]).unwrap();
    assert!(matches!(refused(directory.path(), 0), WalError::Damaged { frames: 1, first: Position(10), .. }));
    let (wal, _) = open_with(directory.path(), 0, set_aside()).unwrap();
    assert_eq!(wal.append(numbered(11, 1)).await.unwrap(), Position(11), "position 10 was acknowledged once");
    drop(wal);
    let (wal, recovery) = open(directory.path(), 0);
    assert!(recovery.damage.is_empty(), "it is declared");
    assert_eq!(positions(&read_all(&wal, 8)), [9, 11]);
}

#[tokio::test]
async fn a_damaged_segment_header_loses_nothing() {
    let directory = ten_frames().await;
    for segment in [0, 1, 3] {
        change(&segment_files(directory.path())[segment], |bytes| bytes[20] ^= 1);
    }
    let (wal, recovery) = open(directory.path(), 0);
    assert_eq!(read_all(&wal, 0).len(), 10);
    assert!(recovery.damage.iter().all(|place| place.kind == DamageKind::Harmless && place.bytes == 64));
}

#[tokio::test]
async fn a_damaged_length_does_not_hide_the_frames_behind_it() {
    let directory = ten_frames().await;
    change(&segment_files(directory.path())[1], |bytes| bytes[64 + 8] ^= 0x40);
    let (wal, recovery) = open_with(directory.path(), 0, set_aside()).unwrap();
    assert_eq!(positions(&read_all(&wal, 0)), [1, 2, 3, 5, 6, 7, 8, 9, 10]);
    assert_eq!(recovery.frames_lost(DamageKind::Lost), 1);
}

#[tokio::test]
async fn a_payload_that_looks_like_a_frame_does_not_become_one() {
    let directory = TempDir::new().unwrap();
    let (wal, _) = open(directory.path(), 0);
    append_all(&wal, 1..=1).await;
    let real = fs::read(&segment_files(directory.path())[0]).unwrap();
    let mut forged = real[64..].to_vec();
    forged[16] = 9;
    forged.extend_from_slice(&real[64..]);
    wal.append(NewFrame { payload: forged.into(), ..numbered(2, 0) }).await.unwrap();
    append_all(&wal, 3..=3).await;
    drop(wal);
    change(&segment_files(directory.path())[0], |bytes| bytes[64 + FRAME_BYTES + 20] ^= 1);
    let (wal, _) = open_with(directory.path(), 0, set_aside()).unwrap();
    let frames = read_all(&wal, 0);
    assert!(frames.iter().all(|frame| frame.position != Position(9) && frame.digest != super::digest_of(2)));
}

#[tokio::test]
async fn a_segment_cut_in_the_middle_of_the_log_is_damage_and_not_a_tail() {
    let directory = ten_frames().await;
    change(&segment_files(directory.path())[1], |bytes| bytes.truncate(64 + FRAME_BYTES));
    assert!(matches!(refused(directory.path(), 0), WalError::Damaged { frames: 2, first: Position(5), .. }));
}

#[tokio::test]
async fn a_copied_segment_is_refused() {
    let directory = ten_frames().await;
    let files = segment_files(directory.path());
    let copy = files[0].with_file_name(format!("{:020}.wal", 2));
    fs::copy(&files[0], copy).unwrap();
    assert!(matches!(refused(directory.path(), 0), WalError::Overlap { .. }));
}

#[tokio::test]
async fn a_later_format_is_refused_and_not_repaired() {
    let directory = ten_frames().await;
    change(&segment_files(directory.path())[2], |bytes| {
        bytes[8] = 9;
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    });
    let error = open_with(directory.path(), 0, set_aside()).unwrap_err();
    assert!(matches!(error, WalError::NewerFormat { version: 9, .. }), "{error}");
}

#[tokio::test]
async fn damage_that_appears_while_the_log_is_open_is_an_error_of_the_reader() {
    let directory = TempDir::new().unwrap();
    let (wal, _) = open(directory.path(), 0);
    append_all(&wal, 1..=3).await;
    hurt(directory.path(), 0, 1);
    let mut reader = wal.read(Position(0), Position(3));
    assert_eq!(reader.next().unwrap().unwrap().position, Position(1));
    let error = reader.next().unwrap().unwrap_err();
    assert!(matches!(error, ReadError::Damaged { offset: 328, expected: Position(2), .. }), "{error}");
    assert!(reader.next().is_none());
}

#[tokio::test]
async fn a_repair_that_is_cut_short_anywhere_is_finished_by_the_next_start() {
    let mut interrupted = 0;
    for changes in 0.. {
        let directory = ten_frames().await;
        hurt(directory.path(), 0, 0);
        hurt(directory.path(), 1, 1);
        hurt(directory.path(), 2, 2);
        fs::remove_file(&segment_files(directory.path())[3]).unwrap();
        let faults = Faults::default();
        faults.plan().changes_left = Some(changes);
        let files = WalFiles::lock(directory.path(), &OneId).unwrap();
        let is_done = Wal::open_on(faults.disk(), files, Position(0), set_aside()).is_ok();
        let (wal, _) = open_with(directory.path(), 0, set_aside()).unwrap();
        assert_eq!(positions(&read_all(&wal, 0)), [2, 3, 4, 6, 7, 8], "after {changes} changes");
        assert_eq!(wal.durable(), Position(8));
        drop(wal);
        assert!(open(directory.path(), 0).1.damage.is_empty());
        assert!(names_ending(directory.path(), ".tmp").is_empty());
        if is_done {
            break;
        }
        interrupted += 1;
    }
    assert!(interrupted > 20, "the repair took only {interrupted} changes");
}
