//! One match in this very process: its game, its clock, and what follows from what the game says.

use std::{path::Path, sync::Arc, time::Duration};

use asobi_match_service::{
    game::{BotWish, Game, GameError, GameFactory, Joined, Outcome, Push, Setup, Timer},
    lua::Shelf,
};
use asobi_proto::{effect::EffectBody, mode::ModeSettings};

use super::{player, say};

/// Timers that ring at the same instant before the rest waits for the next one: a timer that sets itself again with no delay would ring for ever.
const RINGS: usize = 1000;
/// Bots' numbers begin here.
const FIRST_BOT: u32 = 1000;

/// A match that is being played.
pub struct Stage {
    game: Box<dyn Game>,
    settings: ModeSettings,
    shelf: Arc<Shelf>,
    seats: Vec<Seat>,
    /// Numbers that were given to players and to bots.
    players: u32,
    bots: u32,
    now: Duration,
    timers: Vec<(Duration, Timer)>,
    shared_last: String,
    pub failures: usize,
    pub over: bool,
    joinable: bool,
}

struct Seat {
    number: u32,
    /// What the game calls a bot; none: somebody plays.
    bot: Option<String>,
    last: String,
}

impl Stage {
    /// A match that has begun; nobody has a seat.
    ///
    /// # Errors
    /// The game does not start.
    pub async fn open(factory: &dyn GameFactory, setup: &Setup) -> Result<Self, GameError> {
        let shelf = Arc::new(Shelf::default());
        let mut stage = Self {
            game: factory.create(setup, Arc::clone(&shelf) as _)?,
            settings: factory.settings().clone(),
            shelf,
            seats: Vec::new(),
            players: 0,
            bots: 0,
            now: Duration::ZERO,
            timers: Vec::new(),
            shared_last: String::new(),
            failures: 0,
            over: false,
            joinable: true,
        };
        let mut outcome = Outcome::default();
        stage.game.init(&mut outcome).await?;
        stage.follow(outcome).await;
        Ok(stage)
    }

    /// The next player takes a seat.
    pub async fn join(&mut self) {
        if !self.joinable {
            say("match_locked: the game takes nobody in");
            return;
        }
        self.players += 1;
        self.seat(self.players, None).await;
    }

    /// A bot takes a seat, if the mode has bots and one is free.
    pub async fn add_bot(&mut self, name: &str) {
        let bots = self.seats.iter().filter(|seat| seat.bot.is_some()).count();
        if self.settings.bots.as_ref().is_none_or(|wanted| bots >= wanted.max as usize) {
            say("no more bots: the mode's bots.max is reached");
            return;
        }
        self.bots += 1;
        let id = format!("bot_{name}_{:06x}", self.bots);
        self.seat(FIRST_BOT + self.bots, Some(id)).await;
    }

    /// Seats that a full match lacks.
    pub fn missing(&self) -> usize {
        (self.settings.match_size as usize).saturating_sub(self.seats.len())
    }

    async fn seat(&mut self, number: u32, bot: Option<String>) {
        let who = bot.clone().unwrap_or_else(|| number.to_string());
        if self.seats.len() >= self.settings.max_players as usize {
            say(&format!("match_full: {who} finds no seat"));
            return;
        }
        if let Some(id) = &bot {
            self.game.know_bot(player(number), id);
        }
        let mut outcome = Outcome::default();
        let joined = self.game.join(player(number), None, &mut outcome).await;
        match self.checked(joined) {
            Some(Joined::Seated) => {
                say(&format!("{who} joined"));
                self.seats.push(Seat { number, bot, last: String::new() });
            }
            Some(Joined::Refused(reason)) => {
                say(&format!("{who} was refused: {}", reason.as_deref().unwrap_or("without a reason")));
            }
            None => say(&format!("{who} was refused: join failed")),
        }
        self.follow(outcome).await;
    }

    pub async fn leave(&mut self, number: u32) {
        if !self.has(number) {
            return;
        }
        self.seats.retain(|seat| seat.number != number);
        let mut outcome = Outcome::default();
        let left = self.game.leave(player(number), &mut outcome).await;
        self.checked(left);
        say(&format!("{number} left"));
        self.follow(outcome).await;
    }

    pub async fn input(&mut self, number: u32, input: &str) {
        if !self.has(number) {
            return;
        }
        let mut outcome = Outcome::default();
        let taken = self.game.input(player(number), input, &mut outcome).await;
        self.checked(taken);
        self.follow(outcome).await;
        if self.settings.tick_rate == 0 {
            self.show_changes().await;
        }
    }

    /// Whether somebody has that number; says so if not.
    fn has(&mut self, number: u32) -> bool {
        let there = self.seats.iter().any(|seat| seat.number == number);
        if !there {
            say(&format!("nobody here has the number {number}"));
        }
        there
    }

    /// A tick passes, or in a turn-based mode a second: timers ring, bots think, the game ticks.
    pub async fn tick(&mut self) {
        let rate = self.settings.tick_rate;
        self.now += if rate == 0 { Duration::from_secs(1) } else { Duration::from_secs(1) / rate };
        self.ring().await;
        let bots: Vec<u32> = self.seats.iter().filter(|seat| seat.bot.is_some()).map(|seat| seat.number).collect();
        for bot in bots {
            let mut outcome = Outcome::default();
            let thought = self.game.think(player(bot), &mut outcome).await;
            let thought = self.checked(thought).flatten();
            self.follow(outcome).await;
            if let Some(input) = thought.filter(|_| !self.over) {
                self.input(bot, &input).await;
            }
        }
        if rate > 0 && !self.over {
            let mut outcome = Outcome::default();
            let ticked = self.game.tick(&mut outcome).await;
            self.checked(ticked);
            self.follow(outcome).await;
        }
        self.show_changes().await;
    }

    async fn ring(&mut self) {
        for _ in 0..RINGS {
            let due = self.timers.iter().enumerate().filter(|(_, (at, _))| *at <= self.now);
            let Some((index, _)) = due.min_by_key(|(_, (at, _))| *at) else {
                return;
            };
            let (_, timer) = self.timers.remove(index);
            let mut outcome = Outcome::default();
            let rung = self.game.timer(&timer, &mut outcome).await;
            self.checked(rung);
            self.follow(outcome).await;
        }
    }

    /// Says every state that is another one than before.
    pub async fn show_changes(&mut self) {
        for number in self.watchers() {
            let Some(state) = self.state_of(number).await else {
                return;
            };
            let last = match number {
                Some(number) => self.seats.iter_mut().find(|seat| seat.number == number).map(|seat| &mut seat.last),
                None => Some(&mut self.shared_last),
            };
            if let Some(last) = last.filter(|last| **last != state) {
                last.clone_from(&state);
                self.show(number, &state);
            }
        }
    }

    /// Says a state, whether or not it has changed: a player's, or everybody's.
    pub async fn show_state(&mut self, number: Option<u32>) {
        let watchers = match number {
            Some(number) if !self.has(number) => return,
            Some(_) if !self.settings.shared_state => vec![number],
            _ => self.watchers(),
        };
        for number in watchers {
            if let Some(state) = self.state_of(number).await {
                self.show(number, &state);
            }
        }
    }

    /// Who has a state of their own; none: the one that all share.
    fn watchers(&self) -> Vec<Option<u32>> {
        if self.settings.shared_state {
            return vec![None];
        }
        self.seats.iter().filter(|seat| seat.bot.is_none()).map(|seat| Some(seat.number)).collect()
    }

    async fn state_of(&mut self, number: Option<u32>) -> Option<String> {
        let (mut json, mut outcome) = (String::new(), Outcome::default());
        let state = self.game.state(number.map(player), &mut json, &mut outcome).await;
        let state = self.checked(state);
        self.tell(&mut outcome);
        state.map(|()| json)
    }

    fn show(&mut self, number: Option<u32>, state: &str) {
        let ms = self.now.as_millis();
        match number {
            Some(number) => say(&format!("{ms} ms, state of {number}: {state}")),
            None => say(&format!("{ms} ms, state: {state}")),
        }
    }

    /// What a callback returned; none: it failed, which is said.
    fn checked<T>(&mut self, result: Result<T, GameError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.failures += 1;
                self.over |= error.fatal;
                say(&format!("error: {}", described(&error)));
                None
            }
        }
    }

    /// Does what a callback asked for. Bots that come and go are callbacks themselves.
    async fn follow(&mut self, mut outcome: Outcome) {
        self.tell(&mut outcome);
        for wish in outcome.bots {
            match wish {
                BotWish::Add(name) => Box::pin(self.add_bot(&name)).await,
                BotWish::Remove(name) => {
                    let prefix = format!("bot_{name}_");
                    let named = |id: &String| *id == name || id.starts_with(&prefix);
                    let bot = self.seats.iter().find(|seat| seat.bot.as_ref().is_some_and(named));
                    if let Some(number) = bot.map(|seat| seat.number) {
                        Box::pin(self.leave(number)).await;
                    }
                }
            }
        }
    }

    fn tell(&mut self, outcome: &mut Outcome) {
        for push in outcome.pushes.drain(..) {
            say(&match push {
                Push::Broadcast { event, payload } => format!("to all: match.{event} {payload}"),
                Push::Message { player, message } => format!("to {}: {message}", player.as_u128()),
            });
        }
        for effect in outcome.effects.drain(..) {
            self.shelf.take(&effect);
            say(&shown(&effect));
        }
        if let Some(joinable) = outcome.joinable.take() {
            self.joinable = joinable;
            say(if joinable { "the match is open" } else { "the match is closed" });
        }
        if let Some(wish) = outcome.backfill.take() {
            say(&format!("asks the queue for {} players {}", wish.wanted, wish.properties));
        }
        for timer in outcome.timers.drain(..) {
            self.timers.push((self.now + timer.after, timer));
        }
        if let Some(result) = outcome.finished.take()
            && !self.over
        {
            self.over = true;
            say(&format!("finished: {result}"));
        }
    }
}

fn shown(effect: &EffectBody) -> String {
    let body = effect.to_json().map_or_else(|error| error.to_string(), |body| body.to_string());
    format!("effect: {} {body}", effect.kind())
}

/// `arena/match.lua:12: tick: message`.
pub fn described(error: &GameError) -> String {
    let line = error.line.map(|line| format!(":{line}")).unwrap_or_default();
    format!("{}{line}: {}: {}", Path::new(&error.script).display(), error.callback, error.message)
}
