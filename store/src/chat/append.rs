//! Storing messages, exactly once however often it is tried.
//!
//! ```text
//!  batch n ─► fence: the writer's row, n − 1 → n ─► counters, in sorted order ─► rows · senders · keys    (one statement)
//!                 └ n or more is there: this try is late, and stores nothing
//! ```
//!
//! | what is known of batch n | the writer's row | what to do |
//! | --- | --- | --- |
//! | the statement was answered | n | – |
//! | its answer was lost | n: it was stored | [`committed`] tells what it was given |
//! | | below n: not stored, or not yet | try again under the same number: whichever comes second stores nothing |

use std::{collections::BTreeMap, time::Duration};

use sqlx::{PgConnection, PgPool, postgres::PgConnectOptions};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Result;

/// A message on its way into its channel.
#[derive(Debug, Clone)]
pub struct NewMessage {
    pub message_id: Uuid,
    pub channel_id: String,
    pub sender_id: Uuid,
    pub content: String,
    /// Unique per sender for ten minutes.
    pub idempotency_key: Option<String>,
    /// Whether this sender has stored something in this channel before, as far as the caller knows. False costs a look.
    pub sender_known: bool,
}

/// How far back in its channel a message is looked for whose answer was lost: far more than a channel takes while that is
/// being learnt, and far less than a busy one's day, all of which the index would be read for.
const LOOKED_THROUGH: i64 = 200_000;

/// What a message was given by its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub seq: i64,
    pub sent_at: OffsetDateTime,
}

/// A message that is stored, as far as its sender is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    pub message_id: Uuid,
    pub placed: Placed,
}

/// Names a writer: never used twice, not even by the same node.
#[derive(Debug, Clone)]
pub struct WriterId {
    pub id: Uuid,
    /// For whoever looks at the rows.
    pub node_id: String,
}

/// A writer's messages under a number of its own, which counts up.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    pub writer: &'a WriterId,
    pub number: i64,
    pub messages: &'a [&'a NewMessage],
}

/// Connection options for a session that appends: its one statement is planned once, for any number of messages.
///
/// # Errors
/// When the URL cannot be parsed.
pub fn connect_options(url: &str, application_name: &str, timeout: Duration) -> Result<PgConnectOptions> {
    // A plan for arrays of unknown length expects ten rows; nested loops over five hundred would be felt.
    let plans = [("plan_cache_mode", "force_generic_plan"), ("enable_nestloop", "off"), ("jit", "off")];
    Ok(crate::connect_options(url, application_name, timeout)?.options(plans))
}

/// The arrays of the statement.
#[derive(Default)]
struct Columns<'a> {
    counted: Vec<&'a str>,
    added: Vec<i64>,
    ids: Vec<Uuid>,
    channels: Vec<&'a str>,
    senders: Vec<Uuid>,
    contents: Vec<&'a str>,
    /// How far each message is behind its channel's last of this batch.
    behind: Vec<i64>,
    new_senders: Vec<Uuid>,
    new_senders_in: Vec<&'a str>,
    /// Positions of the messages with a key, counted from one, and the keys.
    keyed: Vec<i64>,
    keys: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    fn of(messages: &[&'a NewMessage]) -> Self {
        let mut columns = Self::default();
        let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
        for message in messages {
            let count = counts.entry(&message.channel_id).or_default();
            *count += 1;
            columns.behind.push(-*count);
            columns.ids.push(message.message_id);
            columns.channels.push(&message.channel_id);
            columns.senders.push(message.sender_id);
            columns.contents.push(&message.content);
        }
        for (channel, behind) in columns.channels.iter().zip(&mut columns.behind) {
            *behind += counts.get(channel).copied().unwrap_or(0);
        }
        columns.counted = counts.keys().copied().collect();
        columns.added = counts.into_values().collect();
        // Two writers take locks of the same rows in the same order.
        let mut fresh: Vec<(Uuid, &str)> =
            messages.iter().filter(|m| !m.sender_known).map(|m| (m.sender_id, m.channel_id.as_str())).collect();
        fresh.sort_unstable();
        fresh.dedup();
        (columns.new_senders, columns.new_senders_in) = fresh.into_iter().unzip();
        let mut keyed: Vec<(Uuid, &str, i64)> = (1..)
            .zip(messages)
            .filter_map(|(position, m)| Some((m.sender_id, m.idempotency_key.as_deref()?, position)))
            .collect();
        keyed.sort_unstable();
        (columns.keys, columns.keyed) = keyed.into_iter().map(|(_, key, position)| (key, position)).unzip();
        columns
    }
}

/// Stores a batch in one statement, and so in one transaction unless the caller has one open. Answers in argument order;
/// none: this number or a later one of the writer is stored already, and nothing was done.
///
/// # Errors
/// A unique violation of `chat_keys_pkey` when a sender used a key before; then nothing of the batch is stored.
pub async fn append(conn: &mut PgConnection, batch: &Batch<'_>) -> Result<Option<Vec<Placed>>> {
    let columns = Columns::of(batch.messages);
    // The time is taken when all counters are locked: it grows with the numbers, whoever had to wait.
    let rows = sqlx::query!(
        r#"WITH fence AS (
               INSERT INTO chat_writers AS w (writer_id, node_id, batch, written_at)
               VALUES ($1, $2, $3, clock_timestamp())
               ON CONFLICT (writer_id) DO UPDATE SET batch = excluded.batch, written_at = excluded.written_at
               WHERE w.batch < excluded.batch
               RETURNING w.batch),
           counters AS (
               INSERT INTO chat_channels AS c (channel_id, seq)
               SELECT ch, n FROM fence, UNNEST($4::text[], $5::bigint[]) AS t(ch, n)
               ON CONFLICT (channel_id) DO UPDATE SET seq = c.seq + excluded.seq
               RETURNING c.channel_id, c.seq),
           stamp AS MATERIALIZED (
               SELECT date_trunc('milliseconds', clock_timestamp()) AS at, count(*) AS locked FROM counters),
           messages AS MATERIALIZED (
               SELECT m.message_id, m.channel_id, c.seq - m.behind AS seq, m.sender_id, m.content, stamp.at, m.position
               FROM UNNEST($6::uuid[], $7::text[], $8::uuid[], $9::text[], $10::bigint[]) WITH ORDINALITY
                    AS m(message_id, channel_id, sender_id, content, behind, position)
               JOIN counters c ON c.channel_id = m.channel_id CROSS JOIN stamp),
           stored AS (
               INSERT INTO chat_messages (channel_id, seq, message_id, sender_id, content, sent_at)
               SELECT channel_id, seq, message_id, sender_id, content, at FROM messages),
           senders AS (
               INSERT INTO chat_senders (sender_id, channel_id)
               SELECT s, ch FROM fence, UNNEST($11::uuid[], $12::text[]) AS t(s, ch)
               ON CONFLICT DO NOTHING),
           keys AS (
               INSERT INTO chat_keys (sender_id, key, message_id, channel_id, seq, sent_at)
               SELECT m.sender_id, k.key, m.message_id, m.channel_id, m.seq, m.at
               FROM UNNEST($13::bigint[], $14::text[]) AS k(position, key) JOIN messages m ON m.position = k.position
               ORDER BY m.sender_id, k.key)
           SELECT c.channel_id, c.seq, stamp.at AS "at!" FROM counters c CROSS JOIN stamp"#,
        batch.writer.id,
        batch.writer.node_id,
        batch.number,
        &columns.counted as &[&str],
        &columns.added,
        &columns.ids,
        &columns.channels as &[&str],
        &columns.senders,
        &columns.contents as &[&str],
        &columns.behind,
        &columns.new_senders,
        &columns.new_senders_in as &[&str],
        &columns.keyed,
        &columns.keys as &[&str],
    )
    .fetch_all(conn)
    .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let counters: BTreeMap<&str, Placed> =
        rows.iter().map(|row| (row.channel_id.as_str(), Placed { seq: row.seq, sent_at: row.at })).collect();
    let placed = columns.channels.iter().zip(&columns.behind).map(|(channel, behind)| {
        // Every channel of the batch is counted; one that is not there would be the database's lie.
        let last = counters.get(channel).ok_or(sqlx::Error::RowNotFound)?;
        Ok(Placed { seq: last.seq - behind, sent_at: last.sent_at })
    });
    placed.collect::<Result<_>>().map(Some)
}

/// What the messages of a batch were given if it is stored; none when it is not, or not yet.
///
/// # Errors
/// When the database does not answer.
pub async fn committed(pool: &PgPool, batch: &Batch<'_>) -> Result<Option<Vec<Stored>>> {
    let row = sqlx::query!("SELECT batch, written_at FROM chat_writers WHERE writer_id = $1", batch.writer.id)
        .fetch_optional(pool)
        .await?;
    let Some(row) = row.filter(|row| row.batch == batch.number) else { return Ok(None) };
    let channels: Vec<String> = batch.messages.iter().map(|m| m.channel_id.clone()).collect();
    let ids: Vec<Uuid> = batch.messages.iter().map(|m| m.message_id).collect();
    // The messages' own time is a little later, by as much as the statement waited for counters.
    let rows = sqlx::query!(
        "SELECT m.message_id, m.seq, m.sent_at FROM chat_channels c
         JOIN chat_messages m ON m.channel_id = c.channel_id AND m.seq > c.seq - $4
         WHERE m.sent_at >= date_trunc('milliseconds', $1::timestamptz) AND m.sent_at < $1 + interval '10 minutes'
           AND c.channel_id = ANY($2) AND m.message_id = ANY($3)",
        row.written_at,
        &channels,
        &ids,
        LOOKED_THROUGH
    )
    .fetch_all(pool)
    .await?;
    let stored = rows
        .into_iter()
        .map(|row| Stored { message_id: row.message_id, placed: Placed { seq: row.seq, sent_at: row.sent_at } });
    Ok(Some(stored.collect()))
}

/// What senders stored under these keys within the last ten minutes, each with its sender and key. Older uses of the keys
/// are forgotten, so that they can be used again.
///
/// # Errors
/// When the database does not answer.
pub async fn by_keys(pool: &PgPool, keys: &[(Uuid, &str)]) -> Result<Vec<(Uuid, String, Stored)>> {
    let (senders, names): (Vec<Uuid>, Vec<&str>) = keys.iter().copied().unzip();
    let rows = sqlx::query!(
        r#"WITH asked AS (SELECT s, k FROM UNNEST($1::uuid[], $2::text[]) AS t(s, k)),
           expired AS (
               DELETE FROM chat_keys c USING asked
               WHERE c.sender_id = s AND c.key = k AND c.sent_at < now() - interval '10 minutes')
           SELECT c.sender_id, c.key, c.message_id, c.seq, c.sent_at
           FROM chat_keys c JOIN asked ON c.sender_id = s AND c.key = k
           WHERE c.sent_at >= now() - interval '10 minutes'"#,
        &senders,
        &names as &[&str]
    )
    .fetch_all(pool)
    .await?;
    let found = rows.into_iter().map(|row| {
        let placed = Placed { seq: row.seq, sent_at: row.sent_at };
        (row.sender_id, row.key, Stored { message_id: row.message_id, placed })
    });
    Ok(found.collect())
}
