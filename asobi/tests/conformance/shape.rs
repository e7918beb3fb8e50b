//! Shapes: JSON that says of what kind a value is.
//!
//! - `"string"`, `"int"`, `"number"`, `"bool"`, `"object"`, `"any"`; `"uuid"`: lower case, with hyphens; `"time"`: RFC
//!   3339, UTC; `"ms"`: Unix milliseconds; with `?` at the end null will do
//! - `"=text"` is that very text; true, false, null and numbers are themselves
//! - an object has exactly these keys; one whose name ends in `?` may be absent
//! - `[]` is the empty list, `[shape]` a list with at least one entry, all of that shape
//! - `"@name"` is one of the shapes below

use serde_json::{Map, Value, json};

fn named(name: &str) -> Option<Value> {
    Some(match name {
        "account" => {
            json!({"player_id": "uuid", "username": "string", "access_token": "string", "refresh_token": "string"})
        }
        "player" => {
            json!({"id": "uuid", "username": "string", "display_name": "string?", "avatar_url": "string?",
                   "metadata": "object", "inserted_at": "time", "updated_at": "time"})
        }
        "friend" => {
            json!({"id": "uuid", "player_id": "uuid", "friend_id": "uuid", "status": "string", "inserted_at": "time",
                   "updated_at": "time"})
        }
        "history" => {
            json!({"id": "uuid", "channel_id": "string", "channel_type": "string", "sender_id": "uuid",
                   "content": "string", "metadata": "object", "sent_at": "time", "seq": "int"})
        }
        "entry" => {
            json!({"leaderboard_id": "string", "player_id": "uuid", "score": "number", "sub_score": "number",
                   "rank": "int", "updated_at": "time"})
        }
        "queued" => {
            json!({"ticket_id": "uuid", "status": "=pending", "players_needed": "int?", "already_queued": "bool",
                   "estimated_wait_ms": "int?", "position": "int?"})
        }
        "live" => {
            json!({"match_id": "uuid", "mode": "string", "status": "=running", "player_count": "int",
                   "max_players": "int", "joinable": "bool"})
        }
        "finished" => {
            json!({"id": "uuid", "mode": "string", "status": "=finished", "result": "object", "started_at": "time",
                   "finished_at": "time", "inserted_at": "time"})
        }
        "connected" => {
            json!({"player_id": "uuid", "wire": "=json", "node_id": "string", "match_id": "uuid?",
                   "capabilities": "list", "unread": "int"})
        }
        "joined" => {
            json!({"match_id": "uuid", "mode": "string", "status": "=running", "player_count": "int",
                   "max_players": "int", "players": ["uuid"], "listed": "bool", "joinable": "bool"})
        }
        "message" => {
            json!({"channel_id": "string", "sender_id": "uuid", "content": "string", "sent_at": "ms",
                   "message_id": "uuid", "seq": "int"})
        }
        _ => return None,
    })
}

/// What of the value is not of that shape, as `path: problem`.
pub fn problems(shape: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(shape, value, "", &mut found);
    found
}

fn compare(shape: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let mut problem = |text: String| found.push(format!("{}: {text}", if path.is_empty() { "it" } else { path }));
    match (shape, value) {
        (Value::String(kind), _) => match kind.strip_prefix('@') {
            Some(name) => match named(name) {
                Some(shape) => compare(&shape, value, path, found),
                None => problem(format!("there is no shape {name}")),
            },
            None if !is(kind, value) => problem(format!("must be {kind}, is {value}")),
            None => {}
        },
        (Value::Object(keys), Value::Object(fields)) => compare_keys(keys, fields, path, found),
        (Value::Array(of), Value::Array(entries)) => match of.first() {
            None if !entries.is_empty() => problem(format!("must be empty, has {} entries", entries.len())),
            Some(_) if entries.is_empty() => problem("must not be empty".into()),
            Some(of) => {
                entries.iter().enumerate().for_each(|(n, entry)| compare(of, entry, &format!("{path}/{n}"), found));
            }
            None => {}
        },
        (expected, got) if expected != got => problem(format!("must be {expected}, is {got}")),
        _ => {}
    }
}

fn compare_keys(keys: &Map<String, Value>, fields: &Map<String, Value>, path: &str, found: &mut Vec<String>) {
    for (key, shape) in keys {
        let (name, optional) = key.strip_suffix('?').map_or((key.as_str(), false), |name| (name, true));
        match fields.get(name) {
            Some(value) => compare(shape, value, &format!("{path}/{name}"), found),
            None if !optional => found.push(format!("{path}/{name}: is missing")),
            None => {}
        }
    }
    let known = |field: &String| keys.contains_key(field) || keys.contains_key(&format!("{field}?"));
    found.extend(fields.keys().filter(|field| !known(field)).map(|field| format!("{path}/{field}: is unexpected")));
}

fn is(kind: &str, value: &Value) -> bool {
    if let Some(text) = kind.strip_prefix('=') {
        return value == text;
    }
    if let Some(kind) = kind.strip_suffix('?') {
        return value.is_null() || is(kind, value);
    }
    let text = || value.as_str().unwrap_or_default();
    match kind {
        "any" => true,
        "string" => value.is_string(),
        "int" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "bool" => value.is_boolean(),
        "object" => value.is_object(),
        "list" => value.is_array(),
        "uuid" => uuid::Uuid::try_parse(text()).is_ok_and(|id| id.hyphenated().to_string() == text()),
        "time" => text().len() >= 20 && text().ends_with('Z') && text().as_bytes()[10] == b'T',
        "ms" => value.as_i64().is_some_and(|ms| ms > 1_600_000_000_000 && ms < 100_000_000_000_000),
        _ => false,
    }
}

#[test]
fn shapes_tell_kinds_apart() {
    let shape = json!({"a": "int", "b?": ["uuid"], "c": "string?", "d": "=x", "e": [], "f": "time"});
    let good = json!({"a": 1, "c": null, "d": "x", "e": [], "f": "2026-11-22T12:16:42Z"});
    assert_eq!(problems(&shape, &good), Vec::<String>::new());
    let bad = json!({"a": 1.5, "b": [], "d": "y", "e": [1], "f": "now", "g": 0});
    assert_eq!(problems(&shape, &bad).len(), 7, "{:?}", problems(&shape, &bad));
}
