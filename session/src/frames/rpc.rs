//! `rpc.call`: the envelope is checked, and there is no method yet.

use asobi_proto::error::ErrorCode;
use serde_json::{Value, json, value::RawValue};

use super::{Call, Work, fields};

pub(super) fn call(call: &Call<'_>) -> Option<Work> {
    let (code, message) = verdict(call);
    call.reply("rpc.error", json!({"error": {"code": code.as_str(), "message": message, "details": {}}}));
    None
}

fn verdict(call: &Call<'_>) -> (ErrorCode, &'static str) {
    let payload = fields::object(call.payload);
    if call.conn.player().is_none() {
        return (ErrorCode::UNAUTHENTICATED, "Send session.connect first.");
    }
    let cid = call.cid.map(RawValue::get);
    if !cid.is_some_and(|cid| cid.starts_with('"') && cid.len() > 2) {
        return (ErrorCode::RPC_INVALID_CID, "A call needs a cid that is a string, to be answered by.");
    }
    if payload.get("protocol").and_then(Value::as_i64) != Some(1) {
        return (ErrorCode::RPC_UNSUPPORTED_PROTOCOL, "The protocol must be 1.");
    }
    if !matches!(payload.get("params"), None | Some(Value::Object(_))) {
        return (ErrorCode::RPC_INVALID_PARAMS, "The params must be an object.");
    }
    (ErrorCode::RPC_UNKNOWN_METHOD, "There is no such method.")
}
