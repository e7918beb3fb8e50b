use serde_json::json;

use crate::support::{Client, Cluster};

#[tokio::test]
async fn tickets_outlive_the_matchmaker_that_led() -> anyhow::Result<()> {
    let cluster = Cluster::new().test_games().start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let queued = ada.call("matchmaker.add", json!({"mode": "duel"})).await?;
    assert_eq!((&queued["status"], &queued["already_queued"]), (&json!("pending"), &json!(false)), "{queued}");
    let leader = cluster.leading_matchmaker().await?;
    cluster.kill(&leader).await?;

    // The second player finds the first one's ticket with the standby, which leads now.
    let mut bo = cluster.player(1, "bo").await?;
    bo.call("matchmaker.add", json!({"mode": "duel"})).await?;
    let (a, b) = (ada.push("match.matched").await?, bo.push("match.matched").await?);
    assert_eq!(a["match_id"], b["match_id"]);
    assert_ne!(cluster.leading_matchmaker().await?.node_id, leader.node_id);
    cluster.stop().await
}

#[tokio::test]
async fn a_player_whose_gateway_died_is_back_in_the_match_from_another() -> anyhow::Result<()> {
    let cluster = Cluster::new().test_games().start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    for player in [&mut ada, &mut bo] {
        player.call("matchmaker.add", json!({"mode": "duel"})).await?;
    }
    let match_id = ada.push("match.matched").await?["match_id"].clone();
    assert_eq!(bo.push("match.matched").await?["match_id"], match_id);
    bo.push("match.state").await?;

    cluster.kill(&cluster.gateway(1)).await?;
    let ws = cluster.gateway(0).ws.expect("ws");
    let mut bo = Client::connect(&ws, bo.account.clone(), &[]).await?;
    assert_eq!(bo.connected["match_id"], match_id);
    bo.push("match.state").await?;
    bo.send("match.input", json!({"n": 1})).await?;
    let id = bo.id().to_owned();
    ada.push_where("match.state", |s| s["players"][&id]["count"] == 1).await?;
    cluster.stop().await
}
