//! One notification for a hundred thousand players, while the service that tells them is killed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::{
    ALONE,
    support::{Client, Cluster, PATIENCE, cluster::Process, until},
};

const PLAYERS: i64 = 100_000;
const HERE: usize = 4;

/// How far the job came, and whether it is done.
async fn state(cluster: &Cluster) -> anyhow::Result<(i64, bool)> {
    let row = sqlx::query_as("SELECT done, state = 'done' FROM notification_jobs");
    Ok(row.fetch_one(&cluster.database.pool).await?)
}

/// How many a service has told, and which service.
async fn told(cluster: &Cluster) -> anyhow::Result<Vec<(f64, Process)>> {
    let mut told = Vec::new();
    for service in cluster.processes("social_services") {
        told.push((cluster.metric(&service, "asobi_social_notification_jobs_told_total").await?, service));
    }
    told.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(told)
}

/// Somebody who is there, and how often they have been told.
struct Here {
    client: Client,
    told: usize,
}

impl Here {
    /// Reads what came until now; who does not read is disconnected.
    async fn listen(&mut self) -> anyhow::Result<()> {
        self.client.send_text(json!({"type": "session.heartbeat", "cid": "so far"}).to_string()).await?;
        loop {
            let wanted = |f: &Value| f["cid"] == "so far" || f["type"] == "notification.new";
            if self.client.wait("a heartbeat", wanted).await?["cid"] == "so far" {
                return Ok(());
            }
            self.told += 1;
        }
    }
}

/// Follows the job until it has come so far, or is done.
async fn follow(cluster: &Cluster, here: &mut [Here], far: i64) -> anyhow::Result<(i64, bool)> {
    let (mut last, mut moved) = (-1, Instant::now());
    loop {
        for player in here.iter_mut() {
            player.listen().await?;
        }
        let (done, over) = state(cluster).await?;
        if over || done > far {
            return Ok((done, over));
        }
        if done > last {
            (last, moved) = (done, Instant::now());
        }
        ensure!(moved.elapsed() < PATIENCE, "it stands at {done}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_are_told_once_though_their_service_is_killed() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::new().gateways_only().social_services(2).start().await?;
    let pool = &cluster.database.pool;
    let mut here = Vec::new();
    for n in 0..HERE {
        here.push(Here { client: cluster.player(n % 2, "here").await?, told: 0 });
    }
    sqlx::query(
        "INSERT INTO players (id, username, guest) SELECT gen_random_uuid(), 'p' || n, true FROM generate_series(1, $1::bigint) n",
    )
    .bind(PLAYERS - i64::try_from(HERE)?)
    .execute(pool)
    .await?;

    let begun = Instant::now();
    let created =
        cluster.ctl(&["notify", "send", "--all", "--type", "season", "--subject", "It begins", "--json"]).await?;
    let job: Value = serde_json::from_str(&created)?;
    let id = job["id"].as_str().context("id")?.to_owned();
    follow(&cluster, &mut here, PLAYERS / 5).await?;
    let (before, worker) = told(&cluster).await?.swap_remove(0);
    ensure!(before > 0.0, "nobody tells them");
    cluster.kill(&worker).await?;
    let (at, over) = state(&cluster).await?;
    ensure!(!over, "it was killed too late");
    eprintln!("{} was killed at {at} of {PLAYERS}, after {:?}", worker.node_id, begun.elapsed());

    let killed = Instant::now();
    follow(&cluster, &mut here, at).await?;
    let silence = killed.elapsed();
    follow(&cluster, &mut here, i64::MAX).await?;
    let took = begun.elapsed();
    eprintln!(
        "the other one went on after {silence:?}; {PLAYERS} in {took:?}, {:.0} a second",
        PLAYERS as f64 / took.as_secs_f64()
    );

    let (rows, players): (i64, i64) =
        sqlx::query_as("SELECT count(*), count(DISTINCT player_id) FROM notifications WHERE type = 'season'")
            .fetch_one(pool)
            .await?;
    assert_eq!((rows, players), (PLAYERS, PLAYERS), "each has it once");
    let (inboxes, most): (i64, i64) =
        sqlx::query_as("SELECT count(*), max(i.seq) FROM inboxes i JOIN players p ON p.id = i.player_id")
            .fetch_one(pool)
            .await?;
    assert_eq!((inboxes, most), (PLAYERS, 1), "each inbox got one event");
    let shown: Value = serde_json::from_str(&cluster.ctl(&["notify", "jobs", "show", &id, "--json"]).await?)?;
    assert_eq!(
        (&shown["state"], &shown["total"], &shown["done"], &shown["told"], &shown["failed"]),
        (&json!("done"), &json!(PLAYERS), &json!(PLAYERS), &json!(PLAYERS), &json!(0))
    );
    // Whose hint was lost with the service has it by their node's sweep.
    until("everybody here is told", async || {
        for player in &mut here {
            player.listen().await?;
        }
        Ok(here.iter().all(|player| player.told > 0))
    })
    .await?;
    for player in &mut here {
        player.listen().await?;
        assert_eq!(player.told, 1, "pushed once");
        let (_, list) = player.client.account.get("/notifications").await?;
        assert_eq!(
            (list["notifications"].as_array().map(Vec::len), &list["notifications"][0]["subject"]),
            (Some(1), &json!("It begins"))
        );
    }
    let watched = cluster.ctl(&["notify", "jobs", "watch", &id]).await?;
    assert!(watched.contains(&format!("{PLAYERS} of {PLAYERS}")), "{watched}");
    cluster.stop().await
}
