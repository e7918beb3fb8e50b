//! What a script says: to players, to the log, in a channel, by notification.

use std::time::{Duration, Instant};

use asobi_proto::effect::{ChatEffect, EffectBody, NotifyEffect};
use asobi_service_kit::telemetry::SCRIPT;
use mlua::{Lua, Table, Value};
use uuid::Uuid;

use super::{Answer, MAX_PAYLOAD, TOO_MANY, Who, World, done, shortened, stored, text, wrapped, wrong};
use crate::game::{MAX_PER_CALLBACK, Push};

const LOG_LINES_PER_SECOND: u32 = 30;
const LOG_MESSAGE: usize = 500;
const LOG_META: usize = 2048;
/// Bytes of a notification's type, subject and data.
const TYPE: usize = 64;
const SUBJECT: usize = 256;
const DATA: usize = 4 * 1024;
/// Players one call may notify.
const NOTIFIED: usize = 1000;
/// Bytes of a channel's id and of a message.
const CHANNEL: usize = 200;
const CONTENT: usize = 2000;

/// Events a script must not broadcast: the protocol's own `match.*` frames.
const RESERVED: [&str; 17] = [
    "ack",
    "finished",
    "joined",
    "left",
    "list",
    "matched",
    "matchmaker_expired",
    "matchmaker_failed",
    "migrate",
    "phase_changed",
    "state",
    "terrain",
    "tick",
    "vote_result",
    "vote_start",
    "vote_tally",
    "vote_vetoed",
];

impl World {
    pub(super) fn install_talk(self: &std::rc::Rc<Self>, lua: &Lua, game: &Table) -> mlua::Result<()> {
        self.add(lua, game, "log", Self::log)?;
        self.add(lua, game, "broadcast", Self::broadcast)?;
        self.add(lua, game, "send", Self::send)?;
        self.add(lua, game, "notify", |world, lua, args| match args.first().and_then(|id| world.who(id)) {
            Some(who) => world.notify(lua, &[who], &args[1..]),
            None => wrong(lua, "the first argument must be a player id"),
        })?;
        self.add(lua, game, "notify_many", |world, lua, args| match args.first() {
            Some(Value::Table(ids)) if ids.raw_len() <= NOTIFIED => {
                let ids = ids.sequence_values::<Value>().filter_map(Result::ok);
                let whos: Vec<Who> = ids.filter_map(|id| world.who(&id)).collect();
                world.notify(lua, &whos, &args[1..])
            }
            _ => wrong(lua, &format!("the first argument must be a list of at most {NOTIFIED} player ids")),
        })?;
        let chat = lua.create_table()?;
        self.add(lua, &chat, "send", Self::chat)?;
        chat.set_readonly(true);
        game.raw_set("chat", chat)
    }

    fn broadcast(&self, lua: &Lua, args: &[Value]) -> Answer {
        let Some(event) = args.first().and_then(text) else {
            return wrong(lua, "the event must be a string");
        };
        let well_formed = (1..=64).contains(&event.len())
            && event.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !well_formed {
            return wrong(lua, "an event is 1 to 64 of A-Za-z0-9_-");
        }
        if RESERVED.contains(&event.as_str()) {
            return wrong(lua, &format!("`{event}` is a reserved event"));
        }
        let payload = match args.get(1) {
            None | Some(Value::Nil) => "{}".to_owned(),
            Some(value @ Value::Table(_)) => match self.json(value, MAX_PAYLOAD) {
                Ok(json) => json,
                Err(error) => return wrong(lua, &error.to_string()),
            },
            Some(_) => return wrong(lua, "the payload must be a table"),
        };
        self.push(lua, Push::Broadcast { event, payload })
    }

    fn send(&self, lua: &Lua, args: &[Value]) -> Answer {
        let who = args.first().and_then(|id| self.who(id));
        let known = match who {
            None => return wrong(lua, "the first argument must be a player id"),
            Some(Who::Player(player)) => self.players.borrow().contains(&player),
            Some(Who::Bot) => true,
        };
        if !known {
            return wrong(lua, "no such player in this match");
        }
        let message = match self.json(args.get(1).unwrap_or(&Value::Nil), MAX_PAYLOAD) {
            Ok(json) => json,
            Err(error) => return wrong(lua, &error.to_string()),
        };
        match who {
            Some(Who::Player(player)) => self.push(lua, Push::Message { player, message }),
            // Nobody reads it.
            _ => done(),
        }
    }

    fn push(&self, lua: &Lua, push: Push) -> Answer {
        let mut outcome = self.outcome.borrow_mut();
        if outcome.pushes.len() >= MAX_PER_CALLBACK {
            return wrong(lua, "too many messages in one callback");
        }
        outcome.pushes.push(push);
        done()
    }

    fn log(&self, lua: &Lua, args: &[Value]) -> Answer {
        let Some(level) = args.first().and_then(text) else {
            return wrong(lua, "the level must be debug, info, warn or error");
        };
        let Some(message) = args.get(1).and_then(text) else {
            return wrong(lua, "the message must be a string");
        };
        let meta = match args.get(2) {
            None | Some(Value::Nil) => None,
            Some(value) => Some(match self.json(value, LOG_META) {
                Ok(json) => json,
                Err(_) => r#"{"_truncated":true}"#.to_owned(),
            }),
        };
        if !matches!(level.as_str(), "debug" | "info" | "warn" | "warning" | "error") {
            return wrong(lua, "the level must be debug, info, warn or error");
        }
        if !self.may_log() {
            return Ok(Value::Boolean(false));
        }
        let message = shortened(&message, LOG_MESSAGE);
        let (mode, id, meta) = (&self.mode, self.match_id, meta.unwrap_or_default());
        match level.as_str() {
            "error" => {
                tracing::error!(target: SCRIPT, { game.mode = mode, game.match_id = %id, meta }, "{message}");
            }
            "warn" | "warning" => {
                tracing::warn!(target: SCRIPT, { game.mode = mode, game.match_id = %id, meta }, "{message}");
            }
            "info" => {
                tracing::info!(target: SCRIPT, { game.mode = mode, game.match_id = %id, meta }, "{message}");
            }
            _ => {
                tracing::debug!(target: SCRIPT, { game.mode = mode, game.match_id = %id, meta }, "{message}");
            }
        }
        Ok(Value::Boolean(true))
    }

    fn may_log(&self) -> bool {
        if self.repeated.get().is_some() {
            return false;
        }
        let now = Instant::now();
        let fresh = self.log_window.get().is_none_or(|since| now.duration_since(since) >= Duration::from_secs(1));
        if fresh {
            self.log_window.set(Some(now));
            self.log_lines.set(0);
        }
        let lines = self.log_lines.get();
        self.log_lines.set(lines.saturating_add(1));
        lines < LOG_LINES_PER_SECOND
    }

    /// Answers the ids of those who will be notified: bots are not.
    fn notify(&self, lua: &Lua, whos: &[Who], args: &[Value]) -> Answer {
        let Some(kind) = args.first().and_then(text).filter(|kind| stored(kind, 1..=TYPE)) else {
            return wrong(lua, &format!("the type must be a string of 1 to {TYPE} bytes"));
        };
        let Some(subject) = args.get(1).and_then(text).filter(|subject| stored(subject, 0..=SUBJECT)) else {
            return wrong(lua, &format!("the subject must be a string of at most {SUBJECT} bytes"));
        };
        let content = match self.object(args.get(2), DATA) {
            Ok(json) => match serde_json::from_str(&json) {
                Ok(content) => content,
                Err(error) => return wrong(lua, &error.to_string()),
            },
            Err(problem) => return wrong(lua, &format!("the data {problem}")),
        };
        let mut player_ids: Vec<Uuid> = Vec::new();
        for who in whos {
            if let Who::Player(player) = who
                && !player_ids.contains(player)
            {
                player_ids.push(*player);
            }
        }
        let reached = lua.create_table()?;
        for player in &player_ids {
            reached.raw_push(player.hyphenated().to_string())?;
        }
        if player_ids.is_empty() {
            reached.set_metatable(Some(self.array_marker.clone()))?;
        } else if !self.effect(EffectBody::Notify(NotifyEffect { player_ids, kind, subject, content })) {
            return wrong(lua, TOO_MANY);
        }
        wrapped(lua, Value::Table(reached))
    }

    fn chat(&self, lua: &Lua, args: &[Value]) -> Answer {
        let well_formed = |id: &String| {
            stored(id, 1..=CHANNEL)
                && id.split_once(':').is_some_and(|(scheme, name)| !scheme.is_empty() && !name.is_empty())
        };
        let Some(channel_id) = args.first().and_then(text).filter(well_formed) else {
            return wrong(lua, &format!("a channel's id is scheme:name, at most {CHANNEL} bytes"));
        };
        let sender_id = match args.get(1).and_then(|id| self.who(id)) {
            Some(Who::Player(player)) => player,
            Some(Who::Bot) => return wrong(lua, "a bot sends no chat messages"),
            None => return wrong(lua, "the second argument must be a player id"),
        };
        let Some(content) = args.get(2).and_then(text).filter(|content| stored(content, 1..=CONTENT)) else {
            return wrong(lua, &format!("the content must be a string of 1 to {CONTENT} bytes"));
        };
        if self.effect(EffectBody::Chat(ChatEffect { channel_id, sender_id, content })) {
            done()
        } else {
            wrong(lua, TOO_MANY)
        }
    }
}
