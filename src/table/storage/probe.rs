//! What a store must do before anything is trusted to it, tried out at each start.
//!
//! Owns: the order of the trial and what a lie means. Does not own: why a call failed (`fault`).

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};

use super::Warehouse;
use crate::table::error::TableError;
use crate::table::local::PROBE_PREFIX;

const FIRST: &[u8] = b"first";
const SECOND: &[u8] = b"second";

/// How often a create is tried, and the first pause between two tries.
const TRIES_MAX: u32 = 4;
const PAUSE_FIRST: Duration = Duration::from_millis(200);

impl Warehouse {
    /// Tries every kind of call on one small object of a name of its own: create, create again, read, list, delete. On the
    /// second create every commit rests: a store that lets it pass would let two commits succeed, and lose one.
    pub(in crate::table) async fn probe(&self, folder: &Path, name: &str) -> Result<(), TableError> {
        let store = self.store();
        let key = folder.clone().join(format!("{PROBE_PREFIX}{name}"));
        match create(store.as_ref(), &key, FIRST).await {
            // There already: by the first of several tries whose answer was lost.
            Ok(()) | Err(Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let trial = self.try_out(store.as_ref(), &key, folder).await;
        let deleted = store.delete(&key).await;
        trial?;
        Ok(deleted?)
    }

    async fn try_out(&self, store: &dyn ObjectStore, key: &Path, folder: &Path) -> Result<(), TableError> {
        match create(store, key, SECOND).await {
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
            Ok(()) => {
                return Err(self.lies(
                    "overwrites an object that a conditional create must refuse, so that two commits could both succeed",
                    "use a store that honours conditional creates (S3: If-None-Match; GCS: x-goog-if-generation-match)",
                ));
            }
            Err(error) => return Err(error.into()),
        }
        let read = store.get(key).await;
        if matches!(read, Err(Error::NotFound { .. })) {
            return Err(self.lies(
                "does not show an object right after it was written",
                "use a store whose reads follow its writes, without a cache before it",
            ));
        }
        if read?.bytes().await? != FIRST {
            return Err(self.lies(
                "refuses a conditional create and yet changes the object",
                "use a store that honours conditional creates",
            ));
        }
        // A bucket lists by name, and a probe's sorts before those of metadata: the first page has it.
        let mut listed = store.list(Some(folder));
        let mut is_listed = false;
        while !is_listed && let Some(object) = listed.try_next().await? {
            is_listed = object.location == *key;
        }
        if !is_listed {
            return Err(self.lies(
                "does not list an object right after it was written",
                "use a store whose lists follow its writes, without a cache before it",
            ));
        }
        Ok(())
    }

    fn lies(&self, how: &str, fix: &str) -> TableError {
        TableError::Warehouse { location: self.location.clone(), problem: format!("the store {how}; {fix}") }
    }
}

/// A create that is tried again where it failed in passing: here an unknown outcome does no harm, and a busy store should not
/// stop a start.
async fn create(store: &dyn ObjectStore, key: &Path, content: &'static [u8]) -> object_store::Result<()> {
    let mut pause = PAUSE_FIRST;
    for _ in 1..TRIES_MAX {
        match store.put_opts(key, Bytes::from_static(content).into(), PutMode::Create.into()).await {
            Err(Error::Generic { .. }) => {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            settled => return settled.map(drop),
        }
    }
    store.put_opts(key, Bytes::from_static(content).into(), PutMode::Create.into()).await.map(drop)
}
