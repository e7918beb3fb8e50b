//! Notifications: rows a player reads when they like, and a `notification.new` in their inbox for every connection they have
//! now. Both are written by one transaction, so that what was pushed can be read, and read again.

use asobi_proto::{bus::InboxEvent, frame};
use serde_json::{json, value::RawValue};
use sqlx::{PgConnection, PgExecutor, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Result, chat::unix_ms, inbox};

pub mod jobs;
pub mod templates;

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
    /// After this it is neither shown nor counted. None: until it is old.
    pub expires_at: Option<OffsetDateTime>,
}

/// One text for any number of players.
#[derive(Debug, Clone)]
pub struct NewNotification {
    pub kind: String,
    pub subject: String,
    /// An object.
    pub content: serde_json::Value,
}

/// What a notification says in one language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    pub subject: String,
    /// An object.
    pub content: serde_json::Value,
}

/// Texts of which each player gets one.
#[derive(Debug, Clone)]
pub struct Texts {
    pub kind: String,
    pub texts: Vec<Text>,
    pub expires_at: Option<OffsetDateTime>,
}

/// An event that the caller publishes after the commit.
pub type Published = (Uuid, i64, InboxEvent);

impl Notification {
    /// What pushes it to the player's connections.
    #[must_use]
    pub fn event(&self) -> InboxEvent {
        let mut payload = json!({"id": self.id, "type": self.kind, "subject": self.subject, "content": self.content,
                                 "sent_at": unix_ms(self.sent_at)});
        if let Some(at) = self.expires_at {
            payload["expires_at"] = unix_ms(at).into();
        }
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
    let text = Text { subject: new.subject.clone(), content: new.content.clone() };
    let texts = Texts { kind: new.kind.clone(), texts: vec![text], expires_at: None };
    let players: Vec<(Uuid, usize)> = players.iter().map(|player| (*player, 0)).collect();
    insert_texts(conn, &players, &texts).await
}

/// As [`insert`], with the text that each player is to have, by its place.
///
/// # Errors
/// When the database fails.
pub async fn insert_texts(
    conn: &mut PgConnection,
    players: &[(Uuid, usize)],
    new: &Texts,
) -> Result<Vec<Notification>> {
    let ids: Vec<Uuid> = players.iter().map(|_| Uuid::now_v7()).collect();
    // Arrays begin at 1 there.
    let places: Vec<i32> = players.iter().map(|(_, at)| i32::try_from(at + 1).unwrap_or(i32::MAX)).collect();
    let players: Vec<Uuid> = players.iter().map(|(player, _)| *player).collect();
    let subjects: Vec<String> = new.texts.iter().map(|text| text.subject.clone()).collect();
    let contents: Vec<serde_json::Value> = new.texts.iter().map(|text| text.content.clone()).collect();
    // A player who is being erased is waited for, in an order all take; one who is named twice is told once.
    Ok(sqlx::query_as!(
        Notification,
        r#"WITH there AS (
               SELECT p.id FROM players p WHERE p.id = ANY((SELECT $1::uuid[])::uuid[]) ORDER BY p.id FOR KEY SHARE
           ), named AS (
               SELECT DISTINCT ON (player_id) player_id, id, place
               FROM UNNEST((SELECT $1::uuid[]), (SELECT $2::uuid[]), (SELECT $3::int[])) AS t(player_id, id, place)
           )
           INSERT INTO notifications (id, player_id, type, subject, content, expires_at)
           SELECT n.id, n.player_id, $4, ($5::text[])[n.place], ($6::jsonb[])[n.place], $7
           FROM named n JOIN there ON there.id = n.player_id
           RETURNING id, player_id, type AS kind, subject, content, read, sent_at, expires_at"#,
        &players,
        &ids,
        &places,
        new.kind,
        &subjects,
        &contents,
        new.expires_at
    )
    .fetch_all(conn)
    .await?)
}

/// The languages of those players who say theirs, as they wrote them.
///
/// # Errors
/// When the database fails.
pub async fn languages(conn: &mut PgConnection, players: &[Uuid]) -> Result<Vec<(Uuid, String)>> {
    let rows = sqlx::query!(
        r#"SELECT id, metadata->>'language' AS "language!" FROM players
           WHERE id = ANY($1) AND metadata->>'language' IS NOT NULL"#,
        players
    );
    Ok(rows.fetch_all(conn).await?.into_iter().map(|row| (row.id, row.language)).collect())
}

/// Takes back what a player was told of another one's deed, of that kind: it is told anew, or no longer true.
///
/// # Errors
/// When the database fails.
pub async fn retract(conn: &mut PgConnection, player: Uuid, kind: &str, from: Uuid) -> Result<()> {
    retract_about(conn, &[player], kind, "from_player_id", from).await
}

/// Takes back what players were told of something, of that kind: of what has this id under the content's key.
///
/// # Errors
/// When the database fails.
pub async fn retract_about(
    conn: &mut PgConnection,
    players: &[Uuid],
    kind: &str,
    key: &str,
    about: Uuid,
) -> Result<()> {
    if players.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "DELETE FROM notifications WHERE id IN (
             SELECT id FROM notifications WHERE player_id = ANY($1) AND type = $2 AND content->>$3 = $4::uuid::text
             ORDER BY id FOR UPDATE)",
        players,
        kind,
        key,
        about
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

/// Newest first, those before one; what has expired is not among them.
///
/// # Errors
/// When the database fails.
pub async fn list(
    pool: &PgPool,
    player: Uuid,
    read: Option<bool>,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Notification>> {
    Ok(sqlx::query_as!(
        Notification,
        "SELECT id, player_id, type AS kind, subject, content, read, sent_at, expires_at FROM notifications
         WHERE player_id = $1 AND ($2::boolean IS NULL OR read = $2) AND (expires_at IS NULL OR expires_at > now())
           AND ($3::uuid IS NULL OR (sent_at, id) < (SELECT b.sent_at, b.id FROM notifications b WHERE b.id = $3))
         ORDER BY sent_at DESC, id DESC LIMIT $4",
        player,
        read,
        before,
        limit
    )
    .fetch_all(pool)
    .await?)
}

/// How many a player has not read, of those that have not expired.
///
/// # Errors
/// When the database fails.
pub async fn unread(conn: impl PgExecutor<'_>, player: Uuid) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "n!" FROM notifications
           WHERE player_id = $1 AND NOT read AND (expires_at IS NULL OR expires_at > now())"#,
        player
    );
    Ok(count.fetch_one(conn).await?)
}

/// Whose it is; none when there is no such notification.
///
/// # Errors
/// When the database fails.
pub async fn owner(pool: &PgPool, id: Uuid) -> Result<Option<Uuid>> {
    Ok(sqlx::query_scalar!("SELECT player_id FROM notifications WHERE id = $1", id).fetch_optional(pool).await?)
}

/// Marks a player's own as read; the row, and whether it was not. None: they have no such one.
///
/// # Errors
/// When the database fails.
pub async fn mark_read(conn: &mut PgConnection, player: Uuid, id: Uuid) -> Result<Option<(Notification, bool)>> {
    let found = sqlx::query_as!(
        Notification,
        "SELECT id, player_id, type AS kind, subject, content, read, sent_at, expires_at FROM notifications
         WHERE id = $1 AND player_id = $2 AND (expires_at IS NULL OR expires_at > now()) FOR UPDATE",
        id,
        player
    );
    let Some(row) = found.fetch_optional(&mut *conn).await? else { return Ok(None) };
    if row.read {
        return Ok(Some((row, false)));
    }
    sqlx::query!("UPDATE notifications SET read = true WHERE id = $1", id).execute(conn).await?;
    Ok(Some((Notification { read: true, ..row }, true)))
}

/// How far a player has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpTo {
    All,
    /// This one, which is the player's own, and those before it.
    One(Uuid),
    /// Those that were sent then or before.
    Time(OffsetDateTime),
}

/// Marks all of a player's own up to there as read; how many were not. None: there is no such one to read up to.
///
/// # Errors
/// When the database fails.
pub async fn mark_read_up_to(conn: &mut PgConnection, player: Uuid, up_to: UpTo) -> Result<Option<u64>> {
    let (time, id) = match up_to {
        UpTo::All => (None, None),
        UpTo::Time(at) => (Some(at), None),
        UpTo::One(id) => {
            let sent =
                sqlx::query_scalar!("SELECT sent_at FROM notifications WHERE id = $1 AND player_id = $2", id, player);
            match sent.fetch_optional(&mut *conn).await? {
                Some(at) => (Some(at), Some(id)),
                None => return Ok(None),
            }
        }
    };
    let marked = sqlx::query!(
        "UPDATE notifications SET read = true WHERE id IN (
             SELECT id FROM notifications
             WHERE player_id = $1 AND NOT read AND ($2::timestamptz IS NULL OR sent_at < $2 OR (sent_at = $2 AND ($3::uuid IS NULL OR id <= $3)))
             ORDER BY id FOR UPDATE)",
        player,
        time,
        id
    );
    Ok(Some(marked.execute(conn).await?.rows_affected()))
}

/// Deletes a player's own. False: they have no such one.
///
/// # Errors
/// When the database fails.
pub async fn delete(pool: &PgPool, player: Uuid, id: Uuid) -> Result<bool> {
    let deleted = sqlx::query!("DELETE FROM notifications WHERE id = $1 AND player_id = $2", id, player);
    Ok(deleted.execute(pool).await?.rows_affected() > 0)
}

/// Deletes those that have expired and those older than so many days, at most `limit` of each; answers how many. Several may do
/// so at once.
///
/// # Errors
/// When the database fails.
pub async fn expire(pool: &PgPool, days: i32, limit: i64) -> Result<u64> {
    let over = sqlx::query!(
        "DELETE FROM notifications WHERE id IN (
             SELECT id FROM notifications WHERE expires_at < now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)",
        limit
    );
    let over = over.execute(pool).await?.rows_affected();
    let old = sqlx::query!(
        "DELETE FROM notifications WHERE id IN (
             SELECT id FROM notifications WHERE sent_at < now() - make_interval(days => $1)
             ORDER BY sent_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        days,
        limit
    );
    Ok(over + old.execute(pool).await?.rows_affected())
}
