//! Leaderboards.

use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

#[derive(ToSchema)]
pub(crate) struct Score {
    score: f64,
    sub_score: Option<f64>,
}

#[derive(ToSchema)]
pub(crate) struct BoardEntry {
    leaderboard_id: String,
    player_id: Uuid,
    score: f64,
    sub_score: f64,
    /// 1 is the best; among friends or a group where the list is of them.
    rank: i64,
    updated_at: OffsetDateTime,
    /// Among all, where `rank` is among some.
    global_rank: Option<i64>,
}

#[derive(ToSchema)]
pub(crate) struct BoardEntries {
    entries: Vec<BoardEntry>,
}

#[derive(ToSchema)]
pub(crate) struct BoardStanding {
    /// Null: the player is not on the board.
    #[schema(required = true)]
    entry: Option<BoardEntry>,
    /// How much of the others is behind the player: 100 for the first, 0 for the last.
    #[schema(required = true)]
    percentile: Option<f64>,
    /// Entries of the board.
    total: i64,
}

#[derive(ToSchema)]
pub(crate) struct BoardPeriod {
    /// From 0.
    period: i64,
    began_at: OffsetDateTime,
    ended_at: OffsetDateTime,
}

#[derive(ToSchema)]
pub(crate) struct BoardPeriods {
    /// The period that is running.
    current: i64,
    /// Those that are over and kept.
    periods: Vec<BoardPeriod>,
}
