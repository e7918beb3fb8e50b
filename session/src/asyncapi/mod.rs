//! The WebSocket side as a document: every frame, made from two tables beside the frames themselves. A test holds them
//! against the types that are routed; the plays hold what is sent against the document.

mod inbound;
mod outbound;
mod shape;

use serde_json::{Map, Value, json};

use crate::{close::Close, frames};

const ABOUT: &str = "One socket per client: text frames with one JSON envelope in both directions. A request that came \
    with a cid gets exactly one frame with that cid, its reply or an error; a push never has one. A client must tolerate \
    types and keys it does not know: the scripts of games name their own match.<event>.";

/// The AsyncAPI 3.0 document, seen from the server: it receives what clients send.
#[must_use]
pub fn asyncapi() -> Value {
    let (mut messages, mut operations) = (Map::new(), Map::new());
    for frame in outbound::all() {
        messages
            .insert(sent(frame.kind), message(frame.kind, frame.about, &frame.payload, frame.new, frame.capability));
        if frame.push {
            operations.insert(format!("push.{}", frame.kind), push(frame.kind));
        }
    }
    for frame in inbound::all() {
        messages.insert(received(frame.kind), message(frame.kind, frame.about, &frame.payload, frame.new, None));
        operations.insert(frame.kind.to_owned(), request(&frame));
    }
    messages.insert(sent("match.event"), event());
    operations.insert("push.match.event".into(), push("match.event"));
    let on_channel: Map<String, Value> =
        messages.keys().map(|name| (name.clone(), json!({"$ref": format!("#/components/messages/{name}")}))).collect();
    json!({
        "asyncapi": "3.0.0",
        "info": {"title": "Asobi", "version": "1.0", "description": ABOUT, "license": {"name": "Apache-2.0"}},
        "defaultContentType": "application/json",
        "channels": {"socket": {
            "address": "/ws",
            "description": "On every gateway and on every match host.",
            "messages": on_channel,
            "bindings": {"ws": {"method": "GET"}},
            "x-close-codes": close_codes(),
        }},
        "operations": operations,
        "components": {"messages": messages},
    })
}

/// The types that the server sends, for whoever else has a list of them.
#[cfg(test)]
pub(crate) fn kinds_out() -> Vec<&'static str> {
    outbound::all().into_iter().map(|frame| frame.kind).collect()
}

fn received(kind: &str) -> String {
    format!("to.{kind}")
}

fn sent(kind: &str) -> String {
    format!("from.{kind}")
}

fn on_channel(name: &str) -> Value {
    json!({"$ref": format!("#/channels/socket/messages/{name}")})
}

fn message(kind: &str, about: &str, payload: &Value, new: bool, capability: Option<&str>) -> Value {
    let envelope = json!({
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {"const": kind},
            "cid": {"description": "The client's, of any JSON type."},
            "payload": shape::schema(payload),
        },
    });
    let mut message = json!({"name": kind, "summary": about, "payload": envelope});
    if new {
        message[shape::NEW] = true.into();
    }
    if let Some(capability) = capability {
        message["x-capability"] = capability.into();
    }
    message
}

/// What the scripts of games send under names of their own.
fn event() -> Value {
    let mut event = message(
        "match.event",
        "A script's broadcast: match. and a name the script chose, 1 to 64 of A-Za-z0-9_-.",
        &json!({}),
        false,
        None,
    );
    event["payload"]["properties"]["type"] = json!({"type": "string", "pattern": "^match\\.[A-Za-z0-9_-]{1,64}$"});
    event["payload"]["properties"]["payload"] = json!({});
    event
}

fn push(kind: &str) -> Value {
    json!({"action": "send", "channel": {"$ref": "#/channels/socket"}, "messages": [on_channel(&sent(kind))]})
}

fn request(frame: &inbound::Inbound) -> Value {
    let mut reasons: Vec<&str> = inbound::ANY_REASON.into_iter().chain(frame.reasons.iter().copied()).collect();
    reasons.sort_unstable();
    let answers: Vec<Value> =
        frame.replies.iter().copied().chain(["error"]).map(|kind| on_channel(&sent(kind))).collect();
    json!({
        "action": "receive",
        "channel": {"$ref": "#/channels/socket"},
        "summary": frame.about,
        "messages": [on_channel(&received(frame.kind))],
        "reply": {"channel": {"$ref": "#/channels/socket"}, "messages": answers},
        "x-reasons": reasons,
        "x-needs-session": !frames::open_to_anyone(frame.kind),
    })
}

fn close_codes() -> Vec<Value> {
    Close::TABLE
        .into_iter()
        .map(|(_, code, reason, advice)| json!({"code": code, "reason": reason, "advice": format!("{advice:?}")}))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_that_is_routed_is_described_and_no_other() {
        let described: Vec<&str> = inbound::all().iter().map(|frame| frame.kind).collect();
        assert_eq!(frames::types().collect::<Vec<_>>(), described, "add the frame to session/src/asyncapi/inbound.rs");
    }

    #[test]
    fn every_reply_is_described_and_every_reply_answers_something() {
        let outbound = outbound::all();
        let inbound = inbound::all();
        for frame in &inbound {
            for reply in frame.replies {
                assert!(outbound.iter().any(|o| o.kind == *reply), "{} is answered by {reply}", frame.kind);
            }
        }
        for frame in outbound.iter().filter(|frame| !frame.push) {
            assert!(inbound.iter().any(|i| i.replies.contains(&frame.kind)), "{} answers nothing", frame.kind);
        }
    }

    #[test]
    fn references_lead_somewhere() {
        fn walk(document: &Value, value: &Value) {
            match value {
                Value::Object(object) => {
                    if let Some(to) = object.get("$ref").and_then(Value::as_str) {
                        assert!(document.pointer(&to[1..]).is_some(), "{to}");
                    }
                    object.values().for_each(|value| walk(document, value));
                }
                Value::Array(values) => values.iter().for_each(|value| walk(document, value)),
                _ => {}
            }
        }
        let document = asyncapi();
        walk(&document, &document);
        assert_eq!(document["operations"]["chat.join"]["x-needs-session"], true);
        assert_eq!(document["operations"]["session.connect"]["x-needs-session"], false);
    }

    /// Samples of the first release, with the keys that came later taken as optional.
    #[test]
    fn the_samples_of_the_first_release_fit() {
        let document = asyncapi();
        let mut seen = 0;
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/asyncapi/fixtures")).expect("a folder")
        {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("text");
            let frame: Value = serde_json::from_str(&text).expect("JSON");
            let kind = frame["type"].as_str().expect("a type");
            let mut schema = document["components"]["messages"][sent(kind)]["payload"].clone();
            assert!(schema.is_object(), "{kind} is not described");
            let payload = &mut schema["properties"]["payload"];
            let properties = payload["properties"].clone();
            if let Some(required) = payload["required"].as_array_mut() {
                required.retain(|key| properties[key.as_str().unwrap_or_default()][shape::NEW] != true);
            }
            let validator = jsonschema::validator_for(&schema).expect("a schema");
            let problems: Vec<String> = validator.iter_errors(&frame).map(|e| e.to_string()).collect();
            assert!(problems.is_empty(), "{}: {problems:?}", path.display());
            seen += 1;
        }
        assert_eq!(seen, 18);
    }
}
