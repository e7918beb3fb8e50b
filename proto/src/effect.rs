//! What a match does to the world outside, as `match_effects` rows hold it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Body of an effect of kind `score`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreEffect {
    pub board: String,
    pub player_id: Uuid,
    pub score: f64,
    #[serde(default)]
    pub sub_score: f64,
}
