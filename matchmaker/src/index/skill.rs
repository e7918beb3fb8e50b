//! Players of like skill. Each ticket has a window that widens while it waits; two tickets fit when the window of each reaches the other.
//!
//! **What is formed.** Around a ticket, of those that fit it, the nearest come first; a place nearer by what a candidate's window has widened
//! is given to who waits, so that newcomers do not pass somebody over for ever. Everybody in a match fits everybody. Pairs are exact: when
//! two single tickets fit, a match of two is formed. Larger matches are looked for among the nearest, then only upwards, then only downwards
//! from the ticket; a combination that this misses is found when windows have widened.
//!
//! **When it looks.** A newcomer looks at its neighbours. Whoever finds too few notes when the windows of those nearby will have widened
//! enough and looks again then. Nobody else is touched, so that a newcomer costs O(log n + neighbours), whatever the queue's length.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use super::{
    gather::{AT_ONCE, Looks, gather},
    strategy::Strategy,
    ticket::{Age, Group, Rules, Waiting, Wanted, ordered},
};

/// Neighbours that one look considers beyond a match's own number.
const NEIGHBOURS: usize = 32;
/// No look considers more.
const MOST_NEIGHBOURS: usize = 1_024;
/// Microseconds after which a ticket is looked at again whose neighbours were too many for one look.
const AGAIN_US: i64 = 1_000_000;

type Key = (i64, Age);

#[derive(Default)]
pub struct SkillBased {
    by_skill: BTreeMap<Key, Arc<Waiting>>,
    by_age: BTreeMap<Age, Arc<Waiting>>,
    looks: Looks,
}

fn key(ticket: &Waiting) -> Key {
    (ordered(ticket.skill), ticket.age())
}

/// When a ticket's window reaches that far.
fn reaches_us(ticket: &Waiting, distance: f64, rules: &Rules) -> i64 {
    let missing = distance - rules.skill_window;
    if missing <= 0.0 {
        return i64::MIN;
    }
    if rules.widening <= 0.0 {
        return i64::MAX;
    }
    // Saturates; rounded up, so that the window does reach at that time.
    ticket.submitted_us.saturating_add((missing / rules.widening).ceil() as i64)
}

fn fits_us(a: &Waiting, b: &Waiting, rules: &Rules) -> i64 {
    let distance = (a.skill - b.skill).abs();
    reaches_us(a, distance, rules).max(reaches_us(b, distance, rules))
}

/// What a candidate's waiting is worth, in skill. Also where windows do not widen, so that those who wait come first in the end.
fn credit(ticket: &Waiting, rules: &Rules, now_us: i64) -> f64 {
    let waited = now_us.saturating_sub(ticket.submitted_us).max(0) as f64;
    waited * rules.widening.max(rules.skill_window / 50_000_000.0)
}

/// What a look has seen.
struct Seen {
    /// Those that fit, nearest first.
    fitting: Vec<Arc<Waiting>>,
    /// Players of each other one, and when it will fit.
    later: Vec<(i64, usize)>,
    /// When somebody beyond those that were considered could fit.
    beyond_us: Option<i64>,
}

impl SkillBased {
    /// Neighbours of a place in the order of their distance.
    fn around(&self, skill: f64, own: Age) -> impl Iterator<Item = &Arc<Waiting>> {
        let place = (ordered(skill), own);
        let mut below = self.by_skill.range(..place).rev().map(|(_, t)| t).peekable();
        let mut above = self.by_skill.range((Excluded(place), Unbounded)).map(|(_, t)| t).peekable();
        std::iter::from_fn(move || match (below.peek(), above.peek()) {
            (Some(low), Some(high)) if skill - low.skill <= high.skill - skill => below.next(),
            (Some(_), None) => below.next(),
            _ => above.next(),
        })
    }

    fn see(&self, seed: &Waiting, rules: &Rules, now_us: i64) -> Seen {
        let enough = rules.shape.full() + NEIGHBOURS;
        let most = (rules.shape.full() * 4 + NEIGHBOURS).min(MOST_NEIGHBOURS);
        let mut seen = Seen { fitting: Vec::new(), later: Vec::new(), beyond_us: None };
        for (n, other) in self.around(seed.skill, seed.age()).enumerate() {
            let own_us = reaches_us(seed, (seed.skill - other.skill).abs(), rules);
            if own_us == i64::MAX {
                break;
            }
            let out_of_reach = own_us > now_us;
            if n >= most || (out_of_reach && seen.later.len() >= enough) {
                seen.beyond_us = Some(if out_of_reach { own_us } else { now_us.saturating_add(AGAIN_US) });
                break;
            }
            match fits_us(seed, other, rules) {
                at if at <= now_us => seen.fitting.push(Arc::clone(other)),
                i64::MAX => {}
                at => seen.later.push((at, other.size())),
            }
        }
        seen
    }

    fn form(seed: &Arc<Waiting>, fitting: &[Arc<Waiting>], rules: &Rules, now_us: i64) -> Option<Group> {
        let fits = |a: &Waiting, b: &Waiting| fits_us(a, b, rules) <= now_us;
        let worth = |t: &Waiting| (t.skill - seed.skill).abs() - credit(t, rules, now_us);
        let mut nearest = fitting.to_vec();
        nearest.sort_by(|a, b| worth(a).total_cmp(&worth(b)));
        let try_with = |candidates: &[Arc<Waiting>]| gather(seed, candidates, fits, rules, now_us);
        try_with(&nearest).or_else(|| {
            let side = |above: bool| nearest.iter().filter(|t| (t.skill >= seed.skill) == above).cloned().collect();
            let (above, below): (Vec<_>, Vec<_>) = (side(true), side(false));
            if rules.shape.full() == 2 || above.is_empty() || below.is_empty() {
                return None;
            }
            try_with(&above).or_else(|| try_with(&below))
        })
    }

    /// When it is worth looking at a ticket again that found no match now.
    fn again_us(seed: &Waiting, mut seen: Seen, rules: &Rules, now_us: i64) -> Option<i64> {
        let present = seed.size() + seen.fitting.iter().map(|t| t.size()).sum::<usize>();
        let relaxes = rules.relaxes_us(seed);
        let needed = if relaxes.is_some_and(|at| at <= now_us) { rules.shape.least } else { rules.shape.full() };
        seen.later.sort_unstable();
        let mut players = present;
        // Where there are enough and they do not go together, each newcomer to the window is a new chance.
        let enough = seen.later.iter().find(|(_, size)| {
            players += size;
            players >= needed
        });
        let by_company = enough.map(|(at, _)| *at);
        let by_relaxing = relaxes.filter(|at| *at > now_us);
        [by_company, by_relaxing, seen.beyond_us].into_iter().flatten().min()
    }

    fn take(&mut self, ticket: &Waiting) {
        self.by_skill.remove(&key(ticket));
        self.by_age.remove(&ticket.age());
        self.looks.cancel(ticket.age());
    }
}

impl Strategy for SkillBased {
    fn insert(&mut self, ticket: Arc<Waiting>) {
        self.looks.schedule(ticket.age(), AT_ONCE);
        self.by_age.insert(ticket.age(), Arc::clone(&ticket));
        self.by_skill.insert(key(&ticket), ticket);
    }

    fn remove(&mut self, ticket: &Waiting) {
        self.take(ticket);
    }

    fn next_group(&mut self, rules: &Rules, now_us: i64) -> Option<Group> {
        while let Some(age) = self.looks.pop(now_us) {
            let Some(seed) = self.by_age.get(&age).cloned() else { continue };
            let seen = self.see(&seed, rules, now_us);
            if let Some(group) = Self::form(&seed, &seen.fitting, rules, now_us) {
                group.tickets().for_each(|ticket| self.take(ticket));
                return Some(group);
            }
            if let Some(at) = Self::again_us(&seed, seen, rules, now_us) {
                self.looks.schedule(age, at.max(now_us + 1));
            }
        }
        None
    }

    fn due_us(&self, _: &Rules) -> Option<i64> {
        self.looks.next_us()
    }

    /// Nearest to the match's `skill` by windows as between tickets; the oldest where it states none.
    fn take_for(&mut self, wanted: &Wanted, rules: &Rules, now_us: i64) -> Vec<Arc<Waiting>> {
        let mut places = wanted.places;
        let fitting: Vec<Arc<Waiting>> = if wanted.states_skill {
            let mut fitting = self.see(&wanted.as_ticket, rules, now_us).fitting;
            let skill = wanted.as_ticket.skill;
            let worth = |t: &Waiting| (t.skill - skill).abs() - credit(t, rules, now_us);
            fitting.sort_by(|a, b| worth(a).total_cmp(&worth(b)));
            fitting
        } else {
            self.by_age.values().take(MOST_NEIGHBOURS).cloned().collect()
        };
        let mut taken = Vec::new();
        for ticket in fitting {
            if ticket.size() <= places {
                places -= ticket.size();
                self.take(&ticket);
                taken.push(ticket);
            }
        }
        taken
    }
}
