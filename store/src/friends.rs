//! Friendships: one row per pair, owned by who asked. Asking back is answering yes.

use sqlx::{PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Result;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FriendStatus {
    Pending,
    Accepted,
    Blocked,
}

impl FriendStatus {
    /// As the rows and the client protocol name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Accepted => "accepted",
            Self::Blocked => "blocked",
        }
    }

    // The column has a CHECK of exactly these; whatever a newer release adds grants nothing.
    fn of(text: &str) -> Self {
        match text {
            "accepted" => Self::Accepted,
            "blocked" => Self::Blocked,
            _ => Self::Pending,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Friendship {
    pub id: Uuid,
    /// Who asked.
    pub player_id: Uuid,
    pub friend_id: Uuid,
    pub status: FriendStatus,
    /// Who of the two blocks the other, while one does.
    pub blocked_by: Option<Uuid>,
    pub inserted_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

struct Row {
    id: Uuid,
    player_id: Uuid,
    friend_id: Uuid,
    status: String,
    blocked_by: Option<Uuid>,
    inserted_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

impl From<Row> for Friendship {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            player_id: row.player_id,
            friend_id: row.friend_id,
            status: FriendStatus::of(&row.status),
            blocked_by: row.blocked_by,
            inserted_at: row.inserted_at,
            updated_at: row.updated_at,
        }
    }
}

/// Everybody this player is friends with, whoever asked.
///
/// # Errors
/// When the database fails.
pub async fn accepted_ids(pool: &PgPool, player: Uuid) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar!(
        r#"SELECT friend_id AS "id!" FROM friendships WHERE player_id = $1 AND status = 'accepted'
           UNION SELECT player_id FROM friendships WHERE friend_id = $1 AND status = 'accepted'"#,
        player,
    )
    .fetch_all(pool)
    .await?)
}

/// Whether either of the two blocks the other.
///
/// # Errors
/// When the database fails.
pub async fn blocked_between(conn: impl PgExecutor<'_>, a: Uuid, b: Uuid) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM friendships WHERE status = 'blocked'
             AND least(player_id, friend_id) = least($1::uuid, $2)
             AND greatest(player_id, friend_id) = greatest($1::uuid, $2)) AS "blocked!""#,
        a,
        b,
    )
    .fetch_one(conn)
    .await?)
}

/// Which of a player's friendships.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// The requests of others that wait for the player's answer; else the rows the player owns or, accepted, shares.
    pub incoming: bool,
    pub status: Option<FriendStatus>,
    /// Those before this one.
    pub before: Option<Uuid>,
    pub limit: i64,
}

/// The newest first.
///
/// # Errors
/// When the database fails.
pub async fn list(pool: &PgPool, player: Uuid, wanted: Wanted) -> Result<Vec<Friendship>> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id, player_id, friend_id, status, blocked_by, inserted_at, updated_at FROM friendships
           WHERE CASE WHEN $2 THEN friend_id = $1 AND status = 'pending'
                 ELSE player_id = $1 OR (friend_id = $1 AND status = 'accepted') END
             AND (player_id = $1 OR friend_id = $1) AND ($3::text IS NULL OR status = $3)
             AND ($4::uuid IS NULL OR (inserted_at, id) < (SELECT f.inserted_at, f.id FROM friendships f WHERE f.id = $4))
           ORDER BY inserted_at DESC, id DESC LIMIT $5"#,
        player,
        wanted.incoming,
        wanted.status.map(FriendStatus::as_str),
        wanted.before,
        wanted.limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Friendship::from).collect())
}

/// Whether there is such a player.
///
/// # Errors
/// When the database fails.
pub async fn player_exists(conn: &mut PgConnection, player: Uuid) -> Result<bool> {
    Ok(sqlx::query_scalar!(r#"SELECT EXISTS (SELECT 1 FROM players WHERE id = $1) AS "there!""#, player)
        .fetch_one(conn)
        .await?)
}

/// Has the erasure of either wait for the caller's transaction, or waits for one under way. Taken before the pair's row, which
/// an erasure takes last.
///
/// # Errors
/// When the database fails.
pub async fn hold_players(conn: &mut PgConnection, a: Uuid, b: Uuid) -> Result<()> {
    sqlx::query!(r#"SELECT 1 AS "one!" FROM players WHERE id IN ($1, $2) ORDER BY id FOR KEY SHARE"#, a, b)
        .fetch_all(conn)
        .await?;
    Ok(())
}

/// The pair's one row, whoever asked, locked for the caller's transaction.
///
/// # Errors
/// When the database fails.
pub async fn lock_pair(conn: &mut PgConnection, a: Uuid, b: Uuid) -> Result<Option<Friendship>> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT id, player_id, friend_id, status, blocked_by, inserted_at, updated_at FROM friendships
           WHERE least(player_id, friend_id) = least($1::uuid, $2) AND greatest(player_id, friend_id) = greatest($1::uuid, $2)
           FOR UPDATE"#,
        a,
        b,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Friendship::from))
}

/// A new, pending row; none when the pair has one by now: [`lock_pair`] finds it.
///
/// # Errors
/// When the database fails, also when one of the players is gone.
pub async fn insert(conn: &mut PgConnection, player: Uuid, friend: Uuid) -> Result<Option<Friendship>> {
    let row = sqlx::query_as!(
        Row,
        r#"INSERT INTO friendships (id, player_id, friend_id, status) VALUES ($1, $2, $3, 'pending') ON CONFLICT DO NOTHING
           RETURNING id, player_id, friend_id, status, blocked_by, inserted_at, updated_at"#,
        Uuid::now_v7(),
        player,
        friend,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(Friendship::from))
}

/// # Errors
/// When the database fails.
pub async fn set_status(
    conn: &mut PgConnection,
    id: Uuid,
    status: FriendStatus,
    blocked_by: Option<Uuid>,
) -> Result<Friendship> {
    let row = sqlx::query_as!(
        Row,
        r#"UPDATE friendships SET status = $2, blocked_by = $3, updated_at = now() WHERE id = $1
           RETURNING id, player_id, friend_id, status, blocked_by, inserted_at, updated_at"#,
        id,
        status.as_str(),
        blocked_by,
    )
    .fetch_one(conn)
    .await?;
    Ok(row.into())
}

/// # Errors
/// When the database fails.
pub async fn delete(conn: &mut PgConnection, id: Uuid) -> Result<()> {
    sqlx::query!("DELETE FROM friendships WHERE id = $1", id).execute(conn).await?;
    Ok(())
}
