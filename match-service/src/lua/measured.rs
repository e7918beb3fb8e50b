//! What `benches/instructions.rs` measures of the inside, and nothing else.

use mlua::{Lua, Table, Value};

use super::{encode::Encoder, keys::Keys};

/// A value of a VM on its way to the players.
pub struct State {
    value: Value,
    array_marker: Table,
    keys: Keys,
    json: String,
    _lua: Lua,
}

impl State {
    /// # Errors
    /// Those of the source, an expression in Lua.
    pub fn of(source: &str) -> mlua::Result<Self> {
        let lua = Lua::new();
        Ok(Self {
            value: lua.load(source).eval()?,
            array_marker: lua.create_table()?,
            keys: Keys::default(),
            json: String::with_capacity(1 << 16),
            _lua: lua,
        })
    }

    /// The length of its JSON.
    ///
    /// # Errors
    /// What has no JSON.
    pub fn encode(&mut self) -> Result<usize, super::encode::EncodeError> {
        self.json.clear();
        Encoder::new(&mut self.json, 1 << 16, &self.array_marker).knowing(&self.keys).value(&self.value)?;
        Ok(self.json.len())
    }
}
