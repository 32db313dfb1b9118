//! The operator's rules: which level gets which treatment, for which destination and which table.
//!
//! Owns: the mapping of levels to treatments, its defaults, which of several rules decides, and reading the mapping from a
//! configuration. Does not own: what a treatment does to a value, nor what `schemas/` declares.

use serde_json::{Map, Value};

use crate::registry::{EventAttribute, PrivacyLevel, TREATMENTS, Treatment};

/// How many levels there are.
const LEVELS: usize = PrivacyLevel::ALL.len();

/// Where stored values go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// The tables.
    Warehouse,
    /// What `esker sync` sends on.
    Amplitude,
}

impl Destination {
    /// Every destination.
    pub const ALL: [Self; 2] = [Self::Warehouse, Self::Amplitude];

    /// Its name, as files have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warehouse => "warehouse",
            Self::Amplitude => "amplitude",
        }
    }
}

/// Why a mapping of levels to treatments cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The key is no level.
    #[error("`{name}` is not a level; use public, internal, pseudonymous or personal")]
    UnknownLevel {
        /// The key.
        name: String,
    },
    /// The value is no treatment.
    #[error("the treatment of `{level}` is not known; {TREATMENTS}")]
    UnknownTreatment {
        /// The level.
        level: &'static str,
    },
    /// A sensitive value would be stored.
    #[error(
        "`sensitive` can only be `drop`: what is sensitive is never stored; lower the level of what is not sensitive"
    )]
    SensitiveKept,
}

/// Treatments by level; a level without one is left to a more general rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LevelTreatments([Option<Treatment>; LEVELS]);

impl LevelTreatments {
    /// Reads `level = treatment` pairs.
    ///
    /// # Errors
    /// [`RuleError`], which names the level.
    pub fn parse(map: &Map<String, Value>) -> Result<Self, RuleError> {
        let mut treatments = Self::default();
        for (name, value) in map {
            let level =
                PrivacyLevel::parse(name).ok_or_else(|| RuleError::UnknownLevel { name: name.clone() })?;
            let treatment =
                Treatment::parse(value).ok_or(RuleError::UnknownTreatment { level: level.as_str() })?;
            if level == PrivacyLevel::Sensitive && treatment != Treatment::Drop {
                return Err(RuleError::SensitiveKept);
            }
            if let Some(slot) = treatments.0.get_mut(level as usize) {
                *slot = Some(treatment);
            }
        }
        Ok(treatments)
    }

    /// True where it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// The levels that it says something of, and what.
    pub fn iter(&self) -> impl Iterator<Item = (PrivacyLevel, Treatment)> {
        PrivacyLevel::ALL.into_iter().filter_map(|level| Some((level, self.of(level)?)))
    }

    fn of(&self, level: PrivacyLevel) -> Option<Treatment> {
        self.0.get(level as usize).copied().flatten()
    }
}

/// Which rule decided about an attribute; [`std::fmt::Display`] says it as reports do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// The level forbids everything else.
    Sensitive,
    /// The registry names the treatment.
    Declared,
    /// A table's own policy.
    Table {
        /// The table.
        table: String,
        /// The level.
        level: PrivacyLevel,
    },
    /// The policy of a destination.
    Policy {
        /// The destination.
        destination: Destination,
        /// The level.
        level: PrivacyLevel,
    },
    /// No configuration says anything, so the default of the level holds.
    Default {
        /// The destination.
        destination: Destination,
        /// The level.
        level: PrivacyLevel,
    },
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sensitive => f.write_str("sensitive values are never stored"),
            Self::Declared => f.write_str("treatment in schemas/"),
            Self::Table { table, level } => write!(f, "tables.policy.{} of {table}", level.as_str()),
            Self::Policy { destination, level } => {
                write!(f, "privacy.policy.{}.{}", destination.as_str(), level.as_str())
            }
            Self::Default { destination, level } => {
                write!(f, "default for {} in {}", level.as_str(), destination.as_str())
            }
        }
    }
}

/// All mappings of levels to treatments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// `[privacy.policy.warehouse]`.
    pub warehouse: LevelTreatments,
    /// `[privacy.policy.amplitude]`.
    pub amplitude: LevelTreatments,
}

impl Rules {
    /// What happens to an attribute on its way to a table that has a policy of its own, and which rule says so. What the registry
    /// names for an attribute holds over what the configuration says of its level in general; of that and a table's own
    /// policy, the stricter holds.
    #[must_use]
    pub fn warehouse(&self, used: &EventAttribute, table: &str, own: &LevelTreatments) -> (Treatment, Rule) {
        let level = used.privacy;
        let general = match used.treatment {
            Some(declared) if level < PrivacyLevel::Sensitive => (declared, Rule::Declared),
            _ => self.general(Destination::Warehouse, level),
        };
        match own.of(level) {
            _ if level == PrivacyLevel::Sensitive => (Treatment::Drop, Rule::Sensitive),
            Some(tables) if used.treatment.is_none() || tables.stricter(general.0) != general.0 => {
                (tables, Rule::Table { table: table.to_owned(), level })
            }
            _ => general,
        }
    }

    /// What may leave for Amplitude, and which rule says so: the stricter of the warehouse's and its own. What the
    /// warehouse does not have cannot be sent.
    #[must_use]
    pub fn amplitude(&self, used: &EventAttribute) -> (Treatment, Rule) {
        let stored = self.warehouse(used, "", &LevelTreatments::default());
        let own = self.general(Destination::Amplitude, used.privacy);
        if own.0.stricter(stored.0) == stored.0 { stored } else { own }
    }

    fn general(&self, destination: Destination, level: PrivacyLevel) -> (Treatment, Rule) {
        let configured = match destination {
            Destination::Warehouse => self.warehouse.of(level),
            Destination::Amplitude => self.amplitude.of(level),
        };
        match (level, configured) {
            (PrivacyLevel::Sensitive, _) => (Treatment::Drop, Rule::Sensitive),
            (_, Some(treatment)) => (treatment, Rule::Policy { destination, level }),
            (PrivacyLevel::Public | PrivacyLevel::Internal, None) => {
                (Treatment::Keep, Rule::Default { destination, level })
            }
            (PrivacyLevel::Pseudonymous, None) => {
                (Treatment::Pseudonymise, Rule::Default { destination, level })
            }
            (PrivacyLevel::Personal, None) => (Treatment::Drop, Rule::Default { destination, level }),
        }
    }

    /// The least treatment of a level that a record states for itself, on its way to a table with this policy of its own.
    #[must_use]
    pub fn stated(&self, level: PrivacyLevel, own: &LevelTreatments) -> Treatment {
        let general = self.general(Destination::Warehouse, level).0;
        own.of(level).filter(|_| level < PrivacyLevel::Sensitive).unwrap_or(general)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Reduction, Requirement};
    use serde_json::json;

    fn levels(value: Value) -> Result<LevelTreatments, RuleError> {
        LevelTreatments::parse(value.as_object().unwrap())
    }

    fn used(privacy: PrivacyLevel, treatment: Option<Treatment>) -> EventAttribute {
        EventAttribute { attribute: 0, requirement: Requirement::Optional, privacy, treatment }
    }

    #[test]
    fn a_mapping_is_refused_where_it_is_unknown_or_keeps_the_sensitive() {
        assert!(levels(json!({"personal": "drop", "internal": {"coarsen": 10}})).is_ok());
        assert!(matches!(levels(json!({"secret": "drop"})), Err(RuleError::UnknownLevel { .. })));
        assert!(matches!(levels(json!({"personal": "hash"})), Err(RuleError::UnknownTreatment { .. })));
        for treatment in ["keep", "pseudonymise", "mask", "keep_domain"] {
            assert_eq!(levels(json!({"sensitive": treatment})), Err(RuleError::SensitiveKept));
        }
    }

    #[test]
    fn what_is_declared_holds_over_the_general_policy_and_a_tables_policy_where_it_is_stricter() {
        let rules = Rules { warehouse: levels(json!({"personal": "keep"})).unwrap(), ..Rules::default() };
        let none = LevelTreatments::default();
        let domain = Treatment::Reduce(Reduction::KeepDomain);
        let strict = levels(json!({"personal": "drop"})).unwrap();
        let loose = levels(json!({"personal": "keep"})).unwrap();
        let plain = used(PrivacyLevel::Personal, None);
        let declared = used(PrivacyLevel::Personal, Some(domain));
        assert_eq!(rules.warehouse(&plain, "t", &none).0, Treatment::Keep);
        assert_eq!(rules.warehouse(&plain, "t", &strict).0, Treatment::Drop);
        assert_eq!(rules.warehouse(&declared, "t", &none), (domain, Rule::Declared));
        assert_eq!(rules.warehouse(&declared, "t", &strict).0, Treatment::Drop);
        assert_eq!(rules.warehouse(&declared, "t", &loose), (domain, Rule::Declared));
        // A table may also be the one place where something is stored at all.
        assert_eq!(Rules::default().warehouse(&plain, "t", &loose).0, Treatment::Keep);
    }

    #[test]
    fn the_sensitive_is_dropped_whatever_is_said() {
        let kept = used(PrivacyLevel::Sensitive, Some(Treatment::Keep));
        let rules = Rules::default();
        assert_eq!(
            rules.warehouse(&kept, "t", &LevelTreatments::default()),
            (Treatment::Drop, Rule::Sensitive)
        );
        assert_eq!(rules.amplitude(&kept).0, Treatment::Drop);
    }

    #[test]
    fn amplitude_never_gets_more_than_the_warehouse_has() {
        let rules = Rules { amplitude: levels(json!({"personal": "keep"})).unwrap(), ..Rules::default() };
        assert_eq!(rules.amplitude(&used(PrivacyLevel::Personal, None)).0, Treatment::Drop);
        let strict = Rules { amplitude: levels(json!({"internal": "drop"})).unwrap(), ..Rules::default() };
        assert_eq!(strict.amplitude(&used(PrivacyLevel::Internal, None)).0, Treatment::Drop);
        assert_eq!(strict.amplitude(&used(PrivacyLevel::Public, None)).0, Treatment::Keep);
    }
}
