//! One leaderboard in memory.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use asobi_store::boards::{Entry, Rules, Snapshot};
use uuid::Uuid;

use super::ranked::Ranked;

/// How long a change may be missing before the rows are read: NOTIFYs of two services come in any order.
pub const GAP: Duration = Duration::from_millis(50);

/// Position on the board: score, then sub-score, then who had it earlier. The id only makes keys distinct.
type Key = (u64, u64, i64, Uuid);

/// Changes are applied in whatever order they come, each entry by its own number; `seq` says up to where none is missing.
#[derive(Debug)]
pub struct Board {
    rules: Rules,
    seq: i64,
    /// Numbers beyond a gap.
    ahead: BTreeSet<i64>,
    ranked: Ranked<Key>,
    entries: HashMap<Uuid, Entry>,
}

impl Board {
    pub fn new(snapshot: Snapshot, seed: u64) -> Self {
        let mut board = Self {
            rules: snapshot.rules,
            seq: 0,
            ahead: BTreeSet::new(),
            ranked: Ranked::new(seed),
            entries: HashMap::with_capacity(snapshot.entries.len()),
        };
        board.repair(snapshot);
        board
    }

    /// Takes one change.
    pub fn apply(&mut self, entry: Entry) {
        self.put(entry);
        if entry.seq > self.seq {
            self.ahead.insert(entry.seq);
            self.close_gap();
        }
    }

    /// Takes what was read with [`asobi_store::boards::since`] at [`Self::seq`] or earlier.
    pub fn repair(&mut self, snapshot: Snapshot) {
        for entry in snapshot.entries {
            self.put(entry);
        }
        self.seq = self.seq.max(snapshot.seq);
        self.ahead = self.ahead.split_off(&(self.seq + 1));
        self.close_gap();
    }

    /// Every change up to this number is known.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    pub fn has_gap(&self) -> bool {
        !self.ahead.is_empty()
    }

    pub fn entry(&self, player: Uuid) -> Option<Entry> {
        self.entries.get(&player).copied()
    }

    /// From 1; of an entry that has changed since, where it would be.
    pub fn rank(&self, entry: &Entry) -> usize {
        self.ranked.rank(&self.key(entry)) + 1
    }

    /// Entries from a rank on, with their ranks.
    pub fn at_rank(&self, rank: usize, len: usize) -> Vec<(usize, Entry)> {
        let from = rank.saturating_sub(1);
        let keys = self.ranked.range(from, len);
        keys.iter().enumerate().filter_map(|(i, key)| Some((from + i + 1, *self.entries.get(&key.3)?))).collect()
    }

    /// A player's neighbours, `range` to each side.
    pub fn around(&self, player: Uuid, range: usize) -> Vec<(usize, Entry)> {
        let Some(entry) = self.entry(player) else { return Vec::new() };
        let rank = self.rank(&entry);
        let first = rank.saturating_sub(range).max(1);
        self.at_rank(first, rank - first + 1 + range)
    }

    /// Takes a player off whose rows are gone.
    pub fn remove(&mut self, player: Uuid) {
        if let Some(entry) = self.entries.remove(&player) {
            let key = self.key(&entry);
            self.ranked.remove(&key);
        }
    }

    fn put(&mut self, entry: Entry) {
        if let Some(known) = self.entries.get(&entry.player_id) {
            if known.seq >= entry.seq {
                return;
            }
            let key = self.key(known);
            self.ranked.remove(&key);
        }
        self.ranked.insert(self.key(&entry));
        self.entries.insert(entry.player_id, entry);
    }

    fn close_gap(&mut self) {
        while self.ahead.first() == Some(&(self.seq + 1)) {
            self.ahead.pop_first();
            self.seq += 1;
        }
    }

    fn key(&self, entry: &Entry) -> Key {
        let bits = |value| if self.rules.descending { !ordered(value) } else { ordered(value) };
        (bits(entry.score), bits(entry.sub_score), entry.seq, entry.player_id)
    }
}

/// Bits that compare as the finite numbers do; both zeros are one.
fn ordered(value: f64) -> u64 {
    let bits = (value + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

#[cfg(test)]
mod tests {
    use asobi_store::boards::Operator;
    use proptest::prelude::*;
    use time::OffsetDateTime;

    use super::*;

    fn entry(player: u128, score: f64, sub_score: f64, seq: i64) -> Entry {
        Entry { player_id: Uuid::from_u128(player), score, sub_score, seq, updated_at: OffsetDateTime::UNIX_EPOCH }
    }

    fn board(descending: bool) -> Board {
        let rules = Rules { descending, operator: Operator::Last };
        Board::new(Snapshot { rules, seq: 0, entries: Vec::new() }, 1)
    }

    fn order(board: &Board) -> Vec<u128> {
        board.at_rank(1, 100).iter().map(|(_, e)| e.player_id.as_u128()).collect()
    }

    #[test]
    fn ties_go_to_the_sub_score_and_then_to_who_was_earlier() {
        let mut board = board(true);
        for e in [
            entry(1, 10.0, 0.0, 1),
            entry(2, 25.0, 0.0, 2),
            entry(3, 25.0, 1.0, 3),
            entry(4, 25.0, 0.0, 4),
            entry(5, -1.0, 0.0, 5),
        ] {
            board.apply(e);
        }
        assert_eq!(order(&board), [3, 2, 4, 1, 5]);
        board.apply(entry(3, 5.0, 0.0, 6));
        assert_eq!(order(&board), [2, 4, 1, 3, 5]);
        assert_eq!(board.rank(&entry(1, 10.0, 0.0, 1)), 3);
        let around: Vec<_> =
            board.around(Uuid::from_u128(2), 1).iter().map(|(r, e)| (*r, e.player_id.as_u128())).collect();
        assert_eq!(around, [(1, 2), (2, 4)]);
        assert!(board.around(Uuid::from_u128(99), 3).is_empty());
    }

    #[test]
    fn a_gap_is_noticed_and_closed_by_what_comes_or_by_the_rows() {
        let mut board = board(true);
        board.apply(entry(1, 1.0, 0.0, 1));
        board.apply(entry(2, 2.0, 0.0, 3));
        assert!(board.has_gap() && board.seq() == 1);
        board.apply(entry(3, 3.0, 0.0, 2));
        assert!(!board.has_gap() && board.seq() == 3);
        board.apply(entry(1, 9.0, 0.0, 7));
        let rows = Snapshot { rules: board.rules, seq: 6, entries: vec![entry(2, 0.0, 0.0, 5), entry(1, 9.0, 0.0, 7)] };
        board.repair(rows);
        assert!(!board.has_gap() && board.seq() == 7);
        assert_eq!(order(&board), [1, 3, 2]);
    }

    #[test]
    fn an_older_change_that_comes_late_changes_nothing() {
        let mut board = board(false);
        board.apply(entry(1, 5.0, 0.0, 2));
        board.apply(entry(1, 1.0, 0.0, 1));
        assert_eq!(board.entry(Uuid::from_u128(1)).map(|e| e.score), Some(5.0));
        assert!(!board.has_gap());
    }

    proptest! {
        // Failing cases are printed with the seed that replays them.
        #[test]
        fn it_ranks_like_a_sorted_vector(
            descending: bool,
            changes in prop::collection::vec((0_u128..20, -5_i8..5, -2_i8..2), 1..100),
            order_seed: u64,
        ) {
            let mut board = board(descending);
            let mut entries: Vec<Entry> = changes.iter().enumerate()
                .map(|(i, (player, score, sub))| entry(*player, f64::from(*score), f64::from(*sub), i as i64 + 1)).collect();
            let mut model: HashMap<Uuid, Entry> = HashMap::new();
            entries.iter().for_each(|e| { model.insert(e.player_id, *e); });
            let mut expected: Vec<Entry> = model.into_values().collect();
            expected.sort_by(|a, b| {
                let scores = (a.score, a.sub_score).partial_cmp(&(b.score, b.sub_score)).expect("finite");
                (if descending { scores.reverse() } else { scores }).then(a.seq.cmp(&b.seq))
            });
            // They may come in any order.
            entries.sort_by_key(|e| (e.seq as u64 ^ order_seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            entries.iter().for_each(|e| board.apply(*e));
            let ranked: Vec<Entry> = board.at_rank(1, usize::MAX).into_iter().map(|(_, e)| e).collect();
            prop_assert_eq!(&ranked, &expected);
            prop_assert!(!board.has_gap());
            for (i, e) in expected.iter().enumerate() {
                prop_assert_eq!(board.rank(e), i + 1);
            }
        }
    }
}
