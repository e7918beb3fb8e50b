//! The `ctx` of a join: a small flat object that the game's script may read.

use serde_json::{Map, Value};

const KEYS: usize = 8;
const KEY_BYTES: usize = 64;
const VALUE_BYTES: usize = 256;

/// The ctx as JSON text for the host ("" when there is none), or the reason why not.
pub(super) fn check(payload: &Map<String, Value>) -> Result<String, &'static str> {
    let ctx = match payload.get("ctx") {
        None | Some(Value::Null) => return Ok(String::new()),
        Some(Value::Object(ctx)) => ctx,
        Some(_) => return Err("invalid_join_ctx"),
    };
    if ctx.len() > KEYS {
        return Err("join_ctx_too_many_keys");
    }
    for (key, value) in ctx {
        if key.is_empty() || key.chars().any(char::is_control) {
            return Err("invalid_join_ctx_key");
        }
        if key.len() > KEY_BYTES {
            return Err("join_ctx_key_too_long");
        }
        match value {
            Value::Bool(_) => {}
            Value::Number(n) if n.is_i64() || n.is_u64() => {}
            Value::String(text) if text.len() > VALUE_BYTES => return Err("join_ctx_value_too_long"),
            Value::String(_) => {}
            _ => return Err("invalid_join_ctx_value"),
        }
    }
    serde_json::to_string(ctx).map_err(|_| "invalid_join_ctx")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::fields::object;

    fn checked(ctx: &str) -> Result<String, &'static str> {
        check(&object(&format!(r#"{{"ctx":{ctx}}}"#)))
    }

    #[test]
    fn flat_small_objects_pass() {
        assert_eq!(check(&Map::new()), Ok(String::new()));
        assert_eq!(checked("null"), Ok(String::new()));
        assert_eq!(checked(r#"{"code":"x","n":-3,"ok":true}"#), Ok(r#"{"code":"x","n":-3,"ok":true}"#.into()));
    }

    #[test]
    fn each_violation_has_its_reason() {
        let many: Vec<String> = (0..9).map(|n| format!(r#""{n}":{n}"#)).collect();
        for (ctx, reason) in [
            ("[]", "invalid_join_ctx"),
            ("\"x\"", "invalid_join_ctx"),
            (&format!("{{{}}}", many.join(",")), "join_ctx_too_many_keys"),
            (r#"{"":1}"#, "invalid_join_ctx_key"),
            (&format!(r#"{{"{}":1}}"#, "k".repeat(65)), "join_ctx_key_too_long"),
            (&format!(r#"{{"k":"{}"}}"#, "v".repeat(257)), "join_ctx_value_too_long"),
            (r#"{"k":1.5}"#, "invalid_join_ctx_value"),
            (r#"{"k":null}"#, "invalid_join_ctx_value"),
            (r#"{"k":{}}"#, "invalid_join_ctx_value"),
        ] {
            assert_eq!(checked(ctx), Err(reason), "{ctx}");
        }
    }
}
