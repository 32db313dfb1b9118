//! Addresses: e-mail, IPv4, IPv6, and the password that a URL carries before its host.
//!
//! Owns: where an address begins and ends, what only looks like one (a package's version, a path in a program). Does not
//! own: a URL's query (`secrets`).

use core::net::Ipv6Addr;

use super::{Found, before, byte, is_masked, run_end, run_start};
use crate::registry::LeakClass;

/// How far the password of a URL may reach behind what ends the host in a well-formed URL.
const MALFORMED_BYTES_MAX: usize = 256;

/// Longest text of an IPv6 address, with an IPv4 address at its end.
const IPV6_BYTES_MAX: usize = 45;

/// E-mail addresses, and the passwords of URLs. Each `@` is looked at in both directions up to what cannot be in an
/// address, so at each byte twice.
pub(super) fn emails(text: &[u8], found: &mut Found) {
    url_passwords(text, found);
    // The `@` behind a password is none of an e-mail address.
    let passwords: Vec<usize> = found.spans.iter().map(|span| span.end).collect();
    let mut passwords = passwords.into_iter().peekable();
    let mut behind = 0;
    for (at, _) in text.iter().enumerate().filter(|(_, byte)| **byte == b'@') {
        while passwords.next_if(|end| *end < at).is_some() {}
        if passwords.next_if_eq(&at).is_none()
            && let Some(end) = domain_end(text, at + 1)
            && let Some(start) = local_start(text, behind, at)
        {
            found.push(start, end, LeakClass::Email);
        }
        behind = at + 1;
    }
}

fn local_start(text: &[u8], floor: usize, at: usize) -> Option<usize> {
    let is_local = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || byte >= 0x80
            || matches!(byte, b'.' | b'_' | b'+' | b'-' | b'\'' | b'%' | b'!' | b'#' | b'$' | b'*' | b'~')
    };
    // In JSON, the quote before an `@` begins a string; the one that ends a quoted name follows a character of it.
    if before(text, at) == b'"' && before(text, at - 1).is_ascii_alphanumeric() {
        let open = text.get(floor..at - 1)?.iter().rposition(|byte| *byte == b'"')?;
        return Some(floor + open);
    }
    let mut start = run_start(text, floor, at, is_local);
    if let Ok(local) = std::str::from_utf8(text.get(start..at)?) {
        // What stands behind the last punctuation.
        start = at - local.rsplit(is_punctuation).next().map_or(0, str::len);
    }
    while start < at && !(byte(text, start).is_ascii_alphanumeric() || byte(text, start) >= 0x80) {
        // A quote, a bullet or the sign of a list belongs to the text around the address.
        start += 1;
    }
    (start < at).then_some(start)
}

fn domain_end(text: &[u8], start: usize) -> Option<usize> {
    if byte(text, start) == b'[' {
        // An address in the place of a domain: `bob@[203.0.113.9]`.
        let end =
            run_end(text, start + 1, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b':'));
        return (byte(text, end) == b']' && end > start + 7).then_some(end + 1);
    }
    let is_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte >= 0x80;
    let mut end = run_end(text, start, |byte| is_label(byte) || byte == b'.');
    if let Ok(host) = std::str::from_utf8(text.get(start..end)?)
        && let Some(place) = host.find(is_punctuation)
    {
        end = start + place;
    }
    let host = text.get(start..end).unwrap_or_default();
    let mut labels = host.split(|byte| *byte == b'.');
    let is_number = |label: &[u8]| label.iter().all(u8::is_ascii_digit);
    let first = labels.next().filter(|label| !label.is_empty())?;
    if is_number(first) && labels.next().is_some_and(is_number) {
        // `package@1.2.3-beta.rc`
        return None;
    }
    // The longest beginning that ends in a plausible top-level domain.
    let mut rest = host;
    while let Some(dot) = rest.iter().rposition(|byte| *byte == b'.') {
        let (before, label) = rest.split_at_checked(dot)?;
        let label = label.get(1..)?;
        if let Some(length) = top_level(label) {
            return (!is_scaled_image(first, label)).then_some(start + dot + 1 + length);
        }
        rest = before;
    }
    None
}

/// Spaces, quotes and marks of other scripts. Everything else that is not ASCII counts as a part of an address, combining
/// accents among it.
fn is_punctuation(character: char) -> bool {
    matches!(character, '\u{80}'..='\u{a9}' | '\u{ab}'..='\u{b4}' | '\u{b6}'..='\u{b9}' | '\u{bb}'..='\u{bf}')
        || matches!(character, '\u{2000}'..='\u{206f}' | '\u{3000}'..='\u{303f}' | '\u{ff01}'..='\u{ff0f}')
}

/// The length of the top-level domain that the label begins with: what follows it is not part of the address.
fn top_level(label: &[u8]) -> Option<usize> {
    if label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"xn--")) {
        return Some(label.len());
    }
    let length = run_end(label, 0, |byte| byte.is_ascii_alphabetic() || byte >= 0x80);
    (length >= 2).then_some(length)
}

/// `icon@2x.png` is a file for a fine screen.
fn is_scaled_image(first: &[u8], extension: &[u8]) -> bool {
    matches!(first, [b'1'..=b'9', b'x'])
        && [b"png".as_slice(), b"jpg", b"jpeg", b"gif", b"webp", b"svg"].contains(&extension)
}

/// The password of `scheme://user:password@host`.
fn url_passwords(text: &[u8], found: &mut Found) {
    let mut from = 0;
    while let Some(offset) =
        text.get(from..).and_then(|rest| rest.windows(3).position(|three| three == b"://"))
    {
        let start = from + offset + 3;
        let is_outside = |byte: u8| byte.is_ascii_whitespace() || matches!(byte, b'"' | b'<' | b'>' | b'`');
        let end = run_end(text, start, |byte| !is_outside(byte) && !matches!(byte, b'/' | b'?' | b'#'));
        let mut authority = text.get(start..end).unwrap_or_default();
        if !authority.contains(&b'@') && has_odd_port(authority) {
            // A password with a slash in it that was not escaped.
            let rest = text.get(start..).unwrap_or_default();
            let rest = rest.get(..MALFORMED_BYTES_MAX).unwrap_or(rest);
            authority = rest.split(|byte| is_outside(*byte)).next().unwrap_or_default();
        }
        if let Some(at) = authority.iter().rposition(|byte| *byte == b'@')
            && let Some(colon) = authority.iter().position(|byte| *byte == b':')
            && let Some(password) = authority.get(colon + 1..at)
            && !is_masked(password)
        {
            found.push(start + colon + 1, start + at, LeakClass::Secret);
        }
        from = start;
    }
}

fn has_odd_port(authority: &[u8]) -> bool {
    let port = authority.iter().position(|byte| *byte == b':').and_then(|colon| authority.get(colon + 1..));
    port.is_some_and(|port| !port.iter().all(u8::is_ascii_digit))
}

/// IPv4 addresses.
pub(super) fn ipv4(text: &[u8], found: &mut Found) {
    let mut at = 0;
    while at < text.len() {
        if !byte(text, at).is_ascii_digit() {
            at += 1;
            continue;
        }
        let end = run_end(text, at, |byte| byte.is_ascii_digit() || byte == b'.');
        let length = text.get(at..end).map_or(0, |run| run.len() - trailing_dots(run));
        if let Some(run) = text.get(at..at + length)
            && is_ipv4(run)
            && !is_version(text, at)
        {
            found.push(at, at + length, LeakClass::Ip);
        }
        at = end;
    }
}

fn trailing_dots(run: &[u8]) -> usize {
    run.iter().rev().take_while(|byte| **byte == b'.').count()
}

/// Four numbers up to 255, also with leading zeros. `120.0.0.0` is how browsers write their version, and no host's address.
fn is_ipv4(run: &[u8]) -> bool {
    if run.len() > 15 {
        return false;
    }
    let mut parts = 0;
    let mut is_host = false;
    for part in run.split(|byte| *byte == b'.') {
        if part.is_empty() || part.len() > 3 {
            return false;
        }
        let number =
            part.iter().fold(0_u32, |number, digit| number * 10 + u32::from(digit.wrapping_sub(b'0')));
        if number > 255 {
            return false;
        }
        is_host |= parts > 0 && number != 0;
        parts += 1;
    }
    parts == 4 && is_host
}

/// `v1.2.3.4`.
fn is_version(text: &[u8], at: usize) -> bool {
    matches!(before(text, at), b'v' | b'V') && !before(text, at - 1).is_ascii_alphanumeric()
}

/// IPv6 addresses.
pub(super) fn ipv6(text: &[u8], found: &mut Found) {
    let is_part = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
    let mut floor = 0;
    while let Some(offset) = text.get(floor..).and_then(|rest| rest.iter().position(|byte| *byte == b':')) {
        let start = run_start(text, floor, floor + offset, is_part);
        let end = run_end(text, floor + offset, is_part);
        if let Some((start, end)) = ipv6_in(text, start, end) {
            found.push(start, end, LeakClass::Ip);
        }
        floor = end;
    }
}

/// The address within a run of its characters.
fn ipv6_in(text: &[u8], mut start: usize, mut end: usize) -> Option<(usize, usize)> {
    let run = |start: usize, end: usize| text.get(start..end).unwrap_or_default();
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    // `id:2001:db8::1`: the `d` belongs to the word before. In `std::f64` it is the other way round.
    if is_word(before(text, start)) {
        start += run(start, end).iter().position(|byte| *byte == b':')?;
        if byte(text, start + 1) == b':' {
            return None;
        }
    }
    if is_word(byte(text, end)) {
        end = start + run(start, end).iter().rposition(|byte| *byte == b':')?;
        if before(text, end) == b':' {
            return None;
        }
    }
    end -= trailing_dots(run(start, end));
    if byte(text, start) == b':' && byte(text, start + 1) != b':' {
        start += 1;
    }
    if before(text, end) == b':' && end > start + 1 && before(text, end - 1) != b':' {
        end -= 1;
    }
    // `key:2001:…` where the key is made of the digits a to f, and a port behind the address.
    let first_colon = run(start, end).iter().position(|byte| *byte == b':')?;
    let last_colon = run(start, end).iter().rposition(|byte| *byte == b':')?;
    let tries = [(start, end), (start + first_colon + 1, end), (start, start + last_colon)];
    tries.into_iter().find(|(start, end)| is_ipv6(run(*start, *end)))
}

fn is_ipv6(run: &[u8]) -> bool {
    // `::` is nobody's address, and `abc::def` is a path in a program.
    run.len() <= IPV6_BYTES_MAX
        && run.iter().any(u8::is_ascii_digit)
        && std::str::from_utf8(run).is_ok_and(|run| run.parse::<Ipv6Addr>().is_ok())
}
