//! Looks at every reachable state of the protocol, and at what becomes of it when a precaution is missing.
//!
//! Every state that one fault can lead to takes a moment, those of two (`MODEL_FAULTS=2`: some 16 million states) some minutes and some
//! gigabytes. In between are as many states of two faults as a test may take, nearest first, and runs at random with more of them, many more
//! under `ASOBI_FAULTS=1`, which `./test --faults` sets.

use asobi_matchmaker_model::{
    CREATED_TWICE, Flaw, OLD_TERM, OUTLIVED, Protocol, SERVED, TICKET_LOST, TICKET_TWICE, TOLD_TOO_EARLY, TWO_HOSTS,
    WRONG_BURIAL,
};
use stateright::{Checker, HasDiscoveries, Model, UniformChooser};

fn protocol(faults: u8) -> Protocol {
    Protocol { tickets: 2, faults, flaw: None }
}

/// States that a test may look at.
const MOMENT: usize = 1_000_000;

/// No state that is looked at is wrong; answers how many there were. `states`: at most about so many.
fn holds(protocol: Protocol, states: usize) -> usize {
    let checker = protocol.checker().threads(2).target_state_count(states).spawn_bfs().join();
    println!("{} states, {} steps deep", checker.unique_state_count(), checker.max_depth());
    for (name, path) in checker.discoveries() {
        assert_eq!(name, SERVED, "does not hold:\n{path:?}");
    }
    // What was looked at whole has seen the faults end well, or nothing was shown.
    assert!(checker.state_count() >= states || checker.discovery(SERVED).is_some());
    checker.unique_state_count()
}

/// The flaw makes the property fail.
fn is_caught(flaw: Flaw, faults: u8, property: &'static str) {
    let protocol = Protocol { flaw: Some(flaw), ..protocol(faults) };
    let caught = HasDiscoveries::AllOf([property].into());
    let checker = protocol.checker().threads(2).finish_when(caught).spawn_bfs().join();
    let found = checker.discovery(property);
    assert!(found.is_some(), "{flaw:?} is not caught by: {property}");
    println!("{flaw:?} is caught after {} steps", found.map_or(0, |path| path.into_actions().len()));
}

#[test]
fn the_protocol_holds_with_any_fault_at_any_step() {
    let faults = std::env::var("MODEL_FAULTS").map_or(1, |faults| faults.parse().expect("a number"));
    assert!(holds(protocol(faults), usize::MAX) > 1_000);
    assert!(holds(Protocol { tickets: 3, ..protocol(1) }, usize::MAX) > 1_000);
}

#[test]
fn the_protocol_holds_with_two_faults_near_the_start() {
    holds(protocol(2), MOMENT);
}

#[test]
fn without_the_fence_a_ticket_is_lost() {
    is_caught(Flaw::NoFence, 1, OLD_TERM);
    is_caught(Flaw::NoFence, 2, TICKET_LOST);
}

#[test]
fn a_fence_that_locks_nothing_loses_a_ticket() {
    is_caught(Flaw::FenceWithoutLock, 1, OLD_TERM);
    is_caught(Flaw::FenceWithoutLock, 2, TICKET_LOST);
}

#[test]
fn a_claim_that_does_not_look_takes_a_player_twice() {
    is_caught(Flaw::ClaimBlindly, 1, TICKET_TWICE);
}

#[test]
fn without_the_epoch_in_the_claim_a_match_is_created_twice() {
    is_caught(Flaw::NoEpochInClaim, 2, CREATED_TWICE);
}

#[test]
fn without_the_host_in_the_claim_two_hosts_run_a_match() {
    is_caught(Flaw::NoHostInClaim, 1, TWO_HOSTS);
}

#[test]
fn who_is_told_before_the_host_has_claimed_is_told_too_early() {
    is_caught(Flaw::TellBeforeRunning, 0, TOLD_TOO_EARLY);
}

#[test]
fn a_match_that_is_given_away_whatever_its_row_says_runs_twice() {
    is_caught(Flaw::ReassignBlindly, 1, TWO_HOSTS);
}

#[test]
fn without_a_probe_an_outage_buries_hosts_that_live() {
    is_caught(Flaw::BuryWithoutProbe, 1, WRONG_BURIAL);
}

#[test]
fn tickets_of_a_give_up_with_an_unknown_outcome_must_be_read_again() {
    is_caught(Flaw::UnknownGiveUpForgotten, 2, TICKET_LOST);
}

#[test]
fn a_host_that_does_not_compare_runs_what_is_over() {
    is_caught(Flaw::NoCompare, 1, OUTLIVED);
}

/// The rows alone keep old leaders out; a host that refuses their terms spares it the work.
#[test]
fn the_term_at_the_host_is_a_second_line() {
    holds(Protocol { flaw: Some(Flaw::NoTermAtHost), ..protocol(1) }, usize::MAX);
}

/// Where looking at everything takes too long: runs that go wrong more often, at random. `MODEL_SEED` repeats them.
#[test]
fn the_protocol_holds_in_runs_at_random() {
    let states = if std::env::var_os("ASOBI_FAULTS").is_some() { 20 * MOMENT } else { MOMENT / 4 };
    let seed = std::env::var("MODEL_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("MODEL_SEED={seed}");
    for (tickets, faults) in [(2, 3), (4, 5)] {
        let checker = Protocol { tickets, faults, flaw: None }.checker().threads(2).target_state_count(states);
        let checker = checker.spawn_simulation(seed, UniformChooser).join();
        for (name, path) in checker.discoveries() {
            assert_eq!(name, SERVED, "does not hold:\n{path:?}");
        }
        assert!(checker.state_count() >= states);
    }
}
