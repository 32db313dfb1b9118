//! `esker sql`: its arguments.
//!
//! Owns: their grammar and help. Does not own: what is printed (`crate::sql`).

use clap::{Args, ValueEnum};

use crate::app::{AppError, sql};
use crate::config::Config;
use crate::sql::{Engine, Options, RoleOptions, Section};

#[derive(Debug, Args)]
pub(super) struct SqlArguments {
    /// For which engine.
    #[arg(long, value_enum)]
    engine: EngineName,
    /// Which part of it.
    #[arg(long, value_enum, default_value_t)]
    section: SectionName,
    /// The schema (in BigQuery the dataset, in ClickHouse the database) that views go to.
    #[arg(long, value_name = "NAME", default_value = "esker")]
    schema: String,
    /// The table of events, where there are several. Without it: the primary.
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// The attribute that names the organisation. Without it: the first that is declared of organisation.id, tenant.id and their like.
    #[arg(long, value_name = "KEY")]
    tenant: Option<String>,
    /// The attribute that names the user. Without it: user.id and its like.
    #[arg(long, value_name = "KEY")]
    user: Option<String>,
    /// The attribute that names the session. Without it: session.id and its like.
    #[arg(long, value_name = "KEY")]
    session: Option<String>,
    /// The event whose adoption is asked for, first step of the funnel. Without it: a product event that tells who acted.
    #[arg(long, value_name = "NAME")]
    event: Option<String>,
    /// The second step of the funnel. Without it: another event of the same domain.
    #[arg(long, value_name = "NAME")]
    then: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum EngineName {
    #[value(name = "duckdb")]
    DuckDb,
    Snowflake,
    #[value(name = "bigquery")]
    BigQuery,
    Spark,
    Trino,
    #[value(name = "clickhouse")]
    ClickHouse,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum SectionName {
    /// Secrets, integrations, tables.
    Setup,
    /// Views.
    Views,
    /// Queries.
    Queries,
    /// All of it, in this order.
    #[default]
    All,
}

pub(super) fn run(config: &Config, arguments: SqlArguments) -> Result<(), AppError> {
    let SqlArguments { engine, section, schema, table, tenant, user, session, event, then } = arguments;
    let options = Options {
        engine: match engine {
            EngineName::DuckDb => Engine::DuckDb,
            EngineName::Snowflake => Engine::Snowflake,
            EngineName::BigQuery => Engine::BigQuery,
            EngineName::Spark => Engine::Spark,
            EngineName::Trino => Engine::Trino,
            EngineName::ClickHouse => Engine::ClickHouse,
        },
        section: match section {
            SectionName::Setup => Section::Setup,
            SectionName::Views => Section::Views,
            SectionName::Queries => Section::Queries,
            SectionName::All => Section::All,
        },
        schema,
        roles: RoleOptions { tenant, user, session, event, then, tenant_hint: None },
    };
    sql::command(config, table.as_deref(), &options)
}
