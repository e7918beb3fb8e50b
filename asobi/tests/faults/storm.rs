//! A gateway dies, and everybody who was there comes back to the others at the same moment, into their channels and matches.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{
    ALONE,
    support::{Client, Cluster, door, rest::Account},
};

const SESSIONS: usize = 300;
/// One in so many plays, three in a match.
const PLAYS: usize = 5;
/// Fewer than come to each gateway at once.
const PLACES: usize = 40;
/// In a debug build, on a machine with other things to do.
const BACK: Duration = Duration::from_secs(45);
const CHANNEL: &str = "global:lobby";
const DEVICE_SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// One of those whose gateway dies.
struct Session {
    account: Account,
    match_id: Value,
    /// The last message of the channel it has seen.
    seen: i64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_comes_back_to_channels_and_matches() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::new()
        .gateways(3)
        .match_hosts(1)
        .matchmakers(1)
        .social_services(0)
        .test_games()
        .set("session.connects_under_way", PLACES)
        .set("limits.connects_per_second", 0)
        .set("limits.auth_per_second", 0)
        .set("limits.requests_per_second", 0)
        .set("limits.joins_per_minute", 0)
        .start()
        .await?;
    let gateways = cluster.processes("gateways");
    let ws = |n: usize| gateways[n].ws.clone().context("ws");
    let (victim, others) = (ws(0)?, [ws(1)?, ws(2)?]);
    let base = gateways[1].http.clone().context("http")?;
    let sessions: Vec<(Session, Client)> = stream::iter(0..SESSIONS)
        .map(|n| enter(&cluster, &base, &victim, n))
        .buffer_unordered(16)
        .try_collect()
        .await?;
    let mut talker = cluster.player(1, "talker").await?;
    let bystander = cluster.player(2, "bystander").await?;

    cluster.kill(&gateways[0]).await?;
    let struck = Instant::now();
    // Said while nobody is there.
    let mut said = 0;
    for n in 0..20 {
        let sent = talker.call("chat.send", json!({"channel_id": CHANNEL, "content": format!("m{n}")})).await?;
        said = sent["seq"].as_i64().context("seq")?;
    }
    let done = Notify::new();
    let coming = async {
        let back = sessions.into_iter().enumerate().map(|(n, (session, gone))| {
            drop(gone);
            come_back(&others, n, session, said)
        });
        let back = try_join_all(back).await;
        done.notify_one();
        back
    };
    let (back, answered) = tokio::try_join!(coming, door::bystander(&bystander.account, &done))?;
    let took = struck.elapsed();
    let turned_away: u32 = back.iter().map(|(_, turned_away)| turned_away).sum();
    println!(
        "{SESSIONS} sessions were back after {took:?}; {turned_away} attempts were turned away, others asked {answered} times"
    );
    ensure!(took < BACK, "it took {took:?}");
    ensure!(turned_away > 0, "they did not come at once, or nobody bounds them");
    // They are here to stay: each hears what is said now, once.
    let next = talker.call("chat.send", json!({"channel_id": CHANNEL, "content": "all here?"})).await?["seq"].clone();
    try_join_all(back.into_iter().map(|(mut client, _)| {
        let next = next.clone();
        async move {
            let heard = client.push("chat.message").await?;
            ensure!(heard["seq"] == next, "{} heard {heard} instead of {next}", client.account.username);
            anyhow::Ok(())
        }
    }))
    .await?;
    for gateway in ["gateway-1", "gateway-2"] {
        let process = cluster.node(gateway).context("a gateway")?;
        let timeouts = cluster.metric(&process, "asobi_database_pool_timeouts_total").await?;
        ensure!(timeouts == 0.0, "{gateway}'s pool was exhausted {timeouts} times");
    }
    cluster.stop().await
}

async fn enter(cluster: &Cluster, base: &str, ws: &str, n: usize) -> anyhow::Result<(Session, Client)> {
    let account = Account::guest(&cluster.http, base, &format!("device-{n:08}"), DEVICE_SECRET).await?;
    let (mut client, _) = door::come_in(&[ws.to_owned()], 0, &account).await?;
    let joined = client.call("chat.join", json!({"channel_id": CHANNEL})).await?;
    let match_id = if n.is_multiple_of(PLAYS) {
        client.call("match.find_or_create", json!({"mode": "crowd"})).await?["match_id"].clone()
    } else {
        Value::Null
    };
    let seen = joined["last_seq"].as_i64().context("last_seq")?;
    Ok((Session { account, match_id, seen }, client))
}

/// Comes back, into the same match, and reads what it has missed in its order.
async fn come_back(doors: &[String], n: usize, session: Session, said: i64) -> anyhow::Result<(Client, u32)> {
    let Session { account, match_id, seen } = session;
    let (mut client, told) = door::come_in(doors, n, &account).await?;
    ensure!(client.connected["match_id"] == match_id, "{} instead of {match_id}", client.connected);
    let joined = client.call("chat.join", json!({"channel_id": CHANNEL, "since_seq": seen})).await?;
    ensure!(joined["truncated"] == false && joined["last_seq"].as_i64() >= Some(said), "{joined}");
    for seq in seen + 1..=said {
        let missed = client.push("chat.message").await?;
        ensure!(missed["seq"] == seq, "{} read {missed} instead of {seq}", account.username);
    }
    if !match_id.is_null() {
        client.push("match.state").await?;
    }
    Ok((client, told.values().sum()))
}
