//! Adding a WAL span to the table exactly once, whatever becomes of an attempt.
//!
//! The position of each writer is a table property, `esker.writer.<id>` = `<epoch>:<position>`, changed in the same commit
//! as the snapshot. Each attempt begins with reading it: a span that the table holds is never sent again, and a commit
//! counts only once the newest metadata shows it. A commit whose outcome is unknown is thus settled like any other.
//!
//! Owns: that loop, its limits, and removing the metadata files of attempts that are proven absent. Does not own: the data
//! files, which belong to the span until it is committed.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use iceberg::spec::TableMetadata;
use iceberg::{TableRequirement, TableUpdate};
use uuid::Uuid;

use super::catalog::{CommitOutcome, Loaded};
use super::error::TableError;
use super::snapshot::{self, Append, Produced};
use super::{Table, fence, schema};
use crate::datafile::WrittenFile;
use crate::wal::Position;

/// Attempts of one `append` before it gives way to the flusher's slower retries.
pub(super) const ATTEMPTS_MAX: u32 = 10;
pub(super) const BACK_OFF_FIRST: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// Data files that waited this long for their commit are not committed any more.
pub(super) const FILES_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The span of the WAL that a commit makes part of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalClaim {
    /// The data directory's writer.
    pub writer_id: Uuid,
    /// Which of its starts.
    pub epoch: u64,
    /// First position.
    pub from: Position,
    /// Last position.
    pub through: Position,
    /// Names the attempt's files.
    pub commit_id: Uuid,
}

/// The span is in the table, as reading it has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The metadata version that was read.
    pub metadata_version: u64,
    /// Commits that were sent for it; 0 if it was there already.
    pub attempts: u32,
}

/// What the table says of a claim.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    Committed,
    Absent,
}

/// A commit that was sent and is not in the table.
struct Lost {
    metadata_files: Vec<String>,
    /// The snapshot that `main` had, and must still have for this commit to be made.
    main: Option<i64>,
    was_refused: bool,
}

fn property(writer_id: Uuid) -> String {
    format!("esker.writer.{writer_id}")
}

/// The last epoch and position of a writer that the table holds.
pub(super) fn writer_position(metadata: &TableMetadata, writer_id: Uuid) -> Option<(u64, Position)> {
    let (epoch, position) = metadata.properties().get(&property(writer_id))?.split_once(':')?;
    Some((epoch.parse().ok()?, Position(position.parse().ok()?)))
}

fn standing(metadata: &TableMetadata, claim: &WalClaim) -> Result<Standing, TableError> {
    let (epoch, position) = writer_position(metadata, claim.writer_id).unwrap_or((0, Position(0)));
    if epoch > claim.epoch {
        return Err(TableError::Fenced { ours: claim.epoch, theirs: epoch });
    }
    if position >= claim.through {
        return Ok(Standing::Committed);
    }
    if position != claim.from.previous() {
        return Err(TableError::Gap { in_table: position.0, from: claim.from.0 });
    }
    Ok(Standing::Absent)
}

impl Table {
    /// Makes `files` and the span that they hold part of the table, exactly once. `summary` is added to the snapshot's. Without
    /// files only the position moves.
    ///
    /// After an error that [`TableError::is_retryable`], the same call with the same claim and files may be made again, at any
    /// later time.
    ///
    /// # Errors
    /// [`TableError::Altered`] where the files do not fit the table any more: after [`Table::conform`] they are written anew;
    /// [`TableError::FilesTooOld`] where they must be written again. [`TableError::Fenced`] and [`TableError::Gap`] where this
    /// writer must stop; others as they say.
    pub async fn append(
        &self,
        files: &[WrittenFile],
        claim: &WalClaim,
        summary: &BTreeMap<String, String>,
    ) -> Result<Appended, TableError> {
        let mut back_off = BACK_OFF_FIRST;
        let mut lost: Vec<Lost> = Vec::new();
        for attempts in 0..=ATTEMPTS_MAX {
            let base = self.reload().await?;
            if standing(&base.metadata, claim)? == Standing::Committed {
                self.catalog.show(&base).await;
                return Ok(Appended { metadata_version: base.version, attempts });
            }
            // An attempt that is absent now may be made yet, by a store or a catalog that was slow and not deaf. Its manifests
            // are nobody's once that is ruled out: it was refused, or `main`, which it demands, has moved.
            let current = base.metadata.current_snapshot_id();
            for garbage in lost.extract_if(.., |lost| lost.was_refused || lost.main != current) {
                self.remove(garbage.metadata_files).await;
            }
            if attempts == ATTEMPTS_MAX {
                break;
            }
            if let Err(error) = schema::check_unaltered(&base, &self.columns) {
                self.altered.store(true, Ordering::Relaxed);
                return Err(error);
            }
            if !files.is_empty() {
                self.refuse_old(&base.metadata, claim)?;
            }
            let produced = self.produce(&base, files, claim, summary).await?;
            let mut attempt =
                Lost { metadata_files: produced.metadata_files, main: current, was_refused: false };
            match self.catalog.commit(&base, &produced.requirements, produced.updates).await {
                Err(error) => {
                    // A catalog that says no has not made it; of all other errors nothing is supposed.
                    if matches!(error, TableError::Catalog(_)) {
                        self.remove(attempt.metadata_files).await;
                    }
                    return Err(error);
                }
                // Reading the table, at the top, decides.
                Ok(CommitOutcome::Committed) => {}
                Ok(CommitOutcome::Conflicted) => {
                    attempt.was_refused = true;
                    tracing::debug!(version = base.version, "another writer committed first");
                    self.back_off(&mut back_off).await;
                }
                Ok(CommitOutcome::Unknown(error)) => {
                    tracing::warn!(%error, version = base.version, "the commit's outcome is unknown; reading the table");
                    self.back_off(&mut back_off).await;
                }
            }
            lost.push(attempt);
        }
        Err(TableError::Contended { attempts: ATTEMPTS_MAX })
    }

    /// Refuses files that waited too long for their commit: the care of the table deletes what nothing names, once it is older
    /// than any commit under way (`maintain`), and says so in the table before it does (`fence`). Not asked again before the
    /// commit is sent: if that was raised meanwhile, the commit is refused.
    fn refuse_old(&self, metadata: &TableMetadata, claim: &WalClaim) -> Result<(), TableError> {
        // The id was made when the writing began.
        let Some(began) = claim.commit_id.get_timestamp().map(|made| made.to_unix().0) else { return Ok(()) };
        let now = u64::try_from(self.clock.now_micros() / 1_000_000).unwrap_or(0);
        let age = Duration::from_secs(now.saturating_sub(began));
        if age < FILES_AGE_MAX && !fence::is_behind(metadata, claim.commit_id) {
            Ok(())
        } else {
            Err(TableError::FilesTooOld { hours: age.as_secs() / 3600 })
        }
    }

    async fn produce(
        &self,
        base: &Loaded,
        files: &[WrittenFile],
        claim: &WalClaim,
        summary: &BTreeMap<String, String>,
    ) -> Result<Produced, TableError> {
        let position = TableUpdate::SetProperties {
            updates: [(property(claim.writer_id), format!("{}:{}", claim.epoch, claim.through))].into(),
        };
        // Where the catalog lets a commit pass whose base is not the newest, one that was given up could move the position back
        // later. A snapshot without files rules that out: its commit demands that `main` has not moved.
        if files.is_empty() && self.catalog.refuses_any_other_base() {
            let uuid = TableRequirement::UuidMatch { uuid: base.metadata.uuid() };
            return Ok(Produced {
                requirements: vec![uuid],
                updates: vec![position],
                metadata_files: vec![],
            });
        }
        let mut summary = summary.clone();
        summary.extend(
            [
                ("esker.writer-id", claim.writer_id.to_string()),
                ("esker.writer-epoch", claim.epoch.to_string()),
                ("esker.wal-from", claim.from.to_string()),
                ("esker.wal-through", claim.through.to_string()),
                ("esker.commit-id", claim.commit_id.to_string()),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        let append = Append {
            files,
            // Each attempt's files have names of their own: a slow reader of a lost attempt finds what it was told.
            commit_id: self.ids.next_id(),
            snapshot_id: self.unused_snapshot_id(&base.metadata),
            timestamp_ms: (self.clock.now_micros() / 1000).max(base.metadata.last_updated_ms()),
            summary,
        };
        let mut produced = snapshot::produce(&self.warehouse, base, append).await?;
        produced.updates.push(position);
        Ok(produced)
    }

    pub(super) fn unused_snapshot_id(&self, metadata: &TableMetadata) -> i64 {
        loop {
            let (high, low) = self.ids.next_id().as_u64_pair();
            // The random half of the id over its time half, without the sign.
            #[expect(clippy::cast_possible_wrap, reason = "the sign bit was cleared")]
            let id = ((low ^ high.rotate_left(32)) & (u64::MAX >> 1)) as i64;
            if id > 0 && metadata.snapshot_by_id(id).is_none() {
                return id;
            }
        }
    }

    /// Waits, with full jitter, so that writers that collided do not collide again.
    pub(super) async fn back_off(&self, longest: &mut Duration) {
        let (_, random) = self.ids.next_id().as_u64_pair();
        let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX).max(1);
        tokio::time::sleep(Duration::from_millis(random % millis)).await;
        *longest = (*longest * 2).min(BACK_OFF_MAX);
    }

    pub(super) async fn remove(&self, locations: Vec<String>) {
        let file_io = self.warehouse.file_io();
        for location in locations {
            if let Err(error) = file_io.delete(&location).await {
                tracing::debug!(%error, location, "a manifest of a lost commit stays behind as an orphan");
            }
        }
    }
}
