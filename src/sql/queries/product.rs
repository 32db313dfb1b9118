//! What a product team asks: who is active, who adopts a feature, who goes on, who comes back.
//!
//! Owns: these queries. Does not own: which attributes they count (`roles`).

use super::{DAYS, Query, Script, WEEKS_DAYS};

/// How long the second step of the funnel may take, in days.
const FUNNEL_DAYS: u32 = 7;

const NO_TENANT: &str = "no stored attribute names an organisation, such as organisation.id or tenant.id; name one with --tenant KEY.";
const NO_ACTOR: &str = "no stored attribute names a user or an organisation, such as user.id; name one with --user KEY or --tenant KEY.";
const NO_SESSION: &str =
    "no stored attribute names a session, such as session.id; name one with --session KEY.";
const NO_EVENT: &str = "no event is declared and stored; name one with --event NAME.";

pub(super) fn queries(script: &Script<'_>) -> Vec<Query> {
    vec![
        daily_actives_by_tenant(script),
        daily_actives(script),
        adoption(script),
        funnel(script),
        retention(script),
        sessions(script),
        top_events(script),
        events_per_day(script),
    ]
}

fn daily_actives_by_tenant(script: &Script<'_>) -> Query {
    const NAME: &str = "daily_actives_by_tenant";
    let Some(tenant) = &script.roles.tenant else { return Query::left_out(NAME, NO_TENANT) };
    let (column, date) = (script.column(tenant), script.names.date);
    let users = match &script.roles.user {
        Some(user) => format!("\n  COUNT(DISTINCT {}) AS active_users,", script.column(user)),
        None => String::new(),
    };
    let order = if users.is_empty() { "event_count" } else { "active_users" };
    Query::new(
        NAME,
        format!("Daily actives of each {}, {DAYS} days.", tenant.key),
        format!(
            "SELECT\n  {date},\n  {column},{users}\n  COUNT(*) AS event_count\nFROM {events}\nWHERE event_time >= {since}\n  AND {column} \
             IS NOT NULL\nGROUP BY {date}, {column}\nORDER BY {date}, {order} DESC, {column}",
            events = script.events(),
            since = script.engine.days_ago(DAYS),
        ),
    )
}

fn daily_actives(script: &Script<'_>) -> Query {
    const NAME: &str = "daily_actives";
    let Some((actor, noun)) = script.actor() else { return Query::left_out(NAME, NO_ACTOR) };
    let date = script.names.date;
    let tenants = match &script.roles.tenant {
        Some(tenant) if noun == "users" => {
            format!("\n  COUNT(DISTINCT {}) AS active_organisations,", script.column(tenant))
        }
        _ => String::new(),
    };
    Query::new(
        NAME,
        format!("Active {noun} by day, {DAYS} days."),
        format!(
            "SELECT\n  {date},\n  COUNT(DISTINCT {actor}) AS active_{noun},{tenants}\n  COUNT(*) AS event_count\nFROM {events}\nWHERE \
             event_time >= {since}\nGROUP BY {date}\nORDER BY {date}",
            events = script.events(),
            since = script.engine.days_ago(DAYS),
        ),
    )
}

fn adoption(script: &Script<'_>) -> Query {
    const NAME: &str = "adoption";
    let Some(event) = script.roles.event else { return Query::left_out(NAME, NO_EVENT) };
    let Some((actor, noun)) = script
        .roles
        .tenant
        .as_ref()
        .map_or_else(|| script.actor(), |tenant| Some((script.column(tenant), "organisations")))
    else {
        return Query::left_out(NAME, NO_ACTOR);
    };
    let engine = script.engine;
    let adopted =
        format!("COUNT(DISTINCT CASE WHEN event_name = {} THEN {actor} END)", engine.text(&event.name));
    let active = format!("COUNT(DISTINCT {actor})");
    Query::new(
        NAME,
        format!(
            "Adoption of {} by week: of the {noun} that did anything, how many did this; 12 weeks.",
            event.name
        ),
        format!(
            "SELECT\n  {week} AS week_start,\n  {active} AS active_{noun},\n  {adopted} AS adopting_{noun},\n  {percent} AS \
             adopting_percent\nFROM {events}\nWHERE event_time >= {since}\nGROUP BY 1\nORDER BY 1",
            week = engine.week(script.names.date),
            percent = engine.percent(&adopted, &active),
            events = script.events(),
            since = engine.days_ago(WEEKS_DAYS),
        ),
    )
}

fn funnel(script: &Script<'_>) -> Query {
    const NAME: &str = "funnel";
    let Some((actor, noun)) = script.actor() else { return Query::left_out(NAME, NO_ACTOR) };
    let (Some(first), Some(then)) = (script.roles.event, script.roles.then) else {
        return Query::left_out(NAME, "it needs two events; name them with --event NAME --then NAME.");
    };
    if let Some(silent) = [first, then].into_iter().find(|event| !script.roles.tells_actor(event)) {
        return Query::left_out(
            NAME,
            format!(
                "{} does not carry who acted; name other events with --event NAME --then NAME.",
                silent.name
            ),
        );
    }
    let (engine, events) = (script.engine, script.events());
    Query::new(
        NAME,
        format!(
            "Funnel: of the {noun} that did {} in the last {DAYS} days, how many did {} within {FUNNEL_DAYS} days of it.",
            first.name, then.name
        ),
        format!(
            "WITH started AS (\n  SELECT {actor} AS actor, MIN(event_time) AS started_time\n  FROM {events}\n  WHERE event_name = {first}\n    \
             AND event_time >= {since}\n    AND {actor} IS NOT NULL\n  GROUP BY {actor}\n),\nwent_on AS (\n  SELECT started.actor AS \
             actor\n  FROM started\n  JOIN {events} AS later ON later.{actor} = started.actor\n  WHERE later.event_name = {then}\n    AND \
             later.event_time >= {since}\n    AND later.event_time >= started.started_time\n    AND later.event_time < {until}\n  GROUP BY \
             started.actor\n),\ncounted AS (\n  SELECT\n    (SELECT COUNT(*) FROM started) AS first_step,\n    (SELECT COUNT(*) FROM \
             went_on) AS second_step\n)\nSELECT first_step, second_step, {percent} AS second_step_percent\nFROM counted",
            first = engine.text(&first.name),
            then = engine.text(&then.name),
            since = engine.days_ago(DAYS),
            until = engine.days_after("started.started_time", FUNNEL_DAYS),
            percent = engine.percent("second_step", "first_step"),
        ),
    )
}

fn retention(script: &Script<'_>) -> Query {
    const NAME: &str = "retention";
    let Some((actor, noun)) = script.actor() else { return Query::left_out(NAME, NO_ACTOR) };
    let engine = script.engine;
    Query::new(
        NAME,
        format!(
            "Retention: of the {noun} that were first seen in a week, how many came back in each later one; 12 weeks."
        ),
        format!(
            "WITH active AS (\n  SELECT DISTINCT {actor} AS actor, {week} AS active_week\n  FROM {events}\n  WHERE event_time >= {since}\n    \
             AND {actor} IS NOT NULL\n),\nfirst_seen AS (\n  SELECT actor, MIN(active_week) AS cohort_week\n  FROM active\n  GROUP BY \
             actor\n),\ncohorts AS (\n  SELECT cohort_week, COUNT(*) AS cohort_size\n  FROM first_seen\n  GROUP BY cohort_week\n),\nreturned \
             AS (\n  SELECT\n    first_seen.cohort_week AS cohort_week,\n    {weeks} AS weeks_later,\n    COUNT(*) AS returned_{noun}\n  \
             FROM first_seen\n  JOIN active ON active.actor = first_seen.actor\n  GROUP BY 1, 2\n)\nSELECT\n  returned.cohort_week AS \
             cohort_week,\n  cohorts.cohort_size AS cohort_size,\n  returned.weeks_later AS weeks_later,\n  returned.returned_{noun} AS \
             returned_{noun},\n  {percent} AS returned_percent\nFROM returned\nJOIN cohorts ON cohorts.cohort_week = \
             returned.cohort_week\nORDER BY 1, 3",
            week = engine.week(script.names.date),
            events = script.events(),
            since = engine.days_ago(WEEKS_DAYS),
            weeks = engine.weeks_between("first_seen.cohort_week", "active.active_week"),
            percent = engine.percent(&format!("returned.returned_{noun}"), "cohorts.cohort_size"),
        ),
    )
}

fn sessions(script: &Script<'_>) -> Query {
    const NAME: &str = "sessions";
    let Some(session) = &script.roles.session else { return Query::left_out(NAME, NO_SESSION) };
    let (column, engine) = (script.column(session), script.engine);
    Query::new(
        NAME,
        format!(
            "Sessions ({}) by the day on which they began: how many, how long, how many events; {DAYS} days.",
            session.key
        ),
        format!(
            "WITH sessions AS (\n  SELECT\n    {column} AS session,\n    MIN(event_time) AS started_time,\n    MAX(event_time) AS \
             ended_time,\n    COUNT(*) AS event_count\n  FROM {events}\n  WHERE event_time >= {since}\n    AND {column} IS NOT NULL\n  GROUP \
             BY {column}\n)\nSELECT\n  {day} AS session_date,\n  COUNT(*) AS session_count,\n  ROUND(AVG({seconds}), 1) AS \
             average_seconds,\n  ROUND(AVG(event_count), 1) AS average_events\nFROM sessions\nGROUP BY 1\nORDER BY 1",
            events = script.events(),
            since = engine.days_ago(DAYS),
            day = engine.utc_day("started_time"),
            seconds = engine.seconds_between("started_time", "ended_time"),
        ),
    )
}

fn top_events(script: &Script<'_>) -> Query {
    let actors = script
        .actor()
        .map(|(actor, noun)| format!("\n  COUNT(DISTINCT {actor}) AS active_{noun},"))
        .unwrap_or_default();
    Query::new(
        "top_events",
        format!("The most frequent events, {DAYS} days."),
        format!(
            "SELECT\n  event_name,\n  category,\n  COUNT(*) AS event_count,{actors}\n  MIN(event_time) AS first_seen,\n  MAX(event_time) AS \
             last_seen\nFROM {events}\nWHERE event_time >= {since}\nGROUP BY event_name, category\nORDER BY event_count DESC, \
             event_name\nLIMIT 50",
            events = script.events(),
            since = script.engine.days_ago(DAYS),
        ),
    )
}

fn events_per_day(script: &Script<'_>) -> Query {
    let date = script.names.date;
    Query::new(
        "events_per_day",
        format!("Events by day and category, {DAYS} days."),
        format!(
            "SELECT\n  {date},\n  category,\n  COUNT(*) AS event_count,\n  COUNT(DISTINCT event_name) AS event_names\nFROM {events}\nWHERE \
             event_time >= {since}\nGROUP BY {date}, category\nORDER BY {date}, category",
            events = script.events(),
            since = script.engine.days_ago(DAYS),
        ),
    )
}
