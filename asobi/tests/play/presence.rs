use serde_json::json;

use crate::support::{Client, Cluster, PATIENCE};

#[tokio::test]
async fn friends_see_each_other_come_change_and_go_across_gateways() -> anyhow::Result<()> {
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).set("presence.grace_ms", 300).start().await?;
    let mut ada = cluster.player_with(0, "ada", &["presence"]).await?;
    let bo = cluster.player(1, "bo").await?;
    assert_eq!(ada.push("presence.snapshot").await?, json!({"friends": []}));

    // Ada asks, Bo accepts: both are told, on whichever node they are.
    let (status, row) = ada.account.post("/friends", json!({"friend_id": bo.id()})).await?;
    assert_eq!((status, &row["status"]), (200, &json!("pending")), "{row}");
    let (_, again) = ada.account.post("/friends", json!({"friend_id": bo.id()})).await?;
    assert_eq!(again["id"], row["id"]);
    let (status, row) = bo.account.put(&format!("/friends/{}", ada.id()), json!({"status": "accepted"})).await?;
    assert_eq!((status, &row["status"]), (200, &json!("accepted")), "{row}");
    let came = ada.push_where("presence.changed", |p| p["player_id"] == bo.id()).await?;
    assert_eq!(came["status"], "online");

    // Bo goes for good, comes back, changes, and sees Ada in his snapshot.
    let account = bo.account.clone();
    let mut gone = bo;
    gone.close().await;
    let offline = ada.push_where("presence.changed", |p| p["player_id"] == account.player_id.as_str()).await?;
    assert_eq!(offline["status"], "offline");
    let ws = cluster.gateway(1).ws.expect("ws");
    let mut bo = Client::connect(&ws, account, &["presence"]).await?;
    let snapshot = bo.push("presence.snapshot").await?;
    assert_eq!(snapshot["friends"][0]["player_id"], ada.id(), "{snapshot}");
    assert_eq!(ada.push_where("presence.changed", |p| p["player_id"] == bo.id()).await?["status"], "online");
    assert_eq!(bo.call("presence.update", json!({"status": "in_menu"})).await?, json!({"status": "in_menu"}));
    assert_eq!(ada.push_where("presence.changed", |p| p["player_id"] == bo.id()).await?["status"], "in_menu");

    // A quick reconnect is no absence: the next thing Ada hears of Bo is that he is somewhere, not that he was gone.
    bo.close().await;
    let mut bo = Client::connect(&ws, bo.account.clone(), &["presence"]).await?;
    bo.call("presence.update", json!({"status": "again"})).await?;
    let mut heard = String::new();
    while heard != "again" {
        let change = ada.push_where("presence.changed", |p| p["player_id"] == bo.id()).await?;
        heard = change["status"].as_str().unwrap_or_default().to_owned();
        assert_ne!(heard, "offline");
    }

    // A node that dies takes its players offline within the lease.
    cluster.kill(&cluster.gateway(1)).await?;
    let offline =
        tokio::time::timeout(PATIENCE, ada.push_where("presence.changed", |p| p["player_id"] == bo.id())).await??;
    assert_eq!(offline["status"], "offline");
    cluster.stop().await
}
