//! What the operator says of consent: purposes by category, sources, aliases, what is done without consent.
//!
//! Owns: the options and their defaults, the names of forms and rules. Does not own: the spelling of keys in a file (`config`),
//! reading values (`form`).

use std::collections::BTreeMap;

use super::purposes::ANALYTICS;
use crate::registry::Category;

const ADVERTISING: &str = "advertising";

/// Everything that decides about consent, beside the registry.
///
/// `Debug` shows all of it in a fixed order, so that a digest of it tells two policies apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentOptions {
    /// The purposes of events of which the registry names none, by category in the order of [`Category::ALL`]; `None` where the
    /// operator does not say.
    pub purposes: [Option<Vec<String>>; 3],
    /// Where consent is read.
    pub sources: Vec<ConsentSource>,
    /// Other names of purposes to their own. Names are compared without regard to the case of ASCII letters.
    pub aliases: BTreeMap<String, String>,
    /// What Global Privacy Control denies.
    pub gpc_denies: Vec<String>,
    /// What the warehouse does without consent, by category in the order of [`Category::ALL`].
    pub warehouse: [WarehouseConsent; 3],
    /// What Amplitude may get.
    pub amplitude: AmplitudeConsent,
}

/// An attribute, or several with a common start, that says something of consent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentSource {
    /// The attribute's key. One that ends in a dot stands for all keys that start with it; the rest is a purpose's name.
    pub key: String,
    /// How its value is read.
    pub form: SourceForm,
    /// The one purpose that it is about; `None` for all, or for those that the value names.
    pub purpose: Option<String>,
}

/// How the value of a source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceForm {
    /// A list of granted purposes: an array, a JSON array as text, or names with commas between them.
    GrantedList,
    /// A list of denied purposes.
    DeniedList,
    /// A map of purpose to true or false, also as JSON text.
    PurposeMap,
    /// True or false for one purpose, which the source or the end of the key names.
    PurposeBool,
    /// `granted`, `denied`, `pending`, `withdrawn`, `expired` or `unknown`.
    Status,
    /// A signal of Google's consent mode: `granted` or `denied`.
    Google,
    /// Global Privacy Control: true denies, false says nothing.
    Gpc,
    /// RudderStack's `consentManagement` object.
    Rudderstack,
    /// Segment's `consent` object.
    Segment,
    /// Snowplow's `consent_preferences` event, or its `eventType` alone.
    Snowplow,
    /// Not read at all: takes a default source away.
    Off,
}

/// What the warehouse does with an event. Ordered: a later one stores less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarehouseRule {
    /// It is stored as the policy says.
    Store,
    /// It is stored without what could lead to a person.
    StripIdentity,
    /// It is counted and not stored.
    Drop,
}

impl WarehouseRule {
    /// Its name, as files have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::StripIdentity => "strip_identity",
            Self::Drop => "drop",
        }
    }
}

/// What the warehouse does with the events of a category that lack consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WarehouseConsent {
    /// Consent was refused.
    pub denied: WarehouseRule,
    /// Nothing says whether it was given.
    pub unknown: WarehouseRule,
}

/// What Amplitude may get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmplitudeConsent {
    /// The purpose that an event must have, and its consent.
    pub purpose: String,
    /// Events of which nothing says whether consent to that purpose was given may go.
    pub unknown: bool,
    /// Events that need no consent may go.
    pub not_required: bool,
}

impl Default for ConsentOptions {
    fn default() -> Self {
        let strip = WarehouseConsent { denied: WarehouseRule::StripIdentity, unknown: WarehouseRule::Store };
        // How a service fares and who attacks it is recorded on another basis than consent, which nobody can refuse.
        let store = WarehouseConsent { denied: WarehouseRule::Store, unknown: WarehouseRule::Store };
        Self {
            purposes: [None, None, None],
            sources: default_sources(),
            aliases: BTreeMap::new(),
            gpc_denies: vec![ADVERTISING.to_owned()],
            warehouse: Category::ALL.map(|category| match category {
                Category::Product => strip,
                Category::Operational | Category::Security => store,
            }),
            amplitude: AmplitudeConsent {
                purpose: ANALYTICS.to_owned(),
                unknown: false,
                not_required: false,
            },
        }
    }
}

impl ConsentOptions {
    /// Adds a source, in place of the one with the same key.
    pub fn set_source(&mut self, source: ConsentSource) {
        match self.sources.iter_mut().find(|known| known.key == source.key) {
            Some(known) => *known = source,
            None => self.sources.push(source),
        }
    }
}

fn default_sources() -> Vec<ConsentSource> {
    use SourceForm::{
        DeniedList, Google, Gpc, GrantedList, PurposeBool, PurposeMap, Rudderstack, Segment, Snowplow, Status,
    };
    let sources: [(&str, SourceForm, Option<&str>); 27] = [
        ("consent.granted", GrantedList, None),
        ("consent.denied", DeniedList, None),
        ("consent.categories", PurposeMap, None),
        ("consent.categories.", PurposeBool, None),
        ("consent.status", Status, None),
        ("consent.gpc", Gpc, None),
        // As OpenTelemetry's instrumentations capture the header, and as Tealium names it.
        ("http.request.header.sec-gpc", Gpc, None),
        ("global_privacy_control_opt_out", Gpc, None),
        ("analytics_storage", Google, Some(ANALYTICS)),
        ("ad_storage", Google, Some(ADVERTISING)),
        ("ad_user_data", Google, Some(ADVERTISING)),
        ("ad_personalization", Google, Some(ADVERTISING)),
        ("functionality_storage", Google, Some("functional")),
        ("personalization_storage", Google, Some("personalization")),
        ("security_storage", Google, Some("security")),
        ("context.consentManagement", Rudderstack, None),
        ("context.consentManagement.allowedConsentIds", GrantedList, None),
        ("context.consentManagement.deniedConsentIds", DeniedList, None),
        ("consentManagement", Rudderstack, None),
        ("consentManagement.allowedConsentIds", GrantedList, None),
        ("consentManagement.deniedConsentIds", DeniedList, None),
        ("context.consent", Segment, None),
        ("context.consent.categoryPreferences", PurposeMap, None),
        ("context.consent.categoryPreferences.", PurposeBool, None),
        ("consent_preferences", Snowplow, None),
        // Not `consent_preferences.consentScopes`: whether scopes are granted is up to the event type, in another attribute.
        ("consent_preferences.eventType", Snowplow, None),
        ("consent_preferences.event_type", Snowplow, None),
    ];
    sources.map(|(key, form, purpose)| source(key, form, purpose)).into()
}

fn source(key: &str, form: SourceForm, purpose: Option<&str>) -> ConsentSource {
    ConsentSource { key: key.to_owned(), form, purpose: purpose.map(str::to_owned) }
}
