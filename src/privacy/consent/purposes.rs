//! Which purposes an event has, and who says so.
//!
//! Owns: the order of precedence: the event itself, its category in the registry, the configuration, the default. Does not own: what a
//! purpose means for a decision.

use std::fmt;

use super::{ConsentError, ConsentOptions};
use crate::registry::{Category, Event, Registry};

/// The purpose that product events have unless somebody says otherwise.
pub(super) const ANALYTICS: &str = "analytics";

/// Who says which purposes an event has. The first that says something does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::privacy) enum PurposesRule {
    /// It withdraws consent or gives it again, and so needs none.
    Withdrawal,
    /// The event's own declaration.
    Event,
    /// What the registry says of its category.
    Registry,
    /// What the configuration says of its category.
    Configuration(Category),
    /// Nobody.
    Default(Category),
}

impl fmt::Display for PurposesRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Withdrawal => f.write_str("withdrawal in schemas/"),
            Self::Event => f.write_str("purposes in schemas/"),
            Self::Registry => f.write_str("purposes of the category in schemas/"),
            Self::Configuration(category) => write!(f, "consent.purposes.{}", category.as_str()),
            Self::Default(category) => write!(f, "default for {}", category.as_str()),
        }
    }
}

/// The purposes of an event, as they are written.
pub(in crate::privacy) fn of_event(
    options: &ConsentOptions,
    registry: &Registry,
    event: &Event,
) -> (Vec<String>, PurposesRule) {
    match (&event.purposes, event.withdrawal) {
        (_, Some(_)) => (Vec::new(), PurposesRule::Withdrawal),
        (Some(purposes), None) => (purposes.clone(), PurposesRule::Event),
        (None, None) => of_category(options, registry, event.category),
    }
}

/// The purposes of a category's events that name none themselves, sorted.
pub(in crate::privacy) fn of_category(
    options: &ConsentOptions,
    registry: &Registry,
    category: Category,
) -> (Vec<String>, PurposesRule) {
    let (mut purposes, rule) = match (registry.category_purposes(category), configured(options, category)) {
        (Some(purposes), _) => (purposes.to_vec(), PurposesRule::Registry),
        (None, Some(purposes)) => (purposes.clone(), PurposesRule::Configuration(category)),
        (None, None) => (by_default(category), PurposesRule::Default(category)),
    };
    purposes.sort();
    purposes.dedup();
    (purposes, rule)
}

/// The registry holds over the configuration; but where the two differ, somebody believes in what does not hold.
pub(super) fn check(options: &ConsentOptions, registry: &Registry) -> Result<(), ConsentError> {
    for category in Category::ALL {
        let (Some(declared), Some(configured)) =
            (registry.category_purposes(category), configured(options, category))
        else {
            continue;
        };
        let mut configured = configured.clone();
        configured.sort();
        configured.dedup();
        if configured != declared {
            return Err(ConsentError::Category {
                category: category.as_str(),
                declared: shown(declared),
                configured: shown(&configured),
            });
        }
    }
    Ok(())
}

fn shown(purposes: &[String]) -> String {
    format!("[{}]", purposes.join(", "))
}

fn configured(options: &ConsentOptions, category: Category) -> Option<&Vec<String>> {
    let [product, operational, security] = &options.purposes;
    match category {
        Category::Product => product.as_ref(),
        Category::Operational => operational.as_ref(),
        Category::Security => security.as_ref(),
    }
}

/// How a service fares and who attacks it is recorded on another basis than consent.
pub(in crate::privacy) fn by_default(category: Category) -> Vec<String> {
    match category {
        Category::Product => vec![ANALYTICS.to_owned()],
        Category::Operational | Category::Security => Vec::new(),
    }
}
