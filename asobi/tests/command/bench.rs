//! `asobi bench` as users run it: each scenario, tiny, against one cluster; two results compared; and what it says to mistakes.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    child::{Running, descendants, output, runs, until},
    support::PATIENCE,
};

/// The scripts and limits that docs/bench.md asks for.
const SETS: [&str; 8] = [
    "limits.frames_per_second=0",
    "limits.connects_per_second=0",
    "limits.register_per_second=0",
    "limits.auth_per_second=0",
    "limits.requests_per_second=0",
    "presence.grace_ms=500",
    "chat.global_channels=c0,c1",
    "log.filter=warn",
];
const SCRIPTS: [(&str, &str); 5] = [
    ("match.lua", include_str!("../../src/bench/idle.lua")),
    ("pair.lua", include_str!("../../src/bench/pair.lua")),
    ("skill.lua", include_str!("../../src/bench/skill.lua")),
    ("group.lua", include_str!("../../src/bench/group.lua")),
    ("play.lua", include_str!("../../src/bench/play.lua")),
];

const ARENA: &str = include_str!("../../src/bench/matches/arena.lua");

fn start(dir: &Path) -> anyhow::Result<(Running, String)> {
    let games = dir.join("games");
    std::fs::create_dir(&games)?;
    for (name, script) in SCRIPTS {
        std::fs::write(games.join(name), script)?;
    }
    let modes = include_str!("../../src/bench/modes.lua").replace("return {", r#"return { bench = "bench.lua","#);
    std::fs::write(games.join("config.lua"), modes)?;
    std::fs::write(games.join("bench.lua"), ["match_size = 2\n", ARENA].concat())?;
    let (games, ready, data) = (games.display().to_string(), dir.join("ready.json"), dir.join("data"));
    let (ready, data) = (ready.display().to_string(), data.display().to_string());
    let mut arguments = vec!["dev", "--port", "0", "--gateways", "1", "--games", &games, "--ready-file", &ready];
    arguments.extend(["--data-dir", &data]);
    SETS.iter().for_each(|set| arguments.extend(["--set", set]));
    Ok((Running::start(&arguments, dir)?, ready))
}

/// What a scenario prints as its last line.
async fn measured(arguments: &str, ready: &str) -> anyhow::Result<Value> {
    let result = result_of(&format!("{arguments} --warm-up 0"), &["--ready-file", ready]).await?;
    let figures = result["figures"].as_object().context("no figures")?;
    let known = figures.keys().any(|figure| figure.ends_with("postgresql.cpu_s"));
    ensure!(arguments.starts_with("matchmaking") || known, "{arguments}: {result}");
    Ok(result)
}

async fn result_of(arguments: &str, target: &[&str]) -> anyhow::Result<Value> {
    let mut words = vec!["bench"];
    words.extend(arguments.split(' ').chain(target.iter().copied()));
    words.extend(["--json", "--quiet"]);
    let output = tokio::time::timeout(PATIENCE, output(&words, &[])).await??;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{arguments}: {said}");
    let printed = String::from_utf8(output.stdout)?;
    let result: Value = serde_json::from_str(printed.lines().last().context("nothing was printed")?)?;
    ensure!(result["figures"].as_object().is_some_and(|figures| !figures.is_empty()), "{arguments}: {result}");
    Ok(result)
}

#[tokio::test]
async fn each_scenario_measures_a_running_cluster() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut cluster, ready) = start(dir.path())?;
    until("the cluster is ready", async || {
        cluster.lives()?;
        Ok(Path::new(&ready).exists())
    })
    .await?;
    let file = dir.path().join("result.json").display().to_string();
    let heartbeat = format!("heartbeat --connections 2 --rate 400 --seconds 1 --rounds 2 --baseline --out {file}");
    let heartbeat = measured(&heartbeat, &ready).await?;
    ensure!(heartbeat["ratio"].as_f64().is_some() && heartbeat["rounds_measured"] == 2, "{heartbeat}");
    let spread = &heartbeat["figures"]["answer_ms.p99"];
    ensure!(spread["min"].as_f64() <= spread["max"].as_f64() && spread["better"] == "less", "{heartbeat}");

    let chat = measured("chat --channels 2 --members 2 --rate 20 --seconds 1 --baseline", &ready).await?;
    ensure!(chat["missing"] == 0 && chat["unanswered"] == 0 && chat["sent"].as_u64() > Some(0), "{chat}");
    // What writes the bare rows has gone when it is asked what they took.
    ensure!(chat["ratio"].as_f64() > Some(0.0), "{chat}");
    ensure!(chat["one_row_postgresql_cpu_s_per_100k"].as_f64() > Some(0.0), "{chat}");
    let flood = measured("chat --rate max --channels 2 --members 2 --window 5 --seconds 1", &ready).await?;
    ensure!(flood["missing"] == 0 && flood["delivered"].as_u64() > Some(0), "{flood}");
    ensure!(flood["figures"]["processes.gateway-0.cpu_s"]["better"] == "neither", "{flood}");
    let presence = measured("presence --players 20 --degree 4 --churn 3 --seconds 4", &ready).await?;
    let connections = measured("connections --connections 100 --rate 400 --heartbeat 1 --seconds 1", &ready).await?;
    ensure!(connections["lost"] == 0 && connections["heartbeats"] == 100, "{connections}");
    ensure!(presence["frames"].as_u64() > Some(0) && presence["wrong_at_the_end"] == 0, "{presence}");
    let mixed =
        measured("mixed --arrivals 4 --curve flat --lobbies 2 --messages 1 --match-seconds 1 --seconds 1", &ready);
    let mixed = mixed.await?;
    ensure!(mixed["finished"] == 4 && mixed["failed"] == 0, "{mixed}");
    ensure!(mixed["step_ms"]["first_state"]["p50"].as_f64() > Some(0.0), "{mixed}");
    let matchmaking =
        measured("matchmaking --burst 4 --bursts 1 --rate 4 --seconds 1 --strategy skill", &ready).await?;
    ensure!(matchmaking["burst_all_told_ms_median"].as_f64() > Some(0.0), "{matchmaking}");
    let parties = measured("matchmaking --burst 24 --bursts 1 --rate 8 --seconds 1 --parties 50", &ready).await?;
    ensure!(parties["parties_wrong"] == 0 && parties["burst_players"] == 24, "{parties}");
    ensure!(parties["burst_party_told_ms"]["max"].as_f64() > Some(0.0), "{parties}");
    ensure!(parties["steady_told_ms"]["max"].as_f64() > Some(0.0), "{parties}");
    let played = measured("match --matches 2 --players 2 --idle-matches 0 --seconds 1", &ready).await?;
    ensure!(played["inputs_missing"] == 0 && played["inputs_unseen"] == 0, "{played}");
    ensure!(played["inputs_seen"].as_u64() > Some(0) && played["host_cpu_s_per_100k_states"].is_number(), "{played}");
    let migrated = measured("migrate --matches 1 --players 2 --seconds 1", &ready).await?;
    ensure!(migrated["migrations"].as_u64() > Some(0) && migrated["inputs_unseen"] == 0, "{migrated}");
    let board = measured("boards --entries 100 --submitters 2 --rate 50 --seconds 1 --baseline", &ready).await?;
    ensure!(board["scenario"] == "leaderboard" && board["paced_read_ms"]["p99"].as_f64() > Some(0.0), "{board}");
    cluster.stop().await?;

    // The same file twice: nothing changed, nothing fails.
    let same = output(&["bench", "compare", &file, &file, "--fail-above", "0", "--json"], &[]).await?;
    ensure!(same.status.success(), "{}", String::from_utf8_lossy(&same.stderr));
    // What is slower in each of its rounds than the other's slowest is worse, beyond the spread of both.
    let slower = dir.path().join("slower.json").display().to_string();
    let mut result: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    let figure = &mut result["figures"]["answer_ms.p50"];
    let slowest = figure["max"].as_f64().context("a figure")?;
    for key in ["median", "min", "max"] {
        figure[key] = Value::from(slowest * 2.0 + 100.0);
    }
    std::fs::write(&slower, result.to_string())?;
    let worse = output(&["bench", "compare", &file, &slower, "--fail-above", "10"], &[]).await?;
    let said = String::from_utf8_lossy(&worse.stderr).into_owned();
    ensure!(worse.status.code() == Some(1) && said.contains("WORSE, outside of the spread"), "{said}");
    Ok(())
}

#[tokio::test]
async fn starts_are_measured_from_the_process_until_it_is_ready() -> anyhow::Result<()> {
    let start = result_of("start --times 1 --cold-times 1", &[]).await?;
    for service in ["gateway", "match_host", "matchmaker", "social_service"] {
        let ready = start[format!("{service}_ready_ms")]["p50"].as_f64().context("a time")?;
        let own = start[format!("{service}_own_ms")].as_f64().context("a time")?;
        // What it says itself begins in its main and ends before the registry knows.
        ensure!(0.0 < own && own <= ready, "{service}: {start}");
        let longest = start[format!("{service}_longest")].as_str().unwrap_or_default();
        ensure!(longest.contains(" ms, "), "{service}: {start}");
        ensure!(start["figures"][format!("processes.{service}.rss_mb")]["median"].as_f64() > Some(0.0), "{start}");
    }
    ensure!(start["dev_cold_ms"]["max"].as_f64() > start["gateway_ready_ms"]["max"].as_f64(), "{start}");
    ensure!(start["dev_cold_cpu_s"].as_f64() > Some(0.0), "{start}");
    Ok(())
}

#[tokio::test]
async fn mistakes_are_named() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("no-result.json").display().to_string();
    std::fs::write(&file, "{}")?;
    let other = dir.path().join("other.json").display().to_string();
    std::fs::write(
        &other,
        r#"{"scenario": "chat", "version": "1", "command": [], "rounds_measured": 1, "figures": {}, "failed": []}"#,
    )?;
    let nowhere = dir.path().join("no-folder/result.json").display().to_string();
    let url = "http://127.0.0.1:1";
    for (arguments, named) in [
        (&["bench", "heartbeat", "--url", "nowhere"][..], "nowhere is no gateway's address"),
        (&["bench", "mixed", "--url", "http://127.0.0.1:1"], "http://127.0.0.1:1 cannot be reached"),
        (&["bench", "heartbeat", "--ready-file", &file], "names no gateway"),
        (&["bench", "heartbeat", "--compare", &file], "is no result of asobi bench"),
        (&["bench", "compare", &file, &file], "is no result of asobi bench"),
        (&["bench", "storm", "--rounds", "2"], "--rounds 1"),
        (&["bench", "matchmaking", "--parties", "10", "--strategy", "skill"], "not with --strategy skill"),
        (&["bench", "start", "--url", url], "neither --url nor --ready-file"),
        (&["bench", "chat", "--url", url, "--baseline"], "--baseline writes its rows into the database"),
        (&["bench", "matchmaking", "--url", url, "--pool", "10"], "give --ready-file, or neither it nor --url"),
        (&["bench", "match", "--url", url, "--move"], "give --ready-file, or neither it nor --url"),
        (&["bench", "match", "--url", url, "--tick-rate", "5"], "cannot be used with"),
        (&["bench", "heartbeat", "--url", url, "--compare", &other], "cannot be compared with one of heartbeat"),
        (&["bench", "heartbeat", "--url", url, "--out", &nowhere], "cannot be written"),
    ] {
        let output = output(arguments, &[]).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && said.contains(named), "{arguments:?}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_bench_that_is_stopped_or_killed_leaves_no_cluster_behind() -> anyhow::Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let dir = tempfile::tempdir()?;
        // Others may look inside: PostgreSQL's user has to get in.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        let folder = dir.path().display().to_string();
        let arguments = ["bench", "heartbeat", "--connections", "2", "--rate", "20", "--seconds", "600"];
        let mut bench = Running::start_with(&arguments, dir.path(), &[("TMPDIR", &folder)])?;
        until("the load", async || {
            bench.lives()?;
            Ok(bench.said().contains("measuring for"))
        })
        .await?;
        let cluster = descendants(bench.pid()?);
        ensure!(cluster.len() > 5, "{cluster:?}");
        let (status, _) = bench.end(signal).await?;
        ensure!(!status.success(), "{}", bench.said());
        until("the end of all that it had started", async || Ok(!cluster.iter().any(|pid| runs(*pid)))).await?;
        // Who is killed cannot tidy up.
        let left = std::fs::read_dir(dir.path())?.count();
        ensure!(signal == Signal::SIGKILL || left == 1, "beside the log: {left}");
    }
    Ok(())
}
