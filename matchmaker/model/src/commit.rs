//! What a leader's transactions change, and what it does when they are committed.

use crate::state::{Flaw, Job, Match, MatchState, Protocol, State, Ticket, Work};

/// What a transaction did to the rows.
pub(crate) enum Done {
    Formed(u8),
    /// The group was broken up; these still wait.
    BrokenUp(u8),
    /// The compare-and-set, or the giving up, hit: tickets that wait again.
    Hit(u8),
    Missed,
}

impl Protocol {
    /// Commits, and the leader learns of it.
    pub(crate) fn commit(&self, state: &mut State, at: u8) {
        let Some(transaction) = state.reign_mut(at).transaction.take() else { return };
        let done = self.write(state, at, transaction.work);
        // Where the row stands when a compare-and-set did not hit: the host has claimed it after all, or another has moved it.
        let stands = |id: u8| (state.row(id).state != MatchState::Allocating).then_some(Job::Tell);
        match (transaction.work, done) {
            (Work::Claim { .. }, Done::Formed(id)) => self.ask(state, at, id),
            (Work::Reassign { id, .. }, Done::Hit(_)) => self.ask(state, at, id),
            (Work::Claim { .. }, Done::BrokenUp(free)) => state.reign_mut(at).index |= free,
            (Work::Reassign { id, .. } | Work::GiveUp { id, .. }, Done::Missed) => {
                let next = stands(id);
                state.reign_mut(at).jobs[usize::from(id)] = next;
            }
            (Work::GiveUp { id, .. }, Done::Hit(tickets)) => {
                let reign = state.reign_mut(at);
                reign.jobs[usize::from(id)] = None;
                reign.index |= tickets;
            }
            (Work::Bury { .. }, Done::Hit(tickets)) => state.reign_mut(at).index |= tickets,
            (Work::Tell { id }, _) => state.reign_mut(at).jobs[usize::from(id)] = None,
            _ => {}
        }
    }

    /// The leader gets an error instead of an answer, and lets go of what it was about.
    pub(crate) fn lose_answer(&self, state: &mut State, at: u8, committed: bool) {
        let Some(transaction) = state.reign_mut(at).transaction.take() else { return };
        if committed {
            self.write(state, at, transaction.work);
        }
        let forgets = self.lacks(Flaw::UnknownGiveUpForgotten);
        let reign = state.reign_mut(at);
        match transaction.work {
            // Whether its tickets were claimed is unknown: they are in no index.
            Work::Claim { .. } => reign.read = false,
            Work::Reassign { id, .. } | Work::Tell { id } => reign.jobs[usize::from(id)] = None,
            Work::GiveUp { id, .. } => {
                reign.jobs[usize::from(id)] = None;
                // Nor is it known whether tickets wait again.
                reign.read &= forgets;
            }
            Work::Bury { .. } => reign.read &= forgets,
        }
    }

    fn write(&self, state: &mut State, at: u8, work: Work) -> Done {
        let term = state.reign(at).map_or(0, |reign| reign.term);
        let done = match work {
            Work::Claim { tickets, host, incarnation } => self.claim_tickets(state, tickets, host, incarnation),
            Work::Reassign { id, epoch, host, incarnation } => {
                let row = state.row_mut(id);
                let stands = row.epoch == epoch && row.state == MatchState::Allocating;
                if stands || self.lacks(Flaw::ReassignBlindly) {
                    (row.host, row.incarnation) = (host, incarnation);
                    row.epoch += 1;
                    row.attempts += 1;
                    row.state = MatchState::Allocating;
                    Done::Hit(0)
                } else {
                    Done::Missed
                }
            }
            Work::GiveUp { id, epoch } => {
                let row = state.row_mut(id);
                if row.epoch == epoch && !row.told && row.state == MatchState::Allocating {
                    give_up(state, id)
                } else {
                    Done::Missed
                }
            }
            Work::Bury { id, epoch } => self.bury(state, id, epoch),
            Work::Tell { id } => {
                let early = self.lacks(Flaw::TellBeforeRunning);
                let row = state.row_mut(id);
                if !row.told && (early || row.state != MatchState::Allocating) {
                    row.told = true;
                    state.seen.told_too_early |= state.row(id).state == MatchState::Allocating;
                    Done::Hit(0)
                } else {
                    Done::Missed
                }
            }
        };
        let changed = !matches!(done, Done::Missed | Done::BrokenUp(_));
        state.seen.wrote_under_an_old_term |= changed && term != state.term;
        done
    }

    /// All or nothing: every ticket pending, no player with a seat.
    fn claim_tickets(&self, state: &mut State, tickets: u8, host: u8, incarnation: u8) -> Done {
        let free = tickets & state.pending();
        if free != tickets && !self.lacks(Flaw::ClaimBlindly) {
            return Done::BrokenUp(free);
        }
        let id = state.matches.len() as u8;
        for (n, ticket) in state.tickets.iter_mut().enumerate() {
            if free & (1 << n) != 0 {
                *ticket = Ticket::Matched(id);
            }
        }
        state.matches.push(Match {
            state: MatchState::Allocating,
            host,
            incarnation,
            epoch: 1,
            attempts: 1,
            told: false,
            tickets,
            runs: 0,
        });
        Done::Formed(id)
    }

    fn bury(&self, state: &mut State, id: u8, epoch: u8) -> Done {
        let row = *state.row(id);
        if row.epoch != epoch || row.state != MatchState::Running {
            return Done::Missed;
        }
        if !row.told {
            state.bury_seen(&row);
            return give_up(state, id);
        }
        // A lease that was renewed since the probe counts.
        if state.is_live(row.host, row.incarnation) && !self.lacks(Flaw::BuryWithoutProbe) {
            return Done::Missed;
        }
        state.bury_seen(&row);
        state.row_mut(id).state = MatchState::Over;
        Done::Hit(0)
    }
}

fn give_up(state: &mut State, id: u8) -> Done {
    let row = state.row_mut(id);
    (row.state, row.told) = (MatchState::Over, true);
    Done::Hit(state.requeue(id))
}

impl State {
    fn bury_seen(&mut self, row: &Match) {
        self.seen.buried_in_good_health |= self.seen.stumbled & (1 << row.host) == 0;
    }
}
