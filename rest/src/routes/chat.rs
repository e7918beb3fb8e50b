//! `/chat/*`: a channel's history, for those who may join it.

use std::collections::HashMap;

use asobi_store::chat::{self, Message};
use axum::{Router, extract::State, routing::get};
use serde_json::{Value, json};

use super::{Json, Shared, bounded, parsed};
use crate::{
    access,
    error::Result,
    extract::{Path, Query},
    middleware::Caller,
    render::timestamp,
};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/chat/{channel_id}/history", get(history))
}

async fn history(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Path(channel): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json> {
    access::check(&rest, claims.player_id, &channel).await?;
    let limit = bounded(query.get("limit").map(String::as_str), 50, 1, 200);
    let before = parsed(query.get("before_seq").map(String::as_str));
    let messages = chat::history(&rest.pool, &channel, before, limit).await?;
    let messages: Vec<Value> = messages.into_iter().map(answer).collect();
    Ok(axum::Json(json!({"messages": messages})))
}

fn answer(message: Message) -> Value {
    json!({
        "id": message.message_id,
        "channel_id": message.channel_id,
        "channel_type": kind(&message.channel_id),
        "sender_id": message.sender_id,
        "content": message.content,
        "metadata": {},
        "sent_at": timestamp(message.sent_at),
        "seq": message.seq,
    })
}

/// As clients of the first release know them: all but direct messages are rooms.
fn kind(channel: &str) -> &'static str {
    match channel.split(':').next() {
        Some("dm") => "dm",
        _ => "room",
    }
}
