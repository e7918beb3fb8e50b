//! Token families, refresh tokens, signing keys, revocations and shared secrets. All times are the database's: tokens
//! and revocations of different nodes are compared with each other, never with a node's clock.

use asobi_proto::bus::RevokedItem;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Result,
    bans::{self, Ban},
};

/// A key that signs access tokens.
#[derive(Clone)]
pub struct SigningKey {
    pub id: Uuid,
    pub secret: Vec<u8>,
    /// Milliseconds until it may sign; zero or less: it may.
    pub active_in_ms: i64,
    /// Milliseconds until no token of it can matter any more.
    pub retires_in_ms: i64,
}

/// A revocation as tokens are checked against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// A token family, or with `player` a player.
    pub subject: Uuid,
    pub player: bool,
    pub reason: String,
    /// Unix microseconds; tokens of the player issued up to then are dead.
    pub issued_before: i64,
    /// Unix seconds; no token it concerns lives longer.
    pub expires_at: i64,
}

impl From<Revocation> for RevokedItem {
    fn from(row: Revocation) -> Self {
        Self {
            subject: row.subject,
            player: row.player,
            reason: row.reason,
            issued_before: row.issued_before,
            expires_at: row.expires_at,
        }
    }
}

/// What presenting a refresh token came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refresh {
    /// It was good and is used up now. `issued_at`: unix microseconds.
    Rotated { player_id: Uuid, family: Uuid, issued_at: i64 },
    /// It had been used before: the family is revoked by this call.
    Reused(Revocation),
    /// Unknown, expired, or of a family that was revoked before.
    Dead,
    /// Dead as well, and so would be a new log-in.
    Banned(Ban),
}

/// The keys that can still matter, and those that will.
///
/// # Errors
/// When the database does not answer.
pub async fn signing_keys(pool: &PgPool) -> Result<Vec<SigningKey>> {
    Ok(sqlx::query_as!(
        SigningKey,
        r#"SELECT id, secret,
                  (extract(epoch FROM active_from - now()) * 1000)::bigint AS "active_in_ms!",
                  (extract(epoch FROM retires_at - now()) * 1000)::bigint AS "retires_in_ms!"
           FROM signing_keys WHERE retires_at > now()"#
    )
    .fetch_all(pool)
    .await?)
}

/// When keys change, all in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// Age at which the newest key gets a successor.
    pub every_s: f64,
    /// How long a key is known to all nodes before it signs.
    pub publish_s: f64,
    /// How long after its successor signs a key may still be needed to verify.
    pub retire_s: f64,
}

/// Publishes a new key if the newest is due, and forgets retired ones. Nodes that notice at once take turns under the
/// advisory lock and find it done. Returns whether a key was added.
///
/// # Errors
/// When the database does not answer.
pub async fn rotate_signing_keys(pool: &PgPool, lock_key: i64, new_secret: &[u8], rotation: Rotation) -> Result<bool> {
    let mut tx = crate::begin(pool).await?;
    sqlx::query!("SELECT pg_advisory_xact_lock($1)", lock_key).execute(&mut *tx).await?;
    let newest = sqlx::query!(
        r#"SELECT count(*) AS "count!", max(active_from) < now() - make_interval(secs => $1) AS due FROM signing_keys
           WHERE retires_at > now()"#,
        rotation.every_s
    )
    .fetch_one(&mut *tx)
    .await?;
    let first = newest.count == 0;
    let added = first || newest.due == Some(true);
    if added {
        let wait = if first { 0.0 } else { rotation.publish_s };
        // What signed until now is needed until the last token of it has expired.
        sqlx::query!(
            "UPDATE signing_keys SET retires_at = LEAST(retires_at, now() + make_interval(secs => $1))",
            wait + rotation.retire_s
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "INSERT INTO signing_keys (id, secret, active_from, retires_at)
             VALUES ($1, $2, now() + make_interval(secs => $3), now() + interval '100 years')",
            Uuid::now_v7(),
            new_secret,
            wait
        )
        .execute(&mut *tx)
        .await?;
    }
    sqlx::query!("DELETE FROM signing_keys WHERE retires_at < now()").execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(added)
}

/// Deletes what can no longer matter: expired revocations and refresh tokens, families without a token. Bounded per call.
///
/// # Errors
/// When the database does not answer.
pub async fn sweep(pool: &PgPool) -> Result<u64> {
    let revocations = sqlx::query!("DELETE FROM revocations WHERE expires_at < now() - interval '1 minute'")
        .execute(pool)
        .await?
        .rows_affected();
    let tokens = sqlx::query!(
        "WITH dead AS (
             DELETE FROM refresh_tokens WHERE token_hash IN (
                 SELECT token_hash FROM refresh_tokens WHERE expires_at < now() ORDER BY expires_at LIMIT 1000
                 FOR UPDATE SKIP LOCKED)
             RETURNING token_hash, family_id)
         DELETE FROM token_families f USING dead
         WHERE f.id = dead.family_id
           AND NOT EXISTS (SELECT 1 FROM refresh_tokens t WHERE t.family_id = f.id
                           AND t.token_hash NOT IN (SELECT token_hash FROM dead))"
    )
    .execute(pool)
    .await?
    .rows_affected();
    Ok(revocations + tokens)
}

/// Every revocation that can still matter.
///
/// # Errors
/// When the database does not answer.
pub async fn revocations(pool: &PgPool) -> Result<Vec<Revocation>> {
    Ok(sqlx::query_as!(
        Revocation,
        r#"SELECT subject, kind = 'player' AS "player!", reason,
                  (extract(epoch FROM issued_before) * 1000000)::bigint AS "issued_before!",
                  ceil(extract(epoch FROM expires_at))::bigint AS "expires_at!"
           FROM revocations WHERE expires_at > now()"#
    )
    .fetch_all(pool)
    .await?)
}

/// Begins a family with its first refresh token; returns when it was issued, unix microseconds.
///
/// # Errors
/// When the database does not answer or the player is gone.
pub async fn begin_family(
    conn: &mut PgConnection,
    family: Uuid,
    player: Uuid,
    token_hash: &[u8],
    refresh_ttl_s: f64,
) -> Result<i64> {
    // The foreign key's lock on the player orders this against revoke_player: either that sees the family, or its
    // issued_at is later than the revocation.
    sqlx::query!("INSERT INTO token_families (id, player_id) VALUES ($1, $2)", family, player)
        .execute(&mut *conn)
        .await?;
    insert_refresh(conn, family, token_hash, refresh_ttl_s).await
}

async fn insert_refresh(conn: &mut PgConnection, family: Uuid, token_hash: &[u8], ttl_s: f64) -> Result<i64> {
    Ok(sqlx::query_scalar!(
        r#"INSERT INTO refresh_tokens (token_hash, family_id, expires_at)
           VALUES ($1, $2, now() + make_interval(secs => $3))
           RETURNING (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS "issued_at!""#,
        token_hash,
        family,
        ttl_s
    )
    .fetch_one(conn)
    .await?)
}

/// Uses up a refresh token and stores its successor, or revokes the family of one that was used before.
///
/// # Errors
/// When the database does not answer; nothing is used up then, unless the answer to the commit was lost.
pub async fn refresh(
    pool: &PgPool,
    presented_hash: &[u8],
    next_hash: &[u8],
    refresh_ttl_s: f64,
    access_ttl_s: f64,
) -> Result<Refresh> {
    let mut tx = crate::begin(pool).await?;
    // Two that present one token take turns here; the second finds it used.
    let row = sqlx::query!(
        r#"SELECT f.id AS family, f.player_id, t.used_at IS NOT NULL AS "used!", t.expires_at > now() AS "fresh!",
                  f.revoked_at IS NOT NULL AS "revoked!"
           FROM refresh_tokens t JOIN token_families f ON f.id = t.family_id
           WHERE t.token_hash = $1 FOR UPDATE"#,
        presented_hash
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row.filter(|r| r.fresh) else { return Ok(Refresh::Dead) };
    if row.revoked {
        return Ok(bans::of(&mut tx, row.player_id).await?.map_or(Refresh::Dead, Refresh::Banned));
    }
    let outcome = if row.used {
        match revoke_family(&mut tx, row.family, "token_reused", access_ttl_s).await? {
            Some(revocation) => Refresh::Reused(revocation),
            None => Refresh::Dead,
        }
    } else {
        sqlx::query!("UPDATE refresh_tokens SET used_at = now() WHERE token_hash = $1", presented_hash)
            .execute(&mut *tx)
            .await?;
        let issued_at = insert_refresh(&mut tx, row.family, next_hash, refresh_ttl_s).await?;
        Refresh::Rotated { player_id: row.player_id, family: row.family, issued_at }
    };
    tx.commit().await?;
    Ok(outcome)
}

/// The family and player of a refresh token, whatever became of it.
///
/// # Errors
/// When the database does not answer.
pub async fn family_of_refresh(conn: &mut PgConnection, token_hash: &[u8]) -> Result<Option<(Uuid, Uuid)>> {
    let row = sqlx::query!(
        "SELECT f.id, f.player_id FROM refresh_tokens t JOIN token_families f ON f.id = t.family_id WHERE t.token_hash = $1",
        token_hash
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|r| (r.id, r.player_id)))
}

/// Ends a family for good; none if it was over before (or never was).
///
/// # Errors
/// When the database does not answer.
pub async fn revoke_family(
    conn: &mut PgConnection,
    family: Uuid,
    reason: &str,
    access_ttl_s: f64,
) -> Result<Option<Revocation>> {
    let ended =
        sqlx::query!("UPDATE token_families SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL", family)
            .execute(&mut *conn)
            .await?;
    if ended.rows_affected() == 0 {
        return Ok(None);
    }
    insert_revocation(conn, family, "family", reason, access_ttl_s).await.map(Some)
}

/// Ends every family the player has.
///
/// # Errors
/// When the database does not answer.
pub async fn revoke_player(
    conn: &mut PgConnection,
    player: Uuid,
    reason: &str,
    access_ttl_s: f64,
) -> Result<Revocation> {
    // Logins of this player that are under way end first; later ones wait for us and are issued after.
    sqlx::query!("SELECT 1 AS one FROM players WHERE id = $1 FOR UPDATE", player).fetch_optional(&mut *conn).await?;
    sqlx::query!("UPDATE token_families SET revoked_at = now() WHERE player_id = $1 AND revoked_at IS NULL", player)
        .execute(&mut *conn)
        .await?;
    insert_revocation(conn, player, "player", reason, access_ttl_s).await
}

async fn insert_revocation(
    conn: &mut PgConnection,
    subject: Uuid,
    kind: &str,
    reason: &str,
    access_ttl_s: f64,
) -> Result<Revocation> {
    // clock_timestamp, not now(): later than every token that was issued before the locks above were ours.
    let row = sqlx::query!(
        r#"INSERT INTO revocations (subject, kind, reason, issued_before, expires_at)
           VALUES ($1, $2, $3, clock_timestamp(), clock_timestamp() + make_interval(secs => $4))
           RETURNING (extract(epoch FROM issued_before) * 1000000)::bigint AS "issued_before!",
                     ceil(extract(epoch FROM expires_at))::bigint AS "expires_at!""#,
        subject,
        kind,
        reason,
        access_ttl_s + 60.0
    )
    .fetch_one(conn)
    .await?;
    Ok(Revocation {
        subject,
        player: kind == "player",
        reason: reason.to_owned(),
        issued_before: row.issued_before,
        expires_at: row.expires_at,
    })
}

/// A secret that all nodes share.
///
/// # Errors
/// When the database does not answer.
pub async fn cluster_secret(pool: &PgPool, name: &str) -> Result<Option<String>> {
    Ok(sqlx::query_scalar!("SELECT value FROM cluster_secrets WHERE name = $1", name).fetch_optional(pool).await?)
}
