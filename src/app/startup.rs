//! What several commands open the same way: the key, the policy.
//!
//! Owns: mapping the configuration's sections to each stage's options. Does not own: those options' meaning.

use std::path::Path;

use anyhow::Context;

use crate::config::{Config, SecretReference};
use crate::privacy::{GateOptions, TableRules};
use crate::secret::{self, MasterKey};

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
        rules: config.privacy.rules.clone(),
        level_key: config.privacy.level_key.clone(),
        category_key: config.privacy.category_key.clone(),
        tenant_key: config.privacy.tenant_key.clone(),
        ..GateOptions::default()
    }
}

/// Reads the master key. A `fresh` data directory gets one; another must have its own, since without it the pseudonyms
/// in the table could never be matched again.
pub(super) fn master_key(config: &Config, fresh: bool) -> anyhow::Result<MasterKey> {
    match &config.privacy.key {
        SecretReference::Environment(name) => {
            let text = secret::environment(name).with_context(|| format!("privacy.key (env:{name})"))?;
            MasterKey::from_env_value(&text).with_context(|| format!("privacy.key (env:{name})"))
        }
        SecretReference::File(path) if fresh => {
            create_parent(path)?;
            Ok(MasterKey::load_or_create(path)?)
        }
        SecretReference::File(path) => MasterKey::load(path).with_context(|| {
            format!(
                "privacy.key: {} was used with the key in {}; restore that file from a backup",
                config.data_dir.display(),
                path.display()
            )
        }),
    }
}

fn create_parent(path: &Path) -> anyhow::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => {
            std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))
        }
        _ => Ok(()),
    }
}
