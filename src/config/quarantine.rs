//! The section `[quarantine]`: where broken events go, and to whom their payloads are sealed.
//!
//! Owns: its keys, their defaults and messages. Does not own: which event is broken (`privacy`).

use std::time::Duration;

use serde::Deserialize;

use super::ConfigError;
use super::tables::{self, TableConfig, quarantine_name, withdrawals_name};
use crate::privacy::seal::Recipient;

/// Section `quarantine`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineConfig {
    /// `namespace.table`, in the warehouse of the primary table.
    pub table: String,
    /// Whom payloads are sealed to; without one, no payload is kept.
    pub recipient: Option<Recipient>,
    /// How long its rows are kept, in days.
    pub retention_days: Option<u32>,
    /// What happens to a declared event that breaks its contract.
    pub broken_contract: BrokenContract,
    /// What happens to an event that the registry does not declare.
    pub undeclared_events: UndeclaredEvents,
}

/// What happens to a declared event that breaks its contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BrokenContract {
    /// It goes to quarantine.
    Quarantine,
    /// It is stored without the attributes at fault.
    Store,
}

/// What happens to an event that the registry does not declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UndeclaredEvents {
    /// It is counted and dropped.
    Drop,
    /// It goes to quarantine.
    Quarantine,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawQuarantine {
    table: Option<String>,
    recipient: Option<String>,
    #[serde(with = "humantime_serde")]
    retention: Option<Duration>,
    broken_contract: BrokenContract,
    undeclared_events: UndeclaredEvents,
}

impl Default for RawQuarantine {
    fn default() -> Self {
        Self {
            table: None,
            recipient: None,
            retention: None,
            broken_contract: BrokenContract::Quarantine,
            undeclared_events: UndeclaredEvents::Drop,
        }
    }
}

impl RawQuarantine {
    /// Checks the section against the tables of events, the primary first.
    pub(super) fn validate(self, tables: &[TableConfig]) -> Result<QuarantineConfig, ConfigError> {
        let primary = tables.first().map(|table| table.name.as_str()).unwrap_or_default();
        let table = match self.table {
            None => quarantine_name(primary),
            Some(name) if !is_table_name(&name) => {
                return Err(problem(
                    "quarantine.table",
                    "must be NAMESPACE.TABLE in lower case letters, digits and _, for example product.events_quarantine",
                ));
            }
            Some(name) if tables.iter().any(|table| table.name == name) => {
                return Err(problem(
                    "quarantine.table",
                    "must be another table than those of events: broken events have columns of their own",
                ));
            }
            // Or its retention would delete withdrawals, and stopped people would be followed again.
            Some(name) if name == withdrawals_name(primary) => {
                return Err(problem(
                    "quarantine.table",
                    "must be another table than that of withdrawals of consent, which Esker keeps itself and for good",
                ));
            }
            Some(name) => name,
        };
        let recipient = match self.recipient {
            None => None,
            // The message does not repeat the text, which may be the private key.
            Some(text) => Some(
                Recipient::parse(text.trim())
                    .map_err(|error| problem("quarantine.recipient", &error.to_string()))?,
            ),
        };
        Ok(QuarantineConfig {
            table,
            recipient,
            retention_days: tables::retention("quarantine", self.retention)?,
            broken_contract: self.broken_contract,
            undeclared_events: self.undeclared_events,
        })
    }
}

fn is_table_name(name: &str) -> bool {
    let plain = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_lowercase())
            && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    name.split_once('.').is_some_and(|(namespace, table)| plain(namespace) && plain(table))
}

fn problem(key: &str, problem: &str) -> ConfigError {
    ConfigError::Key { key: key.to_owned(), place: "configuration".to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::privacy::seal::OpeningKey;

    fn message(section: &str) -> String {
        Config::from_toml(&format!("[quarantine]\n{section}")).expect_err("must be refused").to_string()
    }

    #[test]
    fn without_a_section_broken_events_are_set_aside_without_payload() {
        let config = Config::from_toml("[table]\nname = 'lake.clicks'").unwrap().quarantine;
        assert_eq!(config.table, "lake.clicks_quarantine");
        assert_eq!((config.recipient, config.retention_days), (None, None));
        assert_eq!(config.broken_contract, BrokenContract::Quarantine);
        assert_eq!(config.undeclared_events, UndeclaredEvents::Drop);
    }

    #[test]
    fn every_key_is_read() {
        let key = OpeningKey::generate().unwrap();
        let config = Config::from_toml(&format!(
            "[quarantine]\ntable = 'a.b'\nrecipient = '{}'\nbroken_contract = 'store'\nundeclared_events = 'quarantine'\n\
             retention = '30d'",
            key.recipient()
        ));
        let config = config.unwrap().quarantine;
        assert_eq!((config.table.as_str(), config.recipient.as_ref()), ("a.b", Some(key.recipient())));
        assert_eq!(config.broken_contract, BrokenContract::Store);
        assert_eq!(config.retention_days, Some(30));
        assert_eq!(config.undeclared_events, UndeclaredEvents::Quarantine);
    }

    #[test]
    fn a_private_key_in_the_configuration_is_refused_and_not_repeated() {
        let key = OpeningKey::generate().unwrap();
        let text = message(&format!("recipient = '{}'", *key.to_text()));
        assert!(text.contains("quarantine.recipient") && text.contains("never be on the server"), "{text}");
        assert!(!text.contains(&key.to_text()["esker-open-1:".len()..]), "{text}");
        assert!(message("recipient = 'esker-seal-1:short'").contains("keygen"));
    }

    #[test]
    fn wrong_keys_and_values_are_named() {
        assert!(message("tabel = 'a.b'").contains("tabel"));
        assert!(message("table = 'b'").contains("quarantine.table"));
        assert!(message("table = 'product.events'").contains("another table"));
        assert!(
            message("table = 'product.events_withdrawals'\nretention = '1d'")
                .contains("withdrawals of consent")
        );
        assert!(message("retention = '36h'").contains("quarantine.retention"));
        assert!(message("undeclared_events = 'keep'").contains("undeclared_events"));
        assert!(message("broken_contract = 'drop'").contains("broken_contract"));
    }
}
