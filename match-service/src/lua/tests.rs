//! The scripts' contract, rule by rule. Scripts are written into a folder of their own and loaded as a host loads them.

mod api;
mod asks;
mod bots;
mod callbacks;
mod effects;
mod examples;
mod folder;
mod hurt;
mod queue;
mod restore;
mod watch;

use std::{collections::VecDeque, fs, path::Path, sync::Arc, time::Duration};

use asobi_proto::effect::{EffectBody, ScoreEffect};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value as Json;
use tokio::runtime::Runtime;
use uuid::Uuid;

use super::{Limits, LoadError, load};
use crate::game::{Ask, AskError, Game, GameError, Joined, Outcome, Outside, Registry, Setup, Timer};

const LIMITS: Limits = Limits { memory_bytes: 8 << 20, callback: Duration::from_millis(50) };

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, text).expect("written");
    }
    dir
}

fn problems(files: &[(&str, &str)]) -> LoadError {
    let dir = folder(files);
    match load(dir.path(), LIMITS) {
        Ok(_) => panic!("the folder loaded"),
        Err(error) => error,
    }
}

fn lines(error: &LoadError) -> Vec<String> {
    error
        .problems
        .iter()
        .map(|p| format!("{}:{}: {}", p.file, p.line.map_or("-".to_owned(), |line| line.to_string()), p.message))
        .collect()
}

fn registry(path: &Path) -> Registry {
    registry_with(path, LIMITS)
}

fn registry_with(path: &Path, limits: Limits) -> Registry {
    load(path, limits).unwrap_or_else(|error| panic!("{error}")).0
}

/// Other services: what they are asked, and what they will answer. When there is nothing to answer they are silent.
#[derive(Default)]
struct Desk {
    asked: Mutex<Vec<Ask>>,
    answers: Mutex<VecDeque<Result<&'static str, AskError>>>,
}

#[async_trait]
impl Outside for Desk {
    async fn ask(&self, ask: Ask) -> Result<String, AskError> {
        self.asked.lock().push(ask);
        let answer = self.answers.lock().pop_front();
        match answer {
            Some(answer) => answer.map(str::to_owned),
            None => std::future::pending().await,
        }
    }
}

/// A match of the one script given, started. Its clock passes when it waits.
struct Play {
    game: Box<dyn Game>,
    outcome: Outcome,
    desk: Arc<Desk>,
    runtime: Runtime,
    _dir: tempfile::TempDir,
}

impl Play {
    fn with(files: &[(&str, &str)], mode: &str) -> Self {
        let dir = folder(files);
        Self::of(&registry(dir.path()), mode, dir)
    }

    fn of(registry: &Registry, mode: &str, dir: tempfile::TempDir) -> Self {
        let mut play = Self::unstarted(registry, mode, dir);
        play.start();
        play
    }

    fn start(&mut self) {
        self.runtime.block_on(self.game.init(&mut self.outcome)).expect("starts");
    }

    fn unstarted_script(text: &str) -> Self {
        let dir = folder(&[("match.lua", &format!("match_size = 2\n{text}"))]);
        Self::unstarted(&registry(dir.path()), "default", dir)
    }

    fn unstarted(registry: &Registry, mode: &str, dir: tempfile::TempDir) -> Self {
        let setup = Setup::new(Uuid::from_u128(0x42), mode);
        let factory = registry.get(mode).expect("the mode is there");
        let desk = Arc::new(Desk::default());
        let game = factory.create(&setup, Arc::clone(&desk) as _).expect("creates");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        Self { game, outcome: Outcome::default(), desk, runtime, _dir: dir }
    }

    fn script(text: &str) -> Self {
        Self::bounded(text, LIMITS)
    }

    fn bounded(text: &str, limits: Limits) -> Self {
        let dir = folder(&[("match.lua", &format!("match_size = 2\n{text}"))]);
        Self::of(&registry_with(dir.path(), limits), "default", dir)
    }

    fn state(&mut self) -> Json {
        serde_json::from_str(&self.state_of(None).expect("a state")).expect("is JSON")
    }

    fn state_of(&mut self, n: Option<u128>) -> Result<String, GameError> {
        let mut json = String::new();
        self.runtime.block_on(self.game.state(n.map(Uuid::from_u128), &mut json, &mut self.outcome)).map(|()| json)
    }

    fn input(&mut self, n: u128, input: &Json) -> Result<(), GameError> {
        self.input_text(n, &input.to_string())
    }

    fn input_text(&mut self, n: u128, input: &str) -> Result<(), GameError> {
        self.runtime.block_on(self.game.input(Uuid::from_u128(n), input, &mut self.outcome))
    }

    fn join(&mut self, n: u128) -> Result<Joined, GameError> {
        self.join_with(n, None)
    }

    fn join_with(&mut self, n: u128, ctx: Option<&str>) -> Result<Joined, GameError> {
        self.runtime.block_on(self.game.join(Uuid::from_u128(n), ctx, &mut self.outcome))
    }

    fn leave(&mut self, n: u128) -> Result<(), GameError> {
        self.runtime.block_on(self.game.leave(Uuid::from_u128(n), &mut self.outcome))
    }

    fn tick(&mut self) -> Result<(), GameError> {
        self.runtime.block_on(self.game.tick(&mut self.outcome))
    }

    fn timer(&mut self, timer: &Timer) -> Result<(), GameError> {
        self.runtime.block_on(self.game.timer(timer, &mut self.outcome))
    }

    fn think(&mut self, n: u128) -> Result<Option<String>, GameError> {
        self.runtime.block_on(self.game.think(Uuid::from_u128(n), &mut self.outcome))
    }

    fn save(&mut self) -> Result<Vec<u8>, GameError> {
        let mut saved = Vec::new();
        self.game.save(&mut saved).map(|()| saved)
    }

    fn answer(&self, answer: Result<&'static str, AskError>) {
        self.desk.answers.lock().push_back(answer);
    }

    /// What was asked since the last time.
    fn asked(&self) -> Vec<Ask> {
        std::mem::take(&mut *self.desk.asked.lock())
    }
}

fn id(n: u128) -> String {
    Uuid::from_u128(n).to_string()
}

fn score(play: &Play, index: usize) -> &ScoreEffect {
    match &play.outcome.effects[index] {
        EffectBody::Score(score) => score,
        other => panic!("{other:?} is no score"),
    }
}

/// A game that says what it was told, and counts.
const COUNTER: &str = r#"
state_strategy = "shared"
function init(config) return { n = 0, seed = config.seed, mode = config.mode, id = config.match_id } end
function join(id, state) return state end
function get_state(state) return { n = state.n, seed = state.seed, mode = state.mode, id = state.id } end
"#;

fn counter(callback: &str) -> Play {
    Play::script(&format!("{COUNTER}\n{callback}"))
}
