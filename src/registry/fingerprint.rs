//! The registry's version: a digest of everything that decides what is stored and how.
//!
//! Owns: the canonical description and its digest. Does not own: what is described.
//!
//! Files, their order, comments, briefs, notes, examples and stability do not count: they change nothing that is
//! stored. A level, a requirement, a type, a name or a column does.

use sha2::{Digest as _, Sha256};

use super::{Attribute, AttributeColumn, Category, Event, EventAttribute, Withdrawal};

/// Counts up when the same description begins to mean something else.
const DESCRIPTION_VERSION: u32 = 1;

/// Bytes of the digest that are shown, two hex digits each.
const VERSION_BYTES: usize = 6;

/// First 12 hex digits of the SHA-256 of the description.
pub(super) fn version(
    attributes: &[Attribute],
    events: &[Event],
    columns: &[AttributeColumn],
    category_purposes: &[Option<Vec<String>>; 3],
) -> String {
    let mut description = description(attributes, events, columns);
    // Only where they are said, as with the purposes of events.
    for (category, purposes) in Category::ALL.iter().zip(category_purposes) {
        if let Some(purposes) = purposes {
            description.push_str(&format!("category {category:?} purposes {purposes:?}\n"));
        }
    }
    let digest = Sha256::digest(description);
    digest.iter().take(VERSION_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

/// One line for each item, all values in Rust's quoted form, so that no two registries have one description.
fn description(attributes: &[Attribute], events: &[Event], columns: &[AttributeColumn]) -> String {
    let mut text = format!("esker registry {DESCRIPTION_VERSION}\n");
    for one in attributes {
        let Attribute { key, ty, privacy, treatment, normalise, leaks, trust, column, .. } = one;
        let line = format!(
            "attribute {key:?} {ty:?} {privacy:?} {treatment:?} {normalise:?} {leaks:?} {trust:?} {column}\n"
        );
        text.push_str(&line);
    }
    for event in events {
        text.push_str(&format!("event {:?} {:?} {:?}\n", event.name, event.category, event.privacy));
        // Only where they are said, so that a registry without them keeps the version that it had.
        if let Some(purposes) = &event.purposes {
            text.push_str(&format!("  purposes {purposes:?}\n"));
        }
        if let Some(Withdrawal { subject, lifts }) = event.withdrawal {
            text.push_str(&format!("  withdrawal {subject} {lifts}\n"));
        }
        for used in &event.attributes {
            let EventAttribute { attribute, requirement, privacy, treatment } = used;
            text.push_str(&format!("  {attribute} {requirement:?} {privacy:?} {treatment:?}\n"));
        }
    }
    for column in columns {
        text.push_str(&format!(
            "column {:?} {:?} {:?} {}\n",
            column.name, column.ty, column.keys, column.pseudonymous
        ));
    }
    text
}
