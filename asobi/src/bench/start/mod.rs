//! How soon a service is ready, beside others that are, on a database that is migrated; and a whole `asobi dev` that has nothing yet.

mod service;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::{Map, Value, json};

use self::service::{SERVICES, Scene, Started};
use super::{
    Common,
    cluster::{Target, Wanted},
    own::Own,
    proc,
    report::{Report, histogram, per, quantiles, record},
};

/// How often is looked whether `asobi dev` is ready: little beside seconds.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// How often each service is started in a round, one start after the other. Neither --seconds nor --warm-up changes anything here
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    times: u32,
    /// How often `asobi dev` is started in a round, each time on an empty data directory; 0: not at all
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    cold_times: u32,
}

impl Options {
    /// # Errors
    /// A cluster is given.
    pub fn wanted(&self) -> anyhow::Result<Wanted> {
        let own = self.common.url.is_empty() && self.common.ready_file.is_none();
        ensure!(own, "services are started here, on a cluster of the bench's own: neither --url nor --ready-file");
        Ok(Wanted { gateways: 1, ..Wanted::default() })
    }
}

/// # Errors
/// A service does not start, with what it said.
pub async fn run(options: &Options, target: &mut Target) -> anyhow::Result<Report> {
    let scene = Scene::of(target).await?;
    let mut rounds = vec![Map::new(); usize::try_from(options.common.rounds)?];
    let mut well = true;
    for round in &mut rounds {
        let mut processes = Vec::new();
        for service in &SERVICES {
            say!("starting a {} {} time(s) …", service.name, options.times);
            let mut starts = Vec::new();
            for _ in 0..options.times {
                starts.push(service.start(&scene).await.with_context(|| format!("a {} does not start", service.name))?);
            }
            well &= starts.iter().all(|start| start.ended_well);
            processes.push(tell(service.figure, &mut starts, round));
        }
        round.insert("processes".to_owned(), processes.into());
    }
    scene.close().await;
    // Nothing else runs while a cluster starts from nothing.
    target.stop().await;
    if options.cold_times > 0 {
        for round in &mut rounds {
            cold(options.cold_times, round).await?;
        }
    }
    let mut report = Report::new("start").field("starts", options.times).field("cold_starts", options.cold_times);
    report.fields.extend(rounds.last().cloned().unwrap_or_default());
    let report = report.rounds(rounds.into_iter().map(Value::Object).collect());
    Ok(report.fails_if(!well, "a service did not end in order when it was told to"))
}

/// Puts the figures of a service's starts into the round; the answer is what one of its processes took.
fn tell(figure: &str, starts: &mut [Started], round: &mut Map<String, Value>) -> Value {
    let mut ready = histogram();
    starts.iter().for_each(|start| record(&mut ready, start.ready));
    let count = u64::try_from(starts.len()).unwrap_or(u64::MAX);
    let cpu_s = per(starts.iter().map(|start| start.cpu_s).sum(), count, 1);
    let resident_kb = starts.iter().map(|start| start.resident_kb).max().unwrap_or_default();
    round.insert(format!("{figure}_ready_ms"), quantiles(&ready));
    // What took its time, of the one in the middle: the slowest one's is an accident's.
    starts.sort_by_key(|start| start.ready);
    if let Some(middle) = starts.get(starts.len() / 2) {
        round.insert(format!("{figure}_own_ms"), json!(middle.own_ms));
        round.insert(format!("{figure}_longest"), json!(middle.longest));
    }
    json!({"node": figure, "cpu_s": cpu_s, "rss_mb": resident_kb / 1024})
}

/// As somebody who has just installed it: an empty folder, then everything.
async fn cold(times: u32, round: &mut Map<String, Value>) -> anyhow::Result<()> {
    say!("starting asobi dev from nothing {times} time(s) …");
    let (mut ready, mut cpu_s) = (histogram(), 0.0);
    for _ in 0..times {
        let mut own = Own::launch(&[], &[])?;
        record(&mut ready, own.ready(LOOK).await?);
        cpu_s += own.pid().map(proc::cpu_seconds_of_family).unwrap_or_default();
        own.stop().await;
    }
    round.insert("dev_cold_ms".to_owned(), quantiles(&ready));
    round.insert("dev_cold_cpu_s".to_owned(), per(cpu_s, times.into(), 1).into());
    Ok(())
}
