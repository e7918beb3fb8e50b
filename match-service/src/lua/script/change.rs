//! Callbacks that change the state, and the way back when they fail.

use mlua::{MultiValue, Value};
use uuid::Uuid;

use super::{INPUT, LuaGame, MAX_STATE};
use crate::{
    game::{GameError, Outcome},
    lua::encode::Encoder,
};

/// The way back to the state before a callback. Copying the state before each of them would cost as much as running them; so it is copied once
/// for all inputs of a tick and the tick itself, and those inputs are repeated when a later one or the tick fails. What asked other services is
/// never repeated: the state is copied again after it.
pub(super) struct Undo {
    state: mlua::Table,
    /// Since then, in order.
    inputs: Vec<Done>,
}

/// An input that was applied, and what it takes to apply it once more.
struct Done {
    player: Uuid,
    input: String,
    /// The position of the random numbers before it.
    random: u64,
    /// Ids that were handed out before it.
    ids: usize,
}

/// Inputs that may have to be repeated; with the next one the state is copied again.
const REPEATED: usize = 64;

/// What a callback left behind.
pub(super) enum Left {
    State(mlua::Table),
    /// Nothing but values that are not a state.
    Other(MultiValue),
}

impl LuaGame {
    /// Calls a callback that returns the state. When it fails or does not, the state and the random numbers are what they were before, and
    /// nothing it asked for is left in the outcome.
    pub(super) async fn change(
        &mut self,
        callback: &'static str,
        args: MultiValue,
        outcome: &mut Outcome,
        accept: impl FnOnce(&Self, MultiValue) -> Result<Left, GameError>,
    ) -> Result<Option<MultiValue>, GameError> {
        let Some(function) = self.callbacks.get(callback).cloned() else {
            return Ok(None);
        };
        self.prepare_undo();
        let random = self.vm.world.random.position();
        self.vm.world.outcome.take();
        let returned = self.vm.call(callback, &function, args, &*self.outside).await;
        let left = returned.and_then(|returned| Ok((accept(self, returned.values)?, returned.asked)));
        let wishes = self.vm.world.outcome.take();
        match left {
            Ok((Left::State(state), asked)) => {
                self.state = state;
                merge(outcome, wishes);
                if callback != INPUT || asked {
                    self.undo = None;
                }
                self.look_for_end(callback, outcome)?;
                Ok(None)
            }
            Ok((Left::Other(values), _)) => {
                self.go_back(random);
                Ok(Some(values))
            }
            Err(error) => {
                self.go_back(random);
                Err(error)
            }
        }
    }

    /// Applies an input, which may be repeated afterwards.
    pub(super) async fn apply(&mut self, player: Uuid, input: &str, outcome: &mut Outcome) -> Result<(), GameError> {
        let args = self.input_args(player, input)?;
        self.prepare_undo();
        let (random, ids) = (self.vm.world.random.position(), self.vm.world.remembered());
        self.change(INPUT, args, outcome, |game, returned| game.must_be_state(INPUT, returned)).await?;
        match &mut self.undo {
            Some(undo) if undo.inputs.len() < REPEATED => {
                undo.inputs.push(Done { player, input: input.to_owned(), random, ids });
            }
            _ => self.undo = None,
        }
        Ok(())
    }

    pub(super) fn prepare_undo(&mut self) {
        if self.undo.is_none() {
            self.vm.world.remember();
            self.undo = self.vm.copy_state(&self.state).map(|state| Undo { state, inputs: Vec::new() });
        }
    }

    /// Makes the state what it was before the callback that just failed; a state that was too large to copy stays as that left it. `random` is
    /// where the random numbers were.
    pub(super) fn go_back(&mut self, random: u64) {
        if let Some(undo) = self.undo.take() {
            self.state = undo.state;
            for done in undo.inputs {
                // It went well before.
                if let Err(error) = self.repeat(&done) {
                    tracing::warn!(game.match_id = %self.setup.match_id, %error, "An input could not be repeated after another one failed.");
                }
            }
            self.vm.world.repeat(None);
            self.vm.world.outcome.take();
        }
        self.vm.world.random.seed(random);
    }

    fn repeat(&mut self, done: &Done) -> Result<(), GameError> {
        let Some(function) = self.callbacks.get(INPUT).cloned() else {
            return Ok(());
        };
        let args = self.input_args(done.player, &done.input)?;
        self.vm.world.random.seed(done.random);
        self.vm.world.repeat(Some(done.ids));
        // Each is to find what it found: a callback's own limits, and nothing that it has written.
        self.vm.world.outcome.take();
        if let Left::State(state) = self.must_be_state(INPUT, self.vm.call_again(INPUT, &function, args)?)? {
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

    pub(super) fn encode(&self, callback: &'static str, value: &Value, json: &mut String) -> Result<(), GameError> {
        Encoder::new(json, MAX_STATE, &self.vm.world.array_marker)
            .knowing(&self.vm.world.keys)
            .value(value)
            .map_err(|error| self.vm.complaint(callback, error.to_string()))
    }

    pub(super) fn must_be_state(&self, callback: &'static str, returned: MultiValue) -> Result<Left, GameError> {
        match returned.into_iter().next() {
            Some(Value::Table(state)) => Ok(Left::State(state)),
            other => Err(self.vm.complaint(
                callback,
                format!("must return the state, but returned {}", other.map_or("nothing", |value| value.type_name())),
            )),
        }
    }
}

pub(super) fn merge(into: &mut Outcome, from: Outcome) {
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
