//! One match's VM: Luau, sandboxed, with bounds on memory and time, and without what a game has no business with.

use std::{cell::RefCell, collections::HashMap, path::Path, rc::Rc, sync::Arc, time::Duration};

use mlua::{Function, Lua, LuaOptions, LuaString, MultiValue, StdLib, Table, Value, VmState};

use super::{
    api::{self, World},
    budget::{Budget, Trip},
    source::{Folder, Source},
};
use crate::game::{GameError, Setup};

/// Bounds of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub memory_bytes: usize,
    /// Of one callback.
    pub callback: Duration,
}

/// How much longer loading a script may take than a callback.
const LOAD_FACTOR: u32 = 20;
/// Entries of a state up to which a failed callback is undone; copying larger ones in each tick would cost more than it is worth.
const UNDO_ENTRIES: u32 = 4096;

/// A VM that has run its script.
pub struct Vm {
    pub lua: Lua,
    pub world: Rc<World>,
    copy_state: Function,
    script: Arc<Source>,
    budget: Rc<Budget>,
    limits: Limits,
}

impl Vm {
    /// Makes a VM and runs the script in it, which defines its callbacks and settings.
    ///
    /// # Errors
    /// The script does not compile or fails.
    pub fn load(folder: &Arc<Folder>, script: &Arc<Source>, setup: &Setup, limits: Limits) -> Result<Self, GameError> {
        let budget = Rc::new(Budget::new());
        let made = Self::bare(setup, limits, &budget, Some((folder, script)));
        let (lua, world, copy_state) = made.map_err(|error| explain(&error, &script.name, "load", None))?;
        let vm = Self { lua, world, copy_state, script: Arc::clone(script), budget, limits };
        vm.within(limits.callback * LOAD_FACTOR, "load", || {
            vm.lua.load(&*script.text).set_name(format!("={}", script.name)).exec()
        })?;
        Ok(vm)
    }

    /// Runs a file that only returns something (the manifest) and hands over what it returned, and its globals.
    ///
    /// # Errors
    /// The file does not compile or fails.
    pub fn evaluate<T>(
        source: &Arc<Source>,
        limits: Limits,
        read: impl FnOnce(&Lua, Value) -> T,
    ) -> Result<T, GameError> {
        let budget = Rc::new(Budget::new());
        let setup = Setup::new(uuid::Uuid::nil(), "");
        let (lua, world, copy_state) =
            Self::bare(&setup, limits, &budget, None).map_err(|error| explain(&error, &source.name, "load", None))?;
        let vm = Self { lua, world, copy_state, script: Arc::clone(source), budget, limits };
        let value = vm.within(limits.callback * LOAD_FACTOR, "load", || {
            vm.lua.load(&*source.text).set_name(format!("={}", source.name)).eval::<Value>()
        })?;
        Ok(read(&vm.lua, value))
    }

    fn bare(
        setup: &Setup,
        limits: Limits,
        budget: &Rc<Budget>,
        requires: Option<(&Arc<Folder>, &Arc<Source>)>,
    ) -> mlua::Result<(Lua, Rc<World>, Function)> {
        let libs = StdLib::COROUTINE
            | StdLib::TABLE
            | StdLib::STRING
            | StdLib::UTF8
            | StdLib::MATH
            | StdLib::BIT
            | StdLib::BUFFER
            | StdLib::VECTOR
            | StdLib::OS;
        let lua = Lua::new_with(libs, LuaOptions::new().catch_rust_panics(false))?;
        lua.set_memory_limit(limits.memory_bytes)?;
        let globals = lua.globals();
        for name in ["collectgarbage", "loadstring", "getfenv", "setfenv", "newproxy", "debug", "require"] {
            globals.raw_set(name, Value::Nil)?;
        }
        let copy_state = prelude(&lua, budget)?;
        let world = World::install(&lua, setup)?;
        if let Some((folder, script)) = requires {
            globals.raw_set("require", require(&lua, folder, script)?)?;
        }
        lua.sandbox(true)?;
        interrupt(&lua, budget);
        Ok((lua, world, copy_state))
    }

    /// Calls one of the script's functions under the budget of a callback.
    ///
    /// # Errors
    /// It failed, ran too long or used up the memory (then it is fatal).
    pub fn call(&self, callback: &'static str, function: &Function, args: MultiValue) -> Result<MultiValue, GameError> {
        self.within(self.limits.callback, callback, || function.call(args))
    }

    /// Runs something under a budget.
    ///
    /// # Errors
    /// As [`Vm::call`].
    pub fn within<T>(
        &self,
        limit: Duration,
        callback: &'static str,
        run: impl FnOnce() -> mlua::Result<T>,
    ) -> Result<T, GameError> {
        self.budget.start(limit);
        let result = run();
        if matches!(&result, Err(error) if is_memory(error)) {
            self.budget.memory_hit();
        }
        let trip = self.budget.stop();
        match (result, trip) {
            (Ok(value), None) => Ok(value),
            // It swallowed the verdict and came back before the next interrupt.
            (Ok(_), Some(trip)) => Err(GameError {
                script: self.script.name.clone(),
                line: None,
                callback,
                message: match trip {
                    Trip::Time => format!("ran longer than {} ms", limit.as_millis()),
                    Trip::Memory => OUT_OF_MEMORY.to_owned(),
                },
                fatal: trip == Trip::Memory,
            }),
            (Err(error), trip) => Err(explain(&error, &self.script.name, callback, trip)),
        }
    }

    /// A global of the script, whatever it is.
    #[must_use]
    pub fn global(&self, name: &str) -> Value {
        self.lua.globals().raw_get(name).unwrap_or_default()
    }

    /// A copy of a state to go back to; none when it is too large to be copied in every tick.
    #[must_use]
    pub fn copy_state(&self, state: &Table) -> Option<Table> {
        // Bounded by itself; looking at the clock at every entry would cost more than the copying.
        self.lua.remove_interrupt();
        let copy = self.copy_state.call::<Option<Table>>((state, UNDO_ENTRIES)).ok().flatten();
        interrupt(&self.lua, &self.budget);
        copy
    }

    /// An error of this script that is not an error of the VM: a callback that returned what it must not.
    #[must_use]
    pub fn complaint(&self, callback: &'static str, message: impl Into<String>) -> GameError {
        GameError { script: self.script.name.clone(), line: None, callback, message: message.into(), fatal: false }
    }

    /// Lua's string of a player's id.
    ///
    /// # Errors
    /// The VM is out of memory.
    pub fn string(&self, text: &str) -> Result<LuaString, GameError> {
        self.lua.create_string(text).map_err(|error| explain(&error, &self.script.name, "host", None))
    }
}

const OUT_OF_MEMORY: &str = "used more than the match's memory";

fn interrupt(lua: &Lua, budget: &Rc<Budget>) {
    let interrupted = Rc::clone(budget);
    lua.set_interrupt(move |_| match interrupted.check() {
        Ok(()) => Ok(VmState::Continue),
        Err(exhausted) => Err(mlua::Error::external(exhausted)),
    });
}

fn prelude(lua: &Lua, budget: &Rc<Budget>) -> mlua::Result<Function> {
    let noting = Rc::clone(budget);
    let note = lua.create_function(move |_, problem: Value| {
        let memory = match &problem {
            Value::String(text) => &*text.as_bytes() == b"not enough memory",
            Value::Error(error) => is_memory(error),
            _ => false,
        };
        if memory {
            noting.memory_hit();
        }
        Ok(())
    })?;
    let refuse_print = lua.create_function(|_, _: MultiValue| -> mlua::Result<()> {
        Err(mlua::Error::runtime("print is not available: use game.log(level, message)"))
    })?;
    lua.load(include_str!("prelude.luau")).set_name("=prelude").call((note, refuse_print))
}

/// `require("a.b")`: `a/b.lua` in the folder of the match's script, once per VM.
fn require(lua: &Lua, folder: &Arc<Folder>, script: &Arc<Source>) -> mlua::Result<Function> {
    let folder = Arc::clone(folder);
    let base = Path::new(&script.name).parent().unwrap_or(Path::new("")).to_owned();
    // None: it is being loaded right now.
    let loaded: RefCell<HashMap<String, Option<Value>>> = RefCell::new(HashMap::new());
    lua.create_function(move |lua, name: String| {
        match loaded.borrow().get(&name) {
            Some(Some(value)) => return Ok(value.clone()),
            Some(None) => {
                return Err(mlua::Error::runtime(format!(
                    "module \"{name}\" requires itself, directly or through others"
                )));
            }
            None => {}
        }
        let source = folder
            .module(&base, &name)
            .map_err(|problem| mlua::Error::runtime(format!("module \"{name}\": {problem}")))?;
        loaded.borrow_mut().insert(name.clone(), None);
        let result = lua.load(&*source.text).set_name(format!("={}", source.name)).eval::<Value>();
        let mut modules = loaded.borrow_mut();
        match result {
            Ok(value) => {
                // A module that returns nothing was loaded nevertheless.
                let value = if value.is_nil() { Value::Boolean(true) } else { value };
                modules.insert(name, Some(value.clone()));
                Ok(value)
            }
            Err(error) => {
                modules.remove(&name);
                Err(error)
            }
        }
    })
}

fn is_memory(error: &mlua::Error) -> bool {
    match error {
        mlua::Error::MemoryError(_) => true,
        mlua::Error::CallbackError { cause, .. } | mlua::Error::WithContext { cause, .. } => is_memory(cause),
        mlua::Error::RuntimeError(text) => text.lines().next().is_some_and(|line| line.ends_with("not enough memory")),
        _ => false,
    }
}

/// Finds out where it happened, and says what happened in one line.
pub(super) fn explain(error: &mlua::Error, script: &str, callback: &'static str, trip: Option<Trip>) -> GameError {
    let mut root = error;
    let mut places = String::new();
    while let mlua::Error::CallbackError { cause, traceback } = root {
        places.push_str(traceback);
        places.push('\n');
        root = cause;
    }
    let text = match root {
        mlua::Error::RuntimeError(text) | mlua::Error::SyntaxError { message: text, .. } => text.clone(),
        other => other.to_string(),
    };
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    places.push_str(rest);
    let (place, message) = match located(first) {
        Some((place, message)) => (Some(place), message),
        None => (places.lines().find_map(mentioned), first),
    };
    let fatal = trip == Some(Trip::Memory) || is_memory(error);
    let (script, line) = match place {
        Some((file, line)) => (file.to_owned(), Some(line)),
        None => (script.to_owned(), None),
    };
    GameError {
        script,
        line,
        callback,
        message: if fatal { OUT_OF_MEMORY.to_owned() } else { api::shortened(message, 500) },
        fatal,
    }
}

/// Splits `file.lua:12: message`.
fn located(text: &str) -> Option<((&str, u32), &str)> {
    let (file, rest) = text.split_once(".lua:")?;
    let (line, message) = rest.split_once(": ")?;
    let file = text.get(..file.len() + 4)?;
    if file.contains(char::is_whitespace) {
        return None;
    }
    Some(((file, line.parse().ok()?), message))
}

/// The first `file.lua:12` of a traceback's line.
fn mentioned(line: &str) -> Option<(&str, u32)> {
    let line = line.trim();
    let at = line.find(".lua:")?;
    let start = line[..at].rfind(char::is_whitespace).map_or(0, |i| i + 1);
    let digits: &str = line[at + 5..].split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    Some((&line[start..at + 4], digits.parse().ok()?))
}
