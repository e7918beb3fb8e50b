//! What a tick of the arena costs in the VM: four inputs, the tick, and its states as frames' text. Made for counting instructions:
//!
//! `cargo bench -p asobi-match-service --bench ticks --no-run`, then `valgrind --tool=callgrind <the binary> views 500` (or `shared 500`).
//! `<the binary> idle 1000` says what so many idle games take of memory, by the slope between a tenth and all of them.

use std::{fs, sync::Arc};

use anyhow::Context as _;
use asobi_match_service::{
    game::{Game, GameFactory, Outcome, Setup},
    lua::{Limits, load},
    outside::Nowhere,
};
use futures_util::FutureExt as _;
use uuid::Uuid;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ARENA: &str = include_str!("../../asobi/src/bench/matches/arena.lua");
const PLAYERS: u128 = 4;

fn main() -> anyhow::Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_thp_disable(true)?;
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let what = words.first().map_or("views", String::as_str);
    let count = words.get(1).map_or(Ok(500), |count| count.parse()).context("a number of ticks or games")?;
    let folder = tempfile::tempdir()?;
    let shared = if what == "shared" { "state_strategy = 'shared'\n" } else { "" };
    fs::write(folder.path().join("match.lua"), format!("match_size = {PLAYERS}\n{shared}{ARENA}"))?;
    let limits = Limits { memory_bytes: 64 << 20, callback: std::time::Duration::from_millis(100) };
    let (registry, _) = load(folder.path(), limits)?;
    let factory = registry.get("default").context("a mode")?;
    if what == "idle" { idle(factory.as_ref(), count) } else { ticks(factory.as_ref(), count) }
}

fn started(factory: &dyn GameFactory, id: u128) -> anyhow::Result<Box<dyn Game>> {
    let mut game = factory.create(&Setup::new(Uuid::from_u128(id), "default"), Arc::new(Nowhere))?;
    let mut outcome = Outcome::default();
    game.init(&mut outcome).now_or_never().context("waits for nobody")??;
    for player in 1..=PLAYERS {
        game.join(Uuid::from_u128(player << 96), None, &mut outcome).now_or_never().context("waits for nobody")??;
    }
    Ok(game)
}

fn ticks(factory: &dyn GameFactory, count: usize) -> anyhow::Result<()> {
    let mut game = started(factory, 1)?;
    let shared = factory.settings().shared_state;
    let (mut states, mut bytes) = (0, 0);
    let mut outcome = Outcome::default();
    for n in 1..=count {
        for player in 1..=PLAYERS {
            let input = format!(r#"{{"n":{n},"dx":{},"dy":1}}"#, n % 3);
            let applied = game.input(Uuid::from_u128(player << 96), &input, &mut outcome);
            applied.now_or_never().context("waits for nobody")??;
        }
        game.tick(&mut outcome).now_or_never().context("waits for nobody")??;
        for player in 1..=if shared { 1 } else { PLAYERS } {
            let mut json = String::with_capacity(1024);
            let player = (!shared).then(|| Uuid::from_u128(player << 96));
            game.state(player, &mut json, &mut outcome).now_or_never().context("waits for nobody")??;
            (states, bytes) = (states + 1, bytes + json.len());
        }
    }
    println!("{count} ticks, {states} states, {} bytes each", bytes / states.max(1));
    Ok(())
}

fn idle(factory: &dyn GameFactory, count: usize) -> anyhow::Result<()> {
    let mut games = Vec::new();
    let mut before = 0;
    for n in 1..=count {
        games.push(started(factory, n as u128)?);
        if n == count / 10 {
            before = resident()?;
        }
    }
    let more = (count - count / 10).max(1);
    println!("{} bytes for each of {count} games", (resident()?.saturating_sub(before)) / more);
    Ok(())
}

/// Bytes of this process that are in memory.
fn resident() -> anyhow::Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a line VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? * 1024)
}
