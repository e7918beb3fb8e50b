//! A host that leaves, or dies, while its matches are played.

use std::time::Duration;

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::Instant;

use super::{Options, ms, player::Played};
use crate::bench::{
    cluster::Target,
    report::{Report, histogram, record},
};

/// What was done, and when.
pub struct Fault {
    at: Instant,
}

/// Kills the first host, or tells it to leave.
///
/// # Errors
/// It is not known, or runs on another machine.
pub fn strike(target: &Target, kills: bool) -> anyhow::Result<Fault> {
    let host = target.match_hosts.first().context("the ready file names no match host")?;
    let signal = if kills { Signal::SIGKILL } else { Signal::SIGTERM };
    say!("{} gets {signal} …", host.node_id);
    let at = Instant::now();
    kill(Pid::from_raw(i32::try_from(host.pid)?), signal).context("the host runs on another machine")?;
    Ok(Fault { at })
}

pub fn report(options: &Options, report: Report, fault: &Fault, players: &[Played]) -> Report {
    let usual = Duration::from_secs(1) / options.tick_rate;
    // Who was on another host has noticed nothing.
    let felt = players
        .iter()
        .filter_map(|played| played.longest)
        .filter(|(from, to)| *to > fault.at && *to - *from > 3 * usual);
    let (mut gaps, mut back) = (histogram(), histogram());
    for (from, to) in felt {
        record(&mut gaps, to - from);
        record(&mut back, to - fault.at);
    }
    let longest = players.iter().map(Played::gap).max().unwrap_or_default();
    let report = report.field("players_with_a_gap", gaps.len()).latency("their_gap_ms", &gaps);
    if options.kill {
        let rolled_back = players.iter().map(|played| played.rolled_back).max().unwrap_or_default();
        return report
            .latency("first_state_after_kill_ms", &back)
            .field("inputs_rolled_back", rolled_back)
            .field("rolled_back_ms", ms(Duration::from_secs(rolled_back) / options.inputs_per_second));
    }
    report
        .field("max_gap_ms", options.max_gap_ms)
        .fails_if(longest >= Duration::from_millis(options.max_gap_ms), "somebody waited too long for a state")
}
