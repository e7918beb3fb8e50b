//! How a group of tickets becomes a match, as a state machine small enough to be looked at whole: every order in which two matchmakers, two
//! hosts and the database can take their steps, with a number of faults at any place between two of them.
//!
//! The steps are those of `matchmaker/src/allocate`, `cluster/src/leader.rs` and the claim in `match-service/src/host`, in the same words:
//!
//! ```text
//!   matchmaker  standby ──Lead──► leading ──Read──► Form ──► transaction ──Commit──► …
//!                  ▲                 │ Fenced: the term is another's
//!                  └─────────────────┘
//!
//!   match       (none) ──Form: claim──► allocating, epoch 1 ◄─────────┐
//!                                          │ Ask: CreateMatch          │ refused or no answer: Decide: compare-and-set, epoch + 1
//!                                          ├──────────────────────────┘
//!                                          │            last attempt ──► failed: the tickets wait again
//!                                          │ Claim: the host's own statement
//!                                          ▼
//!                                       running ── host is gone ──► untold: failed, the tickets wait again; told: failed, players told
//!                                          │ Tell
//!                                          ▼
//!                                       running, told
//!
//!   host        (none) ──Deliver──► starting ──Claim: ours──► running ──Compare: the row is not ours──► (none)
//!                                      │ Claim: not ours
//!                                      └──► (none), refused
//! ```
//!
//! A transaction of a leader is two steps, so that everything can come between them: it begins with the fence (the term's row locked FOR
//! SHARE) and commits. Raising the term waits for those locks. What is *not* in the model is weaker than the code, never stronger: a
//! matchmaker trusts its leadership until a fence tells it better (no clock helps it), calls arrive at any time or never, and a host judges
//! by its row alone.
//!
//! | fault | how it is modelled |
//! | --- | --- |
//! | `kill -9` of a matchmaker or host, at any step | memory is gone, its transaction is rolled back, its calls and statements under way are not |
//! | a matchmaker that is stopped, or cut off from the database | the lock passes to the other; it goes on believing |
//! | a host that is stopped | it takes no step and answers nothing; its lease may run out; what was sent to it arrives when it wakes |
//! | a call that takes longer than its deadline | the caller goes on, the call arrives later |
//! | a call that arrives twice | |
//! | a commit whose answer is lost, or a transaction the server ends | the caller sees an error and does not know which |
//! | a claim whose answer is lost | the host repeats it, or gives up while it may still be carried out |
//! | an outage | transactions are rolled back, the lock is free, every lease has run out |
//! | a match that ends before anybody was told | |
//! | a player who takes a seat elsewhere while the leader still has the ticket in its index | |
//!
//! [`Flaw`] takes one precaution away at a time. Each must make a property fail, or the model would prove nothing; those that do not are
//! second lines of defence and are named as such in the tests.

mod commit;
mod faults;
mod properties;
mod state;
mod steps;

pub use faults::Fault;
pub use properties::{
    CREATED_TWICE, OLD_TERM, OUTLIVED, SERVED, TICKET_LOST, TICKET_TWICE, TOLD_TOO_EARLY, TWO_HOSTS, WRONG_BURIAL,
};
pub use state::{Flaw, Protocol, State};
pub use steps::Step;

use stateright::{Model, Property};

/// A step of somebody, or a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Step(Step),
    Fault(Fault),
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.steps(state).into_iter().map(Action::Step));
        if state.faults > 0 {
            actions.extend(self.faults(state).into_iter().map(Action::Fault));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Step(step) => self.take(&mut next, step),
            Action::Fault(fault) => {
                next.faults -= 1;
                self.strike(&mut next, fault);
            }
        }
        next.settle();
        next.quiet = self.steps(&next).is_empty();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }

    fn within_boundary(&self, state: &State) -> bool {
        // Only flawed protocols make more.
        state.matches.len() <= state::MATCHES
    }
}
