//! What a key and the types that it came with suggest: a type and a privacy level, each with its reason.
//!
//! Owns: both heuristics, which docs/drift.md shows as tables. Does not own: the file that they go into (`proposal`). A
//! suggestion errs on the strict side: what no rule knows is `personal`, so that nothing of it is stored before a person
//! has decided.

use std::collections::BTreeMap;

use crate::privacy::ValueType;
use crate::registry::PrivacyLevel;

/// A type for a registry file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TypeGuess {
    /// As the file spells it.
    pub(super) ty: &'static str,
    /// What else it could be, or why it is not certain.
    pub(super) note: Option<&'static str>,
}

/// The type that reads all that was seen, by the reading rules of docs/registry.md.
pub(super) fn guess_type(types: &BTreeMap<ValueType, u64>) -> TypeGuess {
    use ValueType::{Array, Boolean, Double, Empty, Int, String as Text};
    let seen: Vec<ValueType> = types.keys().copied().filter(|ty| *ty != Empty).collect();
    let guess = |ty, note| TypeGuess { ty, note };
    match *seen.as_slice() {
        [] => guess("string", Some("only empty values were seen, so this is a guess")),
        [Int] => guess("int", None),
        [Double] => guess("double", None),
        [Int, Double] => guess("double", Some("`int` drops those with a fraction")),
        [Boolean] => guess("boolean", None),
        [Text] => guess("string", None),
        [Text, Int] => guess(
            "string",
            Some(
                "`int` reads both if the texts are whole numbers; texts among numbers may be baggage (docs/baggage.md)",
            ),
        ),
        [Text, Double] | [Text, Int, Double] => {
            guess("string", Some("`double` reads all if the texts are numbers"))
        }
        [Text, Boolean] => guess("string", Some("`boolean` reads both if the texts are `true` and `false`")),
        [Array] => guess("any", Some("`string[]`, `int[]` and the like also check the elements")),
        _ if seen.iter().all(|ty| matches!(ty, Text | Int | Double | Boolean)) => {
            guess("string", Some("it reads all of them, as text"))
        }
        _ => guess("any", Some("it reads all of them, as JSON text")),
    }
}

/// Secrets, and what quotes them.
const SECRETS: [&str; 33] = [
    "apikey",
    "auth",
    "authorization",
    "bearer",
    "card",
    "cookie",
    "cookies",
    "credential",
    "credentials",
    "cvc",
    "cvv",
    "exception",
    "header",
    "headers",
    "iban",
    "jwt",
    "otp",
    "passphrase",
    "passport",
    "passwd",
    "password",
    "payload",
    "pin",
    "privatekey",
    "pwd",
    "secret",
    "secrets",
    "signature",
    "ssn",
    "stacktrace",
    "token",
    "tokens",
    "traceback",
];

/// A secret only together: each word by itself is harmless.
const SECRET_PAIRS: [(&str, &str); 6] = [
    ("api", "key"),
    ("access", "key"),
    ("private", "key"),
    ("account", "number"),
    ("stack", "trace"),
    ("tax", "id"),
];

/// Special categories of personal data (GDPR, article 9).
const SPECIAL: [&str; 11] = [
    "biometric",
    "diagnosis",
    "disability",
    "ethnicity",
    "genetic",
    "medical",
    "political",
    "race",
    "religion",
    "sexual",
    "sexuality",
];

/// Personal data, and free text that may hold some.
const PERSONAL: [&str; 66] = [
    "addr",
    "address",
    "age",
    "agent",
    "author",
    "birthdate",
    "birthday",
    "body",
    "city",
    "comment",
    "company",
    "contact",
    "content",
    "country",
    "coordinates",
    "description",
    "dob",
    "email",
    "emails",
    "fax",
    "firstname",
    "fullname",
    "gender",
    "geo",
    "host",
    "hostname",
    "ip",
    "ipv4",
    "ipv6",
    "lastname",
    "lat",
    "latitude",
    "lng",
    "location",
    "login",
    "lon",
    "longitude",
    "mail",
    "message",
    "mobile",
    "name",
    "names",
    "nickname",
    "note",
    "notes",
    "path",
    "phone",
    "postcode",
    "query",
    "referer",
    "referrer",
    "remote",
    "search",
    "sex",
    "street",
    "subject",
    "surname",
    "text",
    "timezone",
    "title",
    "uri",
    "url",
    "username",
    "utm",
    "zip",
    "zipcode",
];

/// What an id can be of, so that it stands for a person.
const SOMEBODY: [&str; 24] = [
    "account",
    "actor",
    "anonymous",
    "client",
    "contact",
    "customer",
    "device",
    "distinct",
    "employee",
    "enduser",
    "guest",
    "identity",
    "installation",
    "member",
    "owner",
    "participant",
    "patient",
    "person",
    "profile",
    "session",
    "subscriber",
    "user",
    "viewer",
    "visitor",
];

const IDS: [&str; 8] = ["guid", "hash", "id", "identifier", "key", "number", "uid", "uuid"];

/// Last words of measurements.
const MEASURES: [&str; 33] = [
    "attempts",
    "average",
    "avg",
    "bytes",
    "count",
    "counts",
    "days",
    "depth",
    "duration",
    "elapsed",
    "hours",
    "index",
    "length",
    "limit",
    "max",
    "mean",
    "median",
    "millis",
    "milliseconds",
    "min",
    "minutes",
    "ms",
    "percent",
    "percentage",
    "quota",
    "rate",
    "ratio",
    "remaining",
    "retries",
    "seconds",
    "size",
    "sum",
    "total",
];

/// First or last words of yes-or-no answers.
const FLAGS: [&str; 10] =
    ["is", "has", "can", "was", "did", "should", "enabled", "disabled", "success", "valid"];

/// A level for a key whose values are of this type, and why. The first rule that fits counts.
pub(super) fn suggest_level(key: &str, ty: &str) -> (PrivacyLevel, String) {
    let words: Vec<&str> = key.split(['.', '_']).filter(|word| !word.is_empty()).collect();
    let last = words.last().copied().unwrap_or_default();
    let one_of = |known: &[&str]| words.iter().copied().find(|word| known.contains(word));
    let pair = words.windows(2).find_map(|pair| match *pair {
        [first, second] => SECRET_PAIRS.contains(&(first, second)).then(|| format!("{first} {second}")),
        _ => None,
    });
    if let Some(word) = one_of(&SECRETS).map(str::to_owned).or(pair) {
        return (PrivacyLevel::Sensitive, format!("`{word}` names a secret, or what quotes one"));
    }
    if let Some(word) = one_of(&SPECIAL) {
        return (PrivacyLevel::Sensitive, format!("`{word}` names a special category of personal data"));
    }
    if let Some(word) = one_of(&PERSONAL) {
        return (PrivacyLevel::Personal, format!("`{word}` names personal data, or text that may hold some"));
    }
    let is_id = IDS.contains(&last) && matches!(ty, "string" | "int");
    if let Some(word) = one_of(&SOMEBODY).filter(|_| is_id) {
        return (
            PrivacyLevel::Pseudonymous,
            format!("`{word}` with `{last}` tells one person or device from others"),
        );
    }
    if matches!(ty, "int" | "double") && MEASURES.contains(&last) {
        return (PrivacyLevel::Internal, format!("a number whose key ends in `{last}` is a measurement"));
    }
    if ty == "boolean" && one_of(&FLAGS).is_some() {
        return (PrivacyLevel::Internal, "a yes or no about a thing".to_owned());
    }
    (
        PrivacyLevel::Personal,
        "no rule knows the key; nothing of it is stored before somebody decides".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(seen: &[ValueType]) -> BTreeMap<ValueType, u64> {
        seen.iter().map(|ty| (*ty, 1)).collect()
    }

    #[test]
    fn a_type_reads_all_that_was_seen() {
        use ValueType::{Array, Boolean, Bytes, Double, Empty, Int, Kvlist, String as Text};
        for (seen, ty, has_note) in [
            (&[Int][..], "int", false),
            (&[Int, Empty], "int", false),
            (&[Int, Double], "double", true),
            (&[Double], "double", false),
            (&[Boolean, Empty], "boolean", false),
            (&[Text, Empty], "string", false),
            (&[Text, Int], "string", true),
            (&[Text, Int, Double, Boolean], "string", true),
            (&[Int, Boolean], "string", true),
            (&[Empty], "string", true),
            (&[], "string", true),
            (&[Array], "any", true),
            (&[Text, Array], "any", true),
            (&[Bytes], "any", true),
            (&[Kvlist, Int], "any", true),
        ] {
            let guess = guess_type(&types(seen));
            assert_eq!((guess.ty, guess.note.is_some()), (ty, has_note), "{seen:?}");
        }
    }

    #[test]
    fn levels_follow_the_words_of_the_key() {
        use PrivacyLevel::{Internal, Personal, Pseudonymous, Sensitive};
        for (key, ty, level) in [
            ("auth.token", "string", Sensitive),
            ("github_api_key", "string", Sensitive),
            ("session.token", "string", Sensitive),
            ("http.request.headers", "any", Sensitive),
            ("user.religion", "string", Sensitive),
            ("user.email", "string", Personal),
            ("email.count", "int", Personal),
            ("client.address", "string", Personal),
            ("client_ip", "string", Personal),
            ("first_name", "string", Personal),
            ("user.id", "string", Pseudonymous),
            ("account_uuid", "string", Pseudonymous),
            ("amplitude.device_id", "string", Pseudonymous),
            ("visitor.id", "int", Pseudonymous),
            ("session.id", "any", Personal),
            ("feature_states.count", "int", Internal),
            ("request.duration_ms", "double", Internal),
            ("feature.count", "string", Personal),
            ("is_live", "boolean", Internal),
            ("flag.enabled", "boolean", Internal),
            ("smoker", "boolean", Personal),
            ("colour", "string", Personal),
            ("", "string", Personal),
        ] {
            assert_eq!(suggest_level(key, ty).0, level, "{key}");
        }
        assert!(suggest_level("colour", "string").1.contains("no rule"));
    }

    #[test]
    fn nothing_is_suggested_to_be_public_and_each_reason_is_one_line() {
        for word in
            SECRETS.iter().chain(&SPECIAL).chain(&PERSONAL).chain(&SOMEBODY).chain(&MEASURES).chain(&FLAGS)
        {
            for ty in ["string", "int", "double", "boolean", "any"] {
                let (level, why) = suggest_level(&format!("{word}.id"), ty);
                assert!(level > PrivacyLevel::Public && !why.contains('\n') && !why.is_empty());
            }
        }
    }
}
