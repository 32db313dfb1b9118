//! Values whose name says that they are secret.
//!
//! Owns: such names, and where the value of a query parameter, an assignment, a JSON member or a header ends. Does not
//! own: secrets that are known by their own shape (`keys`).
//!
//! Some names say it anywhere (`password`, and whatever ends in it), others only as a parameter in a URL (`code`, `key`):
//! elsewhere they name harmless things. Behind a colon without quotes stands mostly prose, so there only a value with
//! letters and digits counts.

use super::{Found, Span, before, byte, is_masked, mask_length, run_end, run_start};
use crate::registry::LeakClass;

/// Longest name that is looked at; of a longer one the end counts.
const NAME_BYTES_MAX: usize = 48;

const SPACES_MAX: usize = 8;

const PUNCTUATION_BYTES_MAX: usize = 8;

/// Shortest value behind a colon without quotes.
const BARE_BYTES_MIN: usize = 8;

/// How much of a value decides whether it counts.
const JUDGED_BYTES_MAX: usize = 256;

/// Ends of names, in lower case and without `_`, `-` and `.`.
const SECRET_NAMES: &[&[u8]] = &[
    b"password",
    b"passwd",
    b"passphrase",
    b"passcode",
    b"pwd",
    b"secret",
    b"token",
    b"apikey",
    b"accesskey",
    b"secretkey",
    b"privatekey",
    b"accountkey",
    b"sharedkey",
    b"subscriptionkey",
    b"authkey",
    b"signingkey",
    b"encryptionkey",
    b"masterkey",
    b"signature",
    b"credential",
    b"credentials",
    b"sessionid",
    b"sessionkey",
    b"jwt",
];

/// Ends of names of headers whose whole line is the secret.
const HEADER_NAMES: &[&[u8]] = &[b"authorization", b"cookie"];

/// Whole names of a URL's parameters.
const PARAMETER_NAMES: &[&[u8]] = &[
    b"key",
    b"code",
    b"sig",
    b"auth",
    b"pass",
    b"pw",
    b"sid",
    b"session",
    b"otp",
    b"ticket",
    b"assertion",
    b"bearer",
];

/// What an `Authorization` header begins with.
const SCHEMES: &[&[u8]] = &[
    b"bearer",
    b"basic",
    b"token",
    b"digest",
    b"apikey",
    b"api-key",
    b"negotiate",
    b"ntlm",
    b"hawk",
    b"hmac",
    b"aws4-hmac-sha256",
    b"sharedkey",
];

/// Values that are none.
const NOTHING: &[&[u8]] =
    &[b"null", b"none", b"nil", b"undefined", b"true", b"false", b"yes", b"no", b"on", b"off"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Secret,
    Header,
    Parameter,
}

pub(super) fn assignments(text: &[u8], found: &mut Found) {
    let mut from = 0;
    while let Some(offset) =
        text.get(from..).and_then(|rest| rest.iter().position(|byte| matches!(byte, b'=' | b':')))
    {
        let at = from + offset;
        from = match value_of(text, at) {
            Some(span) => {
                if !is_nothing(text.get(span.start..span.end).unwrap_or_default()) {
                    found.push(span.start, span.end, span.class);
                }
                span.end.max(at + 1)
            }
            None => at + 1,
        };
    }
}

/// The value that the `=` or `:` at a place gives to a secret's name.
fn value_of(text: &[u8], at: usize) -> Option<Span> {
    let kind = kind_of(text, at)?;
    let is_equals = byte(text, at) == b'=';
    let mut start = match (is_equals, byte(text, at + 1)) {
        // A comparison, a path in a program.
        (true, b'=') | (false, b':') => return None,
        (true, b'>') | (false, b'=') => at + 2,
        (false, b'/') if byte(text, at + 2) == b'/' => return None,
        _ => at + 1,
    };
    let spaces = run_end(text, start, |byte| matches!(byte, b' ' | b'\t')) - start;
    if spaces > SPACES_MAX {
        return None;
    }
    start += spaces;
    if matches!(byte(text, start), b'b' | b'r' | b'u' | b'f') && is_quote(byte(text, start + 1)) {
        start += 1;
    }
    let class = if kind == Kind::Header { LeakClass::Token } else { LeakClass::Secret };
    let quote = byte(text, start);
    if is_quote(quote) {
        return Some(Span { start: start + 1, end: run_end(text, start + 1, |byte| byte != quote), class });
    }
    if matches!(quote, b'{' | b'[') && mask_length(text.get(start..)?) == 0 {
        return None;
    }
    let end = match kind {
        Kind::Header => header_end(text, start)?,
        _ if is_equals || counts_behind_colon(judged(text, start, bare_end)) => bare_end(text, start),
        _ => return None,
    };
    Some(Span { start, end, class })
}

/// As much of the value as its kind is judged by. A bound, since the next value may begin within this one.
fn judged(text: &[u8], start: usize, value_end: impl Fn(&[u8], usize) -> usize) -> &[u8] {
    let bounded = text.get(..start + JUDGED_BYTES_MAX).unwrap_or(text);
    bounded.get(start..value_end(bounded, start)).unwrap_or_default()
}

/// What the name before a place says of the value behind it.
fn kind_of(text: &[u8], at: usize) -> Option<Kind> {
    let mut end = at;
    for _ in 0..2 {
        end -= usize::from(before(text, end) == b' ');
    }
    end -= usize::from(is_quote(before(text, end)));
    // `user[password]=`
    end -= usize::from(before(text, end) == b']');
    end -= usize::from(is_quote(before(text, end)));
    // Spares nearly all colons and equals signs the rest: no name of a secret ends otherwise.
    if !matches!(
        before(text, end) | 0x20,
        b'd' | b'e' | b't' | b'n' | b'y' | b'l' | b's' | b'g' | b'h' | b'p' | b'w' | b'r'
    ) {
        return None;
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let start = run_start(text, end.saturating_sub(NAME_BYTES_MAX), end, is_name);
    let mut folded = [0; NAME_BYTES_MAX];
    let letters = text.get(start..end)?.iter().filter(|byte| byte.is_ascii_alphanumeric());
    let length =
        folded.iter_mut().zip(letters).map(|(slot, letter)| *slot = letter.to_ascii_lowercase()).count();
    let name = folded.get(..length)?;
    let ends_in = |names: &[&[u8]]| names.iter().any(|known| name.ends_with(known));
    if ends_in(SECRET_NAMES) {
        Some(Kind::Secret)
    } else if ends_in(HEADER_NAMES) {
        Some(Kind::Header)
    } else {
        let is_parameter = byte(text, at) == b'=' && matches!(before(text, start), b'?' | b'&' | b'#' | b';');
        (is_parameter && PARAMETER_NAMES.contains(&name)).then_some(Kind::Parameter)
    }
}

fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'' | b'`')
}

/// Where a value without quotes ends.
fn bare_end(text: &[u8], start: usize) -> usize {
    let ends =
        |byte: u8| byte.is_ascii_whitespace() || is_quote(byte) || matches!(byte, b'&' | b';' | b'<' | b'>');
    let mut end = run_end(text, start, |byte| !ends(byte));
    if is_quote(byte(text, end)) {
        // The backslashes of a quote belong to it.
        end = run_start(text, start, end, |byte| byte == b'\\');
    }
    // The punctuation of the text around; a comma within is the password's own.
    let floor = start.max(end.saturating_sub(PUNCTUATION_BYTES_MAX));
    while end > floor
        && matches!(before(text, end), b',' | b'.' | b')' | b'}' | b']')
        && !is_masked(text.get(start..end).unwrap_or_default())
    {
        end -= 1;
    }
    end
}

/// Where a header's value ends: with its line, or the quotes around it.
fn header_end(text: &[u8], start: usize) -> Option<usize> {
    let value = judged(text, start, line_end);
    let word = value.split(u8::is_ascii_whitespace).next()?;
    let has_scheme =
        word.len() < value.len() && SCHEMES.iter().any(|scheme| word.eq_ignore_ascii_case(scheme));
    if has_scheme || word.contains(&b'=') {
        return Some(line_end(text, start));
    }
    counts_behind_colon(judged(text, start, bare_end)).then(|| bare_end(text, start))
}

fn line_end(text: &[u8], start: usize) -> usize {
    run_end(text, start, |byte| !matches!(byte, b'\r' | b'\n' | b'"' | b'\'' | b'`'))
}

/// A word of letters and digits, or a number of four digits and more; words alone are prose.
fn counts_behind_colon(value: &[u8]) -> bool {
    let has_digit = value.iter().any(u8::is_ascii_digit);
    let has_letter = value.iter().any(u8::is_ascii_alphabetic);
    has_digit && (value.len() >= BARE_BYTES_MIN && has_letter || value.len() >= 4 && !has_letter)
}

/// Nothing is no secret, nor is a number that is too short for one, nor what is masked already.
fn is_nothing(value: &[u8]) -> bool {
    let is_short_number = value.len() <= 3 && value.iter().all(u8::is_ascii_digit);
    let is_starred = value.iter().all(|byte| *byte == b'*');
    // In `{"note":"password:","n":1}` the quote behind the colon ends a string, and a deeper one has a backslash before it.
    let is_structure = value.iter().all(|byte| byte.is_ascii_whitespace() || br",:{}[]\".contains(byte));
    is_short_number
        || is_starred
        || is_structure
        || is_masked(value)
        || NOTHING.iter().any(|nothing| value.eq_ignore_ascii_case(nothing))
}

/// The end of a value in quotes that itself holds quotes of a deeper level: those have more backslashes before them than
/// the quote in front of the value.
pub(super) fn quoted_end(text: &[u8], span: Span) -> usize {
    let quote = before(text, span.start);
    if !is_quote(quote) || !matches!(span.class, LeakClass::Secret | LeakClass::Token) {
        return span.end;
    }
    let depth = backslashes_before(text, span.start - 1);
    let mut end = span.end;
    loop {
        let closing = run_end(text, end, |byte| byte == b'\\');
        if byte(text, closing) != quote || closing - end <= depth {
            return end;
        }
        let next = run_end(text, closing + 1, |byte| byte != quote);
        end = if next < text.len() { next - backslashes_before(text, next) } else { next };
    }
}

fn backslashes_before(text: &[u8], at: usize) -> usize {
    at - run_start(text, 0, at, |byte| byte == b'\\')
}
