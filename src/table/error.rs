//! Why the table could not be used.
//!
//! Owns: one error for the module, and which of them pass with time. Does not own: retrying.

use super::catalog::rest::CatalogError;
use crate::wal::Position;

fn held(in_table: Position) -> String {
    if in_table == Position(0) { "none of them".to_owned() } else { format!("them only up to {in_table}") }
}

/// Why the table could not be used. Holds names, positions and causes, never rows.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The warehouse cannot be used.
    #[error("table.warehouse {location}: {problem}")]
    Warehouse {
        /// The configured location.
        location: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The object store failed. The message says all that the error and its sources do, so it is no source itself.
    #[error("{}", super::storage::said(.0))]
    Store(object_store::Error),
    /// The catalog did not do what it was asked.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The table's metadata cannot be read or made.
    #[error("Iceberg metadata: {0}")]
    Iceberg(#[from] iceberg::Error),
    /// A metadata file is not what it should be.
    #[error("{location} is not readable table metadata: {problem}")]
    Metadata {
        /// The file.
        location: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The table was made by something else.
    #[error(
        "the table {location} was not made for Esker: {problem}; set table.name to a table that does not exist yet"
    )]
    Foreign {
        /// The table.
        location: String,
        /// What is different.
        problem: String,
    },
    /// A column has another type in the table than in the registry.
    #[error(
        "column {column} is {in_table} in the table and {in_registry} in the registry: a type cannot change; declare a \
         new attribute key, or restore the type in schemas/"
    )]
    ColumnType {
        /// The column.
        column: String,
        /// Its type in the table.
        in_table: String,
        /// Its type in the registry.
        in_registry: String,
    },
    /// Another process with this writer's id, started later, has committed.
    #[error(
        "another process started later (epoch {theirs}, this one has {ours}) writes as the same writer: the data directory \
         was copied, or is used twice; this process stops and must not be started again on this directory"
    )]
    Fenced {
        /// This process's epoch.
        ours: u64,
        /// The table's.
        theirs: u64,
    },
    /// The table's position is not where this span begins.
    #[error(
        "the table holds this writer's WAL up to {in_table}, the next span begins at {from}: the table was replaced or \
         rolled back while this process ran; restart it, and it continues where the table stands"
    )]
    Gap {
        /// The table's position.
        in_table: u64,
        /// The first position of the span.
        from: u64,
    },
    /// The data directory has committed more than the table holds.
    #[error(
        "this data directory has committed its requests up to number {released}, and the table {name} in {warehouse} holds \
         {}: did table.name, table.warehouse or what the warehouse holds change? Nothing was changed now. Point back to the \
         table that holds them; or give this configuration a new data_dir, and commit what still waits in this one to its own \
         table; or, where those rows are gone for good, start with wal.on_damage = \"set_aside\", which goes on after number \
         {released} without them",
        held(*in_table)
    )]
    NotThisTable {
        /// `namespace.table`.
        name: String,
        /// Where it was looked for.
        warehouse: String,
        /// What the table holds of this data directory.
        in_table: Position,
        /// What the data directory has committed.
        released: Position,
    },
    /// Other writers were quicker, again and again.
    #[error("the commit lost against other writers {attempts} times in a row; it will be tried again")]
    Contended {
        /// How often.
        attempts: u32,
    },
    /// The data files are too old to be committed.
    #[error(
        "the commit was held up for {hours} hours, and its data files may have been taken for orphans and deleted: the rows, which \
         are still in the WAL, are written again"
    )]
    FilesTooOld {
        /// Since their writing began.
        hours: u64,
    },
    /// Somebody altered the table while this process writes to it.
    #[error(
        "the table {location} was altered while this process writes to it: {problem}; undo that, and what waits in the WAL is \
         committed by itself"
    )]
    Altered {
        /// The table.
        location: String,
        /// What is different.
        problem: String,
    },
    /// The table vanished.
    #[error("the table {location} is gone; restore it, or restart to make a new one")]
    Gone {
        /// Where it was.
        location: String,
    },
}

impl From<object_store::Error> for TableError {
    fn from(error: object_store::Error) -> Self {
        Self::Store(error)
    }
}

impl TableError {
    /// True where the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(_)
            | Self::Catalog(_)
            | Self::Contended { .. }
            | Self::Altered { .. }
            | Self::Iceberg(_) => true,
            Self::Warehouse { .. }
            | Self::Metadata { .. }
            | Self::Foreign { .. }
            | Self::ColumnType { .. }
            | Self::Fenced { .. }
            | Self::Gap { .. }
            | Self::NotThisTable { .. }
            | Self::FilesTooOld { .. }
            | Self::Gone { .. } => false,
        }
    }
}
