//! Matches whose players send inputs at a rate of their own, whatever comes back: what a state costs until it is at its player, how late
//! inputs are seen and ticks are made, what a match and a player take in memory, and what is felt of a host that leaves or dies.

mod faults;
mod gauge;
mod memory;
mod player;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::{
    gauge::Lateness,
    player::{Entrant, Plan, Played},
};
use super::{
    Common,
    cluster::{Target, Wanted},
    report::{Report, cpu_of, histogram, per, quantiles},
};

/// Sign-ins under way at once.
const CONCURRENCY: usize = 16;
/// The mode that the bench's players queue for.
const MODE: &str = "bench";
/// From the moment the last player is in a match to the first input.
const SETTLE: Duration = Duration::from_millis(500);
const ARENA: &str = include_str!("arena.lua");
const HALL: &str = include_str!("hall.lua");

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Matches at the same time
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    matches: u32,
    /// Players of each
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    players: u32,
    /// Of each player
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=60))]
    inputs_per_second: u32,
    /// Of each match of a cluster of the bench's own; of a cluster that is given its script says it
    #[arg(long, default_value_t = 10, conflicts_with_all = ["url", "ready_file"], value_parser = clap::value_parser!(u32).range(1..=60))]
    tick_rate: u32,
    /// Whether each player is sent a view of their own, or all of them the same; of a cluster that is given its script says it
    #[arg(long, value_enum, default_value_t = State::PerPlayer, conflicts_with_all = ["url", "ready_file"])]
    state: State,
    /// How players reach their match: through their gateway, on the match's own host, or half of the matches each way
    #[arg(long, value_enum, default_value_t = Via::Relay)]
    via: Via,
    /// A game instead of the bench's own. Its settings are its own, too: match_size must be --players. It counts as asobi/src/bench/matches/arena.lua
    /// does, or numbers are not checked and no latency is measured
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "ready_file"])]
    script: Option<PathBuf>,
    /// Match hosts of a cluster of the bench's own [default: 1; 2 with --move or --kill]
    #[arg(long, conflicts_with_all = ["url", "ready_file"], value_parser = clap::value_parser!(u16).range(1..=20))]
    hosts: Option<u16>,
    /// In the middle of the first round one host is told to leave, as SIGTERM does: its matches move to the others
    #[arg(long = "move", conflicts_with = "kill")]
    moves: bool,
    /// With --move: a gap between two states of any player that is as long as this makes the bench fail
    #[arg(long, default_value_t = 500, value_name = "MS")]
    max_gap_ms: u64,
    /// In the middle of the first round one host is killed: its matches go on elsewhere, from their last checkpoints
    #[arg(long)]
    kill: bool,
    /// Matches that are started at the end without anybody connected, after 2,000 relayed players: what each costs the host in memory. 0: both are
    /// left out
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(0..=5000))]
    idle_matches: u32,
}

/// What is of interest where players go to their match's own host; the rest is usual.
#[derive(Debug, Clone, Args)]
pub struct Migrating {
    #[command(flatten)]
    pub common: Common,
    /// Matches at the same time
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=5000))]
    matches: u32,
    /// Players of each
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    players: u32,
    /// In the middle one host is told to leave: players follow their matches to another
    #[arg(long = "move")]
    moves: bool,
}

impl From<Migrating> for Options {
    fn from(Migrating { common, matches, players, moves }: Migrating) -> Self {
        Self {
            common,
            matches,
            players,
            inputs_per_second: 10,
            tick_rate: 10,
            state: State::PerPlayer,
            via: Via::Migrate,
            script: None,
            hosts: None,
            moves,
            max_gap_ms: 500,
            kill: false,
            idle_matches: 0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    PerPlayer,
    Shared,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Via {
    Relay,
    Migrate,
    Half,
}

impl Via {
    /// Whether the players of this match go to its host.
    fn follows(self, of_match: usize) -> bool {
        match self {
            Self::Relay => false,
            Self::Migrate => true,
            Self::Half => of_match.is_multiple_of(2),
        }
    }
}

impl Options {
    /// # Errors
    /// The script cannot be read, or nobody knows what to strike.
    pub fn wanted(&self) -> anyhow::Result<Wanted> {
        self.common.knows("a match host's process is struck", self.moves || self.kill)?;
        let settings = |match_size: u32| {
            let shared = if self.state == State::Shared { "state_strategy = \"shared\"\n" } else { "" };
            // Nobody's seat is given up during a run.
            format!("match_size = {match_size}\ntick_rate = {}\nplayer_ttl_ms = 600000\n{shared}", self.tick_rate)
        };
        let script = match &self.script {
            Some(file) => {
                std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?
            }
            None => settings(self.players) + ARENA,
        };
        let games = [
            ("config.lua", r#"return { bench = "bench.lua", alone = "alone.lua", hall = "hall.lua" }"#.to_owned()),
            ("bench.lua", script),
            ("alone.lua", settings(1) + ARENA),
            ("hall.lua", HALL.to_owned()),
        ];
        let hosts = self.hosts.unwrap_or(if self.moves || self.kill { 2 } else { 1 });
        ensure!(hosts > 1 || !(self.moves || self.kill), "a match needs another host to go to: --hosts 2");
        Ok(Wanted {
            match_hosts: hosts,
            games: games.map(|(name, script)| (name.to_owned(), script)).into(),
            sets: vec!["limits.joins_per_minute=0".to_owned()],
            ..Wanted::default()
        })
    }

    fn count(&self) -> usize {
        (self.matches * self.players) as usize
    }
}

/// One measured stretch.
struct Round {
    processes: Vec<Value>,
    lateness: Lateness,
    /// A host went in the middle of it, and what that had spent with it.
    struck: bool,
}

pub async fn run(options: &Options, target: &Target) -> anyhow::Result<Report> {
    let entrants = enter(options, target).await?;
    let start = Instant::now() + SETTLE;
    let plan = Arc::new(Plan {
        gateways: target.gateways.iter().map(|gateway| super::player::ws(gateway)).collect(),
        interval: Duration::from_secs(1) / options.inputs_per_second,
        start,
        measure_from: start + options.common.warming(),
        measured: options.common.measured(),
        rounds: options.common.rounds,
        counted: options.script.is_none(),
    });
    let count = entrants.len();
    let mut players = JoinSet::new();
    for (n, entrant) in entrants.into_iter().enumerate() {
        players.spawn(player::play(entrant, Arc::clone(&plan), n, count));
    }
    let mut fault = None;
    let mut rounds = Vec::new();
    for number in 0..options.common.rounds {
        sleep_until(plan.boundary(number)).await;
        say!("measuring for {:?} …", plan.measured);
        let (before, earlier) = (target.spent(), Lateness::read(target).await);
        if number == 0 && (options.moves || options.kill) {
            sleep_until(plan.boundary(0) + plan.measured / 2).await;
            fault = Some(faults::strike(target, options.kill)?);
        }
        sleep_until(plan.boundary(number + 1)).await;
        let processes = target.since(&before);
        let lateness = Lateness::read(target).await.since(&earlier);
        rounds.push(Round { processes, lateness, struck: number == 0 && fault.is_some() });
    }
    let mut all = Vec::with_capacity(count);
    while let Some(done) = players.join_next().await {
        all.push(done??);
    }
    let mut report = report(options, &rounds, &all);
    if let Some(fault) = &fault {
        report = faults::report(options, report, fault, &all);
    }
    if options.idle_matches > 0 && fault.is_none() {
        report = memory::measure(options.idle_matches, target, report).await?;
    }
    Ok(report)
}

/// Signs everybody in, and lets them queue until all of them are in a match.
async fn enter(options: &Options, target: &Target) -> anyhow::Result<Vec<Entrant>> {
    let count = options.count();
    say!("connecting {count} players over {} gateways …", target.gateways.len());
    let http = reqwest::Client::builder().timeout(super::player::DEADLINE).build()?;
    let run = uuid::Uuid::now_v7();
    let mut connecting = stream::iter(0..count)
        .map(|n| {
            // A match's players sit on different gateways, as they would.
            let gateway = n % target.gateways.len();
            let follows = options.via.follows(n / options.players as usize);
            Entrant::connect(&http, target, gateway, format!("bench-{run}-{n}"), follows)
        })
        .buffered(CONCURRENCY);
    let mut entrants = Vec::with_capacity(count);
    while let Some(entrant) = connecting.next().await {
        entrants.push(entrant?);
    }
    drop(connecting);
    say!("forming {} matches …", options.matches);
    // Match after match: so that who follows plays with those who do.
    let mut queueing = JoinSet::new();
    for (n, mut entrant) in entrants.into_iter().enumerate() {
        entrant.queue(MODE).await?;
        queueing.spawn(async move {
            entrant.matched().await?;
            anyhow::Ok((n, entrant))
        });
    }
    let mut inside = Vec::with_capacity(count);
    while let Some(done) = queueing.join_next().await {
        inside.push(done??);
    }
    inside.sort_by_key(|(n, _)| *n);
    Ok(inside.into_iter().map(|(_, entrant)| entrant).collect())
}

fn report(options: &Options, rounds: &[Round], players: &[Played]) -> Report {
    let rows: Vec<Value> = (0..).zip(rounds).map(|(number, round)| row(number, round, players)).collect();
    let median = |key: &str| {
        let mut of: Vec<f64> = rows.iter().filter_map(|row| row[key].as_f64()).collect();
        of.sort_by(f64::total_cmp);
        of.get(of.len() / 2).copied()
    };
    let sum = |of: fn(&Played) -> u64| players.iter().map(of).sum::<u64>();
    let (per_state, gateway, ratio) = (
        median("host_cpu_s_per_100k_states"),
        median("gateway_cpu_s_per_100k_states"),
        median("tick_lateness_ratio_p99"),
    );
    let mut report = Report::new("match")
        .field("matches", options.matches)
        .field("players", options.players)
        .field("inputs_per_second", options.inputs_per_second)
        .field("tick_rate", options.tick_rate)
        .field("state", format!("{:?}", options.state))
        .field("via", format!("{:?}", options.via))
        .field("state_bytes", players.iter().map(|played| played.state_bytes).max())
        .field("host_cpu_s_per_100k_states", per_state)
        .field("gateway_cpu_s_per_100k_states", gateway)
        .field("tick_lateness_ratio_p99", ratio)
        .rounds(rows)
        .field("longest_gap_ms", ms(players.iter().map(Played::gap).max().unwrap_or_default()))
        .field("inputs_sent", sum(|played| played.sent))
        .field("inputs_seen", sum(|played| played.acked))
        .field("inputs_missing", sum(|played| played.missing))
        .field("inputs_twice", sum(|played| played.twice))
        .field("inputs_unseen", sum(|played| played.unseen))
        .field("inputs_refused", sum(|played| played.refused))
        .field("reconnected", sum(|played| played.fell_back))
        .field("ended_early", sum(|played| u64::from(played.ended)));
    if let Some(reason) = players.iter().find_map(|played| played.first_refusal.clone()) {
        report = report.field("first_refusal", reason);
    }
    if options.via != Via::Relay {
        let (mut took, mut still) = (histogram(), histogram());
        for (whole, without) in players.iter().flat_map(|played| &played.migrations) {
            super::report::record(&mut took, *whole);
            super::report::record(&mut still, *without);
        }
        // The first is what the client decides, too: it lets its last inputs arrive before it goes.
        report = report.latency("migrate_to_first_state_ms", &took).latency("migrate_without_socket_ms", &still);
        report = report.field("migrations", took.len());
    }
    let wrong = sum(|played| played.missing + played.twice) > 0 || players.iter().any(|played| played.ended);
    report
        .fails_if(wrong, "inputs were lost or counted twice, or matches ended")
        .fails_if(sum(|played| played.unseen) > 0, "inputs were never seen in a state")
        .fails_if(players.iter().any(|played| played.state_bytes == 0), "somebody never saw a state")
}

fn row(number: u32, round: &Round, players: &[Played]) -> Value {
    let mut latency = histogram();
    let own = |played: &&Played| played.delivered.get(number as usize).copied().unwrap_or_default();
    let delivered: u64 = players.iter().map(|played| own(&played)).sum();
    for played in players {
        for (_, elapsed) in played.latencies.iter().filter(|(round, _)| *round == number) {
            super::report::record(&mut latency, *elapsed);
        }
    }
    let Round { processes, lateness, struck } = round;
    let per_100k = |of: &str| per(cpu_of(processes, of), delivered, 100_000);
    json!({
        "states": delivered,
        "host_cpu_s_per_100k_states": (!struck).then(|| per_100k("match-")),
        "gateway_cpu_s_per_100k_states": per_100k("gateway"),
        "postgresql_cpu_s": cpu_of(processes, "postgresql"),
        "input_to_state_ms": quantiles(&latency),
        "tick_lateness_ms": lateness.ticks.quantiles(),
        "timer_lateness_ms": lateness.timers.quantiles(),
        "tick_lateness_ratio_p99": lateness.ratio(),
        "processes": processes,
    })
}

fn ms(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 1e6).round() / 1e3
}
