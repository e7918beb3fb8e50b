//! The table of contents of every process: load the configuration, set up telemetry, run, drain, exit code.

use std::{future::Future, process::ExitCode, sync::Arc, time::Instant};

use clap::Parser;

use crate::{
    config::{self, Config, ConfigArgs},
    probe,
    shutdown::Shutdown,
    starting, telemetry,
};

/// Why a service refuses to start with what the operator gave it besides the configuration's keys, such as a folder of games: every mistake, on
/// lines of its own. An error of a service that is or wraps one ends the process with [`config::EXIT_CONFIG`], as a wrong key does, so that nobody
/// starts it again before it was corrected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(pub String);

/// The `main` of a service's own binary: parses [`ConfigArgs`] from the command line, then [`main`].
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     asobi_service_kit::service::binary("gateway", |config, shutdown| async move {
///         let _ = (config, shutdown);
///         Ok(())
///     })
/// }
/// ```
pub fn binary<F, Fut>(role: &'static str, run: F) -> ExitCode
where
    F: FnOnce(Arc<Config>, Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    #[derive(Parser)]
    #[command(version, about = "One process of an Asobi cluster")]
    struct Arguments {
        #[command(flatten)]
        config: ConfigArgs,
    }
    match parse::<Arguments>() {
        Ok(arguments) => main(role, &arguments.config, run),
        Err(code) => code,
    }
}

/// Parses the command line. `Err` is the exit code after help was printed (0) or a mistake (64, as for the rest of the
/// configuration).
///
/// # Errors
/// See above.
pub fn parse<A: Parser>() -> Result<A, ExitCode> {
    A::try_parse().map_err(|error| {
        // If nobody reads, nobody needs it.
        let _gone = error.print();
        if error.use_stderr() { ExitCode::from(config::EXIT_CONFIG) } else { ExitCode::SUCCESS }
    })
}

/// Runs one service to its end, or asks one that runs (`--health-check`). `role` is "gateway", "match", "matchmaker" or "social".
///
/// Exit codes: 0 after a drain, 1 if something failed or does not answer, 64 for a wrong configuration ([`Misconfigured`] too).
pub fn main<F, Fut>(role: &'static str, args: &ConfigArgs, run: F) -> ExitCode
where
    F: FnOnce(Arc<Config>, Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let began = Instant::now();
    let mut config = match config::load(args) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(config::EXIT_CONFIG);
        }
    };
    if args.health_check {
        return health_check(role, &config);
    }
    config.name_node(role);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("the runtime cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    // One type for all services: otherwise the runtime's loop is compiled anew for each of them.
    let supervised: Supervised<'_> = Box::pin(supervise(role, Arc::new(config), args.exit_with_stdin, run));
    let code = runtime.block_on(starting::watched(role, began, supervised));
    // What still blocks a thread by now was abandoned by the drain already.
    runtime.shutdown_background();
    code
}

/// A service under way. Boxed where it is written: its code is compiled there, and not once more by everybody who runs it.
pub type Running = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

type Supervised<'a> = std::pin::Pin<Box<dyn Future<Output = ExitCode> + 'a>>;

fn health_check(role: &str, config: &Config) -> ExitCode {
    match probe::live(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("asobi-{role}: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn supervise<F, Fut>(role: &'static str, config: Arc<Config>, exit_with_stdin: bool, run: F) -> ExitCode
where
    F: FnOnce(Arc<Config>, Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let prepared = telemetry::init(role, &config).and_then(|guard| {
        Ok((guard, Shutdown::from_signals_after(config.shutdown.ready_delay(), config.shutdown.grace())?))
    });
    let (_telemetry, shutdown) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!("asobi-{role} cannot start: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    telemetry::run(&shutdown);
    if exit_with_stdin {
        drain_with_stdin(&shutdown);
    }
    tracing::info!(node.id = config.node.id, version = env!("CARGO_PKG_VERSION"), "asobi-{role} starts");
    starting::done("configuration");
    let too_late = async {
        shutdown.cut().cancelled().await;
        tokio::time::sleep(crate::shutdown::AFTER_CUT).await;
    };
    let ended = tokio::select! {
        ended = run(config.clone(), shutdown.clone()) => ended,
        () = too_late => {
            tracing::warn!("the drain took too long and was cut");
            Ok(())
        }
    };
    let mut code = ExitCode::FAILURE;
    if let Err(error) = ended {
        tracing::error!(node.id = config.node.id, "asobi-{role} ends: {error:#}");
        if error.downcast_ref::<Misconfigured>().is_some() {
            code = ExitCode::from(config::EXIT_CONFIG);
        }
        shutdown.fail();
    }
    shutdown.end();
    shutdown.finished().await;
    tracing::info!(node.id = config.node.id, "asobi-{role} has ended");
    if shutdown.failed() { code } else { ExitCode::SUCCESS }
}

/// Starts the drain when standard input ends. The supervisor never writes and holds the other end, so that it ends
/// with the supervisor, however that dies.
fn drain_with_stdin(shutdown: &Shutdown) {
    let shutdown = shutdown.clone();
    // A thread of its own: a blocking read cannot be cancelled, and the runtime would wait for it.
    let spawned = std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        let ended = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        tracing::warn!(?ended, "the supervisor is gone: draining");
        shutdown.begin();
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "standard input cannot be watched; this process may outlive its supervisor");
    }
}
