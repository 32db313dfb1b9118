//! `esker sql`: what a data team runs in its own engine, for the configured warehouse.
//!
//! Owns: telling the script where the tables are and which metadata is the newest. Does not own: the script (`sql`).

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::{AppError, block_on, policies, print};
use crate::columns::Layout;
use crate::config::tables::withdrawals_name;
use crate::config::{Config, TableConfig};
use crate::registry::Registry;
use crate::sql::{self, Auth, Catalog, Engine, Lake, LakeTable, Options, Storage};
use crate::table::{self, CatalogOptions, Endpoint, OAuth2, Peek, S3Options, Table, TableOptions};

/// How long the newest metadata is looked for: the script is of use without it.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// Prints the script for the table of this name, or for the primary.
///
/// # Errors
/// Where the registry or an option is wrong.
pub fn command(config: &Config, table: Option<&str>, options: &Options) -> Result<(), AppError> {
    let (gate, map) = policies::current(config)?;
    let layout = Layout::new(gate.registry()).map_err(anyhow::Error::from)?;
    let lake = lake(config, gate.registry(), table, options.engine)?;
    let mut options = options.clone();
    options.roles.tenant_hint.clone_from(&config.privacy.tenant_key);
    let text =
        sql::script(&map, &layout, &lake, &options).map_err(|error| AppError::Usage(error.to_string()))?;
    Ok(print(&text)?)
}

/// Where the tables are. A table that only some registries ask for is left out where this one does not.
fn lake(
    config: &Config,
    registry: &Registry,
    wanted: Option<&str>,
    engine: Engine,
) -> Result<Lake, AppError> {
    let known = || config.tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>().join(", ");
    let place = wanted.map_or(Some(0), |name| config.tables.iter().position(|table| table.name == name));
    let table = place.and_then(|place| config.tables.get(place)).ok_or_else(|| {
        AppError::Usage(format!("--table: there is no such table; name one of {}", known()))
    })?;
    let looks = matches!(engine, Engine::Snowflake | Engine::BigQuery | Engine::Trino);
    let named = |name: &str| located(table, name, looks);
    // Those beside the primary are Esker's own.
    let is_primary = place == Some(0);
    let withdraws = registry.events().iter().any(|event| event.withdrawal.is_some());
    Ok(Lake {
        catalog: catalog(table),
        storage: storage(table),
        events: named(&table.name)?,
        quarantine: is_primary.then(|| named(&config.quarantine.table)).transpose()?,
        withdrawals: (is_primary && withdraws).then(|| named(&withdrawals_name(&table.name))).transpose()?,
    })
}

/// A table in the warehouse of another, with its newest metadata where that is wanted and can be read.
fn located(beside: &TableConfig, name: &str, looks: bool) -> Result<LakeTable, AppError> {
    let options = TableOptions { name: name.to_owned(), ..beside.into() };
    let folder = name.replace('.', "/");
    let (location, looks) = match &beside.catalog {
        CatalogOptions::Files => (Some(format!("{}/{folder}", warehouse(&beside.warehouse)?)), looks),
        // Only the catalog knows where it has put the table.
        CatalogOptions::Rest(_) => (None, true),
    };
    let newest = if looks { newest(&options)? } else { None };
    let known = newest.as_ref().map(|peek| peek.status().location);
    let location = location.or(known).unwrap_or_else(|| format!("s3://<bucket>/<prefix>/{folder}"));
    let metadata = newest.and_then(|peek| {
        let file = peek.metadata_location().strip_prefix(&location)?.trim_start_matches('/');
        Some(file.to_owned())
    });
    Ok(LakeTable { name: name.to_owned(), location, metadata })
}

/// The catalog that engines are told to ask.
fn catalog(table: &TableConfig) -> Catalog {
    let CatalogOptions::Rest(rest) = &table.catalog else { return Catalog::Files };
    let Endpoint { uri, warehouse, auth, .. } = rest.endpoint();
    let auth = match auth {
        table::Auth::None => Auth::None,
        table::Auth::Bearer { .. } => Auth::Bearer,
        table::Auth::OAuth2(OAuth2 { server, scope, .. }) => {
            Auth::OAuth2 { server_uri: server.clone(), scope: scope.clone() }
        }
        table::Auth::SigV4 { region, service } => {
            Auth::SigV4 { service: service.clone(), region: Some(region.clone()) }
        }
        table::Auth::Google { .. } => Auth::Google,
    };
    let warehouse = Some(warehouse.clone()).filter(|name| !name.is_empty());
    Catalog::Rest { uri: uri.clone(), warehouse, auth }
}

/// What an engine needs to know of the store.
fn storage(table: &TableConfig) -> Storage {
    let S3Options { endpoint, region, path_style, .. } = &table.storage.s3;
    Storage {
        endpoint: endpoint.clone(),
        region: region.clone(),
        // As Esker itself does: with an endpoint of one's own, the bucket stands in the path.
        path_style: path_style.unwrap_or(endpoint.is_some()),
    }
}

/// The warehouse's location; of a local one the full path, as metadata has it.
fn warehouse(url: &str) -> Result<String, AppError> {
    let url = url.trim_end_matches('/');
    let Some(path) = url.strip_prefix("file://") else { return Ok(url.to_owned()) };
    let full = Path::new(path).canonicalize().or_else(|_| std::path::absolute(path));
    let full = full.with_context(|| format!("the warehouse {url}"))?;
    Ok(format!("file://{}", full.display()))
}

/// The table as it is now. The script is of use without it, so a table that cannot be read is no failure.
fn newest(options: &TableOptions) -> Result<Option<Peek>, AppError> {
    block_on(async {
        let looked = tokio::time::timeout(LOOK_MAX, Table::peek(options)).await;
        Ok(looked.ok().and_then(Result::ok).flatten())
    })
}
