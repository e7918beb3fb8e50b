//! `asobi postgres-guard`: the process between a supervisor and its PostgreSQL. It ends the server when the supervisor
//! asks, and also when the supervisor was killed, which it notices by the end of its standard input.

use std::{
    ffi::OsString,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use super::account::Account;
use crate::stdin;

/// What services may take to drain after their supervisor is gone, before their database goes too.
const AFTER_SUPERVISOR: Duration = Duration::from_secs(10);
/// A fast shutdown writes a checkpoint; beyond this it is made an immediate one.
const FAST: Duration = Duration::from_secs(20);
const IMMEDIATE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub struct GuardArgs {
    /// The server program
    program: PathBuf,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs the server until it ends or is asked to.
///
/// # Errors
/// If it cannot be started.
pub async fn run(args: GuardArgs) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let orphaned = stdin::ended();
    let mut server = Account::choose()?.command(&args.program);
    // Ctrl-C at a terminal goes to the whole group; the server must be the last to stop.
    server.args(&args.arguments).stdin(Stdio::null()).process_group(0);
    let mut server =
        Command::from(server).spawn().with_context(|| format!("cannot start {}", args.program.display()))?;
    let ended = tokio::select! {
        ended = server.wait() => ended?,
        _ = terminate.recv() => stop(&mut server).await?,
        () = orphaned => {
            tokio::select! {
                ended = server.wait() => ended?,
                () = tokio::time::sleep(AFTER_SUPERVISOR) => stop(&mut server).await?,
                _ = terminate.recv() => stop(&mut server).await?,
            }
        }
    };
    Ok(exit_code(ended))
}

/// Fast, then immediate, then not asked any more.
async fn stop(server: &mut Child) -> anyhow::Result<ExitStatus> {
    for (order, patience) in [(Signal::SIGINT, FAST), (Signal::SIGQUIT, IMMEDIATE)] {
        let Some(pid) = server.id().and_then(|pid| i32::try_from(pid).ok()) else { break };
        kill(Pid::from_raw(pid), order).context("cannot signal PostgreSQL")?;
        if let Ok(ended) = timeout(patience, server.wait()).await {
            return Ok(ended?);
        }
    }
    server.start_kill()?;
    Ok(server.wait().await?)
}

fn exit_code(ended: ExitStatus) -> ExitCode {
    let code = ended.code().or_else(|| ended.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
