//! The treatments that keep a part of a value.
//!
//! Owns: what each reduction reads and what it leaves. Does not own: which attribute gets which (`policy`), pseudonyms,
//! what a leak is (`scan`).
//!
//! | reduction | reads | leaves |
//! |---|---|---|
//! | mask | text; a number, as its text | the text with masks; a number only where there is nothing to mask |
//! | truncate_ip | the text of one IP address, nothing around it | IPv4 /24, IPv6 /48; IPv4 in IPv6 as IPv4 |
//! | coarsen: N | a number, or its decimal text | the multiple of N at or below it, in the same form |
//! | coarsen: day, month | the text of a date, or of a date and time (RFC 3339) | `2026-11-25`, `2026-11` |
//! | keep_domain | the text of one e-mail address, nothing around it | its domain in lower case |
//!
//! What a reduction cannot read is not stored: something else than expected may be worse than what was expected. A time
//! with an offset counts as of its day in UTC, one without an offset as of the day that it says. A number is not read as
//! a date, for nobody says whether it counts seconds or milliseconds.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::borrow::Cow;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;

use super::ClearedValue;
use super::coerce::{as_text, made_since, push_display, push_double};
use super::scan::Scanner;
use crate::registry::{DateUnit, LeakClasses, Reduction};

/// Longest domain name and longest label, in bytes (RFC 1035).
const DOMAIN_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// The reduction cannot read the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused;

/// Reduces a value whose made text, if any, begins at `start` of `made` and reaches to its end. Afterwards `made` has
/// from `start` on only what is left of the value; nothing where it is refused.
pub(super) fn apply<'a>(
    reduction: Reduction,
    scanner: &Scanner,
    value: ClearedValue<'a>,
    start: usize,
    made: &mut String,
) -> Result<ClearedValue<'a>, Refused> {
    let text: Cow<'a, str> = match value {
        ClearedValue::Str(text) => Cow::Borrowed(text),
        ClearedValue::Made(..) => Cow::Owned(value.text(made).unwrap_or_default().to_owned()),
        ClearedValue::Int(_) | ClearedValue::Double(_) | ClearedValue::Bool(_) => {
            made.truncate(start);
            return number(reduction, scanner, value, made);
        }
    };
    made.truncate(start);
    match reduction {
        Reduction::Mask(classes) => match scanner.mask_classes(&text, classes, made) {
            Some(_) => {}
            None if matches!(text, Cow::Borrowed(_)) => return Ok(value),
            None => made.push_str(&text),
        },
        Reduction::TruncateIp => push_display(made, truncated(text.parse().map_err(|_| Refused)?)),
        Reduction::CoarsenNumber(bucket) => push_coarse_number(&text, bucket, made)?,
        Reduction::CoarsenDate(unit) => push_coarse_date(&text, unit, made)?,
        Reduction::KeepDomain => {
            made.extend(domain(&text).ok_or(Refused)?.chars().flat_map(char::to_lowercase));
        }
    }
    Ok(made_since(start, made))
}

/// Reduces a value that is no text.
fn number<'a>(
    reduction: Reduction,
    scanner: &Scanner,
    value: ClearedValue<'a>,
    made: &mut String,
) -> Result<ClearedValue<'a>, Refused> {
    match (reduction, value) {
        (Reduction::CoarsenNumber(bucket), ClearedValue::Int(int)) => {
            coarse_int(int, bucket).map(ClearedValue::Int).ok_or(Refused)
        }
        (Reduction::CoarsenNumber(bucket), ClearedValue::Double(double)) => {
            coarse_double(double, bucket).map(ClearedValue::Double).ok_or(Refused)
        }
        (Reduction::Mask(classes), _) => {
            // A mask has no place in a column of numbers.
            let is_clean = is_clean_number(scanner, value, classes, made);
            if is_clean { Ok(value) } else { Err(Refused) }
        }
        _ => Err(Refused),
    }
}

fn is_clean_number(
    scanner: &Scanner,
    value: ClearedValue<'_>,
    classes: LeakClasses,
    made: &mut String,
) -> bool {
    let start = made.len();
    let mut masked = String::new();
    let text = as_text(value, made);
    let is_clean =
        text.text(made).is_some_and(|text| scanner.mask_classes(text, classes, &mut masked).is_none());
    made.truncate(start);
    is_clean
}

/// The /24 or /48 that the address is in.
fn truncated(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, _] = address.octets();
            Ipv4Addr::new(a, b, c, 0).into()
        }
        IpAddr::V6(address) => {
            let [a, b, c, ..] = address.segments();
            Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).into()
        }
    }
}

fn coarse_int(int: i64, bucket: i64) -> Option<i64> {
    int.checked_sub(int.checked_rem_euclid(bucket).filter(|_| bucket > 0)?)
}

/// By the remainder, which is exact, and not by a quotient, which may be rounded up into the next bucket.
fn coarse_double(double: f64, bucket: i64) -> Option<f64> {
    if bucket <= 0 {
        return None;
    }
    let bucket = bucket as f64;
    let remainder = double % bucket;
    let toward_zero = double - remainder;
    let coarse = if remainder < 0.0 { toward_zero - bucket } else { toward_zero };
    // Adding zero turns -0 into 0. A double that is not finite has no remainder and fails here.
    Some(coarse + 0.0).filter(|coarse| coarse.is_finite())
}

fn push_coarse_number(text: &str, bucket: i64, made: &mut String) -> Result<(), Refused> {
    if let Ok(int) = text.parse() {
        push_display(made, coarse_int(int, bucket).ok_or(Refused)?);
    } else {
        let double = text.parse().ok().and_then(|double| coarse_double(double, bucket));
        push_double(made, double.ok_or(Refused)?);
    }
    Ok(())
}

fn push_coarse_date(text: &str, unit: DateUnit, made: &mut String) -> Result<(), Refused> {
    let date = match text.parse::<Timestamp>() {
        Ok(time) => Offset::UTC.to_datetime(time).date(),
        Err(_) => text.parse::<Date>().map_err(|_| Refused)?,
    };
    let (year, month, day) = (date.year(), date.month(), date.day());
    // Neither RFC 3339 nor the engines know years before 0.
    if year < 0 {
        return Err(Refused);
    }
    match unit {
        DateUnit::Day => push_display(made, format_args!("{year:04}-{month:02}-{day:02}")),
        DateUnit::Month => push_display(made, format_args!("{year:04}-{month:02}")),
    }
    Ok(())
}

/// The domain of an e-mail address.
fn domain(text: &str) -> Option<&str> {
    let (local, domain) = text.trim().split_once('@')?;
    let is_local = !local.is_empty() && !local.contains(|c: char| c.is_whitespace() || c.is_control());
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let (_, top) = domain.rsplit_once('.')?;
    let is_top = top.chars().nth(1).is_some() && !top.chars().all(char::is_numeric);
    (is_local && is_top && domain.len() <= DOMAIN_BYTES_MAX && domain.split('.').all(is_label))
        .then_some(domain)
}

#[cfg(test)]
mod tests;
