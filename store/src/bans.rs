//! Players whom operators keep out. A ban is decided under the player's row lock, as every log-in is: whoever logs in
//! either is there before the ban and is ended by its revocation, or finds it.

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    Result,
    tokens::{self, Revocation},
};

/// Longest reason, bytes.
pub const REASON_BYTES: usize = 256;

/// What keeps a player out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    pub reason: String,
    /// None: for ever.
    pub until: Option<OffsetDateTime>,
}

/// Bans a player, in place of an earlier ban, and ends all of their log-ins, in the caller's transaction; none: there is no such
/// player. The caller makes the revocation known after the commit.
///
/// # Errors
/// When the database does not answer.
pub async fn ban(conn: &mut PgConnection, player: Uuid, ban: &Ban, access_ttl_s: f64) -> Result<Option<Revocation>> {
    let Some(revocation) = end_logins(conn, player, "banned", access_ttl_s).await? else { return Ok(None) };
    sqlx::query!(
        "INSERT INTO bans (player_id, reason, until) VALUES ($1, $2, $3)
         ON CONFLICT (player_id) DO UPDATE SET reason = excluded.reason, until = excluded.until, banned_at = now()",
        player,
        ban.reason,
        ban.until,
    )
    .execute(conn)
    .await?;
    Ok(Some(revocation))
}

/// Lifts a ban, if there is one. False: there is no such player.
///
/// # Errors
/// When the database does not answer.
pub async fn unban(conn: &mut PgConnection, player: Uuid) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"WITH lifted AS (DELETE FROM bans WHERE player_id = $1)
           SELECT EXISTS (SELECT 1 FROM players WHERE id = $1) AS "known!""#,
        player
    )
    .fetch_one(conn)
    .await?)
}

/// Ends all log-ins of a player, who may log in again, in the caller's transaction; none: there is no such player. The caller makes
/// the revocation known after the commit.
///
/// # Errors
/// When the database does not answer.
pub async fn log_out(conn: &mut PgConnection, player: Uuid, access_ttl_s: f64) -> Result<Option<Revocation>> {
    end_logins(conn, player, "logged_out", access_ttl_s).await
}

async fn end_logins(
    conn: &mut PgConnection,
    player: Uuid,
    reason: &str,
    access_ttl_s: f64,
) -> Result<Option<Revocation>> {
    let known = sqlx::query_scalar!("SELECT id FROM players WHERE id = $1 FOR UPDATE", player)
        .fetch_optional(&mut *conn)
        .await?;
    if known.is_none() {
        return Ok(None);
    }
    tokens::revoke_player(conn, player, reason, access_ttl_s).await.map(Some)
}

/// The ban that keeps a player out now. To be asked after the caller's transaction has inserted the log-in's family,
/// whose reference to the player waits for a ban under way.
///
/// # Errors
/// When the database does not answer.
pub async fn of(conn: &mut PgConnection, player: Uuid) -> Result<Option<Ban>> {
    Ok(sqlx::query_as!(
        Ban,
        "SELECT reason, until FROM bans WHERE player_id = $1 AND (until IS NULL OR until > now())",
        player
    )
    .fetch_optional(conn)
    .await?)
}

/// Deletes bans that are over. Bounded per call.
///
/// # Errors
/// When the database does not answer.
pub async fn sweep(pool: &PgPool) -> Result<u64> {
    let swept = sqlx::query!(
        "DELETE FROM bans WHERE player_id IN (SELECT player_id FROM bans WHERE until < now() - interval '1 day'
                                              ORDER BY until LIMIT 1000 FOR UPDATE SKIP LOCKED)"
    )
    .execute(pool)
    .await?;
    Ok(swept.rows_affected())
}
