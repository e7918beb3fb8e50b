//! Loading a games folder: the manifest, every script it names, and every mistake in them.

use std::{fmt, path::Path, sync::Arc};

use asobi_proto::mode::ModeSettings;
use mlua::Value;
use uuid::Uuid;

use super::{
    modules,
    script::{LuaGame, Scripts, THINK},
    settings::{self, line_of},
    source::{Folder, Source},
    vm::{Limits, Vm},
};
use crate::game::{Game, GameError, GameFactory, Outside, Registry, Setup};

const MANIFEST: &str = "config.lua";
const SINGLE: &str = "match.lua";

/// One mistake in the games folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path inside the folder.
    pub file: String,
    pub line: Option<u32>,
    pub message: String,
}

/// Everything that is wrong with a games folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError {
    pub folder: String,
    pub problems: Vec<Problem>,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the games in `{}` do not load:", self.folder)?;
        for problem in &self.problems {
            write!(f, "\n  {}", problem.file)?;
            if let Some(line) = problem.line {
                write!(f, ":{line}")?;
            }
            write!(f, ": {}", problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}

/// Globals of the manifest that concern the whole deployment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Manifest {
    pub guest_auth: Option<bool>,
    /// False where it says `registration = "closed"`.
    pub registration: Option<bool>,
}

/// Loads every mode of a games folder.
///
/// # Errors
/// Every mistake in the manifest and in all scripts, with file and line where there is one.
pub fn load(path: &Path, limits: Limits) -> Result<(Registry, Manifest), LoadError> {
    load_with_folder(path, limits).1
}

/// What a folder came to.
pub(super) type Loaded = Result<(Registry, Manifest), LoadError>;

/// [`load`], with the folder, where there is one.
pub(super) fn load_with_folder(path: &Path, limits: Limits) -> (Option<Arc<Folder>>, Loaded) {
    let mut problems = Vec::new();
    let folder = match Folder::open(path) {
        Ok(folder) => Some(Arc::new(folder)),
        Err(error) => {
            problems.push(problem(MANIFEST, None, error.to_string()));
            None
        }
    };
    let loaded = folder.as_ref().and_then(|folder| load_into(folder, limits, &mut problems));
    let loaded = match loaded {
        Some(loaded) if problems.is_empty() => Ok(loaded),
        _ => Err(LoadError { folder: path.display().to_string(), problems }),
    };
    (folder, loaded)
}

fn load_into(folder: &Arc<Folder>, limits: Limits, problems: &mut Vec<Problem>) -> Option<(Registry, Manifest)> {
    let (modes, manifest) = if folder.has(MANIFEST) {
        manifest(folder, limits, problems)?
    } else if folder.has(SINGLE) {
        let entry = Entry { mode: "default".into(), script: SINGLE.into(), line: None };
        (vec![entry], Manifest::default())
    } else {
        problems.push(problem(MANIFEST, None, "the folder has neither a config.lua nor a match.lua"));
        return None;
    };
    let mut registry = Registry::default();
    for entry in modes {
        if let Some(factory) = load_mode(folder, &entry, limits, problems) {
            registry.register(entry.mode, Arc::new(factory));
        }
    }
    Some((registry, manifest))
}

fn problem(file: &str, line: Option<u32>, message: impl Into<String>) -> Problem {
    Problem { file: file.to_owned(), line, message: message.into() }
}

fn from_script(error: GameError) -> Problem {
    Problem { file: error.script, line: error.line, message: error.message }
}

/// A mode as the manifest names it.
struct Entry {
    mode: String,
    script: String,
    /// Of the manifest.
    line: Option<u32>,
}

fn manifest(folder: &Arc<Folder>, limits: Limits, problems: &mut Vec<Problem>) -> Option<(Vec<Entry>, Manifest)> {
    let source = match folder.file(MANIFEST) {
        Ok(source) => source,
        Err(error) => {
            problems.push(problem(MANIFEST, None, error.to_string()));
            return None;
        }
    };
    let read = Vm::evaluate(&source, limits, |lua, value| {
        let mut found = Vec::new();
        let entries = entries(&source, &value, &mut found);
        let manifest = globals(&source, &lua.globals(), &mut found);
        (entries, manifest, found)
    });
    match read {
        Ok((mut entries, manifest, found)) => {
            problems.extend(found);
            entries.sort_by(|a, b| a.mode.cmp(&b.mode));
            Some((entries, manifest))
        }
        Err(error) => {
            problems.push(from_script(error));
            None
        }
    }
}

fn entries(source: &Source, value: &Value, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let Value::Table(table) = value else {
        problems.push(problem(MANIFEST, None, "must return a table from mode name to script path"));
        return Vec::new();
    };
    let mut entries = Vec::new();
    let walked = table.for_each(|key: Value, value: Value| {
        match (&key, &value) {
            (Value::String(mode), Value::String(script)) => {
                let mode = mode.to_string_lossy();
                let line = mode_line(&source.text, &mode);
                if mode.is_empty() || mode.len() > 64 || mode.contains(char::is_control) {
                    let message = "a mode's name has 1 to 64 bytes and no control characters";
                    problems.push(problem(MANIFEST, line, message));
                } else {
                    entries.push(Entry { mode, script: script.to_string_lossy(), line });
                }
            }
            (Value::String(mode), other) => {
                let mode = mode.to_string_lossy();
                let line = mode_line(&source.text, &mode);
                let message = format!("mode `{mode}` must name its script's path, not a {}", other.type_name());
                problems.push(problem(MANIFEST, line, message));
            }
            (other, _) => problems.push(problem(
                MANIFEST,
                None,
                format!("a mode's name must be a string, not a {}", other.type_name()),
            )),
        }
        Ok(())
    });
    if walked.is_ok() && entries.is_empty() && problems.is_empty() {
        problems.push(problem(MANIFEST, None, "names no mode"));
    }
    entries
}

/// Where the manifest mentions a mode.
fn mode_line(text: &str, mode: &str) -> Option<u32> {
    let quoted = [format!("[\"{mode}\"]"), format!("['{mode}']")];
    let index = text.lines().position(|line| {
        quoted.iter().any(|quoted| line.contains(quoted))
            || line
                .split(['{', ',', ';'])
                .any(|part| part.trim_start().strip_prefix(mode).is_some_and(|rest| rest.trim_start().starts_with('=')))
    })?;
    u32::try_from(index + 1).ok()
}

fn globals(source: &Source, globals: &mlua::Table, problems: &mut Vec<Problem>) -> Manifest {
    let guest_auth = match globals.raw_get("guest_auth") {
        Ok(Value::Boolean(value)) => Some(value),
        Ok(Value::Nil) => None,
        _ => {
            let line = line_of(&source.text, "guest_auth");
            problems.push(problem(MANIFEST, line, "guest_auth must be true or false"));
            None
        }
    };
    let registration = match globals.raw_get::<Value>("registration") {
        Ok(Value::Nil) => None,
        Ok(Value::String(name)) if &*name.as_bytes() == b"open" => Some(true),
        Ok(Value::String(name)) if &*name.as_bytes() == b"closed" => Some(false),
        _ => {
            let line = line_of(&source.text, "registration");
            let message = "registration must be \"open\" or \"closed\"";
            problems.push(problem(MANIFEST, line, message));
            None
        }
    };
    Manifest { guest_auth, registration }
}

fn load_mode(folder: &Arc<Folder>, entry: &Entry, limits: Limits, problems: &mut Vec<Problem>) -> Option<LuaFactory> {
    let script = match folder.file(&entry.script) {
        Ok(script) => script,
        Err(error) => {
            let message = format!("mode `{}`: {error}", entry.mode);
            problems.push(problem(MANIFEST, entry.line, message));
            return None;
        }
    };
    let setup = Setup::new(Uuid::nil(), entry.mode.clone());
    let vm = match Vm::load(folder, &script, &setup, limits) {
        Ok(vm) => vm,
        Err(error) => {
            problems.push(from_script(error));
            return None;
        }
    };
    let settings = settings::read(&vm, &script, problems);
    let bots = match &settings.bots {
        Some(bots) => Some(load_bots(folder, &script, &bots.script, &vm, problems)?),
        None => None,
    };
    let texts: Vec<_> = std::iter::once(&script).chain(&bots).collect();
    let version = modules::version(folder, &texts);
    let scripts = Scripts { folder: Arc::clone(folder), game: script, bots };
    Some(LuaFactory { settings, scripts, version, limits })
}

/// The bots' script, which must load beside its match's.
fn load_bots(
    folder: &Arc<Folder>,
    script: &Source,
    name: &str,
    vm: &Vm,
    problems: &mut Vec<Problem>,
) -> Option<Arc<Source>> {
    let beside = Path::new(&script.name).parent().unwrap_or(Path::new("")).join(name);
    let source = match folder.file(&beside.display().to_string()) {
        Ok(source) => source,
        Err(error) => {
            problems.push(problem(&script.name, line_of(&script.text, "bots"), format!("bots: {error}")));
            return None;
        }
    };
    let found = vm.beside(folder, &source).map(|environment| environment.raw_get::<Value>(THINK));
    match found {
        Ok(Ok(Value::Function(_))) => Some(source),
        Ok(Ok(Value::Nil)) => {
            problems.push(problem(&source.name, None, "defines no think(bot_id, state)"));
            None
        }
        Ok(_) => {
            problems.push(problem(&source.name, line_of(&source.text, THINK), "think must be a function"));
            None
        }
        Err(error) => {
            problems.push(from_script(error));
            None
        }
    }
}

struct LuaFactory {
    settings: ModeSettings,
    scripts: Scripts,
    version: String,
    limits: Limits,
}

impl GameFactory for LuaFactory {
    fn settings(&self) -> &ModeSettings {
        &self.settings
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn create(&self, setup: &Setup, outside: Arc<dyn Outside>) -> Result<Box<dyn Game>, GameError> {
        Ok(Box::new(LuaGame::load(&self.scripts, setup, &self.settings, self.limits, outside)?))
    }
}
