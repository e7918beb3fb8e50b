//! `require`, and which texts a script consists of.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use mlua::{Function, Lua, Table, Value};
use sha2::{Digest as _, Sha256};

use super::source::{Folder, Source};

/// Where a script's modules are: in its own folder.
fn base(script: &Source) -> PathBuf {
    Path::new(&script.name).parent().unwrap_or(Path::new("")).to_owned()
}

/// `require("a.b")`: `a/b.lua` in the folder of the script, once per VM and environment; none: that of the VM.
pub fn require(
    lua: &Lua,
    folder: &Arc<Folder>,
    script: &Arc<Source>,
    environment: Option<Table>,
) -> mlua::Result<Function> {
    let folder = Arc::clone(folder);
    let base = base(script);
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
        let mut chunk = source.chunk(lua);
        if let Some(environment) = &environment {
            chunk = chunk.set_environment(environment.clone());
        }
        let result = chunk.eval::<Value>();
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

/// A short name for the very texts that a match's code consists of: its scripts and every module they mention, wherever they mention it, so that
/// one that is loaded in the middle of a match counts too.
pub fn version(folder: &Folder, scripts: &[&Arc<Source>]) -> String {
    let mut texts: BTreeMap<String, Arc<Source>> = BTreeMap::new();
    for script in scripts {
        let base = base(script);
        let mut next = vec![Arc::clone(script)];
        while let Some(source) = next.pop() {
            next.extend(
                mentioned(&source.text)
                    .filter_map(|module| folder.module(&base, module).ok())
                    .filter(|module| !texts.contains_key(&module.name)),
            );
            texts.insert(source.name.clone(), source);
        }
    }
    let mut hash = Sha256::new();
    // Which of them is the match's and which the bots'.
    for name in scripts.iter().map(|script| &script.name) {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
    }
    for source in texts.values() {
        for part in [&source.name, &source.text] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hash.finalize()[..8].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The names in `require("…")`, `require '…'` and their like.
fn mentioned(text: &str) -> impl Iterator<Item = &str> {
    text.split("require").skip(1).filter_map(|rest| {
        let rest = rest.trim_start();
        let rest = rest.strip_prefix('(').map_or(rest, str::trim_start);
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        rest[1..].split(quote).next()
    })
}

#[cfg(test)]
mod tests {
    use super::mentioned;

    #[test]
    fn modules_are_found_however_they_are_required() {
        let text = r#"local a = require("lib.a") local b = require 'b'
            local function c() return require ( "c" ) end
            require(name) -- requires nothing that can be known
            require"#;
        assert_eq!(mentioned(text).collect::<Vec<_>>(), ["lib.a", "b", "c"]);
    }
}
