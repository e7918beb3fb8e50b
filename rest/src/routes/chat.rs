//! `/chat/*` and `/dm/*`: histories, for those who may use the channel, and direct messages.

use std::collections::HashMap;

use asobi_proto::error::ErrorCode;
use asobi_session::chat::{ChannelId, DirectError, Refusal, SendError};
use asobi_store::chat::{self, Message};
use axum::extract::State;
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{Json, Shared, bounded, id, parsed};
use crate::{
    body::Fields,
    docs::schemas,
    error::{ApiError, Result},
    extract::{Path, Query},
    middleware::Caller,
    render::timestamp,
};

/// Of an idempotency key.
const KEY_BYTES: usize = 64;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(history)).routes(routes!(send)).routes(routes!(direct_history))
}

#[utoipa::path(
    get,
    path = "/chat/{channel_id}/history",
    tag = "chat",
    summary = "What was said in a channel",
    params(
        ("channel_id" = String, Path, description = "scheme:name, such as global:lobby"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 200, description = "50 where it is not given"),
        ("before_seq" = Option<i64>, Query, description = "Only messages before this number: pages back"),
    ),
    responses((status = 200, body = schemas::ChatHistory)),
    extensions(("x-errors" = json!(["invalid_payload", "forbidden", "chat.invalid_channel_id"]))),
)]
async fn history(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Path(channel): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json> {
    let parsed_id = ChannelId::parse(&channel)
        .ok_or_else(|| ApiError::new(ErrorCode::CHAT_INVALID_CHANNEL_ID, "A channel id is scheme:name."))?;
    match rest.hub.may_use(claims.player_id, &parsed_id).await {
        // What was said before a block stays readable to both.
        Ok(()) | Err(Refusal::Blocked) => {}
        Err(Refusal::NotAuthorized) => return Err(ApiError::forbidden("This channel is not open to you.")),
        Err(Refusal::Unavailable) => {
            return Err(ApiError::not_ready("The database does not answer; please try again."));
        }
    }
    let messages = page(&rest, &channel, &query).await?;
    let messages: Vec<Value> = messages.into_iter().map(answer).collect();
    Ok(axum::Json(json!({"messages": messages})))
}

#[utoipa::path(
    post,
    path = "/dm",
    tag = "chat",
    summary = "Send a direct message",
    request_body = schemas::DirectMessage,
    responses((status = 200, body = schemas::DirectSent)),
    extensions(("x-errors" = json!([
        "invalid_payload", "forbidden", "dm.blocked", "dm.content_empty", "dm.content_too_large"
    ]))),
)]
async fn send(State(rest): State<Shared>, Caller(claims): Caller, fields: Fields) -> Result<Json> {
    let recipient = fields.optional_string("recipient_id").and_then(|text| Uuid::parse_str(text).ok());
    let (Some(recipient), Some(content)) = (recipient, fields.optional_string("content")) else {
        return Err(ApiError::invalid("The body needs \"recipient_id\", a player's id, and \"content\", a string."));
    };
    if content.contains('\0') {
        return Err(ApiError::invalid("The content must not contain NUL."));
    }
    let key = fields.optional_string("idempotency_key").map(str::to_owned);
    if key.as_ref().is_some_and(|key| key.len() > KEY_BYTES || key.contains('\0')) {
        return Err(ApiError::invalid("The idempotency_key must be at most 64 bytes."));
    }
    let sent = rest.hub.send_direct(claims.player_id, recipient, content.to_owned(), key).await;
    let (channel_id, _) = sent.map_err(refusal)?;
    Ok(axum::Json(json!({"success": true, "channel_id": channel_id})))
}

#[utoipa::path(
    get,
    path = "/dm/{player_id}/history",
    tag = "chat",
    summary = "Direct messages with a player",
    params(
        ("player_id" = Uuid, Path, description = "The other player"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 200, description = "50 where it is not given"),
        ("before_seq" = Option<i64>, Query, description = "Only messages before this number: pages back"),
    ),
    responses((status = 200, body = schemas::DirectHistory)),
    extensions(("x-errors" = json!(["invalid_payload"]))),
)]
async fn direct_history(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Path(other): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json> {
    let channel_id = ChannelId::dm(claims.player_id, id(&other)?);
    let messages: Vec<Value> = page(&rest, &channel_id, &query)
        .await?
        .into_iter()
        .map(|message| {
            let shown = json!({
                "sender_id": message.sender_id,
                "content": message.content,
                "sent_at": message.sent_at_ms(),
                "message_id": message.message_id,
                "seq": message.seq,
            });
            marked(shown, message.deleted)
        })
        .collect();
    Ok(axum::Json(json!({"channel_id": channel_id, "messages": messages})))
}

async fn page(rest: &Shared, channel: &str, query: &HashMap<String, String>) -> Result<Vec<Message>> {
    let limit = bounded(query.get("limit").map(String::as_str), 50, 1, 200);
    let before = parsed(query.get("before_seq").map(String::as_str));
    Ok(chat::history(&rest.pool, channel, before, limit).await?)
}

fn refusal(error: DirectError) -> ApiError {
    match error {
        DirectError::ContentEmpty => ApiError::new(ErrorCode::DM_CONTENT_EMPTY, "A message needs content."),
        DirectError::ContentTooLarge => ApiError::new(ErrorCode::DM_CONTENT_TOO_LARGE, "The content is too large."),
        DirectError::Blocked => ApiError::new(ErrorCode::DM_BLOCKED, "One of you blocks the other."),
        DirectError::Muted(mute) => ApiError::forbidden("You may say nothing for now.")
            .detail("reason", "muted")
            .detail("until", mute.until.map(timestamp)),
        DirectError::Refused => ApiError::forbidden("This cannot be said.").detail("reason", "content_refused"),
        DirectError::Send(SendError::Unconfirmed) => ApiError::not_ready(
            "Whether the message is stored is not known; send it again with the same idempotency_key.",
        )
        .detail("reason", "unconfirmed"),
        DirectError::Unavailable | DirectError::Send(SendError::Busy | SendError::Failed) => {
            ApiError::not_ready("The message could not be stored; please try again.")
        }
    }
}

fn answer(message: Message) -> Value {
    let shown = json!({
        "id": message.message_id,
        "channel_id": message.channel_id,
        "channel_type": kind(&message.channel_id),
        "sender_id": message.sender_id,
        "content": message.content,
        "metadata": {},
        "sent_at": timestamp(message.sent_at),
        "seq": message.seq,
    });
    marked(shown, message.deleted)
}

/// A deleted message keeps its place, without its content; only it has the key that says so.
fn marked(mut message: Value, deleted: bool) -> Value {
    if deleted {
        message["deleted"] = true.into();
    }
    message
}

/// As clients of the first release know them: all but direct messages are rooms.
fn kind(channel: &str) -> &'static str {
    match ChannelId::scheme(channel) {
        "dm" => "dm",
        _ => "room",
    }
}
