//! What must hold, whatever happens.

use stateright::Property;

use crate::state::{MatchState, Protocol, State, Ticket};

/// No ticket, and no player, in two open matches.
pub const TICKET_TWICE: &str = "no ticket is in two matches";
pub const TWO_HOSTS: &str = "no match is run by two hosts";
pub const CREATED_TWICE: &str = "no match is created twice";
pub const TOLD_TOO_EARLY: &str = "nobody is told of a match that no host runs";
/// When nothing is left to be done, every ticket is in a match whose players were told, and which runs where its row says or is over.
pub const TICKET_LOST: &str = "no ticket is lost";
/// A leader whose term is over changes no row.
pub const OLD_TERM: &str = "nothing is written under an old term";
/// A host that was neither stopped nor killed keeps its matches, whatever the database did.
pub const WRONG_BURIAL: &str = "nobody buries a host that lives";
/// When nothing is left to be done, no host runs a match that its row says is over, or another's.
pub const OUTLIVED: &str = "no match outlives its row";
/// Not a promise but the proof that the others say something.
pub const SERVED: &str = "everybody plays after all faults";

pub fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(TICKET_TWICE, |_, state| no_ticket_twice(state)),
        Property::always(TWO_HOSTS, |_, state| one_host_each(state)),
        Property::always(CREATED_TWICE, |_, state: &State| state.matches.iter().all(|row| row.runs <= 1)),
        Property::always(TOLD_TOO_EARLY, |_, state: &State| !state.seen.told_too_early),
        Property::always(TICKET_LOST, |_, state: &State| is_served(state) || !state.quiet),
        Property::always(OUTLIVED, |_, state: &State| !state.quiet || rows_and_hosts_agree(state)),
        Property::always(OLD_TERM, |_, state: &State| !state.seen.wrote_under_an_old_term),
        Property::always(WRONG_BURIAL, |_, state: &State| !state.seen.buried_in_good_health),
        Property::sometimes(SERVED, |_, state: &State| state.faults == 0 && is_served(state) && state.quiet),
    ]
}

fn no_ticket_twice(state: &State) -> bool {
    let mut taken = 0;
    for (n, ticket) in state.tickets.iter().enumerate() {
        if *ticket == Ticket::Withdrawn {
            taken |= 1 << n;
        }
    }
    state.matches.iter().filter(|row| row.is_open()).all(|row| {
        let free = taken & row.tickets == 0;
        taken |= row.tickets;
        free
    })
}

fn rows_and_hosts_agree(state: &State) -> bool {
    (0_u8..).zip(&state.hosts).all(|(at, host)| {
        state.matches.iter().zip(&host.matches).all(|(row, here)| {
            let ours = row.state == MatchState::Running && (row.host, row.incarnation) == (at, host.incarnation);
            here.is_none_or(|here| ours && here.epoch == row.epoch)
        })
    })
}

fn one_host_each(state: &State) -> bool {
    (0..state.matches.len()).all(|id| {
        let runs = state.hosts.iter().filter(|host| host.matches[id].is_some_and(|here| here.running));
        runs.count() <= 1
    })
}

fn is_served(state: &State) -> bool {
    // What is left over is fewer than a match takes.
    let waiting = state.pending().count_ones();
    let plays = |ticket: &Ticket| match ticket {
        Ticket::Pending | Ticket::Withdrawn => true,
        Ticket::Matched(id) => {
            let row = state.row(*id);
            let host = &state.hosts[usize::from(row.host)];
            let runs = host.incarnation == row.incarnation
                && host.matches[usize::from(*id)].is_some_and(|here| here.running && here.epoch == row.epoch);
            row.told && (row.state == MatchState::Over || row.state == MatchState::Running && runs)
        }
    };
    waiting < crate::state::GROUP && state.tickets.iter().all(plays)
}
