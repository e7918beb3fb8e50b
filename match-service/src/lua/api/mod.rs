//! The `game` table: what a script can ask of its host. Calls collect what shall happen in an [`Outcome`]; the host does it after the callback.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    rc::Rc,
    time::{Duration, Instant},
};

use asobi_proto::effect::{EffectBody, ScoreEffect};
use mlua::{Function, Lua, MultiValue, Table, Value};
use uuid::Uuid;

use super::{
    encode::{EncodeError, Encoder},
    random::Random,
};
use crate::game::{Backfill, MAX_PER_CALLBACK, Outcome, Push, Setup, Timer};

/// Largest payload of one broadcast, message or timer, bytes of JSON.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// Largest properties of a wish for players, bytes of JSON; as of a ticket.
const MAX_PROPERTIES: usize = 4 * 1024;
const LOG_LINES_PER_SECOND: u32 = 30;
const LOG_MESSAGE: usize = 500;
const LOG_META: usize = 2048;
const MAX_TIMER: Duration = Duration::from_secs(24 * 3600);

/// Events a script must not broadcast: the protocol's own `match.*` frames.
const RESERVED: [&str; 17] = [
    "ack",
    "finished",
    "joined",
    "left",
    "list",
    "matched",
    "matchmaker_expired",
    "matchmaker_failed",
    "migrate",
    "phase_changed",
    "state",
    "terrain",
    "tick",
    "vote_result",
    "vote_start",
    "vote_tally",
    "vote_vetoed",
];

/// What the `game` table's functions share with the host.
pub struct World {
    pub outcome: RefCell<Outcome>,
    pub random: Rc<Random>,
    /// Who may be sent something: players with a seat, and whoever is just joining.
    pub players: RefCell<HashSet<Uuid>>,
    /// The seats of a match that may ask the queue for players; none: it may not.
    pub backfill_seats: Cell<Option<u32>>,
    /// The metatable that makes an empty table an array.
    pub array_marker: Table,
    match_id: Uuid,
    mode: String,
    log_window: Cell<Option<Instant>>,
    log_lines: Cell<u32>,
    /// Ids handed out since [`World::remember`]; no more than [`IDS`] are remembered.
    ids: RefCell<Vec<Uuid>>,
    /// How many of them were handed out again, while callbacks are repeated.
    repeated: Cell<Option<usize>>,
}

const IDS: usize = 1024;

type Answer = mlua::Result<Value>;

impl World {
    /// Puts `game` and the match's own `math.random` into a VM that is not sandboxed yet.
    ///
    /// # Errors
    /// The VM is out of memory.
    pub fn install(lua: &Lua, setup: &Setup) -> mlua::Result<Rc<Self>> {
        let array_marker = lua.create_table()?;
        array_marker.set_readonly(true);
        let world = Rc::new(Self {
            outcome: RefCell::default(),
            random: Rc::new(Random::new(setup.seed)),
            players: RefCell::default(),
            backfill_seats: Cell::new(None),
            array_marker,
            match_id: setup.match_id,
            mode: setup.mode.clone(),
            log_window: Cell::new(None),
            log_lines: Cell::new(0),
            ids: RefCell::default(),
            repeated: Cell::new(None),
        });
        let game = lua.create_table()?;
        world.add(lua, &game, "log", Self::log)?;
        world.add(lua, &game, "broadcast", Self::broadcast)?;
        world.add(lua, &game, "send", Self::send)?;
        world.add(lua, &game, "array", Self::array)?;
        world.add(lua, &game, "after", Self::after)?;
        world.add(lua, &game, "id", |world, lua, _| {
            Ok(Value::String(lua.create_string(world.new_id().hyphenated().to_string())?))
        })?;
        let matches = lua.create_table()?;
        world.add(lua, &matches, "set_joinable", Self::set_joinable)?;
        world.add(lua, &matches, "request_backfill", Self::request_backfill)?;
        let boards = lua.create_table()?;
        world.add(lua, &boards, "submit", Self::submit)?;
        absent(lua, &boards, &["top", "rank", "around"])?;
        absent(lua, &game, &["notify", "notify_many"])?;
        for (name, functions) in [
            ("chat", &["send"][..]),
            ("storage", &["get", "set", "player_get", "player_set"]),
            ("bots", &["add", "remove"]),
        ] {
            let table = lua.create_table()?;
            absent(lua, &table, functions)?;
            table.set_readonly(true);
            game.raw_set(name, table)?;
        }
        matches.set_readonly(true);
        boards.set_readonly(true);
        game.raw_set("match", matches)?;
        game.raw_set("leaderboard", boards)?;
        let random = world.random_function(lua)?;
        game.raw_set("random", &random)?;
        game.set_readonly(true);
        let globals = lua.globals();
        globals.raw_set("game", game)?;
        let math: Table = globals.raw_get("math")?;
        math.raw_set("random", random)?;
        let seeding = Rc::clone(&world.random);
        math.raw_set(
            "randomseed",
            lua.create_function(move |_, seed: f64| {
                seeding.seed(seed.to_bits());
                Ok(())
            })?,
        )?;
        Ok(world)
    }

    fn add(
        self: &Rc<Self>,
        lua: &Lua,
        table: &Table,
        name: &str,
        run: impl Fn(&Self, &Lua, &[Value]) -> Answer + 'static,
    ) -> mlua::Result<()> {
        let world = Rc::clone(self);
        table.raw_set(
            name,
            lua.create_function(move |lua, args: MultiValue| {
                let args: Vec<Value> = args.into_iter().collect();
                run(&world, lua, &args)
            })?,
        )
    }

    /// From here on callbacks may be repeated.
    pub fn remember(&self) {
        self.ids.borrow_mut().clear();
    }

    /// While callbacks are repeated they get the ids they got before, and log nothing.
    pub fn repeat(&self, repeats: bool) {
        self.repeated.set(repeats.then_some(0));
    }

    fn new_id(&self) -> Uuid {
        let mut ids = self.ids.borrow_mut();
        if let Some(count) = self.repeated.get()
            && let Some(id) = ids.get(count)
        {
            self.repeated.set(Some(count + 1));
            return *id;
        }
        let id = Uuid::now_v7();
        if ids.len() < IDS {
            ids.push(id);
        }
        id
    }

    fn random_function(self: &Rc<Self>, lua: &Lua) -> mlua::Result<Function> {
        let random = Rc::clone(&self.random);
        lua.create_function(move |_, args: MultiValue| {
            let bound = |value: &Value| whole(value).ok_or_else(|| bad("whole numbers"));
            Ok(match args.len() {
                0 => Value::Number(random.unit()),
                1 => {
                    let high = bound(&args[0])?;
                    if high < 1 {
                        return Err(bad("a number of at least 1"));
                    }
                    Value::Integer(random.between(1, high))
                }
                2 => {
                    let (low, high) = (bound(&args[0])?, bound(&args[1])?);
                    if low > high {
                        return Err(bad("the smaller number first"));
                    }
                    Value::Integer(random.between(low, high))
                }
                _ => return Err(bad("at most two numbers")),
            })
        })
    }

    /// JSON text of a value, at most `limit` bytes.
    fn json(&self, value: &Value, limit: usize) -> Result<String, EncodeError> {
        let mut out = String::new();
        Encoder::new(&mut out, limit, &self.array_marker).value(value)?;
        Ok(out)
    }

    fn broadcast(&self, lua: &Lua, args: &[Value]) -> Answer {
        let Some(event) = args.first().and_then(text) else {
            return wrong(lua, "the event must be a string");
        };
        let well_formed = (1..=64).contains(&event.len())
            && event.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !well_formed {
            return wrong(lua, "an event is 1 to 64 of A-Za-z0-9_-");
        }
        if RESERVED.contains(&event.as_str()) {
            return wrong(lua, &format!("`{event}` is a reserved event"));
        }
        let payload = match args.get(1) {
            None | Some(Value::Nil) => "{}".to_owned(),
            Some(value @ Value::Table(_)) => match self.json(value, MAX_PAYLOAD) {
                Ok(json) => json,
                Err(error) => return wrong(lua, &error.to_string()),
            },
            Some(_) => return wrong(lua, "the payload must be a table"),
        };
        self.push(lua, Push::Broadcast { event, payload })
    }

    fn send(&self, lua: &Lua, args: &[Value]) -> Answer {
        let Some(player) = args.first().and_then(player_id) else {
            return wrong(lua, "the first argument must be a player id");
        };
        if !self.players.borrow().contains(&player) {
            return wrong(lua, "no such player in this match");
        }
        let message = match self.json(args.get(1).unwrap_or(&Value::Nil), MAX_PAYLOAD) {
            Ok(json) => json,
            Err(error) => return wrong(lua, &error.to_string()),
        };
        self.push(lua, Push::Message { player, message })
    }

    fn push(&self, lua: &Lua, push: Push) -> Answer {
        let mut outcome = self.outcome.borrow_mut();
        if outcome.pushes.len() >= MAX_PER_CALLBACK {
            return wrong(lua, "too many messages in one callback");
        }
        outcome.pushes.push(push);
        Ok(Value::Boolean(true))
    }

    fn set_joinable(&self, lua: &Lua, args: &[Value]) -> Answer {
        let Some(Value::Boolean(joinable)) = args.first() else {
            return wrong(lua, "set_joinable takes true or false");
        };
        self.outcome.borrow_mut().joinable = Some(*joinable);
        Ok(Value::Boolean(true))
    }

    fn request_backfill(&self, lua: &Lua, args: &[Value]) -> Answer {
        let Some(seats) = self.backfill_seats.get() else {
            return wrong(lua, "the mode does not set backfill = true");
        };
        let Some(wanted) = args.first().and_then(whole).and_then(|n| u32::try_from(n).ok()) else {
            return wrong(lua, "request_backfill takes a whole number of players");
        };
        let taken = u32::try_from(self.players.borrow().len()).unwrap_or(u32::MAX);
        if wanted > seats.saturating_sub(taken) {
            return wrong(lua, "the match has fewer free seats than that");
        }
        let properties = match args.get(1) {
            None | Some(Value::Nil) => "{}".to_owned(),
            Some(table @ Value::Table(_)) => match self.json(table, MAX_PROPERTIES) {
                Ok(json) if json.starts_with('{') => json,
                Ok(_) => return wrong(lua, "the properties must have names"),
                Err(error) => return wrong(lua, &error.to_string()),
            },
            Some(_) => return wrong(lua, "the properties must be a table"),
        };
        self.outcome.borrow_mut().backfill = Some(Backfill { wanted, properties });
        Ok(Value::Boolean(true))
    }

    fn submit(&self, lua: &Lua, args: &[Value]) -> Answer {
        let Some(board) = args.first().and_then(text) else {
            return wrong(lua, "the board must be a string");
        };
        if board.is_empty() || board.len() > 128 || board.contains(char::is_control) {
            return wrong(lua, "a board's id has 1 to 128 characters");
        }
        let Some(player) = args.get(1).and_then(player_id) else {
            return wrong(lua, "the second argument must be a player id");
        };
        let Some(score) = args.get(2).and_then(number) else {
            return wrong(lua, "the score must be a number");
        };
        let sub_score = match args.get(3) {
            None | Some(Value::Nil) => 0.0,
            Some(value) => match number(value) {
                Some(sub_score) => sub_score,
                None => return wrong(lua, "the sub-score must be a number"),
            },
        };
        let mut outcome = self.outcome.borrow_mut();
        if outcome.effects.len() >= MAX_PER_CALLBACK {
            return Ok(Value::Boolean(false));
        }
        outcome.effects.push(EffectBody::Score(ScoreEffect { board, player_id: player, score, sub_score }));
        Ok(Value::Boolean(true))
    }

    fn array(&self, lua: &Lua, args: &[Value]) -> Answer {
        let table = match args.first() {
            None | Some(Value::Nil) => lua.create_table()?,
            Some(Value::Table(table)) => table.clone(),
            Some(_) => return wrong(lua, "game.array takes a table or nothing"),
        };
        if table.is_readonly() {
            return wrong(lua, "the table is read-only");
        }
        table.set_metatable(Some(self.array_marker.clone()))?;
        Ok(Value::Table(table))
    }

    fn after(&self, lua: &Lua, args: &[Value]) -> Answer {
        let after = args
            .first()
            .and_then(number)
            .filter(|ms| *ms >= 0.0)
            .and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok())
            .filter(|after| *after <= MAX_TIMER);
        let Some(after) = after else {
            return wrong(lua, "the time must be milliseconds, at most a day");
        };
        let Some(name) = args.get(1).and_then(text).filter(|name| name.len() <= 64) else {
            return wrong(lua, "the timer's name must be a string of at most 64 bytes");
        };
        let data = match args.get(2) {
            None | Some(Value::Nil) => None,
            Some(value) => match self.json(value, MAX_PAYLOAD) {
                Ok(json) => Some(json),
                Err(error) => return wrong(lua, &error.to_string()),
            },
        };
        let mut outcome = self.outcome.borrow_mut();
        if outcome.timers.len() >= MAX_PER_CALLBACK {
            return wrong(lua, "too many timers in one callback");
        }
        outcome.timers.push(Timer { after, name, data });
        Ok(Value::Boolean(true))
    }

    fn log(&self, lua: &Lua, args: &[Value]) -> Answer {
        let Some(level) = args.first().and_then(text) else {
            return wrong(lua, "the level must be debug, info, warn or error");
        };
        let Some(message) = args.get(1).and_then(text) else {
            return wrong(lua, "the message must be a string");
        };
        let meta = match args.get(2) {
            None | Some(Value::Nil) => None,
            Some(value) => Some(match self.json(value, LOG_META) {
                Ok(json) => json,
                Err(_) => r#"{"_truncated":true}"#.to_owned(),
            }),
        };
        if !matches!(level.as_str(), "debug" | "info" | "warn" | "warning" | "error") {
            return wrong(lua, "the level must be debug, info, warn or error");
        }
        if !self.may_log() {
            return Ok(Value::Boolean(false));
        }
        let message = shortened(&message, LOG_MESSAGE);
        let (mode, id, meta) = (&self.mode, self.match_id, meta.unwrap_or_default());
        match level.as_str() {
            "error" => {
                tracing::error!(target: "asobi::script", { game.mode = mode, game.match_id = %id, meta }, "{message}");
            }
            "warn" | "warning" => {
                tracing::warn!(target: "asobi::script", { game.mode = mode, game.match_id = %id, meta }, "{message}");
            }
            "info" => {
                tracing::info!(target: "asobi::script", { game.mode = mode, game.match_id = %id, meta }, "{message}");
            }
            _ => {
                tracing::debug!(target: "asobi::script", { game.mode = mode, game.match_id = %id, meta }, "{message}");
            }
        }
        Ok(Value::Boolean(true))
    }

    fn may_log(&self) -> bool {
        if self.repeated.get().is_some() {
            return false;
        }
        let now = Instant::now();
        let fresh = self.log_window.get().is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1));
        if fresh {
            self.log_window.set(Some(now));
            self.log_lines.set(0);
        }
        let lines = self.log_lines.get();
        self.log_lines.set(lines.saturating_add(1));
        lines < LOG_LINES_PER_SECOND
    }
}

/// Functions of the contract that this release does not have: they answer so.
fn absent(lua: &Lua, table: &Table, names: &[&str]) -> mlua::Result<()> {
    for name in names {
        table.raw_set(*name, lua.create_function(|lua, _: MultiValue| wrong(lua, "not_available"))?)?;
    }
    Ok(())
}

fn wrong(lua: &Lua, message: &str) -> Answer {
    let table = lua.create_table()?;
    table.raw_set("error", message)?;
    Ok(Value::Table(table))
}

fn bad(what: &str) -> mlua::Error {
    mlua::Error::runtime(format!("random takes {what}"))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.to_string_lossy()),
        _ => None,
    }
}

fn player_id(value: &Value) -> Option<Uuid> {
    match value {
        Value::String(text) => Uuid::try_parse_ascii(&text.as_bytes()).ok(),
        _ => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "Lua's numbers are doubles")]
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(n) => Some(*n as f64),
        Value::Number(n) if n.is_finite() => Some(*n),
        _ => None,
    }
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(n) => Some(*n),
        _ => None,
    }
}

/// At most so many bytes of a text, cut between characters.
pub(super) fn shortened(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let mut end = bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
