//! A PostgreSQL that a killed supervisor left behind on the same data: it is stopped before a new one starts.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

/// A fast shutdown writes a checkpoint, which takes a while on a slow disk; then it is made an immediate one.
const FAST: Duration = Duration::from_secs(20);
const IMMEDIATE: Duration = Duration::from_secs(10);
/// There is nothing to wait on for a process that is not our child; we look.
const LOOK: Duration = Duration::from_millis(50);

/// Ends the server that runs on `pgdata`, if one does, and removes what would hinder the next one.
///
/// # Errors
/// If it does not end.
pub async fn stop(pgdata: &Path) -> anyhow::Result<()> {
    let file = pgdata.join("postmaster.pid");
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    if let Some(pid) = pid_in(&text)
        && runs_on(pid, pgdata)
    {
        eprintln!("stopping the PostgreSQL (process {pid}) that an earlier run left behind");
        if !end(pid, Signal::SIGINT, FAST).await? && !end(pid, Signal::SIGQUIT, IMMEDIATE).await? {
            anyhow::bail!("the PostgreSQL of an earlier run (process {pid}) does not stop");
        }
    }
    // The number may belong to another process by now, which a new server would take for its predecessor.
    match fs::remove_file(&file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// The first line is the process id; negative for a stand-alone backend.
fn pid_in(text: &str) -> Option<Pid> {
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    (pid > 1).then(|| Pid::from_raw(pid))
}

/// Whether the process is the server of these data, and not another one that got its number: servers work inside
/// their data directory.
fn runs_on(pid: Pid, pgdata: &Path) -> bool {
    let of = |path: &Path| fs::canonicalize(path).ok();
    let cwd = of(&PathBuf::from(format!("/proc/{pid}/cwd")));
    cwd.is_some() && cwd == of(pgdata)
}

/// Sends the signal and waits; the answer is whether the process has ended.
async fn end(pid: Pid, signal: Signal, patience: Duration) -> anyhow::Result<bool> {
    match kill(pid, signal) {
        Ok(()) => {}
        Err(Errno::ESRCH) => return Ok(true),
        Err(error) => return Err(error).with_context(|| format!("cannot signal process {pid}")),
    }
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if gone(pid) {
            return Ok(true);
        }
        sleep(LOOK).await;
    }
    Ok(false)
}

/// A zombie counts as gone: it holds nothing, and whether it is reaped is its parent's affair.
fn gone(pid: Pid) -> bool {
    if kill(pid, None) == Err(Errno::ESRCH) {
        return true;
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_file_is_removed_and_a_stranger_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        stop(dir.path()).await.unwrap();
        let file = dir.path().join("postmaster.pid");
        // This very process has such a number and works elsewhere.
        fs::write(&file, format!("{}\n{}\n", std::process::id(), dir.path().display())).unwrap();
        stop(dir.path()).await.unwrap();
        assert!(!file.exists());
    }
}
