//! How far a read replica is.

use sqlx::PgPool;

use crate::Result;

/// Where the primary's log ends: whoever has replayed it up to there has all that was committed when this was asked.
///
/// # Errors
/// When the database fails, or is a standby itself.
pub async fn position(primary: &PgPool) -> Result<String> {
    Ok(sqlx::query_scalar!(r#"SELECT pg_current_wal_lsn()::text AS "lsn!""#).fetch_one(primary).await?)
}

/// Whether a replica has replayed up to there; none: it is no standby, and cannot say.
///
/// # Errors
/// When the database fails.
pub async fn has_replayed(replica: &PgPool, position: &str) -> Result<Option<bool>> {
    Ok(sqlx::query_scalar!("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn WHERE pg_is_in_recovery()", position)
        .fetch_optional(replica)
        .await?
        .flatten())
}
