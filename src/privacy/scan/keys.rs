//! Keys and tokens that are known by how they begin.
//!
//! Owns: the well-known beginnings, what must follow each. Does not own: secrets that only their name gives away
//! (`secrets`).
//!
//! One regular expression, which is nothing but the beginnings, is searched for, and only where the glance saw three
//! bytes of one. Where a beginning is found, the table says what has to follow.

use regex::bytes::Regex;

use super::{Found, before, byte, is_masked, mask_length, run_end, run_start};
use crate::registry::LeakClass;

/// A bearer token that is shorter, or only letters of one case, is a word of prose.
const BEARER_BYTES_MIN: usize = 8;

/// From this length on a word of letters is a token as well.
const BEARER_LETTERS_MIN: usize = 24;

/// How far behind `-----BEGIN ` the words `PRIVATE KEY` may stand.
const PEM_LABEL_BYTES_MAX: usize = 40;

/// What may follow a beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alphabet {
    /// Upper-case letters and digits.
    Upper,
    Hex,
    Alphanumeric,
    /// Base 64 as URLs have it: letters, digits, `_`, `-`.
    Base64Url,
    /// The same with dots between parts.
    Dotted,
    /// The same with slashes between parts.
    Path,
}

impl Alphabet {
    fn has(self, byte: u8) -> bool {
        match self {
            Self::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
            Self::Hex => byte.is_ascii_hexdigit(),
            Self::Alphanumeric => byte.is_ascii_alphanumeric(),
            Self::Base64Url => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'),
            Self::Dotted => Self::Base64Url.has(byte) || byte == b'.',
            Self::Path => Self::Base64Url.has(byte) || byte == b'/',
        }
    }
}

/// How a key looks.
#[derive(Debug)]
struct Shape {
    begins: &'static str,
    /// The beginning must also be one of a word, since it might stand within one.
    is_word: bool,
    alphabet: Alphabet,
    bytes_min: usize,
}

const fn shape(begins: &'static str, alphabet: Alphabet, bytes_min: usize) -> Shape {
    Shape { begins, is_word: false, alphabet, bytes_min }
}

const fn word(begins: &'static str, alphabet: Alphabet, bytes_min: usize) -> Shape {
    Shape { begins, is_word: true, alphabet, bytes_min }
}

const SHAPES: &[Shape] = &[
    // AWS
    shape("AKIA", Alphabet::Upper, 16),
    shape("ASIA", Alphabet::Upper, 16),
    shape("ABIA", Alphabet::Upper, 16),
    shape("ACCA", Alphabet::Upper, 16),
    // Google
    shape("AIza", Alphabet::Base64Url, 30),
    shape("GOCSPX-", Alphabet::Base64Url, 20),
    shape("ya29.", Alphabet::Base64Url, 20),
    // GitHub, GitLab
    shape("ghp_", Alphabet::Alphanumeric, 20),
    shape("gho_", Alphabet::Alphanumeric, 20),
    shape("ghu_", Alphabet::Alphanumeric, 20),
    shape("ghs_", Alphabet::Alphanumeric, 20),
    shape("ghr_", Alphabet::Alphanumeric, 20),
    shape("github_pat_", Alphabet::Base64Url, 20),
    shape("glpat-", Alphabet::Base64Url, 16),
    shape("gldt-", Alphabet::Base64Url, 16),
    shape("glrt-", Alphabet::Base64Url, 16),
    shape("glptt-", Alphabet::Base64Url, 16),
    // Slack
    shape("xoxa-", Alphabet::Base64Url, 10),
    shape("xoxb-", Alphabet::Base64Url, 10),
    shape("xoxc-", Alphabet::Base64Url, 10),
    shape("xoxd-", Alphabet::Base64Url, 10),
    shape("xoxe-", Alphabet::Base64Url, 10),
    shape("xoxe.", Alphabet::Dotted, 10),
    shape("xoxo-", Alphabet::Base64Url, 10),
    shape("xoxp-", Alphabet::Base64Url, 10),
    shape("xoxr-", Alphabet::Base64Url, 10),
    shape("xoxs-", Alphabet::Base64Url, 10),
    shape("xapp-", Alphabet::Base64Url, 10),
    shape("hooks.slack.com/", Alphabet::Path, 20),
    // Stripe
    shape("sk_live_", Alphabet::Alphanumeric, 10),
    shape("sk_test_", Alphabet::Alphanumeric, 10),
    shape("rk_live_", Alphabet::Alphanumeric, 10),
    shape("rk_test_", Alphabet::Alphanumeric, 10),
    shape("whsec_", Alphabet::Alphanumeric, 16),
    // Others
    word("sk-", Alphabet::Base64Url, 20),
    word("SG.", Alphabet::Dotted, 32),
    word("hf_", Alphabet::Alphanumeric, 30),
    word("hvs.", Alphabet::Base64Url, 20),
    word("key-", Alphabet::Hex, 32),
    word("npm_", Alphabet::Alphanumeric, 30),
    word("dapi", Alphabet::Hex, 32),
    // The server-side key of a Flagsmith environment.
    word("ser.", Alphabet::Alphanumeric, 16),
    shape("pypi-AgE", Alphabet::Base64Url, 30),
    shape("dop_v1_", Alphabet::Hex, 32),
    shape("shpat_", Alphabet::Hex, 32),
    shape("shpss_", Alphabet::Hex, 32),
    shape("ATATT3", Alphabet::Base64Url, 30),
    shape("AGE-SECRET-KEY-1", Alphabet::Upper, 30),
];

const JWT: &str = "eyJ";
const PEM: &str = "PRIVATE KEY";
/// `Bearer` and `Basic` begin in either case.
const BEARER: [&str; 2] = ["earer", "EARER"];
const BASIC: [&str; 2] = ["asic ", "ASIC "];

fn beginnings() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.begins).chain([JWT, PEM]).chain(BEARER).chain(BASIC)
}

/// The search for beginnings.
#[derive(Debug)]
pub(super) struct Keys {
    beginnings: Regex,
}

impl Keys {
    pub(super) fn new() -> Self {
        let beginnings: Vec<String> = beginnings().map(regex::escape).collect();
        #[expect(
            clippy::expect_used,
            reason = "the expression is a constant, and escaped texts make a valid one"
        )]
        let beginnings = Regex::new(&format!("(?-u){}", beginnings.join("|"))).expect("a valid expression");
        Self { beginnings }
    }

    pub(super) fn find(&self, text: &[u8], found: &mut Found) {
        // What a finding covers is not looked at again, and neither is what was read in vain: the time stays linear.
        let mut from = 0;
        while let Some(beginning) = self.beginnings.find_at(text, from) {
            let (start, end) = (beginning.start(), beginning.end());
            let read = match beginning.as_bytes() {
                b"eyJ" => jwt(text, start, end, found),
                b"PRIVATE KEY" => pem(text, from, start, end, found),
                b"earer" | b"EARER" => bearer(text, start, end, found),
                b"asic " | b"ASIC " => basic(text, start, end, found),
                begins => shaped(text, begins, start, end, found),
            };
            from = read.max(end);
        }
    }
}

/// Each of these answers up to where it has read.
fn shaped(text: &[u8], begins: &[u8], start: usize, end: usize, found: &mut Found) -> usize {
    let Some(shape) = SHAPES.iter().find(|shape| shape.begins.as_bytes() == begins) else { return end };
    if shape.is_word
        && (before(text, start).is_ascii_alphanumeric() || matches!(before(text, start), b'_' | b'-'))
    {
        return end;
    }
    let key_end = run_end(text, end, |byte| shape.alphabet.has(byte));
    let key = text.get(end..key_end).unwrap_or_default();
    let is_long = key.len() >= shape.bytes_min;
    // Words joined by dashes are a name, not a key.
    if is_long && (!shape.is_word || key.iter().any(u8::is_ascii_digit)) {
        found.push(start, key_end, LeakClass::AccessKey);
    }
    if is_long { key_end } else { end }
}

/// Two parts or more: a header, which is JSON, and a payload.
fn jwt(text: &[u8], start: usize, end: usize, found: &mut Found) -> usize {
    let header_end = run_end(text, end, |byte| Alphabet::Base64Url.has(byte));
    if byte(text, header_end) != b'.' || header_end - start < 12 {
        return header_end;
    }
    let token_end = run_end(text, header_end, |byte| Alphabet::Dotted.has(byte));
    let token = text.get(start..token_end).unwrap_or_default();
    let length = token.len() - token.iter().rev().take_while(|byte| **byte == b'.').count();
    if length > header_end - start + BEARER_BYTES_MIN {
        found.push(start, start + length, LeakClass::Token);
    }
    token_end
}

/// From the first line to the last one; where one of them is missing, all that the missing one could have begun or ended.
fn pem(text: &[u8], floor: usize, start: usize, end: usize, found: &mut Found) -> usize {
    let label_floor = start.saturating_sub(PEM_LABEL_BYTES_MAX).max(floor);
    let label = text.get(label_floor..start).unwrap_or_default();
    let place = |wanted: &[u8]| {
        label.windows(wanted.len()).rposition(|window| window == wanted).map(|offset| label_floor + offset)
    };
    if let Some(line) = place(b"-----END ") {
        let body =
            |byte: u8| byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace() || b"+/=".contains(&byte);
        let line_end = run_end(text, end, |byte| byte == b'-');
        found.push(run_start(text, floor, line, body), line_end, LeakClass::PrivateKey);
        return line_end;
    }
    let Some(begin) = place(b"-----BEGIN ") else { return end };
    const LAST_LINE: &[u8] = b"-----END ";
    let rest = text.get(end..).unwrap_or_default();
    let last_line = rest.windows(LAST_LINE.len()).position(|window| window == LAST_LINE);
    let key_end = match last_line {
        Some(offset) => {
            let label = end + offset + LAST_LINE.len();
            let dashes = run_end(text, label, |byte| byte.is_ascii_uppercase() || byte == b' ');
            run_end(text, dashes, |byte| byte == b'-')
        }
        None => text.len(),
    };
    found.push(begin, key_end, LeakClass::PrivateKey);
    key_end
}

/// Where the word starts whose second letter is at `second`, if it begins with a `b`.
fn is_scheme(text: &[u8], second: usize) -> bool {
    let first = before(text, second);
    matches!(first, b'b' | b'B') && second > 0 && !before(text, second - 1).is_ascii_alphanumeric()
}

fn bearer(text: &[u8], second: usize, end: usize, found: &mut Found) -> usize {
    let start = run_end(text, end, |byte| matches!(byte, b' ' | b':' | b'=' | b'"' | b'\t'));
    if !is_scheme(text, second)
        || start == end
        || start > end + 4
        || mask_length(text.get(start..).unwrap_or_default()) > 0
    {
        return end;
    }
    let token_end = run_end(text, start, |byte| Alphabet::Dotted.has(byte) || b"~+/=".contains(&byte));
    let token = text.get(start..token_end).unwrap_or_default();
    let length = token.len() - token.iter().rev().take_while(|byte| **byte == b'.').count();
    let token = token.get(..length).unwrap_or_default();
    let is_mixed =
        token.iter().skip(1).any(u8::is_ascii_uppercase) && token.iter().any(u8::is_ascii_lowercase);
    let is_word = !token.iter().any(u8::is_ascii_digit) && !is_mixed && length < BEARER_LETTERS_MIN;
    if length >= BEARER_BYTES_MIN && !is_word {
        found.push(start, start + length, LeakClass::Token);
        return token_end;
    }
    end
}

/// `Basic`, then the base 64 of `user:password`.
fn basic(text: &[u8], second: usize, end: usize, found: &mut Found) -> usize {
    if !is_scheme(text, second) {
        return end;
    }
    let code_end = run_end(text, end, |byte| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte));
    let code = text.get(end..code_end).unwrap_or_default();
    if !is_masked(code) && encodes_colon(code) {
        let padded = run_end(text, code_end, |byte| byte == b'=');
        found.push(end, padded, LeakClass::Token);
        return padded;
    }
    // What is no credentials holds no other beginning that matters less than what is read twice.
    end
}

/// True where the base 64 text stands for text with a colon in it.
fn encodes_colon(code: &[u8]) -> bool {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    };
    let (mut bits, mut held, mut has_colon) = (0_u32, 0, false);
    for byte in code {
        let Some(value) = value(*byte) else { return false };
        (bits, held) = ((bits << 6 | u32::from(value)) & 0xffff, held + 6);
        if held >= 8 {
            held -= 8;
            let decoded = (bits >> held) & 0xff;
            has_colon |= decoded == u32::from(b':');
            if decoded < 0x20 {
                return false;
            }
        }
    }
    has_colon && code.len() >= 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::scan::glance::Glance;

    #[test]
    fn the_glance_sees_every_beginning() {
        for beginning in beginnings() {
            assert!(
                Glance::at(beginning.as_bytes()).may_hold_key(),
                "{beginning}: add a pattern to `glance`"
            );
        }
        assert!(!Glance::at(b"The feature was created by a pipeline").may_hold_key());
    }
}
