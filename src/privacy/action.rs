//! What the gate does with an attribute, in the few bytes that fit into a table of all attributes.
//!
//! Owns: actions, and which of two restrictions holds. Does not own: which attribute gets which (`policy`), applying them
//! (`store`).

use super::tally::AttributeOutcome;
use crate::registry::{PrivacyLevel, Reduction, Treatment};

/// What happens to an attribute of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// The event does not declare it.
    Undeclared,
    Keep,
    /// A place in [`Reductions`].
    Reduce(u8),
    Pseudonymise,
    Drop(DropReason),
    /// It is the event's id.
    EventId,
    /// It is the event's name, where it equals the name by precedence.
    EventName,
    /// It says how the record is to be treated (its level, its category, consent), and was read for that.
    Control,
}

/// Why a declared attribute is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DropReason {
    Personal,
    Sensitive,
    Policy,
    Record,
    Consent,
}

impl DropReason {
    pub(super) fn outcome(self) -> AttributeOutcome {
        match self {
            Self::Personal => AttributeOutcome::DroppedPersonal,
            Self::Sensitive => AttributeOutcome::DroppedSensitive,
            Self::Policy => AttributeOutcome::DroppedByPolicy,
            Self::Record => AttributeOutcome::DroppedByRecord,
            Self::Consent => AttributeOutcome::DroppedByConsent,
        }
    }
}

/// The distinct reductions of a policy.
#[derive(Debug, Default)]
pub(super) struct Reductions(Vec<Reduction>);

impl Reductions {
    pub(super) fn get(&self, place: u8) -> Option<Reduction> {
        self.0.get(usize::from(place)).copied()
    }

    /// The action for a treatment of a value of this level. There are far fewer than 256 different reductions in a registry;
    /// one that finds no place is dropped.
    pub(super) fn action(&mut self, treatment: Treatment, level: PrivacyLevel) -> Action {
        match treatment {
            Treatment::Keep => Action::Keep,
            Treatment::Pseudonymise => Action::Pseudonymise,
            Treatment::Drop => Action::Drop(match level {
                PrivacyLevel::Personal => DropReason::Personal,
                PrivacyLevel::Sensitive => DropReason::Sensitive,
                _ => DropReason::Policy,
            }),
            Treatment::Reduce(reduction) => {
                let place = self.0.iter().position(|known| *known == reduction).unwrap_or_else(|| {
                    self.0.push(reduction);
                    self.0.len() - 1
                });
                u8::try_from(place).map_or(Action::Drop(DropReason::Policy), Action::Reduce)
            }
        }
    }
}

impl Action {
    /// The action where the record states a level whose treatment is `least`: the stricter of both. What would have to
    /// become something else has no place in a column of such values, so it is dropped.
    pub(super) fn at_least(self, least: Treatment) -> Self {
        match (self, least) {
            (Self::Keep | Self::Reduce(_) | Self::Pseudonymise, Treatment::Keep)
            | (Self::Pseudonymise, Treatment::Pseudonymise | Treatment::Reduce(_)) => self,
            (Self::Keep | Self::Reduce(_) | Self::Pseudonymise, _) => Self::Drop(DropReason::Record),
            _ => self,
        }
    }
}
