//! The keyring: one active master key, the old ones, and the identity secret.
//!
//! Owns: what a ring is made of, rotation, destruction. Does not own: its text (`text`) and its file (`file`).

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use super::tree::{self, Tree};
use super::{DESTROYED_MAX, DerivedKey, Destroyed, KEYS_MAX, Secret, SecretError, base32};

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

/// A secret for values that belong to no tenant, and a tree of secrets for those that do. Its `Debug` shows the id only.
#[derive(Clone)]
pub struct MasterKey {
    id: KeyId,
    created: Timestamp,
    shared: Secret,
    tree: Arc<Tree>,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl MasterKey {
    pub(super) fn new(created: Timestamp, shared: Secret, tree: Tree) -> Self {
        let mut digest = [0; 5];
        shared.expand("key-id", &mut digest);
        Self { id: KeyId(base32(digest)), created, shared, tree: Arc::new(tree) }
    }

    fn generate(now_micros: i64, destroyed: &[u64]) -> Result<Self, SecretError> {
        let mut tree = Tree::new(Secret::random()?);
        for path in destroyed {
            tree.puncture(*path);
        }
        Ok(Self::new(whole_second(now_micros), Secret::random()?, tree))
    }

    /// The key's non-secret name.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// When it was made.
    #[must_use]
    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// How many tenants' keys were destroyed.
    #[must_use]
    pub fn destroyed_tenants(&self) -> u64 {
        self.tree.destroyed()
    }

    /// The key for one purpose and values that belong to no tenant.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> DerivedKey {
        self.shared.derive(purpose)
    }

    /// The key for one purpose and the values of one tenant, named by its canonical text. Costs some 64 HMACs;
    /// [`super::PurposeKeys`] remembers it.
    ///
    /// # Errors
    /// [`Destroyed`] where nobody can compute it any more.
    pub fn derive_tenant(&self, tenant: &str, purpose: &str) -> Result<DerivedKey, Destroyed> {
        self.derive_leaf(tree::path(tenant), purpose)
    }

    pub(super) fn derive_leaf(&self, path: u64, purpose: &str) -> Result<DerivedKey, Destroyed> {
        self.tree.leaf(path).map(|leaf| leaf.derive(purpose))
    }

    pub(super) fn shared(&self) -> &Secret {
        &self.shared
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }
}

/// All keys of a deployment. Its `Debug` shows ids only.
pub struct Keyring {
    identity: Secret,
    active: MasterKey,
    /// From the newest to the oldest.
    old: Vec<MasterKey>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("active", &self.active)
            .field("old", &self.old)
            .finish_non_exhaustive()
    }
}

impl Keyring {
    /// A ring with one new key, from the system's random generator.
    ///
    /// # Errors
    /// If the generator fails.
    pub fn generate(now_micros: i64) -> Result<Self, SecretError> {
        let active = MasterKey::generate(now_micros, &[])?;
        Ok(Self { identity: Secret::random()?, active, old: Vec::new() })
    }

    /// A ring of given secrets, for tests and test vectors: the identity, and one key's shared secret and tree root.
    #[must_use]
    pub fn from_secrets(identity: &[u8; 32], shared: &[u8; 32], root: &[u8; 32]) -> Self {
        let active = MasterKey::new(Timestamp::UNIX_EPOCH, Secret::new(shared), Tree::new(Secret::new(root)));
        Self { identity: Secret::new(identity), active, old: Vec::new() }
    }

    /// A ring that was written down; says what is wrong with it.
    pub(super) fn from_parts(
        identity: Secret,
        active: MasterKey,
        old: Vec<MasterKey>,
    ) -> Result<Self, &'static str> {
        let ring = Self { identity, active, old };
        let mut ids: Vec<&str> = ring.keys().map(|key| key.id.as_str()).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err("a key stands in it twice");
        }
        if ids.len() > KEYS_MAX {
            return Err("it has too many keys");
        }
        Ok(ring)
    }

    /// The key under which new pseudonyms are made.
    #[must_use]
    pub fn active(&self) -> &MasterKey {
        &self.active
    }

    /// Every key: the active one, then the old ones from the newest to the oldest.
    pub fn keys(&self) -> impl Iterator<Item = &MasterKey> {
        std::iter::once(&self.active).chain(&self.old)
    }

    /// The key for what must stay the same over rotations: a client's retry is recognised although a key was rotated.
    #[must_use]
    pub fn identity(&self, purpose: &str) -> DerivedKey {
        self.identity.derive(purpose)
    }

    pub(super) fn identity_secret(&self) -> &Secret {
        &self.identity
    }

    /// Makes a new active key; the one before becomes old. Tenants that were destroyed stay so under the new key.
    ///
    /// # Errors
    /// If the ring is full, or the random generator fails.
    pub fn rotate(&mut self, now_micros: i64) -> Result<&MasterKey, SecretError> {
        if self.keys().count() >= KEYS_MAX {
            return Err(SecretError::Full {
                limit: "64 keys",
                remedy: "destroy the oldest: `esker keys destroy --key ID`",
            });
        }
        let active = MasterKey::generate(now_micros, &self.active.tree.gaps())?;
        let before = std::mem::replace(&mut self.active, active);
        self.old.insert(0, before);
        Ok(&self.active)
    }

    /// Destroys a tenant's keys under every master key, for every purpose; answers under how many there was one to destroy.
    ///
    /// # Errors
    /// If too many tenants are destroyed already.
    pub fn destroy_tenant(&mut self, tenant: &str) -> Result<usize, SecretError> {
        let path = tree::path(tenant);
        if self.keys().any(|key| key.destroyed_tenants() >= DESTROYED_MAX) && self.holds_tenant(tenant) {
            return Err(SecretError::Full {
                limit: "16,384 destroyed tenants",
                remedy: "rotate, and destroy the old keys instead, which destroys what they tell of every tenant",
            });
        }
        let keys = std::iter::once(&mut self.active).chain(&mut self.old);
        Ok(keys.filter_map(|key| Arc::make_mut(&mut key.tree).puncture(path).then_some(())).count())
    }

    /// True where a key of this tenant can still be derived under some master key.
    #[must_use]
    pub fn holds_tenant(&self, tenant: &str) -> bool {
        let path = tree::path(tenant);
        self.keys().any(|key| key.tree.holds(path))
    }

    /// Removes an old key: nothing that was stored under it can be recognised any more.
    ///
    /// # Errors
    /// If there is no such key, or it is the active one.
    pub fn destroy_key(&mut self, id: &str) -> Result<(), SecretError> {
        self.destroyable(id)?;
        self.old.retain(|key| key.id.as_str() != id);
        Ok(())
    }

    /// The old key of this id.
    ///
    /// # Errors
    /// As [`Self::destroy_key`].
    pub fn destroyable(&self, id: &str) -> Result<&MasterKey, SecretError> {
        if self.active.id.as_str() == id {
            return Err(SecretError::ActiveKey { id: self.active.id.clone() });
        }
        let found = self.old.iter().find(|key| key.id.as_str() == id);
        found.ok_or_else(|| SecretError::NoSuchKey { id: id.to_owned() })
    }
}

/// The time as it is written down.
fn whole_second(micros: i64) -> Timestamp {
    Timestamp::from_second(micros.div_euclid(1_000_000)).unwrap_or(Timestamp::UNIX_EPOCH)
}
