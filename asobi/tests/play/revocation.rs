//! What ends a player's log-ins, and what several connections of one player are to each other, over real processes.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{
    Client, Cluster, PATIENCE,
    rest::{self, Account},
    until,
};

/// An operator's order, as its JSON.
async fn ctl(cluster: &Cluster, args: &[&str]) -> anyhow::Result<Value> {
    let asked = Command::new(env!("CARGO_BIN_EXE_asobi"))
        .args(["ctl", "--json", "--database-url", &cluster.database.url])
        .args(args)
        .output();
    let output = tokio::time::timeout(PATIENCE, asked).await??;
    ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The same player, connected to each gateway by a log-in of its own.
async fn everywhere(cluster: &Cluster, name: &str) -> anyhow::Result<(Account, Client, Client)> {
    let (first, second) = (cluster.gateway(0), cluster.gateway(1));
    let base = first.http.as_deref().context("http")?;
    let account = Account::register(&cluster.http, base, name).await?;
    let login = json!({"username": account.username, "password": "correct horse"});
    let (status, body) = rest::request(
        cluster.http.post(format!("{}/api/v1/auth/login", second.http.as_deref().context("http")?)).json(&login),
    )
    .await?;
    ensure!(status == 200, "{body}");
    let text = |key: &str| body[key].as_str().map(str::to_owned).context("a token");
    let other = Account {
        access_token: text("access_token")?,
        refresh_token: text("refresh_token")?,
        ..account.at(second.http.as_deref().context("http")?)
    };
    let here = Client::connect(first.ws.as_deref().context("ws")?, account.clone(), &[]).await?;
    let there = Client::connect(second.ws.as_deref().context("ws")?, other, &[]).await?;
    Ok((account, here, there))
}

/// Both sockets are told why and closed, and neither log-in's tokens are good for anything at any gateway.
async fn ended(cluster: &Cluster, sockets: [&mut Client; 2], reason: &str) -> anyhow::Result<()> {
    for socket in sockets {
        assert_eq!(socket.push("session.revoked").await?["reason"], reason);
        assert_eq!(socket.closing().await?, (1008, "session_revoked".into()));
        for gateway in cluster.processes("gateways") {
            let account = socket.account.at(gateway.http.as_deref().context("http")?);
            // The other gateway hears of it by itself, maybe a moment later.
            let refused = async || Ok(account.get("/friends").await?.0 == 401);
            until(&format!("the access token is refused at {}", gateway.node_id), refused).await?;
            let mut again = Client::open(gateway.ws.as_deref().context("ws")?, account.clone()).await?;
            let token = json!({"token": account.access_token});
            assert_eq!(again.refused("session.connect", token).await?, "invalid_token");
        }
    }
    Ok(())
}

async fn post(cluster: &Cluster, gateway: usize, path: &str, body: Value) -> anyhow::Result<(u16, Value)> {
    let base = cluster.gateway(gateway).http.context("http")?;
    rest::request(cluster.http.post(format!("{base}/api/v1{path}")).json(&body)).await
}

#[tokio::test]
async fn a_ban_ends_a_player_on_every_gateway_until_it_is_lifted() -> anyhow::Result<()> {
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).start().await?;
    let (ada, mut here, mut there) = everywhere(&cluster, "ada").await?;
    let id = ada.player_id.as_str();
    let answer = ctl(&cluster, &["player", "ban", id, "--for", "2h", "--reason", "cheating"]).await?;
    assert_eq!((&answer["player_id"], &answer["done"]), (&json!(id), &json!("banned")), "{answer}");
    ended(&cluster, [&mut here, &mut there], "banned").await?;

    let login = json!({"username": ada.username, "password": "correct horse"});
    for (gateway, path, body) in [
        (0, "/auth/login", login.clone()),
        (1, "/auth/login", login.clone()),
        (0, "/auth/refresh", json!({"refresh_token": ada.refresh_token})),
        (1, "/auth/refresh", json!({"refresh_token": there.account.refresh_token})),
    ] {
        let (status, body) = post(&cluster, gateway, path, body).await?;
        assert_eq!((status, &body["error"]["code"]), (403, &json!("forbidden")), "{path}: {body}");
        let details = &body["error"]["details"];
        assert_eq!((&details["reason"], &details["ban_reason"]), (&json!("banned"), &json!("cheating")));
        assert!(details["until"].as_str().is_some_and(|until| until.ends_with('Z')), "{body}");
    }
    ctl(&cluster, &["player", "unban", id]).await?;
    let (status, body) = post(&cluster, 1, "/auth/login", login).await?;
    assert_eq!(status, 200, "{body}");
    let nobody = ctl(&cluster, &["player", "ban", "01a20330-d6bb-715b-a470-2b9fab0c7f93"]).await;
    assert!(nobody.is_err_and(|error| error.to_string().contains("player.not_found")));
    cluster.stop().await
}

#[tokio::test]
async fn logging_out_everywhere_and_erasure_reach_every_gateway() -> anyhow::Result<()> {
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).start().await?;
    let (bo, mut here, mut there) = everywhere(&cluster, "bo").await?;
    let (status, body) = bo.post("/auth/logout", json!({"everywhere": true})).await?;
    assert_eq!((status, body), (200, json!({"success": true})));
    ended(&cluster, [&mut here, &mut there], "logged_out").await?;
    let login = json!({"username": bo.username, "password": "correct horse"});
    assert_eq!(post(&cluster, 1, "/auth/login", login).await?.0, 200, "he may come back");

    let (cleo, mut here, mut there) = everywhere(&cluster, "cleo").await?;
    ctl(&cluster, &["player", "logout", &cleo.player_id]).await?;
    ended(&cluster, [&mut here, &mut there], "logged_out").await?;

    let (ada, mut here, mut there) = everywhere(&cluster, "ada").await?;
    assert_eq!(ada.post("/players/me/erase", json!({"password": "wrong horse"})).await?.0, 403);
    let (status, body) = ada.post("/players/me/erase", json!({"password": "correct horse"})).await?;
    assert_eq!((status, body), (200, json!({"deleted": true})));
    ended(&cluster, [&mut here, &mut there], "erased").await?;
    let login = json!({"username": ada.username, "password": "correct horse"});
    let (status, body) = post(&cluster, 1, "/auth/login", login).await?;
    assert_eq!((status, &body["error"]["code"]), (401, &json!("auth.invalid_credentials")));
    cluster.stop().await
}

#[tokio::test]
async fn an_erased_player_leaves_the_boards_and_the_match() -> anyhow::Result<()> {
    let cluster =
        Cluster::new().matchmakers(1).test_games().set("leaderboards.client_submit", "weekly").start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    for (player, score) in [(&ada, 20), (&bo, 10)] {
        let (status, body) = player.account.post("/leaderboards/weekly", json!({"score": score})).await?;
        assert_eq!(status, 200, "{body}");
    }
    let board = bo.account.get_until("/leaderboards/weekly", |b| b["entries"].as_array().is_some_and(|e| e.len() == 2));
    assert_eq!(board.await?["entries"][0]["player_id"], ada.id());

    let joined = ada.call("match.find_or_create", json!({"mode": "crowd"})).await?;
    let joined_too = bo.call("match.find_or_create", json!({"mode": "crowd"})).await?;
    assert_eq!(joined["match_id"], joined_too["match_id"]);
    let (status, body) = ada.account.post("/players/me/erase", json!({"password": "correct horse"})).await?;
    assert_eq!(status, 200, "{body}");
    assert_eq!(ada.closing().await?.0, 1008);

    let board = bo.account.get_until("/leaderboards/weekly", |b| b["entries"].as_array().is_some_and(|e| e.len() == 1));
    let board = board.await?;
    assert_eq!((&board["entries"][0]["player_id"], &board["entries"][0]["rank"]), (&json!(bo.id()), &json!(1)));
    // Her seat waits for nobody.
    bo.forget();
    bo.push_where("match.state", |state| state["names"].as_object().is_some_and(|names| names.len() == 1)).await?;
    cluster.stop().await
}

#[tokio::test]
async fn every_connection_gets_every_push_and_one_too_many_closes_the_oldest() -> anyhow::Result<()> {
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).set("session.max_per_player", 2).start().await?;
    let (ada, mut first, mut second) = everywhere(&cluster, "ada").await?;
    let mut bo = cluster.player(0, "bo").await?;
    bo.call("dm.send", json!({"recipient_id": ada.player_id, "content": "to both"})).await?;
    for socket in [&mut first, &mut second] {
        assert_eq!(socket.push("dm.message").await?["content"], "to both");
    }
    let mut third = Client::connect(&cluster.gateway(1).ws.context("ws")?, ada.clone(), &[]).await?;
    assert_eq!(first.closing().await?, (4002, "replaced".into()), "on the other gateway");
    bo.call("dm.send", json!({"recipient_id": ada.player_id, "content": "to those who stay"})).await?;
    for socket in [&mut second, &mut third] {
        assert_eq!(socket.push("dm.message").await?["content"], "to those who stay");
    }
    cluster.stop().await
}

#[tokio::test]
async fn a_storm_of_logins_is_served_or_put_off_and_starves_nobody() -> anyhow::Result<()> {
    const STORM: u32 = 200;
    let cluster = Cluster::new().gateways(1).match_hosts(1).matchmakers(1).set("auth.hash_queue", 40).start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let login = json!({"username": ada.account.username, "password": "correct horse"});
    let url = format!("{}/api/v1/auth/login", cluster.gateway(0).http.context("http")?);
    let (over, beats) = (AtomicBool::new(false), AtomicU32::new(0));
    let storm = async {
        let logins = (0..STORM).map(|_| async {
            let answer = cluster.http.post(&url).json(&login).send().await?;
            let status = answer.status().as_u16();
            ensure!(status == 200 || status == 503, "{status}");
            ensure!(status == 200 || answer.headers().contains_key("retry-after"), "without Retry-After");
            Ok(status)
        });
        let statuses = futures_util::future::join_all(logins).await;
        over.store(true, Ordering::SeqCst);
        statuses.into_iter().collect::<anyhow::Result<Vec<_>>>()
    };
    let heart = async {
        while !over.load(Ordering::SeqCst) {
            ada.call("session.heartbeat", json!({})).await?;
            beats.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    let (statuses, heart) = tokio::join!(storm, heart);
    heart?;
    let statuses = statuses?;
    let served = statuses.iter().filter(|status| **status == 200).count();
    // Those that found room in the queue were served; the others were told to come again, and nothing grew.
    assert!(served > 0 && served < statuses.len(), "{served} of {} were served", statuses.len());
    assert!(beats.load(Ordering::SeqCst) > 0);
    cluster.stop().await
}

#[tokio::test]
async fn a_gateway_without_the_database_stays_and_says_so() -> anyhow::Result<()> {
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).proxied_nodes(&["gateway-0"]).start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let base = cluster.gateway(0).http.context("http")?;
    let account = ada.account.clone();
    let ask = async |path: &str| {
        let answer = cluster.http.get(format!("{base}{path}")).bearer_auth(&account.access_token).send().await?;
        let (status, later) = (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
        anyhow::Ok((status, later, answer.json::<Value>().await?))
    };
    cluster.proxy("gateway-0").black_hole();
    let started = std::time::Instant::now();
    loop {
        let (status, _, health) = ask("/health").await?;
        if health["dependencies"]["primary_db"]["status"] == "unhealthy" {
            assert_eq!(status, 503, "{health}");
            break;
        }
        ensure!(started.elapsed() < PATIENCE, "the health still says {health}");
    }
    // It keeps its place at the balancer: all gateways would leave at once. What needs rows is refused, with when to come again.
    assert_eq!(ask("/ready").await?.0, 200);
    let (status, later, refusal) = ask("/api/v1/friends").await?;
    assert_eq!((status, later, &refusal["error"]["code"]), (503, true, &json!("not_ready")), "{refusal}");
    assert_eq!(ask("/ready").await?.0, 200);
    // What needs none goes on.
    ada.call("session.heartbeat", json!({})).await?;

    cluster.proxy("gateway-0").heal();
    let friends = ada.account.get_until("/friends", |answer| answer["friends"].is_array()).await?;
    assert_eq!(friends["friends"], json!([]));
    ada.call("session.heartbeat", json!({})).await?;
    cluster.stop().await
}
