//! Iceberg's types, as each engine reads them: the vendors' own tables of supported types, for every type that Esker writes.
//!
//! Owns: those tables, with their sources. Does not own: which column has which type (`columns`).

use super::dialect::Engine;
use crate::registry::ColumnType;

/// How an engine reads a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeMapping {
    /// The type as Iceberg's specification names it.
    pub iceberg_type: &'static str,
    /// The type as the engine names it.
    pub engine_type: &'static str,
    /// The vendor's page that says so.
    pub source: &'static str,
}

/// Where an engine's vendor lists the types that it reads.
#[must_use]
pub(super) fn source(engine: Engine) -> &'static str {
    match engine {
        Engine::DuckDb => "https://duckdb.org/docs/stable/core_extensions/iceberg/overview",
        Engine::Snowflake => "https://docs.snowflake.com/en/user-guide/tables-iceberg-data-types",
        Engine::BigQuery => "https://cloud.google.com/bigquery/docs/iceberg-external-tables#data_types",
        Engine::Spark => {
            "https://iceberg.apache.org/docs/1.10.0/spark-getting-started/#iceberg-type-to-spark-type"
        }
        Engine::Trino => "https://trino.io/docs/current/connector/iceberg.html#iceberg-to-trino-type-mapping",
        Engine::ClickHouse => "https://clickhouse.com/docs/sql-reference/table-functions/iceberg",
    }
}

/// How an engine reads a type. There is no type that Esker writes and an engine does not read: that is why there are so few.
#[must_use]
pub fn mapping(engine: Engine, ty: ColumnType) -> TypeMapping {
    use ColumnType::{Binary, Boolean, Double, Long, String, Timestamp};
    let iceberg_type = match ty {
        String => "string",
        Long => "long",
        Double => "double",
        Boolean => "boolean",
        Timestamp => "timestamptz",
        Binary => "binary",
    };
    let engine_type = match (engine, ty) {
        (Engine::DuckDb, String) => "VARCHAR",
        (Engine::DuckDb, Long) => "BIGINT",
        (Engine::DuckDb, Double) => "DOUBLE",
        (Engine::DuckDb, Boolean) => "BOOLEAN",
        (Engine::DuckDb, Timestamp) => "TIMESTAMP WITH TIME ZONE",
        (Engine::DuckDb, Binary) => "BLOB",
        (Engine::Snowflake, String) => "VARCHAR",
        (Engine::Snowflake, Long) => "NUMBER(19,0)",
        (Engine::Snowflake, Double) => "FLOAT",
        (Engine::Snowflake, Boolean) => "BOOLEAN",
        (Engine::Snowflake, Timestamp) => "TIMESTAMP_LTZ(6)",
        (Engine::Snowflake, Binary) => "BINARY",
        (Engine::BigQuery, String) => "STRING",
        (Engine::BigQuery, Long) => "INT64",
        (Engine::BigQuery, Double) => "FLOAT64",
        (Engine::BigQuery, Boolean) => "BOOL",
        (Engine::BigQuery, Timestamp) => "TIMESTAMP",
        (Engine::BigQuery, Binary) => "BYTES",
        (Engine::Spark, String) => "string",
        (Engine::Spark, Long) => "bigint",
        (Engine::Spark, Double) => "double",
        (Engine::Spark, Boolean) => "boolean",
        (Engine::Spark, Timestamp) => "timestamp",
        (Engine::Spark, Binary) => "binary",
        (Engine::Trino, String) => "varchar",
        (Engine::Trino, Long) => "bigint",
        (Engine::Trino, Double) => "double",
        (Engine::Trino, Boolean) => "boolean",
        (Engine::Trino, Timestamp) => "timestamp(6) with time zone",
        (Engine::Trino, Binary) => "varbinary",
        (Engine::ClickHouse, String | Binary) => "String",
        (Engine::ClickHouse, Long) => "Int64",
        (Engine::ClickHouse, Double) => "Float64",
        (Engine::ClickHouse, Boolean) => "Bool",
        (Engine::ClickHouse, Timestamp) => "DateTime64(6, 'UTC')",
    };
    TypeMapping { iceberg_type, engine_type, source: source(engine) }
}
