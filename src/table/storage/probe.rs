//! What a store must do before anything is trusted to it, tried out at each start.
//!
//! Owns: the order of the trial and what a lie means. Does not own: why a call failed (`fault`).

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};

use super::Warehouse;
use crate::table::error::TableError;
use crate::table::local::PROBE_PREFIX;

const FIRST: &[u8] = b"first";
const SECOND: &[u8] = b"second";

impl Warehouse {
    /// Tries every kind of call on one small object of a name of its own: create, create again, read, list, delete. On the
    /// second create every commit rests: a store that lets it pass would let two commits succeed, and lose one.
    pub(in crate::table) async fn probe(&self, folder: &Path, name: &str) -> Result<(), TableError> {
        let store = self.store();
        let key = folder.clone().join(format!("{PROBE_PREFIX}{name}"));
        let create = |content: &'static [u8]| {
            store.put_opts(&key, Bytes::from_static(content).into(), PutMode::Create.into())
        };
        match create(FIRST).await {
            Ok(_) => {}
            // Sent once, and yet it is there: something between here and the store repeats requests.
            Err(Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let trial = self.try_out(store.as_ref(), &key, folder, create(SECOND).await).await;
        let deleted = store.delete(&key).await;
        trial?;
        Ok(deleted?)
    }

    async fn try_out(
        &self,
        store: &dyn ObjectStore,
        key: &Path,
        folder: &Path,
        second: object_store::Result<object_store::PutResult>,
    ) -> Result<(), TableError> {
        match second {
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {}
            Ok(_) => {
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
