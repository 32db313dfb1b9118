//! Bearer tokens: the file that lists them as hashes, making one, and looking one up.
//!
//! Owns: the file's format, the token's format, the comparison. Does not own: where a request carries its token (`access`),
//! when the file is read again (`app`).
//!
//! ```text
//! # Lines that begin with # and empty lines mean nothing.
//! NAME USE sha256:HASH [expires=TIME]
//! collector  send  sha256:5e88…  expires=2027-06-30T00:00:00Z
//! prometheus read  sha256:9f86…
//! ```
//!
//! `USE` is what the token opens: `send` the two OTLP ports, `read` the admin port. `HASH` is SHA-256 of the whole token. A
//! slow password hash would add nothing: a token is 256 random bits, made here, so its hash cannot be searched for, and
//! SHA-256 costs each request well under a microsecond.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// What every token begins with, so that scanners for leaked secrets can know it.
pub const TOKEN_PREFIX: &str = "esker_t1_";
/// Tokens in one file. Each has a metric of its own, and each request is compared with all of them.
pub const TOKENS_MAX: usize = 256;
/// Longest name of a token.
pub const NAME_CHARS_MAX: usize = 64;
/// The name of the token that a process makes for commands on its own machine.
pub const LOCAL_NAME: &str = "local";
const RANDOM_BYTES: usize = 32;
/// The random bytes in base64url, without padding.
const RANDOM_CHARS: usize = 43;
const HASH_BYTES: usize = 32;
const HASH_PREFIX: &str = "sha256:";
const EXPIRY_PREFIX: &str = "expires=";

/// What a token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenUse {
    /// The OTLP ports.
    Send,
    /// The admin port.
    Read,
}

impl TokenUse {
    /// As the file says it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Read => "read",
        }
    }

    /// From the file's word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Send, Self::Read].into_iter().find(|one| one.as_str() == word)
    }
}

/// A token in clear. Shown once, where it is made.
pub struct Token(Zeroizing<String>);

impl Token {
    /// Makes one of 256 random bits.
    ///
    /// # Errors
    /// Where the system gives no random bytes.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut random = Zeroizing::new([0; RANDOM_BYTES]);
        getrandom::fill(random.as_mut())?;
        let mut text = Zeroizing::new(String::with_capacity(TOKEN_PREFIX.len() + RANDOM_BYTES * 2));
        text.push_str(TOKEN_PREFIX);
        URL_SAFE_NO_PAD.encode_string(random.as_ref(), &mut text);
        Ok(Self(text))
    }

    /// The token itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The line that a token file has for it.
    #[must_use]
    pub fn line(&self, name: &str, allows: TokenUse, expires: Option<jiff::Timestamp>) -> String {
        let mut line = format!("{name} {} {HASH_PREFIX}", allows.as_str());
        for byte in digest(self.reveal().as_bytes()) {
            // Writing to a String cannot fail.
            write!(line, "{byte:02x}").ok();
        }
        if let Some(expires) = expires {
            write!(line, " {EXPIRY_PREFIX}{expires}").ok();
        }
        line
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(..)")
    }
}

/// Whether a token may be called this: letters, digits, `.`, `_` and `-`, since names stand in metrics and logs.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(plain) && name != LOCAL_NAME
}

/// Why a token is not good here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Denial {
    /// None was sent.
    Missing,
    /// What was sent is no bearer token.
    Malformed,
    /// No token of the file is this one.
    Unknown,
    /// It was good until its time came.
    Expired,
    /// It opens another port.
    WrongUse,
}

impl Denial {
    /// Every reason.
    pub const ALL: [Self; 5] = [Self::Missing, Self::Malformed, Self::Unknown, Self::Expired, Self::WrongUse];

    /// Its name in a metric's label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::WrongUse => "wrong_use",
        }
    }
}

/// What is wrong with a line of the file, without its content: somebody may have put a token there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct TokenFileProblem {
    /// Counted from 1.
    pub line: usize,
    /// What, and what would be right.
    pub problem: &'static str,
}

#[derive(Debug, Clone)]
struct Entry {
    name: Arc<str>,
    allows: Option<TokenUse>,
    hash: [u8; HASH_BYTES],
    expires: Option<jiff::Timestamp>,
    /// Requests that came with it. It survives a reading of the file that still has the name.
    requests: Arc<AtomicU64>,
}

/// A token of the file, for showing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// Its name.
    pub name: Arc<str>,
    /// Requests that came with it since the start.
    pub requests: u64,
    /// When it ends.
    pub expires: Option<jiff::Timestamp>,
}

/// The tokens that are good now.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    entries: Vec<Entry>,
}

impl Tokens {
    /// Reads a file's text.
    ///
    /// # Errors
    /// [`TokenFileProblem`] of the first line that is not understood. That there is no token is none.
    pub fn parse(text: &str) -> Result<Self, TokenFileProblem> {
        let mut entries: Vec<Entry> = Vec::new();
        for (index, content) in text.lines().enumerate() {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let at = |problem| TokenFileProblem { line: index + 1, problem };
            let entry = entry(content).map_err(at)?;
            if entries.iter().any(|other| other.name == entry.name) {
                return Err(at("another line has this name; give each token its own"));
            }
            if entries.iter().any(|other| other.hash == entry.hash) {
                return Err(at("another line has this hash; make a token for each name"));
            }
            if entries.len() == TOKENS_MAX {
                return Err(at("there are more than 256 tokens; remove those that are not used any more"));
            }
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// The one token for commands on the same machine, good on every port.
    pub(super) fn local(token: &Token) -> Self {
        let hash = digest(token.reveal().as_bytes());
        let requests = Arc::default();
        Self { entries: vec![Entry { name: LOCAL_NAME.into(), allows: None, hash, expires: None, requests }] }
    }

    /// Whether nobody has a token.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes over the counts of those that `before` had under the same names.
    pub(super) fn continuing(mut self, before: &Self) -> Self {
        for entry in &mut self.entries {
            if let Some(known) = before.entries.iter().find(|known| known.name == entry.name) {
                entry.requests = Arc::clone(&known.requests);
            }
        }
        self
    }

    /// Finds who sent `token` for `wanted`. Takes the same time whichever token it is, and whether it is one.
    pub(super) fn check(
        &self,
        token: &[u8],
        wanted: TokenUse,
        now: jiff::Timestamp,
    ) -> Result<&Arc<str>, Denial> {
        // A password that somebody thought up, and put into the file as a hash, must not be good.
        if !has_shape(token) {
            return Err(Denial::Unknown);
        }
        let hash = digest(token);
        let mut found = None;
        for entry in &self.entries {
            if bool::from(entry.hash.ct_eq(&hash)) {
                found = Some(entry);
            }
        }
        let entry = found.ok_or(Denial::Unknown)?;
        if entry.expires.is_some_and(|expires| expires <= now) {
            return Err(Denial::Expired);
        }
        if entry.allows.is_some_and(|allows| allows != wanted) {
            return Err(Denial::WrongUse);
        }
        entry.requests.fetch_add(1, Relaxed);
        Ok(&entry.name)
    }

    /// Every token, without its hash.
    pub fn list(&self) -> impl Iterator<Item = TokenInfo> + '_ {
        self.entries.iter().map(|entry| TokenInfo {
            name: Arc::clone(&entry.name),
            requests: entry.requests.load(Relaxed),
            expires: entry.expires,
        })
    }
}

fn has_shape(token: &[u8]) -> bool {
    let random = token.strip_prefix(TOKEN_PREFIX.as_bytes()).unwrap_or_default();
    random.len() == RANDOM_CHARS
        && random.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte))
}

fn entry(line: &str) -> Result<Entry, &'static str> {
    let mut words = line.split_ascii_whitespace();
    let name = words.next().unwrap_or_default();
    if name == LOCAL_NAME {
        return Err("`local` is the name of the token that each process makes for itself; choose another");
    }
    if !is_name(name) {
        return Err("a name is at most 64 letters, digits, `.`, `_` and `-`");
    }
    let allows = words.next().and_then(TokenUse::parse).ok_or("after the name comes `send` or `read`")?;
    let hash = words.next().and_then(|word| hash(word.strip_prefix(HASH_PREFIX)?)).ok_or(
        "then comes the token's hash, `sha256:` and 64 hex digits; `esker tokens new` prints whole lines",
    )?;
    let expires = words.next().map(|word| {
        let time = word.strip_prefix(EXPIRY_PREFIX).and_then(|time| time.parse().ok());
        time.ok_or("the last word may be `expires=` and a time such as 2027-06-30T00:00:00Z")
    });
    if words.next().is_some() {
        return Err("the line is too long; it has a name, a use, a hash and perhaps an expiry");
    }
    Ok(Entry {
        name: name.into(),
        allows: Some(allows),
        hash,
        expires: expires.transpose()?,
        requests: Arc::default(),
    })
}

fn hash(hex: &str) -> Option<[u8; HASH_BYTES]> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if pairs.len() != HASH_BYTES || !rest.is_empty() {
        return None;
    }
    let mut hash = [0; HASH_BYTES];
    for (byte, pair) in hash.iter_mut().zip(pairs) {
        // `from_str_radix` would take a sign.
        if !pair.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

fn digest(token: &[u8]) -> [u8; HASH_BYTES] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

    fn line(token: &Token, name: &str) -> String {
        token.line(name, TokenUse::Send, None)
    }

    #[test]
    fn a_made_token_is_found_by_its_line_and_no_other_is() {
        let (one, other) = (Token::generate().unwrap(), Token::generate().unwrap());
        assert!(one.reveal().starts_with("esker_t1_") && one.reveal().len() == 9 + 43, "{}", one.reveal());
        let tokens = Tokens::parse(&format!("# ours\n\n  {}\r\n", line(&one, "collector"))).unwrap();
        let found = tokens.check(one.reveal().as_bytes(), TokenUse::Send, NOW);
        assert_eq!(found.map(|name| &**name), Ok("collector"));
        let almost = one.reveal().get(..51).unwrap().as_bytes();
        for wrong in [other.reveal().as_bytes(), almost, b"", &[b'a'; 5000]] {
            assert_eq!(tokens.check(wrong, TokenUse::Send, NOW), Err(Denial::Unknown));
        }
        assert!(!format!("{one:?}").contains("esker_t1"));
    }

    #[test]
    fn a_token_opens_only_what_it_is_for_and_only_until_it_expires() {
        let token = Token::generate().unwrap();
        let expires = jiff::Timestamp::from_second(100).unwrap();
        let text = token.line("prometheus", TokenUse::Read, Some(expires));
        assert!(text.ends_with(" expires=1970-01-01T00:01:40Z"), "{text}");
        let tokens = Tokens::parse(&text).unwrap();
        let check = |wanted, second| {
            let now = jiff::Timestamp::from_second(second).unwrap();
            tokens.check(token.reveal().as_bytes(), wanted, now).map(|name| &**name)
        };
        assert_eq!(check(TokenUse::Read, 99), Ok("prometheus"));
        assert_eq!(check(TokenUse::Send, 99), Err(Denial::WrongUse));
        assert_eq!(check(TokenUse::Read, 100), Err(Denial::Expired));
    }

    #[test]
    fn a_password_is_no_token_though_its_hash_is_in_the_file() {
        for password in ["password", "esker_t1_password", &format!("esker_t1_{}", "x".repeat(44))] {
            let hash: String = digest(password.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            let tokens = Tokens::parse(&format!("a send sha256:{hash}")).unwrap();
            let found = tokens.check(password.as_bytes(), TokenUse::Send, NOW);
            assert_eq!(found, Err(Denial::Unknown), "{password}");
        }
    }

    #[test]
    fn the_local_token_opens_every_port() {
        let token = Token::generate().unwrap();
        let tokens = Tokens::local(&token);
        for wanted in [TokenUse::Send, TokenUse::Read] {
            assert!(tokens.check(token.reveal().as_bytes(), wanted, NOW).is_ok());
        }
    }

    #[test]
    fn counts_survive_a_reading_that_still_has_the_name() {
        let (one, two) = (Token::generate().unwrap(), Token::generate().unwrap());
        let before = Tokens::parse(&line(&one, "a")).unwrap();
        before.check(one.reveal().as_bytes(), TokenUse::Send, NOW).unwrap();
        let text = format!("{}\n{}", line(&two, "a"), line(&one, "b"));
        let after = Tokens::parse(&text).unwrap().continuing(&before);
        assert_eq!(after.list().map(|token| token.requests).collect::<Vec<_>>(), [1, 0]);
    }

    #[test]
    fn a_line_that_is_not_understood_is_named_and_not_repeated() {
        let good = line(&Token::generate().unwrap(), "good");
        let hash = good.split(' ').nth(2).unwrap();
        let cases = [
            (&*format!("{good}\n\n{good}"), 3, "this name"),
            (&*format!("{good}\nb read {hash}"), 2, "this hash"),
            ("local send sha256:00", 1, "`local`"),
            ("näme send sha256:00", 1, "a name"),
            (&*format!("{good}\nb {hash}"), 2, "`send` or `read`"),
            ("b both sha256:00", 1, "`send` or `read`"),
            ("b send esker_t1_hunter2", 1, "sha256:"),
            (&*format!("b send {hash}0"), 1, "sha256:"),
            (&*format!("b send {}+f", hash.get(..69).unwrap()), 1, "sha256:"),
            (&*format!("b send {hash} 2027-01-01"), 1, "expires="),
            (&*format!("b send {hash} expires=soon"), 1, "expires="),
            (&*format!("b send {hash} expires=2027-06-30T00:00:00Z more"), 1, "too long"),
        ];
        for (text, line, part) in cases {
            let problem = Tokens::parse(text).unwrap_err();
            assert_eq!(problem.line, line, "{text}: {problem}");
            assert!(
                problem.to_string().contains(part) && !problem.to_string().contains("hunter2"),
                "{problem}"
            );
        }
        let many: Vec<_> = (0..=TOKENS_MAX)
            .map(|number| Token::generate().unwrap().line(&format!("n{number}"), TokenUse::Send, None))
            .collect();
        assert_eq!(Tokens::parse(&many.join("\n")).unwrap_err().line, TOKENS_MAX + 1);
    }
}
