//! What an operator decides about the gate, and why a decision cannot be enforced.
//!
//! Owns: the options and their defaults. Does not own: the spelling of keys in a file (`config`), enforcing them.

use std::time::Duration;

use super::consent::{ConsentError, ConsentOptions};
use super::route::Route;
use super::rules::{LevelTreatments, Rules};
use super::seal::Recipient;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The gate's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateOptions {
    /// Events from later than this after now are rejected: that clock is wrong.
    pub future_max: Duration,
    /// Events from longer ago than this are rejected. It bounds the number of daily partitions that a sender can touch;
    /// the default leaves room to load a year of history.
    pub age_max: Duration,
    /// Longest attribute value in bytes, as sent and as stored.
    pub value_bytes_max: usize,
    /// The attribute in which a record states its own level.
    pub level_key: String,
    /// The attribute in which a record states its own category.
    pub category_key: String,
    /// The attribute that names the tenant whose key makes a record's pseudonyms, where tenants have keys of their own.
    pub tenant_key: Option<String>,
    /// Levels to treatments.
    pub rules: Rules,
    /// The tables that events go to; the first is the primary.
    pub tables: Vec<TableRules>,
    /// Consent: purposes, sources, rules.
    pub consent: ConsentOptions,
    /// Which events go where; an event that no route matches goes to the primary table.
    pub routes: Vec<Route>,
    /// An event with a wrong value, or without a required one, is set aside; else it is stored without that value.
    pub quarantine_broken: bool,
    /// An event that the registry does not declare is set aside; else it is dropped.
    pub quarantine_undeclared: bool,
    /// Whom the payloads of events that are set aside are sealed to; without one, none is kept.
    pub recipient: Option<Recipient>,
}

/// What holds for one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRules {
    /// `namespace.table`.
    pub name: String,
    /// Its own treatments by level.
    pub levels: LevelTreatments,
}

impl Default for GateOptions {
    fn default() -> Self {
        Self {
            future_max: DAY,
            age_max: 400 * DAY,
            value_bytes_max: 64 * 1024,
            level_key: "event.privacy_level".to_owned(),
            category_key: "event.category".to_owned(),
            tenant_key: None,
            rules: Rules::default(),
            tables: vec![TableRules {
                name: "product.events".to_owned(),
                levels: LevelTreatments::default(),
            }],
            consent: ConsentOptions::default(),
            routes: Vec::new(),
            quarantine_broken: true,
            quarantine_undeclared: false,
            recipient: None,
        }
    }
}

/// Why a policy cannot be enforced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A column would hold both.
    #[error(
        "column `{column}` of {table} would hold pseudonyms of some events and plain values of others; give its attributes one \
         treatment, in schemas/ or in the policy"
    )]
    Mixed {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A column was made for plain values.
    #[error(
        "column `{column}` of {table} would hold pseudonyms, but was made for plain values; declare its attributes pseudonymous \
         or personal in schemas/, or drop their level in the policy"
    )]
    NotForPseudonyms {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// Consent cannot be decided.
    #[error(transparent)]
    Consent(#[from] ConsentError),
    /// The tenant's attribute cannot be one.
    #[error(
        "privacy.tenant_attribute: `{key}` is no declared attribute of type string, int, double or boolean"
    )]
    Tenant {
        /// Its key.
        key: String,
    },
}
