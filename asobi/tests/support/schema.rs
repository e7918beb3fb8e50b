//! Every frame that a play receives is held against the description of the protocol.

use std::{collections::BTreeMap, sync::LazyLock};

use jsonschema::Validator;
use serde_json::Value;

static DOCUMENT: LazyLock<Value> = LazyLock::new(asobi_session::asyncapi);

/// By type, what its frames must be; keys that are not described are refused.
static FRAMES: LazyLock<BTreeMap<String, Validator>> = LazyLock::new(|| {
    let messages = DOCUMENT["components"]["messages"].as_object().into_iter().flatten();
    let sent = messages.filter_map(|(name, message)| Some((name.strip_prefix("from.")?, message)));
    sent.map(|(name, message)| {
        let mut schema = message["payload"].clone();
        close(&mut schema);
        (name.to_owned(), jsonschema::validator_for(&schema).expect("a schema"))
    })
    .collect()
});

fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.get("properties").and_then(Value::as_object).is_some_and(|keys| !keys.is_empty()) {
                object.insert("additionalProperties".into(), false.into());
            }
            object.values_mut().for_each(close);
        }
        Value::Array(values) => values.iter_mut().for_each(close),
        _ => {}
    }
}

/// # Errors
/// If the frame is of no described type, or not as described.
pub fn check(frame: &Value) -> anyhow::Result<()> {
    let kind = frame["type"].as_str().unwrap_or_default();
    // What a game's script names itself.
    let known = FRAMES.get(kind).or_else(|| kind.strip_prefix("match.").and_then(|_| FRAMES.get("match.event")));
    let Some(validator) = known else { anyhow::bail!("{kind} is not in asyncapi.json: {frame}") };
    let problems: Vec<String> =
        validator.iter_errors(frame).map(|error| format!("{}: {error}", error.instance_path())).collect();
    anyhow::ensure!(problems.is_empty(), "not as asyncapi.json says: {problems:?} in {frame}");
    Ok(())
}

/// What came back for a frame of that type.
///
/// # Errors
/// If it is neither one of the described replies nor a refusal for one of the described reasons.
pub fn check_answer(kind: &str, answer: &Value) -> anyhow::Result<()> {
    let operation = &DOCUMENT["operations"][kind];
    // A play may well send what does not exist.
    let reasons = operation["x-reasons"].as_array().unwrap_or(const { &Vec::new() });
    if reasons.is_empty() {
        return Ok(());
    }
    if answer["type"] == "error" {
        let reason = &answer["payload"]["reason"];
        anyhow::ensure!(reasons.contains(reason), "{kind} is refused as asyncapi.json does not say: {answer}");
        return Ok(());
    }
    let reply = format!("#/channels/socket/messages/from.{}", answer["type"].as_str().unwrap_or_default());
    let replies = operation["reply"]["messages"].as_array().into_iter().flatten();
    let known = replies.filter_map(|message| message["$ref"].as_str()).any(|known| known == reply);
    anyhow::ensure!(known, "{kind} is answered as asyncapi.json does not say: {answer}");
    Ok(())
}
