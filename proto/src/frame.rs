//! The client's envelope: parsing what arrives and writing what leaves. A frame is written once and then shared.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::ErrorCode;

/// A parsed envelope that borrows from the text it came in.
#[derive(Debug)]
pub struct Incoming<'a> {
    pub kind: Cow<'a, str>,
    /// Echoed as it came. Of any JSON type: one that is null was given all the same, and is answered with null.
    pub cid: Option<&'a RawValue>,
    /// Always the text of a JSON object, `{}` when it was missing.
    pub payload: &'a str,
    /// Whether the frame had a payload at all.
    pub has_payload: bool,
}

/// What is wrong with an envelope, and as much of it as could be read, so that the answer reaches its question.
#[derive(Debug)]
pub struct Malformed<'a> {
    /// `invalid_json`, `invalid_message` or `invalid_payload`.
    pub reason: &'static str,
    pub cid: Option<&'a RawValue>,
    pub kind: Option<String>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type", default)]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    cid: Option<&'a RawValue>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

/// Whatever stands there, null too.
fn given<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

impl<'a> Incoming<'a> {
    /// # Errors
    /// The first of: not JSON, no string `type`, `payload` not an object.
    pub fn parse(text: &'a str) -> Result<Self, Malformed<'a>> {
        let fail = |reason, cid, kind| Err(Malformed { reason, cid, kind });
        // A struct can be read from a JSON array too, which no client may rely on.
        if !text.trim_start().starts_with('{') {
            let json = serde_json::from_str::<&RawValue>(text).is_ok();
            return fail(if json { "invalid_message" } else { "invalid_json" }, None, None);
        }
        let Ok(envelope) = serde_json::from_str::<Envelope<'a>>(text) else {
            return fail("invalid_json", None, None);
        };
        let kind = envelope.kind.and_then(|raw| string(raw.get()));
        let Some(kind) = kind else {
            return fail("invalid_message", envelope.cid, None);
        };
        let payload = envelope.payload.map(RawValue::get);
        if payload.is_some_and(|p| !p.starts_with('{')) {
            return fail("invalid_payload", envelope.cid, Some(kind.into_owned()));
        }
        Ok(Self { kind, cid: envelope.cid, payload: payload.unwrap_or("{}"), has_payload: payload.is_some() })
    }
}

/// A JSON string's text, borrowed where it has no escapes.
fn string(raw: &str) -> Option<Cow<'_, str>> {
    match serde_json::from_str::<&str>(raw) {
        Ok(plain) => Some(Cow::Borrowed(plain)),
        Err(_) => serde_json::from_str::<String>(raw).ok().map(Cow::Owned),
    }
}

#[derive(Serialize)]
struct Outgoing<'a, P: Serialize> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cid: Option<&'a RawValue>,
    payload: P,
}

/// Writes a reply (with the request's `cid`, if it had one).
pub fn reply(kind: &str, cid: Option<&RawValue>, payload: impl Serialize) -> String {
    serde_json::to_string(&Outgoing { kind, cid, payload }).unwrap_or_else(|_| unwritable(kind))
}

/// Writes a push: a frame without a `cid`.
pub fn push(kind: &str, payload: impl Serialize) -> String {
    reply(kind, None, payload)
}

/// Writes a push around a payload that is JSON text already.
#[must_use]
pub fn push_raw(kind: &str, payload: &str) -> String {
    let mut frame = String::with_capacity(payload.len() + kind.len() + 24);
    frame.push_str("{\"type\":\"");
    debug_assert!(!kind.contains(['"', '\\']), "a frame type is plain text");
    frame.push_str(kind);
    frame.push_str("\",\"payload\":");
    frame.push_str(payload);
    frame.push('}');
    frame
}

// Our payload types have string keys and finite numbers, the two things JSON can refuse.
fn unwritable(kind: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"payload\":{{}}}}")
}

/// An `error` frame in the making.
#[derive(Debug, Clone)]
pub struct ErrorFrame<'a> {
    pub reason: &'a str,
    pub code: ErrorCode,
    pub message: &'a str,
    pub details: serde_json::Map<String, serde_json::Value>,
    /// The offending frame's type; sent when there is no `cid` to pair by.
    pub kind: Option<&'a str>,
}

impl<'a> ErrorFrame<'a> {
    /// The error of a flat reason: under its own code, or as `ws.request_failed` with the reason in its details.
    #[must_use]
    pub fn for_reason(reason: &'a str, message: &'a str) -> Self {
        let code = ErrorCode::for_reason(reason);
        let mut details = serde_json::Map::new();
        if code == ErrorCode::WS_REQUEST_FAILED {
            details.insert("reason".into(), reason.into());
        }
        Self { reason, code, message, details, kind: None }
    }

    #[must_use]
    pub fn detail(mut self, key: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.insert(key.into(), value.into());
        self
    }

    #[must_use]
    pub fn of_type(mut self, kind: &'a str) -> Self {
        self.kind = Some(kind);
        self
    }

    #[must_use]
    pub fn write(&self, cid: Option<&RawValue>) -> String {
        let mut payload = serde_json::json!({
            "reason": self.reason,
            "error": {"code": self.code.as_str(), "message": self.message, "details": self.details},
        });
        if let (None, Some(kind), Some(object)) = (cid, self.kind, payload.as_object_mut()) {
            object.insert("type".into(), kind.into());
        }
        reply("error", cid, payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> &'static str {
        Incoming::parse(text).expect_err("malformed").reason
    }

    #[test]
    fn parses_what_clients_send() {
        let frame = Incoming::parse(r#" {"type":"chat.join","cid":7,"payload":{"channel_id":"x"}}"#).expect("parses");
        assert_eq!((&*frame.kind, frame.payload), ("chat.join", r#"{"channel_id":"x"}"#));
        assert_eq!(frame.cid.map(RawValue::get), Some("7"));
        assert!(matches!(frame.kind, Cow::Borrowed(_)));
        let escaped = Incoming::parse(r#"{"type":"chat\u002ejoin"}"#).expect("parses");
        assert_eq!(escaped.kind, "chat.join");
        let bare = Incoming::parse(r#"{"type":"session.heartbeat"}"#).expect("parses");
        assert!(bare.cid.is_none() && bare.payload == "{}" && !bare.has_payload);
        for cid in ["null", "true", "-1.5", r#""""#, r#"[1,{"a":null}]"#, "{}"] {
            let text = format!(r#"{{"type":"session.heartbeat","cid":{cid}}}"#);
            let frame = Incoming::parse(&text).expect("parses");
            assert_eq!(frame.cid.map(RawValue::get), Some(cid));
            assert!(reply("session.heartbeat", frame.cid, serde_json::json!({})).contains(&format!(r#""cid":{cid},"#)));
        }
    }

    #[test]
    fn names_what_is_malformed() {
        assert_eq!(reason(r#"{"type":"#), "invalid_json");
        assert_eq!(reason("[1]"), "invalid_message");
        assert_eq!(reason(r#"["session.heartbeat"]"#), "invalid_message");
        assert_eq!(reason("nonsense"), "invalid_json");
        assert_eq!(reason(r#"{"type":5}"#), "invalid_message");
        assert_eq!(reason(r#"{"payload":{}}"#), "invalid_message");
        let bad = Incoming::parse(r#"{"type":"match.input","cid":"i3","payload":"str"}"#).expect_err("malformed");
        assert_eq!((bad.reason, bad.cid.map(RawValue::get)), ("invalid_payload", Some(r#""i3""#)));
    }

    #[test]
    fn a_deep_payload_does_not_exhaust_the_stack() {
        let deep = format!(r#"{{"type":"x","payload":{{"a":{}{}}}}}"#, "[".repeat(30_000), "]".repeat(30_000));
        assert!(Incoming::parse(&deep).is_ok());
    }

    #[test]
    fn writes_frames() {
        let cid = RawValue::from_string("\"7\"".into()).expect("raw");
        assert_eq!(
            reply("chat.joined", Some(&cid), serde_json::json!({"channel_id": "c"})),
            r#"{"type":"chat.joined","cid":"7","payload":{"channel_id":"c"}}"#
        );
        assert_eq!(push_raw("match.state", r#"{"tick":1}"#), r#"{"type":"match.state","payload":{"tick":1}}"#);
        let error = ErrorFrame::for_reason("unknown_type", "No such type.").of_type("nope").write(None);
        assert_eq!(
            error,
            r#"{"type":"error","payload":{"error":{"code":"unknown_type","details":{},"message":"No such type."},"reason":"unknown_type","type":"nope"}}"#
        );
    }
}
