//! A database of an earlier release under a cluster of today.

use anyhow::{Context as _, ensure};
use asobi_store::testing::TestDatabase;
use serde_json::json;
use sqlx::Connection as _;

use crate::support::{
    Cluster,
    rest::{Account, request},
};

const DUMP: &str = include_str!("../fixtures/release-0.1.0.sql");

/// A database with what the dump has in it, and nothing else.
async fn restored() -> anyhow::Result<TestDatabase> {
    let database = TestDatabase::create().await?;
    // Of its own: a dump leaves its session without a search_path.
    let mut session = sqlx::PgConnection::connect(&database.url).await?;
    sqlx::raw_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public").execute(&mut session).await?;
    sqlx::raw_sql(DUMP).execute(&mut session).await?;
    session.close().await?;
    Ok(database)
}

async fn log_in(cluster: &Cluster, username: &str) -> anyhow::Result<Account> {
    let base = cluster.gateway(0).http.context("http")?;
    let body = json!({"username": username, "password": "correct horse"});
    let (status, answer) = request(cluster.http.post(format!("{base}/api/v1/auth/login")).json(&body)).await?;
    ensure!(status == 200, "{status}: {answer}");
    let text = |key: &str| answer[key].as_str().map(str::to_owned).context("a login");
    Ok(Account {
        http: cluster.http.clone(),
        base,
        player_id: text("player_id")?,
        username: username.to_owned(),
        access_token: text("access_token")?,
        refresh_token: text("refresh_token")?,
    })
}

#[tokio::test]
async fn what_players_of_an_earlier_release_have_is_served() -> anyhow::Result<()> {
    let database = restored().await?;
    let problem = asobi_store::schema_problem(&database.pool).await?;
    assert!(problem.is_some_and(|problem| problem.contains("is at version 14")), "the dump is of the first schema");
    let url = database.url.clone();
    let cluster = Cluster::new().gateways(1).match_hosts(1).matchmakers(1).on(database, url);
    let cluster = cluster.set("chat.retention_days", 0).start().await?;
    assert_eq!(asobi_store::schema_problem(&cluster.database.pool).await?, None);
    let (ada, bo) = (log_in(&cluster, "ada_first").await?, log_in(&cluster, "bo_first").await?);

    let channel = format!("dm:{}:{}", ada.player_id, bo.player_id);
    let (status, history) = bo.get(&format!("/chat/{channel}/history")).await?;
    assert_eq!((status, &history["messages"][0]["content"]), (200, &json!("written by 0.1.0")), "{history}");
    let friends = bo.get_until("/friends", |friends| friends["friends"][0].is_object()).await?;
    assert_eq!(friends["friends"][0]["status"], "accepted", "{friends}");
    let board = ada.get_until("/leaderboards/arcade", |board| board["entries"][1].is_object()).await?;
    assert_eq!((&board["entries"][0]["player_id"], &board["entries"][0]["score"]), (&json!(ada.player_id), &json!(41)));
    let groups = ada.get_until("/players/me/groups", |groups| groups["groups"][0].is_object()).await?;
    assert_eq!(groups["groups"][0]["name"], "The First");

    // And it goes on from there.
    let (status, answer) = bo.post("/dm", json!({"recipient_id": ada.player_id, "content": "and today"})).await?;
    assert_eq!(status, 200, "{answer}");
    let (_, history) = ada.get(&format!("/chat/{channel}/history")).await?;
    let messages = history["messages"].as_array().context("messages")?;
    let mut seqs: Vec<i64> = messages.iter().filter_map(|message| message["seq"].as_i64()).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, [1, 2], "{history}");
    cluster.stop().await
}
