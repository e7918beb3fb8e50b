//! Chat's rows over a real PostgreSQL: the fence of a writer's batches, keys, days and their end.

use std::time::Duration;

use asobi_store::{
    chat::{self, Batch, NewMessage, Placed, WriterId, history},
    testing::TestDatabase,
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

const LOBBY: &str = "global:lobby";

fn writer() -> WriterId {
    WriterId { id: Uuid::now_v7(), node_id: "gw-0".into() }
}

fn message(channel: &str, sender: Uuid, content: &str, key: Option<&str>) -> NewMessage {
    NewMessage {
        message_id: Uuid::now_v7(),
        channel_id: channel.into(),
        sender_id: sender,
        content: content.into(),
        idempotency_key: key.map(Into::into),
        sender_known: false,
    }
}

async fn append(
    pool: &PgPool,
    writer: &WriterId,
    number: i64,
    messages: &[&NewMessage],
) -> asobi_store::Result<Option<Vec<Placed>>> {
    let mut connection = pool.acquire().await?;
    chat::append(&mut connection, &Batch { writer, number, messages }).await
}

async fn contents(pool: &PgPool, channel: &str) -> anyhow::Result<Vec<(i64, String)>> {
    let messages = chat::history(pool, channel, None, 1_000).await?;
    Ok(messages.into_iter().map(|m| (m.seq, m.content)).collect())
}

fn seqs(placed: Option<Vec<Placed>>) -> Vec<i64> {
    placed.unwrap_or_default().iter().map(|p| p.seq).collect()
}

#[tokio::test]
async fn numbers_follow_the_order_given_in_each_channel() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (w, ada) = (writer(), Uuid::now_v7());
    let messages: Vec<NewMessage> = [("global:b", "b1"), (LOBBY, "l1"), ("global:b", "b2"), ("global:b", "b3")]
        .map(|(channel, content)| message(channel, ada, content, None))
        .into();
    let messages: Vec<&NewMessage> = messages.iter().collect();
    assert_eq!(seqs(append(&db.pool, &w, 1, &messages).await?), [1, 1, 2, 3]);
    assert_eq!(seqs(append(&db.pool, &w, 2, &messages[2..]).await?), [4, 5]);
    assert_eq!(contents(&db.pool, LOBBY).await?, [(1, "l1".into())]);
    let b: Vec<String> = contents(&db.pool, "global:b").await?.into_iter().map(|m| m.1).collect();
    assert_eq!(b, ["b1", "b2", "b3", "b2", "b3"]);
    db.drop_now().await
}

#[tokio::test]
async fn a_batch_that_arrives_after_its_successor_stores_nothing() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (w, ada) = (writer(), Uuid::now_v7());
    let late = message(LOBBY, ada, "late", Some("k"));
    let next = message(LOBBY, ada, "next", None);
    assert_eq!(seqs(append(&db.pool, &w, 2, &[&next]).await?), [1]);
    assert_eq!(append(&db.pool, &w, 1, &[&late]).await?, None);
    assert_eq!(contents(&db.pool, LOBBY).await?, [(1, "next".into())]);
    assert_eq!(chat::positions(&db.pool, &[LOBBY.into()]).await?, [(LOBBY.to_owned(), 1)], "nor does it count");
    assert!(chat::by_keys(&db.pool, &[(ada, "k")]).await?.is_empty());
    // Another writer's numbers are its own.
    assert_eq!(seqs(append(&db.pool, &writer(), 1, &[&late]).await?), [2]);
    db.drop_now().await
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_found() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (w, ada) = (writer(), Uuid::now_v7());
    let messages = [message(LOBBY, ada, "one", None), message("global:b", ada, "two", None)];
    let messages: Vec<&NewMessage> = messages.iter().collect();
    let batch = Batch { writer: &w, number: 1, messages: &messages };
    assert_eq!(chat::committed(&db.pool, &batch).await?, None, "not yet");
    let Some(placed) = append(&db.pool, &w, 1, &messages).await? else { anyhow::bail!("it is the first") };
    let Some(mut found) = chat::committed(&db.pool, &batch).await? else { anyhow::bail!("it is stored") };
    found.sort_by_key(|stored| stored.message_id);
    assert_eq!(
        found.iter().map(|s| s.message_id).collect::<Vec<_>>(),
        messages.iter().map(|m| m.message_id).collect::<Vec<_>>()
    );
    assert_eq!(found.iter().map(|s| s.placed).collect::<Vec<_>>(), placed);
    let later = Batch { number: 2, ..batch };
    assert_eq!(chat::committed(&db.pool, &later).await?, None, "the row speaks of another");
    db.drop_now().await
}

#[tokio::test]
async fn simultaneous_tries_of_one_batch_store_it_once() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (w, ada) = (writer(), Uuid::now_v7());
    for number in 1..=20 {
        let new = message(LOBBY, ada, &format!("m{number}"), None);
        let messages = [&new];
        let tries = tokio::join!(
            append(&db.pool, &w, number, &messages),
            append(&db.pool, &w, number, &messages),
            append(&db.pool, &w, number, &messages)
        );
        let stored = [tries.0?, tries.1?, tries.2?].into_iter().flatten().count();
        assert_eq!(stored, 1, "of batch {number}");
    }
    let expected: Vec<(i64, String)> = (1..=20).map(|n| (n, format!("m{n}"))).collect();
    assert_eq!(contents(&db.pool, LOBBY).await?, expected);
    db.drop_now().await
}

#[tokio::test]
async fn a_try_waits_for_one_that_is_still_under_way() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (w, ada) = (writer(), Uuid::now_v7());
    for (number, commits) in [(1, true), (2, false)] {
        let new = message(LOBBY, ada, &format!("m{number}"), None);
        let messages = [&new];
        let mut first = PgConnection::connect(&db.url).await?;
        let mut tx = first.begin().await?;
        let batch = Batch { writer: &w, number, messages: &messages };
        assert!(chat::append(&mut tx, &batch).await?.is_some());
        assert_eq!(chat::committed(&db.pool, &batch).await?, None, "nobody can know yet");
        let pool = db.pool.clone();
        let (w2, new2) = (w.clone(), new.clone());
        let second = tokio::spawn(async move { append(&pool, &w2, number, &[&new2]).await });
        waits_for_a_lock(&db.pool).await?;
        if commits {
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
        assert_eq!(second.await??.is_some(), !commits);
    }
    assert_eq!(contents(&db.pool, LOBBY).await?, [(1, "m1".into()), (2, "m2".into())]);
    db.drop_now().await
}

async fn waits_for_a_lock(pool: &PgPool) -> anyhow::Result<()> {
    let waiting = async {
        loop {
            let found: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')",
            )
            .fetch_one(pool)
            .await?;
            if found {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await?
}

#[tokio::test]
async fn a_key_answers_for_ten_minutes() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (w, ada) = (writer(), Uuid::now_v7());
    let first = message(LOBBY, ada, "once", Some("k"));
    let placed = append(&db.pool, &w, 1, &[&first]).await?;
    let again = message(LOBBY, ada, "twice", Some("k"));
    let other = message(LOBBY, Uuid::now_v7(), "of somebody else", Some("k"));
    let refused = append(&db.pool, &w, 2, &[&other, &again]).await;
    assert_eq!(refused.err().and_then(|e| e.unique_violation().map(ToOwned::to_owned)), Some("chat_keys_pkey".into()));
    assert_eq!(contents(&db.pool, LOBBY).await?.len(), 1, "nothing of the batch was stored");
    let found = chat::by_keys(&db.pool, &[(ada, "k"), (ada, "none")]).await?;
    let [(sender, key, stored)] = &found[..] else { anyhow::bail!("{found:?}") };
    assert_eq!((*sender, key.as_str(), stored.message_id), (ada, "k", first.message_id));
    assert_eq!(Some(vec![stored.placed]), placed);
    sqlx::query("UPDATE chat_keys SET sent_at = sent_at - interval '11 minutes'").execute(&db.pool).await?;
    assert!(chat::by_keys(&db.pool, &[(ada, "k")]).await?.is_empty());
    assert_eq!(seqs(append(&db.pool, &w, 2, &[&other, &again]).await?), [2, 3]);
    db.drop_now().await
}

#[tokio::test]
async fn a_player_is_erased_from_every_channel_and_day() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let (w, ada, bo) = (writer(), Uuid::now_v7(), Uuid::now_v7());
    let messages =
        [message(LOBBY, ada, "a", None), message(LOBBY, bo, "b", None), message("global:b", ada, "a", Some("k"))];
    append(&db.pool, &w, 1, &messages.iter().collect::<Vec<_>>()).await?;
    let known = NewMessage { sender_known: true, ..message(LOBBY, ada, "a again", None) };
    append(&db.pool, &w, 2, &[&known]).await?;
    let mut connection = db.pool.acquire().await?;
    chat::erase(&mut connection, ada).await?;
    assert_eq!(contents(&db.pool, LOBBY).await?, [(2, "b".into())]);
    assert!(contents(&db.pool, "global:b").await?.is_empty());
    assert!(chat::by_keys(&db.pool, &[(ada, "k")]).await?.is_empty());
    drop(connection);
    db.drop_now().await
}

/// A message of some days ago.
async fn old_message(pool: &PgPool, seq: i64, days: i32) -> anyhow::Result<()> {
    sqlx::query("SELECT chat_partition((now() AT TIME ZONE 'UTC')::date - $1)").bind(days).execute(pool).await?;
    sqlx::query(
        "INSERT INTO chat_messages (channel_id, seq, message_id, sender_id, content, sent_at)
         VALUES ($1, $2, gen_random_uuid(), gen_random_uuid(), 'old ' || $3::text, now() - make_interval(days => $3))",
    )
    .bind(LOBBY)
    .bind(seq)
    .bind(days)
    .execute(pool)
    .await?;
    sqlx::query(
        "INSERT INTO chat_channels (channel_id, seq) VALUES ($1, $2)
         ON CONFLICT (channel_id) DO UPDATE SET seq = excluded.seq",
    )
    .bind(LOBBY)
    .bind(seq)
    .execute(pool)
    .await?;
    Ok(())
}

async fn days(pool: &PgPool) -> anyhow::Result<Vec<String>> {
    Ok(sqlx::query_scalar("SELECT relname::text FROM pg_class WHERE relname ~ '^chat_messages_[0-9]{8}$' ORDER BY 1")
        .fetch_all(pool)
        .await?)
}

#[tokio::test]
async fn days_are_made_ahead_and_dropped_when_they_are_kept_no_longer() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    for (seq, ago) in (1..).zip([40, 31, 30, 2]) {
        old_message(&db.pool, seq, ago).await?;
    }
    let next = message(LOBBY, Uuid::now_v7(), "new", None);
    assert_eq!(seqs(append(&db.pool, &writer(), 1, &[&next]).await?), [5]);
    assert_eq!(history::upkeep(&db.pool, 0).await?.map(|u| u.dropped), Some(0), "for ever");
    // Detaching was interrupted on one of them, as by the death of the node that did it.
    let detached = days(&db.pool).await?[0].clone();
    sqlx::query(AssertSqlSafe(format!("ALTER TABLE chat_messages DETACH PARTITION {detached}")))
        .execute(&db.pool)
        .await?;
    let done = history::upkeep(&db.pool, 30).await?;
    assert_eq!(done, Some(history::Upkeep { dropped: 2, left: 0 }));
    let left: Vec<i64> = contents(&db.pool, LOBBY).await?.into_iter().map(|m| m.0).collect();
    assert_eq!(left, [3, 4, 5]);
    assert!(!chat::reaches_back_to(&db.pool, LOBBY, 2).await? && chat::reaches_back_to(&db.pool, LOBBY, 3).await?);
    // A day that is missing is made again, by whoever comes, together.
    let last = days(&db.pool).await?.pop().unwrap_or_default();
    sqlx::query(AssertSqlSafe(format!("DROP TABLE {last}"))).execute(&db.pool).await?;
    let made = tokio::join!(history::make_days(&db.pool), history::make_days(&db.pool), history::make_days(&db.pool));
    for made in [made.0, made.1, made.2] {
        made?;
    }
    assert_eq!(days(&db.pool).await?.pop(), Some(last));
    db.drop_now().await
}

#[tokio::test]
async fn only_one_node_at_a_time_looks_after_the_history() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let mut other = db.pool.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(asobi_store::lock_keys::MAINTENANCE)
        .execute(&mut *other)
        .await?;
    assert_eq!(history::upkeep(&db.pool, 30).await?, None);
    other.rollback().await?;
    assert!(history::upkeep(&db.pool, 30).await?.is_some());
    db.drop_now().await
}

#[tokio::test]
async fn missed_messages_are_read_however_old_they_are() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    for (seq, ago) in (1..).zip([20, 9, 3]) {
        old_message(&db.pool, seq, ago).await?;
    }
    let w = writer();
    let messages: Vec<NewMessage> = (4..=6).map(|n| message(LOBBY, Uuid::now_v7(), &format!("m{n}"), None)).collect();
    append(&db.pool, &w, 1, &messages.iter().collect::<Vec<_>>()).await?;
    append(&db.pool, &w, 2, &[&message("global:b", Uuid::now_v7(), "b", None)]).await?;
    let read = async |after: i64| -> anyhow::Result<Vec<i64>> {
        let cursors = [(LOBBY.to_owned(), after), ("global:b".to_owned(), 0)];
        let found = chat::after(&db.pool, &cursors, 500).await?;
        assert_eq!(found.first().map(|m| m.channel_id.as_str()), Some("global:b"));
        Ok(found.iter().skip(1).map(|m| m.seq).collect())
    };
    assert_eq!(read(0).await?, [1, 2, 3, 4, 5, 6]);
    assert_eq!(read(2).await?, [3, 4, 5, 6]);
    assert_eq!(read(4).await?, [5, 6]);
    let page = |before| chat::history(&db.pool, LOBBY, before, 2);
    let numbers = |page: Vec<chat::Message>| page.into_iter().map(|m| m.seq).collect::<Vec<_>>();
    assert_eq!(numbers(page(None).await?), [5, 6]);
    assert_eq!(numbers(page(Some(5)).await?), [3, 4]);
    assert_eq!(numbers(page(Some(2)).await?), [1]);
    db.drop_now().await
}

#[tokio::test]
async fn recent_reads_touch_few_partitions() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    for (seq, ago) in (1..=30).zip((1..=30).rev()) {
        old_message(&db.pool, seq, ago).await?;
    }
    // As if each day were large.
    let mut tx = db.pool.begin().await?;
    sqlx::raw_sql("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off").execute(&mut *tx).await?;
    let plan: Vec<String> = sqlx::query_scalar(
        "EXPLAIN SELECT * FROM chat_messages WHERE channel_id = $1 AND seq > $2 AND sent_at >= $3 ORDER BY seq DESC LIMIT 50",
    )
    .bind(LOBBY)
    .bind(0_i64)
    .bind(OffsetDateTime::now_utc() - time::Duration::days(1))
    .fetch_all(&mut *tx)
    .await?;
    tx.rollback().await?;
    let scanned = plan.iter().filter(|line| line.contains(" on chat_messages_")).count();
    assert!((1..=6).contains(&scanned), "{plan:#?}");
    assert!(plan.iter().all(|line| !line.contains("Sort  (")), "rows come in order from the indexes: {plan:#?}");
    db.drop_now().await
}
