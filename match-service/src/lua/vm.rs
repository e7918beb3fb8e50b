//! One match's VM: Luau, sandboxed, with bounds on memory and time, and without what a game has no business with.

use std::{
    rc::Rc,
    sync::{Arc, LazyLock},
    time::Duration,
};

use mlua::{Function, Lua, LuaOptions, LuaString, MultiValue, StdLib, Table, Thread, Value, VmState};

use super::{
    api::World,
    budget::{Budget, Spent, Trip},
    decode::decode,
    explain::{OUT_OF_MEMORY, explain, is_memory},
    modules,
    source::{Folder, Source},
};
use crate::game::{ANSWER_WITHIN, Ask, AskError, GameError, Outside, Setup};

/// Bounds of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub memory_bytes: usize,
    /// Of one callback.
    pub callback: Duration,
}

/// Runs in every VM before its script.
static PRELUDE: LazyLock<Source> = LazyLock::new(|| Source::new("prelude", include_str!("prelude.luau")));
/// How much longer loading a script may take than a callback.
const LOAD_FACTOR: u32 = 20;
/// Entries of a state up to which a failed callback is undone; copying larger ones in each tick would cost more than it is worth.
const UNDO_ENTRIES: u32 = 4096;

/// A VM that has run its script.
pub struct Vm {
    pub lua: Lua,
    pub world: Rc<World>,
    /// The libraries, which every environment in this VM reads through.
    base: Table,
    prelude: Prelude,
    /// Every callback runs in this one coroutine, so that it can wait for an answer.
    thread: Thread,
    script: Arc<Source>,
    budget: Rc<Budget>,
    limits: Limits,
}

/// What the prelude returns.
struct Prelude {
    copy_state: Function,
    /// Makes a function that waits for its answer out of one that puts a question.
    asking: Function,
    /// What a callback that waits for an answer is suspended with.
    token: Table,
}

/// How far a callback came.
enum Step {
    Returned(MultiValue),
    Asks(Ask, Spent),
}

/// What a callback returned.
pub struct Returned {
    pub values: MultiValue,
    /// Whether it has asked anybody: then it cannot be repeated.
    pub asked: bool,
}

impl Vm {
    /// Makes a VM and runs the script in it, which defines its callbacks and settings.
    ///
    /// # Errors
    /// The script does not compile or fails.
    pub fn load(folder: &Arc<Folder>, script: &Arc<Source>, setup: &Setup, limits: Limits) -> Result<Self, GameError> {
        let vm = Self::bare(script, setup, limits, Some(folder))
            .map_err(|error| explain(&error, &script.name, "load", None))?;
        vm.within(limits.callback * LOAD_FACTOR, "load", || {
            script.chunk(&vm.lua).exec()?;
            // What beginning left behind gives its pages back: many matches do nothing for long.
            vm.lua.gc_collect()
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
        let setup = Setup::new(uuid::Uuid::nil(), "");
        let vm =
            Self::bare(source, &setup, limits, None).map_err(|error| explain(&error, &source.name, "load", None))?;
        let value = vm.within(limits.callback * LOAD_FACTOR, "load", || source.chunk(&vm.lua).eval::<Value>())?;
        Ok(read(&vm.lua, value))
    }

    fn bare(
        script: &Arc<Source>,
        setup: &Setup,
        limits: Limits,
        requires_from: Option<&Arc<Folder>>,
    ) -> mlua::Result<Self> {
        let libs = StdLib::COROUTINE
            | StdLib::TABLE
            | StdLib::STRING
            | StdLib::UTF8
            | StdLib::MATH
            | StdLib::BIT
            | StdLib::BUFFER
            | StdLib::VECTOR
            | StdLib::OS;
        // Luau's own pcall, which can be suspended; a panic that it catches is raised again by the prelude's.
        let lua = Lua::new_with(libs, LuaOptions::new())?;
        lua.set_memory_limit(limits.memory_bytes)?;
        let base = lua.globals();
        for name in ["collectgarbage", "loadstring", "getfenv", "setfenv", "newproxy", "debug", "require"] {
            base.raw_set(name, Value::Nil)?;
        }
        let budget = Rc::new(Budget::new());
        let prelude = prelude(&lua, &budget)?;
        let world = World::install(&lua, setup, &prelude.asking)?;
        if let Some(folder) = requires_from {
            base.raw_set("require", modules::require(&lua, folder, script, None)?)?;
        }
        lua.sandbox(true)?;
        interrupt(&lua, &budget);
        let thread = lua.create_thread(prelude.copy_state.clone())?;
        Ok(Self { lua, world, base, prelude, thread, script: Arc::clone(script), budget, limits })
    }

    /// Runs one more script in this VM, in an environment of its own, and hands that over.
    ///
    /// # Errors
    /// The script does not compile or fails.
    pub fn beside(&self, folder: &Arc<Folder>, script: &Arc<Source>) -> Result<Table, GameError> {
        let made = || {
            let environment = self.lua.create_table()?;
            let through = self.lua.create_table()?;
            through.raw_set("__index", &self.base)?;
            through.set_readonly(true);
            environment.set_metatable(Some(through))?;
            let require = modules::require(&self.lua, folder, script, Some(environment.clone()))?;
            environment.raw_set("require", require)?;
            Ok(environment)
        };
        let environment = made().map_err(|error| explain(&error, &script.name, "load", None))?;
        let limit = self.limits.callback * LOAD_FACTOR;
        self.budget.start(limit);
        let run = script.chunk(&self.lua).set_environment(environment.clone()).exec();
        self.judged(limit, &script.name, "load", run)?;
        Ok(environment)
    }

    /// Calls one of the script's functions under the budget of a callback, and answers what it asks.
    ///
    /// # Errors
    /// It failed, ran too long or used up the memory (then it is fatal).
    pub async fn call(
        &self,
        callback: &'static str,
        function: &Function,
        args: MultiValue,
        outside: &dyn Outside,
    ) -> Result<Returned, GameError> {
        let mut step = self.begin(callback, function, args)?;
        loop {
            match step {
                Step::Returned(values) => {
                    return Ok(Returned { values, asked: self.world.questions.get() > 0 });
                }
                Step::Asks(ask, spent) => {
                    let answer = match tokio::time::timeout(ANSWER_WITHIN, outside.ask(ask)).await {
                        Ok(answer) => answer,
                        Err(_late) => Err(AskError::Timeout),
                    };
                    let answer = self.answer(callback, answer)?;
                    self.budget.go_on(self.limits.callback, spent);
                    step = self.step(callback, MultiValue::from_iter([answer]))?;
                }
            }
        }
    }

    /// Calls a function that has nobody to ask.
    ///
    /// # Errors
    /// As [`Vm::call`].
    pub fn call_again(
        &self,
        callback: &'static str,
        function: &Function,
        args: MultiValue,
    ) -> Result<MultiValue, GameError> {
        match self.begin(callback, function, args)? {
            Step::Returned(values) => Ok(values),
            Step::Asks(..) => Err(self.complaint(callback, "asked when it was repeated")),
        }
    }

    fn begin(&self, callback: &'static str, function: &Function, args: MultiValue) -> Result<Step, GameError> {
        self.world.begin();
        // Whatever became of the last callback, it is over.
        self.thread.reset(function.clone()).map_err(|error| explain(&error, &self.script.name, callback, None))?;
        self.budget.start(self.limits.callback);
        self.step(callback, args)
    }

    fn step(&self, callback: &'static str, args: MultiValue) -> Result<Step, GameError> {
        let result = self.thread.resume::<MultiValue>(args);
        let suspended = result.is_ok() && self.thread.is_resumable();
        let spent = suspended.then(|| self.budget.spent());
        let mut values = self.judged(self.limits.callback, &self.script.name, callback, result)?;
        let Some(spent) = spent else {
            return Ok(Step::Returned(values));
        };
        let ours = matches!(values.pop_front(), Some(Value::Table(token)) if token == self.prelude.token);
        match self.world.asked.take().filter(|_| ours) {
            Some(ask) => Ok(Step::Asks(ask, spent)),
            None => Err(self.complaint(callback, "attempt to yield from outside a coroutine")),
        }
    }

    /// `{ ok = … }` or `{ error = … }`.
    fn answer(&self, callback: &'static str, answer: Result<String, AskError>) -> Result<Value, GameError> {
        self.within(self.limits.callback * LOAD_FACTOR, callback, || {
            let table = self.lua.create_table()?;
            match answer {
                Ok(json) => {
                    table.raw_set("ok", decode(&self.lua, &self.world.array_marker, &self.world.keys, &json)?)?;
                }
                Err(error) => table.raw_set("error", error.to_string())?,
            }
            Ok(Value::Table(table))
        })
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
        self.judged(limit, &self.script.name, callback, run())
    }

    /// What a run came to, in view of its budget.
    fn judged<T>(
        &self,
        limit: Duration,
        script: &str,
        callback: &'static str,
        result: mlua::Result<T>,
    ) -> Result<T, GameError> {
        if matches!(&result, Err(error) if is_memory(error)) {
            self.budget.memory_hit();
        }
        let trip = self.budget.stop();
        match (result, trip) {
            (Ok(value), None) => Ok(value),
            // It swallowed the verdict and came back before the next interrupt.
            (Ok(_), Some(trip)) => Err(GameError {
                script: script.to_owned(),
                line: None,
                callback,
                message: match trip {
                    Trip::Time => format!("ran longer than {} ms", limit.as_millis()),
                    Trip::Memory => OUT_OF_MEMORY.to_owned(),
                },
                fatal: trip == Trip::Memory,
            }),
            (Err(error), trip) => Err(explain(&error, script, callback, trip)),
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
        let copying = || self.prelude.copy_state.call::<Option<Table>>((state, UNDO_ENTRIES));
        self.budget.suspended(copying).ok().flatten()
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

fn interrupt(lua: &Lua, budget: &Rc<Budget>) {
    let interrupted = Rc::clone(budget);
    lua.set_interrupt(move |_| match interrupted.check() {
        Ok(()) => Ok(VmState::Continue),
        Err(exhausted) => Err(mlua::Error::external(exhausted)),
    });
}

fn prelude(lua: &Lua, budget: &Rc<Budget>) -> mlua::Result<Prelude> {
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
    let (copy_state, asking, token) = PRELUDE.chunk(lua).call((note, refuse_print))?;
    Ok(Prelude { copy_state, asking, token })
}
