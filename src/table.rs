//! Everything Iceberg: load, evolve, produce a snapshot, commit, and settle what is unknown. Only this folder imports
//! the `iceberg` crate.
//!
//! Owns: storage by location, the catalogs, metadata, snapshots. Does not own: when to flush, what a file contains.
