//! `presence.update`.

use serde_json::{Value, json};

use super::{Call, Work, fields};

const STATUS_BYTES: usize = 64;

pub(super) fn update(call: &Call<'_>) -> Option<Work> {
    let payload = fields::object(call.payload);
    let status = match payload.get("status") {
        None | Some(Value::Null) => Value::from("online"),
        // Clients are known to send numbers; they are seen as text by others.
        Some(status @ (Value::String(_) | Value::Number(_) | Value::Bool(_))) => status.clone(),
        Some(_) => {
            call.error("invalid_payload", "The status must be a string.");
            return None;
        }
    };
    let text = status.as_str().map_or_else(|| status.to_string(), ToOwned::to_owned);
    if text.len() > STATUS_BYTES || text.contains('\0') {
        call.error("invalid_payload", "The status is at most 64 bytes of text.");
        return None;
    }
    if let Some(player) = call.conn.player() {
        if call.hub.presence.update(player, text) {
            call.reply("presence.updated", json!({"status": status}));
        } else {
            call.error("rate_limited", "Too many changes wait to be written.");
        }
    }
    None
}
