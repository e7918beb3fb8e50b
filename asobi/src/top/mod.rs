//! `asobi top`: a cluster, live, in a terminal.
//!
//! ```text
//!   registry, each node's numbers, queue ──► sample ─┐
//!                                    the one before ─┴─► model ──► screen, text or JSON
//! ```
//!
//! What does not answer is shown as such and asked again: a node that is away, and a database too, costs its part of the picture.

mod draw;
mod model;
mod sample;
mod screen;
mod text;

use std::{
    io::{IsTerminal as _, stdout},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use clap::Args;

use self::{
    model::Model,
    sample::{Known, Sample},
};
use crate::ctl::{Ctl, Flags, output};

/// Look at a running cluster, live: nodes, sessions, matches, queue, message rates
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Print one picture and end: a table, or with --json an object
    #[arg(long)]
    once: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    interval: f64,
    #[command(flatten)]
    flags: Flags,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.2..=60.0).contains(seconds));
    seconds.ok_or_else(|| "a number of seconds from 0.2 to 60".to_owned())
}

/// # Errors
/// The cluster cannot be reached at all, or there is no terminal.
pub async fn run(args: TopArgs) -> anyhow::Result<ExitCode> {
    if !args.once && !stdout().is_terminal() {
        bail!("standard output is no terminal; --once prints one picture");
    }
    let ctl = match args.flags.reach(true).await? {
        Ok(ctl) => ctl,
        Err(wrong) => return Ok(wrong),
    };
    let every = Duration::from_secs_f64(args.interval);
    if args.once {
        once(&ctl, every).await?;
    } else {
        screen::run(&ctl, every).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Two looks, because rates need two.
async fn once(ctl: &Ctl, every: Duration) -> anyhow::Result<()> {
    let mut known = Known::default();
    let first = Sample::take(ctl, &mut known).await;
    tokio::time::sleep(every).await;
    let second = Sample::take(ctl, &mut known).await;
    if known.nodes.is_empty() {
        bail!("{}", second.problem.unwrap_or_else(|| "there is no node in the registry".to_owned()));
    }
    let model = Model::of(Some(&first), &second);
    if ctl.json {
        output::json(&text::object(&model));
    } else {
        output::line(&text::picture(&model));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_neither_none_nor_for_ever() {
        assert_eq!(interval("2.5"), Ok(2.5));
        for wrong in ["0", "61", "often", "NaN"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
