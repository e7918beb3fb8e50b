//! Sessions: who is connected where. Rows belong to their node's incarnation and live as long as its lease; the table is
//! unlogged, so every node re-asserts its own when the database has a new incarnation.

use std::collections::BTreeSet;

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::Result;

/// Players whose advisory locks one transaction takes at most: the server's table of locks is everybody's, and has room for some thousands.
pub const LOCKED: usize = 500;

/// Whose rows are meant.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    pub node_id: &'a str,
    pub incarnation: i64,
}

/// A session to write.
#[derive(Debug, Clone)]
pub struct NewSession {
    pub session_id: Uuid,
    pub player_id: Uuid,
    /// None: as the player's newest other session says, else `online`.
    pub status: Option<String>,
    /// For how long it has been connected, in seconds: more than nothing where the database has forgotten it.
    pub age_s: f64,
}

/// How the world sees a player.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlayerStatus {
    pub player_id: Uuid,
    pub status: String,
    pub node_id: String,
}

/// Writes sessions, or leaves those that are there already. Answers the status each has.
///
/// # Errors
/// When the database does not answer.
pub async fn insert(pool: &PgPool, owner: Owner<'_>, sessions: &[NewSession]) -> Result<Vec<(Uuid, String)>> {
    let ids: Vec<Uuid> = sessions.iter().map(|s| s.session_id).collect();
    let players: Vec<Uuid> = sessions.iter().map(|s| s.player_id).collect();
    let statuses: Vec<Option<String>> = sessions.iter().map(|s| s.status.clone()).collect();
    let ages: Vec<f64> = sessions.iter().map(|s| s.age_s).collect();
    let rows = sqlx::query!(
        "INSERT INTO sessions (session_id, player_id, node_id, incarnation, status, connected_at)
         SELECT n.id, n.player, $5, $6, COALESCE(n.status, (SELECT s.status FROM sessions s WHERE s.player_id = n.player
                ORDER BY s.connected_at DESC, s.session_id DESC LIMIT 1), 'online'), now() - make_interval(secs => n.age)
         FROM UNNEST((SELECT $1::uuid[]), (SELECT $2::uuid[]), (SELECT $3::text[]), (SELECT $4::float8[])) AS n(id, player, status, age)
         ON CONFLICT (session_id) DO UPDATE SET status = excluded.status
         RETURNING session_id, status",
        &ids,
        &players,
        &statuses as &[Option<String>],
        &ages,
        owner.node_id,
        owner.incarnation,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.session_id, row.status)).collect())
}

/// Sets what players say of themselves, on all of their sessions.
///
/// # Errors
/// When the database does not answer.
pub async fn set_statuses(pool: &PgPool, statuses: &[(Uuid, String)]) -> Result<()> {
    let players: Vec<Uuid> = statuses.iter().map(|s| s.0).collect();
    let texts: Vec<String> = statuses.iter().map(|s| s.1.clone()).collect();
    sqlx::query!(
        "UPDATE sessions s SET status = n.status FROM UNNEST($1::uuid[], $2::text[]) AS n(player, status)
         WHERE s.player_id = n.player AND s.status <> n.status",
        &players,
        &texts
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Sessions whose sockets are gone: their rows wait for the end of the grace, and hold no place of the player's any more.
///
/// # Errors
/// When the database does not answer.
pub async fn mark_leaving(pool: &PgPool, sessions: &[Uuid]) -> Result<()> {
    sqlx::query!("UPDATE sessions SET leaving = true WHERE session_id = ANY((SELECT $1::uuid[])::uuid[])", sessions)
        .execute(pool)
        .await?;
    Ok(())
}

/// The owner's sessions of these players that are past the newest `most` of theirs in the whole cluster: (session, player).
/// Every node ranks by the same rows, and a newer row only moves an older one further back, so that whoever asks at
/// whatever moment never finds one of the newest. Sessions that leave, and those of dead nodes, hold no place.
///
/// # Errors
/// When the database does not answer.
pub async fn surplus(pool: &PgPool, owner: Owner<'_>, players: &[Uuid], most: i64) -> Result<Vec<(Uuid, Uuid)>> {
    let rows = sqlx::query!(
        // One look into the index for each player, whatever the planner thinks of how many there are and of how few the nodes.
        r#"SELECT DISTINCT surplus.session_id AS "session_id!", p.id AS "player_id!"
           FROM UNNEST((SELECT $1::uuid[])) AS p(id) CROSS JOIN LATERAL (
               SELECT s.session_id, s.node_id, s.incarnation FROM sessions s
               WHERE s.player_id = p.id AND NOT s.leaving AND EXISTS (SELECT 1 FROM nodes n
                   WHERE n.node_id = s.node_id AND n.incarnation = s.incarnation AND n.lease_until > now())
               ORDER BY s.connected_at DESC, s.session_id DESC OFFSET $2) AS surplus
           WHERE surplus.node_id = $3 AND surplus.incarnation = $4"#,
        players,
        most,
        owner.node_id,
        owner.incarnation,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.session_id, row.player_id)).collect())
}

/// Removes sessions and answers the players whose last one that was. Two nodes that each remove one of a player's last
/// two take turns, so exactly one of them hears of it. `lock` is the first key of the per-player advisory lock; at most
/// [`LOCKED`] sessions at once.
///
/// # Errors
/// When the database does not answer; nothing is removed then.
pub async fn remove(pool: &PgPool, lock: i32, sessions: &[(Uuid, Uuid)]) -> Result<Vec<Uuid>> {
    let ids: Vec<Uuid> = sessions.iter().map(|s| s.0).collect();
    let players: Vec<Uuid> = sessions.iter().map(|s| s.1).collect::<BTreeSet<_>>().into_iter().collect();
    let mut tx = crate::begin(pool).await?;
    lock_players(&mut tx, lock, &players).await?;
    sqlx::query!("DELETE FROM sessions WHERE session_id = ANY((SELECT $1::uuid[])::uuid[])", &ids)
        .execute(&mut *tx)
        .await?;
    let gone = without_sessions(&mut tx, &players).await?;
    tx.commit().await?;
    Ok(gone)
}

/// Removes the sessions of incarnations that are dead (lease over, stopped or replaced) and answers the players who have
/// none left. Only one node does so at a time (`sweep_lock`); another's call then finds nothing. `player_lock` is the first
/// key of the per-player advisory lock. Only whoever may judge leases may call this.
///
/// # Errors
/// When the database does not answer.
pub async fn sweep_dead(pool: &PgPool, sweep_lock: i64, player_lock: i32) -> Result<Vec<Uuid>> {
    let (nodes, incarnations) = dead_holders(pool).await?;
    if nodes.is_empty() {
        return Ok(Vec::new());
    }
    let mut tx = crate::begin(pool).await?;
    let mine = sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock($1) AS "mine!""#, sweep_lock)
        .fetch_one(&mut *tx)
        .await?;
    if !mine {
        return Ok(Vec::new());
    }
    let players = sqlx::query_scalar!(
        "DELETE FROM sessions s USING UNNEST($1::text[], $2::bigint[]) AS dead (node_id, incarnation)
         WHERE s.node_id = dead.node_id AND s.incarnation = dead.incarnation
           AND NOT EXISTS (SELECT 1 FROM nodes n
             WHERE n.node_id = s.node_id AND n.incarnation = s.incarnation AND n.lease_until > now())
         RETURNING s.player_id",
        &nodes,
        &incarnations,
    )
    .fetch_all(&mut *tx)
    .await?;
    let players: Vec<Uuid> = players.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    tx.commit().await?;
    // A node that removes such a player's last live session meanwhile may still have seen the dead one: wait for it.
    let mut gone = Vec::new();
    for players in players.chunks(LOCKED) {
        let mut tx = crate::begin(pool).await?;
        lock_players(&mut tx, player_lock, players).await?;
        gone.extend(without_sessions(&mut tx, players).await?);
        tx.commit().await?;
    }
    Ok(gone)
}

/// Incarnations that have sessions but no lease. Walks the index from holder to holder: as many steps as there are nodes,
/// however many sessions they hold, because every node asks this all the time.
async fn dead_holders(pool: &PgPool) -> Result<(Vec<String>, Vec<i64>)> {
    let rows = sqlx::query!(
        r#"WITH RECURSIVE holders (node_id, incarnation) AS (
               (SELECT node_id, incarnation FROM sessions ORDER BY node_id, incarnation LIMIT 1)
               UNION ALL
               SELECT next.node_id, next.incarnation FROM holders h CROSS JOIN LATERAL (
                   SELECT s.node_id, s.incarnation FROM sessions s
                   WHERE (s.node_id, s.incarnation) > (h.node_id, h.incarnation)
                   ORDER BY s.node_id, s.incarnation LIMIT 1) AS next)
           SELECT h.node_id AS "node_id!", h.incarnation AS "incarnation!" FROM holders h
           WHERE NOT EXISTS (SELECT 1 FROM nodes n
               WHERE n.node_id = h.node_id AND n.incarnation = h.incarnation AND n.lease_until > now())"#
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.node_id, row.incarnation)).unzip())
}

/// How these players are seen now; who is not listed is offline. The newest session counts.
///
/// # Errors
/// When the database does not answer.
pub async fn statuses(pool: &PgPool, players: &[Uuid]) -> Result<Vec<PlayerStatus>> {
    Ok(sqlx::query_as!(
        PlayerStatus,
        "SELECT DISTINCT ON (player_id) player_id, status, node_id FROM sessions WHERE player_id = ANY((SELECT $1::uuid[])::uuid[])
         ORDER BY player_id, connected_at DESC, session_id DESC",
        players
    )
    .fetch_all(pool)
    .await?)
}

async fn lock_players(conn: &mut PgConnection, lock: i32, players: &[Uuid]) -> Result<()> {
    // One order for everybody: by the hash that is locked, since two players may share one.
    sqlx::query!(
        "SELECT count(pg_advisory_xact_lock($1, h)) FROM
           (SELECT DISTINCT hashtext(p::text) AS h FROM UNNEST((SELECT $2::uuid[])) AS p ORDER BY 1) AS sorted",
        lock,
        players
    )
    .fetch_one(conn)
    .await?;
    Ok(())
}

async fn without_sessions(conn: &mut PgConnection, players: &[Uuid]) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar!(
        r#"SELECT p AS "player!" FROM UNNEST((SELECT $1::uuid[])) AS p
           WHERE (SELECT true FROM sessions s WHERE s.player_id = p LIMIT 1) IS NULL"#,
        players
    )
    .fetch_all(conn)
    .await?)
}

/// The sessions an incarnation has rows of: (session, player).
///
/// # Errors
/// When the database does not answer.
pub async fn owned(pool: &PgPool, owner: Owner<'_>) -> Result<Vec<(Uuid, Uuid)>> {
    let rows = sqlx::query!(
        "SELECT session_id, player_id FROM sessions WHERE node_id = $1 AND incarnation = $2",
        owner.node_id,
        owner.incarnation
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.session_id, row.player_id)).collect())
}
