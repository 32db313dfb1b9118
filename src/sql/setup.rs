//! What an engine must be told once: secrets, integrations, the table, the schema for the views.
//!
//! Owns: dividing by engine, and what a view reads from. Does not own: each engine's statements (one file each).

mod bigquery;
mod clickhouse;
mod duckdb;
mod snowflake;
mod spark;
mod trino;

use super::{Engine, LakeTable, Script, TypeMapping, comment, mapping, title, types};

/// What the views call the catalog, in engines in which a catalog has a name.
const CATALOG: &str = "lake";

pub(super) fn write(script: &Script<'_>, text: &mut String) {
    title(text, &format!("Set-up of {}", script.engine.label()));
    told_types(script, text);
    match script.engine {
        Engine::DuckDb => duckdb::write(script, text),
        Engine::Snowflake => snowflake::write(script, text),
        Engine::BigQuery => bigquery::write(script, text),
        Engine::Spark => spark::write(script, text),
        Engine::Trino => trino::write(script, text),
        Engine::ClickHouse => clickhouse::write(script, text),
    }
}

/// Says what the columns' types are in this engine.
fn told_types(script: &Script<'_>, text: &mut String) {
    let mut told: Vec<String> = Vec::new();
    for column in script.layout.columns() {
        let TypeMapping { iceberg_type, engine_type, .. } = mapping(script.engine, column.ty);
        let one = format!("{iceberg_type} is {engine_type}");
        if !told.contains(&one) {
            told.push(one);
        }
    }
    let source = types::source(script.engine);
    comment(
        text,
        &format!(
            "Iceberg's types of the table, as {} reads them: {} ({source}).",
            script.engine.label(),
            told.join(", ")
        ),
    );
}

/// What a view reads a table from.
pub(super) fn relation(script: &Script<'_>, table: &LakeTable) -> String {
    match script.engine {
        Engine::DuckDb => duckdb::relation(script, table),
        Engine::ClickHouse => clickhouse::relation(script, table),
        // These know the table by a name in the views' own schema.
        Engine::Snowflake | Engine::BigQuery => script.view(&table.name.replace('.', "_")),
        Engine::Spark | Engine::Trino => in_catalog(script, table),
    }
}

/// The table's name in a catalog.
fn in_catalog(script: &Script<'_>, table: &LakeTable) -> String {
    let (namespace, name) = table.parts();
    format!("{CATALOG}.{}.{}", script.engine.ident(namespace), script.engine.ident(name))
}

/// Says that an engine in a cloud cannot read a local folder, so that nobody looks for the mistake elsewhere.
fn local_warning(script: &Script<'_>, text: &mut String) {
    comment(
        text,
        &format!(
            "Note: the table lies in a local folder, which {} cannot read. What follows shows the statements; they need a warehouse in a \
             bucket (table.warehouse = \"s3://...\" or \"gs://...\").",
            script.engine.label()
        ),
    );
}

/// The placeholder for a value that only the reader has.
fn placeholder(what: &str) -> String {
    format!("<{what}>")
}
