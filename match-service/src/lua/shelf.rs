//! Other services for a match that plays alone, in a terminal or on trial: they know what it has told them itself.

use std::collections::{BTreeMap, HashMap};

use asobi_proto::effect::{EffectBody, ScoreEffect};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::game::{Ask, AskError, Outside};

type Place = (Option<Uuid>, String, String);

/// Storage and boards of one match; empty at first. On a board each player's best score counts.
#[derive(Default)]
pub struct Shelf {
    stored: Mutex<HashMap<Place, Value>>,
    boards: Mutex<BTreeMap<String, Vec<ScoreEffect>>>,
}

impl Shelf {
    /// An effect has happened.
    pub fn take(&self, effect: &EffectBody) {
        match effect {
            EffectBody::Store(store) => {
                let place = (store.player_id, store.collection.clone(), store.key.clone());
                self.stored.lock().insert(place, store.value.clone());
            }
            EffectBody::Score(score) => {
                let mut boards = self.boards.lock();
                let board = boards.entry(score.board.clone()).or_default();
                board.push(score.clone());
                board.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.sub_score.total_cmp(&a.sub_score)));
                let mut seen = Vec::new();
                board.retain(|entry| {
                    let first = !seen.contains(&entry.player_id);
                    seen.push(entry.player_id);
                    first
                });
            }
            EffectBody::Notify(_) | EffectBody::Chat(_) | EffectBody::Board(_) => {}
        }
    }

    fn entries(&self, board: &str) -> Vec<(Uuid, Value)> {
        let boards = self.boards.lock();
        let entries = boards.get(board).map(Vec::as_slice).unwrap_or_default();
        let entry = |(index, entry): (usize, &ScoreEffect)| {
            let shown = json!({
                "rank": index + 1, "player_id": entry.player_id, "score": entry.score, "sub_score": entry.sub_score,
            });
            (entry.player_id, shown)
        };
        entries.iter().enumerate().map(entry).collect()
    }
}

#[async_trait]
impl Outside for Shelf {
    async fn ask(&self, ask: Ask) -> Result<String, AskError> {
        let values = |entries: Vec<(Uuid, Value)>| Value::Array(entries.into_iter().map(|entry| entry.1).collect());
        let answer = match ask {
            Ask::Stored { collection, key, player } => {
                self.stored.lock().get(&(player, collection, key)).cloned().unwrap_or_default()
            }
            Ask::Top { board, n } => {
                let mut entries = self.entries(&board);
                entries.truncate(n as usize);
                values(entries)
            }
            Ask::Rank { board, player } => self
                .entries(&board)
                .into_iter()
                .find(|entry| entry.0 == player)
                .map(|entry| entry.1)
                .unwrap_or_default(),
            Ask::Around { board, player, n } => {
                let entries = self.entries(&board);
                let near = entries.iter().position(|entry| entry.0 == player).map(|at| {
                    let n = n as usize;
                    entries[at.saturating_sub(n / 2)..].iter().take(n).cloned().collect()
                });
                values(near.unwrap_or_default())
            }
        };
        Ok(answer.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(n: u128, score: f64) -> EffectBody {
        EffectBody::Score(ScoreEffect { board: "b".into(), player_id: Uuid::from_u128(n), score, sub_score: 0.0 })
    }

    #[tokio::test]
    async fn what_was_said_is_answered() {
        let shelf = Shelf::default();
        let ask = async |ask| serde_json::from_str::<Value>(&shelf.ask(ask).await.expect("answers")).expect("JSON");
        let player = Uuid::from_u128(1);
        assert_eq!(ask(Ask::Rank { board: "b".into(), player }).await, Value::Null);
        for effect in [score(1, 3.0), score(2, 5.0), score(3, 4.0), score(1, 2.0)] {
            shelf.take(&effect);
        }
        assert_eq!(ask(Ask::Rank { board: "b".into(), player }).await["rank"], 3);
        assert_eq!(ask(Ask::Top { board: "b".into(), n: 2 }).await.as_array().map(Vec::len), Some(2));
        assert_eq!(ask(Ask::Around { board: "b".into(), player, n: 3 }).await[0]["score"], 4.0);
    }
}
