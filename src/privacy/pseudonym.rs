//! Pseudonyms: the same value gives the same name, and only who holds the key can tell which value it was.
//!
//! Owns: the pseudonym's form. Does not own: keys (`secret`), which values are pseudonymised (`policy`).
//!
//! A pseudonym is `e1_<key id>_<base64url without padding of HMAC-SHA256(key, text)>`, where `text` is the value's
//! canonical text in UTF-8 and `key` is HKDF-SHA256 (salt `esker/1`, info the purpose, 32 bytes) of the active master key's
//! shared secret, or of the tenant's secret where the value belongs to one. The attribute's key is no part of it, so that
//! an id joins over all columns that hold it. The key id is HKDF-SHA256 of the shared secret with info `key-id`, 5 bytes,
//! in base 32 (RFC 4648, lower case). docs/pseudonyms.md has the whole recipe with test vectors.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::secret::{Keyring, MasterKey, PurposeKeys};

/// Turns values into pseudonyms for one purpose.
#[derive(Debug)]
pub struct Pseudonyms {
    active: Namer,
    old: Vec<Namer>,
}

/// The pseudonyms under one master key.
#[derive(Debug)]
struct Namer {
    keys: PurposeKeys,
    prefix: String,
}

impl Namer {
    fn new(key: &MasterKey, purpose: &str) -> Self {
        Self { keys: PurposeKeys::new(key, purpose), prefix: format!("e1_{}_", key.id()) }
    }

    fn push(&self, code: [u8; 32], out: &mut String) {
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

impl Pseudonyms {
    /// The pseudonyms for `purpose` under the keys of a ring.
    #[must_use]
    pub fn new(ring: &Keyring, purpose: &str) -> Self {
        Self {
            active: Namer::new(ring.active(), purpose),
            old: ring.keys().skip(1).map(|key| Namer::new(key, purpose)).collect(),
        }
    }

    /// The code of a value's canonical text under the active key; `tenant` is the canonical text of the tenant that it
    /// belongs to, if any. `None` where that tenant's key was destroyed: then nothing may be stored in its place.
    #[inline]
    #[must_use]
    pub fn code(&self, tenant: Option<&str>, text: &str) -> Option<[u8; 32]> {
        self.active.keys.mac(tenant, text.as_bytes()).ok()
    }

    /// Appends the pseudonym with this code.
    pub fn push(&self, code: [u8; 32], out: &mut String) {
        self.active.push(code, out);
    }

    /// The pseudonyms of a value under every key of the ring, the active one first, without those whose tenant was
    /// destroyed: what may stand for it in rows of any age. Rows from before tenants were configured have that of no tenant.
    pub fn all(&self, tenant: Option<&str>, text: &str) -> impl Iterator<Item = String> {
        std::iter::once(&self.active).chain(&self.old).filter_map(move |namer| {
            let code = namer.keys.mac(tenant, text.as_bytes()).ok()?;
            let mut pseudonym = String::with_capacity(namer.prefix.len() + 43);
            namer.push(code, &mut pseudonym);
            Some(pseudonym)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: &str = include_str!("../../docs/pseudonyms.md");

    fn ring() -> Keyring {
        let from = |first: u8| std::array::from_fn(|place| first + place as u8);
        Keyring::from_secrets(&from(0x40), &from(0), &from(0x20))
    }

    fn pseudonym(ring: &Keyring, purpose: &str, tenant: Option<&str>, text: &str) -> Option<String> {
        let pseudonyms = Pseudonyms::new(ring, purpose);
        let mut made = String::new();
        pseudonyms.push(pseudonyms.code(tenant, text)?, &mut made);
        Some(made)
    }

    /// The rows of the document's tables whose first cell names a purpose.
    fn vectors() -> Vec<Vec<&'static str>> {
        let rows = VECTORS.lines().filter(|line| line.starts_with("| `"));
        let rows = rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')));
        rows.map(Iterator::collect).filter(|cells: &Vec<_>| cells.len() == 5).collect()
    }

    #[test]
    fn the_documents_test_vectors_hold() {
        let vectors = vectors();
        assert!(vectors.len() >= 8, "the document's vectors were found: {vectors:?}");
        for cells in vectors {
            let [purpose, tenant, text, before, after] = cells[..] else { panic!("{cells:?}") };
            let tenant = (tenant != "none").then_some(tenant);
            assert_eq!(pseudonym(&ring(), purpose, tenant, text).as_deref(), Some(before));
            let mut punctured = ring();
            assert_eq!(punctured.destroy_tenant("42").unwrap(), 1);
            let expected = match after {
                "the same" => Some(before),
                other => (other != "none").then_some(other),
            };
            assert_eq!(pseudonym(&punctured, purpose, tenant, text).as_deref(), expected);
        }
    }

    #[test]
    fn after_a_rotation_old_pseudonyms_are_still_found() {
        let mut ring = ring();
        let before = pseudonym(&ring, "warehouse", None, "7").unwrap();
        let of_tenant = pseudonym(&ring, "warehouse", Some("42"), "7").unwrap();
        ring.rotate(0).unwrap();
        let after = pseudonym(&ring, "warehouse", None, "7").unwrap();
        assert_ne!(before, after);
        let pseudonyms = Pseudonyms::new(&ring, "warehouse");
        assert_eq!(pseudonyms.all(None, "7").collect::<Vec<_>>(), [after, before]);
        let of_tenant_now = pseudonym(&ring, "warehouse", Some("42"), "7").unwrap();
        assert_eq!(pseudonyms.all(Some("42"), "7").collect::<Vec<_>>(), [of_tenant_now, of_tenant]);
        ring.destroy_tenant("42").unwrap();
        assert_eq!(Pseudonyms::new(&ring, "warehouse").all(Some("42"), "7").count(), 0);
    }
}
