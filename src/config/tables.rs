//! The sections `[table]`, `[[tables]]` and `[[routes]]`: which tables there are, and which events go where.
//!
//! Owns: the spelling and the checks of these sections, and that every table and every route can be reached. Does not own:
//! deciding about an event (`privacy`), keeping the rows (`table`).

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::ConfigError;
use super::catalog::RawCatalog;
use super::raw::problem;
use crate::privacy::{Decision, EventPattern, LevelTreatments, ResourceMatch, Route, RouteTarget};
use crate::registry::Category;
use crate::table::{CatalogOptions, Endpoint, RestCatalogOptions, StorageOptions};

/// Most tables: each costs a commit in each flush that has rows for it, and its metadata in memory.
pub const TABLES_MAX: usize = 16;

/// Most routes: each event of a request is held against them in turn.
pub const ROUTES_MAX: usize = 256;

/// Longest name of a table: it is part of every frame of the WAL and of every path.
const NAME_BYTES_MAX: usize = 200;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A table of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableConfig {
    /// Location of the warehouse, a URL; with a REST catalog, the warehouse's name there, empty where it has none.
    pub warehouse: String,
    /// What orders the table's commits.
    pub catalog: CatalogOptions,
    /// What its store needs to know, from section `storage`.
    pub storage: Arc<StorageOptions>,
    /// `namespace.table`.
    pub name: String,
    /// How long its rows are to be kept, in days. Recorded in the table.
    pub retention_days: Option<u32>,
    /// Treatments by level that hold for this table instead of those of all tables. The primary has none of its own.
    pub policy: LevelTreatments,
}

/// Section `[table]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTable {
    warehouse: Option<String>,
    name: String,
    #[serde(with = "humantime_serde")]
    retention: Option<Duration>,
}

/// An entry of `[[tables]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOtherTable {
    name: String,
    warehouse: Option<String>,
    catalog: Option<RawCatalog>,
    #[serde(with = "humantime_serde", default)]
    retention: Option<Duration>,
    #[serde(default)]
    policy: serde_json::Map<String, serde_json::Value>,
}

/// An entry of `[[routes]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRoute {
    category: Option<RawCategory>,
    #[serde(default)]
    events: Option<Vec<String>>,
    resource: Option<ResourceMatch>,
    consent: Option<Decision>,
    table: Option<String>,
    #[serde(default)]
    drop: bool,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawCategory {
    Product,
    Operational,
    Security,
}

impl Default for RawTable {
    fn default() -> Self {
        Self { warehouse: None, name: "product.events".to_owned(), retention: None }
    }
}

/// The table of events that break their contract, beside a primary table of this name.
#[must_use]
pub fn quarantine_name(primary: &str) -> String {
    format!("{primary}_quarantine")
}

/// The table of withdrawals of consent, beside a primary table of this name.
#[must_use]
pub fn withdrawals_name(primary: &str) -> String {
    format!("{primary}_withdrawals")
}

/// Checks all tables; the first is the primary.
pub(super) fn tables(
    primary: RawTable,
    others: Vec<RawOtherTable>,
    catalog: &CatalogOptions,
    default_warehouse: impl FnOnce() -> String,
) -> Result<Vec<TableConfig>, ConfigError> {
    if others.len() >= TABLES_MAX {
        return Err(problem(
            "tables",
            &format!("there may be at most {TABLES_MAX} tables, [table] included"),
        ));
    }
    let beside = || Ok(default_warehouse());
    let (warehouse, catalog) = placed("table", primary.warehouse, catalog.clone(), beside)?;
    let primary = TableConfig {
        warehouse,
        catalog,
        storage: Arc::default(),
        name: table_name("table", primary.name)?,
        retention_days: retention("table", primary.retention)?,
        policy: LevelTreatments::default(),
    };
    let own = [quarantine_name(&primary.name), withdrawals_name(&primary.name)];
    let mut tables = vec![primary];
    for other in others {
        let name = table_name("tables", other.name)?;
        if own.contains(&name) {
            return Err(problem("tables.name", &format!("`{name}` is a table that Esker keeps itself")));
        }
        if tables.iter().any(|known| known.name == name) {
            return Err(problem(
                "tables.name",
                &format!("`{name}` is there twice; tables need different names"),
            ));
        }
        let (warehouse, catalog) = match (other.catalog, tables.first()) {
            (None, Some(primary)) => {
                let beside = || Ok(primary.warehouse.clone());
                placed("tables", other.warehouse, primary.catalog.clone(), beside)?
            }
            (raw, _) => {
                let catalog = raw.unwrap_or_default().validate("tables.catalog")?;
                let missing = || {
                    problem("tables.warehouse", "is missing; a table with the files catalog needs its own")
                };
                placed("tables", other.warehouse, catalog, || Err(missing()))?
            }
        };
        tables.push(TableConfig {
            warehouse,
            catalog,
            storage: Arc::default(),
            name,
            retention_days: retention("tables", other.retention)?,
            policy: LevelTreatments::parse(&other.policy)
                .map_err(|error| problem("tables.policy", &error.to_string()))?,
        });
    }
    refuse_nested(&tables, &own)?;
    Ok(tables)
}

/// Refuses tables of which one lies in another's folder: the care of that one would take its files for orphans. A REST catalog
/// decides itself where its tables lie.
fn refuse_nested(tables: &[TableConfig], beside_primary: &[String]) -> Result<(), ConfigError> {
    let beside =
        tables.iter().take(1).flat_map(|primary| beside_primary.iter().map(move |name| (primary, name)));
    let named = tables.iter().map(|table| (table, &table.name)).chain(beside);
    let placed: Vec<(&String, String)> = named
        .filter(|(table, _)| matches!(table.catalog, CatalogOptions::Files))
        .map(|(table, name)| (name, folder(&table.warehouse, name)))
        .collect();
    for (place, (inner, inside)) in placed.iter().enumerate() {
        for (other, (outer, around)) in placed.iter().enumerate() {
            if place != other && inside.starts_with(around.as_str()) {
                return Err(problem(
                    "tables.warehouse",
                    &format!(
                        "the table `{inner}` would lie in {inside}, which is in the folder of the table `{outer}`; change its \
                         name or its warehouse"
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// A table's folder, with a slash at its end. What one means is written in one way.
fn folder(warehouse: &str, name: &str) -> String {
    let (scheme, path) = warehouse.split_once("://").unwrap_or(("", warehouse));
    let absolute = std::path::absolute(path).ok().filter(|_| scheme == "file");
    let path = absolute.as_ref().and_then(|path| path.to_str()).unwrap_or(path);
    let parts = path.split('/').chain(name.split('.')).filter(|part| !matches!(*part, "" | "."));
    format!("{scheme}://{}/", parts.collect::<Vec<_>>().join("/"))
}

/// Checks all routes against the tables and against each other.
pub(super) fn routes(raw: Vec<RawRoute>, tables: &[TableConfig]) -> Result<Vec<Route>, ConfigError> {
    if raw.len() > ROUTES_MAX {
        return Err(problem("routes", &format!("there may be at most {ROUTES_MAX} routes")));
    }
    let mut routes: Vec<Route> = Vec::with_capacity(raw.len());
    for (number, raw) in (1..).zip(raw) {
        let route = raw.validate(number, tables)?;
        if let Some(earlier) = routes.iter().position(|earlier| earlier.covers(&route)) {
            return Err(problem(
                "routes",
                &format!(
                    "route {number} is never taken: route {} matches all that it matches; put it before that one, or \
                     remove it",
                    earlier + 1
                ),
            ));
        }
        routes.push(route);
    }
    Ok(routes)
}

impl RawRoute {
    fn validate(self, number: usize, tables: &[TableConfig]) -> Result<Route, ConfigError> {
        let wrong =
            |key: &str, text: String| problem(&format!("routes.{key}"), &format!("route {number}: {text}"));
        let target = match (self.table, self.drop) {
            (Some(name), false) => match tables.iter().position(|table| table.name == name) {
                Some(place) => RouteTarget::Table(place),
                None => {
                    let known: Vec<_> = tables.iter().map(|table| format!("`{}`", table.name)).collect();
                    return Err(wrong(
                        "table",
                        format!(
                            "there is no table `{name}`; declare it in [[tables]], or name one of {}",
                            known.join(", ")
                        ),
                    ));
                }
            },
            (None, true) => RouteTarget::Drop,
            _ => return Err(wrong("table", "needs either table = \"NAME\" or drop = true".to_owned())),
        };
        if self.resource.as_ref().is_some_and(|resource| resource.key.is_empty()) {
            return Err(wrong("resource", "needs a key, for example deployment.region".to_owned()));
        }
        let events = self.events.map(|events| {
            if events.is_empty() {
                return Err(wrong(
                    "events",
                    "an empty list matches nothing; leave the key out to match all".to_owned(),
                ));
            }
            events.into_iter().map(|text| pattern(text, &wrong)).collect()
        });
        Ok(Route {
            category: self.category.map(|category| match category {
                RawCategory::Product => Category::Product,
                RawCategory::Operational => Category::Operational,
                RawCategory::Security => Category::Security,
            }),
            events: events.transpose()?.unwrap_or_default(),
            resource: self.resource,
            consent: self.consent,
            target,
        })
    }
}

fn pattern(text: String, wrong: &impl Fn(&str, String) -> ConfigError) -> Result<EventPattern, ConfigError> {
    let is_plain = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    match text.strip_suffix('*') {
        Some(prefix) if prefix.ends_with('.') && is_plain(prefix) => {
            Ok(EventPattern::Prefix(prefix.to_owned()))
        }
        None if is_plain(&text) => Ok(EventPattern::Name(text)),
        _ => Err(wrong(
            "events",
            "each entry is an event's name, or the start of names as in `features.*`".to_owned(),
        )),
    }
}

/// A table's warehouse and catalog. To a REST catalog, a warehouse is a name of its own.
fn placed(
    section: &str,
    stated: Option<String>,
    catalog: CatalogOptions,
    default_folder: impl FnOnce() -> Result<String, ConfigError>,
) -> Result<(String, CatalogOptions), ConfigError> {
    match catalog {
        CatalogOptions::Files => {
            let folder = stated.map_or_else(default_folder, |url| warehouse(section, url))?;
            Ok((folder, CatalogOptions::Files))
        }
        CatalogOptions::Rest(rest) => {
            let name = stated.unwrap_or_else(|| rest.endpoint().warehouse.clone());
            // Tables of one warehouse share what was learned by talking to the catalog.
            let rest = if name == rest.endpoint().warehouse {
                rest
            } else {
                RestCatalogOptions::new(Endpoint { warehouse: name.clone(), ..rest.endpoint().clone() })
            };
            Ok((name, CatalogOptions::Rest(rest)))
        }
    }
}

fn warehouse(section: &str, url: String) -> Result<String, ConfigError> {
    match url.split_once("://") {
        Some(("file" | "s3" | "gs", rest)) if !rest.is_empty() => Ok(url),
        Some(("s3a" | "s3n", rest)) => Err(problem(
            &format!("{section}.warehouse"),
            &format!("is Hadoop's name for the scheme; write s3://{rest}"),
        )),
        _ => Err(problem(
            &format!("{section}.warehouse"),
            "must be file://PATH, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, for example file://./esker-data/warehouse",
        )),
    }
}

fn table_name(section: &str, name: String) -> Result<String, ConfigError> {
    let plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase())
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    match name.split_once('.') {
        Some((namespace, table)) if plain(namespace) && plain(table) && name.len() <= NAME_BYTES_MAX => {
            Ok(name)
        }
        _ => Err(problem(
            &format!("{section}.name"),
            "must be NAMESPACE.TABLE in lower case letters, digits and _, for example product.events",
        )),
    }
}

/// Whole days: a table is partitioned by day, so nothing finer can be kept apart.
pub(super) fn retention(section: &str, retention: Option<Duration>) -> Result<Option<u32>, ConfigError> {
    let Some(retention) = retention else { return Ok(None) };
    let days =
        u32::try_from(retention.as_secs() / DAY.as_secs()).ok().filter(|days| DAY * *days == retention);
    match days {
        Some(days) if days > 0 => Ok(Some(days)),
        _ => Err(problem(
            &format!("{section}.retention"),
            "must be a whole number of days, at least one, for example 90d",
        )),
    }
}
