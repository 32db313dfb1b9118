//! The section `[consent]`: purposes by category, where consent is read, and what follows without it.
//!
//! Owns: the spelling and the checks of the section. Does not own: the defaults' meaning, reading and deciding (`privacy`).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::ConfigError;
use super::raw::problem;
use crate::privacy::{
    AmplitudeConsent, CONSENT_NAME_BYTES_MAX, ConsentOptions, ConsentSource, SourceForm, WarehouseConsent,
    WarehouseRule,
};
use crate::registry::{Category, is_purpose};

/// Longest key of a source, as of any attribute.
const KEY_BYTES_MAX: usize = 255;

/// Most aliases: far more than any consent tool has categories.
const ALIASES_MAX: usize = 1024;

const PURPOSE: &str =
    "a purpose's name starts with a-z and goes on with a-z, 0-9 and _, for example analytics";

/// Section `[consent]`. What is left out keeps its default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConsent {
    purposes: RawByCategory<Vec<String>>,
    sources: Vec<RawSource>,
    aliases: BTreeMap<String, String>,
    gpc_denies: Option<Vec<String>>,
    warehouse: RawByCategory<RawWarehouse>,
    amplitude: RawAmplitude,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawByCategory<T> {
    product: Option<T>,
    operational: Option<T>,
    security: Option<T>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSource {
    key: String,
    form: SourceForm,
    purpose: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawWarehouse {
    denied: Option<WarehouseRule>,
    unknown: Option<WarehouseRule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAmplitude {
    purpose: Option<String>,
    unknown: Option<RawAmplitudeRule>,
    not_required: Option<RawAmplitudeRule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawAmplitudeRule {
    Deny,
    Allow,
}

impl<T> Default for RawByCategory<T> {
    fn default() -> Self {
        Self { product: None, operational: None, security: None }
    }
}

impl<T> RawByCategory<T> {
    fn in_order(self) -> impl Iterator<Item = (Category, Option<T>)> {
        Category::ALL.into_iter().zip([self.product, self.operational, self.security])
    }
}

impl RawConsent {
    pub(super) fn validate(self) -> Result<ConsentOptions, ConfigError> {
        let mut options = ConsentOptions::default();
        for ((category, purposes), slot) in self.purposes.in_order().zip(&mut options.purposes) {
            if let Some(purposes) = purposes {
                *slot = Some(named_purposes(&format!("consent.purposes.{}", category.as_str()), purposes)?);
            }
        }
        let mut keys = Vec::with_capacity(self.sources.len());
        for raw in self.sources {
            let source = raw.validate()?;
            if keys.contains(&source.key) {
                let text = format!("`{}` stands there twice; keep one entry for each key", source.key);
                return Err(problem("consent.sources", &text));
            }
            keys.push(source.key.clone());
            options.set_source(source);
        }
        options.aliases = aliases(self.aliases)?;
        if let Some(purposes) = self.gpc_denies {
            options.gpc_denies = named_purposes("consent.gpc_denies", purposes)?;
        }
        for ((category, raw), slot) in self.warehouse.in_order().zip(&mut options.warehouse) {
            *slot = raw.unwrap_or_default().validate(category, *slot)?;
        }
        self.amplitude.validate(&mut options.amplitude)?;
        Ok(options)
    }
}

impl RawSource {
    fn validate(self) -> Result<ConsentSource, ConfigError> {
        let Self { key, form, purpose } = self;
        let wrong = |text: &str| Err(problem("consent.sources", &format!("the source `{key}` {text}")));
        if key.trim_end_matches('.').is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(problem(
                "consent.sources.key",
                &format!(
                    "must be an attribute's key of at most {KEY_BYTES_MAX} bytes, for example consent.granted"
                ),
            ));
        }
        if purpose.as_ref().is_some_and(|purpose| !is_purpose(purpose)) {
            return wrong(&format!("has a purpose that cannot be: {PURPOSE}"));
        }
        let many = key.ends_with('.');
        match (form, many, purpose.is_some()) {
            (SourceForm::Off, ..)
            | (SourceForm::PurposeBool, true, false)
            | (SourceForm::PurposeBool | SourceForm::Google, false, true)
            | (SourceForm::Status | SourceForm::Gpc, false, _) => {}
            (SourceForm::PurposeBool, true, true) => {
                return wrong(
                    "ends in a dot, so that the rest of the key names the purpose; take `purpose` out",
                );
            }
            (_, true, _) => {
                return wrong("ends in a dot, which only the form purpose_bool may; write the whole key");
            }
            (SourceForm::PurposeBool | SourceForm::Google, false, false) => {
                return wrong("needs a purpose, for example purpose = \"analytics\"");
            }
            (_, false, true) => {
                return wrong("names its purposes in its values; take `purpose` out");
            }
            (_, false, false) => {}
        }
        Ok(ConsentSource { key, form, purpose })
    }
}

impl RawWarehouse {
    fn validate(
        self,
        category: Category,
        default: WarehouseConsent,
    ) -> Result<WarehouseConsent, ConfigError> {
        let rules = WarehouseConsent {
            denied: self.denied.unwrap_or(default.denied),
            unknown: self.unknown.unwrap_or(default.unknown),
        };
        if rules.denied < rules.unknown {
            return Err(problem(
                &format!("consent.warehouse.{}", category.as_str()),
                &format!(
                    "stores more where consent was denied ({}) than where it is unknown ({}); make `denied` at least as strict",
                    rules.denied.as_str(),
                    rules.unknown.as_str()
                ),
            ));
        }
        Ok(rules)
    }
}

impl RawAmplitude {
    fn validate(self, options: &mut AmplitudeConsent) -> Result<(), ConfigError> {
        if let Some(purpose) = self.purpose {
            if !is_purpose(&purpose) {
                return Err(problem("consent.amplitude.purpose", PURPOSE));
            }
            options.purpose = purpose;
        }
        let allows = |rule: Option<RawAmplitudeRule>| rule == Some(RawAmplitudeRule::Allow);
        options.unknown = allows(self.unknown);
        options.not_required = allows(self.not_required);
        Ok(())
    }
}

fn named_purposes(key: &str, purposes: Vec<String>) -> Result<Vec<String>, ConfigError> {
    if purposes.iter().all(|purpose| is_purpose(purpose)) {
        return Ok(purposes);
    }
    Err(problem(key, PURPOSE))
}

fn aliases(aliases: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ConfigError> {
    if aliases.len() > ALIASES_MAX {
        return Err(problem("consent.aliases", &format!("there may be at most {ALIASES_MAX} aliases")));
    }
    let mut lower = BTreeMap::new();
    for (alias, purpose) in &aliases {
        let key = format!("consent.aliases.{alias}");
        if alias.trim().is_empty() || alias.trim() != alias || alias.len() > CONSENT_NAME_BYTES_MAX {
            let text = format!(
                "must be a name of at most {CONSENT_NAME_BYTES_MAX} bytes without white space at its ends, as the consent \
                 tool sends it"
            );
            return Err(problem(&key, &text));
        }
        if !is_purpose(purpose) {
            return Err(problem(&key, PURPOSE));
        }
        if let Some(other) = lower.insert(alias.to_ascii_lowercase(), purpose)
            && other != purpose
        {
            return Err(problem(
                &key,
                "stands there twice, in different case and for different purposes; names are compared without regard to \
                 case, so keep one",
            ));
        }
    }
    Ok(aliases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn options(toml: &str) -> ConsentOptions {
        Config::from_toml(toml).unwrap().consent
    }

    fn message(toml: &str) -> String {
        Config::from_toml(toml).expect_err("must be refused").to_string()
    }

    #[test]
    fn without_the_section_the_defaults_hold() {
        let options = options("");
        assert_eq!(options, ConsentOptions::default());
        assert_eq!(options.purposes, [None, None, None], "the registry may speak of them first");
        let [product, operational, security] = options.warehouse;
        assert_eq!((product.denied, product.unknown), (WarehouseRule::StripIdentity, WarehouseRule::Store));
        assert_eq!((operational, security.denied), (security, WarehouseRule::Store));
        assert!(!options.amplitude.unknown && !options.amplitude.not_required);
    }

    #[test]
    fn what_is_said_replaces_its_default_and_nothing_else() {
        let options = options(
            r#"
[consent]
gpc_denies = ["advertising", "analytics"]
[consent.purposes]
operational = ["telemetry"]
[[consent.sources]]
key = "user.opted_in"
form = "purpose_bool"
purpose = "analytics"
[[consent.sources]]
key = "ad_storage"
form = "off"
[[consent.sources]]
key = "privacy."
form = "purpose_bool"
[consent.aliases]
C0002 = "analytics"
"Product Analytics" = "analytics"
[consent.warehouse.product]
unknown = "strip_identity"
[consent.warehouse.security]
denied = "drop"
[consent.amplitude]
purpose = "product_analytics"
unknown = "allow"
"#,
        );
        assert_eq!(options.purposes, [None, Some(vec!["telemetry".to_owned()]), None]);
        let defaults = ConsentOptions::default();
        assert_eq!(options.sources.len(), defaults.sources.len() + 2);
        let form = |key: &str| options.sources.iter().find(|source| source.key == key).unwrap().form;
        assert_eq!((form("ad_storage"), form("ad_user_data")), (SourceForm::Off, SourceForm::Google));
        assert_eq!(options.aliases["C0002"], "analytics");
        assert_eq!(options.gpc_denies.len(), 2);
        let rules = options.warehouse.map(|rules| (rules.denied, rules.unknown));
        use WarehouseRule::{Drop, Store, StripIdentity};
        assert_eq!(rules, [(StripIdentity, StripIdentity), (Store, Store), (Drop, Store)]);
        assert_eq!(options.amplitude.purpose, "product_analytics");
        assert!(options.amplitude.unknown && !options.amplitude.not_required);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_key() {
        let source = |rest: &str| format!("[[consent.sources]]\n{rest}");
        for (toml, words) in [
            ("[consent]\npurpose = 1".to_owned(), ["consent.purpose", "purposes"]),
            ("[consent.purposes]\nproducts = []".to_owned(), ["products", "operational"]),
            (
                "[consent.purposes]\nproduct = ['Analytics']".to_owned(),
                ["consent.purposes.product", "analytics"],
            ),
            ("[consent]\ngpc_denies = ['a b']".to_owned(), ["consent.gpc_denies", "a-z"]),
            (source("key = 'a'\nform = 'list'"), ["consent.sources", "granted_list"]),
            (source("key = 'a'"), ["consent.sources", "form"]),
            (source("key = ''\nform = 'status'"), ["consent.sources.key", "consent.granted"]),
            (source("key = '.'\nform = 'purpose_bool'"), ["consent.sources.key", "consent.granted"]),
            (source("key = 'a'\nform = 'google'"), ["`a` needs a purpose", "analytics"]),
            (source("key = 'a'\nform = 'purpose_bool'"), ["`a` needs a purpose", "analytics"]),
            (source("key = 'a.'\nform = 'status'"), ["`a.` ends in a dot", "whole key"]),
            (
                source("key = 'a.'\nform = 'purpose_bool'\npurpose = 'x'"),
                ["`a.` ends in a dot", "take `purpose` out"],
            ),
            (
                source("key = 'a'\nform = 'segment'\npurpose = 'x'"),
                ["`a` names its purposes", "take `purpose` out"],
            ),
            (source("key = 'a'\nform = 'status'\npurpose = 'X'"), ["`a` has a purpose", "a-z"]),
            (
                source("key = 'a'\nform = 'status'\n[[consent.sources]]\nkey = 'a'\nform = 'gpc'"),
                ["`a`", "twice"],
            ),
            ("[consent.aliases]\nC1 = 'C1'".to_owned(), ["consent.aliases.C1", "a-z"]),
            ("[consent.aliases]\n' C1' = 'x'".to_owned(), ["consent.aliases. C1", "white space"]),
            ("[consent.aliases]\nC1 = 'x'\nc1 = 'y'".to_owned(), ["consent.aliases.c1", "case"]),
            ("[consent.warehouse.product]\ndenied = 'keep'".to_owned(), ["denied", "strip_identity"]),
            (
                "[consent.warehouse.product]\ndenied = 'store'\nunknown = 'drop'".to_owned(),
                ["warehouse.product", "stores more"],
            ),
            (
                "[consent.warehouse.security]\nunknown = 'drop'".to_owned(),
                ["warehouse.security", "stores more"],
            ),
            ("[consent.amplitude]\nunknown = 'maybe'".to_owned(), ["consent.amplitude.unknown", "deny"]),
            ("[consent.amplitude]\npurpose = ''".to_owned(), ["consent.amplitude.purpose", "a-z"]),
        ] {
            let text = message(&toml);
            assert!(words.iter().all(|word| text.contains(word)), "{toml}: {text}");
        }
    }

    #[test]
    fn aliases_have_a_limit() {
        let many: String = (0..=ALIASES_MAX).map(|number| format!("c{number} = 'x'\n")).collect();
        assert!(message(&format!("[consent.aliases]\n{many}")).contains("at most 1024"));
    }
}
