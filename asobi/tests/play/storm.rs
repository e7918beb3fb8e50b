//! Everybody at once: who finds no place is told when to come, everybody is in at the end, and nobody else notices.

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use tokio::sync::Notify;

use crate::support::{
    Client, Cluster,
    door::{self, Told},
    rest::Account,
};

const PLACES: usize = 8;
const CROWD: usize = 40;
/// 32 bytes in base64.
const DEVICE_SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_let_in_as_fast_as_it_goes() -> anyhow::Result<()> {
    let cluster = Cluster::new()
        .gateways(1)
        .gateways_only()
        .set("session.connects_under_way", PLACES)
        .set("limits.connects_per_second", 0)
        .set("limits.auth_per_second", 0)
        .set("limits.requests_per_second", 0)
        .set("database.max_connections", 3)
        .start()
        .await?;
    let gateway = cluster.gateway(0);
    let (ws, base) = (gateway.ws.context("ws")?, gateway.http.context("http")?);
    let accounts = try_join_all((0..=CROWD).map(|n| {
        let (cluster, base) = (&cluster, &base);
        async move { Account::guest(&cluster.http, base, &format!("device-{n:08}"), DEVICE_SECRET).await }
    }))
    .await?;
    let (bystander, crowd) = accounts.split_first().context("accounts")?;
    who_hesitates_gives_its_place_away(&ws, crowd).await?;

    let done = Notify::new();
    let flood = async {
        let came = crowd.iter().map(|account| door::come_in(std::slice::from_ref(&ws), 0, account));
        let came = try_join_all(came).await;
        done.notify_one();
        came
    };
    let (mut came, answered) = tokio::try_join!(flood, door::bystander(bystander, &done))?;
    let told: Vec<Told> = came.iter().flat_map(|(_, told)| told.keys().copied()).collect();
    ensure!(told.iter().any(|told| matches!(told, Told::Later(1..=11))), "nobody was turned away: {told:?}");
    ensure!(told.iter().all(|told| matches!(told, Told::Later(1..=11))), "and nobody otherwise: {told:?}");
    ensure!(answered > 5, "/ready and REST were answered {answered} times meanwhile");
    for (client, _) in &mut came {
        client.call("session.heartbeat", json!({})).await?;
    }
    let refused = cluster.metric(&cluster.gateway(0), "asobi_session_connects_under_way").await?;
    ensure!(refused == 0.0, "{refused} still hold a place");
    cluster.stop().await
}

/// Sockets that do not say who they are take the places at first, but not for long; then it is theirs to come later.
async fn who_hesitates_gives_its_place_away(ws: &str, accounts: &[Account]) -> anyhow::Result<()> {
    let mut silent: Vec<Client> = Vec::new();
    for account in &accounts[..PLACES] {
        silent.push(door::open(ws, account).await?.ok().context("there are places")?);
    }
    let late = door::open(ws, &accounts[PLACES]).await?.err();
    ensure!(matches!(late, Some(Told::Later(_))), "the places are taken: {late:?}");
    // The next ones come in as soon as the first have hesitated for too long.
    let mut next: Vec<Client> = Vec::new();
    for account in &accounts[PLACES..2 * PLACES] {
        next.push(loop {
            match door::open(ws, account).await? {
                Ok(client) => break client,
                Err(told) => ensure!(matches!(told, Told::Later(_)), "{told:?}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        });
    }
    let first = silent.swap_remove(0);
    let told = door::greet(first).await?.err();
    ensure!(told == Some(Told::Closed(1013)), "no place is left for who comes back to it: {told:?}");
    // Those who hold one use it, whoever else waits.
    let held = next.swap_remove(0);
    ensure!(door::greet(held).await?.is_ok(), "who has a place is let in");
    Ok(())
}
