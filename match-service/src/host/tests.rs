//! A match with a database that is a vector, and with edges that remember what reached them.

mod bench;
mod database;
mod hosts;
mod matches;
mod moves;
mod operators;
mod streams;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use asobi_proto::{
    effect::{EffectBody, ScoreEffect},
    match_v1::AdoptMatchRequest,
    mode::ModeSettings,
};
use asobi_session::link::{Edge, FrameKind, MovedTo, SessionNo};
use asobi_store::{
    Error,
    checkpoints::{Adoption, Checkpoint},
    effects::Effect,
    matches::{Fence, ListingState, SeatTaken},
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value as Json;
use uuid::Uuid;

use super::{Adopted, Peers, Rows, Target};
use crate::game::{Backfill, Game, GameError, GameFactory, Joined, Outcome, Outside, Push, Setup, Timer};

/// What was written, and what shall be answered.
#[derive(Default)]
pub struct FakeRows {
    pub written: Mutex<Vec<String>>,
    pub effects: Mutex<Vec<Effect>>,
    /// Answers to the next wishes for a seat; none: taken.
    pub seats: Mutex<VecDeque<SeatTaken>>,
    /// So many ends fail before one succeeds.
    pub broken: AtomicU32,
    /// So many claims happen whose answers are lost.
    pub mute: AtomicU32,
    /// The row belongs to another host.
    pub not_ours: AtomicBool,
    /// Checkpoints are not answered.
    pub silent: AtomicBool,
    /// Milliseconds that a checkpoint takes.
    pub slow: AtomicU32,
    /// Bodies that were written.
    pub checkpoints: Mutex<Vec<Bytes>>,
}

impl FakeRows {
    fn note(&self, what: impl Into<String>) {
        self.written.lock().push(what.into());
    }

    fn ours(&self) -> bool {
        !self.not_ours.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Rows for FakeRows {
    async fn claim(&self, fence: Fence, _: String) -> Result<bool, Error> {
        self.note(format!("claim {}", fence.epoch));
        let left = self.mute.load(Ordering::SeqCst);
        if left > 0 {
            self.mute.store(left - 1, Ordering::SeqCst);
            return Err(Error::Deadline(Duration::ZERO));
        }
        Ok(self.ours())
    }

    async fn finish(&self, _: Fence, finished: bool, result: String, effects: Vec<Effect>) -> Result<bool, Error> {
        let left = self.broken.load(Ordering::SeqCst);
        if left > 0 {
            self.broken.store(left - 1, Ordering::SeqCst);
            return Err(Error::Deadline(Duration::ZERO));
        }
        self.effects.lock().extend(effects);
        self.note(format!("finish {finished} {result}"));
        Ok(self.ours())
    }

    async fn lose(&self, _: Fence, result: &'static str) -> Result<bool, Error> {
        self.note(format!("lose {result}"));
        Ok(self.ours())
    }

    async fn take_seat(&self, _: Fence, player: Uuid) -> Result<SeatTaken, Error> {
        self.note(format!("seat {}", player.as_u128()));
        tokio::task::yield_now().await;
        Ok(self.seats.lock().pop_front().unwrap_or(SeatTaken::Taken))
    }

    async fn give_up_seats(&self, _: Fence, players: Vec<Uuid>) -> Result<(), Error> {
        self.note(format!("give up {:?}", players.iter().map(Uuid::as_u128).collect::<Vec<_>>()));
        Ok(())
    }

    async fn put_listing(&self, _: Fence, _: ModeSettings, state: ListingState) -> Result<(), Error> {
        self.note(format!("list {} {} {}", state.running, state.player_count, state.joinable));
        Ok(())
    }

    async fn last_checkpoint(&self, fence: Fence) -> Result<Option<Vec<u8>>, Error> {
        self.note(format!("read {}", fence.epoch));
        Ok(self.checkpoints.lock().last().map(|body| body.to_vec()))
    }

    async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<bool, Error> {
        if self.silent.load(Ordering::SeqCst) {
            return Err(Error::Deadline(Duration::ZERO));
        }
        let slow = self.slow.load(Ordering::SeqCst);
        if slow > 0 {
            tokio::time::sleep(Duration::from_millis(slow.into())).await;
        }
        if !checkpoint.effects.is_empty() {
            self.note(format!("effects {}", checkpoint.effects.len()));
        }
        self.checkpoints.lock().extend(checkpoint.body);
        self.effects.lock().extend(checkpoint.effects);
        Ok(self.ours())
    }

    async fn adopt(&self, adoption: Adoption) -> Result<bool, Error> {
        self.note(format!("adopt {} {}", adoption.to.epoch, adoption.effects.len()));
        Ok(self.ours())
    }

    async fn reclaim(&self, fence: Fence) -> Result<bool, Error> {
        self.note(format!("reclaim {}", fence.epoch));
        Ok(self.ours())
    }

    async fn request_backfill(&self, _: Fence, asked: Backfill) -> Result<(), Error> {
        self.note(format!("backfill {} {}", asked.wanted, asked.properties));
        Ok(())
    }
}

/// Other hosts that answer as they are told, and remember what they were asked.
pub struct FakePeers {
    pub answer: Mutex<Adopted>,
    pub asked: Mutex<Vec<AdoptMatchRequest>>,
}

impl Default for FakePeers {
    fn default() -> Self {
        Self { answer: Mutex::new(Adopted::Yes), asked: Mutex::default() }
    }
}

#[async_trait]
impl Peers for FakePeers {
    async fn adopt(&self, _: &Target, request: AdoptMatchRequest) -> Adopted {
        self.asked.lock().push(request);
        self.answer.lock().clone()
    }
}

/// An edge that remembers.
#[derive(Default)]
pub struct FakeEdge {
    pub frames: Mutex<Vec<(Vec<u64>, FrameKind, String)>>,
    pub dropped: Mutex<Vec<u64>>,
    pub applied: Mutex<Vec<(u64, u64)>>,
    pub moved: Mutex<Vec<(u64, MovedTo)>>,
}

impl FakeEdge {
    /// The frames of that type that reached a session, parsed.
    pub fn seen(&self, session: u64, kind: &str) -> Vec<Json> {
        self.frames
            .lock()
            .iter()
            .filter(|(sessions, _, _)| sessions.contains(&session))
            .filter_map(|(_, _, frame)| serde_json::from_str::<Json>(frame).ok())
            .filter(|frame| frame["type"] == kind)
            .map(|mut frame| frame["payload"].take())
            .collect()
    }

    pub fn count(&self, kind: &str) -> usize {
        let prefix = format!("{{\"type\":\"{kind}\"");
        self.frames.lock().iter().filter(|(_, _, frame)| frame.starts_with(&prefix)).count()
    }
}

impl Edge for FakeEdge {
    fn deliver(&self, sessions: &[SessionNo], kind: FrameKind, frame: Bytes) {
        let frame = String::from_utf8(frame.to_vec()).expect("UTF-8");
        self.frames.lock().push((sessions.iter().map(|s| s.0).collect(), kind, frame));
    }

    fn dropped(&self, sessions: &[SessionNo], _: Uuid) {
        self.dropped.lock().extend(sessions.iter().map(|s| s.0));
    }

    fn applied(&self, inputs: &[(SessionNo, u64)]) {
        self.applied.lock().extend(inputs.iter().map(|(session, number)| (session.0, *number)));
    }

    fn moved(&self, sessions: &[SessionNo], to: &MovedTo) {
        self.moved.lock().extend(sessions.iter().map(|session| (session.0, to.clone())));
    }
}

/// A game in Rust that says what happens to it, in its state.
pub struct Diary {
    pages: Vec<String>,
    ticks: u32,
}

#[async_trait(?Send)]
impl Game for Diary {
    async fn init(&mut self, _: &mut Outcome) -> Result<(), GameError> {
        Ok(())
    }

    async fn join(&mut self, player: Uuid, ctx: Option<&str>, outcome: &mut Outcome) -> Result<Joined, GameError> {
        if ctx.is_some_and(|ctx| ctx.contains("odd")) || player.as_u128() == 66 {
            return Ok(Joined::Refused(Some("too_odd".into())));
        }
        self.pages.push(format!("join {}", player.as_u128()));
        outcome.pushes.push(Push::Message { player, message: "\"welcome\"".into() });
        Ok(Joined::Seated)
    }

    async fn leave(&mut self, player: Uuid, _: &mut Outcome) -> Result<(), GameError> {
        self.pages.push(format!("leave {}", player.as_u128()));
        Ok(())
    }

    async fn input(&mut self, player: Uuid, input: &str, outcome: &mut Outcome) -> Result<(), GameError> {
        self.pages.push(format!("{} {input}", player.as_u128()));
        if input.contains("score") {
            let score = ScoreEffect { board: "b".into(), player_id: player, score: 1.0, sub_score: 0.0 };
            outcome.effects.push(EffectBody::Score(score));
        }
        if input.contains("close") {
            outcome.joinable = Some(false);
        }
        if let Some(wanted) = input.split("ask ").nth(1).and_then(|rest| rest.get(..1)?.parse().ok()) {
            outcome.backfill = Some(Backfill { wanted, properties: r#"{"skill":7}"#.into() });
        }
        if input.contains("later") {
            outcome.timers.push(Timer { after: Duration::from_secs(3), name: "bell".into(), data: None });
        }
        assert!(!input.contains("panic"), "on purpose");
        if input.contains("finish") {
            outcome.finished = Some(r#"{"winner":1}"#.into());
        }
        if input.contains("fail") {
            return Err(GameError {
                script: "diary.rs".into(),
                line: Some(7),
                callback: "handle_input",
                message: "on purpose".into(),
                fatal: input.contains("fatal"),
            });
        }
        Ok(())
    }

    async fn tick(&mut self, _: &mut Outcome) -> Result<(), GameError> {
        self.ticks += 1;
        Ok(())
    }

    async fn state(&mut self, player: Option<Uuid>, json: &mut String, _: &mut Outcome) -> Result<(), GameError> {
        let state = serde_json::json!({"pages": self.pages, "you": player.map(|p| p.as_u128().to_string())});
        json.push_str(&state.to_string());
        Ok(())
    }

    async fn on_disconnect(&mut self, player: Uuid, _: &mut Outcome) -> Result<(), GameError> {
        self.pages.push(format!("lost {}", player.as_u128()));
        Ok(())
    }

    async fn on_reconnect(&mut self, player: Uuid, _: &mut Outcome) -> Result<(), GameError> {
        self.pages.push(format!("back {}", player.as_u128()));
        Ok(())
    }

    async fn timer(&mut self, timer: &Timer, _: &mut Outcome) -> Result<(), GameError> {
        self.pages.push(timer.name.clone());
        Ok(())
    }

    fn save(&mut self, out: &mut Vec<u8>) -> Result<(), GameError> {
        out.extend(serde_json::to_vec(&(self.ticks, &self.pages)).expect("JSON"));
        Ok(())
    }

    fn restore(&mut self, saved: &[u8], _: &[Uuid]) -> Result<(), GameError> {
        (self.ticks, self.pages) = serde_json::from_slice(saved).expect("JSON");
        Ok(())
    }
}

/// Makes diaries.
pub struct Diaries(pub ModeSettings);

impl GameFactory for Diaries {
    fn settings(&self) -> &ModeSettings {
        &self.0
    }

    fn create(&self, _: &Setup, _: Arc<dyn Outside>) -> Result<Box<dyn Game>, GameError> {
        Ok(Box::new(Diary { pages: Vec::new(), ticks: 0 }))
    }
}

pub fn player(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

pub fn edge() -> Arc<FakeEdge> {
    Arc::default()
}
