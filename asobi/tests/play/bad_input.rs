use serde_json::json;

use crate::support::{Client, Cluster};

#[tokio::test]
async fn malformed_frames_get_their_error_and_the_socket_stays() -> anyhow::Result<()> {
    let cluster = Cluster::new().gateways(1).match_hosts(1).matchmakers(1).start().await?;
    let gateway = cluster.gateway(0);
    let ws = gateway.ws.as_deref().expect("ws");
    let account = cluster.player(0, "ada").await?.account;
    let mut socket = Client::open(ws, account.clone()).await?;

    // Before the session.
    assert!(socket.call("session.heartbeat", json!({})).await?["ts"].as_i64().is_some());
    let early = socket.ask("chat.join", json!({"channel_id": "global:lobby"})).await?;
    assert_eq!(early["payload"]["reason"], "not_authenticated");
    assert_eq!(early["payload"]["error"]["code"], "unauthenticated");
    assert_eq!(socket.refused("session.connect", json!({"token": "nonsense"})).await?, "invalid_token");
    assert_eq!(socket.refused("nope.nope", json!({})).await?, "unknown_type");
    let connected = socket.call("session.connect", json!({"token": account.access_token})).await?;
    assert_eq!((&connected["player_id"], &connected["wire"]), (&json!(account.player_id), &json!("json")));

    // Frames that are none.
    for (text, reason) in [
        ("{\"type\":", "invalid_json"),
        ("[1]", "invalid_message"),
        ("{\"type\":5}", "invalid_message"),
        ("{\"payload\":{}}", "invalid_message"),
        ("{\"type\":\"match.input\",\"payload\":\"str\"}", "invalid_payload"),
    ] {
        socket.send_text(text.into()).await?;
        let error = socket.push("error").await?;
        assert_eq!(error["reason"], reason, "{text} got {error}");
        assert!(error["error"]["details"].is_object());
    }
    socket.send_binary(vec![1, 2]).await?;
    assert_eq!(socket.push("error").await?["reason"], "binary_uplink_unsupported");
    let large = format!("{{\"type\":\"session.heartbeat\",\"payload\":{{\"x\":\"{}\"}}}}", "x".repeat(70_000));
    socket.send_text(large).await?;
    assert_eq!(socket.push("error").await?["reason"], "payload_too_large");

    // Requests that cannot be.
    for (kind, payload, reason) in [
        ("chat.join", json!({"channel_id": "foo"}), "invalid_channel_id"),
        ("chat.join", json!({"channel_id": "global:nope"}), "not_authorized"),
        ("chat.join", json!({}), "missing_field"),
        ("chat.send", json!({"channel_id": "global:lobby", "content": "x".repeat(2001)}), "content_too_large"),
        ("chat.send", json!({"channel_id": "global:lobby", "content": 5}), "invalid_payload"),
        ("chat.send", json!({"channel_id": "global:lobby", "content": ""}), "content_empty"),
        ("matchmaker.add", json!({"mode": "zzz"}), "unknown_mode"),
        ("match.list", json!({"joinable": "x"}), "invalid_joinable_filter"),
        ("match.list", json!({"mode": 3}), "invalid_mode_filter"),
        ("match.join", json!({"match_id": "01a20330-e0ec-7ce9-be9b-4a6124206c3e"}), "match_not_found"),
        ("match.find_or_create", json!({"mode": "zzz"}), "unknown_mode"),
        ("match.find_or_create", json!({"mode": "tictactoe"}), "quick_play_disabled"),
        ("matchmaker.remove", json!({"ticket_id": "01a20330-e0ec-7ce9-be9b-4a6124206c3e"}), "not_found"),
        ("world.list", json!({}), "unknown_type"),
    ] {
        assert_eq!(socket.refused(kind, payload.clone()).await?, reason, "{kind} {payload}");
    }
    assert_eq!(socket.call("match.leave", json!({})).await?, json!({"success": true}));
    socket.send("match.input", json!({"x": 1})).await?;
    assert_eq!(socket.push("error").await?["reason"], "not_in_match");
    assert!(
        socket.call("session.heartbeat", json!({})).await?["ts"].as_i64().is_some(),
        "the socket has survived it all"
    );
    cluster.stop().await
}

#[tokio::test]
async fn floods_are_answered_but_not_served() -> anyhow::Result<()> {
    let cluster =
        Cluster::new().gateways(1).match_hosts(1).matchmakers(1).set("limits.frames_per_second", 60).start().await?;
    let mut ada = cluster.player(0, "ada").await?;
    for n in 0..200 {
        ada.send_text(format!("{{\"type\":\"session.heartbeat\",\"cid\":{n}}}")).await?;
    }
    let (mut served, mut refused) = (0, 0);
    for n in 0..200 {
        let frame = ada.wait("an answer to every cid", |f| f["cid"] == n).await?;
        if frame["type"] == "error" {
            assert_eq!(frame["payload"]["reason"], "rate_limited");
            refused += 1;
        } else {
            served += 1;
        }
    }
    assert!(served >= 50 && refused >= 1, "{served} served, {refused} refused");
    cluster.stop().await
}

#[tokio::test]
async fn a_wrong_start_names_every_mistake() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_asobi"))
        .args(["gateway", "--set", "limits.frame_per_second=1", "--set", "node.lease_ms=soon"])
        .env("ASOBI_CHAT_BATCH", "-3")
        .current_dir(dir.path())
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{said}");
    for part in ["limits.frame_per_second", "limits.frames_per_second", "node.lease_ms", "ASOBI_CHAT_BATCH"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    Ok(())
}
