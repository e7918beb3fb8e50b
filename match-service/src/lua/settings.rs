//! A mode's settings from its script's globals.

use asobi_proto::mode::{Bots, ModeSettings, Strategy, Teams};
use mlua::Value;

use super::{load::Problem, script::CALLBACKS, source::Source, vm::Vm};

/// Reads the globals, and collects every mistake instead of stopping at the first.
pub fn read(vm: &Vm, source: &Source, problems: &mut Vec<Problem>) -> ModeSettings {
    let mut reader = Reader { vm, source, problems };
    let defaults = ModeSettings::default();
    let match_size = reader.whole("match_size").unwrap_or_else(|| {
        if reader.vm.global("match_size").is_nil() {
            reader.complain("match_size", "is required: how many players form a match");
        }
        1
    });
    let settings = ModeSettings {
        match_size: narrow(match_size),
        max_players: reader.whole("max_players").map_or(narrow(match_size), narrow),
        min_players: reader.whole("min_players").map_or(narrow(match_size), narrow),
        relax_after_ms: reader.whole("relax_after_ms"),
        strategy: reader.strategy(),
        skill_window: reader.number("skill_window").unwrap_or(defaults.skill_window),
        skill_expand_rate: reader.number("skill_expand_rate").unwrap_or(defaults.skill_expand_rate),
        teams: reader.teams(),
        regions: reader.regions(),
        max_latency_ms: reader.whole("max_latency_ms").map(narrow),
        backfill: reader.boolean("backfill").unwrap_or(defaults.backfill),
        tick_rate: reader.whole("tick_rate").map_or(defaults.tick_rate, narrow),
        shared_state: reader.shared_state(),
        send_unchanged: reader.boolean("send_unchanged").unwrap_or(defaults.send_unchanged),
        listed: reader.boolean("listed").unwrap_or(defaults.listed),
        quick_play: reader.boolean("quick_play").unwrap_or(defaults.quick_play),
        player_ttl_ms: reader.whole("player_ttl_ms").unwrap_or(defaults.player_ttl_ms),
        max_wait_seconds: reader.whole("max_wait_seconds").map_or(defaults.max_wait_seconds, narrow),
        checkpoint_interval_ms: reader.whole("checkpoint_interval_ms").unwrap_or(defaults.checkpoint_interval_ms),
        bots: reader.bots(narrow(match_size)),
    };
    for (global, what) in settings.problems() {
        reader.complain(global, &what);
    }
    reader.callbacks();
    settings
}

const BOTS_SHAPE: &str =
    "must be { script = \"…\", fill_after_ms = …, max = … }, the last two whole numbers that may be left out";
/// What `fill_after_ms` is where a script does not say it.
const FILL_AFTER_MS: u64 = 5000;

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

    fn whole(&mut self, global: &str) -> Option<u64> {
        let value = self.vm.global(global);
        if value.is_nil() {
            return None;
        }
        let (low, high) = ModeSettings::bounds(global).unwrap_or((0, u64::MAX));
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

    fn teams(&mut self) -> Option<Teams> {
        let teams = match self.vm.global("teams") {
            Value::Nil => return None,
            Value::Table(teams) => {
                let read = |field: &str| teams.raw_get::<Value>(field).ok().as_ref().and_then(whole_u32);
                let alone = teams.pairs::<Value, Value>().count() == 2;
                read("count").zip(read("size")).filter(|_| alone)
            }
            _ => None,
        };
        if teams.is_none() {
            self.complain("teams", "must be { count = …, size = … }, both whole numbers");
        }
        teams.map(|(count, size)| Teams { count, size })
    }

    fn regions(&mut self) -> Vec<String> {
        let regions = match self.vm.global("regions") {
            Value::Nil => return Vec::new(),
            Value::Table(names) => {
                let list: Option<Vec<String>> = names
                    .sequence_values::<Value>()
                    .map(|name| match name {
                        Ok(Value::String(name)) => name.to_str().ok().map(|name| name.to_owned()),
                        _ => None,
                    })
                    .collect();
                let keys = names.pairs::<Value, Value>().count();
                list.filter(|list| !list.is_empty() && list.len() == keys)
            }
            _ => None,
        };
        regions.unwrap_or_else(|| {
            self.complain("regions", "must be a list of names, such as { \"eu\", \"us\" }");
            Vec::new()
        })
    }

    fn bots(&mut self, match_size: u32) -> Option<Bots> {
        let bots = match self.vm.global("bots") {
            Value::Nil => return None,
            Value::Table(bots) => bots,
            _ => {
                self.complain("bots", BOTS_SHAPE);
                return None;
            }
        };
        let field = |name: &str| bots.raw_get::<Value>(name).unwrap_or_default();
        let script = match field("script") {
            Value::String(script) => script.to_str().ok().map(|script| script.to_owned()),
            _ => None,
        };
        let known = bots.pairs::<Value, Value>().flatten().all(|(key, _)| {
            matches!(&key, Value::String(key) if matches!(&*key.as_bytes(), b"script" | b"fill_after_ms" | b"max"))
        });
        let whole = |value: Value, default: u64| match value {
            Value::Nil => Some(default),
            Value::Integer(n) => u64::try_from(n).ok(),
            _ => None,
        };
        let fill_after_ms = whole(field("fill_after_ms"), FILL_AFTER_MS);
        let max = whole(field("max"), u64::from(match_size.saturating_sub(1).max(1)));
        match (script, fill_after_ms, max) {
            (Some(script), Some(fill_after_ms), Some(max)) if known => {
                Some(Bots { script, fill_after_ms, max: narrow(max) })
            }
            _ => {
                self.complain("bots", BOTS_SHAPE);
                None
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

fn whole_u32(value: &Value) -> Option<u32> {
    match value {
        Value::Integer(n) => u32::try_from(*n).ok(),
        _ => None,
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
