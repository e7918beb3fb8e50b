//! An `asobi dev` of the bench's own, with everything that it has in a folder that goes with it.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;
use tokio::{
    process::{Child, ChildStdin, Command},
    runtime::Handle,
    task::block_in_place,
    time::{sleep, timeout},
};

use crate::process;

/// The scripts that every such cluster has.
const GAMES: [(&str, &str); 6] = [
    ("config.lua", include_str!("modes.lua")),
    ("match.lua", include_str!("idle.lua")),
    ("pair.lua", include_str!("pair.lua")),
    ("skill.lua", include_str!("skill.lua")),
    ("group.lua", include_str!("group.lua")),
    ("play.lua", include_str!("play.lua")),
];
/// What their folders are called, beside something random.
const FOLDER: &str = "asobi-bench-";
/// In each of them; locked as long as the bench or its cluster lives.
const LOG: &str = "log";
/// Before a folder is this old it may be one whose log is not locked yet.
const SETTLED: Duration = Duration::from_secs(60);
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(20);

pub struct Own {
    supervisor: Child,
    /// Its end is how the supervisor learns that the bench was killed. Kept apart: waiting for a child closes it.
    _lifeline: Option<ChildStdin>,
    /// When its process was made.
    began: Instant,
    dir: TempDir,
}

impl Own {
    /// Starts one on free ports and an empty data directory, which says nothing here. `games` are scripts by their file names, beside or instead
    /// of the bench's own.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn launch(games: &[(String, String)], arguments: &[String]) -> anyhow::Result<Self> {
        sweep(&std::env::temp_dir(), SETTLED);
        // Others may look inside: where this is root, PostgreSQL is somebody else.
        let dir = tempfile::Builder::new().prefix(FOLDER).permissions(Permissions::from_mode(0o755)).tempdir()?;
        let log = File::create(dir.path().join(LOG))?;
        // The supervisor inherits it with its output, and the lock with it.
        log.lock()?;
        let folder = dir.path().join("games");
        fs::create_dir(&folder)?;
        let scripts = games.iter().map(|(name, script)| (name.as_str(), script.as_str()));
        for (name, script) in GAMES.into_iter().chain(scripts) {
            fs::write(folder.join(name), script)?;
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["dev", "--exit-with-stdin", "--port", "0", "--no-restart"]);
        command.arg("--ready-file").arg(dir.path().join("ready.json"));
        command.arg("--games").arg(folder).arg("--data-dir").arg(dir.path().join("data")).args(arguments);
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        // Ctrl-C goes to the whole foreground group; the cluster is told by the bench, once.
        command.process_group(0);
        let began = Instant::now();
        let mut supervisor = command.spawn().context("asobi dev cannot be started")?;
        let lifeline = supervisor.stdin.take();
        Ok(Self { supervisor, _lifeline: lifeline, began, dir })
    }

    /// Waits until it is ready, looking that often; answers how long that was from the start of its process.
    ///
    /// # Errors
    /// It ends, with what it said, or takes too long.
    pub async fn ready(&mut self, look: Duration) -> anyhow::Result<Duration> {
        let ready = self.ready_file();
        while !ready.exists() {
            if let Some(status) = self.supervisor.try_wait()? {
                let said = fs::read_to_string(self.dir.path().join(LOG)).unwrap_or_default();
                bail!("asobi dev ended with {status}:\n{said}");
            }
            ensure!(self.began.elapsed() < START, "the cluster was not ready after {START:?}");
            sleep(look).await;
        }
        Ok(self.began.elapsed())
    }

    pub fn ready_file(&self) -> PathBuf {
        self.dir.path().join("ready.json")
    }

    pub fn games(&self) -> PathBuf {
        self.dir.path().join("games")
    }

    /// Of the supervisor, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.supervisor.id()
    }

    /// Drains it; the folder goes with it.
    pub async fn stop(mut self) {
        self.end().await;
    }

    async fn end(&mut self) {
        process::terminate(&self.supervisor);
        if timeout(STOP, self.supervisor.wait()).await.is_err() {
            say!("the bench's own cluster did not stop in time and is killed");
            let _ = self.supervisor.kill().await;
        }
    }
}

/// Removes what benches that were killed have left there.
fn sweep(dir: &Path, settled: Duration) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(FOLDER) && is_left(&entry.path(), settled).unwrap_or(false) {
            // What cannot be removed is another user's.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether it is a bench's folder, and nobody is there any more.
fn is_left(folder: &Path, settled: Duration) -> io::Result<bool> {
    let log = File::open(folder.join(LOG))?;
    let age = fs::metadata(folder)?.modified()?.elapsed().unwrap_or_default();
    Ok(age >= settled && log.try_lock().is_ok())
}

/// Whoever does not stop it, because an error or a signal came between, leaves neither processes nor the folder behind.
impl Drop for Own {
    fn drop(&mut self) {
        if matches!(self.supervisor.try_wait(), Ok(None)) {
            block_in_place(|| Handle::current().block_on(self.end()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_benches_that_are_gone_are_swept() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let folder = |name: &str| dir.path().join(name);
        for name in ["asobi-bench-left", "asobi-bench-lives", "asobi-bench-empty", "another"] {
            fs::create_dir(folder(name))?;
        }
        for name in ["asobi-bench-left", "asobi-bench-lives", "another"] {
            File::create(folder(name).join(LOG))?;
        }
        let lives = File::open(folder("asobi-bench-lives").join(LOG))?;
        lives.lock()?;
        // What a cluster inherits keeps it.
        let inherited = lives.try_clone()?;
        drop(lives);
        sweep(dir.path(), SETTLED);
        assert!(folder("asobi-bench-left").exists(), "it is young");
        sweep(dir.path(), Duration::ZERO);
        let there = |name| folder(name).exists();
        assert_eq!([there("asobi-bench-left"), there("asobi-bench-lives")], [false, true]);
        assert!(there("asobi-bench-empty") && there("another"));
        drop(inherited);
        // A process that another test is just starting may have it for a moment.
        let since = Instant::now();
        while there("asobi-bench-lives") {
            assert!(since.elapsed() < START, "nobody has it any more");
            sweep(dir.path(), Duration::ZERO);
        }
        Ok(())
    }
}
