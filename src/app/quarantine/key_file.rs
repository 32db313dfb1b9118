//! The file of a private key: one line, readable by its owner only.
//!
//! Owns: its mode, that it replaces no other, that no copy of it stays in memory. Does not own: the key's text.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use zeroize::Zeroizing;

use crate::privacy::seal::OpeningKey;

/// Longest key file that is read: the line is 56 characters, the rest is room for white space.
const FILE_BYTES_MAX: usize = 256;

/// Writes a key to a new file of mode 0600.
///
/// # Errors
/// Where there is a file already, or it cannot be written.
pub fn create(path: &Path, key: &OpeningKey) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match file {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!(
                "{} exists and is not overwritten: it may be the key of sealed payloads; name another file",
                path.display()
            )
        }
        file => file.with_context(|| format!("creating {}", path.display()))?,
    };
    let mut line = key.to_text();
    line.push('\n');
    let written = file.write_all(line.as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Half a key helps nobody, and would be in the way of the next attempt.
        drop(std::fs::remove_file(path));
        return Err(error).with_context(|| format!("writing {}", path.display()));
    }
    Ok(())
}

/// Reads a key; refuses a file that others may read.
///
/// # Errors
/// Where there is no such file, others may read or write it, or it holds no key. Never shows what it holds.
pub fn load(path: &Path) -> anyhow::Result<OpeningKey> {
    let context = || format!("private key {}", path.display());
    let file = File::open(path).with_context(context)?;
    let mode = file.metadata().with_context(context)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        bail!(
            "private key {0} has mode {mode:04o}, so others may read it; run `chmod 600 {0}`",
            path.display()
        );
    }
    // Of a fixed size: a buffer that grows would leave copies of the key behind.
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX + 1));
    file.take(FILE_BYTES_MAX as u64).read_to_end(&mut text).with_context(context)?;
    let text = std::str::from_utf8(&text).ok().context("it is not text").with_context(context)?;
    OpeningKey::parse(text).with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_file_is_private_and_gives_the_same_key_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("open.key");
        let key = OpeningKey::generate().unwrap();
        create(&path, &key).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load(&path).unwrap().recipient(), key.recipient());
    }

    #[test]
    fn a_file_that_exists_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("open.key");
        std::fs::write(&path, "precious").unwrap();
        let error = create(&path, &OpeningKey::generate().unwrap()).unwrap_err().to_string();
        assert!(error.contains("not overwritten"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_key_file_that_others_may_read_is_refused_with_the_fix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("open.key");
        create(&path, &OpeningKey::generate().unwrap()).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        load(&path).unwrap();
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("open.key");
        assert!(format!("{:#}", load(&path).unwrap_err()).contains("open.key"));
        for content in ["hunter2hunter2", "", "esker-open-1:hunter2"] {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let error = format!("{:#}", load(&path).unwrap_err());
            assert!(error.contains("not a private key") && !error.contains("hunter2"), "{error}");
        }
    }
}
