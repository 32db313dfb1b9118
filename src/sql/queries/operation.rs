//! What those ask who look after the data: is it fresh, is it whole, has it drifted, under which consent and policy is it kept.
//!
//! Owns: these queries. Does not own: what is at fault where a number is wrong.

use std::collections::BTreeSet;

use super::{DAYS, Query, Script};

/// An event that was not seen for so many days is silent.
const SILENT_DAYS: u32 = 7;
/// How far back the last time of a silent event is looked for.
const SILENT_WITHIN_DAYS: u32 = 90;

/// Most columns of one event whose fill is told.
const FILL_COLUMNS_MAX: usize = 40;

pub(super) fn queries(script: &Script<'_>) -> Vec<Query> {
    vec![
        freshness(script),
        delay(script),
        volume_by_service(script),
        silent_events(script),
        fill_rates(script),
        consent(script),
        policies(script),
        duplicates(script),
        quarantine(script),
    ]
}

fn freshness(script: &Script<'_>) -> Query {
    let engine = script.engine;
    Query::new(
        "freshness",
        format!(
            "Freshness: the newest event of each service, and seconds since it was received; {DAYS} days."
        ),
        format!(
            "SELECT\n  service_name,\n  MAX(event_time) AS newest_event,\n  MAX(received_time) AS newest_received,\n  {seconds} AS \
             seconds_since_received\nFROM {events}\nWHERE event_time >= {since}\nGROUP BY service_name\nORDER BY newest_received DESC",
            seconds = engine.seconds_between("MAX(received_time)", engine.now()),
            events = script.events(),
            since = engine.days_ago(DAYS),
        ),
    )
}

fn delay(script: &Script<'_>) -> Query {
    let (engine, date) = (script.engine, script.names.date);
    let seconds = engine.seconds_between("event_time", "received_time");
    Query::new(
        "delay",
        format!(
            "How late events arrive: seconds from happening to being received, and how many took over an hour; {DAYS} days."
        ),
        format!(
            "SELECT\n  {date},\n  COUNT(*) AS event_count,\n  ROUND(AVG({seconds}), 1) AS average_seconds,\n  MAX({seconds}) AS \
             longest_seconds,\n  COUNT(CASE WHEN {seconds} > 3600 THEN 1 END) AS over_an_hour\nFROM {events}\nWHERE event_time >= \
             {since}\nGROUP BY {date}\nORDER BY {date}",
            events = script.events(),
            since = engine.days_ago(DAYS),
        ),
    )
}

fn volume_by_service(script: &Script<'_>) -> Query {
    Query::new(
        "volume_by_service",
        format!("Volume by service and version, {DAYS} days."),
        format!(
            "SELECT\n  service_name,\n  service_version,\n  COUNT(*) AS event_count,\n  COUNT(DISTINCT event_name) AS event_names,\n  \
             MIN(event_time) AS first_seen,\n  MAX(event_time) AS last_seen\nFROM {events}\nWHERE event_time >= {since}\nGROUP BY \
             service_name, service_version\nORDER BY event_count DESC, service_name, service_version",
            events = script.events(),
            since = script.engine.days_ago(DAYS),
        ),
    )
}

fn silent_events(script: &Script<'_>) -> Query {
    const NAME: &str = "silent_events";
    if script.stored_events().next().is_none() {
        return Query::left_out(NAME, "the registry declares no event that is stored.");
    }
    let engine = script.engine;
    Query::new(
        NAME,
        format!(
            "Drift: declared events that were not seen for {SILENT_DAYS} days, and when they were last seen in {SILENT_WITHIN_DAYS}. What \
             arrives undeclared is in no table: `esker status` and `esker learn` tell of it."
        ),
        format!(
            "WITH seen AS (\n  SELECT event_name AS seen_name, MAX(event_time) AS last_seen, COUNT(*) AS event_count\n  FROM {events}\n  \
             WHERE event_time >= {within}\n  GROUP BY event_name\n)\nSELECT declared.event_name, declared.category, seen.last_seen, \
             COALESCE(seen.event_count, 0) AS event_count\nFROM {declared} AS declared\nLEFT JOIN seen ON seen.seen_name = \
             declared.event_name\nWHERE seen.last_seen IS NULL OR seen.last_seen < {since}\nORDER BY declared.event_name{tail}",
            events = script.events(),
            declared = script.declared(),
            within = engine.days_ago(SILENT_WITHIN_DAYS),
            since = engine.days_ago(SILENT_DAYS),
            tail = engine.after_outer_join(),
        ),
    )
}

fn fill_rates(script: &Script<'_>) -> Query {
    const NAME: &str = "fill_rates";
    let Some(event) = script.roles.event else {
        return Query::left_out(NAME, "no event is declared and stored; name one with --event NAME.");
    };
    let columns: BTreeSet<&str> = event
        .attributes
        .iter()
        .filter(|attribute| script.is_stored(attribute))
        .map(|attribute| attribute.column.as_str())
        .take(FILL_COLUMNS_MAX)
        .collect();
    if columns.is_empty() {
        return Query::left_out(
            NAME,
            format!("{} has no attribute that is stored; name another with --event NAME.", event.name),
        );
    }
    let engine = script.engine;
    let rates: Vec<_> = columns
        .iter()
        .map(|column| {
            let filled = format!("COUNT({})", engine.ident(column));
            format!(
                "{} AS {}",
                engine.percent(&filled, "COUNT(*)"),
                engine.ident(&format!("{column}_filled_percent"))
            )
        })
        .collect();
    Query::new(
        NAME,
        format!("Drift: by week, in how many percent of {} each column has a value; 12 weeks.", event.name),
        format!(
            "SELECT\n  {week} AS week_start,\n  COUNT(*) AS event_count,\n  {rates}\nFROM {view}\nWHERE event_time >= {since}\nGROUP BY \
             1\nORDER BY 1",
            week = engine.week(script.names.date),
            rates = rates.join(",\n  "),
            view = script.view(script.names.event(&event.name)),
            since = engine.days_ago(super::WEEKS_DAYS),
        ),
    )
}

fn consent(script: &Script<'_>) -> Query {
    Query::new(
        "consent",
        format!("Under which consent events are kept, and what decided on it; {DAYS} days."),
        format!(
            "SELECT\n  category,\n  consent,\n  consent_basis,\n  COUNT(*) AS event_count\nFROM {events}\nWHERE event_time >= {since}\nGROUP BY \
             category, consent, consent_basis\nORDER BY category, event_count DESC, consent, consent_basis",
            events = script.events(),
            since = script.engine.days_ago(DAYS),
        ),
    )
}

fn policies(script: &Script<'_>) -> Query {
    Query::new(
        "policies",
        format!(
            "Which privacy policies cleared the events of the last {DAYS} days, and between when; policies/<version>.json in the table's \
             folder is the policy written out."
        ),
        format!(
            "SELECT\n  policy_version,\n  COUNT(*) AS event_count,\n  MIN(received_time) AS first_received,\n  MAX(received_time) AS \
             last_received\nFROM {events}\nWHERE event_time >= {since}\nGROUP BY policy_version\nORDER BY first_received",
            events = script.events(),
            since = script.engine.days_ago(DAYS),
        ),
    )
}

fn duplicates(script: &Script<'_>) -> Query {
    let date = script.names.date;
    Query::new(
        "duplicates",
        format!("Rows that are there more than once, by day; {DAYS} days. No row means that there are none."),
        format!(
            "SELECT\n  {date},\n  COUNT(*) AS row_count,\n  COUNT(*) - COUNT(DISTINCT event_id) AS surplus_rows\nFROM {events}\nWHERE \
             event_time >= {since}\nGROUP BY {date}\nHAVING COUNT(*) > COUNT(DISTINCT event_id)\nORDER BY {date}",
            events = script.events(),
            since = script.engine.days_ago(DAYS),
        ),
    )
}

fn quarantine(script: &Script<'_>) -> Query {
    const NAME: &str = "quarantine_by_reason";
    if script.lake.quarantine.is_none() {
        return Query::left_out(
            NAME,
            "there is no quarantine table beside this table; the primary table has it.",
        );
    }
    Query::new(
        NAME,
        format!("What was set aside, by reason, event and attribute at fault; received in {DAYS} days."),
        format!(
            "SELECT\n  reason,\n  event_name,\n  detail,\n  COUNT(*) AS event_count,\n  COUNT(DISTINCT service_name) AS services,\n  \
             MAX(event_time) AS last_received\nFROM {view}\nWHERE event_time >= {since}\nGROUP BY reason, event_name, detail\nORDER BY \
             event_count DESC, reason, event_name, detail",
            view = script.quarantine(),
            since = script.engine.days_ago(DAYS),
        ),
    )
}
