//! Chat: a counter per channel under its row lock, so that commit order is seq order; messages keyed by channel and seq.

use std::collections::BTreeMap;

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Result;

/// A message on its way into its channel.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Made by the sender's node; also what an unknown outcome is looked up by.
    pub message_id: Uuid,
    pub channel_id: String,
    pub sender_id: Uuid,
    pub content: String,
    /// Unique per sender for ten minutes.
    pub idempotency_key: Option<String>,
}

/// A message as its row holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub message_id: Uuid,
    pub channel_id: String,
    pub seq: i64,
    pub sender_id: Uuid,
    pub content: String,
    pub sent_at: OffsetDateTime,
}

impl Message {
    /// As the WebSocket protocol says it, unix milliseconds.
    #[must_use]
    pub fn sent_at_ms(&self) -> i64 {
        unix_ms(self.sent_at)
    }
}

/// Unix milliseconds.
#[must_use]
pub fn unix_ms(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

/// What a message was given by its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub seq: i64,
    pub sent_at: OffsetDateTime,
}

/// Stores a batch in one statement and so in one transaction, unless the caller has one open: channels' counters are
/// advanced in sorted order, then the rows follow in the order given. Answers in argument order.
///
/// # Errors
/// A unique violation of `chat_messages_id` when a message is stored already, of `chat_messages_idempotency` when its
/// sender used the key before; then nothing of the batch is stored.
pub async fn append(conn: &mut PgConnection, messages: &[NewMessage]) -> Result<Vec<Placed>> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    let (mut ids, mut channels, mut senders) = (Vec::new(), Vec::new(), Vec::new());
    let (mut contents, mut keys, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    for message in messages {
        let count = counts.entry(&message.channel_id).or_default();
        *count += 1;
        offsets.push(*count);
        ids.push(message.message_id);
        channels.push(message.channel_id.clone());
        senders.push(message.sender_id);
        contents.push(message.content.clone());
        keys.push(message.idempotency_key.clone());
    }
    let counted: Vec<String> = counts.keys().map(|c| (*c).to_owned()).collect();
    let added: Vec<i64> = counts.values().copied().collect();
    let rows = sqlx::query!(
        r#"WITH counters AS (
               INSERT INTO chat_channels AS c (channel_id, seq)
               SELECT ch, n FROM UNNEST($7::text[], $8::bigint[]) AS t(ch, n) ORDER BY ch
               ON CONFLICT (channel_id) DO UPDATE SET seq = c.seq + excluded.seq
               RETURNING c.channel_id, c.seq),
             added AS (SELECT ch, n FROM UNNEST($7::text[], $8::bigint[]) AS t(ch, n))
           INSERT INTO chat_messages (channel_id, seq, message_id, sender_id, content, sent_at, idempotency_key)
           SELECT m.channel_id, c.seq - a.n + m.place, m.message_id, m.sender_id, m.content,
                  date_trunc('milliseconds', clock_timestamp()), m.key
           FROM UNNEST($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::text[], $6::bigint[])
                AS m(message_id, channel_id, sender_id, content, key, place)
           JOIN counters c ON c.channel_id = m.channel_id JOIN added a ON a.ch = m.channel_id
           RETURNING message_id, seq, sent_at"#,
        &ids,
        &channels,
        &senders,
        &contents,
        &keys as &[Option<String>],
        &offsets,
        &counted,
        &added,
    )
    .fetch_all(conn)
    .await?;
    let placed: BTreeMap<Uuid, Placed> =
        rows.into_iter().map(|row| (row.message_id, Placed { seq: row.seq, sent_at: row.sent_at })).collect();
    // Every inserted row is returned; an id that is not there would be the database's lie.
    ids.iter().map(|id| placed.get(id).copied().ok_or_else(|| sqlx::Error::RowNotFound.into())).collect()
}

/// Which of these messages are stored.
///
/// # Errors
/// When the database does not answer.
pub async fn by_ids(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<Message>> {
    Ok(sqlx::query_as!(
        Message,
        "SELECT message_id, channel_id, seq, sender_id, content, sent_at FROM chat_messages WHERE message_id = ANY($1)",
        ids
    )
    .fetch_all(pool)
    .await?)
}

/// What senders stored under these keys within the last ten minutes, each with its key. Older uses of the keys are
/// forgotten, so that they can be used again.
///
/// # Errors
/// When the database does not answer.
pub async fn by_keys(pool: &PgPool, keys: &[(Uuid, String)]) -> Result<Vec<(String, Message)>> {
    let senders: Vec<Uuid> = keys.iter().map(|k| k.0).collect();
    let names: Vec<String> = keys.iter().map(|k| k.1.clone()).collect();
    sqlx::query!(
        "UPDATE chat_messages m SET idempotency_key = NULL
         FROM UNNEST($1::uuid[], $2::text[]) AS k(sender, key)
         WHERE m.sender_id = k.sender AND m.idempotency_key = k.key AND m.sent_at < now() - interval '10 minutes'",
        &senders,
        &names
    )
    .execute(pool)
    .await?;
    let rows = sqlx::query!(
        r#"SELECT m.idempotency_key AS "key!", m.message_id, m.channel_id, m.seq, m.sender_id, m.content, m.sent_at
           FROM chat_messages m JOIN UNNEST($1::uuid[], $2::text[]) AS k(sender, key)
             ON m.sender_id = k.sender AND m.idempotency_key = k.key"#,
        &senders,
        &names
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let message = Message {
                message_id: row.message_id,
                channel_id: row.channel_id,
                seq: row.seq,
                sender_id: row.sender_id,
                content: row.content,
                sent_at: row.sent_at,
            };
            (row.key, message)
        })
        .collect())
}

/// The messages after each channel's cursor, ordered by channel and seq, at most `limit` per channel.
///
/// # Errors
/// When the database does not answer.
pub async fn after(pool: &PgPool, cursors: &[(String, i64)], limit: i64) -> Result<Vec<Message>> {
    let channels: Vec<String> = cursors.iter().map(|c| c.0.clone()).collect();
    let seqs: Vec<i64> = cursors.iter().map(|c| c.1).collect();
    Ok(sqlx::query_as!(
        Message,
        r#"SELECT m.message_id AS "message_id!", m.channel_id AS "channel_id!", m.seq AS "seq!",
                  m.sender_id AS "sender_id!", m.content AS "content!", m.sent_at AS "sent_at!"
           FROM UNNEST($1::text[], $2::bigint[]) AS c(channel_id, seq)
           CROSS JOIN LATERAL (
               SELECT * FROM chat_messages r WHERE r.channel_id = c.channel_id AND r.seq > c.seq ORDER BY r.seq LIMIT $3
           ) m
           ORDER BY 2, 3"#,
        &channels,
        &seqs,
        limit
    )
    .fetch_all(pool)
    .await?)
}

/// The newest messages with `after < seq <= through`, oldest first, at most `limit`.
///
/// # Errors
/// When the database does not answer.
pub async fn newest_between(
    pool: &PgPool,
    channel: &str,
    after: i64,
    through: i64,
    limit: i64,
) -> Result<Vec<Message>> {
    let mut rows = sqlx::query_as!(
        Message,
        "SELECT message_id, channel_id, seq, sender_id, content, sent_at FROM chat_messages
         WHERE channel_id = $1 AND seq > $2 AND seq <= $3 ORDER BY seq DESC LIMIT $4",
        channel,
        after,
        through,
        limit
    )
    .fetch_all(pool)
    .await?;
    rows.reverse();
    Ok(rows)
}

/// One page of a channel's history, oldest first: the newest messages before `before_seq` (none: of all).
///
/// # Errors
/// When the database does not answer.
pub async fn history(pool: &PgPool, channel: &str, before_seq: Option<i64>, limit: i64) -> Result<Vec<Message>> {
    newest_between(pool, channel, 0, before_seq.map_or(i64::MAX, |seq| seq.saturating_sub(1)), limit).await
}

/// Where these channels stand; a channel without messages is not listed and stands at 0.
///
/// # Errors
/// When the database does not answer.
pub async fn positions(pool: &PgPool, channels: &[String]) -> Result<Vec<(String, i64)>> {
    let rows = sqlx::query!("SELECT channel_id, seq FROM chat_channels WHERE channel_id = ANY($1)", channels)
        .fetch_all(pool)
        .await?;
    Ok(rows.into_iter().map(|row| (row.channel_id, row.seq)).collect())
}
