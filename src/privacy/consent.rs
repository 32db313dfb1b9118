//! Consent: whether what a record and its resource say lets an event serve its purposes.
//!
//! Owns: the decision and its basis, the purposes of events, what follows from a decision for the warehouse and for Amplitude.
//! Does not own: who withdrew (`withdrawn`), stripping and dropping (`pass`), the spelling of options in a file (`config`).
//!
//! An event needs every one of its purposes. Attributes of record and resource count alike: what any of them refuses is denied,
//! whatever others grant; what one grants is granted; what a list of grants leaves out is denied; what none speaks of is
//! unknown. So one more attribute never undoes a refusal, and never turns a decision into unknown.

mod form;
mod node;
mod options;
pub(super) mod purposes;
mod reading;
#[cfg(test)]
mod tests;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::receive::decode::{RawEvents, RawResource};
use crate::registry::{Category, Event, Registry};
use form::Names;
use purposes::PurposesRule;

pub use form::NAME_BYTES_MAX as CONSENT_NAME_BYTES_MAX;
pub use options::{
    AmplitudeConsent, ConsentOptions, ConsentSource, SourceForm, WarehouseConsent, WarehouseRule,
};
pub use reading::Reading;

/// Most purposes that events may need together: each is a bit of a word.
pub const PURPOSES_MAX: usize = 64;

/// Most sources; the defaults are some twenty.
pub const SOURCES_MAX: usize = 256;

/// Whether an event's purposes have consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It was given.
    Granted,
    /// It was refused.
    Denied,
    /// Nothing says.
    Unknown,
    /// None is needed.
    NotRequired,
}

impl Decision {
    /// Its name, as rows have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Denied => "denied",
            Self::Unknown => "unknown",
            Self::NotRequired => "not_required",
        }
    }
}

/// What decided: a place in [`ConsentPolicy::bases`].
pub type Basis = u16;

/// What a key means for consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role(u16);

/// Why there is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsentError {
    /// More purposes than there are bits.
    #[error(
        "events need {count} different purposes, more than {PURPOSES_MAX}; give purposes that are always asked for together one name"
    )]
    Purposes {
        /// How many.
        count: usize,
    },
    /// More sources than there may be.
    #[error(
        "consent.sources: there are {count} sources with the defaults, more than {SOURCES_MAX}; take some out"
    )]
    Sources {
        /// How many.
        count: usize,
    },
    /// Registry and configuration contradict each other.
    #[error(
        "the purposes of {category} events are {declared} in schemas/, and {configured} in consent.purposes.{category}; take the \
         latter out: what schemas/ says of a category holds"
    )]
    Category {
        /// Of which category.
        category: &'static str,
        /// What the registry says.
        declared: String,
        /// What the configuration says.
        configured: String,
    },
    /// A name stands for two purposes.
    #[error("consent.aliases: `{name}` is the name of a purpose itself, or stands there twice; take it out")]
    Alias {
        /// The name.
        name: String,
    },
}

/// A source, compiled.
#[derive(Debug)]
struct Source {
    form: SourceForm,
    /// The purposes that it is about, where its value does not name them.
    purposes: u64,
    /// Of a source of many keys, the length of their common start; else 0.
    prefix_bytes: usize,
    /// Its basis where a record has it; the next one is that of a resource.
    basis: Basis,
}

/// What an event needs.
#[derive(Debug)]
struct Needs {
    /// As bits.
    purposes: u64,
    names: Vec<String>,
    /// Who says so, where it needs none.
    basis: Basis,
    /// It is a withdrawal, or lifts one.
    withdrawal: bool,
}

/// The options and the registry, compiled for decisions.
#[derive(Debug)]
pub struct ConsentPolicy {
    sources: Vec<Source>,
    keys: HashMap<Box<[u8]>, Role, FixedState>,
    /// Longest first.
    prefixes: Vec<(Box<[u8]>, Role)>,
    /// The first bytes of all prefixes, as a set.
    first_bytes: [u64; 4],
    names: Names,
    /// By event number.
    events: Vec<Needs>,
    bases: Vec<String>,
    warehouse: [WarehouseConsent; 3],
    amplitude: AmplitudeConsent,
    amplitude_purpose: u64,
}

impl ConsentPolicy {
    /// Nobody said anything.
    pub const NONE: Basis = 0;
    /// The registry says that the event needs no consent.
    pub const REGISTRY: Basis = 1;
    /// The configuration says that events of the category need no consent.
    pub const CONFIGURATION: Basis = 2;
    /// More attributes than one were needed for the decision.
    pub const SEVERAL: Basis = 3;
    /// The person withdrew consent.
    pub const WITHDRAWAL: Basis = 4;

    /// Compiles options and registry.
    ///
    /// # Errors
    /// [`ConsentError`], where there is too much of something or a name is ambiguous.
    pub fn new(options: &ConsentOptions, registry: &Registry) -> Result<Self, ConsentError> {
        purposes::check(options, registry)?;
        let (events, purposes) = needs(options, registry)?;
        let names = names(options, &purposes)?;
        let mut policy = Self {
            sources: Vec::new(),
            keys: HashMap::default(),
            prefixes: Vec::new(),
            first_bytes: [0; 4],
            events,
            bases: ["none", "registry", "configuration", "several", "withdrawal"].map(str::to_owned).into(),
            warehouse: options.warehouse,
            amplitude_purpose: bit(&purposes, &options.amplitude.purpose),
            amplitude: options.amplitude.clone(),
            names,
        };
        if options.sources.len() > SOURCES_MAX {
            return Err(ConsentError::Sources { count: options.sources.len() });
        }
        for source in options.sources.iter().filter(|source| source.form != SourceForm::Off) {
            policy.add(source, &purposes, &options.gpc_denies);
        }
        policy.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok(policy)
    }

    fn add(&mut self, source: &ConsentSource, purposes: &[String], gpc_denies: &[String]) {
        let role = Role(self.sources.len() as u16);
        let is_prefix = source.key.ends_with('.');
        self.sources.push(Source {
            form: source.form,
            purposes: match &source.purpose {
                Some(purpose) => bit(purposes, purpose),
                None if source.form == SourceForm::Gpc => {
                    gpc_denies.iter().fold(0, |all, purpose| all | bit(purposes, purpose))
                }
                None => form::ALL,
            },
            prefix_bytes: if is_prefix { source.key.len() } else { 0 },
            basis: self.bases.len() as Basis,
        });
        let star = if is_prefix { "*" } else { "" };
        self.bases.push(format!("record:{}{star}", source.key));
        self.bases.push(format!("resource:{}{star}", source.key));
        let key = source.key.as_bytes();
        if !is_prefix {
            self.keys.insert(key.into(), role);
            return;
        }
        if let Some(first) = key.first() {
            let (word, bit) = place_of(*first);
            if let Some(word) = self.first_bytes.get_mut(word) {
                *word |= bit;
            }
        }
        self.prefixes.push((key.into(), role));
    }

    /// What a whole key means for consent.
    #[must_use]
    pub fn role(&self, key: &[u8]) -> Option<Role> {
        self.keys.get(key).copied().or_else(|| self.prefix_role(key))
    }

    /// What a key means by its start alone; for keys of which [`ConsentPolicy::role`] was not asked before.
    #[inline]
    #[must_use]
    pub fn prefix_role(&self, key: &[u8]) -> Option<Role> {
        let (word, bit) = place_of(*key.first()?);
        if self.first_bytes.get(word)? & bit == 0 {
            return None;
        }
        self.prefixes.iter().find(|(prefix, _)| key.starts_with(prefix)).map(|(_, role)| *role)
    }

    /// The whole keys that have a meaning, for a table of known keys.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.keys().map(|key| &**key)
    }

    /// What a resource says: where reading its records starts.
    #[must_use]
    pub fn resource(&self, raw: &RawEvents<'_>, resource: &RawResource<'_>) -> Reading {
        let mut reading = Reading::default();
        for attribute in raw.attributes(&resource.attributes) {
            if let Some(role) = self.role(attribute.key) {
                reading.see(self, role, attribute.key, attribute.value, false);
            }
        }
        reading
    }

    /// Decides about an event, an index into `Registry::events`, of which all attributes were read.
    #[inline]
    #[must_use]
    pub fn decide(&self, reading: &Reading, event: u32) -> (Decision, Basis) {
        let Some(needs) = self.events.get(event as usize) else { return (Decision::Unknown, Self::NONE) };
        if needs.purposes == 0 {
            return (Decision::NotRequired, needs.basis);
        }
        if let Some(basis) = reading.denial(needs.purposes) {
            return (Decision::Denied, basis);
        }
        if let Some(basis) = reading.grant(needs.purposes) {
            return (Decision::Granted, basis);
        }
        match reading.omission(needs.purposes) {
            Some(basis) => (Decision::Denied, basis),
            None => (Decision::Unknown, reading.undecided().unwrap_or(Self::NONE)),
        }
    }

    /// Decides about an event of somebody who withdrew: denied, also where it needs no consent, as a withdrawal stops
    /// everything. Only what is itself a withdrawal, or lifts one, is kept.
    #[must_use]
    pub fn decide_withdrawn(&self, event: u32) -> (Decision, Basis) {
        match self.events.get(event as usize) {
            Some(needs) if needs.withdrawal => (Decision::NotRequired, needs.basis),
            _ => (Decision::Denied, Self::WITHDRAWAL),
        }
    }

    /// What the warehouse does with an event of this category after this decision. The category is the one that the registry
    /// declares: a record that states another one could free itself of consent.
    #[must_use]
    pub fn warehouse(&self, category: Category, decision: Decision) -> WarehouseRule {
        let [product, operational, security] = self.warehouse;
        let rules = match category {
            Category::Product => product,
            Category::Operational => operational,
            Category::Security => security,
        };
        match decision {
            Decision::Granted | Decision::NotRequired => WarehouseRule::Store,
            Decision::Denied => rules.denied,
            Decision::Unknown => rules.unknown,
        }
    }

    /// True where Amplitude may get an event of this number with this decision. Consent that an event has to other purposes
    /// says nothing of Amplitude's. That somebody withdrew consent, or gave it again, is never Amplitude's business.
    #[must_use]
    pub fn allows_amplitude(&self, event: u32, decision: Decision) -> bool {
        let needs = self.events.get(event as usize);
        if needs.is_some_and(|needs| needs.withdrawal) {
            return false;
        }
        let has_purpose = || needs.is_some_and(|needs| needs.purposes & self.amplitude_purpose != 0);
        match decision {
            Decision::Granted if has_purpose() => true,
            Decision::Granted | Decision::Unknown => self.amplitude.unknown,
            Decision::Denied => false,
            Decision::NotRequired => self.amplitude.not_required,
        }
    }

    /// The purposes that an event needs, sorted.
    #[must_use]
    pub fn purposes(&self, event: u32) -> &[String] {
        self.events.get(event as usize).map(|needs| needs.names.as_slice()).unwrap_or_default()
    }

    /// What may have decided, by number.
    #[must_use]
    pub fn bases(&self) -> &[String] {
        &self.bases
    }

    fn source(&self, role: Role) -> Option<&Source> {
        self.sources.get(usize::from(role.0))
    }
}

/// The place of a byte in a set of 256.
#[inline]
fn place_of(byte: u8) -> (usize, u64) {
    (usize::from(byte >> 6), 1 << (byte & 63))
}

fn bit(purposes: &[String], purpose: &str) -> u64 {
    purposes.iter().position(|known| known == purpose).map_or(0, |place| 1 << place)
}

/// What each event needs, and all purposes of which consent matters, by bit. Others can be named in values, and are skipped.
fn needs(options: &ConsentOptions, registry: &Registry) -> Result<(Vec<Needs>, Vec<String>), ConsentError> {
    let of = |event: &Event| purposes::of_event(options, registry, event);
    let mut purposes: Vec<String> = registry.events().iter().flat_map(|event| of(event).0).collect();
    purposes.push(options.amplitude.purpose.clone());
    purposes.sort();
    purposes.dedup();
    if purposes.len() > PURPOSES_MAX {
        return Err(ConsentError::Purposes { count: purposes.len() });
    }
    let event = |event: &Event| {
        let (names, rule) = of(event);
        Needs {
            purposes: names.iter().fold(0, |all, purpose| all | bit(&purposes, purpose)),
            names,
            basis: match rule {
                PurposesRule::Withdrawal | PurposesRule::Event | PurposesRule::Registry => {
                    ConsentPolicy::REGISTRY
                }
                PurposesRule::Configuration(_) | PurposesRule::Default(_) => ConsentPolicy::CONFIGURATION,
            },
            withdrawal: event.withdrawal.is_some(),
        }
    };
    Ok((registry.events().iter().map(event).collect(), purposes))
}

fn names(options: &ConsentOptions, purposes: &[String]) -> Result<Names, ConsentError> {
    let mut names = Names::default();
    for purpose in purposes {
        names.insert(purpose, bit(purposes, purpose));
    }
    for (alias, purpose) in &options.aliases {
        let purpose = bit(purposes, purpose);
        if names.contains(alias) && names.bit(alias.as_bytes()) != purpose {
            return Err(ConsentError::Alias { name: alias.clone() });
        }
        // An alias of a purpose that no event needs has no bit, and is as good as unknown.
        names.insert(alias, purpose);
    }
    Ok(names)
}
