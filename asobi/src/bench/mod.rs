//! `asobi bench`: loads over real sockets, open-loop, with what each process spent beside every figure.

// First: what says a step is a macro.
#[macro_use]
mod progress;

mod chat;
mod cluster;
mod compare;
mod connections;
mod curve;
mod echo;
mod flood;
mod heartbeat;
mod leaderboard;
mod matches;
mod matchmaking;
mod mixed;
mod one_row;
mod own;
mod player;
mod pool;
mod presence;
mod proc;
mod report;
mod start;
mod storm;
mod summary;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{bail, ensure};
use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use cluster::{Target, Wanted};
use report::Report;
use summary::Summary;

/// Measures a cluster over real sockets.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Authenticated connections that send heartbeats: the cost of one frame in and one out.
    Heartbeat(heartbeat::Options),
    /// Durable, acknowledged messages into channels whose members are spread over the gateways.
    Chat(chat::Options),
    /// From queueing to being told of a match: a burst, a steady rate, and beside a long queue
    Matchmaking(matchmaking::Options),
    /// Matches whose players send numbered inputs: what a delivered state costs, how late it is, what a move or a death costs
    Match(matches::Options),
    /// The same where all players go to their match's own host: the time from `match.migrate` to the first state there
    Migrate(matches::Migrating),
    /// A leaderboard of a million entries: how soon it is there, what it takes, how fast it answers
    #[command(alias = "boards")]
    Leaderboard(leaderboard::Options),
    /// Friends who come and go: how soon those who watch are told, and that none of them is not
    Presence(presence::Options),
    /// A day of a real game: players who log in, chat in a lobby, queue, play and leave
    Mixed(mixed::Options),
    /// Compares two results that --out wrote
    Compare(compare::Options),
    /// Authenticated connections with presence: how fast they come, what each costs in memory, how soon heartbeats are answered
    Connections(connections::Options),
    /// A gateway is killed, and everybody who was there comes back to the others at once
    Storm(storm::Options),
    /// Each service from the start of its process until it is ready, and a whole `asobi dev` from an empty folder
    Start(start::Options),
    /// The bare server that heartbeats are compared with
    #[command(hide = true)]
    Echo,
}

/// What every scenario takes.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// A gateway's address, e.g. <http://127.0.0.1:8080>; may be given several times, connections are spread over
    /// them. Without it a cluster of its own is started on free ports and stopped at the end. A cluster that is given
    /// must have guests enabled and its rate limits for this address lifted (see --help of each scenario)
    #[arg(long, value_name = "URL")]
    url: Vec<String>,
    /// The ready file of a running `asobi dev`: its gateways are used, and CPU and memory of its processes reported
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    ready_file: Option<std::path::PathBuf>,
    /// How long to measure, in seconds, after the warm-up
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How long to load before measuring, in seconds
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=600))]
    warm_up: u64,
    /// How often is measured, each time after its warm-up; figures are medians then, with their spread
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Say a line a second of how much was measured, also where nobody looks at a terminal
    #[arg(long, conflicts_with = "quiet")]
    progress: bool,
    /// Say nothing but the result
    #[arg(long)]
    quiet: bool,
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    json: bool,
    /// Write the result here, for --compare and `asobi bench compare`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Compare with an earlier result, which --out wrote
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// With --compare: exit with 1 when a figure got worse by more than this, beyond the spread of both
    #[arg(long, value_name = "PERCENT", requires = "compare", value_parser = compare::percent)]
    fail_above: Option<f64>,
}

impl Common {
    fn measured(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    fn warming(&self) -> Duration {
        Duration::from_secs(self.warm_up)
    }

    /// # Errors
    /// Only addresses are given, where more must be known of the cluster.
    fn knows(&self, what: &str, needed: bool) -> anyhow::Result<()> {
        ensure!(
            !needed || self.url.is_empty(),
            "{what}, and --url does not tell where they are: give --ready-file, or neither it nor --url"
        );
        Ok(())
    }
}

impl Scenario {
    fn common(&self) -> Option<&Common> {
        Some(match self {
            Self::Heartbeat(options) => &options.common,
            Self::Chat(options) => &options.common,
            Self::Leaderboard(options) => &options.common,
            Self::Presence(options) => &options.common,
            Self::Mixed(options) => &options.common,
            Self::Connections(options) => &options.common,
            Self::Storm(options) => &options.common,
            Self::Start(options) => &options.common,
            Self::Matchmaking(options) => &options.common,
            Self::Match(options) => &options.common,
            Self::Migrate(options) => &options.common,
            Self::Compare(_) | Self::Echo => return None,
        })
    }

    /// What its results are called.
    fn name(&self) -> &'static str {
        match self {
            Self::Heartbeat(_) => "heartbeat",
            Self::Chat(_) => "chat",
            Self::Leaderboard(_) => "leaderboard",
            Self::Presence(_) => "presence",
            Self::Mixed(_) => "mixed",
            Self::Connections(_) => "connections",
            Self::Storm(_) => "storm",
            Self::Start(_) => "start",
            Self::Matchmaking(_) => "matchmaking",
            Self::Match(_) | Self::Migrate(_) => "match",
            Self::Compare(_) => "compare",
            Self::Echo => "echo",
        }
    }

    fn wanted(&self) -> anyhow::Result<Wanted> {
        Ok(match self {
            Self::Chat(options) => options.wanted()?,
            Self::Leaderboard(options) => options.wanted()?,
            Self::Matchmaking(options) => options.wanted()?,
            Self::Match(options) => options.wanted()?,
            Self::Presence(_) => presence::Options::wanted(),
            Self::Connections(options) => options.wanted()?,
            Self::Storm(options) => options.wanted()?,
            Self::Start(options) => options.wanted()?,
            Self::Migrate(options) => matches::Options::from(options.clone()).wanted()?,
            _ => Wanted::default(),
        })
    }

    /// Some repeat by themselves, because their players stay where they are, or what they end with must come last; and what was killed cannot be
    /// killed again.
    fn repeats(&self) -> anyhow::Result<u32> {
        let rounds = self.common().map_or(1, |common| common.rounds);
        let kills = match self {
            Self::Storm(_) => true,
            Self::Matchmaking(options) => options.kills(),
            Self::Match(_) | Self::Migrate(_) | Self::Start(_) => return Ok(1),
            _ => false,
        };
        ensure!(rounds == 1 || !kills, "a process is killed here, which can be done once: --rounds 1");
        Ok(rounds)
    }

    async fn measure(&self, target: &mut Target) -> anyhow::Result<Report> {
        match self {
            Self::Heartbeat(options) => heartbeat::run(options, target).await,
            Self::Chat(options) => chat::run(options, target).await,
            Self::Leaderboard(options) => leaderboard::run(options, target).await,
            Self::Presence(options) => presence::run(options, target).await,
            Self::Mixed(options) => mixed::run(options, target).await,
            Self::Connections(options) => connections::run(options, target).await,
            Self::Storm(options) => storm::run(options, target).await,
            Self::Start(options) => start::run(options, target).await,
            Self::Matchmaking(options) => matchmaking::run(options, target).await,
            Self::Match(options) => matches::run(options, target).await,
            Self::Migrate(options) => matches::run(&options.clone().into(), target).await,
            Self::Compare(_) | Self::Echo => anyhow::bail!("nothing is measured here"),
        }
    }
}

/// Runs the scenario.
///
/// # Errors
/// When no cluster could be reached or started, or the load could not be applied.
pub async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let scenario = &args.scenario;
    match scenario {
        Scenario::Echo => return echo::serve().await,
        Scenario::Compare(options) => return compare::run(options),
        _ => {}
    }
    let Some(common) = scenario.common() else { return Ok(ExitCode::FAILURE) };
    // Mistakes first, before a cluster is started for nothing.
    let (rounds, wanted) = (scenario.repeats()?, scenario.wanted()?);
    let earlier = common.compare.as_deref().map(Summary::read).transpose()?;
    if let Some(earlier) = &earlier {
        compare::comparable(&earlier.scenario, scenario.name())?;
    }
    if let Some(file) = &common.out {
        summary::writable(file)?;
    }
    player::raise_descriptors()?;
    let _progress = progress::Progress::start(common.quiet, common.progress);
    let (reports, known) = tokio::select! {
        measured = Box::pin(measured(scenario, common, rounds, &wanted)) => measured?,
        stopped = stopped() => return stopped,
    };
    finish(common, earlier.as_ref(), &Summary::of(reports, command())?, known)
}

/// What all rounds found, and whether the processes were known. What was started for it is stopped, however it ends.
async fn measured(
    scenario: &Scenario,
    common: &Common,
    rounds: u32,
    wanted: &Wanted,
) -> anyhow::Result<(Vec<Report>, bool)> {
    let mut target = Target::reach(common, wanted).await?;
    let outcome = Box::pin(rounds_of(scenario, rounds, &mut target)).await;
    let known = target.knows_processes();
    target.stop().await;
    Ok((outcome?, known))
}

/// Ends with the first signal that asks for it.
async fn stopped() -> anyhow::Result<ExitCode> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    bail!("stopped by a signal before all was measured");
}

async fn rounds_of(scenario: &Scenario, rounds: u32, target: &mut Target) -> anyhow::Result<Vec<Report>> {
    let mut reports = Vec::new();
    for round in 1..=rounds {
        if rounds > 1 {
            say!("round {round} of {rounds}");
        }
        reports.push(Box::pin(scenario.measure(target)).await?);
    }
    Ok(reports)
}

/// Prints, writes and compares.
fn finish(common: &Common, earlier: Option<&Summary>, summary: &Summary, known: bool) -> anyhow::Result<ExitCode> {
    eprintln!("{}", summary.table());
    if !known {
        eprintln!(
            "  CPU and memory of the processes are not known: --ready-file tells them, or a cluster of the bench's own"
        );
    }
    let mut failed = !summary.failed.is_empty();
    let mut object = serde_json::to_value(summary)?;
    if let Some(earlier) = earlier {
        let changes = compare::changes(earlier, summary)?;
        eprintln!("{}", compare::table(earlier, summary, &changes));
        failed |= common.fail_above.is_some_and(|above| compare::fails(&changes, above));
        object["changes"] = serde_json::to_value(changes)?;
    }
    // First what cannot fail: a full disk shall not take the result.
    if common.json {
        println!("{object}");
    }
    if let Some(file) = &common.out {
        summary.write(file)?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What was measured, in the words it was ordered with: results of different orders are told apart by it.
fn command() -> Vec<String> {
    let mut words = std::env::args().skip_while(|word| word != "bench").skip(1);
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        match word.split('=').next().unwrap_or_default() {
            "--json" | "--progress" | "--quiet" => {}
            // With what follows, unless that is part of the word.
            "--out" | "--compare" | "--fail-above" | "--url" | "--ready-file" => {
                if !word.contains('=') {
                    words.next();
                }
            }
            _ => kept.push(word),
        }
    }
    kept
}
