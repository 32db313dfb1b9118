//! Credentials of other services: read where a reference says, at the moment of use, so that what rotates them is followed.
//!
//! Owns: reading them, the cap on their size, that nothing shows them. Does not own: how they are spelt in a configuration, what
//! they open.

use std::fmt;
use std::io;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::file::read_all;
use super::{SecretError, environment};

/// Longest credential, bytes. A service account's key file takes some 2 kB, a signed token seldom more than 8.
const CREDENTIAL_BYTES_MAX: usize = 64 << 10;

/// Where a credential is; never the credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// An environment variable.
    Environment(String),
    /// A file, whose mode is its owner's affair: an orchestrator mounts such files as it likes.
    File(PathBuf),
}

/// Why a credential could not be read. Names the place only.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The variable is missing.
    #[error("the environment variable {0} is not set, or is not UTF-8; set it to the credential")]
    Unset(String),
    /// The file cannot be read.
    #[error("the credential's file {path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no usable credential.
    #[error("the credential in {origin} {problem}")]
    Unusable {
        /// Where it was read.
        origin: String,
        /// What is wrong with it, without its content.
        problem: &'static str,
    },
}

impl CredentialSource {
    /// Reads it. White space around it, such as a file's last newline, is no part of it.
    ///
    /// # Errors
    /// If it is not there, empty, or cannot be one: it is longer than 64 KiB, or has control characters.
    pub fn read(&self) -> Result<Zeroizing<String>, CredentialError> {
        let unusable = |problem| CredentialError::Unusable { origin: self.to_string(), problem };
        let text = match self {
            Self::Environment(name) => environment(name).map_err(|error| match error {
                SecretError::Unset { name } => CredentialError::Unset(name),
                _ => CredentialError::Unset(name.clone()),
            })?,
            Self::File(path) => {
                let unreadable = |source| CredentialError::Unreadable { path: path.clone(), source };
                let mut file = std::fs::File::open(path).map_err(unreadable)?;
                let bytes = read_all(&mut file, CREDENTIAL_BYTES_MAX).map_err(unreadable)?;
                let bytes = bytes.ok_or_else(|| unusable("is longer than 64 KiB; is it the right file?"))?;
                let text = std::str::from_utf8(&bytes).map_err(|_| unusable("is not UTF-8"))?;
                Zeroizing::new(text.to_owned())
            }
        };
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(unusable("is empty"));
        }
        if trimmed.chars().any(char::is_control) {
            return Err(unusable("has control characters, a line break perhaps; it must be one line"));
        }
        Ok(Zeroizing::new(trimmed.to_owned()))
    }
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(name) => write!(f, "the environment variable {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_file(bytes: &[u8]) -> Result<Zeroizing<String>, CredentialError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, bytes).unwrap();
        CredentialSource::File(path).read()
    }

    #[test]
    fn a_file_is_read_without_the_newline_at_its_end() {
        assert_eq!(in_file(b"abc.def\n").unwrap().as_str(), "abc.def");
    }

    #[test]
    fn what_can_be_no_credential_is_refused_without_being_shown() {
        for bytes in [&b"  \n"[..], b"two\nlines", b"\xff\xfe", &[b'x'; CREDENTIAL_BYTES_MAX + 1]] {
            let error = in_file(bytes).unwrap_err().to_string();
            assert!(!error.contains("lines") && !error.contains("xxx"), "{error}");
        }
    }

    #[test]
    fn a_missing_variable_and_a_missing_file_are_named() {
        let unset = CredentialSource::Environment("ESKER_TEST_NEVER_SET".to_owned()).read().unwrap_err();
        assert!(unset.to_string().contains("ESKER_TEST_NEVER_SET"), "{unset}");
        let missing = CredentialSource::File("/nonexistent/token".into()).read().unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/token"), "{missing}");
    }
}
