//! Leaderboards: a counter per board under its row lock, one row per player and board. Commit order is seq order within a board, so
//! that a replica which has seen every number up to some has seen every change up to there. Resets, settings and removals take numbers
//! too: nothing changes a board that a gap would not show, but erasures, which the revocations tell of.
//!
//! ```text
//!   seq:  1 … 40 │ 41 │ 42 … 97 │ 98 │ 99 …
//!        period 0│ ▲  │ period 1 │ ▲  │ period 2, which is the board's row
//!                └ the resets' own numbers
//! ```
//!
//! An entry's period is told by its number alone, so that a reset touches no entry. A player who submits in a later period leaves the entry
//! of the earlier one to `leaderboard_past`.

mod manage;
mod periods;
mod read;
pub mod replica;
mod schedule;
mod write;

use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

pub use self::{
    manage::{NewBoard, create, delete, list, remove_entry, reset, update},
    periods::{Period, list_periods, period, reset_if_due, sweep, upcoming},
    read::{Change, Head, Page, client_submit, get, large, page, past_page, seqs},
    schedule::{SCHEDULE_BYTES, is_schedule, next as next_reset},
    write::{Submission, Written, Wrote, write},
};

/// Boards that first scores may make. Those that were created on purpose count beside it.
pub const MAX_BOARDS: i64 = 10_000;

/// Longest board id, bytes.
pub const ID_BYTES: usize = 128;

/// What becomes of a player's earlier score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Last,
    Best,
    Sum,
}

impl Operator {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Best => "best",
            Self::Sum => "sum",
        }
    }
}

/// How a board ranks and what it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The highest score is first.
    pub descending: bool,
    pub operator: Operator,
}

impl Rules {
    // The columns have CHECKs of exactly these words; the defaults stand for what a newer release adds.
    fn of(ordering: &str, operator: &str) -> Self {
        Self {
            descending: ordering != "asc",
            operator: match operator {
                "best" => Operator::Best,
                "sum" => Operator::Sum,
                _ => Operator::Last,
            },
        }
    }

    fn ordering(self) -> &'static str {
        if self.descending { "desc" } else { "asc" }
    }

    /// What a player has after submitting `new`; none: what they had stays.
    #[must_use]
    pub fn fold(self, had: Option<(f64, f64)>, new: (f64, f64)) -> Option<(f64, f64)> {
        let Some(had) = had else { return Some(new) };
        match self.operator {
            Operator::Last => Some(new),
            Operator::Best => self.better(new, had).then_some(new),
            // The sum of finite numbers can overflow; a board of infinities ranks nothing.
            Operator::Sum => Some((had.0 + new.0, had.1 + new.1)).filter(|(a, b)| a.is_finite() && b.is_finite()),
        }
    }

    fn better(self, a: (f64, f64), b: (f64, f64)) -> bool {
        if self.descending { a > b } else { a < b }
    }
}

/// What an operator says of a board.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub title: String,
    /// An object.
    pub metadata: Value,
    pub rules: Rules,
    /// Of each submission, not of a sum.
    pub min_score: Option<f64>,
    pub max_score: Option<f64>,
    /// Whether clients may submit themselves.
    pub client_submit: bool,
    /// For [`next_reset`]; none: the board goes on for ever.
    pub reset_schedule: Option<String>,
    /// Past periods; none: all.
    pub periods_kept: Option<i32>,
}

impl Default for Settings {
    /// Of a board that its first score makes.
    fn default() -> Self {
        Self {
            title: String::new(),
            metadata: Value::Object(serde_json::Map::new()),
            rules: Rules { descending: true, operator: Operator::Last },
            min_score: None,
            max_score: None,
            client_submit: false,
            reset_schedule: None,
            periods_kept: None,
        }
    }
}

/// A board's row.
#[derive(Debug, Clone, PartialEq)]
pub struct Board {
    pub id: String,
    pub settings: Settings,
    /// Whether somebody created it, or its first score.
    pub declared: bool,
    /// Every change has one.
    pub seq: i64,
    /// The current one, from 0.
    pub period: i64,
    pub period_began: OffsetDateTime,
    pub next_reset_at: Option<OffsetDateTime>,
    pub inserted_at: OffsetDateTime,
}

/// A player's standing on a board.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    pub player_id: Uuid,
    pub score: f64,
    pub sub_score: f64,
    pub seq: i64,
    pub updated_at: OffsetDateTime,
}
