//! A state for an operator to look at: JSON of whatever there is, as much as fits. Unlike what players are sent it never fails: what JSON cannot
//! say becomes a word in brackets, and what is too much becomes "…".

use std::fmt::Write as _;

use mlua::{Table, Value};

use crate::game::Shown;

/// How deep tables are followed; a circle ends here too.
const DEPTH: usize = 24;
/// Bytes of one string.
const TEXT: usize = 2_048;
/// Values looked at, also those that are looked at twice: what bounds the time.
const VALUES: usize = 50_000;

/// The table, about `most` bytes of it.
pub fn show(state: &Table, array_marker: &Table, most: usize) -> Shown {
    let mut showing = Showing { json: String::new(), most, left: VALUES, array_marker, truncated: false };
    showing.table(state, 1);
    Shown { json: showing.json, truncated: showing.truncated }
}

struct Showing<'a> {
    json: String,
    most: usize,
    /// Values that may still be looked at.
    left: usize,
    /// Tables with this metatable are arrays even when empty.
    array_marker: &'a Table,
    truncated: bool,
}

impl Showing<'_> {
    /// False, and noted: there is no room for another value.
    fn has_room(&mut self) -> bool {
        let room = self.left > 0 && self.json.len() < self.most;
        self.truncated |= !room;
        self.left = self.left.saturating_sub(1);
        room
    }

    fn value(&mut self, value: &Value, depth: usize) {
        match value {
            Value::Nil => self.json.push_str("null"),
            Value::LightUserData(data) if data.0.is_null() => self.json.push_str("null"),
            Value::Boolean(value) => self.json.push_str(if *value { "true" } else { "false" }),
            Value::Integer(n) => self.json.push_str(itoa::Buffer::new().format(*n)),
            Value::Number(n) => self.number(*n),
            Value::Vector(v) => {
                let _ = write!(self.json, "[{},{},{}]", finite(v.x()), finite(v.y()), finite(v.z()));
            }
            Value::String(text) => self.text(&text.as_bytes()),
            Value::Table(table) if depth < DEPTH => self.table(table, depth + 1),
            Value::Table(_) => {
                self.truncated = true;
                self.json.push_str("\"…\"");
            }
            other => {
                let _ = write!(self.json, "\"[{}]\"", other.type_name());
            }
        }
    }

    fn number(&mut self, n: f64) {
        // A whole number is written as one.
        let _ = match serde_json::Number::from_f64(n) {
            Some(_) if n.fract() == 0.0 && n.abs() < 1e15 => write!(self.json, "{n:.0}"),
            Some(number) => write!(self.json, "{number}"),
            None => write!(self.json, "null"),
        };
    }

    fn text(&mut self, bytes: &[u8]) {
        let (shown, cut) = (&bytes[..bytes.len().min(TEXT)], bytes.len() > TEXT);
        self.truncated |= cut;
        let mut text = String::from_utf8_lossy(shown).into_owned();
        if cut {
            text.push('…');
        }
        self.json.push_str(&serde_json::Value::String(text).to_string());
    }

    fn table(&mut self, table: &Table, depth: usize) {
        let (start, length) = (self.json.len(), table.raw_len());
        let marked = table.metatable().is_some_and(|meta| &meta == self.array_marker);
        if length > 0 || marked {
            self.json.push('[');
            if self.items(table, length, depth) {
                self.json.push(']');
                return;
            }
            // It has other keys, too.
            self.json.truncate(start);
        }
        self.json.push('{');
        self.pairs(table, depth);
        self.json.push('}');
    }

    /// The items of a list; false when there is something else in it.
    fn items(&mut self, table: &Table, length: usize, depth: usize) -> bool {
        let (mut next, mut full) = (1_usize, false);
        let walked = table.for_each(|key: Value, value: Value| {
            if !matches!(key, Value::Integer(n) if usize::try_from(n) == Ok(next)) {
                return Err(stop());
            }
            if next > 1 {
                self.json.push(',');
            }
            next += 1;
            if !self.has_room() {
                full = true;
                self.json.push_str("\"…\"");
                return Err(stop());
            }
            self.value(&value, depth);
            Ok(())
        });
        full || (walked.is_ok() && next == length + 1)
    }

    fn pairs(&mut self, table: &Table, depth: usize) {
        let mut first = true;
        // What ends it early is that there is no room.
        let _ = table.for_each(|key: Value, value: Value| {
            if !std::mem::take(&mut first) {
                self.json.push(',');
            }
            if !self.has_room() {
                self.json.push_str("\"…\":\"…\"");
                return Err(stop());
            }
            match &key {
                Value::String(text) => self.text(&text.as_bytes()),
                Value::Integer(n) => self.text(n.to_string().as_bytes()),
                Value::Number(n) => self.text(n.to_string().as_bytes()),
                Value::Boolean(b) => self.text(b.to_string().as_bytes()),
                other => self.text(format!("[{}]", other.type_name()).as_bytes()),
            }
            self.json.push(':');
            self.value(&value, depth);
            Ok(())
        });
    }
}

fn finite(n: f32) -> f32 {
    if n.is_finite() { n } else { 0.0 }
}

// Ends a walk over a table early; never seen outside.
fn stop() -> mlua::Error {
    mlua::Error::CoroutineUnresumable
}

#[cfg(test)]
mod tests {
    use mlua::Lua;
    use serde_json::{Value as Json, json};

    use super::*;

    fn shown(source: &str, most: usize) -> (Json, bool) {
        let lua = Lua::new();
        let marker = lua.create_table().expect("a table");
        lua.globals().set("marker", &marker).expect("set");
        let table: Table = lua.load(source).eval().expect("the test's Lua runs");
        let shown = show(&table, &marker, most);
        (serde_json::from_str(&shown.json).expect("is JSON"), shown.truncated)
    }

    #[test]
    fn whatever_is_in_a_state_is_shown() {
        let source = "return { n = 2, half = 0.5, list = {1, 'b'}, none = setmetatable({}, marker), empty = {},
                                 f = print, [3] = true, [true] = 1, nan = 0/0 }";
        let expected = json!({
            "n": 2, "half": 0.5, "list": [1, "b"], "none": [], "empty": {}, "f": "[function]", "3": true, "true": 1, "nan": null,
        });
        assert_eq!(shown(source, 10_000), (expected, false));
    }

    #[test]
    fn what_is_too_large_or_too_deep_is_cut_and_stays_json() {
        let (state, truncated) =
            shown("local t = {} for i = 1, 10000 do t[i] = {id = i} end return {list = t, n = 1}", 1_000);
        assert!(truncated);
        let list = state["list"].as_array().expect("a list");
        assert!(list.len() < 200 && list.last() == Some(&json!("…")), "{}", list.len());
        let (circle, truncated) = shown("local t = {} t.t = t return t", 10_000);
        assert!(truncated && circle["t"]["t"].is_object());
        let (text, truncated) = shown("return {s = string.rep('é', 5000)}", 10_000);
        assert!(truncated && text["s"].as_str().expect("text").ends_with('…'));
        let (wide, truncated) = shown("local t = {1} for _ = 1, 30 do t = {t, t, also = 1} end return t", 1_000_000);
        // What is cut within its list part is shown as a list.
        assert!(truncated && wide.is_array(), "{}", wide.to_string().len());
    }
}
