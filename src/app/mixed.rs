//! Columns in which plain values and pseudonyms would stand side by side, because an attribute's treatment changed between two
//! policies.
//!
//! Owns: finding them, and their words. Does not own: the policies (`policies`), the rule that one policy may not mix both in a column
//! (`privacy`). Nothing is refused: the rows of before are what they are, and the new ones are as the policy in force says. But whoever
//! counts or joins by the column must know.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::privacy::{DataMap, MappedAttribute};

/// An attribute whose column holds one kind of value from before, and would get the other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct MixedColumn {
    pub(super) table: String,
    pub(super) column: String,
    pub(super) attribute: String,
    /// What the column's rows of before hold, by the treatment that made it.
    pub(super) before: String,
    /// The treatment from now on.
    pub(super) after: String,
}

impl fmt::Display for MixedColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, column, attribute, before, after } = self;
        let (was, is) = (words(before), words(after));
        write!(
            f,
            "column {column} of {table} holds {was} (treatment {before}) and gets {is} of {attribute} from now on (treatment {after}): \
             both stand in one column, and nothing is found or joined over the time of the change"
        )
    }
}

fn words(treatment: &str) -> &'static str {
    if is_pseudonym(treatment) { "pseudonyms" } else { "plain values" }
}

fn is_pseudonym(treatment: &str) -> bool {
    treatment == "pseudonymise"
}

/// What the change from one policy to the other mixes in a table.
pub(super) fn mixed_columns(before: &DataMap, after: &DataMap, table: &str) -> BTreeSet<MixedColumn> {
    // By column: a treatment that made plain values, and one that made pseudonyms.
    let mut filled: BTreeMap<&str, [Option<&str>; 2]> = BTreeMap::new();
    for (one, treatment) in stored(before, table) {
        let [plain, pseudonyms] = filled.entry(&one.column).or_default();
        let slot = if is_pseudonym(treatment) { pseudonyms } else { plain };
        slot.get_or_insert(treatment);
    }
    let mixed = |(one, treatment): (&MappedAttribute, &str)| {
        let [plain, pseudonyms] = filled.get(one.column.as_str())?;
        let other = if is_pseudonym(treatment) { plain } else { pseudonyms };
        Some(MixedColumn {
            table: table.to_owned(),
            column: one.column.clone(),
            attribute: one.key.clone(),
            before: (*other)?.to_owned(),
            after: treatment.to_owned(),
        })
    };
    stored(after, table).filter_map(mixed).collect()
}

/// Every attribute that a policy stores in a table, and how.
fn stored<'m>(map: &'m DataMap, table: &'m str) -> impl Iterator<Item = (&'m MappedAttribute, &'m str)> {
    let uses = map.uses().filter(|(event, _)| event.stored);
    uses.map(move |(_, one)| (one, one.treatment_in(table))).filter(|(_, treatment)| *treatment != "drop")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::{Destination, datamap_for_tests};

    fn with(key: &str, treatment: &str) -> DataMap {
        let mut map = datamap_for_tests();
        let uses = map.events.iter_mut().flat_map(|event| &mut event.attributes);
        for one in uses.filter(|one| one.key == key) {
            one.treatments.insert(Destination::Warehouse, treatment.to_owned());
        }
        map
    }

    fn told(before: &DataMap, after: &DataMap, table: &str) -> Vec<String> {
        let found = mixed_columns(before, after, table);
        found
            .iter()
            .map(|one| format!("{} {} {} -> {}", one.attribute, one.column, one.before, one.after))
            .collect()
    }

    const TABLE: &str = "product.events";

    #[test]
    fn a_change_between_plain_values_and_pseudonyms_is_told_in_both_directions() {
        let plain = with("a.mail", "keep");
        let pseudonyms = datamap_for_tests();
        assert_eq!(told(&plain, &pseudonyms, TABLE), ["a.mail a_mail keep -> pseudonymise"]);
        assert_eq!(told(&pseudonyms, &plain, TABLE), ["a.mail a_mail pseudonymise -> keep"]);
        assert_eq!(
            told(&with("a.mail", "mask email"), &pseudonyms, TABLE),
            ["a.mail a_mail mask email -> pseudonymise"]
        );
        let text = mixed_columns(&plain, &pseudonyms, TABLE).first().unwrap().to_string();
        assert!(
            text.starts_with("column a_mail of product.events holds plain values (treatment keep)"),
            "{text}"
        );
        assert!(text.contains("gets pseudonyms of a.mail"), "{text}");
    }

    #[test]
    fn what_is_not_mixed_is_not_told() {
        let map = datamap_for_tests();
        assert_eq!(told(&map, &map, TABLE), Vec::<String>::new());
        assert_eq!(told(&with("a.mail", "drop"), &map, TABLE), Vec::<String>::new(), "nothing was there");
        assert_eq!(told(&map, &with("a.mail", "drop"), TABLE), Vec::<String>::new(), "nothing comes");
        assert_eq!(told(&with("a.text", "keep"), &with("a.text", "mask"), TABLE), Vec::<String>::new());
        // That table has a treatment of its own, which did not change.
        assert_eq!(told(&with("a.mail", "keep"), &map, "eu.events"), Vec::<String>::new());
    }

    #[test]
    fn attributes_of_one_column_are_told_of_each_other() {
        // `a.text` and `a_text` share the column; one is gone from the registry now.
        let before = with("a_text", "drop");
        let mut after = with("a_text", "pseudonymise");
        for event in &mut after.events {
            event.attributes.retain(|one| one.key != "a.text");
        }
        assert_eq!(told(&before, &after, TABLE), ["a_text a_text keep -> pseudonymise"]);
    }
}
