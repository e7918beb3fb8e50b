//! The copy of the queue that groups are formed from: every pending ticket, by id, by player, and by mode in the order of its strategy.

mod fill;
mod filtered;
mod gather;
mod packing;
mod queue;
mod skill;
mod strategy;
#[cfg(test)]
mod tests;
mod ticket;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use asobi_store::{allocation::Pending, modes::Mode};
use uuid::Uuid;

use self::queue::Queue;
pub use self::{
    strategy::{Strategies, Strategy},
    ticket::{Age, Group, Member, Rules, Shape, Waiting, Wanted},
};

/// A ticket and the mode it waits in.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticket {
    pub mode: Arc<str>,
    pub waiting: Arc<Waiting>,
}

/// The tickets that rows make up, in any order; rows without their head's are left out.
pub fn tickets(mut rows: Vec<Pending>) -> Vec<Ticket> {
    rows.sort_by_key(|row| (row.head.unwrap_or(row.id), row.id));
    rows.chunk_by(|a, b| a.head.unwrap_or(a.id) == b.head.unwrap_or(b.id))
        .filter_map(|rows| {
            let waiting = Arc::new(Waiting::of(rows)?);
            Some(Ticket { mode: rows.first()?.mode.as_str().into(), waiting })
        })
        .collect()
}

/// Tickets that were taken out of the index together.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    pub mode: String,
    pub group: Group,
    /// Where the match may run, the best first; empty: anywhere.
    pub regions: Vec<String>,
    /// Whether the players are told of teams.
    pub named_teams: bool,
    /// What the same players wait for in other modes: out of the index too, so that nobody is in two groups at once.
    pub siblings: Vec<Ticket>,
}

/// One mode's queue in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Depth {
    pub mode: String,
    pub tickets: usize,
    pub players: usize,
    /// When the oldest ticket was submitted.
    pub oldest_us: Option<i64>,
    pub paused: bool,
    pub backfill_wanted: i64,
}

/// Where a ticket stands in its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub ticket_id: Uuid,
    pub mode: Arc<str>,
    pub submitted_us: i64,
    /// From 1, by age.
    pub position: i64,
}

/// Not bounded by itself: it holds what the table holds, and `matchmaker.max_queue` bounds that per mode. A ticket costs some 500 bytes and
/// its properties.
#[derive(Default)]
pub struct Index {
    strategies: Strategies,
    // Ordered, so that a sweep can go through it in slices.
    tickets: BTreeMap<Uuid, Ticket>,
    players: HashMap<Uuid, Vec<Uuid>>,
    queues: BTreeMap<Arc<str>, Queue>,
}

impl Index {
    pub fn new(strategies: Strategies) -> Self {
        Self { strategies, ..Self::default() }
    }

    /// Takes the modes' present settings.
    pub fn set_modes(&mut self, modes: Vec<Mode>) {
        for mode in modes {
            self.queues.entry(mode.name.as_str().into()).or_default().set(mode, &self.strategies);
        }
    }

    /// Takes what running matches ask for, by mode.
    pub fn set_wanted(&mut self, wanted: Vec<(String, Wanted)>) {
        for queue in self.queues.values_mut() {
            queue.wanted.clear();
        }
        for (mode, wanted) in wanted {
            self.queues.entry(mode.as_str().into()).or_default().wanted.insert(wanted.match_id, wanted);
        }
    }

    /// Adds a ticket; one that is there already stays as it is.
    pub fn insert(&mut self, ticket: Ticket) {
        let ticket_id = ticket.waiting.ticket_id;
        if self.tickets.contains_key(&ticket_id) {
            return;
        }
        for player in ticket.waiting.players() {
            self.players.entry(player).or_default().push(ticket_id);
        }
        self.queues.entry(Arc::clone(&ticket.mode)).or_default().insert(Arc::clone(&ticket.waiting));
        self.tickets.insert(ticket_id, ticket);
    }

    pub fn remove(&mut self, ticket_id: Uuid) -> Option<Ticket> {
        let ticket = self.tickets.remove(&ticket_id)?;
        for player in ticket.waiting.players() {
            if let Some(own) = self.players.get_mut(&player) {
                own.retain(|id| *id != ticket_id);
                if own.is_empty() {
                    self.players.remove(&player);
                }
            }
        }
        if let Some(queue) = self.queues.get_mut(&ticket.mode) {
            queue.remove(&ticket.waiting);
        }
        Some(ticket)
    }

    /// Removes what is not among these; answers those it lacks.
    pub fn keep_only(&mut self, pending: &HashSet<Uuid>) -> Vec<Uuid> {
        let gone: Vec<Uuid> = self.tickets.keys().filter(|id| !pending.contains(id)).copied().collect();
        for ticket_id in gone {
            self.remove(ticket_id);
        }
        pending.iter().filter(|id| !self.tickets.contains_key(id)).copied().collect()
    }

    /// The next match of a mode in one of the regions where hosts have room, with its players' other tickets.
    pub fn take_group(&mut self, mode: &str, regions: &[String], now_us: i64) -> Option<Taken> {
        let queue = self.queues.get_mut(mode)?;
        let (group, regions) = queue.next_group(queue.open(regions), now_us)?;
        let named_teams = queue.rules().is_some_and(|rules| rules.shape.named);
        let siblings = self.withdraw(&group);
        Some(Taken { mode: mode.to_owned(), group, regions, named_teams, siblings })
    }

    /// Those who join one of the mode's running matches, for the match that has waited longest by its id.
    pub fn take_backfill(&mut self, mode: &str, now_us: i64) -> Option<(Uuid, Taken)> {
        let queue = self.queues.get_mut(mode)?;
        let waiting: Vec<Uuid> = queue.wanted.values().filter(|w| w.places > 0).map(|w| w.match_id).collect();
        for match_id in waiting {
            let tickets = queue.take_for(match_id, now_us);
            if !tickets.is_empty() {
                let group = Group { teams: vec![tickets] };
                let siblings = self.withdraw(&group);
                let (mode, regions) = (mode.to_owned(), Vec::new());
                return Some((match_id, Taken { mode, group, regions, named_teams: false, siblings }));
            }
        }
        None
    }

    /// Takes these out of the index, and what their players wait for besides.
    fn withdraw(&mut self, group: &Group) -> Vec<Ticket> {
        for ticket in group.tickets() {
            self.remove(ticket.ticket_id);
        }
        let players = group.tickets().flat_map(|ticket| ticket.players());
        let others: Vec<Uuid> = players.filter_map(|player| self.players.get(&player)).flatten().copied().collect();
        others.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Puts back what was taken, as far as `keep` says.
    pub fn put_back(&mut self, taken: Taken, keep: impl Fn(Uuid) -> bool) {
        let mode: Arc<str> = taken.mode.as_str().into();
        let own = taken.group.teams.into_iter().flatten().map(|waiting| Ticket { mode: Arc::clone(&mode), waiting });
        for ticket in own.chain(taken.siblings).filter(|t| keep(t.waiting.ticket_id)) {
            self.insert(ticket);
        }
    }

    /// Modes somebody waits in.
    pub fn waiting_modes(&self) -> Vec<String> {
        self.queues.iter().filter(|(_, q)| q.len() > 0).map(|(mode, _)| mode.as_ref().to_owned()).collect()
    }

    /// Modes in which somebody waits and a running match wants players.
    pub fn wanting_modes(&self) -> Vec<String> {
        let wants = |q: &Queue| q.len() > 0 && !q.paused && q.wanted.values().any(|w| w.places > 0);
        self.queues.iter().filter(|(_, q)| wants(q)).map(|(mode, _)| mode.as_ref().to_owned()).collect()
    }

    /// Every mode, empty ones included, by name.
    pub fn depths(&self) -> Vec<Depth> {
        let depth = |(mode, q): (&Arc<str>, &Queue)| Depth {
            mode: mode.as_ref().to_owned(),
            tickets: q.len(),
            players: q.players(),
            oldest_us: q.oldest_us(),
            paused: q.paused,
            backfill_wanted: q.wanted.values().map(|w| i64::try_from(w.places).unwrap_or(i64::MAX)).sum(),
        };
        self.queues.iter().map(depth).collect()
    }

    /// Where those of the tickets stand that wait.
    pub fn standings(&mut self, tickets: &[Uuid], now: Instant) -> Vec<Standing> {
        let mut standings = Vec::with_capacity(tickets.len());
        for ticket in tickets.iter().filter_map(|id| self.tickets.get(id)) {
            let (submitted_us, ticket_id) = ticket.waiting.age();
            let Some(queue) = self.queues.get_mut(&ticket.mode) else { continue };
            let position = queue.position(submitted_us, now);
            standings.push(Standing { ticket_id, mode: Arc::clone(&ticket.mode), submitted_us, position });
        }
        standings
    }

    pub fn len(&self) -> usize {
        self.tickets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// When time alone may make the next group of any mode.
    pub fn due_us(&self) -> Option<i64> {
        self.queues.values().filter_map(Queue::due_us).min()
    }

    /// Up to `limit` tickets after one, by id, with their players; for going through all of them in turns.
    pub fn slice(&self, after: Uuid, limit: usize) -> Vec<(Uuid, Vec<Uuid>)> {
        let from = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        self.tickets.range(from).take(limit).map(|(id, ticket)| (*id, ticket.waiting.players().collect())).collect()
    }

    pub fn contains(&self, ticket_id: Uuid) -> bool {
        self.tickets.contains_key(&ticket_id)
    }
}
