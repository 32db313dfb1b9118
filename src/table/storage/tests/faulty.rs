//! A store that counts its calls, and fails, lies and delivers late on demand.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The call does nothing and fails.
    NotTaken,
    /// The call does its work and fails.
    AnswerLost,
    /// The call fails now, and does its work just before the next one to the same key.
    Late,
    /// Creates overwrite.
    Overwrites,
    /// What was put cannot be read.
    Forgets,
    /// What was put is not listed.
    HidesFromLists,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<String>,
    /// The start of a call's name, and what goes wrong with the first such call.
    scripted: Option<(String, Fault)>,
    /// The same for the call of this number.
    numbered: Option<(usize, Fault)>,
    lie: Option<Fault>,
    late: Vec<(Path, PutPayload, PutOptions)>,
}

/// A store that does as it is told.
pub(super) struct Faulty {
    inner: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
    parts: Arc<(AtomicUsize, AtomicUsize)>,
}

impl Faulty {
    pub(super) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, state: Arc::default(), parts: Arc::default() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The calls since the last question.
    pub(super) fn calls(&self) -> Vec<String> {
        self.with(|state| std::mem::take(&mut state.calls))
    }

    /// The first call whose name begins so goes wrong.
    pub(super) fn fail(&self, call: &str, fault: Fault) {
        self.with(|state| state.scripted = Some((call.to_owned(), fault)));
    }

    /// The call of this number, from now, goes wrong.
    pub(super) fn fail_call(&self, number: usize, fault: Fault) {
        self.with(|state| state.numbered = Some((number, fault)));
    }

    pub(super) fn lie(&self, lie: Fault) {
        self.with(|state| state.lie = Some(lie));
    }

    /// The most parts that were on their way at once.
    pub(super) fn parts_at_once_max(&self) -> usize {
        self.parts.1.load(Ordering::SeqCst)
    }

    pub(super) async fn keys(&self) -> Vec<String> {
        self.inner.list(None).map_ok(|object| object.location.to_string()).try_collect().await.unwrap()
    }

    fn lies(&self, lie: Fault) -> bool {
        self.with(|state| state.lie == Some(lie))
    }

    /// Counts a call; tells what goes wrong with it.
    fn called(state: &Mutex<State>, call: String) -> Option<Fault> {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let number = state.calls.len();
        let numbered = state.numbered.take_if(|(one, _)| *one == number).map(|(_, fault)| fault);
        let scripted = state.scripted.take_if(|(start, _)| call.starts_with(start.as_str()));
        state.calls.push(call);
        numbered.or(scripted.map(|(_, fault)| fault))
    }

    async fn around<T>(&self, call: String, work: impl Future<Output = Result<T>>) -> Result<T> {
        match Self::called(&self.state, call) {
            None => work.await,
            Some(Fault::NotTaken) => Err(failure()),
            Some(_) => {
                work.await?;
                Err(failure())
            }
        }
    }
}

fn failure() -> Error {
    Error::Generic { store: "faulty", source: "the call failed, as the test wants".into() }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store that fails on demand")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, key: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let verb = if options.mode == PutMode::Create { "create" } else { "put" };
        if self.lies(Fault::Overwrites) {
            options.mode = PutMode::Overwrite;
        }
        let late = self.with(|state| state.late.pop_if(|(late, ..)| late == key));
        if let Some((key, payload, options)) = late {
            self.inner.put_opts(&key, payload, options).await?;
        }
        let put = self.inner.put_opts(key, payload.clone(), options.clone());
        match Self::called(&self.state, format!("{verb} {key}")) {
            None => put.await,
            Some(Fault::Late) => {
                self.with(|state| state.late.push((key.clone(), payload, options)));
                Err(failure())
            }
            Some(Fault::NotTaken) => Err(failure()),
            Some(_) => {
                put.await?;
                Err(failure())
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let begin = self.inner.put_multipart_opts(key, options);
        let inner = self.around(format!("begin {key}"), begin).await?;
        let (state, parts) = (Arc::clone(&self.state), Arc::clone(&self.parts));
        Ok(Box::new(Upload { inner, key: key.clone(), state, parts }))
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        if self.lies(Fault::Forgets) {
            return Err(Error::NotFound { path: key.to_string(), source: "forgotten".into() });
        }
        let verb = if options.head { "head" } else { "get" };
        self.around(format!("{verb} {key}"), self.inner.get_opts(key, options)).await
    }

    async fn get_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.around(format!("get {key}"), self.inner.get_ranges(key, ranges)).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let state = Arc::clone(&self.state);
        let counted = keys.inspect_ok(move |key| {
            Self::called(&state, format!("delete {key}"));
        });
        self.inner.delete_stream(counted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let fault = Self::called(&self.state, format!("list {}", prefix.cloned().unwrap_or_default()));
        if fault.is_some() {
            return futures::stream::once(async { Err(failure()) }).boxed();
        }
        if self.lies(Fault::HidesFromLists) {
            return futures::stream::empty().boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let call = format!("list {}", prefix.cloned().unwrap_or_default());
        self.around(call, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.around(format!("copy {to}"), self.inner.copy_opts(from, to, options)).await
    }
}

struct Upload {
    inner: Box<dyn MultipartUpload>,
    key: Path,
    state: Arc<Mutex<State>>,
    parts: Arc<(AtomicUsize, AtomicUsize)>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upload")
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let (part, parts) = (self.inner.put_part(payload), Arc::clone(&self.parts));
        let fault = Faulty::called(&self.state, format!("part {}", self.key));
        let at_once = parts.0.fetch_add(1, Ordering::SeqCst) + 1;
        parts.1.fetch_max(at_once, Ordering::SeqCst);
        Box::pin(async move {
            tokio::task::yield_now().await;
            let outcome = part.await;
            parts.0.fetch_sub(1, Ordering::SeqCst);
            if fault.is_some() { Err(failure()) } else { outcome }
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        match Faulty::called(&self.state, format!("complete {}", self.key)) {
            None => self.inner.complete().await,
            Some(_) => Err(failure()),
        }
    }

    async fn abort(&mut self) -> Result<()> {
        Faulty::called(&self.state, format!("abort {}", self.key));
        self.inner.abort().await
    }
}
