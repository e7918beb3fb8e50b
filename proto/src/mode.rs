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
    /// The largest difference in skill of two who are matched at once.
    pub skill_window: f64,
    /// By how much the window grows in five seconds of waiting, continuously.
    pub skill_expand_rate: f64,
    /// None: everybody for themselves.
    pub teams: Option<Teams>,
    /// Where its matches may run; empty: anywhere.
    pub regions: Vec<String>,
    /// The worst round trip a player may have to the match's region; none: no bound.
    pub max_latency_ms: Option<u32>,
    /// Whether running matches may ask the queue for players.
    pub backfill: bool,
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

/// Teams of one match: `count` times `size` players make the full match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Teams {
    pub count: u32,
    pub size: u32,
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
            teams: None,
            regions: Vec::new(),
            max_latency_ms: None,
            backfill: false,
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
