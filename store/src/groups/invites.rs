//! Invitations. Whoever makes or ends one holds the group's row, as for memberships; each is told by a notification that goes with it.

use sqlx::{PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Result, notifications};

/// The type of the notification of an invitation.
pub const KIND: &str = "group_invite";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    pub group_id: Uuid,
    pub group_name: String,
    /// Who is invited.
    pub player_id: Uuid,
    pub invited_by: Uuid,
    pub invited_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
}

/// The open invitation of a player into a group.
///
/// # Errors
/// When the database fails.
pub async fn get(conn: &mut PgConnection, group: Uuid, player: Uuid) -> Result<Option<Invite>> {
    Ok(sqlx::query_as!(
        Invite,
        "SELECT i.group_id, g.name AS group_name, i.player_id, i.invited_by, i.invited_at, i.expires_at
         FROM group_invites i JOIN groups g ON g.id = i.group_id
         WHERE i.group_id = $1 AND i.player_id = $2 AND i.expires_at > now()",
        group,
        player
    )
    .fetch_optional(conn)
    .await?)
}

/// How many are open: of the group, whose row is locked, and of the player, whose row is locked.
///
/// # Errors
/// When the database fails.
pub async fn open(conn: &mut PgConnection, group: Uuid, player: Uuid) -> Result<(i64, i64)> {
    let row = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM group_invites WHERE group_id = $1 AND expires_at > now()) AS "group!",
                  (SELECT count(*) FROM group_invites WHERE player_id = $2 AND expires_at > now()) AS "player!""#,
        group,
        player
    )
    .fetch_one(conn)
    .await?;
    Ok((row.group, row.player))
}

/// In the place of one that is over.
///
/// # Errors
/// When the database fails.
pub async fn insert(
    conn: &mut PgConnection,
    group: Uuid,
    player: Uuid,
    invited_by: Uuid,
    life_s: f64,
) -> Result<Invite> {
    Ok(sqlx::query_as!(
        Invite,
        r#"INSERT INTO group_invites AS i (group_id, player_id, invited_by, expires_at)
           VALUES ($1, $2, $3, now() + make_interval(secs => $4))
           ON CONFLICT (group_id, player_id) DO UPDATE
             SET invited_by = excluded.invited_by, invited_at = now(), expires_at = excluded.expires_at
           RETURNING group_id, (SELECT name FROM groups WHERE id = $1) AS "group_name!", player_id, invited_by, invited_at,
             expires_at"#,
        group,
        player,
        invited_by,
        life_s
    )
    .fetch_one(conn)
    .await?)
}

/// Ends one, with what the player was told of it. False: there was none, or it was over.
///
/// # Errors
/// When the database fails.
pub async fn delete(conn: &mut PgConnection, group: Uuid, player: Uuid) -> Result<bool> {
    let ended = sqlx::query_scalar!(
        r#"DELETE FROM group_invites WHERE group_id = $1 AND player_id = $2 RETURNING expires_at > now() AS "open!""#,
        group,
        player
    );
    let ended = ended.fetch_optional(&mut *conn).await?;
    if ended.is_some() {
        notifications::retract_about(conn, &[player], KIND, "group_id", group).await?;
    }
    Ok(ended.unwrap_or(false))
}

/// Ends those that either of two players has given the other: one blocks the other.
///
/// # Errors
/// When the database fails.
pub async fn delete_between(conn: &mut PgConnection, a: Uuid, b: Uuid) -> Result<()> {
    let ended = sqlx::query!(
        "DELETE FROM group_invites WHERE (group_id, player_id) IN (
             SELECT group_id, player_id FROM group_invites
             WHERE (player_id = $1 AND invited_by = $2) OR (player_id = $2 AND invited_by = $1)
             ORDER BY group_id, player_id FOR UPDATE)
         RETURNING group_id, player_id",
        a,
        b
    );
    for invite in ended.fetch_all(&mut *conn).await? {
        notifications::retract_about(conn, &[invite.player_id], KIND, "group_id", invite.group_id).await?;
    }
    Ok(())
}

/// Ends all that a player has given.
///
/// # Errors
/// When the database fails.
pub(super) async fn delete_by(conn: &mut PgConnection, player: Uuid) -> Result<()> {
    let ended = sqlx::query!(
        "DELETE FROM group_invites WHERE (group_id, player_id) IN (
             SELECT group_id, player_id FROM group_invites WHERE invited_by = $1 ORDER BY group_id, player_id FOR UPDATE)
         RETURNING group_id, player_id",
        player
    );
    for invite in ended.fetch_all(&mut *conn).await? {
        notifications::retract_about(conn, &[invite.player_id], KIND, "group_id", invite.group_id).await?;
    }
    Ok(())
}

/// Takes back what players were told of a group's invitations, which are about to end with it.
///
/// # Errors
/// When the database fails.
pub(super) async fn retract_all(conn: &mut PgConnection, group: Uuid) -> Result<()> {
    let invited = sqlx::query_scalar!("SELECT player_id FROM group_invites WHERE group_id = $1", group);
    let invited = invited.fetch_all(&mut *conn).await?;
    notifications::retract_about(conn, &invited, KIND, "group_id", group).await
}

/// The open ones of a group, newest first.
///
/// # Errors
/// When the database fails.
pub async fn of_group(conn: impl PgExecutor<'_>, group: Uuid, limit: i64) -> Result<Vec<Invite>> {
    Ok(sqlx::query_as!(
        Invite,
        "SELECT i.group_id, g.name AS group_name, i.player_id, i.invited_by, i.invited_at, i.expires_at
         FROM group_invites i JOIN groups g ON g.id = i.group_id
         WHERE i.group_id = $1 AND i.expires_at > now() ORDER BY i.invited_at DESC, i.player_id LIMIT $2",
        group,
        limit
    )
    .fetch_all(conn)
    .await?)
}

/// The open ones of a player, newest first.
///
/// # Errors
/// When the database fails.
pub async fn of_player(pool: &PgPool, player: Uuid, limit: i64) -> Result<Vec<Invite>> {
    Ok(sqlx::query_as!(
        Invite,
        "SELECT i.group_id, g.name AS group_name, i.player_id, i.invited_by, i.invited_at, i.expires_at
         FROM group_invites i JOIN groups g ON g.id = i.group_id
         WHERE i.player_id = $1 AND i.expires_at > now() ORDER BY i.invited_at DESC, i.group_id LIMIT $2",
        player,
        limit
    )
    .fetch_all(pool)
    .await?)
}

/// Removes those that are over, at most `limit`; answers how many. Several may do so at once.
///
/// # Errors
/// When the database fails.
pub async fn expire(pool: &PgPool, limit: i64) -> Result<u64> {
    let done = sqlx::query!(
        "DELETE FROM group_invites WHERE (group_id, player_id) IN (
             SELECT group_id, player_id FROM group_invites WHERE expires_at < now() ORDER BY expires_at LIMIT $1
             FOR UPDATE SKIP LOCKED)",
        limit
    );
    Ok(done.execute(pool).await?.rows_affected())
}
