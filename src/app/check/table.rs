//! Two policies on one table: which attributes and which columns would be dealt with otherwise, whatever arrives.
//!
//! Owns: these differences. Does not own: the data maps (`privacy`), the table's metadata (`table`).

use std::collections::{BTreeMap, BTreeSet};

use super::difference::{Change, Comparison, Counter, Side};
use crate::columns::Layout;
use crate::config::TableConfig;
use crate::privacy::{DataMap, MappedAttribute, MappedEvent};
use crate::table::Peek;

/// Compares the policies for a table; `peek` is None where there is no table yet.
pub(super) fn compare(
    before: &Side,
    after: &Side,
    table: Option<&TableConfig>,
    peek: Option<&Peek>,
) -> anyhow::Result<Comparison> {
    let name = table.map(|table| table.name.as_str()).unwrap_or_default();
    let mut comparison = Comparison {
        kind: "table",
        policy_version: after.map.policy_version.clone(),
        ..Comparison::default()
    };
    (comparison.events, comparison.attributes) = changes(&before.map, &after.map, name);
    match (peek, &after.gate) {
        (Some(peek), Some(gate)) => {
            let layout = Layout::new(gate.registry())?;
            let has: BTreeSet<&str> = peek.columns().collect();
            let wanted = layout.columns().iter().map(|column| column.name.as_str());
            comparison.columns_new = wanted.filter(|one| !has.contains(one)).map(str::to_owned).collect();
            let filled = filled(&after.map, name);
            let was_filled = filled_before(&before.map, name, &has);
            comparison.columns_no_longer_filled =
                was_filled.into_iter().filter(|one| !filled.contains(one)).map(str::to_owned).collect();
            comparison.refusals = peek.refusals(layout.columns());
        }
        _ => comparison.notes.push(format!("there is no table {name} yet; its columns were not compared")),
    }
    consent_notes(&before.map, &after.map, &mut comparison.notes);
    if before.map.routes != after.map.routes && !before.map.format.is_empty() {
        comparison.notes.push(
            "the routes differ: which events reach this table depends on what arrives; compare samples to see it".to_owned(),
        );
    }
    Ok(comparison)
}

fn changes(
    before: &DataMap,
    after: &DataMap,
    table: &str,
) -> (Vec<super::difference::EventChange>, Vec<super::difference::AttributeChange>) {
    let mut counter = Counter::default();
    let of = |map: &'_ DataMap| -> BTreeMap<String, MappedEvent> {
        map.events.iter().map(|event| (event.name.clone(), event.clone())).collect()
    };
    let (was, now) = (of(before), of(after));
    let names: BTreeSet<&String> = was.keys().chain(now.keys()).collect();
    for name in names {
        let (was, now) = (was.get(name), now.get(name));
        let shown = |event: Option<&MappedEvent>| match event {
            None => "undeclared",
            Some(event) if event.stored => "stored",
            Some(_) => "dropped, sensitive",
        };
        let change = match (was, now) {
            (None, Some(_)) => Some(Change::New),
            (Some(_), None) => Some(Change::Removed),
            (Some(was), Some(now)) if was.stored && !now.stored => Some(Change::NewlyDropped),
            (Some(was), Some(now)) if !was.stored && now.stored => Some(Change::NewlyKept),
            _ => None,
        };
        if let Some(change) = change {
            counter.event(change, name, shown(was), shown(now), 0);
        }
        if let (Some(was), Some(now)) = (was, now)
            && let (Some(was), Some(now)) = (consent(before, was), consent(after, now))
            && was != now
        {
            counter.event(Change::Consent, name, &was, &now, 0);
        }
        attributes(&mut counter, name, (was, now), table);
    }
    counter.into_changes()
}

/// What an event needs, and what becomes of it without; None where the map does not tell.
fn consent(map: &DataMap, event: &MappedEvent) -> Option<String> {
    let rules = map.consent.as_ref()?.category(&event.category)?;
    if let Some(withdrawal) = &event.withdrawal {
        let what = if withdrawal.lifts { "gives again" } else { "withdraws" };
        return Some(format!("{what} the consent of {}", withdrawal.subject));
    }
    let purposes = event.purposes.as_ref()?;
    if purposes.is_empty() {
        return Some("needs none".to_owned());
    }
    let (denied, unknown) = (rules.denied.as_str(), rules.unknown.as_str());
    Some(format!("needs {}; denied: {denied}, unknown: {unknown}", purposes.join(", ")))
}

/// What of consent holds for all events alike.
fn consent_notes(before: &DataMap, after: &DataMap, notes: &mut Vec<String>) {
    let (Some(was), Some(now)) = (&before.consent, &after.consent) else { return };
    if was.sources != now.sources || was.aliases != now.aliases || was.gpc_denies != now.gpc_denies {
        notes.push(
            "where consent is read, or how, differs: which events lack it depends on what arrives; compare samples to see it"
                .to_owned(),
        );
    }
    if was.withdrawals != now.withdrawals {
        let now = if now.withdrawals { "can now" } else { "can no longer" };
        notes.push(format!("people {now} withdraw consent by an event"));
    }
}

fn attributes(
    counter: &mut Counter,
    event: &str,
    (was, now): (Option<&MappedEvent>, Option<&MappedEvent>),
    table: &str,
) {
    let used = |event: Option<&MappedEvent>, key: &str| {
        event.and_then(|event| event.attributes.iter().find(|one| one.key == key)).cloned()
    };
    let both = was.into_iter().chain(now).flat_map(|event| &event.attributes);
    let keys: BTreeSet<&str> = both.map(|one| one.key.as_str()).collect();
    for key in keys {
        let (before, after) = (used(was, key), used(now, key));
        let treatment = |event: Option<&MappedEvent>, one: Option<&MappedAttribute>| match (event, one) {
            (Some(event), Some(_)) if !event.stored => "drop".to_owned(),
            (_, Some(one)) => one.treatment_in(table).to_owned(),
            (_, None) => "undeclared".to_owned(),
        };
        let (old, new) = (treatment(was, before.as_ref()), treatment(now, after.as_ref()));
        let is_kept = |treatment: &str| treatment != "drop" && treatment != "undeclared";
        let change = match (is_kept(&old), is_kept(&new)) {
            (false, true) => Some(Change::NewlyKept),
            (true, false) => Some(Change::NewlyDropped),
            (true, true) if old != new => Some(Change::Treatment),
            _ => None,
        };
        if let Some(change) = change {
            counter.attribute(change, (event, key), (&old, &new), 0);
        }
        if let (Some(before), Some(after)) = (&before, &after)
            && before.full_type() != after.full_type()
        {
            counter.attribute(Change::Type, (event, key), (&before.full_type(), &after.full_type()), 0);
        }
    }
}

/// The columns that rows of a policy can fill in a table.
fn filled<'m>(map: &'m DataMap, table: &str) -> BTreeSet<&'m str> {
    let stored = map.uses().filter(|(event, one)| event.stored && one.treatment_in(table) != "drop");
    let columns = stored.map(|(_, one)| one.column.as_str());
    columns.chain(map.envelope.iter().map(String::as_str)).collect()
}

/// The columns of the table that rows could fill so far; all, where nobody knows the policy.
fn filled_before<'m>(map: &'m DataMap, table: &str, has: &BTreeSet<&'m str>) -> BTreeSet<&'m str> {
    if map.format.is_empty() {
        return has.clone();
    }
    filled(map, table).into_iter().filter(|one| has.contains(one)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_its_own_policy_has_differences_of_its_own() {
        let before = crate::privacy::datamap_for_tests();
        let mut after = before.clone();
        for one in after.events.iter_mut().flat_map(|event| &mut event.attributes) {
            if let Some(own) = one.tables.get_mut("eu.events").filter(|_| one.key == "a.mail") {
                own.treatment = "pseudonymise".to_owned();
            }
        }
        assert_eq!(changes(&before, &after, "product.events"), (vec![], vec![]));
        let (events, attributes) = changes(&before, &after, "eu.events");
        assert!(events.is_empty());
        let [one] = attributes.as_slice() else { panic!("{attributes:?}") };
        assert_eq!((one.change, one.attribute.as_str()), (Change::NewlyKept, "a.mail"));
        assert_eq!((one.before.as_str(), one.after.as_str(), one.count), ("drop", "pseudonymise", 0));
    }

    #[test]
    fn another_purpose_and_another_rule_without_consent_are_told() {
        let before = crate::privacy::datamap_for_tests();
        let mut after = before.clone();
        after.events[0].purposes = Some(vec!["marketing".to_owned()]);
        let (events, attributes) = changes(&before, &after, "product.events");
        let [one] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!((one.change, one.event.as_str(), attributes.len()), (Change::Consent, "a.done", 0));
        assert_eq!(one.before, "needs analytics; denied: strip_identity, unknown: store");
        assert_eq!(one.after, "needs marketing; denied: strip_identity, unknown: store");
        let mut after = before.clone();
        let consent = after.consent.as_mut().unwrap();
        consent.categories[0].unknown = crate::privacy::WarehouseRule::Drop;
        consent.withdrawals = true;
        consent.gpc_denies.clear();
        let (events, _) = changes(&before, &after, "product.events");
        assert_eq!(events[0].after, "needs analytics; denied: strip_identity, unknown: drop");
        assert_eq!(events.len(), 1, "an event that needs no consent is not touched");
        let mut notes = Vec::new();
        consent_notes(&before, &after, &mut notes);
        assert!(
            notes[0].contains("where consent is read") && notes[1].contains("can now withdraw"),
            "{notes:?}"
        );
        let silent = DataMap { consent: None, ..before.clone() };
        assert_eq!(changes(&silent, &after, "product.events").0, vec![], "nothing to compare with");
    }

    #[test]
    fn new_and_removed_events_types_and_columns_are_told() {
        let before = crate::privacy::datamap_for_tests();
        let mut after = before.clone();
        after.events[1].name = "c.new".to_owned();
        let plain = after.events[0].attributes.iter_mut().find(|one| one.key == "a.plain").unwrap();
        plain.ty = "string".to_owned();
        let ip = after.events[0].attributes.iter_mut().find(|one| one.key == "a.ip").unwrap();
        ip.treatments.values_mut().for_each(|treatment| "drop".clone_into(treatment));
        let (events, attributes) = changes(&before, &after, "product.events");
        let events: Vec<_> = events.iter().map(|one| (one.change, one.event.as_str())).collect();
        assert_eq!(events, [(Change::New, "c.new"), (Change::Removed, "b.failed")]);
        let of = |event: &str| -> Vec<_> {
            let found = attributes.iter().filter(|one| one.event == event);
            found.map(|one| (one.change, one.attribute.as_str())).collect()
        };
        assert_eq!(of("a.done"), [(Change::NewlyDropped, "a.ip"), (Change::Type, "a.plain")]);
        assert_eq!(of("c.new"), [(Change::NewlyKept, "a.kind")], "what is sensitive was and is not kept");
        assert!(filled(&before, "product.events").contains("a_ip"));
        assert!(!filled(&after, "product.events").contains("a_ip"));
        assert!(filled(&after, "product.events").contains("event_id"));
    }
}
