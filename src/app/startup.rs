//! What several commands open the same way: the key, the policy.
//!
//! Owns: mapping the configuration's sections to each stage's options. Does not own: those options' meaning.

use std::path::Path;

use anyhow::Context;

use crate::config::quarantine::{BrokenContract, UndeclaredEvents};
use crate::config::{Config, SecretReference};
use crate::privacy::{GateOptions, TableRules};
use crate::secret::{self, Keyring};

/// The gate's options.
pub(super) fn gate_options(config: &Config) -> GateOptions {
    GateOptions {
        future_max: config.privacy.future_max,
        age_max: config.privacy.age_max,
        tables: config
            .tables
            .iter()
            .map(|table| TableRules { name: table.name.clone(), levels: table.policy })
            .collect(),
        routes: config.routes.clone(),
        consent: config.consent.clone(),
        rules: config.privacy.rules.clone(),
        level_key: config.privacy.level_key.clone(),
        category_key: config.privacy.category_key.clone(),
        tenant_key: config.privacy.tenant_key.clone(),
        quarantine_broken: config.quarantine.broken_contract == BrokenContract::Quarantine,
        quarantine_undeclared: config.quarantine.undeclared_events == UndeclaredEvents::Quarantine,
        recipient: config.quarantine.recipient.clone(),
        ..GateOptions::default()
    }
}

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
        SecretReference::File(path) => Keyring::load(path).with_context(|| {
            format!(
                "privacy.key: {} was used with the keys in {}; restore that file from a backup",
                config.data_dir.display(),
                path.display()
            )
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
