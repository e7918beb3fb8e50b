//! How players of one mode are put together. Pure: no clock, no I/O; time comes in as an argument.

use std::collections::BTreeSet;

use asobi_proto::mode::ModeSettings;
use uuid::Uuid;

/// A ticket as a strategy sees it. Orders by age, then by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Waiting {
    /// Microseconds of the Unix epoch, by the database's clock.
    pub submitted_us: i64,
    pub ticket_id: Uuid,
    pub player_id: Uuid,
}

/// The waiting tickets of one mode, and which of them make a match. All but [`Strategy::len`] in O(log n) per ticket.
pub trait Strategy: Send {
    fn insert(&mut self, ticket: Waiting);

    /// False: it was not there.
    fn remove(&mut self, ticket: &Waiting) -> bool;

    /// Takes out the players of the next match, in seat order; none: nobody can be matched at this time.
    fn next_group(&mut self, settings: &ModeSettings, now_us: i64) -> Option<Vec<Waiting>>;

    /// When time alone will make the next group, if nobody comes or goes.
    fn due_us(&self, settings: &ModeSettings) -> Option<i64>;

    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whoever has waited longest is matched first; when enough wait for too long, fewer will do.
#[derive(Debug, Default)]
pub struct Fill {
    waiting: BTreeSet<Waiting>,
}

/// Players that must wait before `relax_after_ms` counts, and seats a relaxed match may start with.
fn enough(settings: &ModeSettings) -> usize {
    usize::try_from(settings.min_players.clamp(1, settings.match_size.max(1))).unwrap_or(usize::MAX)
}

fn full(settings: &ModeSettings) -> usize {
    usize::try_from(settings.match_size.max(1)).unwrap_or(usize::MAX)
}

impl Strategy for Fill {
    fn insert(&mut self, ticket: Waiting) {
        self.waiting.insert(ticket);
    }

    fn remove(&mut self, ticket: &Waiting) -> bool {
        self.waiting.remove(ticket)
    }

    fn next_group(&mut self, settings: &ModeSettings, now_us: i64) -> Option<Vec<Waiting>> {
        let complete = self.waiting.len() >= full(settings);
        let relaxed = || self.due_us(settings).is_some_and(|due| due <= now_us);
        if !complete && !relaxed() {
            return None;
        }
        let size = full(settings).min(self.waiting.len());
        Some((0..size).filter_map(|_| self.waiting.pop_first()).collect())
    }

    fn due_us(&self, settings: &ModeSettings) -> Option<i64> {
        let relax_us = i64::try_from(settings.relax_after_ms?.saturating_mul(1_000)).unwrap_or(i64::MAX);
        if self.waiting.len() < enough(settings) {
            return None;
        }
        self.waiting.first().map(|oldest| oldest.submitted_us.saturating_add(relax_us))
    }

    fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Strategy as _, *};

    fn ticket(submitted_us: i64, id: u128) -> Waiting {
        Waiting { submitted_us, ticket_id: Uuid::from_u128(id), player_id: Uuid::from_u128(id + 1_000_000) }
    }

    fn mode(match_size: u32, min_players: u32, relax_after_ms: Option<u64>) -> ModeSettings {
        ModeSettings { match_size, min_players, relax_after_ms, ..ModeSettings::default() }
    }

    #[test]
    fn the_oldest_are_matched_first() {
        let mut fill = Fill::default();
        for (at, id) in [(30, 1), (10, 2), (20, 3)] {
            fill.insert(ticket(at, id));
        }
        let group = fill.next_group(&mode(2, 2, None), 100).expect("two wait");
        assert_eq!(group, [ticket(10, 2), ticket(20, 3)]);
        assert_eq!(fill.next_group(&mode(2, 2, None), i64::MAX), None);
        assert!(fill.remove(&ticket(30, 1)) && !fill.remove(&ticket(30, 1)) && fill.is_empty());
    }

    #[test]
    fn fewer_will_do_when_the_oldest_has_waited_long_enough() {
        let relaxing = mode(4, 2, Some(5));
        let mut fill = Fill::default();
        fill.insert(ticket(1_000, 1));
        assert_eq!(fill.due_us(&relaxing), None, "one is not enough");
        fill.insert(ticket(3_000, 2));
        assert_eq!(fill.due_us(&relaxing), Some(6_000));
        assert_eq!(fill.next_group(&relaxing, 5_999), None);
        assert_eq!(fill.next_group(&relaxing, 6_000).map(|g| g.len()), Some(2));
    }

    #[test]
    fn settings_that_make_no_sense_still_make_progress() {
        let mut fill = Fill::default();
        fill.insert(ticket(1, 1));
        assert_eq!(fill.next_group(&mode(0, 0, None), 1).map(|g| g.len()), Some(1));
        fill.insert(ticket(1, 1));
        assert_eq!(fill.next_group(&mode(3, 9, Some(0)), 1), None, "never fewer than match_size then");
    }

    proptest! {
        // Failing cases are printed with the seed that replays them.
        #[test]
        fn groups_take_everybody_once_and_in_order(
            times in prop::collection::vec(0_i64..50, 0..60),
            gone in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            size in 1_u32..6,
        ) {
            let mut fill = Fill::default();
            let mut model: Vec<Waiting> = times.iter().enumerate().map(|(i, at)| ticket(*at, i as u128)).collect();
            model.iter().for_each(|t| fill.insert(*t));
            for index in gone {
                if !model.is_empty() {
                    let ticket = model.swap_remove(index.index(model.len()));
                    prop_assert!(fill.remove(&ticket));
                }
            }
            model.sort();
            let mut seated = Vec::new();
            while let Some(group) = fill.next_group(&mode(size, size, None), 0) {
                prop_assert_eq!(group.len(), size as usize);
                seated.extend(group);
            }
            prop_assert_eq!(fill.len(), model.len() % size as usize);
            prop_assert_eq!(&seated[..], &model[..seated.len()]);
        }
    }
}
