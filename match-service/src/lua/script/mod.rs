//! A match script as a [`Game`].

use std::{collections::HashMap, sync::Arc};

use asobi_proto::mode::ModeSettings;
use async_trait::async_trait;
use mlua::{Function, IntoLuaMulti, LuaString, MultiValue, Table, Value};
use uuid::Uuid;

use super::{
    decode::decode,
    encode::Encoder,
    source::{Folder, Source},
    vm::{Limits, Vm},
};
use crate::game::{Game, GameError, Joined, Outcome, Setup, Timer};

/// Largest state or result, bytes of JSON.
pub const MAX_STATE: usize = 1 << 20;

/// Every callback a script may define.
pub const CALLBACKS: [&str; 9] =
    ["init", "join", "leave", "handle_input", "tick", "get_state", "on_disconnect", "on_reconnect", "on_timer"];

const INPUT: &str = "handle_input";

/// One match's script in its VM. A callback that is not defined does nothing and keeps the state.
pub struct LuaGame {
    vm: Vm,
    callbacks: HashMap<&'static str, Function>,
    state: Table,
    setup: Setup,
    shared_state: bool,
    ids: HashMap<Uuid, LuaString>,
    undo: Option<Undo>,
}

/// The way back to the state before a callback. Copying the state before each of them would cost as much as running them; so it is copied once
/// for all inputs of a tick and the tick itself, and those inputs are repeated when a later one or the tick fails.
struct Undo {
    state: Table,
    random: u64,
    /// Since then, in order, with their players.
    inputs: Vec<(Uuid, String)>,
}

/// Inputs that may have to be repeated; with the next one the state is copied again.
const REPEATED: usize = 64;

/// What a callback left behind.
enum Returned {
    State(Table),
    /// Nothing but values that are not a state.
    Other(MultiValue),
}

impl LuaGame {
    /// # Errors
    /// The script does not load.
    pub fn load(
        folder: &Arc<Folder>,
        script: &Arc<Source>,
        setup: &Setup,
        settings: &ModeSettings,
        limits: Limits,
    ) -> Result<Self, GameError> {
        let vm = Vm::load(folder, script, setup, limits)?;
        vm.world.backfill_seats.set(settings.backfill.then_some(settings.max_players));
        let callbacks = CALLBACKS
            .into_iter()
            .filter_map(|name| match vm.global(name) {
                Value::Function(function) => Some((name, function)),
                _ => None,
            })
            .collect();
        let state = vm.lua.create_table().map_err(|error| vm.complaint("load", error.to_string()))?;
        let shared_state = settings.shared_state;
        Ok(Self { vm, callbacks, state, setup: setup.clone(), shared_state, ids: HashMap::new(), undo: None })
    }

    fn id(&mut self, player: Uuid) -> Result<LuaString, GameError> {
        if let Some(id) = self.ids.get(&player) {
            return Ok(id.clone());
        }
        let id = self.vm.string(&player.hyphenated().to_string())?;
        self.ids.insert(player, id.clone());
        Ok(id)
    }

    fn args(&self, callback: &'static str, args: impl IntoLuaMulti) -> Result<MultiValue, GameError> {
        args.into_lua_multi(&self.vm.lua).map_err(|error| self.vm.complaint(callback, error.to_string()))
    }

    /// Calls a callback that returns the state. When it fails or does not, the state and the random numbers are what they were before, and
    /// nothing it asked for is left in the outcome.
    fn change(
        &mut self,
        callback: &'static str,
        args: MultiValue,
        outcome: &mut Outcome,
        accept: impl FnOnce(&Self, MultiValue) -> Result<Returned, GameError>,
    ) -> Result<Option<MultiValue>, GameError> {
        let Some(function) = self.callbacks.get(callback).cloned() else {
            return Ok(None);
        };
        let random = self.vm.world.random.position();
        if self.undo.is_none() {
            self.vm.world.remember();
            self.undo = self.vm.copy_state(&self.state).map(|state| Undo { state, random, inputs: Vec::new() });
        }
        self.vm.world.outcome.take();
        let result = self.vm.call(callback, &function, args).and_then(|returned| accept(self, returned));
        let asked = self.vm.world.outcome.take();
        match result {
            Ok(Returned::State(state)) => {
                self.state = state;
                merge(outcome, asked);
                if callback != INPUT {
                    self.undo = None;
                }
                self.look_for_end(callback, outcome)?;
                Ok(None)
            }
            Ok(Returned::Other(values)) => {
                self.go_back(random);
                Ok(Some(values))
            }
            Err(error) => {
                self.go_back(random);
                Err(error)
            }
        }
    }

    /// Makes the state what it was before the callback that just failed; a state that was too large to copy stays as that left it.
    fn go_back(&mut self, random: u64) {
        if let Some(undo) = self.undo.take() {
            self.state = undo.state;
            self.vm.world.random.seed(undo.random);
            self.vm.world.repeat(true);
            for (player, input) in undo.inputs {
                // It went well before.
                if let Err(error) = self.repeat(player, &input) {
                    tracing::warn!(game.match_id = %self.setup.match_id, %error, "An input could not be repeated after another one failed.");
                }
            }
            self.vm.world.repeat(false);
            self.vm.world.outcome.take();
        }
        self.vm.world.random.seed(random);
    }

    fn repeat(&mut self, player: Uuid, input: &str) -> Result<(), GameError> {
        let Some(function) = self.callbacks.get(INPUT).cloned() else {
            return Ok(());
        };
        let args = self.input_args(player, input)?;
        if let Returned::State(state) = self.must_be_state(INPUT, self.vm.call(INPUT, &function, args)?)? {
            self.state = state;
        }
        Ok(())
    }

    fn input_args(&mut self, player: Uuid, input: &str) -> Result<MultiValue, GameError> {
        let input = self.read(INPUT, input)?;
        let id = self.id(player)?;
        self.args(INPUT, (id, input, &self.state))
    }

    fn look_for_end(&self, callback: &'static str, outcome: &mut Outcome) -> Result<(), GameError> {
        match self.state.raw_get::<Value>("_finished") {
            Ok(Value::Boolean(true)) => {}
            _ => return Ok(()),
        }
        let result: Value = self.state.raw_get("_result").unwrap_or_default();
        let mut json = String::new();
        if result.is_nil() {
            json.push_str("{}");
        } else {
            if let Err(error) = self.encode(callback, &result, &mut json) {
                outcome.finished = Some(r#"{"error":"the result has no JSON"}"#.to_owned());
                return Err(error);
            }
        }
        outcome.finished = Some(json);
        Ok(())
    }

    fn encode(&self, callback: &'static str, value: &Value, json: &mut String) -> Result<(), GameError> {
        Encoder::new(json, MAX_STATE, &self.vm.world.array_marker)
            .value(value)
            .map_err(|error| self.vm.complaint(callback, error.to_string()))
    }

    /// A callback of one player that returns the state and nothing else.
    fn about(&mut self, callback: &'static str, player: Uuid, outcome: &mut Outcome) -> Result<(), GameError> {
        if !self.callbacks.contains_key(callback) {
            return Ok(());
        }
        let id = self.id(player)?;
        let args = self.args(callback, (id, &self.state))?;
        self.change(callback, args, outcome, |game, returned| game.must_be_state(callback, returned)).map(drop)
    }

    fn must_be_state(&self, callback: &'static str, returned: MultiValue) -> Result<Returned, GameError> {
        match returned.into_iter().next() {
            Some(Value::Table(state)) => Ok(Returned::State(state)),
            other => Err(self.vm.complaint(
                callback,
                format!("must return the state, but returned {}", other.map_or("nothing", |value| value.type_name())),
            )),
        }
    }

    fn read(&self, callback: &'static str, json: &str) -> Result<Value, GameError> {
        // The budget does not matter here, the memory limit does.
        self.vm.within(std::time::Duration::from_secs(1), callback, || {
            decode(&self.vm.lua, &self.vm.world.array_marker, json)
        })
    }
}

#[async_trait(?Send)]
impl Game for LuaGame {
    async fn init(&mut self, outcome: &mut Outcome) -> Result<(), GameError> {
        let config = self
            .vm
            .lua
            .create_table()
            .and_then(|config| {
                config.raw_set("mode", self.setup.mode.as_str())?;
                config.raw_set("match_id", self.setup.match_id.hyphenated().to_string())?;
                config.raw_set("seed", self.setup.seed)?;
                if !self.setup.teams.is_empty() {
                    let ids = |team: &Vec<Uuid>| team.iter().map(|player| player.hyphenated().to_string()).collect();
                    let teams: Vec<Vec<String>> = self.setup.teams.iter().map(ids).collect();
                    config.raw_set("teams", teams)?;
                }
                Ok(config)
            })
            .map_err(|error| self.vm.complaint("init", error.to_string()))?;
        let args = self.args("init", config)?;
        self.change("init", args, outcome, |game, returned| game.must_be_state("init", returned)).map(drop)
    }

    async fn join(&mut self, player: Uuid, ctx: Option<&str>, outcome: &mut Outcome) -> Result<Joined, GameError> {
        self.vm.world.players.borrow_mut().insert(player);
        let joined = self.try_join(player, ctx, outcome);
        if !matches!(joined, Ok(Joined::Seated)) {
            self.vm.world.players.borrow_mut().remove(&player);
            self.ids.remove(&player);
        }
        joined
    }

    async fn leave(&mut self, player: Uuid, outcome: &mut Outcome) -> Result<(), GameError> {
        self.vm.world.players.borrow_mut().remove(&player);
        let left = self.about("leave", player, outcome);
        self.ids.remove(&player);
        left
    }

    async fn input(&mut self, player: Uuid, input: &str, outcome: &mut Outcome) -> Result<(), GameError> {
        if !self.callbacks.contains_key(INPUT) {
            return Ok(());
        }
        let args = self.input_args(player, input)?;
        self.change(INPUT, args, outcome, |game, returned| game.must_be_state(INPUT, returned))?;
        match &mut self.undo {
            Some(undo) if undo.inputs.len() < REPEATED => undo.inputs.push((player, input.to_owned())),
            _ => self.undo = None,
        }
        Ok(())
    }

    async fn tick(&mut self, outcome: &mut Outcome) -> Result<(), GameError> {
        let args = self.args("tick", &self.state)?;
        self.change("tick", args, outcome, |game, returned| game.must_be_state("tick", returned)).map(drop)
    }

    async fn state(&mut self, player: Option<Uuid>, json: &mut String, outcome: &mut Outcome) -> Result<(), GameError> {
        let Some(function) = self.callbacks.get("get_state").cloned() else {
            json.push_str("{}");
            return Ok(());
        };
        let args = match player.filter(|_| !self.shared_state) {
            Some(player) => {
                let id = self.id(player)?;
                self.args("get_state", (id, &self.state))?
            }
            None => self.args("get_state", &self.state)?,
        };
        // Whatever a script does to the state in here is not repeated.
        self.undo = None;
        self.vm.world.outcome.take();
        let returned = self.vm.call("get_state", &function, args)?;
        merge(outcome, self.vm.world.outcome.take());
        match returned.into_iter().next() {
            Some(value @ Value::Table(_)) => self.encode("get_state", &value, json),
            other => Err(self.vm.complaint(
                "get_state",
                format!("must return a table, but returned {}", other.map_or("nothing", |value| value.type_name())),
            )),
        }
    }

    async fn on_disconnect(&mut self, player: Uuid, outcome: &mut Outcome) -> Result<(), GameError> {
        self.about("on_disconnect", player, outcome)
    }

    async fn on_reconnect(&mut self, player: Uuid, outcome: &mut Outcome) -> Result<(), GameError> {
        self.about("on_reconnect", player, outcome)
    }

    fn save(&mut self, _out: &mut Vec<u8>) -> Result<(), GameError> {
        Err(self.vm.complaint("save", "not there yet"))
    }

    fn restore(&mut self, _saved: &[u8], _players: &[Uuid]) -> Result<(), GameError> {
        Err(self.vm.complaint("restore", "not there yet"))
    }

    async fn timer(&mut self, timer: &Timer, outcome: &mut Outcome) -> Result<(), GameError> {
        if !self.callbacks.contains_key("on_timer") {
            return Ok(());
        }
        let data = match &timer.data {
            Some(json) => self.read("on_timer", json)?,
            None => Value::Nil,
        };
        let args = self.args("on_timer", (timer.name.as_str(), data, &self.state))?;
        self.change("on_timer", args, outcome, |game, returned| game.must_be_state("on_timer", returned)).map(drop)
    }
}

impl LuaGame {
    fn try_join(&mut self, player: Uuid, ctx: Option<&str>, outcome: &mut Outcome) -> Result<Joined, GameError> {
        if !self.callbacks.contains_key("join") {
            return Ok(Joined::Seated);
        }
        let id = self.id(player)?;
        let ctx = match ctx {
            Some(json) => self.read("join", json)?,
            None => Value::Nil,
        };
        let args = self.args("join", (id, &self.state, ctx))?;
        let refused = self.change("join", args, outcome, |_, mut returned| {
            Ok(match returned.pop_front() {
                Some(Value::Table(state)) => Returned::State(state),
                Some(first) => {
                    returned.push_front(first);
                    Returned::Other(returned)
                }
                None => Returned::Other(returned),
            })
        })?;
        let Some(values) = refused else {
            return Ok(Joined::Seated);
        };
        let reason = match values.get(1) {
            Some(Value::String(reason)) => Some(reason.to_string_lossy()),
            _ => None,
        };
        if reason.is_none() {
            tracing::warn!(
                game.mode = self.setup.mode, game.match_id = %self.setup.match_id, player.id = %player,
                "a script's join returned neither the state nor a reason; the player is refused"
            );
        }
        Ok(Joined::Refused(reason.filter(|reason| presentable(reason))))
    }
}

/// Text of a script that may reach a player as a reason.
fn presentable(reason: &str) -> bool {
    (1..=64).contains(&reason.len()) && reason.bytes().all(|b| (0x20..0x7f).contains(&b))
}

fn merge(into: &mut Outcome, from: Outcome) {
    into.pushes.extend(from.pushes);
    into.effects.extend(from.effects);
    into.bots.extend(from.bots);
    into.timers.extend(from.timers);
    if from.backfill.is_some() {
        into.backfill = from.backfill;
    }
    if from.joinable.is_some() {
        into.joinable = from.joinable;
    }
    if from.finished.is_some() {
        into.finished = from.finished;
    }
}
