//! Names of views: one for each event, none twice.
//!
//! Owns: from an event's name to a view's. Does not own: quoting (`dialect`).

use std::collections::{BTreeMap, HashSet};
use std::hash::Hasher;

use super::Lake;
use crate::columns::Layout;
use crate::privacy::DataMap;

/// All events of the table.
pub(super) const EVENTS: &str = "events";
/// The same without what was stored twice.
pub(super) const UNIQUE: &str = "events_unique";
/// What the registry declares.
pub(super) const DECLARED: &str = "declared_events";
/// What was set aside.
pub(super) const QUARANTINE: &str = "quarantine";
/// Withdrawals of consent.
pub(super) const WITHDRAWALS: &str = "withdrawals";

const OWN: [&str; 5] = [EVENTS, UNIQUE, DECLARED, QUARANTINE, WITHDRAWALS];

/// True for the names above, which are no keyword anywhere and so need no quotes.
pub(super) fn is_own(name: &str) -> bool {
    OWN.contains(&name)
}

/// Longest name of a view, below what every engine and metastore takes.
const NAME_BYTES_MAX: usize = 120;

/// The views' names.
#[derive(Debug)]
pub(super) struct Names<'a> {
    by_event: BTreeMap<&'a str, String>,
    /// The column of the UTC day, which is in every view.
    pub(super) date: &'static str,
}

impl<'a> Names<'a> {
    pub(super) fn new(map: &'a DataMap, layout: &Layout, lake: &Lake) -> Self {
        let mut taken: HashSet<String> = OWN.iter().map(|name| (*name).to_owned()).collect();
        // The tables themselves may lie in the same schema.
        taken.extend(lake.tables().map(|table| table.name.replace('.', "_")));
        let mut by_event = BTreeMap::new();
        for event in &map.events {
            let mut name = plain(&event.name);
            if name.len() > NAME_BYTES_MAX || taken.contains(&name) {
                name.truncate(NAME_BYTES_MAX);
                name = format!("{name}_{}", suffix(&event.name));
            }
            taken.insert(name.clone());
            by_event.insert(event.name.as_str(), name);
        }
        let is_taken =
            |name: &str| layout.columns().iter().any(|column| column.name.eq_ignore_ascii_case(name));
        let date = if is_taken("event_date") { "esker_event_date" } else { "event_date" };
        Self { by_event, date }
    }

    /// The view of a declared event.
    pub(super) fn event(&self, name: &str) -> &str {
        self.by_event.get(name).map_or(EVENTS, String::as_str)
    }
}

/// Lower case letters, digits and `_`, so that a name means the same in every engine, whatever it makes of case.
fn plain(event: &str) -> String {
    let name: String =
        event.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("event_{name}") } else { name }
}

/// Tells apart what has the same plain name. It depends on the event's own name alone, so that it stays when events are added.
fn suffix(event: &str) -> String {
    // FNV-1a, since the standard library's hasher may change.
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    hasher.write(event.as_bytes());
    format!("{:08x}", hasher.finish() >> 32)
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
