//! Matches that go on elsewhere, and the inputs of those who play them: none is lost, none counts twice.

use asobi_proto::{
    bus::{InboxAction, InboxEvent},
    match_v1::FrameKind,
};
use asobi_session::link::{MovedTo, SessionNo};
use serde_json::json;
use sqlx::Executor as _;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    client::Client,
    cluster::{Cluster, PATIENCE, Place},
    host::{Numbers, Running},
    matches::{all_know, matched, tell},
};

type Inputs = mpsc::Receiver<(Uuid, u64, String)>;

/// Frames are not counted: these clients are in a hurry.
const HURRY: [(&str, &str); 1] = [("limits.frames_per_second", "0")];

async fn play(client: &mut Client, inputs: std::ops::RangeInclusive<u64>) -> anyhow::Result<()> {
    for n in inputs {
        client.send(json!({"type": "match.input", "payload": {"n": n}})).await?;
    }
    Ok(())
}

/// The next inputs that hosts apply are these, once and in order.
async fn applied(host: &mut Inputs, inputs: std::ops::RangeInclusive<u64>) -> anyhow::Result<()> {
    for n in inputs {
        let (_, number, text) = tokio::time::timeout(PATIENCE, host.recv()).await?.expect("the host lives");
        assert_eq!((number, text), (n, format!(r#"{{"n":{n}}}"#)));
    }
    Ok(())
}

async fn until(what: &str, holds: impl Fn() -> bool) -> anyhow::Result<()> {
    let holding = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, holding).await.map_err(|_| anyhow::anyhow!("never: {what}"))
}

fn event(client_event: &str) -> String {
    json!({"type": client_event, "payload": {}}).to_string()
}

async fn into_match(cluster: &Cluster, player: Uuid, client: &mut Client, id: Uuid) -> anyhow::Result<()> {
    tell(cluster, player, &matched(id)?).await?;
    client.expect("match.matched").await?;
    client.expect("match.state").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_input_is_lost_or_doubled_when_a_stream_breaks_among_them() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &HURRY).await?;
    let mut host = Running::start(&cluster.db).await?;
    all_know(&cluster, "host-0").await?;
    let (ada_id, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let id = host.seat("arena", &[ada_id]).await?;
    into_match(&cluster, ada_id, &mut ada, id).await?;
    for round in 0..4 {
        let first = round * 30 + 1;
        play(&mut ada, first..=first + 9).await?;
        // Somewhere among those that are on their way, and then again.
        host.host.cut();
        play(&mut ada, first + 10..=first + 19).await?;
        host.host.cut();
        play(&mut ada, first + 20..=first + 29).await?;
        applied(&mut host.inputs, first..=first + 29).await?;
        host.host.save(id);
    }
    host.end().await;
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_match_moves_between_hosts_while_its_players_play() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &HURRY).await?;
    let mut from = Running::start(&cluster.db).await?;
    let mut to = Running::named(&cluster.db, "host-1").await?;
    for host in ["host-0", "host-1"] {
        all_know(&cluster, host).await?;
    }
    let (ada_id, mut ada) = cluster.connected("ada", 0, &[]).await?;
    let (bo_id, mut bo) = cluster.connected("bob", 1, &["migrate"]).await?;
    let id = from.seat("arena", &[ada_id, bo_id]).await?;
    into_match(&cluster, ada_id, &mut ada, id).await?;
    into_match(&cluster, bo_id, &mut bo, id).await?;
    assert_eq!(bo.expect("match.migrate").await?["payload"]["node_id"], "host-0");

    play(&mut ada, 1..=20).await?;
    applied(&mut from.inputs, 1..=5).await?;
    from.hand_over(id, &to, 2).await?;
    play(&mut ada, 21..=40).await?;
    // The old host had applied some; the new one has all that come after, and none of those again.
    let (mut old, mut new) = (Vec::new(), Vec::new());
    let all = async {
        while old.len() + new.len() < 35 {
            tokio::select! {
                Some(input) = from.inputs.recv() => old.push(input.1),
                Some(input) = to.inputs.recv() => new.push(input.1),
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await?;
    old.append(&mut new);
    assert_eq!(old, (6..=40).collect::<Vec<_>>());
    let offer = bo.expect("match.migrate").await?["payload"].clone();
    assert_eq!((&offer["reason"], &offer["node_id"]), (&json!("drained"), &json!("host-1")));
    to.host.broadcast(id, FrameKind::Event, &event("match.there"));
    for client in [&mut ada, &mut bo] {
        client.expect("match.there").await?;
    }
    // What the old host still says is for nobody, and takes nobody's seat.
    from.host.haunt(id, &event("match.ghost"));
    play(&mut ada, 41..=41).await?;
    applied(&mut to.inputs, 41..=41).await?;
    to.host.broadcast(id, FrameKind::Event, &event("match.later"));
    ada.expect("match.later").await?;
    assert!(ada.so_far().await?.iter().all(|frame| frame["type"] != "match.ghost"));
    from.end().await;
    to.end().await;
    cluster.end().await
}

/// A cluster of one gateway and one host that holds players itself, with a session there that plays a match of `host-0`.
struct Near {
    cluster: Cluster,
    host: Running,
    player: Uuid,
    client: Client,
}

impl Near {
    async fn start() -> anyhow::Result<Self> {
        let mut cluster = Cluster::start(1, &[]).await?;
        cluster.nodes.push(Place::with_matches(&cluster.db, "near").await?);
        let host = Running::start(&cluster.db).await?;
        all_know(&cluster, "host-0").await?;
        let (player, client) = cluster.connected("ada", 1, &[]).await?;
        Ok(Self { cluster, host, player, client })
    }

    fn place(&self) -> &Place {
        &self.cluster.nodes[1]
    }

    fn mirror(&self) -> &crate::cluster::Mirror {
        self.place().mirror.as_deref().expect("it runs matches")
    }

    fn incarnation(&self) -> i64 {
        self.place().node.membership.identity().incarnation
    }

    async fn end(self) -> anyhow::Result<()> {
        self.host.end().await;
        self.cluster.end().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn players_on_the_node_of_their_match_go_on_when_it_leaves() -> anyhow::Result<()> {
    let mut near = Near::start().await?;
    let id = near.host.seat("arena", &[near.player]).await?;
    let row =
        format!("UPDATE matches SET host_node = 'near', host_incarnation = {} WHERE id = '{id}'", near.incarnation());
    near.cluster.db.pool.execute(sqlx::AssertSqlSafe(row)).await?;
    tell(&near.cluster, near.player, &matched(id)?).await?;
    near.client.expect("match.matched").await?;
    play(&mut near.client, 1..=10).await?;
    near.client.wait(|frame| frame["payload"]["n"] == 10).await?;

    let frozen = near.mirror().freeze(id);
    let origin = format!("near#{}", near.incarnation());
    let numbers: Numbers = frozen.iter().map(|(no, number)| ((origin.clone(), no.0), *number)).collect();
    near.host.adopt(id, 2, numbers).await?;
    play(&mut near.client, 11..=15).await?;
    let to = near.host.node.membership.identity();
    near.mirror().moved(&MovedTo { match_id: id, node_id: to.node_id.clone(), incarnation: to.incarnation, epoch: 2 });
    play(&mut near.client, 16..=20).await?;
    let here = near.mirror().taken();
    assert_eq!(here, (1..=here.len() as u64).collect::<Vec<_>>());
    applied(&mut near.host.inputs, here.len() as u64 + 1..=20).await?;
    near.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_match_comes_to_the_node_of_its_players() -> anyhow::Result<()> {
    let mut near = Near::start().await?;
    let id = near.host.seat("arena", &[near.player]).await?;
    into_match(&near.cluster, near.player, &mut near.client, id).await?;
    play(&mut near.client, 1..=10).await?;
    applied(&mut near.host.inputs, 1..=4).await?;

    let frozen = near.host.host.freeze(id);
    play(&mut near.client, 11..=15).await?;
    near.mirror().adopt(frozen.iter().map(|((_, session), number)| (SessionNo(*session), *number)));
    let row = format!(
        "UPDATE matches SET host_node = 'near', host_incarnation = {}, epoch = 2 WHERE id = '{id}'",
        near.incarnation()
    );
    near.cluster.db.pool.execute(sqlx::AssertSqlSafe(row)).await?;
    near.host.host.moved(id, "near", near.incarnation(), 2);
    near.client.wait(|frame| frame["payload"]["n"] == 15).await?;
    let first = frozen.values().copied().max().unwrap_or(0) + 1;
    assert_eq!(near.mirror().taken(), (first..=15).collect::<Vec<_>>());
    play(&mut near.client, 16..=16).await?;
    near.client.wait(|frame| frame["payload"]["n"] == 16).await?;
    near.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_taken_for_dead_costs_no_input_and_reaches_nobody_again() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &HURRY).await?;
    let mut dead = Running::start(&cluster.db).await?;
    let mut next = Running::named(&cluster.db, "host-1").await?;
    for host in ["host-0", "host-1"] {
        all_know(&cluster, host).await?;
    }
    let (ada_id, mut ada) = cluster.connected("ada", 0, &["migrate"]).await?;
    let id = dead.seat("arena", &[ada_id]).await?;
    into_match(&cluster, ada_id, &mut ada, id).await?;
    ada.expect("match.migrate").await?;
    play(&mut ada, 1..=10).await?;
    applied(&mut dead.inputs, 1..=10).await?;
    let checkpoint = dead.host.save(id);
    play(&mut ada, 11..=20).await?;
    applied(&mut dead.inputs, 11..=20).await?;
    // Its stream stands, its lease does not.
    dead.host.stop();
    dead.node.membership.leave().await;
    play(&mut ada, 21..=25).await?;
    let on_its_way = format!("UPDATE matches SET state = 'allocating' WHERE id = '{id}'");
    next.host.forget(id);
    next.take_row(id, 2).await?;
    cluster.db.pool.execute(sqlx::AssertSqlSafe(on_its_way)).await?;
    // The next host is asked before it has the match, and again.
    until("the sessions look for their match", || next.host.refused() > 0).await?;
    next.adopt(id, 2, checkpoint).await?;
    let runs = format!("UPDATE matches SET state = 'running' WHERE id = '{id}'");
    cluster.db.pool.execute(sqlx::AssertSqlSafe(runs)).await?;
    // The lost second is played again, and then what came while there was no host.
    applied(&mut next.inputs, 11..=25).await?;
    let offer = ada.expect("match.migrate").await?["payload"].clone();
    assert_eq!((&offer["reason"], &offer["node_id"]), (&json!("failed_over"), &json!("host-1")));

    dead.host.haunt(id, &event("match.ghost"));
    play(&mut ada, 26..=26).await?;
    applied(&mut next.inputs, 26..=26).await?;
    next.host.broadcast(id, FrameKind::Event, &event("match.there"));
    ada.expect("match.there").await?;
    assert!(ada.so_far().await?.iter().all(|frame| frame["type"] != "match.ghost"));
    dead.end().await;
    next.end().await;
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_connects_while_the_row_names_a_dead_host_ends_up_at_the_next() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let dead = Running::start(&cluster.db).await?;
    let next = Running::named(&cluster.db, "host-1").await?;
    for host in ["host-0", "host-1"] {
        all_know(&cluster, host).await?;
    }
    let ada = cluster.player("ada").await?;
    let id = dead.seat("arena", &[ada.player_id]).await?;
    dead.host.stop();
    dead.node.membership.leave().await;
    let mut client = Client::open(&cluster.nodes[0].ws).await?;
    let connected = client.connect(&ada.tokens.access_token, &[]).await?;
    assert_eq!(connected["match_id"], json!(id));
    next.take_row(id, 2).await?;
    client.expect("match.state").await?;
    assert_eq!(next.host.attached(id), 1);
    dead.end().await;
    next.end().await;
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_a_moment_old_costs_nobody_the_seat() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let first = Running::start(&cluster.db).await?;
    let second = Running::named(&cluster.db, "host-1").await?;
    for host in ["host-0", "host-1"] {
        all_know(&cluster, host).await?;
    }
    let ada = cluster.player("ada").await?;
    let id = first.seat("arena", &[ada.player_id]).await?;
    first.host.forget(id);
    let mut client = Client::open(&cluster.nodes[0].ws).await?;
    let moving = async {
        until("the first host is asked", || first.host.refused() > 0).await?;
        second.take_row(id, 2).await
    };
    let (connected, moved) = tokio::join!(client.connect(&ada.tokens.access_token, &[]), moving);
    moved?;
    assert_eq!(connected?["match_id"], json!(id));
    client.expect("match.state").await?;
    assert_eq!(second.host.attached(id), 1);

    // A host that is a moment behind its row.
    second.host.forget(id);
    let refused = second.host.refused();
    let mut again = Client::open(&cluster.nodes[0].ws).await?;
    let late = async {
        until("the host is asked", || second.host.refused() > refused).await?;
        second.host.knows(id);
        anyhow::Ok(())
    };
    let (connected, known) = tokio::join!(again.connect(&ada.tokens.access_token, &[]), late);
    known?;
    assert_eq!(connected?["match_id"], json!(id));
    again.expect("match.state").await?;

    // A match that is over is not sought.
    let over = format!(
        "DELETE FROM match_players WHERE match_id = '{id}'; UPDATE matches SET state = 'finished' WHERE id = '{id}';"
    );
    cluster.db.pool.execute(sqlx::AssertSqlSafe(over)).await?;
    second.host.finish(id);
    second.host.forget(id);
    assert_eq!(again.refused("match.join", json!({"match_id": id})).await?, "match_not_found");
    first.end().await;
    second.end().await;
    cluster.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn word_of_a_failover_attaches_every_session_once() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, &[]).await?;
    let old = Running::start(&cluster.db).await?;
    let next = Running::named(&cluster.db, "host-1").await?;
    for host in ["host-0", "host-1"] {
        all_know(&cluster, host).await?;
    }
    let ada = cluster.player("ada").await?;
    let id = old.seat("arena", &[ada.player_id]).await?;
    let mut clients = Vec::new();
    for place in &cluster.nodes {
        let mut client = Client::open(&place.ws).await?;
        client.connect(&ada.tokens.access_token, &["migrate"]).await?;
        client.expect("match.state").await?;
        clients.push(client);
    }
    next.take_row(id, 2).await?;
    let moved = InboxEvent { frame: None, action: Some(InboxAction::Moved { match_id: id }) };
    tell(&cluster, ada.player_id, &moved).await?;
    for client in &mut clients {
        let offer = client.expect("match.migrate").await?["payload"].clone();
        assert_eq!((&offer["reason"], &offer["node_id"]), (&json!("failed_over"), &json!("host-1")));
    }
    // Said again, it changes nothing.
    tell(&cluster, ada.player_id, &moved).await?;
    let frame = serde_json::value::RawValue::from_string(event("x.y"))?;
    tell(&cluster, ada.player_id, &InboxEvent { frame: Some(frame), action: None }).await?;
    for client in &mut clients {
        client.expect("x.y").await?;
        let since = client.so_far().await?;
        assert!(since.iter().all(|frame| frame["type"] != "match.migrate"), "{since:?}");
    }
    assert_eq!(next.host.attached(id), 2);
    until("the old host is left", || old.host.attached(id) == 0).await?;
    old.end().await;
    next.end().await;
    cluster.end().await
}
