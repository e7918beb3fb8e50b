//! Heartbeats at a fixed rate, measured from when each was due, so that a stall is counted by everything it delayed.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _};
use hdrhistogram::Histogram;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use super::{
    Common,
    cluster::Target,
    echo::Echo,
    player::{DEADLINE, Socket, connect_many, open},
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
    /// Of all that were due while it was measured.
    latency: Histogram<u64>,
    /// How many were answered while the CPU was.
    messages: u64,
    processes: Vec<Value>,
}

impl Measured {
    fn cpu_s_per_100k(&self, of: &str) -> f64 {
        per(self.cpu(of), self.messages, 100_000)
    }

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
    let messages = gateway.messages;
    let mut report = Report::new("heartbeat")
        .field("connections", options.connections)
        .field("messages", messages)
        .field("per_second", per(1.0 / options.common.measured().as_secs_f64(), 1, messages))
        .latency("answer_ms", &gateway.latency);
    let spent = gateway.cpu_s_per_100k("gateway");
    let known = !gateway.processes.is_empty();
    if known {
        report = report.field("gateway_cpu_s_per_100k", spent).field("processes", gateway.processes);
    }
    if options.baseline {
        let bare = echoed(&load, target).await?;
        let spent_bare = bare.cpu_s_per_100k("echo");
        report = report
            .latency("echo_answer_ms", &bare.latency)
            .field("echo_cpu_s_per_100k", spent_bare)
            .field("echo_processes", bare.processes);
        report = compared(report, spent, spent_bare, known);
    }
    Ok(report)
}

/// The ratio of what was spent to what the bare echo spent, where both are known.
pub fn compared(report: Report, spent: f64, bare: f64, known: bool) -> Report {
    if !known {
        return report
            .field("no_ratio", "what the gateways spend is not known: give --ready-file, or neither it nor --url");
    }
    if bare == 0.0 {
        return report.field("no_ratio", "the bare echo spent too little to be seen: measure for longer");
    }
    report.field("ratio", per(spent / bare, 1, 1))
}

/// CPU seconds that a bare echo spends on 100,000 texts of such a load; what other scenarios are compared with.
///
/// # Errors
/// It does not start.
pub async fn bare(common: &Common, connections: u32, rate: u32, target: &mut Target) -> anyhow::Result<f64> {
    let measured = echoed(&Load::of(common, connections, rate), target).await?;
    Ok(measured.cpu_s_per_100k("echo"))
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
        let (mut latency, mut messages) = (histogram(), 0);
        // The last answers come after the end; CPU is read when the load ends.
        sleep_until(end.into()).await;
        let processes = target.since(&before);
        while let Some(done) = beating.join_next().await {
            let (took, answered) = done??;
            latency.add(took)?;
            messages += answered;
        }
        Ok(Measured { latency, messages, processes })
    }
}

/// How long each took that was due while it was measured, and how many were answered meanwhile.
async fn beat(
    mut socket: Socket,
    first: Instant,
    gap: Duration,
    measure_from: Instant,
    end: Instant,
) -> anyhow::Result<(Histogram<u64>, u64)> {
    let (mut latency, mut answered) = (histogram(), 0);
    let mut due = first;
    while due < end {
        sleep_until(due.into()).await;
        timeout(DEADLINE, answer(&mut socket)).await.context("a heartbeat was not answered")??;
        if due >= measure_from {
            record(&mut latency, due.elapsed());
        }
        answered += u64::from((measure_from..end).contains(&Instant::now()));
        due += gap;
    }
    let _ = timeout(DEADLINE, socket.close(None)).await;
    Ok((latency, answered))
}

async fn answer(socket: &mut Socket) -> anyhow::Result<()> {
    socket.send(Message::text(r#"{"type":"session.heartbeat","payload":{}}"#)).await?;
    loop {
        match socket.next().await.context("the gateway closed a socket")?? {
            Message::Text(text) if text.contains("session.heartbeat") => return Ok(()),
            Message::Text(text) if text.contains("rate_limited") => {
                anyhow::bail!("the gateway limits frames: run it with --set limits.frames_per_second=0")
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_gateways_spend_is_compared_where_it_is_known_and_else_it_is_said_why_not() {
        let of = |known, bare| compared(Report::new("heartbeat"), 3.0, bare, known).fields;
        assert_eq!(of(true, 2.0)["ratio"], 1.5);
        for unknown in [of(false, 2.0), of(true, 0.0)] {
            assert!(!unknown.contains_key("ratio") && unknown["no_ratio"].is_string(), "{unknown:?}");
        }
    }
}
