//! What is found, what is not, and what a masked text looks like.

mod shapes;

use std::sync::LazyLock;

use super::*;

fn scanner() -> &'static Scanner {
    static SCANNER: LazyLock<Scanner> = LazyLock::new(Scanner::new);
    &SCANNER
}

/// What the text becomes; itself where it is clean.
fn masked(text: &str) -> String {
    let mut out = "before ".to_owned();
    match scanner().mask(text, &mut out) {
        Some(_) => out.strip_prefix("before ").unwrap().to_owned(),
        None => {
            assert_eq!(out, "before ", "nothing is appended to a clean text");
            text.to_owned()
        }
    }
}

#[test]
fn each_class_has_a_mask_of_its_name() {
    for class in LeakClass::ALL {
        assert_eq!(mask_of(class), format!("[{}]", class.as_str()));
    }
}

#[track_caller]
fn all_masked(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(masked(text), *expected, "of {text:?}");
        assert!(!scanner().is_clean(text), "{text:?}");
        assert!(scanner().is_clean(expected), "the mask of {text:?} is clean");
    }
}

#[track_caller]
fn all_clean(texts: &[&str]) {
    for text in texts {
        assert_eq!(masked(text), *text);
        assert!(scanner().is_clean(text), "{text:?}");
    }
}

#[test]
fn email_addresses() {
    all_masked(&[
        ("bob@example.org", "[email]"),
        ("Bob.O'Hara+tag@Mail.Example.co.uk", "[email]"),
        ("to bob@example.org, then", "to [email], then"),
        ("<bob@example.org>", "<[email]>"),
        ("mailto:bob@example.org?subject=x", "mailto:[email]?subject=x"),
        ("ends bob@example.org.", "ends [email]."),
        ("(bob@example.org)", "([email])"),
        ("jürgen@bücher.example", "[email]"),
        ("日本 bob@example.org 日本", "日本 [email] 日本"),
        ("a@b.cd e@f.gh", "[email] [email]"),
        ("email=bob@example.org&x=1", "email=[email]&x=1"),
        ("bob@example.org2", "[email]2"),
        ("bob@example.org-old", "[email]-old"),
        ("bob@163.com", "[email]"),
        ("bob@xn--bcher-kva.xn--p1ai", "[email]"),
        ("bob@[203.0.113.9]", "[email]"),
        ("{\"to\":\"bob@example.org\"}", "{\"to\":\"[email]\"}"),
        ("\"bob b\"@example.org", "[email]"),
        ("'bob@example.org'", "'[email]'"),
        ("user_bob@example.org", "[email]"),
    ]);
    all_clean(&[
        "@example.org",
        "bob@",
        "bob@localhost",
        "lodash@4.17.21",
        "@types/node@20.1.0",
        "@scope/package@1.2.3-beta.rc",
        "icon@2x.png",
        "a @ b.org",
        "[\"foo\",\"@bar.com\"]",
        "@app.route('/x')",
        "@",
        "@@@@",
    ]);
}

#[test]
fn cards() {
    all_masked(&[
        ("4111111111111111", "[card]"),
        ("4111 1111 1111 1111", "[card]"),
        ("4111-1111-1111-1111", "[card]"),
        ("paid with 5555555555554444.", "paid with [card]."),
        ("378282246310005", "[card]"),
        ("3782 822463 10005", "[card]"),
        ("30569309025904", "[card]"),
        ("6011111111111117", "[card]"),
        ("3530111333300000", "[card]"),
        ("2223003122003222", "[card]"),
        ("4222222222222", "[card]"),
        ("6304000000000000", "[card]"),
        ("4000000000000000006", "[card]"),
        ("card_4111111111111111", "card_[card]"),
        ("card4111111111111111", "card[card]"),
        ("4111111111111111USD", "[card]USD"),
        ("2026-11-25 4111 1111 1111 1111", "2026-11-25 [card]"),
        ("4111 1111 1111 1111 12/27 123", "[card] 12/27 123"),
        ("{\"n\":\"4111111111111111\"}", "{\"n\":\"[card]\"}"),
        ("ä4111111111111111ä", "ä[card]ä"),
        ("41 11 11 11 11 11 11 11", "[card]"),
        ("4111111111111111,5555555555554444", "[card],[card]"),
        ("4111111111111111 5555555555554444", "[card] [card]"),
    ]);
    all_clean(&[
        "4111111111111112",
        "4111 1111 1111 1112",
        "1234567890123452",
        "411111111111111",
        "41111111111111111111",
        "0.4111111111111111",
        "1710864000000",
        "4102444799999",
        "4000000000006",
        "1795383003883013",
        "1795383003883013888",
        "20261125061200123",
        "79927398713",
        // No network with this prefix gives out 19 digits.
        "-2710005727309122781",
        "0000000000000000",
    ]);
}

#[test]
fn an_epoch_in_milliseconds_is_no_card_even_with_a_valid_check_digit() {
    let valid: Vec<i64> = (4_000_000_000_000..4_000_000_000_100)
        .filter(|epoch: &i64| numbers_pass_luhn(&epoch.to_string()))
        .collect();
    assert_eq!(valid.len(), 10);
    for epoch in valid {
        assert!(scanner().is_clean(&epoch.to_string()), "{epoch}");
    }
}

fn numbers_pass_luhn(digits: &str) -> bool {
    let digits = digits.bytes().rev().map(|digit| u32::from(digit - b'0')).enumerate();
    let sum: u32 =
        digits.map(|(at, digit)| if at % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 }).sum();
    sum.is_multiple_of(10)
}

#[test]
fn a_uuid_is_neither_card_nor_account() {
    // All digits, and its groups of four hold a valid card.
    all_clean(&[
        "12345678-4111-1111-1111-111111111111",
        "41111111-1111-1111-abcd-abcdefabcdef",
        "be01c2b8-5d6e-4506-aaaa-aa0aaa00aaa0",
    ]);
    all_masked(&[("4111-1111-1111-1111-abcd", "[card]-abcd")]);
}

#[test]
fn bank_accounts() {
    all_masked(&[
        ("DE89370400440532013000", "[iban]"),
        ("DE89 3704 0044 0532 0130 00", "[iban]"),
        ("de89370400440532013000", "[iban]"),
        ("GB29 NWBK 6016 1331 9268 19", "[iban]"),
        ("FR14 2004 1010 0505 0001 3M02 606", "[iban]"),
        ("NO9386011117947", "[iban]"),
        ("MT84MALT011000012345MTLCAST001S", "[iban]"),
        ("IBAN: CH9300762011623852957, thanks", "IBAN: [iban], thanks"),
        ("to DE89-3704-0044-0532-0130-00 now", "to [iban] now"),
        ("iban=NL91ABNA0417164300", "iban=[iban]"),
        ("NL91ABNA0417164300 and GB29NWBK60161331926819", "[iban] and [iban]"),
    ]);
    all_clean(&[
        "DE88370400440532013000",
        "DE8937040044053201300",
        "DE893704004405320130000",
        "XX89370400440532013000",
        "De89370400440532013000",
        "xDE89370400440532013000",
        "GB29",
    ]);
}

#[test]
fn ip_addresses() {
    all_masked(&[
        ("203.0.113.7", "[ip]"),
        ("1.2.3.4", "[ip]"),
        ("from 203.0.113.7:443", "from [ip]:443"),
        ("203.0.113.0/24", "[ip]/24"),
        ("at 203.0.113.7.", "at [ip]."),
        ("[10.0.0.1]", "[[ip]]"),
        ("010.001.002.003", "[ip]"),
        ("ip10.0.0.1", "ip[ip]"),
        ("http://10.1.2.3/x", "http://[ip]/x"),
        ("203.0.113.7, 10.0.0.1", "[ip], [ip]"),
        ("é203.0.113.7é", "é[ip]é"),
        ("2001:db8::1", "[ip]"),
        ("2001:0db8:85a3:0000:0000:8a2e:0370:7334", "[ip]"),
        ("[2001:db8::1]:443", "[[ip]]:443"),
        ("::1", "[ip]"),
        ("::ffff:203.0.113.7", "[ip]"),
        ("fe80::1%eth0", "[ip]%eth0"),
        ("2001:db8::/32", "[ip]/32"),
        ("ip:2001:db8::1", "ip:[ip]"),
        ("id:2001:db8::1.", "id:[ip]."),
        ("at 2001:db8::1: refused", "at [ip]: refused"),
        ("{\"ip\":\"2001:db8::1\"}", "{\"ip\":\"[ip]\"}"),
    ]);
    all_clean(&[
        "1.2.3",
        "1.2.3.4.5",
        "10.0.19041.1",
        "256.1.1.1",
        "v1.2.3.4",
        "Chrome/120.0.0.0 Safari/537.36",
        "Chrome/120.0.6099.109",
        "0.0.0.0",
        "1..2.3.4",
        "25.11.2026",
        "06:12:00",
        "2026-11-25T06:12:00.123456+01:00",
        "aa:bb:cc:dd:ee:ff",
        "std::collections::HashMap",
        "std::f64::MAX",
        "abc::def",
        "a::b",
        "::",
        "12:34:56:78",
        "{\"a\":1,\"b\":{\"c\":2}}",
        "Foo::Bar::3",
    ]);
}

#[test]
fn phone_numbers() {
    all_masked(&[
        ("+491701234567", "[phone]"),
        ("+49 170 1234567", "[phone]"),
        ("+1 (555) 123-4567", "[phone]"),
        ("+1-555-123-4567", "[phone]"),
        ("+44.20.7946.0958", "[phone]"),
        ("call +49 (0)30 1234-567!", "call [phone]!"),
        ("tel:+491701234567", "tel:[phone]"),
        ("call+491701234567", "call[phone]"),
        ("+49 170 1234567 2026-11-25", "[phone] 2026-11-25"),
        ("+12345678", "[phone]"),
        ("(+33) 1 23 45 67 89", "([phone]"),
        ("ü+491701234567ü", "ü[phone]ü"),
    ]);
    all_clean(&[
        "+1234567",
        "+1234567890123456",
        "1.2.3+20240101",
        "1.0.0-alpha+20130313144700",
        "2026-11-25T06:12:00+0100",
        "2026-11-25T06:12:00+10:00",
        "06:12:00+01 2026-11-25",
        "3.12.0+build.5",
        "a + b",
        "c++ 20",
        "491701234567",
        "+0123456789",
        "aGVsbG8x+12345678+d29ybGQ",
    ]);
}

#[test]
fn tokens() {
    all_masked(&[
        ("Bearer abc123def456", "Bearer [token]"),
        ("bearer: abc123def456", "bearer: [token]"),
        ("Authorization: Bearer abc123def456", "Authorization: [token]"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: [token]"),
        ("-H 'Authorization: Token 0123456789abcdef' http://x", "-H 'Authorization: [token]' http://x"),
        ("proxy-authorization: basic dXNlcjpwYXNz\r\nhost: x", "proxy-authorization: [token]\r\nhost: x"),
        ("authorization: 0123456789abcdef", "authorization: [token]"),
        ("Basic dXNlcjpwYXNz", "Basic [token]"),
        ("basic dXNlcjpwYXNzdw== next", "basic [token] next"),
        ("Cookie: a=b; c=d\nx", "Cookie: [token]\nx"),
        ("Set-Cookie: sessionid=38afes7a8; HttpOnly", "Set-Cookie: [token]"),
        ("{\"Authorization\":\"Bearer x\"}", "{\"Authorization\":\"[token]\"}"),
        ("{'Authorization': 'Bearer x'}", "{'Authorization': '[token]'}"),
        (
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
            "[token]",
        ),
        ("jwt eyJhbGciOiJub25lIn0.eyJzdWIiOiJib2IifQ. end", "jwt [token]. end"),
        ("x=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln&y", "x=[token]&y"),
        ("Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "Bearer [token]"),
        ("Bearer aBcDeFgHiJ", "Bearer [token]"),
        ("Bearer abcdefghijklmnopqrstuvwxyz", "Bearer [token]"),
    ]);
    all_clean(&[
        "bearer of news",
        "Bearer authentication is required",
        "the standard-bearer 2026 edition",
        "Basic authentication failed",
        "basic plan",
        "Basic Lighting2000 kit",
        "authorization: denied by policy",
        "eyJpZCI6MX0",
        "eyJ.eyJ.x",
        "a database of basic things",
        "cookie: accepted",
    ]);
}

#[test]
fn private_keys() {
    let key = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nabc+/=\n-----END RSA PRIVATE KEY-----";
    all_masked(&[
        (key, "[private_key]"),
        (&format!("a {key} b"), "a [private_key] b"),
        (&format!("{key}\n{key}"), "[private_key]\n[private_key]"),
        (
            &format!("{{\"private_key\":\"{}\"}}", key.replace('\n', "\\n")),
            "{\"private_key\":\"[private_key]\"}",
        ),
        (&format!("{{\"pem\":\"{}\"}}", key.replace('\n', "\\n")), "{\"pem\":\"[private_key]\"}"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk", "[private_key]"),
        (
            "-----BEGIN PGP PRIVATE KEY BLOCK-----\nabc\n-----END PGP PRIVATE KEY BLOCK----- x",
            "[private_key] x",
        ),
        ("x: AAA\nMIIEpAIB\nAAKCAQEA\n-----END PRIVATE KEY-----\ny", "x:[private_key]\ny"),
    ]);
    all_clean(&[
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "a PRIVATE KEY",
        "-----BEGIN PUBLIC KEY-----",
    ]);
}

#[test]
fn access_keys() {
    let letters = "abcdefghij0123456789ABCDEFGHIJ0123456789";
    for (begins, length) in [
        ("ghp_", 36),
        ("gho_", 36),
        ("ghs_", 36),
        ("github_pat_", 40),
        ("glpat-", 20),
        ("AIza", 35),
        ("GOCSPX-", 28),
        ("ya29.", 40),
        ("xoxb-", 40),
        ("xoxp-", 40),
        ("xapp-", 40),
        ("sk_live_", 24),
        ("rk_live_", 24),
        ("sk_test_", 24),
        ("sk-", 40),
        ("sk-proj-", 40),
        ("hf_", 34),
        ("npm_", 36),
        ("hvs.", 24),
        ("whsec_", 32),
        ("ser.", 22),
        ("pypi-AgE", 40),
        ("ATATT3", 40),
    ] {
        let key = format!("{begins}{}", &letters[..length]);
        assert_eq!(masked(&key), "[access_key]", "{begins}");
        assert_eq!(masked(&format!("key: {key}, next")), "key: [access_key], next", "{begins}");
        assert_eq!(masked(&format!("{{\"k\":\"{key}\"}}")), "{\"k\":\"[access_key]\"}", "{begins}");
        let short = format!("{begins}{}", &letters[..8]);
        assert_eq!(masked(&short), short);
    }
    all_masked(&[
        ("AKIAIOSFODNN7EXAMPLE", "[access_key]"),
        ("id=ASIAIOSFODNN7EXAMPLE;", "id=[access_key];"),
        (
            "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "aws_secret_access_key = [secret]",
        ),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG", "AWS_SECRET_ACCESS_KEY=[secret]"),
        (
            "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=abc123/+==;EndpointSuffix=core.windows.net",
            "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=[secret];EndpointSuffix=core.windows.net",
        ),
        ("Endpoint=sb://x/;SharedAccessKey=abc=", "Endpoint=sb://x/;SharedAccessKey=[secret]"),
        (
            "https://hooks.slack.com/services/T00000000/B00000000/abcdABCD1234abcdABCD1234",
            "https://[access_key]",
        ),
        ("key-0123456789abcdef0123456789abcdef", "[access_key]"),
    ]);
    all_clean(&[
        "AKIA",
        "akiaiosfodnn7example",
        "task-management-for-teams-in-2026-and-later",
        "user.created",
        "sk-",
        "ghp_",
    ]);
    all_clean(&["sk-some-long-name-of-a-flag", "monkey-0123456789abcdef0123456789abcdef"]);
}

#[test]
fn secrets_in_urls() {
    all_masked(&[
        ("https://bob:hunter2@example.org/x", "https://bob:[secret]@example.org/x"),
        ("postgres://app:p%40ss@db:5432/app", "postgres://app:[secret]@db:5432/app"),
        ("redis://:hunter2@cache", "redis://:[secret]@cache"),
        ("postgres://u:p/w@host.example/db", "postgres://u:[secret]@host.example/db"),
        ("amqp://u:p@a@host", "amqp://u:[secret]@host"),
        ("smtp://bob@example.org:pw1@mail.example.org", "smtp://[email]:[secret]@mail.example.org"),
        ("https://x.org/?token=abc", "https://x.org/?token=[secret]"),
        ("https://x.org/?a=1&access_token=abc&b=2", "https://x.org/?a=1&access_token=[secret]&b=2"),
        ("https://x.org/?api_key=abc#top", "https://x.org/?api_key=[secret]"),
        ("https://x.org/?key=abc", "https://x.org/?key=[secret]"),
        ("https://x.org/?code=abc&state=x", "https://x.org/?code=[secret]&state=x"),
        ("https://x.org/?sig=a%2Fb%3D", "https://x.org/?sig=[secret]"),
        ("/x?X-Amz-Signature=abc&X-Amz-Date=x", "/x?X-Amz-Signature=[secret]&X-Amz-Date=x"),
        ("https://x.org/#access_token=abc", "https://x.org/#access_token=[secret]"),
        ("https://x.org/?password=a,b", "https://x.org/?password=[secret]"),
        ("https://x.org/?user[password]=abc", "https://x.org/?user[password]=[secret]"),
        ("https://x.org/?token=bob@example.org", "https://x.org/?token=[secret]"),
        ("https://x.org/?a=1&amp;key=abc", "https://x.org/?a=1&amp;key=[secret]"),
        ("?redirect=https%3A%2F%2Fx%2F%3Ftoken%3Dabc", "?redirect=https%3A%2F%2Fx%2F%3Ftoken%3D[secret]"),
    ]);
    all_clean(&[
        "https://example.org/a/b?page=2&sort=name#top",
        "https://example.org:8080/@scope/x",
        "https://example.org/?code=404",
        "https://example.org/?token=",
        "https://example.org/?token=null&key=",
        "postgres://app@db/app",
        "https://x.org/?keyboard=qwerty&monkey=1",
        "https://gitlab.example.org/group/project.git",
        "git+ssh://host/path",
    ]);
}

#[test]
fn secrets_in_json_and_assignments() {
    all_masked(&[
        ("{\"password\":\"hunter2\"}", "{\"password\":\"[secret]\"}"),
        ("{\"user\":{\"api_key\": \"abc\"},\"x\":1}", "{\"user\":{\"api_key\": \"[secret]\"},\"x\":1}"),
        ("{\"X-Sentry-Signature\":\"abc\"}", "{\"X-Sentry-Signature\":\"[secret]\"}"),
        ("{\"password\":\"p\\\"w\",\"x\":1}", "{\"password\":\"[secret]\",\"x\":1}"),
        ("{\"password\": 12345678}", "{\"password\": [secret]}"),
        ("{'client_secret': 'abc'}", "{'client_secret': '[secret]'}"),
        ("password=hunter2", "password=[secret]"),
        ("DB_PASSWORD=\"hunter two\"", "DB_PASSWORD=\"[secret]\""),
        ("password: hunter22", "password: [secret]"),
        ("clientSecret=b'abc'", "clientSecret=b'[secret]'"),
        ("(password=abc)", "(password=[secret])"),
        ("'password' => 'abc'", "'password' => '[secret]'"),
        ("token := \"abc\"", "token := \"[secret]\""),
        ("password=[secret]x", "password=[secret]"),
    ]);
    all_clean(&[
        "{\"token\":null,\"password\":\"\",\"secret\":false}",
        "{\"token\":{\"issuer\":null}}",
        "{\"tokens\":5,\"token_count\":500}",
        "{\"key\":\"dark_mode\",\"code\":\"de\"}",
        "the password: please enter it",
        "if token == other",
        "password=***",
        "token::Kind",
        "secret://name",
        "password reset requested",
        "password=[secret]",
        "{\"amplitude.session_id\":\"1710864000000\"}",
        "Authorization: [token]",
    ]);
}

#[test]
fn escapes_are_undone_at_any_depth() {
    all_masked(&[
        (r"bob\u0040example.org", "[email]"),
        (r#"{"m":"bob\u0040example.org"}"#, r#"{"m":"[email]"}"#),
        (r#"{"m":"a\nbob@example.org\n"}"#, r#"{"m":"a\n[email]\n"}"#),
        (r#"{"m":"{\"m\":\"bob@example.org\"}"}"#, r#"{"m":"{\"m\":\"[email]\"}"}"#),
        (
            r#""{\"a\":\"{\\\"password\\\":\\\"x1\\\"}\"}""#,
            r#""{\"a\":\"{\\\"password\\\":\\\"[secret]\\\"}\"}""#,
        ),
        (r#"{"m":"{\"password\":\"p\\\"w\",\"x\":1}"}"#, r#"{"m":"{\"password\":\"[secret]\",\"x\":1}"}"#),
        (r"bob\\\\u0040example.org", "[email]"),
        (r"https:\/\/bob:hunter2@x.org\/", r"https:\/\/bob:[secret]@x.org\/"),
        (r"4111\u00201111\u00201111\u00201111", "[card]"),
        (r"\u0034111111111111111", "[card]"),
        (r"\u002b491701234567", "[phone]"),
        (r"bob\x40example.org", "[email]"),
        (r"bob\u{40}example.org\u{2003}", r"[email]\u{2003}"),
        (r"\u{a0}bob@example.org", r"\u{a0}[email]"),
        ("bob%40example.org", "[email]"),
        ("bob%252540example.org", "[email]"),
        ("q=bob%40example.org&x=%20", "q=[email]&x=%20"),
        ("bob&#64;example.org", "[email]"),
        ("bob&#x40;example.org", "[email]"),
        ("bob&commat;example.org", "[email]"),
        (r#"{"m":"a\nAKIAIOSFODNN7EXAMPLE"}"#, r#"{"m":"a\n[access_key]"}"#),
        (r#"{\"Authorization\":\"Bearer x\"}"#, r#"{\"Authorization\":\"[token]\"}"#),
        (r"\ud83d\ude00 bob@example.org", r"\ud83d\ude00 [email]"),
    ]);
    all_clean(&[
        r#"{"a":"{\"b\":\"c\"}"}"#,
        r"C:\users\bob\new",
        r"\\server\share",
        "100% of 25%",
        "a%20b%2Fc",
        "&amp;&lt;",
        r"\u00e9\n\t",
        "\\",
        "%",
        "&#;",
        r"\u12",
    ]);
}

#[test]
fn lookalikes_are_read_as_what_they_look_like() {
    all_masked(&[
        ("bob＠example.org", "[email]"),
        ("4111\u{a0}1111\u{a0}1111\u{a0}1111", "[card]"),
        ("4111\u{2011}1111\u{2011}1111\u{2011}1111", "[card]"),
        ("４１１１１１１１１１１１１１１１", "[card]"),
        ("＋49\u{202f}170\u{202f}1234567", "[phone]"),
        ("bo\u{200b}b@exam\u{ad}ple.org", "[email]"),
        ("DE89\u{a0}3704\u{a0}0044\u{a0}0532\u{a0}0130\u{a0}00", "[iban]"),
        ("“bob@example.org”", "“[email]”"),
    ]);
    all_clean(&["“quoted” – prose…", "5 £", "20 °C", "naïve café", "日本語のテキスト", "😀"]);
}

#[test]
fn several_findings_in_one_text() {
    assert_eq!(
        masked(
            "bob@example.org from 203.0.113.7 paid 4111 1111 1111 1111, call +49 170 1234567; Bearer abc123def456"
        ),
        "[email] from [ip] paid [card], call [phone]; Bearer [token]"
    );
    let mut out = String::new();
    let findings = scanner().mask("bob@example.org 203.0.113.7 +491701234567", &mut out);
    let findings: Vec<_> = findings.expect("findings").iter().collect();
    assert_eq!(findings, [LeakClass::Email, LeakClass::Ip, LeakClass::Phone]);
}

#[test]
fn only_the_classes_that_are_asked_for_are_masked() {
    let mut out = String::new();
    let text = "bob@example.org 203.0.113.7";
    let ip = LeakClasses::NONE.with(LeakClass::Ip);
    assert_eq!(scanner().mask_classes(text, ip, &mut out), Some(ip));
    assert_eq!(out, "bob@example.org [ip]");
    assert_eq!(scanner().mask_classes("bob@example.org", ip, &mut out), None);
    assert_eq!(scanner().mask_classes(text, LeakClasses::NONE, &mut out), None);
    assert_eq!(out, "bob@example.org [ip]");
}

#[test]
fn what_software_writes_is_clean() {
    all_clean(&[
        "",
        "null",
        "workflows.change_request.committed",
        "7d4a7b1c-3c52-4b7e-9d7a-0d7f6f0c2a11",
        "7D4A7B1C-3C52-4B7E-9D7A-0D7F6F0C2A11",
        "00000000-0000-0000-0000-000000000000",
        "779311cfd8322ce95f63bfca72fa5848",
        "0ff345cbdbc12b1f",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "e1_a2lvxkk5_gy5imU2VnwmN6HH1aXNrrQNiZgMGutfQKhxBvAhQmTs",
        "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "1710864000",
        "1710864000000",
        "1795383003883013888",
        "2026-11-25T06:12:00Z",
        "2026-11-25 06:12:00.123456+00:00",
        "2026-11-25T06:12:00.000000000+05:30",
        "1.2.3",
        "3.12.0+build.5",
        "v2.265.0-rc.1",
        "Python/3.12 aiohttp/3.9.1",
        "OTel-OTLP-Exporter-Python/1.40.0",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
        "dark_mode_2026",
        "new-checkout-flow",
        "{\"a\":1}",
        "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]",
        "[1710864000000,1710864000001]",
        "{\"segments\":[{\"id\":12,\"rules\":[\"percentage_split\"]}],\"enabled\":true}",
        "{\"lat\":52.5200066,\"lon\":13.404954}",
        "Traceback (most recent call last):\n  File \"/app/x.py\", line 12, in f\n    raise ValueError('x: 1')\nValueError: x: 1",
        "https://docs.example.org/api/v1/flags/?page=2",
        "The quick brown fox jumps over the lazy dog, 12:30, on 25.11.2026: 100% sure!",
        "token usage grew; the key point, the code review and the secret sauce",
        "a@",
        "1e-7",
        "0.30000000000000004",
        "-122.4194155",
        "organisation.id",
        "GET /api/v1/environments/42/features/?search=abc HTTP/1.1",
        "12/27",
        "+1",
        "50%",
    ]);
}

/// A search that goes back over the text for each piece of it would take minutes in a debug build, a linear one some
/// hundredths of a second.
#[test]
fn hostile_texts_take_linear_time() {
    let scanner = scanner();
    #[rustfmt::skip]
    let pieces = [
        "@", "a@", "a.a@", "\"a\"@", "1", "1 ", "1-", "4111 ", "1.", "1.1.1.1.", ":", "a:", "::", "1:", "=", "pwd=", "pwd:",
        "pwd=[", "pwd=\"", "cookie:", "cookie:x ", "+", "+1", "+1 ", "\\", "\\\\u0040", "\\\"", "%25", "%40", "&#", "a://",
        "a://b:c/", "a://b:c@", "eyJ", "eyJa.", "sk-", "ghp_", "earer ", "Bearer=", "Basic ", "-----BEGIN ",
        "-----BEGIN PRIVATE KEY-----", "PRIVATE KEY", "-----END PRIVATE KEY-----", "DE89", "DE89 ", "\u{a0}", "\u{200b}",
        "a1b2.", "1.1.ab.ab", "\"pwd\":\"\\\"", "xn--", "ab.", "[secret]", "pwd=[secret]", "hooks.slack.com/",
    ];
    for piece in pieces {
        for lead in ["", "pwd:"] {
            let text = format!("{lead}{}", piece.repeat(64 * 1024 / piece.len()));
            #[expect(clippy::disallowed_methods, reason = "measures how long the test itself takes")]
            let started = std::time::Instant::now();
            std::hint::black_box(scanner.is_clean(&text));
            let took = started.elapsed();
            assert!(took.as_secs() < 5, "{lead} {piece} took {took:?}");
        }
    }
}

#[test]
fn hostile_texts_become_clean() {
    for piece in [
        "pwd=[",
        "pwd=x]",
        "[secret]x",
        "\"pwd\":\"\\\"",
        "a@b.cd",
        "+1 ",
        "1.1.1.1",
        "a://b:c@",
        "\\u0040a.bc",
        "%40a.bc",
    ] {
        let text = format!("token={}", piece.repeat(500));
        let mut out = String::new();
        scanner().mask(&text, &mut out);
        assert!(scanner().is_clean(&out), "{piece}");
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    const LEAKS: [&str; 16] = [
        "bob@example.org",
        "4111 1111 1111 1111",
        "DE89370400440532013000",
        "203.0.113.7",
        "2001:db8::1",
        "+49 170 1234567",
        "Bearer abc123def456",
        "Authorization: Basic dXNlcjpwYXNz",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
        "-----BEGIN PRIVATE KEY-----\\nMIIB\\n-----END PRIVATE KEY-----",
        "AKIAIOSFODNN7EXAMPLE",
        "postgres://u:hunter2@db",
        "?token=hunter2",
        "{\"password\":\"hun\\\"ter2\"}",
        "{\\\"password\\\":\\\"hun\\\\\\\"ter2\\\"}",
        "bob\\u0040example.org",
    ];

    fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            3 => proptest::sample::select(LEAKS.as_slice()).prop_map(str::to_owned),
            3 => "[a-z ,;:=@.+%\\\\\"'/0-9\\[\\]&?_-]{0,12}",
            1 => "\\PC{0,6}",
            1 => proptest::sample::select(["\\", "\"", "\\\"", "%40", "\u{a0}", " ", "[email]", "[secret]", "password=", "://"].as_slice())
                .prop_map(str::to_owned),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_masked_is_clean(pieces in proptest::collection::vec(piece(), 0..8)) {
            let text = pieces.concat();
            let scanner = scanner();
            let mut out = String::new();
            match scanner.mask(&text, &mut out) {
                Some(findings) => {
                    prop_assert!(!findings.is_empty());
                    prop_assert!(scanner.is_clean(&out), "{text:?} became {out:?}");
                }
                None => prop_assert!(scanner.is_clean(&text) && out.is_empty()),
            }
        }

        #[test]
        fn a_leak_between_spaces_is_always_found(
            before in "[a-z ]{0,40}",
            leak in proptest::sample::select(LEAKS.as_slice()),
            after in "[a-z ]{0,40}",
        ) {
            let text = format!("{before} {leak} {after}");
            let mut out = String::new();
            prop_assert!(scanner().mask(&text, &mut out).is_some());
            prop_assert!(!out.contains(leak) && !out.contains("hunter2") && !out.contains("ter2"), "{out}");
        }

        #[test]
        fn words_are_clean(text in "[a-zA-Z _,;!?()\n-]{0,200}") {
            prop_assume!(!["earer", "EARER", "asic ", "ASIC ", "PRIVATE"].iter().any(|word| text.contains(word)));
            prop_assert!(scanner().is_clean(&text));
        }

        #[test]
        fn pseudonyms_digests_ids_and_times_are_clean(
            pseudonym in "e1_[a-z2-7]{8}_[A-Za-z0-9_-]{43}",
            digest in "([0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})",
            uuid in "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
            uuid_of_digits in "[0-9]{8}-[0-9]{4}-4[0-9]{3}-[89][0-9]{3}-[0-9]{12}",
            millis in 1_000_000_000_000_i64..4_102_444_800_000,
            micros in 1_000_000_000_000_000_i64..2_200_000_000_000_000,
        ) {
            for text in [pseudonym, digest, uuid, uuid_of_digits, millis.to_string(), micros.to_string()] {
                prop_assert!(scanner().is_clean(&text), "{text}");
                prop_assert!(scanner().is_clean(&format!("{{\"id\":\"{text}\",\"n\":1}}")), "{text}");
                prop_assert!(scanner().is_clean(&format!("id {text}, then")), "{text}");
            }
        }
    }
}
