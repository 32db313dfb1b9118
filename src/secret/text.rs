//! The text of a keyring, in a file, an environment variable or a command's output.
//!
//! Owns: the format `esker-keys-1`, its reading and writing. Does not own: where the text is.
//!
//! ```text
//! # Lines that begin with # and empty lines mean nothing.
//! esker-keys-1
//! identity <base64 of 32 bytes>
//! key <id> active|old <created, RFC 3339> <base64 of the shared secret>
//! node <depth> <prefix, 16 hex digits> <base64 of the seed>
//! check <16 hex digits>
//! ```
//!
//! `identity` comes once. Each `key` is followed by the nodes of its tree, in the order of their prefixes; exactly one key
//! is active, and it comes first. `check` ends the text: the first 8 bytes of SHA-256 of the lines before it that mean
//! something, each with a newline. It finds accidents; against malice there is only the file's mode.

use std::fmt::Write as _;
use std::str::SplitAsciiWhitespace;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::keyring::{Keyring, MasterKey};
use super::tree::{Node, Tree};
use super::{Secret, SecretError};

const FORMAT: &str = "esker-keys-1";

/// What whoever opens the file should know.
const HEADER: &str = "\
# The keys of an Esker deployment (docs/pseudonyms.md). Secret: whoever has this file can tell which value a pseudonym
# stands for. Keep it at mode 0600 and back it up: without it, stored pseudonyms can never be matched again.
# A copy from before `esker keys destroy` undoes the destruction: destroy such copies and backups as well.
# Change it with `esker keys` only. Format:
#   identity SECRET                   for event ids and request digests; never changes
#   key ID active|old CREATED SECRET  a master key; SECRET is for values that belong to no tenant
#   node DEPTH PREFIX SEED            a part of that key's tree of tenant keys; a destroyed tenant is a gap
#   check SUM                         of all lines before it, except these comments
";
/// Room for a line that is no node.
const LINE_BYTES: usize = 160;
/// Room for `node 64 0123456789abcdef `, a seed and a newline.
const NODE_BYTES: usize = 80;

impl Keyring {
    /// Reads a ring; `origin` says where the text is from.
    ///
    /// # Errors
    /// If the text is no ring; the message repeats nothing of it.
    pub fn parse(text: &str, origin: &str) -> Result<Self, SecretError> {
        read(text).map_err(|problem| SecretError::Malformed { origin: origin.to_owned(), problem })
    }

    /// The ring as text.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let room: usize =
            self.keys().map(|key| LINE_BYTES + NODE_BYTES * key.tree().nodes().len()).sum::<usize>();
        // All the room that is needed, for growing would leave copies of secrets behind.
        let room = HEADER.len() + 3 * LINE_BYTES + room;
        let mut text = Zeroizing::new(String::with_capacity(room));
        text.push_str(HEADER);
        let start = text.len();
        // Writing to a String cannot fail.
        write!(text, "{FORMAT}\nidentity ").ok();
        push_secret(&mut text, self.identity_secret());
        for (place, key) in self.keys().enumerate() {
            let state = if place == 0 { "active" } else { "old" };
            write!(text, "key {} {state} {} ", key.id(), key.created()).ok();
            push_secret(&mut text, key.shared());
            for node in key.tree().nodes() {
                write!(text, "node {} {:016x} ", node.depth, node.prefix).ok();
                push_secret(&mut text, &node.seed);
            }
        }
        let mut sum = Sha256::new();
        sum.update(text.get(start..).unwrap_or_default());
        let check = check(sum);
        writeln!(text, "check {check}").ok();
        debug_assert!(text.capacity() == room, "the text had to grow");
        text
    }
}

fn push_secret(text: &mut String, secret: &Secret) {
    secret.encode(text);
    text.push('\n');
}

fn check(sum: Sha256) -> String {
    sum.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A key whose nodes are being read.
struct Unfinished<'t> {
    id: &'t str,
    created: jiff::Timestamp,
    shared: Secret,
    nodes: Vec<Node>,
}

impl Unfinished<'_> {
    fn finish(self) -> Result<MasterKey, &'static str> {
        let key = MasterKey::new(self.created, self.shared, Tree::from_nodes(self.nodes)?);
        if key.id().as_str() == self.id { Ok(key) } else { Err("a key's id belongs to another key") }
    }
}

fn read(text: &str) -> Result<Keyring, &'static str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut sum = Sha256::new();
    let mut take = |line: &str| {
        sum.update(line);
        sum.update("\n");
    };
    match lines.next() {
        None => return Err("it is empty"),
        Some(FORMAT) => take(FORMAT),
        Some(_) => return Err("it does not begin with `esker-keys-1`"),
    }
    let (mut identity, mut keys, mut unfinished) = (None, Vec::new(), None::<Unfinished<'_>>);
    let found = loop {
        let line = lines.next().ok_or("its end is missing")?;
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("identity") if identity.is_none() => identity = Some(secret(&mut words)?),
            Some("key") => {
                if let Some(before) = unfinished.take() {
                    keys.push(before.finish()?);
                }
                unfinished = Some(key(&mut words, keys.is_empty())?);
            }
            Some("node") => {
                unfinished.as_mut().ok_or("a node belongs to no key")?.nodes.push(node(&mut words)?)
            }
            Some("check") => break words.next().ok_or("its check is missing")?,
            _ => return Err("a line is not known"),
        }
        if words.next().is_some() {
            return Err("a line is too long");
        }
        take(line);
    };
    if found != check(sum) || lines.next().is_some() {
        return Err("its check does not match: it was cut, or changed by hand");
    }
    keys.push(unfinished.ok_or("it has no key")?.finish()?);
    let mut keys = keys.into_iter();
    let active = keys.next().ok_or("it has no key")?;
    Keyring::from_parts(identity.ok_or("it has no identity")?, active, keys.collect())
}

fn key<'t>(words: &mut SplitAsciiWhitespace<'t>, is_first: bool) -> Result<Unfinished<'t>, &'static str> {
    let id = words.next().ok_or("a key has no id")?;
    match (words.next(), is_first) {
        (Some("active"), true) | (Some("old"), false) => {}
        _ => return Err("its first key must be the active one, and no other"),
    }
    let created = words.next().and_then(|created| created.parse().ok()).ok_or("a key has no time")?;
    Ok(Unfinished { id, created, shared: secret(words)?, nodes: Vec::new() })
}

fn node(words: &mut SplitAsciiWhitespace<'_>) -> Result<Node, &'static str> {
    let depth = words.next().and_then(|depth| depth.parse().ok()).ok_or("a node has no depth")?;
    let prefix =
        words.next().and_then(|hex| u64::from_str_radix(hex, 16).ok()).ok_or("a node has no prefix")?;
    Ok(Node { depth, prefix, seed: secret(words)? })
}

fn secret(words: &mut SplitAsciiWhitespace<'_>) -> Result<Secret, &'static str> {
    words.next().and_then(Secret::decode).ok_or("a secret is not the base64 of 32 bytes")
}
