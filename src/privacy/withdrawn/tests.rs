//! Statements in all orders: what they come to, and that no order comes to something else.

use super::*;
use proptest::prelude::*;

const ALICE: &str = "e1_a2lvxkk5_gy5imU2VnwmN6HH1aXNrrQNiZgMGutfQKhxBvAhQmTs";
const BOB: &str = "e1_a2lvxkk5_Gy5imU2VnwmN6HH1aXNrrQNiZgMGutfQKhxBvAhQmTs";

fn withdrawal(made_micros: i64, received_micros: i64) -> Statement {
    Statement { made_micros, received_micros, lifts: false }
}

fn lift(made_micros: i64, received_micros: i64) -> Statement {
    Statement { made_micros, received_micros, lifts: true }
}

/// Whether these statements of one subject come to a withdrawal, in the order given and in the reverse.
fn closed(statements: &[Statement]) -> bool {
    let of = |statements: &mut dyn Iterator<Item = &Statement>| {
        let withdrawn = Withdrawn::new();
        statements.for_each(|one| withdrawn.insert(ALICE, *one));
        withdrawn.is_withdrawn(ALICE)
    };
    let (one, other) = (of(&mut statements.iter()), of(&mut statements.iter().rev()));
    assert_eq!(one, other, "{statements:?}");
    one
}

#[test]
fn only_who_withdrew_is_withdrawn() {
    let withdrawn = Withdrawn::new();
    assert!(withdrawn.is_empty() && !withdrawn.is_withdrawn(ALICE));
    withdrawn.insert(ALICE, withdrawal(10, 10));
    assert!(withdrawn.is_withdrawn(ALICE) && !withdrawn.is_withdrawn(BOB) && !withdrawn.is_withdrawn(""));
    assert!(!withdrawn.is_empty());
    assert_eq!(withdrawn.len(), 1);
    withdrawn.insert(ALICE, withdrawal(20, 20));
    assert_eq!(withdrawn.len(), 1, "once more is nothing more");
    withdrawn.insert(ALICE, lift(30, 30));
    assert!(withdrawn.is_empty() && !withdrawn.is_withdrawn(ALICE));
}

#[test]
fn statements_in_order_count_in_order() {
    assert!(!closed(&[]));
    assert!(!closed(&[lift(5, 5)]), "a lift of nothing");
    assert!(!closed(&[withdrawal(10, 11), lift(20, 21)]));
    assert!(closed(&[withdrawal(10, 11), lift(20, 21), withdrawal(30, 31)]));
    assert!(!closed(&[withdrawal(10, 11), lift(20, 21), withdrawal(30, 31), lift(40, 41)]));
}

#[test]
fn a_request_of_both_is_ordered_by_when_they_were_made() {
    assert!(!closed(&[withdrawal(10, 30), lift(20, 30)]));
    assert!(closed(&[withdrawal(20, 30), lift(10, 30)]));
    assert!(closed(&[withdrawal(10, 30), lift(10, 30)]), "a tie");
}

#[test]
fn a_late_lift_does_not_undo_a_withdrawal_that_was_made_after_it() {
    assert!(closed(&[withdrawal(20, 21), lift(10, 90)]));
    assert!(
        closed(&[withdrawal(10, 10), lift(15, 90), withdrawal(20, 21)]),
        "nor where it undid an earlier one"
    );
}

#[test]
fn a_late_lift_undoes_the_withdrawal_that_it_followed() {
    assert!(!closed(&[withdrawal(10, 11), lift(20, 90)]));
}

#[test]
fn a_lift_that_is_sent_again_does_not_undo_what_was_received_meanwhile() {
    let meanwhile = [withdrawal(10, 11), lift(20, 21), withdrawal(15, 30)];
    assert!(closed(&meanwhile), "its clock may be slow");
    assert!(closed(&[meanwhile[0], meanwhile[1], meanwhile[2], lift(20, 90)]));
    assert!(
        closed(&[meanwhile[0], lift(20, 90), meanwhile[2], meanwhile[1]]),
        "whichever becomes known first"
    );
    assert!(
        !closed(&[meanwhile[0], meanwhile[1], meanwhile[2], lift(20, 90), lift(21, 91)]),
        "one of its own"
    );
    assert!(!closed(&[meanwhile[0], meanwhile[1], lift(20, 90)]), "nor does it close anything");
}

#[test]
fn a_late_withdrawal_stops_until_it_is_lifted_once_more() {
    let late = [lift(20, 21), withdrawal(10, 90)];
    assert!(closed(&late), "its clock may be slow");
    assert!(
        closed(&[late[0], late[1], lift(15, 95)]),
        "a lift that is older than the last one says nothing new"
    );
    assert!(!closed(&[late[0], late[1], lift(95, 95)]));
}

#[test]
fn a_time_from_the_future_is_that_of_receipt() {
    assert!(closed(&[lift(1_000, 20), withdrawal(30, 30)]), "it does not outlast later withdrawals");
    assert!(!closed(&[withdrawal(1_000, 20), lift(30, 30)]), "nor can it not be lifted any more");
    assert!(closed(&[withdrawal(1_000, 20), lift(900, 20)]), "both at once, and both wrong: a tie");
}

#[test]
fn texts_that_are_no_pseudonyms_are_subjects_of_their_own() {
    let withdrawn = Withdrawn::new();
    for subject in ["", "7", "e1_", "e1_é", &ALICE[3..], &format!("{ALICE}=")] {
        assert!(!withdrawn.is_withdrawn(subject), "{subject}");
        withdrawn.insert(subject, withdrawal(1, 1));
        assert!(withdrawn.is_withdrawn(subject), "{subject}");
    }
    assert_eq!(withdrawn.len(), 6);
    assert!(!withdrawn.is_withdrawn(ALICE));
}

#[test]
fn beyond_its_room_everyone_counts_as_withdrawn() {
    let withdrawn = Withdrawn::with_room_for(1);
    withdrawn.insert(ALICE, lift(1, 1));
    assert!(withdrawn.is_empty());
    withdrawn.insert(ALICE, withdrawal(2, 2));
    assert!(!withdrawn.is_full() && !withdrawn.is_withdrawn(BOB), "a known subject needs no room");
    withdrawn.insert(BOB, lift(1, 1));
    assert!(withdrawn.is_full() && withdrawn.is_withdrawn(BOB) && withdrawn.is_withdrawn("anyone"));
    withdrawn.insert(ALICE, lift(3, 3));
    assert!(!withdrawn.is_empty(), "also where nobody that is remembered is withdrawn");
}

#[test]
fn debug_names_nobody() {
    let withdrawn = Withdrawn::new();
    withdrawn.insert("alice@example.org", withdrawal(1, 1));
    assert_eq!(format!("{withdrawn:?}"), "Withdrawn { count: 1, .. }");
}

#[test]
fn an_entry_is_as_small_as_the_header_says() {
    assert_eq!(size_of::<([u8; 16], Entry)>(), 48);
}

/// Few and close times, so that ties and crossings are common.
fn statements() -> impl Strategy<Value = Vec<(u8, Statement)>> {
    let one = (0..3_u8, 0..8_i64, 0..8_i64, any::<bool>()).prop_map(|(subject, made, received, lifts)| {
        (subject, Statement { made_micros: made, received_micros: received, lifts })
    });
    prop::collection::vec(one, 0..12)
}

/// The rule, said another way.
fn expected(statements: &[Statement]) -> bool {
    let made = |one: &Statement| one.made_micros.min(one.received_micros);
    let last_lift = statements
        .iter()
        .filter(|one| one.lifts)
        .max_by_key(|one| (made(one), std::cmp::Reverse(one.received_micros)));
    statements.iter().filter(|one| !one.lifts).any(|withdrawal| {
        last_lift.is_none_or(|lift| {
            made(lift) <= made(withdrawal) || lift.received_micros < withdrawal.received_micros
        })
    })
}

proptest! {
    #[test]
    fn no_order_of_arrival_makes_a_difference((statements, shuffled) in statements().prop_flat_map(|all| {
        (Just(all.clone()), Just(all).prop_shuffle())
    })) {
        let (one, other) = (Withdrawn::new(), Withdrawn::new());
        statements.iter().for_each(|(subject, said)| one.insert(&subject.to_string(), *said));
        // Some become known twice: from the log and from the table.
        shuffled.iter().chain(shuffled.iter().take(3)).for_each(|(subject, said)| other.insert(&subject.to_string(), *said));
        let mut withdrawn = 0;
        for subject in 0..3_u8 {
            let own: Vec<_> = statements.iter().filter(|(whose, _)| *whose == subject).map(|(_, said)| *said).collect();
            let name = subject.to_string();
            prop_assert_eq!(one.is_withdrawn(&name), expected(&own));
            prop_assert_eq!(other.is_withdrawn(&name), expected(&own));
            withdrawn += usize::from(expected(&own));
        }
        prop_assert_eq!(one.len(), withdrawn);
        prop_assert_eq!(other.len(), withdrawn);
    }

    #[test]
    fn no_permutation_with_duplicates_makes_a_difference((statements, again) in statements().prop_flat_map(|all| {
        let twice = [all.clone(), all.clone()].concat();
        (Just(all), Just(twice).prop_shuffle())
    })) {
        let (one, other) = (Withdrawn::new(), Withdrawn::new());
        statements.iter().for_each(|(_, said)| one.insert(ALICE, *said));
        again.iter().for_each(|(_, said)| other.insert(ALICE, *said));
        prop_assert_eq!(one.is_withdrawn(ALICE), other.is_withdrawn(ALICE));
        prop_assert_eq!(one.len(), other.len());
    }

    #[test]
    fn nothing_that_was_sent_before_undoes_a_withdrawal(statements in statements(), made in 0..20_i64, late in 21..30_i64) {
        let withdrawn = Withdrawn::new();
        statements.iter().for_each(|(_, said)| withdrawn.insert(ALICE, *said));
        withdrawn.insert(ALICE, withdrawal(made, 20));
        // A time that was clamped to its receipt would be another one now.
        for (_, said) in statements.iter().filter(|(_, said)| said.made_micros <= said.received_micros) {
            withdrawn.insert(ALICE, Statement { received_micros: late, ..*said });
        }
        prop_assert!(withdrawn.is_withdrawn(ALICE));
    }

    #[test]
    fn what_is_received_after_a_withdrawal_is_stopped(statements in statements(), made in 0..20_i64) {
        let withdrawn = Withdrawn::new();
        statements.iter().for_each(|(_, said)| withdrawn.insert(ALICE, *said));
        withdrawn.insert(ALICE, withdrawal(made, 20));
        prop_assert!(withdrawn.is_withdrawn(ALICE));
    }

    #[test]
    fn a_lift_that_was_made_before_a_withdrawal_never_opens(statements in statements(), made in 0..20_i64, received in 20..30_i64) {
        let withdrawn = Withdrawn::new();
        statements.iter().for_each(|(_, said)| withdrawn.insert(ALICE, *said));
        withdrawn.insert(ALICE, withdrawal(made, 20));
        withdrawn.insert(ALICE, lift(made, received));
        withdrawn.insert(ALICE, lift(made - 1, received));
        prop_assert!(withdrawn.is_withdrawn(ALICE));
    }

    #[test]
    fn whoever_consents_after_all_that_has_consented(statements in statements(), wait in 0..5_i64) {
        let withdrawn = Withdrawn::new();
        statements.iter().for_each(|(_, said)| withdrawn.insert(ALICE, *said));
        withdrawn.insert(ALICE, lift(20, 20 + wait));
        prop_assert!(!withdrawn.is_withdrawn(ALICE));
    }
}
