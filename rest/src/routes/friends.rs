//! `/friends`, answered by the social service.

use std::collections::HashMap;

use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        AddFriendRequest, AnswerFriendRequest, FriendStatus, Friendship, ListFriendsRequest, RemoveFriendRequest,
    },
};
use axum::extract::State;
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{Json, Shared, bounded, id, query_id, switch};
use crate::{
    body::Fields,
    docs::schemas,
    error::{ApiError, Result},
    extract::{Path, Query},
    middleware::Caller,
    render::proto_timestamp,
    social::Repeat,
};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list, add)).routes(routes!(reply, remove))
}

#[utoipa::path(
    get,
    path = "/friends",
    tag = "friends",
    summary = "One's friendships",
    params(
        ("status" = Option<schemas::FriendStatus>, Query, description = "Only those of this status"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 200, description = "50 where it is not given"),
        ("before" = Option<Uuid>, Query, description = "Only those before this one, by the row's id"),
        ("incoming" = Option<bool>, Query, description = "Instead: requests of others that wait for an answer"),
    ),
    responses((status = 200, body = schemas::Friends)),
    extensions(("x-errors" = json!(["invalid_payload"]))),
)]
async fn list(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json> {
    let player_id = claims.player_id.to_string();
    let status = match query.get("status").map(String::as_str) {
        None | Some("") => FriendStatus::Unspecified,
        // A status that does not exist has no rows.
        Some(text) => match status(text) {
            Some(status) => status,
            None => return Ok(axum::Json(json!({"friends": []}))),
        },
    };
    let limit = bounded(query.get("limit").map(String::as_str), 50, 1, 200);
    let request = ListFriendsRequest {
        player_id: player_id.clone(),
        status: status.into(),
        limit: i32::try_from(limit).unwrap_or_default(),
        before: query_id("before", &query)?,
        incoming: switch("incoming", query.get("incoming").map(String::as_str))?.unwrap_or_default(),
    };
    let answered = rest
        .social
        .friends(&player_id, Repeat::Safe, request, |mut c, r| async move { c.list_friends(r).await })
        .await?;
    let friends: Vec<Value> = answered.friends.into_iter().map(answer).collect();
    Ok(axum::Json(json!({"friends": friends})))
}

#[utoipa::path(
    post,
    path = "/friends",
    tag = "friends",
    summary = "Ask a player to be friends; again: the same row",
    request_body = schemas::FriendRequest,
    responses((status = 200, body = schemas::Friend)),
    extensions(("x-errors" = json!(["social.cannot_friend_self", "social.friend_not_found"]))),
)]
async fn add(State(rest): State<Shared>, Caller(claims): Caller, fields: Fields) -> Result<Json> {
    let friend_id = fields
        .optional_string("friend_id")
        .and_then(|text| Uuid::parse_str(text).ok())
        .ok_or_else(|| ApiError::invalid("The body needs \"friend_id\", a player's id."))?;
    let player_id = claims.player_id.to_string();
    let request = AddFriendRequest { player_id: player_id.clone(), friend_id: friend_id.to_string() };
    let answered =
        rest.social.friends(&player_id, Repeat::Safe, request, |mut c, r| async move { c.add_friend(r).await }).await?;
    row(answered.friendship)
}

#[utoipa::path(
    put,
    path = "/friends/{friend_id}",
    tag = "friends",
    summary = "Accept who asked, or block a player",
    params(("friend_id" = Uuid, Path, description = "The other player")),
    request_body = schemas::FriendAnswer,
    responses((status = 200, body = schemas::Friend)),
    extensions(("x-errors" = json!([
        "missing_field", "social.cannot_friend_self", "social.friend_not_found", "social.friendship_not_found",
        "validation_failed",
    ]))),
)]
async fn reply(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Path(path): Path<String>,
    fields: Fields,
) -> Result<Json> {
    let friend_id = id(&path)?;
    let status = match fields.string("status")? {
        "accepted" => FriendStatus::Accepted,
        "blocked" => FriendStatus::Blocked,
        _ => return Err(ApiError::field("status", "is invalid")),
    };
    let player_id = claims.player_id.to_string();
    let request =
        AnswerFriendRequest { player_id: player_id.clone(), friend_id: friend_id.to_string(), status: status.into() };
    let answered = rest
        .social
        .friends(&player_id, Repeat::Safe, request, |mut c, r| async move { c.answer_friend(r).await })
        .await?;
    row(answered.friendship)
}

#[utoipa::path(
    delete,
    path = "/friends/{friend_id}",
    tag = "friends",
    summary = "End a friendship or a block",
    params(("friend_id" = Uuid, Path, description = "The other player")),
    responses((status = 200, body = schemas::Success)),
    extensions(("x-errors" = json!(["invalid_payload", "social.friendship_not_found"]))),
)]
async fn remove(State(rest): State<Shared>, Caller(claims): Caller, Path(path): Path<String>) -> Result<Json> {
    let player_id = claims.player_id.to_string();
    let request = RemoveFriendRequest { player_id: player_id.clone(), friend_id: id(&path)?.to_string() };
    rest.social.friends(&player_id, Repeat::Never, request, |mut c, r| async move { c.remove_friend(r).await }).await?;
    Ok(axum::Json(json!({"success": true})))
}

fn row(friendship: Option<Friendship>) -> Result<Json> {
    let friendship = friendship
        .ok_or_else(|| ApiError::new(ErrorCode::SOCIAL_FRIENDSHIP_NOT_FOUND, "There is no such friendship."))?;
    Ok(axum::Json(answer(friendship)))
}

fn status(text: &str) -> Option<FriendStatus> {
    match text {
        "pending" => Some(FriendStatus::Pending),
        "accepted" => Some(FriendStatus::Accepted),
        "blocked" => Some(FriendStatus::Blocked),
        _ => None,
    }
}

fn answer(row: Friendship) -> Value {
    let status = match row.status() {
        FriendStatus::Accepted => "accepted",
        FriendStatus::Blocked => "blocked",
        FriendStatus::Pending | FriendStatus::Unspecified => "pending",
    };
    json!({
        "id": row.id,
        "player_id": row.player_id,
        "friend_id": row.friend_id,
        "status": status,
        "inserted_at": proto_timestamp(row.inserted_at),
        "updated_at": proto_timestamp(row.updated_at),
    })
}
