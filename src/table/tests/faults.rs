//! Tables whose commits fail on demand, for the tests of whoever commits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;
use iceberg::spec::TableMetadata;
use iceberg::{TableRequirement, TableUpdate};

use crate::table::catalog::{Catalog, CommitOutcome, Loaded};
use crate::table::{Table, TableError};

const NONE: u8 = 0;
const DOWN: u8 = 1;
const MUTE: u8 = 2;

/// What a catalog does with commits; shared with the test.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<AtomicU8>);

impl Faults {
    /// Commits succeed.
    pub(crate) fn heal(&self) {
        self.0.store(NONE, Ordering::SeqCst);
    }

    /// Commits fail, and nothing happens.
    pub(crate) fn down(&self) {
        self.0.store(DOWN, Ordering::SeqCst);
    }

    /// Commits happen, and whoever waits for one is told of a failure: as if it had died just then.
    pub(crate) fn mute(&self) {
        self.0.store(MUTE, Ordering::SeqCst);
    }
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn Catalog>,
    faults: Faults,
}

impl Table {
    /// The same table, whose commits do as `faults` says.
    pub(crate) fn with_faults(mut self, faults: &Faults) -> Self {
        self.catalog = Arc::new(Faulty { inner: self.catalog, faults: faults.clone() });
        self
    }
}

#[async_trait]
impl Catalog for Faulty {
    fn table_location(&self) -> &str {
        self.inner.table_location()
    }

    fn refuses_any_other_base(&self) -> bool {
        self.inner.refuses_any_other_base()
    }

    async fn load(&self) -> Result<Option<Loaded>, TableError> {
        self.inner.load().await
    }

    async fn show(&self, loaded: &Loaded) {
        self.inner.show(loaded).await;
    }

    async fn create(&self, metadata: TableMetadata) -> Result<CommitOutcome, TableError> {
        self.inner.create(metadata).await
    }

    async fn commit(
        &self,
        base: &Loaded,
        requirements: &[TableRequirement],
        updates: Vec<TableUpdate>,
    ) -> Result<CommitOutcome, TableError> {
        let fault = self.faults.0.load(Ordering::SeqCst);
        if fault != DOWN {
            let outcome = self.inner.commit(base, requirements, updates).await?;
            if fault == NONE {
                return Ok(outcome);
            }
        }
        Err(TableError::Contended { attempts: 0 })
    }
}
