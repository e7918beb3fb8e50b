//! What is written of a match so that it can go on elsewhere, and what waits until it is.

use std::{
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use asobi_proto::match_v1::{SavedBackfill, SavedInput, SavedTimer, Snapshot, Team};
use asobi_session::link::{FrameKind, MovedTo};
use asobi_store::effects::Effect;
use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;

use super::{Due, Ground, Op, Phase, Room};
use crate::{
    game::{Backfill, Game, GameError, GameFactory, Timer},
    host::{
        mailbox::Mailbox,
        moment::Moment,
        schedule::TickClock,
        seats::{Safe, Seats},
    },
};

/// Frames that may wait for one commit.
const HELD: usize = 1_024;
/// The format that is written; an older reader refuses a newer one.
const FORMAT: u32 = 1;

/// A frame that leaves later.
pub enum Held {
    All(FrameKind, Bytes),
    Player(Uuid, FrameKind, Bytes),
}

/// What one checkpoint writes, and what is due once it is committed.
pub struct Taken {
    /// None: nothing of the state has changed, or it cannot be saved.
    pub body: Option<Bytes>,
    pub effects: Vec<Effect>,
    /// Somebody is told of it.
    pub durable: bool,
    /// The state as it was then, which may be saved already. False: it cannot be.
    pub at: Instant,
    pub whole: bool,
    held: Vec<Held>,
    safe: Vec<Safe>,
}

impl Taken {
    /// Whether there is anything to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.body.is_none() && self.effects.is_empty()
    }
}

impl Room {
    pub(in crate::host) fn checkpoint_interval(&self) -> Duration {
        Duration::from_millis(self.settings.checkpoint_interval_ms)
    }

    pub(super) fn want_checkpoint(&mut self) {
        if !self.ops.iter().any(|op| matches!(op, Op::Checkpoint)) {
            self.ops.push_back(Op::Checkpoint);
        }
    }

    /// The match as it is, encoded.
    ///
    /// # Errors
    /// The game cannot be saved as it is.
    pub fn snapshot(&mut self) -> Result<Bytes, GameError> {
        let mut game = Vec::new();
        self.game.save(&mut game)?;
        let team = |players: &Vec<Uuid>| Team { players: players.iter().map(Uuid::to_string).collect() };
        let timer = |due: &Due| SavedTimer {
            due_at_ms: due.at.unix_ms,
            name: due.timer.name.clone(),
            data: due.timer.data.clone().unwrap_or_default().into(),
        };
        let mut timers: Vec<&Due> = self.timers.iter().collect();
        timers.sort_unstable_by_key(|due| due.number);
        let snapshot = Snapshot {
            format: FORMAT,
            game: game.into(),
            seats: self.seats.save(),
            inputs: self
                .inputs
                .iter()
                .map(|(player, payload)| SavedInput { player_id: player.to_string(), payload: payload.clone() })
                .collect(),
            timers: timers.into_iter().map(timer).collect(),
            running: self.phase == Phase::Running,
            joinable: self.joinable,
            next_ordinal: self.next_ordinal,
            backfill: self
                .backfill
                .as_ref()
                .map(|asked| SavedBackfill { wanted: asked.wanted, properties: asked.properties.clone() }),
            teams: self.setup.teams.iter().map(team).collect(),
        };
        Ok(snapshot.encode_to_vec().into())
    }

    /// Takes what is to be written now. Frames that waited for it go along.
    pub fn checkpoint(&mut self) -> Taken {
        self.checkpoint_at = tokio::time::Instant::now() + self.checkpoint_interval();
        let body = match self.snapshot() {
            Ok(body) => Some(body),
            Err(error) => {
                self.failed(None, &error);
                None
            }
        };
        let hash = body.as_ref().map(|body| BuildHasherDefault::<DefaultHasher>::new().hash_one(body));
        let void = self.void.load(Ordering::Acquire);
        let changed = hash.is_some() && (hash != self.written || void != self.written_in);
        self.written_in = void;
        self.written = hash.or(self.written);
        if !changed {
            self.meters.unchanged.increment(1);
        }
        let held = std::mem::take(&mut self.held);
        self.held_in_flight = !held.is_empty();
        Taken {
            body: body.filter(|_| changed).inspect(|body| self.meters.checkpoint_bytes.record(body.len() as f64)),
            at: Instant::now(),
            whole: hash.is_some(),
            durable: !held.is_empty() || !self.effects.is_empty(),
            effects: self.effects.clone(),
            held,
            safe: self.seats.unsafe_inputs(),
        }
    }

    /// It is committed, or there was nothing to commit.
    pub fn checkpointed(&mut self, taken: Taken) {
        let upto = taken.effects.last().map_or(0, |effect| effect.ordinal);
        self.effects.retain(|effect| effect.ordinal > upto);
        self.stored.written(upto);
        self.release(taken.held);
        self.held_in_flight = false;
        if !self.must_commit_first() {
            // The doubt is over: what was said behind the frames that waited has waited for their order alone.
            let held = std::mem::take(&mut self.held);
            self.release(held);
        }
        for (port, inputs) in &taken.safe {
            port.applied(inputs);
        }
    }

    pub(super) fn release(&mut self, held: Vec<Held>) {
        for held in held {
            match held {
                Held::All(kind, frame) => self.seats.deliver_all(kind, &frame),
                Held::Player(player, kind, frame) => self.seats.deliver(player, kind, &frame),
            }
        }
    }

    /// Whether frames wait for a checkpoint's commit, which also proves that the match is still ours.
    fn must_commit_first(&self) -> bool {
        self.turn_based() || !self.trust.holds()
    }

    /// Whether a frame waits: for a commit, or for frames before it that do.
    fn holds_back(&self) -> bool {
        self.held_in_flight || !self.held.is_empty() || self.must_commit_first()
    }

    /// Whether so much waits for a commit that no more input is taken: the database has been away for long.
    pub(super) fn is_choked(&self) -> bool {
        self.held.len() >= HELD
    }

    /// A state that waits is replaced by a later one.
    fn hold(&mut self, held: Held) {
        match &held {
            Held::All(FrameKind::State, _) => self.held.retain(|held| !matches!(held, Held::All(FrameKind::State, _))),
            Held::Player(player, FrameKind::State, _) => self.held.retain(|held| match held {
                Held::Player(other, FrameKind::State, _) => other != player,
                _ => true,
            }),
            _ => {}
        }
        self.held.push(held);
    }

    /// One frame to everybody.
    pub(super) fn tell_all(&mut self, kind: FrameKind, frame: &Bytes) {
        if self.holds_back() {
            self.hold(Held::All(kind, frame.clone()));
        } else {
            self.seats.deliver_all(kind, frame);
        }
    }

    /// One frame to one player.
    pub(super) fn tell(&mut self, player: Uuid, kind: FrameKind, frame: &Bytes) {
        if self.holds_back() {
            self.hold(Held::Player(player, kind, frame.clone()));
        } else {
            self.seats.deliver(player, kind, frame);
        }
    }

    /// Takes a match up where another host left it. `rows`: the players whose rows of seats are written, where they may differ from those of
    /// the snapshot: who left after it goes, who came after it is seated again.
    ///
    /// # Errors
    /// The snapshot cannot be read, or not by this game.
    pub async fn restore(ground: Ground, body: &[u8], rows: Option<&[Uuid]>) -> Result<Self, GameError> {
        let mut room = Self::new(ground);
        let unreadable = |what: &str| GameError {
            script: String::new(),
            line: None,
            callback: "restore",
            message: format!("the snapshot cannot be read: {what}"),
            fatal: false,
        };
        let saved = Snapshot::decode(body).map_err(|error| unreadable(&error.to_string()))?;
        if saved.format != FORMAT {
            return Err(unreadable(&format!("it has the format {}, this release reads {FORMAT}", saved.format)));
        }
        room.seats = Seats::restore(&saved.seats).map_err(unreadable)?;
        for (bot, id) in room.seats.bots().map(|(bot, id)| (bot, id.clone())).collect::<Vec<_>>() {
            room.game.know_bot(bot, &id);
        }
        let players: Vec<Uuid> = room.seats.players().collect();
        room.game.restore(&saved.game, &players)?;
        room.take_up(saved);
        if let Some(rows) = rows {
            room.agree_with(rows).await;
        }
        room.settle().await;
        Ok(room)
    }

    fn take_up(&mut self, saved: Snapshot) {
        let player = |text: &str| Uuid::try_parse(text).ok();
        self.inputs = saved.inputs.into_iter().filter_map(|i| Some((player(&i.player_id)?, i.payload))).collect();
        for timer in saved.timers {
            let data = String::from_utf8(timer.data.to_vec()).ok().filter(|data| !data.is_empty());
            let at = Moment::of(timer.due_at_ms);
            self.timer_number += 1;
            let timer = Timer { after: Duration::ZERO, name: timer.name, data };
            self.timers.push(Due { at, number: self.timer_number, timer });
        }
        self.joinable = saved.joinable;
        self.next_ordinal = saved.next_ordinal.max(1);
        self.backfill = saved.backfill.map(|asked| Backfill { wanted: asked.wanted, properties: asked.properties });
        self.setup.teams =
            saved.teams.iter().map(|team| team.players.iter().filter_map(|text| player(text)).collect()).collect();
        if saved.running {
            self.phase = Phase::Running;
            self.clock = TickClock::on_grid(self.settings.tick_rate, tokio::time::Instant::now());
        }
        self.taken_up = true;
        self.state_due = true;
    }

    async fn agree_with(&mut self, rows: &[Uuid]) {
        let bots: Vec<Uuid> = self.seats.bots().map(|(bot, _)| bot).collect();
        let left: Vec<Uuid> =
            self.seats.players().filter(|player| !rows.contains(player) && !bots.contains(player)).collect();
        if !left.is_empty() {
            self.vacate(left, None).await;
        }
        let come: Vec<Uuid> = rows.iter().copied().filter(|player| !self.seats.has(*player)).collect();
        self.seat_all(&come).await;
    }

    /// Goes on with other code for the same mode, the state kept; settings stay what they were. False: with the old code, because the new one does
    /// not take the state.
    pub fn reload(&mut self, factory: &dyn GameFactory) -> bool {
        match self.renewed(factory) {
            Ok(game) => {
                self.game = game;
                self.written = None;
                true
            }
            Err(error) => {
                self.failed(None, &error);
                false
            }
        }
    }

    fn renewed(&mut self, factory: &dyn GameFactory) -> Result<Box<dyn Game>, GameError> {
        let mut saved = Vec::new();
        self.game.save(&mut saved)?;
        let mut game = factory.create(&self.setup, Arc::clone(&self.outside))?;
        for (bot, id) in self.seats.bots() {
            game.know_bot(bot, id);
        }
        let players: Vec<Uuid> = self.seats.players().collect();
        game.restore(&saved, &players)?;
        Ok(game)
    }

    /// Inputs that were taken up with a snapshot count as the mailbox's own from here on.
    pub fn count_inputs(&self, mailbox: &Mailbox) {
        mailbox.inputs_taken_up(self.inputs.len());
    }

    /// The match runs elsewhere: its sessions are sent there.
    pub fn hand_over(&mut self, to: &MovedTo) {
        // The snapshot that went along has what they show.
        let held = std::mem::take(&mut self.held);
        self.release(held);
        for (port, sessions) in self.seats.groups() {
            port.moved(sessions, to);
        }
    }
}
