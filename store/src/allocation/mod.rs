//! What the leading matchmaker does with tickets and matches. Functions that take a connection are parts of a transaction that
//! began with the leader's fence; what they change they change for many rows at once.
//!
//! Lock order, everywhere: `match_players` (sorted by player), then `tickets`. Whoever takes a seat withdraws the player's tickets
//! after it, in the same order.

mod sweep;

use std::collections::HashSet;

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Result;

pub use sweep::*;

/// A pending ticket as the leader's index needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub id: Uuid,
    pub player_id: Uuid,
    pub mode: String,
    pub submitted_at: OffsetDateTime,
}

/// The database's clock.
///
/// # Errors
/// When the database fails.
pub async fn clock(pool: &PgPool) -> Result<OffsetDateTime> {
    Ok(sqlx::query_scalar!(r#"SELECT now() AS "now!""#).fetch_one(pool).await?)
}

/// The whole queue.
///
/// # Errors
/// When the database fails.
pub async fn pending(pool: &PgPool) -> Result<Vec<Pending>> {
    Ok(sqlx::query_as!(Pending, "SELECT id, player_id, mode, submitted_at FROM tickets WHERE state = 'pending'")
        .fetch_all(pool)
        .await?)
}

/// Those of the tickets that are pending.
///
/// # Errors
/// When the database fails.
pub async fn pending_of(pool: &PgPool, tickets: &[Uuid]) -> Result<Vec<Pending>> {
    Ok(sqlx::query_as!(
        Pending,
        "SELECT id, player_id, mode, submitted_at FROM tickets WHERE id = ANY($1) AND state = 'pending'",
        tickets,
    )
    .fetch_all(pool)
    .await?)
}

/// A host that can take matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub node_id: String,
    pub incarnation: i64,
    pub grpc_addr: String,
    /// 0: not limited.
    pub capacity: i32,
    /// Its open matches, as the rows say.
    pub open: i64,
    pub modes: Vec<String>,
}

/// Hosts that are ready and whose lease is valid by the database's clock, with what they serve.
///
/// # Errors
/// When the database fails.
pub async fn hosts(pool: &PgPool) -> Result<Vec<Host>> {
    Ok(sqlx::query_as!(
        Host,
        r#"SELECT n.node_id, n.incarnation, n.grpc_addr AS "grpc_addr!", n.capacity,
             (SELECT count(*) FROM matches m WHERE m.host_node = n.node_id AND m.state IN ('allocating', 'running')) AS "open!",
             (SELECT array_agg(h.mode) FROM host_modes h
              WHERE h.node_id = n.node_id AND h.incarnation = n.incarnation) AS "modes!"
           FROM nodes n
           WHERE n.role = 'match' AND n.state = 'ready' AND n.lease_until > now() AND n.grpc_addr IS NOT NULL
             AND EXISTS (SELECT 1 FROM host_modes h WHERE h.node_id = n.node_id AND h.incarnation = n.incarnation)"#
    )
    .fetch_all(pool)
    .await?)
}

/// A group about to become a match.
#[derive(Debug, Clone)]
pub struct Forming {
    pub match_id: Uuid,
    pub mode: String,
    pub host_node: String,
    pub host_incarnation: i64,
    /// Ticket and player, in seat order.
    pub tickets: Vec<(Uuid, Uuid)>,
}

/// What [`claim`] did.
#[derive(Debug, Default)]
pub struct Claimed {
    /// Matches that are `allocating` now.
    pub formed: HashSet<Uuid>,
    /// Tickets of groups that were broken up which are still pending.
    pub free: HashSet<Uuid>,
    /// Tickets that were withdrawn because their player has a seat now, or had one already.
    pub withdrawn: Vec<Uuid>,
}

/// Makes matches of groups: rows `allocating` with epoch 1, a seat for each player, the tickets `matched`, the players' other
/// tickets withdrawn. A group with a ticket that is no longer pending, or a player who has a seat elsewhere, is broken up and
/// leaves no trace.
///
/// # Errors
/// When the database fails; the transaction is then to be rolled back.
pub async fn claim(conn: &mut PgConnection, groups: &[Forming], term: i64) -> Result<Claimed> {
    insert_matches(conn, groups, term).await?;
    let seated = take_seats(conn, groups).await?;
    let whole = |group: &&Forming| group.tickets.iter().all(|(_, player)| seated.contains(&(group.match_id, *player)));
    let wanted: Vec<(Uuid, Uuid)> =
        groups.iter().filter(whole).flat_map(|g| g.tickets.iter().map(|(ticket, _)| (*ticket, g.match_id))).collect();
    let taken = take_tickets(conn, &wanted).await?;
    let (formed, broken): (Vec<&Forming>, Vec<&Forming>) =
        groups.iter().partition(|g| whole(g) && g.tickets.iter().all(|(ticket, _)| taken.contains(ticket)));
    let mut claimed = Claimed { formed: formed.iter().map(|g| g.match_id).collect(), ..Claimed::default() };
    if !broken.is_empty() {
        break_up(conn, &broken).await?;
    }
    // The players of broken groups too: who had a seat elsewhere keeps no ticket.
    let players: Vec<Uuid> = groups.iter().flat_map(|g| g.tickets.iter().map(|(_, player)| *player)).collect();
    claimed.withdrawn = sqlx::query_scalar!(
        "UPDATE tickets t SET state = 'cancelled', ended_at = now() FROM match_players s
         WHERE t.player_id = ANY($1) AND t.state = 'pending' AND s.player_id = t.player_id RETURNING t.id",
        &players,
    )
    .fetch_all(&mut *conn)
    .await?;
    if !broken.is_empty() {
        let tickets: Vec<Uuid> = broken.iter().flat_map(|g| g.tickets.iter().map(|(ticket, _)| *ticket)).collect();
        claimed.free = sqlx::query_scalar!("SELECT id FROM tickets WHERE id = ANY($1) AND state = 'pending'", &tickets)
            .fetch_all(conn)
            .await?
            .into_iter()
            .collect();
    }
    Ok(claimed)
}

async fn insert_matches(conn: &mut PgConnection, groups: &[Forming], term: i64) -> Result<()> {
    let ids: Vec<Uuid> = groups.iter().map(|g| g.match_id).collect();
    let modes: Vec<String> = groups.iter().map(|g| g.mode.clone()).collect();
    let hosts: Vec<String> = groups.iter().map(|g| g.host_node.clone()).collect();
    let incarnations: Vec<i64> = groups.iter().map(|g| g.host_incarnation).collect();
    let (of, players): (Vec<Uuid>, Vec<Uuid>) =
        groups.iter().flat_map(|g| g.tickets.iter().map(|(_, player)| (g.match_id, *player))).unzip();
    sqlx::query!(
        "INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players)
         SELECT g.id, g.mode, 'allocating', g.host, g.incarnation, 1, $5, s.players
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::bigint[]) AS g (id, mode, host, incarnation)
         JOIN (SELECT match_id, array_agg(player_id ORDER BY place) AS players
               FROM UNNEST($6::uuid[], $7::uuid[]) WITH ORDINALITY AS f (match_id, player_id, place) GROUP BY match_id) AS s
           ON s.match_id = g.id",
        &ids,
        &modes,
        &hosts,
        &incarnations,
        term,
        &of,
        &players,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The seats that could be taken, as (match, player).
async fn take_seats(conn: &mut PgConnection, groups: &[Forming]) -> Result<HashSet<(Uuid, Uuid)>> {
    let (of, players): (Vec<Uuid>, Vec<Uuid>) =
        groups.iter().flat_map(|g| g.tickets.iter().map(|(_, player)| (g.match_id, *player))).unzip();
    let rows = sqlx::query!(
        "INSERT INTO match_players (player_id, match_id)
         SELECT player_id, match_id FROM UNNEST($1::uuid[], $2::uuid[]) AS s (player_id, match_id) ORDER BY player_id
         ON CONFLICT (player_id) DO NOTHING RETURNING match_id, player_id",
        &players,
        &of,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.match_id, row.player_id)).collect())
}

async fn take_tickets(conn: &mut PgConnection, wanted: &[(Uuid, Uuid)]) -> Result<HashSet<Uuid>> {
    let (tickets, matches): (Vec<Uuid>, Vec<Uuid>) = wanted.iter().copied().unzip();
    let rows = sqlx::query_scalar!(
        "UPDATE tickets t SET state = 'matched', match_id = w.match_id, ended_at = now()
         FROM UNNEST($1::uuid[], $2::uuid[]) AS w (id, match_id)
         WHERE t.id = ANY($1) AND t.id = w.id AND t.state = 'pending' RETURNING t.id",
        &tickets,
        &matches,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().collect())
}

async fn break_up(conn: &mut PgConnection, broken: &[&Forming]) -> Result<()> {
    let ids: Vec<Uuid> = broken.iter().map(|g| g.match_id).collect();
    // Their seats go with them.
    sqlx::query!("DELETE FROM matches WHERE id = ANY($1)", &ids).execute(&mut *conn).await?;
    let tickets: Vec<Uuid> = broken.iter().flat_map(|g| g.tickets.iter().map(|(ticket, _)| *ticket)).collect();
    sqlx::query!(
        "UPDATE tickets SET state = 'pending', match_id = NULL, ended_at = NULL
         WHERE id = ANY($1) AND state = 'matched' AND match_id = ANY($2)",
        &tickets,
        &ids,
    )
    .execute(conn)
    .await?;
    Ok(())
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
    pub players: Vec<Uuid>,
}

/// Matches whose players do not know yet what became of them: where a leader goes on.
///
/// # Errors
/// When the database fails.
pub async fn untold(pool: &PgPool, limit: i64) -> Result<Vec<Open>> {
    Ok(sqlx::query_as!(
        Open,
        "SELECT id, mode, state, host_node, host_incarnation, epoch, attempts, players
         FROM matches WHERE NOT told ORDER BY id LIMIT $1",
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
        "SELECT id, mode, state, host_node, host_incarnation, epoch, attempts, players FROM matches WHERE id = $1",
        match_id,
    )
    .fetch_optional(pool)
    .await?)
}

/// Gives an allocating match to another host, under the next epoch. False: the row has moved on; read it.
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
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What [`give_up`] did.
#[derive(Debug, Default)]
pub struct GivenUp {
    pub matches: HashSet<Uuid>,
    /// Tickets that wait again, with the time they were submitted at.
    pub requeued: Vec<Uuid>,
    /// Players whose ticket failed.
    pub failed: Vec<Uuid>,
}

/// Ends matches, named by id and epoch, whose players were not told of them: seats go, tickets wait again (`requeue`, and only where
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
           WHERE m.id = g.id AND m.epoch = g.epoch AND NOT m.told AND (m.state = 'allocating' OR ($3 AND m.state = 'running'))
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
            "UPDATE tickets t SET state = 'pending', match_id = NULL, ended_at = NULL
             WHERE match_id = ANY($1) AND state = 'matched' AND expires_at > now()
               AND NOT EXISTS (SELECT 1 FROM tickets o WHERE o.player_id = t.player_id AND o.mode = t.mode AND o.state = 'pending')
             RETURNING id",
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
    pub players: Vec<Uuid>,
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
        "UPDATE matches SET told = true WHERE id = ANY($1) AND NOT told AND state <> 'allocating'
         RETURNING id, mode, state, players, result",
        matches,
    )
    .fetch_all(conn)
    .await?)
}
