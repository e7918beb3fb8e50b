//! Messages that moderators delete: the row and its number stay, the content goes.

use asobi_proto::{bus::InboxEvent, frame};
use serde_json::{json, value::RawValue};
use sqlx::{PgConnection, PgPool};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::Message;
use crate::{
    Result, inbox,
    moderation::{self, What},
};

/// How far a message's own time may be from the one in its id, which its writer's clock gave it.
const CLOCKS: Duration = Duration::minutes(15);

/// Of a channel's id.
pub const CHANNEL_BYTES: usize = 200;

/// Which message of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Seq(i64),
    Id(Uuid),
}

/// A deletion, as nodes hear of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    pub version: i64,
    pub channel_id: String,
    pub seq: i64,
    pub message_id: Uuid,
}

impl Deletion {
    /// The `chat.deleted` frame.
    #[must_use]
    pub fn frame(&self) -> String {
        deleted_frame(&self.channel_id, self.message_id, self.seq)
    }
}

fn deleted_frame(channel_id: &str, message_id: Uuid, seq: i64) -> String {
    frame::push("chat.deleted", json!({"channel_id": channel_id, "message_id": message_id, "seq": seq}))
}

/// What a deletion came to.
#[derive(Debug)]
pub struct Deleted {
    pub seq: i64,
    pub message_id: Uuid,
    pub sender_id: Uuid,
    /// False: it was deleted before, and everybody told then.
    pub fresh: bool,
    /// What the two of a direct message are told, to be published after the commit.
    pub events: Vec<(Uuid, i64, InboxEvent)>,
}

/// A message of a channel.
///
/// # Errors
/// When the database does not answer.
pub async fn find(conn: &mut PgConnection, channel_id: &str, which: Which) -> Result<Option<Message>> {
    let (seq, id) = match which {
        Which::Seq(seq) => (Some(seq), None),
        Which::Id(id) => (None, Some(id)),
    };
    // The id tells the day, and so the partition.
    let made = id.and_then(|id| id.get_timestamp()).map(|at| at.to_unix());
    let made = made.and_then(|(seconds, _)| OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok());
    Ok(sqlx::query_as!(
        Message,
        r#"SELECT message_id, channel_id, seq, sender_id, content, sent_at, deleted_at IS NOT NULL AS "deleted!"
           FROM chat_messages
           WHERE channel_id = $1 AND ($2::bigint IS NULL OR seq = $2) AND ($3::uuid IS NULL OR message_id = $3)
             AND ($4::timestamptz IS NULL OR sent_at >= $4) AND ($5::timestamptz IS NULL OR sent_at < $5)
           LIMIT 1"#,
        channel_id,
        seq,
        id,
        made.map(|at| at - CLOCKS),
        made.map(|at| at + CLOCKS),
    )
    .fetch_optional(conn)
    .await?)
}

/// Deletes a message in the caller's transaction; none: there is no such message. The two of a direct message are told through their
/// inboxes; the members of any other channel are told by their nodes. The caller publishes the events and wakes the nodes after the
/// commit.
///
/// # Errors
/// When the database does not answer.
pub async fn delete(conn: &mut PgConnection, channel_id: &str, which: Which) -> Result<Option<Deleted>> {
    let Some(message) = find(conn, channel_id, which).await? else { return Ok(None) };
    let Message { seq, message_id, sender_id, sent_at, .. } = message;
    // Whoever deletes the same at the same time waits here, and finds it done.
    let changed = sqlx::query!(
        "UPDATE chat_messages SET content = '', deleted_at = now()
         WHERE channel_id = $1 AND seq = $2 AND sent_at = $3 AND deleted_at IS NULL",
        channel_id,
        seq,
        sent_at
    );
    let fresh = changed.execute(&mut *conn).await?.rows_affected() == 1;
    let mut deleted = Deleted { seq, message_id, sender_id, fresh, events: Vec::new() };
    if !fresh {
        return Ok(Some(deleted));
    }
    if let Some(two) = parties(channel_id) {
        deleted.events = tell(conn, two, channel_id, &deleted).await?;
    }
    let version = moderation::next(conn, What::Deletions).await?;
    sqlx::query!(
        "INSERT INTO chat_deletions (version, channel_id, seq, message_id) VALUES ($1, $2, $3, $4)",
        version,
        channel_id,
        seq,
        message_id
    )
    .execute(conn)
    .await?;
    Ok(Some(deleted))
}

/// The two players of a channel of direct messages.
fn parties(channel_id: &str) -> Option<(Uuid, Uuid)> {
    let (a, b) = channel_id.strip_prefix("dm:")?.split_once(':')?;
    Some((Uuid::try_parse(a).ok()?, Uuid::try_parse(b).ok()?))
}

/// What of a direct message still waits in inboxes loses its content, and the deletion follows it there.
async fn tell(
    conn: &mut PgConnection,
    (a, b): (Uuid, Uuid),
    channel_id: &str,
    deleted: &Deleted,
) -> Result<Vec<(Uuid, i64, InboxEvent)>> {
    let mut both = vec![a, b];
    both.sort_unstable();
    both.dedup();
    let frame = RawValue::from_string(deleted_frame(channel_id, deleted.message_id, deleted.seq)).ok();
    let events: Vec<(Uuid, InboxEvent)> =
        both.iter().map(|player| (*player, InboxEvent { frame: frame.clone(), action: None })).collect();
    // The counters' locks first, as everybody who appends.
    let seqs = inbox::append(conn, &events).await?;
    sqlx::query!(
        "UPDATE inbox_events SET event = '{}'
         WHERE player_id = ANY($1) AND event->'f'->>'type' = 'dm.message' AND event->'f'->'payload'->>'message_id' = $2::uuid::text",
        &both,
        deleted.message_id
    )
    .execute(conn)
    .await?;
    Ok(events.into_iter().zip(seqs).map(|((player, event), seq)| (player, seq, event)).collect())
}

/// Deletions after a version, in its order.
///
/// # Errors
/// When the database does not answer.
pub async fn since(pool: &PgPool, version: i64, limit: i64) -> Result<Vec<Deletion>> {
    Ok(sqlx::query_as!(
        Deletion,
        "SELECT version, channel_id, seq, message_id FROM chat_deletions WHERE version > $1 ORDER BY version LIMIT $2",
        version,
        limit
    )
    .fetch_all(pool)
    .await?)
}

/// The newest deletions, in the order of their versions.
///
/// # Errors
/// When the database does not answer.
pub async fn newest(pool: &PgPool, limit: i64) -> Result<Vec<Deletion>> {
    let mut rows = sqlx::query_as!(
        Deletion,
        "SELECT version, channel_id, seq, message_id FROM chat_deletions ORDER BY version DESC LIMIT $1",
        limit
    )
    .fetch_all(pool)
    .await?;
    rows.reverse();
    Ok(rows)
}

pub(crate) async fn sweep(pool: &PgPool) -> Result<u64> {
    let swept = sqlx::query!(
        "DELETE FROM chat_deletions WHERE version IN (SELECT version FROM chat_deletions
             WHERE deleted_at < now() - interval '1 day' ORDER BY deleted_at LIMIT 1000 FOR UPDATE SKIP LOCKED)"
    );
    Ok(swept.execute(pool).await?.rows_affected())
}
