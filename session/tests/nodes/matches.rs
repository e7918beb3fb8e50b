//! Matches on another node, relayed.

use asobi_proto::{
    bus::{InboxAction, InboxEvent},
    match_v1::FrameKind,
};
use serde_json::{json, value::RawValue};
use sqlx::Executor as _;
use uuid::Uuid;

use crate::{
    client::Client,
    cluster::{Cluster, PATIENCE},
    host::Running,
};

pub async fn tell(cluster: &Cluster, player: Uuid, event: &InboxEvent) -> anyhow::Result<()> {
    let mut tx = cluster.db.pool.begin().await?;
    let seqs = asobi_store::inbox::append(&mut tx, &[(player, event.clone())]).await?;
    tx.commit().await?;
    asobi_bus::inbox::publish(cluster.nodes[0].node.bus.publisher(), player, seqs[0], event);
    Ok(())
}

pub fn matched(match_id: Uuid) -> anyhow::Result<InboxEvent> {
    let frame = format!(r#"{{"type":"match.matched","payload":{{"match_id":"{match_id}"}}}}"#);
    let action = Some(InboxAction::Matched { match_id });
    Ok(InboxEvent { frame: Some(RawValue::from_string(frame)?), action })
}

/// Waits until the nodes know the host.
async fn known(cluster: &Cluster) -> anyhow::Result<()> {
    all_know(cluster, "host-0").await
}

pub async fn all_know(cluster: &Cluster, host: &str) -> anyhow::Result<()> {
    for place in &cluster.nodes {
        let mut changes = place.node.directory.changes();
        let knows = async {
            while !place.node.directory.get(host).is_some_and(|host| host.is_ready()) {
                changes.changed().await?;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, knows).await??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_matched_player_is_attached_told_and_then_shown_states() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[]).await?;
    let mut host = Running::start(&cluster.db).await?;
    known(&cluster).await?;
    let (ada_id, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let (bo_id, mut bo) = cluster.connected("bob", 1, &["migrate"]).await?;
    let id = host.seat("arena", &[ada_id, bo_id]).await?;
    for player in [ada_id, bo_id] {
        tell(&cluster, player, &matched(id)?).await?;
    }
    for client in [&mut ada, &mut bo] {
        // In this order, whatever the host sent first.
        let first = client.wait(|f| f["type"] == "match.matched" || f["type"] == "match.state").await?;
        assert_eq!(first["type"], "match.matched");
        assert_eq!(client.expect("match.state").await?["payload"], json!({"early": true}));
    }
    let migrate = bo.expect("match.migrate").await?["payload"].clone();
    assert_eq!((&migrate["match_id"], &migrate["node_id"]), (&json!(id), &json!("host-0")));
    assert_eq!((&migrate["reason"], &migrate["url"]), (&json!("matched"), &json!("ws://127.0.0.1:2/ws")));
    assert!(migrate["token"].is_string() && migrate["expires_at"].is_i64());

    host.host.broadcast(id, FrameKind::State, r#"{"type":"match.state","payload":{"tick":1}}"#);
    for client in [&mut ada, &mut bo] {
        assert_eq!(client.expect("match.state").await?["payload"], json!({"tick": 1}));
    }
    ada.send(json!({"type": "match.input", "payload": {"data": {"move_x": 1}}})).await?;
    ada.send(json!({"type": "match.input", "payload": {"move_x": 2}})).await?;
    for (number, text) in [(1, r#"{"move_x":1}"#), (2, r#"{"move_x":2}"#)] {
        let input = tokio::time::timeout(PATIENCE, host.inputs.recv()).await?;
        assert_eq!(input, Some((ada_id, number, text.to_owned())));
    }

    // A stream that breaks is opened again with everybody on it.
    host.host.cut();
    assert_eq!(ada.expect("match.state").await?["payload"], json!({"early": true}));
    assert_eq!(bo.expect("match.state").await?["payload"], json!({"early": true}));

    host.host.broadcast(id, FrameKind::Event, r#"{"type":"match.finished","payload":{"result":1}}"#);
    host.host.finish(id);
    ada.expect("match.finished").await?;
    seat_is_over(&mut ada).await?;
    host.end().await;
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_hint_of_a_match_is_found_in_the_rows() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let host = Running::start(&cluster.db).await?;
    known(&cluster).await?;
    let (ada_id, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let id = host.seat("arena", &[ada_id]).await?;
    let mut tx = cluster.db.pool.begin().await?;
    asobi_store::inbox::append(&mut tx, &[(ada_id, matched(id)?)]).await?;
    tx.commit().await?;
    // Only the second event is hinted at.
    let plain =
        InboxEvent { frame: Some(RawValue::from_string(r#"{"type":"x.y","payload":{}}"#.into())?), action: None };
    tell(&cluster, ada_id, &plain).await?;
    let first = ada.wait(|f| f["type"] == "match.matched" || f["type"] == "x.y").await?;
    assert_eq!(first["type"], "match.matched");
    ada.expect("x.y").await?;
    host.end().await;
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_host_was_replaced_sessions_follow_their_match_or_lose_their_seat() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[("limits.frames_per_second", "0")]).await?;
    let host = Running::start(&cluster.db).await?;
    known(&cluster).await?;
    let (ada_id, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let (bo_id, mut bo) = cluster.connected("bob", 0, &[]).await?;
    let (moved, lost) = (host.seat("arena", &[ada_id]).await?, host.seat("arena", &[bo_id]).await?);
    for (player, id, client) in [(ada_id, moved, &mut ada), (bo_id, lost, &mut bo)] {
        tell(&cluster, player, &matched(id)?).await?;
        client.expect("match.state").await?;
    }
    host.end().await;
    let host = Running::start(&cluster.db).await?;
    let rows = format!(
        "UPDATE matches SET host_incarnation = {}, epoch = 2 WHERE id = '{moved}';
         DELETE FROM match_players WHERE match_id = '{lost}';
         UPDATE matches SET state = 'failed' WHERE id = '{lost}';",
        host.node.membership.identity().incarnation
    );
    cluster.db.pool.execute(sqlx::AssertSqlSafe(rows)).await?;
    // The new incarnation shows a state to whom it lets in.
    assert_eq!(ada.expect("match.state").await?["payload"], json!({"early": true}));
    assert_ne!(host.host.attached(moved), 0);
    seat_is_over(&mut bo).await?;
    host.end().await;
    cluster.end().await
}

/// Waits until inputs go to no match any more. One that still goes to a match has no answer, or that it cannot be reached.
async fn seat_is_over(client: &mut Client) -> anyhow::Result<()> {
    let over = async {
        loop {
            client.send(json!({"type": "match.input", "cid": "late", "payload": {}})).await?;
            if client.so_far().await?.iter().any(|f| f["payload"]["reason"] == "not_in_match") {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, over).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn however_much_was_missed_is_read_back_in_order() -> anyhow::Result<()> {
    const MISSED: usize = 450;
    let cluster = Cluster::start(1, &[("session.queue_frames", "1000")]).await?;
    let (ada_id, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let event = |n: usize| {
        let frame = RawValue::from_string(format!(r#"{{"type":"x.y","payload":{{"n":{n}}}}}"#))?;
        anyhow::Ok(InboxEvent { frame: Some(frame), action: None })
    };
    let events = (0..MISSED).map(|n| Ok((ada_id, event(n)?))).collect::<anyhow::Result<Vec<_>>>()?;
    let mut tx = cluster.db.pool.begin().await?;
    asobi_store::inbox::append(&mut tx, &events).await?;
    tx.commit().await?;
    tell(&cluster, ada_id, &event(MISSED)?).await?;
    for n in 0..=MISSED {
        assert_eq!(ada.expect("x.y").await?["payload"]["n"], n);
    }
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seat_is_found_again_from_any_node_and_left() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[]).await?;
    let host = Running::start(&cluster.db).await?;
    known(&cluster).await?;
    let account = cluster.player("ada").await?;
    let id = host.seat("arena", &[account.player_id]).await?;
    for node in [0, 1] {
        let mut client = Client::open(&cluster.nodes[node].ws).await?;
        let connected = client.connect(&account.tokens.access_token, &[]).await?;
        assert_eq!(connected["match_id"], json!(id));
        client.expect("match.state").await?;
        assert_eq!(client.ask("match.join", json!({"match_id": id})).await?["type"], "match.joined");
        assert_eq!(client.refused("match.join", json!({"match_id": Uuid::now_v7()})).await?, "already_in_match");
        if node == 0 {
            continue;
        }
        assert_eq!(client.ask("match.leave", json!({})).await?["payload"], json!({"success": true}));
        assert_eq!(client.refused("match.input", json!({})).await?, "not_in_match");
    }
    let detached = async {
        while host.host.detached() == 0 || host.host.attached(id) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, detached).await?;
    host.end().await;
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_quick_players_land_in_one_match() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[]).await?;
    let host = Running::start(&cluster.db).await?;
    known(&cluster).await?;
    let identity = host.node.membership.identity();
    let settings = r#"{"quick_play": true, "max_players": 4, "listed": true}"#;
    let rows = format!(
        "INSERT INTO modes (mode, settings) VALUES ('lobby', '{settings}'), ('queued', '{{}}');
         INSERT INTO host_modes VALUES ('{}', {}, 'lobby');",
        identity.node_id, identity.incarnation
    );
    cluster.db.pool.execute(sqlx::AssertSqlSafe(rows)).await?;
    let (_, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let (_, mut bo) = cluster.connected("bob", 1, &[]).await?;
    assert_eq!(ada.refused("match.find_or_create", json!({"mode": "queued"})).await?, "quick_play_disabled");
    let (a, b) = tokio::join!(
        ada.ask("match.find_or_create", json!({"mode": "lobby"})),
        bo.ask("match.find_or_create", json!({"mode": "lobby"}))
    );
    let (a, b) = (a?, b?);
    assert_eq!(a["type"], "match.joined", "{a}");
    assert_eq!(a["payload"]["match_id"], b["payload"]["match_id"], "{a} {b}");
    assert_eq!(host.host.created(), 1);
    host.end().await;
    cluster.end().await
}
