//! The master key of a deployment and the keys derived from it.
//!
//! Owns: the key file (format, mode, atomic creation), the key id, derivation per purpose (HKDF-SHA256), keyed hashing
//! (HMAC-SHA256). Does not own: what is hashed with a derived key (`privacy`), nor when a key is made (`app`).
//!
//! The key file holds one line, `esker-key-1 <key id> <base64 of 32 bytes>`, and must be readable by its owner only.
//! The key id is not secret: it is derived from the key, so a damaged or mixed-up line is noticed.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

const FORMAT: &str = "esker-key-1";
const KEY_BYTES: usize = 32;
/// Longest key file that is read: a line is about 66 characters, the rest is room for a trailing newline.
const FILE_BYTES_MAX: u64 = 256;
/// HKDF's salt: fixed, so that a key gives the same derived keys everywhere.
const SALT: &[u8] = b"esker/1";
/// RFC 4648's base 32 alphabet in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Reads the environment variable that a reference `env:NAME` names.
///
/// # Errors
/// If it is not set, or not text. The message names the variable only.
#[expect(
    clippy::disallowed_methods,
    reason = "secrets are referred to by variable, and this is where they are read"
)]
pub fn environment(name: &str) -> Result<Zeroizing<String>, SecretError> {
    std::env::var(name).map(Zeroizing::new).map_err(|_| SecretError::Unset { name: name.to_owned() })
}

/// Why a master key could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The environment variable is missing.
    #[error("the environment variable {name} is not set, or is not UTF-8; set it to the key")]
    Unset {
        /// Its name.
        name: String,
    },
    /// The key file is missing.
    #[error(
        "no key file at {path}; restore it from your backup: without it, pseudonyms no longer match the stored ones"
    )]
    Missing {
        /// The key file.
        path: PathBuf,
    },
    /// The file could not be read or written.
    #[error("cannot {action} key file {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner may read or write the key file.
    #[error("key file {path} has mode {mode:04o}, so others may read the key; run `chmod 600 {path}`")]
    Permissions {
        /// The key file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The text is not a key.
    #[error(
        "{origin} is not a key ({problem}); it must hold `{FORMAT} <key id> <base64>` or base64 of 32 random bytes"
    )]
    Malformed {
        /// Where the text came from.
        origin: String,
        /// What is wrong with it, without its content.
        problem: &'static str,
    },
    /// The system's random generator failed.
    #[error(
        "cannot make a key: the system's random generator failed ({0}); supply a key file or a key variable"
    )]
    Random(getrandom::Error),
}

/// A short, non-secret name of a master key: 8 characters of base 32. It stands in every pseudonym.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The secret from which every other key is derived. Wiped from memory on drop; its `Debug` shows the id only.
pub struct MasterKey {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    id: KeyId,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl MasterKey {
    /// A key from its bytes, which must be uniformly random.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        let bytes = Zeroizing::new(bytes);
        let mut digest = [0; 5];
        expand(&bytes, "key-id", &mut digest);
        Self { bytes, id: KeyId(base32(digest)) }
    }

    /// Makes a new key from the system's random generator.
    pub fn generate() -> Result<Self, SecretError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(bytes.as_mut_slice()).map_err(SecretError::Random)?;
        Ok(Self::from_bytes(*bytes))
    }

    /// Reads the key file at `path`; refuses one that others may read.
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => SecretError::Missing { path: path.into() },
            _ => SecretError::Io { action: "read", path: path.into(), source },
        };
        let file = File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(SecretError::Permissions { path: path.into(), mode });
        }
        // Read into a buffer of fixed size: a growing one would leave copies of the key behind.
        let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize + 1));
        file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
        let origin = format!("key file {}", path.display());
        match std::str::from_utf8(&text) {
            Ok(text) => Self::parse(text, origin),
            Err(_) => Err(SecretError::Malformed { origin, problem: "it is not text" }),
        }
    }

    /// Reads the key file at `path`, or makes a key and the file (mode 0600, synced) if there is none. Of several
    /// processes that do so at once, all get the same key.
    pub fn load_or_create(path: &Path) -> Result<Self, SecretError> {
        match Self::load(path) {
            Err(SecretError::Missing { .. }) => {}
            settled => return settled,
        }
        let key = Self::generate()?;
        match key.create_file(path) {
            Ok(()) => Ok(key),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(source) => Err(SecretError::Io { action: "create", path: path.into(), source }),
        }
    }

    /// A key from the value of an environment variable: the key file's line, or only its base64.
    pub fn from_env_value(value: &str) -> Result<Self, SecretError> {
        Self::parse(value, "the key variable's value".to_owned())
    }

    /// The key's non-secret name.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The key for one purpose. Different purposes give unrelated keys.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> DerivedKey {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        expand(&self.bytes, purpose, key.as_mut_slice());
        // A block is longer than the key, so HMAC pads the key and cannot fail.
        let mut block = Zeroizing::new([0; 64]);
        for (slot, byte) in block.iter_mut().zip(key.iter()) {
            *slot = *byte;
        }
        DerivedKey { mac: Mac(Hmac::new((&*block).into())) }
    }

    fn parse(text: &str, origin: String) -> Result<Self, SecretError> {
        let malformed = |problem| SecretError::Malformed { origin: origin.clone(), problem };
        let mut words = text.split_ascii_whitespace();
        let (id, encoded) = match (words.next(), words.next(), words.next(), words.next()) {
            (Some(encoded), None, None, None) => (None, encoded),
            (Some(FORMAT), Some(id), Some(encoded), None) => (Some(id), encoded),
            (None, ..) => return Err(malformed("it is empty")),
            _ => return Err(malformed("it does not have the expected words")),
        };
        let mut decoded = STANDARD.decode(encoded).map_err(|_| malformed("its base64 is broken"))?;
        let bytes = <[u8; KEY_BYTES]>::try_from(decoded.as_slice());
        decoded.zeroize();
        let key = Self::from_bytes(bytes.map_err(|_| malformed("it does not hold 32 bytes"))?);
        match id {
            Some(id) if id != key.id.as_str() => Err(malformed("its key id belongs to another key")),
            _ => Ok(key),
        }
    }

    /// Makes the key file by linking a synced file to its name: it is complete or absent, and never replaces another.
    fn create_file(&self, path: &Path) -> io::Result<()> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut unique = [0; 5];
        getrandom::fill(&mut unique).map_err(io::Error::other)?;
        let draft = directory.join(format!(".esker-key-{}.tmp", base32(unique)));
        let linked = self.write_draft(&draft).and_then(|()| std::fs::hard_link(&draft, path));
        let removed = std::fs::remove_file(&draft);
        linked.and(removed)?;
        File::open(directory)?.sync_all()
    }

    fn write_draft(&self, draft: &Path) -> io::Result<()> {
        let encoded = Zeroizing::new(STANDARD.encode(self.bytes.as_slice()));
        let line = Zeroizing::new(format!("{FORMAT} {} {}\n", self.id, encoded.as_str()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(draft)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()
    }
}

/// A key for one purpose, ready for HMAC-SHA256: the padded key's two blocks are hashed once, at derivation.
#[derive(Clone)]
pub struct DerivedKey {
    mac: Mac,
}

impl fmt::Debug for DerivedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DerivedKey")
    }
}

impl DerivedKey {
    /// HMAC-SHA256 of `message`.
    #[must_use]
    pub fn mac(&self, message: &[u8]) -> [u8; 32] {
        let mut mac = self.start();
        mac.update(message);
        mac.finish()
    }

    /// Starts an HMAC-SHA256 over several pieces.
    #[must_use]
    pub fn start(&self) -> Mac {
        self.mac.clone()
    }
}

/// An HMAC-SHA256 under way. A clone goes on from the same place.
#[derive(Clone)]
pub struct Mac(Hmac<Sha256>);

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mac")
    }
}

impl Mac {
    /// Adds a piece of the message.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The code over all pieces.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into_bytes().into()
    }
}

/// HKDF-SHA256 with the fixed salt and `purpose` as the info.
fn expand(key: &[u8; KEY_BYTES], purpose: &str, out: &mut [u8]) {
    // Expansion fails only for more than 8160 bytes; callers ask for 32 at most, and a failure would leave zeros.
    let outcome = Hkdf::<Sha256>::new(Some(SALT), key).expand(purpose.as_bytes(), out);
    debug_assert!(outcome.is_ok());
}

fn base32(bytes: [u8; 5]) -> String {
    let bits = bytes.iter().fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte));
    (0..8)
        .rev()
        .filter_map(|place| BASE32.get(((bits >> (place * 5)) & 31) as usize))
        .map(|byte| char::from(*byte))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> MasterKey {
        MasterKey::from_bytes(std::array::from_fn(|i| i as u8))
    }

    #[test]
    fn a_created_key_file_is_private_and_gives_the_same_key_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/key");
        let made = MasterKey::load_or_create(&path).unwrap();
        let again = MasterKey::load_or_create(&path).unwrap();
        assert_eq!(made.bytes, again.bytes);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no draft is left behind");
    }

    #[test]
    fn creators_at_the_same_time_get_one_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let ids: Vec<_> = std::thread::scope(|scope| {
            let running: Vec<_> =
                (0..8).map(|_| scope.spawn(|| MasterKey::load_or_create(&path).unwrap().id)).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{ids:?}");
    }

    #[test]
    fn a_key_file_that_others_may_read_is_refused_with_the_fix() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        MasterKey::load_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o644] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let message = MasterKey::load(&path).unwrap_err().to_string();
            assert!(message.contains("chmod 600"), "{message}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        MasterKey::load(&path).unwrap();
    }

    #[test]
    fn a_missing_key_file_is_told_apart_and_not_created_by_load() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert!(matches!(MasterKey::load(&path), Err(SecretError::Missing { .. })));
        assert!(!path.exists());
    }

    #[test]
    fn broken_keys_are_refused_without_showing_them() {
        let line = format!("{FORMAT} {} {}", key().id(), STANDARD.encode(*key().bytes));
        MasterKey::from_env_value(&line).unwrap();
        let other_id = line.replace(key().id().as_str(), "aaaaaaaa");
        let longer = format!("{line} more");
        for broken in ["", "  ", "AAAA", "not base64!", other_id.as_str(), longer.as_str()] {
            let message = MasterKey::from_env_value(broken).unwrap_err().to_string();
            assert!(broken.len() < 4 || !message.contains(broken), "{message}");
        }
    }

    #[test]
    fn derivation_equals_hkdf_and_hmac_computed_elsewhere() {
        // Computed with Python's hmac and hashlib; see `privacy::pseudonym` for the recipe.
        assert_eq!(key().id().as_str(), "a2lvxkk5");
        let hex: String =
            key().derive("warehouse").mac(b"7").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "832e62994d959f098de871f569736bad0362660306bad7d02a1c41bc0850993b");
    }

    #[test]
    fn purposes_give_unrelated_keys() {
        assert_ne!(key().derive("warehouse").mac(b"7"), key().derive("event-id").mac(b"7"));
    }

    #[test]
    fn debug_shows_no_key_material() {
        let shown = format!("{:?} {:?}", key(), key().derive("warehouse"));
        assert!(!shown.contains("1, 2, 3") && shown.contains(key().id().as_str()), "{shown}");
    }
}
