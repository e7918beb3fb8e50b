//! The games folder: which files scripts may come from, and their text.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    path::{Component, Path, PathBuf},
    sync::{Arc, OnceLock},
};

use mlua::{
    Lua,
    chunk::{Chunk, ChunkMode, Compiler},
};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

/// A script's text and its name: its path inside the games folder, with `/`.
#[derive(Debug)]
pub struct Source {
    pub name: String,
    pub text: String,
    /// Made for the first VM that runs it; none: it does not compile.
    compiled: OnceLock<Option<Vec<u8>>>,
}

impl Source {
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into(), compiled: OnceLock::new() }
    }

    /// What runs it in a VM. It is compiled once for all VMs: that takes as long as all else that a small game needs to begin.
    pub fn chunk(&self, lua: &Lua) -> Chunk<'_> {
        let compiled = self.compiled.get_or_init(|| Compiler::new().compile(&self.text).ok());
        let chunk = match compiled {
            Some(code) => lua.load(code.as_slice()).set_mode(ChunkMode::Binary),
            // What is wrong with it the VM says, with its name.
            None => lua.load(self.text.as_str()).set_mode(ChunkMode::Text),
        };
        chunk.set_name(format!("={}", self.name))
    }
}

/// Why a file of the folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("`{0}` leads out of the games folder")]
    Outside(String),
    #[error("there is no file `{0}`")]
    Missing(String),
    #[error("`{0}` is larger than {MAX_BYTES} bytes")]
    TooLarge(String),
    #[error("`{name}` cannot be read")]
    Unreadable { name: String, source: std::io::Error },
    #[error("`{0}` is no module name: use letters, digits, `_` and `-`, with dots between folders")]
    ModuleName(String),
}

const MAX_BYTES: u64 = 1 << 20;

/// The games folder. Files are read once: all matches of one load run the same text.
#[derive(Debug)]
pub struct Folder {
    /// As it was named; a link there may point elsewhere later.
    path: PathBuf,
    root: PathBuf,
    read: Mutex<HashMap<String, Arc<Source>>>,
    stamps: Mutex<Stamps>,
}

/// What files looked like from outside, by their names; none: there was no such file.
pub type Stamps = BTreeMap<String, Option<Stamp>>;

/// By this a file is known to have changed. Of what is in it: two writes within a clock's tick have the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    bytes: u64,
    text: u64,
}

impl Stamp {
    /// Of a file as it is now.
    #[must_use]
    pub fn of(folder: &Path, name: &str) -> Option<Self> {
        let path = folder.join(name);
        let bytes = path.metadata().ok()?.len();
        // One that is too large is not loaded either.
        let text = if bytes <= MAX_BYTES { std::fs::read(path).ok()? } else { Vec::new() };
        Some(Self { bytes, text: BuildHasherDefault::<DefaultHasher>::new().hash_one(text) })
    }
}

impl Folder {
    /// # Errors
    /// There is no such folder.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        let root = path.canonicalize().map_err(|source| {
            if source.kind() == std::io::ErrorKind::NotFound {
                SourceError::Missing(name.clone())
            } else {
                SourceError::Unreadable { name, source }
            }
        })?;
        Ok(Self { path: path.to_owned(), root, read: Mutex::default(), stamps: Mutex::default() })
    }

    /// Every file that was looked for, as it looked right before.
    #[must_use]
    pub fn stamps(&self) -> Stamps {
        self.stamps.lock().clone()
    }

    /// Of the texts that were read: two loads that agree in it have the same result.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        let mut read: Vec<_> = self.read.lock().values().cloned().collect();
        read.sort_by(|a, b| a.name.cmp(&b.name));
        let mut hash = Sha256::new();
        for part in read.iter().flat_map(|source| [&source.name, &source.text]) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().to_vec()
    }

    fn note(&self, name: &str) {
        self.stamps.lock().entry(name.to_owned()).or_insert_with(|| Stamp::of(&self.path, name));
    }

    /// Whether the folder has such a file.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.note(name);
        self.root.join(name).is_file()
    }

    /// A file by its path inside the folder.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub fn file(&self, name: &str) -> Result<Arc<Source>, SourceError> {
        if let Some(source) = self.read.lock().get(name) {
            return Ok(Arc::clone(source));
        }
        let source = Arc::new(Source::new(name, self.text_of(name)?));
        self.read.lock().insert(name.to_owned(), Arc::clone(&source));
        Ok(source)
    }

    fn text_of(&self, name: &str) -> Result<String, SourceError> {
        let path = Path::new(name);
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || name.contains(['\\', '\0']) || !plain {
            return Err(SourceError::Outside(name.to_owned()));
        }
        // Before it is read: what is written meanwhile is seen as a change.
        self.note(name);
        let unreadable = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => SourceError::Missing(name.to_owned()),
            _ => SourceError::Unreadable { name: name.to_owned(), source },
        };
        let real = self.root.join(path).canonicalize().map_err(unreadable)?;
        if !real.starts_with(&self.root) {
            return Err(SourceError::Outside(name.to_owned()));
        }
        let about = real.metadata().map_err(unreadable)?;
        if !about.is_file() {
            return Err(SourceError::Missing(name.to_owned()));
        }
        if about.len() > MAX_BYTES {
            return Err(SourceError::TooLarge(name.to_owned()));
        }
        std::fs::read_to_string(real).map_err(unreadable)
    }

    /// The module `a.b` as seen from the folder `base`: `base/a/b.lua`.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub fn module(&self, base: &Path, module: &str) -> Result<Arc<Source>, SourceError> {
        let well_formed = module
            .split('.')
            .all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-'));
        if !well_formed {
            return Err(SourceError::ModuleName(module.to_owned()));
        }
        let mut path = base.to_owned();
        path.extend(module.split('.'));
        self.file(&format!("{}.lua", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_runs_in_every_vm_and_its_errors_name_its_lines() {
        let source = Source::new("games/a.lua", "local n = ...\nif n == 2 then\n  error('two')\nend\nreturn n");
        for _ in 0..2 {
            let lua = Lua::new();
            assert_eq!(source.chunk(&lua).call::<i32>(1).expect("it runs"), 1);
            let problem = source.chunk(&lua).call::<i32>(2).expect_err("it fails");
            assert!(problem.to_string().contains("games/a.lua:3: two"), "{problem}");
        }
    }

    #[test]
    fn what_does_not_compile_says_where() {
        let problem = Source::new("games/b.lua", "return\n1 +").chunk(&Lua::new()).exec().expect_err("it is broken");
        assert!(
            matches!(&problem, mlua::Error::SyntaxError { message, .. } if message.contains("games/b.lua:2:")),
            "{problem}"
        );
        // A module may be a value alone.
        assert_eq!(Source::new("c.lua", "40 + 2").chunk(&Lua::new()).eval::<i32>().expect("a value"), 42);
    }
}
