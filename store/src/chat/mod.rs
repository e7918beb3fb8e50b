//! Chat: a counter per channel under its row lock, so that commit order is seq order; messages keyed by channel and seq in
//! partitions of a day. Numbers and days grow together within a channel, so reads look at the newest days first.

mod append;
pub mod deletions;
pub mod history;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use asobi_proto::{bus::InboxEvent, frame};
use serde::Serialize;
use serde_json::{json, value::RawValue};
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

pub use self::append::{Batch, NewMessage, Placed, Stored, WriterId, append, by_keys, committed, connect_options};
pub use self::history::erase;
use crate::Result;

/// A message as its row holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub message_id: Uuid,
    pub channel_id: String,
    pub seq: i64,
    pub sender_id: Uuid,
    /// Empty when it was deleted.
    pub content: String,
    pub sent_at: OffsetDateTime,
    /// By a moderator.
    pub deleted: bool,
}

impl Message {
    /// As the WebSocket protocol says it, unix milliseconds.
    #[must_use]
    pub fn sent_at_ms(&self) -> i64 {
        unix_ms(self.sent_at)
    }

    /// The `chat.message` frame.
    #[must_use]
    pub fn frame(&self) -> String {
        #[derive(Serialize)]
        struct Payload<'a> {
            channel_id: &'a str,
            sender_id: Uuid,
            content: &'a str,
            sent_at: i64,
            message_id: Uuid,
            seq: i64,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            deleted: bool,
        }
        let payload = Payload {
            channel_id: &self.channel_id,
            sender_id: self.sender_id,
            content: &self.content,
            sent_at: self.sent_at_ms(),
            message_id: self.message_id,
            seq: self.seq,
            deleted: self.deleted,
        };
        frame::push("chat.message", payload)
    }
}

/// What tells the recipient of a direct message about it, wherever they are.
#[must_use]
pub fn direct_event(message: &NewMessage, placed: &Placed) -> InboxEvent {
    let text = frame::push(
        "dm.message",
        json!({"channel_id": message.channel_id, "sender_id": message.sender_id, "content": message.content,
               "sent_at": unix_ms(placed.sent_at), "message_id": message.message_id, "seq": placed.seq}),
    );
    InboxEvent { frame: RawValue::from_string(text).ok(), action: None }
}

/// Unix milliseconds.
#[must_use]
pub fn unix_ms(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

/// How far back reads look at first: what is asked for is nearly always younger, and older partitions stay untouched.
const RECENT: Duration = Duration::from_secs(24 * 3_600);

/// The messages after each channel's cursor, ordered by channel and seq, at most `limit` per channel.
///
/// # Errors
/// When the database does not answer.
pub async fn after(pool: &PgPool, cursors: &[(String, i64)], limit: i64) -> Result<Vec<Message>> {
    let recent = after_since(pool, cursors, limit, OffsetDateTime::now_utc() - RECENT).await?;
    let mut first: HashMap<&str, i64> = HashMap::new();
    for message in &recent {
        first.entry(&message.channel_id).or_insert(message.seq);
    }
    // Where the first one does not follow the cursor, what is between is older, or is not there: then all days tell.
    let doubtful: Vec<(String, i64)> =
        cursors.iter().filter(|(channel, seq)| first.get(channel.as_str()) != Some(&(seq + 1))).cloned().collect();
    if doubtful.is_empty() {
        return Ok(recent);
    }
    let mut messages = after_since(pool, &doubtful, limit, OffsetDateTime::UNIX_EPOCH).await?;
    let doubtful: HashSet<&str> = doubtful.iter().map(|c| c.0.as_str()).collect();
    messages.extend(recent.into_iter().filter(|m| !doubtful.contains(m.channel_id.as_str())));
    messages.sort_by(|a, b| (&a.channel_id, a.seq).cmp(&(&b.channel_id, b.seq)));
    Ok(messages)
}

async fn after_since(
    pool: &PgPool,
    cursors: &[(String, i64)],
    limit: i64,
    since: OffsetDateTime,
) -> Result<Vec<Message>> {
    let channels: Vec<String> = cursors.iter().map(|c| c.0.clone()).collect();
    let seqs: Vec<i64> = cursors.iter().map(|c| c.1).collect();
    Ok(sqlx::query_as!(
        Message,
        r#"SELECT m.message_id AS "message_id!", m.channel_id AS "channel_id!", m.seq AS "seq!",
                  m.sender_id AS "sender_id!", m.content AS "content!", m.sent_at AS "sent_at!",
                  m.deleted_at IS NOT NULL AS "deleted!"
           FROM UNNEST($1::text[], $2::bigint[]) AS c(channel_id, seq)
           CROSS JOIN LATERAL (
               SELECT * FROM chat_messages r
               WHERE r.channel_id = c.channel_id AND r.seq > c.seq AND r.sent_at >= $4
               ORDER BY r.seq LIMIT $3
           ) m
           ORDER BY 2, 3"#,
        &channels,
        &seqs,
        limit,
        since
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
    let mut rows = Vec::new();
    // Whoever comes back having missed nothing, as most do after a node's end, costs no look at all days.
    if after >= through {
        return Ok(rows);
    }
    for since in [OffsetDateTime::now_utc() - RECENT, OffsetDateTime::UNIX_EPOCH] {
        rows = sqlx::query_as!(
            Message,
            r#"SELECT message_id, channel_id, seq, sender_id, content, sent_at, deleted_at IS NOT NULL AS "deleted!"
               FROM chat_messages
               WHERE channel_id = $1 AND seq > $2 AND seq <= $3 AND sent_at >= $5 ORDER BY seq DESC LIMIT $4"#,
            channel,
            after,
            through,
            limit,
            since
        )
        .fetch_all(pool)
        .await?;
        let complete = i64::try_from(rows.len()).is_ok_and(|n| n >= limit);
        if complete || rows.last().is_some_and(|oldest| oldest.seq == after + 1) {
            break;
        }
    }
    rows.reverse();
    Ok(rows)
}

/// Whether a channel still has a message up to `seq`: none means that its history begins later.
///
/// # Errors
/// When the database does not answer.
pub async fn reaches_back_to(pool: &PgPool, channel: &str, seq: i64) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM chat_messages WHERE channel_id = $1 AND seq <= $2) AS "there!""#,
        channel,
        seq
    )
    .fetch_one(pool)
    .await?)
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
