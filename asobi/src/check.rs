//! `asobi check`: whether a games folder is one that a match host would take, and what only running it shows.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use asobi_match_service::{
    game::{Game, GameError, GameFactory, Joined, Outcome, Registry, Setup},
    lua::{self, LoadError, Shelf},
};
use asobi_proto::mode::{ModeSettings, Strategy};
use uuid::Uuid;

use crate::play::{limits, player, say};

/// Load the games of a folder as a match host does, try each, and name every mistake with file and line
///
/// Each mode's match is made, joined by as many players as form one, ticked once, shown to them, saved and restored: mistakes that only running
/// shows are found, too. Other services answer that they have nothing. The exit code is 1 when there is a mistake.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The folder with the games
    #[arg(value_name = "DIR", default_value = "games")]
    dir: PathBuf,
    /// Only load the games, and call none of their callbacks
    #[arg(long)]
    load_only: bool,
}

/// # Errors
/// The configuration in the environment is wrong.
pub async fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let registry = match lua::load(&args.dir, limits()?) {
        Ok((registry, _)) => registry,
        Err(error) => {
            complain(&args, &error);
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut mistakes = 0;
    for (mode, settings, _) in registry.modes() {
        say(&summary(&registry, &mode, &settings));
        if args.load_only {
            continue;
        }
        for error in try_out(&registry, &mode, &settings).await {
            mistakes += 1;
            let line = error.line.map(|line| format!(":{line}")).unwrap_or_default();
            let file = args.dir.join(&error.script).display().to_string();
            eprintln!("{file}{line}: {mode}: {}: {}", error.callback, error.message);
        }
    }
    if mistakes > 0 {
        eprintln!("{}", counted(mistakes, "mistake"));
        return Ok(ExitCode::FAILURE);
    }
    say(&format!("{}, no mistakes", counted(registry.modes().len(), "mode")));
    Ok(ExitCode::SUCCESS)
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn complain(args: &CheckArgs, error: &LoadError) {
    for problem in &error.problems {
        let line = problem.line.map(|line| format!(":{line}")).unwrap_or_default();
        eprintln!("{}{line}: {}", args.dir.join(&problem.file).display(), problem.message);
    }
    eprintln!("{}", counted(error.problems.len(), "mistake"));
}

fn summary(registry: &Registry, mode: &str, settings: &ModeSettings) -> String {
    let size = if settings.max_players == settings.match_size {
        counted(settings.match_size as usize, "player")
    } else {
        format!("{} to {} players", settings.match_size, settings.max_players)
    };
    let rate = match settings.tick_rate {
        0 => "turn by turn".to_owned(),
        1 => "1 tick a second".to_owned(),
        rate => format!("{rate} ticks a second"),
    };
    let strategy = match settings.strategy {
        Strategy::Fill => "fill",
        Strategy::SkillBased => "skill_based",
        Strategy::Query => "query",
    };
    let bots = settings.bots.as_ref().map(|bots| format!(", up to {}", counted(bots.max as usize, "bot")));
    let version = registry.get(mode).map(|factory| factory.version()).unwrap_or_default();
    format!("{mode}: {size}, {rate}, {strategy}{}, version {version}", bots.unwrap_or_default())
}

/// Runs a short match; everything that failed in it.
async fn try_out(registry: &Registry, mode: &str, settings: &ModeSettings) -> Vec<GameError> {
    let Some(factory) = registry.get(mode) else {
        return Vec::new();
    };
    let mut trial = Trial { errors: Vec::new(), outcome: Outcome::default() };
    if let Err(error) = trial.run(&**factory, mode, settings).await {
        trial.errors.push(error);
    }
    trial.errors
}

struct Trial {
    errors: Vec<GameError>,
    outcome: Outcome,
}

impl Trial {
    fn note<T>(&mut self, result: Result<T, GameError>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }

    /// # Errors
    /// What leaves nothing to try.
    async fn run(&mut self, factory: &dyn GameFactory, mode: &str, settings: &ModeSettings) -> Result<(), GameError> {
        let players: Vec<Uuid> = (1..=settings.match_size).map(player).collect();
        let mut setup = Setup::new(Uuid::from_u128(1), mode);
        if let Some(teams) = settings.teams {
            let size = usize::try_from(teams.size).unwrap_or(1).max(1);
            setup = setup.with_teams(players.chunks(size).map(<[Uuid]>::to_vec).collect());
        }
        let mut game = factory.create(&setup, Arc::new(Shelf::default()))?;
        game.init(&mut self.outcome).await?;
        let mut seated = Vec::new();
        for player in players {
            let joined = game.join(player, None, &mut self.outcome).await;
            if self.note(joined) == Some(Joined::Seated) {
                seated.push(player);
            }
        }
        self.play(&mut *game, settings, &seated).await;
        let mut saved = Vec::new();
        let result = game.save(&mut saved);
        if self.note(result).is_none() {
            return Ok(());
        }
        let mut game = factory.create(&setup, Arc::new(Shelf::default()))?;
        game.restore(&saved, &seated)?;
        if self.errors.is_empty() {
            self.play(&mut *game, settings, &seated).await;
        }
        Ok(())
    }

    async fn play(&mut self, game: &mut dyn Game, settings: &ModeSettings, seated: &[Uuid]) {
        if settings.bots.is_some()
            && let Some(bot) = seated.last()
        {
            let thought = game.think(*bot, &mut self.outcome).await;
            self.note(thought);
        }
        if settings.tick_rate > 0 {
            let ticked = game.tick(&mut self.outcome).await;
            self.note(ticked);
        }
        let shared = [None];
        let each: Vec<Option<Uuid>> = seated.iter().copied().map(Some).collect();
        for player in if settings.shared_state { &shared[..] } else { &each[..] } {
            let state = game.state(*player, &mut String::new(), &mut self.outcome).await;
            if self.note(state).is_none() {
                break;
            }
        }
    }
}
