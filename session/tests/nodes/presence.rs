//! Friends see each other come, change and go, on whatever node.

use serde_json::json;
use sqlx::Executor as _;
use uuid::Uuid;

use crate::{client::Client, cluster::Cluster};

async fn befriend(cluster: &Cluster, a: Uuid, b: Uuid) -> anyhow::Result<()> {
    let row = format!(
        "INSERT INTO friendships (id, player_id, friend_id, status) VALUES (gen_random_uuid(), '{a}', '{b}', 'accepted')"
    );
    cluster.db.pool.execute(sqlx::AssertSqlSafe(row)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn friends_see_each_other_come_change_and_go() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[]).await?;
    let (ada, bo) = (cluster.player("ada").await?, cluster.player("bob").await?);
    befriend(&cluster, ada.player_id, bo.player_id).await?;
    let mut watcher = Client::open(&cluster.nodes[0].ws).await?;
    watcher.connect(&ada.tokens.access_token, &["presence"]).await?;
    let snapshot = watcher.expect("presence.snapshot").await?;
    assert_eq!(snapshot["payload"], json!({"friends": [{"player_id": bo.player_id, "status": "offline"}]}));

    let mut first = Client::open(&cluster.nodes[1].ws).await?;
    first.connect(&bo.tokens.access_token, &[]).await?;
    let changed = watcher.expect("presence.changed").await?;
    assert_eq!(changed["payload"], json!({"player_id": bo.player_id, "status": "online", "node_id": "gw-1"}));
    first.ask("presence.update", json!({"status": "in_game"})).await?;
    assert_eq!(watcher.expect("presence.changed").await?["payload"]["status"], "in_game");

    // He moves to another node within the grace: nobody sees it.
    drop(first);
    let mut second = Client::open(&cluster.nodes[0].ws).await?;
    second.connect(&bo.tokens.access_token, &[]).await?;
    second.ask("presence.update", json!({"status": "still"})).await?;
    assert_eq!(watcher.expect("presence.changed").await?["payload"]["status"], "still");
    assert!(watcher.so_far().await?.is_empty());
    drop(second);
    let gone = watcher.expect("presence.changed").await?;
    assert_eq!(gone["payload"], json!({"player_id": bo.player_id, "status": "offline"}));
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_players_of_a_dead_node_go_offline_once() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let (ada, bo) = (cluster.player("ada").await?, cluster.player("bob").await?);
    befriend(&cluster, ada.player_id, bo.player_id).await?;
    // A session of a node that was killed: its incarnation has been replaced.
    let row = format!(
        "INSERT INTO sessions (session_id, player_id, node_id, incarnation) VALUES (gen_random_uuid(), '{}', 'gw-0', 0)",
        bo.player_id
    );
    cluster.db.pool.execute(sqlx::AssertSqlSafe(row)).await?;
    let mut watcher = Client::open(&cluster.nodes[0].ws).await?;
    watcher.connect(&ada.tokens.access_token, &["presence"]).await?;
    let snapshot = watcher.expect("presence.snapshot").await?;
    if snapshot["payload"]["friends"][0]["status"] == "online" {
        assert_eq!(watcher.expect("presence.changed").await?["payload"]["status"], "offline");
    }
    assert!(watcher.so_far().await?.is_empty());
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_flaps_is_told_of_once_a_second_and_in_the_end_as_it_is() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[("limits.frames_per_second", "0")]).await?;
    let (ada, bo) = (cluster.player("ada").await?, cluster.player("bob").await?);
    befriend(&cluster, ada.player_id, bo.player_id).await?;
    let mut watcher = Client::open(&cluster.nodes[0].ws).await?;
    watcher.connect(&ada.tokens.access_token, &["presence"]).await?;
    watcher.expect("presence.snapshot").await?;
    let started = std::time::Instant::now();
    let mut flapping = Client::open(&cluster.nodes[1].ws).await?;
    flapping.connect(&bo.tokens.access_token, &[]).await?;
    for n in 0..300 {
        flapping.ask("presence.update", json!({"status": format!("flap-{n}")})).await?;
    }
    flapping.ask("presence.update", json!({"status": "at rest"})).await?;
    let mut told = 0;
    loop {
        told += 1;
        let change = watcher.expect("presence.changed").await?;
        if change["payload"]["status"] == "at rest" {
            break;
        }
    }
    let seconds = started.elapsed().as_secs();
    assert!(told <= seconds + 2, "{told} changes in {seconds} s");
    assert!(watcher.so_far().await?.is_empty());
    cluster.end().await
}
