//! From a data map back to the gate that it describes, so that what an earlier policy would do can be tried.
//!
//! Owns: the way back from each text of the map. Does not own: the map (`datamap`), what is done with the gate. It is for
//! comparing policies only: the gate has keys of its own, made for the moment, and stores nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::consent::ConsentOptions;
use super::consent::purposes::PurposesRule;
use super::datamap::{FORMAT, MappedRoute, MappedSettings};
use super::{
    DataMap, Decision, Destination, EventPattern, Gate, GateOptions, LevelTreatments, MappedAttribute,
    MappedCategory, MappedConsent, MappedEvent, MappedWithdrawal, PolicyError, ResourceMatch, Route,
    RouteTarget, Rules, TableRules,
};
use crate::registry::{Category, Registry, RegistryError, Treatment};
use crate::secret::Keyring;

/// Why a map gives no gate.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It was made by another version.
    #[error(
        "its format is not {FORMAT}; use a map that this version of Esker wrote, or compare with another one"
    )]
    Format,
    /// A text of it means nothing.
    #[error("its {what} `{text}` is not known; was it edited, or written by a later version of Esker?")]
    Unknown {
        /// What the text should be.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// What it declares is no registry.
    #[error("what it declares cannot be read by this version of Esker: {0}")]
    Registry(#[from] RegistryError),
    /// Its rules contradict each other.
    #[error("what it declares cannot be enforced by this version of Esker: {0}")]
    Policy(#[from] PolicyError),
}

impl DataMap {
    /// A gate that decides as the one that this map was made of. Its policy version is its own.
    ///
    /// # Errors
    /// [`RestoreError`], where the map was not made by this version of Esker, or was edited.
    pub fn restore(&self, keys: &Keyring) -> Result<Gate, RestoreError> {
        if self.format != FORMAT {
            return Err(RestoreError::Format);
        }
        let file = self.registry_file()?;
        let registry = if self.events.is_empty() {
            return Err(RestoreError::Unknown { what: "list of events", text: "[]".to_owned() });
        } else {
            Registry::from_files(&[("data map".to_owned(), file)])?
        };
        Ok(Gate::new(Arc::new(registry), keys, self.gate_options()?)?)
    }

    fn gate_options(&self) -> Result<GateOptions, RestoreError> {
        let MappedSettings { future_max_ms, age_max_ms, value_bytes_max, .. } = self.settings;
        let settings = &self.settings;
        let tables = self.tables.iter().map(|table| {
            let levels = levels(table.policy.iter())?;
            Ok(TableRules { name: table.name.clone(), levels })
        });
        let of = |destination: Destination| {
            levels(
                self.levels
                    .iter()
                    .filter_map(|level| Some((&level.level, level.treatments.get(&destination)?))),
            )
        };
        // Every option is named: a new one that decides about events must find its place in the map.
        Ok(GateOptions {
            future_max: Duration::from_millis(future_max_ms),
            age_max: Duration::from_millis(age_max_ms),
            value_bytes_max: usize::try_from(value_bytes_max).unwrap_or(usize::MAX),
            level_key: settings.level_attribute.clone(),
            category_key: settings.category_attribute.clone(),
            tenant_key: settings.tenant_attribute.clone(),
            rules: Rules { warehouse: of(Destination::Warehouse)?, amplitude: of(Destination::Amplitude)? },
            tables: tables.collect::<Result<_, RestoreError>>()?,
            routes: self.routes.iter().map(|one| self.route(one)).collect::<Result<_, _>>()?,
            quarantine_broken: settings.quarantine_broken,
            quarantine_undeclared: settings.quarantine_undeclared,
            consent: self.consent.as_ref().map_or_else(ConsentOptions::default, MappedConsent::options),
            // Not in the map: nothing is sealed.
            recipient: None,
        })
    }

    fn route(&self, mapped: &MappedRoute) -> Result<Route, RestoreError> {
        let unknown = |what, text: &String| RestoreError::Unknown { what, text: text.clone() };
        let category = mapped.category.as_ref();
        let category = category.map(|name| Category::parse(name).ok_or_else(|| unknown("category", name)));
        let consent = mapped.consent.as_ref();
        let consent = consent.map(|name| decision(name).ok_or_else(|| unknown("consent", name)));
        let place = |name: &String| self.tables.iter().position(|table| table.name == *name);
        let target = match &mapped.table {
            None => RouteTarget::Drop,
            Some(name) => RouteTarget::Table(place(name).ok_or_else(|| unknown("table", name))?),
        };
        let pattern = |text: &String| match text.strip_suffix('*') {
            Some(prefix) => EventPattern::Prefix(prefix.to_owned()),
            None => EventPattern::Name(text.clone()),
        };
        Ok(Route {
            category: category.transpose()?,
            events: mapped.events.iter().map(pattern).collect(),
            resource: mapped
                .resource
                .as_ref()
                .map(|one| ResourceMatch { key: one.key.clone(), value: one.value.clone() }),
            consent: consent.transpose()?,
            target,
        })
    }

    /// What the map declares, as a file of a registry. JSON is YAML.
    fn registry_file(&self) -> Result<String, RestoreError> {
        // By key. What is the definition's own is the same in each use.
        let definitions: BTreeMap<&str, &MappedAttribute> =
            self.uses().map(|(_, one)| (one.key.as_str(), one)).collect();
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        for one in definitions.values() {
            owners.entry(&one.column).or_insert(&one.key);
        }
        let attributes =
            definitions.values().map(|one| definition(one, owners.get(one.column.as_str()).copied()));
        let mut events = Vec::with_capacity(self.events.len());
        for event in &self.events {
            let uses = event.attributes.iter().map(|one| {
                let mut esker = json!({"privacy": one.level});
                if let (Some(esker), Some(shown)) = (esker.as_object_mut(), &one.declared_treatment) {
                    esker.insert("treatment".to_owned(), treatment(shown)?);
                }
                let level = if one.requirement == "required" { "required" } else { "recommended" };
                Ok(json!({"ref": one.key, "requirement_level": level, "annotations": {"esker": esker}}))
            });
            events.push(json!({
                "name": event.name,
                "stability": "stable",
                "brief": event.brief,
                "annotations": {"esker": event_annotations(event)},
                "attributes": uses.collect::<Result<Vec<_>, RestoreError>>()?,
            }));
        }
        let attributes: Vec<Value> = attributes.collect();
        let categories = self.consent.iter().flat_map(|consent| &consent.categories);
        let groups: Vec<Value> = categories.filter(|one| one.is_declared()).map(category_group).collect();
        Ok(json!({
            "file_format": "definition/2",
            "attributes": attributes,
            "attribute_groups": groups,
            "events": events,
        })
        .to_string())
    }
}

/// What the registry says of a category.
fn category_group(one: &MappedCategory) -> Value {
    json!({
        "id": format!("category.{}", one.category),
        "visibility": "public",
        "stability": "stable",
        "brief": "A category.",
        "annotations": {"esker": {"category": one.category, "purposes": one.purposes}},
    })
}

/// What an event declares of itself; what it leaves to its category is among the options.
fn event_annotations(event: &MappedEvent) -> Value {
    let mut esker = json!({"category": event.category, "privacy": event.level});
    let Some(map) = esker.as_object_mut() else { return esker };
    let is_declared = event.purposes_rule.as_deref() == Some(PurposesRule::Event.to_string().as_str());
    if let Some(purposes) = event.purposes.as_ref().filter(|_| is_declared) {
        map.insert("purposes".to_owned(), json!(purposes));
    }
    if let Some(MappedWithdrawal { subject, lifts }) = &event.withdrawal {
        map.insert("withdrawal".to_owned(), json!({"subject": subject, "lifts": lifts}));
    }
    esker
}

fn definition(one: &MappedAttribute, owner: Option<&str>) -> Value {
    let mut esker = Map::new();
    if !one.normalise.is_empty() {
        esker.insert("normalise".to_owned(), json!(one.normalise));
    }
    if one.trust != "anyone" {
        esker.insert("trust".to_owned(), json!(one.trust));
    }
    if let Some(leaks) = one.leaks.as_deref().filter(|leaks| *leaks != "mask") {
        esker.insert("leaks".to_owned(), json!(leaks));
    }
    if let Some(owner) = owner.filter(|owner| *owner != one.key) {
        esker.insert("same_column_as".to_owned(), json!(owner));
    }
    let member = |(number, text): (usize, &String)| {
        let value = text.parse::<i64>().ok().filter(|_| one.members_type.as_deref() == Some("int"));
        let value = value.map_or_else(|| json!(text), |int| json!(int));
        json!({"id": format!("member_{number}"), "value": value, "stability": "stable", "brief": "A member."})
    };
    let ty = match one.members_type {
        Some(_) => json!({"members": one.members.iter().enumerate().map(member).collect::<Vec<_>>()}),
        None => json!(one.ty),
    };
    json!({
        "key": one.key,
        "type": ty,
        "stability": "stable",
        "brief": one.brief,
        "annotations": {"esker": esker},
    })
}

fn levels<'m>(
    shown: impl Iterator<Item = (&'m String, &'m String)>,
) -> Result<LevelTreatments, RestoreError> {
    let mut map = Map::new();
    for (level, text) in shown {
        map.insert(level.clone(), treatment(text)?);
    }
    LevelTreatments::parse(&map)
        .map_err(|error| RestoreError::Unknown { what: "policy", text: error.to_string() })
}

/// A treatment as files write it, from how reports show it.
fn treatment(shown: &str) -> Result<Value, RestoreError> {
    let value = if let Some(parameter) = shown.strip_prefix("coarsen to ") {
        json!({"coarsen": parameter.parse::<i64>().map_or_else(|_| json!(parameter), |bucket| json!(bucket))})
    } else if let Some(classes) = shown.strip_prefix("mask ") {
        json!({"mask": classes.split(", ").collect::<Vec<_>>()})
    } else {
        json!(shown)
    };
    let known = Treatment::parse(&value).is_some_and(|known| known.to_string() == shown);
    known.then_some(value).ok_or_else(|| RestoreError::Unknown { what: "treatment", text: shown.to_owned() })
}

fn decision(name: &str) -> Option<Decision> {
    let all = [Decision::Granted, Decision::Denied, Decision::Unknown, Decision::NotRequired];
    all.into_iter().find(|decision| decision.as_str() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::datamap;
    use crate::privacy::tests::fixture::{gate, key};

    /// A map without what names its own making.
    fn facts(map: &DataMap) -> DataMap {
        let mut map = map.clone();
        map.policy_version.clear();
        map.registry_version.clear();
        let rules = map.events.iter_mut().flat_map(|event| &mut event.attributes).map(|one| &mut one.rules);
        rules.chain(map.levels.iter_mut().map(|level| &mut level.rules)).for_each(BTreeMap::clear);
        for one in map.events.iter_mut().flat_map(|event| &mut event.attributes) {
            one.tables.values_mut().for_each(|own| own.rule.clear());
        }
        map
    }

    #[test]
    fn a_restored_gate_has_the_map_that_it_was_made_of() {
        let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
        let shipped =
            Gate::new(Arc::new(Registry::load(&shipped).unwrap()), &key(), GateOptions::default()).unwrap();
        let tables =
            || vec![datamap::MappedTable { name: "product.events".to_owned(), ..Default::default() }];
        for map in
            [datamap::tests::rich_map(), datamap::tests::consent_map(), DataMap::of(&shipped, tables())]
        {
            let restored = map.restore(&key()).unwrap();
            assert_eq!(facts(&DataMap::of(&restored, map.tables.clone())), facts(&map));
        }
    }

    #[test]
    fn every_treatment_is_read_back_from_how_it_is_shown() {
        for shown in [
            "keep",
            "drop",
            "pseudonymise",
            "mask",
            "mask email, ip",
            "truncate_ip",
            "coarsen to 10",
            "coarsen to day",
            "coarsen to month",
            "keep_domain",
        ] {
            let value = treatment(shown).unwrap();
            assert_eq!(Treatment::parse(&value).unwrap().to_string(), shown);
        }
        assert!(treatment("hash").is_err() && treatment("coarsen to 0").is_err());
    }

    #[test]
    fn a_map_that_says_something_else_is_refused() {
        let map = DataMap::of(&gate(), Vec::new());
        let format = DataMap { format: "esker-datamap-9".to_owned(), ..map };
        assert!(matches!(format.restore(&key()), Err(RestoreError::Format)));
        let mut edited = datamap::tests::rich_map();
        edited.routes[0].table = Some("gone.events".to_owned());
        assert!(matches!(edited.restore(&key()), Err(RestoreError::Unknown { what: "table", .. })));
    }
}
