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
        actor::Actor,
        mailbox::{MatchHandle, Message, mailbox},
        port::Port,
        room::{Manners, Room},
    },
    Diaries, FakeEdge, FakeRows, player,
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
    pub task: tokio::task::JoinHandle<()>,
}

impl Bench {
    /// Starts a match of diaries. Call within a LocalSet.
    pub async fn start(settings: ModeSettings, players: &[u128]) -> Self {
        Self::with(&Diaries(settings), players, false).await
    }

    pub async fn with(factory: &dyn GameFactory, players: &[u128], dev_errors: bool) -> Self {
        let rows = Arc::new(FakeRows::default());
        let (handle, inbox) = mailbox(MATCH, 1, 8, Handle::current());
        let setup = Setup::new(MATCH, "diary");
        let players: Vec<Uuid> = players.iter().copied().map(player).collect();
        let game = factory.create(&setup, Arc::new(Nowhere)).expect("creates");
        let settings = factory.settings().clone();
        let room = Room::start(game, setup, settings, Manners { dev_errors }, &players).await.expect("starts");
        let fence = Fence { match_id: MATCH, host_node: "h".into(), host_incarnation: 1, epoch: 1 };
        let actor = Actor::new(room, fence, inbox, Arc::clone(&rows) as _);
        let task = tokio::task::spawn_local(actor.run());
        Self { handle, rows, task }
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
        self.handle.post(Message::Detach { session: (port.number, SessionNo(session)) });
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
