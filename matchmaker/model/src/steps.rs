//! What a matchmaker or a host does when nothing goes wrong, and what it does about what went wrong.

use crate::state::{
    ATTEMPTS, Call, Claim, Flaw, GROUP, Here, Job, MATCHES, Match, MatchState, NODES, Protocol, Reign, State, Ticket,
    Transaction, Work,
};

/// One step; numbers are matchmakers, hosts and matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The lock is free: take it and raise the term, which waits for transactions that hold the row.
    Lead(u8),
    /// The session is gone. Looked at when there is nothing else to do, or else a fence says it.
    Notice(u8),
    /// Read the whole queue into the index.
    Read(u8),
    /// Take a group from the index and begin to claim it.
    Form(u8),
    /// Take up a row that is not told and in nobody's hand here.
    Resume(u8, u8),
    /// Begin to give the match to another host, or to give it up.
    Decide(u8, u8),
    /// Begin to tell.
    Tell(u8, u8),
    /// See an expired lease, or another incarnation, and a probe that nobody answers.
    Suspect(u8, u8),
    /// Begin to bury.
    Bury(u8),
    Commit(u8),
    /// A call arrives.
    Deliver(Call),
    /// A host's claim is carried out and answered.
    Claim(Claim),
    /// A host ends a match in its memory whose row is not its own.
    Compare(u8, u8),
    /// A host ends a row of its own that no match belongs to.
    EndRow(u8, u8),
    Renew(u8),
    Expire(u8),
    /// A dead host starts under its next incarnation.
    Start(u8),
    /// A stopped host goes on.
    Wake(u8),
}

impl Protocol {
    /// Everything that can happen next without a fault.
    pub(crate) fn steps(&self, state: &State) -> Vec<Step> {
        let mut steps = Vec::new();
        for matchmaker in 0..NODES as u8 {
            match state.reign(matchmaker) {
                Some(reign) => self.leaders_steps(state, matchmaker, reign, &mut steps),
                None if state.lock.is_none() && !state.term_is_locked() => steps.push(Step::Lead(matchmaker)),
                None => {}
            }
        }
        for host in 0..NODES as u8 {
            self.hosts_steps(state, host, &mut steps);
        }
        let mut last = None;
        for call in &state.calls {
            // Of equal ones any.
            if last != Some(*call) && !state.hosts[usize::from(call.host)].stopped {
                steps.push(Step::Deliver(*call));
            }
            last = Some(*call);
        }
        steps.extend(state.claims.iter().map(|claim| Step::Claim(*claim)));
        steps
    }

    fn leaders_steps(&self, state: &State, at: u8, reign: &Reign, steps: &mut Vec<Step>) {
        let before = steps.len();
        if reign.transaction.is_some() {
            steps.push(Step::Commit(at));
        }
        let begins = reign.transaction.is_none();
        if !reign.read {
            steps.push(Step::Read(at));
        } else if begins && reign.index.count_ones() >= GROUP && state.choose(None).is_some() {
            steps.push(Step::Form(at));
        }
        if begins && reign.burying.is_some() {
            steps.push(Step::Bury(at));
        }
        for id in 0..state.matches.len() as u8 {
            let row = state.row(id);
            let judges = reign.judges || self.lacks(Flaw::BuryWithoutProbe);
            if judges && reign.burying.is_none() && row.state == MatchState::Running && self.looks_dead(state, row) {
                steps.push(Step::Suspect(at, id));
            }
            match reign.jobs[usize::from(id)] {
                None if !row.told => steps.push(Step::Resume(at, id)),
                None => {}
                Some(Job::Tell) if begins => steps.push(Step::Tell(at, id)),
                Some(Job::Create { calling: false, .. }) if begins => steps.push(Step::Decide(at, id)),
                Some(Job::Tell | Job::Create { .. }) => {}
            }
        }
        if steps.len() == before && state.lock != Some(at) {
            steps.push(Step::Notice(at));
        }
    }

    /// The lease of the row's host has run out, or it was replaced, and nobody answers a probe.
    fn looks_dead(&self, state: &State, row: &Match) -> bool {
        let (host, node) = (&state.hosts[usize::from(row.host)], state.nodes[usize::from(row.host)]);
        if node.incarnation != row.incarnation {
            return true;
        }
        let answers = host.up && !host.stopped && host.incarnation == row.incarnation;
        !node.lease && (!answers || self.lacks(Flaw::BuryWithoutProbe))
    }

    fn hosts_steps(&self, state: &State, at: u8, steps: &mut Vec<Step>) {
        let (host, node) = (&state.hosts[usize::from(at)], state.nodes[usize::from(at)]);
        if node.lease && (!host.up || host.stopped) {
            steps.push(Step::Expire(at));
        }
        if !host.up {
            steps.push(Step::Start(at));
            return;
        }
        if host.stopped {
            steps.push(Step::Wake(at));
            return;
        }
        if !node.lease {
            // It compares only while it holds its lease.
            steps.push(Step::Renew(at));
            return;
        }
        for id in 0..state.matches.len() as u8 {
            let row = state.row(id);
            let ours = row.state == MatchState::Running && row.host == at && row.incarnation == host.incarnation;
            match host.matches[usize::from(id)] {
                Some(here) if here.running && !(ours && row.epoch == here.epoch) && !self.lacks(Flaw::NoCompare) => {
                    steps.push(Step::Compare(at, id));
                }
                Some(_) => {}
                None if ours => steps.push(Step::EndRow(at, id)),
                None => {}
            }
        }
    }

    pub(crate) fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Lead(at) => state.lead(at),
            Step::Notice(at) => state.stand_by(at),
            Step::Read(at) => {
                let pending = state.pending();
                let reign = state.reign_mut(at);
                (reign.index, reign.read) = (pending, true);
            }
            Step::Form(at) => self.form(state, at),
            Step::Resume(at, id) if state.row(id).state == MatchState::Allocating => self.ask(state, at, id),
            Step::Resume(at, id) => state.reign_mut(at).jobs[usize::from(id)] = Some(Job::Tell),
            Step::Decide(at, id) => self.decide(state, at, id),
            Step::Tell(at, id) => self.begin(state, at, Work::Tell { id }),
            Step::Suspect(at, id) => state.reign_mut(at).burying = Some((id, state.row(id).epoch)),
            Step::Bury(at) => {
                if let Some((id, epoch)) = state.reign_mut(at).burying.take() {
                    self.begin(state, at, Work::Bury { id, epoch });
                }
            }
            Step::Commit(at) => self.commit(state, at),
            Step::Deliver(call) => {
                state.calls.retain_one(&call);
                self.deliver(state, call);
            }
            Step::Claim(claim) => {
                state.claims.retain_one(&claim);
                self.claim(state, claim, true);
            }
            Step::Compare(at, id) => state.hosts[usize::from(at)].matches[usize::from(id)] = None,
            Step::EndRow(_, id) => state.row_mut(id).state = MatchState::Over,
            Step::Renew(at) => state.nodes[usize::from(at)].lease = true,
            Step::Expire(at) => state.nodes[usize::from(at)].lease = false,
            Step::Start(at) => state.start(at),
            Step::Wake(at) => state.hosts[usize::from(at)].stopped = false,
        }
    }

    fn form(&self, state: &mut State, at: u8) {
        let Some((host, incarnation)) = state.choose(None) else { return };
        let reign = state.reign_mut(at);
        // The oldest first; all are as old as their numbers say.
        let mut tickets = 0;
        for bit in (0..u8::BITS).map(|n| 1_u8 << n) {
            if tickets_of(tickets) < GROUP && reign.index & bit != 0 {
                tickets |= bit;
            }
        }
        reign.index &= !tickets;
        self.begin(state, at, Work::Claim { tickets, host, incarnation });
    }

    /// Calls `CreateMatch` where the row says.
    pub(crate) fn ask(&self, state: &mut State, at: u8, id: u8) {
        let Match { host, incarnation, epoch, attempts, .. } = *state.row(id);
        let live = state.is_live(host, incarnation);
        let reign = state.reign_mut(at);
        let term = reign.term;
        reign.jobs[usize::from(id)] = Some(if self.lacks(Flaw::TellBeforeRunning) {
            Job::Tell
        } else {
            Job::Create { host, epoch, attempts, calling: live }
        });
        if live {
            state.send(Call { host, incarnation, id, epoch, term, from: at });
        }
    }

    fn decide(&self, state: &mut State, at: u8, id: u8) {
        let Some(Job::Create { host, epoch, attempts, .. }) = state.reign_mut(at).jobs[usize::from(id)] else { return };
        let next = if attempts >= ATTEMPTS { None } else { state.choose(Some(host)) };
        let work = match next {
            Some((host, incarnation)) => Work::Reassign { id, epoch, host, incarnation },
            None => Work::GiveUp { id, epoch },
        };
        self.begin(state, at, work);
    }

    /// The fence, as the first statement of a transaction.
    fn begin(&self, state: &mut State, at: u8, work: Work) {
        let holds = state.reign(at).is_some_and(|reign| reign.term == state.term) || self.lacks(Flaw::NoFence);
        if !holds {
            state.stand_by(at);
            return;
        }
        let locks = !self.lacks(Flaw::NoFence) && !self.lacks(Flaw::FenceWithoutLock);
        state.reign_mut(at).transaction = Some(Transaction { locks, work });
    }

    fn deliver(&self, state: &mut State, call: Call) {
        let host = &mut state.hosts[usize::from(call.host)];
        let (id, waits) = (usize::from(call.id), 1 << call.from);
        if !host.up {
            return;
        }
        let old_term = call.term < host.term && !self.lacks(Flaw::NoTermAtHost);
        host.term = host.term.max(call.term);
        let here = host.matches[id];
        if call.incarnation != host.incarnation || old_term || here.is_some_and(|here| here.epoch > call.epoch) {
            state.answer(call.id, call.epoch, waits, false);
            return;
        }
        match &mut host.matches[id] {
            Some(here) if here.epoch == call.epoch && here.running => state.answer(call.id, call.epoch, waits, true),
            Some(here) if here.epoch == call.epoch => here.waiting |= waits,
            // An older epoch's match stops.
            slot => {
                *slot = Some(Here { epoch: call.epoch, running: false, waiting: waits });
                state.submit(Claim { host: call.host, incarnation: call.incarnation, id: call.id, epoch: call.epoch });
            }
        }
    }

    /// Carries out allocating → running where host, incarnation and epoch are the claim's own.
    pub(crate) fn claim(&self, state: &mut State, claim: Claim, answered: bool) {
        let row = state.row_mut(claim.id);
        let host = row.host == claim.host && row.incarnation == claim.incarnation || self.lacks(Flaw::NoHostInClaim);
        let epoch = row.epoch == claim.epoch || self.lacks(Flaw::NoEpochInClaim) || self.lacks(Flaw::NoHostInClaim);
        let ours = host && epoch && row.is_open();
        if ours {
            row.state = MatchState::Running;
        }
        let host = &mut state.hosts[usize::from(claim.host)];
        if !answered || !host.up || host.stopped || host.incarnation != claim.incarnation {
            return;
        }
        let slot = &mut host.matches[usize::from(claim.id)];
        let Some(here) = slot.as_mut().filter(|here| here.epoch == claim.epoch && !here.running) else { return };
        let waiting = std::mem::take(&mut here.waiting);
        here.running = ours;
        if ours {
            state.row_mut(claim.id).runs += 1;
        } else {
            *slot = None;
        }
        state.answer(claim.id, claim.epoch, waiting, ours);
    }
}

fn tickets_of(bits: u8) -> u32 {
    bits.count_ones()
}

/// Removes one of several equal items.
trait RetainOne<T> {
    fn retain_one(&mut self, item: &T);
}

impl<T: PartialEq> RetainOne<T> for Vec<T> {
    fn retain_one(&mut self, item: &T) {
        if let Some(at) = self.iter().position(|other| other == item) {
            self.remove(at);
        }
    }
}

impl State {
    fn term_is_locked(&self) -> bool {
        let transactions = self.matchmakers.iter().filter_map(|m| m.reign.as_ref()?.transaction);
        transactions.into_iter().any(|transaction| transaction.locks)
    }

    /// The host of the next match, or the next host of one: rather another than `not`, with a valid lease.
    fn choose(&self, not: Option<u8>) -> Option<(u8, u8)> {
        let live = (0..NODES as u8).filter(|host| self.nodes[usize::from(*host)].lease);
        let host = live.min_by_key(|host| (not == Some(*host), *host))?;
        Some((host, self.nodes[usize::from(host)].incarnation))
    }

    /// What follows at once, because its being late is the same as what comes after it being late: a call that nobody will answer has
    /// failed, a claim whose answer was lost is repeated, who may judge does. Which of the matchmakers is called 0 says nothing.
    pub(crate) fn settle(&mut self) {
        for at in 0..NODES as u8 {
            self.settle_matchmaker(at);
            let host = &self.hosts[usize::from(at)];
            if !host.up || host.stopped {
                continue;
            }
            let incarnation = host.incarnation;
            let starting = host.matches.iter().zip(0..).filter_map(|(here, id)| Some((id, (*here)?)));
            let claims: Vec<Claim> = starting
                .filter(|(_, here)| !here.running)
                .map(|(id, here)| Claim { host: at, incarnation, id, epoch: here.epoch })
                .collect();
            claims.into_iter().for_each(|claim| self.submit(claim));
        }
        if self.rank(0) < self.rank(1) {
            self.swap_matchmakers();
        }
    }

    fn settle_matchmaker(&mut self, at: u8) {
        let renewed = self.everybody_has_renewed();
        let Some(reign) = self.matchmakers[usize::from(at)].reign.as_mut() else { return };
        reign.judges |= renewed;
        for id in 0..self.matches.len() as u8 {
            let job = self.reign(at).and_then(|reign| reign.jobs[usize::from(id)]);
            if let Some(Job::Create { calling: true, epoch, .. }) = job
                && !self.may_be_answered(at, id, epoch)
            {
                self.fail_call(at, id);
            }
        }
    }

    fn rank(&self, at: u8) -> (bool, Option<&Reign>) {
        (self.lock == Some(at), self.reign(at))
    }

    fn swap_matchmakers(&mut self) {
        self.matchmakers.swap(0, 1);
        self.lock = self.lock.map(|at| 1 - at);
        self.calls.iter_mut().for_each(|call| call.from = 1 - call.from);
        self.calls.sort();
        for here in self.hosts.iter_mut().flat_map(|host| host.matches.iter_mut().flatten()) {
            here.waiting = (here.waiting & 1) << 1 | here.waiting >> 1;
        }
    }

    fn everybody_has_renewed(&self) -> bool {
        self.hosts.iter().zip(self.nodes).all(|(host, node)| node.lease || !host.up || host.stopped)
    }

    /// Whether a call is still under way, or a host works on it.
    fn may_be_answered(&self, from: u8, id: u8, epoch: u8) -> bool {
        let waits = |here: &Here| here.epoch == epoch && here.waiting & (1 << from) != 0;
        self.calls.iter().any(|call| (call.from, call.id, call.epoch) == (from, id, epoch))
            || self.hosts.iter().any(|host| host.up && host.matches[usize::from(id)].as_ref().is_some_and(waits))
    }

    fn lead(&mut self, at: u8) {
        self.lock = Some(at);
        self.term += 1;
        self.matchmakers[usize::from(at)].reign = Some(Reign {
            term: self.term,
            read: false,
            index: 0,
            judges: false,
            jobs: [None; MATCHES + 1],
            burying: None,
            transaction: None,
        });
    }

    /// The reign is over: what it held in memory is dropped, its transaction rolled back, its calls forgotten.
    pub(crate) fn stand_by(&mut self, at: u8) {
        self.matchmakers[usize::from(at)].reign = None;
        if self.lock == Some(at) {
            self.lock = None;
        }
        for host in &mut self.hosts {
            host.matches.iter_mut().flatten().for_each(|here| here.waiting &= !(1 << at));
        }
    }

    /// The caller waits no longer; the host may still get the call.
    pub(crate) fn fail_call(&mut self, at: u8, id: u8) {
        if let Some(Job::Create { calling, .. }) = &mut self.reign_mut(at).jobs[usize::from(id)] {
            *calling = false;
        }
        for host in &mut self.hosts {
            if let Some(here) = &mut host.matches[usize::from(id)] {
                here.waiting &= !(1 << at);
            }
        }
    }

    /// Answers those matchmakers that still wait for this call.
    pub(crate) fn answer(&mut self, id: u8, epoch: u8, waiting: u8, made: bool) {
        for (at, matchmaker) in self.matchmakers.iter_mut().enumerate() {
            let Some(reign) = matchmaker.reign.as_mut().filter(|_| waiting & (1 << at) != 0) else { continue };
            let job = &mut reign.jobs[usize::from(id)];
            match job {
                Some(Job::Create { epoch: asked, calling, .. }) if *asked == epoch && *calling => {
                    if made {
                        *job = Some(Job::Tell);
                    } else {
                        *calling = false;
                    }
                }
                _ => {}
            }
        }
    }

    fn start(&mut self, at: u8) {
        let (host, node) = (&mut self.hosts[usize::from(at)], &mut self.nodes[usize::from(at)]);
        host.up = true;
        host.incarnation += 1;
        *node = crate::state::NodeRow { incarnation: host.incarnation, lease: true };
    }

    /// The tickets of a match that was given up wait again; answers them.
    pub(crate) fn requeue(&mut self, id: u8) -> u8 {
        let mut requeued = 0;
        for (n, ticket) in self.tickets.iter_mut().enumerate() {
            if *ticket == Ticket::Matched(id) {
                *ticket = Ticket::Pending;
                requeued |= 1 << n;
            }
        }
        requeued
    }
}
