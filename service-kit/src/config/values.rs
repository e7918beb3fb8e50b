//! Values: their types are those of the defaults; text from variables and flags is parsed to them.

use toml::Value;

/// What a key takes, in words that continue "expected …".
pub(super) fn expected_type(default: &Value) -> &'static str {
    match default {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Array(_) => "a list of texts",
        Value::Datetime(_) | Value::Table(_) => "a section",
    }
}

/// Parses text to the type of the default. `None` where it is no such value.
pub(super) fn parse(text: &str, default: &Value) -> Option<Value> {
    let trimmed = text.trim();
    match default {
        Value::String(_) => Some(Value::String(text.to_owned())),
        Value::Integer(_) => trimmed.replace('_', "").parse().ok().map(Value::Integer),
        Value::Float(_) => trimmed.parse().ok().filter(|n: &f64| n.is_finite()).map(Value::Float),
        Value::Boolean(_) => match trimmed {
            "true" | "1" => Some(Value::Boolean(true)),
            "false" | "0" => Some(Value::Boolean(false)),
            _ => None,
        },
        Value::Array(_) => parse_list(trimmed),
        Value::Datetime(_) | Value::Table(_) => None,
    }
}

/// Comma-separated entries; also a list as the file has it, for entries that contain commas.
fn parse_list(text: &str) -> Option<Value> {
    if text.starts_with('[') {
        let list: Value = text.parse().ok()?;
        return conform(list, &Value::Array(Vec::new()));
    }
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    Some(Value::Array(entries.map(|entry| Value::String(entry.to_owned())).collect()))
}

/// A value from a file, if it has the default's type. A whole number is taken where a number is expected.
pub(super) fn conform(value: Value, default: &Value) -> Option<Value> {
    match (&value, default) {
        (Value::Integer(n), Value::Float(_)) => {
            #[expect(clippy::cast_precision_loss, reason = "ratios: no such number is large")]
            let number = *n as f64;
            Some(Value::Float(number))
        }
        (Value::Array(entries), Value::Array(_)) => entries.iter().all(Value::is_str).then_some(value),
        _ => value.same_type(default).then_some(value),
    }
}
