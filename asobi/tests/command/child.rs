//! The command as a child of the test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use crate::support::PATIENCE;

/// A running `asobi …`; killed when dropped.
pub struct Running {
    child: Child,
    log: PathBuf,
}

/// The command with nothing of this process's environment that it would take for configuration.
fn command(arguments: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_asobi"));
    command.args(arguments).current_dir(dir).stdin(Stdio::null()).kill_on_drop(true);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ASOBI_")) {
        command.env_remove(name);
    }
    command
}

/// Runs the command to its end.
pub async fn output(arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Output> {
    let dir = tempfile::tempdir()?;
    let running = command(arguments, dir.path()).envs(environment.iter().copied()).output();
    Ok(tokio::time::timeout(PATIENCE, running).await.context("the command does not end")??)
}

impl Running {
    /// Starts the command, writing what it says to a log in `dir`, where it runs.
    pub fn start(arguments: &[&str], dir: &Path) -> anyhow::Result<Self> {
        Self::start_with(arguments, dir, &[])
    }

    /// The same, with more in its environment.
    pub fn start_with(arguments: &[&str], dir: &Path, environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        let log = dir.join("log");
        let file = fs::File::create(&log)?;
        let child =
            command(arguments, dir).envs(environment.iter().copied()).stdout(file.try_clone()?).stderr(file).spawn()?;
        Ok(Self { child, log })
    }

    pub fn pid(&self) -> anyhow::Result<i32> {
        Ok(i32::try_from(self.child.id().context("it has ended")?)?)
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Fails, with what it said, if it has ended.
    pub fn lives(&mut self) -> anyhow::Result<()> {
        let status = self.child.try_wait()?;
        ensure!(status.is_none(), "it has ended with {status:?}:\n{}", self.said());
        Ok(())
    }

    /// Signals it and waits for its end.
    pub async fn end(&mut self, signal: Signal) -> anyhow::Result<(ExitStatus, Duration)> {
        let since = Instant::now();
        kill(Pid::from_raw(self.pid()?), signal)?;
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.with_context(|| format!("it does not end:\n{}", self.said()))??;
        Ok((status, since.elapsed()))
    }

    /// SIGTERM, and the exit code is 0.
    pub async fn stop(&mut self) -> anyhow::Result<Duration> {
        let (status, took) = self.end(Signal::SIGTERM).await?;
        ensure!(status.success(), "it ended with {status}:\n{}", self.said());
        Ok(took)
    }
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let since = Instant::now();
    while !holds().await? {
        ensure!(since.elapsed() < PATIENCE, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Process ids of everything that a process has started, and what that has started.
pub fn descendants(of: i32) -> Vec<i32> {
    let parents: Vec<(i32, i32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, status(pid)?.1)))
        .collect();
    let mut found = vec![of];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.remove(0);
    found
}

/// Whether a process runs; one that only waits to be reaped does not.
pub fn runs(pid: i32) -> bool {
    status(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X')
}

/// State and parent.
fn status(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
