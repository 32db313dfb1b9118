//! Esker: product events from OTLP into an Apache Iceberg table, private before they are durable, durable
//! before they are acknowledged.
//!
//! The journey, and the modules in its order (each imports only what stands before it):
//!
//! ```text
//! RawEvents -> Cleared -> Batch -> Durable -> DataFile -> CommitOutcome -> (WAL span released)
//!  receive     privacy   columns    wal      datafile      table
//! ```

pub mod memory;
pub mod clock;
pub mod secret;
pub mod registry;
pub mod receive;
pub mod privacy;
pub mod accounting;
pub mod drift;
pub mod columns;
pub mod wal;
pub mod intake;
pub mod datafile;
pub mod table;
pub mod flush;
pub mod maintain;
pub mod sql;
pub mod telemetry;
pub mod config;
pub mod app;
pub mod cli;
