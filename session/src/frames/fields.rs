//! Reading payloads: what is asked for, as it was given.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A payload as an object. The envelope was parsed, so this is JSON; one nested deeper than can be read is empty.
pub(super) fn object(payload: &str) -> Map<String, Value> {
    serde_json::from_str(payload).unwrap_or_default()
}

pub(super) fn text<'a>(payload: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    payload.get(field).and_then(Value::as_str)
}

/// A field that may be absent or null, but not of another type.
pub(super) fn optional<T: DeserializeOwned>(payload: &Map<String, Value>, field: &str) -> Result<Option<T>, ()> {
    match payload.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => T::deserialize(value).map(Some).map_err(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields_are_absent_null_or_right() {
        let payload = object(r#"{"a":true,"b":null,"c":"x"}"#);
        assert_eq!(optional::<bool>(&payload, "a"), Ok(Some(true)));
        assert_eq!(optional::<bool>(&payload, "b"), Ok(None));
        assert_eq!(optional::<bool>(&payload, "none"), Ok(None));
        assert_eq!(optional::<bool>(&payload, "c"), Err(()));
        assert_eq!(text(&payload, "c"), Some("x"));
    }

    #[test]
    fn a_bottomless_payload_reads_as_empty() {
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
        assert!(object(&deep).is_empty());
    }
}
