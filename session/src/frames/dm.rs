//! `dm.send`.

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Asker, Call, Work, chat, fields};
use crate::{chat::DirectError, hub::Hub};

pub(super) fn send(call: &Call<'_>) -> Option<Work> {
    let mut payload = fields::object(call.payload);
    let content = match payload.remove("content") {
        Some(Value::String(content)) if !content.contains('\0') => content,
        _ => {
            call.error("invalid_payload", "The content must be a string.");
            return None;
        }
    };
    let Some(recipient) = fields::text(&payload, "recipient_id") else {
        call.error("invalid_payload", "The recipient_id must be a string.");
        return None;
    };
    let Ok(recipient) = Uuid::try_parse(recipient) else {
        call.error("invalid_input", "The recipient_id is no player's id.");
        return None;
    };
    let Ok(key) = chat::key(&payload) else {
        call.error("invalid_payload", "The idempotency_key is a string of at most 64 bytes.");
        return None;
    };
    let (hub, asker) = (Arc::clone(call.hub), call.asker());
    Some(Box::pin(async move { deliver(&hub, &asker, recipient, content, key).await }))
}

async fn deliver(hub: &Arc<Hub>, asker: &Asker, recipient: Uuid, content: String, key: Option<String>) {
    let Some(player) = asker.conn.player() else { return };
    match hub.send_direct(player, recipient, content, key).await {
        Ok((channel_id, _)) => asker.reply("dm.sent", json!({"channel_id": channel_id})),
        Err(DirectError::ContentEmpty) => asker.error("content_empty", "The content is empty."),
        Err(DirectError::ContentTooLarge) => asker.error("content_too_large", "The content is too large."),
        Err(DirectError::Blocked) => asker.error("blocked", "One of you blocks the other."),
        Err(DirectError::Unavailable) => asker.not_ready(),
        Err(DirectError::Send(error)) => chat::failed(asker, error),
    }
}
