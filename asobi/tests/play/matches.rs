use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Client, Cluster};

/// Both queue on their own gateway and are told the same match.
async fn matched(ada: &mut Client, bo: &mut Client, mode: &str) -> anyhow::Result<Value> {
    for player in [&mut *ada, &mut *bo] {
        let queued = player.call("matchmaker.add", json!({"mode": mode})).await?;
        assert_eq!((&queued["status"], &queued["players_needed"]), (&json!("pending"), &json!(2)), "{queued}");
    }
    let (a, b) = (ada.push("match.matched").await?, bo.push("match.matched").await?);
    assert_eq!(a["match_id"], b["match_id"]);
    let players: BTreeSet<_> = a["players"].as_array().expect("players").iter().filter_map(Value::as_str).collect();
    assert_eq!(players, BTreeSet::from([ada.id(), bo.id()]));
    assert_eq!(a["mode"], mode);
    Ok(a["match_id"].clone())
}

#[tokio::test]
async fn a_relayed_match_is_played_to_its_end_and_remembered() -> anyhow::Result<()> {
    let cluster = Cluster::new().test_games().start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    let match_id = matched(&mut ada, &mut bo, "duel").await?;

    // Each sees what the other does, through both gateways.
    let (ada_id, bo_id) = (ada.id().to_owned(), bo.id().to_owned());
    for n in 1..=5 {
        ada.send("match.input", json!({"n": n})).await?;
        bo.send("match.input", json!({"data": {"n": 10 * n}})).await?;
    }
    let state = ada.push_where("match.state", |s| s["players"][&bo_id]["last"] == 50).await?;
    assert_eq!((&state["you"], &state["players"][&bo_id]["count"]), (&json!(ada_id), &json!(5)));
    bo.push_where("match.state", |s| s["players"][&ada_id]["count"] == 5).await?;

    // A broadcast reaches both, a message one, under its old name too.
    bo.send("match.input", json!({"shout": "hey", "whisper": "psst"})).await?;
    assert_eq!(ada.push("match.shouted").await?, json!({"by": bo_id, "text": "hey"}));
    bo.push("match.shouted").await?;
    assert_eq!(bo.push("module.message").await?, json!({"module": "lua", "message": {"heard": "psst"}}));
    bo.push("game.message").await?;

    // One match at a time.
    assert_eq!(ada.refused("matchmaker.add", json!({"mode": "duel"})).await?, "already_in_match");

    bo.send("match.input", json!({"finish": true})).await?;
    let end = ada.push("match.finished").await?;
    assert_eq!(end, json!({"match_id": match_id, "result": {"winner": bo_id, "counts": 7}}));
    assert_eq!(bo.push("match.finished").await?, end);

    // What the players were told is in the rows already, on any node.
    let id = match_id.as_str().expect("id");
    let (status, row) = ada.account.get(&format!("/matches/{id}")).await?;
    assert_eq!((status, &row["status"], &row["result"]), (200, &json!("finished"), &end["result"]), "{row}");
    let board = ada.account.get_until("/leaderboards/duel", |b| b["entries"][0]["rank"] == 1).await?;
    assert_eq!(
        (&board["entries"][0]["player_id"], &board["entries"][0]["score"]),
        (&json!(bo_id), &json!(7)),
        "{board}"
    );

    // And both may play again.
    matched(&mut ada, &mut bo, "duel").await?;
    cluster.stop().await
}

#[tokio::test]
async fn players_who_can_migrate_play_on_the_host_itself() -> anyhow::Result<()> {
    let cluster = Cluster::new().test_games().start().await?;
    let capabilities = ["migrate", "presence"];
    let mut ada = cluster.player_with(0, "ada", &capabilities).await?;
    let mut bo = cluster.player_with(1, "bo", &capabilities).await?;
    ada.account.post("/friends", json!({"friend_id": bo.id()})).await?;
    bo.account.put(&format!("/friends/{}", ada.id()), json!({"status": "accepted"})).await?;
    ada.push_where("presence.changed", |p| p["player_id"] == bo.id() && p["status"] == "online").await?;
    let match_id = matched(&mut ada, &mut bo, "duel").await?;

    let offer = ada.push("match.migrate").await?;
    assert_eq!((&offer["match_id"], &offer["reason"]), (&match_id, &json!("matched")));
    let host = cluster.node(offer["node_id"].as_str().expect("node_id")).expect("the host is a node");
    assert_eq!(offer["url"], host.ws.as_deref().expect("ws"));
    assert!(
        !offer["url"].as_str().expect("url").contains(offer["token"].as_str().expect("token")),
        "the token is no part of the URL"
    );
    ada.forget();
    let account = ada.account.clone();
    let mut ada = ada.migrate(&offer, &capabilities).await?;
    assert_eq!((&ada.connected["match_id"], &ada.connected["node_id"]), (&match_id, &offer["node_id"]));

    // The token is single use.
    let mut thief = Client::open(host.ws.as_deref().expect("ws"), account).await?;
    assert_eq!(thief.refused("session.connect", json!({"migration_token": offer["token"]})).await?, "invalid_token");

    // The match goes on without another word, with one player local and one relayed.
    let (ada_id, bo_id) = (ada.id().to_owned(), bo.id().to_owned());
    ada.send("match.input", json!({"n": 3})).await?;
    bo.push_where("match.state", |s| s["players"][&ada_id]["last"] == 3).await?;
    bo.send("match.input", json!({"n": 4})).await?;
    ada.push_where("match.state", |s| s["players"][&bo_id]["last"] == 4).await?;

    // Chat and presence are the same from there.
    for player in [&mut ada, &mut bo] {
        player.call("chat.join", json!({"channel_id": "global:lobby"})).await?;
    }
    ada.call("chat.send", json!({"channel_id": "global:lobby", "content": "from the host"})).await?;
    assert_eq!(bo.push("chat.message").await?["content"], "from the host");
    bo.call("presence.update", json!({"status": "playing"})).await?;
    ada.push_where("presence.changed", |p| p["player_id"] == bo_id.as_str() && p["status"] == "playing").await?;

    // Bo follows; the end reaches both there.
    let offer = bo.push("match.migrate").await?;
    let mut bo = bo.migrate(&offer, &capabilities).await?;
    bo.send("match.input", json!({"finish": true})).await?;
    assert_eq!(ada.push("match.finished").await?["result"]["winner"], bo_id.as_str());
    bo.push("match.finished").await?;

    // They stay where they are, and the next match may be on another host: then they are relayed from here.
    let again = matched(&mut ada, &mut bo, "duel").await?;
    assert_ne!(again, match_id);
    ada.send("match.input", json!({"n": 9})).await?;
    bo.push_where("match.state", |s| s["players"][&ada_id]["last"] == 9).await?;
    cluster.stop().await
}

#[tokio::test]
async fn simultaneous_quick_players_land_in_one_match() -> anyhow::Result<()> {
    let cluster = Cluster::new().test_games().start().await?;
    let mut players = Vec::new();
    for gateway in [0, 1, 1] {
        players.push(cluster.player(gateway, "quick").await?);
    }
    let calls = players.iter_mut().enumerate().map(|(n, player)| async move {
        let joined =
            player.call("match.find_or_create", json!({"mode": "crowd", "ctx": {"name": format!("p{n}")}})).await?;
        anyhow::Ok(joined["match_id"].clone())
    });
    let ids = futures_util::future::try_join_all(calls).await?;
    assert!(ids.iter().all(|id| id == &ids[0]), "one match: {ids:?}");

    // It is full now, and shown so; the next caller founds another.
    let mut late = cluster.player(0, "late").await?;
    assert_eq!(late.refused("match.join", json!({"match_id": ids[0]})).await?, "match_full");
    assert_eq!(
        players[0].call("match.join", json!({"match_id": ids[0]})).await?["player_count"],
        3,
        "a member joins again"
    );
    let second = late.call("match.find_or_create", json!({"mode": "crowd"})).await?;
    assert_ne!(second["match_id"], ids[0]);
    let seen = |list: &Value| {
        let mut counts: Vec<_> = list["matches"]
            .as_array()
            .map(|l| l.iter().filter_map(|m| m["player_count"].as_i64()).collect())
            .unwrap_or_default();
        counts.sort_unstable();
        counts
    };
    late.account.get_until("/matches/live?mode=crowd", |list| seen(list) == [1, 3]).await?;
    let open = late.call("match.list", json!({"mode": "crowd", "has_capacity": true})).await?;
    assert_eq!(open["matches"][0]["match_id"], second["match_id"], "{open}");

    // Leaving makes room; a refusal says the script's reason; a closed match is locked.
    assert_eq!(players[2].call("match.leave", json!({})).await?, json!({"success": true}));
    let mut guest = cluster.player(1, "guest").await?;
    let refusal = guest.ask("match.join", json!({"match_id": ids[0], "ctx": {"code": "wrong"}})).await?;
    assert_eq!(refusal["payload"]["reason"], "join_refused", "{refusal}");
    assert_eq!(refusal["payload"]["error"]["details"]["refused_reason"], "wrong_code");
    let many: serde_json::Map<String, Value> = (0..9).map(|n| (n.to_string(), json!(n))).collect();
    assert_eq!(guest.refused("match.join", json!({"match_id": ids[0], "ctx": many})).await?, "join_ctx_too_many_keys");
    players[0].send("match.input", json!({"close": true})).await?;
    players[0].push_where("match.state", |s| s["inputs"] == 1).await?;
    assert_eq!(guest.refused("match.join", json!({"match_id": ids[0]})).await?, "match_locked");
    cluster.stop().await
}

#[tokio::test]
async fn a_script_that_misbehaves_harms_only_its_own_match() -> anyhow::Result<()> {
    let cluster = Cluster::new().gateways(1).match_hosts(1).matchmakers(1).test_games().start().await?;
    let mut bystander = cluster.player(0, "bystander").await?;
    bystander.call("match.find_or_create", json!({"mode": "crowd"})).await?;
    for cmd in ["error", "loop", "stubborn", "recurse", "memory"] {
        let mut player = cluster.player(0, cmd).await?;
        player.call("match.find_or_create", json!({"mode": "chaos"})).await?;
        player.send("match.input", json!({"cmd": cmd})).await?;
        let told = player
            .wait("an error or the end", |f| f["type"] == "module.error" || f["type"] == "match.finished")
            .await?;
        if told["type"] == "module.error" {
            assert_eq!(told["payload"]["callback"], "handle_input", "{told}");
        }
        bystander.forget();
        bystander.push("match.state").await?;
    }
    cluster.stop().await
}

#[tokio::test]
async fn the_arena_is_played_until_somebody_wins() -> anyhow::Result<()> {
    let cluster = Cluster::new().start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;
    let match_id = matched(&mut ada, &mut bo, "arena").await?;

    // Ada shoots at where she sees Bo, who runs about.
    let bo_id = bo.id().to_owned();
    let end = loop {
        let frame =
            ada.wait("a state or the end", |f| f["type"] == "match.state" || f["type"] == "match.finished").await?;
        if frame["type"] == "match.finished" {
            break frame["payload"].clone();
        }
        let target = &frame["payload"]["players"][&bo_id];
        ada.send("match.input", json!({"aim_x": target["x"], "aim_y": target["y"], "shoot": true})).await?;
        bo.send("match.input", json!({"move_x": 1, "nonsense": [null]})).await?;
    };
    assert_eq!((&end["match_id"], &end["result"]["winner"]), (&match_id, &json!(ada.id())));
    assert_eq!(bo.push("match.finished").await?, end);
    let board = bo.account.get_until("/leaderboards/arena", |b| b["entries"][0]["rank"] == 1).await?;
    assert_eq!(board["entries"][0]["player_id"], ada.id(), "{board}");
    cluster.stop().await
}

#[tokio::test]
async fn tictactoe_answers_every_move_and_refuses_wrong_ones() -> anyhow::Result<()> {
    let cluster = Cluster::new().gateways(1).match_hosts(1).matchmakers(1).start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(0, "bo").await?;
    matched(&mut ada, &mut bo, "tictactoe").await?;
    let turn = ada.push("match.state").await?["turn"].clone();
    let (first, second) = if turn == ada.id() { (&mut ada, &mut bo) } else { (&mut bo, &mut ada) };
    second.send("match.input", json!({"cell": 1})).await?;
    second.push("module.message").await?;
    for (n, cell) in [1_usize, 4, 2, 5].into_iter().enumerate() {
        let player = if n % 2 == 0 { &mut *first } else { &mut *second };
        player.send("match.input", json!({"cell": cell})).await?;
        player.push_where("match.state", |s| s["board"][cell - 1] != "").await?;
    }
    first.send("match.input", json!({"cell": 3})).await?;
    let end = first.push("match.finished").await?;
    assert_eq!(end["result"]["winner"], first.id());
    assert_eq!(second.push("match.finished").await?, end);
    cluster.stop().await
}
