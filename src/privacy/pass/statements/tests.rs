//! Which records state something of somebody's consent, by what becomes of their events.

use std::sync::Arc;

use crate::config::Config;
use crate::privacy::tests::fixture::{Sent, clear_with, key};
use crate::privacy::{Cleared, Gate};
use crate::registry::Registry;

const WITHDRAWN: &str = "consent.withdrawn";
const GIVEN: &str = "consent.restored";
const ALICE: &str = "e1_a2lvxkk5_gy5imU2VnwmN6HH1aXNrrQNiZgMGutfQKhxBvAhQmTs";

const DROPPED: &str = "[[routes]]\nevents = ['consent.*']\ndrop = true\n";
const WITHOUT_PSEUDONYMS: &str = "[[tables]]\nname = 'lake.bare'\n[tables.policy]\npseudonymous = 'drop'\n[[routes]]\nevents = ['consent.*']\ntable = 'lake.bare'\n";

fn gate(config: &str) -> Gate {
    let text = include_str!("../../../../tests/golden/registries/withdrawals.yaml");
    // So that a withdrawal can name a tenant.
    let text = text.replace("required}, {ref: seats}]", "required}, {ref: seats}, {ref: plan}]");
    let registry = Registry::from_files(&[("withdrawals".to_owned(), text)]).unwrap();
    let options = Config::from_toml(config).unwrap().gate_options();
    Gate::new(Arc::new(registry), &key(), options).unwrap()
}

fn of(name: &str) -> Sent {
    Sent::named(name).with("user.id", "7")
}

/// Subject and kind of each statement, and how many events are stored or set aside.
fn stated(config: &str, sent: Sent) -> (Vec<(String, bool)>, usize) {
    let of = |cleared: &Cleared<'_>| {
        let statements = cleared.withdrawals().iter().map(|one| (one.subject.clone(), one.lifts)).collect();
        (statements, cleared.events().len() + cleared.quarantined().len())
    };
    clear_with(&gate(config), vec![sent], of)
}

fn withdrawal_of_alice() -> Vec<(String, bool)> {
    vec![(ALICE.to_owned(), false)]
}

#[test]
fn a_withdrawal_is_stated_once_whatever_becomes_of_its_event() {
    assert_eq!(stated("", of(WITHDRAWN)), (withdrawal_of_alice(), 1));
    assert_eq!(stated("", of(WITHDRAWN).with("seats", "many")), (withdrawal_of_alice(), 1), "set aside");
    assert_eq!(stated(DROPPED, of(WITHDRAWN)), (withdrawal_of_alice(), 0));
    assert_eq!(stated(WITHOUT_PSEUDONYMS, of(WITHDRAWN)), (withdrawal_of_alice(), 1));
    let level = |level: &str| of(WITHDRAWN).with("event.privacy_level", level);
    assert_eq!(stated("", level("personal")), (withdrawal_of_alice(), 1), "its subject is not stored");
    assert_eq!(stated("", level("sensitive")), (withdrawal_of_alice(), 0));
}

#[test]
fn a_withdrawal_whose_subject_cannot_be_read_states_nothing() {
    for subject in ["", "null"] {
        let (statements, _) = stated("", Sent::named(WITHDRAWN).with("user.id", subject));
        assert_eq!(statements, [], "{subject:?}");
    }
    assert_eq!(stated("", Sent::named(WITHDRAWN)).0, []);
}

#[test]
fn a_lift_is_stated_only_where_its_event_is_stored_with_its_subject() {
    assert_eq!(stated("", of(GIVEN)), (vec![(ALICE.to_owned(), true)], 1));
    assert_eq!(stated("", of(GIVEN).with("seats", "many")), (vec![], 1), "set aside");
    assert_eq!(stated(DROPPED, of(GIVEN)), (vec![], 0));
    assert_eq!(stated(WITHOUT_PSEUDONYMS, of(GIVEN)), (vec![], 1));
    assert_eq!(stated("", of(GIVEN).with("event.privacy_level", "personal")), (vec![], 1));
}

#[test]
fn a_withdrawal_that_is_not_stored_still_holds_within_its_tenant() {
    let tenants = "[privacy]\ntenant_attribute = 'plan'\n";
    let (stored, _) = stated(tenants, of(WITHDRAWN).with("plan", "acme"));
    assert_eq!(stored.len(), 1);
    assert_eq!(stated(tenants, of(WITHDRAWN).with("plan", "acme").with("seats", "many")).0, stored);
    let dropped = format!("{tenants}{DROPPED}");
    assert_eq!(stated(&dropped, of(WITHDRAWN).with("plan", "acme")).0, stored);
    assert_ne!(stored, withdrawal_of_alice());
    assert_ne!(stored, stated(tenants, of(WITHDRAWN).with("plan", "other")).0);
}
