//! What a match does to the world outside, as `match_effects` rows hold it: a kind and a body.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// One effect, of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum EffectBody {
    Score(ScoreEffect),
    Notify(NotifyEffect),
    Chat(ChatEffect),
    Store(StoreEffect),
    Board(BoardEffect),
}

/// Body of an effect of kind `score`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreEffect {
    pub board: String,
    pub player_id: Uuid,
    pub score: f64,
    #[serde(default)]
    pub sub_score: f64,
}

/// Body of an effect of kind `notify`: one notification for each of the players.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotifyEffect {
    pub player_ids: Vec<Uuid>,
    #[serde(rename = "type")]
    pub kind: String,
    pub subject: String,
    /// The notification's `content`, a JSON object.
    #[serde(default)]
    pub content: Value,
}

/// Body of an effect of kind `chat`: a message in a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatEffect {
    pub channel_id: String,
    pub sender_id: Uuid,
    pub content: String,
}

/// Body of an effect of kind `store`: a value of the game's own storage, or of a player's. Applied in the very transaction that writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreEffect {
    pub collection: String,
    pub key: String,
    /// None: the game's own.
    #[serde(default)]
    pub player_id: Option<Uuid>,
    /// Null removes it.
    pub value: Value,
}

/// Body of an effect of kind `board`: a leaderboard that is to be there, if there is none of that id yet. What is not said is as for a board
/// that its first score makes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BoardEffect {
    #[serde(default)]
    pub board: String,
    /// `high` or `low`: which scores are first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// `best`, `last` or `sum`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// A cron pattern of five fields, in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_score: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_score: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub periods_kept: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
}

impl EffectBody {
    /// As the row's `kind` says it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Score(_) => "score",
            Self::Notify(_) => "notify",
            Self::Chat(_) => "chat",
            Self::Store(_) => "store",
            Self::Board(_) => "board",
        }
    }

    /// The row's `body`.
    ///
    /// # Errors
    /// A number that JSON does not know.
    pub fn to_json(&self) -> serde_json::Result<Value> {
        match self {
            Self::Score(body) => serde_json::to_value(body),
            Self::Notify(body) => serde_json::to_value(body),
            Self::Chat(body) => serde_json::to_value(body),
            Self::Store(body) => serde_json::to_value(body),
            Self::Board(body) => serde_json::to_value(body),
        }
    }

    /// Reads a row; none: this release does not know the kind.
    ///
    /// # Errors
    /// The body is not one of its kind.
    pub fn read(kind: &str, body: &Value) -> serde_json::Result<Option<Self>> {
        Ok(Some(match kind {
            "score" => Self::Score(Deserialize::deserialize(body)?),
            "notify" => Self::Notify(Deserialize::deserialize(body)?),
            "chat" => Self::Chat(Deserialize::deserialize(body)?),
            "store" => Self::Store(Deserialize::deserialize(body)?),
            "board" => Self::Board(Deserialize::deserialize(body)?),
            _ => return Ok(None),
        }))
    }
}
