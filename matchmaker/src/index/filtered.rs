//! Players who say themselves whom they want: each ticket's filter must accept each other ticket of its match.
//!
//! **What is formed.** Around a ticket, of those that fit it, the oldest come first, each of whom fits all chosen before.
//!
//! **Where it looks.** What a filter demands plainly (`region = "eu"`, `abs(skill - self.skill) <= 200`) is looked up: the shorter of the
//! lists of tickets with that very text, or those with a number in that range. A filter without such a demand goes through
//! the queue by age. One look evaluates at most [`LOOK`] candidates. Where there were more, the ticket goes on from there a second later,
//! by age, and round again, but no more than [`AGAIN`] such tickets are served in one turn: in a queue of many thousands a filter
//! that hardly anybody passes may take long to find them, and costs others little meanwhile.
//!
//! Only the first [`INDEXED`] properties of a ticket by name are in the lists; tickets with more are considered by every look.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use asobi_proto::query::{Demand, Fact, Query};

use super::{
    gather::{AT_ONCE, Looks, gather},
    strategy::Strategy,
    ticket::{Age, Group, Rules, Waiting, Wanted, ordered},
};

/// Candidates of one look.
pub const LOOK: usize = 512;
/// Looks that go on where an earlier one ended, in one turn.
const AGAIN: usize = 32;
const AGAIN_US: i64 = 1_000_000;
pub const INDEXED: usize = 8;

type ByAge = BTreeMap<Age, Arc<Waiting>>;
type ByNumber = BTreeMap<(i64, Age), Arc<Waiting>>;

#[derive(Default)]
pub struct Filtered {
    all: ByAge,
    /// By name and text.
    texts: HashMap<Box<str>, HashMap<Box<str>, ByAge>>,
    numbers: HashMap<Box<str>, ByNumber>,
    /// Tickets with more properties than are indexed.
    loose: ByAge,
    looks: Looks,
    /// Where the next look of a ticket begins that has not seen everybody.
    cursors: HashMap<Age, Age>,
    /// Looks left in this turn that go on; a turn ends when [`Strategy::next_group`] finds nothing.
    turn: usize,
}

/// Those a look considers, and where the next one goes on when these were not all.
struct Candidates {
    tickets: Vec<Arc<Waiting>>,
    goes_on: Option<Age>,
}

impl Filtered {
    /// First looks use the index, later ones go through a list by age.
    fn candidates(&self, seeker: &Waiting) -> Candidates {
        let demands = seeker.query.as_ref().map(|q| q.demands(&seeker.facts)).unwrap_or_default();
        let list = self.shortest_list(&demands);
        let Some(list) = list else { return Candidates { tickets: self.loose_ones(), goes_on: None } };
        let Some(from) = self.cursors.get(&seeker.age()) else {
            if list.len() > LOOK
                && let Some(near) = self.in_range(&demands, seeker)
            {
                return near;
            }
            return self.page(list, Unbounded);
        };
        self.page(list, Excluded(*from))
    }

    fn loose_ones(&self) -> Vec<Arc<Waiting>> {
        self.loose.values().take(LOOK).cloned().collect()
    }

    /// The fewest tickets that hold all who can be accepted, but for the loose ones; none: there is nobody else.
    fn shortest_list(&self, demands: &[Demand<'_>]) -> Option<&ByAge> {
        let texts = demands.iter().filter_map(|demand| match demand {
            Demand::Text(name, text) => Some((*name, text)),
            Demand::Range(..) => None,
        });
        let mut shortest = &self.all;
        for (name, text) in texts {
            let list = self.texts.get(name)?.get(&**text)?;
            if list.len() < shortest.len() {
                shortest = list;
            }
        }
        Some(shortest)
    }

    fn page(&self, list: &ByAge, from: std::ops::Bound<Age>) -> Candidates {
        let mut rest = list.range((from, Unbounded)).map(|(_, t)| t);
        let mut tickets: Vec<_> = rest.by_ref().take(LOOK).cloned().collect();
        let went_on = matches!(from, Excluded(_));
        // At the end a list that did not fit one page begins anew.
        let goes_on = if rest.next().is_some() {
            tickets.last().map(|last| last.age())
        } else {
            went_on.then_some((i64::MIN, uuid::Uuid::nil()))
        };
        if !std::ptr::eq(list, &raw const self.all) {
            tickets.extend(self.loose_ones());
        }
        Candidates { tickets, goes_on }
    }

    /// Those whose number is in a range that is demanded, from one's own number outwards.
    fn in_range(&self, demands: &[Demand<'_>], seeker: &Waiting) -> Option<Candidates> {
        let (name, low, high) = demands.iter().find_map(|demand| match demand {
            Demand::Range(name, low, high) => Some((*name, *low, *high)),
            Demand::Text(..) => None,
        })?;
        if low > high || low.is_nan() || high.is_nan() {
            return Some(Candidates { tickets: self.loose_ones(), goes_on: None });
        }
        let middle = seeker.facts.number(name).map_or(low, |own| own.clamp(low, high));
        let list = self.numbers.get(name)?;
        let none = uuid::Uuid::nil();
        let least = (ordered(low), (i64::MIN, none));
        let place = (ordered(middle), (i64::MIN, none));
        let most = (ordered(high), (i64::MAX, uuid::Uuid::max()));
        let above = list.range(place..=most).map(|(_, t)| t).take(LOOK / 2);
        let below = list.range(least..place).rev().map(|(_, t)| t).take(LOOK / 2);
        let mut tickets: Vec<_> = above.chain(below).cloned().collect();
        let goes_on = (tickets.len() >= LOOK / 2).then_some((i64::MIN, none));
        tickets.extend(self.loose_ones());
        Some(Candidates { tickets, goes_on })
    }

    fn look(&mut self, seed: &Arc<Waiting>, rules: &Rules, now_us: i64) -> Option<Group> {
        let Candidates { mut tickets, goes_on } = self.candidates(seed);
        // A loose one may be in the list too.
        tickets.sort_by_key(|ticket| ticket.age());
        tickets.dedup_by_key(|ticket| ticket.age());
        tickets.retain(|other| other.ticket_id != seed.ticket_id && seed.suits(other));
        let formed = gather(seed, &tickets, Waiting::suits, rules, now_us);
        let relaxes = rules.relaxes_us(seed).filter(|at| *at > now_us);
        let again = goes_on.map(|_| now_us.saturating_add(AGAIN_US));
        match goes_on {
            Some(from) => self.cursors.insert(seed.age(), from),
            None => self.cursors.remove(&seed.age()),
        };
        if formed.is_none()
            && let Some(at) = [relaxes, again].into_iter().flatten().min()
        {
            self.looks.schedule(seed.age(), at);
        }
        formed
    }

    fn take(&mut self, ticket: &Waiting) {
        let age = ticket.age();
        self.all.remove(&age);
        self.loose.remove(&age);
        self.looks.cancel(age);
        self.cursors.remove(&age);
        for (name, fact) in ticket.facts.iter().take(INDEXED) {
            match fact {
                Fact::Text(text) => {
                    let Some(by_text) = self.texts.get_mut(name) else { continue };
                    if by_text.get_mut(text).is_some_and(|own| own.remove(&age).is_some() && own.is_empty()) {
                        by_text.remove(text);
                    }
                    if by_text.is_empty() {
                        self.texts.remove(name);
                    }
                }
                Fact::Number(n) => {
                    let Some(own) = self.numbers.get_mut(name) else { continue };
                    own.remove(&(ordered(*n), age));
                    if own.is_empty() {
                        self.numbers.remove(name);
                    }
                }
                Fact::Bool(_) => {}
            }
        }
    }
}

impl Strategy for Filtered {
    fn insert(&mut self, ticket: Arc<Waiting>) {
        let age = ticket.age();
        for (name, fact) in ticket.facts.iter().take(INDEXED) {
            match fact {
                Fact::Text(text) => {
                    let by_text = self.texts.entry(name.into()).or_default();
                    by_text.entry(text.clone()).or_default().insert(age, Arc::clone(&ticket));
                }
                Fact::Number(n) => {
                    self.numbers.entry(name.into()).or_default().insert((ordered(*n), age), Arc::clone(&ticket));
                }
                Fact::Bool(_) => {}
            }
        }
        if ticket.facts.iter().count() > INDEXED {
            self.loose.insert(age, Arc::clone(&ticket));
        }
        self.looks.schedule(age, AT_ONCE);
        self.all.insert(age, ticket);
    }

    fn remove(&mut self, ticket: &Waiting) {
        self.take(ticket);
    }

    fn next_group(&mut self, rules: &Rules, now_us: i64) -> Option<Group> {
        while let Some(age) = self.looks.pop(now_us) {
            let Some(seed) = self.all.get(&age).cloned() else { continue };
            let goes_on = self.cursors.contains_key(&age);
            if goes_on && self.turn >= AGAIN {
                // The next turn begins with it.
                self.looks.schedule(age, now_us);
                break;
            }
            self.turn += usize::from(goes_on);
            if let Some(group) = self.look(&seed, rules, now_us) {
                group.tickets().for_each(|ticket| self.take(ticket));
                return Some(group);
            }
        }
        self.turn = 0;
        None
    }

    fn due_us(&self, _: &Rules) -> Option<i64> {
        self.looks.next_us()
    }

    /// The oldest whose filter accepts what the match says of itself.
    fn take_for(&mut self, wanted: &Wanted, _: &Rules, _: i64) -> Vec<Arc<Waiting>> {
        let accepts =
            |t: &&Arc<Waiting>| t.query.as_ref().is_none_or(|q: &Query| q.accepts(&t.facts, &wanted.as_ticket.facts));
        let fitting: Vec<_> = self.all.values().take(LOOK).filter(accepts).cloned().collect();
        let mut places = wanted.places;
        let mut taken: Vec<Arc<Waiting>> = Vec::new();
        for ticket in fitting {
            if ticket.size() <= places && taken.iter().all(|chosen| chosen.suits(&ticket)) {
                places -= ticket.size();
                self.take(&ticket);
                taken.push(ticket);
            }
        }
        taken
    }
}
