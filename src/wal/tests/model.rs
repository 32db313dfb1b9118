//! A model of the log, and random lives of it: appends, releases, restarts, crashes in the middle of a group, cut files
//! and flipped bytes.
//!
//! The promise that is checked after every start: each acknowledged frame after the committed position is readable
//! exactly once and in order, unless damage hit its own bytes, and then that is reported; and no crash alone, without
//! damage to synced bytes, ever keeps the log from starting.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::iter::repeat_n;
use std::path::{Path, PathBuf};

use futures::future::join_all;
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Builder;

use super::super::*;
use super::faults::{EIO, Faults};
use super::{OneId, digest_of, numbered, segment_files, small_segments};

#[derive(Debug, Clone)]
enum Step {
    /// Appends this many frames at once, of sizes that follow from a seed.
    Append {
        frames: u64,
        seed: u64,
    },
    Rotate,
    /// The table has everything up to this share of what is durable; it is released if `released`.
    Commit {
        share: u64,
        released: bool,
    },
    Close,
    Drop,
    /// The power fails while a group is written: of its bytes, some never reached the disk.
    PowerLoss(PowerLoss),
    /// A file loses its end.
    Cut {
        file: u64,
        at: u64,
    },
    Flip {
        file: u64,
        at: u64,
    },
}

#[derive(Debug, Clone)]
struct PowerLoss {
    frames: u64,
    seed: u64,
    /// How many syncs still succeed: with a new segment, the first of them is that of its header.
    sound_syncs: usize,
    /// Where the file ends afterwards.
    cut: u64,
    /// Where bytes are missing.
    holes: Vec<u64>,
}

fn power_loss() -> impl Strategy<Value = Step> {
    (1..8_u64, any::<u64>(), 1..3_usize, any::<u64>(), vec(any::<u64>(), 0..4)).prop_map(
        |(frames, seed, sound_syncs, cut, holes)| {
            Step::PowerLoss(PowerLoss { frames, seed, sound_syncs, cut, holes })
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let share = 0..=100_u64;
    let step = prop_oneof![
        6 => (1..12_u64, any::<u64>()).prop_map(|(frames, seed)| Step::Append { frames, seed }),
        1 => Just(Step::Rotate),
        2 => (share, any::<bool>()).prop_map(|(share, released)| Step::Commit { share, released }),
        1 => Just(Step::Close),
        1 => Just(Step::Drop),
        2 => power_loss(),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(file, at)| Step::Cut { file, at }),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(file, at)| Step::Flip { file, at }),
    ];
    vec(step, 1..40)
}

struct Life {
    directory: TempDir,
    faults: Faults,
    wal: Option<Wal>,
    /// What must be readable: the numbers of the acknowledged frames by their positions.
    expected: BTreeMap<u64, u64>,
    /// Written, but not acknowledged: may be readable, with these numbers.
    unacknowledged: Vec<u64>,
    /// Reported as missing once: a damaged header may forget to declare them, so that they are reported again.
    missing: BTreeSet<u64>,
    committed: u64,
    next_number: u64,
}

impl Life {
    fn new() -> Self {
        let mut life = Self {
            directory: TempDir::new().unwrap(),
            faults: Faults::default(),
            wal: None,
            expected: BTreeMap::new(),
            unacknowledged: Vec::new(),
            missing: BTreeSet::new(),
            committed: 0,
            next_number: 1,
        };
        life.start(OnDamage::Refuse).unwrap();
        life
    }

    fn wal(&self) -> &Wal {
        self.wal.as_ref().unwrap()
    }

    fn frames(&mut self, frames: u64, seed: u64) -> Vec<(u64, NewFrame)> {
        let first = self.next_number;
        self.next_number += frames;
        let size = |number: u64| (seed.rotate_left((number % 64) as u32) % 400) as usize;
        (first..first + frames).map(|number| (number, numbered(number, size(number)))).collect()
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Append { frames, seed } => {
                let frames = self.frames(frames, seed);
                let answers =
                    join_all(frames.iter().map(|(_, frame)| self.wal().append(frame.clone()))).await;
                for ((number, _), answer) in frames.iter().zip(answers) {
                    assert_eq!(
                        self.expected.insert(answer.unwrap().0, *number),
                        None,
                        "a position was used twice"
                    );
                }
                self.check_frames();
            }
            Step::Rotate => drop(self.wal().rotate().await.unwrap()),
            Step::Commit { share, released } => {
                self.committed += (self.wal().durable().0 - self.committed) * share / 100;
                self.expected = self.expected.split_off(&(self.committed + 1));
                if released {
                    self.wal().release(Position(self.committed)).await.unwrap();
                }
                self.check_frames();
            }
            Step::Close => {
                self.wal().close().await.unwrap();
                self.restart_undamaged();
            }
            Step::Drop => self.restart_undamaged(),
            Step::PowerLoss(loss) => self.power_loss(loss).await,
            Step::Cut { file, at } => self.damage(file, |path| {
                let bytes = fs::metadata(path).unwrap().len();
                let at = at % (bytes + 1);
                fs::OpenOptions::new().write(true).open(path).unwrap().set_len(at).unwrap();
                at..bytes
            }),
            Step::Flip { file, at } => self.damage(file, |path| {
                let mut bytes = fs::read(path).unwrap();
                let at = at % bytes.len() as u64;
                bytes[at as usize] ^= 1 << (at % 8);
                fs::write(path, bytes).unwrap();
                at..at + 1
            }),
        }
    }

    fn start(&mut self, on_damage: OnDamage) -> Result<Recovery, WalError> {
        let files = WalFiles::lock(self.directory.path(), &OneId)?;
        let options = WalOptions { segment_bytes: 3000, on_damage, ..small_segments() };
        let (wal, recovery) = Wal::open_on(self.faults.disk(), files, Position(self.committed), options)?;
        self.wal = Some(wal);
        Ok(recovery)
    }

    fn restart_undamaged(&mut self) {
        self.wal = None;
        let recovery = self.start(OnDamage::Refuse).unwrap();
        assert_eq!(recovery.damage, []);
        self.check_start(&recovery);
    }

    /// One frame is synced, a group is written behind it, its sync fails, and the power with it.
    async fn power_loss(&mut self, loss: PowerLoss) {
        let PowerLoss { frames, seed, sound_syncs, cut, holes } = loss;
        let frames = self.frames(frames + 1, seed);
        {
            let mut plan = self.faults.plan();
            plan.hold_syncs = true;
            plan.syncs_begun = 0;
        }
        let mut appends = Vec::new();
        for (number, frame) in &frames {
            let mut append = Box::pin(self.wal().append(frame.clone()));
            assert!(futures::poll!(append.as_mut()).is_pending());
            appends.push(append);
            if *number == frames[0].0 {
                self.faults.syncs_begun(1).await;
            }
        }
        self.faults.plan().syncs = repeat_n(None, sound_syncs).chain([Some(EIO)]).collect();
        self.faults.release_syncs();
        let answers = join_all(appends).await;
        for ((number, _), answer) in frames.iter().zip(answers) {
            match answer {
                Ok(position) => assert_eq!(self.expected.insert(position.0, *number), None),
                Err(AppendError::Poisoned(_)) => self.unacknowledged.push(*number),
                Err(other) => panic!("{other}"),
            }
        }
        self.faults.plan().syncs.clear();
        self.wal = None;
        self.lose_unsynced(cut, &holes);
        // No crash alone is damage.
        let recovery = self.start(OnDamage::Refuse).unwrap();
        assert!(recovery.damage.iter().all(|place| place.kind == DamageKind::Torn), "{:?}", recovery.damage);
        self.check_start(&recovery);
    }

    fn lose_unsynced(&self, cut: u64, holes: &[u64]) {
        let synced = self.faults.plan().synced_bytes.clone();
        for path in segment_files(self.directory.path()) {
            let mut bytes = fs::read(&path).unwrap();
            let synced = synced.get(&path).map_or(bytes.len(), |synced| (*synced as usize).min(bytes.len()));
            let unsynced = bytes.len() - synced;
            if unsynced == 0 {
                continue;
            }
            for hole in holes {
                let start = synced + *hole as usize % unsynced;
                let end = bytes.len().min(start + 128);
                bytes[start..end].fill(0);
            }
            bytes.truncate(synced + cut as usize % (unsynced + 1));
            fs::write(&path, bytes).unwrap();
        }
    }

    /// Damages a segment while nobody has it open, and says which of its bytes.
    fn damage(&mut self, file: u64, harm: impl FnOnce(&Path) -> std::ops::Range<u64>) {
        self.wal = None;
        let files = segment_files(self.directory.path());
        let path = &files[file as usize % files.len()];
        let layout = layout(path);
        let harmed = harm(path);
        let hit = |range: &std::ops::Range<u64>| range.start < harmed.end && harmed.start < range.end;
        let lost: Vec<u64> =
            layout.iter().filter(|(_, range)| hit(range)).map(|(position, _)| *position).collect();
        let lost: Vec<(u64, u64)> = lost
            .iter()
            .filter_map(|position| self.expected.remove(position).map(|number| (*position, number)))
            .collect();
        let whole_frames_cut =
            layout.iter().any(|(_, range)| range.start == harmed.start) || harmed.start == 64;
        let recovery = match self.start(OnDamage::Refuse) {
            Ok(recovery) => {
                assert_eq!(recovery.frames_lost(DamageKind::Lost), 0);
                recovery
            }
            Err(WalError::Damaged { frames, .. }) => {
                let recovery = self.start(OnDamage::SetAside).unwrap();
                assert_eq!(recovery.frames_lost(DamageKind::Lost), frames);
                assert!(frames >= 1);
                self.check_nothing_is_lost_but(&lost, &recovery);
                recovery
            }
            Err(other) => panic!("{other}"),
        };
        // A place, also one without bytes: a file that was cut to nothing is reported, and has nothing to set aside.
        let is_tail = recovery.damage.iter().any(|place| place.kind == DamageKind::Torn);
        for (position, number) in lost {
            let position = Position(position);
            let is_named = |place: &DamagedPlace| {
                place.lost.is_some_and(|(first, last)| first <= position && position <= last)
            };
            // The one thing that leaves no trace: the log's end, cut exactly between two frames.
            assert!(
                is_tail || whole_frames_cut || recovery.damage.iter().any(is_named),
                "frame {position} is lost in silence: {:?}",
                recovery.damage
            );
            assert!(
                recovery.digests.iter().all(|known| known.digest != digest_of(number)),
                "a retry would be lost"
            );
        }
        self.check_start(&recovery);
    }

    fn check_nothing_is_lost_but(&self, lost: &[(u64, u64)], recovery: &Recovery) {
        let places = recovery.damage.iter().filter(|place| place.kind == DamageKind::Lost);
        for position in places.filter_map(|place| place.lost).flat_map(|(first, last)| first.0..=last.0) {
            let is_hit = lost.iter().any(|(hit, _)| *hit == position);
            assert!(is_hit || self.missing.contains(&position), "frame {position} was not damaged");
        }
    }

    fn check_start(&mut self, recovery: &Recovery) {
        let frames = self.check_frames();
        let missing = recovery.damage.iter().filter_map(|place| place.lost);
        self.missing.extend(missing.flat_map(|(first, last)| first.0..=last.0));
        assert_eq!(recovery.frames, frames.len() as u64);
        assert_eq!(recovery.events, 2 * recovery.frames);
        assert_eq!(recovery.waiting, frames.first().copied().zip(frames.last().copied()));
        assert_eq!(recovery.next, self.wal().durable().next());
        assert!(recovery.next.0 > self.committed);
        for known in recovery.digests.iter().filter(|known| known.position.0 > self.committed) {
            assert!(frames.contains(&known.position), "a digest without its frame");
        }
    }

    /// Every expected frame is there, and nothing else but what was written and not acknowledged; that then stays.
    fn check_frames(&mut self) -> Vec<Position> {
        let frames = super::read_all(self.wal(), self.committed);
        assert!(frames.is_sorted_by(|one, other| one.position < other.position));
        let found: BTreeMap<u64, &Frame> = frames.iter().map(|frame| (frame.position.0, frame)).collect();
        for (position, number) in &self.expected {
            let frame = found.get(position).unwrap_or_else(|| panic!("frame {position} is missing"));
            assert_eq!(frame.digest, digest_of(*number));
        }
        for (position, frame) in found {
            let number = u128::from_be_bytes(frame.digest) as u64;
            assert!(frame.payload.iter().all(|byte| *byte == number.to_le_bytes()[0]));
            if self.expected.insert(position, number).is_none() {
                assert!(self.unacknowledged.contains(&number), "frame {position} was never written");
            }
        }
        frames.iter().map(|frame| frame.position).collect()
    }
}

/// Where the frames of an undamaged segment are: a second, simple reading of the format.
fn layout(path: &PathBuf) -> Vec<(u64, std::ops::Range<u64>)> {
    let bytes = fs::read(path).unwrap();
    let mut frames = Vec::new();
    let mut at = 64;
    while at < bytes.len() {
        let payload = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        let position = u64::from_le_bytes(bytes[at + 16..at + 24].try_into().unwrap());
        let end = at + 64 + payload;
        frames.push((position, at as u64..end as u64));
        at = end;
    }
    frames
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, max_shrink_iters: 2000, ..ProptestConfig::default() })]
    #[test]
    fn every_acknowledged_frame_survives_every_life(steps in steps()) {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut life = Life::new();
            for step in steps {
                life.take(step).await;
            }
        });
    }
}
