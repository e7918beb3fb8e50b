//! Sockets: who may speak, what is refused, and how they end.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::{
    client::Client,
    cluster::{Cluster, PATIENCE},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_a_session_and_a_bad_one_leaves_the_socket_open() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let (ada, bo) = (cluster.player("ada").await?, cluster.player("bob").await?);
    let mut client = Client::open(&cluster.nodes[0].ws).await?;
    assert_eq!(client.refused("session.connect", json!({})).await?, "invalid_token");
    assert_eq!(client.refused("session.connect", json!({"token": "nonsense"})).await?, "invalid_token");
    assert_eq!(client.refused("chat.join", json!({"channel_id": "global:lobby"})).await?, "not_authenticated");
    let connected = client.connect(&ada.tokens.access_token, &["migrate", "presence", "nonsense"]).await?;
    assert_eq!(connected["player_id"], ada.player_id.to_string());
    assert_eq!(connected["wire"], "json");
    assert_eq!(connected["node_id"], "gw-0");
    assert_eq!(connected["match_id"], json!(null));
    assert_eq!(connected["capabilities"], json!(["migrate", "presence"]));
    client.connect(&ada.tokens.access_token, &[]).await?;
    let other = json!({"token": bo.tokens.access_token});
    assert_eq!(client.refused("session.connect", other).await?, "invalid_token");
    client.expect("presence.snapshot").await?;
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_frames_get_their_documented_errors() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[("limits.frames_per_second", "0")]).await?;
    let (_, mut ada) = cluster.connected("ada", 0, &[]).await?;
    for (text, reason) in [
        (r#"{"type":"#.to_owned(), "invalid_json"),
        (r#"{"payload":{}}"#.to_owned(), "invalid_message"),
        (r#"{"type":5}"#.to_owned(), "invalid_message"),
        ("[1]".to_owned(), "invalid_message"),
        (r#"{"type":"nope.nope","payload":{}}"#.to_owned(), "unknown_type"),
        (r#"{"type":"world.list","payload":{}}"#.to_owned(), "unknown_type"),
        (r#"{"type":"match.join","payload":{}}"#.to_owned(), "missing_field"),
        (r#"{"type":"match.input","payload":"str"}"#.to_owned(), "invalid_payload"),
        (format!(r#"{{"type":"session.heartbeat","payload":"{}"}}"#, "x".repeat(70_000)), "payload_too_large"),
    ] {
        ada.raw(&text).await?;
        let error = ada.expect("error").await?;
        assert_eq!(error["payload"]["reason"], reason, "{error}");
        assert!(error["payload"]["error"]["details"].is_object() && error.get("cid").is_none());
    }
    ada.message(Message::binary(vec![1, 2])).await?;
    assert_eq!(ada.expect("error").await?["payload"]["reason"], "binary_uplink_unsupported");
    for (kind, payload, reason) in [
        ("match.list", json!({"joinable": "x"}), "invalid_joinable_filter"),
        ("match.list", json!({"has_capacity": 1}), "invalid_has_capacity_filter"),
        ("match.list", json!({"mode": 3}), "invalid_mode_filter"),
        ("matchmaker.add", json!({"mode": "zzz"}), "unknown_mode"),
        ("matchmaker.remove", json!({}), "missing_field"),
        ("matchmaker.remove", json!({"ticket_id": "01a20330-d6bb-715b-a470-2b9fab0c7f93"}), "not_found"),
        ("match.find_or_create", json!({"mode": "zzz"}), "unknown_mode"),
        ("match.join", json!({"match_id": "01a20330-d6bb-715b-a470-2b9fab0c7f93"}), "match_not_found"),
        ("match.input", json!({"data": "{nope"}), "invalid_payload"),
        ("match.input", json!({"x": 1}), "not_in_match"),
        ("chat.join", json!({"channel_id": "foo"}), "invalid_channel_id"),
        ("chat.join", json!({"channel_id": "global:nope"}), "not_authorized"),
        ("chat.join", json!({}), "missing_field"),
        ("chat.send", json!({"channel_id": "foo", "content": "x"}), "not_authorized"),
        ("chat.send", json!({"channel_id": "global:lobby", "content": ""}), "content_empty"),
        ("chat.send", json!({"channel_id": "global:lobby", "content": 5}), "invalid_payload"),
        ("chat.send", json!({"channel_id": "global:lobby", "content": "x".repeat(2001)}), "content_too_large"),
        ("dm.send", json!({}), "invalid_payload"),
        ("dm.send", json!({"recipient_id": "x", "content": "x"}), "invalid_input"),
        ("dm.send", json!({"recipient_id": "01a20330-d6bb-715b-a470-2b9fab0c7f93", "content": ""}), "content_empty"),
    ] {
        assert_eq!(ada.refused(kind, payload.clone()).await?, reason, "{kind} {payload}");
    }
    let rpc = ada.ask("rpc.call", json!({"protocol": 1, "method": "a.b", "params": {}})).await?;
    assert_eq!((&rpc["type"], &rpc["payload"]["error"]["code"]), (&json!("rpc.error"), &json!("rpc.unknown_method")));
    let updated = ada.ask("presence.update", json!({"status": "in_game"})).await?;
    assert_eq!(updated["payload"], json!({"status": "in_game"}));
    assert_eq!(ada.ask("match.leave", json!({})).await?["payload"], json!({"success": true}));
    assert_eq!(ada.ask("match.list", json!({})).await?["payload"], json!({"matches": []}));
    // Inputs that go nowhere are told of once in five seconds.
    let before = ada.so_far().await?;
    assert!(before.is_empty(), "{before:?}");
    for _ in 0..5 {
        ada.send(json!({"type": "match.input", "payload": {"x": 1}})).await?;
    }
    assert!(ada.so_far().await?.len() <= 1);
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_frames_are_refused_but_every_cid_is_answered() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[("limits.frames_per_second", "20")]).await?;
    let mut client = Client::open(&cluster.nodes[0].ws).await?;
    for n in 0..60 {
        client.send(json!({"type": "session.heartbeat", "cid": n})).await?;
    }
    let (mut beats, mut errors) = (0, 0);
    for n in 0..60 {
        let answer = client.wait(|f| f["cid"] == n).await?;
        if answer["type"] == "error" {
            assert_eq!(answer["payload"]["reason"], "rate_limited");
            errors += 1;
        } else {
            beats += 1;
        }
    }
    assert!(beats >= 20 && errors > 0, "{beats} {errors}");
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_at_the_door() -> anyhow::Result<()> {
    let sets = [
        ("session.auth_timeout_ms", "300"),
        ("http.allowed_origins", "[\"https://game.example\"]"),
        ("session.max_sockets", "1"),
    ];
    let cluster = Cluster::start(1, &sets).await?;
    let ws = &cluster.nodes[0].ws;
    let mut stranger = Client::open_from(ws, Some("https://evil.example")).await?;
    assert_eq!(stranger.closed().await?, (1008, "origin_rejected".into()));
    let mut silent = Client::open_from(ws, Some("https://game.example")).await?;
    let full = Client::open(ws).await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(full.contains("503"), "{full}");
    assert_eq!(silent.closed().await?, (1008, "idle_auth_timeout".into()));
    // A plain GET is told what is expected.
    let address = ws.trim_start_matches("ws://").trim_end_matches("/ws");
    let mut plain = tokio::net::TcpStream::connect(address).await?;
    plain.write_all(b"GET /ws HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await?;
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn connects_per_address_are_limited() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[("limits.connects_per_second", "3")]).await?;
    let mut closed = Vec::new();
    for _ in 0..5 {
        let mut client = Client::open(&cluster.nodes[0].ws).await?;
        client.send(json!({"type": "session.heartbeat"})).await.ok();
        if let Err(close) = client.next().await? {
            closed.push(close);
        }
    }
    assert_eq!(closed.first(), Some(&(1008, "rate_limited".to_owned())));
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_closes_sockets_on_every_node() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[]).await?;
    let account = cluster.player("ada").await?;
    let mut client = Client::open(&cluster.nodes[1].ws).await?;
    client.connect(&account.tokens.access_token, &[]).await?;
    cluster.nodes[0].issuer.logout(None, Some(&account.tokens.refresh_token), false).await?;
    client.expect("session.revoked").await?;
    assert_eq!(client.closed().await?, (1008, "session_revoked".into()));
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_of_too_many_connections_is_replaced() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[("session.max_per_player", "2")]).await?;
    let account = cluster.player("ada").await?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Client::open(&cluster.nodes[0].ws).await?;
        client.connect(&account.tokens.access_token, &[]).await?;
        clients.push(client);
    }
    assert_eq!(clients[0].closed().await?, (4002, "replaced".into()));
    assert!(clients[1].so_far().await?.is_empty() && clients[2].so_far().await?.is_empty());
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_goes_wherever_it_is_and_the_one_that_came_never() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[("session.max_per_player", "2"), ("presence.grace_ms", "60000")]).await?;
    let account = cluster.player("ada").await?;
    let connect = async |node: usize| {
        let mut client = Client::open(&cluster.nodes[node].ws).await?;
        client.connect(&account.tokens.access_token, &[]).await?;
        anyhow::Ok(client)
    };
    // The rows say who is connected; those in their grace are not.
    let settled = async |connected: i64| {
        let sql = "SELECT count(*) FROM sessions WHERE NOT leaving";
        let waiting = async {
            while sqlx::query_scalar::<_, i64>(sql).fetch_one(&cluster.db.pool).await? != connected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, waiting).await?
    };
    let mut first = connect(0).await?;
    settled(1).await?;
    // A client that comes and goes on the other node takes nobody's place.
    for _ in 0..4 {
        let flapping = connect(1).await?;
        settled(2).await?;
        drop(flapping);
        settled(1).await?;
    }
    assert!(first.so_far().await?.is_empty());
    let mut second = connect(1).await?;
    settled(2).await?;
    let mut third = connect(1).await?;
    assert_eq!(first.closed().await?, (4002, "replaced".into()));
    let mut fourth = connect(0).await?;
    assert_eq!(second.closed().await?, (4002, "replaced".into()));
    for _ in 0..2 {
        assert!(third.so_far().await?.is_empty() && fourth.so_far().await?.is_empty());
        settled(2).await?;
    }
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_connections_leave_as_many_as_may_be() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[("session.max_per_player", "3"), ("limits.connects_per_second", "0")]).await?;
    let account = cluster.player("ada").await?;
    let mut opening = Vec::new();
    for n in 0..16 {
        let (ws, token) = (cluster.nodes[n % 2].ws.clone(), account.tokens.access_token.clone());
        opening.push(tokio::spawn(async move {
            let mut client = Client::open(&ws).await?;
            client.connect(&token, &[]).await?;
            anyhow::Ok(client)
        }));
    }
    // Some are replaced before they hear that they are connected.
    let mut clients = Vec::new();
    for client in opening {
        clients.extend(client.await?.ok());
    }
    let sockets = || cluster.nodes.iter().map(|node| node.hub.session_count()).sum::<usize>();
    let settled = async {
        while sockets() > 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await?;
    // Nobody was closed for whom there was room.
    let mut open = 0;
    for client in &mut clients {
        open += usize::from(client.so_far().await.is_ok());
    }
    assert_eq!((open, sockets()), (3, 3));
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_with_the_number_of_unread_notifications() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let account = cluster.player("ada").await?;
    let rows = format!(
        "INSERT INTO notifications (id, player_id, type, subject, read)
         SELECT gen_random_uuid(), '{}', 'x', 'y', n = 3 FROM generate_series(1, 3) AS n",
        account.player_id
    );
    sqlx::query(sqlx::AssertSqlSafe(rows)).execute(&cluster.db.pool).await?;
    let mut client = Client::open(&cluster.nodes[0].ws).await?;
    let connected = client.connect(&account.tokens.access_token, &["queue"]).await?;
    assert_eq!((&connected["unread"], &connected["capabilities"]), (&json!(2), &json!(["queue"])));
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cid_is_echoed_whatever_it_is() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let mut client = Client::open(&cluster.nodes[0].ws).await?;
    for cid in [json!(null), json!(7), json!({"a": [1]}), json!("")] {
        client.send(json!({"type": "session.heartbeat", "cid": cid})).await?;
        let beat = client.expect("session.heartbeat").await?;
        assert_eq!(beat.get("cid"), Some(&cid), "{beat}");
    }
    client.send(json!({"type": "session.heartbeat"})).await?;
    assert_eq!(client.expect("session.heartbeat").await?.get("cid"), None);
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_what_is_in_flight_and_says_where_to_go() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let (_, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let hub = cluster.nodes[0].hub.clone();
    let drain = tokio::spawn(async move { hub.close_all(Duration::from_millis(200), Duration::from_secs(5)).await });
    assert_eq!(ada.closed().await?, (1012, "restarting".into()));
    let refused = Client::open(&cluster.nodes[0].ws).await.err().context("a draining node takes no sockets")?;
    let Some(tungstenite::Error::Http(refused)) = refused.downcast_ref() else { anyhow::bail!("{refused}") };
    // Spread, so that those who are turned away together do not come back together.
    let seconds: u32 = refused.headers()["retry-after"].to_str()?.parse()?;
    assert!(refused.status() == 503 && (1..=2).contains(&seconds), "{refused:?}");
    let body: Value = serde_json::from_slice(refused.body().as_deref().unwrap_or_default())?;
    assert_eq!(body["error"]["code"], "not_ready", "{body}");
    drain.await?;
    assert_eq!(cluster.nodes[0].hub.session_count(), 0);
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_broken_by_pings_and_ends_without_answers() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[("session.silence_ms", "600")]).await?;
    let (_, mut live) = cluster.connected("ada", 0, &[]).await?;
    let (_, mut dead) = cluster.connected("bob", 0, &[]).await?;
    // The client library answers pings while it is read, which only `live` is.
    let reading = tokio::time::timeout(Duration::from_millis(1_500), live.next()).await;
    assert!(reading.is_err(), "a live client is not closed: {reading:?}");
    assert_eq!(dead.closed().await?, (1001, "silent".into()));
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_disconnected_and_delays_nobody() -> anyhow::Result<()> {
    let sets = [("session.slow_ms", "400"), ("session.queue_frames", "64"), ("limits.frames_per_second", "0")];
    let cluster = Cluster::start(1, &sets).await?;
    let (_, mut slow) = cluster.connected("ada", 0, &[]).await?;
    let (_, mut other) = cluster.connected("bob", 0, &[]).await?;
    for client in [&mut slow, &mut other] {
        client.ask("chat.join", json!({"channel_id": "global:lobby"})).await?;
    }
    // More than the kernel's buffers take.
    let content = "x".repeat(2_000);
    let hub = &cluster.nodes[0].hub;
    for n in 0..20_000_u32 {
        if hub.session_count() < 2 {
            break;
        }
        other.send(json!({"type": "chat.send", "payload": {"channel_id": "global:lobby", "content": content}})).await?;
        if n % 16 == 0 {
            other.so_far().await?;
        }
    }
    assert_eq!(hub.session_count(), 1, "the slow one is gone, the other is there");
    other.so_far().await?;
    assert_eq!(slow.closed().await?, (4001, "slow_consumer".into()));
    cluster.end().await
}
