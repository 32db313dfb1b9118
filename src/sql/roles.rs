//! Which attribute names the organisation, the user and the session, and which events the examples are about.
//!
//! Owns: choosing them where nobody says. Does not own: what is asked of them (`queries`).

use super::{SqlError, is_stored};
use crate::privacy::{DataMap, MappedAttribute, MappedEvent};

/// What plays which role; what is not given is chosen from the registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleOptions {
    /// The attribute that names the organisation.
    pub tenant: Option<String>,
    /// The attribute that the configuration calls the tenant's, which counts where `tenant` is not given.
    pub tenant_hint: Option<String>,
    /// The attribute that names the user.
    pub user: Option<String>,
    /// The attribute that names the session.
    pub session: Option<String>,
    /// The event whose adoption is asked for; the first step of the funnel.
    pub event: Option<String>,
    /// The second step of the funnel.
    pub then: Option<String>,
}

/// Keys that name an organisation, the first that is there counts.
const TENANTS: [&str; 8] = [
    "organisation.id",
    "organization.id",
    "tenant.id",
    "workspace.id",
    "company.id",
    "account.id",
    "customer.id",
    "team.id",
];
const USERS: [&str; 6] =
    ["user.id", "enduser.id", "enduser.pseudo.id", "user.hash", "amplitude.user_id", "user.uuid"];
const SESSIONS: [&str; 3] = ["session.id", "amplitude.session_id", "browser.session.id"];

/// An attribute in its role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Role<'a> {
    pub(super) key: &'a str,
    pub(super) column: &'a str,
}

/// The roles, each of which may be empty.
#[derive(Debug)]
pub(super) struct Roles<'a> {
    pub(super) tenant: Option<Role<'a>>,
    pub(super) user: Option<Role<'a>>,
    pub(super) session: Option<Role<'a>>,
    pub(super) event: Option<&'a MappedEvent>,
    pub(super) then: Option<&'a MappedEvent>,
}

impl<'a> Roles<'a> {
    pub(super) fn choose(map: &'a DataMap, table: &str, options: &RoleOptions) -> Result<Self, SqlError> {
        let stored: Vec<_> = map
            .uses()
            .filter(|(event, attribute)| event.stored && is_stored(attribute, table))
            .map(|(_, attribute)| attribute)
            .collect();
        let hint = options.tenant_hint.as_deref();
        let tenants: Vec<_> = hint.into_iter().chain(TENANTS).collect();
        let tenant = choice(&stored, "tenant", options.tenant.as_deref(), &tenants)?;
        let user = choice(&stored, "user", options.user.as_deref(), &USERS)?;
        let session = choice(&stored, "session", options.session.as_deref(), &SESSIONS)?;
        let mut roles = Self { tenant, user, session, event: None, then: None };
        roles.event = event(map, "event", options.event.as_deref())?.or_else(|| roles.first_event(map));
        roles.then = event(map, "then", options.then.as_deref())?.or_else(|| roles.second_event(map));
        Ok(roles)
    }

    /// Who acts: the user, else the organisation.
    pub(super) fn actor(&self) -> Option<&Role<'a>> {
        self.user.as_ref().or(self.tenant.as_ref())
    }

    /// An event that tells who acted: of the product where there is one, of the domain that has the most of them, so that
    /// there is a second one beside it.
    fn first_event(&self, map: &'a DataMap) -> Option<&'a MappedEvent> {
        let stored = || map.events.iter().filter(|event| event.stored);
        let telling = |category: &str| -> Vec<_> {
            stored().filter(|event| event.category == category && self.tells_actor(event)).collect()
        };
        let mut candidates = telling("product");
        if candidates.is_empty() {
            candidates = stored().filter(|event| self.tells_actor(event)).collect();
        }
        let size =
            |event: &MappedEvent| candidates.iter().filter(|other| domain(other) == domain(event)).count();
        // Of equals the first stays.
        let mut best: Option<&MappedEvent> = None;
        for event in &candidates {
            if best.is_none_or(|best| size(event) > size(best)) {
                best = Some(event);
            }
        }
        best.or_else(|| stored().find(|event| event.category == "product")).or_else(|| stored().next())
    }

    /// Another event that tells who acted, of the same domain where there is one.
    fn second_event(&self, map: &'a DataMap) -> Option<&'a MappedEvent> {
        let first = self.event?;
        let others = || {
            map.events
                .iter()
                .filter(|event| event.stored && event.name != first.name && self.tells_actor(event))
        };
        others()
            .find(|event| domain(event) == domain(first) && event.category == first.category)
            .or_else(|| others().find(|event| event.category == first.category))
            .or_else(|| others().next())
    }

    /// True where the event may carry who acts.
    pub(super) fn tells_actor(&self, event: &MappedEvent) -> bool {
        let Some(actor) = self.actor() else { return false };
        event.attributes.iter().any(|attribute| attribute.column == actor.column)
    }
}

/// The first part of an event's name.
fn domain(event: &MappedEvent) -> &str {
    event.name.split('.').next().unwrap_or_default()
}

/// The attribute of a role: the one that was asked for, else the first known key, else one that ends like it.
fn choice<'a>(
    stored: &[&'a MappedAttribute],
    role: &'static str,
    wanted: Option<&str>,
    known: &[&str],
) -> Result<Option<Role<'a>>, SqlError> {
    let of = |attribute: &&'a MappedAttribute| Role { key: &attribute.key, column: &attribute.column };
    let exact =
        |key: &str| stored.iter().find(|attribute| attribute.key == key || attribute.column == key).map(of);
    if let Some(key) = wanted {
        return exact(key).map(Some).ok_or_else(|| SqlError::Attribute {
            role,
            key: key.to_owned(),
            hint: close(stored.iter().map(|attribute| attribute.key.as_str()), key),
        });
    }
    let ending = |key: &&str| {
        let (dotted, joined) = (format!(".{key}"), format!("_{}", key.replace('.', "_")));
        stored.iter().find(|one| one.key.ends_with(&dotted) || one.key.ends_with(&joined)).map(of)
    };
    Ok(known.iter().find_map(|key| exact(key)).or_else(|| known.iter().find_map(ending)))
}

fn event<'a>(
    map: &'a DataMap,
    role: &'static str,
    wanted: Option<&str>,
) -> Result<Option<&'a MappedEvent>, SqlError> {
    let Some(name) = wanted else { return Ok(None) };
    let stored = || map.events.iter().filter(|event| event.stored);
    match stored().find(|event| event.name == name) {
        Some(event) => Ok(Some(event)),
        None => Err(SqlError::Event {
            role,
            name: name.to_owned(),
            hint: close(stored().map(|event| event.name.as_str()), name),
        }),
    }
}

/// Names that share a word with the wanted one, or the way to see all.
fn close<'a>(known: impl Iterator<Item = &'a str>, wanted: &str) -> String {
    let words: Vec<_> = wanted.split(['.', '_']).filter(|word| word.len() > 1).collect();
    let mut found: Vec<_> =
        known.filter(|name| name.split(['.', '_']).any(|word| words.contains(&word))).collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(5);
    if found.is_empty() {
        "`esker catalogue` lists what there is".to_owned()
    } else {
        format!("did you mean {}?", found.join(", "))
    }
}
