//! One leaderboard in memory.

use std::{
    collections::{BTreeSet, HashMap},
    hash::BuildHasher as _,
    time::Duration,
};

use asobi_store::boards::{Change, Entry, Head, Rules};
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use time::OffsetDateTime;
use uuid::Uuid;

use super::ranked::{Gathering, Ranked};

/// How long a change may be missing before the rows are read: NOTIFYs of two services come in any order.
pub const GAP: Duration = Duration::from_millis(50);

/// An entry where it ranks: score, then sub-score, then who had it earlier. What follows only makes it distinct, or comes along. The
/// scores are bits that compare as the board ranks. 48 bytes, 64 with its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    score: u64,
    sub_score: u64,
    seq: i64,
    player: Uuid,
    /// Unix microseconds.
    updated_at: i64,
}

impl Standing {
    fn of(entry: &Entry, descending: bool) -> Self {
        let micros = entry.updated_at.unix_timestamp_nanos() / 1_000;
        Self {
            score: bits(entry.score, descending),
            sub_score: bits(entry.sub_score, descending),
            seq: entry.seq,
            player: entry.player_id,
            updated_at: i64::try_from(micros).unwrap_or_default(),
        }
    }

    fn entry(&self, descending: bool) -> Entry {
        Entry {
            player_id: self.player,
            score: value(self.score, descending),
            sub_score: value(self.sub_score, descending),
            seq: self.seq,
            updated_at: OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.updated_at) * 1_000)
                .unwrap_or(OffsetDateTime::UNIX_EPOCH),
        }
    }
}

/// Bits that compare as finite numbers do, or the other way round; both zeros are one.
fn bits(value: f64, descending: bool) -> u64 {
    let bits = (value + 0.0).to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    if descending { !ordered } else { ordered }
}

fn value(bits: u64, descending: bool) -> f64 {
    let ordered = if descending { !bits } else { bits };
    f64::from_bits(if ordered >> 63 == 1 { ordered & !(1 << 63) } else { !ordered })
}

/// Changes are applied in whatever order they come, each entry by its own number; `seq` says up to where none is missing.
#[derive(Debug)]
pub struct Board {
    head: Head,
    seq: i64,
    /// Numbers beyond a gap.
    ahead: BTreeSet<i64>,
    ranked: Ranked<Standing>,
    /// Where each player's entry is in `ranked`: 5 bytes and some air.
    places: HashTable<u32>,
    hasher: RandomState,
}

impl Board {
    /// `standings`: one for each player, up to the head's number.
    fn new(head: Head, standings: Gathering<Standing>) -> Self {
        let ranked = standings.finish();
        let mut board = Self {
            head,
            seq: head.seq,
            ahead: BTreeSet::new(),
            places: HashTable::with_capacity(ranked.len()),
            ranked,
            hasher: RandomState::default(),
        };
        for place in 0..u32::try_from(board.ranked.len()).unwrap_or(u32::MAX) {
            board.remember(place);
        }
        board
    }

    /// Takes one change.
    pub fn apply(&mut self, entry: Entry) {
        self.put(&entry);
        if entry.seq > self.seq {
            self.ahead.insert(entry.seq);
            self.close_gap();
        }
    }

    /// Takes changes that were read from the rows; [`Self::caught_up`] follows when all of them are there.
    pub fn read(&mut self, changes: &[Change]) {
        for change in changes {
            match change.removed {
                false => self.put(&change.entry),
                true if self.knows(change.entry.player_id).is_none_or(|known| known.seq < change.entry.seq) => {
                    self.remove(change.entry.player_id);
                }
                true => {}
            }
        }
    }

    /// Everything up to the head's number was read, from [`Self::seq`] or earlier on.
    pub fn caught_up(&mut self, head: Head) {
        if head.period_seq > self.head.period_seq {
            self.begin(head.period_seq);
        }
        self.head = head;
        self.seq = self.seq.max(head.seq);
        self.ahead = self.ahead.split_off(&(self.seq + 1));
        self.close_gap();
    }

    /// Whether these rows are of another board than this one, or rank otherwise: then it is to be read as a whole.
    pub fn is_other_than(&self, head: &Head) -> bool {
        let turned = head.rules.descending != self.head.rules.descending;
        turned || head.born != self.head.born || head.seq < self.head.seq
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    pub fn rules(&self) -> Rules {
        self.head.rules
    }

    /// Every change up to this number is known.
    pub fn seq(&self) -> i64 {
        self.seq
    }

    pub fn has_gap(&self) -> bool {
        !self.ahead.is_empty()
    }

    pub fn len(&self) -> usize {
        self.ranked.len()
    }

    /// What it takes of memory.
    pub fn bytes(&self) -> usize {
        let (entries, index) = self.parts();
        size_of::<Self>() + entries + index
    }

    /// What its entries take, and what tells where each player's is.
    pub fn parts(&self) -> (usize, usize) {
        (self.ranked.bytes(), self.places.allocation_size())
    }

    pub fn entry(&self, player: Uuid) -> Option<Entry> {
        self.knows(player).map(|known| known.entry(self.rules().descending))
    }

    /// From 1; of an entry that has changed since, where it would be.
    pub fn rank(&self, entry: &Entry) -> usize {
        self.ranked.rank(&Standing::of(entry, self.rules().descending)) + 1
    }

    /// How much of the others is behind a rank: 100 for the first, 0 for the last.
    pub fn percentile(&self, rank: usize) -> f64 {
        let others = self.len().saturating_sub(1);
        if others == 0 { 100.0 } else { 100.0 * self.len().saturating_sub(rank) as f64 / others as f64 }
    }

    /// Entries from a rank on, with their ranks.
    pub fn at_rank(&self, rank: usize, len: usize) -> Vec<(usize, Entry)> {
        let from = rank.saturating_sub(1);
        let found = self.ranked.range(from, len);
        let descending = self.rules().descending;
        found.iter().enumerate().map(|(i, standing)| (from + i + 1, standing.entry(descending))).collect()
    }

    /// A player's neighbours, `range` to each side.
    pub fn around(&self, player: Uuid, range: usize) -> Vec<(usize, Entry)> {
        let Some(known) = self.knows(player) else { return Vec::new() };
        let rank = self.ranked.rank(known) + 1;
        let first = rank.saturating_sub(range).max(1);
        self.at_rank(first, rank - first + 1 + range)
    }

    /// Those of some players who are on the board, as they rank, with their ranks among all.
    pub fn among(&self, players: &[Uuid]) -> Vec<(usize, Entry)> {
        let mut found: Vec<Standing> = players.iter().filter_map(|player| self.knows(*player)).copied().collect();
        found.sort_unstable();
        found.dedup();
        let descending = self.rules().descending;
        found.iter().map(|standing| (self.ranked.rank(standing) + 1, standing.entry(descending))).collect()
    }

    /// Takes a player off whose rows are gone.
    pub fn remove(&mut self, player: Uuid) {
        let hash = self.hasher.hash_one(player);
        let Self { ranked, places, .. } = self;
        if let Ok(found) = places.find_entry(hash, |place| ranked.at(*place).player == player) {
            let (place, _) = found.remove();
            let standing = *ranked.at(place);
            ranked.remove(&standing);
        }
    }

    fn put(&mut self, entry: &Entry) {
        match self.knows(entry.player_id) {
            Some(known) if known.seq >= entry.seq => return,
            Some(_) => self.remove(entry.player_id),
            None => {}
        }
        // A late change of a period that is over.
        if entry.seq > self.head.period_seq
            && let Some(place) = self.ranked.insert(Standing::of(entry, self.rules().descending))
        {
            self.remember(place);
        }
    }

    fn knows(&self, player: Uuid) -> Option<&Standing> {
        let hash = self.hasher.hash_one(player);
        let place = self.places.find(hash, |place| self.ranked.at(*place).player == player)?;
        Some(self.ranked.at(*place))
    }

    fn remember(&mut self, place: u32) {
        let Self { ranked, places, hasher, .. } = self;
        let hash = |place: &u32| hasher.hash_one(ranked.at(*place).player);
        places.insert_unique(hash(&place), place, hash);
    }

    /// Keeps what is of the period that began after a number.
    fn begin(&mut self, period_seq: i64) {
        let kept = self.ranked.range(0, self.len()).into_iter().filter(|standing| standing.seq > period_seq);
        let mut standings = Gathering::new(self.hasher.hash_one(period_seq));
        kept.for_each(|standing| standings.push(standing));
        let fresh = Self::new(self.head, standings);
        (self.ranked, self.places, self.hasher) = (fresh.ranked, fresh.places, fresh.hasher);
    }

    fn close_gap(&mut self) {
        while self.ahead.first() == Some(&(self.seq + 1)) {
            self.ahead.pop_first();
            self.seq += 1;
        }
    }
}

/// A board on its way into memory, page by page.
#[derive(Debug)]
pub struct Loading {
    /// As they rank in the order of the first page's head.
    standings: Gathering<Standing>,
    /// The last word on whoever changed while it was read: they may have been on an earlier page.
    moved: HashMap<Uuid, Change>,
    /// What was in force when it began.
    began: Option<Head>,
}

impl Loading {
    /// `seed` decides the tree's shape, nothing else.
    pub fn new(seed: u64) -> Self {
        Self { standings: Gathering::new(seed), moved: HashMap::new(), began: None }
    }

    /// Takes the next page, read under this head.
    pub fn take(&mut self, head: &Head, changes: Vec<Change>) {
        let began = *self.began.get_or_insert(*head);
        for change in changes {
            if change.entry.seq > began.seq {
                self.moved.insert(change.entry.player_id, change);
            } else if !change.removed {
                self.standings.push(Standing::of(&change.entry, began.rules.descending));
            }
        }
    }

    /// The board, once the page is taken that nothing comes after. Sorts: not for a thread that others wait for.
    pub fn finish(self, head: Head) -> Board {
        let Self { mut standings, moved, began } = self;
        let descending = head.rules.descending;
        let turned = began.is_some_and(|began| began.rules.descending != descending);
        standings.retain(|standing| {
            if turned {
                (standing.score, standing.sub_score) = (!standing.score, !standing.sub_score);
            }
            standing.seq > head.period_seq && !moved.contains_key(&standing.player)
        });
        let came = moved.values().filter(|change| !change.removed && change.entry.seq > head.period_seq);
        came.for_each(|change| standings.push(Standing::of(&change.entry, descending)));
        Board::new(head, standings)
    }
}

#[cfg(test)]
mod tests {
    use asobi_store::boards::Operator;
    use proptest::prelude::*;

    use super::*;

    fn entry(player: u128, score: f64, sub_score: f64, seq: i64) -> Entry {
        Entry { player_id: Uuid::from_u128(player), score, sub_score, seq, updated_at: OffsetDateTime::UNIX_EPOCH }
    }

    fn head(descending: bool, seq: i64) -> Head {
        Head {
            rules: Rules { descending, operator: Operator::Last },
            client_submit: false,
            seq,
            period: 0,
            period_seq: 0,
            born: OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn board(descending: bool) -> Board {
        Loading::new(1).finish(head(descending, 0))
    }

    fn there(entry: Entry) -> Change {
        Change { entry, removed: false }
    }

    fn gone(entry: Entry) -> Change {
        Change { entry, removed: true }
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
        board.read(&[there(entry(2, 0.0, 0.0, 5)), there(entry(1, 9.0, 0.0, 7))]);
        board.caught_up(head(true, 6));
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

    #[test]
    fn who_was_taken_off_is_off_until_they_submit_again() {
        let mut board = board(true);
        (1..=3).for_each(|n| board.apply(entry(n, n as f64, 0.0, n as i64)));
        board.read(&[gone(entry(2, 2.0, 0.0, 4))]);
        board.caught_up(head(true, 4));
        assert_eq!((order(&board), board.seq()), (vec![3, 1], 4));
        // What is read again does not take off whoever came back.
        board.apply(entry(2, 9.0, 0.0, 5));
        board.read(&[gone(entry(2, 2.0, 0.0, 4))]);
        assert_eq!(order(&board), [2, 3, 1]);
    }

    #[test]
    fn a_new_period_begins_with_those_who_are_in_it_already() {
        let mut board = board(true);
        (1..=3).for_each(|n| board.apply(entry(n, n as f64, 0.0, n as i64)));
        // 4 was the reset; its hint was lost, the first score after it was not.
        board.apply(entry(1, 0.5, 0.0, 5));
        assert!(board.has_gap());
        board.caught_up(Head { period: 1, period_seq: 4, ..head(true, 5) });
        assert_eq!((order(&board), board.seq(), board.head().period), (vec![1], 5, 1));
        board.apply(entry(2, 2.0, 0.0, 2));
        assert_eq!(order(&board), [1], "a late change of the period before");
        assert!(
            board.is_other_than(&head(false, 9))
                && board.is_other_than(&head(true, 3))
                && !board.is_other_than(&head(true, 9))
        );
    }

    #[test]
    fn what_changes_while_a_board_is_read_counts_as_it_was_last() {
        let mut loading = Loading::new(1);
        loading.take(&head(true, 3), vec![there(entry(1, 1.0, 0.0, 1)), there(entry(2, 2.0, 0.0, 2))]);
        loading.take(
            &head(true, 5),
            vec![there(entry(3, 3.0, 0.0, 3)), there(entry(1, 9.0, 0.0, 4)), gone(entry(2, 2.0, 0.0, 5))],
        );
        let board = loading.finish(head(true, 5));
        assert_eq!((order(&board), board.seq()), (vec![1, 3], 5));

        let mut loading = Loading::new(1);
        loading.take(&head(true, 2), vec![there(entry(1, 1.0, 0.0, 1)), there(entry(2, 2.0, 0.0, 2))]);
        loading.take(&head(true, 4), vec![there(entry(2, 0.0, 0.0, 4))]);
        let board = loading.finish(Head { period: 1, period_seq: 3, ..head(true, 4) });
        assert_eq!(order(&board), [2], "it was reset meanwhile");

        let mut loading = Loading::new(1);
        loading.take(
            &head(true, 3),
            [(1, 1.0), (2, -2.0)].map(|(n, score)| there(entry(n, score, score, n as i64))).into(),
        );
        loading.take(&head(false, 3), vec![there(entry(3, 0.0, 0.0, 3))]);
        let board = loading.finish(head(false, 3));
        assert_eq!(order(&board), [2, 3, 1], "it was turned round meanwhile");
        assert_eq!(board.entry(Uuid::from_u128(2)).map(|e| (e.score, e.sub_score)), Some((-2.0, -2.0)));
    }

    #[test]
    fn friends_rank_among_themselves_and_among_all() {
        let mut board = board(true);
        (1..=10).for_each(|n| board.apply(entry(n, n as f64, 0.0, n as i64)));
        let among = board.among(&[2, 7, 99, 7, 10].map(Uuid::from_u128));
        let ranks: Vec<_> = among.iter().map(|(rank, e)| (*rank, e.player_id.as_u128())).collect();
        assert_eq!(ranks, [(1, 10), (4, 7), (9, 2)]);
        assert_eq!([1, 4, 10].map(|rank| board.percentile(rank).round()), [100.0, 67.0, 0.0]);
    }

    #[test]
    fn scores_are_read_as_they_were_written() {
        for v in [0.0, -1.5, 1.5, f64::MAX, f64::MIN, 1e-300] {
            assert!(value(bits(v, true), true) == v && value(bits(v, false), false) == v, "{v}");
        }
    }

    #[test]
    fn an_entry_takes_less_than_a_hundred_bytes() {
        let mut loading = Loading::new(1);
        let most = 120_000;
        let entries = (1..=most / 2).map(|n| there(entry(n as u128, (n * 7_919 % 10_007) as f64, 0.0, n)));
        loading.take(&head(true, most / 2), entries.collect());
        let mut board = loading.finish(head(true, most / 2));
        let each = |board: &Board| board.bytes() / board.len();
        assert!(each(&board) < 100, "{} bytes an entry when it is read", each(&board));
        // Just after its index has grown it has the most air.
        for n in most / 2 + 1..=most {
            board.apply(entry(n as u128, (n * 7_919 % 10_007) as f64, 0.0, n));
            assert!(board.len() < 60_000 || each(&board) < 100, "{} bytes at {n} entries", each(&board));
        }
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
            // Read from the rows at once, it is the same.
            let mut loading = Loading::new(order_seed);
            loading.take(board.head(), Vec::new());
            loading.take(board.head(), expected.iter().copied().map(there).collect());
            let read = loading.finish(head(descending, changes.len() as i64));
            let ranked: Vec<Entry> = read.at_rank(1, usize::MAX).into_iter().map(|(_, e)| e).collect();
            prop_assert_eq!(&ranked, &expected);
        }
    }
}
