//! The bus on a database of its own: hints from one, rows in another.

use asobi_store::testing::TestDatabase;
use serde_json::json;

use crate::support::Cluster;

const LOBBY: &str = "global:lobby";

#[tokio::test]
async fn hints_may_travel_through_another_database_than_the_rows() -> anyhow::Result<()> {
    // NOTIFY ends at a database's border, so another database of the same server is as good as another server.
    let hints = TestDatabase::create().await?;
    let cluster = Cluster::new().test_games().set("database.bus_url", &hints.url).start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    bo.call("chat.join", json!({"channel_id": LOBBY})).await?;
    ada.call("chat.send", json!({"channel_id": LOBBY, "content": "over there"})).await?;
    assert_eq!(bo.push("chat.message").await?["content"], "over there");
    for player in [&mut ada, &mut bo] {
        player.call("matchmaker.add", json!({"mode": "duel"})).await?;
    }
    let matched = ada.push("match.matched").await?["match_id"].clone();
    assert_eq!(bo.push("match.matched").await?["match_id"], matched);

    // The hints really were there: each of the seven processes listens in that database, and nothing else is done in it.
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name LIKE 'asobi/%' AND pid <> pg_backend_pid()";
    assert!(sqlx::query_scalar::<_, i64>(cut).fetch_one(&hints.pool).await? >= 7);

    // Now they are cut off. What is said meanwhile is in the rows, and found.
    ada.call("chat.send", json!({"channel_id": LOBBY, "content": "did you hear?"})).await?;
    assert_eq!(bo.push("chat.message").await?["content"], "did you hear?");
    cluster.stop().await
}
