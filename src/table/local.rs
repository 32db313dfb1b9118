//! A local folder as an object store whose puts are durable: `object_store`'s own does not sync.
//!
//! Owns: stage, fsync, then link (create) or rename (overwrite), then fsync of the folders; removing what killed processes
//! left staged. Does not own: reading and listing, which `object_store` does.
//!
//! A staged file is locked while its process lives: so whoever gets the lock knows that nobody will ever publish it, wherever
//! that process ran. Process ids would not tell: two containers that share a warehouse may both be number 7.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// Numbers staged files, so that two never share a name in one process.
static STAGED: AtomicU64 = AtomicU64::new(0);
/// The digits of such a number, at least; the process id stands before them.
const NUMBER_DIGITS: usize = 6;

/// How the names of probes begin.
pub(super) const PROBE_PREFIX: &str = ".probe-";
const PROBE_AGE_MAX: Duration = Duration::from_secs(3600);

/// The folder `root` as an object store.
#[derive(Debug)]
pub(super) struct SyncedLocal {
    root: PathBuf,
    inner: Arc<LocalFileSystem>,
}

impl SyncedLocal {
    /// `root` must exist.
    pub(super) fn new(root: &FilePath) -> Result<Self> {
        Ok(Self { root: root.to_owned(), inner: Arc::new(LocalFileSystem::new_with_prefix(root)?) })
    }

    fn target(&self, key: &Path) -> Result<Target> {
        Ok(Target { root: self.root.clone(), path: self.inner.path_to_filesystem(key)?, key: key.clone() })
    }
}

/// Where an object goes.
#[derive(Debug, Clone)]
struct Target {
    root: PathBuf,
    path: PathBuf,
    key: Path,
}

impl Target {
    fn failed(&self, source: io::Error) -> Error {
        let (path, source) = (self.key.to_string(), Box::new(source));
        match source.kind() {
            io::ErrorKind::AlreadyExists => Error::AlreadyExists { path, source },
            io::ErrorKind::NotFound => Error::NotFound { path, source },
            io::ErrorKind::PermissionDenied => Error::PermissionDenied { path, source },
            _ => Error::Generic { store: "local files", source },
        }
    }

    /// Opens a staged file beside the target, making the folders that lack.
    fn stage(&self) -> io::Result<(PathBuf, File)> {
        let folder = self.path.parent().unwrap_or(&self.root);
        self.make_folders(folder)?;
        loop {
            // Names that end in `#` and digits are the local store's own staged files: it never lists them.
            let number = STAGED.fetch_add(1, Ordering::Relaxed);
            let mut name = self.path.as_os_str().to_owned();
            name.push(format!("#{}{number:0NUMBER_DIGITS$}", std::process::id()));
            let staged = PathBuf::from(name);
            match File::options().write(true).create_new(true).open(&staged) {
                Ok(file) if hold(&file)? => return Ok((staged, file)),
                // It was swept between these two lines.
                Ok(_) => {}
                // Another container's process with this number, or what one has left.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes `folder` and syncs each folder that got a new entry.
    fn make_folders(&self, folder: &FilePath) -> io::Result<()> {
        if folder.is_dir() || folder == self.root {
            return Ok(());
        }
        let parent = folder.parent().unwrap_or(&self.root);
        self.make_folders(parent)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        File::open(parent)?.sync_all()
    }

    /// Makes a staged file the object.
    fn publish(&self, staged: &FilePath, file: &File, create: bool) -> io::Result<()> {
        file.sync_all()?;
        if create {
            fs::hard_link(staged, &self.path)?;
            fs::remove_file(staged)?;
        } else {
            fs::rename(staged, &self.path)?;
        }
        File::open(self.path.parent().unwrap_or(&self.root))?.sync_all()
    }

    fn put(&self, payload: &PutPayload, create: bool) -> io::Result<()> {
        let (staged, mut file) = self.stage()?;
        let outcome = payload
            .iter()
            .try_for_each(|part| io::Write::write_all(&mut file, part))
            .and_then(|()| self.publish(&staged, &file, create));
        if outcome.is_err() {
            // What is left of it is never listed, and the first error is the one to tell.
            drop(fs::remove_file(&staged));
        }
        outcome
    }
}

/// Locks a new staged file; false where a sweep had it first.
fn hold(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(file.metadata()?.nlink() > 0),
        Err(TryLockError::WouldBlock) => Ok(false),
        // Where a file system has no locks, nothing is ever swept.
        Err(TryLockError::Error(_)) => Ok(true),
    }
}

/// Removes what killed processes left behind in `folder` and below: staged files that nobody holds, and old probes. Tells how
/// many. Best effort: what cannot be read or removed stays.
pub(super) fn sweep(folder: &FilePath) -> usize {
    let (mut swept, mut folders) = (0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            let (kind, name) = (entry.file_type(), entry.file_name());
            let name = name.to_string_lossy();
            if kind.is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            } else if (is_staged(&name) && is_abandoned(&entry.path()))
                || (name.starts_with(PROBE_PREFIX) && is_old(&entry))
            {
                swept += usize::from(fs::remove_file(entry.path()).is_ok());
            }
        }
    }
    swept
}

fn is_staged(name: &str) -> bool {
    let number = name.rsplit_once('#').map_or("", |(_, number)| number);
    number.len() > NUMBER_DIGITS && number.bytes().all(|digit| digit.is_ascii_digit())
}

fn is_abandoned(staged: &FilePath) -> bool {
    File::open(staged).is_ok_and(|file| file.try_lock().is_ok())
}

/// A probe is not locked and lives for some milliseconds: a start that is just at it must not lose it.
fn is_old(probe: &fs::DirEntry) -> bool {
    let age = probe.metadata().and_then(|metadata| metadata.modified()).map(|modified| modified.elapsed());
    matches!(age, Ok(Ok(age)) if age >= PROBE_AGE_MAX)
}

/// Runs blocking file work off the runtime's threads.
async fn blocking<T: Send + 'static>(
    target: Target,
    work: impl FnOnce(&Target) -> io::Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(move || work(&target).map_err(|error| target.failed(error)))
        .await
        .map_err(|error| Error::Generic { store: "local files", source: Box::new(error) })?
}

impl fmt::Display for SyncedLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local files in {}", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for SyncedLocal {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return self.inner.put_opts(key, payload, options).await,
        };
        blocking(self.target(key)?, move |target| target.put(&payload, create)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let target = self.target(key)?;
        let (staged, file) = blocking(target.clone(), Target::stage).await?;
        Ok(Box::new(Upload { target, staged, file: Arc::new(file), offset: 0 }))
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(key, options).await
    }

    async fn get_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(key, ranges).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// An object that arrives in parts.
#[derive(Debug)]
struct Upload {
    target: Target,
    staged: PathBuf,
    file: Arc<File>,
    offset: u64,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let (file, mut offset) = (Arc::clone(&self.file), self.offset);
        self.offset += payload.content_length() as u64;
        Box::pin(blocking(self.target.clone(), move |_| {
            for part in payload.iter() {
                file.write_all_at(part, offset)?;
                offset += part.len() as u64;
            }
            Ok(())
        }))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (staged, file) = (self.staged.clone(), Arc::clone(&self.file));
        blocking(self.target.clone(), move |target| target.publish(&staged, &file, false)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        let staged = self.staged.clone();
        blocking(self.target.clone(), move |_| fs::remove_file(staged)).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::{ObjectStoreExt, WriteMultipart};

    use super::*;

    fn store() -> (tempfile::TempDir, SyncedLocal) {
        let folder = tempfile::tempdir().unwrap();
        let store = SyncedLocal::new(folder.path()).unwrap();
        (folder, store)
    }

    fn files(folder: &FilePath) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_second_create_is_refused_and_leaves_the_first() {
        let (folder, store) = store();
        let key = Path::from("a/b/v1.json");
        store.put_opts(&key, "one".into(), PutMode::Create.into()).await.unwrap();
        let second = store.put_opts(&key, "two".into(), PutMode::Create.into()).await;
        assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
        assert_eq!(store.get(&key).await.unwrap().bytes().await.unwrap(), "one");
        assert_eq!(files(&folder.path().join("a/b")), ["v1.json"], "nothing staged stays behind");
    }

    #[tokio::test]
    async fn of_many_creates_at_once_exactly_one_wins() {
        let (_folder, store) = store();
        let store = Arc::new(store);
        let creates = (0..16).map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let payload = PutPayload::from(format!("writer {writer}"));
                store.put_opts(&Path::from("v1.json"), payload, PutMode::Create.into()).await.is_ok()
            })
        });
        let outcomes = futures::future::join_all(creates).await;
        assert_eq!(outcomes.into_iter().filter(|won| *won.as_ref().unwrap()).count(), 1);
    }

    #[tokio::test]
    async fn an_overwrite_replaces_and_parts_are_put_together() {
        let (folder, store) = store();
        let key = Path::from("hint");
        for text in ["1", "2"] {
            store.put(&key, text.into()).await.unwrap();
        }
        assert_eq!(store.get(&key).await.unwrap().bytes().await.unwrap(), "2");
        let mut parts = WriteMultipart::new_with_chunk_size(store.put_multipart(&key).await.unwrap(), 3);
        parts.write(b"longer than a part");
        parts.finish().await.unwrap();
        assert_eq!(store.get(&key).await.unwrap().bytes().await.unwrap(), "longer than a part");
        assert_eq!(files(folder.path()), ["hint"]);
    }

    #[tokio::test]
    async fn what_a_killed_process_left_is_swept_and_what_lives_is_not() {
        let (folder, store) = store();
        let deep = folder.path().join("product/events/data/event_time_day=2026-01-01");
        fs::create_dir_all(&deep).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH;
        for name in ["x.parquet#71000000", ".probe-old"] {
            fs::write(deep.join(name), "left").unwrap();
        }
        File::options().write(true).open(deep.join(".probe-old")).unwrap().set_modified(old).unwrap();
        let kept = ["a#1", "a#b1234567", "x.parquet", ".probe-now"];
        for name in kept {
            fs::write(deep.join(name), "whole").unwrap();
        }
        let key = Path::from("product/events/data/event_time_day=2026-01-01/y.parquet");
        let mut upload = store.put_multipart(&key).await.unwrap();
        upload.put_part("one".into()).await.unwrap();
        assert_eq!(sweep(folder.path()), 2);
        upload.complete().await.unwrap();
        assert_eq!(store.get(&key).await.unwrap().bytes().await.unwrap(), "one", "it was being written");
        let mut expected = [&kept[..], &["y.parquet"]].concat();
        expected.sort_unstable();
        assert_eq!(files(&deep), expected);
    }

    #[tokio::test]
    async fn a_name_that_another_container_uses_is_passed_over() {
        let (folder, store) = store();
        let next = STAGED.load(Ordering::Relaxed);
        for number in next..next + 50 {
            let name = format!("v1.json#{}{number:06}", std::process::id());
            fs::write(folder.path().join(name), "theirs").unwrap();
        }
        store.put(&Path::from("v1.json"), "ours".into()).await.unwrap();
        for number in next..next + 50 {
            let name = format!("v1.json#{}{number:06}", std::process::id());
            assert_eq!(fs::read(folder.path().join(name)).unwrap(), b"theirs");
        }
    }
}
