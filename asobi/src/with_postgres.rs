use std::{
    ffi::OsString,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitCode, ExitStatus},
};

use anyhow::Context as _;
use asobi_service_kit::shutdown::Shutdown;
use tokio::process::{Child, Command};

use crate::{postgres::OwnPostgres, process};

/// Run a command beside an own PostgreSQL, which ends with it
///
/// The command finds an empty database in DATABASE_URL and ASOBI_TEST_DATABASE_URL, as a superuser.
#[derive(Debug, clap::Args)]
pub struct PostgresArgs {
    /// Where PostgreSQL keeps its data; kept for the next time
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Begin with an empty server
    #[arg(long)]
    fresh: bool,
    /// The command and its arguments
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

/// # Errors
/// If PostgreSQL or the command cannot be started.
pub async fn run(args: PostgresArgs) -> anyhow::Result<ExitCode> {
    // Taken so that the server is stopped in order; the command is told of the signal, and decides itself.
    let shutdown = Shutdown::from_signals(std::time::Duration::MAX)?;
    let draining = shutdown.draining();
    let mut started = Box::pin(OwnPostgres::start(&args.data_dir, args.fresh));
    let postgres = tokio::select! {
        started = &mut started => started?,
        () = draining.cancelled() => return Ok(ExitCode::from(130)),
    };
    let ended = command(&args.command, &postgres.url(), &shutdown).await;
    postgres.stop().await?;
    let ended = ended?;
    let code = ended.code().or_else(|| ended.signal().map(|signal| 128 + signal));
    Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

async fn command(command: &[OsString], url: &str, shutdown: &Shutdown) -> anyhow::Result<ExitStatus> {
    let (program, arguments) = command.split_first().context("no command")?;
    let mut child: Child = Command::new(program)
        .args(arguments)
        .env("DATABASE_URL", url)
        .env("ASOBI_TEST_DATABASE_URL", url)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let draining = shutdown.draining();
    tokio::select! {
        ended = child.wait() => return Ok(ended?),
        () = draining.cancelled() => {}
    }
    // At a terminal Ctrl-C has reached it already; a second SIGTERM is no harm to what ends anyway.
    process::terminate(&child);
    let cut = shutdown.cut();
    tokio::select! {
        ended = child.wait() => Ok(ended?),
        () = cut.cancelled() => {
            child.start_kill()?;
            Ok(child.wait().await?)
        }
    }
}
