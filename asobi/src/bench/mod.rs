//! `asobi bench`: loads over real sockets, open-loop, with what each process spent beside every figure.

mod boards;
mod chat;
mod cluster;
mod connections;
mod echo;
mod flood;
mod heartbeat;
mod matches;
mod matchmaking;
mod one_row;
mod player;
mod pool;
mod report;
mod storm;

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};

use cluster::{Target, Wanted};

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
    Boards(boards::Options),
    /// Authenticated connections with presence: how fast they come, what each costs in memory, how soon heartbeats are answered
    Connections(connections::Options),
    /// A gateway is killed, and everybody who was there comes back to the others at once
    Storm(storm::Options),
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
    /// Print one JSON object as the last line of standard output
    #[arg(long)]
    json: bool,
}

impl Common {
    fn measured(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    fn warming(&self) -> Duration {
        Duration::from_secs(self.warm_up)
    }
}

/// Runs the scenario.
///
/// # Errors
/// When no cluster could be reached or started, or the load could not be applied.
pub async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let common = match &args.scenario {
        Scenario::Heartbeat(options) => &options.common,
        Scenario::Chat(options) => &options.common,
        Scenario::Boards(options) => &options.common,
        Scenario::Connections(options) => &options.common,
        Scenario::Storm(options) => &options.common,
        Scenario::Matchmaking(options) => &options.common,
        Scenario::Match(options) => &options.common,
        Scenario::Migrate(options) => &options.common,
        Scenario::Echo => return echo::serve().await,
    };
    let json = common.json;
    let wanted = match &args.scenario {
        // One that can die.
        Scenario::Matchmaking(_) => Wanted { matchmakers: 2, ..Wanted::default() },
        Scenario::Match(options) => options.wanted()?,
        Scenario::Connections(options) => options.wanted(),
        Scenario::Storm(options) => options.wanted(),
        Scenario::Migrate(options) => matches::Options::from(options.clone()).wanted()?,
        _ => Wanted::default(),
    };
    let mut target = Target::reach(common, &wanted).await?;
    let outcome = match &args.scenario {
        Scenario::Heartbeat(options) => heartbeat::run(options, &mut target).await,
        Scenario::Chat(options) => chat::run(options, &target).await,
        Scenario::Boards(options) => boards::run(options, &mut target).await,
        Scenario::Connections(options) => connections::run(options, &target).await,
        Scenario::Storm(options) => storm::run(options, &target).await,
        Scenario::Matchmaking(options) => matchmaking::run(options, &target).await,
        Scenario::Match(options) => matches::run(options, &target).await,
        Scenario::Migrate(options) => matches::run(&options.clone().into(), &target).await,
        Scenario::Echo => return echo::serve().await,
    };
    target.stop().await;
    let report = outcome?;
    Ok(if report.print(json) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
