//! Running matches that ask the queue for players: one request per match, and the players claimed for it until their host has answered.
//!
//! Lock order: `matches`, then `match_players` (sorted by player), then `tickets`, as everywhere.

use std::collections::HashSet;

use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{Error, Result, allocation, inbox::StoredEvent};

/// A match that wants players.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub match_id: Uuid,
    pub mode: String,
    /// How many are still wanted, at least 1.
    pub wanted: i32,
    /// What the match says of itself, as a ticket does.
    pub properties: Value,
    pub requested_at: time::OffsetDateTime,
}

#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Never there, not started yet, or over.
    #[error("no such match runs")]
    NotRunning,
    /// The mode's `backfill` is off.
    #[error("the match's mode takes no players from the queue")]
    NotOffered,
    #[error(transparent)]
    Db(#[from] Error),
}

impl From<sqlx::Error> for RequestError {
    fn from(error: sqlx::Error) -> Self {
        Self::Db(error.into())
    }
}

/// Asks for `wanted` players for a running match, in place of what it asked before; 0 withdraws. `properties` is a JSON object whose size
/// the caller has bounded. The caller publishes a `TicketItem` of the match that says `backfill`.
///
/// # Errors
/// No such match runs, its mode does not backfill, or the database failed.
pub async fn request(pool: &PgPool, match_id: Uuid, wanted: i32, properties: &Value) -> Result<(), RequestError> {
    if wanted <= 0 {
        sqlx::query!("DELETE FROM backfills WHERE match_id = $1", match_id).execute(pool).await?;
        return Ok(());
    }
    let row = sqlx::query!(
        r#"WITH running AS (
             SELECT m.id, m.mode, COALESCE((o.settings || o.operator_settings) -> 'backfill' = 'true', false) AS offered
             FROM matches m LEFT JOIN modes o ON o.mode = m.mode WHERE m.id = $1 AND m.state = 'running'),
           asked AS (
             INSERT INTO backfills (match_id, mode, wanted, properties) SELECT id, mode, $2, $3 FROM running WHERE offered
             ON CONFLICT (match_id) DO UPDATE SET wanted = excluded.wanted, properties = excluded.properties)
           SELECT offered AS "offered!" FROM running"#,
        match_id,
        wanted,
        properties,
    )
    .fetch_optional(pool)
    .await?;
    match row {
        None => Err(RequestError::NotRunning),
        Some(row) if !row.offered => Err(RequestError::NotOffered),
        Some(_) => Ok(()),
    }
}

/// A request with where its match runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub request: Request,
    /// The host's; empty: it does not say.
    pub region: String,
}

/// What running matches ask for, the longest waiting first.
///
/// # Errors
/// When the database fails.
pub async fn wanted(pool: &PgPool, limit: i64) -> Result<Vec<Wanted>> {
    let rows = sqlx::query!(
        r#"SELECT b.match_id, b.mode, b.wanted, b.properties, b.requested_at, COALESCE(n.region, '') AS "region!"
           FROM backfills b JOIN matches m ON m.id = b.match_id AND m.state = 'running'
           LEFT JOIN nodes n ON n.node_id = m.host_node AND n.incarnation = m.host_incarnation
           ORDER BY b.requested_at LIMIT $1"#,
        limit,
    )
    .fetch_all(pool)
    .await?;
    let wanted = rows.into_iter().map(|row| Wanted {
        request: Request {
            match_id: row.match_id,
            mode: row.mode,
            wanted: row.wanted,
            properties: row.properties,
            requested_at: row.requested_at,
        },
        region: row.region,
    });
    Ok(wanted.collect())
}

/// A ticket that is to join a running match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joining {
    pub ticket_id: Uuid,
    /// All of its rows, with their players.
    pub rows: Vec<(Uuid, Uuid)>,
}

/// What [`claim`] did.
#[derive(Debug, Default)]
pub struct Claimed {
    /// Players whose seats wait for the host's word.
    pub players: Vec<Uuid>,
    /// Tickets that were not claimed and are still pending.
    pub free: Vec<Uuid>,
    /// Tickets, by their heads, that were withdrawn because a player of theirs has a seat.
    pub withdrawn: Vec<Uuid>,
    /// What the others of such tickets are told of it, to be published after the commit.
    pub told: Vec<StoredEvent>,
}

/// Claims tickets for a match that still runs and wants that many: seats, tickets `matched`, and a claim that the host has to answer. A
/// ticket that is no longer pending, or whose player has a seat, is left out; one that finds no place any more too.
///
/// # Errors
/// When the database fails; the transaction is then to be rolled back.
pub async fn claim(conn: &mut PgConnection, match_id: Uuid, joining: &[Joining]) -> Result<Claimed> {
    let wanted = sqlx::query_scalar!(
        r#"SELECT b.wanted FROM backfills b JOIN matches m ON m.id = b.match_id
           WHERE b.match_id = $1 AND m.state = 'running' FOR UPDATE OF b FOR SHARE OF m"#,
        match_id,
    )
    .fetch_optional(&mut *conn)
    .await?;
    let mut places = usize::try_from(wanted.unwrap_or(0)).unwrap_or(0);
    let fitting: Vec<&Joining> = joining
        .iter()
        .filter(|ticket| {
            let fits = ticket.rows.len() <= places;
            places -= if fits { ticket.rows.len() } else { 0 };
            fits
        })
        .collect();
    let taken = take(conn, match_id, &fitting).await?;
    let claimed: Vec<&Joining> =
        fitting.into_iter().filter(|t| t.rows.iter().all(|(row, _)| taken.contains(row))).collect();
    release(conn, &taken, &claimed).await?;
    let (tickets, players): (Vec<Uuid>, Vec<Uuid>) =
        claimed.iter().flat_map(|t| t.rows.iter().map(|(_, player)| (t.ticket_id, *player))).unzip();
    sqlx::query!(
        "WITH claimed AS (INSERT INTO backfill_claims (match_id, ticket_id, player_id)
           SELECT $1, ticket_id, player_id FROM UNNEST($2::uuid[], $3::uuid[]) AS c (ticket_id, player_id) RETURNING 1),
         served AS (DELETE FROM backfills WHERE match_id = $1 AND wanted <= (SELECT count(*) FROM claimed) RETURNING 1)
         UPDATE backfills SET wanted = wanted - (SELECT count(*) FROM claimed) WHERE match_id = $1 AND NOT EXISTS (SELECT 1 FROM served)",
        match_id,
        &tickets,
        &players,
    )
    .execute(&mut *conn)
    .await?;
    let everybody: Vec<Uuid> = joining.iter().flat_map(|t| t.rows.iter().map(|(_, player)| *player)).collect();
    let (withdrawn, told) = allocation::withdraw(conn, &everybody).await?;
    let heads: Vec<Uuid> = joining.iter().map(|t| t.ticket_id).collect();
    let free = sqlx::query_scalar!("SELECT id FROM tickets WHERE id = ANY($1) AND state = 'pending'", &heads)
        .fetch_all(conn)
        .await?;
    Ok(Claimed { players, free, withdrawn, told })
}

/// Seats and tickets' rows of those who have neither elsewhere; answers the rows.
async fn take(conn: &mut PgConnection, match_id: Uuid, joining: &[&Joining]) -> Result<HashSet<Uuid>> {
    let players: Vec<Uuid> = joining.iter().flat_map(|t| t.rows.iter().map(|(_, player)| *player)).collect();
    let seated: HashSet<Uuid> = sqlx::query_scalar!(
        "INSERT INTO match_players (player_id, match_id)
         SELECT player_id, $2 FROM UNNEST($1::uuid[]) AS s (player_id) ORDER BY player_id
         ON CONFLICT (player_id) DO NOTHING RETURNING player_id",
        &players,
        match_id,
    )
    .fetch_all(&mut *conn)
    .await?
    .into_iter()
    .collect();
    let whole = joining.iter().filter(|t| t.rows.iter().all(|(_, player)| seated.contains(player)));
    let rows: Vec<Uuid> = whole.flat_map(|t| t.rows.iter().map(|(row, _)| *row)).collect();
    let taken = sqlx::query_scalar!(
        // Locked in the order of ids, as whoever cancels a party's ticket does.
        "WITH mine AS (SELECT id FROM tickets WHERE id = ANY($1) AND state = 'pending' ORDER BY id FOR UPDATE)
         UPDATE tickets t SET state = 'matched', match_id = $2, ended_at = now() FROM mine
         WHERE t.id = mine.id AND t.state = 'pending' RETURNING t.id",
        &rows,
        match_id,
    )
    .fetch_all(&mut *conn)
    .await?
    .into_iter()
    .collect();
    // Those seats only that were taken here: who sat in the match before keeps theirs.
    let broken = joining.iter().filter(|t| t.rows.iter().any(|(row, _)| !HashSet::contains(&taken, row)));
    let back: Vec<Uuid> = broken.flat_map(|t| t.rows.iter().map(|(_, p)| *p)).filter(|p| seated.contains(p)).collect();
    sqlx::query!("DELETE FROM match_players WHERE match_id = $1 AND player_id = ANY($2)", match_id, &back)
        .execute(conn)
        .await?;
    Ok(taken)
}

/// Gives back rows that were taken of tickets which could not be taken whole.
async fn release(conn: &mut PgConnection, taken: &HashSet<Uuid>, claimed: &[&Joining]) -> Result<()> {
    let kept: HashSet<Uuid> = claimed.iter().flat_map(|t| t.rows.iter().map(|(row, _)| *row)).collect();
    let back: Vec<Uuid> = taken.difference(&kept).copied().collect();
    if !back.is_empty() {
        sqlx::query!(
            "UPDATE tickets SET state = 'pending', match_id = NULL, ended_at = NULL WHERE id = ANY($1)",
            &back
        )
        .execute(conn)
        .await?;
    }
    Ok(())
}

/// Players who were claimed for one match and whose host has not answered for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub match_id: Uuid,
    /// False: the match is over, nobody will answer.
    pub running: bool,
    pub host_node: String,
    pub host_incarnation: i64,
    pub epoch: i64,
    /// Calls that came to nothing.
    pub attempts: i32,
    pub players: Vec<Uuid>,
}

/// Claims that the host has to answer: where a leader goes on. Those of a match that is about to go on at another host wait until it runs there.
///
/// # Errors
/// When the database fails.
pub async fn open(pool: &PgPool, limit: i64) -> Result<Vec<Open>> {
    Ok(sqlx::query_as!(
        Open,
        r#"SELECT m.id AS match_id, m.state = 'running' AS "running!", m.host_node, m.host_incarnation, m.epoch,
                  c.attempts AS "attempts!", c.players AS "players!"
           FROM (SELECT match_id, max(attempts) AS attempts, array_agg(player_id ORDER BY claimed_at, player_id) AS players
                 FROM backfill_claims GROUP BY match_id LIMIT $1) AS c
           JOIN matches m ON m.id = c.match_id AND m.state <> 'allocating'"#,
        limit,
    )
    .fetch_all(pool)
    .await?)
}

/// Those of one match.
///
/// # Errors
/// When the database fails.
pub async fn open_of(pool: &PgPool, match_id: Uuid) -> Result<Option<Open>> {
    Ok(sqlx::query_as!(
        Open,
        r#"SELECT m.id AS match_id, m.state = 'running' AS "running!", m.host_node, m.host_incarnation, m.epoch,
                  c.attempts AS "attempts!", c.players AS "players!"
           FROM (SELECT max(attempts) AS attempts, array_agg(player_id ORDER BY claimed_at, player_id) AS players
                 FROM backfill_claims WHERE match_id = $1 HAVING count(*) > 0) AS c
           JOIN matches m ON m.id = $1"#,
        match_id,
    )
    .fetch_optional(pool)
    .await?)
}

/// Counts a call that came to nothing.
///
/// # Errors
/// When the database fails.
pub async fn attempted(conn: &mut PgConnection, match_id: Uuid) -> Result<()> {
    sqlx::query!("UPDATE backfill_claims SET attempts = attempts + 1 WHERE match_id = $1", match_id)
        .execute(conn)
        .await?;
    Ok(())
}

/// A match that players have joined.
#[derive(Debug, Clone)]
pub struct Joined {
    pub mode: String,
    /// Everybody who has a seat.
    pub players: Vec<Uuid>,
    pub teams: Option<Value>,
}

/// Ends the claims of players whom the host has seated; answers those, and the match as they are told of it. The caller appends the inbox
/// events in the same transaction. None: the match is over meanwhile, the claims stay for [`put_back`].
///
/// # Errors
/// When the database fails.
pub async fn seated(conn: &mut PgConnection, match_id: Uuid, players: &[Uuid]) -> Result<Option<(Vec<Uuid>, Joined)>> {
    let row = sqlx::query!(
        r#"SELECT mode, teams, ARRAY(SELECT player_id FROM match_players s WHERE s.match_id = m.id ORDER BY joined_at, player_id) AS "players!"
           FROM matches m WHERE id = $1 AND state = 'running' FOR SHARE OF m"#,
        match_id,
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let told = sqlx::query_scalar!(
        "DELETE FROM backfill_claims WHERE match_id = $1 AND player_id = ANY($2) RETURNING player_id",
        match_id,
        players,
    )
    .fetch_all(conn)
    .await?;
    Ok(Some((told, Joined { mode: row.mode, players: row.players, teams: row.teams })))
}

/// What [`put_back`] did.
#[derive(Debug, Default)]
pub struct PutBack {
    /// Tickets that wait again, with the time they were submitted at; a party's once for each of its rows.
    pub requeued: Vec<Uuid>,
    /// Players whose ticket failed: it has expired, one of the party is seated, or they wait by a newer one.
    pub failed: Vec<Uuid>,
}

/// Ends claims that came to nothing: seats go, tickets wait again where they may, or fail. `players`: those the host refused; none: all
/// that are left.
///
/// # Errors
/// When the database fails; the transaction is then to be rolled back.
pub async fn put_back(conn: &mut PgConnection, match_id: Uuid, players: Option<&[Uuid]>) -> Result<PutBack> {
    let back = sqlx::query_scalar!(
        "DELETE FROM backfill_claims WHERE match_id = $1 AND ($2::uuid[] IS NULL OR player_id = ANY($2)) RETURNING player_id",
        match_id,
        players,
    )
    .fetch_all(&mut *conn)
    .await?;
    sqlx::query!("DELETE FROM match_players WHERE match_id = $1 AND player_id = ANY($2)", match_id, &back)
        .execute(&mut *conn)
        .await?;
    let requeued = sqlx::query_scalar!(
        r#"UPDATE tickets t SET state = 'pending', match_id = NULL, ended_at = NULL
           WHERE t.match_id = $1 AND t.player_id = ANY($2) AND t.state = 'matched' AND t.expires_at > now()
             AND (t.head IS NULL OR EXISTS (SELECT 1 FROM tickets h WHERE h.id = t.head))
             AND NOT EXISTS (
               SELECT 1 FROM tickets r
               WHERE (r.id = COALESCE(t.head, t.id) OR r.head = COALESCE(t.head, t.id)) AND (NOT (r.player_id = ANY($2))
                 OR EXISTS (SELECT 1 FROM tickets o WHERE o.player_id = r.player_id AND o.mode = r.mode AND o.state = 'pending')))
           RETURNING COALESCE(head, id) AS "head!""#,
        match_id,
        &back,
    )
    .fetch_all(&mut *conn)
    .await?;
    let failed = sqlx::query_scalar!(
        "UPDATE tickets SET state = 'failed', ended_at = now()
         WHERE match_id = $1 AND player_id = ANY($2) AND state = 'matched' RETURNING player_id",
        match_id,
        &back,
    )
    .fetch_all(conn)
    .await?;
    Ok(PutBack { requeued, failed })
}
