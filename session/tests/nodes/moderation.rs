//! What moderators decide, on nodes that are not told of it: here rows change and nobody is woken.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use asobi_proto::{
    bus::{InboxAction, InboxEvent},
    social_v1::{
        CheckTextRequest, CheckTextResponse, TextKind, TextVerdict,
        text_filter_service_server::{TextFilterService, TextFilterServiceServer},
    },
};
use asobi_store::{
    chat::deletions::{self, Which},
    inbox,
    mutes::{self, NewMute},
    words,
};
use serde_json::{Value, json};
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::{net::TcpListener, sync::Notify};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    client::Client,
    cluster::{Cluster, PATIENCE},
};

const LOBBY: &str = "global:lobby";
const OTHER: &str = "global:other";

async fn mute(pool: &PgPool, player: Uuid, channel: &str, lasting: Option<Duration>) -> anyhow::Result<()> {
    let until = lasting.map(|lasting| OffsetDateTime::now_utc() + lasting);
    let mut tx = asobi_store::begin(pool).await?;
    let mute = NewMute { player_id: player, channel_id: channel, reason: "spam", until, muted_by: "node" };
    assert!(mutes::mute(&mut tx, mute).await?);
    Ok(tx.commit().await?)
}

async fn unmute(pool: &PgPool, player: Uuid, channel: &str) -> anyhow::Result<()> {
    let mut tx = asobi_store::begin(pool).await?;
    assert!(mutes::unmute(&mut tx, player, channel).await?);
    Ok(tx.commit().await?)
}

async fn delete(pool: &PgPool, channel: &str, which: Which) -> anyhow::Result<deletions::Deleted> {
    let mut tx = asobi_store::begin(pool).await?;
    let deleted = deletions::delete(&mut tx, channel, which).await?.expect("the message is there");
    tx.commit().await?;
    Ok(deleted)
}

/// The answer to a message, sent until it is of that type.
async fn say_until(client: &mut Client, channel: &str, kind: &str) -> anyhow::Result<Value> {
    let saying = async {
        loop {
            let answer = client.ask("chat.send", json!({"channel_id": channel, "content": "hello"})).await?;
            if answer["type"] == kind {
                return Ok(answer["payload"].clone());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, saying).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mute_that_nobody_was_told_of_holds_on_every_node_and_nowhere_else() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[("limits.frames_per_second", "0")]).await?;
    let (pool, hour) = (&cluster.db.pool, Some(Duration::from_secs(3_600)));
    let (ada, mut here) = cluster.connected("ada", 0, &[]).await?;
    let (bo, mut there) = cluster.connected("bob", 1, &[]).await?;
    for (player, client) in [(ada, &mut here), (bo, &mut there)] {
        mute(pool, player, LOBBY, hour).await?;
        let refused = say_until(client, LOBBY, "error").await?;
        assert_eq!((&refused["reason"], &refused["error"]["code"]), (&json!("muted"), &json!("forbidden")));
        let details = &refused["error"]["details"];
        assert!(details["reason"] == "muted" && details["until"].is_i64(), "{details}");
        // Elsewhere they go on talking, and in the channel they go on reading.
        assert_eq!(client.ask("chat.send", json!({"channel_id": OTHER, "content": "x"})).await?["type"], "chat.sent");
        assert_eq!(client.ask("chat.join", json!({"channel_id": LOBBY})).await?["type"], "chat.joined");
        assert_eq!(client.ask("dm.send", json!({"recipient_id": bo, "content": "x"})).await?["type"], "dm.sent");
    }
    // Everywhere, for ever: direct messages, too. The longer one is told.
    mute(pool, ada, "", None).await?;
    say_until(&mut here, OTHER, "error").await?;
    let refused = here.ask("dm.send", json!({"recipient_id": bo, "content": "x"})).await?;
    assert_eq!(
        (&refused["payload"]["reason"], &refused["payload"]["error"]["details"]["until"]),
        (&json!("muted"), &Value::Null)
    );

    unmute(pool, ada, "").await?;
    say_until(&mut here, OTHER, "chat.sent").await?;
    assert_eq!(here.refused("chat.send", json!({"channel_id": LOBBY, "content": "x"})).await?, "muted");
    // One that ends needs nobody to end it.
    mute(pool, ada, LOBBY, Some(Duration::from_secs(4))).await?;
    say_until(&mut here, LOBBY, "chat.sent").await?;
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_nobody_was_told_of_reaches_who_has_seen_the_message() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[]).await?;
    let pool = &cluster.db.pool;
    let (_, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let (_, mut bo) = cluster.connected("bob", 1, &[]).await?;
    for client in [&mut ada, &mut bo] {
        client.ask("chat.join", json!({"channel_id": LOBBY})).await?;
    }
    let mut sent = Value::Null;
    for content in ["one", "two", "three"] {
        let payload = json!({"channel_id": LOBBY, "content": content, "idempotency_key": content});
        let answer = ada.ask("chat.send", payload).await?["payload"].clone();
        if content == "two" {
            sent = answer;
        }
    }
    for client in [&mut ada, &mut bo] {
        client.wait(|frame| frame["payload"]["content"] == "three").await?;
    }
    let id: Uuid = sent["message_id"].as_str().unwrap_or_default().parse()?;
    let deleted = delete(pool, LOBBY, Which::Id(id)).await?;
    assert_eq!((deleted.seq, deleted.message_id, deleted.fresh), (2, id, true));
    assert!(!delete(pool, LOBBY, Which::Seq(2)).await?.fresh, "again is nothing new");
    let told = json!({"channel_id": LOBBY, "message_id": id, "seq": 2});
    for client in [&mut ada, &mut bo] {
        assert_eq!(client.expect("chat.deleted").await?["payload"], told);
        let more = client.so_far().await?;
        assert!(more.iter().all(|frame| frame["type"] != "chat.deleted"), "once: {more:?}");
    }
    // Its sender's key is still its: nothing comes back that way.
    let again = json!({"channel_id": LOBBY, "content": "two", "idempotency_key": "two"});
    assert_eq!(ada.ask("chat.send", again).await?["payload"], sent);
    // Whoever comes back hears of what they had seen; whoever missed it gets its place without its content.
    let (_, mut cy) = cluster.connected("cyd", 1, &[]).await?;
    cy.ask("chat.join", json!({"channel_id": LOBBY, "since_seq": 2})).await?;
    assert_eq!(cy.expect("chat.deleted").await?["payload"], told);
    let (_, mut di) = cluster.connected("dia", 0, &[]).await?;
    di.ask("chat.join", json!({"channel_id": LOBBY, "since_seq": 1})).await?;
    let message = di.expect("chat.message").await?["payload"].clone();
    assert_eq!((&message["seq"], &message["content"], &message["deleted"]), (&json!(2), &json!(""), &json!(true)));
    let message = di.expect("chat.message").await?["payload"].clone();
    assert_eq!((&message["content"], message.get("deleted")), (&json!("three"), None));
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_direct_message_is_gone_from_inboxes_and_both_are_told_once() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[]).await?;
    let pool = &cluster.db.pool;
    let (ada_id, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let (bo_id, mut bo) = cluster.connected("bob", 1, &[]).await?;
    let sent = ada.ask("dm.send", json!({"recipient_id": bo_id, "content": "psst"})).await?;
    let channel = sent["payload"]["channel_id"].as_str().unwrap_or_default().to_owned();
    for client in [&mut ada, &mut bo] {
        client.ask("chat.join", json!({"channel_id": channel})).await?;
    }
    let message = bo.expect("dm.message").await?["payload"].clone();
    assert_eq!(message["seq"], 1);
    let deleted = delete(pool, &channel, Which::Seq(1)).await?;
    assert_eq!(message["message_id"], deleted.message_id.to_string());
    for (player, seq, event) in &deleted.events {
        asobi_bus::inbox::publish(cluster.nodes[0].node.bus.publisher(), *player, *seq, event);
    }
    let told = json!({"channel_id": channel, "message_id": deleted.message_id, "seq": 1});
    for client in [&mut ada, &mut bo] {
        assert_eq!(client.expect("chat.deleted").await?["payload"], told);
    }
    // Long enough for the nodes' own look, which must not tell them again.
    let next = ada.ask("chat.send", json!({"channel_id": LOBBY, "content": "marker"})).await?;
    delete(pool, LOBBY, Which::Seq(next["payload"]["seq"].as_i64().unwrap_or(1))).await?;
    ada.ask("chat.join", json!({"channel_id": OTHER})).await?;
    let (_, mut cy) = cluster.connected("cyd", 0, &[]).await?;
    let marked = async {
        loop {
            cy.ask("chat.join", json!({"channel_id": LOBBY, "since_seq": 1})).await?;
            if cy.so_far().await?.iter().any(|frame| frame["type"] == "chat.deleted") {
                return anyhow::Ok(());
            }
            cy.ask("chat.leave", json!({"channel_id": LOBBY})).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, marked).await??;
    assert!(ada.so_far().await?.iter().all(|frame| frame["type"] != "chat.deleted"));
    let kept: i64 =
        sqlx::query_scalar("SELECT count(*) FROM inbox_events WHERE event::text LIKE '%psst%'").fetch_one(pool).await?;
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM chat_messages WHERE content = 'psst'").fetch_one(pool).await?;
    assert_eq!((kept, rows), (0, 0));
    assert_ne!(ada_id, bo_id);
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kick_closes_the_sockets_that_were_there_and_no_later_one() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[]).await?;
    let account = cluster.player("ada").await?;
    let mut sockets = Vec::new();
    for node in [0, 1] {
        let mut client = Client::open(&cluster.nodes[node].ws).await?;
        client.connect(&account.tokens.access_token, &[]).await?;
        sockets.push(client);
    }
    let event = InboxEvent { frame: None, action: Some(InboxAction::Kicked { reason: "calm down".into() }) };
    let mut tx = asobi_store::begin(&cluster.db.pool).await?;
    let seq = inbox::append(&mut tx, &[(account.player_id, event.clone())]).await?[0];
    tx.commit().await?;
    // Connected before any node has heard of it, and after it was decided.
    let mut later = Client::open(&cluster.nodes[1].ws).await?;
    later.connect(&account.tokens.access_token, &[]).await?;
    asobi_bus::inbox::publish(cluster.nodes[0].node.bus.publisher(), account.player_id, seq, &event);
    for socket in &mut sockets {
        assert_eq!(socket.expect("session.kicked").await?["payload"], json!({"reason": "calm down"}));
        assert_eq!(socket.closed().await?, (4003, "kicked".into()));
    }
    assert!(later.so_far().await?.iter().all(|frame| frame["type"] != "session.kicked"));
    let mut again = Client::open(&cluster.nodes[0].ws).await?;
    again.connect(&account.tokens.access_token, &[]).await?;
    cluster.end().await
}

/// A studio's filter: slow about what is slow, and of its own opinion about the rest.
#[derive(Clone, Default)]
struct Studio {
    go: Arc<Notify>,
}

#[tonic::async_trait]
impl TextFilterService for Studio {
    async fn check_text(&self, request: Request<CheckTextRequest>) -> Result<Response<CheckTextResponse>, Status> {
        let request = request.into_inner();
        assert!(request.kind() == TextKind::Chat || request.channel_id.starts_with("dm:"));
        let answer = |verdict: TextVerdict, replacement: &str| CheckTextResponse {
            verdict: verdict.into(),
            replacement: replacement.into(),
        };
        Ok(Response::new(match request.text.as_str() {
            "slow" => {
                self.go.notified().await;
                answer(TextVerdict::Allow, "")
            }
            "bad" => answer(TextVerdict::Refuse, ""),
            "soft" => answer(TextVerdict::Replace, "softer"),
            "senseless" => answer(TextVerdict::Replace, ""),
            "broken" => return Err(Status::internal("broken")),
            _ => answer(TextVerdict::Allow, ""),
        }))
    }
}

async fn studio() -> anyhow::Result<(Studio, SocketAddr, tokio::task::JoinHandle<()>)> {
    let studio = Studio::default();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let server = tonic::transport::Server::builder().add_service(TextFilterServiceServer::new(studio.clone()));
    let serving = tokio::spawn(async move {
        let _ = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
    });
    Ok((studio, address, serving))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_studios_filter_keeps_the_order_and_holds_up_nothing_else() -> anyhow::Result<()> {
    let (studio, address, serving) = studio().await?;
    let url = format!("http://{address}");
    let sets = [("chat.filter_url", url.as_str()), ("chat.filter_timeout_ms", "30000")];
    let cluster = Cluster::start(1, &sets).await?;
    let (ada, mut client) = cluster.connected("ada", 0, &[]).await?;
    client.ask("chat.join", json!({"channel_id": LOBBY})).await?;
    for (cid, content) in [("a", "slow"), ("b", "soft"), ("c", "bad"), ("d", "last")] {
        client
            .send(json!({"type": "chat.send", "cid": cid, "payload": {"channel_id": LOBBY, "content": content}}))
            .await?;
    }
    client.send(json!({"type": "dm.send", "cid": "e", "payload": {"recipient_id": ada, "content": "bad"}})).await?;
    // None of them holds up what comes after.
    assert_eq!(client.ask("chat.join", json!({"channel_id": OTHER})).await?["type"], "chat.joined");
    assert!(client.so_far().await?.is_empty(), "nothing is said before its turn");
    studio.go.notify_one();
    let mut said = Vec::new();
    for _ in 0..3 {
        said.push(client.expect("chat.message").await?["payload"]["content"].clone());
    }
    assert_eq!(said, ["slow", "softer", "last"]);
    for cid in ["c", "e"] {
        let refused = client.wait(|frame| frame["cid"] == cid).await?["payload"].clone();
        assert_eq!((&refused["reason"], &refused["error"]["code"]), (&json!("content_refused"), &json!("forbidden")));
    }
    // What it has no sensible answer to, or none, is allowed unless the operator says otherwise.
    for content in ["senseless", "broken"] {
        client.ask("chat.send", json!({"channel_id": LOBBY, "content": content})).await?;
        assert_eq!(client.expect("chat.message").await?["payload"]["content"], content);
    }
    cluster.end().await?;
    serving.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_is_away_refuses_where_the_operator_says_so_and_words_need_none() -> anyhow::Result<()> {
    // Bound and dropped: nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let url = format!("http://{nobody}");
    let sets =
        [("chat.filter_url", url.as_str()), ("chat.filter_on_failure", "refuse"), ("limits.frames_per_second", "0")];
    let strict = Cluster::start(1, &sets).await?;
    let (_, mut client) = strict.connected("ada", 0, &[]).await?;
    for _ in 0..5 {
        let refused = client.ask("chat.send", json!({"channel_id": LOBBY, "content": "hi"})).await?;
        assert_eq!(refused["payload"]["error"]["code"], "not_ready");
    }
    strict.end().await?;

    let cluster = Cluster::start(1, &[("limits.frames_per_second", "0")]).await?;
    let (ada, mut client) = cluster.connected("ada", 0, &[]).await?;
    client.ask("chat.join", json!({"channel_id": LOBBY})).await?;
    let mut tx = asobi_store::begin(&cluster.db.pool).await?;
    words::add(&mut tx, "darn", false, true, "node").await?;
    words::add(&mut tx, "hello", true, false, "node").await?;
    tx.commit().await?;
    let refused = say_until(&mut client, LOBBY, "error").await?;
    assert_eq!(refused["reason"], "content_refused");
    assert_eq!(client.refused("dm.send", json!({"recipient_id": ada, "content": "oHELLOo"})).await?, "content_refused");
    client.so_far().await?;
    client.ask("chat.send", json!({"channel_id": LOBBY, "content": "Darn it, darning"})).await?;
    assert_eq!(client.expect("chat.message").await?["payload"]["content"], "**** it, darning");
    let mut tx = asobi_store::begin(&cluster.db.pool).await?;
    words::remove(&mut tx, "hello").await?;
    tx.commit().await?;
    say_until(&mut client, LOBBY, "chat.sent").await?;
    cluster.end().await
}
