//! Clients that move to the node of their match.

use serde_json::json;
use sqlx::Executor as _;
use uuid::Uuid;

use crate::{
    client::Client,
    cluster::{Cluster, PATIENCE, Place},
    host::Running,
    matches::{all_know, matched, tell},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_token_opens_one_session_on_the_node_of_the_match() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, &[]).await?;
    cluster.nodes.push(Place::with_matches(&cluster.db, "near").await?);
    let account = cluster.player("ada").await?;
    let id = Uuid::now_v7();
    let host = cluster.nodes[1].node.membership.identity().clone();
    let rows = format!(
        "INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players)
         VALUES ('{id}', 'arena', 'running', 'near', {}, 1, 0, '{{}}');
         INSERT INTO match_players (player_id, match_id) VALUES ('{}', '{id}');",
        host.incarnation, account.player_id
    );
    let mut client = Client::open(&cluster.nodes[0].ws).await?;
    client.connect(&account.tokens.access_token, &["migrate"]).await?;
    cluster.db.pool.execute(sqlx::AssertSqlSafe(rows)).await?;
    let mut changes = cluster.nodes[0].node.directory.changes();
    while !cluster.nodes[0].node.directory.get("near").is_some_and(|host| host.is_ready()) {
        tokio::time::timeout(PATIENCE, changes.changed()).await??;
    }
    tell(&cluster, account.player_id, &matched(id)?).await?;
    client.expect("match.matched").await?;
    let migrate = client.expect("match.migrate").await?["payload"].clone();
    assert_eq!(migrate["url"], json!(cluster.nodes[1].ws));
    let proof = json!({"migration_token": migrate["token"]});
    assert_eq!(
        Client::open(&cluster.nodes[0].ws).await?.refused("session.connect", proof.clone()).await?,
        "invalid_token"
    );
    let mut moved = Client::open(&cluster.nodes[1].ws).await?;
    let connected = moved.ask("session.connect", proof.clone()).await?["payload"].clone();
    assert_eq!((&connected["match_id"], &connected["node_id"]), (&json!(id), &json!("near")));
    assert_eq!(connected["capabilities"], json!(["migrate"]));
    // The near match answers inputs with a state, to show that they arrive without another word.
    moved.send(json!({"type": "match.input", "payload": {"x": 1}})).await?;
    assert_eq!(moved.expect("match.state").await?["payload"], json!({"x": 1}));
    let mut thief = Client::open(&cluster.nodes[1].ws).await?;
    assert_eq!(thief.refused("session.connect", proof).await?, "invalid_token");
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_migrates_misses_no_message_and_is_not_seen_to_go() -> anyhow::Result<()> {
    const LOBBY: &str = "global:lobby";
    let mut cluster = Cluster::start(1, &[("presence.grace_ms", "5000")]).await?;
    cluster.nodes.push(Place::with_matches(&cluster.db, "near").await?);
    all_know(&cluster, "near").await?;
    let (ada_account, bo) = (cluster.player("ada").await?, cluster.player("bob").await?);
    let (ada_id, id) = (ada_account.player_id, Uuid::now_v7());
    let rows = format!(
        "INSERT INTO friendships (id, player_id, friend_id, status)
             VALUES (gen_random_uuid(), '{ada_id}', '{bo}', 'accepted');
         INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players)
             VALUES ('{id}', 'arena', 'running', 'near', {}, 1, 0, '{{}}');",
        cluster.nodes[1].node.membership.identity().incarnation,
        bo = bo.player_id,
    );
    cluster.db.pool.execute(sqlx::AssertSqlSafe(rows)).await?;
    let mut ada = Client::open(&cluster.nodes[0].ws).await?;
    ada.connect(&ada_account.tokens.access_token, &["presence"]).await?;
    let mut relayed = Client::open(&cluster.nodes[0].ws).await?;
    relayed.connect(&bo.tokens.access_token, &["migrate"]).await?;
    for client in [&mut ada, &mut relayed] {
        client.ask("chat.join", json!({"channel_id": LOBBY})).await?;
    }
    let seat = format!("INSERT INTO match_players (player_id, match_id) VALUES ('{}', '{id}')", bo.player_id);
    cluster.db.pool.execute(sqlx::AssertSqlSafe(seat)).await?;
    tell(&cluster, bo.player_id, &matched(id)?).await?;
    let offer = relayed.expect("match.migrate").await?["payload"].clone();

    say(&mut ada, 1..=3).await?;
    let mut seen = 0;
    while seen < 2 {
        seen = relayed.expect("chat.message").await?["payload"]["seq"].as_i64().unwrap_or(0);
    }
    // He closes one socket and opens the other, while she talks on.
    drop(relayed);
    say(&mut ada, 4..=6).await?;
    let mut moved = Client::open(offer["url"].as_str().unwrap_or_default()).await?;
    let connected = moved.ask("session.connect", json!({"migration_token": offer["token"]})).await?["payload"].clone();
    assert_eq!((&connected["match_id"], &connected["node_id"]), (&json!(id), &json!("near")));
    say(&mut ada, 7..=8).await?;
    let joined = moved.ask("chat.join", json!({"channel_id": LOBBY, "since_seq": seen})).await?;
    assert_eq!(joined["payload"]["truncated"], false);
    say(&mut ada, 9..=10).await?;
    for seq in seen + 1..=10 {
        assert_eq!(moved.expect("chat.message").await?["payload"]["seq"], seq);
    }
    // What he is told on every connection reaches him here.
    let frame = serde_json::value::RawValue::from_string(r#"{"type":"notification.new","payload":{}}"#.into())?;
    let event = asobi_proto::bus::InboxEvent { frame: Some(frame), action: None };
    tell(&cluster, bo.player_id, &event).await?;
    moved.expect("notification.new").await?;
    // His friend has seen him come, and nothing since: the next thing is what he says himself.
    moved.ask("presence.update", json!({"status": "playing"})).await?;
    let playing =
        |frame: &serde_json::Value| frame["type"] == "presence.changed" && frame["payload"]["status"] == "playing";
    ada.wait(playing).await?;
    let gone =
        |frame: &serde_json::Value| frame["type"] == "presence.changed" && frame["payload"]["status"] == "offline";
    assert!(!ada.so_far().await?.iter().any(gone));
    cluster.end().await
}

async fn say(client: &mut Client, numbers: std::ops::RangeInclusive<u64>) -> anyhow::Result<()> {
    for n in numbers {
        let payload = json!({"channel_id": "global:lobby", "content": format!("m{n}")});
        assert_eq!(client.ask("chat.send", payload).await?["type"], "chat.sent");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_a_match_that_went_on_elsewhere_opens_the_session_all_the_same() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, &[]).await?;
    cluster.nodes.push(Place::with_matches(&cluster.db, "near").await?);
    let host = Running::start(&cluster.db).await?;
    for node in ["near", "host-0"] {
        all_know(&cluster, node).await?;
    }
    let ada = cluster.player("ada").await?;
    let id = host.seat("arena", &[ada.player_id]).await?;
    let here = format!(
        "UPDATE matches SET host_node = 'near', host_incarnation = {} WHERE id = '{id}'",
        cluster.nodes[1].node.membership.identity().incarnation
    );
    cluster.db.pool.execute(sqlx::AssertSqlSafe(here)).await?;
    let mut client = Client::open(&cluster.nodes[0].ws).await?;
    client.connect(&ada.tokens.access_token, &["migrate"]).await?;
    tell(&cluster, ada.player_id, &matched(id)?).await?;
    let offer = client.expect("match.migrate").await?["payload"].clone();
    host.take_row(id, 2).await?;
    // A balancer's parameter and cookie may name any node: whoever gets the socket serves it.
    let url = format!("{}?node=somebody-else", offer["url"].as_str().unwrap_or_default());
    let mut moved = Client::open(&url).await?;
    let connected = moved.ask("session.connect", json!({"migration_token": offer["token"]})).await?["payload"].clone();
    assert_eq!((&connected["match_id"], &connected["node_id"]), (&json!(id), &json!("near")));
    moved.expect("match.state").await?;
    assert!(host.host.attached(id) > 0);
    host.end().await;
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_says_how_a_node_is_found_and_whether_anybody_is_told() -> anyhow::Result<()> {
    let named = [("migrate.cookie", "stick"), ("migrate.query", "to")];
    for (sets, told) in [(&named[..], true), (&[("migrate.via", "off")][..], false)] {
        let cluster = Cluster::start(1, sets).await?;
        let host = Running::start(&cluster.db).await?;
        all_know(&cluster, "host-0").await?;
        let (ada_id, mut ada) = cluster.connected("ada", 0, &["migrate"]).await?;
        let id = host.seat("arena", &[ada_id]).await?;
        tell(&cluster, ada_id, &matched(id)?).await?;
        ada.expect("match.state").await?;
        let offered = if told {
            Some(ada.expect("match.migrate").await?)
        } else {
            ada.so_far().await?.into_iter().find(|frame| frame["type"] == "match.migrate")
        };
        let affinity = offered.map(|offer| offer["payload"]["affinity"].clone());
        assert_eq!(affinity, told.then(|| json!({"cookie": "stick=host-0", "query": "to=host-0"})));
        host.end().await;
        cluster.end().await?;
    }
    Ok(())
}
