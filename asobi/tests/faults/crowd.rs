//! Many at once, and one who does not keep up: nobody else suffers.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use crate::{
    ALONE,
    support::{
        Client, Cluster, PATIENCE,
        rest::{Account, request},
    },
};

const CHANNEL: &str = "global:lobby";
const JOINERS: usize = 100;
const HEARTBEATS: usize = 50;
const LOGINS: usize = 200;
/// 32 bytes in base64.
const DEVICE_SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_harms_nobody() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::new()
        .gateways(2)
        .gateways_only()
        .set("limits.frames_per_second", 0)
        .set("limits.chat_bytes", 60_000)
        .set("session.slow_ms", 1_000)
        .start()
        .await?;
    let crowd = joiners(&cluster).await?;
    one_channel_at_the_same_moment(&cluster, crowd).await?;
    a_login_storm_beside_heartbeats(&cluster).await?;
    a_reader_that_stops(&cluster).await?;
    cluster.stop().await
}

/// Guests, half of them on each gateway.
async fn joiners(cluster: &Cluster) -> anyhow::Result<Vec<Client>> {
    try_join_all((0..JOINERS).map(|n| guest(cluster, n))).await
}

async fn guest(cluster: &Cluster, n: usize) -> anyhow::Result<Client> {
    let gateway = cluster.gateway(n % 2);
    let device = format!("device-{n}-{:08x}", rand::random::<u32>());
    let base = gateway.http.as_deref().context("http")?;
    let account = Account::guest(&cluster.http, base, &device, DEVICE_SECRET).await?;
    Client::connect(gateway.ws.as_deref().context("ws")?, account, &[]).await
}

/// All join while somebody talks: each hears everything that comes after its place, and nobody is disconnected.
async fn one_channel_at_the_same_moment(cluster: &Cluster, crowd: Vec<Client>) -> anyhow::Result<()> {
    const MESSAGES: i64 = 40;
    let mut talker = cluster.player(0, "talker").await?;
    let joining = crowd.into_iter().map(|mut client| async move {
        let joined = client.call("chat.join", json!({"channel_id": CHANNEL, "since_seq": 0})).await?;
        ensure!(joined["truncated"] == false, "{joined}");
        for seq in 1..=MESSAGES {
            let message = client.push("chat.message").await?;
            ensure!(message["seq"] == seq, "{} heard {message} instead of {seq}", client.account.username);
        }
        client.call("session.heartbeat", json!({})).await?;
        Ok(())
    });
    let talking = async {
        for n in 0..MESSAGES {
            talker.call("chat.send", json!({"channel_id": CHANNEL, "content": format!("m{n}")})).await?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(try_join_all(joining), talking)?;
    Ok(())
}

/// Log-ins are hard work by design; connections that are there must not wait for it.
async fn a_login_storm_beside_heartbeats(cluster: &Cluster) -> anyhow::Result<()> {
    let base = cluster.gateway(0).http.context("http")?;
    let account = Account::register(&cluster.http, &base, "stormy").await?;
    let body = json!({"username": account.username, "password": "correct horse"});
    let mut beating = try_join_all((0..HEARTBEATS).map(|n| guest(cluster, n))).await?;
    let storm = try_join_all((0..LOGINS).map(|_| log_in(cluster, &base, &body)));
    let mut storm = std::pin::pin!(storm);
    let (mut worst, mut beats) = (Duration::ZERO, 0);
    let refused: u32 = loop {
        let round = try_join_all(beating.iter_mut().map(|client| async move {
            let started = Instant::now();
            client.call("session.heartbeat", json!({})).await?;
            anyhow::Ok(started.elapsed())
        }));
        tokio::select! {
            logins = &mut storm => break logins?.iter().sum(),
            times = round => {
                beats += HEARTBEATS;
                worst = worst.max(times?.into_iter().max().unwrap_or_default());
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    for client in &mut beating {
        client.call("session.heartbeat", json!({})).await?;
    }
    eprintln!("{LOGINS} log-ins, {refused} times told to come later; {beats} heartbeats, the slowest took {worst:?}");
    Ok(())
}

/// Tries until it is in; how often it was told to come later.
async fn log_in(cluster: &Cluster, base: &str, body: &Value) -> anyhow::Result<u32> {
    let (started, mut refused) = (Instant::now(), 0);
    loop {
        let (status, answer) = request(cluster.http.post(format!("{base}/api/v1/auth/login")).json(body)).await?;
        match status {
            200 => return Ok(refused),
            503 => refused += 1,
            _ => anyhow::bail!("a log-in was answered {status}: {answer}"),
        }
        ensure!(started.elapsed() < 2 * PATIENCE, "a log-in was refused {refused} times");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// One reads no more. It is disconnected as slow; all others hear everything.
async fn a_reader_that_stops(cluster: &Cluster) -> anyhow::Result<()> {
    let join = json!({"channel_id": "global:c1"});
    let mut talker = cluster.player(0, "talker").await?;
    let mut stopped = cluster.player(0, "stopped").await?;
    let mut others = [cluster.player(0, "near").await?, cluster.player(1, "far").await?];
    for client in others.iter_mut().chain([&mut stopped]) {
        client.call("chat.join", join.clone()).await?;
    }
    // What a socket's buffers hold on both sides comes before the queue.
    let content = "x".repeat(50_000);
    let (started, mut latencies) = (Instant::now(), Vec::new());
    let before = slow_consumers(cluster).await?;
    while slow_consumers(cluster).await? == before {
        ensure!(started.elapsed() < PATIENCE, "who does not read is never slow");
        let sent = Instant::now();
        talker.call("chat.send", json!({"channel_id": "global:c1", "content": content})).await?;
        for client in &mut others {
            let message = client.push("chat.message").await?;
            ensure!(message["seq"] == latencies.len() + 1, "{} missed one", client.account.username);
        }
        latencies.push(sent.elapsed());
    }
    // Behind what had been written before it finds out why.
    let (code, reason) = stopped.closing().await?;
    assert_eq!((code, reason.as_str()), (4001, "slow_consumer"));
    latencies.sort();
    let (median, worst) = (latencies[latencies.len() / 2], latencies[latencies.len() - 1]);
    eprintln!("{} messages until it was slow; the others had them in {median:?}, at most {worst:?}", latencies.len());
    Ok(())
}

async fn slow_consumers(cluster: &Cluster) -> anyhow::Result<f64> {
    cluster.metric(&cluster.gateway(0), "asobi_session_slow_consumers_total").await
}
