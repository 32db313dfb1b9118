//! What the configuration file may say, before it is checked.
//!
//! Owns: the spelling of keys, defaults and units. Does not own: the meaning of a value.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use super::access::{AccessConfig, RawTls};
use super::catalog::RawCatalog;
use super::consent::RawConsent;
use super::maintain::RawMaintain;
use super::quarantine::RawQuarantine;
use super::storage;
use super::tables::{self, RawOtherTable, RawRoute, RawTable};
use super::{
    Config, ConfigError, FlushConfig, PrivacyConfig, ReceiveConfig, SecretReference, TableConfig, WalConfig,
};
use crate::privacy::{Destination, LevelTreatments, Rules};
use crate::receive::decode::{Rule, Source};
use crate::table::CatalogOptions;
use crate::wal::OnDamage;

/// The largest frame of the WAL: what the largest request can become.
const PAYLOAD_BYTES_MAX: u64 = 32 << 20;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    data_dir: PathBuf,
    schemas: PathBuf,
    receive: RawReceive,
    privacy: RawPrivacy,
    consent: RawConsent,
    wal: RawWal,
    table: RawTable,
    tables: Vec<RawOtherTable>,
    routes: Vec<RawRoute>,
    catalog: RawCatalog,
    storage: serde_json::Map<String, serde_json::Value>,
    quarantine: RawQuarantine,
    flush: RawFlush,
    maintain: RawMaintain,
    shutdown: RawShutdown,
    log: RawLog,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawReceive {
    grpc: SocketAddr,
    http: SocketAddr,
    admin: SocketAddr,
    tls: RawTls,
    tokens_file: Option<PathBuf>,
    insecure: bool,
    names: Vec<RawNameRule>,
    limits: RawLimits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNameRule {
    scope: Option<String>,
    attribute: Option<String>,
    #[serde(default)]
    body: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLimits {
    request_bytes: ByteSize,
    memory: ByteSize,
    connections: usize,
    #[serde(with = "humantime_serde")]
    request_time: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawPrivacy {
    key: Option<String>,
    #[serde(with = "humantime_serde")]
    future_max: Duration,
    #[serde(with = "humantime_serde")]
    age_max: Duration,
    level_attribute: String,
    category_attribute: String,
    tenant_attribute: Option<String>,
    policy: RawPolicy,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawPolicy {
    warehouse: serde_json::Map<String, serde_json::Value>,
    amplitude: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawWal {
    max_bytes: ByteSize,
    segment_bytes: ByteSize,
    on_damage: RawOnDamage,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawOnDamage {
    Refuse,
    SetAside,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawFlush {
    #[serde(with = "humantime_serde")]
    max_age: Duration,
    max_bytes: ByteSize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawShutdown {
    #[serde(with = "humantime_serde")]
    grace: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLog {
    filter: String,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./esker-data"),
            schemas: PathBuf::from("./schemas"),
            receive: RawReceive::default(),
            privacy: RawPrivacy::default(),
            consent: RawConsent::default(),
            wal: RawWal::default(),
            table: RawTable::default(),
            tables: Vec::new(),
            routes: Vec::new(),
            catalog: RawCatalog::default(),
            storage: serde_json::Map::new(),
            quarantine: RawQuarantine::default(),
            flush: RawFlush::default(),
            maintain: RawMaintain::default(),
            shutdown: RawShutdown::default(),
            log: RawLog::default(),
        }
    }
}

impl Default for RawReceive {
    fn default() -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            grpc: local(4317),
            http: local(4318),
            admin: local(4319),
            tls: RawTls::default(),
            tokens_file: None,
            insecure: false,
            names: Vec::new(),
            limits: RawLimits::default(),
        }
    }
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            request_bytes: ByteSize::mib(16),
            memory: ByteSize::mib(64),
            connections: 256,
            request_time: Duration::from_secs(20),
        }
    }
}

impl Default for RawPrivacy {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        // A year of history can be loaded; more would let one bad clock open thousands of partitions.
        Self {
            key: None,
            future_max: DAY,
            age_max: DAY * 400,
            level_attribute: "event.privacy_level".to_owned(),
            category_attribute: "event.category".to_owned(),
            tenant_attribute: None,
            policy: RawPolicy::default(),
        }
    }
}

impl Default for RawWal {
    fn default() -> Self {
        Self { max_bytes: ByteSize::gib(4), segment_bytes: ByteSize::mib(64), on_damage: RawOnDamage::Refuse }
    }
}

impl Default for RawFlush {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(30), max_bytes: ByteSize::mib(256) }
    }
}

impl Default for RawShutdown {
    fn default() -> Self {
        Self { grace: Duration::from_secs(30) }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        Self { filter: "info".to_owned() }
    }
}

impl RawConfig {
    /// Checks every value on its own and against the others.
    pub(super) fn validate(self) -> Result<Config, ConfigError> {
        let catalog = self.catalog.validate("catalog")?;
        let key = match &self.privacy.key {
            None => SecretReference::File(self.data_dir.join("esker.key")),
            Some(text) => secret_reference("privacy.key", text)?,
        };
        let beside_the_log = || format!("file://{}/warehouse", self.data_dir.display());
        let mut tables = tables::tables(self.table, self.tables, &catalog, beside_the_log)?;
        let is_rest = |table: &&TableConfig| matches!(table.catalog, CatalogOptions::Rest(_));
        let folders: Vec<_> =
            tables.iter().filter(|table| !is_rest(table)).map(|table| table.warehouse.as_str()).collect();
        let anywhere = tables.iter().any(|table| is_rest(&table));
        let storage = storage::validate(self.storage, &folders, anywhere, &storage::environment)?;
        let storage = Arc::new(storage);
        tables.iter_mut().for_each(|table| table.storage = Arc::clone(&storage));
        let routes = tables::routes(self.routes, &tables)?;
        let quarantine = self.quarantine.validate(&tables)?;
        Ok(Config {
            receive: self.receive.validate()?,
            privacy: self.privacy.validate(key)?,
            consent: self.consent.validate()?,
            wal: self.wal.validate()?,
            tables,
            routes,
            quarantine,
            flush: FlushConfig {
                max_age: at_least("flush.max_age", self.flush.max_age, Duration::from_millis(100))?,
                max_bytes: bytes_within("flush.max_bytes", self.flush.max_bytes, ByteSize::mib(1), None)?,
            },
            maintain: self.maintain.validate()?,
            shutdown_grace: at_least("shutdown.grace", self.shutdown.grace, Duration::from_secs(1))?,
            log_filter: self.log.filter,
            ignored_variables: Vec::new(),
            data_dir: self.data_dir,
            schemas: self.schemas,
        })
    }
}

impl RawPrivacy {
    fn validate(self, key: SecretReference) -> Result<PrivacyConfig, ConfigError> {
        let levels = |destination: Destination, map: &serde_json::Map<String, serde_json::Value>| {
            let key = format!("privacy.policy.{}", destination.as_str());
            LevelTreatments::parse(map).map_err(|error| problem(&key, &error.to_string()))
        };
        Ok(PrivacyConfig {
            key,
            future_max: self.future_max,
            age_max: at_least("privacy.age_max", self.age_max, Duration::from_secs(3600))?,
            rules: Rules {
                warehouse: levels(Destination::Warehouse, &self.policy.warehouse)?,
                amplitude: levels(Destination::Amplitude, &self.policy.amplitude)?,
            },
            level_key: attribute_key("privacy.level_attribute", self.level_attribute)?,
            category_key: attribute_key("privacy.category_attribute", self.category_attribute)?,
            tenant_key: self
                .tenant_attribute
                .map(|key| attribute_key("privacy.tenant_attribute", key))
                .transpose()?,
        })
    }
}

fn attribute_key(key: &str, attribute: String) -> Result<String, ConfigError> {
    if attribute.is_empty() {
        return Err(problem(key, "must be an attribute's key, for example event.category"));
    }
    Ok(attribute)
}

impl RawReceive {
    fn validate(self) -> Result<ReceiveConfig, ConfigError> {
        let names = self.names.into_iter().map(RawNameRule::validate).collect::<Result<_, _>>()?;
        let largest = ByteSize::mib(256);
        let request_bytes_max = bytes_within(
            "receive.limits.request_bytes",
            self.limits.request_bytes,
            ByteSize::kib(64),
            Some(largest),
        )?;
        let memory_bytes_max =
            bytes_within("receive.limits.memory", self.limits.memory, ByteSize::mib(1), None)?;
        if memory_bytes_max < request_bytes_max.saturating_mul(2) {
            return Err(problem(
                "receive.limits.memory",
                "must be at least twice receive.limits.request_bytes: a request is held with what it decompresses to",
            ));
        }
        if self.limits.connections == 0 {
            return Err(problem("receive.limits.connections", "must be at least 1"));
        }
        let addresses =
            [("receive.grpc", self.grpc), ("receive.http", self.http), ("receive.admin", self.admin)];
        Ok(ReceiveConfig {
            access: AccessConfig::new(self.tls, self.tokens_file, self.insecure, addresses)?,
            grpc: self.grpc,
            http: self.http,
            admin: self.admin,
            names,
            request_bytes_max,
            memory_bytes_max,
            connections_max: self.limits.connections,
            request_time_max: at_least(
                "receive.limits.request_time",
                self.limits.request_time,
                Duration::from_secs(1),
            )?,
        })
    }
}

impl RawNameRule {
    fn validate(self) -> Result<Rule, ConfigError> {
        let source = match (self.attribute, self.body) {
            (Some(key), false) if !key.is_empty() => Source::Attribute(key),
            (None, true) => Source::Body,
            _ => {
                return Err(problem(
                    "receive.names",
                    "each entry needs either attribute = \"KEY\" or body = true",
                ));
            }
        };
        Ok(Rule { scope: self.scope, source })
    }
}

impl RawWal {
    fn validate(self) -> Result<WalConfig, ConfigError> {
        let segment_bytes =
            bytes_within("wal.segment_bytes", self.segment_bytes, ByteSize::mib(1), Some(ByteSize::gib(1)))?;
        let smallest = ByteSize::b(segment_bytes.saturating_add(PAYLOAD_BYTES_MAX * 2));
        Ok(WalConfig {
            bytes_max: bytes_within("wal.max_bytes", self.max_bytes, smallest, None)?,
            segment_bytes,
            on_damage: match self.on_damage {
                RawOnDamage::Refuse => OnDamage::Refuse,
                RawOnDamage::SetAside => OnDamage::SetAside,
            },
        })
    }
}

pub(super) fn problem(key: &str, problem: &str) -> ConfigError {
    ConfigError::Key { key: key.to_owned(), place: "configuration".to_owned(), problem: problem.to_owned() }
}

fn at_least(key: &str, value: Duration, least: Duration) -> Result<Duration, ConfigError> {
    if value >= least {
        return Ok(value);
    }
    Err(problem(key, &format!("{value:?} is too short; the least is {least:?}")))
}

fn bytes_within(
    key: &str,
    value: ByteSize,
    least: ByteSize,
    most: Option<ByteSize>,
) -> Result<u64, ConfigError> {
    if value < least {
        return Err(problem(key, &format!("{value} is too small; the least is {least}")));
    }
    match most {
        Some(most) if value > most => Err(problem(key, &format!("{value} is too large; the most is {most}"))),
        _ => Ok(value.as_u64()),
    }
}

fn secret_reference(key: &str, text: &str) -> Result<SecretReference, ConfigError> {
    if let Some(("command", line)) = text.split_once(':') {
        let mut words = line.split_whitespace().map(str::to_owned);
        if let Some(program) = words.next() {
            return Ok(SecretReference::Command { program, arguments: words.collect() });
        }
    }
    match text.split_once(':') {
        Some(("env", name)) if !name.is_empty() => Ok(SecretReference::Environment(name.to_owned())),
        Some(("file", path)) if !path.is_empty() => Ok(SecretReference::File(PathBuf::from(path))),
        // The text may be the secret itself: it is not repeated.
        _ => Err(problem(
            key,
            "a secret is given by reference, file:PATH, env:NAME or command:PROGRAM ARG ..., never by its value",
        )),
    }
}
