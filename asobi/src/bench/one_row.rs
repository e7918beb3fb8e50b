//! What chat's storage is compared with: the bare way to do the same, one row and its NOTIFY a transaction, by as many
//! connections as a pool would have, in the same database.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::{Connection as _, PgConnection};
use tokio::{task::JoinSet, time::timeout};

use super::player::DEADLINE;

const CONNECTIONS: usize = 16;

/// Rows stored within `time`.
///
/// # Errors
/// When the database refuses, or does not answer.
pub async fn run(database_url: &str, time: Duration) -> anyhow::Result<u64> {
    timeout(time + DEADLINE, rows(database_url, time)).await.context("the database does not answer")?
}

async fn rows(database_url: &str, time: Duration) -> anyhow::Result<u64> {
    let mut owner = PgConnection::connect(database_url).await.context("the cluster's database cannot be reached")?;
    sqlx::raw_sql(
        "DROP TABLE IF EXISTS bench_one_row;
         CREATE TABLE bench_one_row (seq bigserial PRIMARY KEY, channel_id text, sender_id uuid, content text, sent_at timestamptz)",
    )
    .execute(&mut owner)
    .await?;
    let end = Instant::now() + time;
    let mut writers = JoinSet::new();
    for n in 0..CONNECTIONS {
        let url = database_url.to_owned();
        writers.spawn(async move { write(&url, n, end).await });
    }
    let mut rows = 0;
    while let Some(done) = writers.join_next().await {
        rows += done??;
    }
    sqlx::raw_sql("DROP TABLE bench_one_row").execute(&mut owner).await?;
    Ok(rows)
}

async fn write(url: &str, writer: usize, end: Instant) -> anyhow::Result<u64> {
    let mut connection = PgConnection::connect(url).await?;
    let (sender, mut rows) = (uuid::Uuid::now_v7(), 0_u64);
    while Instant::now() < end {
        let content = format!("{writer}-{rows}");
        sqlx::query(
            "WITH stored AS (
                 INSERT INTO bench_one_row (channel_id, sender_id, content, sent_at) VALUES ($1, $2, $3, now())
                 RETURNING seq, sent_at)
             SELECT pg_notify('asobi_bench', json_build_object('type', 'chat.message', 'payload', json_build_object(
                 'channel_id', $1, 'sender_id', $2, 'content', $3, 'sent_at', sent_at, 'seq', seq))::text) FROM stored",
        )
        .bind("global:c0")
        .bind(sender)
        .bind(content)
        .execute(&mut connection)
        .await?;
        rows += 1;
    }
    Ok(rows)
}
