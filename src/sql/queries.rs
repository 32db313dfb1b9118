//! The queries: a list of them, each with a name, what it answers, and what it needs.
//!
//! Owns: their order and how they are printed. Does not own: their text (`product`, `operation`).

mod operation;
mod product;

use std::fmt::Write as _;

use super::names::{DECLARED, EVENTS, QUARANTINE};
use super::roles::Role;
use super::{Script, comment, title};

/// How far back most queries look, in days.
const DAYS: u32 = 30;
/// How far back queries by week look: twelve weeks.
const WEEKS_DAYS: u32 = 84;

/// A query, or why there is none.
struct Query {
    /// Unique in the script; programs find it by this.
    name: &'static str,
    /// What it answers.
    about: String,
    /// The statement without `;`, or what lacks.
    statement: Result<String, String>,
}

impl Query {
    fn new(name: &'static str, about: impl Into<String>, statement: String) -> Self {
        Self { name, about: about.into(), statement: Ok(statement) }
    }

    fn left_out(name: &'static str, why: impl Into<String>) -> Self {
        Self { name, about: String::new(), statement: Err(why.into()) }
    }
}

pub(super) fn write(script: &Script<'_>, text: &mut String) {
    title(text, "Queries");
    comment(
        text,
        &format!(
            "They read {}, in which every row counts; put {} there to count what came twice once ([duplicates] says whether that matters). \
             Days and weeks are UTC, weeks begin on Monday.",
            script.view(EVENTS),
            script.view(super::names::UNIQUE)
        ),
    );
    told_roles(script, text);
    for query in product::queries(script).into_iter().chain(operation::queries(script)) {
        writeln!(text).ok();
        match query.statement {
            Ok(statement) => {
                comment(text, &format!("[{}] {}", query.name, query.about));
                writeln!(text, "{statement};").ok();
            }
            Err(why) => comment(text, &format!("[{}] is left out: {why}", query.name)),
        }
    }
}

/// Says what was chosen, so that a wrong choice is seen before a wrong number is.
fn told_roles(script: &Script<'_>, text: &mut String) {
    let roles = &script.roles;
    let attribute = |option: &str, role: &Option<Role<'_>>| match role {
        Some(role) => format!("--{option} {}", role.key),
        None => format!("--{option} (none found)"),
    };
    let event = |option: &str, event: Option<&str>| format!("--{option} {}", event.unwrap_or("(none found)"));
    comment(
        text,
        &format!(
            "Chosen from the registry, or as you said: {}, {}, {}, {}, {}.",
            attribute("tenant", &roles.tenant),
            attribute("user", &roles.user),
            attribute("session", &roles.session),
            event("event", roles.event.map(|event| event.name.as_str())),
            event("then", roles.then.map(|event| event.name.as_str())),
        ),
    );
}

impl Script<'_> {
    fn events(&self) -> String {
        self.view(EVENTS)
    }

    fn declared(&self) -> String {
        self.view(DECLARED)
    }

    fn quarantine(&self) -> String {
        self.view(QUARANTINE)
    }

    /// A role's column in quotes.
    fn column(&self, role: &Role<'_>) -> String {
        self.engine.ident(role.column)
    }

    /// Whom queries count, as SQL has it, and as people call it.
    fn actor(&self) -> Option<(String, &'static str)> {
        let roles = &self.roles;
        let noun = if roles.user.is_some() { "users" } else { "organisations" };
        roles.actor().map(|role| (self.column(role), noun))
    }
}
