//! A leaderboard from the operator who makes it to the players who are on it.

use serde_json::{Value, json};

use crate::support::Cluster;

#[tokio::test]
async fn an_operator_makes_a_board_and_players_see_where_they_stand() -> anyhow::Result<()> {
    let cluster = Cluster::new().gateways(2).match_hosts(0).matchmakers(0).start().await?;
    let boards = async |arguments: &[&str]| -> anyhow::Result<Value> {
        let said = cluster.ctl(&[&["boards"], arguments, &["--json"]].concat()).await?;
        Ok(serde_json::from_str(&said)?)
    };
    let made = boards(&["create", "laps", "--order", "low", "--operator", "best", "--reset", "@weekly"]).await?;
    assert_eq!((&made["order"], &made["operator"], &made["period"]), (&json!("low"), &json!("best"), &json!(0)));
    let (ada, bo, cy) =
        (cluster.player(0, "ada").await?, cluster.player(1, "bo").await?, cluster.player(0, "cy").await?);
    let (ada, bo, cy) = (&ada.account, &bo.account, &cy.account);
    let (status, answer) = ada.post("/leaderboards/laps", json!({"score": 61.5})).await?;
    assert_eq!((status, &answer["error"]["code"]), (403, &json!("leaderboard.client_submit_disabled")));

    boards(&["update", "laps", "--client-submit", "--min-score", "20"]).await?;
    for (player, lap) in [(ada, 61.5), (bo, 58.25), (cy, 55.5)] {
        let (status, answer) = player.post("/leaderboards/laps", json!({"score": lap})).await?;
        assert_eq!((status, &answer["score"]), (200, &json!(lap)), "{answer}");
    }
    let (status, answer) = ada.post("/leaderboards/laps", json!({"score": 2})).await?;
    assert_eq!((status, &answer["error"]["code"]), (422, &json!("validation_failed")));
    let (status, answer) = ada.post("/leaderboards/laps", json!({"score": "fast"})).await?;
    assert_eq!((status, answer["errors"]["score"].is_array()), (422, true), "{answer}");

    // Among friends Ada is second, among all third.
    ada.post("/friends", json!({"friend_id": bo.player_id})).await?;
    bo.put(&format!("/friends/{}", ada.player_id), json!({"status": "accepted"})).await?;
    let friends = ada.get_until("/leaderboards/laps?scope=friends", |b| b["entries"][1].is_object()).await?;
    let seen = |n: usize| ["player_id", "rank", "global_rank"].map(|field| friends["entries"][n][field].clone());
    assert_eq!(seen(0), [json!(bo.player_id), json!(1), json!(2)]);
    assert_eq!(seen(1), [json!(ada.player_id), json!(2), json!(3)]);
    let (_, standing) = ada.get(&format!("/leaderboards/laps/player/{}", bo.player_id)).await?;
    assert_eq!(
        (&standing["entry"]["rank"], &standing["percentile"], &standing["total"]),
        (&json!(2), &json!(50), &json!(3))
    );

    boards(&["remove-entry", "laps", &cy.player_id]).await?;
    assert_eq!(boards(&["reset", "laps"]).await?["period"], 1);
    let (_, top) = ada.get("/leaderboards/laps").await?;
    assert_eq!(top, json!({"entries": []}));
    let (_, past) = ada.get("/leaderboards/laps?period=0").await?;
    assert_eq!(
        (&past["entries"][0]["player_id"], past["entries"].as_array().map(Vec::len)),
        (&json!(bo.player_id), Some(2))
    );
    let (_, periods) = ada.get("/leaderboards/laps/periods").await?;
    assert_eq!((&periods["current"], &periods["periods"][0]["period"]), (&json!(1), &json!(0)));

    let shown = cluster.ctl(&["boards", "list"]).await?;
    assert!(shown.starts_with("BOARD ") && shown.contains("laps"), "{shown}");
    let shown = cluster.ctl(&["boards", "top", "laps", "--period", "0"]).await?;
    assert!(shown.contains("58.25") && !shown.contains(&cy.player_id), "{shown}");
    boards(&["delete", "laps"]).await?;
    assert_eq!(boards(&["list"]).await?, json!([]));
    cluster.stop().await
}
