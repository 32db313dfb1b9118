//! What decides about consent, as the data map has it.
//!
//! Owns: its shape, writing it from the gate and reading it back into options. Does not own: the options' meaning (`consent`), events'
//! purposes in registry files (`restore`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::privacy::Gate;
use crate::privacy::consent::purposes::{self, PurposesRule};
use crate::privacy::consent::{
    AmplitudeConsent, ConsentOptions, ConsentSource, SourceForm, WarehouseConsent, WarehouseRule,
};
use crate::registry::{Category, Event};

/// Everything that decides about consent besides what events declare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedConsent {
    /// Each category: what its events need, and what becomes of them without it.
    pub categories: Vec<MappedCategory>,
    /// Consent to this lets an event go to Amplitude.
    pub amplitude_purpose: String,
    /// Amplitude may get events of which nothing says whether consent was given.
    pub amplitude_unknown: bool,
    /// Amplitude may get events that need no consent.
    pub amplitude_not_required: bool,
    /// What Global Privacy Control denies.
    pub gpc_denies: Vec<String>,
    /// Other names of purposes, to their own.
    pub aliases: BTreeMap<String, String>,
    /// Where consent is read; one of the form `off` takes a default source away.
    pub sources: Vec<MappedConsentSource>,
    /// Some event is declared by which people withdraw: from then on whatever bears their pseudonym is denied.
    pub withdrawals: bool,
}

/// What holds for the events of a category.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedCategory {
    /// `product`, `operational` or `security`.
    pub category: String,
    /// The purposes of events that declare none themselves.
    pub purposes: Vec<String>,
    /// The rule that says so.
    pub purposes_rule: String,
    /// What the warehouse does where consent was refused.
    pub denied: WarehouseRule,
    /// What the warehouse does where nothing says whether it was given.
    pub unknown: WarehouseRule,
}

/// An attribute in which consent is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedConsentSource {
    /// Its key, or the start of several and a dot.
    pub key: String,
    /// How its value is read.
    pub form: SourceForm,
    /// The one purpose that it is about, where its value names none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub purpose: Option<String>,
}

/// What an event says of the consent of the person in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedWithdrawal {
    /// The key of the attribute that names the person.
    pub subject: String,
    /// Consent is given again.
    pub lifts: bool,
}

impl MappedConsent {
    pub(super) fn of(gate: &Gate) -> Self {
        let options = &gate.options.consent;
        let ConsentOptions { purposes: _, sources, aliases, gpc_denies, warehouse, amplitude } = options;
        let AmplitudeConsent { purpose, unknown, not_required } = amplitude;
        let category = |(category, rules): (Category, &WarehouseConsent)| {
            let WarehouseConsent { denied, unknown } = *rules;
            let (purposes, rule) = purposes::of_category(options, gate.registry(), category);
            MappedCategory {
                category: category.as_str().to_owned(),
                purposes,
                purposes_rule: rule.to_string(),
                denied,
                unknown,
            }
        };
        let source = |ConsentSource { key, form, purpose }: &ConsentSource| MappedConsentSource {
            key: key.clone(),
            form: *form,
            purpose: purpose.clone(),
        };
        Self {
            categories: Category::ALL.into_iter().zip(warehouse).map(category).collect(),
            amplitude_purpose: purpose.clone(),
            amplitude_unknown: *unknown,
            amplitude_not_required: *not_required,
            gpc_denies: gpc_denies.clone(),
            aliases: aliases.clone(),
            sources: sources.iter().map(source).collect(),
            withdrawals: gate
                .registry()
                .events()
                .iter()
                .any(|one| one.withdrawal.is_some_and(|one| !one.lifts)),
        }
    }

    /// What holds for a category.
    #[must_use]
    pub fn category(&self, category: &str) -> Option<&MappedCategory> {
        self.categories.iter().find(|one| one.category == category)
    }

    /// The options that this was written from, without what the registry says of categories. What it does not say of a category
    /// stores nothing.
    pub(in crate::privacy) fn options(&self) -> ConsentOptions {
        let drop = WarehouseConsent { denied: WarehouseRule::Drop, unknown: WarehouseRule::Drop };
        let of = |category: Category| self.category(category.as_str());
        let source = |MappedConsentSource { key, form, purpose }: &MappedConsentSource| ConsentSource {
            key: key.clone(),
            form: *form,
            purpose: purpose.clone(),
        };
        ConsentOptions {
            purposes: Category::ALL.map(|category| {
                let one = of(category).filter(|one| !one.is_declared())?;
                // What was the default then may be another one now.
                (one.purposes != purposes::by_default(category)).then(|| one.purposes.clone())
            }),
            sources: self.sources.iter().map(source).collect(),
            aliases: self.aliases.clone(),
            gpc_denies: self.gpc_denies.clone(),
            warehouse: Category::ALL.map(|one| {
                of(one).map_or(drop, |one| WarehouseConsent { denied: one.denied, unknown: one.unknown })
            }),
            amplitude: AmplitudeConsent {
                purpose: self.amplitude_purpose.clone(),
                unknown: self.amplitude_unknown,
                not_required: self.amplitude_not_required,
            },
        }
    }
}

impl MappedCategory {
    /// True where the registry speaks of the category's purposes.
    pub(in crate::privacy) fn is_declared(&self) -> bool {
        self.purposes_rule == PurposesRule::Registry.to_string()
    }
}

/// The purposes of an event, and the rule that says so.
pub(super) fn of_event(gate: &Gate, event: &Event) -> (Vec<String>, String) {
    let (purposes, rule) = purposes::of_event(&gate.options.consent, gate.registry(), event);
    (purposes, rule.to_string())
}

pub(super) fn withdrawal(gate: &Gate, event: &Event) -> Option<MappedWithdrawal> {
    let withdrawal = event.withdrawal?;
    let subject = gate.registry().attributes().get(withdrawal.subject)?.key.clone();
    Some(MappedWithdrawal { subject, lifts: withdrawal.lifts })
}
