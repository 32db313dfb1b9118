use super::*;
use crate::registry::LeakClass;

/// What stood in `made` before.
const BEFORE: &str = "before";

/// Applies a reduction to the text, once borrowed and once made; both must give the same and leave nothing else behind.
fn text(reduction: Reduction, text: &str) -> Option<String> {
    let scanner = Scanner::new();
    let mut results = Vec::new();
    for is_made in [false, true] {
        let mut made = BEFORE.to_owned();
        let start = made.len();
        let value = if is_made {
            made.push_str(text);
            made_since(start, &made)
        } else {
            ClearedValue::Str(text)
        };
        let result = apply(reduction, &scanner, value, start, &mut made);
        let left = result.ok().map(|value| value.text(&made).expect("text stays text").to_owned());
        let made_now = match (&left, result) {
            (Some(left), Ok(ClearedValue::Made(..))) => format!("{BEFORE}{left}"),
            _ => BEFORE.to_owned(),
        };
        assert_eq!(made, made_now, "{text:?}: something else stayed in `made`");
        results.push(left);
    }
    assert_eq!(results[0], results[1], "{text:?}: borrowed and made text differ");
    results.remove(0)
}

fn value(reduction: Reduction, value: ClearedValue<'static>) -> Option<ClearedValue<'static>> {
    let mut made = BEFORE.to_owned();
    let result = apply(reduction, &Scanner::new(), value, BEFORE.len(), &mut made);
    assert_eq!(made, BEFORE);
    result.ok()
}

fn check(reduction: Reduction, cases: &[(&str, Option<&str>)]) {
    for (given, expected) in cases {
        assert_eq!(text(reduction, given).as_deref(), *expected, "{given:?}");
    }
}

#[test]
fn an_address_keeps_its_network() {
    check(
        Reduction::TruncateIp,
        &[
            ("203.0.113.9", Some("203.0.113.0")),
            ("203.0.113.0", Some("203.0.113.0")),
            ("255.255.255.255", Some("255.255.255.0")),
            ("2001:db8:1:2:3:4:5:6", Some("2001:db8:1::")),
            ("2001:DB8:0001::6", Some("2001:db8:1::")),
            ("::1", Some("::")),
            ("fe80::1", Some("fe80::")),
            ("::ffff:203.0.113.9", Some("203.0.113.0")),
            ("::ffff:cb00:7109", Some("203.0.113.0")),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some("ffff:ffff:ffff::")),
            ("203.0.113", None),
            ("203.0.113.256", None),
            ("203.0.113.009", None),
            (" 203.0.113.9", None),
            ("203.0.113.9:443", None),
            ("[2001:db8::1]", None),
            ("fe80::1%eth0", None),
            ("203.0.113.9, 198.51.100.7", None),
            ("localhost", None),
            ("", None),
        ],
    );
    assert_eq!(value(Reduction::TruncateIp, ClearedValue::Int(3_405_803_785)), None);
}

#[test]
fn an_integer_falls_to_the_multiple_below() {
    for (int, bucket, expected) in [
        (17, 10, Some(10)),
        (20, 10, Some(20)),
        (0, 10, Some(0)),
        (-1, 10, Some(-10)),
        (-10, 10, Some(-10)),
        (-11, 10, Some(-20)),
        (7, 1, Some(7)),
        (i64::MAX, 10, Some(i64::MAX - 7)),
        (i64::MIN, 2, Some(i64::MIN)),
        (i64::MIN, 10, None),
        (i64::MIN, i64::MAX, None),
        (i64::MAX, i64::MAX, Some(i64::MAX)),
        (5, 0, None),
        (5, -10, None),
    ] {
        let coarse = value(Reduction::CoarsenNumber(bucket), ClearedValue::Int(int));
        assert_eq!(coarse, expected.map(ClearedValue::Int), "{int} to {bucket}");
    }
    assert_eq!(value(Reduction::CoarsenNumber(10), ClearedValue::Bool(true)), None);
}

#[test]
fn a_double_falls_to_the_multiple_below() {
    for (double, bucket, expected) in [
        (17.9, 10, Some(10.0)),
        (20.0, 10, Some(20.0)),
        (-0.1, 10, Some(-10.0)),
        (-10.0, 10, Some(-10.0)),
        (-1e-300, 5, Some(-5.0)),
        (0.999_999_999_999_999_9, 1, Some(0.0)),
        (9_007_199_254_740_991.0, 10, Some(9_007_199_254_740_990.0)),
        (f64::MAX, 1, Some(f64::MAX)),
        (f64::INFINITY, 10, None),
        (f64::NEG_INFINITY, 10, None),
        (f64::NAN, 10, None),
        (1.5, 0, None),
    ] {
        let coarse = value(Reduction::CoarsenNumber(bucket), ClearedValue::Double(double));
        assert_eq!(coarse, expected.map(ClearedValue::Double), "{double} to {bucket}");
    }
    let zero = value(Reduction::CoarsenNumber(10), ClearedValue::Double(-0.0));
    assert!(matches!(zero, Some(ClearedValue::Double(zero)) if zero.is_sign_positive()));
}

#[test]
fn decimal_text_stays_text() {
    check(
        Reduction::CoarsenNumber(10),
        &[
            ("17", Some("10")),
            ("-17", Some("-20")),
            ("17.5", Some("10")),
            ("1.2e3", Some("1200")),
            ("9223372036854775807", Some("9223372036854775800")),
            ("-9223372036854775808", None),
            ("", None),
            ("17 years", None),
            ("0x11", None),
            ("inf", None),
            ("NaN", None),
            ("[17]", None),
        ],
    );
}

#[test]
fn a_time_keeps_its_day_or_month() {
    check(
        Reduction::CoarsenDate(DateUnit::Day),
        &[
            ("2026-11-25", Some("2026-11-25")),
            ("2026-11-25T10:11:12Z", Some("2026-11-25")),
            ("2026-11-25T10:11:12.123456789Z", Some("2026-11-25")),
            ("2026-11-25t10:11:12z", Some("2026-11-25")),
            ("2026-11-25 10:11:12+00:00", Some("2026-11-25")),
            ("2026-11-25T23:30:00-02:00", Some("2026-11-26")),
            ("2026-11-25T00:30:00+02:00", Some("2026-11-24")),
            ("2026-12-31T23:59:60Z", Some("2026-12-31")),
            ("2026-11-25T10:11:12", Some("2026-11-25")),
            ("0001-01-01", Some("0001-01-01")),
            ("2024-02-29", Some("2024-02-29")),
            ("2026-02-29", None),
            ("2026-13-01", None),
            ("-000001-01-01", None),
            ("25.11.2026", None),
            ("11/25/2026", None),
            ("2026", None),
            ("1795600000", None),
            ("yesterday", None),
            ("born on 2026-11-25", None),
            ("2026-11-25T10:11:12Z and more", None),
            ("", None),
        ],
    );
    check(
        Reduction::CoarsenDate(DateUnit::Month),
        &[
            ("2026-11-25", Some("2026-11")),
            ("2026-11-30T23:30:00-02:00", Some("2026-12")),
            ("2026-01-01T00:30:00+02:00", Some("2025-12")),
            ("11/2026", None),
        ],
    );
    for number in [ClearedValue::Int(1_795_600_000), ClearedValue::Double(1.5), ClearedValue::Bool(true)] {
        assert_eq!(value(Reduction::CoarsenDate(DateUnit::Day), number), None);
    }
}

#[test]
fn an_email_address_keeps_its_domain() {
    let long = format!("bob@{}.org", "a".repeat(64));
    check(
        Reduction::KeepDomain,
        &[
            ("bob@Example.org", Some("example.org")),
            (" bob@example.org\n", Some("example.org")),
            ("b.o+b@mail.example.co.uk", Some("mail.example.co.uk")),
            ("bob@xn--bcher-kva.example", Some("xn--bcher-kva.example")),
            ("bob@BÜCHER.example", Some("bücher.example")),
            ("bob", None),
            ("@example.org", None),
            ("bob@", None),
            ("bob@localhost", None),
            ("bob@example.org.", None),
            ("bob@.org", None),
            ("bob@example..org", None),
            ("bob@-example.org", None),
            ("bob@example-.org", None),
            ("bob@example.o", None),
            ("bob@192.0.2.1", None),
            ("bob@[192.0.2.1]", None),
            ("bob@alice@example.org", None),
            ("Bob <bob@example.org>", None),
            ("ask bob@example.org", None),
            ("bob@example.org, alice@example.org", None),
            ("bob@example.org?subject=secret", None),
            (&long, None),
            ("", None),
        ],
    );
    assert_eq!(value(Reduction::KeepDomain, ClearedValue::Int(1)), None);
}

#[test]
fn masking_replaces_what_is_asked_for_only() {
    let text_with_both = "from bob@example.org at 203.0.113.9";
    let only = |class| Reduction::Mask(LeakClasses::NONE.with(class));
    check(Reduction::Mask(LeakClasses::ALL), &[(text_with_both, Some("from [email] at [ip]"))]);
    check(only(LeakClass::Email), &[(text_with_both, Some("from [email] at 203.0.113.9"))]);
    check(only(LeakClass::Ip), &[(text_with_both, Some("from bob@example.org at [ip]"))]);
    check(only(LeakClass::Card), &[(text_with_both, Some(text_with_both)), ("", Some(""))]);
}

#[test]
fn a_number_with_something_to_mask_is_refused() {
    let card = ClearedValue::Int(4_111_111_111_111_111);
    let all = Reduction::Mask(LeakClasses::ALL);
    assert_eq!(value(all, card), None);
    assert_eq!(value(all, ClearedValue::Double(4_111_111_111_111_111.0)), None);
    let email = Reduction::Mask(LeakClasses::NONE.with(LeakClass::Email));
    assert_eq!(value(email, card), Some(card));
    for clean in [ClearedValue::Int(-7), ClearedValue::Double(1.5), ClearedValue::Bool(true)] {
        assert_eq!(value(all, clean), Some(clean));
    }
}
