//! A master key's keys for one purpose, ready for use: the shared one, and those of the tenants met lately.
//!
//! Owns: the cache of tenants' keys and its limit. Does not own: derivation (`keyring`, `tree`).
//!
//! A tenant's key costs some 64 HMACs (25 us on the machine it was written on), and events of one tenant come together, so what was derived is kept: in shards, each
//! behind a lock that readers share, each with two generations. What is used again moves to the younger one; once that is
//! full, the older one is dropped. A hit costs one SHA-256 of the tenant's text and a copy of the key's state.

use std::collections::HashMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};

use super::tree::{self, Destroyed};
use super::{DerivedKey, MasterKey};

const SHARDS: usize = 16;
/// Tenants in one generation of a shard: with two generations in 16 shards, 4,096 tenants together, about 1 MiB.
const GENERATION: usize = 128;

/// See the module.
pub struct PurposeKeys {
    master: MasterKey,
    purpose: String,
    shared: DerivedKey,
    shards: [RwLock<Shard>; SHARDS],
}

impl fmt::Debug for PurposeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { master, purpose, .. } = self;
        f.debug_struct("PurposeKeys")
            .field("master", master)
            .field("purpose", purpose)
            .finish_non_exhaustive()
    }
}

/// By a tenant's place in the tree, which is all that its key depends on.
#[derive(Default)]
struct Shard {
    younger: HashMap<u64, DerivedKey>,
    older: HashMap<u64, DerivedKey>,
}

impl Shard {
    fn insert(&mut self, path: u64, key: &DerivedKey) {
        if self.younger.len() >= GENERATION {
            // Made at its full size, since growing would leave copies of keys behind.
            self.older = std::mem::replace(&mut self.younger, HashMap::with_capacity(GENERATION));
        }
        if self.younger.capacity() == 0 {
            self.younger.reserve(GENERATION);
        }
        self.older.remove(&path);
        self.younger.insert(path, key.clone());
    }
}

impl PurposeKeys {
    /// The keys of `master` for `purpose`.
    #[must_use]
    pub fn new(master: &MasterKey, purpose: &str) -> Self {
        Self {
            master: master.clone(),
            purpose: purpose.to_owned(),
            shared: master.derive(purpose),
            shards: std::array::from_fn(|_| RwLock::default()),
        }
    }

    /// HMAC-SHA256 of `message` under the tenant's key, or under the shared one where there is no tenant.
    ///
    /// # Errors
    /// [`Destroyed`] where the tenant's key was destroyed.
    pub fn mac(&self, tenant: Option<&str>, message: &[u8]) -> Result<[u8; 32], Destroyed> {
        match tenant {
            None => Ok(self.shared.mac(message)),
            Some(tenant) => self.tenant(tenant).map(|key| key.mac(message)),
        }
    }

    /// The key of a tenant.
    ///
    /// # Errors
    /// [`Destroyed`] where it was destroyed.
    pub fn tenant(&self, tenant: &str) -> Result<DerivedKey, Destroyed> {
        let path = tree::path(tenant);
        let shard = self.shards.get((path % SHARDS as u64) as usize).ok_or(Destroyed)?;
        // A panic elsewhere cannot leave a shard half changed.
        let known = {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            match shard.younger.get(&path) {
                Some(key) => return Ok(key.clone()),
                None => shard.older.get(&path).cloned(),
            }
        };
        // A destroyed tenant is found in the tree at once, so it takes no room here.
        let key = known.map_or_else(|| self.master.derive_leaf(path, &self.purpose), Ok)?;
        shard.write().unwrap_or_else(PoisonError::into_inner).insert(path, &key);
        Ok(key)
    }

    /// How many tenants' keys are remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        let shards = self.shards.iter().map(|shard| shard.read().unwrap());
        shards.map(|shard| shard.younger.len() + shard.older.len()).sum()
    }
}
