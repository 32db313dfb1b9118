//! One secret per tenant from one root, each of which can be destroyed for ever: a puncturable pseudorandom function (GGM).
//!
//! Owns: the tree's nodes, a tenant's place in it, its secret, its destruction. Does not own: how nodes are written down
//! (`text`).
//!
//! A binary tree of depth 64. A child's seed is HMAC-SHA256(parent's seed, one byte: 0 left, 1 right); a tenant's secret is
//! the seed of the leaf at the first 64 bits of SHA-256 of its text. Whoever holds a node can compute everything below it
//! and nothing beside or above it. A new tree holds its root only. To destroy a leaf, the node above it is replaced by the
//! siblings along the way down (64 of them from the root), which together lead to every other leaf and not to this one.
//!
//! What was destroyed is thus told by what is missing, and no tenant is named: from the gaps, a 64-bit hash can be read.

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{DESTROYED_MAX, Mac, Secret};

const DEPTH: u32 = 64;
const LEAVES: u128 = 1 << DEPTH;

/// The tenant's secret was destroyed: nobody can compute it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tenant's key was destroyed")]
pub struct Destroyed;

/// The first 64 bits of SHA-256 of a tenant's text: its way down the tree, most significant bit first.
pub(super) fn path(tenant: &str) -> u64 {
    Sha256::digest(tenant).iter().take(8).fold(0, |path, byte| (path << 8) | u64::from(*byte))
}

/// A node whose seed is known, and with it everything below.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// 0 is the root, 64 a leaf.
    pub(super) depth: u32,
    /// The way to it, in the most significant `depth` bits.
    pub(super) prefix: u64,
    pub(super) seed: Secret,
}

impl Node {
    fn mask(depth: u32) -> u64 {
        u64::MAX.checked_shl(DEPTH - depth.min(DEPTH)).unwrap_or(0)
    }

    fn covers(&self, path: u64) -> bool {
        path & Self::mask(self.depth) == self.prefix
    }

    #[cfg(test)]
    pub(super) fn prefix_mask(&self) -> u64 {
        Self::mask(self.depth)
    }

    fn leaves(&self) -> u128 {
        LEAVES >> self.depth.min(DEPTH)
    }
}

/// The seed of a child.
fn step(seed: &Secret, bit: u64) -> Secret {
    let mut mac = Mac::keyed(&seed.0);
    mac.update(&[u8::from(bit == 1)]);
    Secret::new(&Zeroizing::new(mac.finish()))
}

/// The bit of `path` that leads from a node at `depth` to its child.
fn bit(path: u64, depth: u32) -> u64 {
    (path >> (DEPTH - 1 - depth)) & 1
}

/// What is left of a tree: nodes that do not overlap, in the order of their leaves.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// A tree of which nothing is destroyed.
    pub(super) fn new(root: Secret) -> Self {
        Self { nodes: vec![Node { depth: 0, prefix: 0, seed: root }] }
    }

    /// A tree from nodes that were written down; says what is wrong with them.
    pub(super) fn from_nodes(nodes: Vec<Node>) -> Result<Self, &'static str> {
        let mut next = 0;
        for node in &nodes {
            if node.depth > DEPTH || node.prefix & !Node::mask(node.depth) != 0 {
                return Err("a node has no place in the tree");
            }
            if u128::from(node.prefix) < next {
                return Err("its nodes overlap or are out of order");
            }
            next = u128::from(node.prefix) + node.leaves();
        }
        let tree = Self { nodes };
        // Far more gaps than tenants can be destroyed: nodes were lost, and with them keys that nobody meant to destroy.
        if tree.missing() > u128::from(DESTROYED_MAX) {
            return Err("nodes of a tree are missing");
        }
        Ok(tree)
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// How many leaves are destroyed.
    pub(super) fn destroyed(&self) -> u64 {
        // Never more than `DESTROYED_MAX`.
        u64::try_from(self.missing()).unwrap_or(u64::MAX)
    }

    fn missing(&self) -> u128 {
        LEAVES.saturating_sub(self.nodes.iter().map(Node::leaves).sum())
    }

    /// The ways to the destroyed leaves.
    pub(super) fn gaps(&self) -> Vec<u64> {
        let mut gaps = Vec::new();
        let mut next = 0_u128;
        let ends = std::iter::once((LEAVES, LEAVES));
        let held = self.nodes.iter().map(|node| {
            let start = u128::from(node.prefix);
            (start, start + node.leaves())
        });
        for (start, end) in held.chain(ends) {
            gaps.extend((next..start).filter_map(|path| u64::try_from(path).ok()));
            next = end;
        }
        gaps
    }

    /// True where the leaf at `path` is not destroyed.
    pub(super) fn holds(&self, path: u64) -> bool {
        self.covering(path).is_some()
    }

    /// The secret of the leaf at `path`. Costs one HMAC for each level below the node that covers it: 64 in a new tree.
    pub(super) fn leaf(&self, path: u64) -> Result<Secret, Destroyed> {
        let node = self.covering(path).and_then(|at| self.nodes.get(at)).ok_or(Destroyed)?;
        Ok((node.depth..DEPTH).fold(node.seed.clone(), |seed, depth| step(&seed, bit(path, depth))))
    }

    /// Destroys the leaf at `path`; false where it was destroyed before.
    pub(super) fn puncture(&mut self, path: u64) -> bool {
        let Some(at) = self.covering(path) else { return false };
        let Node { depth, mut seed, .. } = self.nodes.remove(at);
        let mut siblings = Vec::with_capacity((DEPTH - depth) as usize);
        for level in depth..DEPTH {
            let toward = bit(path, level);
            let sibling = (path ^ (1 << (DEPTH - 1 - level))) & Node::mask(level + 1);
            siblings.push(Node { depth: level + 1, prefix: sibling, seed: step(&seed, 1 - toward) });
            seed = step(&seed, toward);
        }
        siblings.sort_unstable_by_key(|node| node.prefix);
        self.nodes.splice(at..at, siblings);
        true
    }

    /// Which node leads to `path`.
    fn covering(&self, path: u64) -> Option<usize> {
        let at = self.nodes.partition_point(|node| node.prefix <= path).checked_sub(1)?;
        self.nodes.get(at)?.covers(path).then_some(at)
    }
}
