//! What groups announce. Whoever writes holds the group's row.

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Result, notifications};

/// The type of the notification of an announcement.
pub const KIND: &str = "group_announcement";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// In the order they were announced.
    pub id: Uuid,
    pub group_id: Uuid,
    /// None: they have been erased.
    pub author_id: Option<Uuid>,
    /// Empty: it has none.
    pub subject: String,
    pub content: String,
    pub announced_at: OffsetDateTime,
}

/// Takes the group's turn to announce something. False: it had one less than so many seconds ago.
///
/// # Errors
/// When the database fails.
pub async fn take_turn(conn: &mut PgConnection, group: Uuid, every_s: f64) -> Result<bool> {
    let taken = sqlx::query!(
        "UPDATE groups SET announced_at = now()
         WHERE id = $1 AND (announced_at IS NULL OR announced_at <= now() - make_interval(secs => $2))",
        group,
        every_s
    );
    Ok(taken.execute(conn).await?.rows_affected() == 1)
}

/// Stores one and removes all but the newest `kept` of the group.
///
/// # Errors
/// When the database fails.
pub async fn insert(
    conn: &mut PgConnection,
    group: Uuid,
    author: Uuid,
    subject: &str,
    content: &str,
    kept: i64,
) -> Result<Announcement> {
    let announcement = sqlx::query_as!(
        Announcement,
        "INSERT INTO group_announcements (id, group_id, author_id, subject, content) VALUES ($1, $2, $3, $4, $5)
         RETURNING id, group_id, author_id, subject, content, announced_at",
        Uuid::now_v7(),
        group,
        author,
        subject,
        content
    )
    .fetch_one(&mut *conn)
    .await?;
    sqlx::query!(
        "DELETE FROM group_announcements WHERE id IN (
             SELECT id FROM group_announcements WHERE group_id = $1 ORDER BY id DESC OFFSET $2)",
        group,
        kept
    )
    .execute(conn)
    .await?;
    Ok(announcement)
}

/// Newest first, those before one.
///
/// # Errors
/// When the database fails.
pub async fn list(pool: &PgPool, group: Uuid, before: Option<Uuid>, limit: i64) -> Result<Vec<Announcement>> {
    Ok(sqlx::query_as!(
        Announcement,
        "SELECT id, group_id, author_id, subject, content, announced_at FROM group_announcements
         WHERE group_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
        group,
        before,
        limit
    )
    .fetch_all(pool)
    .await?)
}

/// # Errors
/// When the database fails.
pub async fn get(conn: &mut PgConnection, group: Uuid, id: Uuid) -> Result<Option<Announcement>> {
    Ok(sqlx::query_as!(
        Announcement,
        "SELECT id, group_id, author_id, subject, content, announced_at FROM group_announcements WHERE group_id = $1 AND id = $2",
        group,
        id
    )
    .fetch_optional(conn)
    .await?)
}

/// Deletes one, with what the group's members were told of it.
///
/// # Errors
/// When the database fails.
pub async fn delete(conn: &mut PgConnection, group: Uuid, id: Uuid) -> Result<()> {
    sqlx::query!("DELETE FROM group_announcements WHERE group_id = $1 AND id = $2", group, id)
        .execute(&mut *conn)
        .await?;
    let members = sqlx::query_scalar!("SELECT player_id FROM group_members WHERE group_id = $1", group);
    let members = members.fetch_all(&mut *conn).await?;
    notifications::retract_about(conn, &members, KIND, "announcement_id", id).await
}
