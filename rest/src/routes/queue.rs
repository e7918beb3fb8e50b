//! `/matchmaker/*`: the same rows as the WebSocket's, from any node.

use asobi_proto::{
    bus::{TicketItem, Topic},
    error::ErrorCode,
};
use asobi_store::{
    players,
    tickets::{self, CancelError, TicketError, TicketState},
};
use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Json, Shared, id};
use crate::{
    Rest,
    body::Fields,
    error::{ApiError, Result},
    extract::Path,
    middleware::Caller,
    render::unix_ms,
};

/// Of the properties' JSON text.
const PROPERTIES_BYTES: usize = 4 * 1024;

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/matchmaker", post(add)).route("/matchmaker/{ticket_id}", get(show).delete(remove))
}

async fn add(State(rest): State<Shared>, Caller(claims): Caller, fields: Fields) -> Result<Json> {
    let mode = match fields.get("mode") {
        None => "default",
        Some(value) => value.as_str().ok_or_else(|| ApiError::missing("mode", "a string"))?,
    };
    let Some(settings) = rest.hub.modes().get(mode).await else {
        return Err(ApiError::new(ErrorCode::MATCHMAKER_UNKNOWN_MODE, "No game server plays that mode."));
    };
    let properties = properties(&fields)?;
    // The token may outlive its player by moments; a ticket must not.
    if players::get(&rest.pool, claims.player_id).await?.is_none() {
        return Err(ApiError::unauthenticated());
    }
    let most = i64::try_from(rest.config.matchmaker.max_queue).unwrap_or(i64::MAX);
    let created = tickets::create(&rest.pool, claims.player_id, mode, &properties, &settings, most).await;
    let created = created.map_err(|error| match error {
        TicketError::QueueFull => ApiError::new(ErrorCode::MATCHMAKER_QUEUE_FULL, "The queue of this mode is full."),
        TicketError::AlreadyInMatch => ApiError::new(ErrorCode::WS_REQUEST_FAILED, "You are in a match already.")
            .detail("reason", "already_in_match"),
        TicketError::Db(error) => error.into(),
    })?;
    if !created.already_queued {
        wake(&rest, created.ticket.id, false);
    }
    Ok(axum::Json(json!({
        "ticket_id": created.ticket.id,
        "status": "pending",
        "players_needed": settings.match_size,
        "already_queued": created.already_queued,
        "estimated_wait_ms": null,
        "position": null,
    })))
}

async fn show(State(rest): State<Shared>, Caller(claims): Caller, Path(path): Path<String>) -> Result<Json> {
    let ticket = tickets::get(&rest.pool, id(&path)?).await?;
    let ticket = ticket.filter(|t| t.state == TicketState::Pending).ok_or_else(not_found)?;
    if ticket.player_id != claims.player_id {
        return Err(not_owner());
    }
    Ok(axum::Json(json!({
        "id": ticket.id,
        "mode": ticket.mode,
        "status": ticket.state.as_str(),
        "properties": ticket.properties,
        "submitted_at": unix_ms(ticket.submitted_at),
    })))
}

async fn remove(State(rest): State<Shared>, Caller(claims): Caller, Path(path): Path<String>) -> Result<Json> {
    let ticket_id = id(&path)?;
    tickets::cancel(&rest.pool, ticket_id, claims.player_id).await.map_err(|error| match error {
        CancelError::NotFound => not_found(),
        CancelError::NotOwner => not_owner(),
        CancelError::Db(error) => error.into(),
    })?;
    wake(&rest, ticket_id, true);
    Ok(axum::Json(json!({"success": true})))
}

/// Tells the leader; if that fails it finds the row by itself, a little later.
fn wake(rest: &Rest, ticket_id: Uuid, gone: bool) {
    if let Err(error) = rest.publisher.publish(Topic::Queue, &TicketItem { ticket_id, gone, backfill: false }) {
        tracing::warn!(ticket.id = %ticket_id, %error, "The matchmaker was not woken for a ticket.");
    }
}

fn properties(fields: &Fields) -> Result<Value> {
    let Some(value) = fields.get("properties") else { return Ok(json!({})) };
    let text = value.to_string();
    if !value.is_object() || text.len() > PROPERTIES_BYTES || text.contains("\\u0000") {
        return Err(ApiError::field("properties", "must be a small object"));
    }
    Ok(value.clone())
}

fn not_found() -> ApiError {
    ApiError::new(ErrorCode::MATCHMAKER_TICKET_NOT_FOUND, "No such ticket waits.")
}

fn not_owner() -> ApiError {
    ApiError::forbidden("The ticket is another player's.")
}
