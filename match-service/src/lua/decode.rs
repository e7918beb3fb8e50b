//! JSON text to Lua values, bounded in depth.

use std::fmt;

use mlua::{Lua, LuaString, Table, Value};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::{encode::MAX_DEPTH, keys::Keys};

/// Reads JSON text. `null` is nil: absent in an object, a hole in an array. An empty array keeps being one (`array_marker` becomes its metatable).
///
/// # Errors
/// Not JSON, nested deeper than [`MAX_DEPTH`], or the VM is out of memory.
pub fn decode(lua: &Lua, array_marker: &Table, keys: &Keys, json: &str) -> mlua::Result<Value> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let seed = Seed { lua, array_marker, keys, depth: 0 };
    let value = seed.deserialize(&mut reader).map_err(mlua::Error::external)?;
    reader.end().map_err(mlua::Error::external)?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Seed<'a> {
    lua: &'a Lua,
    array_marker: &'a Table,
    keys: &'a Keys,
    depth: usize,
}

impl Seed<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom("nested too deeply"));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    #[expect(clippy::cast_precision_loss, reason = "Lua's numbers are doubles")]
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "Lua's numbers are doubles")]
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(self.lua.create_string(value).map_err(E::custom)?))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let table = self.lua.create_table().map_err(A::Error::custom)?;
        let mut index = 0;
        while let Some(item) = items.next_element_seed(seed)? {
            index += 1;
            if !item.is_nil() {
                table.raw_set(index, item).map_err(A::Error::custom)?;
            }
        }
        if index == 0 {
            table.set_metatable(Some(self.array_marker.clone())).map_err(A::Error::custom)?;
        }
        Ok(Value::Table(table))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let table = self.lua.create_table().map_err(A::Error::custom)?;
        while let Some(key) = entries.next_key_seed(Key(seed))? {
            let value = entries.next_value_seed(seed)?;
            if !value.is_nil() {
                table.raw_set(key, value).map_err(A::Error::custom)?;
            }
        }
        Ok(Value::Table(table))
    }
}

/// A name in an object.
struct Key<'a>(Seed<'a>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = LuaString;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<LuaString, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key<'_> {
    type Value = LuaString;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<LuaString, E> {
        self.0.keys.string(self.0.lua, key).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use mlua::{Lua, Value};

    use super::{super::encode::Encoder, Keys, decode};

    fn there_and_back(json: &str) -> Result<String, String> {
        let lua = Lua::new();
        let marker = lua.create_table().expect("a table");
        let value = decode(&lua, &marker, &Keys::default(), json).map_err(|error| error.to_string())?;
        let mut out = String::new();
        Encoder::new(&mut out, 10_000, &marker).value(&value).map_err(|error| error.to_string())?;
        Ok(out)
    }

    #[test]
    fn json_comes_back_as_it_went() {
        for json in ["{}", "[]", "[1,2.5,\"x\",true,[],{}]", r#"{"a":{"b":[1]}}"#, r#"{"é\n":-1}"#, "1.5"] {
            assert_eq!(there_and_back(json).as_deref(), Ok(json));
        }
        assert_eq!(there_and_back(r#"{"a":null}"#).as_deref(), Ok("{}"));
    }

    #[test]
    fn depth_is_bounded_and_garbage_is_an_error() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(there_and_back(&nested(32)).is_ok());
        assert!(there_and_back(&nested(33)).is_err());
        assert!(there_and_back("{\"a\":").is_err());
        assert!(there_and_back("1 2").is_err());
        assert!(there_and_back("").is_err());
    }

    #[test]
    fn numbers_are_doubles() {
        let lua = Lua::new();
        let marker = lua.create_table().expect("a table");
        let value = decode(&lua, &marker, &Keys::default(), "18446744073709551615").expect("decodes");
        assert!(matches!(value, Value::Number(n) if n > 1.8e19));
    }
}
