//! Configuration in two steps: what the file and the environment say (`raw`), then a [`Config`] of validated values.
//!
//! Owns: the keys, their defaults, their units, and the messages about them. Does not own: what a section means; each
//! stage gets only its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Env, Format, Toml};
use figment::value::UncasedStr;

pub mod access;
mod catalog;
pub mod quarantine;
mod consent;
pub mod maintain;
pub mod raw;
mod storage;
pub mod tables;

use access::AccessConfig;
use maintain::MaintainConfig;
use quarantine::{BrokenContract, QuarantineConfig, UndeclaredEvents};
use raw::RawConfig;

pub use tables::TableConfig;

use crate::privacy::{ConsentOptions, GateOptions, Route, Rules, TableRules};
use crate::receive::decode::Rule;
use crate::wal::OnDamage;

/// The file that is read when `--config` is not given and it exists.
pub const DEFAULT_FILE: &str = "esker.toml";

/// Variables that start with this set keys; `__` separates levels (`ESKER_FLUSH__MAX_AGE`).
pub const ENVIRONMENT_PREFIX: &str = "ESKER_";

/// The keys that stand in no section, so that their variables have no `__`.
const UNSECTIONED_KEYS: [&str; 2] = ["data_dir", "schemas"];

/// A configuration that was checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the WAL, the key and the embedded warehouse live.
    pub data_dir: PathBuf,
    /// The registry's folder.
    pub schemas: PathBuf,
    /// Listeners and their limits.
    pub receive: ReceiveConfig,
    /// The gate.
    pub privacy: PrivacyConfig,
    /// Consent.
    pub consent: ConsentOptions,
    /// The write-ahead log.
    pub wal: WalConfig,
    /// The tables of events. The first is the primary, of section `table`; the others are of `[[tables]]`.
    pub tables: Vec<TableConfig>,
    /// Which events go where.
    pub routes: Vec<Route>,
    /// Broken events.
    pub quarantine: QuarantineConfig,
    /// Triggers of a flush.
    pub flush: FlushConfig,
    /// The care of the tables.
    pub maintain: MaintainConfig,
    /// How long a stop may take before it is cut short.
    pub shutdown_grace: Duration,
    /// `tracing` filter directives for stderr.
    pub log_filter: String,
    /// Variables with Esker's prefix that name no key. Kubernetes makes such for a service of the name `esker`, and the
    /// variable of a secret may be one, so they stop nothing; a misspelt one is found in the log.
    pub ignored_variables: Vec<String>,
}

/// Section `receive`.
#[derive(Debug, Clone)]
pub struct ReceiveConfig {
    /// OTLP/gRPC.
    pub grpc: SocketAddr,
    /// OTLP/HTTP.
    pub http: SocketAddr,
    /// Health, metrics, status.
    pub admin: SocketAddr,
    /// Who may come in.
    pub access: AccessConfig,
    /// Where an event's name is found when it is in none of the standard places.
    pub names: Vec<Rule>,
    /// Largest request, compressed and decompressed, bytes.
    pub request_bytes_max: u64,
    /// All requests in flight together, bytes.
    pub memory_bytes_max: u64,
    /// Connections per listener.
    pub connections_max: usize,
    /// How long a request's body may take to arrive.
    pub request_time_max: Duration,
}

/// Section `privacy`.
#[derive(Debug, Clone)]
pub struct PrivacyConfig {
    /// Where the keyring is.
    pub key: SecretReference,
    /// How far in the future an event may be dated.
    pub future_max: Duration,
    /// How old an event may be.
    pub age_max: Duration,
    /// Levels to treatments.
    pub rules: Rules,
    /// The attribute in which a record states its own level.
    pub level_key: String,
    /// The attribute in which a record states its own category.
    pub category_key: String,
    /// The attribute that names the tenant, where tenants have keys of their own.
    pub tenant_key: Option<String>,
}

/// Where a secret is; never the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretReference {
    /// `env:NAME`.
    Environment(String),
    /// `file:PATH`.
    File(PathBuf),
    /// `command:PROGRAM ARG ...`, divided at white space; no shell reads it.
    Command {
        /// A path, or a name that is looked up in `PATH`.
        program: String,
        /// Its arguments.
        arguments: Vec<String>,
    },
}

/// Section `wal`.
#[derive(Debug, Clone)]
pub struct WalConfig {
    /// Cap on the log's files, bytes.
    pub bytes_max: u64,
    /// Size of one file, bytes.
    pub segment_bytes: u64,
    /// What happens to acknowledged frames that cannot be read.
    pub on_damage: OnDamage,
}

/// Section `flush`.
#[derive(Debug, Clone, Copy)]
pub struct FlushConfig {
    /// Age of the oldest durable, uncommitted event that triggers a flush.
    pub max_age: Duration,
    /// Bytes in the WAL that trigger a flush; also the most that one commit takes.
    pub max_bytes: u64,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file named by `--config` cannot be read.
    #[error("configuration file {}: {source}; name a readable file with --config", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key is unknown, or its value has the wrong type or unit.
    #[error("{key} ({place}): {problem}")]
    Key {
        /// The key, dotted.
        key: String,
        /// Which file or variable it came from.
        place: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

impl Config {
    /// Reads `file`, or `esker.toml` where it exists, then the environment over it.
    ///
    /// # Errors
    /// [`ConfigError`], which names the key, the problem and the fix.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut figment = Figment::new();
        if let Some(path) = file {
            std::fs::File::open(path)
                .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
            figment = figment.merge(Toml::file_exact(path));
        } else if Path::new(DEFAULT_FILE).exists() {
            figment = figment.merge(Toml::file_exact(DEFAULT_FILE));
        }
        let variables = Env::prefixed(ENVIRONMENT_PREFIX);
        let mut config = Self::from_figment(&figment.merge(variables.clone().filter(names_key).split("__")))?;
        let ignored = variables.filter(|name| !names_key(name));
        config.ignored_variables = ignored
            .iter()
            .map(|(name, _)| format!("{ENVIRONMENT_PREFIX}{}", name.as_str().to_uppercase()))
            .collect();
        Ok(config)
    }

    /// What it says of the privacy gate.
    #[must_use]
    pub fn gate_options(&self) -> GateOptions {
        let table = |table: &TableConfig| TableRules { name: table.name.clone(), levels: table.policy };
        GateOptions {
            future_max: self.privacy.future_max,
            age_max: self.privacy.age_max,
            tables: self.tables.iter().map(table).collect(),
            routes: self.routes.clone(),
            consent: self.consent.clone(),
            rules: self.privacy.rules.clone(),
            level_key: self.privacy.level_key.clone(),
            category_key: self.privacy.category_key.clone(),
            tenant_key: self.privacy.tenant_key.clone(),
            quarantine_broken: self.quarantine.broken_contract == BrokenContract::Quarantine,
            quarantine_undeclared: self.quarantine.undeclared_events == UndeclaredEvents::Quarantine,
            recipient: self.quarantine.recipient.clone(),
            ..GateOptions::default()
        }
    }

    /// Reads TOML text alone, without the environment.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        Self::from_figment(&Figment::new().merge(Toml::string(text)))
    }

    fn from_figment(figment: &Figment) -> Result<Self, ConfigError> {
        let raw: RawConfig = figment.extract().map_err(key_error)?;
        raw.validate()
    }
}

/// True where a variable, without its prefix, is meant to set a key.
fn names_key(variable: &UncasedStr) -> bool {
    variable.as_str().contains("__") || UNSECTIONED_KEYS.iter().any(|key| variable == *key)
}

/// Keeps the first problem: fixing it often fixes the rest.
fn key_error(error: figment::Error) -> ConfigError {
    let Some(first) = error.into_iter().next() else {
        return ConfigError::Key {
            key: "configuration".to_owned(),
            place: "?".to_owned(),
            problem: "unreadable".to_owned(),
        };
    };
    let place = first.metadata.as_ref().map_or_else(
        || "default".to_owned(),
        |metadata| metadata.source.as_ref().map_or_else(|| metadata.name.to_string(), ToString::to_string),
    );
    let mut key = first.path.join(".");
    // An unknown field carries its own name, not a path to it.
    if let figment::error::Kind::UnknownField(name, _) = &first.kind
        && first.path.last() != Some(name)
    {
        key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
    }
    if key.is_empty() {
        "configuration".clone_into(&mut key);
    }
    ConfigError::Key { key, place, problem: first.kind.to_string() }
}

#[cfg(test)]
mod tests;
