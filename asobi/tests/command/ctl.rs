//! `asobi ctl`: what an operator sees of a cluster, and what they are told when there is none.

use std::process::Output;

use asobi_store::testing::TestDatabase;
use serde_json::{Value, json};
use sqlx::Executor as _;

use super::{
    child::{output, until},
    support::Cluster,
};

async fn ctl(database_url: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    output(&[&["ctl"], arguments].concat(), &[("ASOBI_DATABASE_URL", database_url)]).await
}

/// What it prints with `--json` when all is well.
async fn answer(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Value> {
    let output = ctl(&cluster.database.url, &[arguments, &["--json"]].concat()).await?;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

async fn table(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<String> {
    let output = ctl(&cluster.database.url, arguments).await?;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// What it says when it could not do it.
async fn refused(database_url: &str, arguments: &[&str], named: &[&str]) -> anyhow::Result<()> {
    let output = ctl(database_url, arguments).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    for part in named {
        assert!(said.contains(part), "{arguments:?}: {part} is not in:\n{said}");
    }
    Ok(())
}

#[tokio::test]
async fn mistakes_say_what_to_do_next() -> anyhow::Result<()> {
    refused("postgres://127.0.0.1:1/nowhere", &["nodes"], &["--database-url"]).await?;
    let database = TestDatabase::create().await?;
    refused(&database.url, &["queue"], &["no matchmaker", "asobi ctl nodes"]).await?;
    sqlx::query(
        "INSERT INTO nodes (node_id, incarnation, role, state, version, region, grpc_addr, pid, capacity, lease_until)
         VALUES ('m', 1, 'matchmaker', 'ready', '0', '', '127.0.0.1:1', 1, 0, now() + interval '1 hour')",
    )
    .execute(&database.pool)
    .await?;
    refused(&database.url, &["queue"], &["m at 127.0.0.1:1", "gRPC addresses"]).await?;
    database.pool.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await?;
    refused(&database.url, &["nodes"], &["asobi migrate"]).await?;
    let wrong = ctl(&database.url, &["nodes", "--set", "nowhere.x=1"]).await?;
    assert_eq!(wrong.status.code(), Some(64), "{}", String::from_utf8_lossy(&wrong.stderr));
    let wrong = ctl(&database.url, &["ticket", "show", "no-id"]).await?;
    assert_eq!(wrong.status.code(), Some(64), "{}", String::from_utf8_lossy(&wrong.stderr));
    Ok(())
}

#[tokio::test]
async fn an_operator_sees_who_is_there_and_pauses_a_queue() -> anyhow::Result<()> {
    let cluster = Cluster::new().gateways(1).match_hosts(1).matchmakers(2).test_games().start().await?;
    cluster.leading_matchmaker().await?;

    let nodes = answer(&cluster, &["nodes"]).await?;
    let nodes = nodes.as_array().expect("a flat array");
    assert_eq!(nodes.len(), 5, "{nodes:?}");
    assert_eq!(nodes.iter().filter(|node| node["leading"] == true && node["role"] == "matchmaker").count(), 1);
    assert!(nodes.iter().all(|node| node["alive"] == true && node["grpc_addr"].is_string()), "{nodes:?}");
    let shown = table(&cluster, &["nodes"]).await?;
    assert!(shown.starts_with("NODE ") && shown.contains("gateway-0") && shown.contains("term "), "{shown}");

    assert_eq!(answer(&cluster, &["queue", "pause", "duel"]).await?, json!({"mode": "duel", "paused": true}));
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(0, "bo").await?;
    let queued = ada.call("matchmaker.add", json!({"mode": "duel"})).await?;
    bo.call("matchmaker.add", json!({"mode": "duel"})).await?;
    until("two who wait in a paused queue", async || {
        let duel = answer(&cluster, &["queue", "duel"]).await?["modes"][0].take();
        Ok(duel["players"] == 2 && duel["paused"] == true)
    })
    .await?;
    let ticket_id = queued["ticket_id"].as_str().expect("an id");
    assert_eq!(answer(&cluster, &["ticket", "show", ticket_id]).await?["state"], "pending");
    assert!(table(&cluster, &["queue"]).await?.contains("paused"));

    table(&cluster, &["queue", "resume", "duel"]).await?;
    assert_eq!(ada.push("match.matched").await?["match_id"], bo.push("match.matched").await?["match_id"]);
    // A ticket that has ended is told once.
    assert_eq!(answer(&cluster, &["ticket", "watch", ticket_id]).await?["state"], "matched");
    refused(&cluster.database.url, &["ticket", "cancel", ticket_id], &["not_found"]).await?;

    let set = answer(&cluster, &["queue", "set", "duel", "max_wait_seconds=30"]).await?;
    assert_eq!(set["settings"]["max_wait_seconds"], 30, "{set}");
    refused(&cluster.database.url, &["queue", "set", "duel", "match_size=many"], &["u32"]).await?;
    refused(&cluster.database.url, &["queue", "pause", "nowhere"], &["no host has announced the mode"]).await?;
    cluster.stop().await
}
