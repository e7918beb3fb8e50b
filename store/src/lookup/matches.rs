//! Matches as operators see them.

use serde_json::Value;
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Result;

/// Which matches are wanted; none means any.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// By their names; at least one.
    pub states: Vec<String>,
    pub mode: Option<String>,
    pub host: Option<String>,
    /// Has a seat in it, or was there when it was formed.
    pub player: Option<Uuid>,
    /// Older than this one.
    pub before: Option<Uuid>,
}

/// A match in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub id: Uuid,
    pub mode: String,
    pub state: String,
    pub host_node: String,
    pub host_incarnation: i64,
    pub epoch: i64,
    /// With a seat; of one that has ended: those it was formed with.
    pub players: i64,
    pub failovers: i32,
    pub version: String,
    pub inserted_at: OffsetDateTime,
    pub started_at: Option<OffsetDateTime>,
    pub finished_at: Option<OffsetDateTime>,
}

/// Matches, newest first, at most `limit`.
///
/// # Errors
/// When the database does not answer.
pub async fn list(pool: &PgPool, wanted: &Wanted, limit: i64) -> Result<Vec<Line>> {
    Ok(sqlx::query_as!(
        Line,
        r#"SELECT m.id, m.mode, m.state, m.host_node, m.host_incarnation, m.epoch, m.failovers, m.version,
                  m.inserted_at, m.started_at, m.finished_at,
                  CASE WHEN m.state IN ('allocating', 'running')
                       THEN (SELECT count(*) FROM match_players s WHERE s.match_id = m.id)
                       ELSE cardinality(m.players) END AS "players!"
           FROM matches m
           WHERE m.state = ANY($1) AND ($2::text IS NULL OR m.mode = $2) AND ($3::text IS NULL OR m.host_node = $3)
             AND ($4::uuid IS NULL OR $4 = ANY(m.players)
                  OR m.id = (SELECT p.match_id FROM match_players p WHERE p.player_id = $4))
             AND ($5::uuid IS NULL OR m.id < $5)
           ORDER BY m.id DESC LIMIT $6"#,
        &wanted.states,
        wanted.mode,
        wanted.host,
        wanted.player,
        wanted.before,
        limit,
    )
    .fetch_all(pool)
    .await?)
}

/// A taken seat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    pub player_id: Uuid,
    pub joined_at: OffsetDateTime,
}

/// How a match looks from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    pub status: String,
    pub player_count: i32,
    pub max_players: i32,
    pub joinable: bool,
    pub listed: bool,
}

/// What another host would go on from.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    pub number: i64,
    pub age_s: f64,
    pub bytes: i32,
}

/// All that the rows say of a match.
#[derive(Debug, Clone)]
pub struct Detail {
    pub line: Line,
    pub formed_with: Vec<Uuid>,
    pub seats: Vec<Seat>,
    pub listing: Option<Listing>,
    pub checkpoint: Option<Checkpoint>,
    pub result: Option<Value>,
    pub teams: Option<Value>,
    pub backfill_wanted: i32,
}

/// One match; none: there is no such match, or none any more. The parts are read one after the other and need not be of the same moment.
///
/// # Errors
/// When the database does not answer.
pub async fn detail(pool: &PgPool, id: Uuid) -> Result<Option<Detail>> {
    let row = sqlx::query!(
        r#"SELECT m.mode, m.state, m.host_node, m.host_incarnation, m.epoch, m.failovers, m.version, m.inserted_at,
                  m.started_at, m.finished_at, m.players, m.result, m.teams,
                  COALESCE((SELECT b.wanted FROM backfills b WHERE b.match_id = m.id), 0) AS "wanted!"
           FROM matches m WHERE m.id = $1"#,
        id,
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let seats = sqlx::query_as!(
        Seat,
        "SELECT player_id, joined_at FROM match_players WHERE match_id = $1 ORDER BY joined_at, player_id LIMIT 1000",
        id,
    )
    .fetch_all(pool)
    .await?;
    let listing = sqlx::query_as!(
        Listing,
        "SELECT status, player_count, max_players, joinable, listed FROM match_listings WHERE match_id = $1",
        id,
    )
    .fetch_optional(pool)
    .await?;
    let checkpoint = sqlx::query_as!(
        Checkpoint,
        r#"SELECT number, extract(epoch FROM clock_timestamp() - written_at)::float8 AS "age_s!", octet_length(body) AS "bytes!"
           FROM match_checkpoints WHERE match_id = $1"#,
        id,
    )
    .fetch_optional(pool)
    .await?;
    let open = row.state == "allocating" || row.state == "running";
    let players = if open { seats.len() } else { row.players.len() };
    Ok(Some(Detail {
        line: Line {
            id,
            mode: row.mode,
            state: row.state,
            host_node: row.host_node,
            host_incarnation: row.host_incarnation,
            epoch: row.epoch,
            players: i64::try_from(players).unwrap_or(i64::MAX),
            failovers: row.failovers,
            version: row.version,
            inserted_at: row.inserted_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
        },
        formed_with: row.players,
        seats,
        listing,
        checkpoint: checkpoint.filter(|checkpoint| checkpoint.bytes > 0),
        result: row.result,
        teams: row.teams,
        backfill_wanted: row.wanted,
    }))
}
