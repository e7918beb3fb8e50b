//! A running match: its game, its seats, and what follows from what the game says. Nothing here waits; what has to be written is queued as
//! [`Op`]s for the actor.
//!
//! ```text
//!   Waiting ──min_players are seated──▶ Running ──finished, failed, everybody left──▶ Ending ──row committed──▶ gone
//!      └───────────────────── nobody came, stopped ──────────────────────────────────▲
//! ```
//! Waiting matches do not tick, and take inputs only where they never do (turn-based modes); Ending ones do neither and take nobody in.
//!
//! What a match does leaves in one of two ways. Frames of a match that ticks leave at once: a failover may take back what they showed, by a
//! second at most. Frames of a turn-based one are held until the checkpoint with the move is committed, and so are those of any match while
//! its host is in doubt. Effects always leave with a checkpoint.

mod backfill;
mod bots;
mod calls;
mod entering;
mod saving;
mod watching;

use std::{
    collections::{BinaryHeap, VecDeque},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use asobi_proto::{frame, mode::ModeSettings};
use asobi_session::link::{Entered, FrameKind, LinkError, SessionNo};
use asobi_store::{effects::Effect, matches::ListingState};
use bytes::Bytes;
use serde_json::json;
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use self::{saving::Held, watching::Watches};
pub use self::{
    saving::Taken,
    watching::{Seen, Wish},
};
use super::{
    mailbox::{Mailbox, SessionKey},
    meters::Meters,
    moment::Moment,
    outside::Stored,
    port::Port,
    schedule::TickClock,
    seats::Seats,
    trust::Trust,
};
use crate::game::{Backfill, Game, GameError, Outcome, Outside, Setup, Timer};

/// Failed callbacks in a row after which a match ends.
const FAILURES: u32 = 20;
/// Timers that may wait in one match; more are let go with a log line.
const TIMERS: usize = 256;
/// Writes that may wait before nobody else is let in.
const OPS: usize = 64;
/// Effects that may wait while the database does not answer; more are dropped and counted.
pub const EFFECTS: usize = 8192;
/// How long a match without any player waits for its first.
const NOBODY_CAME: Duration = Duration::from_secs(30);
/// How often a match that takes longer than its ticks last is spoken of.
const OVERRUN_LOGGED: Duration = Duration::from_secs(10);

/// How a host treats all its matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manners {
    /// Players see their scripts' errors.
    pub dev_errors: bool,
}

/// A wish to join whose seat's row is not written yet.
pub struct Joining {
    pub player: Uuid,
    pub port: Arc<Port>,
    pub session: SessionNo,
    pub ctx: Option<String>,
    pub reply: oneshot::Sender<Result<Entered, LinkError>>,
}

/// Something to be written, in order.
pub enum Op {
    TakeSeat(Joining),
    GiveUp {
        players: Vec<Uuid>,
        reply: Option<GivenUp>,
    },
    /// The state as it is then, with every effect that waits.
    Checkpoint,
    /// The listing as it is then.
    Listing,
    /// The last wish for players as it is then.
    Backfill,
}

/// Who waits until seats' rows are gone. Dropping it is an answer, too: then the match has ended, and its seats with it.
pub enum GivenUp {
    Left(oneshot::Sender<Result<(), LinkError>>),
    Refused(RefusedByGame),
}

/// A refusal that is told when it is dropped: not before the row of the seat is gone, or who asks for another match in
/// the next moment would be taken for a player of this one.
pub struct RefusedByGame {
    reply: Option<oneshot::Sender<Result<Entered, LinkError>>>,
    reason: Option<String>,
}

impl Drop for RefusedByGame {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let refused_reason = self.reason.take();
            let _ = reply.send(Err(LinkError::Refused { reason: "join_refused".into(), refused_reason }));
        }
    }
}

/// How a match ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub finished: bool,
    /// JSON text.
    pub result: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Running,
    Ending,
}

/// What a room is made of, whether its match is new or comes from elsewhere.
pub struct Ground {
    pub game: Box<dyn Game>,
    pub setup: Setup,
    pub settings: ModeSettings,
    pub manners: Manners,
    pub trust: Arc<Trust>,
    pub meters: Arc<Meters>,
    /// What was stored and is not written yet.
    pub stored: Arc<Stored>,
    /// Given to the game; it sees `stored`.
    pub outside: Arc<dyn Outside>,
    /// Counts how often the database may have lost checkpoints that it had answered for.
    pub void: Arc<AtomicU64>,
}

/// See the module.
pub struct Room {
    setup: Setup,
    pub settings: ModeSettings,
    manners: Manners,
    game: Box<dyn Game>,
    trust: Arc<Trust>,
    meters: Arc<Meters>,
    stored: Arc<Stored>,
    outside: Arc<dyn Outside>,
    pub seats: Seats,
    phase: Phase,
    joinable: bool,
    clock: Option<TickClock>,
    /// Applied at the next tick, in the order of their arrival. Bounded by the mailbox's limit on inputs.
    inputs: VecDeque<(Uuid, Bytes)>,
    /// Of bots, for this tick.
    bot_inputs: Vec<(Uuid, Bytes)>,
    timers: BinaryHeap<Due>,
    timer_number: u64,
    failures: u32,
    /// Failed calls for a state in a row, counted apart: the ticks between them may succeed.
    state_failures: u32,
    logged: Option<Instant>,
    overrun_logged: Option<Instant>,
    shared_last: Option<Bytes>,
    /// Room for the text of a state.
    state_bytes: usize,
    /// It began elsewhere: who comes has seen no state for a while, and is shown it at once.
    taken_up: bool,
    /// A turn-based game's state is to be sent.
    state_due: bool,
    /// When a match ends to which nobody ever came.
    deserted_at: Option<Instant>,
    /// When bots fill up, see `bots`.
    bots_at: Option<Instant>,
    /// Seats asked for whose rows are not written.
    pub joining: usize,
    pub ops: VecDeque<Op>,
    /// Players who left with the match's end: dropped, and so answered, with the room.
    leaving: Vec<GivenUp>,
    pub effects: Vec<Effect>,
    next_ordinal: i64,
    /// Frames that leave after the next checkpoint's commit.
    held: Vec<Held>,
    /// Others wait for the one that is being written.
    held_in_flight: bool,
    /// When the state is written next, if it has changed by then.
    checkpoint_at: Instant,
    /// Of the state that was written last.
    written: Option<u64>,
    /// What `void` was then.
    written_in: u64,
    void: Arc<AtomicU64>,
    listed: Option<ListingState>,
    /// Operators who watch.
    watches: Watches,
    /// Ticks since this host runs it.
    ticks: u64,
    /// The last wish for players, less who came by it.
    pub backfill: Option<Backfill>,
    pub end: Option<End>,
}

struct Due {
    at: Moment,
    number: u64,
    timer: Timer,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    // The earliest is the greatest: a heap's top.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at.at, other.number).cmp(&(self.at.at, self.number))
    }
}

impl Room {
    fn new(ground: Ground) -> Self {
        let now = Instant::now();
        let interval = Duration::from_millis(ground.settings.checkpoint_interval_ms);
        Self {
            setup: ground.setup,
            settings: ground.settings,
            manners: ground.manners,
            game: ground.game,
            trust: ground.trust,
            meters: ground.meters,
            stored: ground.stored,
            outside: ground.outside,
            seats: Seats::default(),
            phase: Phase::Waiting,
            joinable: true,
            clock: None,
            inputs: VecDeque::new(),
            bot_inputs: Vec::new(),
            timers: BinaryHeap::new(),
            timer_number: 0,
            failures: 0,
            state_failures: 0,
            logged: None,
            overrun_logged: None,
            shared_last: None,
            state_bytes: 512,
            taken_up: false,
            state_due: false,
            deserted_at: None,
            bots_at: None,
            joining: 0,
            ops: VecDeque::new(),
            leaving: Vec::new(),
            effects: Vec::new(),
            next_ordinal: 1,
            held: Vec::new(),
            held_in_flight: false,
            // Those of one host are spread over the interval.
            checkpoint_at: now + interval.mul_f64(rand::random_range(0.1..1.0)),
            written: None,
            written_in: 0,
            void: ground.void,
            listed: None,
            watches: Watches::default(),
            ticks: 0,
            backfill: None,
            end: None,
        }
    }

    /// Starts the game and seats the players the match was formed with. Those the game refuses get no seat.
    ///
    /// # Errors
    /// The game does not start.
    pub async fn start(ground: Ground, players: &[Uuid]) -> Result<Self, GameError> {
        let mut room = Self::new(ground);
        room.deserted_at = players.is_empty().then(|| Instant::now() + NOBODY_CAME);
        let mut outcome = Outcome::default();
        room.game.init(&mut outcome).await?;
        room.apply(outcome).await;
        room.seat_all(players).await;
        if !players.is_empty() && room.seats.is_empty() {
            room.finish(true, json!({"reason": "nobody_came"}).to_string());
        }
        room.settle().await;
        Ok(room)
    }

    /// Seats players whose rows are written; who the game refuses gives the row up.
    async fn seat_all(&mut self, players: &[Uuid]) {
        let mut without: Vec<Uuid> = Vec::new();
        for player in players {
            if self.seat(*player, None).await.is_err() {
                without.push(*player);
            }
        }
        if !without.is_empty() {
            self.ops.push_back(Op::GiveUp { players: without, reply: None });
        }
    }

    #[must_use]
    pub fn mode(&self) -> &str {
        &self.setup.mode
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(self.settings.player_ttl_ms)
    }

    fn turn_based(&self) -> bool {
        self.settings.tick_rate == 0
    }

    #[must_use]
    pub fn ending(&self) -> bool {
        self.phase == Phase::Ending
    }

    /// When something is due without anybody asking.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        if self.ending() {
            return None;
        }
        [
            self.clock.as_ref().map(TickClock::next),
            self.timers.peek().map(|due| due.at.at),
            self.seats.next_expiry(),
            self.deserted_at,
            self.bots_at,
            self.watches.due(),
            Some(self.checkpoint_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// An input arrived.
    pub async fn input(&mut self, session: SessionKey, number: u64, payload: Bytes, mailbox: &Mailbox) {
        // Without ticks there is nothing to wait for: the game itself says that somebody is missing.
        let taken = self.phase == Phase::Running || (self.phase == Phase::Waiting && self.turn_based());
        let player = if taken { self.seats.is_new_input(session, number) } else { None };
        let Some(player) = player else {
            mailbox.input_done();
            return;
        };
        self.inputs.push_back((player, payload));
        if self.turn_based() {
            self.take_turns(mailbox).await;
        }
    }

    /// Applies what waits in a turn-based match.
    pub async fn take_turns(&mut self, mailbox: &Mailbox) {
        if self.turn_based() && !self.inputs.is_empty() && !self.is_choked() {
            self.apply_inputs(mailbox).await;
            self.settle().await;
        }
    }

    async fn apply_inputs(&mut self, mailbox: &Mailbox) {
        while let Some((player, payload)) = self.inputs.pop_front() {
            mailbox.input_done();
            self.apply_input(player, &payload).await;
        }
        for (bot, payload) in std::mem::take(&mut self.bot_inputs) {
            self.apply_input(bot, &payload).await;
        }
    }

    async fn apply_input(&mut self, player: Uuid, payload: &[u8]) {
        if self.end.is_some() {
            return;
        }
        if let Ok(input) = std::str::from_utf8(payload) {
            let call = async |game: &mut dyn Game, outcome: &mut Outcome| game.input(player, input, outcome).await;
            self.run(Some(player), call).await;
            self.state_due = true;
        }
    }

    /// Does whatever is due.
    pub async fn on_time(&mut self, mailbox: &Mailbox) {
        let now = Instant::now();
        while self.timers.peek().is_some_and(|due| due.at.at <= now) && self.end.is_none() {
            if let Some(due) = self.timers.pop() {
                let timer = &due.timer;
                self.run(None, async |game: &mut dyn Game, outcome: &mut Outcome| game.timer(timer, outcome).await)
                    .await;
                self.state_due = true;
            }
        }
        for player in self.seats.missing(now, self.ttl()) {
            self.disconnected(player).await;
        }
        let expired = self.seats.expired(now);
        if !expired.is_empty() {
            self.vacate(expired, None).await;
        }
        if self.deserted_at.is_some_and(|at| at <= now) && self.seats.is_empty() {
            self.deserted_at = None;
            if self.joining == 0 {
                self.finish(true, json!({"reason": "nobody_came"}).to_string());
            }
        }
        if self.bots_at.is_some_and(|at| at <= now) {
            self.fill_with_bots().await;
        }
        let due = self.clock.as_ref().map(TickClock::next);
        if let Some(missed) = self.clock.as_mut().and_then(|clock| clock.due(now)) {
            if missed > 0 {
                self.meters.missed.increment(u64::from(missed));
            }
            self.meters.lateness.record(due.map_or(0.0, |due| now.duration_since(due).as_secs_f64()));
            self.tick(mailbox).await;
        }
        if self.checkpoint_at <= now {
            self.want_checkpoint();
            // Until it is taken there is nothing to be reminded of.
            self.checkpoint_at = now + self.checkpoint_interval();
        }
        self.settle().await;
        self.serve_watches(now).await;
    }

    async fn tick(&mut self, mailbox: &Mailbox) {
        if self.phase != Phase::Running {
            return;
        }
        let started = std::time::Instant::now();
        self.ticks += 1;
        self.let_bots_think().await;
        self.apply_inputs(mailbox).await;
        if self.end.is_none() {
            self.run(None, async |game: &mut dyn Game, outcome: &mut Outcome| game.tick(outcome).await).await;
        }
        self.send_states().await;
        self.state_due = false;
        let took = started.elapsed();
        self.meters.ticks.record(took.as_secs_f64());
        if let Some(clock) = &mut self.clock
            && took > clock.period()
        {
            clock.hold_back(Instant::now() + took);
            self.overran(took);
        }
    }

    /// A match that takes longer than its ticks last gets half of its thread at most: it is slowed, and not its neighbours.
    fn overran(&mut self, took: Duration) {
        self.meters.overruns.increment(1);
        let now = Instant::now();
        if self.overrun_logged.is_none_or(|at| now.duration_since(at) >= OVERRUN_LOGGED) {
            self.overrun_logged = Some(now);
            tracing::warn!(
                game.mode = self.setup.mode, game.match_id = %self.setup.match_id, tick_ms = took.as_millis() as u64,
                tick_rate = self.settings.tick_rate, "A match's tick takes longer than its rate allows; it is slowed."
            );
        }
    }

    /// Ends the match as failed without calling the game again.
    pub fn break_off(&mut self) {
        self.finish(false, json!({"error": "host_failed"}).to_string());
        self.phase = Phase::Ending;
        self.joining = 0;
        self.ops.clear();
    }

    /// The match runs once enough players have a seat.
    fn begin(&mut self) {
        if self.phase == Phase::Waiting && self.seats.len() >= self.settings.min_players as usize {
            self.phase = Phase::Running;
            self.clock = TickClock::on_grid(self.settings.tick_rate, Instant::now());
            self.state_due = true;
        }
    }

    /// Draws the conclusions: start, states of turn-based games, listing, effects, end.
    pub async fn settle(&mut self) {
        if self.ending() {
            return;
        }
        if self.seats.humans() == 0 && self.joining == 0 && self.deserted_at.is_none() {
            self.finish(true, json!({"reason": "everybody_left"}).to_string());
        }
        self.begin();
        if self.turn_based() && std::mem::take(&mut self.state_due) {
            self.send_states().await;
        }
        if self.end.is_some() {
            self.phase = Phase::Ending;
            // Who waits for a seat learns it from the dropped question at once, who leaves or was refused when the
            // seat's row is gone.
            for op in self.ops.drain(..) {
                if let Op::GiveUp { reply: Some(reply), .. } = op {
                    self.leaving.push(reply);
                }
            }
            return;
        }
        self.trim_backfill();
        let listing = self.listing();
        if (self.settings.listed || self.settings.quick_play) && self.listed != Some(listing) {
            self.listed = Some(listing);
            self.ops.push_back(Op::Listing);
        }
        self.mind_bots();
        if !self.effects.is_empty() || !self.held.is_empty() {
            self.want_checkpoint();
        }
    }

    #[must_use]
    pub fn listing(&self) -> ListingState {
        ListingState {
            running: self.phase == Phase::Running,
            player_count: i32::try_from(self.seats.len()).unwrap_or(i32::MAX),
            joinable: self.joinable,
        }
    }

    /// The payload of `match.joined`.
    fn view(&self) -> String {
        let status = if self.phase == Phase::Waiting { "waiting" } else { "running" };
        let players: Vec<String> = self.seats.names().collect();
        json!({
            "match_id": self.setup.match_id, "mode": self.setup.mode, "status": status,
            "player_count": players.len(), "max_players": self.settings.max_players, "players": players,
            "listed": self.settings.listed, "joinable": self.joinable,
        })
        .to_string()
    }

    /// The last word to everybody, once the end is written; the sessions are free afterwards.
    pub fn close(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.release(held);
        let (id, result) = (self.setup.match_id, self.end.as_ref().map_or("{}", |end| end.result.as_str()));
        let payload = format!(r#"{{"match_id":"{id}","result":{result}}}"#);
        let frame = Bytes::from(frame::push_raw("match.finished", &payload));
        for (port, sessions) in self.seats.groups() {
            port.deliver(sessions, FrameKind::Event, frame.clone());
            port.dropped(sessions, id);
        }
    }

    /// Lets go of the sessions without a word: the match is somebody else's, and so is what becomes of them.
    pub fn forget_sessions(&mut self) {
        let id = self.setup.match_id;
        for (port, sessions) in self.seats.groups() {
            port.forget_all(sessions, id);
        }
    }
}
