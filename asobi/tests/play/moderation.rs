//! What moderators do to players and messages, over real processes: each order is given to one node and holds on all of them.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::support::{Client, Cluster, rest::Account, until};

const LOBBY: &str = "global:lobby";

async fn ctl(cluster: &Cluster, args: &[&str]) -> anyhow::Result<Value> {
    let args: Vec<&str> = ["--json"].into_iter().chain(args.iter().copied()).collect();
    Ok(serde_json::from_str(&cluster.ctl(&args).await?)?)
}

/// The answer to a message, sent until it is of that type.
async fn say_until(client: &mut Client, kind: &str) -> anyhow::Result<Value> {
    let mut answer = Value::Null;
    until(&format!("a message is answered by {kind}"), async || {
        answer = client.ask("chat.send", json!({"channel_id": LOBBY, "content": "hello"})).await?;
        Ok(answer["type"] == kind)
    })
    .await?;
    Ok(answer["payload"].clone())
}

#[tokio::test]
async fn mutes_words_and_deletions_hold_on_every_gateway() -> anyhow::Result<()> {
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).set("limits.frames_per_second", 0).start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    for player in [&mut ada, &mut bo] {
        player.call("chat.join", json!({"channel_id": LOBBY})).await?;
    }

    // A message is deleted while both look at it.
    let sent = bo.call("chat.send", json!({"channel_id": LOBBY, "content": "buy gold"})).await?;
    assert_eq!(ada.push("chat.message").await?["content"], "buy gold");
    let seq = sent["seq"].to_string();
    let (status, report) = ada
        .account
        .post("/reports", json!({"channel_id": LOBBY, "seq": sent["seq"], "kind": "spam", "note": "ad"}))
        .await?;
    assert_eq!((status, &report["player_id"], &report["state"]), (200, &json!(bo.id()), &json!("open")), "{report}");
    let deleted = ctl(&cluster, &["chat", "delete", LOBBY, "--seq", &seq]).await?;
    assert_eq!(deleted["message_id"], sent["message_id"]);
    for player in [&mut ada, &mut bo] {
        let told = player.push("chat.deleted").await?;
        assert_eq!(told, json!({"channel_id": LOBBY, "message_id": sent["message_id"], "seq": sent["seq"]}));
        let (status, history) = player.account.get(&format!("/chat/{LOBBY}/history")).await?;
        let message = &history["messages"][0];
        assert_eq!((status, &message["content"], &message["deleted"]), (200, &json!(""), &json!(true)), "{history}");
    }
    let listed = ctl(&cluster, &["reports", "list"]).await?;
    assert_eq!((&listed[0]["id"], &listed[0]["message"]["content"]), (&report["id"], &json!("buy gold")), "{listed}");

    // Its sender is muted: in the channel, by whichever gateway, and in direct messages by REST.
    ctl(&cluster, &["player", "mute", bo.id(), "--for", "1h", "--reason", "ads"]).await?;
    let refused = say_until(&mut bo, "error").await?;
    assert_eq!((&refused["reason"], &refused["error"]["code"]), (&json!("muted"), &json!("forbidden")));
    let (status, refused) = bo.account.post("/dm", json!({"recipient_id": ada.id(), "content": "psst"})).await?;
    assert_eq!((status, &refused["error"]["details"]["reason"]), (403, &json!("muted")), "{refused}");
    assert!(refused["error"]["details"]["until"].is_string(), "{refused}");
    assert_eq!(bo.call("presence.update", json!({"status": "quiet"})).await?["status"], "quiet");
    let mutes = ctl(&cluster, &["player", "mutes"]).await?;
    assert_eq!((mutes.as_array().map(Vec::len), &mutes[0]["player_id"]), (Some(1), &json!(bo.id())), "{mutes}");
    ctl(&cluster, &["player", "unmute", bo.id()]).await?;
    say_until(&mut bo, "chat.sent").await?;
    let id = report["id"].as_str().context("an id")?;
    let resolved = ctl(&cluster, &["reports", "resolve", id, "muted"]).await?;
    assert_eq!((&resolved["state"], &resolved["resolution"]), (&json!("resolved"), &json!("muted")));

    // A word is refused by both gateways, and not by either when it is taken out.
    ctl(&cluster, &["words", "add", "Hello", "--refuse", "--whole"]).await?;
    for player in [&mut ada, &mut bo] {
        assert_eq!(say_until(player, "error").await?["reason"], "content_refused");
    }
    groups_are_judged(&cluster, &ada.account).await?;
    ctl(&cluster, &["words", "rm", "hello"]).await?;
    say_until(&mut ada, "chat.sent").await?;

    // What cannot be reported. Tries count against a player's bound, of which each gateway has its share.
    let (by_ada, by_bo) = (&ada.account, &bo.account);
    for (by, body, expected) in [
        (by_ada, json!({"kind": "spam"}), 400),
        (by_ada, json!({"player_id": ada.id(), "kind": "spam"}), 422),
        (by_ada, json!({"player_id": bo.id(), "kind": "Spam"}), 422),
        (by_bo, json!({"channel_id": "room:01a20330-d6bb-715b-a470-2b9fab0c7f93", "seq": 1, "kind": "spam"}), 403),
        (by_bo, json!({"player_id": "01a20330-d6bb-715b-a470-2b9fab0c7f93", "kind": "spam"}), 404),
    ] {
        let (status, answer) = by.post("/reports", body.clone()).await?;
        assert_eq!(status, expected, "{body}: {answer}");
    }
    cluster.stop().await
}

/// What a group is called and says of itself goes by the words, too; and what operators do to groups.
async fn groups_are_judged(cluster: &Cluster, founder: &Account) -> anyhow::Result<()> {
    let (status, refused) = founder.post("/groups", json!({"name": "hello owls"})).await?;
    assert_eq!((status, &refused["error"]["code"]), (422, &json!("validation_failed")), "{refused}");
    ctl(cluster, &["words", "add", "badger"]).await?;
    let mut group = Value::Null;
    until("the word is masked", async || {
        group = founder.post("/groups", json!({"name": "Badger owls", "description": "Night"})).await?.1;
        Ok(group["name"] == "****** owls")
    })
    .await?;
    let id = group["id"].as_str().context("an id")?;
    let path = format!("/groups/{id}");
    let (status, refused) = founder.put(&path, json!({"description": "say Hello"})).await?;
    assert_eq!((status, &refused["error"]["code"]), (422, &json!("validation_failed")), "{refused}");
    assert_eq!(founder.put(&path, json!({"description": ""})).await?.0, 200, "there is nothing to be judged");
    ctl(cluster, &["words", "rm", "badger"]).await?;

    let listed = ctl(cluster, &["group", "list", "******"]).await?;
    assert_eq!((&listed[0]["group_id"], &listed[0]["member_count"]), (&json!(id), &json!(1)), "{listed}");
    let shown = ctl(cluster, &["group", "show", id]).await?;
    let owner = json!({"group_id": id, "player_id": founder.player_id, "role": "owner"});
    let first = &shown["members"][0];
    assert!(owner.as_object().into_iter().flatten().all(|(key, value)| first[key] == *value), "{shown}");
    assert!(cluster.ctl(&["group", "show", id]).await?.contains("****** owls"));
    ctl(cluster, &["group", "delete", id]).await?;
    assert_eq!(founder.get(&path).await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn a_kick_an_export_and_an_erasure_reach_every_gateway() -> anyhow::Result<()> {
    let cluster = Cluster::new().match_hosts(1).matchmakers(1).start().await?;
    let mut here = cluster.player(0, "ada").await?;
    let there = cluster.gateway(1);
    let mut other = Client::connect(there.ws.as_deref().context("ws")?, here.account.clone(), &[]).await?;
    let bo = cluster.player(1, "bo").await?;
    let id = here.id().to_owned();
    ctl(&cluster, &["player", "kick", &id, "--reason", "calm down"]).await?;
    for socket in [&mut here, &mut other] {
        assert_eq!(socket.push("session.kicked").await?["reason"], "calm down");
        assert_eq!(socket.closing().await?, (4003, "kicked".into()));
    }
    // The same token is good for another socket.
    let mut again = Client::connect(there.ws.as_deref().context("ws")?, here.account.clone(), &[]).await?;
    again.call("dm.send", json!({"recipient_id": bo.id(), "content": "a secret"})).await?;
    again.call("chat.send", json!({"channel_id": LOBBY, "content": "in the open"})).await?;

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("ada.jsonl");
    let done = ctl(&cluster, &["player", "export", &id, "--out", file.to_str().context("a path")?]).await?;
    let text = std::fs::read_to_string(&file)?;
    let records: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let of = |kind: &str| records.iter().filter(|r| r["kind"] == kind).map(|r| &r["data"]).collect::<Vec<_>>();
    assert_eq!(
        (of("account")[0]["id"].as_str(), of("direct_message")[0]["content"].as_str()),
        (Some(&*id), Some("a secret"))
    );
    assert_eq!(of("message")[0]["content"], "in the open");
    assert!(!of("login").is_empty() && of("audit").iter().any(|entry| entry["action"] == "PlayerService/KickPlayer"));
    let end = records.last().context("an end")?;
    assert_eq!((&end["kind"], end["data"]["records"].as_u64()), (&json!("end"), Some(records.len() as u64 - 1)));
    assert_eq!(done["records"], end["data"]["records"]);
    for secret in ["password_hash", "secret_hash", "token_hash"] {
        assert!(!text.contains(secret), "{secret}");
    }

    ensure!(cluster.ctl(&["player", "erase", &id]).await.is_err(), "nobody has confirmed");
    ctl(&cluster, &["player", "erase", &id, "--yes"]).await?;
    assert_eq!(again.push("session.revoked").await?["reason"], "erased");
    assert_eq!(again.closing().await?, (1008, "session_revoked".into()));
    let (status, _) = bo.account.get(&format!("/players/{id}")).await?;
    assert_eq!(status, 404);
    assert!(ctl(&cluster, &["player", "export", &id]).await.is_err());
    cluster.stop().await
}

#[tokio::test]
async fn what_a_cut_off_gateway_was_not_told_of_holds_when_it_is_back() -> anyhow::Result<()> {
    let cluster =
        Cluster::new().match_hosts(1).matchmakers(1).proxied_nodes(&["gateway-1"]).set("limits.frames_per_second", 0);
    let cluster = cluster.start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    for player in [&mut ada, &mut bo] {
        player.call("chat.join", json!({"channel_id": LOBBY})).await?;
    }
    let sent = bo.call("chat.send", json!({"channel_id": LOBBY, "content": "buy gold"})).await?;
    bo.push("chat.message").await?;
    let proxy = cluster.proxy("gateway-1");
    proxy.black_hole();
    ctl(&cluster, &["chat", "delete", LOBBY, "--seq", &sent["seq"].to_string()]).await?;
    ctl(&cluster, &["player", "mute", bo.id()]).await?;
    assert_eq!(ada.push("chat.deleted").await?["seq"], sent["seq"]);
    proxy.heal_by_reset();
    assert_eq!(bo.push("chat.deleted").await?["message_id"], sent["message_id"]);
    say_until(&mut bo, "error").await?;
    cluster.stop().await
}
