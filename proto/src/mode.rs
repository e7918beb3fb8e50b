//! A mode's settings as its hosts announce them; the same names as the script's globals.

use serde::{Deserialize, Serialize};

/// Unknown fields are ignored and missing ones take their defaults, so that hosts of two releases can announce one mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModeSettings {
    /// Players that form a match, at least 1.
    pub match_size: u32,
    /// Seats.
    pub max_players: u32,
    /// Players before ticking starts.
    pub min_players: u32,
    /// When `min_players` will do, ms of the oldest ticket's wait; none: never.
    pub relax_after_ms: Option<u64>,
    pub strategy: Strategy,
    pub skill_window: f64,
    pub skill_expand_rate: f64,
    /// Ticks per second, 0: turn-based.
    pub tick_rate: u32,
    /// One state for all players instead of one each.
    pub shared_state: bool,
    /// Whether a state equal to the last one is sent again.
    pub send_unchanged: bool,
    pub listed: bool,
    pub quick_play: bool,
    /// How long a seat waits for a player without a connection, ms.
    pub player_ttl_ms: u64,
    pub max_wait_seconds: u32,
    pub checkpoint_interval_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    Fill,
    SkillBased,
    Query,
}

impl Default for ModeSettings {
    fn default() -> Self {
        Self {
            match_size: 2,
            max_players: 2,
            min_players: 2,
            relax_after_ms: None,
            strategy: Strategy::Fill,
            skill_window: 200.0,
            skill_expand_rate: 50.0,
            tick_rate: 10,
            shared_state: false,
            send_unchanged: true,
            listed: false,
            quick_play: false,
            player_ttl_ms: 30_000,
            max_wait_seconds: 60,
            checkpoint_interval_ms: 1_000,
        }
    }
}
