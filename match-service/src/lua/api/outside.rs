//! What a script asks other services and stores there: boards and values.
//!
//! Questions go out by the prelude: a function here answers at once, or leaves its question in [`World::asked`] and answers nothing, and then the
//! callback is suspended until the host has the answer.

use std::{ops::RangeInclusive, rc::Rc};

use asobi_proto::effect::{BoardEffect, EffectBody, ScoreEffect, StoreEffect};
use mlua::{Function, Lua, Table, Value};
use uuid::Uuid;

use super::{Answer, TOO_MANY, Who, World, number, stored, text, whole, wrapped, wrong};
use crate::{game::Ask, lua::decode::decode};

/// Bytes of a board's id.
const BOARD: RangeInclusive<usize> = 1..=128;
const COLLECTION: RangeInclusive<usize> = 1..=64;
const KEY: RangeInclusive<usize> = 1..=128;
/// Settings of a board, bytes of JSON.
const SETTINGS: usize = 4 * 1024;
const SETTINGS_NAMES: [&str; 7] = ["order", "operator", "reset", "min_score", "max_score", "periods_kept", "title"];
/// Largest stored value, bytes of JSON.
const VALUE: usize = 64 * 1024;
/// Entries one question may ask for.
const ENTRIES: RangeInclusive<i64> = 1..=100;
/// Questions of one callback: its match waits for each.
pub const QUESTIONS: u32 = 32;

/// Where a value is: the owner (none: the game), the collection, the key.
type Place = (Option<Uuid>, String, String);

impl World {
    /// `asking` makes a function that waits for an answer out of one that only puts the question.
    pub(super) fn install_outside(self: &Rc<Self>, lua: &Lua, game: &Table, asking: &Function) -> mlua::Result<()> {
        let asks = |table: &Table, name: &str, put: fn(&Self, &Lua, &[Value]) -> Answer| {
            self.add(lua, table, name, put)?;
            let waiting: Function = asking.call(table.raw_get::<Function>(name)?)?;
            table.raw_set(name, waiting)
        };
        let boards = lua.create_table()?;
        self.add(lua, &boards, "submit", Self::submit)?;
        self.add(lua, &boards, "create", Self::create)?;
        asks(&boards, "top", Self::top)?;
        asks(&boards, "rank", Self::rank)?;
        asks(&boards, "around", Self::around)?;
        boards.set_readonly(true);
        game.raw_set("leaderboard", boards)?;
        let storage = lua.create_table()?;
        self.add(lua, &storage, "set", |world, lua, args| world.set(lua, Self::own(args), args.get(2)))?;
        self.add(lua, &storage, "player_set", |world, lua, args| world.set(lua, world.owned(args), args.get(3)))?;
        asks(&storage, "get", |world, lua, args| world.get(lua, Self::own(args)))?;
        asks(&storage, "player_get", |world, lua, args| world.get(lua, world.owned(args)))?;
        storage.set_readonly(true);
        game.raw_set("storage", storage)
    }

    fn put(&self, lua: &Lua, ask: Ask) -> Answer {
        // The repeated callback did not ask; if it does now, it is not the one that went well.
        if self.repeated.get().is_some() {
            return wrong(lua, "unavailable");
        }
        let questions = self.questions.get();
        if questions >= QUESTIONS {
            return wrong(lua, "too many questions in one callback");
        }
        self.questions.set(questions + 1);
        self.asked.replace(Some(ask));
        Ok(Value::Nil)
    }

    fn submit(&self, lua: &Lua, args: &[Value]) -> Answer {
        let board = match board(args) {
            Ok(board) => board,
            Err(problem) => return wrong(lua, problem),
        };
        let Some(who) = args.get(1).and_then(|id| self.who(id)) else {
            return wrong(lua, NO_PLAYER);
        };
        let Some(score) = args.get(2).and_then(number) else {
            return wrong(lua, "the score must be a number");
        };
        let sub_score = match args.get(3) {
            None | Some(Value::Nil) => 0.0,
            Some(value) => match number(value) {
                Some(sub_score) => sub_score,
                None => return wrong(lua, "the sub-score must be a number"),
            },
        };
        Ok(Value::Boolean(match who {
            Who::Player(player_id) => {
                self.effect(EffectBody::Score(ScoreEffect { board, player_id, score, sub_score }))
            }
            // Boards are the players'.
            Who::Bot => true,
        }))
    }

    /// A board that is to be there; one that is stays as it is.
    fn create(&self, lua: &Lua, args: &[Value]) -> Answer {
        let board = match board(args) {
            Ok(board) => board,
            Err(problem) => return wrong(lua, problem),
        };
        let settings = match self.object(args.get(1), SETTINGS) {
            Ok(json) => serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&json).unwrap_or_default(),
            Err(problem) => return wrong(lua, &format!("the settings {problem}")),
        };
        if let Some(unknown) = settings.keys().find(|name| !SETTINGS_NAMES.contains(&name.as_str())) {
            return wrong(lua, &format!("{unknown} is no setting of a board"));
        }
        let body = match serde_json::from_value::<BoardEffect>(settings.into()) {
            Ok(settings) => EffectBody::Board(BoardEffect { board, ..settings }),
            Err(error) => return wrong(lua, &format!("the settings are wrong: {error}")),
        };
        match asobi_store::effects::check(&body) {
            Ok(()) if self.effect(body) => wrapped(lua, Value::Boolean(true)),
            Ok(()) => wrong(lua, TOO_MANY),
            Err(problem) => wrong(lua, problem),
        }
    }

    fn top(&self, lua: &Lua, args: &[Value]) -> Answer {
        match (board(args), entries(args.get(1))) {
            (Ok(board), Ok(n)) => self.put(lua, Ask::Top { board, n }),
            (Err(problem), _) | (_, Err(problem)) => wrong(lua, problem),
        }
    }

    fn rank(&self, lua: &Lua, args: &[Value]) -> Answer {
        match (board(args), self.ranked(args)) {
            (Ok(board), Ok(player)) => self.put(lua, Ask::Rank { board, player }),
            (Err(problem), _) | (_, Err(problem)) => wrong(lua, problem),
        }
    }

    fn around(&self, lua: &Lua, args: &[Value]) -> Answer {
        match (board(args), self.ranked(args), entries(args.get(2))) {
            (Ok(board), Ok(player), Ok(n)) => self.put(lua, Ask::Around { board, player, n }),
            (Err(problem), ..) | (_, Err(problem), _) | (.., Err(problem)) => wrong(lua, problem),
        }
    }

    fn ranked(&self, args: &[Value]) -> Result<Uuid, &'static str> {
        match args.get(1).and_then(|id| self.who(id)) {
            Some(Who::Player(player)) => Ok(player),
            Some(Who::Bot) => Err("a bot is on no board"),
            None => Err(NO_PLAYER),
        }
    }

    /// A place in the game's own storage.
    fn own(args: &[Value]) -> Result<Place, &'static str> {
        let (collection, key) = place(args)?;
        Ok((None, collection, key))
    }

    /// A place in a player's storage.
    fn owned(&self, args: &[Value]) -> Result<Place, &'static str> {
        match args.first().and_then(|id| self.who(id)) {
            Some(Who::Player(player)) => {
                let (collection, key) = place(&args[1..])?;
                Ok((Some(player), collection, key))
            }
            Some(Who::Bot) => Err("a bot stores nothing"),
            None => Err("the first argument must be a player id"),
        }
    }

    fn set(&self, lua: &Lua, place: Result<Place, &'static str>, value: Option<&Value>) -> Answer {
        let (player_id, collection, key) = match place {
            Ok(place) => place,
            Err(problem) => return wrong(lua, problem),
        };
        let value = value.unwrap_or(&Value::Nil);
        // It would become null, and that removes what is there.
        if matches!(value, Value::Number(n) if !n.is_finite()) {
            return wrong(lua, "a number that is not finite cannot be stored");
        }
        let json = self.json(value, VALUE).map_err(|error| error.to_string());
        match json.and_then(|json| serde_json::from_str(&json).map_err(|error| error.to_string())) {
            Ok(value) => {
                if self.effect(EffectBody::Store(StoreEffect { collection, key, player_id, value })) {
                    wrapped(lua, Value::Boolean(true))
                } else {
                    wrong(lua, TOO_MANY)
                }
            }
            Err(problem) => wrong(lua, &problem),
        }
    }

    fn get(&self, lua: &Lua, place: Result<Place, &'static str>) -> Answer {
        let (player, collection, key) = match place {
            Ok(place) => place,
            Err(problem) => return wrong(lua, problem),
        };
        // What this very callback has written; the host knows what earlier ones did.
        let written = self.outcome.borrow().effects.iter().rev().find_map(|effect| match effect {
            EffectBody::Store(store)
                if store.player_id == player && store.collection == collection && store.key == key =>
            {
                Some(store.value.to_string())
            }
            _ => None,
        });
        match written {
            Some(json) => wrapped(lua, decode(lua, &self.array_marker, &self.keys, &json)?),
            None => self.put(lua, Ask::Stored { collection, key, player }),
        }
    }
}

const NO_PLAYER: &str = "the second argument must be a player id";

fn board(args: &[Value]) -> Result<String, &'static str> {
    args.first()
        .and_then(text)
        .filter(|board| stored(board, BOARD) && !board.contains(char::is_control))
        .ok_or("the board must be a string of 1 to 128 bytes without control characters")
}

fn entries(value: Option<&Value>) -> Result<u32, &'static str> {
    value
        .and_then(whole)
        .filter(|n| ENTRIES.contains(n))
        .and_then(|n| u32::try_from(n).ok())
        .ok_or("the number of entries must be a whole number from 1 to 100")
}

fn place(args: &[Value]) -> Result<(String, String), &'static str> {
    let collection = args.first().and_then(text).filter(|collection| stored(collection, COLLECTION));
    let key = args.get(1).and_then(text).filter(|key| stored(key, KEY));
    match (collection, key) {
        (Some(collection), Some(key)) => Ok((collection, key)),
        (None, _) => Err("the collection must be a string of 1 to 64 bytes"),
        (_, None) => Err("the key must be a string of 1 to 128 bytes"),
    }
}
