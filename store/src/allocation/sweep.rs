//! What the leader looks for in the rows because nobody announces it.

use asobi_proto::bus::InboxEvent;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Error, Result,
    inbox::{EVENT_LIFE_S, StoredEvent},
};

/// Fails quick-play matches that nobody's host claimed: whoever formed them died in between.
///
/// # Errors
/// When the database fails.
pub async fn fail_abandoned(conn: &mut PgConnection) -> Result<u64> {
    let done = sqlx::query!(
        r#"UPDATE matches SET state = 'failed', finished_at = now(), result = '{"error":"match_start_failed"}'
           WHERE state = 'allocating' AND term = 0 AND inserted_at < now() - interval '1 minute'"#
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Ends up to `limit` tickets that have waited too long: for each of their players, the ticket and the player.
///
/// # Errors
/// When the database fails.
pub async fn expire(conn: &mut PgConnection, limit: i64) -> Result<Vec<(Uuid, Uuid)>> {
    let rows = sqlx::query!(
        r#"WITH heads AS (
             SELECT id FROM tickets WHERE state = 'pending' AND head IS NULL AND expires_at <= now() ORDER BY expires_at LIMIT $1
             FOR UPDATE SKIP LOCKED),
           mine AS (SELECT id FROM heads UNION ALL SELECT r.id FROM heads h JOIN tickets r ON r.head = h.id)
           UPDATE tickets t SET state = 'expired', ended_at = now() FROM mine WHERE t.id = mine.id AND t.state = 'pending'
           RETURNING COALESCE(t.head, t.id) AS "head!", t.player_id"#,
        limit,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.head, row.player_id)).collect())
}

/// Fails pending tickets of a mode that nobody serves any more: for each of their players, the ticket and the player.
///
/// # Errors
/// When the database fails.
pub async fn fail_unserved(conn: &mut PgConnection, mode: &str, limit: i64) -> Result<Vec<(Uuid, Uuid)>> {
    let rows = sqlx::query!(
        r#"WITH heads AS (
             SELECT id FROM tickets WHERE state = 'pending' AND head IS NULL AND mode = $1 LIMIT $2 FOR UPDATE SKIP LOCKED),
           mine AS (SELECT id FROM heads UNION ALL SELECT r.id FROM heads h JOIN tickets r ON r.head = h.id)
           UPDATE tickets t SET state = 'failed', ended_at = now() FROM mine WHERE t.id = mine.id AND t.state = 'pending'
           RETURNING COALESCE(t.head, t.id) AS "head!", t.player_id"#,
        mode,
        limit,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.head, row.player_id)).collect())
}

/// Those of the players who have no session on a live node.
///
/// # Errors
/// When the database fails.
pub async fn without_session(pool: &PgPool, players: &[Uuid]) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar!(
        r#"SELECT p.id AS "id!" FROM UNNEST($1::uuid[]) AS p (id)
           WHERE NOT EXISTS (SELECT 1 FROM sessions s
               JOIN nodes n ON n.node_id = s.node_id AND n.incarnation = s.incarnation AND n.lease_until > now()
               WHERE s.player_id = p.id)"#,
        players,
    )
    .fetch_all(pool)
    .await?)
}

/// Withdraws the pending tickets among these, known by their heads, of which some player still has no session: for each of their players,
/// the ticket and the player.
///
/// # Errors
/// When the database fails.
pub async fn withdraw_ghosts(conn: &mut PgConnection, heads: &[Uuid]) -> Result<Vec<(Uuid, Uuid)>> {
    let rows = sqlx::query!(
        r#"WITH heads AS (
             SELECT id FROM tickets WHERE id = ANY($1) AND state = 'pending' FOR UPDATE SKIP LOCKED),
           mine AS (
             SELECT h.id AS head, h.id FROM heads h UNION ALL SELECT h.id, r.id FROM heads h JOIN tickets r ON r.head = h.id),
           ghosts AS (
             SELECT DISTINCT mine.head FROM mine JOIN tickets t ON t.id = mine.id WHERE NOT EXISTS (
               SELECT 1 FROM sessions s
               JOIN nodes n ON n.node_id = s.node_id AND n.incarnation = s.incarnation AND n.lease_until > now()
               WHERE s.player_id = t.player_id))
           UPDATE tickets t SET state = 'cancelled', ended_at = now() FROM mine JOIN ghosts g ON g.head = mine.head
           WHERE t.id = mine.id AND t.state = 'pending'
           RETURNING COALESCE(t.head, t.id) AS "head!", t.player_id"#,
        heads,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.head, row.player_id)).collect())
}

/// What the leader says of one mode's queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueNote {
    pub mode: String,
    /// Players who wait.
    pub queued: i32,
    /// None: unknown.
    pub estimated_wait_ms: Option<i64>,
}

/// Notes how long modes' queues are, for the bound of [`crate::tickets::create`], and how long they take.
///
/// # Errors
/// When the database fails.
pub async fn note_queues(conn: &mut PgConnection, notes: &[QueueNote]) -> Result<()> {
    let modes: Vec<String> = notes.iter().map(|note| note.mode.clone()).collect();
    let queued: Vec<i32> = notes.iter().map(|note| note.queued).collect();
    let waits: Vec<Option<i64>> = notes.iter().map(|note| note.estimated_wait_ms).collect();
    sqlx::query!(
        "UPDATE modes m SET queued = d.queued, queued_at = now(), estimated_wait_ms = d.wait
         FROM UNNEST($1::text[], $2::integer[], $3::bigint[]) AS d (mode, queued, wait) WHERE m.mode = d.mode",
        &modes,
        &queued,
        &waits as &[Option<i64>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes a bounded number of rows that nobody asks for any more: tickets ended ten minutes ago, expired inbox events, effects
/// applied an hour ago. Answers how many.
///
/// The rows are what keeps an effect from happening twice. Those of a match that still runs stay until a checkpoint of an hour later is
/// there: its host may have lost the answer to the transaction that wrote them, and may write them again after an outage of any length.
///
/// # Errors
/// When the database fails.
pub async fn purge(conn: &mut PgConnection, limit: i64) -> Result<u64> {
    let tickets = sqlx::query!(
        "DELETE FROM tickets WHERE id IN (SELECT id FROM tickets WHERE ended_at < now() - interval '10 minutes' LIMIT $1)",
        limit,
    )
    .execute(&mut *conn)
    .await?;
    let events = sqlx::query!(
        "DELETE FROM inbox_events e USING (SELECT player_id, seq FROM inbox_events WHERE expires_at < now() LIMIT $1) AS o
         WHERE e.player_id = o.player_id AND e.seq = o.seq",
        limit,
    )
    .execute(&mut *conn)
    .await?;
    let effects = sqlx::query!(
        "DELETE FROM match_effects e USING
           (SELECT f.match_id, f.ordinal FROM match_effects f
            WHERE f.applied_at < now() - interval '1 hour' AND NOT EXISTS (
              SELECT 1 FROM matches m LEFT JOIN match_checkpoints c ON c.match_id = m.id
              WHERE m.id = f.match_id AND m.state IN ('allocating', 'running')
                AND (c.written_at IS NULL OR c.written_at < f.inserted_at + interval '1 hour'))
            LIMIT $1) AS o
         WHERE e.match_id = o.match_id AND e.ordinal = o.ordinal",
        limit,
    )
    .execute(conn)
    .await?;
    Ok(tickets.rows_affected() + events.rows_affected() + effects.rows_affected())
}

/// Heads of pending tickets that came between one second and `seconds` ago, for finding those whose announcement was lost.
///
/// # Errors
/// When the database fails.
pub async fn pending_ids(pool: &PgPool, seconds: f64) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar!(
        "SELECT id FROM tickets WHERE state = 'pending' AND head IS NULL
           AND submitted_at BETWEEN now() - make_interval(secs => $1) AND now() - interval '1 second'",
        seconds,
    )
    .fetch_all(pool)
    .await?)
}

/// The inbox events of the last `seconds`, oldest first: what a leader may have committed and not published before it died.
///
/// # Errors
/// When the database fails.
pub async fn recent_events(pool: &PgPool, seconds: f64, limit: i64) -> Result<Vec<StoredEvent>> {
    let rows = sqlx::query!(
        "SELECT player_id, seq, event FROM inbox_events WHERE expires_at > now() + make_interval(secs => $1)
         ORDER BY expires_at, player_id, seq LIMIT $2",
        (EVENT_LIFE_S - seconds).max(0.0),
        limit,
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            let event: InboxEvent =
                serde_json::from_value(row.event).map_err(|source| Error::Corrupt { what: "inbox event", source })?;
            Ok(StoredEvent { player_id: row.player_id, seq: row.seq, event })
        })
        .collect()
}
