//! Secrets that are not keys of a keyring: passwords, tokens and access keys of other services, given by reference.
//!
//! Owns: reading what a reference names, each time that it is asked for: so a value that is rotated in its file needs no
//! restart. Does not own: what it is good for.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::{SecretError, environment};

/// Longest value, bytes: a Google credentials file has some 3 kB, a token less.
pub const VALUE_BYTES_MAX: u64 = 64 << 10;

/// Where a value is; never the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueReference {
    /// `env:NAME`.
    Environment(String),
    /// `file:PATH`.
    File(PathBuf),
}

/// Why there is no value. Holds names and paths, never what they name.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    /// The variable is missing.
    #[error("the environment variable {0} is not set, or is not UTF-8; set it")]
    Unset(String),
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; it must be a text file that this process may read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The value is no line of text.
    #[error("{0} must name one to {VALUE_BYTES_MAX} bytes of printable ASCII text")]
    Unusable(ValueReference),
}

impl ValueReference {
    /// Reads `env:NAME` or `file:PATH`; None where the text is neither. It may then be the secret itself: do not repeat it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Some(Self::Environment(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Some(Self::File(PathBuf::from(path))),
            _ => None,
        }
    }

    /// Reads the value, without white space around it.
    ///
    /// # Errors
    /// Where there is none, or it could not be sent in a header.
    pub fn read(&self) -> Result<Zeroizing<String>, ValueError> {
        let text = match self {
            Self::Environment(name) => {
                environment(name).map_err(|_: SecretError| ValueError::Unset(name.clone()))?
            }
            Self::File(path) => {
                let failed = |source| ValueError::Unreadable { path: path.clone(), source };
                let mut text = Zeroizing::new(String::new());
                let file = File::open(path).map_err(failed)?;
                file.take(VALUE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
                text
            }
        };
        let value = text.trim();
        let is_text = |c: char| c.is_ascii_graphic() || c.is_ascii_whitespace();
        if value.is_empty() || value.len() as u64 > VALUE_BYTES_MAX || !value.chars().all(is_text) {
            return Err(ValueError::Unusable(self.clone()));
        }
        Ok(Zeroizing::new(value.to_owned()))
    }

    /// Reads a value that is one word, as keys and tokens are.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_word(&self) -> Result<Zeroizing<String>, ValueError> {
        let value = self.read()?;
        if value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(value);
        }
        Err(ValueError::Unusable(self.clone()))
    }
}

impl std::fmt::Display for ValueReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Environment(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_anew_each_time_and_without_its_last_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let reference = ValueReference::parse(&format!("file:{}", path.display())).unwrap();
        for value in ["one", "two"] {
            std::fs::write(&path, format!("{value}\n")).unwrap();
            assert_eq!(*reference.read_word().unwrap(), value);
        }
    }

    #[test]
    fn what_is_no_reference_or_no_word_is_refused_without_repeating_it() {
        for text in ["AKIAEXAMPLE", "env:", "file:", "vault:x", ""] {
            assert_eq!(ValueReference::parse(text), None, "{text}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let reference = ValueReference::File(path.clone());
        assert!(reference.read().unwrap_err().to_string().contains("cannot read"));
        for value in ["two words", "hidden\u{7f}", "schlüssel", "", " \n"] {
            std::fs::write(&path, value).unwrap();
            let error = reference.read_word().unwrap_err().to_string();
            assert!(error.contains("printable"), "{error}");
            assert!(value.trim().is_empty() || !error.contains(value.trim()), "{error}");
        }
    }
}
