//! Periods: how one ends, which there were, and how those that are kept no longer go.

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

use super::{
    schedule,
    write::{Locked, lock_rows},
};
use crate::{Result, lock_keys};

/// A period that is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Period {
    /// From 0.
    pub period: i64,
    /// The highest score is first, as it was when the period ended.
    pub descending: bool,
    pub began_at: OffsetDateTime,
    pub ended_at: OffsetDateTime,
    /// Its entries have numbers above this one,
    pub first_seq: i64,
    /// up to this one.
    pub last_seq: i64,
}

/// Ends the period of a board whose row is locked. When resets were missed it is one that happens, and the time of the next is to come.
pub(super) async fn begin(conn: &mut PgConnection, id: &str, head: &mut Locked, now: OffsetDateTime) -> Result<()> {
    // An operator's reset comes before the schedule's.
    let ended_at = head.next_reset_at.filter(|due| *due <= now).unwrap_or(now);
    sqlx::query!(
        "INSERT INTO leaderboard_periods (leaderboard_id, period, ordering, began_at, ended_at, first_seq, last_seq)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        id,
        head.period,
        head.rules.ordering(),
        head.period_began,
        ended_at,
        head.period_seq,
        head.seq,
    )
    .execute(&mut *conn)
    .await?;
    head.seq += 1;
    head.period += 1;
    (head.period_seq, head.period_began) = (head.seq, ended_at);
    head.next_reset_at = head.reset_schedule.as_deref().and_then(|schedule| schedule::next(schedule, now));
    forget(conn, id, head).await?;
    sqlx::query!(
        "UPDATE leaderboards SET seq = $2, period = $3, period_began = $4, period_seq = $2, next_reset_at = $5, gone_seq = $6
         WHERE id = $1",
        id,
        head.seq,
        head.period,
        head.period_began,
        head.next_reset_at,
        head.gone_seq,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Drops the periods that are more than the board keeps; their entries wait for the sweep, up to `gone_seq`, which the caller writes.
pub(super) async fn forget(conn: &mut PgConnection, id: &str, head: &mut Locked) -> Result<()> {
    let Some(kept) = head.periods_kept else { return Ok(()) };
    let gone = sqlx::query_scalar!(
        "WITH gone AS (DELETE FROM leaderboard_periods WHERE leaderboard_id = $1 AND period < $2 RETURNING last_seq)
         SELECT max(last_seq) FROM gone",
        id,
        head.period - i64::from(kept),
    )
    .fetch_one(conn)
    .await?;
    head.gone_seq = head.gone_seq.max(gone.unwrap_or_default());
    Ok(())
}

/// Boards whose reset is due, and how long until the next one is, if it is less than a day.
///
/// # Errors
/// When the database fails.
pub async fn upcoming(pool: &PgPool, most: i64) -> Result<(Vec<String>, Option<std::time::Duration>)> {
    let rows = sqlx::query!(
        r#"SELECT id, extract(epoch FROM next_reset_at - clock_timestamp())::float8 AS "wait!" FROM leaderboards
           WHERE next_reset_at < clock_timestamp() + interval '1 day' ORDER BY next_reset_at LIMIT $1"#,
        most
    )
    .fetch_all(pool)
    .await?;
    let next = rows.iter().map(|row| row.wait).find(|wait| *wait > 0.0);
    let next = next.and_then(|wait| std::time::Duration::try_from_secs_f64(wait).ok());
    Ok((rows.into_iter().filter(|row| row.wait <= 0.0).map(|row| row.id).collect(), next))
}

/// Ends a board's period if it is due; false: it is not, or somebody else was faster.
///
/// # Errors
/// When the database fails.
pub async fn reset_if_due(conn: &mut PgConnection, id: &str) -> Result<bool> {
    let Some(mut head) = lock_rows(conn, &[id.to_owned()]).await?.remove(id) else { return Ok(false) };
    let now = sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(&mut *conn).await?;
    let due = head.next_reset_at.is_some_and(|due| due <= now);
    if due {
        begin(conn, id, &mut head, now).await?;
    }
    Ok(due)
}

struct Row {
    period: i64,
    ordering: String,
    began_at: OffsetDateTime,
    ended_at: OffsetDateTime,
    first_seq: i64,
    last_seq: i64,
}

impl From<Row> for Period {
    fn from(row: Row) -> Self {
        let Row { period, ordering, began_at, ended_at, first_seq, last_seq } = row;
        Self { period, descending: ordering != "asc", began_at, ended_at, first_seq, last_seq }
    }
}

/// A period that is over and kept.
///
/// # Errors
/// When the database fails.
pub async fn period(pool: &PgPool, id: &str, period: i64) -> Result<Option<Period>> {
    let row = sqlx::query_as!(
        Row,
        "SELECT period, ordering, began_at, ended_at, first_seq, last_seq FROM leaderboard_periods
         WHERE leaderboard_id = $1 AND period = $2",
        id,
        period,
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(Period::from))
}

/// The periods that are over and kept, the latest first, from below one on.
///
/// # Errors
/// When the database fails.
pub async fn list_periods(pool: &PgPool, id: &str, below: Option<i64>, most: i64) -> Result<Vec<Period>> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT period, ordering, began_at, ended_at, first_seq, last_seq FROM leaderboard_periods
         WHERE leaderboard_id = $1 AND ($2::bigint IS NULL OR period < $2) ORDER BY period DESC LIMIT $3",
        id,
        below,
        most,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Period::from).collect())
}

/// Deletes up to `most` entries of one board that are of no period that is kept, and the board's row when it is deleted and empty. One
/// sweeper at a time. False: there is nothing to do, or another one does it.
///
/// # Errors
/// When the database fails.
pub async fn sweep(conn: &mut PgConnection, most: i64) -> Result<bool> {
    let mine = sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock($1) AS "mine!""#, lock_keys::BOARD_SWEEP)
        .fetch_one(&mut *conn)
        .await?;
    if !mine {
        return Ok(false);
    }
    let board = sqlx::query!(
        "SELECT id, gone_seq FROM leaderboards WHERE swept_seq < gone_seq OR deleted_at IS NOT NULL ORDER BY id LIMIT 1"
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(board) = board else { return Ok(false) };
    // The number is asked again where the row is locked: its player may have come back meanwhile.
    let entries = sqlx::query!(
        "DELETE FROM leaderboard_entries WHERE leaderboard_id = $1 AND seq <= $2 AND player_id IN
             (SELECT player_id FROM leaderboard_entries WHERE leaderboard_id = $1 AND seq <= $2 ORDER BY seq LIMIT $3)",
        board.id,
        board.gone_seq,
        most,
    )
    .execute(&mut *conn)
    .await?;
    let past = sqlx::query!(
        "DELETE FROM leaderboard_past WHERE leaderboard_id = $1 AND seq IN
             (SELECT seq FROM leaderboard_past WHERE leaderboard_id = $1 AND seq <= $2 ORDER BY seq LIMIT $3)",
        board.id,
        board.gone_seq,
        most,
    )
    .execute(&mut *conn)
    .await?;
    if entries.rows_affected() + past.rows_affected() == 0 {
        sqlx::query!(
            "UPDATE leaderboards SET swept_seq = greatest(swept_seq, $2) WHERE id = $1",
            board.id,
            board.gone_seq
        )
        .execute(&mut *conn)
        .await?;
        sqlx::query!(
            "DELETE FROM leaderboards b WHERE id = $1 AND deleted_at IS NOT NULL AND gone_seq = $2",
            board.id,
            board.gone_seq
        )
        .execute(conn)
        .await?;
    }
    Ok(true)
}
