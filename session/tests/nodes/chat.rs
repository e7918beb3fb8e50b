//! Chat across nodes.

use serde_json::{Value, json};
use sqlx::Executor as _;

use crate::{client::Client, cluster::Cluster};

const LOBBY: &str = "global:lobby";

async fn say(client: &mut Client, content: &str) -> anyhow::Result<Value> {
    let sent = client.ask("chat.send", json!({"channel_id": LOBBY, "content": content})).await?;
    anyhow::ensure!(sent["type"] == "chat.sent", "{sent}");
    Ok(sent["payload"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_reaches_the_members_on_every_node_once() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[]).await?;
    let (ada_id, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let (_, mut bo) = cluster.connected("bob", 1, &[]).await?;
    let joined = ada.ask("chat.join", json!({"channel_id": LOBBY})).await?;
    assert_eq!((&joined["type"], &joined["payload"]["channel_id"]), (&json!("chat.joined"), &json!(LOBBY)));
    ada.ask("chat.join", json!({"channel_id": LOBBY})).await?;
    bo.ask("chat.join", json!({"channel_id": LOBBY})).await?;
    let sent = say(&mut ada, "hello").await?;
    for client in [&mut ada, &mut bo] {
        let message = client.expect("chat.message").await?["payload"].clone();
        assert_eq!(message["content"], "hello");
        assert_eq!(message["sender_id"], ada_id.to_string());
        for key in ["message_id", "seq", "sent_at", "channel_id"] {
            assert_eq!(message[key], sent[key], "{key}");
        }
    }
    // Without a cid nobody is answered, and who has left hears nothing.
    assert_eq!(bo.ask("chat.leave", json!({"channel_id": LOBBY})).await?["type"], "chat.left");
    ada.send(json!({"type": "chat.send", "payload": {"channel_id": LOBBY, "content": "again"}})).await?;
    assert_eq!(ada.expect("chat.message").await?["payload"]["seq"], 2);
    assert!(ada.so_far().await?.is_empty());
    assert!(bo.so_far().await?.is_empty());
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_senders_on_two_nodes_and_one_order() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[("limits.frames_per_second", "0"), ("session.queue_frames", "4096")]).await?;
    let (_, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let (_, mut bo) = cluster.connected("bob", 1, &[]).await?;
    for client in [&mut ada, &mut bo] {
        client.ask("chat.join", json!({"channel_id": LOBBY})).await?;
    }
    for n in 0..300 {
        for (name, client) in [("a", &mut ada), ("b", &mut bo)] {
            let payload = json!({"channel_id": LOBBY, "content": format!("{name}{n}")});
            client.send(json!({"type": "chat.send", "payload": payload})).await?;
        }
    }
    let mut heard: Vec<Vec<String>> = Vec::new();
    for client in [&mut ada, &mut bo] {
        let mut contents = Vec::new();
        for seq in 1..=600 {
            let message = client.expect("chat.message").await?;
            assert_eq!(message["payload"]["seq"], seq);
            contents.push(message["payload"]["content"].as_str().unwrap_or_default().to_owned());
        }
        heard.push(contents);
    }
    assert_eq!(heard[0], heard[1]);
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn missed_messages_follow_the_reply() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[("limits.frames_per_second", "0")]).await?;
    let (_, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let (_, mut bo) = cluster.connected("bob", 1, &[]).await?;
    for n in 1..=5 {
        say(&mut ada, &format!("m{n}")).await?;
    }
    let joined = bo.ask("chat.join", json!({"channel_id": LOBBY, "since_seq": 3})).await?;
    assert_eq!(joined["payload"], json!({"channel_id": LOBBY, "last_seq": 5, "truncated": false}));
    say(&mut ada, "m6").await?;
    for seq in 4..=6 {
        assert_eq!(bo.expect("chat.message").await?["payload"]["seq"], seq);
    }
    for n in 7..=140 {
        say(&mut ada, &format!("m{n}")).await?;
    }
    let joined = ada.ask("chat.join", json!({"channel_id": LOBBY, "since_seq": 0})).await?;
    assert_eq!(joined["payload"]["truncated"], true);
    assert_eq!(ada.expect("chat.message").await?["payload"]["seq"], 41);
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_key_answers_as_the_first_did() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[]).await?;
    let account = cluster.player("ada").await?;
    let mut answers = Vec::new();
    for node in [0, 1, 1] {
        let mut client = Client::open(&cluster.nodes[node].ws).await?;
        client.connect(&account.tokens.access_token, &[]).await?;
        let payload = json!({"channel_id": LOBBY, "content": "once", "idempotency_key": "k"});
        answers.push(client.ask("chat.send", payload).await?["payload"].clone());
    }
    assert_eq!(answers[0]["seq"], 1);
    assert!(answers.iter().all(|a| *a == answers[0]), "{answers:?}");
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_hint_costs_no_message() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let (ada_id, mut ada) = cluster.connected("ada", 0, &[]).await?;
    ada.ask("chat.join", json!({"channel_id": LOBBY})).await?;
    say(&mut ada, "one").await?;
    // Rows that nobody hinted at, as after a notification that was never sent: the next message shows the gap.
    for seq in [2, 3] {
        let row = format!(
            "WITH c AS (UPDATE chat_channels SET seq = {seq} WHERE channel_id = '{LOBBY}')
             INSERT INTO chat_messages (channel_id, seq, message_id, sender_id, content, sent_at)
             VALUES ('{LOBBY}', {seq}, gen_random_uuid(), '{ada_id}', 'row {seq}', now())"
        );
        cluster.db.pool.execute(sqlx::AssertSqlSafe(row)).await?;
    }
    say(&mut ada, "four").await?;
    for (seq, content) in [(1, "one"), (2, "row 2"), (3, "row 3"), (4, "four")] {
        let message = ada.expect("chat.message").await?;
        assert_eq!((&message["payload"]["seq"], &message["payload"]["content"]), (&json!(seq), &json!(content)));
    }
    // A lost tail is found by looking.
    let row = format!(
        "WITH c AS (UPDATE chat_channels SET seq = 5 WHERE channel_id = '{LOBBY}')
         INSERT INTO chat_messages (channel_id, seq, message_id, sender_id, content, sent_at)
         VALUES ('{LOBBY}', 5, gen_random_uuid(), '{ada_id}', 'tail', now())"
    );
    cluster.db.pool.execute(sqlx::AssertSqlSafe(row)).await?;
    assert_eq!(ada.expect("chat.message").await?["payload"]["content"], "tail");
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_limit_and_direct_messages() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[("limits.chat_channels", "1")]).await?;
    let (ada_id, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let (bo_id, mut bo) = cluster.connected("bob", 1, &[]).await?;
    ada.ask("chat.join", json!({"channel_id": LOBBY})).await?;
    assert_eq!(ada.refused("chat.join", json!({"channel_id": "global:other"})).await?, "too_many_channels");
    let sent = ada.ask("dm.send", json!({"recipient_id": bo_id, "content": "psst"})).await?;
    let channel = format!("dm:{}:{}", ada_id.min(bo_id), ada_id.max(bo_id));
    assert_eq!((&sent["type"], &sent["payload"]), (&json!("dm.sent"), &json!({"channel_id": channel})));
    let message = bo.expect("dm.message").await?["payload"].clone();
    assert_eq!((&message["content"], &message["sender_id"]), (&json!("psst"), &json!(ada_id)));
    let block = format!(
        "INSERT INTO friendships (id, player_id, friend_id, status) VALUES (gen_random_uuid(), '{bo_id}', '{ada_id}', 'blocked')"
    );
    cluster.db.pool.execute(sqlx::AssertSqlSafe(block)).await?;
    // Within a second, by contract.
    let blocked = async {
        loop {
            let answer = ada.ask("dm.send", json!({"recipient_id": bo_id, "content": "psst"})).await?;
            if answer["payload"]["reason"] == "blocked" {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), blocked).await??;
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_lose_and_repeat_nothing() -> anyhow::Result<()> {
    const MESSAGES: usize = 120;
    let cluster = Cluster::start(2, &[("limits.frames_per_second", "0"), ("session.queue_frames", "4096")]).await?;
    let (_, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let (_, mut bo) = cluster.connected("bob", 1, &[]).await?;
    bo.ask("chat.join", json!({"channel_id": LOBBY})).await?;
    for n in 0..MESSAGES {
        if n % 20 == 10 {
            // Listeners, pools and heartbeats of both nodes, in whatever they are doing.
            let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                        WHERE datname = current_database() AND application_name LIKE 'asobi/gw-%'";
            cluster.db.pool.execute(kill).await?;
        }
        let payload = json!({"channel_id": LOBBY, "content": format!("m{n}"), "idempotency_key": format!("k{n}")});
        loop {
            let answer = ada.ask("chat.send", payload.clone()).await?;
            if answer["type"] == "chat.sent" {
                break;
            }
            let reason = answer["payload"]["reason"].clone();
            anyhow::ensure!(reason == "unconfirmed" || reason == "not_ready", "{answer}");
        }
    }
    for n in 0..MESSAGES {
        let message = bo.expect("chat.message").await?;
        assert_eq!(message["payload"]["content"], format!("m{n}"));
        assert_eq!(message["payload"]["seq"], n + 1);
    }
    assert!(bo.so_far().await?.is_empty());
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_join_one_channel_at_the_same_moment() -> anyhow::Result<()> {
    const CROWD: usize = 100;
    let sets = [("limits.connects_per_second", "0"), ("limits.frames_per_second", "0")];
    let cluster = Cluster::start(2, &sets).await?;
    let (_, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let account = cluster.player("crowd").await?;
    let mut crowd = Vec::new();
    for n in 0..CROWD {
        // A player may have but a few connections to a node.
        let account = if n < 4 { &account } else { &cluster.player(&format!("crowd-{n}")).await? };
        let mut client = Client::open(&cluster.nodes[n % 2].ws).await?;
        client.connect(&account.tokens.access_token, &[]).await?;
        crowd.push(client);
    }
    ada.ask("chat.join", json!({"channel_id": LOBBY})).await?;
    let go = std::sync::Arc::new(tokio::sync::Barrier::new(CROWD + 1));
    let mut members = tokio::task::JoinSet::new();
    for mut client in crowd {
        let go = std::sync::Arc::clone(&go);
        members.spawn(async move {
            go.wait().await;
            let joined = client.ask("chat.join", json!({"channel_id": LOBBY, "since_seq": 0})).await?;
            anyhow::ensure!(joined["type"] == "chat.joined", "{joined}");
            // All there is, each once and in order, whatever came while it joined.
            for seq in 1..=50 {
                let message = client.expect("chat.message").await?;
                anyhow::ensure!(message["payload"]["seq"] == seq, "{message} instead of {seq}");
            }
            anyhow::ensure!(client.so_far().await?.is_empty(), "something came twice");
            anyhow::Ok(())
        });
    }
    go.wait().await;
    for n in 1..=50 {
        say(&mut ada, &format!("m{n}")).await?;
    }
    while let Some(member) = members.join_next().await {
        member??;
    }
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_is_disconnected_and_the_others_hear_on() -> anyhow::Result<()> {
    let sets = [
        ("limits.frames_per_second", "0"),
        ("session.queue_frames", "64"),
        ("session.slow_ms", "500"),
        ("limits.chat_bytes", "60000"),
    ];
    let cluster = Cluster::start(1, &sets).await?;
    let (_, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let (_, mut bo) = cluster.connected("bob", 0, &[]).await?;
    let (_, mut idle) = cluster.connected("idle", 0, &[]).await?;
    for client in [&mut ada, &mut bo, &mut idle] {
        client.ask("chat.join", json!({"channel_id": LOBBY})).await?;
    }
    // More than the sockets' buffers on both sides hold, and our queue.
    let content = "x".repeat(50_000);
    let mut sent = 0;
    while idle_is_there(&cluster) {
        anyhow::ensure!(sent < 2_000, "the idle reader is never slow");
        say(&mut ada, &content).await?;
        sent += 1;
        for client in [&mut ada, &mut bo] {
            assert_eq!(client.expect("chat.message").await?["payload"]["seq"], sent);
        }
    }
    // It reads on, and finds why it was disconnected behind what had been written before.
    assert_eq!(idle.closed().await?.0, 4001);
    say(&mut ada, "still here").await?;
    assert_eq!(bo.expect("chat.message").await?["payload"]["content"], "still here");
    cluster.end().await
}

fn idle_is_there(cluster: &Cluster) -> bool {
    cluster.nodes[0].hub.session_count() == 3
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_that_cannot_be_stored_costs_no_other() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[("limits.frames_per_second", "0")]).await?;
    let (_, mut ada) = cluster.connected("ada", 0, &[]).await?;
    ada.ask("chat.join", json!({"channel_id": LOBBY})).await?;
    // As data would be that our checks let through and the database does not.
    let refuse = "ALTER TABLE chat_messages ADD CONSTRAINT no_poison CHECK (content <> 'poison')";
    cluster.db.pool.execute(refuse).await?;
    for n in 0..60 {
        let content = if n == 20 { "poison".to_owned() } else { format!("m{n}") };
        let payload = json!({"channel_id": LOBBY, "content": content});
        ada.send(json!({"type": "chat.send", "cid": n, "payload": payload})).await?;
    }
    for n in 0..60 {
        let answer = ada.wait(|frame| frame["cid"] == n).await?;
        let expected = if n == 20 { "error" } else { "chat.sent" };
        assert_eq!(answer["type"], expected, "{answer}");
    }
    for n in (0..60).filter(|n| *n != 20) {
        assert_eq!(ada.expect("chat.message").await?["payload"]["content"], format!("m{n}"));
    }
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_without_a_partition_is_made_by_whoever_writes() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let (_, mut ada) = cluster.connected("ada", 0, &[]).await?;
    say(&mut ada, "one").await?;
    let days: Vec<String> = sqlx::query_scalar(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'chat_messages'::regclass",
    )
    .fetch_all(&cluster.db.pool)
    .await?;
    cluster.db.pool.execute(sqlx::AssertSqlSafe(format!("DROP TABLE {}", days.join(", ")))).await?;
    assert_eq!(say(&mut ada, "two").await?["seq"], 2);
    // What is not kept any more was missed, too.
    let joined = ada.ask("chat.join", json!({"channel_id": LOBBY, "since_seq": 0})).await?;
    assert_eq!((&joined["payload"]["truncated"], &joined["payload"]["last_seq"]), (&json!(true), &json!(2)));
    assert_eq!(ada.expect("chat.message").await?["payload"]["content"], "two");
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_of_two_nodes_that_cross_are_put_in_order_without_reading_rows() -> anyhow::Result<()> {
    // Nothing is read back within the test's patience: order comes from what is held.
    let cluster = Cluster::start(1, &[("chat.gap_ms", "10000")]).await?;
    let (_, mut ada) = cluster.connected("ada", 0, &[]).await?;
    ada.ask("chat.join", json!({"channel_id": LOBBY})).await?;
    let topic = asobi_proto::bus::Topic::chat(LOBBY).channel();
    let hint = |origin: &str, seqs: &[i64]| {
        let items: Vec<Value> = seqs
            .iter()
            .map(|seq| {
                let payload = json!({"channel_id": LOBBY, "seq": seq, "content": format!("m{seq}")});
                json!({"c": LOBBY, "s": seq, "f": {"type": "chat.message", "payload": payload}})
            })
            .collect();
        json!({"o": origin, "n": 1, "i": items}).to_string()
    };
    sqlx::query("INSERT INTO chat_channels (channel_id, seq) VALUES ($1, 6)")
        .bind(LOBBY)
        .execute(&cluster.db.pool)
        .await?;
    for payload in [hint("b#1", &[2, 4]), hint("c#1", &[5, 6]), hint("a#1", &[1, 3, 4])] {
        sqlx::query("SELECT pg_notify($1, $2)").bind(&topic).bind(payload).execute(&cluster.db.pool).await?;
    }
    for seq in 1..=6 {
        assert_eq!(ada.expect("chat.message").await?["payload"]["seq"], seq);
    }
    assert!(ada.so_far().await?.is_empty());
    cluster.end().await
}
