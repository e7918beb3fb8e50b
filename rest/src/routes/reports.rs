//! `/reports`: a player reports another one, or a message. Answered by the social service.

use asobi_proto::{
    error::ErrorCode,
    social_v1::{Report, ReportPlayerRequest, ReportState},
};
use asobi_session::chat::{ChannelId, Refusal};
use asobi_store::matches;
use axum::extract::State;
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{Json, Shared};
use crate::{
    body::Fields,
    docs::schemas,
    error::{ApiError, Result},
    middleware::Caller,
    render::proto_timestamp,
    social::Repeat,
};

const NOTE_BYTES: usize = 1_000;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(report))
}

#[utoipa::path(
    post,
    path = "/reports",
    tag = "reports",
    summary = "Report a player or a message; ten a minute",
    request_body = schemas::NewReport,
    responses((status = 200, body = schemas::Reported)),
    extensions(("x-errors" = json!([
        "missing_field", "invalid_payload", "forbidden", "player.not_found", "validation_failed",
        "chat.invalid_channel_id"
    ]))),
)]
async fn report(State(rest): State<Shared>, Caller(claims): Caller, fields: Fields) -> Result<Json> {
    rest.limits.check_report(claims.player_id)?;
    let request = checked(&fields, claims.player_id)?;
    if !request.channel_id.is_empty() {
        may_read(&rest, claims.player_id, &request.channel_id).await?;
    }
    let answered =
        rest.social
            // Again is the same report.
            .moderation(&claims.player_id.to_string(), Repeat::Safe, request, |mut c, r| async move {
                c.report_player(r).await
            })
            .await?;
    Ok(axum::Json(answer(&answered.report.unwrap_or_default())))
}

fn checked(fields: &Fields, reporter: Uuid) -> Result<ReportPlayerRequest> {
    let kind = fields.string("kind")?.to_owned();
    let note = fields.optional_string("note").unwrap_or_default().to_owned();
    if note.len() > NOTE_BYTES || note.contains('\0') {
        return Err(ApiError::field("note", "should be at most 1000 byte(s)"));
    }
    let player_id = id(fields, "player_id")?;
    let message_id = id(fields, "message_id")?;
    let channel_id = fields.optional_string("channel_id").unwrap_or_default().to_owned();
    let seq = match fields.get("seq") {
        None => 0,
        Some(seq) => {
            seq.as_i64().filter(|seq| *seq > 0).ok_or_else(|| ApiError::field("seq", "must be a message's number"))?
        }
    };
    let names_message = seq > 0 || !message_id.is_empty();
    if channel_id.is_empty() == names_message {
        return Err(ApiError::field("channel_id", "and seq or message_id say together which message is meant"));
    }
    if player_id.is_empty() && channel_id.is_empty() {
        return Err(ApiError::missing("player_id", "a player's id, or channel_id with seq or message_id"));
    }
    // One of the two tells; the number is the quicker way.
    let message_id = if seq > 0 { String::new() } else { message_id };
    Ok(ReportPlayerRequest { reporter_id: reporter.to_string(), player_id, channel_id, seq, message_id, kind, note })
}

/// Empty where it is absent.
fn id(fields: &Fields, field: &'static str) -> Result<String> {
    let Some(given) = fields.get(field) else { return Ok(String::new()) };
    let id = given.as_str().and_then(|text| Uuid::parse_str(text).ok());
    id.map(|id| id.to_string()).ok_or_else(|| ApiError::field(field, "must be a UUID"))
}

/// Only what one can read can be reported: a report's answer must not tell what is in a channel.
async fn may_read(rest: &Shared, player: Uuid, channel: &str) -> Result<()> {
    let channel = ChannelId::parse(channel)
        .ok_or_else(|| ApiError::new(ErrorCode::CHAT_INVALID_CHANNEL_ID, "A channel id is scheme:name."))?;
    match rest.hub.may_use(player, &channel).await {
        Ok(()) | Err(Refusal::Blocked) => Ok(()),
        // What was said in a match may be reported when it is over.
        Err(Refusal::NotAuthorized) if played(rest, player, &channel).await? => Ok(()),
        Err(Refusal::NotAuthorized) => Err(ApiError::forbidden("This channel is not open to you.")),
        Err(Refusal::Unavailable) => Err(ApiError::not_ready("The database does not answer; please try again.")),
    }
}

/// Whether the channel is one of a match that the player was seated in when it was formed.
async fn played(rest: &Shared, player: Uuid, channel: &ChannelId) -> Result<bool> {
    let ChannelId::Match(id) = channel else { return Ok(false) };
    Ok(matches::by_id(&rest.pool, *id).await?.is_some_and(|row| row.players.contains(&player)))
}

fn answer(report: &Report) -> Value {
    let state = if report.state() == ReportState::Resolved { "resolved" } else { "open" };
    json!({
        "id": report.id,
        "player_id": report.player_id,
        "kind": report.kind,
        "state": state,
        "reported_at": proto_timestamp(report.reported_at),
    })
}
