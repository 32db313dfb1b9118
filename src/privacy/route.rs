//! Where an event goes: to which table, or nowhere.
//!
//! Owns: routes and their matching; the first that matches decides, and without one the primary table gets the event. Does
//! not own: the spelling of routes in a file (`config`), the decision on consent (`consent`).

use crate::receive::decode::{RawEvents, RawResource, RawValue};
use crate::registry::{Category, Registry};

use super::coerce::{push_display, push_double};
use super::consent::Decision;

/// A rule that says where events go. Every condition that it has must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The event's category: the registry's, or what the record states where that is stricter.
    pub category: Option<Category>,
    /// The event's name; empty for all.
    pub events: Vec<EventPattern>,
    /// A resource attribute and its value, as text.
    pub resource: Option<ResourceMatch>,
    /// The decision on the event's consent.
    pub consent: Option<Decision>,
    /// Where it leads.
    pub target: RouteTarget,
}

/// Names of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventPattern {
    /// This name.
    Name(String),
    /// Every name that starts with this text, which ends in a dot.
    Prefix(String),
}

/// A resource attribute and its value.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceMatch {
    /// The attribute's key.
    pub key: String,
    /// Its value, as text.
    pub value: String,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteTarget {
    /// To a table: a place in the list of tables.
    Table(usize),
    /// Nowhere: the event is counted and not stored.
    Drop,
}

impl EventPattern {
    /// True where it matches this event's name.
    #[must_use]
    pub fn matches(&self, event: &str) -> bool {
        match self {
            Self::Name(name) => name == event,
            Self::Prefix(prefix) => event.starts_with(prefix.as_str()),
        }
    }

    /// True where it matches every name that the other one matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match other {
            Self::Name(name) => self.matches(name),
            Self::Prefix(prefix) => matches!(self, Self::Prefix(own) if prefix.starts_with(own.as_str())),
        }
    }
}

impl Route {
    /// True where it matches every event that the other one matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let events = |pattern: &EventPattern| self.events.iter().any(|own| own.covers(pattern));
        (self.category.is_none() || self.category == other.category)
            && (self.resource.is_none() || self.resource == other.resource)
            && (self.consent.is_none() || self.consent == other.consent)
            && (self.events.is_empty() || (!other.events.is_empty() && other.events.iter().all(events)))
    }
}

/// All routes, ready for use.
#[derive(Debug)]
pub(super) struct Router {
    routes: Vec<Route>,
    /// By event number: the routes that its name allows.
    candidates: Vec<Box<[u16]>>,
}

impl Router {
    pub(super) fn new(routes: &[Route], registry: &Registry) -> Self {
        let allowed = |name: &str| {
            let allows =
                |route: &Route| route.events.is_empty() || route.events.iter().any(|one| one.matches(name));
            (0..).zip(routes).filter(|(_, route)| allows(route)).map(|(number, _)| number).collect()
        };
        Self {
            candidates: registry.events().iter().map(|event| allowed(&event.name)).collect(),
            routes: routes.to_vec(),
        }
    }

    /// For each route, whether a resource meets its condition.
    pub(super) fn resource(&self, raw: &RawEvents<'_>, resource: &RawResource<'_>) -> Vec<bool> {
        let holds = |wanted: &ResourceMatch| {
            let attributes = raw.attributes(&resource.attributes).iter();
            let last = attributes.rev().find(|attribute| attribute.key == wanted.key.as_bytes());
            last.is_some_and(|attribute| is_text(attribute.value, &wanted.value))
        };
        self.routes.iter().map(|route| route.resource.as_ref().is_none_or(holds)).collect()
    }

    /// Where an event goes; `resource` is what [`Router::resource`] said of its resource.
    pub(super) fn route(
        &self,
        event: u32,
        category: Category,
        resource: &[bool],
        consent: Option<Decision>,
    ) -> RouteTarget {
        let mut matching = self.matching(event, category, resource);
        let taken = matching.find(|(_, route)| route.consent.is_none_or(|wanted| Some(wanted) == consent));
        taken.map_or(RouteTarget::Table(0), |(_, route)| route.target)
    }

    /// The routes that match an event whatever its consent is, and their places, in order.
    pub(super) fn matching(
        &self,
        event: u32,
        category: Category,
        resource: &[bool],
    ) -> impl Iterator<Item = (usize, &Route)> {
        let candidates = self.candidates.get(event as usize).map(|all| &**all).unwrap_or_default();
        candidates.iter().filter_map(move |number| {
            let number = usize::from(*number);
            let route = self.routes.get(number)?;
            // A record without a resource meets no condition on one.
            let resource = resource.get(number).copied().unwrap_or_else(|| route.resource.is_none());
            let holds = resource && route.category.is_none_or(|wanted| wanted == category);
            holds.then_some((number, route))
        })
    }
}

/// True where a scalar's canonical text is `wanted`.
fn is_text(value: RawValue<'_>, wanted: &str) -> bool {
    let mut text = String::new();
    match value {
        RawValue::Str(bytes) => return bytes == wanted.as_bytes(),
        RawValue::Int(int) => push_display(&mut text, int),
        RawValue::Double(double) if double.is_finite() => push_double(&mut text, double),
        RawValue::Bool(flag) => push_display(&mut text, flag),
        _ => return false,
    }
    text == wanted
}
