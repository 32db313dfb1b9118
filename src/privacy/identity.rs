//! What makes an event itself: a keyed hash of its content and its place in the request.
//!
//! Owns: the digest of a record and of a request. Does not own: `log.record.uid`, which takes precedence as event id.
//!
//! The hash is keyed (HMAC-SHA256, cut to 128 bits) because a record's content has few bits that a stranger does not
//! know: from an unkeyed hash, a dropped value could be guessed. Every byte of a request is hashed once: a resource and
//! a scope when first met, a record behind their codes. The ordinal keeps equal events of one request apart; a client
//! that sends the same request again sends the same ordinals. The key is of the ring's identity, which no rotation changes:
//! a retry is recognised although a key was rotated in between.
//!
//! A record's bytes are most of what the gate reads, and SHA-256 over them was a third of its time. So they go through
//! keyed HighwayHash (256 bits, several times faster) first, and HMAC-SHA256 is taken of that. All that this asks of
//! HighwayHash is that nobody without its key can make two records collide; its own output never leaves this file.

use highway::{HighwayHash as _, HighwayHasher, Key};

use crate::receive::decode::{RawEvents, RawRecord};
use crate::secret::{DerivedKey, Keyring, Mac};

/// First byte of a hashed message: says what it is, so that no resource can pass for a record.
const RESOURCE: u8 = 0;
const SCOPE: u8 = 1;
const REQUEST: u8 = 2;
const RECORD: u8 = 3;

/// The keys that digests are made with.
pub(super) struct IdentityKey {
    mac: DerivedKey,
    /// Keyed, with nothing hashed yet.
    content: HighwayHasher,
}

impl IdentityKey {
    pub(super) fn new(keys: &Keyring) -> Self {
        let mut words = keys.identity("event-content").mac(b"highway-hash").into_iter();
        let mut word = || u64::from_le_bytes(std::array::from_fn(|_| words.next().unwrap_or(0)));
        let key = Key([word(), word(), word(), word()]);
        Self { mac: keys.identity("event-id"), content: HighwayHasher::new(key) }
    }

    /// A keyed hash of a record's bytes, for [`Mac`] only.
    fn content(&self, encoded: &[u8]) -> [u8; 32] {
        let mut hasher = self.content.clone();
        hasher.append(encoded);
        let mut code = [0; 32];
        for (slot, word) in code.chunks_exact_mut(8).zip(hasher.finalize256()) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        code
    }
}

impl std::fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdentityKey")
    }
}

/// The digests of one request, while it is read.
#[derive(Debug)]
pub(super) struct Identities<'k> {
    key: &'k IdentityKey,
    resources: Vec<[u8; 32]>,
    scopes: Vec<[u8; 32]>,
    /// The state behind the codes of a resource and a scope. Records come grouped, so the last one is the one needed.
    context: Option<((u32, u32), Mac)>,
    request: Mac,
}

impl<'k> Identities<'k> {
    pub(super) fn new(key: &'k IdentityKey, raw: &RawEvents<'_>) -> Self {
        let code = |tag: u8, encoded: &[u8]| {
            let mut mac = key.mac.start();
            mac.update(&[tag]);
            mac.update(encoded);
            mac.finish()
        };
        let mut request = key.mac.start();
        request.update(&[REQUEST]);
        Self {
            key,
            resources: raw.resources.iter().map(|resource| code(RESOURCE, resource.encoded)).collect(),
            scopes: raw.scopes.iter().map(|scope| code(SCOPE, scope.encoded)).collect(),
            context: None,
            request,
        }
    }

    /// The digest of the next record of the request.
    pub(super) fn record(&mut self, record: &RawRecord<'_>) -> [u8; 16] {
        let content = self.key.content(record.encoded);
        let mut mac = self.context(record.resource, record.scope);
        mac.update(&record.ordinal.to_le_bytes());
        mac.update(&content);
        let digest = cut(mac.finish());
        self.request.update(&digest);
        digest
    }

    /// The digest of all records, in order: those that were dropped as well, so that it does not depend on the registry.
    pub(super) fn finish(self) -> [u8; 16] {
        cut(self.request.finish())
    }

    fn context(&mut self, resource: u32, scope: u32) -> Mac {
        if let Some((place, mac)) = &self.context
            && *place == (resource, scope)
        {
            return mac.clone();
        }
        let mut mac = self.key.mac.start();
        mac.update(&[RECORD]);
        // A record without either has a zero code, which no message has.
        mac.update(self.resources.get(resource as usize).unwrap_or(&[0; 32]));
        mac.update(self.scopes.get(scope as usize).unwrap_or(&[0; 32]));
        self.context = Some(((resource, scope), mac.clone()));
        mac
    }
}

fn cut(code: [u8; 32]) -> [u8; 16] {
    std::array::from_fn(|place| code.get(place).copied().unwrap_or(0))
}
