//! What `benches/instructions.rs` measures of the inside, and nothing else.

use asobi_store::boards::{Change, Entry, Head, Operator, Rules};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::boards::{Board, Loading};

const PAGE: usize = 20_000;

/// A board with as many entries as it was asked for, whose scores are scattered and the same in each run.
pub struct Ladder(Board);

fn entry(seq: i64) -> Entry {
    let score = (seq.unsigned_abs().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64;
    let player_id = Uuid::from_u128(u128::from(seq.unsigned_abs()) << 64);
    Entry { player_id, score, sub_score: 0.0, seq, updated_at: OffsetDateTime::UNIX_EPOCH }
}

impl Ladder {
    #[must_use]
    pub fn of(entries: i64) -> Self {
        let head = Head {
            rules: Rules { descending: true, operator: Operator::Last },
            client_submit: false,
            seq: entries,
            period: 0,
            period_seq: 0,
            born: OffsetDateTime::UNIX_EPOCH,
        };
        let mut loading = Loading::new(1);
        // In pages, as the rows come.
        for first in (1..=entries).step_by(PAGE) {
            let last = entries.min(first + PAGE as i64 - 1);
            loading.take(&head, (first..=last).map(|seq| Change { entry: entry(seq), removed: false }).collect());
        }
        Self(loading.finish(head))
    }

    /// Bytes that its entries take, and those of what tells where each player's is.
    #[must_use]
    pub fn bytes(&self) -> (usize, usize) {
        self.0.parts()
    }

    /// The player who submitted as the nth, and their rank.
    #[must_use]
    pub fn rank(&self, nth: i64) -> Option<usize> {
        let known = self.0.entry(entry(nth).player_id)?;
        Some(self.0.rank(&known))
    }

    /// The nth player's next score.
    pub fn submit(&mut self, nth: i64) {
        let seq = self.0.seq() + 1;
        self.0.apply(Entry { player_id: entry(nth).player_id, ..entry(seq) });
    }
}
