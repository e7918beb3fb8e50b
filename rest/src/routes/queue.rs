//! `/matchmaker/*`: the same rows as the WebSocket's, from any node.

use asobi_proto::error::ErrorCode;
use asobi_session::queue::{Enqueue, EnqueueError};
use asobi_store::tickets::{self, CancelError, TicketError, TicketState, WishError};
use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use serde_json::json;
use uuid::Uuid;

use super::{Json, Shared, id};
use crate::{
    body::Fields,
    error::{ApiError, Result},
    extract::Path,
    middleware::Caller,
    render::unix_ms,
};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/matchmaker", post(add)).route("/matchmaker/{ticket_id}", get(show).delete(remove))
}

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
    let (created, settings) = rest.hub.enqueue(&asked).await.map_err(|error| match error {
        EnqueueError::UnknownMode => {
            ApiError::new(ErrorCode::MATCHMAKER_UNKNOWN_MODE, "No game server plays that mode.")
        }
        EnqueueError::NoPlayer => ApiError::unauthenticated(),
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
