//! A match script as a [`Game`].

mod change;

use std::{collections::HashMap, sync::Arc};

use asobi_proto::mode::ModeSettings;
use async_trait::async_trait;
use mlua::{Function, IntoLuaMulti, LuaString, MultiValue, Table, Value};
use uuid::Uuid;

use self::change::{Left, Undo, merge};
use super::{
    decode::decode,
    save, show,
    source::{Folder, Source},
    vm::{Limits, Vm},
};
use crate::game::{Game, GameError, Joined, Outcome, Outside, Setup, Shown, Timer};

/// Largest state or result, bytes of JSON.
pub const MAX_STATE: usize = 1 << 20;

/// Every callback a script may define.
pub const CALLBACKS: [&str; 9] =
    ["init", "join", "leave", "handle_input", "tick", "get_state", "on_disconnect", "on_reconnect", "on_timer"];

const INPUT: &str = "handle_input";

/// The one callback of a bots' script.
pub const THINK: &str = "think";

/// The texts that a mode's matches run.
#[derive(Debug, Clone)]
pub struct Scripts {
    pub folder: Arc<Folder>,
    pub game: Arc<Source>,
    pub bots: Option<Arc<Source>>,
}

/// One match's script in its VM. A callback that is not defined does nothing and keeps the state.
pub struct LuaGame {
    vm: Vm,
    callbacks: HashMap<&'static str, Function>,
    /// Of the bots' script.
    think: Option<Function>,
    state: Table,
    setup: Setup,
    shared_state: bool,
    outside: Arc<dyn Outside>,
    ids: HashMap<Uuid, LuaString>,
    undo: Option<Undo>,
    writer: save::Writer,
}

impl LuaGame {
    /// # Errors
    /// A script does not load.
    pub fn load(
        scripts: &Scripts,
        setup: &Setup,
        settings: &ModeSettings,
        limits: Limits,
        outside: Arc<dyn Outside>,
    ) -> Result<Self, GameError> {
        let vm = Vm::load(&scripts.folder, &scripts.game, setup, limits)?;
        vm.world.backfill_seats.set(settings.backfill.then_some(settings.max_players));
        vm.world.has_bots.set(settings.bots.is_some());
        let callbacks = CALLBACKS
            .into_iter()
            .filter_map(|name| match vm.global(name) {
                Value::Function(function) => Some((name, function)),
                _ => None,
            })
            .collect();
        let think = match &scripts.bots {
            Some(bots) => vm.beside(&scripts.folder, bots)?.raw_get(THINK).ok(),
            None => None,
        };
        let state = vm.lua.create_table().map_err(|error| vm.complaint("load", error.to_string()))?;
        Ok(Self {
            vm,
            callbacks,
            think,
            state,
            setup: setup.clone(),
            shared_state: settings.shared_state,
            outside,
            ids: HashMap::new(),
            undo: None,
            writer: save::Writer::default(),
        })
    }

    fn id(&mut self, player: Uuid) -> Result<LuaString, GameError> {
        if let Some(id) = self.ids.get(&player) {
            return Ok(id.clone());
        }
        let id = self.vm.world.bot_id(player).unwrap_or_else(|| player.hyphenated().to_string());
        let id = self.vm.string(&id)?;
        self.ids.insert(player, id.clone());
        Ok(id)
    }

    fn args(&self, callback: &'static str, args: impl IntoLuaMulti) -> Result<MultiValue, GameError> {
        args.into_lua_multi(&self.vm.lua).map_err(|error| self.vm.complaint(callback, error.to_string()))
    }

    /// A callback of one player that returns the state and nothing else.
    async fn about(&mut self, callback: &'static str, player: Uuid, outcome: &mut Outcome) -> Result<(), GameError> {
        if !self.callbacks.contains_key(callback) {
            return Ok(());
        }
        let id = self.id(player)?;
        let args = self.args(callback, (id, &self.state))?;
        self.change(callback, args, outcome, |game, returned| game.must_be_state(callback, returned)).await.map(drop)
    }

    fn read(&self, callback: &'static str, json: &str) -> Result<Value, GameError> {
        // The budget does not matter here, the memory limit does.
        self.vm.within(std::time::Duration::from_secs(1), callback, || {
            decode(&self.vm.lua, &self.vm.world.array_marker, &self.vm.world.keys, json)
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
        self.change("init", args, outcome, |game, returned| game.must_be_state("init", returned)).await.map(drop)
    }

    async fn join(&mut self, player: Uuid, ctx: Option<&str>, outcome: &mut Outcome) -> Result<Joined, GameError> {
        self.vm.world.players.borrow_mut().insert(player);
        let joined = self.try_join(player, ctx, outcome).await;
        if !matches!(joined, Ok(Joined::Seated)) {
            self.vm.world.players.borrow_mut().remove(&player);
            self.forget(player);
        }
        joined
    }

    async fn leave(&mut self, player: Uuid, outcome: &mut Outcome) -> Result<(), GameError> {
        self.vm.world.players.borrow_mut().remove(&player);
        let left = self.about("leave", player, outcome).await;
        self.forget(player);
        left
    }

    async fn input(&mut self, player: Uuid, input: &str, outcome: &mut Outcome) -> Result<(), GameError> {
        if !self.callbacks.contains_key(INPUT) {
            return Ok(());
        }
        self.apply(player, input, outcome).await
    }

    async fn tick(&mut self, outcome: &mut Outcome) -> Result<(), GameError> {
        let args = self.args("tick", &self.state)?;
        self.change("tick", args, outcome, |game, returned| game.must_be_state("tick", returned)).await.map(drop)
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
        let returned = self.vm.call("get_state", &function, args, &*self.outside).await?;
        merge(outcome, self.vm.world.outcome.take());
        match returned.values.into_iter().next() {
            Some(value @ Value::Table(_)) => self.encode("get_state", &value, json),
            other => Err(self.vm.complaint(
                "get_state",
                format!("must return a table, but returned {}", other.map_or("nothing", |value| value.type_name())),
            )),
        }
    }

    async fn on_disconnect(&mut self, player: Uuid, outcome: &mut Outcome) -> Result<(), GameError> {
        self.about("on_disconnect", player, outcome).await
    }

    async fn on_reconnect(&mut self, player: Uuid, outcome: &mut Outcome) -> Result<(), GameError> {
        self.about("on_reconnect", player, outcome).await
    }

    fn know_bot(&mut self, player: Uuid, id: &str) {
        self.vm.world.know_bot(player, id);
        self.ids.remove(&player);
    }

    async fn think(&mut self, bot: Uuid, outcome: &mut Outcome) -> Result<Option<String>, GameError> {
        let Some(function) = self.think.clone() else {
            return Ok(None);
        };
        let id = self.id(bot)?;
        let args = self.args(THINK, (id, &self.state))?;
        self.prepare_undo();
        let random = self.vm.world.random.position();
        self.vm.world.outcome.take();
        let returned = self.vm.call(THINK, &function, args, &*self.outside).await;
        let thought = returned.and_then(|returned| self.input_of(returned.values.into_iter().next()));
        let wishes = self.vm.world.outcome.take();
        match &thought {
            Ok(_) => merge(outcome, wishes),
            Err(_) => self.go_back(random),
        }
        thought
    }

    fn show(&self, most: usize) -> Result<Shown, GameError> {
        Ok(show::show(&self.state, &self.vm.world.array_marker, most))
    }

    fn save(&mut self, out: &mut Vec<u8>) -> Result<(), GameError> {
        let (world, random) = (&self.vm.world, self.vm.world.random.position());
        self.writer
            .write(&self.state, &world.array_marker, random, &world.bots(), out)
            .map_err(|problem| self.vm.complaint("save", problem))
    }

    fn restore(&mut self, saved: &[u8], players: &[Uuid]) -> Result<(), GameError> {
        // It is bounded by the length of what was saved and by the VM's memory; the clock is not looked at.
        let saved = self.vm.within(std::time::Duration::from_secs(1), "restore", || {
            save::read(&self.vm.lua, &self.vm.world.array_marker, saved)
        })?;
        self.state = saved.state;
        self.vm.world.random.seed(saved.random);
        self.vm.world.players.replace(players.iter().copied().collect());
        for (player, id) in saved.bots {
            self.vm.world.know_bot(player, &id);
        }
        self.ids.clear();
        self.undo = None;
        Ok(())
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
        self.change("on_timer", args, outcome, |game, returned| game.must_be_state("on_timer", returned))
            .await
            .map(drop)
    }
}

impl LuaGame {
    fn forget(&mut self, player: Uuid) {
        self.ids.remove(&player);
        self.vm.world.forget_bot(player);
    }

    /// What a bot does, if anything, as JSON text of an object.
    fn input_of(&self, thought: Option<Value>) -> Result<Option<String>, GameError> {
        match thought {
            None | Some(Value::Nil) => Ok(None),
            Some(input @ Value::Table(_)) => {
                let mut json = String::new();
                self.encode(THINK, &input, &mut json)?;
                if json.starts_with('{') {
                    return Ok(Some(json));
                }
                Err(self.vm.complaint(THINK, "must return an input with names or nil, but returned a list"))
            }
            Some(other) => {
                let message = format!("must return an input or nil, but returned a {}", other.type_name());
                Err(self.vm.complaint(THINK, message))
            }
        }
    }

    async fn try_join(&mut self, player: Uuid, ctx: Option<&str>, outcome: &mut Outcome) -> Result<Joined, GameError> {
        if !self.callbacks.contains_key("join") {
            return Ok(Joined::Seated);
        }
        let id = self.id(player)?;
        let ctx = match ctx {
            Some(json) => self.read("join", json)?,
            None => Value::Nil,
        };
        let args = self.args("join", (id, &self.state, ctx))?;
        let accept = |_: &Self, mut returned: MultiValue| {
            Ok(match returned.pop_front() {
                Some(Value::Table(state)) => Left::State(state),
                Some(first) => {
                    returned.push_front(first);
                    Left::Other(returned)
                }
                None => Left::Other(returned),
            })
        };
        let Some(values) = self.change("join", args, outcome, accept).await? else {
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
