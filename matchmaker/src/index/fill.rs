//! Whoever has waited longest is matched first; when enough wait for too long, fewer will do.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    gather::gather,
    strategy::Strategy,
    ticket::{Age, Group, Rules, Waiting, Wanted},
};

/// Tickets by age, one order per party size: whether a match can be made around a ticket depends on the sizes alone, so that only the oldest
/// of each size need be tried as the one it is made around. Tried in the order of their age, a large party that has waited longest has
/// the first pick of the singles it needs.
#[derive(Default)]
pub struct Fill {
    /// By size; index 0 is not used.
    by_size: Vec<BTreeMap<Age, Arc<Waiting>>>,
    players: usize,
    /// When all was tried last in vain, with nobody come or gone since.
    in_vain_us: Option<i64>,
}

impl Fill {
    /// The oldest of each size that has a place in a team.
    fn heads<'a>(&'a self, rules: &Rules) -> impl Iterator<Item = &'a Arc<Waiting>> + use<'a> {
        self.by_size.iter().take(rules.shape.size + 1).filter_map(|own| own.first_key_value().map(|(_, t)| t))
    }

    /// As many of each size as one match could hold, oldest first.
    fn candidates(&self, seed: &Waiting, rules: &Rules) -> Vec<Arc<Waiting>> {
        let shape = rules.shape;
        let of_size = |(size, own): (usize, &BTreeMap<Age, Arc<Waiting>>)| {
            let most = shape.full().checked_div(size).unwrap_or(0);
            own.values().filter(|t| t.ticket_id != seed.ticket_id).take(most).cloned().collect::<Vec<_>>()
        };
        let mut all: Vec<_> = self.by_size.iter().enumerate().take(shape.size + 1).flat_map(of_size).collect();
        all.sort_by_key(|ticket| ticket.age());
        all
    }

    fn try_all(&self, rules: &Rules, now_us: i64) -> Option<Group> {
        if self.players < rules.shape.least {
            return None;
        }
        let mut seeds: Vec<_> = self.heads(rules).collect();
        seeds.sort_by_key(|ticket| ticket.age());
        let oldest_is_relaxed = seeds.first().is_some_and(|oldest| rules.is_relaxed(oldest, now_us));
        if self.players < rules.shape.full() && !oldest_is_relaxed {
            return None;
        }
        seeds.into_iter().find_map(|seed| gather(seed, &self.candidates(seed, rules), |_, _| true, rules, now_us))
    }
}

impl Strategy for Fill {
    fn insert(&mut self, ticket: Arc<Waiting>) {
        let size = ticket.size();
        if self.by_size.len() <= size {
            self.by_size.resize_with(size + 1, BTreeMap::new);
        }
        self.players += size;
        self.in_vain_us = None;
        self.by_size[size].insert(ticket.age(), ticket);
    }

    fn remove(&mut self, ticket: &Waiting) {
        let removed = self.by_size.get_mut(ticket.size()).and_then(|own| own.remove(&ticket.age()));
        if let Some(removed) = removed {
            self.players -= removed.size();
            // Fewer never make a match possible, but who is the oldest may have changed.
            self.in_vain_us = None;
        }
    }

    fn next_group(&mut self, rules: &Rules, now_us: i64) -> Option<Group> {
        let unchanged = self.in_vain_us.is_some();
        if unchanged && self.due_us(rules).is_none_or(|due| due > now_us) {
            return None;
        }
        let Some(group) = self.try_all(rules, now_us) else {
            self.in_vain_us = Some(now_us);
            return None;
        };
        group.tickets().for_each(|ticket| self.remove(ticket));
        Some(group)
    }

    fn due_us(&self, rules: &Rules) -> Option<i64> {
        if self.players < rules.shape.least {
            return None;
        }
        let due = self.heads(rules).filter_map(|head| rules.relaxes_us(head));
        due.filter(|at| self.in_vain_us.is_none_or(|tried| *at > tried)).min()
    }

    fn take_for(&mut self, wanted: &Wanted, _: &Rules, _: i64) -> Vec<Arc<Waiting>> {
        let mut taken = Vec::new();
        let mut places = wanted.places;
        loop {
            let heads = self.by_size.iter().take(places + 1).filter_map(|own| own.first_key_value().map(|(_, t)| t));
            let Some(oldest) = heads.min_by_key(|ticket| ticket.age()).cloned() else { return taken };
            places -= oldest.size();
            self.remove(&oldest);
            taken.push(oldest);
        }
    }
}
