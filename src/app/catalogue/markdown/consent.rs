//! What the document says of consent.
//!
//! Owns: the words about purposes, what happens without consent, and withdrawals. Does not own: any fact (`privacy::DataMap`).

use std::fmt::Write as _;

use super::{code, row};
use crate::privacy::{DataMap, MappedConsent, MappedEvent, SourceForm};

/// What each rule leaves of an event.
const RULES: &str = "*store*: the event as the policy of its levels says. *strip_identity*: the event without its attributes of \
                     level pseudonymous and above, and without its trace and span. *drop*: nothing; the event is counted.";

/// The section about consent.
pub(super) fn section(text: &mut String, map: &DataMap) {
    text.push_str("\n## Purposes and consent\n\n");
    let Some(consent) = &map.consent else {
        text.push_str("This map was written by a version that did not write down consent.\n");
        return;
    };
    text.push_str(
        "An event is recorded for its purposes. Consent must be given to each of them; a refusal anywhere beats a grant. An event\n\
         without purposes needs no consent: it rests on another basis.\n\n",
    );
    by_purpose(text, map, consent);
    text.push_str("\n| Category | Purposes of its events, unless they have their own | Decided by | Consent refused | Nothing said |\n");
    text.push_str("|---|---|---|---|---|\n");
    for one in &consent.categories {
        let cells = [
            one.category.clone(),
            purposes(&one.purposes),
            one.purposes_rule.clone(),
            one.denied.as_str().to_owned(),
            one.unknown.as_str().to_owned(),
        ];
        row(text, &cells);
    }
    // Writing to a String cannot fail.
    writeln!(text, "\n{RULES}\n").ok();
    amplitude(text, consent);
    withdrawals(text, map, consent);
    sources(text, consent);
}

/// Each purpose, and the events that serve it.
fn by_purpose(text: &mut String, map: &DataMap, consent: &MappedConsent) {
    let of = |event: &MappedEvent| event.purposes.clone().unwrap_or_default();
    let mut names: Vec<String> = map.events.iter().flat_map(of).collect();
    names.push(consent.amplitude_purpose.clone());
    names.sort();
    names.dedup();
    text.push_str("| Purpose | Also called | Events |\n|---|---|---:|\n");
    for name in names {
        let count = map.events.iter().filter(|event| of(event).contains(&name)).count();
        let aliases = consent.aliases.iter().filter(|(_, purpose)| **purpose == name);
        let aliases: Vec<String> = aliases.map(|(alias, _)| code(alias)).collect();
        row(text, &[name, aliases.join(", "), count.to_string()]);
    }
    let none = map.events.iter().filter(|event| of(event).is_empty() && event.withdrawal.is_none()).count();
    row(text, &["none: no consent is asked for".to_owned(), String::new(), none.to_string()]);
}

fn amplitude(text: &mut String, consent: &MappedConsent) {
    let may = |allowed: bool| if allowed { "may go there" } else { "do not go there" };
    writeln!(
        text,
        "Amplitude gets only events with consent to the purpose {}. Events of which nothing says whether it was given {}; events\n\
         that need no consent {}.",
        consent.amplitude_purpose,
        may(consent.amplitude_unknown),
        may(consent.amplitude_not_required)
    )
    .ok();
}

fn withdrawals(text: &mut String, map: &DataMap, consent: &MappedConsent) {
    if !consent.withdrawals {
        text.push_str(
            "\n**No event is declared by which somebody withdraws consent**: a refusal holds only for events that carry it.\n",
        );
        return;
    }
    text.push_str(
        "\nThese events withdraw a person's consent or give it again. After a withdrawal, every event that bears the person's pseudonym\n\
         counts as refused, also one that needs no consent.\n\n| Event | Whose | What it says |\n|---|---|---|\n",
    );
    for event in &map.events {
        let Some(withdrawal) = &event.withdrawal else { continue };
        let what = if withdrawal.lifts { "consent is given again" } else { "consent is withdrawn" };
        row(text, &[code(&event.name), code(&withdrawal.subject), what.to_owned()]);
    }
}

fn sources(text: &mut String, consent: &MappedConsent) {
    let read = consent.sources.iter().filter(|source| source.form != SourceForm::Off);
    let keys: Vec<String> = read
        .map(|source| code(&format!("{}{}", source.key, if source.key.ends_with('.') { "*" } else { "" })))
        .collect();
    writeln!(text, "\nConsent is read in these attributes of a record or its resource: {}.", keys.join(", "))
        .ok();
    let denies =
        if consent.gpc_denies.is_empty() { "nothing".to_owned() } else { consent.gpc_denies.join(", ") };
    writeln!(text, "The browser's signal *Global Privacy Control* refuses {denies}.").ok();
}

/// What an event needs.
pub(super) fn of_event(text: &mut String, event: &MappedEvent) {
    if let Some(withdrawal) = &event.withdrawal {
        let what = if withdrawal.lifts { "gives consent again" } else { "withdraws consent" };
        writeln!(text, "\nPurposes: none. By this event the person in {} {what}.", code(&withdrawal.subject))
            .ok();
        return;
    }
    if let Some(own) = &event.purposes {
        let rule = event.purposes_rule.as_deref().unwrap_or_default();
        writeln!(text, "\nPurposes: {} ({rule}).", purposes(own)).ok();
    }
}

fn purposes(purposes: &[String]) -> String {
    if purposes.is_empty() { "none: needs no consent".to_owned() } else { purposes.join(", ") }
}
