//! Tables whose commits fail on demand, and stores that die on demand, for the tests of whoever commits or deletes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use iceberg::spec::TableMetadata;
use iceberg::{TableRequirement, TableUpdate};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::table::catalog::files::FilesCatalog;
use crate::table::catalog::{Catalog, CommitOutcome, Loaded, Versions};
use crate::table::{Table, TableError};

const NONE: u8 = 0;
const DOWN: u8 = 1;
const MUTE: u8 = 2;
const REFUSED_TWIN: u8 = 3;
/// And one more for each answer that is still to be lost.
const LOST: u8 = 100;

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

    /// The next commits happen, and how they ended is not known.
    pub(crate) fn lose_answers(&self, commits: u8) {
        self.0.store(LOST + commits, Ordering::SeqCst);
    }

    /// The next commit happens, and its answer is that of a request that was sent again: it conflicts.
    pub(crate) fn refuse_the_twin(&self) {
        self.0.store(REFUSED_TWIN, Ordering::SeqCst);
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

    async fn load(&self) -> std::result::Result<Option<Loaded>, TableError> {
        self.inner.load().await
    }

    async fn show(&self, loaded: &Loaded) {
        self.inner.show(loaded).await;
    }

    async fn create(&self, metadata: TableMetadata) -> std::result::Result<CommitOutcome, TableError> {
        self.inner.create(metadata).await
    }

    async fn commit(
        &self,
        base: &Loaded,
        requirements: &[TableRequirement],
        updates: Vec<TableUpdate>,
    ) -> std::result::Result<CommitOutcome, TableError> {
        let fault = self.faults.0.load(Ordering::SeqCst);
        if fault != DOWN {
            let outcome = self.inner.commit(base, requirements, updates).await?;
            if fault == NONE || fault == LOST {
                return Ok(outcome);
            }
            if fault == REFUSED_TWIN {
                self.faults.heal();
                return Ok(CommitOutcome::Conflicted);
            }
            if fault > LOST {
                self.faults.0.store(fault - 1, Ordering::SeqCst);
                return Ok(CommitOutcome::Unknown(TableError::Contended { attempts: 0 }));
            }
        }
        Err(TableError::Contended { attempts: 0 })
    }

    async fn versions(&self) -> std::result::Result<Versions, TableError> {
        self.inner.versions().await
    }

    async fn remove_version(&self, number: u64) -> std::result::Result<(), TableError> {
        self.inner.remove_version(number).await
    }
}

/// A process that dies at a certain change to the store: that change happens or not, and nothing after it does.
#[derive(Debug, Clone)]
pub(crate) struct Death {
    changes_left: Arc<AtomicI64>,
    /// True: the last change happens, and nobody hears of it.
    mute: bool,
}

impl Death {
    pub(crate) fn at(change: i64, mute: bool) -> Self {
        Self { changes_left: Arc::new(AtomicI64::new(change)), mute }
    }

    pub(crate) fn came(&self) -> bool {
        self.changes_left.load(Ordering::SeqCst) <= 0
    }

    fn dead(&self) -> Result<()> {
        if self.came() {
            Err(Error::NotImplemented { operation: "dead".into(), implementer: "test".into() })
        } else {
            Ok(())
        }
    }
}

impl Table {
    /// Tags a snapshot, as another engine would.
    pub(crate) async fn tag(&self, name: &str, snapshot_id: i64) {
        let base = self.reload().await.unwrap();
        let retention = iceberg::spec::SnapshotRetention::Tag { max_ref_age_ms: None };
        let reference = iceberg::spec::SnapshotReference::new(snapshot_id, retention);
        let update = TableUpdate::SetSnapshotRef { ref_name: name.to_owned(), reference };
        let outcome = self.catalog.commit(&base, &[], vec![update]).await.unwrap();
        assert!(matches!(outcome, CommitOutcome::Committed), "{outcome:?}");
    }

    /// Sends a commit on the state that was last read, which others have left far behind: it is refused.
    pub(crate) async fn commit_as_last_read(&self, property: &str) {
        let update = TableUpdate::SetProperties { updates: [(property.to_owned(), "1".to_owned())].into() };
        let outcome = self.catalog.commit(&self.loaded(), &[], vec![update]).await.unwrap();
        assert!(matches!(outcome, CommitOutcome::Conflicted), "{outcome:?}");
    }

    /// Makes the table as if it were not there: it is refused.
    pub(crate) async fn create_again(&self, columns: &[crate::columns::TableColumn]) {
        let metadata = crate::table::schema::new_table(self.location(), "product.events", columns).unwrap();
        let outcome = self.catalog.create(metadata).await.unwrap();
        assert!(matches!(outcome, CommitOutcome::Conflicted), "{outcome:?}");
    }

    /// The same table, whose process dies as told.
    pub(crate) fn with_death(self, name: &str, death: &Death) -> Self {
        let wrap = |inner| Arc::new(Mortal { inner, death: death.clone() }) as Arc<dyn ObjectStore>;
        let warehouse = self.warehouse.with_store(wrap);
        let catalog = Arc::new(FilesCatalog::new(&warehouse, name));
        Self { warehouse, catalog, ..self }
    }
}

#[derive(Debug, Clone)]
struct Mortal {
    inner: Arc<dyn ObjectStore>,
    death: Death,
}

impl fmt::Display for Mortal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of a mortal process", self.inner)
    }
}

impl Mortal {
    async fn change<T>(&self, change: impl Future<Output = Result<T>>) -> Result<T> {
        self.death.dead()?;
        if self.death.changes_left.fetch_sub(1, Ordering::SeqCst) > 1 {
            return change.await;
        }
        if self.death.mute {
            drop(change.await);
        }
        self.death.dead()?;
        unreachable!("it has just died")
    }
}

#[async_trait]
impl ObjectStore for Mortal {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.change(self.inner.put_opts(key, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.change(self.inner.put_multipart_opts(key, options)).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.death.dead()?;
        self.inner.get_opts(key, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        keys.then(move |key| {
            let this = this.clone();
            async move {
                let one = futures::stream::once(std::future::ready(key)).boxed();
                let mut deleted = this.inner.delete_stream(one);
                this.change(async { deleted.next().await.unwrap() }).await
            }
            .boxed()
        })
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if let Err(error) = self.death.dead() {
            return futures::stream::once(std::future::ready(Err(error))).boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.death.dead()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.change(self.inner.copy_opts(from, to, options)).await
    }
}
