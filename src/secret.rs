//! The keys of a deployment, what is derived from them, and how a tenant's key is destroyed.
//!
//! Owns: the keyring (its file, rotation, destruction), derivation per purpose (HKDF-SHA256) and per tenant (a GGM tree),
//! keyed hashing (HMAC-SHA256). Does not own: what is hashed with a derived key (`privacy`), nor when a ring is made (`app`).
//!
//! ```text
//! ring ── identity ──────────────────── HKDF(purpose) ─▶ event ids, request digests; survives every rotation
//!  ├───── key (active) ── shared ────── HKDF(purpose) ─▶ pseudonyms of values that belong to no tenant
//!  │        │              └──────────── HKDF("key-id") ─▶ the key's name, which is not secret
//!  │        └─ tree ── leaf of a tenant ─ HKDF(purpose) ─▶ pseudonyms of that tenant's values
//!  └───── key (old) …                                      kept to recognise what was stored under it
//! ```
//!
//! What holds key material is wiped when it is dropped and shows none of it in `Debug`. docs/pseudonyms.md has the recipe
//! with test vectors.

mod command;
mod file;
mod keyring;
mod purpose;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod value;

use std::fmt;
use std::io;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

pub use keyring::{KeyId, Keyring, MasterKey};
pub use purpose::PurposeKeys;
pub use tree::Destroyed;
pub use value::{VALUE_BYTES_MAX, ValueError, ValueReference};

const SECRET_BYTES: usize = 32;
/// Longest text of a ring. A destroyed tenant takes some 4 kB in each key, so this is room for 16,384 of them in one key.
pub const RING_BYTES_MAX: usize = 64 << 20;
/// Master keys in one ring. Whoever rotates every month destroys the oldest after five years.
pub const KEYS_MAX: usize = 64;
/// Tenants that are destroyed in one master key.
pub const DESTROYED_MAX: u64 = 16_384;
/// HKDF's salt: fixed, so that a secret gives the same derived keys everywhere.
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

/// Why there is no keyring, or why it cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The environment variable is missing.
    #[error("the environment variable {name} is not set, or is not UTF-8; set it to the text of a keyring")]
    Unset {
        /// Its name.
        name: String,
    },
    /// The keyring's file is missing.
    #[error(
        "no key file at {path}; restore it from your backup: without it, pseudonyms no longer match the stored ones"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A new ring would replace another.
    #[error("{path} exists; a key file is never overwritten: use `esker keys rotate`, or name another file")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read or written.
    #[error("cannot {action} key file {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner may read or write the file.
    #[error("key file {path} has mode {mode:04o}, so others may read the keys; run `chmod 600 {path}`")]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Somebody else changes the ring at this moment.
    #[error("another `esker keys` command is changing {path}; repeat this one when it is done")]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The text is no keyring.
    #[error(
        "{origin} is not a keyring ({problem}); restore it from your backup, or see `esker keys new --help`"
    )]
    Malformed {
        /// Where the text came from.
        origin: String,
        /// What is wrong with it, without its content.
        problem: &'static str,
    },
    /// The program of a reference `command:` did not give a ring.
    #[error(
        "the key command {program} {problem}; run it by hand to see why (its messages are not shown here)"
    )]
    Command {
        /// The program, without its arguments.
        program: String,
        /// What went wrong, without its output.
        problem: String,
    },
    /// The ring has no such key.
    #[error("the keyring has no key {id}; `esker keys list` shows those it has")]
    NoSuchKey {
        /// What was asked for.
        id: String,
    },
    /// The active key cannot be destroyed.
    #[error("key {id} is the active one; run `esker keys rotate` first, then destroy it")]
    ActiveKey {
        /// Its id.
        id: KeyId,
    },
    /// The ring is full.
    #[error("the keyring would hold more than {limit}; {remedy}")]
    Full {
        /// What is at its limit.
        limit: &'static str,
        /// What can be done.
        remedy: &'static str,
    },
    /// The system's random generator failed.
    #[error(
        "cannot make a key: the system's random generator failed ({0}); supply a key file or a key variable"
    )]
    Random(getrandom::Error),
}

/// 32 secret bytes. On the heap, so that moving it leaves no copy behind; wiped on drop.
#[derive(Clone)]
struct Secret(Box<[u8; SECRET_BYTES]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Secret {
    fn new(bytes: &[u8; SECRET_BYTES]) -> Self {
        Self(Box::new(*bytes))
    }

    fn random() -> Result<Self, SecretError> {
        let mut secret = Self(Box::new([0; SECRET_BYTES]));
        getrandom::fill(secret.0.as_mut_slice()).map_err(SecretError::Random)?;
        Ok(secret)
    }

    fn decode(encoded: &str) -> Option<Self> {
        // The decoder wants room for a last group without padding.
        let mut decoded = Zeroizing::new([0; SECRET_BYTES + 1]);
        let length = STANDARD.decode_slice(encoded, decoded.as_mut_slice()).ok()?;
        decoded.get(..length)?.try_into().ok().map(Self::new)
    }

    /// Appends the secret in base64. The caller keeps `out` from growing, which would leave a copy behind.
    fn encode(&self, out: &mut String) {
        STANDARD.encode_string(self.0.as_slice(), out);
    }

    /// The key for one purpose. Different purposes give unrelated keys.
    fn derive(&self, purpose: &str) -> DerivedKey {
        let mut key = Zeroizing::new([0; SECRET_BYTES]);
        self.expand(purpose, key.as_mut_slice());
        DerivedKey { mac: Mac::keyed(&key) }
    }

    /// HKDF-SHA256 with the fixed salt and `purpose` as the info.
    fn expand(&self, purpose: &str, out: &mut [u8]) {
        // Expansion fails only for more than 8160 bytes; callers ask for 32 at most, and a failure would leave zeros.
        let outcome = Hkdf::<Sha256>::new(Some(SALT), self.0.as_slice()).expand(purpose.as_bytes(), out);
        debug_assert!(outcome.is_ok());
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
    fn keyed(key: &[u8; SECRET_BYTES]) -> Self {
        // A block is longer than the key, so HMAC pads the key and cannot fail.
        let mut block = Zeroizing::new([0; 64]);
        for (slot, byte) in block.iter_mut().zip(key) {
            *slot = *byte;
        }
        Self(Hmac::new((&*block).into()))
    }

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

fn base32(bytes: [u8; 5]) -> String {
    let bits = bytes.iter().fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte));
    (0..8)
        .rev()
        .filter_map(|place| BASE32.get(((bits >> (place * 5)) & 31) as usize))
        .map(|byte| char::from(*byte))
        .collect()
}
