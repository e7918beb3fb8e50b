//! Tokens of operators: bearers from outside the cluster. Only their hashes are kept.

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    Result, audit, begin, cluster_keys,
    lock_keys::{ACCESS_SWEEP, TOKEN_NAMES},
};

/// A token without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub id: Uuid,
    pub name: String,
    /// As `asobi_proto::scope::Scope` calls them.
    pub scopes: Vec<String>,
    pub created_by: String,
    pub created_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
    pub revoked_at: Option<OffsetDateTime>,
    /// Give or take a minute.
    pub used_at: Option<OffsetDateTime>,
}

/// A token to be made.
#[derive(Debug, Clone)]
pub struct NewToken<'a> {
    pub id: Uuid,
    pub name: &'a str,
    /// sha256 of the secret.
    pub hash: &'a [u8],
    pub scopes: &'a [String],
    pub created_by: &'a str,
    pub ttl_s: f64,
}

/// Whom a secret belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    pub name: String,
    pub scopes: Vec<String>,
    pub revoked: bool,
    /// By the database's clock; not above 0 when it has expired.
    pub left_ms: i64,
}

/// Makes a token. Several may have the same name; see [`name_is_taken`].
///
/// # Errors
/// When the database fails.
pub async fn create(conn: &mut PgConnection, token: &NewToken<'_>) -> Result<Token> {
    let row = sqlx::query_as!(
        Token,
        "INSERT INTO operator_tokens (id, name, token_hash, scopes, created_by, expires_at)
         VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6))
         RETURNING id, name, scopes, created_by, created_at, expires_at, revoked_at, used_at",
        token.id,
        token.name,
        token.hash,
        token.scopes,
        token.created_by,
        token.ttl_s
    );
    Ok(row.fetch_one(conn).await?)
}

/// Whether a token that is good has this name. Until the transaction's end nobody else gives names.
///
/// # Errors
/// When the database fails.
pub async fn name_is_taken(conn: &mut PgConnection, name: &str) -> Result<bool> {
    sqlx::query!("SELECT pg_advisory_xact_lock($1)", TOKEN_NAMES).execute(&mut *conn).await?;
    let taken = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM operator_tokens
                          WHERE name = $1 AND revoked_at IS NULL AND expires_at > now()) AS "taken!""#,
        name
    );
    Ok(taken.fetch_one(conn).await?)
}

/// The token with this id.
///
/// # Errors
/// When the database fails.
pub async fn by_id(pool: &PgPool, id: Uuid) -> Result<Option<Token>> {
    let row = sqlx::query_as!(
        Token,
        "SELECT id, name, scopes, created_by, created_at, expires_at, revoked_at, used_at
         FROM operator_tokens WHERE id = $1",
        id
    );
    Ok(row.fetch_optional(pool).await?)
}

/// Ends a token; when it was revoked before, that stays. None: there is none with this id.
///
/// # Errors
/// When the database fails.
pub async fn revoke(conn: &mut PgConnection, id: Uuid) -> Result<Option<Token>> {
    let row = sqlx::query_as!(
        Token,
        "UPDATE operator_tokens SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1
         RETURNING id, name, scopes, created_by, created_at, expires_at, revoked_at, used_at",
        id
    );
    Ok(row.fetch_optional(conn).await?)
}

/// Newest first: those before `before`, or from the newest.
///
/// # Errors
/// When the database fails.
pub async fn list(pool: &PgPool, before: Option<Uuid>, limit: i64) -> Result<Vec<Token>> {
    // Ids are of their time.
    let rows = sqlx::query_as!(
        Token,
        "SELECT id, name, scopes, created_by, created_at, expires_at, revoked_at, used_at
         FROM operator_tokens WHERE ($1::uuid IS NULL OR id < $1) ORDER BY id DESC LIMIT $2",
        before,
        limit
    );
    Ok(rows.fetch_all(pool).await?)
}

/// Whom the secret with this hash belongs to; that it was used is written down about once a minute.
///
/// # Errors
/// When the database fails.
pub async fn bearer(pool: &PgPool, hash: &[u8]) -> Result<Option<Bearer>> {
    let row = sqlx::query!(
        r#"SELECT id, name, scopes, revoked_at IS NOT NULL AS "revoked!",
                  (extract(epoch FROM expires_at - now()) * 1000)::bigint AS "left_ms!",
                  (used_at IS NULL OR used_at < now() - interval '1 minute') AS "unseen!"
           FROM operator_tokens WHERE token_hash = $1"#,
        hash
    );
    let Some(row) = row.fetch_optional(pool).await? else { return Ok(None) };
    if row.unseen && !row.revoked && row.left_ms > 0 {
        // Whoever else writes it now, writes the same.
        let used = sqlx::query!(
            "UPDATE operator_tokens SET used_at = now() WHERE id = (
                 SELECT id FROM operator_tokens WHERE id = $1 FOR UPDATE SKIP LOCKED)",
            row.id
        );
        used.execute(pool).await?;
    }
    Ok(Some(Bearer { name: row.name, scopes: row.scopes, revoked: row.revoked, left_ms: row.left_ms }))
}

/// Forgets what is over: tokens, the cluster's keys, and what requests were answered. Bounded; answers how many rows. Whoever comes while another one
/// does it, does nothing.
///
/// # Errors
/// When the database fails.
pub async fn upkeep(pool: &PgPool) -> Result<u64> {
    let mut tx = begin(pool).await?;
    let mine = sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock($1) AS "mine!""#, ACCESS_SWEEP);
    if !mine.fetch_one(&mut *tx).await? {
        return Ok(0);
    }
    let swept = audit::sweep_requests(&mut tx).await? + sweep(&mut tx).await? + cluster_keys::sweep(&mut tx).await?;
    tx.commit().await?;
    Ok(swept)
}

/// Forgets tokens that are over: a month after their end, those that were made for less than an hour an hour after it. At most a thousand; answers how many.
///
/// # Errors
/// When the database fails.
async fn sweep(conn: &mut PgConnection) -> Result<u64> {
    let swept = sqlx::query!(
        "DELETE FROM operator_tokens WHERE id IN (
             SELECT id FROM operator_tokens
             WHERE expires_at < now() - interval '1 hour'
               AND (expires_at < now() - interval '30 days' OR expires_at - created_at < interval '1 hour')
             ORDER BY expires_at LIMIT 1000 FOR UPDATE SKIP LOCKED)"
    );
    Ok(swept.execute(conn).await?.rows_affected())
}
