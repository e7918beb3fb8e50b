//! `asobi dev`: a whole cluster on one machine, each node a process of its own.
//!
//! ```text
//!  asobi dev ─┬─ postgres-guard ── postgres      started first, stopped last
//!             ├─ gateway-0, gateway-1, …         each with its output piped here, started again when it dies
//!             ├─ match-0, …  matchmaker-0, …  social-0, …
//!             └─ board: reads the registry, writes the ready file, prints the table
//! ```

mod args;
mod board;
mod output;
mod plan;
mod ready_file;
mod supervised;

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use anyhow::Context as _;
use asobi_service_kit::{config::EXIT_CONFIG, shutdown::Shutdown};
use asobi_store::DatabaseOptions;
use sqlx::Connection as _;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::args::DevArgs;
use self::{
    board::{Board, Watched},
    output::Output,
    plan::Plan,
    supervised::{Shared, Supervised},
};
use crate::{postgres::OwnPostgres, stdin};

/// How long a predecessor's services may still hold their ports after it was killed.
const PREDECESSOR: Duration = Duration::from_secs(12);
/// What a child may take beyond its own grace period before it is killed.
const BEYOND_GRACE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(500);
/// The supervisor's own connections: migrations, then the board.
const CONNECTIONS: u32 = 2;
const DATABASE_TIMEOUT: Duration = Duration::from_secs(10);
/// A migration may rewrite a table.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(600);

/// Runs the cluster until a signal.
///
/// # Errors
/// If it cannot be started; once it runs, only if a child refuses its configuration or the database does not come back.
pub async fn run(args: DevArgs) -> anyhow::Result<ExitCode> {
    let plan = match Plan::make(&args) {
        Ok(plan) => plan,
        Err(errors) => {
            eprintln!("{errors}");
            return Ok(ExitCode::from(EXIT_CONFIG));
        }
    };
    anyhow::ensure!(!(args.fresh && plan.external.is_some()), "--fresh empties the own PostgreSQL only");
    let ready_file = args.ready_file.as_deref().map(prepare_ready_file).transpose()?;
    // Signals are taken from here on, so that Ctrl-C during the start stops PostgreSQL in order, too.
    let shutdown = Shutdown::from_signals(plan.config.shutdown.grace())?;
    let draining = shutdown.draining();
    if args.exit_with_stdin {
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            stdin::ended().await;
            shutdown.begin();
        });
    }

    let mut own = None;
    let started = tokio::select! {
        started = start(&args, &plan, &mut own) => started.map(Some),
        () = draining.cancelled() => Ok(None),
    };
    let ended = match started {
        Ok(Some(database_url)) => {
            supervise(&args, &plan, &shutdown, own.as_mut(), database_url, ready_file.clone()).await
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Some(path) = &ready_file {
        // Stale addresses are worse than none; if it is gone already, so much the better.
        let _removed = fs::remove_file(path);
    }
    if let Some(postgres) = own {
        postgres.stop().await?;
    }
    ended.map(|()| ExitCode::SUCCESS)
}

/// An absolute path, with the file of an earlier run removed.
fn prepare_ready_file(path: &Path) -> anyhow::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    anyhow::ensure!(
        path.parent().is_some_and(Path::is_dir),
        "the ready file {} would lie in a folder that does not exist",
        path.display()
    );
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot replace the ready file {}", path.display()))
        }
        _ => Ok(path),
    }
}

/// Checks the ports, starts the database and brings its schema up to date. The answer is the database's URL.
async fn start(args: &DevArgs, plan: &Plan, own: &mut Option<OwnPostgres>) -> anyhow::Result<String> {
    let url = if let Some(url) = &plan.external {
        plan.check_ports(Duration::ZERO).await?;
        url.clone()
    } else {
        let patience = if OwnPostgres::was_left_behind(&args.data_dir) { PREDECESSOR } else { Duration::ZERO };
        plan.check_ports(patience).await?;
        let postgres = own.insert(OwnPostgres::start(&args.data_dir, args.fresh).await?);
        postgres.url()
    };
    let direct = if plan.external.is_some() { plan.config.database.direct() } else { &url };
    let pool = if plan.external.is_some() {
        probe(direct).await.context("the database cannot be reached")?;
        connect(direct, MIGRATION_TIMEOUT).await
    } else {
        // What a power cut takes of the migrations is applied by the next start; what is written after them is flushed behind them.
        connect(&format!("{direct}?options[synchronous_commit]=off"), MIGRATION_TIMEOUT).await
    }
    .context("the database cannot be reached")?;
    asobi_store::migrate(&pool).await.context("the database's schema cannot be brought up to date")?;
    pool.close().await;
    Ok(url)
}

/// Connects once, for the reason if it fails: a pool tries again and again, and then says only that time is over.
async fn probe(url: &str) -> anyhow::Result<()> {
    let connecting = Box::pin(sqlx::PgConnection::connect(url));
    let connection = timeout(DATABASE_TIMEOUT, connecting).await.context("no answer within 10 s")??;
    Ok(connection.close().await?)
}

async fn connect(url: &str, statement_timeout: Duration) -> anyhow::Result<sqlx::PgPool> {
    let options = DatabaseOptions {
        url: url.to_owned(),
        max_connections: CONNECTIONS,
        timeout: statement_timeout,
        application_name: "asobi/dev".to_owned(),
    };
    Ok(timeout(DATABASE_TIMEOUT, asobi_store::connect(&options)).await.context("no answer within 10 s")??)
}

/// Runs the nodes and watches over them and the database until the drain is over.
async fn supervise(
    args: &DevArgs,
    plan: &Plan,
    shutdown: &Shutdown,
    own: Option<&mut OwnPostgres>,
    database_url: String,
    ready_file: Option<PathBuf>,
) -> anyhow::Result<()> {
    let (output, printer) = Output::start(plan.nodes.iter().map(|node| node.node_id.len()))?;
    let pool = connect(&database_url, DATABASE_TIMEOUT).await?;
    let (fatal, mut told) = mpsc::channel(1);
    let shared = Shared {
        executable: std::env::current_exe().context("cannot find the own executable")?,
        output: output.clone(),
        restart: !args.no_restart,
        stop: CancellationToken::new(),
        hurry: CancellationToken::new(),
        grace: plan.config.shutdown.ready_delay() + plan.config.shutdown.grace() + BEYOND_GRACE,
        fatal,
        lines: TaskTracker::new(),
    };
    let (stop, hurry, lines) = (shared.stop.clone(), shared.hurry.clone(), shared.lines.clone());
    let (watched, mut children) = launch(plan, &shared, &database_url);
    drop(shared);
    let board = tokio::spawn(Board::new(pool, database_url, watched, ready_file, output.clone()).run());

    let draining = shutdown.draining();
    let reason = tokio::select! {
        () = draining.cancelled() => None,
        Some(reason) = told.recv() => Some(reason),
        reason = keep_database(own, !args.no_restart, &output) => Some(reason),
    };
    output.say("draining; once more Ctrl-C cuts it short");
    board.abort();
    stop.cancel();
    tokio::select! {
        () = async { while children.join_next().await.is_some() {} } => {}
        // Signals only: the grace period's own end is the children's to notice.
        () = second_signal(shutdown) => {
            hurry.cancel();
            while children.join_next().await.is_some() {}
        }
    }
    lines.close();
    // A grandchild could hold a pipe open for ever.
    let _open = timeout(Duration::from_secs(1), lines.wait()).await;
    output.say("all nodes have ended");
    drop(output);
    printer.finish();
    reason.map_or(Ok(()), |reason| Err(anyhow::anyhow!(reason)))
}

fn launch(plan: &Plan, shared: &Shared, database_url: &str) -> (Vec<Watched>, JoinSet<()>) {
    let mut children = JoinSet::new();
    let mut watched = Vec::new();
    for (number, node) in plan.nodes.iter().enumerate() {
        let pid = Arc::new(AtomicU32::new(0));
        let supervised = Supervised {
            node_id: node.node_id.clone(),
            arguments: plan.arguments(node, database_url),
            colour: number,
            pid: pid.clone(),
            shared: shared.clone(),
        };
        watched.push(Watched { node: node.clone(), pid });
        children.spawn(supervised.run());
    }
    (watched, children)
}

/// Cut is cancelled by the second signal, and by the end of the grace period, after which children are killed anyway.
async fn second_signal(shutdown: &Shutdown) {
    shutdown.draining().cancelled().await;
    shutdown.cut().cancelled().await;
}

/// Starts the own database again when it dies. Returns, with a reason, only if that does not succeed for long; never
/// if the database is not our own.
async fn keep_database(own: Option<&mut OwnPostgres>, restart: bool, output: &Output) -> String {
    let Some(postgres) = own else { return std::future::pending().await };
    loop {
        let how = postgres.died().await;
        if !restart {
            output.say(&format!("PostgreSQL has ended ({how}); it stays so, because of --no-restart"));
            return std::future::pending().await;
        }
        output.say(&format!("PostgreSQL has ended ({how}); starting it again"));
        let mut attempts = 0;
        while let Err(error) = postgres.restart().await {
            attempts += 1;
            output.say(&format!("{error:#}"));
            if attempts == 20 {
                return "PostgreSQL does not start any more".to_owned();
            }
            // Its orphaned backends may hold its memory for a moment.
            sleep(PAUSE).await;
        }
        output.say("PostgreSQL is back");
    }
}
