//! The files of access: reading them, and whether others could change or read them.
//!
//! Owns: their sizes, their modes, the errors that name key and file. Does not own: what they mean.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// Most of a file that is read: certificates of hundreds of authorities, or all the tokens there may be.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where certificate and key are (`receive.tls`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first (`cert`).
    pub certificate: PathBuf,
    /// Its private key (`key`).
    pub key: PathBuf,
    /// The authorities of which the OTLP ports want a client's certificate (`client_ca`).
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// Each file with the key that names it.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let client_ca = self.client_ca.as_deref().map(|path| ("receive.tls.client_ca", path));
        [("receive.tls.cert", &*self.certificate), ("receive.tls.key", &*self.key)]
            .into_iter()
            .chain(client_ca)
    }
}

/// Everything that says who may come in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessFiles {
    /// `receive.tls`.
    pub tls: Option<TlsFiles>,
    /// `receive.tokens_file`.
    pub tokens: Option<PathBuf>,
}

/// Why a file of access cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// It cannot be read.
    #[error("{key}: cannot read {}: {source}", path.display())]
    Unreadable {
        /// The configuration's key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others than the owner can do too much with it.
    #[error("{key}: {} has mode {mode:04o}, so {problem}; {remedy}", path.display())]
    Permissions {
        /// The configuration's key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What that allows.
        problem: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// It is too large to be what it should be.
    #[error("{key}: {} is larger than 1 MiB; name the right file", path.display())]
    TooLarge {
        /// The configuration's key.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// It does not hold what it should.
    #[error("{key}: {}: {problem}", path.display())]
    Content {
        /// The configuration's key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong, without its content.
        problem: String,
    },
    /// There are no random bytes for the local token.
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

/// What others than its owner must not be able to do with a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Privacy {
    /// Change it.
    Unchanged,
    /// Change it or, unless they are of its group, read it. Kubernetes mounts secrets readable by the pod's group.
    Secret,
}

/// Reads a whole file through whatever links lead to it.
pub(super) fn read(
    key: &'static str,
    path: &Path,
    privacy: Privacy,
) -> Result<Zeroizing<Vec<u8>>, AccessError> {
    let failed = |source| AccessError::Unreadable { key, path: path.to_owned(), source };
    // Opening a pipe would wait for its writer.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(AccessError::Content {
            key,
            path: path.to_owned(),
            problem: "it is no regular file".to_owned(),
        });
    }
    let mode = metadata.permissions().mode() & 0o7777;
    let wrong =
        |problem, remedy| AccessError::Permissions { key, path: path.to_owned(), mode, problem, remedy };
    match privacy {
        Privacy::Secret if mode & 0o027 != 0 => {
            return Err(wrong(
                "others than its owner and group may read it, or others than its owner may change it",
                "set mode 0600, or 0440 for a mounted secret (defaultMode: 0440 in Kubernetes)",
            ));
        }
        Privacy::Unchanged if mode & 0o022 != 0 => {
            return Err(wrong("others than its owner may change it", "take that right away (chmod go-w)"));
        }
        _ => {}
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(AccessError::TooLarge { key, path: path.to_owned() });
    }
    // Of a fixed size, for a buffer that grows would leave copies of the key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
