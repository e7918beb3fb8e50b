//! A mode's settings from its script's globals.

use asobi_proto::mode::{ModeSettings, Strategy};
use mlua::Value;

use super::{load::Problem, script::CALLBACKS, source::Source, vm::Vm};

/// Reads the globals, and collects every mistake instead of stopping at the first.
pub fn read(vm: &Vm, source: &Source, problems: &mut Vec<Problem>) -> ModeSettings {
    let mut reader = Reader { vm, source, problems };
    let defaults = ModeSettings::default();
    let match_size = reader.whole("match_size", 1, 1000).unwrap_or_else(|| {
        if reader.vm.global("match_size").is_nil() {
            reader.complain("match_size", "is required: how many players form a match");
        }
        1
    });
    let max_players = reader.whole("max_players", 1, 1000).unwrap_or(match_size);
    let min_players = reader.whole("min_players", 1, 1000).unwrap_or(match_size);
    if max_players < match_size {
        reader.complain("max_players", "must be at least match_size");
    }
    if min_players > max_players {
        reader.complain("min_players", "must be at most max_players");
    }
    let settings = ModeSettings {
        match_size: narrow(match_size),
        max_players: narrow(max_players),
        min_players: narrow(min_players),
        relax_after_ms: reader.whole("relax_after_ms", 0, DAY_MS),
        strategy: reader.strategy(),
        skill_window: reader.number("skill_window").unwrap_or(defaults.skill_window),
        skill_expand_rate: reader.number("skill_expand_rate").unwrap_or(defaults.skill_expand_rate),
        tick_rate: reader.whole("tick_rate", 0, 120).map_or(defaults.tick_rate, narrow),
        shared_state: reader.shared_state(),
        send_unchanged: reader.boolean("send_unchanged").unwrap_or(defaults.send_unchanged),
        listed: reader.boolean("listed").unwrap_or(defaults.listed),
        quick_play: reader.boolean("quick_play").unwrap_or(defaults.quick_play),
        player_ttl_ms: reader.whole("player_ttl_ms", 0, DAY_MS).unwrap_or(defaults.player_ttl_ms),
        max_wait_seconds: reader.whole("max_wait_seconds", 1, DAY_MS / 1000).map_or(defaults.max_wait_seconds, narrow),
        checkpoint_interval_ms: reader
            .whole("checkpoint_interval_ms", 10, DAY_MS)
            .unwrap_or(defaults.checkpoint_interval_ms),
        ..defaults
    };
    reader.later();
    reader.callbacks();
    settings
}

const DAY_MS: u64 = 86_400_000;

fn narrow(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

struct Reader<'a> {
    vm: &'a Vm,
    source: &'a Source,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn complain(&mut self, global: &str, what: &str) {
        self.problems.push(Problem {
            file: self.source.name.clone(),
            line: line_of(&self.source.text, global),
            message: format!("{global} {what}"),
        });
    }

    fn whole(&mut self, global: &str, low: u64, high: u64) -> Option<u64> {
        let value = self.vm.global(global);
        if value.is_nil() {
            return None;
        }
        let number = match value {
            Value::Integer(n) => u64::try_from(n).ok().filter(|n| (low..=high).contains(n)),
            _ => None,
        };
        if number.is_none() {
            self.complain(global, &format!("must be a whole number from {low} to {high}"));
        }
        number
    }

    #[expect(clippy::cast_precision_loss, reason = "Lua's numbers are doubles")]
    fn number(&mut self, global: &str) -> Option<f64> {
        let number = match self.vm.global(global) {
            Value::Nil => return None,
            Value::Integer(n) => n as f64,
            Value::Number(n) => n,
            _ => f64::NAN,
        };
        if number.is_finite() && number >= 0.0 {
            return Some(number);
        }
        self.complain(global, "must be a number of at least 0");
        None
    }

    fn boolean(&mut self, global: &str) -> Option<bool> {
        match self.vm.global(global) {
            Value::Nil => None,
            Value::Boolean(value) => Some(value),
            _ => {
                self.complain(global, "must be true or false");
                None
            }
        }
    }

    fn strategy(&mut self) -> Strategy {
        match self.vm.global("strategy") {
            Value::Nil => return Strategy::Fill,
            Value::String(name) => match &*name.as_bytes() {
                b"fill" => return Strategy::Fill,
                b"skill_based" => return Strategy::SkillBased,
                b"query" => return Strategy::Query,
                _ => {}
            },
            _ => {}
        }
        self.complain("strategy", "must be \"fill\", \"skill_based\" or \"query\"");
        Strategy::Fill
    }

    fn shared_state(&mut self) -> bool {
        match self.vm.global("state_strategy") {
            Value::Nil => return false,
            Value::String(name) => match &*name.as_bytes() {
                b"shared" => return true,
                b"per_player" => return false,
                _ => {}
            },
            _ => {}
        }
        self.complain("state_strategy", "must be \"shared\" or \"per_player\"");
        false
    }

    /// Globals of the contract that this release does not act on yet.
    fn later(&self) {
        for global in ["teams", "regions", "max_latency_ms", "backfill", "bots"] {
            let value = self.vm.global(global);
            if !matches!(value, Value::Nil | Value::Boolean(false)) {
                tracing::warn!(
                    script.file = self.source.name,
                    "the script sets {global}, which this release does not act on yet"
                );
            }
        }
    }

    fn callbacks(&mut self) {
        let mut any = false;
        for callback in CALLBACKS {
            match self.vm.global(callback) {
                Value::Nil => {}
                Value::Function(_) => any = true,
                _ => self.complain(callback, "must be a function"),
            }
        }
        if !any {
            self.problems.push(Problem {
                file: self.source.name.clone(),
                line: None,
                message: "defines none of a match's callbacks (init, join, tick, …)".into(),
            });
        }
    }
}

/// The line on which a global is set, for messages.
pub(super) fn line_of(text: &str, global: &str) -> Option<u32> {
    let sets = |line: &str| {
        let line = line.trim_start();
        let line = line.strip_prefix("function ").unwrap_or(line);
        line.strip_prefix(global).is_some_and(|rest| rest.trim_start().starts_with(['=', '(']))
    };
    let index = text.lines().position(sets)?;
    u32::try_from(index + 1).ok()
}
