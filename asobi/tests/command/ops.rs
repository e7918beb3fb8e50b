//! `asobi ctl` and `asobi top` on a cluster with players in it: matches are seen, watched, moved and ended, channels followed.

use std::process::Output;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{
    child::{Running, output, until},
    support::{Client, Cluster},
};

async fn run(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Output> {
    output(arguments, &[("ASOBI_DATABASE_URL", &cluster.database.url)]).await
}

/// What is printed with `--json` when all is well.
async fn answer(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Value> {
    let output = run(cluster, &[arguments, &["--json"]].concat()).await?;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

async fn printed(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<String> {
    let output = run(cluster, arguments).await?;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

async fn refusal(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<String> {
    let output = run(cluster, arguments).await?;
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A stream of `ctl` with `--json`, and what it has said so far.
fn follow(cluster: &Cluster, arguments: &[&str], dir: &tempfile::TempDir) -> anyhow::Result<Running> {
    let flags = ["--json", "--database-url", &cluster.database.url];
    Running::start(&[&["ctl"], arguments, &flags].concat(), dir.path())
}

fn objects(running: &Running) -> Vec<Value> {
    running.said().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

async fn duel(ada: &mut Client, bo: &mut Client) -> anyhow::Result<String> {
    for player in [&mut *ada, &mut *bo] {
        player.call("matchmaker.add", json!({"mode": "duel"})).await?;
    }
    bo.push("match.matched").await?;
    Ok(ada.push("match.matched").await?["match_id"].as_str().context("an id")?.to_owned())
}

#[tokio::test]
async fn a_match_is_seen_watched_over_its_move_and_ended() -> anyhow::Result<()> {
    let cluster = Cluster::new().gateways(1).match_hosts(2).matchmakers(1).test_games().start().await?;
    let (mut ada, mut bo) = (cluster.player(0, "ada").await?, cluster.player(0, "bo").await?);
    let id = duel(&mut ada, &mut bo).await?;
    let (ada_id, bo_id) = (ada.id().to_owned(), bo.id().to_owned());

    let listed = answer(&cluster, &["ctl", "matches", "--mode", "duel"]).await?;
    assert_eq!(
        (&listed[0]["match_id"], &listed[0]["state"], &listed[0]["players"]),
        (&json!(id), &json!("running"), &json!(2))
    );
    assert_eq!(answer(&cluster, &["ctl", "matches", "--player", &ada_id]).await?.as_array().map(Vec::len), Some(1));
    assert_eq!(answer(&cluster, &["ctl", "matches", "--state", "failed"]).await?, json!([]));
    let from = listed[0]["host_node"].as_str().context("a host")?.to_owned();
    let to = if from == "match-0" { "match-1" } else { "match-0" };

    ada.send("match.input", json!({"n": 7})).await?;
    bo.push_where("match.state", |state| state["players"][&ada_id]["last"] == 7).await?;
    let shown = answer(&cluster, &["ctl", "match", "show", &id]).await?;
    let running = &shown["running"];
    assert_eq!((&running["node_id"], &running["phase"]), (&json!(from), &json!("running")), "{shown}");
    assert_eq!(running["state"]["players"][&ada_id]["last"], 7, "all of the state: {shown}");
    assert_eq!(running["seats"].as_array().map(Vec::len), Some(2), "{shown}");
    let theirs = answer(&cluster, &["ctl", "match", "show", &id, "--player", &bo_id]).await?;
    assert_eq!(theirs["running"]["state"]["you"], json!(bo_id), "what one of them sees: {theirs}");
    until("its seats and a checkpoint, for people", async || {
        let said = printed(&cluster, &["ctl", "match", "show", &id]).await?;
        Ok(said.contains("1 connected") && said.contains("number "))
    })
    .await?;

    let dir = tempfile::tempdir()?;
    let mut watch = follow(&cluster, &["match", "watch", &id, "--rate", "10"], &dir)?;
    until("a state that is watched", async || Ok(objects(&watch).iter().any(|seen| seen["node_id"] == from.as_str())))
        .await?;
    let moved = answer(&cluster, &["ctl", "match", "move", &id, to]).await?;
    assert_eq!((&moved["from"], &moved["to"], &moved["epoch"]), (&json!(from), &json!(to), &json!(2)));
    until("a state from the other host", async || {
        let seen = objects(&watch);
        let after = seen.iter().skip_while(|seen| seen["kind"] != "moved");
        Ok(after.clone().next().is_some_and(|moved| moved["node_id"] == to)
            && after.into_iter().any(|seen| seen["kind"] == "state" && seen["node_id"] == to))
    })
    .await
    .with_context(|| watch.said())?;
    // Where it is already it need not be moved; the old name does the same.
    assert_eq!(answer(&cluster, &["ctl", "move", &id, to]).await?["from"], to);
    assert!(refusal(&cluster, &["ctl", "match", "move", &id, "gateway-0"]).await?.contains("match-1"));

    let reason = ["ctl", "match", "end", &id, "--reason", "maintenance", "--result", r#"{"winner":"nobody"}"#];
    let ended = answer(&cluster, &reason).await?;
    let result = json!({"winner": "nobody", "reason": "ended_by_operator", "message": "maintenance"});
    assert_eq!((&ended["ended"], &ended["result"]), (&json!(true), &result), "{ended}");
    for player in [&mut ada, &mut bo] {
        assert_eq!(player.push("match.finished").await?["result"], result);
    }
    until("the end of the watch", async || Ok(watch.lives().is_err())).await?;
    let last = objects(&watch).pop().context("a last word")?;
    assert_eq!((&last["kind"], &last["state"], &last["result"]), (&json!("ended"), &json!("finished"), &result));
    assert_eq!(answer(&cluster, &["ctl", "match", "end", &id]).await?["ended"], false, "it was over");
    let over = answer(&cluster, &["ctl", "match", "show", &id]).await?;
    assert_eq!((&over["state"], &over["running"], &over["result"]), (&json!("finished"), &Value::Null, &result));

    let done: Vec<(String, Value)> = sqlx::query_as("SELECT action, detail FROM audit WHERE subject = $1 ORDER BY id")
        .bind(&id)
        .fetch_all(&cluster.database.pool)
        .await?;
    let actions: Vec<&str> = done.iter().map(|(action, _)| action.as_str()).collect();
    let expected = ["MoveMatch", "MoveMatch", "EndMatch", "EndMatch"].map(|name| format!("MatchService/{name}"));
    assert_eq!(actions, expected);
    assert_eq!(done[2].1, json!({"reason": "maintenance", "ended": true}));
    cluster.stop().await
}

#[tokio::test]
async fn a_channel_is_followed_while_two_talk_and_spoken_in() -> anyhow::Result<()> {
    let cluster = Cluster::new().gateways(2).match_hosts(0).matchmakers(0).start().await?;
    let (mut ada, mut bo) = (cluster.player(0, "ada").await?, cluster.player(1, "bo").await?);
    let lobby = "global:lobby";
    for player in [&mut ada, &mut bo] {
        player.call("chat.join", json!({"channel_id": lobby})).await?;
    }
    for n in 1..=5 {
        ada.call("chat.send", json!({"channel_id": lobby, "content": format!("before {n}")})).await?;
    }
    let dir = tempfile::tempdir()?;
    let mut tail = follow(&cluster, &["chat", "tail", lobby, "--last", "3"], &dir)?;
    let seqs = |tail: &Running| objects(tail).iter().filter_map(|said| said["seq"].as_i64()).collect::<Vec<_>>();
    until("the last three", async || Ok(seqs(&tail) == [3, 4, 5])).await?;
    for n in 0..20 {
        let (speaker, name) = if n % 2 == 0 { (&mut ada, "ada") } else { (&mut bo, "bo") };
        speaker.call("chat.send", json!({"channel_id": lobby, "content": format!("{name} {n}")})).await?;
    }
    let said = answer(&cluster, &["ctl", "chat", "send", lobby, "the server restarts at noon"]).await?;
    assert_eq!(said["seq"], 26, "{said}");
    let heard = bo.push_where("chat.message", |message| message["seq"] == 26).await?;
    assert_eq!(
        (&heard["sender_id"], &heard["content"]),
        (&json!("00000000-0000-0000-0000-000000000000"), &json!("the server restarts at noon"))
    );
    until("all of them, in order", async || Ok(seqs(&tail) == (3..=26).collect::<Vec<i64>>()))
        .await
        .with_context(|| tail.said())?;
    tail.lives()?;
    let history = answer(&cluster, &["ctl", "chat", "history", lobby, "--limit", "2"]).await?;
    assert_eq!((&history[0]["seq"], &history[1]["seq"]), (&json!(25), &json!(26)));
    assert!(refusal(&cluster, &["ctl", "chat", "send", "global:nowhere", "hello"]).await?.contains("global_channels"));
    let direct = format!("dm:{}:{}", ada.id().min(bo.id()), ada.id().max(bo.id()));
    assert!(refusal(&cluster, &["ctl", "chat", "send", &direct, "hello"]).await?.contains("two players"));
    cluster.stop().await
}

#[tokio::test]
async fn players_configurations_and_the_whole_cluster_are_seen() -> anyhow::Result<()> {
    let key = "a-key-that-nobody-shall-see";
    let cluster = Cluster::new().gateways(1).match_hosts(1).matchmakers(1).set("cluster.key", key).start().await?;
    let flag = format!("cluster.key={key}");
    let with_key = |arguments: &[&str]| -> Vec<String> {
        arguments.iter().copied().chain(["--set", flag.as_str()]).map(str::to_owned).collect()
    };
    let ask = async |arguments: &[&str]| {
        let arguments = with_key(arguments);
        answer(&cluster, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    let (ada, _anna) = (cluster.player(0, "ada").await?, cluster.player(0, "anna").await?);
    let mut bo = cluster.player(0, "bo").await?;

    let names = |players: &Value| -> Vec<String> {
        players.as_array().into_iter().flatten().filter_map(|p| Some(p["username"].as_str()?.to_owned())).collect()
    };
    let found = names(&ask(&["ctl", "players", "A"]).await?);
    assert!(found.len() == 2 && found.iter().all(|name| name.starts_with('a')), "{found:?}");
    assert_eq!(ask(&["ctl", "players", ada.id()]).await?[0]["player_id"], ada.id());
    assert_eq!(names(&ask(&["ctl", "players", "%"]).await?), Vec::<String>::new(), "no pattern");
    let shown = ask(&["ctl", "player", "show", ada.id()]).await?;
    assert_eq!((&shown["online"], &shown["sessions"][0]["node_id"]), (&json!(true), &json!("gateway-0")), "{shown}");
    assert!(!shown.to_string().contains("argon2"), "{shown}");
    bo.close().await;
    until("a player who went", async || {
        Ok(names(&ask(&["ctl", "players", "--offline"]).await?).iter().any(|name| name.starts_with("bo")))
    })
    .await?;

    let config = ask(&["ctl", "config", "match-0"]).await?;
    assert_eq!(config["node_id"], "match-0");
    let value = |key: &str| {
        let values = config["values"].as_array().into_iter().flatten();
        values.into_iter().find(|value| value["key"] == key).cloned().unwrap_or_default()
    };
    assert_eq!(value("cluster.key")["value"], "\"…\"");
    assert!(!config.to_string().contains(key), "{config}");
    assert!(value("node.id")["value"].to_string().contains("match-0"), "{config}");

    let top = ask(&["top", "--once", "--interval", "0.5"]).await?;
    let nodes = top["nodes"].as_array().context("nodes")?;
    assert!(nodes.len() == 4 && nodes.iter().all(|node| node["answers"] == true), "{top}");
    assert!(
        top["sessions"].as_f64().is_some_and(|n| n >= 2.0) && top["database_connections"].as_f64() > Some(0.0),
        "{top}"
    );
    assert!(top["notify_lag_seconds"].as_f64().is_some_and(|lag| lag > 0.0 && lag < 5.0), "{top}");
    let arguments = with_key(&["top", "--once"]);
    let picture = printed(&cluster, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    for node in ["gateway-0", "match-0", "matchmaker-0", "social-0", "NOTIFY lag"] {
        assert!(picture.contains(node), "{node} is not in\n{picture}");
    }
    let arguments = with_key(&["top"]);
    let said = refusal(&cluster, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    assert!(said.contains("--once"), "{said}");
    cluster.stop().await
}

#[tokio::test]
async fn shells_are_told_what_completes() -> anyhow::Result<()> {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = output(&["completion", shell], &[]).await?;
        let script = String::from_utf8(output.stdout)?;
        assert!(output.status.success() && script.contains("asobi") && script.len() > 1_000, "{shell}: {script}");
    }
    Ok(())
}
