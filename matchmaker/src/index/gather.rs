//! From one ticket and those that suit it to a whole match, and when a ticket is to be looked at.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    packing::{balance, pack},
    ticket::{Age, Group, Rules, Waiting},
};

/// A match of `seed` and, in the order they are given, those `candidates` that fit everybody chosen before them and leave teams that
/// can be filled. A full one, else a smaller one where somebody in it has waited for `relax_us`.
pub fn gather(
    seed: &Arc<Waiting>,
    candidates: &[Arc<Waiting>],
    fits: impl Fn(&Waiting, &Waiting) -> bool,
    rules: &Rules,
    now_us: i64,
) -> Option<Group> {
    let shape = rules.shape;
    if let Some(chosen) = choose(seed, candidates, &fits, shape.teams, shape.size) {
        return Some(chosen.arranged(shape.teams));
    }
    let relaxed = |ticket: &Arc<Waiting>| rules.is_relaxed(ticket, now_us);
    if !relaxed(seed) && !candidates.iter().any(relaxed) {
        return None;
    }
    let players = seed.size() + candidates.iter().map(|t| t.size()).sum::<usize>();
    shape
        .relaxed_sizes(players)
        .filter_map(|size| choose(seed, candidates, &fits, shape.teams, size))
        .find(|chosen| chosen.tickets.iter().any(relaxed))
        .map(|chosen| chosen.arranged(shape.teams))
}

struct Chosen {
    tickets: Vec<Arc<Waiting>>,
    team_of: Vec<usize>,
}

fn choose(
    seed: &Arc<Waiting>,
    candidates: &[Arc<Waiting>],
    fits: &impl Fn(&Waiting, &Waiting) -> bool,
    teams: usize,
    size: usize,
) -> Option<Chosen> {
    let full = teams * size;
    let mut spare = vec![0; size + 1];
    for candidate in candidates.iter().filter(|c| c.size() <= size) {
        spare[candidate.size()] += 1;
    }
    let mut total = seed.size();
    let offered: usize = spare.iter().enumerate().map(|(size, n)| size * n).sum();
    if total > size || total + offered < full {
        return None;
    }
    let (mut tickets, mut sizes) = (vec![Arc::clone(seed)], vec![total]);
    let mut team_of = pack(&sizes, &spare, teams, size)?;
    for candidate in candidates.iter().filter(|c| c.size() <= size) {
        if total == full {
            break;
        }
        let own = candidate.size();
        spare[own] -= 1;
        if total + own > full || !tickets.iter().all(|t| fits(t, candidate)) {
            continue;
        }
        sizes.push(own);
        if let Some(packed) = pack(&sizes, &spare, teams, size) {
            tickets.push(Arc::clone(candidate));
            team_of = packed;
            total += own;
        } else {
            sizes.pop();
        }
    }
    (total == full).then_some(Chosen { tickets, team_of })
}

impl Chosen {
    /// Teams of even skill, each with its oldest first.
    fn arranged(self, teams: usize) -> Group {
        let skill = |t: &Waiting| t.skill * t.size() as f64;
        let mut parts: Vec<(usize, f64, usize)> =
            self.tickets.iter().zip(self.team_of).map(|(t, team)| (t.size(), skill(t), team)).collect();
        balance(&mut parts, teams);
        let mut group = Group { teams: vec![Vec::new(); teams] };
        for (ticket, (_, _, team)) in self.tickets.into_iter().zip(parts) {
            group.teams[team].push(ticket);
        }
        for team in &mut group.teams {
            team.sort_by_key(|ticket| ticket.age());
        }
        group
    }
}

/// Before anything that waits for its time; among each other by age.
pub const AT_ONCE: i64 = i64::MIN;

/// When each ticket is to be looked at next: at once when it has come, later when time lets it have company it cannot have yet. A ticket
/// that only a newcomer can help is not among them; the newcomer's own look finds it.
#[derive(Default)]
pub struct Looks {
    due: BTreeSet<(i64, Age)>,
    at: HashMap<Age, i64>,
}

impl Looks {
    pub fn schedule(&mut self, age: Age, at_us: i64) {
        self.cancel(age);
        self.due.insert((at_us, age));
        self.at.insert(age, at_us);
    }

    pub fn cancel(&mut self, age: Age) {
        if let Some(at) = self.at.remove(&age) {
            self.due.remove(&(at, age));
        }
    }

    /// The next ticket whose time has come.
    pub fn pop(&mut self, now_us: i64) -> Option<Age> {
        let (at, age) = *self.due.first()?;
        if at > now_us {
            return None;
        }
        self.due.pop_first();
        self.at.remove(&age);
        Some(age)
    }

    pub fn next_us(&self) -> Option<i64> {
        self.due.first().map(|(at, _)| *at)
    }
}
