//! What an idle, authenticated connection costs: the slope of the gateways' memory over their number.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::{Common, cluster::Target, player::connect_many, report::Report};

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Connections at the end; each takes a file descriptor here and one in its gateway
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1_000..=60_000))]
    connections: u32,
}

/// Steps between the first fifth and the end, where memory is read.
const STEPS: usize = 5;
/// What is still being freed or grown after the last connection.
const SETTLE: Duration = Duration::from_secs(3);

pub async fn run(options: &Options, target: &Target) -> anyhow::Result<Report> {
    let step = usize::try_from(options.connections)? / STEPS;
    let mut sockets = Vec::new();
    let mut points = Vec::new();
    let before = target.spent();
    for _ in 0..STEPS {
        sockets.extend(connect_many(target, step).await?);
        tokio::time::sleep(SETTLE).await;
        points.push((sockets.len(), target.resident_kb("gateway")));
    }
    let processes = target.since(&before);
    let rows: Vec<Value> = points.iter().map(|(n, kb)| json!({"connections": n, "gateways_kb": kb})).collect();
    let mut report = Report::new("connections").field("points", rows);
    if let (Some(first), Some(last)) = (points.first(), points.last())
        && last.1 > 0
    {
        #[expect(clippy::cast_precision_loss, reason = "kilobytes of some processes")]
        let slope = last.1.saturating_sub(first.1) as f64 / (last.0 - first.0).max(1) as f64;
        let slope = (slope * 1e3).round() / 1e3;
        report = report.field("kb_per_connection", slope).field("ratio", slope).field("processes", processes);
    }
    drop(sockets);
    Ok(report)
}
