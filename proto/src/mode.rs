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
    /// None: no bots.
    pub bots: Option<Bots>,
}

/// Players that the host itself plays, to fill a match that too few came to or because the game wishes for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bots {
    /// The script that thinks for them, relative to the folder of the mode's own.
    pub script: String,
    /// How long a match waits for people before bots take the seats that are missing, ms.
    pub fill_after_ms: u64,
    /// Bots in one match at the same time.
    pub max: u32,
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
            bots: None,
        }
    }
}

const DAY_MS: u64 = 86_400_000;
const MAX_BOTS: u32 = 1000;
/// Regions of one mode.
const REGIONS: usize = 32;
/// Bytes of a region's name, as of a node's.
const REGION_BYTES: usize = 63;

type Whole = (&'static str, u64, u64, fn(&ModeSettings) -> Option<u64>);

/// Settings that are whole numbers, each with its bounds, both included.
const WHOLE: [Whole; 9] = [
    ("match_size", 1, 1000, |s| Some(s.match_size.into())),
    ("max_players", 1, 1000, |s| Some(s.max_players.into())),
    ("min_players", 1, 1000, |s| Some(s.min_players.into())),
    ("relax_after_ms", 0, DAY_MS, |s| s.relax_after_ms),
    ("max_latency_ms", 1, 600_000, |s| s.max_latency_ms.map(u64::from)),
    ("tick_rate", 0, 120, |s| Some(s.tick_rate.into())),
    ("player_ttl_ms", 0, DAY_MS, |s| Some(s.player_ttl_ms)),
    ("max_wait_seconds", 1, DAY_MS / 1000, |s| Some(s.max_wait_seconds.into())),
    ("checkpoint_interval_ms", 10, DAY_MS, |s| Some(s.checkpoint_interval_ms)),
];

impl ModeSettings {
    /// The bounds of a setting that is a whole number, both included.
    #[must_use]
    pub fn bounds(name: &str) -> Option<(u64, u64)> {
        WHOLE.iter().find(|whole| whole.0 == name).map(|whole| (whole.1, whole.2))
    }

    /// What is wrong with these settings, alone or together: each setting's name and a sentence that goes on from it ("must be …").
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        for (name, low, high, read) in WHOLE {
            if read(self).is_some_and(|n| !(low..=high).contains(&n)) {
                problems.push((name, format!("must be a whole number from {low} to {high}")));
            }
        }
        for (name, number) in [("skill_window", self.skill_window), ("skill_expand_rate", self.skill_expand_rate)] {
            if !number.is_finite() || number < 0.0 {
                problems.push((name, "must be a number of at least 0".into()));
            }
        }
        if self.max_players < self.match_size {
            problems.push(("max_players", "must be at least match_size".into()));
        }
        if self.min_players > self.max_players {
            problems.push(("min_players", "must be at most max_players".into()));
        }
        if let Some(Teams { count, size }) = self.teams {
            if count < 2 || size < 1 {
                problems.push(("teams", "must have a count of at least 2 and a size of at least 1".into()));
            } else if u64::from(count) * u64::from(size) != u64::from(self.match_size) {
                problems.push(("teams", "must have a count and a size that make match_size when multiplied".into()));
            }
        }
        if let Some(bots) = &self.bots {
            if bots.fill_after_ms > DAY_MS {
                problems.push(("bots", format!("must have a fill_after_ms from 0 to {DAY_MS}")));
            }
            if !(1..=MAX_BOTS).contains(&bots.max) {
                problems.push(("bots", format!("must have a max from 1 to {MAX_BOTS}")));
            }
        }
        let named = |name: &String| (1..=REGION_BYTES).contains(&name.len()) && !name.contains(char::is_control);
        let twice = self.regions.iter().enumerate().any(|(n, name)| self.regions[..n].contains(name));
        if self.regions.len() > REGIONS || twice || !self.regions.iter().all(named) {
            problems
                .push(("regions", format!("must be at most {REGIONS} different names of 1 to {REGION_BYTES} bytes")));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(settings: &ModeSettings) -> Vec<&'static str> {
        settings.problems().into_iter().map(|problem| problem.0).collect()
    }

    #[test]
    fn settings_make_sense_alone_and_together() {
        let right = ModeSettings::default();
        assert!(wrong(&right).is_empty());
        let teams = |count, size| ModeSettings { teams: Some(Teams { count, size }), ..right.clone() };
        assert!(wrong(&teams(2, 1)).is_empty());
        assert_eq!(wrong(&teams(2, 2)), ["teams"]);
        assert_eq!(wrong(&teams(1, 2)), ["teams"]);
        assert_eq!(wrong(&teams(u32::MAX, u32::MAX)), ["teams"]);
        assert_eq!(wrong(&ModeSettings { match_size: 3, ..right.clone() }), ["max_players"]);
        assert_eq!(wrong(&ModeSettings { min_players: 3, ..right.clone() }), ["min_players"]);
        assert_eq!(wrong(&ModeSettings { max_latency_ms: Some(0), ..right.clone() }), ["max_latency_ms"]);
        assert_eq!(wrong(&ModeSettings { skill_window: f64::NAN, ..right.clone() }), ["skill_window"]);
        let regions = |names: &[&str]| ModeSettings {
            regions: names.iter().map(|name| (*name).to_owned()).collect(),
            ..ModeSettings::default()
        };
        assert!(wrong(&regions(&["eu", "us"])).is_empty());
        assert_eq!(wrong(&regions(&["eu", "eu"])), ["regions"]);
        assert_eq!(wrong(&regions(&[""])), ["regions"]);
        let bots = |fill_after_ms, max| ModeSettings {
            bots: Some(Bots { script: "ai.lua".into(), fill_after_ms, max }),
            ..ModeSettings::default()
        };
        assert!(wrong(&bots(0, 1)).is_empty());
        assert!(wrong(&bots(DAY_MS, 1000)).is_empty());
        assert_eq!(wrong(&bots(DAY_MS + 1, 0)), ["bots", "bots"]);
        assert_eq!(wrong(&bots(0, 1001)), ["bots"]);
    }

    #[test]
    fn settings_of_another_release_are_read() {
        let older: ModeSettings = serde_json::from_str(r#"{"match_size":3,"of_the_next_release":1}"#).expect("reads");
        assert_eq!(older, ModeSettings { match_size: 3, ..ModeSettings::default() });
    }
}
