//! Numbers with a check: payment cards and bank accounts; and phone numbers.
//!
//! Owns: issuers' prefixes, countries' lengths, checksums, how such numbers are grouped, what only looks like one (a
//! time in milliseconds, a UUID, a fraction, a digest). Does not own: addresses.

use super::{Found, before, byte, run_end, run_start};
use crate::registry::LeakClass;

const CARD_DIGITS_MIN: usize = 13;
const CARD_DIGITS_MAX: usize = 19;
const PHONE_DIGITS_MIN: usize = 8;
const PHONE_DIGITS_MAX: usize = 15;

/// How far the word around a number is looked at.
const WORD_BYTES_MAX: usize = 32;

/// A 13-digit number below is a time in milliseconds: from 2001-09-09 to 2100-01-01.
const EPOCH_MILLIS_END: &[u8] = b"4102444800000";

/// Payment cards.
pub(super) fn cards(text: &[u8], found: &mut Found) {
    let mut at = 0;
    while at < text.len() {
        if !byte(text, at).is_ascii_digit() {
            at += 1;
            continue;
        }
        let (end, digits) = sequence(text, at);
        if digits >= CARD_DIGITS_MIN {
            cards_in(text, at, end, digits, found);
        }
        at = end;
    }
}

/// Digits with single spaces or dashes between them: where they end, and how many digits they are.
fn sequence(text: &[u8], start: usize) -> (usize, usize) {
    let (mut at, mut digits) = (start, 0);
    loop {
        let byte_here = byte(text, at);
        if byte_here.is_ascii_digit() {
            digits += 1;
        } else if !(is_separator(byte_here) && byte(text, at + 1).is_ascii_digit()) {
            return (at, digits);
        }
        at += 1;
    }
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'-')
}

/// Tries each run of whole groups; one start costs at most as many steps as a card has digits.
fn cards_in(text: &[u8], start: usize, end: usize, digits: usize, found: &mut Found) {
    let mut from = start;
    while from < end {
        let group_end = run_end(text, from, |byte| byte.is_ascii_digit());
        let next = match card_from(text, from, end) {
            Some(card_end) => {
                found.push(from, card_end, LeakClass::Card);
                card_end
            }
            None if from == start && digits <= CARD_DIGITS_MAX && is_card(text, start, end, true) => {
                found.push(start, end, LeakClass::Card);
                end
            }
            None => group_end,
        };
        from = next + 1;
    }
}

/// Where a card that begins at `from` ends, if one does. Its groups are as they are printed: four or more digits first,
/// then three or more, and what remains.
fn card_from(text: &[u8], from: usize, end: usize) -> Option<usize> {
    let (mut at, mut digits, mut is_first) = (from, 0, true);
    loop {
        let group_end = run_end(text, at, |byte| byte.is_ascii_digit());
        let group = group_end - at;
        digits += group;
        if digits > CARD_DIGITS_MAX {
            return None;
        }
        if digits >= CARD_DIGITS_MIN && is_card(text, from, group_end, false) {
            return Some(group_end);
        }
        if group_end >= end || group < if is_first { 4 } else { 3 } {
            return None;
        }
        (at, is_first) = (group_end + 1, false);
    }
}

fn is_card(text: &[u8], start: usize, end: usize, must_be_uniform: bool) -> bool {
    let number = text.get(start..end).unwrap_or_default();
    let mut digits = [0_u8; CARD_DIGITS_MAX];
    let mut length = 0;
    for digit in number.iter().filter(|byte| byte.is_ascii_digit()) {
        let Some(slot) = digits.get_mut(length) else { return false };
        *slot = *digit;
        length += 1;
    }
    let Some(digits) = digits.get(..length) else { return false };
    let mut separators = number.iter().filter(|byte| !byte.is_ascii_digit());
    let is_uniform = separators.next().is_none_or(|first| separators.all(|other| other == first));
    (!must_be_uniform || is_uniform)
        && has_issuer(digits)
        && passes_luhn(digits)
        && !(digits.len() == 13 && number.len() == 13 && digits < EPOCH_MILLIS_END)
        && stands_alone(text, start, end)
        && !is_in_uuid(text, start)
}

/// Issuers' prefixes with the lengths that they give out.
fn has_issuer(digits: &[u8]) -> bool {
    let prefix = |length: usize| {
        digits
            .iter()
            .take(length)
            .fold(0_u32, |number, digit| number * 10 + u32::from(digit.wrapping_sub(b'0')))
    };
    let (two, three, four) = (prefix(2), prefix(3), prefix(4));
    match digits.len() {
        13 => two / 10 == 4 || matches!(two, 50 | 56..=69),
        14 => matches!(three, 300..=305 | 309) || matches!(two, 36 | 38 | 39 | 50 | 56..=69),
        15 => matches!(two, 34 | 37 | 50 | 56..=69) || matches!(four, 1800 | 2131),
        16..=19 => {
            matches!(two, 35 | 36 | 38 | 39 | 40..=69 | 81 | 82)
                || matches!(three, 300..=305 | 309)
                || matches!(four, 2200..=2204 | 2221..=2720 | 9792)
        }
        _ => false,
    }
}

fn passes_luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (u32::from(digit.wrapping_sub(b'0')), place % 2) {
            (digit, 0) => digit,
            (digit, _) => digit * 2 / 10 + digit * 2 % 10,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// False for the fraction of a decimal number, and for digits within a digest or another code. A word that only joins
/// letters to one number (`card4111111111111111`) does not hide it.
fn stands_alone(text: &[u8], start: usize, end: usize) -> bool {
    if before(text, start) == b'.' && before(text, start - 1).is_ascii_digit() {
        return false;
    }
    if !before(text, start).is_ascii_alphanumeric() && !byte(text, end).is_ascii_alphanumeric() {
        return true;
    }
    let floor = start.saturating_sub(WORD_BYTES_MAX);
    let word_start = run_start(text, floor, start, |byte| byte.is_ascii_alphanumeric());
    let head = text.get(word_start..start).unwrap_or_default();
    let tail = text.get(end..).unwrap_or_default().iter().take(WORD_BYTES_MAX);
    let around = || head.iter().chain(tail.clone().take_while(|byte| byte.is_ascii_alphanumeric()));
    around().all(u8::is_ascii_alphabetic)
        && !around().all(u8::is_ascii_hexdigit)
        && head.len() < WORD_BYTES_MAX
}

/// True where a group of a UUID begins at `at`.
fn is_in_uuid(text: &[u8], at: usize) -> bool {
    [0, 9, 14, 19, 24].iter().any(|offset| {
        let uuid = at.checked_sub(*offset).and_then(|start| text.get(start..start + 36)).unwrap_or_default();
        uuid.len() == 36
            && uuid.iter().enumerate().all(|(place, byte)| match place {
                8 | 13 | 18 | 23 => *byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            })
    })
}

/// Lengths of bank account numbers, by country.
#[rustfmt::skip]
const IBAN_LENGTHS: &[(&[u8; 2], usize)] = &[
    (b"AD", 24), (b"AE", 23), (b"AL", 28), (b"AO", 25), (b"AT", 20), (b"AZ", 28), (b"BA", 20), (b"BE", 16),
    (b"BF", 28), (b"BG", 22), (b"BH", 22), (b"BI", 27), (b"BJ", 28), (b"BR", 29), (b"BY", 28), (b"CF", 27),
    (b"CG", 27), (b"CH", 21), (b"CI", 28), (b"CM", 27), (b"CR", 22), (b"CV", 25), (b"CY", 28), (b"CZ", 24),
    (b"DE", 22), (b"DJ", 27), (b"DK", 18), (b"DO", 28), (b"DZ", 26), (b"EE", 20), (b"EG", 29), (b"ES", 24),
    (b"FI", 18), (b"FK", 18), (b"FO", 18), (b"FR", 27), (b"GA", 27), (b"GB", 22), (b"GE", 22), (b"GI", 23),
    (b"GL", 18), (b"GQ", 27), (b"GR", 27), (b"GT", 28), (b"GW", 25), (b"HN", 28), (b"HR", 21), (b"HU", 28),
    (b"IE", 22), (b"IL", 23), (b"IQ", 23), (b"IR", 26), (b"IS", 26), (b"IT", 27), (b"JO", 30), (b"KM", 27),
    (b"KW", 30), (b"KZ", 20), (b"LB", 28), (b"LC", 32), (b"LI", 21), (b"LT", 20), (b"LU", 20), (b"LV", 21),
    (b"LY", 25), (b"MA", 28), (b"MC", 27), (b"MD", 24), (b"ME", 22), (b"MG", 27), (b"MK", 19), (b"ML", 28),
    (b"MN", 20), (b"MR", 27), (b"MT", 31), (b"MU", 30), (b"MZ", 25), (b"NE", 28), (b"NI", 28), (b"NL", 18),
    (b"NO", 15), (b"OM", 23), (b"PK", 24), (b"PL", 28), (b"PS", 29), (b"PT", 25), (b"QA", 29), (b"RO", 24),
    (b"RS", 22), (b"RU", 33), (b"SA", 24), (b"SC", 31), (b"SD", 18), (b"SE", 24), (b"SI", 19), (b"SK", 24),
    (b"SM", 27), (b"SN", 28), (b"SO", 23), (b"ST", 25), (b"SV", 28), (b"TD", 27), (b"TG", 28), (b"TN", 24),
    (b"TL", 23), (b"TR", 26), (b"UA", 29), (b"VA", 22), (b"VG", 24), (b"XK", 20), (b"YE", 30),
];

/// Countries whose accounts are all digits, of those whose names are hexadecimal digits: else a span's id would be an
/// account now and then.
const NUMERIC_ACCOUNTS: &[&[u8; 2]] = &[b"AE", b"BA", b"BE", b"DE", b"EE"];

/// Bank accounts. Upper or lower case, not mixed: mixed is what codes look like.
pub(super) fn ibans(text: &[u8], found: &mut Found) {
    let mut at = 0;
    while at < text.len() {
        let letters = byte(text, at).is_ascii_alphabetic() && byte(text, at + 1).is_ascii_alphabetic();
        let digits = byte(text, at + 2).is_ascii_digit() && byte(text, at + 3).is_ascii_digit();
        at = match (letters && digits).then(|| iban_from(text, at)).flatten() {
            Some(end) => {
                found.push(at, end, LeakClass::Iban);
                end
            }
            // On to the next word: an account begins only there.
            None => run_end(text, at, |byte| byte.is_ascii_alphanumeric()) + 1,
        };
    }
}

fn iban_from(text: &[u8], start: usize) -> Option<usize> {
    let country = [byte(text, start), byte(text, start + 1)].map(|letter| letter.to_ascii_uppercase());
    let length = IBAN_LENGTHS.iter().find(|(known, _)| **known == country)?.1;
    let is_lower = byte(text, start).is_ascii_lowercase();
    let is_numeric = NUMERIC_ACCOUNTS.contains(&&country);
    // The country and the check digits are moved behind the account, letters count from 10.
    let (mut account, mut head) = (0_u32, 0_u32);
    let (mut at, mut taken) = (start, 0);
    while taken < length {
        let here = byte(text, at);
        if is_separator(here) && byte(text, at + 1).is_ascii_alphanumeric() && taken > 0 {
            at += 1;
            continue;
        }
        if here.is_ascii_alphabetic() && (here.is_ascii_lowercase() != is_lower || is_numeric && taken >= 2) {
            return None;
        }
        let value = char::from(here).to_digit(36)?;
        let remainder = if taken < 4 { &mut head } else { &mut account };
        *remainder = (*remainder * if value < 10 { 10 } else { 100 } + value) % 97;
        taken += 1;
        at += 1;
    }
    // Two letters and two digits: six digits more.
    let remainder = (account * (1_000_000 % 97) + head) % 97;
    (remainder == 1 && !byte(text, at).is_ascii_alphanumeric() && !is_in_uuid(text, start)).then_some(at)
}

/// Phone numbers.
pub(super) fn phones(text: &[u8], found: &mut Found) {
    let mut from = 0;
    while let Some(offset) = text.get(from..).and_then(|rest| rest.iter().position(|byte| *byte == b'+')) {
        let start = from + offset;
        from = match phone_from(text, start) {
            Some(end) => {
                found.push(start, end, LeakClass::Phone);
                end
            }
            None => start + 1,
        };
    }
}

fn phone_from(text: &[u8], start: usize) -> Option<usize> {
    // No country's code begins with 0; that spares the offset of a time, `+0100`.
    let first = run_end(text, start + 1, |byte| matches!(byte, b'(' | b' '));
    if first > start + 3 || !matches!(byte(text, first), b'1'..=b'9') || is_build_number(text, start) {
        return None;
    }
    let (mut at, mut digits, mut end) = (first, 0, start);
    loop {
        let group_end = run_end(text, at, |byte| byte.is_ascii_digit());
        let group = group_end - at;
        if group == 0 || digits + group > PHONE_DIGITS_MAX {
            break;
        }
        digits += group;
        end = group_end;
        let next = run_end(text, end, |byte| matches!(byte, b' ' | b'-' | b'.' | b'(' | b')' | b'/'));
        if next == end || next > end + 3 {
            break;
        }
        at = next;
    }
    (digits >= PHONE_DIGITS_MIN).then_some(end)
}

/// True for the number in `1.0.0-alpha+20130313144700`, and within a code in base 64: a word that has a digit goes before.
fn is_build_number(text: &[u8], plus: usize) -> bool {
    if !before(text, plus).is_ascii_alphanumeric() {
        return false;
    }
    let floor = plus.saturating_sub(WORD_BYTES_MAX);
    let word_start =
        run_start(text, floor, plus, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    text.get(word_start..plus).unwrap_or_default().iter().any(u8::is_ascii_digit)
}
