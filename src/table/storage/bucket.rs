//! A bucket as an object store: what may be repeated is, what may not is sent once, and a failure says what to do.
//!
//! Owns: that a conditional create is never sent twice, and that every error is explained. Does not own: the protocols
//! (`object_store`), what a failure means (`fault`).
//!
//! `object_store` sends a create again where an answer was lost, and would then meet the object of its own first attempt. Here
//! such an answer is an error at once: the outcome is unknown, and whoever commits reads the table to settle it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    RetryConfig, UploadPart,
};

use super::fault::{Operation, Place};

/// Repeats of one call that failed in passing. The flush that needs it has its own, slower repeats.
const RETRIES_MAX: usize = 5;
/// No repeat begins later than this after the call.
const RETRY_TIME_MAX: Duration = Duration::from_secs(60);
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// A part of 8 MiB passes in this time at 1.2 Mbit/s.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(60);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// How calls that may be repeated are: with full jitter, so that replicas that failed together do not come back together.
pub(super) fn repeated() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { init_backoff: BACK_OFF_FIRST, max_backoff: BACK_OFF_MAX, base: 2. },
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_TIME_MAX,
    }
}

/// How calls that must not be repeated are.
pub(super) fn once() -> RetryConfig {
    RetryConfig { max_retries: 0, ..repeated() }
}

/// Of every connection. Without TLS only where the endpoint says so.
pub(super) fn client_options(endpoint: Option<&str>) -> ClientOptions {
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    ClientOptions::new()
        .with_allow_http(is_plain)
        .with_timeout(REQUEST_TIME_MAX)
        .with_connect_timeout(CONNECT_TIME_MAX)
}

/// A bucket.
pub(super) struct Bucket {
    /// Repeats what failed in passing.
    repeating: Arc<dyn ObjectStore>,
    /// Sends everything once.
    once: Arc<dyn ObjectStore>,
    place: Arc<Place>,
}

impl Bucket {
    /// `repeating` and `once` are the same bucket.
    pub(super) fn new(repeating: Arc<dyn ObjectStore>, once: Arc<dyn ObjectStore>, place: Place) -> Self {
        Self { repeating, once, place: Arc::new(place) }
    }
}

/// Nothing of the stores within: they hold credentials.
impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("place", &self.place).finish_non_exhaustive()
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the bucket {} at {}", self.place.bucket, self.place.endpoint)
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let store = match options.mode {
            PutMode::Overwrite => &self.repeating,
            PutMode::Create | PutMode::Update(_) => &self.once,
        };
        let put = store.put_opts(key, payload, options).await;
        put.map_err(|error| self.place.explain(error, Operation::Put, key.as_ref()))
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let explain = |error| self.place.explain(error, Operation::Put, key.as_ref());
        let inner = self.repeating.put_multipart_opts(key, options).await.map_err(explain)?;
        Ok(Box::new(Upload { inner, place: Arc::clone(&self.place), key: key.clone() }))
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        let got = self.repeating.get_opts(key, options).await;
        got.map_err(|error| self.place.explain(error, Operation::Get, key.as_ref()))
    }

    async fn get_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let got = self.repeating.get_ranges(key, ranges).await;
        got.map_err(|error| self.place.explain(error, Operation::Get, key.as_ref()))
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let place = Arc::clone(&self.place);
        let deleted = self.repeating.delete_stream(keys);
        deleted.map_err(move |error| place.explain(error, Operation::Delete, "objects")).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (place, folder) = (Arc::clone(&self.place), folder(prefix));
        self.repeating
            .list(prefix)
            .map_err(move |error| place.explain(error, Operation::List, &folder))
            .boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (place, folder) = (Arc::clone(&self.place), folder(prefix));
        let found = self.repeating.list_with_offset(prefix, offset);
        found.map_err(move |error| place.explain(error, Operation::List, &folder)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let found = self.repeating.list_with_delimiter(prefix).await;
        found.map_err(|error| self.place.explain(error, Operation::List, &folder(prefix)))
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copied = self.once.copy_opts(from, to, options).await;
        copied.map_err(|error| self.place.explain(error, Operation::Put, to.as_ref()))
    }
}

fn folder(prefix: Option<&Path>) -> String {
    prefix.map_or_else(|| "everything".to_owned(), |prefix| prefix.as_ref().to_owned())
}

/// An object that goes up in parts.
struct Upload {
    inner: Box<dyn MultipartUpload>,
    place: Arc<Place>,
    key: Path,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("key", &self.key).finish_non_exhaustive()
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let (place, key, part) = (Arc::clone(&self.place), self.key.clone(), self.inner.put_part(payload));
        Box::pin(
            async move { part.await.map_err(|error| place.explain(error, Operation::Put, key.as_ref())) },
        )
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let completed = self.inner.complete().await;
        completed.map_err(|error| self.place.explain(error, Operation::Put, self.key.as_ref()))
    }

    async fn abort(&mut self) -> Result<()> {
        let aborted = self.inner.abort().await;
        aborted.map_err(|error| self.place.explain(error, Operation::Put, self.key.as_ref()))
    }
}
