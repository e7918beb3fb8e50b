//! `/matchmaker/*`: the same rows as the WebSocket's, from any node.

use asobi_proto::error::ErrorCode;
use asobi_session::queue::{Enqueue, EnqueueError};
use asobi_store::{
    players,
    tickets::{self, CancelError, TicketError, TicketState, WishError},
};
use axum::extract::State;
use serde_json::json;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{Json, Shared, id};
use crate::{
    body::Fields,
    docs::schemas,
    error::{ApiError, Result},
    extract::Path,
    middleware::Caller,
    render::unix_ms,
};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(add)).routes(routes!(show, remove))
}

#[utoipa::path(
    post,
    path = "/matchmaker",
    tag = "matchmaking",
    summary = "Queue for a match",
    request_body = schemas::NewTicket,
    responses((status = 200, body = schemas::Queued)),
    extensions(("x-errors" = json!([
        "matchmaker.queue_full", "matchmaker.unknown_mode", "missing_field", "validation_failed",
        "ws.request_failed",
    ]))),
)]
async fn add(State(rest): State<Shared>, Caller(claims): Caller, fields: Fields) -> Result<Json> {
    let mode = match fields.get("mode") {
        None => "default",
        Some(value) => value.as_str().ok_or_else(|| ApiError::missing("mode", "a string"))?,
    };
    let query = match fields.get("query") {
        None => None,
        Some(value) => Some(value.as_str().ok_or_else(|| bad_query(0, "must be a string"))?.to_owned()),
    };
    let party = match fields.get("party_id") {
        None => None,
        Some(value) => {
            let party = value.as_str().and_then(|text| Uuid::try_parse(text).ok());
            Some(party.ok_or_else(|| refused(&TicketError::PartyNotFound))?)
        }
    };
    let asked = Enqueue {
        player: claims.player_id,
        mode: mode.to_owned(),
        properties: fields.get("properties").cloned().unwrap_or_else(|| json!({})),
        query,
        party,
    };
    // The token may outlive its player by moments; a ticket must not.
    if players::get(&rest.pool, claims.player_id).await?.is_none() {
        return Err(ApiError::unauthenticated());
    }
    let (created, settings) = rest.hub.enqueue(&asked).await.map_err(|error| match error {
        EnqueueError::UnknownMode => {
            ApiError::new(ErrorCode::MATCHMAKER_UNKNOWN_MODE, "No game server plays that mode.")
        }
        EnqueueError::Wish(WishError::Properties(what)) => ApiError::field("properties", what),
        EnqueueError::Wish(WishError::Query { position, message }) => bad_query(position, &message),
        EnqueueError::Ticket(TicketError::Db(error)) => error.into(),
        EnqueueError::Ticket(error) => refused(&error),
    })?;
    Ok(axum::Json(created.payload(&settings)))
}

/// A 422 that says where.
fn bad_query(position: usize, message: &str) -> ApiError {
    ApiError::field("query", message).detail("reason", "invalid_query").detail("position", position)
}

fn refused(error: &TicketError) -> ApiError {
    let Some((reason, message)) = error.reason() else { return ApiError::internal(error) };
    match ErrorCode::for_reason(reason) {
        ErrorCode::WS_REQUEST_FAILED => ApiError::new(ErrorCode::WS_REQUEST_FAILED, message).detail("reason", reason),
        code => ApiError::new(code, message),
    }
}

#[utoipa::path(
    get,
    path = "/matchmaker/{ticket_id}",
    tag = "matchmaking",
    summary = "A ticket that waits",
    params(("ticket_id" = Uuid, Path, description = "The ticket")),
    responses((status = 200, body = schemas::Ticket)),
    extensions(("x-errors" = json!(["invalid_payload", "forbidden", "matchmaker.ticket_not_found"]))),
)]
async fn show(State(rest): State<Shared>, Caller(claims): Caller, Path(path): Path<String>) -> Result<Json> {
    let ticket = tickets::get(&rest.pool, id(&path)?).await?;
    let ticket = ticket.filter(|t| t.state == TicketState::Pending).ok_or_else(not_found)?;
    if !ticket.players.contains(&claims.player_id) {
        return Err(not_owner());
    }
    let place = tickets::place(&rest.pool, &ticket).await?;
    Ok(axum::Json(json!({
        "id": ticket.id,
        "mode": ticket.mode,
        "status": ticket.state.as_str(),
        "properties": ticket.properties,
        "submitted_at": unix_ms(ticket.submitted_at),
        "party_id": ticket.party_id,
        "players": ticket.players,
        "query": ticket.query,
        "estimated_wait_ms": place.estimated_wait_ms,
        "position": place.position,
    })))
}

#[utoipa::path(
    delete,
    path = "/matchmaker/{ticket_id}",
    tag = "matchmaking",
    summary = "Withdraw a ticket",
    params(("ticket_id" = Uuid, Path, description = "The ticket")),
    responses((status = 200, body = schemas::Success)),
    extensions(("x-errors" = json!(["invalid_payload", "forbidden", "matchmaker.ticket_not_found"]))),
)]
async fn remove(State(rest): State<Shared>, Caller(claims): Caller, Path(path): Path<String>) -> Result<Json> {
    rest.hub.withdraw(id(&path)?, claims.player_id).await.map_err(|error| match error {
        CancelError::NotFound => not_found(),
        CancelError::NotOwner => not_owner(),
        CancelError::Db(error) => error.into(),
    })?;
    Ok(axum::Json(json!({"success": true})))
}

fn not_found() -> ApiError {
    ApiError::new(ErrorCode::MATCHMAKER_TICKET_NOT_FOUND, "No such ticket waits.")
}

fn not_owner() -> ApiError {
    ApiError::forbidden("The ticket is another's; a party's is its leader's.")
}
