//! Values to bytes.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::c_void,
    hash::{BuildHasherDefault, Hasher},
};

use mlua::{Table, Value};
use uuid::Uuid;

use super::{
    BUFFER, DOUBLE, END, FALSE, IS_ARRAY, IS_FROZEN, MAX_DEPTH, MAX_SAVED, PAIRS, SEEN, STRING, TABLE, TRUE, VECTOR,
    VERSION, WHOLE, WORTH_A_NUMBER,
};

/// Keys of a path that an error names; the rest of a deep one is left out.
const NAMED_KEYS: usize = 8;

/// Writes snapshots; kept by its match, so that the next one needs no memory of its own.
#[derive(Default)]
pub struct Writer {
    /// Tables, buffers and strings by their place in the VM, which nothing moves.
    seen: HashMap<*const c_void, u32, BuildHasherDefault<PlaceHasher>>,
}

/// What cannot be saved, with the way to it from the inside out.
struct Problem {
    keys: Vec<String>,
    what: String,
}

impl Problem {
    fn new(what: impl Into<String>) -> Self {
        Self { keys: Vec::new(), what: what.into() }
    }

    fn too_large() -> Self {
        Self::new(format!("the saved state would be larger than {MAX_SAVED} bytes"))
    }

    fn under(mut self, key: &Value) -> Self {
        self.keys.push(match key {
            Value::String(text) => {
                let text = text.to_string_lossy();
                let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                    && !text.starts_with(|c: char| c.is_ascii_digit());
                if plain { format!(".{text}") } else { format!("[{text:?}]") }
            }
            Value::Integer(n) => format!("[{n}]"),
            Value::Number(n) => format!("[{n}]"),
            Value::Boolean(b) => format!("[{b}]"),
            other => format!("[{}]", other.type_name()),
        });
        self
    }

    /// `state.players[3].f is a function, …`
    fn sentence(&self) -> String {
        if self.keys.is_empty() {
            return self.what.clone();
        }
        let mut path: String = self.keys.iter().rev().take(NAMED_KEYS).map(String::as_str).collect();
        if self.keys.len() > NAMED_KEYS {
            path.push('…');
        }
        format!("state{path} {}", self.what)
    }
}

impl Writer {
    /// Appends a snapshot.
    ///
    /// # Errors
    /// A sentence that names what cannot be saved and where it is; part of the snapshot may have been appended.
    pub fn write(
        &mut self,
        state: &Table,
        array_marker: &Table,
        random: u64,
        bots: &BTreeMap<Uuid, String>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        self.seen.clear();
        let end = out.len().saturating_add(MAX_SAVED);
        out.push(VERSION);
        out.extend_from_slice(&random.to_le_bytes());
        number(out, bots.len() as u64);
        for (player, id) in bots {
            out.extend_from_slice(player.as_bytes());
            text(out, id.as_bytes());
        }
        let mut writing = Writing { seen: &mut self.seen, array_marker, out, end };
        writing.table(state, 1).map_err(|problem| problem.sentence())
    }
}

struct Writing<'a> {
    seen: &'a mut HashMap<*const c_void, u32, BuildHasherDefault<PlaceHasher>>,
    array_marker: &'a Table,
    out: &'a mut Vec<u8>,
    /// Length of `out` that must not be passed.
    end: usize,
}

impl Writing<'_> {
    #[expect(clippy::cast_precision_loss, reason = "what a double does not hold exactly is written as one")]
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Problem> {
        match value {
            Value::Boolean(false) => self.out.push(FALSE),
            Value::Boolean(true) => self.out.push(TRUE),
            Value::Integer(n) if n.unsigned_abs() <= 1 << 53 => {
                self.out.push(WHOLE);
                number(self.out, ((n << 1) ^ (n >> 63)).cast_unsigned());
            }
            Value::Integer(n) => self.double(*n as f64),
            Value::Number(n) => self.double(*n),
            Value::Vector(v) => {
                self.out.push(VECTOR);
                for n in [v.x(), v.y(), v.z()] {
                    self.out.extend_from_slice(&n.to_le_bytes());
                }
            }
            Value::String(string) => {
                let bytes = string.as_bytes();
                if bytes.len() < WORTH_A_NUMBER || !self.again(string.to_pointer()) {
                    self.bytes(STRING, &bytes)?;
                }
            }
            Value::Buffer(buffer) => {
                if !self.again(value.to_pointer()) {
                    if buffer.len() > MAX_SAVED {
                        return Err(Problem::too_large());
                    }
                    self.bytes(BUFFER, &buffer.to_vec())?;
                }
            }
            Value::Table(table) => return self.table(table, depth + 1),
            other => return Err(Problem::new(format!("is a {}, which cannot be saved", other.type_name()))),
        }
        self.check()
    }

    fn check(&self) -> Result<(), Problem> {
        if self.out.len() > self.end { Err(Problem::too_large()) } else { Ok(()) }
    }

    fn double(&mut self, n: f64) {
        self.out.push(DOUBLE);
        self.out.extend_from_slice(&n.to_le_bytes());
    }

    fn bytes(&mut self, tag: u8, bytes: &[u8]) -> Result<(), Problem> {
        if self.out.len() + bytes.len() > self.end {
            return Err(Problem::too_large());
        }
        self.out.push(tag);
        text(self.out, bytes);
        Ok(())
    }

    /// Names what was written before by its number; false when it was not, and then it has one.
    fn again(&mut self, place: *const c_void) -> bool {
        let next = u32::try_from(self.seen.len()).unwrap_or(u32::MAX);
        match self.seen.entry(place) {
            std::collections::hash_map::Entry::Occupied(seen) => {
                self.out.push(SEEN);
                number(self.out, u64::from(*seen.get()));
                true
            }
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(next);
                false
            }
        }
    }

    fn table(&mut self, table: &Table, depth: usize) -> Result<(), Problem> {
        if self.again(table.to_pointer()) {
            return self.check();
        }
        if depth > MAX_DEPTH {
            return Err(Problem::new(format!("nests deeper than {MAX_DEPTH} tables")));
        }
        let mut flags = 0;
        match table.metatable() {
            Some(metatable) if &metatable == self.array_marker => flags |= IS_ARRAY,
            Some(_) => return Err(Problem::new("has a metatable: a state is made of plain tables")),
            None => {}
        }
        if table.is_readonly() {
            flags |= IS_FROZEN;
        }
        self.out.extend_from_slice(&[TABLE, flags]);
        self.items(table, depth)?;
        self.out.push(END);
        self.check()
    }

    fn items(&mut self, table: &Table, depth: usize) -> Result<(), Problem> {
        let mut failed = None;
        // The next key of the sequence, until another one comes.
        let mut next = Some(1);
        let walked = table.for_each(|key: Value, value: Value| {
            self.item(&mut next, &key, &value, depth).map_err(|problem| {
                failed = Some(problem.under(&key));
                mlua::Error::CoroutineUnresumable
            })
        });
        match (failed, walked) {
            (Some(problem), _) => Err(problem),
            (None, Err(error)) => Err(Problem::new(format!("cannot be read: {error}"))),
            (None, Ok(())) => Ok(()),
        }
    }

    fn item(&mut self, next: &mut Option<i64>, key: &Value, value: &Value, depth: usize) -> Result<(), Problem> {
        match (*next, key) {
            (Some(expected), Value::Integer(n)) if *n == expected => *next = Some(expected + 1),
            (expected, _) => {
                if expected.is_some() {
                    *next = None;
                    self.out.push(PAIRS);
                }
                match key {
                    Value::Boolean(_) | Value::Integer(_) | Value::Number(_) | Value::String(_) => {
                        self.value(key, depth)?;
                    }
                    other => {
                        return Err(Problem::new(format!(
                            "has a {} for its key, which cannot be saved",
                            other.type_name()
                        )));
                    }
                }
            }
        }
        self.value(value, depth)
    }
}

fn number(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n.to_le_bytes()[0] | 0x80);
        n >>= 7;
    }
    out.push(n.to_le_bytes()[0]);
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Spreads the addresses of one VM's heap, which nobody outside chooses.
#[derive(Default)]
struct PlaceHasher(u64);

impl Hasher for PlaceHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, n: u64) {
        let mixed = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}
