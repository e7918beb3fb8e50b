//! A short notation for payloads, and the JSON Schema it stands for.
//!
//! - `"string"`, `"int"`, `"number"`, `"bool"`, `"object"`, `"any"`; `"uuid"`; `"ms"`: Unix milliseconds; with `?` at the end
//!   null will do; `"a|b"` is one of these very texts, `"=a"` that one
//! - an object has these keys and may have more; one whose name ends in `?` may be absent, one that ends in `+` is sent here
//!   and was not by every server of the first release
//! - `[shape]` is a list of that

use serde_json::{Map, Value, json};

/// Of keys that came after the first release.
pub const NEW: &str = "x-new";

pub fn schema(shape: &Value) -> Value {
    match shape {
        Value::String(kind) => scalar(kind),
        Value::Array(of) => json!({"type": "array", "items": of.first().map_or(json!({}), schema)}),
        Value::Object(keys) => object(keys),
        _ => json!({}),
    }
}

fn scalar(kind: &str) -> Value {
    if let Some(text) = kind.strip_prefix('=') {
        return json!({"const": text});
    }
    if kind.contains('|') {
        return json!({"type": "string", "enum": kind.split('|').collect::<Vec<_>>()});
    }
    let (kind, or_null) = kind.strip_suffix('?').map_or((kind, false), |kind| (kind, true));
    let mut schema = match kind {
        "any" => return json!({}),
        "int" => json!({"type": "integer"}),
        "number" => json!({"type": "number"}),
        "bool" => json!({"type": "boolean"}),
        "object" => json!({"type": "object"}),
        "uuid" => json!({"type": "string", "format": "uuid"}),
        "ms" => json!({"type": "integer", "minimum": 0, "description": "Unix milliseconds"}),
        _ => json!({"type": "string"}),
    };
    if or_null {
        schema["type"] = json!([schema["type"], "null"]);
    }
    schema
}

fn object(keys: &Map<String, Value>) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (key, shape) in keys {
        let (name, new, needed) = match (key.strip_suffix('?'), key.strip_suffix('+')) {
            (Some(name), _) => (name, false, false),
            (None, Some(name)) => (name, true, true),
            (None, None) => (key.as_str(), false, true),
        };
        let mut of = schema(shape);
        if new {
            of[NEW] = true.into();
        }
        properties.insert(name.to_owned(), of);
        if needed {
            required.push(name);
        }
    }
    json!({"type": "object", "properties": properties, "required": required})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notation_is_a_schema() {
        let made = schema(&json!({"id": "uuid", "n?": "int?", "new+": ["a|b"]}));
        assert_eq!(made["required"], json!(["id", "new"]));
        assert_eq!(made["properties"]["n"], json!({"type": ["integer", "null"]}));
        assert_eq!(made["properties"]["new"]["items"]["enum"], json!(["a", "b"]));
        assert_eq!(made["properties"]["new"][NEW], json!(true));
        let validator = jsonschema::validator_for(&made).expect("a schema");
        assert!(validator.is_valid(&json!({"id": "x", "new": ["a"], "n": null, "later": 1})));
        assert!(!validator.is_valid(&json!({"id": "x", "new": ["c"]})));
        assert!(!validator.is_valid(&json!({"id": "x"})));
    }
}
