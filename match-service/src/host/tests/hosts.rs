//! How matches come to a host, and that they leave each other alone.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_proto::mode::ModeSettings;
use asobi_session::link::{Edge, Entry, MatchLink, SessionNo};
use bytes::Bytes;
use serde_json::json;
use uuid::Uuid;

use super::{
    super::{AddError, Addition, CreateError, Host, HostDeps, HostLink, Manners, NewMatch, Origin, Port, Stop, Trust},
    Diaries, FakeEdge, FakePeers, FakeRows, edge, player,
};
use crate::{
    game::Registry,
    lua::{self, Limits},
    outside::Nowhere,
};

pub(super) fn host(registry: Registry, capacity: usize) -> (Arc<Host>, Arc<FakeRows>) {
    let rows = Arc::new(FakeRows::default());
    let host = Host::start(HostDeps {
        node_id: "h".into(),
        incarnation: 7,
        registry,
        rows: Arc::clone(&rows) as _,
        outside: Arc::new(Nowhere),
        peers: Arc::new(FakePeers::default()),
        trust: Arc::new(Trust::unbounded()),
        manners: Manners { dev_errors: true },
        capacity,
        input_limit: 64,
        workers: 2,
        on_load: Box::new(|_| {}),
    })
    .expect("threads");
    (host, rows)
}

pub(super) fn diaries() -> Registry {
    let mut registry = Registry::default();
    registry.register("diary", Arc::new(Diaries(ModeSettings::default())));
    registry
}

pub(super) fn new(id: u128, mode: &str) -> NewMatch {
    NewMatch {
        match_id: Uuid::from_u128(id),
        mode: mode.into(),
        epoch: 1,
        term: 5,
        host_incarnation: 7,
        players: vec![player(1), player(2)],
        teams: Vec::new(),
        origin: Origin::New,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_fenced_and_idempotent() {
    let (host, rows) = host(diaries(), 2);
    assert_eq!(host.create(new(1, "diary")).await, Ok(()));
    assert_eq!(host.create(new(1, "diary")).await, Ok(()));
    assert_eq!(*rows.written.lock(), ["claim 1"]);
    assert_eq!(host.running(Uuid::from_u128(1)), Some(1));
    let fenced = |result| matches!(result, Err(CreateError::Fenced(_)));
    assert!(fenced(host.create(NewMatch { host_incarnation: 6, ..new(2, "diary") }).await));
    assert!(fenced(host.create(NewMatch { term: 4, ..new(2, "diary") }).await));
    assert!(fenced(host.create(NewMatch { epoch: 0, ..new(1, "diary") }).await));
    assert_eq!(host.create(new(2, "chess")).await, Err(CreateError::UnknownMode("chess".into())));
    assert_eq!(host.create(NewMatch { term: 0, ..new(2, "diary") }).await, Ok(()), "no leader, no term");
    assert_eq!(host.create(new(3, "diary")).await, Err(CreateError::Full));
    host.drain();
    host.stop_all(Stop::HostStopped);
    assert!(host.emptied(Duration::from_secs(10)).await);
    assert_eq!(host.create(new(3, "diary")).await, Err(CreateError::Draining));
}

#[tokio::test(flavor = "multi_thread")]
async fn players_are_added_under_the_same_fences() {
    let mut registry = Registry::default();
    registry.register("diary", Arc::new(Diaries(ModeSettings { max_players: 4, ..ModeSettings::default() })));
    let (host, rows) = host(registry, 2);
    let addition = |players: &[u128]| Addition {
        match_id: Uuid::from_u128(1),
        epoch: 1,
        term: 5,
        host_incarnation: 7,
        players: players.iter().copied().map(player).collect(),
    };
    assert_eq!(host.add_players(addition(&[3])).await, Err(AddError::NotHere));
    host.create(new(1, "diary")).await.expect("made");
    // One is there already, one the game refuses, one finds no room.
    assert_eq!(host.add_players(addition(&[2, 66, 3, 4, 5])).await, Ok(vec![player(2), player(3), player(4)]));
    assert_eq!(host.add_players(addition(&[3])).await, Ok(vec![player(3)]), "asked again");
    let fenced = |result| matches!(result, Err(AddError::Fenced(_)));
    assert!(fenced(host.add_players(Addition { epoch: 2, ..addition(&[3]) }).await));
    assert!(fenced(host.add_players(Addition { term: 4, ..addition(&[3]) }).await));
    assert!(fenced(host.add_players(Addition { host_incarnation: 6, ..addition(&[3]) }).await));
    assert_eq!(*rows.written.lock(), ["claim 1"], "rows of seats are the leader's to write");
    host.stop_all(Stop::HostStopped);
    assert!(host.emptied(Duration::from_secs(10)).await);
    assert_eq!(host.add_players(addition(&[3])).await, Err(AddError::NotHere));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_no_match() {
    let (host, rows) = host(diaries(), 2);
    rows.not_ours.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(host.create(new(1, "diary")).await, Err(CreateError::Fenced(_))));
    assert!(host.emptied(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_may_have_been_claimed_is_ended_before_anybody_hears_that_it_was_not() {
    let (host, rows) = host(diaries(), 2);
    rows.mute.store(2, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(host.create(new(1, "diary")).await, Ok(()), "asked again");
    rows.mute.store(3, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(host.create(new(2, "diary")).await, Err(CreateError::Unclaimed));
    assert_eq!(rows.written.lock().last().map(String::as_str), Some(r#"lose {"error":"host_failed"}"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn matches_and_rows_are_compared() {
    let (host, _) = host(diaries(), 5);
    host.create(new(1, "diary")).await.expect("made");
    host.create(new(2, "diary")).await.expect("made");
    let without = host.compare(&[(Uuid::from_u128(1), 1), (Uuid::from_u128(9), 3)], Instant::now());
    assert_eq!(without, [(Uuid::from_u128(9), 3)]);
    while host.count() > 1 {
        tokio::task::yield_now().await;
    }
    assert!(host.find(Uuid::from_u128(1)).is_some());
}

struct Player {
    link: HostLink,
    edge: Arc<FakeEdge>,
}

impl Player {
    async fn enters(host: &Arc<Host>, id: u128) -> Self {
        let edge = edge();
        let link = HostLink { host: Arc::clone(host), port: Port::new("g#1", Arc::clone(&edge) as Arc<dyn Edge>) };
        let entry = Entry { session: SessionNo(1), player_id: player(1), match_id: Uuid::from_u128(id), join: None };
        link.enter(entry).await.expect("enters");
        Self { link, edge }
    }

    fn says(&self, number: u64, input: serde_json::Value) {
        self.link.input(SessionNo(1), number, Bytes::from(input.to_string())).expect("taken");
    }

    async fn sees(&self, what: impl Fn(&FakeEdge) -> bool) {
        let seen = tokio::time::timeout(Duration::from_secs(30), async {
            while !what(&self.edge) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(seen.await.is_ok(), "saw only {:?}", self.edge.frames.lock().last());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_script_costs_only_its_own_match() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/games");
    let limits = Limits { memory_bytes: 4 << 20, callback: Duration::from_millis(20) };
    let (registry, _) = lua::load(&scripts, limits).expect("loads");
    let (host, rows) = host(registry, 10);
    for id in 1..=3 {
        host.create(new(id, "chaos")).await.expect("made");
    }
    let (bad, worse, good) =
        (Player::enters(&host, 1).await, Player::enters(&host, 2).await, Player::enters(&host, 3).await);
    for (number, cmd) in (1..).zip(["error", "loop", "broadcast", "send"]) {
        bad.says(number, json!({"cmd": cmd}));
    }
    bad.sees(|edge| {
        edge.count("module.error") == 2 && edge.count("match.shout") == 1 && edge.count("module.message") == 1
    })
    .await;
    worse.says(1, json!({"cmd": "memory"}));
    worse.sees(|edge| edge.count("match.finished") == 1).await;
    assert_eq!(worse.edge.seen(1, "match.finished")[0]["result"], json!({"error": "out_of_memory"}));
    good.says(1, json!({"cmd": "count"}));
    good.sees(|edge| edge.seen(1, "match.state").last().is_some_and(|state| state["count"] == 1)).await;
    let before = bad.edge.count("match.state");
    bad.sees(|edge| edge.count("match.state") > before).await;
    assert_eq!(rows.written.lock().iter().filter(|w| w.starts_with("finish")).count(), 1);
}
