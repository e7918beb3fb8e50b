//! One player's click from its frame to the last socket, over processes and through PostgreSQL; and what the logs say meanwhile. One cluster
//! for all of it: starting it is what takes the time.

mod collector;
mod logs;

use anyhow::Context as _;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::json;

use self::collector::{Collector, Seen};
use crate::support::{Client, Cluster};

const LOBBY: &str = "global:lobby";
const WORDS: &str = "where does this go?";

#[tokio::test]
async fn a_click_is_followed_to_its_end_and_no_secret_is_told() -> anyhow::Result<()> {
    let mut collector = Collector::start().await?;
    let cluster = Cluster::new()
        .gateways(2)
        .match_hosts(1)
        .matchmakers(1)
        .test_games()
        .set("telemetry.sample_ratio", 1)
        .set("log.format", "json")
        .set("log.filter", "warn,asobi=trace")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "200")
        .start()
        .await?;
    let mut ada = cluster.player(0, "ada").await?;
    let mut bo = cluster.player(1, "bo").await?;

    message(&cluster, &mut collector, &mut ada, &mut bo).await?;
    meeting(&cluster, &mut collector, &mut ada, &mut bo).await?;
    request(&cluster, &mut collector, &ada).await?;

    logs::change_while_running(&cluster).await?;
    let secrets = logs::secrets(&cluster, &ada, &bo).await?;
    let changed = "asobi.ops.v1.OpsService/SetLogFilter";
    collector.until("an operator's order", |c| c.named(changed).next().map(drop)).await?;
    let logged = cluster.logged()?;
    cluster.stop().await?;
    collector.take_the_rest();
    for seen in collector.all() {
        let told = format!("{:?}", seen.span);
        for secret in secrets.iter().map(String::as_str).chain([WORDS]) {
            assert!(!told.contains(secret), "{secret:?} is in {told}");
        }
    }
    logs::tell_no_secret(&logged, &secrets, &collector)
}

/// ```text
/// chat.send (gateway-0) ─┬─ INSERT chat_messages
///                        └─ send asobi_chat_n ─── process asobi_chat_n (gateway-1)
/// ```
async fn message(
    cluster: &Cluster,
    collector: &mut Collector,
    ada: &mut Client,
    bo: &mut Client,
) -> anyhow::Result<()> {
    bo.call("chat.join", json!({"channel_id": LOBBY})).await?;
    ada.call("chat.send", json!({"channel_id": LOBBY, "content": WORDS})).await?;
    bo.push("chat.message").await?;
    let (first, second) = (cluster.gateway(0).node_id, cluster.gateway(1).node_id);
    let chain = |c: &Collector| {
        let frame = c.named("chat.send").next()?.clone();
        let written = c.way(&frame, &["INSERT chat_messages"])?;
        let sent = c.way(&frame, &["send asobi_chat_"])?;
        let heard = c.under(&sent).find(|seen| seen.node == second)?.clone();
        Some((frame, written, sent, heard))
    };
    let (frame, written, sent, heard) = collector.until("a message's trace", chain).await?;

    assert_eq!((frame.kind(), &frame.node), (SpanKind::Server, &first));
    assert!(frame.span.parent_span_id.is_empty(), "the click is where it begins");
    frame.says(&[("asobi.frame.type", "chat.send")]);
    assert_eq!((written.kind(), &written.node), (SpanKind::Client, &first));
    written.says(&[
        ("db.system.name", "postgresql"),
        ("db.operation.name", "INSERT"),
        ("db.collection.name", "chat_messages"),
    ]);
    assert_eq!((sent.kind(), &sent.node), (SpanKind::Producer, &first));
    let topic = sent.attribute("messaging.destination.name");
    sent.says(&[("messaging.system", "postgresql"), ("messaging.operation.type", "send")]);
    assert!(!sent.attribute("messaging.batch.message_count").is_empty(), "{sent:?}");
    assert_eq!(heard.kind(), SpanKind::Consumer);
    assert_eq!(heard.name(), format!("process {topic}"));
    heard.says(&[("messaging.operation.type", "process"), ("messaging.destination.name", &topic)]);
    // The sender is answered before others hear of it, and the frame lasts until then.
    assert!(frame.span.end_time_unix_nano >= written.span.end_time_unix_nano);
    Ok(())
}

/// ```text
/// matchmaker.add (a gateway) ─┬─ INSERT tickets
///   form match (matchmaker) ──┴─┬─ claim matches
///                               ├─ place match ── CreateMatch ── CreateMatch (match host) ── create match ── SQL
///                               └─ tell players ─┬─ tell players (SQL)
///                                                └─ send asobi_inbox_n ── process asobi_inbox_n (each player's gateway)
/// matchmaker.add (the other) ─── join match, linked to form match
/// ```
async fn meeting(
    cluster: &Cluster,
    collector: &mut Collector,
    ada: &mut Client,
    bo: &mut Client,
) -> anyhow::Result<()> {
    for player in [&mut *ada, &mut *bo] {
        player.call("matchmaker.add", json!({"mode": "duel"})).await?;
    }
    let matched = ada.push("match.matched").await?;
    bo.push("match.matched").await?;
    let match_id = matched["match_id"].as_str().context("an id")?.to_owned();
    let host = cluster.match_host(0).node_id;
    let create = "asobi.match.v1.MatchHostService/CreateMatch";
    let gateways = [cluster.gateway(0).node_id, cluster.gateway(1).node_id];

    let formed = collector
        .until("a match's trace", |c| {
            let formed = c.named("form match").find(|seen| seen.attribute("asobi.match.id") == match_id)?.clone();
            let told = c.way(&formed, &["tell players"])?;
            let heard: Vec<Seen> = c.under(&told).filter_map(|sent| c.way(sent, &["process asobi_inbox_"])).collect();
            let all = gateways.iter().all(|gateway| heard.iter().any(|seen| seen.node == *gateway));
            c.way(&formed, &["claim matches"])?;
            c.way(&formed, &["place match", create, create, "create match", ""])?;
            all.then_some(formed)
        })
        .await?;
    formed.says(&[("asobi.mode", "duel"), ("asobi.host", &host), ("asobi.tickets", "2")]);
    let called = collector.way(&formed, &["place match", create]).context("the call")?;
    let served = collector.way(&called, &[create]).context("its other side")?;
    assert_eq!((called.kind(), served.kind(), &served.node), (SpanKind::Client, SpanKind::Server, &host));
    for side in [&called, &served] {
        side.says(&[
            ("rpc.system", "grpc"),
            ("rpc.service", "asobi.match.v1.MatchHostService"),
            ("rpc.method", "CreateMatch"),
            ("rpc.grpc.status_code", "0"),
        ]);
    }
    let claimed = collector.way(&formed, &["claim matches"]).context("the claim")?;
    assert_eq!(claimed.kind(), SpanKind::Client);
    claimed.says(&[("db.system.name", "postgresql"), ("db.collection.name", "matches")]);

    // One player's click leads here by parents, the other's by a link.
    let frames = collector
        .until("both players' frames", |c| {
            let frames: Vec<Seen> = c.named("matchmaker.add").cloned().collect();
            let written = frames.iter().all(|frame| c.way(frame, &["INSERT tickets"]).is_some());
            let joined = frames.iter().filter(|frame| c.way(frame, &["join match"]).is_some()).count();
            (frames.len() == 2 && written && joined == 1).then_some(frames)
        })
        .await?;
    let parent = frames.iter().find(|frame| frame.span.span_id == formed.span.parent_span_id).context("a frame")?;
    let other = frames.iter().find(|frame| frame.span.trace_id != parent.span.trace_id).context("another trace")?;
    let joined = collector.way(other, &["join match"]).context("the other's end")?;
    assert_eq!(joined.span.links.iter().map(|link| &link.span_id).collect::<Vec<_>>(), [&formed.span.span_id]);
    assert_eq!(formed.span.links.iter().map(|link| &link.span_id).collect::<Vec<_>>(), [&joined.span.span_id]);
    Ok(())
}

/// ```text
/// GET /api/v1/friends (gateway-0) ── ListFriends ── ListFriends (social-0) ── friends::list
/// ```
async fn request(cluster: &Cluster, collector: &mut Collector, ada: &Client) -> anyhow::Result<()> {
    let (status, _) = ada.account.get("/friends").await?;
    assert_eq!(status, 200);
    let list = "asobi.social.v1.FriendService/ListFriends";
    let chain = |c: &Collector| {
        let asked = c.named("GET /api/v1/friends").next()?.clone();
        let called = c.way(&asked, &[list])?;
        let served = c.way(&called, &[list])?;
        let read = c.way(&served, &["friends::list"])?;
        Some((asked, called, served, read))
    };
    let (asked, called, served, read) = collector.until("a request's trace", chain).await?;
    assert_eq!((asked.kind(), &asked.node), (SpanKind::Server, &cluster.gateway(0).node_id));
    asked.says(&[
        ("http.request.method", "GET"),
        ("http.route", "/api/v1/friends"),
        ("http.response.status_code", "200"),
        ("url.path", "/api/v1/friends"),
    ]);
    assert_eq!((called.kind(), &called.node), (SpanKind::Client, &asked.node));
    assert_eq!((served.kind(), served.node.as_str()), (SpanKind::Server, "social-0"));
    assert_eq!((read.kind(), read.node.as_str()), (SpanKind::Client, "social-0"));
    read.says(&[("db.system.name", "postgresql"), ("db.operation.name", "friends::list")]);
    Ok(())
}
