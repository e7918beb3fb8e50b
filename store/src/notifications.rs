//! Notifications: rows a player reads when they like, and a `notification.new` in their inbox for every connection they have
//! now. Both are written by one transaction, so that what was pushed can be read, and read again.

use asobi_proto::{bus::InboxEvent, frame};
use serde_json::{json, value::RawValue};
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Result, chat::unix_ms, inbox};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    pub id: Uuid,
    pub player_id: Uuid,
    /// What kind it is, for the client: `friend_request`, or any name of the sender's choice.
    pub kind: String,
    pub subject: String,
    pub content: serde_json::Value,
    pub read: bool,
    pub sent_at: OffsetDateTime,
}

/// One text for any number of players.
#[derive(Debug, Clone)]
pub struct NewNotification {
    pub kind: String,
    pub subject: String,
    /// An object.
    pub content: serde_json::Value,
}

/// An event that the caller publishes after the commit.
pub type Published = (Uuid, i64, InboxEvent);

impl Notification {
    /// What pushes it to the player's connections.
    #[must_use]
    pub fn event(&self) -> InboxEvent {
        let payload = json!({"id": self.id, "type": self.kind, "subject": self.subject, "content": self.content,
                             "sent_at": unix_ms(self.sent_at)});
        InboxEvent { frame: RawValue::from_string(frame::push("notification.new", payload)).ok(), action: None }
    }
}

/// Stores one for each of the players that exist and appends it to their inboxes; keeps the newest `kept` of each. Answers
/// the rows, and what is to be published after the commit.
///
/// # Errors
/// When the database fails.
pub async fn send(
    conn: &mut PgConnection,
    players: &[Uuid],
    new: &NewNotification,
    kept: i64,
) -> Result<(Vec<Notification>, Vec<Published>)> {
    let stored = insert(conn, players, new).await?;
    let events: Vec<(Uuid, InboxEvent)> = stored.iter().map(|n| (n.player_id, n.event())).collect();
    let seqs = inbox::append(conn, &events).await?;
    trim(conn, &stored, kept).await?;
    Ok((stored, events.into_iter().zip(seqs).map(|((player, event), seq)| (player, seq, event)).collect()))
}

/// The rows alone. Whoever has other events for the same inboxes appends [`Notification::event`] with those, and then calls
/// [`trim`].
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut PgConnection, players: &[Uuid], new: &NewNotification) -> Result<Vec<Notification>> {
    let ids: Vec<Uuid> = players.iter().map(|_| Uuid::now_v7()).collect();
    // A player who is being erased is waited for, in an order all take; one who is named twice is told once.
    Ok(sqlx::query_as!(
        Notification,
        r#"WITH there AS (
               SELECT p.id FROM players p WHERE p.id = ANY($1) ORDER BY p.id FOR KEY SHARE
           ), named AS (
               SELECT DISTINCT ON (player_id) player_id, id FROM UNNEST($1::uuid[], $2::uuid[]) AS t(player_id, id)
           )
           INSERT INTO notifications (id, player_id, type, subject, content)
           SELECT n.id, n.player_id, $3, $4, $5 FROM named n JOIN there ON there.id = n.player_id
           RETURNING id, player_id, type AS kind, subject, content, read, sent_at"#,
        players,
        &ids,
        new.kind,
        new.subject,
        new.content
    )
    .fetch_all(conn)
    .await?)
}

/// Takes back what a player was told of another one's deed, of that kind: it is told anew, or no longer true.
///
/// # Errors
/// When the database fails.
pub async fn retract(conn: &mut PgConnection, player: Uuid, kind: &str, from: Uuid) -> Result<()> {
    sqlx::query!(
        "DELETE FROM notifications WHERE player_id = $1 AND type = $2 AND content->>'from_player_id' = $3::uuid::text",
        player,
        kind,
        from
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes all but the newest `kept` of those players. After their inboxes were appended to, which is what keeps two
/// transactions from trimming one player at once. What somebody else is about to remove is left to them.
///
/// # Errors
/// When the database fails.
pub async fn trim(conn: &mut PgConnection, sent: &[Notification], kept: i64) -> Result<()> {
    let players: Vec<Uuid> = sent.iter().map(|n| n.player_id).collect();
    sqlx::query!(
        "DELETE FROM notifications WHERE id IN (
             SELECT n.id FROM notifications n WHERE n.id IN (
                 SELECT old.id FROM UNNEST($1::uuid[]) AS p(id) CROSS JOIN LATERAL (
                     SELECT o.id FROM notifications o WHERE o.player_id = p.id ORDER BY o.sent_at DESC, o.id DESC OFFSET $2
                 ) old)
             FOR UPDATE SKIP LOCKED)",
        &players,
        kept
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Newest first.
///
/// # Errors
/// When the database fails.
pub async fn list(pool: &PgPool, player: Uuid, read: Option<bool>, limit: i64) -> Result<Vec<Notification>> {
    Ok(sqlx::query_as!(
        Notification,
        "SELECT id, player_id, type AS kind, subject, content, read, sent_at FROM notifications
         WHERE player_id = $1 AND ($2::boolean IS NULL OR read = $2) ORDER BY sent_at DESC, id DESC LIMIT $3",
        player,
        read,
        limit
    )
    .fetch_all(pool)
    .await?)
}

/// How many a player has not read.
///
/// # Errors
/// When the database fails.
pub async fn unread(pool: &PgPool, player: Uuid) -> Result<i64> {
    let count =
        sqlx::query_scalar!(r#"SELECT count(*) AS "n!" FROM notifications WHERE player_id = $1 AND NOT read"#, player);
    Ok(count.fetch_one(pool).await?)
}

/// Whose it is; none when there is no such notification.
///
/// # Errors
/// When the database fails.
pub async fn owner(pool: &PgPool, id: Uuid) -> Result<Option<Uuid>> {
    Ok(sqlx::query_scalar!("SELECT player_id FROM notifications WHERE id = $1", id).fetch_optional(pool).await?)
}

/// Marks a player's own as read; again, it stays so. None: they have no such one.
///
/// # Errors
/// When the database fails.
pub async fn mark_read(pool: &PgPool, player: Uuid, id: Uuid) -> Result<Option<Notification>> {
    Ok(sqlx::query_as!(
        Notification,
        "UPDATE notifications SET read = true WHERE id = $1 AND player_id = $2
         RETURNING id, player_id, type AS kind, subject, content, read, sent_at",
        id,
        player
    )
    .fetch_optional(pool)
    .await?)
}

/// Deletes a player's own. False: they have no such one.
///
/// # Errors
/// When the database fails.
pub async fn delete(pool: &PgPool, player: Uuid, id: Uuid) -> Result<bool> {
    let deleted = sqlx::query!("DELETE FROM notifications WHERE id = $1 AND player_id = $2", id, player);
    Ok(deleted.execute(pool).await?.rows_affected() > 0)
}

/// Deletes those older than so many days, at most `limit`; answers how many. Several may do so at once.
///
/// # Errors
/// When the database fails.
pub async fn expire(pool: &PgPool, days: i32, limit: i64) -> Result<u64> {
    let done = sqlx::query!(
        "DELETE FROM notifications WHERE id IN (
             SELECT id FROM notifications WHERE sent_at < now() - make_interval(days => $1)
             ORDER BY sent_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        days,
        limit
    );
    Ok(done.execute(pool).await?.rows_affected())
}
