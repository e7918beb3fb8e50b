//! Whether the games folder has changed, and what it has become.
//!
//! ```text
//!   quiet ──a file looks otherwise──▶ changing ──it looks the same twice──▶ loading ──loads──▶ a new registry ─▶ quiet
//!     ▲                                  │ ▲                                   │
//!     │                                  └─┘ otherwise again                   └──does not: said once, the last good code stays──▶ quiet
//! ```
//! Every file that the last load looked for is watched, also one that it did not find.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::{
    task::JoinHandle,
    time::{Interval, MissedTickBehavior, interval},
};

use super::{
    load::{LoadError, Loaded, Manifest, load_with_folder},
    source::{Stamp, Stamps},
    vm::Limits,
};
use crate::game::Registry;

/// How often the folder is looked at.
const EVERY: Duration = Duration::from_millis(300);

/// Watches a games folder.
pub struct Watcher {
    path: PathBuf,
    limits: Limits,
    /// Of the files that the last load looked for.
    stamps: Stamps,
    /// What was seen when it last looked otherwise.
    changing: Option<Stamps>,
    /// Of the texts in force, and of the last ones that were tried.
    good: Vec<u8>,
    tried: Vec<u8>,
    clock: Option<Interval>,
    /// Work on the folder that runs elsewhere; kept, so that nothing is lost when nobody waits for it any more.
    looking: Option<JoinHandle<Stamps>>,
    loading: Option<JoinHandle<Tried>>,
}

/// What a load came to.
struct Tried {
    stamps: Stamps,
    contents: Vec<u8>,
    loaded: Loaded,
}

impl Watcher {
    /// Loads a games folder, and watches it from then on.
    ///
    /// # Errors
    /// As [`load`](super::load).
    pub fn load(path: &Path, limits: Limits) -> Result<(Self, Registry, Manifest), LoadError> {
        let tried = attempt(path, limits, &[]);
        let (registry, manifest) = tried.loaded?;
        let watcher = Self {
            path: path.to_owned(),
            limits,
            stamps: tried.stamps,
            changing: None,
            good: tried.contents.clone(),
            tried: tried.contents,
            clock: None,
            looking: None,
            loading: None,
        };
        Ok((watcher, registry, manifest))
    }

    /// Waits until the folder has other games that load, all of them, and hands those over. May be dropped and called again at any time.
    pub async fn changed(&mut self) -> Registry {
        loop {
            if self.loading.is_none() && !self.has_settled().await {
                continue;
            }
            if let Some(registry) = self.reloaded().await {
                return registry;
            }
        }
    }

    /// Looks once; whether the folder is another one and has been so for a while.
    async fn has_settled(&mut self) -> bool {
        let clock = self.clock.get_or_insert_with(|| {
            let mut clock = interval(EVERY);
            clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
            clock
        });
        if self.looking.is_none() {
            clock.tick().await;
        }
        let looking = self.looking.get_or_insert_with(|| {
            let (path, names) = (self.path.clone(), self.stamps.keys().cloned().collect::<Vec<_>>());
            tokio::task::spawn_blocking(move || look(&path, &names))
        });
        let seen = looking.await;
        self.looking = None;
        let Ok(seen) = seen else {
            return false;
        };
        if seen == self.stamps {
            self.changing = None;
            return false;
        }
        // Whoever writes may not be done.
        let settled = self.changing.as_ref() == Some(&seen);
        self.changing = Some(seen);
        settled
    }

    /// Loads the folder. None: it is what it was, or does not load.
    async fn reloaded(&mut self) -> Option<Registry> {
        let loading = self.loading.get_or_insert_with(|| {
            let (path, limits) = (self.path.clone(), self.limits);
            let names: Vec<_> = self.stamps.keys().cloned().collect();
            tokio::task::spawn_blocking(move || attempt(&path, limits, &names))
        });
        let tried = loading.await;
        self.loading = None;
        self.changing = None;
        let tried = match tried {
            Ok(tried) => tried,
            Err(error) => {
                tracing::error!(%error, "Loading the games has panicked; the last ones stay.");
                return None;
            }
        };
        self.stamps = tried.stamps;
        if tried.contents == self.tried {
            return None;
        }
        self.tried.clone_from(&tried.contents);
        match tried.loaded {
            Ok(_) if tried.contents == self.good => {
                tracing::info!("The games are again what they were.");
                None
            }
            Ok((registry, _)) => {
                self.good = tried.contents;
                Some(registry)
            }
            Err(error) => {
                tracing::error!(%error, "The games have changed and do not load; the last ones stay.");
                None
            }
        }
    }
}

fn look(path: &Path, names: &[String]) -> Stamps {
    names.iter().map(|name| (name.clone(), Stamp::of(path, name))).collect()
}

/// Loads the folder; `names` are watched besides what it looks for, because the code in force has them.
fn attempt(path: &Path, limits: Limits, names: &[String]) -> Tried {
    let mut stamps = look(path, names);
    let (folder, loaded) = load_with_folder(path, limits);
    let mut contents = Vec::new();
    if let Some(folder) = folder {
        stamps.extend(folder.stamps());
        contents = folder.contents();
    }
    Tried { stamps, contents, loaded }
}
