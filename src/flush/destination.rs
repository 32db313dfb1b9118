//! The tables that the flusher feeds, and how far each has come.
//!
//! Every table keeps the WAL position that it holds as a property of its own (`table::commit`). The primary is committed last,
//! and in every round that had rows for any table: its position says that everything up to there is in every table. Another
//! table may be ahead of it, after a crash between two commits, or behind it, where nothing came for it.
//!
//! Owns: which rows a table still lacks. Does not own: reading the WAL, writing files, committing.

use std::sync::Arc;

use uuid::Uuid;

use super::FlushError;
use crate::table::Table;
use crate::wal::Position;

/// What a table's rows are, and so how they are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// Events: each row is an event that was stored.
    Events,
    /// Events that broke their contract.
    Quarantine,
    /// Copies of rows that are also in an event table: they are not counted as events.
    Withdrawals,
}

/// A table that the flusher feeds.
#[derive(Debug)]
pub struct Destination {
    /// Its name, as the WAL's sections have it.
    pub name: String,
    /// The table.
    pub table: Table,
    /// What its rows are.
    pub kind: TableKind,
}

/// The tables of one service, the primary first.
#[derive(Debug)]
pub struct Destinations {
    tables: Vec<Table>,
    standing: Vec<Standing>,
}

/// How far a table has come.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) name: Arc<str>,
    pub(super) kind: TableKind,
    /// The position that it says it holds.
    pub(super) position: Position,
}

/// The place of the primary among the destinations.
pub(super) const PRIMARY: usize = 0;

impl Destinations {
    /// The tables, and what each holds of this writer's WAL.
    #[must_use]
    pub fn new(primary: Destination, others: Vec<Destination>, writer_id: Uuid) -> Self {
        let (mut tables, mut standing) = (Vec::new(), Vec::new());
        for Destination { name, table, kind } in std::iter::once(primary).chain(others) {
            let position = table.writer_position(writer_id).map_or(Position(0), |(_, position)| position);
            standing.push(Standing { name: name.into(), kind, position });
            tables.push(table);
        }
        Self { tables, standing }
    }

    /// Everything up to here is in every table.
    #[must_use]
    pub fn committed(&self) -> Position {
        self.standing.get(PRIMARY).map_or(Position(0), |primary| primary.position)
    }

    /// The last position that any table holds.
    #[must_use]
    pub fn furthest(&self) -> Position {
        self.standing.iter().map(|one| one.position).max().unwrap_or_default()
    }

    pub(super) fn table(&self, place: usize) -> Option<&Table> {
        self.tables.get(place)
    }

    /// All tables, the primary first.
    #[must_use]
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    pub(super) fn standing(&self, place: usize) -> Option<&Standing> {
        self.standing.get(place)
    }

    /// A picture of where all tables stand, for a thread of its own.
    pub(super) fn standings(&self) -> Standings {
        Standings(self.standing.clone())
    }

    /// A commit up to `through` was confirmed.
    pub(super) fn reached(&mut self, place: usize, through: Position) {
        if let Some(standing) = self.standing.get_mut(place) {
            standing.position = through;
        }
    }
}

/// Where all tables stand, the primary first.
#[derive(Debug, Clone)]
pub(super) struct Standings(Vec<Standing>);

impl Standings {
    /// The place of the table that lacks a section's rows, and what they are; None where the table has them.
    pub(super) fn lacks(
        &self,
        table: Option<&str>,
        position: Position,
    ) -> Result<Option<(usize, TableKind)>, FlushError> {
        let place = match table {
            None => Some(PRIMARY),
            Some(name) => self.0.iter().position(|one| *one.name == *name),
        };
        let unknown = || FlushError::UnknownTable { table: table.unwrap_or_default().to_owned(), position };
        let (place, standing) =
            place.and_then(|place| Some((place, self.0.get(place)?))).ok_or_else(unknown)?;
        let committed = self.0.get(PRIMARY).map_or(Position(0), |primary| primary.position);
        let has = standing.position.max(committed);
        Ok((position > has).then_some((place, standing.kind)))
    }

    pub(super) fn position(&self, place: usize) -> Position {
        self.0.get(place).map_or(Position(0), |one| one.position)
    }
}
