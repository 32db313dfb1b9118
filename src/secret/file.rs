//! The keyring's file: private, complete or absent, changed by one at a time.
//!
//! Owns: mode, atomic creation and replacement, the lock of a change, left-over drafts. Does not own: the text (`text`).
//!
//! A change is written to a draft beside the file, synced, and renamed over it. The blocks of the version before are freed
//! by that, not wiped: who can read a raw disk, a snapshot of it or a backup may still find them (docs/pseudonyms.md).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::keyring::Keyring;
use super::{RING_BYTES_MAX, SecretError, base32};

const DRAFT_PREFIX: &str = ".esker-keys-";
const DRAFT_SUFFIX: &str = ".tmp";
/// First size of the buffer that a ring is read into; a ring without destroyed tenants fits.
const READ_BYTES: usize = 8 << 10;

impl Keyring {
    /// Reads the ring in the file at `path`; refuses one that others may read.
    ///
    /// # Errors
    /// If the file is missing, not private, or no ring.
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => SecretError::Missing { path: path.into() },
            _ => SecretError::Io { action: "read", path: path.into(), source },
        };
        let mut file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(SecretError::Permissions { path: path.into(), mode });
        }
        // A file may also be a pipe, whose length is not known, so that the reading is bounded as well.
        let is_short = metadata.len() <= RING_BYTES_MAX as u64;
        let bytes = if is_short { read_all(&mut file, RING_BYTES_MAX).map_err(failed)? } else { None };
        Self::from_bytes(bytes.as_deref(), &format!("key file {}", path.display()))
    }

    /// Reads the file at `path`, or makes a ring and the file (mode 0600, synced) if there is none. Of several processes
    /// that do so at once, all get the same ring.
    ///
    /// # Errors
    /// As [`Self::load`]; if the file cannot be made.
    pub fn load_or_create(path: &Path, now_micros: i64) -> Result<Self, SecretError> {
        match Self::load(path) {
            Err(SecretError::Missing { .. }) => {}
            settled => return settled,
        }
        match Self::create(path, now_micros) {
            // Whoever was first made the ring for all.
            Err(_) if path.exists() => Self::load(path),
            made => made,
        }
    }

    /// Makes a ring and its file, which must not exist.
    ///
    /// # Errors
    /// If the file exists or cannot be made.
    pub fn create(path: &Path, now_micros: i64) -> Result<Self, SecretError> {
        let ring = Self::generate(now_micros)?;
        match ring.write(path, |draft| std::fs::hard_link(draft, path)) {
            Ok(()) => Ok(ring),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                Err(SecretError::Exists { path: path.into() })
            }
            Err(source) => Err(SecretError::Io { action: "create", path: path.into(), source }),
        }
    }

    /// Reads the file at `path`, changes the ring, and puts it in the file's place; changes nothing if `change` fails.
    /// Answers what `change` answered.
    ///
    /// # Errors
    /// As [`Self::load`]; if another changes it at this moment; what `change` says; if the file cannot be written.
    pub fn edit<T>(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, SecretError>,
    ) -> Result<T, SecretError> {
        let failed = |source| SecretError::Io { action: "change", path: path.into(), source };
        // Where the path is a symbolic link, its target is what must not stay behind.
        let path = match path.canonicalize() {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(SecretError::Missing { path: path.into() });
            }
            Err(error) => return Err(failed(error)),
        };
        let directory = directory(&path);
        // The file itself is replaced, so the lock is on its folder.
        let lock = File::open(directory).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(SecretError::Busy { path }),
            Err(std::fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        let answer = Self::edit_locked(&path, change);
        // Closing the folder would do, but not while a child of this process still has a copy of its descriptor.
        lock.unlock().map_err(failed)?;
        answer
    }

    fn edit_locked<T>(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, SecretError>,
    ) -> Result<T, SecretError> {
        let failed = |source| SecretError::Io { action: "change", path: path.into(), source };
        let mut ring = Self::load(path)?;
        let answer = change(&mut ring)?;
        // A draft that a killed process left may hold what is to be destroyed now.
        remove_drafts(directory(path)).map_err(failed)?;
        ring.write(path, |draft| std::fs::rename(draft, path)).map_err(failed)?;
        Ok(answer)
    }

    /// A ring from bytes that were read; `None` stands for too many.
    pub(super) fn from_bytes(bytes: Option<&Vec<u8>>, origin: &str) -> Result<Self, SecretError> {
        let malformed = |problem| SecretError::Malformed { origin: origin.to_owned(), problem };
        let bytes = bytes.ok_or_else(|| malformed("it is longer than 64 MiB"))?;
        Self::parse(std::str::from_utf8(bytes).map_err(|_| malformed("it is not text"))?, origin)
    }

    /// Writes a synced draft beside `path` and lets `publish` give it its name; removes the draft in any case.
    fn write(&self, path: &Path, publish: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let directory = directory(path);
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let text = self.to_text();
        if text.len() > RING_BYTES_MAX {
            return Err(io::Error::other("the keyring would be longer than 64 MiB; destroy old keys first"));
        }
        let mut unique = [0; 5];
        getrandom::fill(&mut unique).map_err(io::Error::other)?;
        let draft = directory.join(format!("{DRAFT_PREFIX}{}{DRAFT_SUFFIX}", base32(unique)));
        let published = write_private(&draft, text.as_bytes()).and_then(|()| publish(&draft));
        match std::fs::remove_file(&draft) {
            // A rename took it away.
            Err(error) if error.kind() != io::ErrorKind::NotFound => published.and(Err(error))?,
            _ => published?,
        }
        File::open(directory)?.sync_all()
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn remove_drafts(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path: PathBuf = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy());
        if name.is_some_and(|name| name.starts_with(DRAFT_PREFIX) && name.ends_with(DRAFT_SUFFIX)) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Reads to the end; `None` where that is more than `bytes_max`. The buffer is wiped whenever a larger one takes over.
pub(super) fn read_all(reader: &mut impl Read, bytes_max: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut buffer = Zeroizing::new(vec![0; READ_BYTES]);
    let mut length = 0;
    loop {
        if length == buffer.len() {
            let mut larger = Zeroizing::new(vec![0; length * 2]);
            if let Some(front) = larger.get_mut(..length) {
                front.copy_from_slice(&buffer);
            }
            buffer = larger;
        }
        match reader.read(buffer.get_mut(length..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if length > bytes_max {
            return Ok(None);
        }
    }
    buffer.truncate(length);
    Ok(Some(buffer))
}
