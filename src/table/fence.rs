//! A fence between orphans that are about to be deleted and writers that sleep.
//!
//! A process may stop anywhere, as a paused machine does, and go on days later as if nothing had been: with a commit of files
//! that were taken for orphans meanwhile. So before orphans are deleted, the table says from before when, in the property
//! `esker.orphans.before`. That is a commit: whoever slept on the state before it is refused, reads the table, and finds that
//! its files are too old. And what was committed before the fence is found to be needed by reading the table after it.
//!
//! Owns: that property. Does not own: which files are orphans (`maintain`), writing the rows again (`flush`).

use iceberg::spec::TableMetadata;
use iceberg::{TableRequirement, TableUpdate};
use uuid::Uuid;

use super::Table;
use super::catalog::CommitOutcome;
use super::commit::{ATTEMPTS_MAX, BACK_OFF_FIRST};
use super::error::TableError;

/// Orphans written before this time, in milliseconds since the Unix epoch, may be gone.
const PROPERTY: &str = "esker.orphans.before";

/// Ids are made by the writers' clocks, files are dated by the store's. Stores refuse requests that are a quarter of an hour
/// off.
const SKEW_MAX_MS: i64 = 60 * 60 * 1000;

fn before_ms(metadata: &TableMetadata) -> Option<i64> {
    metadata.properties().get(PROPERTY)?.parse().ok()
}

/// True where files whose writing began when `commit_id` was made may have been deleted as orphans.
pub(super) fn is_behind(metadata: &TableMetadata, commit_id: Uuid) -> bool {
    let Some((seconds, nanos)) = commit_id.get_timestamp().map(|made| made.to_unix()) else { return false };
    let made_ms =
        i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000) + i64::from(nanos / 1_000_000);
    before_ms(metadata).is_some_and(|before_ms| made_ms <= before_ms.saturating_add(SKEW_MAX_MS))
}

impl Table {
    /// Makes sure that no file that was written until `at_ms`, and that the table does not hold once this returns, is ever
    /// committed.
    ///
    /// # Errors
    /// Where the table cannot be read or written: then there may be no fence, and no orphan may be deleted.
    pub async fn fence_orphans(&self, at_ms: i64) -> Result<(), TableError> {
        let mut back_off = BACK_OFF_FIRST;
        for attempt in 0..=ATTEMPTS_MAX {
            let base = self.reload().await?;
            // Whoever slept on a state before the property was raised is refused; whoever did not has seen it.
            if before_ms(&base.metadata).is_some_and(|before_ms| before_ms >= at_ms) {
                self.catalog.show(&base).await;
                return Ok(());
            }
            if attempt == ATTEMPTS_MAX {
                break;
            }
            let uuid = TableRequirement::UuidMatch { uuid: base.metadata.uuid() };
            let update =
                TableUpdate::SetProperties { updates: [(PROPERTY.to_owned(), at_ms.to_string())].into() };
            match self.catalog.commit(&base, &[uuid], vec![update]).await? {
                // Reading the table, at the top, decides.
                CommitOutcome::Committed => {}
                CommitOutcome::Conflicted => self.back_off(&mut back_off).await,
                CommitOutcome::Unknown(error) => {
                    tracing::warn!(%error, version = base.version, "the fence's outcome is unknown; reading the table");
                    self.back_off(&mut back_off).await;
                }
            }
        }
        Err(TableError::Contended { attempts: ATTEMPTS_MAX })
    }
}
