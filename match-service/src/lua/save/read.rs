//! Bytes to values. Whatever the bytes are, they make a state or an error, and no more memory than the VM may have.

use std::collections::BTreeMap;

use mlua::{Lua, Table, Value, Vector};
use uuid::Uuid;

use super::{
    BUFFER, DOUBLE, END, FALSE, IS_ARRAY, IS_FROZEN, MAX_DEPTH, MAX_SAVED, PAIRS, SEEN, STRING, TABLE, TRUE, VECTOR,
    VERSION, WHOLE, WORTH_A_NUMBER,
};

/// A snapshot that was read.
pub struct Saved {
    pub state: Table,
    pub random: u64,
    pub bots: BTreeMap<Uuid, String>,
}

/// # Errors
/// The bytes are no snapshot of a release that this one can read, or the VM's memory does not suffice for it.
pub fn read(lua: &Lua, array_marker: &Table, saved: &[u8]) -> mlua::Result<Saved> {
    if saved.len() > MAX_SAVED {
        return Err(broken("is too large"));
    }
    let mut reading = Reading { lua, array_marker, left: saved, seen: Vec::new() };
    let version = reading.byte()?;
    if version != VERSION {
        return Err(broken(&format!("has the format {version}, and this release reads {VERSION}")));
    }
    let random = u64::from_le_bytes(reading.array()?);
    let mut bots = BTreeMap::new();
    for _ in 0..reading.number()? {
        let player = Uuid::from_bytes(reading.array()?);
        let id = std::str::from_utf8(reading.text()?).map_err(|_| broken("names a bot that has no text"))?;
        bots.insert(player, id.to_owned());
    }
    let tag = reading.byte()?;
    let Value::Table(state) = reading.value(tag, 0)? else {
        return Err(broken("has no table for its state"));
    };
    if !reading.left.is_empty() {
        return Err(broken("goes on after its end"));
    }
    Ok(Saved { state, random, bots })
}

fn broken(what: &str) -> mlua::Error {
    mlua::Error::runtime(format!("what was saved {what}"))
}

struct Reading<'a> {
    lua: &'a Lua,
    array_marker: &'a Table,
    left: &'a [u8],
    /// By their numbers.
    seen: Vec<Value>,
}

impl<'a> Reading<'a> {
    fn byte(&mut self) -> mlua::Result<u8> {
        self.array::<1>().map(|bytes| bytes[0])
    }

    fn array<const N: usize>(&mut self) -> mlua::Result<[u8; N]> {
        let (bytes, left) = self.left.split_first_chunk().ok_or_else(|| broken("breaks off"))?;
        self.left = left;
        Ok(*bytes)
    }

    fn number(&mut self) -> mlua::Result<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(broken("has a number without an end"))
    }

    fn text(&mut self) -> mlua::Result<&'a [u8]> {
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        let (bytes, left) = self.left.split_at_checked(length).ok_or_else(|| broken("breaks off"))?;
        self.left = left;
        Ok(bytes)
    }

    #[expect(clippy::cast_precision_loss, reason = "whole numbers that are larger were written as doubles")]
    fn value(&mut self, tag: u8, depth: usize) -> mlua::Result<Value> {
        Ok(match tag {
            FALSE => Value::Boolean(false),
            TRUE => Value::Boolean(true),
            WHOLE => {
                let n = self.number()?;
                Value::Number(((n >> 1).cast_signed() ^ -((n & 1).cast_signed())) as f64)
            }
            DOUBLE => Value::Number(f64::from_le_bytes(self.array()?)),
            VECTOR => {
                let [x, y, z] = [self.array()?, self.array()?, self.array()?].map(f32::from_le_bytes);
                Value::Vector(Vector::new(x, y, z))
            }
            STRING => {
                let bytes = self.text()?;
                let string = Value::String(self.lua.create_string(bytes)?);
                if bytes.len() >= WORTH_A_NUMBER {
                    self.seen.push(string.clone());
                }
                string
            }
            BUFFER => {
                let buffer = Value::Buffer(self.lua.create_buffer(self.text()?)?);
                self.seen.push(buffer.clone());
                buffer
            }
            SEEN => {
                let number = usize::try_from(self.number()?).unwrap_or(usize::MAX);
                self.seen.get(number).cloned().ok_or_else(|| broken("names what it does not have"))?
            }
            TABLE => Value::Table(self.table(depth + 1)?),
            _ => return Err(broken("has a kind of value that this release does not know")),
        })
    }

    fn table(&mut self, depth: usize) -> mlua::Result<Table> {
        if depth > MAX_DEPTH {
            return Err(broken("nests too deeply"));
        }
        let flags = self.byte()?;
        if flags & !(IS_ARRAY | IS_FROZEN) != 0 {
            return Err(broken("has a kind of table that this release does not know"));
        }
        let table = self.lua.create_table()?;
        self.seen.push(Value::Table(table.clone()));
        let mut tag = self.byte()?;
        let mut index = 0;
        while tag != END && tag != PAIRS {
            index += 1;
            table.raw_set(index, self.value(tag, depth)?)?;
            tag = self.byte()?;
        }
        if tag == PAIRS {
            self.pairs(&table, depth)?;
        }
        if flags & IS_ARRAY != 0 {
            table.set_metatable(Some(self.array_marker.clone()))?;
        }
        table.set_readonly(flags & IS_FROZEN != 0);
        Ok(table)
    }

    fn pairs(&mut self, table: &Table, depth: usize) -> mlua::Result<()> {
        loop {
            let tag = self.byte()?;
            if tag == END {
                return Ok(());
            }
            let key = self.value(tag, depth)?;
            let fits = match &key {
                Value::Boolean(_) | Value::String(_) => true,
                Value::Number(n) => !n.is_nan(),
                _ => false,
            };
            if !fits {
                return Err(broken("has a key that is none"));
            }
            let tag = self.byte()?;
            table.raw_set(key, self.value(tag, depth)?)?;
        }
    }
}
