//! From a wish to be matched to the frame that says with whom: many at once, one after the other, and beside a queue that is long already.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _, future::try_join_all};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use super::{
    Common,
    cluster::Target,
    player::{Socket, connect_many},
    pool::Pool,
    report::{Report, cpu_of, histogram, per, quantiles, record},
};

/// How long one player may wait for a partner who is there.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between the two of a pair, so that the second one finds the first waiting.
const APART: Duration = Duration::from_millis(15);

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Players who queue at the same moment for matches of two. A cluster that is given needs the modes `pair` and `skill`
    /// of asobi/src/bench and --set limits.auth_per_second=0
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=10000))]
    burst: u32,
    /// How often the burst is repeated within a round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    bursts: u32,
    /// How the burst is matched: whoever is there, or those who are about as good, each pair far from all others
    #[arg(long, value_enum, default_value_t = Strategy::Fill)]
    strategy: Strategy,
    /// Players who queue in a second, one after the other
    #[arg(long, default_value_t = 33, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Tickets that wait already, in a mode that looks at skill; 0: this part is left out
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pool: u32,
    /// With --pool: tickets that come, and go again, in a second
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(0..=20000))]
    churn: u32,
    /// With --pool: kill the leader at the end, and measure until its successor serves
    #[arg(long)]
    kill_leader: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Strategy {
    Fill,
    Skill,
}

impl Strategy {
    /// What the player of this number queues for.
    fn wish(self, n: usize) -> (&'static str, Value) {
        match self {
            Self::Fill => ("pair", json!({})),
            Self::Skill => ("skill", json!({"skill": n / 2 * 1_000})),
        }
    }
}

impl Options {
    pub fn kills(&self) -> bool {
        self.kill_leader
    }
}

pub async fn run(options: &Options, target: &Target) -> anyhow::Result<Report> {
    let mut sockets = connect_many(target, usize::try_from(options.burst & !1)?).await?;
    let mut rounds = Vec::new();
    for _ in 0..options.bursts {
        let (round, back) = burst(sockets, options.strategy, target).await?;
        sockets = back;
        rounds.push(round);
    }
    let told: Vec<f64> = rounds.iter().filter_map(|round| round["all_told_ms"].as_f64()).collect();
    let mut report = Report::new("matchmaking")
        .field("burst_players", options.burst & !1)
        .field("burst_strategy", format!("{:?}", options.strategy))
        .field("burst_all_told_ms_median", median(told))
        .field("burst", rounds);
    let (report_steady, back) = steady(options, sockets, target, report).await?;
    report = report_steady;
    if options.pool > 0 {
        report = beside_a_pool(options, back, target, report).await?;
    }
    Ok(report)
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or_default()
}

fn ms(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 1e6).round() / 1e3
}

/// Everybody queues at once; the time until the last one is told.
async fn burst(sockets: Vec<Socket>, strategy: Strategy, target: &Target) -> anyhow::Result<(Value, Vec<Socket>)> {
    let before = target.spent();
    let start = Instant::now();
    let mut players = JoinSet::new();
    for (n, mut socket) in sockets.into_iter().enumerate() {
        players.spawn(async move {
            let (mode, properties) = strategy.wish(n);
            queue(&mut socket, mode, &properties).await?;
            pushed(&mut socket, "match.matched").await?;
            let told = start.elapsed();
            anyhow::Ok((socket, told))
        });
    }
    let (mut sockets, mut told) = (Vec::new(), histogram());
    let mut last = Duration::ZERO;
    while let Some(done) = players.join_next().await {
        let (socket, elapsed) = done??;
        record(&mut told, elapsed);
        last = last.max(elapsed);
        sockets.push(socket);
    }
    let processes = target.since(&before);
    try_join_all(sockets.iter_mut().map(finish)).await?;
    let round = json!({
        "all_told_ms": ms(last),
        "told_ms": quantiles(&told),
        "matchmaker_cpu_s": per(cpu_of(&processes, "matchmaker"), 1, 1),
        "match_host_cpu_s": per(cpu_of(&processes, "match"), 1, 1) - per(cpu_of(&processes, "matchmaker"), 1, 1),
        "gateway_cpu_s": per(cpu_of(&processes, "gateway"), 1, 1),
        "postgresql_cpu_s": per(cpu_of(&processes, "postgresql"), 1, 1),
    });
    Ok((round, sockets))
}

/// Two by two at a rate; the time from the second one's wish until both are told.
async fn steady(
    options: &Options,
    sockets: Vec<Socket>,
    target: &Target,
    report: Report,
) -> anyhow::Result<(Report, Vec<Socket>)> {
    let gap = Duration::from_secs_f64(2.0 / f64::from(options.rate));
    let start = Instant::now() + gap;
    let measure_from = start + options.common.warming();
    let end = measure_from + options.common.measured();
    let mut idle: std::collections::VecDeque<Socket> = sockets.into();
    let mut playing = JoinSet::new();
    let mut told = histogram();
    let (mut due, mut before) = (start, None);
    while due < end {
        sleep_until(due.into()).await;
        if before.is_none() && due >= measure_from {
            before = Some(target.spent());
        }
        while let Some(done) = playing.try_join_next() {
            let (pair, measured): ([Socket; 2], Option<Duration>) = done??;
            idle.extend(pair);
            if let Some(elapsed) = measured {
                record(&mut told, elapsed);
            }
        }
        let (Some(a), Some(b)) = (idle.pop_front(), idle.pop_front()) else {
            bail!("all players still play: more of them (--burst), or a lower --rate")
        };
        let measures = due >= measure_from;
        playing.spawn(async move {
            let (pair, elapsed) = meet([a, b], "pair", json!({})).await?;
            anyhow::Ok((pair, measures.then_some(elapsed)))
        });
        due += gap;
    }
    let processes = before.map(|before| target.since(&before)).unwrap_or_default();
    while let Some(done) = playing.join_next().await {
        let (pair, measured) = done??;
        idle.extend(pair);
        if let Some(elapsed) = measured {
            record(&mut told, elapsed);
        }
    }
    let players = told.len() * 2;
    let report = report
        .field("steady_players_per_second", options.rate)
        .latency("steady_told_ms", &told)
        .field("matchmaker_cpu_s_per_1k_players", per(cpu_of(&processes, "matchmaker"), players, 1_000))
        .field("postgresql_cpu_s_per_1k_players", per(cpu_of(&processes, "postgresql"), players, 1_000))
        .field("processes", processes);
    Ok((report, idle.into()))
}

/// The first queues and waits, the second meets it; from the second one's wish until both are told. Both are idle again afterwards.
async fn meet(mut pair: [Socket; 2], mode: &str, properties: Value) -> anyhow::Result<([Socket; 2], Duration)> {
    let [a, b] = &mut pair;
    queue(a, mode, &properties).await?;
    tokio::time::sleep(APART).await;
    let wished = Instant::now();
    queue(b, mode, &properties).await?;
    tokio::try_join!(pushed(a, "match.matched"), pushed(b, "match.matched"))?;
    let elapsed = wished.elapsed();
    tokio::try_join!(finish(a), finish(b))?;
    Ok((pair, elapsed))
}

/// Pairs that meet while so many others wait, come and go; then the leader dies.
async fn beside_a_pool(
    options: &Options,
    mut sockets: Vec<Socket>,
    target: &Target,
    report: Report,
) -> anyhow::Result<Report> {
    let url =
        target.database_url.as_deref().context("the database is only known with --ready-file, or without --url")?;
    let pool = Pool::fill(url, options.pool).await?;
    let (Some(b), Some(a)) = (sockets.pop(), sockets.pop()) else { bail!("two players are needed") };
    // Whoever has just read the long queue serves again when the first pair has met.
    let (mut pair, settled) = meet([a, b], "skill", pool.probe()).await?;
    say!(
        "{} wait, the first pair met after {settled:?}; measuring for {:?} …",
        options.pool,
        options.common.measured()
    );
    let churning = pool.churn(options.churn);
    let before = target.spent();
    let end = Instant::now() + options.common.measured();
    let mut told: Histogram<u64> = histogram();
    while Instant::now() < end {
        let elapsed;
        (pair, elapsed) = meet(pair, "skill", pool.probe()).await?;
        record(&mut told, elapsed);
    }
    let processes = target.since(&before);
    let came = churning.stop().await?;
    let seconds = options.common.measured().as_secs_f64();
    let mut report = report
        .field("pool", options.pool)
        .field("pool_tickets_in_and_out_per_second", per(1.0 / seconds, 1, came))
        .latency("pool_told_ms", &told)
        .field("pool_matchmaker_cpu_s_per_s", per(cpu_of(&processes, "matchmaker") / seconds, 1, 1))
        .field("pool_processes", processes);
    if options.kill_leader {
        let killed = pool.kill_leader().await?;
        let (_, _) = meet(pair, "skill", pool.probe()).await?;
        report = report.field("new_leader_serves_ms", ms(killed.elapsed()));
    }
    Ok(report)
}

async fn queue(socket: &mut Socket, mode: &str, properties: &Value) -> anyhow::Result<()> {
    let frame = json!({"type": "matchmaker.add", "cid": "q", "payload": {"mode": mode, "properties": properties}});
    Ok(socket.send(Message::text(frame.to_string())).await?)
}

/// Ends the match, unless the other one has.
async fn finish(socket: &mut Socket) -> anyhow::Result<()> {
    socket.send(Message::text(r#"{"type":"match.input","payload":{"over":true}}"#)).await?;
    pushed(socket, "match.finished").await
}

/// Waits for a push; a refusal of what was asked is an error.
pub(super) async fn pushed(socket: &mut Socket, kind: &str) -> anyhow::Result<()> {
    let wanted = format!("\"type\":\"{kind}\"");
    let waiting = async {
        loop {
            let message = socket.next().await.context("the gateway closed a socket")??;
            let Message::Text(text) = message else { continue };
            if text.contains(&wanted) {
                return Ok(());
            }
            // Who comes second to end a match is not in it any more.
            let refused = text.contains("\"type\":\"error\"") && !text.contains("not_in_match");
            ensure!(!refused, "the wish was refused: {text}");
            ensure!(!text.contains("match.matchmaker_"), "the ticket came to nothing: {text}");
        }
    };
    timeout(PATIENCE, waiting).await.with_context(|| format!("{kind} did not come within {PATIENCE:?}"))?
}
