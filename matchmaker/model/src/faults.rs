//! What goes wrong. Each costs one of the run's faults.

use crate::state::{Call, Claim, Job, MATCHES, MatchState, NODES, Protocol, State, Ticket};

/// Numbers are matchmakers, hosts and matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A matchmaker is killed; it starts again at once, as a standby.
    KillMatchmaker(u8),
    /// The server gives its lock away, because it is stopped or cut off. It believes on.
    LoseLock(u8),
    KillHost(u8),
    /// A host is stopped (SIGSTOP).
    StopHost(u8),
    /// A call's deadline passes while the host still gets or has it.
    Late(u8, u8),
    /// A call arrives, and will arrive once more.
    Twice(Call),
    /// A commit's answer is lost; the server has carried it out, or rolled it back.
    LoseCommit(u8, bool),
    /// A claim is carried out and its answer lost.
    LoseClaim(Claim),
    /// A host does not learn whether it has a match and gives up on it; the claim may still be carried out.
    Unclaimed(u8, u8),
    /// A match ends by its own rules.
    Finish(u8, u8),
    /// A waiting player takes a seat elsewhere, and the leader does not hear of it.
    Withdraw(u8),
    /// The database is away for longer than any lease.
    Outage,
}

impl Protocol {
    pub(crate) fn faults(&self, state: &State) -> Vec<Fault> {
        let mut faults = vec![Fault::Outage];
        for at in 0..NODES as u8 {
            if let Some(reign) = state.reign(at) {
                faults.push(Fault::KillMatchmaker(at));
                if state.lock == Some(at) {
                    faults.push(Fault::LoseLock(at));
                }
                if reign.transaction.is_some() {
                    faults.extend([Fault::LoseCommit(at, true), Fault::LoseCommit(at, false)]);
                }
                for (id, job) in reign.jobs.iter().enumerate() {
                    if matches!(job, Some(Job::Create { calling: true, .. })) {
                        faults.push(Fault::Late(at, id as u8));
                    }
                }
            }
            let host = &state.hosts[usize::from(at)];
            if !host.up {
                continue;
            }
            faults.push(Fault::KillHost(at));
            if host.stopped {
                continue;
            }
            faults.push(Fault::StopHost(at));
            for (id, here) in host.matches.iter().enumerate() {
                match here {
                    Some(here) if here.running => faults.push(Fault::Finish(at, id as u8)),
                    Some(_) => faults.push(Fault::Unclaimed(at, id as u8)),
                    None => {}
                }
            }
        }
        let waiting = (0..).zip(&state.tickets).filter(|(_, ticket)| **ticket == Ticket::Pending);
        faults.extend(waiting.map(|(ticket, _)| Fault::Withdraw(ticket)));
        let reachable = |call: &&Call| !state.hosts[usize::from(call.host)].stopped;
        faults.extend(state.calls.iter().filter(reachable).map(|call| Fault::Twice(*call)));
        faults.extend(state.claims.iter().map(|claim| Fault::LoseClaim(*claim)));
        faults
    }

    pub(crate) fn strike(&self, state: &mut State, fault: Fault) {
        match fault {
            Fault::KillMatchmaker(at) => state.stand_by(at),
            Fault::LoseLock(_) => state.lock = None,
            Fault::KillHost(at) => state.kill(at),
            Fault::StopHost(at) => {
                state.hosts[usize::from(at)].stopped = true;
                state.seen.stumbled |= 1 << at;
            }
            Fault::Late(at, id) => state.fail_call(at, id),
            Fault::Twice(call) => {
                state.send(call);
                self.take(state, crate::Step::Deliver(call));
            }
            Fault::LoseCommit(at, committed) => self.lose_answer(state, at, committed),
            Fault::LoseClaim(claim) => {
                state.claims.retain(|other| *other != claim);
                self.claim(state, claim, false);
            }
            Fault::Unclaimed(at, id) => state.give_up_claim(at, id),
            Fault::Finish(at, id) => state.finish(at, id),
            Fault::Withdraw(ticket) => state.tickets[usize::from(ticket)] = Ticket::Withdrawn,
            Fault::Outage => state.outage(),
        }
    }
}

impl State {
    fn kill(&mut self, at: u8) {
        let host = &mut self.hosts[usize::from(at)];
        (host.up, host.stopped, host.term, host.matches) = (false, false, 0, [None; MATCHES + 1]);
        self.seen.stumbled |= 1 << at;
    }

    /// Whose row it turns out to be is ended: nobody may be told of a match that is not there.
    fn give_up_claim(&mut self, at: u8, id: u8) {
        let incarnation = self.hosts[usize::from(at)].incarnation;
        let Some(here) = self.hosts[usize::from(at)].matches[usize::from(id)].take() else { return };
        let row = self.row_mut(id);
        let ours = (row.host, row.incarnation, row.epoch) == (at, incarnation, here.epoch);
        if ours && row.state == MatchState::Running {
            row.state = MatchState::Over;
        }
        self.answer(id, here.epoch, here.waiting, false);
    }

    fn finish(&mut self, at: u8, id: u8) {
        let incarnation = self.hosts[usize::from(at)].incarnation;
        let Some(here) = self.hosts[usize::from(at)].matches[usize::from(id)].take() else { return };
        let row = self.row_mut(id);
        let ours = (row.host, row.incarnation, row.epoch) == (at, incarnation, here.epoch);
        if ours && row.state == MatchState::Running {
            row.state = MatchState::Over;
        }
    }

    fn outage(&mut self) {
        self.lock = None;
        self.nodes.iter_mut().for_each(|node| node.lease = false);
        for reign in self.matchmakers.iter_mut().filter_map(|m| m.reign.as_mut()) {
            reign.judges = false;
        }
    }
}
