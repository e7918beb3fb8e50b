//! Matches: what a host writes for its own under the fence of (host, incarnation, epoch), and what everybody reads.

use std::collections::HashSet;

use asobi_proto::mode::ModeSettings;
use sqlx::{PgConnection, PgPool, types::time::OffsetDateTime};
use uuid::Uuid;

use crate::{Error, effects::Effect, lock_keys::QUICK_PLAY};

/// Who may write for a match: its row must say exactly this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    pub match_id: Uuid,
    pub host_node: String,
    pub host_incarnation: i64,
    pub epoch: i64,
}

/// Where a running match can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSeat {
    pub match_id: Uuid,
    pub mode: String,
    pub host_node: String,
    pub host_incarnation: i64,
    pub epoch: i64,
}

/// A match's row.
#[derive(Debug, Clone)]
pub struct MatchRow {
    pub id: Uuid,
    pub mode: String,
    /// `allocating`, `running`, `finished` or `failed`.
    pub state: String,
    pub host_node: String,
    pub host_incarnation: i64,
    pub epoch: i64,
    pub players: Vec<Uuid>,
    pub result: Option<serde_json::Value>,
    pub inserted_at: OffsetDateTime,
    pub started_at: Option<OffsetDateTime>,
    pub finished_at: Option<OffsetDateTime>,
}

/// A live match as `match.list` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub match_id: Uuid,
    pub mode: String,
    /// `waiting` or `running`.
    pub status: String,
    pub player_count: i32,
    pub max_players: i32,
    pub joinable: bool,
    pub listed: bool,
}

/// What to list; none means any.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    pub mode: Option<String>,
    pub has_capacity: Option<bool>,
    pub joinable: Option<bool>,
}

/// How many live matches one listing shows at most.
pub const LIST_LIMIT: i64 = 200;

/// The match this player has a seat in: it runs, or is on its way to the host that goes on with it after its own was lost.
///
/// # Errors
/// The database did not answer.
pub async fn live_of(pool: &PgPool, player: Uuid) -> Result<Option<LiveSeat>, Error> {
    Ok(sqlx::query_as!(
        LiveSeat,
        "SELECT m.id AS match_id, m.mode, m.host_node, m.host_incarnation, m.epoch
         FROM match_players p JOIN matches m ON m.id = p.match_id
         WHERE p.player_id = $1 AND (m.state = 'running' OR (m.state = 'allocating' AND m.failovers > 0))",
        player,
    )
    .fetch_optional(pool)
    .await?)
}

/// Where a match runs, if it does, or is about to go on after its host was lost.
///
/// # Errors
/// The database did not answer.
pub async fn live(pool: &PgPool, match_id: Uuid) -> Result<Option<LiveSeat>, Error> {
    Ok(sqlx::query_as!(
        LiveSeat,
        "SELECT id AS match_id, mode, host_node, host_incarnation, epoch FROM matches
         WHERE id = $1 AND (state = 'running' OR (state = 'allocating' AND failovers > 0))",
        match_id,
    )
    .fetch_optional(pool)
    .await?)
}

/// As [`live`], for many matches in one query: those that are over, or never were, are left out.
///
/// # Errors
/// The database did not answer.
pub async fn whereabouts(pool: &PgPool, match_ids: &[Uuid]) -> Result<Vec<LiveSeat>, Error> {
    Ok(sqlx::query_as!(
        LiveSeat,
        // By its id, whatever the planner thinks of how few matches run.
        r#"SELECT m.id AS "match_id!", m.mode AS "mode!", m.host_node AS "host_node!", m.host_incarnation AS "host_incarnation!",
             m.epoch AS "epoch!"
           FROM (SELECT DISTINCT id FROM UNNEST((SELECT $1::uuid[])) AS u(id)) AS w CROSS JOIN LATERAL (
               SELECT m.id, m.mode, m.host_node, m.host_incarnation, m.epoch, m.state, m.failovers FROM matches m
               WHERE m.id = w.id OFFSET 0) AS m
           WHERE m.state = 'running' OR (m.state = 'allocating' AND m.failovers > 0)"#,
        match_ids,
    )
    .fetch_all(pool)
    .await?)
}

/// A match's row, whatever became of it.
///
/// # Errors
/// The database did not answer.
pub async fn by_id(pool: &PgPool, match_id: Uuid) -> Result<Option<MatchRow>, Error> {
    Ok(sqlx::query_as!(
        MatchRow,
        "SELECT id, mode, state, host_node, host_incarnation, epoch, players, result, inserted_at, started_at, finished_at
         FROM matches WHERE id = $1",
        match_id,
    )
    .fetch_optional(pool)
    .await?)
}

/// Live matches of listed modes, oldest first, at most [`LIST_LIMIT`]. Matches of hosts whose lease has run out are not shown.
///
/// # Errors
/// The database did not answer.
pub async fn list_live(pool: &PgPool, filter: &ListFilter) -> Result<Vec<Listing>, Error> {
    Ok(sqlx::query_as!(
        Listing,
        "SELECT l.match_id, l.mode, l.status, l.player_count, l.max_players, l.joinable, l.listed
         FROM match_listings l
         JOIN matches m ON m.id = l.match_id AND m.state = 'running'
         JOIN nodes n ON n.node_id = m.host_node AND n.incarnation = m.host_incarnation AND n.lease_until > now()
         WHERE l.listed
           AND ($1::text IS NULL OR l.mode = $1)
           AND ($2::boolean IS NULL OR (l.player_count < l.max_players) = $2)
           AND ($3::boolean IS NULL OR l.joinable = $3)
         ORDER BY l.match_id LIMIT $4",
        filter.mode,
        filter.has_capacity,
        filter.joinable,
        LIST_LIMIT,
    )
    .fetch_all(pool)
    .await?)
}

/// Matches that ended, newest first. `status`: `finished` (also when none) or `failed`; any other finds nothing.
///
/// # Errors
/// The database did not answer.
pub async fn finished(
    pool: &PgPool,
    mode: Option<&str>,
    status: Option<&str>,
    limit: i64,
) -> Result<Vec<MatchRow>, Error> {
    let limit = limit.clamp(0, LIST_LIMIT);
    match status {
        None | Some("finished") => Ok(sqlx::query_as!(
            MatchRow,
            "SELECT id, mode, state, host_node, host_incarnation, epoch, players, result, inserted_at, started_at, finished_at
             FROM matches WHERE state = 'finished' AND ($1::text IS NULL OR mode = $1)
             ORDER BY finished_at DESC LIMIT $2",
            mode,
            limit,
        )
        .fetch_all(pool)
        .await?),
        Some("failed") => Ok(sqlx::query_as!(
            MatchRow,
            "SELECT id, mode, state, host_node, host_incarnation, epoch, players, result, inserted_at, started_at, finished_at
             FROM matches WHERE state = 'failed' AND ($1::text IS NULL OR mode = $1)
             ORDER BY finished_at DESC LIMIT $2",
            mode,
            limit,
        )
        .fetch_all(pool)
        .await?),
        Some(_) => Ok(Vec::new()),
    }
}

/// A running match of a mode with a free seat, the fullest first: what [`quick_play`] would find, for when no host could take a new one.
///
/// # Errors
/// The database did not answer.
pub async fn with_a_free_seat(pool: &PgPool, mode: &str) -> Result<Option<LiveSeat>, Error> {
    Ok(sqlx::query_as!(
        LiveSeat,
        "SELECT m.id AS match_id, m.mode, m.host_node, m.host_incarnation, m.epoch
         FROM match_listings l
         JOIN matches m ON m.id = l.match_id AND m.state = 'running'
         JOIN nodes n ON n.node_id = m.host_node AND n.incarnation = m.host_incarnation AND n.lease_until > now() AND n.state = 'ready'
         WHERE l.mode = $1 AND l.joinable AND l.player_count < l.max_players
         ORDER BY l.player_count DESC, l.match_id LIMIT 1",
        mode,
    )
    .fetch_optional(pool)
    .await?)
}

/// What [`quick_play`] found or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuickPlay {
    /// A running match with a free seat.
    Found(LiveSeat),
    /// Somebody else is making one right now: ask again in a moment, or enter it once it runs.
    Forming(Uuid),
    /// A row was inserted, `allocating` on the given host with epoch 1 and term 0: call `CreateMatch` there with it, then enter.
    Formed(LiveSeat),
}

/// One step of `match.find_or_create`, the same match for simultaneous callers on any node: they take turns per mode. `host` is where a new
/// match would be made. A `Forming` match older than ten seconds is taken for lost and another is made.
///
/// # Errors
/// The database did not answer.
pub async fn quick_play(pool: &PgPool, mode: &str, host: (&str, i64)) -> Result<QuickPlay, Error> {
    let mut tx = crate::begin(pool).await?;
    sqlx::query!("SELECT pg_advisory_xact_lock($1, hashtext($2))", QUICK_PLAY, mode).execute(&mut *tx).await?;
    // Looked for first: one that is listed between the two looks is found by the second.
    let forming = sqlx::query_scalar!(
        "SELECT id FROM matches WHERE mode = $1 AND term = 0 AND state IN ('allocating', 'running')
           AND inserted_at > now() - interval '10 seconds'
           AND NOT EXISTS (SELECT 1 FROM match_listings l WHERE l.match_id = matches.id)
         ORDER BY id LIMIT 1",
        mode,
    )
    .fetch_optional(&mut *tx)
    .await?;
    let found = sqlx::query_as!(
        LiveSeat,
        "SELECT m.id AS match_id, m.mode, m.host_node, m.host_incarnation, m.epoch
         FROM match_listings l
         JOIN matches m ON m.id = l.match_id AND m.state = 'running'
         JOIN nodes n ON n.node_id = m.host_node AND n.incarnation = m.host_incarnation AND n.lease_until > now() AND n.state = 'ready'
         WHERE l.mode = $1 AND l.joinable AND l.player_count < l.max_players
         ORDER BY l.player_count DESC, l.match_id LIMIT 1",
        mode,
    )
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(seat) = found {
        return Ok(QuickPlay::Found(seat));
    }
    if let Some(id) = forming {
        return Ok(QuickPlay::Forming(id));
    }
    let seat = LiveSeat {
        match_id: Uuid::now_v7(),
        mode: mode.to_owned(),
        host_node: host.0.to_owned(),
        host_incarnation: host.1,
        epoch: 1,
    };
    sqlx::query!(
        "INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players, told)
         VALUES ($1, $2, 'allocating', $3, $4, 1, 0, '{}', true)",
        seat.match_id,
        seat.mode,
        seat.host_node,
        seat.host_incarnation,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(QuickPlay::Formed(seat))
}

/// Gives up a match that [`quick_play`] formed and no host took.
///
/// # Errors
/// The database did not answer.
pub async fn abandon(pool: &PgPool, match_id: Uuid) -> Result<bool, Error> {
    let done = sqlx::query!(
        "UPDATE matches SET state = 'failed', finished_at = now() WHERE id = $1 AND state = 'allocating' AND term = 0",
        match_id,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A host takes the matches that their rows give it, each with the version of its code: `allocating` → `running`, all in one statement. Answers match and epoch of those it has now;
/// the rows of the others are not, or no longer, this host's. Repeating a claim that succeeded answers as the first did.
///
/// # Errors
/// The database did not answer; whether the claims happened is unknown and they may be repeated.
pub async fn claim(pool: &PgPool, claims: &[(Fence, String)]) -> Result<HashSet<(Uuid, i64)>, Error> {
    let fences = || claims.iter().map(|(fence, _)| fence);
    let ids: Vec<Uuid> = fences().map(|fence| fence.match_id).collect();
    let hosts: Vec<String> = fences().map(|fence| fence.host_node.clone()).collect();
    let incarnations: Vec<i64> = fences().map(|fence| fence.host_incarnation).collect();
    let epochs: Vec<i64> = fences().map(|fence| fence.epoch).collect();
    let versions: Vec<String> = claims.iter().map(|(_, version)| version.clone()).collect();
    let rows = sqlx::query!(
        // With the row of its checkpoints, empty or as an earlier host left it.
        "WITH claimed AS (
           UPDATE matches m SET state = 'running', started_at = coalesce(m.started_at, now()), version = c.version
           FROM UNNEST($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::text[])
             AS c (id, host_node, host_incarnation, epoch, version)
           WHERE m.id = c.id AND m.host_node = c.host_node AND m.host_incarnation = c.host_incarnation AND m.epoch = c.epoch
             AND m.state IN ('allocating', 'running')
           RETURNING m.id, m.epoch),
         kept AS (
           INSERT INTO match_checkpoints (match_id, epoch, number, body) SELECT id, epoch, 0, '' FROM claimed ORDER BY id
           ON CONFLICT (match_id) DO UPDATE SET epoch = excluded.epoch)
         SELECT id, epoch FROM claimed",
        &ids,
        &hosts,
        &incarnations,
        &epochs,
        &versions,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.epoch)).collect())
}

/// How a match ended.
#[derive(Debug, Clone)]
pub struct Ending<'a> {
    /// True: by its own rules. False: it failed (script, host).
    pub finished: bool,
    /// JSON text without NUL characters.
    pub result: &'a str,
    /// Every effect that is not known to be written already.
    pub effects: &'a [Effect],
}

/// Ends a match: result, seats, listing and effects in one transaction. False: it was not this host's to end.
/// The caller wakes [`Topic::Effects`](asobi_proto::bus::Topic::Effects) afterwards.
///
/// # Errors
/// The database did not answer; whether the match ended is unknown and it may be repeated: see [`ended_by`].
pub async fn finish(pool: &PgPool, fence: &Fence, ending: &Ending<'_>) -> Result<bool, Error> {
    let mut tx = crate::begin(pool).await?;
    let ended = end(&mut tx, fence, ending).await?;
    tx.commit().await?;
    Ok(ended)
}

/// Ends a match that its host does not have, as [`finish`]. Nobody there can tell its players, so the leader does: also of what they were told
/// before, as of a match that went on elsewhere and ended.
///
/// # Errors
/// As those of [`finish`].
pub async fn lose(pool: &PgPool, fence: &Fence, result: &str) -> Result<bool, Error> {
    let mut tx = crate::begin(pool).await?;
    let ended = end(&mut tx, fence, &Ending { finished: false, result, effects: &[] }).await?;
    if ended {
        sqlx::query!(
            "UPDATE matches SET told = false, failovers = GREATEST(failovers, 1) WHERE id = $1 AND told",
            fence.match_id
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(ended)
}

async fn end(conn: &mut PgConnection, fence: &Fence, ending: &Ending<'_>) -> Result<bool, Error> {
    if !lock_fenced(conn, fence).await? {
        return Ok(false);
    }
    let state = if ending.finished { "finished" } else { "failed" };
    sqlx::query!(
        "UPDATE matches SET state = $2, result = $3::text::jsonb, finished_at = now() WHERE id = $1",
        fence.match_id,
        state,
        ending.result,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("DELETE FROM match_players WHERE match_id = $1", fence.match_id).execute(&mut *conn).await?;
    sqlx::query!("DELETE FROM match_listings WHERE match_id = $1", fence.match_id).execute(&mut *conn).await?;
    sqlx::query!("DELETE FROM match_checkpoints WHERE match_id = $1", fence.match_id).execute(&mut *conn).await?;
    crate::effects::insert(conn, fence, ending.effects).await?;
    Ok(true)
}

/// Whether the match has ended under exactly this fence: what a host asks after a [`finish`] whose outcome it did not learn.
///
/// # Errors
/// The database did not answer.
pub async fn ended_by(pool: &PgPool, fence: &Fence) -> Result<bool, Error> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM matches WHERE id = $1 AND host_node = $2 AND host_incarnation = $3 AND epoch = $4
           AND state IN ('finished', 'failed')) AS "ended!""#,
        fence.match_id,
        fence.host_node,
        fence.host_incarnation,
        fence.epoch,
    )
    .fetch_one(pool)
    .await?)
}

/// What became of a wish for a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeatTaken {
    Taken,
    /// The player already has a seat in this match.
    Held,
    /// The player has a seat in another live match.
    Elsewhere,
    /// The match is not, or no longer, this host's.
    NotOurs,
}

/// Takes a seat for a player who joins a running match, and withdraws the player's tickets: nobody is in two matches.
///
/// # Errors
/// The database did not answer.
pub async fn take_seat(pool: &PgPool, fence: &Fence, player: Uuid) -> Result<SeatTaken, Error> {
    let mut tx = crate::begin(pool).await?;
    if !lock_fenced(&mut tx, fence).await? {
        return Ok(SeatTaken::NotOurs);
    }
    let taken = sqlx::query!(
        "INSERT INTO match_players (player_id, match_id) VALUES ($1, $2) ON CONFLICT (player_id) DO NOTHING",
        player,
        fence.match_id,
    )
    .execute(&mut *tx)
    .await?;
    if taken.rows_affected() == 0 {
        let held = sqlx::query_scalar!("SELECT match_id FROM match_players WHERE player_id = $1", player)
            .fetch_optional(&mut *tx)
            .await?;
        return Ok(if held == Some(fence.match_id) { SeatTaken::Held } else { SeatTaken::Elsewhere });
    }
    // What the others of a party are told is not published: their nodes look into inboxes every few seconds.
    crate::allocation::withdraw(&mut tx, &[player]).await?;
    tx.commit().await?;
    Ok(SeatTaken::Taken)
}

/// Gives up players' seats in the host's own match.
///
/// # Errors
/// The database did not answer; it may be repeated.
pub async fn give_up_seats(pool: &PgPool, fence: &Fence, players: &[Uuid]) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM match_players p USING matches m
         WHERE p.match_id = $1 AND p.player_id = ANY($2) AND m.id = p.match_id
           AND m.host_node = $3 AND m.host_incarnation = $4 AND m.epoch = $5",
        fence.match_id,
        players,
        fence.host_node,
        fence.host_incarnation,
        fence.epoch,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The running matches of one incarnation of a host, with their epochs.
///
/// # Errors
/// The database did not answer.
pub async fn held(pool: &PgPool, host_node: &str, host_incarnation: i64) -> Result<Vec<(Uuid, i64)>, Error> {
    let rows = sqlx::query!(
        "SELECT id, epoch FROM matches WHERE host_node = $1 AND host_incarnation = $2 AND state = 'running'",
        host_node,
        host_incarnation,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.epoch)).collect())
}

/// A listing's changing part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListingState {
    /// False: it waits for players.
    pub running: bool,
    pub player_count: i32,
    pub joinable: bool,
}

/// Writes what a match looks like from outside, if it is running and this host's.
///
/// # Errors
/// The database did not answer; it may be repeated.
pub async fn put_listing(
    pool: &PgPool,
    fence: &Fence,
    settings: &ModeSettings,
    state: ListingState,
) -> Result<(), Error> {
    let status = if state.running { "running" } else { "waiting" };
    let max_players = i32::try_from(settings.max_players).unwrap_or(i32::MAX);
    sqlx::query!(
        "INSERT INTO match_listings (match_id, mode, status, player_count, max_players, joinable, listed)
         SELECT id, mode, $5, $6, $7, $8, $9 FROM matches
         WHERE id = $1 AND host_node = $2 AND host_incarnation = $3 AND epoch = $4 AND state = 'running' FOR SHARE
         ON CONFLICT (match_id) DO UPDATE SET status = excluded.status, player_count = excluded.player_count,
             max_players = excluded.max_players, joinable = excluded.joinable, listed = excluded.listed",
        fence.match_id,
        fence.host_node,
        fence.host_incarnation,
        fence.epoch,
        status,
        state.player_count,
        max_players,
        state.joinable,
        settings.listed,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Locks the running match's row for this transaction if it is still the fence's.
async fn lock_fenced(conn: &mut PgConnection, fence: &Fence) -> Result<bool, Error> {
    let row = sqlx::query_scalar!(
        r#"SELECT 1 AS "one!" FROM matches
           WHERE id = $1 AND host_node = $2 AND host_incarnation = $3 AND epoch = $4 AND state = 'running' FOR UPDATE"#,
        fence.match_id,
        fence.host_node,
        fence.host_incarnation,
        fence.epoch,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.is_some())
}
