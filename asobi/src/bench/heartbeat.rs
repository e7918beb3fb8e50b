//! Heartbeats at a fixed rate, measured from when each was due, so that a stall is counted by everything it delayed.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _};
use hdrhistogram::Histogram;
use serde_json::Value;
use tokio::{task::JoinSet, time::sleep_until};
use tokio_tungstenite::tungstenite::Message;

use super::{
    Common,
    cluster::Target,
    echo::Echo,
    player::{Socket, connect_many, open},
    report::{Report, cpu_of, histogram, per, record},
};

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Authenticated connections
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=15000))]
    connections: u32,
    /// Heartbeats a second, over all connections; a cluster that is given needs limits.frames_per_second above each
    /// connection's share
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    rate: u32,
    /// Also measure a bare WebSocket echo of the same frames, and compare the CPU each spends on a message; one gateway is
    /// used then
    #[arg(long)]
    baseline: bool,
}

/// What one server answered, and what it spent.
struct Measured {
    latency: Histogram<u64>,
    processes: Vec<Value>,
}

impl Measured {
    fn cpu(&self, of: &str) -> f64 {
        cpu_of(&self.processes, of)
    }
}

pub async fn run(options: &Options, target: &mut Target) -> anyhow::Result<Report> {
    if options.baseline {
        target.gateways.truncate(1);
    }
    let count = usize::try_from(options.connections)?;
    let gateway = load(options, target, connect_many(target, count).await?).await?;
    let messages = gateway.latency.len();
    let mut report = Report::new("heartbeat")
        .field("connections", options.connections)
        .field("messages", messages)
        .field("per_second", per(1.0 / options.common.measured().as_secs_f64(), 1, messages))
        .latency("answer_ms", &gateway.latency);
    let spent = per(gateway.cpu("gateway"), messages, 100_000);
    if !gateway.processes.is_empty() {
        report = report.field("gateway_cpu_s_per_100k", spent).field("processes", gateway.processes);
    }
    if options.baseline {
        let echo = Echo::start().await?;
        target.watch("echo", echo.pid);
        eprintln!("the same against a bare echo …");
        let mut sockets = Vec::with_capacity(count);
        for _ in 0..count {
            sockets.push(open(&echo.url).await?);
        }
        let bare = load(options, target, sockets).await?;
        let spent_bare = per(bare.cpu("echo"), bare.latency.len(), 100_000);
        report = report
            .latency("echo_answer_ms", &bare.latency)
            .field("echo_cpu_s_per_100k", spent_bare)
            .field("echo_processes", bare.processes)
            .field("ratio", per(spent / spent_bare, 1, 1));
    }
    Ok(report)
}

async fn load(options: &Options, target: &Target, sockets: Vec<Socket>) -> anyhow::Result<Measured> {
    let gap = Duration::from_secs_f64(f64::from(options.connections) / f64::from(options.rate));
    let start = Instant::now() + Duration::from_millis(100);
    let (measure_from, end) =
        (start + options.common.warming(), start + options.common.warming() + options.common.measured());
    let mut beating = JoinSet::new();
    for (n, socket) in (0_u32..).zip(sockets) {
        // Spread over the first gap, or all would beat at once.
        let first = start + gap.mul_f64(f64::from(n) / f64::from(options.connections));
        beating.spawn(beat(socket, first, gap, measure_from, end));
    }
    sleep_until(measure_from.into()).await;
    let before = target.spent();
    eprintln!("measuring for {:?} …", options.common.measured());
    let mut latency = histogram();
    // The last answers come after the end; CPU is read when the load ends.
    sleep_until(end.into()).await;
    let processes = target.since(&before);
    while let Some(done) = beating.join_next().await {
        latency.add(done??)?;
    }
    Ok(Measured { latency, processes })
}

async fn beat(
    mut socket: Socket,
    first: Instant,
    gap: Duration,
    measure_from: Instant,
    end: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut latency = histogram();
    let mut due = first;
    while due < end {
        sleep_until(due.into()).await;
        socket.send(Message::text(r#"{"type":"session.heartbeat","payload":{}}"#)).await?;
        loop {
            match socket.next().await.context("the gateway closed a socket")?? {
                Message::Text(text) if text.contains("session.heartbeat") => break,
                Message::Text(text) if text.contains("rate_limited") => {
                    anyhow::bail!("the gateway limits frames: run it with --set limits.frames_per_second=0")
                }
                _ => {}
            }
        }
        if due >= measure_from {
            record(&mut latency, due.elapsed());
        }
        due += gap;
    }
    let _ = socket.close(None).await;
    Ok(latency)
}
