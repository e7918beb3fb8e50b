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
    let load = Load::of(&options.common, options.connections, options.rate);
    let gateway = load.put(target, connect_many(target, count).await?).await?;
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
        let bare = echoed(&load, target).await?;
        let spent_bare = per(bare.cpu("echo"), bare.latency.len(), 100_000);
        report = report
            .latency("echo_answer_ms", &bare.latency)
            .field("echo_cpu_s_per_100k", spent_bare)
            .field("echo_processes", bare.processes)
            .field("ratio", per(spent / spent_bare, 1, 1));
    }
    Ok(report)
}

/// CPU seconds that a bare echo spends on 100,000 texts of such a load; what other scenarios are compared with.
///
/// # Errors
/// It does not start.
pub async fn bare(common: &Common, connections: u32, rate: u32, target: &mut Target) -> anyhow::Result<f64> {
    let measured = echoed(&Load::of(common, connections, rate), target).await?;
    Ok(per(measured.cpu("echo"), measured.latency.len(), 100_000))
}

async fn echoed(load: &Load, target: &mut Target) -> anyhow::Result<Measured> {
    let echo = Echo::start().await?;
    target.watch("echo", echo.pid);
    say!("the same against a bare echo …");
    let mut sockets = Vec::new();
    for _ in 0..load.connections {
        sockets.push(open(&echo.url).await?);
    }
    let measured = load.put(target, sockets).await;
    target.unwatch("echo");
    measured
}

struct Load {
    connections: u32,
    gap: Duration,
    warming: Duration,
    measured: Duration,
}

impl Load {
    fn of(common: &Common, connections: u32, rate: u32) -> Self {
        let gap = Duration::from_secs_f64(f64::from(connections) / f64::from(rate));
        Self { connections, gap, warming: common.warming(), measured: common.measured() }
    }

    async fn put(&self, target: &Target, sockets: Vec<Socket>) -> anyhow::Result<Measured> {
        let start = Instant::now() + Duration::from_millis(100);
        let (measure_from, end) = (start + self.warming, start + self.warming + self.measured);
        let mut beating = JoinSet::new();
        for (n, socket) in (0_u32..).zip(sockets) {
            // Spread over the first gap, or all would beat at once.
            let first = start + self.gap.mul_f64(f64::from(n) / f64::from(self.connections));
            beating.spawn(beat(socket, first, self.gap, measure_from, end));
        }
        sleep_until(measure_from.into()).await;
        let before = target.spent();
        say!("measuring for {:?} …", self.measured);
        let mut latency = histogram();
        // The last answers come after the end; CPU is read when the load ends.
        sleep_until(end.into()).await;
        let processes = target.since(&before);
        while let Some(done) = beating.join_next().await {
            latency.add(done??)?;
        }
        Ok(Measured { latency, processes })
    }
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
