//! How a board gets into memory, and stays as the rows are: page by page in the order of the numbers.
//!
//! An entry's number only ever rises, so that a reader who goes upwards misses none that was there: what changes behind it comes again in
//! front of it. After the last page everything up to that page's head is known, without one snapshot over all pages.

use std::collections::HashMap;

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Board, Entry, Period, Rules};
use crate::Result;

/// Of a board's row, what those follow who have it in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Head {
    pub rules: Rules,
    pub client_submit: bool,
    /// Every change up to this number is in the rows.
    pub seq: i64,
    pub period: i64,
    /// Entries of the current period have numbers above this one.
    pub period_seq: i64,
    /// Another one: the id was given again.
    pub born: OffsetDateTime,
}

/// An entry that changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    pub entry: Entry,
    /// The player is off the board.
    pub removed: bool,
}

/// A part of what changed, in the order of the numbers.
#[derive(Debug)]
pub struct Page {
    pub head: Head,
    pub changes: Vec<Change>,
    /// Nothing comes after it.
    pub last: bool,
}

/// Up to `most` changes of the current period whose numbers are above `after`; none: there is no such board.
///
/// # Errors
/// When the database fails.
pub async fn page(conn: &mut PgConnection, board: &str, after: i64, most: i64) -> Result<Option<Page>> {
    // One row, with a column of arrays: a row each would cost more to send and to read than to find.
    let row = sqlx::query!(
        r#"SELECT b.ordering, b.operator, b.client_submit, b.seq, b.period, b.period_seq, b.inserted_at,
                  e.players AS "players: Vec<Uuid>", e.scores AS "scores: Vec<f64>", e.subs AS "subs: Vec<f64>",
                  e.seqs AS "seqs: Vec<i64>", e.times AS "times: Vec<OffsetDateTime>", e.removed AS "removed: Vec<bool>"
           FROM leaderboards b CROSS JOIN LATERAL (
               SELECT array_agg(player_id) AS players, array_agg(score) AS scores, array_agg(sub_score) AS subs,
                      array_agg(seq) AS seqs, array_agg(updated_at) AS times, array_agg(removed) AS removed
               FROM (SELECT player_id, score, sub_score, seq, updated_at, removed FROM leaderboard_entries
                     WHERE leaderboard_id = $1 AND seq > greatest($2, b.period_seq) ORDER BY seq LIMIT $3) AS p) AS e
           WHERE b.id = $1 AND b.deleted_at IS NULL"#,
        board,
        after,
        most,
    )
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let head = Head {
        rules: Rules::of(&row.ordering, &row.operator),
        client_submit: row.client_submit,
        seq: row.seq,
        period: row.period,
        period_seq: row.period_seq,
        born: row.inserted_at,
    };
    let entries = together(row.players, row.scores, row.subs, row.seqs, row.times);
    let removed = row.removed.unwrap_or_default();
    let changes: Vec<Change> =
        entries.into_iter().zip(removed).map(|(entry, removed)| Change { entry, removed }).collect();
    let last = i64::try_from(changes.len()).unwrap_or(i64::MAX) < most;
    Ok(Some(Page { head, changes, last }))
}

/// Up to `most` entries of a period that is over, whose numbers are above `after`.
///
/// # Errors
/// When the database fails.
pub async fn past_page(
    conn: &mut PgConnection,
    board: &str,
    period: &Period,
    after: i64,
    most: i64,
) -> Result<Vec<Entry>> {
    let row = sqlx::query!(
        r#"SELECT array_agg(player_id) AS "players: Vec<Uuid>", array_agg(score) AS "scores: Vec<f64>",
                  array_agg(sub_score) AS "subs: Vec<f64>", array_agg(seq) AS "seqs: Vec<i64>",
                  array_agg(updated_at) AS "times: Vec<OffsetDateTime>"
           FROM (SELECT * FROM (
                     (SELECT player_id, score, sub_score, seq, updated_at FROM leaderboard_past
                      WHERE leaderboard_id = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4)
                     UNION ALL
                     (SELECT player_id, score, sub_score, seq, updated_at FROM leaderboard_entries
                      WHERE leaderboard_id = $1 AND seq > $2 AND seq <= $3 AND NOT removed ORDER BY seq LIMIT $4)) AS parts
                 ORDER BY seq LIMIT $4) AS p"#,
        board,
        after.max(period.first_seq),
        period.last_seq,
        most,
    )
    .fetch_one(conn)
    .await?;
    Ok(together(row.players, row.scores, row.subs, row.seqs, row.times))
}

type Column<T> = Option<Vec<T>>;

fn together(
    players: Column<Uuid>,
    scores: Column<f64>,
    subs: Column<f64>,
    seqs: Column<i64>,
    times: Column<OffsetDateTime>,
) -> Vec<Entry> {
    let players = players.unwrap_or_default().into_iter();
    let scores = scores.unwrap_or_default().into_iter().zip(subs.unwrap_or_default());
    let seqs = seqs.unwrap_or_default().into_iter().zip(times.unwrap_or_default());
    let entry =
        |((player_id, (score, sub_score)), (seq, updated_at))| Entry { player_id, score, sub_score, seq, updated_at };
    players.zip(scores).zip(seqs).map(entry).collect()
}

/// # Errors
/// When the database fails.
pub async fn get(pool: &PgPool, id: &str) -> Result<Option<Board>> {
    let row = sqlx::query_as!(
        super::manage::Row,
        "SELECT id, title, metadata, ordering, operator, min_score, max_score, client_submit, reset_schedule, periods_kept,
                declared, seq, period, period_began, next_reset_at, inserted_at
         FROM leaderboards WHERE id = $1 AND deleted_at IS NULL",
        id
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(Board::from))
}

/// Whether a board is open to clients; none: there is no such board.
///
/// # Errors
/// When the database fails.
pub async fn client_submit(pool: &PgPool, id: &str) -> Result<Option<bool>> {
    Ok(sqlx::query_scalar!("SELECT client_submit FROM leaderboards WHERE id = $1 AND deleted_at IS NULL", id)
        .fetch_optional(pool)
        .await?)
}

/// How far the numbers of some boards are, and since when there are such boards; those that are not there any more are missing.
///
/// # Errors
/// When the database fails.
pub async fn seqs(pool: &PgPool, ids: &[String]) -> Result<HashMap<String, (i64, OffsetDateTime)>> {
    let rows =
        sqlx::query!("SELECT id, seq, inserted_at FROM leaderboards WHERE id = ANY($1) AND deleted_at IS NULL", ids)
            .fetch_all(pool)
            .await?;
    Ok(rows.into_iter().map(|row| (row.id, (row.seq, row.inserted_at))).collect())
}

/// Boards that have had at least so many changes in their current period, and may have as many entries; the largest first.
///
/// # Errors
/// When the database fails.
pub async fn large(pool: &PgPool, changes: i64, most: i64) -> Result<Vec<String>> {
    Ok(sqlx::query_scalar!(
        "SELECT id FROM leaderboards WHERE seq - period_seq >= $1 AND deleted_at IS NULL ORDER BY seq - period_seq DESC, id LIMIT $2",
        changes,
        most,
    )
    .fetch_all(pool)
    .await?)
}
