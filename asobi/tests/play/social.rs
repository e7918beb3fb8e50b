use std::process::Stdio;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::support::{Client, Cluster, PATIENCE, rest::Account, until};

/// What a player has been told in their channels until now.
async fn heard(client: &mut Client) -> anyhow::Result<Vec<String>> {
    client.send_text(json!({"type": "session.heartbeat", "cid": "so far"}).to_string()).await?;
    let mut heard = Vec::new();
    loop {
        let frame = client.wait("a heartbeat", |f| f["cid"] == "so far" || f["type"] == "chat.message").await?;
        if frame["cid"] == "so far" {
            return Ok(heard);
        }
        heard.push(frame["payload"]["content"].as_str().unwrap_or_default().to_owned());
    }
}

/// Speaks until those who were put out hear nothing of it any more, though the others do.
async fn speak_until_unheard(
    speaker: &mut Client,
    listeners: &mut [&mut Client],
    out: &mut [&mut Client],
    room: &str,
) -> anyhow::Result<()> {
    for n in 0..500 {
        let content = format!("still here? {n}");
        speaker.call("chat.send", json!({"channel_id": room, "content": content})).await?;
        for listener in listeners.iter_mut() {
            listener.push_where("chat.message", |m| m["content"] == content.as_str()).await?;
        }
        let mut someone = false;
        for client in out.iter_mut() {
            someone |= heard(client).await?.contains(&content);
        }
        if !someone {
            return Ok(());
        }
    }
    anyhow::bail!("they still hear the channel")
}

/// Asks until it is no longer refused, or refused for that reason: what one node was told another hears a moment later.
async fn ask_until(client: &mut Client, kind: &str, payload: Value, reason: Option<&str>) -> anyhow::Result<()> {
    let started = std::time::Instant::now();
    loop {
        let frame = client.ask(kind, payload.clone()).await?;
        if frame["payload"]["reason"].as_str() == reason {
            return Ok(());
        }
        ensure!(started.elapsed() < PATIENCE, "{kind} is still answered {frame}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_group_talks_across_gateways_and_who_is_put_out_hears_no_more_anywhere() -> anyhow::Result<()> {
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).set("limits.frames_per_second", 0).start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    let mut cy = cluster.player(1, "cy").await?;
    let ws = cluster.gateway(0).ws.context("ws")?;
    let mut also_bo = Client::connect(&ws, bo.account.clone(), &[]).await?;

    let (status, group) = ada.account.post("/groups", json!({"name": "Guild", "open": true})).await?;
    assert_eq!(status, 200, "{group}");
    let id = group["id"].as_str().context("id")?.to_owned();
    let (room, path) = (format!("room:{id}"), format!("/groups/{id}"));
    assert_eq!(bo.refused("chat.join", json!({"channel_id": room})).await?, "not_authorized");
    for player in [&bo, &cy] {
        assert_eq!(player.account.post(&format!("{path}/join"), json!({})).await?.0, 200);
    }
    for player in [&mut ada, &mut bo, &mut also_bo, &mut cy] {
        ask_until(player, "chat.join", json!({"channel_id": room}), None).await?;
    }
    let sent = ada.call("chat.send", json!({"channel_id": room, "content": "welcome"})).await?;
    assert_eq!(sent["seq"], 1);
    let told = ada.push("chat.message").await?;
    for player in [&mut bo, &mut also_bo, &mut cy] {
        assert_eq!(player.push("chat.message").await?, told);
    }
    let (status, history) = cy.account.get(&format!("/chat/{room}/history")).await?;
    assert_eq!((status, &history["messages"][0]["content"]), (200, &json!("welcome")));

    // Put out at one gateway: both of Bo's connections, on both, are out of the channel and stay out.
    let kick = format!("{path}/members/{}", bo.id());
    assert_eq!(ada.account.delete(&kick).await?.0, 200);
    let mut me = Client::connect(&ws, ada.account.clone(), &[]).await?;
    speak_until_unheard(&mut me, &mut [&mut ada, &mut cy], &mut [&mut bo, &mut also_bo], &room).await?;
    for client in [&mut bo, &mut also_bo] {
        for kind in ["chat.join", "chat.send"] {
            let payload = json!({"channel_id": room, "content": "let me in"});
            assert_eq!(client.refused(kind, payload).await?, "not_authorized");
        }
    }
    assert_eq!(bo.account.get(&format!("/chat/{room}/history")).await?.0, 403);

    // Who comes back may hear again; who leaves does so everywhere, and who leads hands over.
    assert_eq!(bo.account.post(&format!("{path}/join"), json!({})).await?.0, 200);
    for client in [&mut bo, &mut also_bo] {
        ask_until(client, "chat.join", json!({"channel_id": room}), None).await?;
    }
    assert_eq!(ada.account.post(&format!("{path}/leave"), json!({})).await?.0, 200);
    speak_until_unheard(&mut cy, &mut [&mut bo, &mut also_bo], &mut [&mut ada], &room).await?;
    let (_, members) = cy.account.get(&format!("{path}/members")).await?;
    assert_eq!(
        (&members["members"][0]["role"], &members["members"][0]["player_id"]),
        (&json!("owner"), &json!(cy.id()))
    );
    cluster.stop().await
}

#[tokio::test]
async fn a_notification_is_pushed_on_every_node_and_waits_for_who_is_away() -> anyhow::Result<()> {
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).start().await?;
    let ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    let (first, second) = (cluster.gateway(0), cluster.gateway(1));
    let first_ws = first.ws.context("ws")?;
    let mut also_bo = Client::connect(&first_ws, bo.account.clone(), &[]).await?;
    assert_eq!(bo.connected["unread"], 0);

    assert_eq!(ada.account.post("/friends", json!({"friend_id": bo.id()})).await?.0, 200);
    let told = bo.push("notification.new").await?;
    assert_eq!((&told["type"], &told["content"]["from_player_id"]), (&json!("friend_request"), &json!(ada.id())));
    assert!(told["sent_at"].is_i64(), "{told}");
    assert_eq!(also_bo.push("notification.new").await?, told);

    // Cy is away, and finds it when he comes, at any node; read, it waits no longer.
    let cy = Account::register(&cluster.http, first.http.as_deref().context("http")?, "cy").await?;
    assert_eq!(ada.account.post("/friends", json!({"friend_id": cy.player_id})).await?.0, 200);
    let here = Client::connect(second.ws.as_deref().context("ws")?, cy.clone(), &[]).await?;
    assert_eq!(here.connected["unread"], 1);
    let (_, list) = cy.at(second.http.as_deref().context("http")?).get("/notifications?read=false").await?;
    let notice = list["notifications"][0]["id"].as_str().context("id")?.to_owned();
    assert_eq!(cy.put(&format!("/notifications/{notice}/read"), json!({})).await?.0, 200);
    let again = Client::connect(&first_ws, cy, &[]).await?;
    assert_eq!(again.connected["unread"], 0);
    cluster.stop().await
}

#[tokio::test]
async fn a_block_ends_messages_and_presence_on_both_sides() -> anyhow::Result<()> {
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).set("limits.frames_per_second", 0).start().await?;
    let mut ada = cluster.player_with(0, "ada", &["presence"]).await?;
    let mut bo = cluster.player_with(1, "bo", &["presence"]).await?;
    assert_eq!(ada.account.post("/friends", json!({"friend_id": bo.id()})).await?.0, 200);
    assert_eq!(bo.account.put(&format!("/friends/{}", ada.id()), json!({"status": "accepted"})).await?.0, 200);
    let (ada_id, bo_id) = (ada.id().to_owned(), bo.id().to_owned());
    ada.push_where("presence.changed", |p| p["player_id"] == bo_id.as_str() && p["status"] == "online").await?;
    bo.push_where("presence.changed", |p| p["player_id"] == ada_id.as_str() && p["status"] == "online").await?;
    ada.call("dm.send", json!({"recipient_id": bo_id, "content": "hi"})).await?;
    assert_eq!(bo.push("dm.message").await?["content"], "hi");

    assert_eq!(bo.account.put(&format!("/friends/{ada_id}"), json!({"status": "blocked"})).await?.0, 200);
    ask_until(&mut ada, "dm.send", json!({"recipient_id": bo_id, "content": "?"}), Some("blocked")).await?;
    ask_until(&mut bo, "dm.send", json!({"recipient_id": ada_id, "content": "?"}), Some("blocked")).await?;
    ada.push_where("presence.changed", |p| p["player_id"] == bo_id.as_str() && p["status"] == "offline").await?;
    bo.push_where("presence.changed", |p| p["player_id"] == ada_id.as_str() && p["status"] == "offline").await?;
    cluster.stop().await
}

#[tokio::test]
async fn an_invitation_brings_a_player_into_a_closed_group_from_any_node() -> anyhow::Result<()> {
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    let (_, group) = ada.account.post("/groups", json!({"name": "Guild"})).await?;
    let id = group["id"].as_str().context("id")?.to_owned();
    let invite = json!({"group_id": id, "player_id": bo.id()});

    assert_eq!(bo.refused("groups.accept", json!({"group_id": id})).await?, "not_invited");
    assert_eq!(bo.refused("groups.invite", invite.clone()).await?, "not_authorized");
    assert_eq!(ada.refused("groups.invite", json!({"group_id": id, "player_id": "nobody"})).await?, "player_not_found");
    assert_eq!(ada.refused("groups.invite", json!({"player_id": bo.id()})).await?, "missing_field");
    let invited = ada.call("groups.invite", invite.clone()).await?;
    assert_eq!((&invited["group_id"], &invited["player_id"]), (&json!(id), &json!(bo.id())));
    let told = bo.push_where("notification.new", |n| n["type"] == "group_invite").await?;
    assert_eq!((&told["content"]["group_id"], &told["expires_at"]), (&json!(id), &invited["expires_at"]));
    assert_eq!(bo.call("groups.decline", json!({"group_id": id})).await?["group_id"], json!(id));
    let (_, mine) = bo.account.get("/notifications").await?;
    assert_eq!(mine["notifications"], json!([]), "withdrawn with the invitation");

    ada.call("groups.invite", invite).await?;
    assert_eq!(bo.call("groups.accept", json!({"group_id": id})).await?["group_id"], json!(id));
    let room = format!("room:{id}");
    ask_until(&mut bo, "chat.join", json!({"channel_id": room}), None).await?;
    let (_, mine) = bo.account.get("/players/me/groups").await?;
    assert_eq!((&mine["groups"][0]["id"], &mine["groups"][0]["role"]), (&json!(id), &json!("member")));

    // What the group announces reaches them, once a minute.
    let path = format!("/groups/{id}/announcements");
    assert_eq!(ada.account.post(&path, json!({"content": "Raid at nine"})).await?.0, 200);
    let told = bo.push_where("notification.new", |n| n["type"] == "group_announcement").await?;
    assert_eq!(told["content"]["text"], "Raid at nine");
    let (status, refused) = ada.account.post(&path, json!({"content": "And ten"})).await?;
    assert_eq!((status, &refused["retry_after"]), (429, &json!(60)));
    cluster.stop().await
}

#[tokio::test]
async fn what_is_read_on_one_connection_is_read_on_the_others() -> anyhow::Result<()> {
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).start().await?;
    let ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    let first = cluster.gateway(0);
    let mut also_bo = Client::connect(first.ws.as_deref().context("ws")?, bo.account.clone(), &[]).await?;
    assert_eq!(ada.account.post("/friends", json!({"friend_id": bo.id()})).await?.0, 200);
    let told = bo.push("notification.new").await?;
    cluster.ctl(&["notify", "send", "--to", bo.id(), "--type", "news", "--subject", "Hi", "--watch"]).await?;
    let news = bo.push_where("notification.new", |n| n["type"] == "news").await?;

    let (status, read) = bo.account.put("/notifications/read", json!({"up_to": told["id"]})).await?;
    assert_eq!((status, &read), (200, &json!({"marked": 1, "unread": 1})));
    let heard = also_bo.push("notification.read").await?;
    assert_eq!(heard, json!({"up_to": {"id": told["id"]}, "unread": 1}));
    let path = format!("/notifications/{}/read", news["id"].as_str().context("id")?);
    assert_eq!(bo.account.put(&path, json!({})).await?.0, 200);
    assert_eq!(also_bo.push("notification.read").await?, json!({"id": news["id"], "unread": 0}));
    let again = Client::connect(first.ws.as_deref().context("ws")?, bo.account.clone(), &[]).await?;
    assert_eq!(again.connected["unread"], 0);
    cluster.stop().await
}

/// Status and `Retry-After` of a player's list of friends.
async fn friends(account: &Account) -> anyhow::Result<(u16, Option<String>)> {
    looked(account, "/friends").await
}

async fn looked(account: &Account, path: &str) -> anyhow::Result<(u16, Option<String>)> {
    let request = account.http.get(format!("{}/api/v1{path}", account.base)).bearer_auth(&account.access_token);
    let response = request.send().await?;
    let wait = response.headers().get("retry-after").and_then(|wait| wait.to_str().ok()).map(str::to_owned);
    Ok((response.status().as_u16(), wait))
}

/// A social service that is started while the cluster runs.
fn another_social_service(cluster: &Cluster) -> anyhow::Result<Child> {
    let listen = ["--set", "grpc.listen=127.0.0.1:0", "--set", "metrics.listen=127.0.0.1:0"];
    let child = Command::new(env!("CARGO_BIN_EXE_asobi"))
        .args(["social-service", "--node-id", "social-late", "--database-url", &cluster.database.url])
        .args(listen)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

#[tokio::test]
async fn without_a_social_service_its_calls_are_refused_at_once_and_all_else_goes_on() -> anyhow::Result<()> {
    let cluster =
        Cluster::new().match_hosts(1).matchmakers(1).set("social.timeout_ms", 200).test_games().start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(0, "bo").await?;
    assert_eq!(friends(&ada.account).await?.0, 200);
    for player in [&mut ada, &mut bo] {
        player.call("matchmaker.add", json!({"mode": "duel"})).await?;
    }
    for player in [&mut ada, &mut bo] {
        player.push("match.matched").await?;
    }
    let social = cluster.processes("social_services").pop().context("a social service")?;

    // Stopped, it takes calls and answers none: soon nobody waits for it any more.
    cluster.signal(&social, nix::sys::signal::Signal::SIGSTOP)?;
    let gateway = cluster.gateway(0);
    let refused = async || anyhow::Ok(cluster.metric(&gateway, "asobi_rest_social_refused_total").await? > 0.0);
    let mut calls = 0;
    while !refused().await? {
        let (status, wait) = friends(&ada.account).await?;
        assert_eq!((status, wait.as_deref()), (503, Some("1")));
        calls += 1;
        ensure!(calls < 1_000, "it is still waited for");
    }
    cluster.signal(&social, nix::sys::signal::Signal::SIGCONT)?;
    ada.account.get_until("/friends", |_| true).await?;

    // Killed, the same; what needs no social service does not notice.
    cluster.kill(&social).await?;
    for path in ["/friends", "/groups", "/groups/invites", "/players/me/groups", "/notifications"] {
        let (status, wait) = looked(&ada.account, path).await?;
        assert_eq!((status, wait.as_deref()), (503, Some("1")), "{path}");
    }
    let group = "0190a0a0-0000-7000-8000-000000000000";
    assert_eq!(ada.refused("groups.accept", json!({"group_id": group})).await?, "not_ready");
    for n in 1..=3 {
        ada.send("match.input", json!({"n": n})).await?;
    }
    let ada_id = ada.id().to_owned();
    bo.push_where("match.state", |s| s["players"][&ada_id]["count"] == 3).await?;
    for player in [&mut ada, &mut bo] {
        player.call("chat.join", json!({"channel_id": "global:lobby"})).await?;
    }
    ada.call("chat.send", json!({"channel_id": "global:lobby", "content": "still"})).await?;
    assert_eq!(bo.push("chat.message").await?["content"], "still");
    ada.call("dm.send", json!({"recipient_id": bo.id(), "content": "here"})).await?;
    assert_eq!(bo.push("dm.message").await?["content"], "here");
    assert_eq!(ada.call("presence.update", json!({"status": "waiting"})).await?["status"], "waiting");

    let late = another_social_service(&cluster)?;
    ada.account.get_until("/friends", |_| true).await?;
    // It has only begun, and is given no more time than any other.
    until("a group of the late one's", async || {
        Ok(ada.account.post("/groups", json!({"name": "Guild"})).await?.0 == 200)
    })
    .await?;
    drop(late);
    cluster.stop().await
}
