//! How far a read replica is.

use std::time::Duration;

use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};
use tokio::time::sleep;

use crate::Result;

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(20);

/// Where the primary's log ends: whoever has replayed it up to there has all that was committed when this was asked.
///
/// # Errors
/// When the database fails, or is a standby itself.
pub async fn position(primary: &PgPool) -> Result<String> {
    Ok(sqlx::query_scalar!(r#"SELECT pg_current_wal_lsn()::text AS "lsn!""#).fetch_one(primary).await?)
}

/// A connection to a replica, once that has replayed up to there; the caller bounds the wait. None: it is no standby, and cannot say.
///
/// It is one connection that is asked and then given away: behind one address there may be several replicas, and the next connection could
/// lead to one that has not come so far.
///
/// # Errors
/// When the database fails.
pub async fn caught_up(replica: &PgPool, position: &str) -> Result<Option<PoolConnection<Postgres>>> {
    let mut connection = Box::pin(replica.acquire()).await?;
    loop {
        match has_replayed(&mut connection, position).await? {
            Some(true) => return Ok(Some(connection)),
            Some(false) => sleep(LOOK).await,
            None => return Ok(None),
        }
    }
}

async fn has_replayed(replica: &mut PgConnection, position: &str) -> Result<Option<bool>> {
    Ok(sqlx::query_scalar!("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn WHERE pg_is_in_recovery()", position)
        .fetch_optional(replica)
        .await?
        .flatten())
}
