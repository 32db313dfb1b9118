//! Each class alone, in company, in JSON; and what must not be found.

use proptest::prelude::*;

use super::super::*;
use super::scanner;

/// The masked text, or the text itself where it is clean; checks what holds of every text.
fn masked(text: &str) -> String {
    let scanner = scanner();
    let mut out = "before ".to_owned();
    let found = scanner.mask(text, &mut out);
    assert_eq!(found.is_none(), scanner.is_clean(text), "{text:?}: mask and is_clean disagree");
    let Some(found) = found else {
        assert_eq!(out, "before ", "{text:?}: clean, but something was appended");
        return text.to_owned();
    };
    assert!(!found.is_empty(), "{text:?}");
    let masked = out.strip_prefix("before ").expect("what was there stays").to_owned();
    assert!(scanner.is_clean(&masked), "{text:?}: {masked:?} is not clean");
    masked
}

/// Each text against what is left of it.
fn check(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(masked(text), *expected, "{text:?}");
    }
}

/// Each of these, alone and in company, is a finding of one class from its first to its last byte.
fn check_whole(class: LeakClass, leaks: &[&str]) {
    let mask = mask_of(class);
    for leak in leaks {
        for (head, tail) in [
            ("", ""),
            ("is ", " now"),
            ("«", "»"),
            ("日本 ", "。"),
            ("(", ")"),
            ("<", ">"),
            ("a, ", ", b"),
            ("\n", "\n"),
        ] {
            assert_eq!(masked(&format!("{head}{leak}{tail}")), format!("{head}{mask}{tail}"), "{leak:?}");
        }
        let json = format!("{{\"value\":\"{leak}\",\"n\":1}}");
        assert_eq!(masked(&json), format!("{{\"value\":\"{mask}\",\"n\":1}}"), "{leak:?}");
    }
}

fn check_clean(texts: &[&str]) {
    for text in texts {
        assert_eq!(masked(text), *text);
        let json = serde_json::to_string(&serde_json::json!({ "value": text })).expect("JSON");
        assert_eq!(masked(&json), json);
        let twice = serde_json::to_string(&json).expect("JSON");
        assert_eq!(masked(&twice), twice);
    }
}

#[test]
fn email_addresses() {
    check_whole(
        LeakClass::Email,
        &[
            "bob@example.org",
            "Bob.Smith+tag@mail.Example.co.uk",
            "b@a.io",
            "o'brien@example.org",
            "user_1%x@sub-domain.example.museum",
            "jörg@bücher.example",
            "bob@xn--bcher-kva.example",
            "1234@example.org",
            "bob@[203.0.113.9]",
            "\u{ff42}ob\u{ff20}example.org",
        ],
    );
    check(&[
        ("mailto:bob@example.org?subject=hi", "mailto:[email]?subject=hi"),
        ("Bob <bob@example.org>, Al <al@example.org>", "Bob <[email]>, Al <[email]>"),
        ("bob@example.org.", "[email]."),
        ("bob@example.org's file", "[email]'s file"),
        ("bob%40example.org", "[email]"),
        ("bob&#64;example.org", "[email]"),
        ("bob@example.org@example.com", "[email]"),
    ]);
    check_clean(&[
        "@bob",
        "bob@",
        "bob@localhost",
        "user@host",
        "@ 5 pm",
        "a @ b.org",
        "react@18.2.0",
        "icon@2x.png",
        "@angular/core",
        "lodash@4.17.21-beta.rc",
        "@@",
        "bob@.org",
        "bob@example.o",
    ]);
}

#[test]
fn card_numbers() {
    check_whole(
        LeakClass::Card,
        &[
            "4111111111111111",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "5555555555554444",
            "2223003122003222",
            "378282246310005",
            "3782 822463 10005",
            "30569309025904",
            "6011111111111117",
            "3530111333300000",
            "6200000000000005",
            "4222222222222",
            "4000056655665556",
            "4111\u{a0}1111\u{a0}1111\u{a0}1111",
            "4111\u{2011}1111\u{2011}1111\u{2011}1111",
        ],
    );
    check(&[
        ("card4111111111111111", "card[card]"),
        ("pan=4111111111111111;", "pan=[card];"),
        ("12 4111 1111 1111 1111 05 27", "12 [card] 05 27"),
        ("4111111111111111 5555555555554444", "[card] [card]"),
        ("4111111111111111,5555555555554444", "[card],[card]"),
    ]);
    check_clean(&[
        "4111111111111112",
        "4111 1111 1111 1112",
        "411111111111",
        "41111111111111111111",
        "1111111111111117",
        "0000000000000000",
        "4111  1111  1111  1111",
        "4111.1111.1111.1111",
        "0.4111111111111111",
        "e4111111111111111f0a",
    ]);
}

/// Some of these pass Luhn: a tenth of all numbers does.
#[test]
fn times_in_digits_are_no_cards() {
    let scanner = scanner();
    for step in 0..20_000_u64 {
        let millis = 1_000_000_000_000 + step * 155_122_240;
        assert!(scanner.is_clean(&millis.to_string()), "{millis}");
        // Until 2039 in microseconds and nanoseconds; from then on they begin as cards do.
        let micros = 1_000_000_000_000_000 + step * 59_000_000_123;
        assert!(scanner.is_clean(&micros.to_string()), "{micros}");
        let nanos = 1_000_000_000_000_000_000 + step * 59_000_000_123_456;
        assert!(scanner.is_clean(&nanos.to_string()), "{nanos}");
        let seconds = 1_000_000_000 + step * 155_122;
        assert!(scanner.is_clean(&seconds.to_string()), "{seconds}");
    }
}

#[test]
fn account_numbers() {
    check_whole(
        LeakClass::Iban,
        &[
            "DE89370400440532013000",
            "DE89 3704 0044 0532 0130 00",
            "de89370400440532013000",
            "GB29NWBK60161331926819",
            "GB29 NWBK 6016 1331 9268 19",
            "NO9386011117947",
            "MT84MALT011000012345MTLCAST001S",
            "FR1420041010050500013M02606",
            "NL91-ABNA-0417-1643-00",
        ],
    );
    check_clean(&[
        "DE88370400440532013000",
        "DE8937040044053201300",
        "XX89370400440532013000",
        "GB29 NWBK 6016 1331 9268 18",
        "AB12",
        "DE89",
        "NO93860111179",
    ]);
}

#[test]
fn ip_addresses() {
    check_whole(
        LeakClass::Ip,
        &[
            "203.0.113.9",
            "1.2.3.4",
            "255.255.255.255",
            "10.0.0.1",
            "127.0.0.1",
            "192.168.001.010",
            "2001:db8::1",
            "2001:0db8:0000:0000:0000:0000:0000:0001",
            "2001:DB8:1:2:3:4:5:6",
            "fe80::1",
            "::1",
            "::ffff:203.0.113.9",
            "64:ff9b::c000:221",
        ],
    );
    check(&[
        ("203.0.113.9:443", "[ip]:443"),
        ("[2001:db8::1]:443", "[[ip]]:443"),
        ("203.0.113.9, 198.51.100.7", "[ip], [ip]"),
        ("https://203.0.113.9/x", "https://[ip]/x"),
        ("from 203.0.113.9.", "from [ip]."),
        ("203.0.113.0/24", "[ip]/24"),
        ("ip:2001:db8::1", "ip:[ip]"),
        ("fe80::1%eth0", "[ip]%eth0"),
        ("peer=203.0.113.9", "peer=[ip]"),
    ]);
    check_clean(&[
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.1234",
        "v1.2.3.4",
        "Chrome/120.0.0.0",
        "Chrome/120.0.6099.109",
        "1..2.3.4",
        "12:30:45",
        "2026-11-25T06:40:32.123456+01:00",
        "dead:beef",
        "dead:beef:1:2:3:4:5",
        "00:1b:44:11:3a:b7",
        "::",
        "std::f64::consts",
        "abc::def",
        "Foo::Bar.new",
        "a:b:c:d:e:f:g:h",
        "1:2:3",
    ]);
}

#[test]
fn phone_numbers() {
    check_whole(
        LeakClass::Phone,
        &[
            "+4915123456789",
            "+49 151 23456789",
            "+49 (151) 234-567-89",
            "+49-151-2345-6789",
            "+1.555.010.9999",
            "+1 (555) 010-9999",
            "+12345678",
            "+123456789012345",
            "+44 20 7946 0958",
        ],
    );
    check(&[
        ("tel:+4915123456789", "tel:[phone]"),
        ("call +4915123456789, +4915123456780", "call [phone], [phone]"),
        ("phone=%2B4915123456789", "phone=[phone]"),
    ]);
    check_clean(&[
        "+1234567",
        "+1234567890123456",
        "+0100",
        "+05:30",
        "2026-11-25T06:40:32+01:00",
        "2026-11-25 06:40:32 +0100",
        "1+1=2",
        "+1",
        "a+b",
        "1.0.0-alpha+20130313144700",
        "015123456789",
    ]);
}

#[test]
fn tokens() {
    let jwt = format!(
        "{}.{}.{}",
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9",
        "eyJzdWIiOiIxMjM0NTY3ODkwIn0",
        "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
    );
    let unsigned = jwt.rsplit_once('.').expect("three parts").0;
    check_whole(LeakClass::Token, &[&jwt, unsigned]);
    check(&[
        ("Bearer abcdef0123456789", "Bearer [token]"),
        ("bearer AbCdEfGhIjKlMnOp", "bearer [token]"),
        ("Authorization: Bearer abcdef0123456789", "Authorization: [token]"),
        ("Authorization: Basic Ym9iOnNlY3JldA==", "Authorization: [token]"),
        ("Basic Ym9iOnNlY3JldA==", "Basic [token]"),
        ("basic Ym9iOnNlY3JldA", "basic [token]"),
        (r#"{"authorization":"Bearer abcdef0123456789"}"#, r#"{"authorization":"[token]"}"#),
        (r#"{"cookie":"sessionid=abcdef0123456789"}"#, r#"{"cookie":"[token]"}"#),
    ]);
    assert_eq!(masked(&format!("Bearer {jwt}")), "Bearer [token]");
    assert_eq!(masked(&format!("?token={jwt}&x=1")), "?token=[token]&x=1");
    check_clean(&[
        "eyJ",
        "eyJhbGciOiJIUzI1NiJ9",
        "eyJ.eyJ",
        "bearer of bad news",
        "the bearer token is missing",
        "Bearer",
        "basic plan",
        "Basic auth failed",
        "music festival",
        "authorization: denied",
        "standard bearers unite",
    ]);
}

#[test]
fn private_keys() {
    for kind in
        ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY", "ENCRYPTED PRIVATE KEY"]
    {
        let pem = format!("-----BEGIN {kind}-----\nMIIEvQIBADANBgkq+hki/G9w0=\nAAAA\n-----END {kind}-----");
        check(&[(&pem, "[private_key]"), (&format!("key: {pem}\nend"), "key: [private_key]\nend")]);
        let cut = pem.rsplit_once("\n---").expect("a last line").0;
        assert_eq!(masked(&format!("a {cut}")), "a [private_key]", "its end is missing");
        let json = serde_json::json!({ "k": pem, "n": 1 }).to_string();
        assert_eq!(masked(&json), r#"{"k":"[private_key]","n":1}"#);
    }
    check_clean(&[
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "PRIVATE KEY missing",
        "-----",
    ]);
}

/// The keys are put together here so that no scanner of source code takes them for real ones.
#[test]
fn access_keys() {
    let body = |length: usize| "a1B2c3D4e5".chars().cycle().take(length).collect::<String>();
    for (begins, rest) in [
        ("AKIA", "IOSFODNN7EXAMPLE".to_owned()),
        ("ASIA", "IOSFODNN7EXAMPLE".to_owned()),
        ("AIza", body(35)),
        ("GOCSPX-", body(28)),
        ("ya29.", body(40)),
        ("ghp_", body(36)),
        ("gho_", body(36)),
        ("ghu_", body(36)),
        ("ghs_", body(36)),
        ("ghr_", body(36)),
        ("github_pat_", body(60)),
        ("glpat-", body(20)),
        ("xoxb-", format!("123456789012-{}", body(24))),
        ("xoxp-", body(40)),
        ("xapp-1-", body(30)),
        ("sk_live_", body(24)),
        ("rk_live_", body(24)),
        ("sk_test_", body(24)),
        ("whsec_", body(32)),
        ("sk-", body(48)),
        ("sk-proj-", body(48)),
        ("SG.", format!("{}.{}", body(22), body(43))),
        ("hf_", body(34)),
        ("hvs.", body(24)),
        ("npm_", body(36)),
        ("key-", "0123456789abcdef".repeat(2)),
        ("dapi", "0123456789abcdef".repeat(2)),
        ("dop_v1_", "0123456789abcdef".repeat(4)),
        ("shpat_", "0123456789abcdef".repeat(2)),
        ("pypi-AgE", body(60)),
        ("ATATT3", body(60)),
        ("ser.", body(22)),
    ] {
        let key = format!("{begins}{rest}");
        assert_eq!(masked(&key), "[access_key]", "{key}");
        assert_eq!(masked(&format!("use {key}, please")), "use [access_key], please", "{key}");
        let json = serde_json::json!({ "value": key }).to_string();
        assert_eq!(masked(&json), r#"{"value":"[access_key]"}"#, "{key}");
        assert!(scanner().is_clean(begins), "{begins}");
    }
    check_clean(&[
        "AKIA",
        "task-force-of-many-people-in-1-room",
        "sk-learn",
        "user.name",
        "browser.language",
        "gh_pages",
        "ghost_writer",
        "task_list",
        "save_live_view",
        "risk-assessment-of-quarter-four",
        "npm_config",
        "xoxo",
        "KIASA",
        "high_availability",
    ]);
}

#[test]
fn secrets_of_names() {
    check(&[
        ("https://bob:hunter2@example.org/x", "https://bob:[secret]@example.org/x"),
        ("https://bob:hunter2@host/x", "https://bob:[secret]@host/x"),
        ("postgres://app:p%40ss/word@db:5432/x", "postgres://app:[secret]@db:5432/x"),
        ("https://example.org/?token=abc", "https://example.org/?token=[secret]"),
        (
            "https://example.org/?a=1&access_token=abc&b=2",
            "https://example.org/?a=1&access_token=[secret]&b=2",
        ),
        ("?api_key=abc#x", "?api_key=[secret]"),
        ("/cb?code=abc&state=1", "/cb?code=[secret]&state=1"),
        ("/x?key=abc", "/x?key=[secret]"),
        ("/x?sig=abc%2Fdef", "/x?sig=[secret]"),
        ("/x?X-Amz-Signature=0f0f", "/x?X-Amz-Signature=[secret]"),
        ("/x?client_secret=abc", "/x?client_secret=[secret]"),
        ("/x?password=abc", "/x?password=[secret]"),
        ("/cb#access_token=abc&x=1", "/cb#access_token=[secret]&x=1"),
        ("password=hunter2", "password=[secret]"),
        ("DB_PASSWORD=hunter2 x", "DB_PASSWORD=[secret] x"),
        (r#"{"password":"hunter2","n":1}"#, r#"{"password":"[secret]","n":1}"#),
        ("{'password': 'hunter2'}", "{'password': '[secret]'}"),
        ("apiKey: abc123def456", "apiKey: [secret]"),
        (
            "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "aws_secret_access_key = [secret]",
        ),
        (
            "AccountName=x;AccountKey=abcdef==;EndpointSuffix=y",
            "AccountName=x;AccountKey=[secret];EndpointSuffix=y",
        ),
        ("SharedAccessKey=abcdef=", "SharedAccessKey=[secret]"),
    ]);
    check_clean(&[
        "https://example.org/path?tab=flags&page=2#top",
        "https://example.org:8443/x",
        "https://bob@example/x",
        "code=5",
        "key=value",
        "password",
        "password:",
        "the password: was wrong",
        "token=",
        "?token=null",
        "password=****",
        "password=[secret]",
        "tokens=12",
        "a == b",
        "x => y",
    ]);
}

#[test]
fn leaks_behind_escapes() {
    check(&[
        (r"bob\u0040example.org", "[email]"),
        (r"\u0062ob@example.org", "[email]"),
        (r"bob\\u0040example.org", "[email]"),
        (r#"{"a":"line\nbob@example.org"}"#, r#"{"a":"line\n[email]"}"#),
        (r#"{"a":"{\"b\":\"bob@example.org\"}"}"#, r#"{"a":"{\"b\":\"[email]\"}"}"#),
        (r#"{"a":"{\"password\":\"hunter2\"}"}"#, r#"{"a":"{\"password\":\"[secret]\"}"}"#),
        (
            r#"{"a":"{\"b\":\"{\\\"password\\\":\\\"hunter2\\\"}\"}"}"#,
            r#"{"a":"{\"b\":\"{\\\"password\\\":\\\"[secret]\\\"}\"}"}"#,
        ),
        (r"203\u002e0.113.9", "[ip]"),
        (r"\u002b4915123456789", "[phone]"),
        (r"4111\u00201111\u00201111\u00201111", "[card]"),
        ("bob%2540example.org", "[email]"),
        ("https://a.org/?next=%2Flogin%3Ftoken%3Dabc", "https://a.org/?next=%2Flogin%3Ftoken%3D[secret]"),
    ]);
    check_clean(&[
        r"C:\users\bob",
        r"\u00e4\u00f6",
        r"\n\t\\",
        "100%",
        "50%40",
        "a&b",
        "&amp;",
        r"\u12",
        r"\",
    ]);
}

#[test]
fn ordinary_values_are_clean() {
    check_clean(&[
        "",
        " ",
        "web",
        "0b5f8d0e-4c44-4f7e-9d57-1f2f6f1f9a3b",
        "41111111-1111-4111-8111-111111111111",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "d41d8cd98f00b204e9800998ecf8427e",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "2026-11-25T06:40:32Z",
        "2026-11-25T06:40:32.123456789+00:00",
        "2026-11-25 06:40:32",
        "1795590032",
        "1795590032123",
        "1795590032123456",
        "1795590032123456789",
        "1.2.3",
        "2.147.3-rc.1+build.5",
        "e1_a2lvxkk5_gy5imU2VnwmN6HH1aXNrrQNiZgMGutfQKhxBvAhQmTs",
        "enable_new_checkout",
        "feature-flag-42",
        "The feature was created by the release pipeline.",
        "12:30:45",
        "/api/v1/environments/{environment_api_key}/features/",
        "application/json; charset=utf-8",
        "en-GB,en;q=0.9,de;q=0.8",
        "3.141592653589793",
        "-1e-300",
        "SELECT id FROM t WHERE a = 1",
        "flagsmith.organisation.subscription",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "grüße aus köln 日本語 🎉",
    ]);
}

/// A finding must not hide behind a text that is too long to be counted.
#[test]
fn very_long_texts_are_searched() {
    let text = format!("{}203.0.113.9", "x ".repeat(600_000));
    assert!(!scanner().is_clean(&text));
    assert!(scanner().is_clean(&"x ".repeat(600_000)));
}

const PIECES: &[&str] = &[
    "bob@example.org",
    "4111 1111 1111 1111",
    "4111111111111111",
    "DE89 3704 0044 0532 0130 00",
    "203.0.113.9",
    "2001:db8::1",
    "+49 151 23456789",
    "Bearer abcdef0123456789",
    "Basic Ym9iOnNlY3JldA==",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
    "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----",
    "AKIAIOSFODNN7EXAMPLE",
    "https://u:pw@host/",
    "?token=abc&",
    "password=",
    "\"password\":\"",
    "authorization: ",
    "\\u0040",
    "\\\"",
    "\\\\",
    "\"",
    "%40",
    "&#64;",
    "@",
    ".",
    ":",
    "::",
    "+",
    "-",
    "=",
    "/",
    " ",
    "\n",
    "[email]",
    "[",
    "]",
    "a",
    "f",
    "1",
    "42",
    "ä",
    "日本",
    "🎉",
    "\u{a0}",
    "example.org",
    "eyJ",
    "PRIVATE KEY",
    "bearer ",
    "'",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_masked_is_clean(places in proptest::collection::vec(0..PIECES.len(), 0..12)) {
        let text: String = places.iter().filter_map(|place| PIECES.get(*place)).copied().collect();
        masked(&text);
    }

    /// A search that the glance spares could not have found anything.
    #[test]
    fn the_glance_spares_nothing_that_is_found(
        places in proptest::collection::vec(0..PIECES.len(), 0..6),
        other in "[ -~]{0,24}",
    ) {
        let text: String = places.iter().filter_map(|place| PIECES.get(*place)).copied().collect();
        for text in [text, other] {
            let (mut glanced, mut all) = (Found::default(), Found::default());
            scanner().search(text.as_bytes(), Glance::at(text.as_bytes()), &mut glanced);
            scanner().search(text.as_bytes(), Glance::of_everything(), &mut all);
            prop_assert_eq!(glanced.spans, all.spans);
        }
    }

    #[test]
    fn any_text_can_be_masked(text in "\\PC{0,64}") {
        masked(&text);
    }

    /// Text that joins nothing to a leak hides it at no place and at no depth of JSON.
    #[test]
    fn a_leak_is_found_wherever_it_stands(
        leak in 0_usize..12,
        head in "([a-z0-9äé日]{0,8} ){0,4}",
        tail in "( [a-z0-9äé日]{0,8}){0,4}",
        depth in 0..4,
    ) {
        let leak = PIECES[leak];
        let mut text = format!("{head}| {leak} |{tail}");
        for _ in 0..depth {
            text = serde_json::json!({ "v": text }).to_string();
        }
        let masked = masked(&text);
        let secret = leak.trim_start_matches("Bearer ").trim_start_matches("Basic ");
        prop_assert!(!masked.contains(secret), "{masked:?}");
    }
}
