//! Who has stored something where, as far as this process has seen it: a pair that is known here needs no row any more.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;
use uuid::Uuid;

/// Pairs remembered; past it all are forgotten, which costs a look per pair.
const REMEMBERED: usize = 50_000;

#[derive(Default)]
pub(super) struct Known {
    channels: HashMap<Uuid, HashSet<Box<str>, RandomState>, RandomState>,
    pairs: usize,
}

impl Known {
    pub(super) fn has(&self, sender: Uuid, channel: &str) -> bool {
        self.channels.get(&sender).is_some_and(|channels| channels.contains(channel))
    }

    pub(super) fn add(&mut self, sender: Uuid, channel: &str) {
        if self.has(sender, channel) {
            return;
        }
        if self.pairs >= REMEMBERED {
            *self = Self::default();
        }
        self.pairs += 1;
        self.channels.entry(sender).or_default().insert(channel.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_remembered_up_to_a_bound() {
        let (ada, mut known) = (Uuid::from_u128(1), Known::default());
        known.add(ada, "global:x");
        assert!(known.has(ada, "global:x") && !known.has(ada, "global:y"));
        for n in 0..REMEMBERED as u128 {
            known.add(Uuid::from_u128(n + 2), "global:x");
        }
        assert!(!known.has(ada, "global:x") && known.channels.len() <= REMEMBERED);
    }
}
