//! The command line: runs a cluster on a laptop, each service alone, migrations, and what development needs.

mod bench;
mod check;
mod completion;
mod config_command;
mod ctl;
mod dev;
mod doctor;
mod migrate;
mod play;
mod postgres;
mod process;
mod stdin;
mod top;
mod with_postgres;

use std::{future::Future, pin::Pin, process::ExitCode};

use asobi_service_kit::{config::ConfigArgs, service};
use clap::{Args, CommandFactory as _, Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Asobi, a self-hosted backend for multiplayer games
#[derive(Debug, Parser)]
#[command(name = "asobi", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::DevArgs),
    /// Run a gateway: players' WebSockets and the REST API
    Gateway(ServiceArgs),
    /// Run a match host: the games
    MatchService(ServiceArgs),
    /// Run a matchmaker; of several, one leads
    Matchmaker(ServiceArgs),
    /// Run a social service: friends, groups, notifications and leaderboards
    SocialService(ServiceArgs),
    Migrate(migrate::MigrateArgs),
    Doctor(doctor::DoctorArgs),
    Check(check::CheckArgs),
    Play(play::PlayArgs),
    Ctl(ctl::CtlArgs),
    Top(top::TopArgs),
    Bench(bench::BenchArgs),
    Config(config_command::ConfigCommand),
    Completion(completion::CompletionArgs),
    Postgres(with_postgres::PostgresArgs),
    /// Keep a PostgreSQL server for a supervisor
    #[command(hide = true)]
    PostgresGuard(postgres::guard::GuardArgs),
}

#[derive(Debug, Args)]
struct ServiceArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

fn main() -> ExitCode {
    match service::parse::<Cli>() {
        Ok(cli) => run(cli.command),
        Err(code) => code,
    }
}

fn run(command: Command) -> ExitCode {
    match command {
        Command::Dev(args) => block_on(dev::run(args)),
        Command::Gateway(args) => service::main("gateway", &args.config, asobi_gateway::run),
        Command::MatchService(args) => service::main("match", &args.config, asobi_match_service::run),
        Command::Matchmaker(args) => service::main("matchmaker", &args.config, asobi_matchmaker::run),
        Command::SocialService(args) => service::main("social", &args.config, asobi_social_service::run),
        Command::Migrate(args) => {
            service::main("migrate", &args.config, |config, shutdown| migrate::run(config, shutdown, args.check))
        }
        Command::Doctor(args) => block_on(doctor::run(args)),
        Command::Check(args) => block_on(check::run(args)),
        Command::Play(args) => block_on(play::run(args)),
        Command::Ctl(args) => block_on(ctl::run(args)),
        Command::Top(args) => block_on(top::run(args)),
        Command::Bench(args) => block_on(bench::run(args)),
        Command::Config(args) => config_command::run(&args),
        Command::Completion(args) => completion::run(&args, Cli::command()),
        Command::Postgres(args) => block_on(with_postgres::run(args)),
        Command::PostgresGuard(args) => block_on(postgres::guard::run(args)),
    }
}

/// Runs a command that is no service. Its errors are for the person who typed it, with their causes, on one line each.
fn block_on<'a>(command: impl Future<Output = anyhow::Result<ExitCode>> + 'a) -> ExitCode {
    // One type for all commands: otherwise the runtime's loop, with the whole command in it, is compiled anew for each of them.
    let command: Pin<Box<dyn Future<Output = anyhow::Result<ExitCode>> + 'a>> = Box::pin(command);
    let ended = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let ended = runtime.block_on(command);
            // The thread that watches standard input blocks for ever.
            runtime.shutdown_background();
            ended
        });
    ended.unwrap_or_else(|error| {
        eprintln!("asobi: {error:#}");
        ExitCode::FAILURE
    })
}
