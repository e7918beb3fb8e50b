//! The leader's copy of the queue: every pending ticket, by id, by player, and by mode in the order of its strategy.

mod strategy;

use std::collections::{BTreeMap, HashMap};

use asobi_proto::mode::ModeSettings;
use asobi_store::allocation::Pending;
use uuid::Uuid;

pub use strategy::{Fill, Strategy, Waiting};

/// A ticket and the mode it waits in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    pub mode: String,
    pub waiting: Waiting,
}

impl From<Pending> for Ticket {
    fn from(row: Pending) -> Self {
        let submitted_us = i64::try_from(row.submitted_at.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX);
        Self { mode: row.mode, waiting: Waiting { submitted_us, ticket_id: row.id, player_id: row.player_id } }
    }
}

/// Tickets that were taken out of the index together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub mode: String,
    /// In seat order.
    pub tickets: Vec<Waiting>,
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
    pub mode: String,
    pub submitted_us: i64,
    /// From 1, by age.
    pub position: i64,
}

struct Queue {
    /// None until a host's announcement was read; nobody is matched before.
    settings: Option<ModeSettings>,
    strategy: Box<dyn Strategy>,
}

/// Not bounded by itself: it holds what the table holds, and `matchmaker.max_queue` bounds that per mode. A ticket costs some 200 bytes.
#[derive(Default)]
pub struct Index {
    // Ordered, so that a sweep can go through it in slices.
    tickets: BTreeMap<Uuid, Ticket>,
    players: HashMap<Uuid, Vec<Uuid>>,
    queues: HashMap<String, Queue>,
}

impl Index {
    /// Takes the modes' present settings.
    pub fn set_modes(&mut self, modes: Vec<(String, ModeSettings)>) {
        for (mode, settings) in modes {
            self.queue(&mode).settings = Some(settings);
        }
    }

    /// Adds a ticket; one that is there already stays as it is.
    pub fn insert(&mut self, ticket: Ticket) {
        let Waiting { ticket_id, player_id, .. } = ticket.waiting;
        if self.tickets.contains_key(&ticket_id) {
            return;
        }
        self.queue(&ticket.mode).strategy.insert(ticket.waiting);
        self.players.entry(player_id).or_default().push(ticket_id);
        self.tickets.insert(ticket_id, ticket);
    }

    pub fn remove(&mut self, ticket_id: Uuid) -> Option<Ticket> {
        let ticket = self.forget(ticket_id)?;
        if let Some(queue) = self.queues.get_mut(&ticket.mode) {
            queue.strategy.remove(&ticket.waiting);
        }
        Some(ticket)
    }

    /// Replaces everything by what the table holds.
    pub fn reload(&mut self, tickets: impl IntoIterator<Item = Ticket>) {
        self.tickets.clear();
        self.players.clear();
        for queue in self.queues.values_mut() {
            queue.strategy = Box::new(Fill::default());
        }
        tickets.into_iter().for_each(|ticket| self.insert(ticket));
    }

    /// The next match of a mode, with its players' other tickets.
    pub fn take_group(&mut self, mode: &str, now_us: i64) -> Option<Group> {
        let queue = self.queues.get_mut(mode)?;
        let tickets = queue.strategy.next_group(queue.settings.as_ref()?, now_us)?;
        for ticket in &tickets {
            self.forget(ticket.ticket_id);
        }
        let others: Vec<Uuid> =
            tickets.iter().filter_map(|t| self.players.get(&t.player_id)).flatten().copied().collect();
        let siblings = others.into_iter().filter_map(|id| self.remove(id)).collect();
        Some(Group { mode: mode.to_owned(), tickets, siblings })
    }

    /// Puts back what [`Self::take_group`] took, as far as `keep` says.
    pub fn put_back(&mut self, group: Group, keep: impl Fn(Uuid) -> bool) {
        let Group { mode, tickets, siblings } = group;
        let own = tickets.into_iter().map(|waiting| Ticket { mode: mode.clone(), waiting });
        for ticket in own.chain(siblings).filter(|t| keep(t.waiting.ticket_id)) {
            self.insert(ticket);
        }
    }

    /// Modes somebody waits in.
    pub fn waiting_modes(&self) -> Vec<String> {
        self.queues.iter().filter(|(_, q)| !q.strategy.is_empty()).map(|(mode, _)| mode.clone()).collect()
    }

    /// Tickets per mode, empty modes included.
    pub fn depths(&self) -> Vec<Depth> {
        let depth = |(mode, q): (&String, &Queue)| Depth {
            mode: mode.clone(),
            tickets: q.strategy.len(),
            players: q.strategy.len(),
            oldest_us: None,
            paused: false,
            backfill_wanted: 0,
        };
        self.queues.iter().map(depth).collect()
    }

    /// Where those of the tickets stand that wait.
    pub fn standings(&self, tickets: &[Uuid], _now: std::time::Instant) -> Vec<Standing> {
        let stand = |id: &Uuid| {
            let ticket = self.tickets.get(id)?;
            let submitted_us = ticket.waiting.submitted_us;
            Some(Standing { ticket_id: *id, mode: ticket.mode.clone(), submitted_us, position: 1 })
        };
        tickets.iter().filter_map(stand).collect()
    }

    pub fn len(&self) -> usize {
        self.tickets.len()
    }

    /// When time alone will make the next group of any mode.
    pub fn due_us(&self) -> Option<i64> {
        self.queues.values().filter_map(|q| q.strategy.due_us(q.settings.as_ref()?)).min()
    }

    /// Up to `limit` tickets after one, by id, with their players; for going through all of them in turns.
    pub fn slice(&self, after: Uuid, limit: usize) -> Vec<(Uuid, Uuid)> {
        let from = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        self.tickets.range(from).take(limit).map(|(id, ticket)| (*id, ticket.waiting.player_id)).collect()
    }

    pub fn contains(&self, ticket_id: Uuid) -> bool {
        self.tickets.contains_key(&ticket_id)
    }

    /// Removes a ticket from everything but its strategy.
    fn forget(&mut self, ticket_id: Uuid) -> Option<Ticket> {
        let ticket = self.tickets.remove(&ticket_id)?;
        let player_id = ticket.waiting.player_id;
        if let Some(own) = self.players.get_mut(&player_id) {
            own.retain(|id| *id != ticket_id);
            if own.is_empty() {
                self.players.remove(&player_id);
            }
        }
        Some(ticket)
    }

    fn queue(&mut self, mode: &str) -> &mut Queue {
        self.queues
            .entry(mode.to_owned())
            .or_insert_with(|| Queue { settings: None, strategy: Box::new(Fill::default()) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ticket(mode: &str, id: u128, player: u128) -> Ticket {
        let (ticket_id, player_id) = (Uuid::from_u128(id), Uuid::from_u128(player));
        Ticket { mode: mode.into(), waiting: Waiting { submitted_us: id as i64, ticket_id, player_id } }
    }

    fn index() -> Index {
        let mut index = Index::default();
        let settings = |match_size| ModeSettings { match_size, min_players: match_size, ..ModeSettings::default() };
        index.set_modes(vec![("duel".into(), settings(2)), ("trio".into(), settings(3))]);
        index
    }

    #[test]
    fn a_player_is_in_one_group_at_a_time() {
        let mut index = index();
        for t in [
            ticket("duel", 1, 1),
            ticket("trio", 2, 1),
            ticket("duel", 3, 2),
            ticket("trio", 4, 3),
            ticket("trio", 5, 4),
        ] {
            index.insert(t);
        }
        let group = index.take_group("duel", 0).expect("two wait for a duel");
        assert_eq!(group.siblings, [ticket("trio", 2, 1)]);
        assert_eq!(index.take_group("trio", 0), None, "one of the three is taken");
        let back = group.clone();
        index.put_back(back, |id| id != Uuid::from_u128(3));
        assert_eq!((index.len(), index.contains(Uuid::from_u128(3))), (4, false));
        assert!(index.take_group("trio", 0).is_some());
    }

    #[test]
    fn nobody_is_matched_in_a_mode_without_settings() {
        let mut index = Index::default();
        index.insert(ticket("duel", 1, 1));
        index.insert(ticket("duel", 2, 2));
        assert_eq!(index.take_group("duel", 0), None);
        assert_eq!(index.take_group("unheard of", 0), None);
    }

    #[test]
    fn a_slice_goes_on_where_the_last_one_ended() {
        let mut index = index();
        (1..=5).for_each(|i| index.insert(ticket("trio", i, i)));
        let first = index.slice(Uuid::nil(), 3);
        let rest = index.slice(first[2].0, 3);
        assert_eq!((first.len(), rest.len()), (3, 2));
        assert!(index.slice(rest[1].0, 3).is_empty());
    }

    proptest! {
        // Failing cases are printed with the seed that replays them.
        #[test]
        fn its_three_views_agree(steps in prop::collection::vec((0_u8..4, 0_u128..30, 0_u128..8), 0..200)) {
            let mut index = index();
            let mut model: BTreeMap<Uuid, Ticket> = BTreeMap::new();
            for (step, id, player) in steps {
                let mode = if id % 2 == 0 { "duel" } else { "trio" };
                match step {
                    0 | 1 => {
                        let new = ticket(mode, id + 1, player);
                        model.entry(new.waiting.ticket_id).or_insert_with(|| new.clone());
                        index.insert(new);
                    }
                    2 => prop_assert_eq!(index.remove(Uuid::from_u128(id + 1)), model.remove(&Uuid::from_u128(id + 1))),
                    _ => if let Some(group) = index.take_group(mode, 0) {
                        let ids = group.tickets.iter().map(|t| t.ticket_id)
                            .chain(group.siblings.iter().map(|t| t.waiting.ticket_id));
                        for taken in ids {
                            prop_assert!(model.remove(&taken).is_some());
                        }
                        let players: std::collections::HashSet<_> = group.tickets.iter().map(|t| t.player_id).collect();
                        prop_assert!(model.values().all(|t| !players.contains(&t.waiting.player_id)));
                    },
                }
                prop_assert_eq!(index.len(), model.len());
                prop_assert_eq!(index.depths().iter().map(|d| d.tickets).sum::<usize>(), model.len());
                let owned: usize = index.players.values().map(Vec::len).sum();
                prop_assert_eq!(owned, model.len());
            }
        }
    }
}
