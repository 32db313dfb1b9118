//! What is kept of a request: values, and the text that the gate made for them.
//!
//! Owns: applying an action to one value, and taking a record's values back. Does not own: which action (`policy`), in which
//! order (`pass`). Whatever is refused leaves nothing behind in what was made.

use super::action::Action;
use super::coerce::{as_text, coerce, fit, made_since};
use super::policy::AttributePlan;
use super::tally::AttributeOutcome;
use super::{ClearedValue, Gate, json, normalise, treat};
use crate::receive::decode::RawValue;
use crate::registry::{LeakAction, Reduction, Trust};

/// The values and made text of the records so far.
#[derive(Default)]
pub(super) struct Store<'a> {
    pub(super) values: Vec<(u32, ClearedValue<'a>)>,
    pub(super) made: String,
    /// Where the current record's values start.
    record_start: usize,
    /// Where the current record's made text starts.
    made_start: usize,
    /// The current record's tenant, where the policy knows tenants and the record names one.
    tenant: String,
    has_tenant: bool,
    /// Some pseudonym of the current record is that of a subject who withdrew.
    pub(super) withdrawn: bool,
}

impl<'a> Store<'a> {
    pub(super) fn with_capacity(values: usize) -> Self {
        Self { values: Vec::with_capacity(values), ..Self::default() }
    }

    /// Begins a record.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.record_start = self.values.len();
        self.made_start = self.made.len();
        self.withdrawn = false;
    }

    /// Takes back what the current record has stored.
    pub(super) fn take_back(&mut self) {
        self.values.truncate(self.record_start);
        self.made.truncate(self.made_start);
        self.withdrawn = false;
    }

    /// The current record's values, as a range.
    #[inline]
    pub(super) fn range(&self) -> std::ops::Range<u32> {
        self.record_start as u32..self.values.len() as u32
    }

    /// Sets or forgets the current record's tenant; its space is kept.
    pub(super) fn set_tenant(&mut self, tenant: Option<&str>) {
        self.has_tenant = tenant.is_some();
        self.tenant.clear();
        self.tenant.push_str(tenant.unwrap_or_default());
    }

    pub(super) fn is_taken(&self, column: u32) -> bool {
        self.values.iter().skip(self.record_start).any(|(taken, _)| *taken == column)
    }

    /// Reads, treats and stores an attribute's value.
    #[inline]
    pub(super) fn put(
        &mut self,
        gate: &Gate,
        plan: &AttributePlan,
        action: Action,
        value: RawValue<'a>,
    ) -> AttributeOutcome {
        let start = self.made.len();
        if is_untrusted(plan, value) {
            return AttributeOutcome::Untrusted;
        }
        match coerce(value, &plan.coercion, gate.options.value_bytes_max, &mut self.made) {
            Ok(Some(value)) => self.put_value(gate, plan, action, value, start),
            Ok(None) => AttributeOutcome::Null,
            Err(refusal) => self.refuse(start, refusal),
        }
    }

    /// The pseudonyms of a value under every key, none where it is nobody's. Nothing is stored; `made` is space for text.
    pub(super) fn pseudonyms(
        &self,
        gate: &Gate,
        plan: &AttributePlan,
        value: RawValue<'a>,
        made: &mut String,
    ) -> Vec<String> {
        made.clear();
        if is_untrusted(plan, value) {
            return Vec::new();
        }
        let Ok(Some(value)) = coerce(value, &plan.coercion, gate.options.value_bytes_max, made) else {
            return Vec::new();
        };
        let value = as_text(value, made);
        let text = normalise::apply(plan.normalise, value.text(made).unwrap_or_default());
        if text.is_empty() {
            return Vec::new();
        }
        gate.pseudonyms.all(self.has_tenant.then_some(self.tenant.as_str()), &text).collect()
    }

    /// Treats and stores text that was made elsewhere.
    pub(super) fn put_text(
        &mut self,
        gate: &Gate,
        plan: &AttributePlan,
        action: Action,
        text: &str,
    ) -> AttributeOutcome {
        if text.len() > gate.options.value_bytes_max {
            return AttributeOutcome::TooLong;
        }
        let start = self.made.len();
        self.made.push_str(text);
        let value = made_since(start, &self.made);
        self.put_value(gate, plan, action, value, start)
    }

    /// Treats and stores a value whose made text, if any, begins at `start`.
    #[inline]
    fn put_value(
        &mut self,
        gate: &Gate,
        plan: &AttributePlan,
        action: Action,
        value: ClearedValue<'a>,
        start: usize,
    ) -> AttributeOutcome {
        match action {
            Action::Pseudonymise => self.put_pseudonym(gate, plan, value, start),
            Action::Reduce(place) => match gate.policy.reduction(place) {
                Some(reduction) => self.put_reduced(gate, plan, reduction, value, start),
                None => self.refuse(start, AttributeOutcome::Unreducible),
            },
            Action::Keep => match fit(value, plan.column_type, &mut self.made) {
                Ok(value) => self.put_plain(gate, plan, value, start, AttributeOutcome::Kept),
                Err(refusal) => self.refuse(start, refusal),
            },
            _ => self.refuse(start, AttributeOutcome::DroppedByPolicy),
        }
    }

    fn put_reduced(
        &mut self,
        gate: &Gate,
        plan: &AttributePlan,
        reduction: Reduction,
        value: ClearedValue<'a>,
        start: usize,
    ) -> AttributeOutcome {
        let is_mask = matches!(reduction, Reduction::Mask(_));
        let before = value.text(&self.made).filter(|_| is_mask).map(str::to_owned);
        let reduced = match treat::apply(reduction, &gate.scanner, value, start, &mut self.made) {
            Ok(reduced) => reduced,
            Err(treat::Refused) => return self.refuse(start, AttributeOutcome::Unreducible),
        };
        let value = match fit(reduced, plan.column_type, &mut self.made) {
            Ok(value) => value,
            Err(refusal) => return self.refuse(start, refusal),
        };
        if !is_mask {
            self.values.push((plan.column, value));
            return AttributeOutcome::Reduced;
        }
        let text = value.text(&self.made);
        if plan.json && !text.is_some_and(json::is_json) {
            return self.refuse(start, AttributeOutcome::DroppedLeak);
        }
        let is_same = text == before.as_deref();
        // What the policy does not mask may have leaked all the same.
        let outcome = if is_same { AttributeOutcome::Kept } else { AttributeOutcome::Masked };
        self.put_plain(gate, plan, value, start, outcome)
    }

    /// Stores a value as it is, or without what leaked into it.
    #[inline]
    fn put_plain(
        &mut self,
        gate: &Gate,
        plan: &AttributePlan,
        value: ClearedValue<'a>,
        start: usize,
        clean: AttributeOutcome,
    ) -> AttributeOutcome {
        let mut masked = String::new();
        let leaked = plan.scanned
            && value.text(&self.made).is_some_and(|text| gate.scanner.mask(text, &mut masked).is_some());
        if !leaked {
            self.values.push((plan.column, value));
            return clean;
        }
        // A mask may stand where JSON has a number; what is not JSON any more must not be stored as JSON.
        let is_broken = plan.json && !json::is_json(&masked);
        match plan.leaks {
            LeakAction::Quarantine => self.refuse(start, AttributeOutcome::LeakQuarantined),
            LeakAction::Mask if !is_broken => {
                self.made.truncate(start);
                self.made.push_str(&masked);
                self.values.push((plan.column, made_since(start, &self.made)));
                AttributeOutcome::Masked
            }
            LeakAction::Mask | LeakAction::Drop => self.refuse(start, AttributeOutcome::DroppedLeak),
        }
    }

    fn put_pseudonym(
        &mut self,
        gate: &Gate,
        plan: &AttributePlan,
        value: ClearedValue<'a>,
        start: usize,
    ) -> AttributeOutcome {
        let value = as_text(value, &mut self.made);
        let (code, withdrawn) = {
            let text = normalise::apply(plan.normalise, value.text(&self.made).unwrap_or_default());
            let tenant = self.has_tenant.then_some(self.tenant.as_str());
            // Nothing is not somebody: without this, all who have no id would be one person.
            let code =
                if text.is_empty() { Some(None) } else { gate.pseudonyms.code(tenant, &text).map(Some) };
            (code, !text.is_empty() && gate.is_withdrawn(tenant, &text))
        };
        self.withdrawn |= withdrawn;
        // The value itself must not stay in what was made.
        self.made.truncate(start);
        let code = match code {
            Some(Some(code)) => code,
            Some(None) => return AttributeOutcome::Null,
            None => return AttributeOutcome::KeyDestroyed,
        };
        gate.pseudonyms.push(code, &mut self.made);
        let pseudonym = made_since(start, &self.made);
        match fit(pseudonym, plan.column_type, &mut self.made) {
            Ok(value) => {
                self.values.push((plan.column, value));
                AttributeOutcome::Pseudonymised
            }
            Err(refusal) => self.refuse(start, refusal),
        }
    }

    fn refuse(&mut self, start: usize, refusal: AttributeOutcome) -> AttributeOutcome {
        self.made.truncate(start);
        refusal
    }
}

/// True where a value that must be the server's own arrived as text, as OpenTelemetry's baggage does.
#[inline]
pub(super) fn is_untrusted(plan: &AttributePlan, value: RawValue<'_>) -> bool {
    plan.trust == Trust::Server && matches!(value, RawValue::Str(text) if text != b"null")
}
