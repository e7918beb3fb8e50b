use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Client, Cluster};

const LOBBY: &str = "global:lobby";

#[tokio::test]
async fn a_message_reaches_the_other_gateway_with_its_number_and_is_history() -> anyhow::Result<()> {
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    for player in [&mut ada, &mut bo] {
        let joined = player.call("chat.join", json!({"channel_id": LOBBY})).await?;
        assert_eq!((&joined["channel_id"], joined["last_seq"].as_i64()), (&json!(LOBBY), Some(0)), "{joined}");
        // Twice is once.
        player.call("chat.join", json!({"channel_id": LOBBY})).await?;
    }

    let sent = ada.call("chat.send", json!({"channel_id": LOBBY, "content": "is anybody \"here\"?\n😀"})).await?;
    assert_eq!(sent["seq"], 1);
    let mine = ada.push("chat.message").await?;
    let theirs = bo.push("chat.message").await?;
    assert_eq!(mine, theirs);
    assert_eq!(theirs["content"], "is anybody \"here\"?\n😀");
    assert_eq!(theirs["sender_id"], ada.id());
    for key in ["message_id", "seq", "sent_at"] {
        assert_eq!(theirs[key], sent[key], "{key}");
    }

    // Without a cid there is no reply; the message is there all the same, for a sender who has not joined too.
    let mut cy = cluster.player(1, "cy").await?;
    cy.send("chat.send", json!({"channel_id": LOBBY, "content": "from outside"})).await?;
    assert_eq!(ada.push("chat.message").await?["content"], "from outside");
    assert_eq!(bo.push("chat.message").await?["content"], "from outside");

    // Both gateways tell the same history, oldest first.
    for gateway in [0, 1] {
        let reader = ada.account.at(cluster.gateway(gateway).http.as_deref().expect("http"));
        let (status, history) = reader.get(&format!("/chat/{LOBBY}/history?limit=10")).await?;
        assert_eq!(status, 200, "{history}");
        let said: Vec<_> =
            history["messages"].as_array().expect("messages").iter().map(|m| (&m["content"], &m["seq"])).collect();
        assert_eq!(said, [(&mine["content"], &json!(1)), (&json!("from outside"), &json!(2))]);
        let (status, body) = reader.get("/chat/global:nope/history").await?;
        assert_eq!((status, &body["error"]["code"]), (403, &json!("forbidden")));
    }

    // Who comes back asks for what was missed.
    bo.close().await;
    for n in 3..=5 {
        ada.call("chat.send", json!({"channel_id": LOBBY, "content": format!("n{n}")})).await?;
    }
    let ws = cluster.gateway(0).ws.expect("ws");
    let mut bo = Client::connect(&ws, bo.account.clone(), &[]).await?;
    let joined = bo.call("chat.join", json!({"channel_id": LOBBY, "since_seq": 2})).await?;
    assert_eq!((&joined["last_seq"], &joined["truncated"]), (&json!(5), &json!(false)));
    let seqs: Vec<_> = bo.chat(3).await?.iter().map(|m| m["seq"].as_i64()).collect();
    assert_eq!(seqs, [Some(3), Some(4), Some(5)]);

    // What repeats its key is answered as the first, and said once.
    let keyed = json!({"channel_id": LOBBY, "content": "once", "idempotency_key": "k1"});
    let first = ada.call("chat.send", keyed.clone()).await?;
    let second = ada.call("chat.send", keyed).await?;
    assert_eq!((&first["message_id"], &first["seq"]), (&second["message_id"], &second["seq"]));
    cluster.stop().await
}

#[tokio::test]
async fn many_senders_on_two_gateways_are_seen_in_one_order_by_all() -> anyhow::Result<()> {
    const EACH: usize = 60;
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).set("limits.frames_per_second", 0).start().await?;
    let mut readers = Vec::new();
    for gateway in [0, 1, 0, 1] {
        let mut reader = cluster.player(gateway, "reader").await?;
        reader.call("chat.join", json!({"channel_id": LOBBY})).await?;
        readers.push(reader);
    }
    let mut senders = tokio::task::JoinSet::new();
    for gateway in [0, 1, 0, 1] {
        let mut sender = cluster.player(gateway, "sender").await?;
        senders.spawn(async move {
            let mut sent = Vec::new();
            for n in 0..EACH {
                let content = format!("{gateway}-{n}");
                sent.push(
                    sender.call("chat.send", json!({"channel_id": LOBBY, "content": content})).await?["seq"].clone(),
                );
            }
            anyhow::Ok(sent)
        });
    }
    let mut acknowledged = Vec::new();
    while let Some(sent) = senders.join_next().await {
        acknowledged.extend(sent??.iter().filter_map(Value::as_i64));
    }
    let total = 4 * EACH;
    let expected: Vec<i64> = (1..=i64::try_from(total)?).collect();
    assert_eq!(acknowledged.iter().copied().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>(), expected);
    for reader in &mut readers {
        let seen: Vec<_> = reader.chat(total).await?.iter().filter_map(|m| m["seq"].as_i64()).collect();
        assert_eq!(seen, expected, "in order, each once");
    }
    cluster.stop().await
}

#[tokio::test]
async fn a_listener_that_was_cut_off_loses_no_message() -> anyhow::Result<()> {
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    for player in [&mut ada, &mut bo] {
        player.call("chat.join", json!({"channel_id": LOBBY})).await?;
    }
    for round in 0..5 {
        // Every listening session is ended by the server while messages are on their way.
        sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND query ILIKE 'LISTEN%'",
        )
        .execute(&cluster.database.pool)
        .await?;
        for n in 0..4 {
            ada.call("chat.send", json!({"channel_id": LOBBY, "content": format!("{round}-{n}")})).await?;
        }
    }
    for player in [&mut ada, &mut bo] {
        let seqs: Vec<_> = player.chat(20).await?.iter().filter_map(|m| m["seq"].as_i64()).collect();
        assert_eq!(seqs, (1..=20).collect::<Vec<i64>>());
    }
    cluster.stop().await
}
