//! `asobi play`: one match in the terminal. No host, no database: the game itself, typed at.

mod stage;

use std::{
    fs,
    io::{self, BufRead as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use asobi_match_service::{
    game::Setup,
    lua::{self, Limits},
};
use asobi_service_kit::config::{self, ConfigArgs};
use uuid::Uuid;

use stage::{Stage, described};

/// Ticks that one line may ask for.
const TICKS: u64 = 1_000_000;

/// Play one match in the terminal, without a server: inputs and ticks as typed or from a file
///
/// Each line is an input, as `1 {"move_x": 1}` (a player's number and a JSON object), or a command:
///
///   /tick [N]   let N ticks pass (1); in a turn-based mode N seconds
///   /state [N]  show the state, or player N's
///   /join       one more player
///   /leave N    player N gives up the seat
///   /quit       stop
///
/// Empty lines and lines that begin with # are skipped. A player's id is the UUID of their number.
/// Other services answer from what the match itself has stored and submitted.
/// The exit code is 1 when a callback has failed.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct PlayArgs {
    /// The mode, as the games folder names it
    #[arg(value_name = "MODE")]
    mode: String,
    /// The folder with the games
    #[arg(long, value_name = "DIR", default_value = "games")]
    games: PathBuf,
    /// Players at the beginning; as many as form a match where it is not given. Bots take the seats that are missing, in modes that have some
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    players: Option<u32>,
    /// Read the lines from a file instead of the terminal
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// Let so many ticks pass after the lines of --inputs; without --inputs nothing is read
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=TICKS))]
    ticks: Option<u64>,
    /// Of the match's random numbers; the same one draws the same numbers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..1 << 53))]
    seed: Option<u64>,
}

/// Prints a line. Whoever reads may have seen enough, as `head` has.
pub fn say(line: &str) {
    let _gone = writeln!(io::stdout(), "{line}");
}

/// The id of the player with that number.
pub fn player(number: u32) -> Uuid {
    Uuid::from_u128(u128::from(number))
}

/// A match host's, as it would be configured here.
///
/// # Errors
/// The configuration in the environment is wrong.
pub fn limits() -> anyhow::Result<Limits> {
    let config = config::load(&ConfigArgs::default()).map_err(|errors| anyhow::anyhow!("{errors}"))?;
    Ok(Limits {
        memory_bytes: config.matches.memory_bytes,
        callback: Duration::from_millis(config.matches.callback_ms),
    })
}

/// # Errors
/// A sentence for whoever typed the command.
pub async fn run(args: PlayArgs) -> anyhow::Result<ExitCode> {
    let (registry, _) = lua::load(&args.games, limits()?)?;
    let Some(factory) = registry.get(&args.mode) else {
        let modes: Vec<_> = registry.modes().into_iter().map(|(mode, ..)| mode).collect();
        bail!("there is no mode `{}` in {}; there are: {}", args.mode, args.games.display(), modes.join(", "));
    };
    let lines = match &args.inputs {
        Some(path) => Some(fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?),
        None => None,
    };
    let settings = factory.settings();
    let players = args.players.unwrap_or(settings.match_size);
    let mut setup = Setup::new(Uuid::now_v7(), args.mode.clone());
    setup.seed = args.seed.unwrap_or(setup.seed);
    if let Some(teams) = settings.teams {
        let ids: Vec<Uuid> = (1..=players).map(player).collect();
        let size = usize::try_from(teams.size).unwrap_or(1).max(1);
        setup = setup.with_teams(ids.chunks(size).map(<[Uuid]>::to_vec).collect());
    }
    let opened = Stage::open(&**factory, &setup).await;
    let mut stage = opened.map_err(|error| anyhow::anyhow!("the match does not start: {}", described(&error)))?;
    say(&format!("{} with the seed {}", args.mode, setup.seed));
    for _ in 0..players {
        stage.join().await;
    }
    if settings.bots.is_some() {
        for _ in 0..stage.missing() {
            stage.add_bot("Bot").await;
        }
    }
    stage.show_changes().await;
    play(&mut stage, lines, args.ticks).await?;
    Ok(if stage.failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Goes through the lines, and then lets the ticks pass.
async fn play(stage: &mut Stage, lines: Option<String>, ticks: Option<u64>) -> anyhow::Result<()> {
    match (lines, ticks) {
        (Some(lines), _) => {
            for (index, line) in lines.lines().enumerate() {
                if stage.over || !obey(stage, line).await.with_context(|| format!("line {}", index + 1))? {
                    return Ok(());
                }
            }
        }
        (None, None) => {
            for line in io::stdin().lock().lines() {
                match obey(stage, &line?).await {
                    Ok(true) if !stage.over => {}
                    Ok(_) => return Ok(()),
                    // Whoever typed it can type it again.
                    Err(error) => say(&format!("{error:#}")),
                }
            }
        }
        (None, Some(_)) => {}
    }
    pass(stage, ticks.unwrap_or(0)).await;
    Ok(())
}

async fn pass(stage: &mut Stage, ticks: u64) {
    for _ in 0..ticks {
        if stage.over {
            return;
        }
        stage.tick().await;
    }
}

/// Does what a line says; false: it says to stop.
///
/// # Errors
/// It says nothing that can be understood.
async fn obey(stage: &mut Stage, line: &str) -> anyhow::Result<bool> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(true);
    }
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    match word {
        "/quit" => return Ok(false),
        "/join" => stage.join().await,
        "/leave" => stage.leave(rest.parse().context("/leave takes a player's number")?).await,
        "/tick" if rest.is_empty() => pass(stage, 1).await,
        "/tick" => {
            let ticks = rest.parse().ok().filter(|n| (1..=TICKS).contains(n));
            pass(stage, ticks.with_context(|| format!("/tick takes a number from 1 to {TICKS}"))?).await;
        }
        "/state" if rest.is_empty() => stage.show_state(None).await,
        "/state" => stage.show_state(Some(rest.parse().context("/state takes a player's number")?)).await,
        command if command.starts_with('/') => {
            bail!("there is no command {command}; there are /tick, /state, /join, /leave and /quit");
        }
        number => {
            let number = number
                .parse()
                .ok()
                .with_context(|| format!("`{line}` is neither a command nor an input, such as: 1 {{\"move_x\": 1}}"))?;
            let input: serde_json::Value = serde_json::from_str(rest).context("the input is not JSON")?;
            if !input.is_object() {
                bail!("an input is a JSON object, such as {{\"move_x\": 1}}");
            }
            stage.input(number, rest).await;
        }
    }
    Ok(true)
}
