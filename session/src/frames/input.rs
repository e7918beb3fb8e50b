//! What an input is: the payload itself, or what its only key `data` wraps.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{
    Deserialize,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// The input, JSON text of an object; an error when `data` is a string that holds none.
pub(super) fn unwrapped(payload: &str) -> Result<Bytes, ()> {
    // Nearly every input is not wrapped, and is not looked at.
    if !payload.contains("data") {
        return Ok(Bytes::copy_from_slice(payload.as_bytes()));
    }
    let Some(data) = serde_json::from_str::<OnlyData<'_>>(payload).ok().and_then(|only| only.0) else {
        return Ok(Bytes::copy_from_slice(payload.as_bytes()));
    };
    let text = data.get();
    if text.starts_with('{') {
        return Ok(Bytes::copy_from_slice(text.as_bytes()));
    }
    if !text.starts_with('"') {
        return Ok(Bytes::copy_from_slice(payload.as_bytes()));
    }
    let inner: Cow<'_, str> = serde_json::from_str(text).map_err(drop)?;
    let inner = inner.trim();
    if !inner.starts_with('{') || serde_json::from_str::<&RawValue>(inner).is_err() {
        return Err(());
    }
    Ok(Bytes::copy_from_slice(inner.as_bytes()))
}

/// The value of `data`, where the object has no other key.
struct OnlyData<'a>(Option<&'a RawValue>);

impl<'de> Deserialize<'de> for OnlyData<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = OnlyData<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut data, mut others) = (None, false);
                while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                    if key == "data" {
                        data = Some(map.next_value::<&'de RawValue>()?);
                    } else {
                        others = true;
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(OnlyData(data.filter(|_| !others)))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(payload: &str) -> Result<String, ()> {
        unwrapped(payload).map(|bytes| String::from_utf8(bytes.to_vec()).expect("text"))
    }

    #[test]
    fn plain_payloads_are_the_input() {
        for plain in [r#"{"move_x":1}"#, "{}", r#"{"data":5}"#, r#"{"data":{"x":1},"more":2}"#, r#"{"a":"data"}"#] {
            assert_eq!(read(plain).as_deref(), Ok(plain));
        }
    }

    #[test]
    fn data_alone_is_unwrapped() {
        assert_eq!(read(r#"{"data":{"move_x":1}}"#).as_deref(), Ok(r#"{"move_x":1}"#));
        assert_eq!(read(r#"{ "data" : "{\"move_x\": 1}" }"#).as_deref(), Ok(r#"{"move_x": 1}"#));
        assert_eq!(read(r#"{"data":"{nope"}"#), Err(()));
        assert_eq!(read(r#"{"data":"[1]"}"#), Err(()));
        assert_eq!(read(r#"{"data":"{}x"}"#), Err(()));
    }
}
