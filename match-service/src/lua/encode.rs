//! Lua values to JSON text, straight from the VM.

use std::fmt::Write as _;

use mlua::{LuaString, Table, Value};

use super::keys::Keys;

/// How deep tables may nest; a cycle ends here too.
pub const MAX_DEPTH: usize = 32;

/// Why a value has no JSON.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("tables nest deeper than {MAX_DEPTH} levels, or in a circle")]
    Depth,
    #[error("more than {0} bytes of JSON")]
    Size(usize),
    #[error("a {0} has no JSON")]
    Type(&'static str),
    #[error("a table key must be a string or a number, not a {0}")]
    Key(&'static str),
    #[error("the Lua VM failed: {0}")]
    Vm(String),
}

/// Writes values with one bound on the size of the whole text.
pub struct Encoder<'a> {
    out: &'a mut String,
    /// Length of `out` that must not be passed.
    end: usize,
    limit: usize,
    /// Values that may still be written, also where what was written is thrown away again: tables that turn out to be no arrays are written twice,
    /// and so is each one inside of them.
    left: usize,
    /// Tables with this metatable are arrays even when empty.
    array_marker: &'a Table,
    /// Keys that were written before.
    keys: Option<&'a Keys>,
}

impl<'a> Encoder<'a> {
    /// Appends to `out` at most `limit` bytes.
    pub fn new(out: &'a mut String, limit: usize, array_marker: &'a Table) -> Self {
        let end = out.len().saturating_add(limit);
        Self { out, end, limit, left: limit, array_marker, keys: None }
    }

    /// With what is known of the VM's keys.
    #[must_use]
    pub fn knowing(self, keys: &'a Keys) -> Self {
        Self { keys: Some(keys), ..self }
    }

    /// Whole numbers become integers, numbers that JSON does not know `null`, keys 1..n an array.
    ///
    /// # Errors
    /// See [`EncodeError`]; part of the text may have been appended.
    pub fn value(&mut self, value: &Value) -> Result<(), EncodeError> {
        self.write(value, 0)
    }

    fn write(&mut self, value: &Value, depth: usize) -> Result<(), EncodeError> {
        self.left = self.left.checked_sub(1).ok_or(EncodeError::Size(self.limit))?;
        match value {
            Value::Nil => self.raw("null"),
            // The null of JSON inside of tables.
            Value::LightUserData(data) if data.0.is_null() => self.raw("null"),
            Value::Boolean(true) => self.raw("true"),
            Value::Boolean(false) => self.raw("false"),
            Value::Integer(n) => self.raw(itoa::Buffer::new().format(*n)),
            Value::Number(n) => self.number(*n),
            Value::Vector(v) => {
                self.raw("[")?;
                for (index, n) in [v.x(), v.y(), v.z()].into_iter().enumerate() {
                    if index > 0 {
                        self.raw(",")?;
                    }
                    self.number(f64::from(n))?;
                }
                self.raw("]")
            }
            Value::String(text) => self.string(&text.as_bytes()),
            Value::Table(table) => self.table(table, depth + 1),
            other => Err(EncodeError::Type(other.type_name())),
        }
    }

    fn raw(&mut self, text: &str) -> Result<(), EncodeError> {
        self.out.push_str(text);
        self.check()
    }

    fn check(&self) -> Result<(), EncodeError> {
        if self.out.len() > self.end {
            return Err(EncodeError::Size(self.limit));
        }
        Ok(())
    }

    fn number(&mut self, n: f64) -> Result<(), EncodeError> {
        if !n.is_finite() {
            return self.raw("null");
        }
        if n == 0.0 {
            return self.raw("0");
        }
        let size = n.abs();
        // Plain digits where a person would write them so, an exponent where they would be many.
        let _ = if (1e-7..1e17).contains(&size) { write!(self.out, "{n}") } else { write!(self.out, "{n:e}") };
        self.check()
    }

    /// Bytes that are not UTF-8 become U+FFFD, and so does NUL, which PostgreSQL cannot store.
    fn string(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        if self.out.len() + bytes.len() > self.end {
            return Err(EncodeError::Size(self.limit));
        }
        self.out.push('"');
        if let Ok(text) = std::str::from_utf8(bytes) {
            self.escaped(text);
            return self.raw("\"");
        }
        for chunk in bytes.utf8_chunks() {
            self.escaped(chunk.valid());
            if !chunk.invalid().is_empty() {
                self.out.push('\u{fffd}');
            }
        }
        self.raw("\"")
    }

    fn key(&mut self, key: &LuaString) -> Result<(), EncodeError> {
        let Some(keys) = self.keys else { return self.string(&key.as_bytes()) };
        if let Some(written) = keys.written(key, |json| self.raw(json)) {
            return written;
        }
        let start = self.out.len();
        self.string(&key.as_bytes())?;
        keys.note(key, &self.out[start..]);
        Ok(())
    }

    fn escaped(&mut self, text: &str) {
        let mut plain = 0;
        for (at, byte) in text.bytes().enumerate() {
            if byte >= 0x20 && byte != b'"' && byte != b'\\' {
                continue;
            }
            self.out.push_str(&text[plain..at]);
            plain = at + 1;
            match byte {
                b'"' => self.out.push_str("\\\""),
                b'\\' => self.out.push_str("\\\\"),
                b'\n' => self.out.push_str("\\n"),
                b'\r' => self.out.push_str("\\r"),
                b'\t' => self.out.push_str("\\t"),
                0 => self.out.push('\u{fffd}'),
                control => {
                    let _ = write!(self.out, "\\u{control:04x}");
                }
            }
        }
        self.out.push_str(&text[plain..]);
    }

    fn table(&mut self, table: &Table, depth: usize) -> Result<(), EncodeError> {
        if depth > MAX_DEPTH {
            return Err(EncodeError::Depth);
        }
        let length = table.raw_len();
        if length == 0 {
            let mut empty = true;
            let start = self.out.len();
            self.out.push('{');
            self.pairs(table, depth, &mut empty)?;
            if empty && table.metatable().is_some_and(|m| &m == self.array_marker) {
                self.out.truncate(start);
                return self.raw("[]");
            }
            return self.raw("}");
        }
        let start = self.out.len();
        self.out.push('[');
        if self.sequence(table, length, depth)? {
            return self.raw("]");
        }
        // More than a sequence, or one whose keys are not kept in order.
        self.out.truncate(start);
        if let Some(items) = ordered(table)? {
            self.out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    self.out.push(',');
                }
                self.write(item, depth)?;
            }
            return self.raw("]");
        }
        self.out.push('{');
        self.pairs(table, depth, &mut true)?;
        self.raw("}")
    }

    /// Writes the items of a table whose only keys are 1..length, kept in order; false when it is not such a one.
    fn sequence(&mut self, table: &Table, length: usize, depth: usize) -> Result<bool, EncodeError> {
        let mut expected = 1;
        let mut failed = None;
        let walked = table.for_each(|key: Value, value: Value| {
            let in_order = matches!(key, Value::Integer(n) if usize::try_from(n) == Ok(expected));
            if !in_order {
                return Err(stop());
            }
            if expected > 1 {
                self.out.push(',');
            }
            expected += 1;
            self.write(&value, depth).map_err(|error| {
                failed = Some(error);
                stop()
            })
        });
        if let Some(error) = failed {
            return Err(error);
        }
        Ok(walked.is_ok() && expected == length + 1)
    }

    fn pairs(&mut self, table: &Table, depth: usize, first: &mut bool) -> Result<(), EncodeError> {
        let mut failed = None;
        let walked = table.for_each(|key: Value, value: Value| {
            if !std::mem::take(first) {
                self.out.push(',');
            }
            self.pair(&key, &value, depth).map_err(|error| {
                failed = Some(error);
                stop()
            })
        });
        match (failed, walked) {
            (Some(error), _) => Err(error),
            (None, Err(error)) => Err(EncodeError::Vm(error.to_string())),
            (None, Ok(())) => Ok(()),
        }
    }

    fn pair(&mut self, key: &Value, value: &Value, depth: usize) -> Result<(), EncodeError> {
        match key {
            Value::String(text) => self.key(text)?,
            Value::Integer(n) => {
                let _ = write!(self.out, "\"{n}\"");
            }
            Value::Number(n) => {
                self.out.push('"');
                self.number(*n)?;
                self.out.push('"');
            }
            other => return Err(EncodeError::Key(other.type_name())),
        }
        self.out.push(':');
        self.write(value, depth)
    }
}

// Ends a walk over a table early; never seen outside.
fn stop() -> mlua::Error {
    mlua::Error::CoroutineUnresumable
}

/// The values of a table whose keys are 1..n in any order.
fn ordered(table: &Table) -> Result<Option<Vec<Value>>, EncodeError> {
    let mut count = 0_i64;
    let walked = table.for_each(|key: Value, _: Value| match key {
        Value::Integer(n) if n >= 1 => {
            count += 1;
            Ok(())
        }
        _ => Err(stop()),
    });
    if walked.is_err() {
        return Ok(None);
    }
    let mut items = Vec::new();
    for index in 1..=count {
        match table.raw_get::<Value>(index) {
            Ok(Value::Nil) => return Ok(None),
            Ok(value) => items.push(value),
            Err(error) => return Err(EncodeError::Vm(error.to_string())),
        }
    }
    Ok(Some(items))
}

#[cfg(test)]
mod tests {
    use mlua::{Lua, Value};
    use proptest::prelude::*;

    use super::*;

    fn encode_in(lua: &Lua, marker: &Table, source: &str) -> Result<String, EncodeError> {
        let value: Value = lua.load(source).eval().expect("the test's Lua runs");
        let mut out = String::new();
        Encoder::new(&mut out, 100_000, marker).value(&value)?;
        Ok(out)
    }

    fn encode(source: &str) -> Result<String, EncodeError> {
        let lua = Lua::new();
        let marker = lua.create_table().expect("a table");
        lua.globals().set("marker", &marker).expect("set");
        encode_in(&lua, &marker, source)
    }

    #[test]
    fn whole_numbers_are_integers_and_what_json_lacks_is_null() {
        assert_eq!(
            encode("{1, 2.0, 2.5, -3, 1e15, 1e300, 0/0, 1/0, -0.0, 1e-9, 0.1}").as_deref(),
            Ok("[1,2,2.5,-3,1000000000000000,1e300,null,null,0,1e-9,0.1]")
        );
    }

    #[test]
    fn tables_are_arrays_when_their_keys_are_one_to_n() {
        assert_eq!(encode("{}").as_deref(), Ok("{}"));
        assert_eq!(encode("setmetatable({}, marker)").as_deref(), Ok("[]"));
        assert_eq!(encode("setmetatable({a = 1}, marker)").as_deref(), Ok(r#"{"a":1}"#));
        assert_eq!(encode("{{}, {1}, {a = {}}}").as_deref(), Ok(r#"[{},[1],{"a":{}}]"#));
        assert_eq!(encode("local t = {} t[3] = 'c' t[2] = 'b' t[1] = 'a' return t").as_deref(), Ok(r#"["a","b","c"]"#));
        assert_eq!(encode("{[2] = 1}").as_deref(), Ok(r#"{"2":1}"#));
        assert_eq!(encode("{[1.5] = 1}").as_deref(), Ok(r#"{"1.5":1}"#));
        let mixed = encode("{'x', k = true}").expect("encodes");
        let mixed: serde_json::Value = serde_json::from_str(&mixed).expect("is JSON");
        assert_eq!(mixed, serde_json::json!({"1": "x", "k": true}));
    }

    #[test]
    fn strings_are_escaped_and_made_utf8() {
        assert_eq!(
            encode(r#"'a"b\\c\n\t\1' .. string.char(0, 255) .. 'é'"#).as_deref(),
            Ok("\"a\\\"b\\\\c\\n\\t\\u0001\u{fffd}\u{fffd}é\"")
        );
    }

    #[test]
    fn known_keys_are_written_as_unknown_ones() {
        let lua = Lua::new();
        let marker = lua.create_table().expect("a table");
        let source = "return {['a\"b'] = {x = 1}, [string.char(255)] = 2, x = {x = 'x'}}";
        let value: Value = lua.load(source).eval().expect("the test's Lua runs");
        let keys = Keys::default();
        let write = |keys: &Keys| {
            let mut out = String::new();
            Encoder::new(&mut out, 1_000, &marker).knowing(keys).value(&value).expect("encodes");
            out
        };
        let (first, second) = (write(&keys), write(&keys));
        assert_eq!(first, second);
        let json: serde_json::Value = serde_json::from_str(&second).expect("is JSON");
        assert_eq!(json, serde_json::json!({"a\"b": {"x": 1}, "\u{fffd}": 2, "x": {"x": "x"}}));
        let mut out = String::new();
        let bounded = Encoder::new(&mut out, 10, &marker).knowing(&keys).value(&value);
        assert_eq!(bounded, Err(EncodeError::Size(10)), "bounded as ever");
    }

    #[test]
    fn circles_functions_and_odd_keys_are_errors() {
        assert_eq!(encode("local t = {} t.t = t return t"), Err(EncodeError::Depth));
        assert_eq!(encode("local t = {} t[1] = t return t"), Err(EncodeError::Depth));
        assert_eq!(encode("{print}"), Err(EncodeError::Type("function")));
        assert_eq!(encode("{[true] = 1}"), Err(EncodeError::Key("boolean")));
    }

    #[test]
    fn the_text_is_bounded_also_where_a_table_is_shared() {
        assert_eq!(encode("string.rep('x', 200000)"), Err(EncodeError::Size(100_000)));
        let shared = "local t = {1} for _ = 1, 30 do t = {t, t} end return t";
        assert_eq!(encode(shared), Err(EncodeError::Size(100_000)));
        let mixed = "local t = {1} for _ = 1, 30 do t = {t, also = 1} end return t";
        assert_eq!(encode(mixed), Err(EncodeError::Size(100_000)));
    }

    proptest! {
        #[test]
        fn any_string_survives(text in "[^\u{0}]*") {
            let lua = Lua::new();
            let marker = lua.create_table().expect("a table");
            let value = Value::String(lua.create_string(&text).expect("a string"));
            let mut out = String::new();
            Encoder::new(&mut out, 1_000_000, &marker).value(&value).expect("encodes");
            prop_assert_eq!(serde_json::from_str::<String>(&out).expect("is JSON"), text);
        }

        #[test]
        fn any_finite_number_survives(n in proptest::num::f64::NORMAL) {
            let lua = Lua::new();
            let marker = lua.create_table().expect("a table");
            let mut out = String::new();
            Encoder::new(&mut out, 1_000, &marker).value(&Value::Number(n)).expect("encodes");
            prop_assert_eq!(out.parse::<f64>().expect("a number"), n);
        }
    }
}
