//! Pseudonyms: the same value gives the same name, and only who holds the key can tell which value it was.
//!
//! Owns: the pseudonym's form. Does not own: keys (`secret`), which values are pseudonymised (`policy`).
//!
//! A pseudonym is `e1_<key id>_<base64url without padding of HMAC-SHA256(key, text)>`, where `text` is the value's
//! canonical text in UTF-8 and `key` is HKDF-SHA256 of the master key (salt `esker/1`, info `warehouse`, 32 bytes). The
//! attribute's key is no part of it, so that an id joins over all columns that hold it. The key id is HKDF-SHA256 with
//! info `key-id`, 5 bytes, in base 32 (RFC 4648, lower case).
//!
//! For the master key 00 01 02 .. 1f and the value 7 (an int, or the text `7`) it is
//! `e1_a2lvxkk5_gy5imU2VnwmN6HH1aXNrrQNiZgMGutfQKhxBvAhQmTs`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::secret::{DerivedKey, MasterKey};

/// Turns values into pseudonyms.
#[derive(Debug)]
pub(super) struct Pseudonyms {
    key: DerivedKey,
    prefix: String,
}

impl Pseudonyms {
    pub(super) fn new(keys: &MasterKey) -> Self {
        Self { key: keys.derive("warehouse"), prefix: format!("e1_{}_", keys.id()) }
    }

    pub(super) fn code(&self, _tenant: Option<&str>, text: &str) -> Option<[u8; 32]> {
        Some(self.key.mac(text.as_bytes()))
    }

    /// Appends the pseudonym with this code.
    pub(super) fn push(&self, code: [u8; 32], out: &mut String) {
        out.push_str(&self.prefix);
        let mut encoded = [0; 43];
        // 32 bytes are 43 characters, so neither step can fail.
        if let Ok(length) = URL_SAFE_NO_PAD.encode_slice(code, &mut encoded)
            && let Some(Ok(text)) = encoded.get(..length).map(std::str::from_utf8)
        {
            out.push_str(text);
        }
    }
}
