//! The long fault plays. They stop, kill and crash what other plays share, so they run one at a time: `./test --faults`.

#[expect(dead_code, reason = "other plays use other parts of it")]
#[path = "../support/mod.rs"]
mod support;

mod proxy;

use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use support::{Client, Cluster};

/// One fault at a time: a crash of the database is everybody's.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

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
async fn players_of_a_dead_host_are_told_and_free() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::new().test_games().set("node.lease_ms", 2000).start().await?;
    let (mut ada, mut bo) = duel(&cluster).await?;
    ada.push("match.state").await?;
    let host: String = sqlx::query_scalar("SELECT host_node FROM matches WHERE state = 'running'")
        .fetch_one(&cluster.database.pool)
        .await?;
    cluster.kill(&cluster.node(&host).expect("the host is a node")).await?;
    for player in [&mut ada, &mut bo] {
        assert_eq!(player.push("match.finished").await?["result"], json!({"error": "host_lost"}));
        player.call("matchmaker.add", json!({"mode": "duel"})).await?;
    }
    assert_eq!(ada.push("match.matched").await?["match_id"], bo.push("match.matched").await?["match_id"]);
    ada.forget();
    ada.push("match.state").await?;
    cluster.stop().await
}

#[tokio::test]
async fn a_crash_of_the_database_loses_no_acknowledged_message_and_no_presence() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let lobby = json!({"channel_id": "global:lobby"});
    let cluster = Cluster::new().match_hosts(1).start().await?;
    let mut ada = cluster.player_with(0, "ada", &["presence"]).await?;
    let mut bo = cluster.player_with(1, "bo", &["presence"]).await?;
    ada.account.post("/friends", json!({"friend_id": bo.id()})).await?;
    bo.account.put(&format!("/friends/{}", ada.id()), json!({"status": "accepted"})).await?;
    ada.push_where("presence.changed", |p| p["status"] == "online").await?;
    for player in [&mut ada, &mut bo] {
        player.call("chat.join", lobby.clone()).await?;
    }

    let mut acknowledged = Vec::new();
    for n in 0..60 {
        if n == 20 {
            // A backend that dies like this takes the whole server through crash recovery: unlogged tables are empty then.
            let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&cluster.database.pool).await?;
            kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        }
        let content = format!("m{n}");
        let message = json!({"channel_id": "global:lobby", "content": content, "idempotency_key": content});
        // What is refused or unconfirmed is sent again, which its key makes safe.
        loop {
            let answer = ada.ask("chat.send", message.clone()).await?;
            if answer["type"] == "chat.sent" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        acknowledged.push(content);
    }
    for player in [&mut ada, &mut bo] {
        let heard: Vec<_> =
            player.chat(60).await?.iter().map(|m| m["content"].as_str().unwrap_or_default().to_owned()).collect();
        assert_eq!(heard, acknowledged, "each once, in order");
    }

    // Both are still there for each other: the nodes have re-asserted their sessions.
    bo.call("presence.update", json!({"status": "still here"})).await?;
    ada.push_where("presence.changed", |p| p["status"] == "still here").await?;
    let account = ada.account.clone();
    ada.close().await;
    let ws = cluster.gateway(0).ws.expect("ws");
    let mut ada = Client::connect(&ws, account, &["presence"]).await?;
    let snapshot = ada.push("presence.snapshot").await?;
    assert_eq!(snapshot["friends"][0]["status"], "still here", "{snapshot}");
    cluster.stop().await
}

/// The server's processes, stopped: connections stay open and nothing answers. They go on when this is dropped.
struct Frozen(Vec<Pid>);

impl Frozen {
    async fn freeze(cluster: &Cluster) -> anyhow::Result<Self> {
        let postmaster: String = sqlx::query_scalar("SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)")
            .fetch_one(&cluster.database.pool)
            .await?;
        let backends: Vec<i32> =
            sqlx::query_scalar("SELECT pid FROM pg_stat_activity").fetch_all(&cluster.database.pool).await?;
        // The one that accepts first.
        let pids = std::iter::once(postmaster.parse()?).chain(backends).map(Pid::from_raw).collect();
        let frozen = Self(pids);
        frozen.signal(Signal::SIGSTOP);
        Ok(frozen)
    }

    fn signal(&self, signal: Signal) {
        for pid in &self.0 {
            // A backend may have ended meanwhile.
            let _ = kill(*pid, signal);
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
    }
}

#[tokio::test]
async fn while_the_database_is_away_matches_go_on_and_nobody_is_failed_over() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let lease = Duration::from_secs(2);
    let cluster = Cluster::new().test_games().set("node.lease_ms", lease.as_millis()).start().await?;
    let (mut ada, mut bo) = duel(&cluster).await?;
    let (ada_id, bo_id) = (ada.id().to_owned(), bo.id().to_owned());
    let outage = std::time::Instant::now();
    let frozen = Frozen::freeze(&cluster).await?;
    let mut n = 0;
    while outage.elapsed() < 4 * lease {
        n += 1;
        ada.send("match.input", json!({"n": n})).await?;
        bo.push_where("match.state", |s| s["players"][&ada_id]["count"] == n).await?;
    }
    drop(frozen);

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
