//! Accounts and guests' devices.

use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Result;

/// A player as others may see them.
#[derive(Debug, Clone, PartialEq)]
pub struct Player {
    pub id: Uuid,
    pub username: String,
    pub display_name: Option<String>,
    pub avatar_url: Option<String>,
    pub metadata: Value,
    pub inserted_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// What a login is checked against.
#[derive(Clone)]
pub struct Credentials {
    pub id: Uuid,
    pub username: String,
    /// None: a guest.
    pub password_hash: Option<String>,
    pub guest: bool,
}

/// A guest's device.
pub struct Device {
    pub player_id: Uuid,
    pub username: String,
    pub secret_hash: Vec<u8>,
}

/// What `update` shall change; none leaves a column as it is, an inner none empties it.
#[derive(Debug, Default)]
pub struct Changes {
    pub display_name: Option<Option<String>>,
    pub avatar_url: Option<Option<String>>,
    pub metadata: Option<Value>,
}

/// Which name an insert or an upgrade ran into.
#[derive(Debug, thiserror::Error)]
pub enum TakenOr {
    #[error("the name is taken")]
    Taken,
    #[error(transparent)]
    Store(#[from] crate::Error),
}

fn taken(error: sqlx::Error) -> TakenOr {
    let error = crate::Error::from(error);
    if error.unique_violation().is_some() { TakenOr::Taken } else { TakenOr::Store(error) }
}

/// # Errors
/// When the database does not answer.
pub async fn get(pool: &PgPool, id: Uuid) -> Result<Option<Player>> {
    Ok(sqlx::query_as!(
        Player,
        "SELECT id, username, display_name, avatar_url, metadata, inserted_at, updated_at FROM players WHERE id = $1",
        id
    )
    .fetch_optional(pool)
    .await?)
}

/// The account of a name, whatever its case.
///
/// # Errors
/// When the database does not answer.
pub async fn by_username(pool: &PgPool, username: &str) -> Result<Option<Credentials>> {
    Ok(sqlx::query_as!(
        Credentials,
        "SELECT id, username, password_hash, guest FROM players WHERE lower(username) = lower($1)",
        username
    )
    .fetch_optional(pool)
    .await?)
}

/// # Errors
/// When the database does not answer.
pub async fn credentials(conn: &mut PgConnection, id: Uuid) -> Result<Option<Credentials>> {
    Ok(sqlx::query_as!(
        Credentials,
        "SELECT id, username, password_hash, guest FROM players WHERE id = $1 FOR UPDATE",
        id
    )
    .fetch_optional(conn)
    .await?)
}

/// Makes an account, or with no password hash a guest.
///
/// # Errors
/// `Taken` when another player has the name in any case; the transaction is over then.
pub async fn insert(
    conn: &mut PgConnection,
    id: Uuid,
    username: &str,
    display_name: Option<&str>,
    password_hash: Option<&str>,
) -> Result<(), TakenOr> {
    sqlx::query!(
        "INSERT INTO players (id, username, display_name, password_hash, guest) VALUES ($1, $2, $3, $4, $4::text IS NULL)",
        id,
        username,
        display_name,
        password_hash
    )
    .execute(conn)
    .await
    .map_err(taken)?;
    Ok(())
}

/// Changes a profile; none when there is no such player.
///
/// # Errors
/// When the database does not answer.
pub async fn update(pool: &PgPool, id: Uuid, changes: Changes) -> Result<Option<Player>> {
    let set_name = changes.display_name.is_some();
    let set_avatar = changes.avatar_url.is_some();
    Ok(sqlx::query_as!(
        Player,
        "UPDATE players SET
             display_name = CASE WHEN $2 THEN $3 ELSE display_name END,
             avatar_url   = CASE WHEN $4 THEN $5 ELSE avatar_url END,
             metadata     = COALESCE($6, metadata),
             updated_at   = CASE WHEN $2 OR $4 OR $6::jsonb IS NOT NULL THEN now() ELSE updated_at END
         WHERE id = $1
         RETURNING id, username, display_name, avatar_url, metadata, inserted_at, updated_at",
        id,
        set_name,
        changes.display_name.flatten(),
        set_avatar,
        changes.avatar_url.flatten(),
        changes.metadata
    )
    .fetch_optional(pool)
    .await?)
}

/// # Errors
/// When the database does not answer.
pub async fn device(pool: &PgPool, device_id: &str) -> Result<Option<Device>> {
    Ok(sqlx::query_as!(
        Device,
        "SELECT d.player_id, p.username, d.secret_hash
         FROM guest_devices d JOIN players p ON p.id = d.player_id WHERE d.device_id = $1",
        device_id
    )
    .fetch_optional(pool)
    .await?)
}

/// # Errors
/// `Taken` when the device was registered meanwhile; the transaction is over then.
pub async fn insert_device(
    conn: &mut PgConnection,
    device_id: &str,
    player: Uuid,
    secret_hash: &[u8],
) -> Result<(), TakenOr> {
    sqlx::query!(
        "INSERT INTO guest_devices (device_id, player_id, secret_hash) VALUES ($1, $2, $3)",
        device_id,
        player,
        secret_hash
    )
    .execute(conn)
    .await
    .map_err(taken)?;
    Ok(())
}

/// Makes a guest an account; its devices are forgotten, so that the next guest of a device is a new one.
///
/// # Errors
/// `Taken` when another player has the name in any case; the transaction is over then.
pub async fn upgrade(conn: &mut PgConnection, id: Uuid, username: &str, password_hash: &str) -> Result<(), TakenOr> {
    sqlx::query!(
        "UPDATE players SET username = $2, password_hash = $3, guest = false, updated_at = now() WHERE id = $1",
        id,
        username,
        password_hash
    )
    .execute(&mut *conn)
    .await
    .map_err(taken)?;
    sqlx::query!("DELETE FROM guest_devices WHERE player_id = $1", id)
        .execute(conn)
        .await
        .map_err(crate::Error::from)?;
    Ok(())
}

/// What an erasure ended that others hold in memory.
#[derive(Debug, Default)]
pub struct Erased {
    /// Tickets that waited, each by the id its queue knows it by: a party's ends for all of its members.
    pub tickets: Vec<Uuid>,
}

/// Deletes all that is the player's, in the caller's transaction, which has locked the player's row. Rows of finished
/// matches keep the id, which then names nobody.
///
/// # Errors
/// When the database does not answer.
pub async fn erase(conn: &mut PgConnection, id: Uuid) -> Result<Erased> {
    crate::groups::leave_all(conn, id).await?;
    // Seats before tickets: the order of everybody who takes both.
    sqlx::query!("DELETE FROM match_players WHERE player_id = $1", id).execute(&mut *conn).await?;
    sqlx::query!("DELETE FROM backfill_claims WHERE player_id = $1", id).execute(&mut *conn).await?;
    let tickets = erase_tickets(conn, id).await?;
    sqlx::query!("DELETE FROM inbox_events WHERE player_id = $1", id).execute(&mut *conn).await?;
    sqlx::query!("DELETE FROM inboxes WHERE player_id = $1", id).execute(&mut *conn).await?;
    sqlx::query!("DELETE FROM leaderboard_entries WHERE player_id = $1 AND leaderboard_id = ANY(ARRAY(SELECT id FROM leaderboards))", id).execute(&mut *conn).await?;
    // After the entries: what a submission moves out of them on its way is there by now.
    sqlx::query!("DELETE FROM leaderboard_past WHERE player_id = $1", id).execute(&mut *conn).await?;
    crate::chat::erase(conn, id).await?;
    crate::effects::erase(conn, id).await?;
    crate::reports::erase(conn, id).await?;
    // Friendships, devices, families, refresh tokens, notifications, invitations, the ban, mutes, reports about them and what games stored
    // go with the row.
    sqlx::query!("DELETE FROM players WHERE id = $1", id).execute(conn).await?;
    Ok(Erased { tickets })
}

async fn erase_tickets(conn: &mut PgConnection, id: Uuid) -> Result<Vec<Uuid>> {
    let heads = sqlx::query_scalar!(
        r#"SELECT COALESCE(head, id) AS "head!" FROM tickets WHERE player_id = $1 AND state = 'pending'"#,
        id
    )
    .fetch_all(&mut *conn)
    .await?;
    sqlx::query!(
        // Locked in the order of ids, as whoever cancels or claims a party's ticket does.
        "WITH mine AS (SELECT id FROM tickets WHERE state = 'pending' AND (id = ANY($1) OR head = ANY($1)) ORDER BY id FOR UPDATE)
         UPDATE tickets t SET state = 'cancelled', ended_at = now() FROM mine WHERE t.id = mine.id AND t.state = 'pending'",
        &heads
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("DELETE FROM tickets WHERE player_id = $1", id).execute(conn).await?;
    Ok(heads)
}
