//! The first to reach fifty wins. In each tick whoever wants to rolls once; a one takes everything that was rolled in a row.

use std::{collections::BTreeMap, sync::Arc};

use asobi_match_service::game::{Game, GameError, GameFactory, Joined, Outcome, Outside, Setup};
use asobi_proto::{
    effect::{EffectBody, ScoreEffect},
    mode::ModeSettings,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const GOAL: u32 = 50;

/// Makes games of dice, two players each.
pub struct Dice(ModeSettings);

impl Default for Dice {
    fn default() -> Self {
        Self(ModeSettings { tick_rate: 4, shared_state: true, ..ModeSettings::default() })
    }
}

impl GameFactory for Dice {
    fn settings(&self) -> &ModeSettings {
        &self.0
    }

    // A match that was saved by another version is not given to this one: raise it with the format of `Table`.
    fn version(&self) -> &str {
        "dice-1"
    }

    fn create(&self, setup: &Setup, _: Arc<dyn Outside>) -> Result<Box<dyn Game>, GameError> {
        Ok(Box::new(Playing { table: Table { luck: setup.seed, players: BTreeMap::new() } }))
    }
}

/// All there is to know of a match: what is saved, and what players see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Table {
    luck: u64,
    players: BTreeMap<Uuid, Player>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Player {
    safe: u32,
    at_risk: u32,
    wants: Option<Wish>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wish {
    Roll,
    Keep,
}

#[derive(Deserialize)]
struct Input {
    wish: Wish,
}

struct Playing {
    table: Table,
}

impl Table {
    /// A die, from 1 to 6: the same for everybody who goes on from the same table.
    fn roll(&mut self) -> u32 {
        self.luck = self.luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((self.luck >> 33) % 6).unwrap_or(0) + 1
    }

    fn play(&mut self, id: Uuid) {
        let wants = self.players.get_mut(&id).and_then(|player| player.wants.take());
        let rolled = if wants == Some(Wish::Roll) { self.roll() } else { 0 };
        let Some(player) = self.players.get_mut(&id) else { return };
        match wants {
            Some(Wish::Roll) if rolled == 1 => player.at_risk = 0,
            Some(Wish::Roll) => player.at_risk += rolled,
            Some(Wish::Keep) => player.safe += std::mem::take(&mut player.at_risk),
            None => {}
        }
    }
}

fn wrong(callback: &'static str, message: impl ToString) -> GameError {
    GameError { script: "dice".into(), line: None, callback, message: message.to_string(), fatal: false }
}

#[async_trait(?Send)]
impl Game for Playing {
    async fn init(&mut self, _: &mut Outcome) -> Result<(), GameError> {
        Ok(())
    }

    async fn join(&mut self, player: Uuid, _: Option<&str>, _: &mut Outcome) -> Result<Joined, GameError> {
        self.table.players.entry(player).or_default();
        Ok(Joined::Seated)
    }

    async fn leave(&mut self, player: Uuid, _: &mut Outcome) -> Result<(), GameError> {
        self.table.players.remove(&player);
        Ok(())
    }

    async fn input(&mut self, player: Uuid, input: &str, _: &mut Outcome) -> Result<(), GameError> {
        let input: Input = serde_json::from_str(input).map_err(|error| wrong("input", error))?;
        if let Some(player) = self.table.players.get_mut(&player) {
            player.wants = Some(input.wish);
        }
        Ok(())
    }

    async fn tick(&mut self, outcome: &mut Outcome) -> Result<(), GameError> {
        let ids: Vec<Uuid> = self.table.players.keys().copied().collect();
        for id in ids {
            self.table.play(id);
        }
        if let Some((winner, player)) = self.table.players.iter().find(|(_, player)| player.safe >= GOAL) {
            let (board, score) = ("dice".to_owned(), f64::from(player.safe));
            outcome.effects.push(EffectBody::Score(ScoreEffect { board, player_id: *winner, score, sub_score: 0.0 }));
            outcome.finished = Some(serde_json::json!({ "winner": winner }).to_string());
        }
        Ok(())
    }

    async fn state(&mut self, _: Option<Uuid>, json: &mut String, _: &mut Outcome) -> Result<(), GameError> {
        json.push_str(&serde_json::to_string(&self.table.players).map_err(|error| wrong("state", error))?);
        Ok(())
    }

    fn save(&mut self, out: &mut Vec<u8>) -> Result<(), GameError> {
        serde_json::to_writer(out, &self.table).map_err(|error| wrong("save", error))
    }

    fn restore(&mut self, saved: &[u8], _: &[Uuid]) -> Result<(), GameError> {
        self.table = serde_json::from_slice(saved).map_err(|error| wrong("restore", error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use asobi_match_service::outside::Nowhere;

    use super::*;

    fn start() -> Box<dyn Game> {
        let setup = Setup::new(Uuid::from_u128(7), "dice");
        Dice::default().create(&setup, Arc::new(Nowhere)).expect("begins")
    }

    async fn state(game: &mut Box<dyn Game>) -> String {
        let mut json = String::new();
        game.state(None, &mut json, &mut Outcome::default()).await.expect("a state");
        json
    }

    #[tokio::test]
    async fn somebody_wins_and_a_game_that_was_saved_in_between_ends_the_same() {
        let (ada, mut outcome) = (Uuid::from_u128(1), Outcome::default());
        let (mut game, mut other) = (start(), start());
        game.join(ada, None, &mut outcome).await.expect("sits");
        for turn in 0..1_000 {
            let wish = if turn % 4 == 3 { r#"{"wish":"keep"}"# } else { r#"{"wish":"roll"}"# };
            game.input(ada, wish, &mut outcome).await.expect("taken");
            if turn == 2 {
                let mut saved = Vec::new();
                game.save(&mut saved).expect("saves");
                other.restore(&saved, &[ada]).expect("restores");
            } else if turn > 2 {
                other.input(ada, wish, &mut Outcome::default()).await.expect("taken");
            }
            game.tick(&mut outcome).await.expect("ticks");
            if turn >= 2 {
                other.tick(&mut Outcome::default()).await.expect("ticks");
                assert_eq!(state(&mut game).await, state(&mut other).await);
            }
            if outcome.finished.is_some() {
                assert_eq!(outcome.effects.len(), 1);
                return;
            }
        }
        panic!("nobody wins");
    }
}
