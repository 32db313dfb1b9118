//! What several commands open the same way: the keys.
//!
//! Owns: where the keyring comes from, and the folder it is made in. Does not own: what is in it (`secret`).

use std::path::Path;

use anyhow::Context;

use crate::config::{Config, SecretReference};
use crate::secret::{self, Keyring, SecretError};

/// Reads the keyring. A `fresh` data directory gets one; another must have its own, since without it the pseudonyms in the
/// table could never be matched again.
pub(super) fn keyring(config: &Config, fresh: bool, now_micros: i64) -> anyhow::Result<Keyring> {
    match &config.privacy.key {
        SecretReference::Environment(name) => {
            let text = secret::environment(name).context("privacy.key")?;
            Keyring::parse(&text, &format!("the environment variable {name}")).context("privacy.key")
        }
        SecretReference::Command { program, arguments } => {
            Keyring::from_command(program, arguments).context("privacy.key")
        }
        SecretReference::File(path) if fresh => {
            create_parent(path)?;
            Ok(Keyring::load_or_create(path, now_micros)?)
        }
        SecretReference::File(path) => Keyring::load(path).map_err(|error| {
            // Only a key that is gone needs a backup; every other error says itself what to do.
            let is_gone = matches!(error, SecretError::Missing { .. });
            anyhow::Error::new(error).context(if is_gone {
                format!("privacy.key: {} was used with these keys", config.data_dir.display())
            } else {
                "privacy.key".to_owned()
            })
        }),
    }
}

/// Makes the data directory as others are made: its files, except the keys, may be anybody's to read.
pub(super) fn create_parent(path: &Path) -> anyhow::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => {
            std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_a_key_that_is_gone_asks_for_a_backup() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("esker.key");
        let file = folder.path().join("esker.toml");
        std::fs::write(&file, "").unwrap();
        let mut config = Config::load(Some(&file)).unwrap();
        config.privacy.key = SecretReference::File(path.clone());
        let said = |config: &Config| format!("{:#}", keyring(config, false, 0).unwrap_err());
        let gone = said(&config);
        assert!(gone.contains("backup") && gone.contains("was used with"), "{gone}");
        Keyring::create(&path, 0).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let open = said(&config);
        assert!(open.contains("chmod 600") && !open.contains("backup"), "{open}");
    }
}
