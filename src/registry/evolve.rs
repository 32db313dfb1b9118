//! How a table's columns may follow the registry: new ones are added, none is removed, no type changes.
//!
//! Owns: the rules. Does not own: field ids and the schema update itself (`table`).

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::ColumnType;

/// What a table needs so that it has every column of the layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evolution {
    /// Columns to add, in the layout's order.
    pub added: Vec<String>,
    /// Columns of the table that the layout no longer has, in the table's order. They stay, and new rows leave them null.
    pub retired: Vec<String>,
}

/// A column that cannot become what the registry now declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// The table's column has another type.
    TypeChanged {
        /// The column.
        column: String,
        /// Its type in the table.
        old: ColumnType,
        /// The type that the registry declares.
        new: ColumnType,
    },
    /// The table has the name in another case; most engines cannot tell the two apart.
    CaseDiffers {
        /// The name in the table.
        table: String,
        /// The name in the layout.
        layout: String,
    },
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TypeChanged { column, old, new } => write!(
                f,
                "the column `{column}` is {} in the table and would be {} by the registry; restore the attribute's \
                 type (a pseudonymous attribute is always string) or declare the attribute under a new key",
                type_name(*old),
                type_name(*new)
            ),
            Self::CaseDiffers { table, layout } => write!(
                f,
                "the table has a column `{table}` that differs from `{layout}` only in case; rename the table's \
                 column or declare the attribute under a new key"
            ),
        }
    }
}

/// The registry does not fit the table that exists.
#[derive(Debug, thiserror::Error)]
#[error("the registry does not fit the table:{}", listed(.conflicts))]
pub struct EvolutionError {
    conflicts: Vec<Conflict>,
}

impl EvolutionError {
    /// Each conflict, in the layout's order.
    #[must_use]
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }
}

fn listed(conflicts: &[Conflict]) -> String {
    conflicts.iter().fold(String::new(), |text, conflict| format!("{text}\n  {conflict}"))
}

/// Compares a table's columns with those that the layout wants.
///
/// # Errors
/// Every column that would have to change rather than be added.
pub fn evolution(
    existing: &[(String, ColumnType)],
    layout: &[(String, ColumnType)],
) -> Result<Evolution, EvolutionError> {
    let by_folded: HashMap<String, &(String, ColumnType)> =
        existing.iter().map(|column| (column.0.to_lowercase(), column)).collect();
    let wanted: HashSet<String> = layout.iter().map(|(name, _)| name.to_lowercase()).collect();
    let mut added = Vec::new();
    let mut conflicts = Vec::new();
    for (name, new) in layout {
        match by_folded.get(&name.to_lowercase()) {
            None => added.push(name.clone()),
            Some((table, _)) if table != name => {
                conflicts.push(Conflict::CaseDiffers { table: table.clone(), layout: name.clone() });
            }
            Some((_, old)) if old != new => {
                conflicts.push(Conflict::TypeChanged { column: name.clone(), old: *old, new: *new });
            }
            Some(_) => {}
        }
    }
    if !conflicts.is_empty() {
        return Err(EvolutionError { conflicts });
    }
    let retired = existing.iter().filter(|(name, _)| !wanted.contains(&name.to_lowercase()));
    Ok(Evolution { added, retired: retired.map(|(name, _)| name.clone()).collect() })
}

/// Iceberg's name of the type.
fn type_name(ty: ColumnType) -> &'static str {
    match ty {
        ColumnType::String => "string",
        ColumnType::Long => "long",
        ColumnType::Double => "double",
        ColumnType::Boolean => "boolean",
        ColumnType::Timestamp => "timestamptz",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(list: &[(&str, ColumnType)]) -> Vec<(String, ColumnType)> {
        list.iter().map(|(name, ty)| ((*name).to_owned(), *ty)).collect()
    }

    #[test]
    fn an_empty_table_gets_every_column_in_order() {
        let layout = columns(&[("event_id", ColumnType::String), ("a", ColumnType::Long)]);
        let evolution = evolution(&[], &layout).unwrap();
        assert_eq!(evolution.added, ["event_id", "a"]);
        assert!(evolution.retired.is_empty());
    }

    #[test]
    fn a_new_attribute_is_added_and_a_removed_one_stays_as_retired() {
        let table = columns(&[("a", ColumnType::Long), ("gone", ColumnType::String)]);
        let layout = columns(&[("a", ColumnType::Long), ("new", ColumnType::Boolean)]);
        let evolution = evolution(&table, &layout).unwrap();
        assert_eq!(evolution, Evolution { added: vec!["new".to_owned()], retired: vec!["gone".to_owned()] });
    }

    #[test]
    fn an_unchanged_registry_changes_nothing() {
        let table = columns(&[("a", ColumnType::Long), ("t", ColumnType::Timestamp)]);
        let evolution = evolution(&table, &table).unwrap();
        assert!(evolution.added.is_empty() && evolution.retired.is_empty());
    }

    #[test]
    fn every_changed_type_is_named_with_both_types_and_the_fix() {
        let table = columns(&[("a", ColumnType::Long), ("b", ColumnType::String), ("c", ColumnType::Double)]);
        let layout =
            columns(&[("a", ColumnType::String), ("b", ColumnType::Boolean), ("c", ColumnType::Double)]);
        let error = evolution(&table, &layout).unwrap_err();
        assert_eq!(error.conflicts().len(), 2);
        let text = error.to_string();
        assert!(text.contains("`a` is long in the table and would be string"), "{text}");
        assert!(text.contains("`b` is string in the table and would be boolean"), "{text}");
        assert!(text.contains("new key"), "{text}");
    }

    #[test]
    fn a_retired_column_that_returns_with_another_type_is_refused() {
        // It still exists in the table, so its old rows would change their meaning.
        let table = columns(&[("returned", ColumnType::Long)]);
        let error = evolution(&table, &columns(&[("returned", ColumnType::String)])).unwrap_err();
        assert!(matches!(error.conflicts(), [Conflict::TypeChanged { .. }]));
    }

    #[test]
    fn a_name_that_differs_only_in_case_is_refused_and_not_added_beside() {
        let table = columns(&[("Reason", ColumnType::String)]);
        let error = evolution(&table, &columns(&[("reason", ColumnType::String)])).unwrap_err();
        assert!(error.to_string().contains("only in case"));
    }
}
