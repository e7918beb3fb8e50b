//! Keys of tables that were written or read before. A state's are the same in every tick, and each costs more to look at in the VM than to write.

use std::{cell::RefCell, collections::HashMap};

use foldhash::fast::RandomState;
use mlua::{Lua, LuaString};

/// Keys that are kept; with the next one all are forgotten: players' ids come and go.
const KEYS: usize = 256;
/// Longest key that is kept, bytes of JSON.
const LONGEST: usize = 64;

/// The keys of one VM.
#[derive(Default)]
pub struct Keys {
    /// By the address of the VM's string, of which there is one for each text, as JSON. Holding the string keeps the address its own.
    written: RefCell<HashMap<usize, (LuaString, Box<str>), RandomState>>,
    read: RefCell<HashMap<Box<str>, LuaString, RandomState>>,
}

impl Keys {
    /// Hands over a key's JSON text, if it was written before. False: it was not.
    pub fn written<T>(&self, key: &LuaString, take: impl FnOnce(&str) -> T) -> Option<T> {
        self.written.borrow().get(&address(key)).map(|(_, json)| take(json))
    }

    /// Keeps a key that was written, as JSON text.
    pub fn note(&self, key: &LuaString, json: &str) {
        if json.len() > LONGEST {
            return;
        }
        let mut written = self.written.borrow_mut();
        if written.len() >= KEYS {
            written.clear();
        }
        written.insert(address(key), (key.clone(), json.into()));
    }

    /// The VM's string of a key that was read.
    ///
    /// # Errors
    /// The VM is out of memory.
    pub fn string(&self, lua: &Lua, key: &str) -> mlua::Result<LuaString> {
        if let Some(known) = self.read.borrow().get(key) {
            return Ok(known.clone());
        }
        let made = lua.create_string(key)?;
        if key.len() <= LONGEST {
            let mut read = self.read.borrow_mut();
            if read.len() >= KEYS {
                read.clear();
            }
            read.insert(key.into(), made.clone());
        }
        Ok(made)
    }
}

fn address(key: &LuaString) -> usize {
    key.to_pointer().addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_text_and_too_many_are_forgotten() {
        let lua = Lua::new();
        let keys = Keys::default();
        let name = lua.create_string("name").expect("a string");
        assert_eq!(keys.written(&name, str::len), None);
        keys.note(&name, "\"name\"");
        let again = keys.string(&lua, "name").expect("a string");
        assert_eq!(keys.written(&again, str::to_owned).as_deref(), Some("\"name\""), "the VM has one string for it");
        for n in 0..KEYS {
            let other = keys.string(&lua, &n.to_string()).expect("a string");
            keys.note(&other, &format!("\"{n}\""));
        }
        assert_eq!(keys.written(&name, str::len), None);
        assert!(keys.written.borrow().len() <= KEYS && keys.read.borrow().len() <= KEYS);
        let long = lua.create_string("x".repeat(LONGEST)).expect("a string");
        keys.note(&long, &format!("\"{}\"", "x".repeat(LONGEST)));
        assert_eq!(keys.written(&long, str::len), None, "a long one is not kept");
    }
}
