//! Running matches that ask the queue for players: one request per match, and the players claimed for it until their host has answered.
//!
//! Lock order: `matches`, then `match_players` (sorted by player), then `tickets`, as everywhere.

use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use crate::Error;

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
