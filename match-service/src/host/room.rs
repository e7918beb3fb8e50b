//! A running match: its game, its seats, and what follows from what the game says. Nothing here waits; what has to be written is queued as
//! [`Op`]s for the actor.
//!
//! ```text
//!   Waiting ──min_players are seated──▶ Running ──finished, failed, everybody left──▶ Ending ──row committed──▶ gone
//!      └───────────────────── nobody came, stopped ──────────────────────────────────▲
//! ```
//! Waiting matches do not tick, and take inputs only where they never do (turn-based modes); Ending ones do neither and take nobody in.

mod backfill;
mod calls;

use std::{
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
    time::Duration,
};

use asobi_proto::{frame, mode::ModeSettings};
use asobi_session::link::{Entered, FrameKind, LinkError, SessionNo};
use asobi_store::{effects::Effect, matches::ListingState};
use bytes::Bytes;
use serde_json::json;
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use super::{
    mailbox::{Mailbox, SessionKey},
    port::{Port, refused},
    schedule::TickClock,
    seats::{Attached, Seats},
};
use crate::game::{Backfill, Game, GameError, Joined, Outcome, Setup, Timer};

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
    /// Every effect that waits.
    Effects,
    /// The listing as it is then.
    Listing,
    /// The last wish for players as it is then.
    Backfill,
}

/// Who waits until seats' rows are gone. Dropping it is an answer, too: then the match has ended, and its seats with it.
pub enum GivenUp {
    Left(oneshot::Sender<()>),
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

/// See the module.
pub struct Room {
    setup: Setup,
    pub settings: ModeSettings,
    manners: Manners,
    game: Box<dyn Game>,
    pub seats: Seats,
    phase: Phase,
    joinable: bool,
    clock: Option<TickClock>,
    /// Applied at the next tick, in the order of their arrival. Bounded by the mailbox's limit on inputs.
    inputs: VecDeque<(Uuid, Bytes)>,
    timers: BinaryHeap<Due>,
    timer_number: u64,
    failures: u32,
    /// Failed calls for a state in a row, counted apart: the ticks between them may succeed.
    state_failures: u32,
    logged: Option<Instant>,
    shared_last: Option<Bytes>,
    /// A turn-based game's state is to be sent.
    state_due: bool,
    /// When a match ends to which nobody ever came.
    deserted_at: Option<Instant>,
    /// Seats asked for whose rows are not written.
    pub joining: usize,
    pub ops: VecDeque<Op>,
    /// Players who left with the match's end: dropped, and so answered, with the room.
    leaving: Vec<GivenUp>,
    pub effects: Vec<Effect>,
    next_ordinal: i64,
    listed: Option<ListingState>,
    /// The last wish for players, less who came by it.
    pub backfill: Option<Backfill>,
    pub end: Option<End>,
}

struct Due {
    at: Instant,
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
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl Room {
    /// Starts the game and seats the players the match was formed with. Those the game refuses get no seat.
    ///
    /// # Errors
    /// The game does not start.
    pub async fn start(
        game: Box<dyn Game>,
        setup: Setup,
        settings: ModeSettings,
        manners: Manners,
        players: &[Uuid],
    ) -> Result<Self, GameError> {
        let now = Instant::now();
        let mut room = Self {
            setup,
            settings,
            manners,
            game,
            seats: Seats::default(),
            phase: Phase::Waiting,
            joinable: true,
            clock: None,
            inputs: VecDeque::new(),
            timers: BinaryHeap::new(),
            timer_number: 0,
            failures: 0,
            state_failures: 0,
            logged: None,
            shared_last: None,
            state_due: false,
            deserted_at: players.is_empty().then(|| now + NOBODY_CAME),
            joining: 0,
            ops: VecDeque::new(),
            leaving: Vec::new(),
            effects: Vec::new(),
            next_ordinal: 1,
            listed: None,
            backfill: None,
            end: None,
        };
        let mut outcome = Outcome::default();
        room.game.init(&mut outcome).await?;
        room.apply(outcome);
        let mut without: Vec<Uuid> = Vec::new();
        for player in players {
            match room.seat(*player, None).await {
                Ok(()) => {}
                Err(_) => without.push(*player),
            }
        }
        if !without.is_empty() {
            room.ops.push_back(Op::GiveUp { players: without, reply: None });
        }
        if !players.is_empty() && room.seats.is_empty() {
            room.finish(true, json!({"reason": "nobody_came"}).to_string());
        }
        room.settle().await;
        Ok(room)
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
            self.timers.peek().map(|due| due.at),
            self.seats.next_expiry(),
            self.deserted_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// A session attaches to its player's seat, or asks for one.
    pub async fn enter(
        &mut self,
        port: &Arc<Port>,
        session: SessionNo,
        player: Uuid,
        join: Option<String>,
        reply: oneshot::Sender<Result<Entered, LinkError>>,
    ) {
        let refusal = if self.ending() {
            "match_not_found"
        } else if self.seats.has(player) {
            self.attach(port, session, player, reply).await;
            return;
        } else if join.is_none() {
            "not_in_match"
        } else if !self.joinable {
            "match_locked"
        } else if self.free() == 0 {
            "match_full"
        } else if self.ops.len() >= OPS {
            let _ = reply.send(Err(LinkError::Full));
            return;
        } else {
            self.joining += 1;
            self.ops.push_back(Op::TakeSeat(Joining {
                player,
                port: Arc::clone(port),
                session,
                ctx: join.filter(|ctx| !ctx.is_empty()),
                reply,
            }));
            return;
        };
        let _ = reply.send(Err(refused(refusal)));
    }

    /// The row of a seat is written: the game decides whether the player gets it.
    pub async fn joined(&mut self, joining: Joining, still_there: bool) {
        if self.ending() {
            return;
        }
        if !self.seats.has(joining.player)
            && let Err(reason) = self.seat(joining.player, joining.ctx.as_deref()).await
        {
            let refused = RefusedByGame { reply: Some(joining.reply), reason };
            let reply = Some(GivenUp::Refused(refused));
            self.ops.push_back(Op::GiveUp { players: vec![joining.player], reply });
            self.settle().await;
            return;
        }
        // Who completes the match is told that it runs.
        self.begin();
        if still_there {
            self.attach(&joining.port, joining.session, joining.player, joining.reply).await;
        }
        self.settle().await;
    }

    /// Asks the game to seat a player; the error is its reason.
    async fn seat(&mut self, player: Uuid, ctx: Option<&str>) -> Result<(), Option<String>> {
        let joined = self
            .callback(Some(player), async |game: &mut dyn Game, outcome: &mut Outcome| {
                game.join(player, ctx, outcome).await
            })
            .await;
        match joined {
            Some((Joined::Seated, outcome)) => {
                self.deserted_at = None;
                self.seats.add(player, Instant::now() + self.ttl());
                // Only now: what the game says in `join` may be for who joins.
                self.apply(outcome);
                self.state_due = true;
                Ok(())
            }
            Some((Joined::Refused(reason), outcome)) => {
                self.apply(outcome);
                Err(reason)
            }
            None => Err(None),
        }
    }

    async fn attach(
        &mut self,
        port: &Arc<Port>,
        session: SessionNo,
        player: Uuid,
        reply: oneshot::Sender<Result<Entered, LinkError>>,
    ) {
        let Some(attached) = self.seats.attach(player, port, session) else {
            let _ = reply.send(Err(refused("not_in_match")));
            return;
        };
        let applied = self.seats.applied((port.number, session));
        let _ = reply.send(Ok(Entered { view: self.view(), applied }));
        if attached == Attached::Back {
            self.run(Some(player), async |game: &mut dyn Game, outcome: &mut Outcome| {
                game.on_reconnect(player, outcome).await
            })
            .await;
        }
        for frame in self.seats.take_early(player) {
            port.deliver(&[session], FrameKind::Event, frame);
        }
        if self.turn_based() || !self.settings.send_unchanged || self.phase == Phase::Waiting {
            self.show(player, port, session).await;
        }
        self.settle().await;
    }

    /// Sends one session the state as it is: the next regular one may be long in coming.
    async fn show(&mut self, player: Uuid, port: &Arc<Port>, session: SessionNo) {
        let whose = (!self.settings.shared_state).then_some(player);
        if let Some(frame) = self.state_frame(whose).await {
            port.deliver(&[session], FrameKind::State, frame);
        }
    }

    /// A session is gone.
    pub async fn detach(&mut self, session: SessionKey) {
        let Some(player) = self.seats.detach(session, Instant::now() + self.ttl()) else {
            return;
        };
        if !self.ending() {
            self.run(Some(player), async |game: &mut dyn Game, outcome: &mut Outcome| {
                game.on_disconnect(player, outcome).await
            })
            .await;
            self.settle().await;
        }
    }

    /// The session's player gives up the seat.
    pub async fn leave(&mut self, session: SessionKey, reply: oneshot::Sender<()>) {
        match self.seats.player_of(session) {
            Some(player) if !self.ending() => self.vacate(vec![player], Some(GivenUp::Left(reply))).await,
            // Nothing to give up: that is an answer too.
            _ => {
                let _ = reply.send(());
            }
        }
    }

    async fn vacate(&mut self, players: Vec<Uuid>, reply: Option<GivenUp>) {
        for player in &players {
            if let Some(sessions) = self.seats.remove(*player) {
                self.inputs.retain(|(from, _)| from != player);
                for (port, sessions) in sessions {
                    port.dropped(&sessions, self.setup.match_id);
                }
                let player = *player;
                self.run(None, async |game: &mut dyn Game, outcome: &mut Outcome| game.leave(player, outcome).await)
                    .await;
                self.state_due = true;
            }
        }
        self.ops.push_back(Op::GiveUp { players, reply });
        self.settle().await;
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
            self.apply_inputs(mailbox).await;
            self.settle().await;
        }
    }

    async fn apply_inputs(&mut self, mailbox: &Mailbox) {
        while let Some((player, payload)) = self.inputs.pop_front() {
            mailbox.input_done();
            if self.end.is_some() {
                continue;
            }
            if let Ok(input) = std::str::from_utf8(&payload) {
                self.run(Some(player), async |game: &mut dyn Game, outcome: &mut Outcome| {
                    game.input(player, input, outcome).await
                })
                .await;
                self.state_due = true;
            }
        }
    }

    /// Does whatever is due.
    pub async fn on_time(&mut self, mailbox: &Mailbox) {
        let now = Instant::now();
        while self.timers.peek().is_some_and(|due| due.at <= now) && self.end.is_none() {
            if let Some(due) = self.timers.pop() {
                self.run(None, async |game: &mut dyn Game, outcome: &mut Outcome| {
                    game.timer(&due.timer, outcome).await
                })
                .await;
                self.state_due = true;
            }
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
        if let Some(missed) = self.clock.as_mut().and_then(|clock| clock.due(now)) {
            if missed > 0 {
                metrics::counter!("asobi_match_ticks_missed_total").increment(u64::from(missed));
            }
            self.tick(mailbox).await;
        }
        self.settle().await;
    }

    async fn tick(&mut self, mailbox: &Mailbox) {
        if self.phase != Phase::Running {
            return;
        }
        let started = std::time::Instant::now();
        self.apply_inputs(mailbox).await;
        if self.end.is_none() {
            self.run(None, async |game: &mut dyn Game, outcome: &mut Outcome| game.tick(outcome).await).await;
        }
        self.send_states().await;
        self.state_due = false;
        metrics::histogram!("asobi_match_tick_seconds").record(started.elapsed().as_secs_f64());
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
            self.clock = TickClock::new(self.settings.tick_rate, Instant::now());
            self.state_due = true;
        }
    }

    /// Draws the conclusions: start, states of turn-based games, listing, effects, end.
    pub async fn settle(&mut self) {
        if self.ending() {
            return;
        }
        if self.seats.is_empty() && self.joining == 0 && self.deserted_at.is_none() {
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
        if !self.effects.is_empty() && !self.ops.iter().any(|op| matches!(op, Op::Effects)) {
            self.ops.push_back(Op::Effects);
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
        let players: Vec<Uuid> = self.seats.players().collect();
        json!({
            "match_id": self.setup.match_id, "mode": self.setup.mode, "status": status,
            "player_count": players.len(), "max_players": self.settings.max_players, "players": players,
            "listed": self.settings.listed, "joinable": self.joinable,
        })
        .to_string()
    }

    /// The last word to everybody; the sessions are free afterwards. Without a result nobody is told how it ended.
    pub fn close(&mut self, result: Option<&str>) {
        if let Some(result) = result {
            let id = self.setup.match_id;
            let payload = format!(r#"{{"match_id":"{id}","result":{result}}}"#);
            let frame = Bytes::from(frame::push_raw("match.finished", &payload));
            for (port, sessions) in self.seats.groups() {
                port.deliver(sessions, FrameKind::Event, frame.clone());
            }
        }
        let match_id = self.setup.match_id;
        for (port, sessions) in self.seats.groups() {
            port.dropped(sessions, match_id);
        }
    }
}
