//! Faults that matches and their players must survive, or hear of.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    ALONE,
    support::{Client, Cluster, Proxy},
};

/// Two players of the test game in one match.
async fn duel(cluster: &Cluster) -> anyhow::Result<(Client, Client)> {
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    for player in [&mut ada, &mut bo] {
        player.call("matchmaker.add", json!({"mode": "duel"})).await?;
    }
    let (a, b) = (ada.push("match.matched").await?, bo.push("match.matched").await?);
    assert_eq!(a["match_id"], b["match_id"]);
    Ok((ada, bo))
}

#[tokio::test]
async fn a_stopped_leader_is_replaced_and_changes_nothing_when_it_wakes() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::new().test_games().start().await?;
    let leader = cluster.leading_matchmaker().await?;
    let mut ada = cluster.player(0, "ada").await?;
    ada.call("matchmaker.add", json!({"mode": "duel"})).await?;
    cluster.signal(&leader, Signal::SIGSTOP)?;

    let mut bo = cluster.player(1, "bo").await?;
    bo.call("matchmaker.add", json!({"mode": "duel"})).await?;
    let (a, b) = (ada.push("match.matched").await?, bo.push("match.matched").await?);
    assert_eq!(a["match_id"], b["match_id"]);
    let term = term(&cluster).await?;

    // It wakes and believes for a moment; the match of the two stays the only one, and the term is another's.
    cluster.signal(&leader, Signal::SIGCONT)?;
    let (mut cy, mut di) = (cluster.player(0, "cy").await?, cluster.player(1, "di").await?);
    for player in [&mut cy, &mut di] {
        player.call("matchmaker.add", json!({"mode": "duel"})).await?;
    }
    assert_eq!(cy.push("match.matched").await?["match_id"], di.push("match.matched").await?["match_id"]);
    let twice: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT player FROM matches, unnest(players) AS player GROUP BY player HAVING count(*) > 1) AS twice",
    )
    .fetch_one(&cluster.database.pool)
    .await?;
    assert_eq!(twice, 0, "nobody was matched twice");
    assert!(term <= self::term(&cluster).await?);
    cluster.stop().await
}

async fn term(cluster: &Cluster) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar("SELECT term FROM leader WHERE name = 'matchmaker'")
        .fetch_one(&cluster.database.pool)
        .await?)
}

#[tokio::test]
async fn when_no_host_goes_on_with_a_match_its_players_are_told_and_free() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::new().test_games().match_hosts(1).set("node.lease_ms", 2000);
    let mut cluster = cluster.set("matchmaker.failover_timeout_ms", 2000).start().await?;
    let (mut ada, mut bo) = duel(&cluster).await?;
    ada.push("match.state").await?;
    let host = cluster.match_host(0);
    let recipe = cluster.recipe(&host)?;
    cluster.kill(&host).await?;
    for player in [&mut ada, &mut bo] {
        assert_eq!(player.push("match.finished").await?["result"], json!({"error": "host_lost"}));
    }
    cluster.start_again(&recipe).await?;
    for player in [&mut ada, &mut bo] {
        player.call("matchmaker.add", json!({"mode": "duel"})).await?;
    }
    assert_eq!(ada.push("match.matched").await?["match_id"], bo.push("match.matched").await?["match_id"]);
    ada.forget();
    ada.push("match.state").await?;
    cluster.stop().await
}

#[tokio::test]
async fn while_the_database_is_away_matches_go_on_and_nobody_is_failed_over() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let lease = Duration::from_secs(2);
    let cluster = Cluster::new().test_games().set("node.lease_ms", lease.as_millis()).proxied().start().await?;
    let (mut ada, mut bo) = duel(&cluster).await?;
    let (ada_id, bo_id) = (ada.id().to_owned(), bo.id().to_owned());
    let outage = std::time::Instant::now();
    // Connections stay open and nothing answers.
    cluster.proxies().for_each(Proxy::black_hole);
    let mut n = 0;
    while outage.elapsed() < 4 * lease {
        n += 1;
        ada.send("match.input", json!({"n": n})).await?;
        bo.push_where("match.state", |s| s["players"][&ada_id]["count"] == n).await?;
    }
    cluster.proxies().for_each(Proxy::heal);

    // It is back: the same match goes on, ends by its own rule, and what must be stored is.
    assert_eq!(
        ada.push_where("match.state", |s| s["players"][&ada_id]["count"] == n).await?["players"][&bo_id]["away"],
        0
    );
    bo.send("match.input", json!({"finish": true})).await?;
    let end = ada.push("match.finished").await?;
    assert_eq!(end["result"]["winner"], bo_id, "{end}");
    assert_eq!(bo.push("match.finished").await?, end);
    cluster.stop().await
}
