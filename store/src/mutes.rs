//! Players who must be silent, in a channel or everywhere. A mute that is over, or was lifted, stays for a day: nodes that were away read
//! of it as of any other change.

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    Result,
    moderation::{self, What},
};

/// Longest reason, bytes.
pub const REASON_BYTES: usize = 256;
/// Longest channel id, bytes.
pub const CHANNEL_BYTES: usize = 200;

/// A mute that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mute {
    pub player_id: Uuid,
    /// Empty: everywhere.
    pub channel_id: String,
    pub reason: String,
    /// None: for ever.
    pub until: Option<OffsetDateTime>,
    /// As the audit names them.
    pub muted_by: String,
    pub muted_at: OffsetDateTime,
}

/// What somebody is muted with.
#[derive(Debug, Clone, Copy)]
pub struct NewMute<'a> {
    pub player_id: Uuid,
    /// Empty: everywhere.
    pub channel_id: &'a str,
    pub reason: &'a str,
    pub until: Option<OffsetDateTime>,
    pub muted_by: &'a str,
}

/// What nodes know of a mute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    pub version: i64,
    pub player_id: Uuid,
    pub channel_id: String,
    pub until: Option<OffsetDateTime>,
    /// It holds no more, whatever `until` says.
    pub lifted: bool,
}

/// Mutes a player, in place of an earlier mute there. False: there is no such player. The caller wakes the nodes after the commit.
///
/// # Errors
/// When the database does not answer.
pub async fn mute(conn: &mut PgConnection, mute: NewMute<'_>) -> Result<bool> {
    let known = sqlx::query_scalar!("SELECT 1 AS one FROM players WHERE id = $1 FOR KEY SHARE", mute.player_id);
    if known.fetch_optional(&mut *conn).await?.is_none() {
        return Ok(false);
    }
    let version = moderation::next(conn, What::Mutes).await?;
    sqlx::query!(
        "INSERT INTO mutes (player_id, channel_id, reason, until, muted_by, version) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (player_id, channel_id) DO UPDATE SET reason = excluded.reason, until = excluded.until,
             muted_by = excluded.muted_by, muted_at = now(), lifted_at = NULL, version = excluded.version",
        mute.player_id,
        mute.channel_id,
        mute.reason,
        mute.until,
        mute.muted_by,
        version
    )
    .execute(conn)
    .await?;
    Ok(true)
}

/// Lifts the mute of that channel (empty: of everywhere), if there is one. False: there is no such player. The caller wakes the nodes
/// after the commit.
///
/// # Errors
/// When the database does not answer.
pub async fn unmute(conn: &mut PgConnection, player: Uuid, channel_id: &str) -> Result<bool> {
    let known = sqlx::query_scalar!("SELECT 1 AS one FROM players WHERE id = $1 FOR KEY SHARE", player);
    if known.fetch_optional(&mut *conn).await?.is_none() {
        return Ok(false);
    }
    let version = moderation::next(conn, What::Mutes).await?;
    sqlx::query!(
        "UPDATE mutes SET lifted_at = now(), version = $3 WHERE player_id = $1 AND channel_id = $2 AND lifted_at IS NULL",
        player,
        channel_id,
        version
    )
    .execute(conn)
    .await?;
    Ok(true)
}

/// The mutes that hold, by player and channel, after `after`; of one player or of all.
///
/// # Errors
/// When the database does not answer.
pub async fn list(pool: &PgPool, player: Option<Uuid>, after: Option<(Uuid, &str)>, limit: i64) -> Result<Vec<Mute>> {
    let (after_player, after_channel) = after.unzip();
    Ok(sqlx::query_as!(
        Mute,
        "SELECT player_id, channel_id, reason, until, muted_by, muted_at FROM mutes
         WHERE lifted_at IS NULL AND (until IS NULL OR until > now()) AND ($1::uuid IS NULL OR player_id = $1)
           AND ($2::uuid IS NULL OR (player_id, channel_id) > ($2, $3::text))
         ORDER BY player_id, channel_id LIMIT $4",
        player,
        after_player,
        after_channel,
        limit
    )
    .fetch_all(pool)
    .await?)
}

/// What changed after a version, in its order.
///
/// # Errors
/// When the database does not answer.
pub async fn since(pool: &PgPool, version: i64, limit: i64) -> Result<Vec<Changed>> {
    Ok(sqlx::query_as!(
        Changed,
        r#"SELECT version, player_id, channel_id, until, lifted_at IS NOT NULL AS "lifted!" FROM mutes
           WHERE version > $1 ORDER BY version LIMIT $2"#,
        version,
        limit
    )
    .fetch_all(pool)
    .await?)
}

pub(crate) async fn sweep(pool: &PgPool) -> Result<u64> {
    let swept = sqlx::query!(
        "DELETE FROM mutes WHERE (player_id, channel_id) IN (
             SELECT player_id, channel_id FROM mutes
             WHERE (lifted_at IS NOT NULL OR until IS NOT NULL) AND COALESCE(lifted_at, until) < now() - interval '1 day'
             ORDER BY COALESCE(lifted_at, until) LIMIT 1000 FOR UPDATE SKIP LOCKED)"
    );
    Ok(swept.execute(pool).await?.rows_affected())
}
