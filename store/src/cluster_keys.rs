//! The keys that the processes of a cluster show each other.
//!
//! ```text
//!  made ── known to every node, accepted ──► active: the newest one is shown ── another is made ──► replaced, accepted ──► retired
//!         (nodes read every few seconds)     (active_from)                                                              (retires_at)
//! ```

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Result, lock_keys::CLUSTER_KEYS};

/// A key that is not retired.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    pub value: String,
    /// Until it may be shown, by the database's clock; not above 0 when it may.
    pub active_in_ms: i64,
    /// Until it is accepted no longer; none: until another takes its place.
    pub retires_in_ms: Option<i64>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key")
            .field("active_in_ms", &self.active_in_ms)
            .field("retires_in_ms", &self.retires_in_ms)
            .finish_non_exhaustive()
    }
}

/// When a new key takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    pub active_from: OffsetDateTime,
    pub old_retires_at: OffsetDateTime,
}

/// Those that are accepted, the newest first.
///
/// # Errors
/// When the database fails.
pub async fn read(pool: &PgPool) -> Result<Vec<Key>> {
    let rows = sqlx::query_as!(
        Key,
        r#"SELECT value, (extract(epoch FROM active_from - now()) * 1000)::bigint AS "active_in_ms!",
                  (extract(epoch FROM retires_at - now()) * 1000)::bigint AS retires_in_ms
           FROM cluster_keys WHERE retires_at IS NULL OR retires_at > now() ORDER BY active_from DESC, id DESC"#
    );
    Ok(rows.fetch_all(pool).await?)
}

/// Adds a key that is shown in `ahead_s`, and retires those before it `overlap_s` later. None: another one is on its way to be shown.
///
/// # Errors
/// When the database fails.
pub async fn rotate(conn: &mut PgConnection, value: &str, ahead_s: f64, overlap_s: f64) -> Result<Option<Rotation>> {
    sqlx::query!("SELECT pg_advisory_xact_lock($1)", CLUSTER_KEYS).execute(&mut *conn).await?;
    let pending =
        sqlx::query_scalar!(r#"SELECT EXISTS (SELECT 1 FROM cluster_keys WHERE active_from > now()) AS "pending!""#);
    if pending.fetch_one(&mut *conn).await? {
        return Ok(None);
    }
    let retired = sqlx::query!(
        "UPDATE cluster_keys SET retires_at = now() + make_interval(secs => $1) WHERE retires_at IS NULL",
        ahead_s + overlap_s
    );
    retired.execute(&mut *conn).await?;
    let made = sqlx::query_as!(
        Rotation,
        r#"INSERT INTO cluster_keys (id, value, active_from) VALUES ($1, $2, now() + make_interval(secs => $3))
           RETURNING active_from, now() + make_interval(secs => $3 + $4) AS "old_retires_at!""#,
        Uuid::now_v7(),
        value,
        ahead_s,
        overlap_s
    );
    Ok(Some(made.fetch_one(conn).await?))
}

/// Forgets keys that retired a day ago; answers how many.
///
/// # Errors
/// When the database fails.
pub(crate) async fn sweep(conn: &mut PgConnection) -> Result<u64> {
    let swept = sqlx::query!("DELETE FROM cluster_keys WHERE retires_at < now() - interval '1 day'");
    Ok(swept.execute(conn).await?.rows_affected())
}
