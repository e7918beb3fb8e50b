//! Looks at every reachable state of the protocol, and at what becomes of it when a precaution is missing.
//!
//! `ASOBI_FAULTS=1`, which `./test --faults` sets, looks further: one fault more, and a ticket left over.

use asobi_matchmaker_model::{
    CREATED_TWICE, Flaw, OLD_TERM, Protocol, SERVED, TICKET_LOST, TICKET_TWICE, TOLD_TOO_EARLY, TWO_HOSTS, WRONG_BURIAL,
};
use stateright::{Checker, HasDiscoveries, Model};

fn protocol(faults: u8) -> Protocol {
    Protocol { tickets: 2, faults, flaw: None }
}

/// Every state that this many faults can lead to.
fn holds(protocol: Protocol) {
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    println!("{} states, {} steps deep", checker.unique_state_count(), checker.max_depth());
    for (name, path) in checker.discoveries() {
        assert_eq!(name, SERVED, "does not hold:\n{path:?}");
    }
    assert!(checker.discovery(SERVED).is_some(), "the faults never end well, so nothing was shown");
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
fn the_protocol_holds() {
    let deep = std::env::var_os("ASOBI_FAULTS").is_some();
    holds(protocol(std::env::var("F").map_or(2, |f| f.parse().unwrap())));
    if deep {
        holds(Protocol { tickets: 3, ..protocol(2) });
    }
}
