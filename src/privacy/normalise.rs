//! What is done to a text before a pseudonym is made of it, so that one person does not become several.
//!
//! Owns: the exact meaning of each step. Does not own: pseudonyms (`pseudonym`), which attribute has which steps
//! (`registry`).
//!
//! | step | meaning |
//! |---|---|
//! | trim | white space at both ends is cut off: characters with Unicode's property White_Space |
//! | lowercase | each character becomes what Unicode's default lower-case mapping makes of it, as in Python's `str.lower` |
//!
//! Trim comes first, however the steps are listed. The mail standard lets upper and lower case differ before the `@`; no
//! provider of any size does so, and two pseudonyms for one person break joins and erasure. Nothing else about an address
//! is changed: neither dots nor what follows a `+`.

use std::borrow::Cow;

use crate::registry::Normalisation;

/// Applies the steps. A text that they leave as it is, or only shorten, costs no allocation.
pub(super) fn apply(steps: Normalisation, text: &str) -> Cow<'_, str> {
    let text = if steps.trim { text.trim() } else { text };
    if steps.lowercase && !is_lowercase(text) { Cow::Owned(text.to_lowercase()) } else { Cow::Borrowed(text) }
}

/// True where the lower-case mapping changes nothing.
fn is_lowercase(text: &str) -> bool {
    if text.is_ascii() {
        return !text.bytes().any(|byte| byte.is_ascii_uppercase());
    }
    text.chars().all(|character| character.to_lowercase().eq([character]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Normalisation = Normalisation { trim: false, lowercase: false };
    const TRIM: Normalisation = Normalisation { trim: true, lowercase: false };
    const LOWERCASE: Normalisation = Normalisation { trim: false, lowercase: true };
    const EMAIL: Normalisation = Normalisation { trim: true, lowercase: true };

    #[test]
    fn spellings_of_one_person_become_equal() {
        for written in
            ["bob@example.org", " Bob@Example.org", "BOB@EXAMPLE.ORG\n", "\u{a0}bob@example.org\u{2003}"]
        {
            assert_eq!(apply(EMAIL, written), "bob@example.org", "{written:?}");
        }
        assert_eq!(apply(EMAIL, "B.o.b+Tag@x.org"), "b.o.b+tag@x.org");
    }

    #[test]
    fn each_step_does_only_its_own() {
        assert_eq!(apply(LOWERCASE, " ÄÖ İ ΟΔΟΣ"), " äö i\u{307} οδος");
        assert_eq!(apply(TRIM, "\tBob \u{200b}"), "Bob \u{200b}");
        assert_eq!(apply(NONE, " Bob "), " Bob ");
    }

    #[test]
    fn what_needs_no_change_is_borrowed() {
        for text in ["bob@example.org", "", "über", "日本", "ß", "7"] {
            assert!(matches!(apply(EMAIL, text), Cow::Borrowed(same) if same == text), "{text}");
        }
        assert!(matches!(apply(EMAIL, "  x "), Cow::Borrowed("x")));
        assert!(matches!(apply(EMAIL, "X"), Cow::Owned(_)));
    }

    #[test]
    fn applying_twice_is_applying_once() {
        for text in [" İSTANBUL ", "ΟΔΟΣ", "ẞ", "K\u{212a}", " a\u{85}"] {
            let once = apply(EMAIL, text).into_owned();
            assert_eq!(apply(EMAIL, &once), once, "{text}");
        }
    }
}
