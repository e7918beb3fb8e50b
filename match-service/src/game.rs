//! What a game is to its host: rules that take joins, inputs and ticks, and say what shall happen outside. Lua scripts implement it, and so can
//! Rust. A game runs on one thread and is called one callback at a time; nothing in here knows of sockets, services or databases.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use asobi_proto::{effect::EffectBody, mode::ModeSettings};
use async_trait::async_trait;
use uuid::Uuid;

/// What a new match knows about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    pub match_id: Uuid,
    pub mode: String,
    /// Of the match's own random numbers; below 2^53, so that every language can hold it.
    pub seed: u64,
    /// Who plays with whom, in the teams' order; empty: everybody for themselves.
    pub teams: Vec<Vec<Uuid>>,
}

impl Setup {
    /// The seed is made from the random part of the match's id: whoever starts the match again draws the same numbers.
    #[must_use]
    pub fn new(match_id: Uuid, mode: impl Into<String>) -> Self {
        let bytes = match_id.as_bytes();
        let seed = bytes[10..].iter().fold(0_u64, |seed, byte| (seed << 8) | u64::from(*byte));
        Self { match_id, mode: mode.into(), seed, teams: Vec::new() }
    }

    #[must_use]
    pub fn with_teams(mut self, teams: Vec<Vec<Uuid>>) -> Self {
        self.teams = teams;
        self
    }
}

/// The rules of one running match.
///
/// A callback that fails leaves the game as it was before the call, and nothing it asked for in that call happens. A callback may wait for what it
/// asks of [`Outside`]; nothing else happens in the match meanwhile.
#[async_trait(?Send)]
pub trait Game {
    /// Called once, before anything else, unless the match is [restored](Self::restore).
    ///
    /// # Errors
    /// The match cannot start.
    async fn init(&mut self, outcome: &mut Outcome) -> Result<(), GameError>;

    /// A player takes a seat. `ctx` is the JSON object the client sent along.
    ///
    /// # Errors
    /// The callback failed; the player is refused.
    async fn join(&mut self, player: Uuid, ctx: Option<&str>, outcome: &mut Outcome) -> Result<Joined, GameError>;

    /// A seat was given up.
    ///
    /// # Errors
    /// The callback failed; the seat is gone nevertheless.
    async fn leave(&mut self, player: Uuid, outcome: &mut Outcome) -> Result<(), GameError>;

    /// One input, the text of a JSON object.
    ///
    /// # Errors
    /// The callback failed; the input counts as consumed.
    async fn input(&mut self, player: Uuid, input: &str, outcome: &mut Outcome) -> Result<(), GameError>;

    /// Time passes: called at the mode's tick rate.
    ///
    /// # Errors
    /// The callback failed; the next tick comes all the same.
    async fn tick(&mut self, outcome: &mut Outcome) -> Result<(), GameError>;

    /// Appends the state as JSON text: that of one player, or where the mode shares one state, everybody's (none).
    ///
    /// # Errors
    /// The callback failed or returned what JSON cannot say; what was appended is to be thrown away.
    async fn state(&mut self, player: Option<Uuid>, json: &mut String, outcome: &mut Outcome) -> Result<(), GameError>;

    /// The player's last connection is gone; the seat waits.
    ///
    /// # Errors
    /// The callback failed.
    async fn on_disconnect(&mut self, _player: Uuid, _outcome: &mut Outcome) -> Result<(), GameError> {
        Ok(())
    }

    /// The player is back within time.
    ///
    /// # Errors
    /// The callback failed.
    async fn on_reconnect(&mut self, _player: Uuid, _outcome: &mut Outcome) -> Result<(), GameError> {
        Ok(())
    }

    /// A timer that an earlier callback asked for is due.
    ///
    /// # Errors
    /// The callback failed; the timer counts as spent.
    async fn timer(&mut self, _timer: &Timer, _outcome: &mut Outcome) -> Result<(), GameError> {
        Ok(())
    }

    /// A bot is about to take a seat, or has one in a match that is restored: `player` stands for it in all calls, `id` is what the game's own
    /// data and players call it.
    fn know_bot(&mut self, _player: Uuid, _id: &str) {}

    /// What a bot does in this tick: an input, the text of a JSON object.
    ///
    /// # Errors
    /// The callback failed; the bot does nothing in this tick.
    async fn think(&mut self, _bot: Uuid, _outcome: &mut Outcome) -> Result<Option<String>, GameError> {
        Ok(None)
    }

    /// All of the state for an operator to look at, about `most` bytes of it where it is larger; nothing changes by it, and it is quick however
    /// large the state is. Never called while a callback waits.
    ///
    /// # Errors
    /// The game has nothing to show.
    fn show(&self, _most: usize) -> Result<Shown, GameError> {
        Err(GameError {
            script: String::new(),
            line: None,
            callback: "show",
            message: "this game shows only what its players see".into(),
            fatal: false,
        })
    }

    /// Appends everything that [`restore`](Self::restore) needs to go on, on another host too; never called while a callback waits. The format is
    /// the game's own and should say its version.
    ///
    /// # Errors
    /// The game cannot be saved as it is: no checkpoint is written, and the match cannot move, until it can.
    fn save(&mut self, out: &mut Vec<u8>) -> Result<(), GameError>;

    /// Takes up what an earlier game of the same mode saved, instead of [`init`](Self::init). `players` have seats.
    ///
    /// # Errors
    /// What was saved cannot be read.
    fn restore(&mut self, saved: &[u8], players: &[Uuid]) -> Result<(), GameError>;
}

/// The state of a game as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// JSON text.
    pub json: String,
    /// Something is left out of it.
    pub truncated: bool,
}

/// A question that only other services can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A value of the game's own storage, or of a player's. Answer: any JSON, `null` when there is none.
    Stored { collection: String, key: String, player: Option<Uuid> },
    /// The first entries of a board. Answer: a list of entries as REST has them.
    Top { board: String, n: u32 },
    /// A player's entry. Answer: the entry, `null` when there is none.
    Rank { board: String, player: Uuid },
    /// The entries around a player's. Answer: a list.
    Around { board: String, player: Uuid, n: u32 },
}

/// Why a question was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("timeout")]
    Timeout,
    #[error("unavailable")]
    Unavailable,
}

/// How long an answer may take. The match waits for it, others do not.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(250);

/// What a game can ask the other services. A match sees what it stored itself at once, also before it is written.
#[async_trait]
pub trait Outside: Send + Sync {
    /// JSON text, within [`ANSWER_WITHIN`].
    ///
    /// # Errors
    /// See [`AskError`].
    async fn ask(&self, ask: Ask) -> Result<String, AskError>;
}

/// What became of a wish to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    Seated,
    /// With the game's own reason, at most 64 printable ASCII characters.
    Refused(Option<String>),
}

/// Something for players to see, in the order the game said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Push {
    /// `match.<event>` to everybody; the payload is JSON text.
    Broadcast { event: String, payload: String },
    /// `module.message` to one player; JSON text.
    Message { player: Uuid, message: String },
}

/// A wish to be called later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timer {
    pub after: Duration,
    pub name: String,
    /// JSON text, handed back as it is.
    pub data: Option<String>,
}

/// A wish for players from the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backfill {
    /// 0 withdraws an earlier wish.
    pub wanted: u32,
    /// What the match says of itself to the strategy, as a ticket does: a JSON object as text.
    pub properties: String,
}

/// A wish about bots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BotWish {
    /// By its name; the id is made of it.
    Add(String),
    /// By its name or its id.
    Remove(String),
}

/// What a callback asked for.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Outcome {
    pub pushes: Vec<Push>,
    pub joinable: Option<bool>,
    /// What happens outside of the match: once, and together with the state it belongs to.
    pub effects: Vec<EffectBody>,
    pub timers: Vec<Timer>,
    pub bots: Vec<BotWish>,
    /// The last wish counts.
    pub backfill: Option<Backfill>,
    /// The match is over; its result as JSON text.
    pub finished: Option<String>,
}

/// Pushes, effects, timers and bots one callback may ask for, each.
pub const MAX_PER_CALLBACK: usize = 256;

/// A callback that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{script}:{}: {callback}: {message}", line.unwrap_or(0))]
pub struct GameError {
    pub script: String,
    pub line: Option<u32>,
    pub callback: &'static str,
    pub message: String,
    /// The game cannot go on: it used up its memory.
    pub fatal: bool,
}

/// Makes the games of one mode. Shared by all threads; what it makes stays on the thread that asked.
pub trait GameFactory: Send + Sync {
    fn settings(&self) -> &ModeSettings;

    /// Of the code: a match moves only to a host that has the same. Empty: it moves to any.
    fn version(&self) -> &str {
        ""
    }

    /// A game that was not started yet.
    ///
    /// # Errors
    /// The game's code does not load.
    fn create(&self, setup: &Setup, outside: Arc<dyn Outside>) -> Result<Box<dyn Game>, GameError>;
}

/// The modes a host serves.
#[derive(Default, Clone)]
pub struct Registry {
    modes: BTreeMap<String, Arc<dyn GameFactory>>,
}

impl Registry {
    /// Adds a mode or replaces it.
    pub fn register(&mut self, mode: impl Into<String>, factory: Arc<dyn GameFactory>) {
        self.modes.insert(mode.into(), factory);
    }

    /// These modes and the other's; a mode of both is the other's.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.modes.extend(other.modes);
        self
    }

    #[must_use]
    pub fn get(&self, mode: &str) -> Option<&Arc<dyn GameFactory>> {
        self.modes.get(mode)
    }

    /// Every mode with its settings and the version of its code, by name.
    #[must_use]
    pub fn modes(&self) -> Vec<(String, ModeSettings, String)> {
        let announced = |(mode, factory): (&String, &Arc<dyn GameFactory>)| {
            (mode.clone(), factory.settings().clone(), factory.version().to_owned())
        };
        self.modes.iter().map(announced).collect()
    }
}
