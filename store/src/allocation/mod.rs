//! What the leading matchmaker does with tickets and matches. Functions that take a connection are parts of a transaction that
//! began with the leader's fence; what they change they change for many rows at once.
//!
//! Lock order, everywhere: `leader`, `nodes`, `matches` (sorted by id), `match_checkpoints` (sorted by match), `match_players` (sorted by
//! player), then `tickets`. Whoever takes a seat withdraws the player's tickets after it, in the same order. Whoever writes many
//! checkpoints in one statement locks them sorted too.

mod claim;
mod failover;
mod hosts;
mod sweep;

use std::collections::HashSet;

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Result;

pub(crate) use claim::withdraw;
pub use claim::{Claimed, Forming, claim};
pub use failover::*;
pub use hosts::*;
pub use sweep::*;

/// A row of a pending ticket as the leader's index needs it: a party's ticket is several.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    pub id: Uuid,
    /// The row the ticket is known by, where that is another.
    pub head: Option<Uuid>,
    pub player_id: Uuid,
    pub mode: String,
    pub submitted_at: OffsetDateTime,
    /// A JSON object.
    pub properties: serde_json::Value,
    pub query: Option<String>,
    /// Of whoever queued, where their trace is recorded.
    pub traceparent: Option<String>,
}

/// The database's clock.
///
/// # Errors
/// When the database fails.
pub async fn clock(pool: &PgPool) -> Result<OffsetDateTime> {
    Ok(sqlx::query_scalar!(r#"SELECT now() AS "now!""#).fetch_one(pool).await?)
}

/// The ids that all pending tickets are known by.
///
/// # Errors
/// When the database fails.
pub async fn pending_heads(pool: &PgPool) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar!("SELECT id FROM tickets WHERE state = 'pending' AND head IS NULL").fetch_all(pool).await?)
}

/// All rows of those of the tickets that are pending, by their heads' ids.
///
/// # Errors
/// When the database fails.
pub async fn pending_of(pool: &PgPool, heads: &[Uuid]) -> Result<Vec<Pending>> {
    Ok(sqlx::query_as!(
        Pending,
        r#"SELECT id AS "id!", head, player_id AS "player_id!", mode AS "mode!", submitted_at AS "submitted_at!",
                  properties AS "properties!", query, traceparent
           FROM (SELECT * FROM tickets WHERE id = ANY($1) AND state = 'pending' AND head IS NULL
                 UNION ALL SELECT * FROM tickets WHERE head = ANY($1) AND state = 'pending') AS t"#,
        heads,
    )
    .fetch_all(pool)
    .await?)
}

/// A match that is not where it should end up yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub id: Uuid,
    pub mode: String,
    /// `allocating`, `running`, `finished` or `failed`.
    pub state: String,
    pub host_node: String,
    pub host_incarnation: i64,
    pub epoch: i64,
    pub attempts: i32,
    /// How often it went on elsewhere after its host was gone.
    pub failovers: i32,
    /// Of the script it started with; empty: unknown, or of no importance.
    pub version: String,
    /// In seat order: as formed, and of a match that goes on elsewhere those who hold seats now, without those whose claim its host has
    /// yet to answer.
    pub players: Vec<Uuid>,
    /// Players by team, `[[player, …], …]`; none: no teams.
    pub teams: Option<serde_json::Value>,
    /// Where its host may be, the best first; empty: anywhere.
    pub regions: Vec<String>,
    /// Of the decision to form it, where a ticket's trace is recorded.
    pub traceparent: Option<String>,
}

/// Matches whose players do not know yet what became of them: where a leader goes on.
///
/// # Errors
/// When the database fails.
pub async fn untold(pool: &PgPool, limit: i64) -> Result<Vec<Open>> {
    Ok(sqlx::query_as!(
        Open,
        r#"SELECT m.id, m.mode, m.state, m.host_node, m.host_incarnation, m.epoch, m.attempts, m.failovers, m.version, m.teams, m.regions, m.traceparent,
             CASE WHEN m.failovers = 0 THEN m.players ELSE ARRAY(
               SELECT s.player_id FROM match_players s WHERE s.match_id = m.id
                 AND NOT EXISTS (SELECT 1 FROM backfill_claims c WHERE c.match_id = m.id AND c.player_id = s.player_id)
               ORDER BY array_position(m.players, s.player_id), s.joined_at, s.player_id) END AS "players!"
           FROM matches m WHERE NOT m.told ORDER BY m.id LIMIT $1"#,
        limit,
    )
    .fetch_all(pool)
    .await?)
}

/// One match as its row is now.
///
/// # Errors
/// When the database fails.
pub async fn open(pool: &PgPool, match_id: Uuid) -> Result<Option<Open>> {
    Ok(sqlx::query_as!(
        Open,
        r#"SELECT m.id, m.mode, m.state, m.host_node, m.host_incarnation, m.epoch, m.attempts, m.failovers, m.version, m.teams, m.regions, m.traceparent,
             CASE WHEN m.failovers = 0 THEN m.players ELSE ARRAY(
               SELECT s.player_id FROM match_players s WHERE s.match_id = m.id
                 AND NOT EXISTS (SELECT 1 FROM backfill_claims c WHERE c.match_id = m.id AND c.player_id = s.player_id)
               ORDER BY array_position(m.players, s.player_id), s.joined_at, s.player_id) END AS "players!"
           FROM matches m WHERE m.id = $1"#,
        match_id,
    )
    .fetch_optional(pool)
    .await?)
}

/// Gives an allocating match to another host, under the next epoch, and its checkpoint with it where it has one. False: the row has moved on; read it.
///
/// # Errors
/// When the database fails.
pub async fn reassign(
    conn: &mut PgConnection,
    was: &Open,
    host_node: &str,
    host_incarnation: i64,
    term: i64,
) -> Result<bool> {
    let done = sqlx::query!(
        "UPDATE matches SET host_node = $3, host_incarnation = $4, epoch = epoch + 1, attempts = attempts + 1, term = $5
         WHERE id = $1 AND epoch = $2 AND state = 'allocating'",
        was.id,
        was.epoch,
        host_node,
        host_incarnation,
        term,
    )
    .execute(&mut *conn)
    .await?;
    let moved = done.rows_affected() == 1;
    if moved && was.failovers > 0 {
        failover::raise_checkpoints(conn, &[was.id]).await?;
    }
    Ok(moved)
}

/// What [`give_up`] did.
#[derive(Debug, Default)]
pub struct GivenUp {
    pub matches: HashSet<Uuid>,
    /// Tickets that wait again, with the time they were submitted at; a party's once for each of its rows.
    pub requeued: Vec<Uuid>,
    /// Players whose ticket failed.
    pub failed: Vec<Uuid>,
}

/// Ends matches, named by id and epoch, whose players do not know of them: seats go, tickets wait again (`requeue`, and only where
/// they have not expired) or fail. `started`: also those that run, because their host is gone.
///
/// # Errors
/// When the database fails; the transaction is then to be rolled back.
pub async fn give_up(
    conn: &mut PgConnection,
    matches: &[(Uuid, i64)],
    requeue: bool,
    started: bool,
) -> Result<GivenUp> {
    let (ids, epochs): (Vec<Uuid>, Vec<i64>) = matches.iter().copied().unzip();
    let ended = sqlx::query_scalar!(
        r#"UPDATE matches m SET state = 'failed', told = true, finished_at = now(), result = '{"error":"match_start_failed"}'
           FROM UNNEST($1::uuid[], $2::bigint[]) AS g (id, epoch)
           WHERE m.id = g.id AND m.epoch = g.epoch AND NOT m.told AND m.failovers = 0
             AND (m.state = 'allocating' OR ($3 AND m.state = 'running'))
           RETURNING m.id"#,
        &ids,
        &epochs,
        started,
    )
    .fetch_all(&mut *conn)
    .await?;
    clear(conn, &ended).await?;
    let requeued = if requeue {
        sqlx::query_scalar!(
            // A party waits again whole or not at all: not when one of its players has a newer ticket, and not without its head, whose
            // account may have been erased: nobody would find such rows any more.
            r#"UPDATE tickets t SET state = 'pending', match_id = NULL, ended_at = NULL
             WHERE match_id = ANY($1) AND state = 'matched' AND expires_at > now()
               AND (t.head IS NULL OR EXISTS (SELECT 1 FROM tickets h WHERE h.id = t.head))
               AND NOT EXISTS (
                 SELECT 1 FROM tickets r JOIN tickets o ON o.player_id = r.player_id AND o.mode = r.mode AND o.state = 'pending'
                 WHERE r.id = COALESCE(t.head, t.id) OR r.head = COALESCE(t.head, t.id))
             RETURNING COALESCE(head, id) AS "head!""#,
            &ended,
        )
        .fetch_all(&mut *conn)
        .await?
    } else {
        Vec::new()
    };
    let failed = sqlx::query_scalar!(
        "UPDATE tickets SET state = 'failed', ended_at = now() WHERE match_id = ANY($1) AND state = 'matched' RETURNING player_id",
        &ended,
    )
    .fetch_all(conn)
    .await?;
    Ok(GivenUp { matches: ended.into_iter().collect(), requeued, failed })
}

/// Removes seats and listings; answers who sat where.
async fn clear(conn: &mut PgConnection, matches: &[Uuid]) -> Result<Vec<(Uuid, Uuid)>> {
    sqlx::query!("DELETE FROM match_listings WHERE match_id = ANY($1)", matches).execute(&mut *conn).await?;
    sqlx::query!("DELETE FROM backfills WHERE match_id = ANY($1)", matches).execute(&mut *conn).await?;
    sqlx::query!("DELETE FROM backfill_claims WHERE match_id = ANY($1)", matches).execute(&mut *conn).await?;
    let seats =
        sqlx::query!("DELETE FROM match_players WHERE match_id = ANY($1) RETURNING match_id, player_id", matches)
            .fetch_all(conn)
            .await?;
    Ok(seats.into_iter().map(|row| (row.match_id, row.player_id)).collect())
}

/// A match whose players are being told of it.
#[derive(Debug, Clone)]
pub struct Told {
    pub id: Uuid,
    pub mode: String,
    /// `running`, or how it ended before anybody could be told.
    pub state: String,
    /// Who is to hear of it, in seat order: as formed. Of a match that went on elsewhere those who hold seats now and whose claim is not
    /// open, and of one that ended there those as formed who sit nowhere else.
    pub players: Vec<Uuid>,
    /// How often its host was gone, or had lost it.
    pub failovers: i32,
    /// Players by team, `[[player, …], …]`; none: no teams.
    pub teams: Option<serde_json::Value>,
    pub result: Option<serde_json::Value>,
}

/// Marks matches that are past `allocating` as told and answers those that were not. The caller appends the inbox events in the same
/// transaction.
///
/// # Errors
/// When the database fails.
pub async fn tell(conn: &mut PgConnection, matches: &[Uuid]) -> Result<Vec<Told>> {
    Ok(sqlx::query_as!(
        Told,
        r#"UPDATE matches m SET told = true WHERE m.id = ANY($1) AND NOT m.told AND m.state <> 'allocating'
           RETURNING m.id, m.mode, m.state, m.teams, m.result, m.failovers,
             CASE WHEN m.failovers = 0 THEN m.players
               WHEN m.state = 'running' THEN ARRAY(
                 SELECT s.player_id FROM match_players s WHERE s.match_id = m.id
                   AND NOT EXISTS (SELECT 1 FROM backfill_claims c WHERE c.match_id = m.id AND c.player_id = s.player_id)
                 ORDER BY array_position(m.players, s.player_id), s.joined_at, s.player_id)
               ELSE ARRAY(
                 SELECT p.id FROM UNNEST(m.players) WITH ORDINALITY AS p (id, place)
                 WHERE NOT EXISTS (SELECT 1 FROM match_players s WHERE s.player_id = p.id) ORDER BY p.place)
             END AS "players!""#,
        matches,
    )
    .fetch_all(conn)
    .await?)
}
