//! The `game` table: what a script can ask of its host. Calls collect what shall happen in an [`Outcome`]; the host does it after the callback.

mod outside;
mod talk;
mod wishes;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, HashSet},
    ops::RangeInclusive,
    rc::Rc,
    time::Instant,
};

use asobi_proto::effect::EffectBody;
use mlua::{Function, Lua, MultiValue, Table, Value};
use uuid::Uuid;

use super::{
    encode::{EncodeError, Encoder},
    keys::Keys,
    random::Random,
};
use crate::game::{Ask, MAX_PER_CALLBACK, Outcome, Setup};

/// Largest payload of one broadcast, message or timer, bytes of JSON.
const MAX_PAYLOAD: usize = 64 * 1024;
const TOO_MANY: &str = "too many effects in one callback";

/// What the `game` table's functions share with the host.
pub struct World {
    pub outcome: RefCell<Outcome>,
    pub random: Rc<Random>,
    /// Who may be sent something: players with a seat, and whoever is just joining.
    pub players: RefCell<HashSet<Uuid>>,
    /// The seats of a match that may ask the queue for players; none: it may not.
    pub backfill_seats: Cell<Option<u32>>,
    /// Whether the mode has bots.
    pub has_bots: Cell<bool>,
    /// The question that a callback is being suspended for.
    pub asked: RefCell<Option<Ask>>,
    /// Questions of the running callback.
    pub questions: Cell<u32>,
    bots: RefCell<Bots>,
    /// The metatable that makes an empty table an array.
    pub array_marker: Table,
    pub keys: Keys,
    match_id: Uuid,
    mode: String,
    log_window: Cell<Option<Instant>>,
    log_lines: Cell<u32>,
    /// Ids handed out since [`World::remember`]; no more than [`IDS`] are remembered.
    ids: RefCell<Vec<Uuid>>,
    /// How many of them were handed out again, while callbacks are repeated.
    repeated: Cell<Option<usize>>,
}

const IDS: usize = 1024;

type Answer = mlua::Result<Value>;

/// The bots that have seats.
#[derive(Default)]
struct Bots {
    ids: BTreeMap<Uuid, String>,
    by_id: HashMap<String, Uuid>,
}

/// Whom a script names by an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Player(Uuid),
    Bot,
}

impl World {
    /// Puts `game` and the match's own `math.random` into a VM that is not sandboxed yet. `asking` is the prelude's.
    ///
    /// # Errors
    /// The VM is out of memory.
    pub fn install(lua: &Lua, setup: &Setup, asking: &Function) -> mlua::Result<Rc<Self>> {
        let array_marker = lua.create_table()?;
        array_marker.set_readonly(true);
        let world = Rc::new(Self {
            outcome: RefCell::default(),
            random: Rc::new(Random::new(setup.seed)),
            players: RefCell::default(),
            backfill_seats: Cell::new(None),
            has_bots: Cell::new(false),
            asked: RefCell::default(),
            questions: Cell::new(0),
            bots: RefCell::default(),
            array_marker,
            keys: Keys::default(),
            match_id: setup.match_id,
            mode: setup.mode.clone(),
            log_window: Cell::new(None),
            log_lines: Cell::new(0),
            ids: RefCell::default(),
            repeated: Cell::new(None),
        });
        let game = lua.create_table()?;
        world.add(lua, &game, "array", Self::array)?;
        world.add(lua, &game, "id", |world, lua, _| {
            Ok(Value::String(lua.create_string(world.new_id().hyphenated().to_string())?))
        })?;
        world.install_talk(lua, &game)?;
        world.install_wishes(lua, &game)?;
        world.install_outside(lua, &game, asking)?;
        let random = world.random_function(lua)?;
        game.raw_set("random", &random)?;
        game.set_readonly(true);
        let globals = lua.globals();
        globals.raw_set("game", game)?;
        let math: Table = globals.raw_get("math")?;
        math.raw_set("random", random)?;
        let seeding = Rc::clone(&world.random);
        math.raw_set(
            "randomseed",
            lua.create_function(move |_, seed: f64| {
                seeding.seed(seed.to_bits());
                Ok(())
            })?,
        )?;
        Ok(world)
    }

    fn add(
        self: &Rc<Self>,
        lua: &Lua,
        table: &Table,
        name: &str,
        run: impl Fn(&Self, &Lua, &[Value]) -> Answer + 'static,
    ) -> mlua::Result<()> {
        let world = Rc::clone(self);
        table.raw_set(
            name,
            lua.create_function(move |lua, args: MultiValue| {
                let args: Vec<Value> = args.into_iter().collect();
                run(&world, lua, &args)
            })?,
        )
    }

    /// From here on callbacks may be repeated.
    pub fn remember(&self) {
        self.ids.borrow_mut().clear();
    }

    /// How many ids were handed out since then.
    pub fn remembered(&self) -> usize {
        self.ids.borrow().len()
    }

    /// While a callback is repeated it gets the ids it got before (from that number on), logs nothing and asks nobody.
    pub fn repeat(&self, ids: Option<usize>) {
        self.repeated.set(ids);
    }

    /// A callback begins.
    pub fn begin(&self) {
        self.questions.set(0);
        self.asked.replace(None);
    }

    pub fn know_bot(&self, player: Uuid, id: &str) {
        let mut bots = self.bots.borrow_mut();
        if let Some(former) = bots.ids.insert(player, id.to_owned()) {
            bots.by_id.remove(&former);
        }
        bots.by_id.insert(id.to_owned(), player);
    }

    pub fn forget_bot(&self, player: Uuid) {
        let mut bots = self.bots.borrow_mut();
        if let Some(id) = bots.ids.remove(&player) {
            bots.by_id.remove(&id);
        }
    }

    /// What the game calls a bot; none: it is a player.
    pub fn bot_id(&self, player: Uuid) -> Option<String> {
        self.bots.borrow().ids.get(&player).cloned()
    }

    /// Every bot with its id.
    pub fn bots(&self) -> std::cell::Ref<'_, BTreeMap<Uuid, String>> {
        std::cell::Ref::map(self.bots.borrow(), |bots| &bots.ids)
    }

    fn who(&self, value: &Value) -> Option<Who> {
        let Value::String(id) = value else {
            return None;
        };
        let id = id.as_bytes();
        let bots = self.bots.borrow();
        match Uuid::try_parse_ascii(&id) {
            Ok(player) if bots.ids.contains_key(&player) => Some(Who::Bot),
            Ok(player) => Some(Who::Player(player)),
            Err(_) => std::str::from_utf8(&id).ok().filter(|id| bots.by_id.contains_key(*id)).map(|_| Who::Bot),
        }
    }

    /// False when the callback has too many already.
    fn effect(&self, effect: EffectBody) -> bool {
        let mut outcome = self.outcome.borrow_mut();
        let room = outcome.effects.len() < MAX_PER_CALLBACK;
        if room {
            outcome.effects.push(effect);
        }
        room
    }

    fn new_id(&self) -> Uuid {
        let mut ids = self.ids.borrow_mut();
        if let Some(count) = self.repeated.get()
            && let Some(id) = ids.get(count)
        {
            self.repeated.set(Some(count + 1));
            return *id;
        }
        let id = Uuid::now_v7();
        if ids.len() < IDS {
            ids.push(id);
        }
        id
    }

    fn random_function(self: &Rc<Self>, lua: &Lua) -> mlua::Result<Function> {
        let random = Rc::clone(&self.random);
        lua.create_function(move |_, args: MultiValue| {
            let bound = |value: &Value| whole(value).ok_or_else(|| bad("whole numbers"));
            Ok(match args.len() {
                0 => Value::Number(random.unit()),
                1 => {
                    let high = bound(&args[0])?;
                    if high < 1 {
                        return Err(bad("a number of at least 1"));
                    }
                    Value::Integer(random.between(1, high))
                }
                2 => {
                    let (low, high) = (bound(&args[0])?, bound(&args[1])?);
                    if low > high {
                        return Err(bad("the smaller number first"));
                    }
                    Value::Integer(random.between(low, high))
                }
                _ => return Err(bad("at most two numbers")),
            })
        })
    }

    /// JSON text of a value, at most `limit` bytes.
    fn json(&self, value: &Value, limit: usize) -> Result<String, EncodeError> {
        let mut out = String::new();
        Encoder::new(&mut out, limit, &self.array_marker).value(value)?;
        Ok(out)
    }

    /// JSON text of a table with names, or of nothing; an error goes on from "the …".
    fn object(&self, value: Option<&Value>, limit: usize) -> Result<String, String> {
        match value {
            None | Some(Value::Nil) => Ok("{}".to_owned()),
            Some(table @ Value::Table(_)) => match self.json(table, limit) {
                Ok(json) if json.starts_with('{') => Ok(json),
                Ok(_) => Err("must have names".to_owned()),
                Err(error) => Err(format!("cannot be sent: {error}")),
            },
            Some(_) => Err("must be a table".to_owned()),
        }
    }

    fn array(&self, lua: &Lua, args: &[Value]) -> Answer {
        let table = match args.first() {
            None | Some(Value::Nil) => lua.create_table()?,
            Some(Value::Table(table)) => table.clone(),
            Some(_) => return wrong(lua, "game.array takes a table or nothing"),
        };
        if table.is_readonly() {
            return wrong(lua, "the table is read-only");
        }
        table.set_metatable(Some(self.array_marker.clone()))?;
        Ok(Value::Table(table))
    }
}

fn done() -> Answer {
    Ok(Value::Boolean(true))
}

fn wrapped(lua: &Lua, value: Value) -> Answer {
    let table = lua.create_table()?;
    table.raw_set("ok", value)?;
    Ok(Value::Table(table))
}

fn wrong(lua: &Lua, message: &str) -> Answer {
    let table = lua.create_table()?;
    table.raw_set("error", message)?;
    Ok(Value::Table(table))
}

fn bad(what: &str) -> mlua::Error {
    mlua::Error::runtime(format!("random takes {what}"))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.to_string_lossy()),
        _ => None,
    }
}

/// Whether PostgreSQL can store a text, and its length is within the bounds.
fn stored(text: &str, bytes: RangeInclusive<usize>) -> bool {
    bytes.contains(&text.len()) && !text.contains('\0')
}

#[expect(clippy::cast_precision_loss, reason = "Lua's numbers are doubles")]
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(n) => Some(*n as f64),
        Value::Number(n) if n.is_finite() => Some(*n),
        _ => None,
    }
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(n) => Some(*n),
        _ => None,
    }
}

/// At most so many bytes of a text, cut between characters.
pub(super) fn shortened(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let mut end = bytes;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
