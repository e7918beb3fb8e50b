//! What a script wishes for: players, bots, a closed door, a call later.

use std::{rc::Rc, time::Duration};

use mlua::{Lua, Table, Value};

use super::{Answer, MAX_PAYLOAD, World, done, number, text, whole, wrong};
use crate::game::{Backfill, BotWish, MAX_PER_CALLBACK, Timer};

/// Largest properties of a wish for players, bytes of JSON; as of a ticket.
const MAX_PROPERTIES: usize = 4 * 1024;
const MAX_TIMER: Duration = Duration::from_secs(24 * 3600);
/// Bytes of a bot's name, and of its id.
const BOT_NAME: usize = 32;
const BOT_ID: usize = 64;

impl World {
    pub(super) fn install_wishes(self: &Rc<Self>, lua: &Lua, game: &Table) -> mlua::Result<()> {
        self.add(lua, game, "after", Self::after)?;
        let matches = lua.create_table()?;
        self.add(lua, &matches, "set_joinable", Self::set_joinable)?;
        self.add(lua, &matches, "request_backfill", Self::request_backfill)?;
        matches.set_readonly(true);
        game.raw_set("match", matches)?;
        let bots = lua.create_table()?;
        self.add(lua, &bots, "add", |world, lua, args| {
            let well_formed = |name: &String| {
                (1..=BOT_NAME).contains(&name.len())
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            };
            match args.first().and_then(text).filter(well_formed) {
                Some(name) => world.bot_wish(lua, BotWish::Add(name)),
                None => wrong(lua, &format!("a bot's name is 1 to {BOT_NAME} of A-Za-z0-9_-")),
            }
        })?;
        self.add(lua, &bots, "remove", |world, lua, args| {
            let well_formed = |name: &String| (1..=BOT_ID).contains(&name.len()) && !name.contains(char::is_control);
            match args.first().and_then(text).filter(well_formed) {
                Some(name) => world.bot_wish(lua, BotWish::Remove(name)),
                None => wrong(lua, "remove takes a bot's name or its id"),
            }
        })?;
        bots.set_readonly(true);
        game.raw_set("bots", bots)
    }

    fn bot_wish(&self, lua: &Lua, wish: BotWish) -> Answer {
        if !self.has_bots.get() {
            return wrong(lua, "the mode does not set bots");
        }
        let mut outcome = self.outcome.borrow_mut();
        if outcome.bots.len() >= MAX_PER_CALLBACK {
            return wrong(lua, "too many wishes about bots in one callback");
        }
        outcome.bots.push(wish);
        done()
    }

    fn set_joinable(&self, lua: &Lua, args: &[Value]) -> Answer {
        let Some(Value::Boolean(joinable)) = args.first() else {
            return wrong(lua, "set_joinable takes true or false");
        };
        self.outcome.borrow_mut().joinable = Some(*joinable);
        Ok(Value::Boolean(true))
    }

    fn request_backfill(&self, lua: &Lua, args: &[Value]) -> Answer {
        let Some(seats) = self.backfill_seats.get() else {
            return wrong(lua, "the mode does not set backfill = true");
        };
        let Some(wanted) = args.first().and_then(whole).and_then(|n| u32::try_from(n).ok()) else {
            return wrong(lua, "request_backfill takes a whole number of players");
        };
        let taken = u32::try_from(self.players.borrow().len()).unwrap_or(u32::MAX);
        if wanted > seats.saturating_sub(taken) {
            return wrong(lua, "the match has fewer free seats than that");
        }
        let properties = match self.object(args.get(1), MAX_PROPERTIES) {
            Ok(json) => json,
            Err(problem) => return wrong(lua, &format!("the properties {problem}")),
        };
        self.outcome.borrow_mut().backfill = Some(Backfill { wanted, properties });
        Ok(Value::Boolean(true))
    }

    fn after(&self, lua: &Lua, args: &[Value]) -> Answer {
        let after = args
            .first()
            .and_then(number)
            .filter(|ms| *ms >= 0.0)
            .and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok())
            .filter(|after| *after <= MAX_TIMER);
        let Some(after) = after else {
            return wrong(lua, "the time must be milliseconds, at most a day");
        };
        let Some(name) = args.get(1).and_then(text).filter(|name| name.len() <= 64) else {
            return wrong(lua, "the timer's name must be a string of at most 64 bytes");
        };
        let data = match args.get(2) {
            None | Some(Value::Nil) => None,
            Some(value) => match self.json(value, MAX_PAYLOAD) {
                Ok(json) => Some(json),
                Err(error) => return wrong(lua, &error.to_string()),
            },
        };
        let mut outcome = self.outcome.borrow_mut();
        if outcome.timers.len() >= MAX_PER_CALLBACK {
            return wrong(lua, "too many timers in one callback");
        }
        outcome.timers.push(Timer { after, name, data });
        Ok(Value::Boolean(true))
    }
}
