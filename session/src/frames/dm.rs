//! `dm.send`.

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Asker, Call, Work, chat, fields};
use crate::{chat::DirectError, conn::Turn, hub::Hub};

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
    let (hub, asker, sender) = (Arc::clone(call.hub), call.asker(), call.conn.player()?);
    let message = Direct { sender, recipient, content, key };
    if !hub.moderation.has_filter() {
        return Some(Box::pin(async move { deliver(&hub, &asker, message, None).await }));
    }
    // As in a channel: it keeps its place among what the connection says, and holds up nothing else.
    match Turn::take(call.conn) {
        None => chat::crowded(&asker),
        Some(turn) => call.hub.spawn("chat filter", async move { deliver(&hub, &asker, message, Some(turn)).await }),
    }
    None
}

struct Direct {
    sender: Uuid,
    recipient: Uuid,
    content: String,
    key: Option<String>,
}

async fn deliver(hub: &Arc<Hub>, asker: &Asker, message: Direct, mut turn: Option<Turn>) {
    let Direct { sender, recipient, content, key } = message;
    let judged = hub.judge_direct(sender, recipient, content).await;
    if let Some(turn) = &mut turn {
        turn.come().await;
    }
    let sent = match judged {
        Ok(content) => hub.store_direct(sender, recipient, content, key).await,
        Err(error) => Err(error),
    };
    match sent {
        Ok((channel_id, _)) => asker.reply("dm.sent", json!({"channel_id": channel_id})),
        Err(DirectError::Muted(mute)) => chat::muted(asker, mute),
        Err(DirectError::Refused) => chat::refused(asker),
        Err(DirectError::ContentEmpty) => asker.error("content_empty", "The content is empty."),
        Err(DirectError::ContentTooLarge) => asker.error("content_too_large", "The content is too large."),
        Err(DirectError::Blocked) => asker.error("blocked", "One of you blocks the other."),
        Err(DirectError::Unavailable) => asker.not_ready(),
        Err(DirectError::Send(error)) => chat::failed(asker, error),
    }
}
