//! One mode's tickets: by age, and in the strategy of each region they may play in.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_proto::mode::ModeSettings;
use asobi_store::modes::Mode;
use uuid::Uuid;

use super::{
    strategy::{Strategies, Strategy},
    ticket::{ANYWHERE, Age, Group, Rules, Waiting, Wanted},
};

/// Age of the snapshot that positions are reckoned from.
const STANDING_FOR: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Queue {
    /// None until a host's announcement was read; nobody is matched before.
    settings: Option<(ModeSettings, Rules)>,
    pub paused: bool,
    by_age: BTreeMap<Age, Arc<Waiting>>,
    players: usize,
    /// One per region of the mode, in its order; one where it has none. A ticket is in all it may play in, so that a group shares its region
    /// whatever the strategy.
    pools: Vec<Box<dyn Strategy>>,
    /// The pool that is asked first next time.
    turn: usize,
    pub wanted: BTreeMap<Uuid, Wanted>,
    standing: Option<(Instant, Vec<i64>)>,
}

impl Queue {
    pub fn set(&mut self, mode: Mode, strategies: &Strategies) {
        self.paused = mode.paused;
        if self.settings.as_ref().is_some_and(|(settings, _)| *settings == mode.settings) {
            return;
        }
        let rules = Rules::from(&mode.settings);
        let pools = rules.regions.len().max(1);
        self.pools = (0..pools).map(|_| strategies.make(&mode.name, &mode.settings)).collect();
        for ticket in self.by_age.values() {
            Self::add(&mut self.pools, &rules, ticket);
        }
        self.settings = Some((mode.settings, rules));
    }

    pub fn rules(&self) -> Option<&Rules> {
        self.settings.as_ref().map(|(_, rules)| rules)
    }

    fn add(pools: &mut [Box<dyn Strategy>], rules: &Rules, ticket: &Arc<Waiting>) {
        let bits = rules.regions_of(ticket);
        for (_, pool) in pools.iter_mut().enumerate().filter(|(n, _)| bits >> n & 1 == 1) {
            pool.insert(Arc::clone(ticket));
        }
    }

    pub fn insert(&mut self, ticket: Arc<Waiting>) {
        if let Some((_, rules)) = &self.settings {
            Self::add(&mut self.pools, rules, &ticket);
        }
        self.players += ticket.size();
        self.by_age.insert(ticket.age(), ticket);
    }

    pub fn remove(&mut self, ticket: &Waiting) {
        if let Some(removed) = self.by_age.remove(&ticket.age()) {
            self.players -= removed.size();
            self.pools.iter_mut().for_each(|pool| pool.remove(&removed));
        }
    }

    /// The next match in one of the regions `open`, and the regions its players share, the best first.
    pub fn next_group(&mut self, open: u64, now_us: i64) -> Option<(Group, Vec<String>)> {
        if self.paused {
            return None;
        }
        let (_, rules) = self.settings.as_ref()?;
        let pools = self.pools.len();
        for n in (0..pools).map(|n| (n + self.turn) % pools).filter(|n| open >> n & 1 == 1) {
            let Some(group) = self.pools[n].next_group(rules, now_us) else { continue };
            self.turn = n + 1;
            let tickets: Vec<_> = group.tickets().cloned().collect();
            let common = tickets.iter().fold(open, |bits, ticket| bits & rules.regions_of(ticket));
            let regions = rules.ranked(common, &tickets);
            tickets.iter().for_each(|ticket| self.remove(ticket));
            return Some((group, regions));
        }
        None
    }

    /// Those who join a match that wants players.
    pub fn take_for(&mut self, match_id: Uuid, now_us: i64) -> Vec<Arc<Waiting>> {
        let (Some((_, rules)), Some(mut wanted), false) =
            (self.settings.clone(), self.wanted.get(&match_id).cloned(), self.paused)
        else {
            return Vec::new();
        };
        let here = rules.regions.iter().position(|name| *name == wanted.region);
        let mut taken = Vec::new();
        for n in (0..self.pools.len()).filter(|n| here.is_none_or(|here| here == *n)) {
            if wanted.places == 0 {
                break;
            }
            let joining = self.pools[n].take_for(&wanted, &rules, now_us);
            wanted.places = wanted.places.saturating_sub(joining.iter().map(|t| t.size()).sum());
            // Out of the other pools too, before these are asked.
            joining.iter().for_each(|ticket| self.remove(ticket));
            taken.extend(joining);
        }
        self.wanted.insert(match_id, wanted);
        taken
    }

    /// When time alone may make the next group.
    pub fn due_us(&self) -> Option<i64> {
        let (_, rules) = self.settings.as_ref().filter(|_| !self.paused)?;
        self.pools.iter().filter_map(|pool| pool.due_us(rules)).min()
    }

    /// Place by age, from 1, as of a second ago at most.
    pub fn position(&mut self, submitted_us: i64, now: Instant) -> i64 {
        if self.standing.as_ref().is_none_or(|(at, _)| now.duration_since(*at) >= STANDING_FOR) {
            self.standing = Some((now, self.by_age.keys().map(|(submitted, _)| *submitted).collect()));
        }
        let ahead = self.standing.as_ref().map_or(0, |(_, all)| all.partition_point(|at| *at < submitted_us));
        i64::try_from(ahead).unwrap_or(i64::MAX).saturating_add(1)
    }

    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    pub fn players(&self) -> usize {
        self.players
    }

    pub fn oldest_us(&self) -> Option<i64> {
        self.by_age.first_key_value().map(|((submitted, _), _)| *submitted)
    }

    /// Bits of the mode's regions that are among these; a host without a region is in each.
    pub fn open(&self, regions: &[String]) -> u64 {
        match self.rules() {
            Some(rules) if !rules.regions.is_empty() && !regions.iter().any(String::is_empty) => {
                let there = rules.regions.iter().enumerate().filter(|(_, name)| regions.contains(name));
                there.fold(0, |bits, (n, _)| bits | 1 << n)
            }
            _ => ANYWHERE,
        }
    }
}
