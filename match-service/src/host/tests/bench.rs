//! One match in a paused clock, driven message by message.

use std::{sync::Arc, time::Duration};

use asobi_proto::mode::ModeSettings;
use asobi_session::link::{Edge, Entered, LinkError, SessionNo};
use asobi_store::matches::Fence;
use bytes::Bytes;
use tokio::{runtime::Handle, sync::oneshot, task::yield_now};
use uuid::Uuid;

use super::{
    super::{
        Trust,
        actor::{Actor, Surroundings},
        mailbox::{MatchHandle, Message, mailbox},
        meters::Meters,
        port::Port,
        room::{Ground, Manners, Room},
    },
    Diaries, FakeEdge, FakePeers, FakeRows, player,
};
use crate::{
    game::{GameFactory, Setup},
    outside::Nowhere,
};

pub const MATCH: Uuid = Uuid::from_u128(0xabc);

/// A running match and its surroundings.
pub struct Bench {
    pub handle: MatchHandle,
    pub rows: Arc<FakeRows>,
    pub peers: Arc<FakePeers>,
    pub task: tokio::task::JoinHandle<()>,
}

/// What a match of diaries stands on.
pub fn ground(factory: &dyn GameFactory, dev_errors: bool, trust: &Arc<Trust>) -> Ground {
    let setup = Setup::new(MATCH, "diary");
    Ground {
        game: factory.create(&setup, Arc::new(Nowhere)).expect("creates"),
        setup,
        settings: factory.settings().clone(),
        manners: Manners { dev_errors },
        trust: Arc::clone(trust),
        meters: Arc::new(Meters::new()),
        stored: Arc::default(),
        outside: Arc::new(Nowhere),
        void: Arc::default(),
    }
}

impl Bench {
    /// Starts a match of diaries. Call within a LocalSet.
    pub async fn start(settings: ModeSettings, players: &[u128]) -> Self {
        Self::with(&Diaries(settings), players, false).await
    }

    pub async fn with(factory: &dyn GameFactory, players: &[u128], dev_errors: bool) -> Self {
        let trust = Arc::new(Trust::unbounded());
        let players: Vec<Uuid> = players.iter().copied().map(player).collect();
        let room = Room::start(ground(factory, dev_errors, &trust), &players).await.expect("starts");
        Self::of(room, trust)
    }

    /// A match that goes on from a snapshot.
    pub async fn restored(settings: ModeSettings, body: &[u8], rows: Option<&[u128]>) -> Self {
        let trust = Arc::new(Trust::unbounded());
        let rows: Option<Vec<Uuid>> = rows.map(|rows| rows.iter().copied().map(player).collect());
        let ground = ground(&Diaries(settings), false, &trust);
        Self::of(Room::restore(ground, body, rows.as_deref()).await.expect("restores"), trust)
    }

    pub fn of(room: Room, trust: Arc<Trust>) -> Self {
        let (rows, peers) = (Arc::<FakeRows>::default(), Arc::<FakePeers>::default());
        let (handle, inbox) = mailbox(MATCH, 1, 8, Handle::current());
        let fence = Fence { match_id: MATCH, host_node: "h".into(), host_incarnation: 1, epoch: 1 };
        let around =
            Surroundings { rows: Arc::clone(&rows) as _, peers: Arc::clone(&peers) as _, trust, version: "v1".into() };
        let task = tokio::task::spawn_local(Actor::new(room, fence, inbox, around).run());
        Self { handle, rows, peers, task }
    }

    pub async fn enter(
        &self,
        port: &Arc<Port>,
        session: u64,
        n: u128,
        join: Option<&str>,
    ) -> Result<Entered, LinkError> {
        let (reply, answer) = oneshot::channel();
        self.handle.post(Message::Enter {
            port: Arc::clone(port),
            session: SessionNo(session),
            player: player(n),
            join: join.map(str::to_owned),
            reply,
        });
        answer.await.unwrap_or(Err(LinkError::Unavailable))
    }

    pub async fn leave(&self, port: &Arc<Port>, session: u64) {
        let (reply, answer) = oneshot::channel();
        self.handle.post(Message::Leave { session: (port.number, SessionNo(session)), reply });
        let _ = answer.await;
    }

    pub fn input(&self, port: &Arc<Port>, session: u64, number: u64, text: &'static str) -> Result<(), LinkError> {
        self.handle.input((port.number, SessionNo(session)), number, Bytes::from_static(text.as_bytes()))
    }

    pub fn detach(&self, port: &Arc<Port>, session: u64) {
        self.handle.post(Message::Detach { session: (port.number, SessionNo(session)), follows: false });
    }

    pub fn written(&self) -> Vec<String> {
        self.rows.written.lock().clone()
    }
}

pub fn port(edge: &Arc<FakeEdge>, origin: &str) -> Arc<Port> {
    Port::new(origin, Arc::clone(edge) as Arc<dyn Edge>)
}

/// Lets everything happen that happens within that time, the clock being paused.
pub async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    for _ in 0..20 {
        yield_now().await;
    }
}

/// Runs a test's body where matches can be spawned.
pub async fn local(body: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(body).await;
}
