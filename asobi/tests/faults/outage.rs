//! The database away, or crashed, as players and operators see it: what is refused is refused clearly, and nobody who is
//! there is taken for gone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::{
    ALONE,
    support::{Client, Cluster, Proxy, until},
};

const LOBBY: &str = "global:lobby";
const OUTAGE: Duration = Duration::from_secs(10);
const LEASE: Duration = Duration::from_secs(2);

/// Two friends on two gateways, who hear of each other and have heard that both are there.
async fn friends(cluster: &Cluster) -> anyhow::Result<(Client, Client)> {
    let mut ada = cluster.player_with(0, "ada", &["presence"]).await?;
    let mut bo = cluster.player_with(1, "bo", &["presence"]).await?;
    let (status, answer) = ada.account.post("/friends", json!({"friend_id": bo.id()})).await?;
    ensure!(status == 200, "{answer}");
    let (status, answer) = bo.account.put(&format!("/friends/{}", ada.id()), json!({"status": "accepted"})).await?;
    ensure!(status == 200, "{answer}");
    ada.push_where("presence.changed", |p| p["player_id"] == bo.id() && p["status"] == "online").await?;
    bo.push_where("presence.changed", |p| p["player_id"] == ada.id() && p["status"] == "online").await?;
    Ok((ada, bo))
}

/// Gives itself a status of its own, and lists what the friend hears of it until then.
async fn heard_until_marked(from: &mut Client, to: &mut Client, mark: &str) -> anyhow::Result<Vec<String>> {
    from.call("presence.update", json!({"status": mark})).await?;
    let mut heard = Vec::new();
    loop {
        let change = to.push_where("presence.changed", |p| p["player_id"] == from.id()).await?;
        match change["status"].as_str().context("status")? {
            status if status == mark => return Ok(heard),
            status => heard.push(status.to_owned()),
        }
    }
}

#[tokio::test]
async fn while_the_database_is_away_gateways_stay_and_say_so() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::new().match_hosts(0).matchmakers(0).set("node.lease_ms", LEASE.as_millis()).proxied();
    let cluster = cluster.start().await?;
    let (mut ada, mut bo) = friends(&cluster).await?;
    for player in [&mut ada, &mut bo] {
        player.call("chat.join", json!({"channel_id": LOBBY})).await?;
    }
    let gateways = cluster.processes("gateways");

    cluster.proxies().for_each(Proxy::cut);
    let away = Instant::now();
    while away.elapsed() < OUTAGE {
        for gateway in &gateways {
            ensure!(cluster.ready(gateway).await?, "{} is not ready", gateway.node_id);
        }
        for player in [&mut ada, &mut bo] {
            player.call("session.heartbeat", json!({})).await?;
            let reason = player.refused("chat.send", json!({"channel_id": LOBBY, "content": "lost"})).await?;
            assert!(["not_ready", "unconfirmed"].contains(&reason.as_str()), "{reason}");
            for path in ["/friends", "/chat/global:lobby/history"] {
                let (status, answer) = player.account.get(path).await?;
                assert_eq!((status, &answer["error"]["code"]), (503, &json!("not_ready")), "{path}: {answer}");
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.proxies().for_each(Proxy::heal);

    until("messages are taken again", async || {
        Ok(ada.ask("chat.send", json!({"channel_id": LOBBY, "content": "back"})).await?["type"] == "chat.sent")
    })
    .await?;
    for player in [&mut ada, &mut bo] {
        assert_eq!(player.push("chat.message").await?["content"], "back", "what was refused is not heard");
        player.account.get_until("/friends", |answer| !answer["friends"].as_array().is_none_or(Vec::is_empty)).await?;
    }
    // Five leases without a heartbeat, and nobody has judged.
    assert_eq!(heard_until_marked(&mut ada, &mut bo, "ada is back").await?, [""; 0]);
    assert_eq!(heard_until_marked(&mut bo, &mut ada, "bo is back").await?, [""; 0]);
    cluster.stop().await
}

#[tokio::test]
async fn a_gateway_in_a_black_hole_loses_its_players_once_and_has_them_back_once() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::new().match_hosts(0).matchmakers(0).set("node.lease_ms", LEASE.as_millis());
    let cluster = cluster.proxied_nodes(&["gateway-0"]).start().await?;
    let (mut ada, mut bo) = friends(&cluster).await?;

    for (round, heal) in [Proxy::heal, Proxy::heal_by_reset].into_iter().enumerate() {
        cluster.proxy("gateway-0").black_hole();
        let offline = bo.push("presence.changed").await?;
        assert_eq!((offline["player_id"].as_str(), &offline["status"]), (Some(ada.id()), &json!("offline")));
        // Past a second lease, in which nothing more may be said of her.
        tokio::time::sleep(LEASE).await;
        heal(cluster.proxy("gateway-0"));
        let back = bo.push("presence.changed").await?;
        assert_eq!(back["player_id"], ada.id());
        assert_ne!(back["status"], "offline", "{back}");
        let (hers, his) = (format!("there {round}"), format!("here {round}"));
        assert_eq!(heard_until_marked(&mut ada, &mut bo, &hers).await?, [""; 0], "she came back once");
        assert_eq!(heard_until_marked(&mut bo, &mut ada, &his).await?, [""; 0], "he was never gone");
    }
    cluster.stop().await
}

#[tokio::test]
async fn after_a_crash_of_the_database_friends_still_see_each_other() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::new().match_hosts(0).matchmakers(0).own_postgres().start().await?;
    let (mut ada, mut bo) = friends(&cluster).await?;
    // Unlogged tables, the sessions among them, are empty after it.
    cluster.crash_database().await?;
    assert_eq!(heard_until_marked(&mut bo, &mut ada, "still here").await?, [""; 0]);
    let account = ada.account.clone();
    ada.close().await;
    let ws = cluster.gateway(0).ws.context("ws")?;
    until("the sessions are re-asserted", async || {
        let mut ada = Client::connect(&ws, account.clone(), &["presence"]).await?;
        let snapshot = ada.push("presence.snapshot").await?;
        ada.close().await;
        Ok(snapshot["friends"][0]["status"] == "still here")
    })
    .await?;
    cluster.stop().await
}
