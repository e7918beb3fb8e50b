//! What operators do to boards, each inside the caller's transaction. Whatever changes a board takes a number of it.

use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Board, Entry, Rules, Settings, periods, schedule,
    write::{Locked, lock_rows},
};
use crate::Result;

/// A board to be.
#[derive(Debug, Clone, PartialEq)]
pub struct NewBoard {
    pub id: String,
    pub settings: Settings,
}

pub(super) struct Row {
    pub id: String,
    pub title: String,
    pub metadata: Value,
    pub ordering: String,
    pub operator: String,
    pub min_score: Option<f64>,
    pub max_score: Option<f64>,
    pub client_submit: bool,
    pub reset_schedule: Option<String>,
    pub periods_kept: Option<i32>,
    pub declared: bool,
    pub seq: i64,
    pub period: i64,
    pub period_began: OffsetDateTime,
    pub next_reset_at: Option<OffsetDateTime>,
    pub inserted_at: OffsetDateTime,
}

impl From<Row> for Board {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            settings: Settings {
                title: row.title,
                metadata: row.metadata,
                rules: Rules::of(&row.ordering, &row.operator),
                min_score: row.min_score,
                max_score: row.max_score,
                client_submit: row.client_submit,
                reset_schedule: row.reset_schedule,
                periods_kept: row.periods_kept,
            },
            declared: row.declared,
            seq: row.seq,
            period: row.period,
            period_began: row.period_began,
            next_reset_at: row.next_reset_at,
            inserted_at: row.inserted_at,
        }
    }
}

async fn now(conn: &mut PgConnection) -> Result<OffsetDateTime> {
    Ok(sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(conn).await?)
}

async fn lock(conn: &mut PgConnection, id: &str) -> Result<Option<Locked>> {
    Ok(lock_rows(conn, &[id.to_owned()]).await?.remove(id).filter(|head| !head.deleted))
}

/// Makes a board; none: there is one of that id, whoever or whatever made it.
///
/// # Errors
/// When the database fails.
pub async fn create(conn: &mut PgConnection, new: &NewBoard) -> Result<Option<Board>> {
    let NewBoard { id, settings } = new;
    let next = match settings.reset_schedule.as_deref() {
        Some(schedule) => schedule::next(schedule, now(conn).await?),
        None => None,
    };
    // The row of a deleted board that waits for the sweep is taken over, with its numbers.
    let row = sqlx::query_as!(
        Row,
        "INSERT INTO leaderboards AS b (id, title, metadata, ordering, operator, min_score, max_score, client_submit, reset_schedule,
             periods_kept, next_reset_at, declared, period_began)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, true, clock_timestamp())
         ON CONFLICT (id) DO UPDATE SET title = excluded.title, metadata = excluded.metadata, ordering = excluded.ordering,
             operator = excluded.operator, min_score = excluded.min_score, max_score = excluded.max_score,
             client_submit = excluded.client_submit, reset_schedule = excluded.reset_schedule,
             periods_kept = excluded.periods_kept, next_reset_at = excluded.next_reset_at, declared = true,
             period_began = excluded.period_began, inserted_at = now(), seq = b.seq + 1, deleted_at = NULL
             WHERE b.deleted_at IS NOT NULL
         RETURNING id, title, metadata, ordering, operator, min_score, max_score, client_submit, reset_schedule, periods_kept,
             declared, seq, period, period_began, next_reset_at, inserted_at",
        id,
        settings.title,
        settings.metadata,
        settings.rules.ordering(),
        settings.rules.operator.as_str(),
        settings.min_score,
        settings.max_score,
        settings.client_submit,
        settings.reset_schedule,
        settings.periods_kept,
        next,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Board::from))
}

/// Gives a board other settings, by those it has; `change` may refuse. None: there is no such board. A reset that is due happens first.
///
/// # Errors
/// When the database fails.
pub async fn update<R>(
    conn: &mut PgConnection,
    id: &str,
    change: impl FnOnce(&mut Settings) -> Result<(), R>,
) -> Result<Result<Option<Board>, R>> {
    let Some(mut head) = lock(conn, id).await? else { return Ok(Ok(None)) };
    let now = now(conn).await?;
    if head.next_reset_at.is_some_and(|due| due <= now) {
        periods::begin(conn, id, &mut head, now).await?;
    }
    let Some(board) = read(conn, id).await? else { return Ok(Ok(None)) };
    let mut settings = board.settings;
    if let Err(refusal) = change(&mut settings) {
        return Ok(Err(refusal));
    }
    head.periods_kept = settings.periods_kept;
    periods::forget(conn, id, &mut head).await?;
    let next = if settings.reset_schedule == head.reset_schedule {
        head.next_reset_at
    } else {
        settings.reset_schedule.as_deref().and_then(|schedule| schedule::next(schedule, now))
    };
    sqlx::query!(
        "UPDATE leaderboards SET title = $2, metadata = $3, ordering = $4, operator = $5, min_score = $6, max_score = $7,
             client_submit = $8, reset_schedule = $9, periods_kept = $10, next_reset_at = $11, gone_seq = $12, seq = seq + 1,
             declared = true
         WHERE id = $1",
        id,
        settings.title,
        settings.metadata,
        settings.rules.ordering(),
        settings.rules.operator.as_str(),
        settings.min_score,
        settings.max_score,
        settings.client_submit,
        settings.reset_schedule,
        settings.periods_kept,
        next,
        head.gone_seq,
    )
    .execute(&mut *conn)
    .await?;
    Ok(Ok(read(conn, id).await?))
}

async fn read(conn: &mut PgConnection, id: &str) -> Result<Option<Board>> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, title, metadata, ordering, operator, min_score, max_score, client_submit, reset_schedule, periods_kept,
                declared, seq, period, period_began, next_reset_at, inserted_at
         FROM leaderboards WHERE id = $1 AND deleted_at IS NULL",
        id
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Board::from))
}

/// Boards by their ids, from after one on.
///
/// # Errors
/// When the database fails.
pub async fn list(pool: &PgPool, after: &str, most: i64) -> Result<Vec<Board>> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, title, metadata, ordering, operator, min_score, max_score, client_submit, reset_schedule, periods_kept,
                declared, seq, period, period_began, next_reset_at, inserted_at
         FROM leaderboards WHERE id > $1 AND deleted_at IS NULL ORDER BY id LIMIT $2",
        after,
        most,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Board::from).collect())
}

/// Deletes a board with all of its periods, whatever their size: its rows are swept later. False: there is none.
///
/// # Errors
/// When the database fails.
pub async fn delete(conn: &mut PgConnection, id: &str) -> Result<bool> {
    if lock(conn, id).await?.is_none() {
        return Ok(false);
    }
    sqlx::query!("DELETE FROM leaderboard_periods WHERE leaderboard_id = $1", id).execute(&mut *conn).await?;
    // What a board is that its first score makes: it may make this one again.
    sqlx::query!(
        "UPDATE leaderboards SET title = '', metadata = '{}', ordering = 'desc', operator = 'last', min_score = NULL,
             max_score = NULL, client_submit = false, reset_schedule = NULL, next_reset_at = NULL, periods_kept = NULL,
             declared = false, seq = seq + 1, period = 0, period_began = now(), period_seq = seq + 1, gone_seq = seq + 1,
             deleted_at = now()
         WHERE id = $1",
        id
    )
    .execute(conn)
    .await?;
    Ok(true)
}

/// Ends a board's period now; the new period. None: there is no such board.
///
/// # Errors
/// When the database fails.
pub async fn reset(conn: &mut PgConnection, id: &str) -> Result<Option<i64>> {
    let Some(mut head) = lock(conn, id).await? else { return Ok(None) };
    let now = now(conn).await?;
    periods::begin(conn, id, &mut head, now).await?;
    Ok(Some(head.period))
}

/// Takes a player off a board, of one period (none: the current one); what they had. None: nothing.
///
/// # Errors
/// When the database fails.
pub async fn remove_entry(
    conn: &mut PgConnection,
    id: &str,
    player: Uuid,
    period: Option<i64>,
) -> Result<Option<Entry>> {
    let Some(head) = lock(conn, id).await? else { return Ok(None) };
    let removed = match period {
        Some(past) if past != head.period => remove_past(conn, id, player, past).await?,
        _ => remove_current(conn, id, player, &head).await?,
    };
    if removed.is_some() {
        sqlx::query!("UPDATE leaderboards SET seq = seq + 1 WHERE id = $1", id).execute(conn).await?;
    }
    Ok(removed)
}

async fn remove_current(conn: &mut PgConnection, id: &str, player: Uuid, head: &Locked) -> Result<Option<Entry>> {
    let entry = sqlx::query_as!(
        Entry,
        "SELECT player_id, score, sub_score, seq, updated_at FROM leaderboard_entries
         WHERE leaderboard_id = $1 AND player_id = $2 AND seq > $3 AND NOT removed FOR UPDATE",
        id,
        player,
        head.period_seq,
    )
    .fetch_optional(&mut *conn)
    .await?;
    sqlx::query!(
        "UPDATE leaderboard_entries SET removed = true, seq = $3 WHERE leaderboard_id = $1 AND player_id = $2 AND seq > $4
             AND NOT removed",
        id,
        player,
        head.seq + 1,
        head.period_seq,
    )
    .execute(conn)
    .await?;
    Ok(entry)
}

async fn remove_past(conn: &mut PgConnection, id: &str, player: Uuid, period: i64) -> Result<Option<Entry>> {
    let row = sqlx::query_as!(
        Entry,
        r#"WITH span AS (SELECT first_seq, last_seq FROM leaderboard_periods WHERE leaderboard_id = $1 AND period = $3),
                kept AS (DELETE FROM leaderboard_entries e USING span WHERE leaderboard_id = $1 AND player_id = $2 AND NOT removed
                             AND seq > first_seq AND seq <= last_seq
                         RETURNING player_id, score, sub_score, seq, updated_at),
                moved AS (DELETE FROM leaderboard_past p USING span WHERE leaderboard_id = $1 AND player_id = $2
                              AND seq > first_seq AND seq <= last_seq
                          RETURNING player_id, score, sub_score, seq, updated_at)
           SELECT player_id AS "player_id!", score AS "score!", sub_score AS "sub_score!", seq AS "seq!",
                  updated_at AS "updated_at!"
           FROM (SELECT * FROM kept UNION ALL SELECT * FROM moved) AS gone"#,
        id,
        player,
        period,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row)
}
