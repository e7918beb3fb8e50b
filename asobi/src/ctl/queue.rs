//! `asobi ctl queue`: how the queue of each mode does, and what operators do to it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use asobi_cluster::Role;
use asobi_proto::matchmaker_v1::{
    GetQueueStatsRequest, PauseModeRequest, QueueStats, ResumeModeRequest, SetModeSettingsRequest,
    matchmaker_service_client::MatchmakerServiceClient,
};
use asobi_service_kit::grpc::with_deadline;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{Ctl, DEADLINE, given::request_id, output};

/// The queue of each mode as the leading matchmaker sees it, live
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct QueueArgs {
    #[command(subcommand)]
    order: Option<Order>,
    /// Only this mode
    mode: Option<String>,
    /// Print it again every second, until interrupted
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Form no more matches of a mode; its tickets wait and new ones are taken
    Pause { mode: String },
    /// Form matches of a mode again
    Resume { mode: String },
    /// Override what a mode's script declares; replaces all overrides of before
    Set {
        mode: String,
        /// Settings by the names of the script's globals, e.g. match_size=4 skill_window=300. Values are JSON; what is
        /// none is text
        #[arg(value_name = "KEY=VALUE", required_unless_present = "reset")]
        settings: Vec<String>,
        /// Drop the overrides: the script's settings count again
        #[arg(long, conflicts_with = "settings")]
        reset: bool,
    },
}

const EVERY: Duration = Duration::from_secs(1);
/// To the upper left corner, and nothing behind.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub async fn run(args: &QueueArgs, ctl: &Ctl) -> anyhow::Result<()> {
    match &args.order {
        None if args.watch => watch(ctl, args.mode.as_deref()).await,
        None => {
            let (stats, term) = stats(ctl, args.mode.as_deref()).await?;
            show(ctl, &stats, term);
            Ok(())
        }
        Some(order) => obey(ctl, order).await,
    }
}

async fn stats(ctl: &Ctl, mode: Option<&str>) -> anyhow::Result<(Vec<QueueStats>, i64)> {
    let request = GetQueueStatsRequest { mode: mode.unwrap_or_default().to_owned() };
    let answer = ctl
        .ask(Some(Role::Matchmaker), async |channel| {
            MatchmakerServiceClient::new(channel).get_queue_stats(with_deadline(request.clone(), DEADLINE)).await
        })
        .await?;
    if let Some(mode) = mode {
        ensure!(!answer.modes.is_empty(), "no host has announced the mode {mode}");
    }
    Ok((answer.modes, answer.term))
}

/// A change of the leader in between is shown and waited for; only the first answer must come.
async fn watch(ctl: &Ctl, mode: Option<&str>) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen = false;
    loop {
        tick.tick().await;
        match stats(ctl, mode).await {
            Ok((stats, term)) => {
                seen = true;
                if !ctl.json {
                    output::line(CLEAR);
                }
                show(ctl, &stats, term);
            }
            Err(error) if seen => eprintln!("asobi: {error:#}"),
            Err(error) => return Err(error),
        }
    }
}

fn show(ctl: &Ctl, stats: &[QueueStats], term: i64) {
    if ctl.json {
        output::json(&json!({"term": term, "modes": stats.iter().map(object).collect::<Value>()}));
    } else {
        output::line(&table(stats));
    }
}

fn object(stats: &QueueStats) -> Value {
    json!({
        "mode": stats.mode,
        "tickets": stats.tickets,
        "players": stats.players,
        "oldest_wait_ms": stats.oldest_wait_ms,
        "wait_p50_ms": stats.wait_p50_ms,
        "wait_p95_ms": stats.wait_p95_ms,
        "matches_per_second": stats.matches_per_second,
        "paused": stats.paused,
        "backfill_wanted": stats.backfill_wanted,
    })
}

fn table(stats: &[QueueStats]) -> String {
    let wait = |ms: Option<i64>| ms.map_or_else(|| "-".to_owned(), output::milliseconds);
    let rows: Vec<_> = stats
        .iter()
        .map(|s| {
            [
                s.mode.clone(),
                s.tickets.to_string(),
                s.players.to_string(),
                wait((s.tickets > 0).then_some(s.oldest_wait_ms)),
                wait(s.wait_p50_ms),
                wait(s.wait_p95_ms),
                format!("{:.1}", s.matches_per_second),
                s.backfill_wanted.to_string(),
                if s.paused { "paused".to_owned() } else { String::new() },
            ]
        })
        .collect();
    output::table(
        ["mode", "tickets", "players", "oldest", "wait p50", "wait p95", "matches/s", "backfill", "state"],
        &rows,
    )
}

async fn obey(ctl: &Ctl, order: &Order) -> anyhow::Result<()> {
    let matchmaker = Some(Role::Matchmaker);
    let (mode, done, answer) = match order {
        Order::Pause { mode } => {
            let request = PauseModeRequest { mode: mode.clone(), request_id: request_id() };
            ctl.ask(matchmaker, async |channel| {
                MatchmakerServiceClient::new(channel).pause_mode(with_deadline(request.clone(), DEADLINE)).await
            })
            .await?;
            (mode, "paused: its tickets wait, no match is formed", json!({"mode": mode, "paused": true}))
        }
        Order::Resume { mode } => {
            let request = ResumeModeRequest { mode: mode.clone(), request_id: request_id() };
            ctl.ask(matchmaker, async |channel| {
                MatchmakerServiceClient::new(channel).resume_mode(with_deadline(request.clone(), DEADLINE)).await
            })
            .await?;
            (mode, "matches are formed again", json!({"mode": mode, "paused": false}))
        }
        Order::Set { mode, settings, reset } => {
            let overrides = if *reset { Map::new() } else { overrides(settings)? };
            return set(ctl, mode, overrides).await;
        }
    };
    if ctl.json {
        output::json(&answer);
    } else {
        output::line(&format!("{mode}: {done}"));
    }
    Ok(())
}

async fn set(ctl: &Ctl, mode: &str, overrides: Map<String, Value>) -> anyhow::Result<()> {
    let settings_json = Value::Object(overrides).to_string();
    let request = SetModeSettingsRequest { mode: mode.to_owned(), settings_json, request_id: request_id() };
    let answer = ctl
        .ask(Some(Role::Matchmaker), async |channel| {
            MatchmakerServiceClient::new(channel).set_mode_settings(with_deadline(request.clone(), DEADLINE)).await
        })
        .await?;
    let settings: Map<String, Value> =
        serde_json::from_str(&answer.settings_json).context("the matchmaker's answer is no JSON object")?;
    if ctl.json {
        output::json(&json!({"mode": mode, "settings": settings}));
    } else {
        let rows: Vec<_> = settings.into_iter().map(|(name, value)| [name, value.to_string()]).collect();
        output::line(&output::table(["setting", "value"], &rows));
    }
    Ok(())
}

fn overrides(settings: &[String]) -> anyhow::Result<Map<String, Value>> {
    let mut overrides = Map::new();
    for setting in settings {
        let (key, value) = setting.split_once('=').with_context(|| format!("`{setting}` is not KEY=VALUE"))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        let twice = overrides.insert(key.to_owned(), value).is_some();
        ensure!(!twice, "{key} is given twice");
    }
    Ok(overrides)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_json_or_text() {
        let given = ["match_size=4", "skill_window=2.5", "backfill=true", "strategy=fill", r#"regions=["eu"]"#];
        let overrides = overrides(&given.map(str::to_owned)).expect("all are settings");
        let expected =
            json!({"match_size": 4, "skill_window": 2.5, "backfill": true, "strategy": "fill", "regions": ["eu"]});
        assert_eq!(Value::Object(overrides), expected);
        for wrong in [&["match_size"][..], &["a=1", "a=2"]] {
            let wrong: Vec<String> = wrong.iter().map(|s| (*s).to_owned()).collect();
            assert!(super::overrides(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_unknown_is_a_dash() {
        let idle = QueueStats { mode: "duel".into(), paused: true, ..QueueStats::default() };
        let busy = QueueStats {
            mode: "arena".into(),
            tickets: 3,
            players: 5,
            oldest_wait_ms: 61_000,
            wait_p50_ms: Some(40),
            wait_p95_ms: Some(1_500),
            matches_per_second: 2.25,
            backfill_wanted: 1,
            ..QueueStats::default()
        };
        assert_eq!(
            table(&[busy, idle]),
            "MODE   TICKETS  PLAYERS  OLDEST     WAIT P50  WAIT P95  MATCHES/S  BACKFILL  STATE\n\
             arena  3        5        1 min 1 s  40 ms     1.5 s     2.2        1\n\
             duel   0        0        -          -         -         0.0        0         paused"
        );
    }
}
