//! `/leaderboards/*`, answered by the social service.

use std::collections::HashMap;

use asobi_proto::{
    error::ErrorCode,
    social_v1::{LeaderboardEntry, ListAroundRequest, ListTopRequest, SubmitScoreRequest},
};
use axum::extract::State;
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Json, Shared, bounded, id};
use crate::{
    body::Fields,
    docs::schemas,
    error::{ApiError, Result},
    extract::{Path, Query},
    middleware::Caller,
    render::{number, proto_timestamp},
    social::Repeat,
};

/// No longer id can be a board's.
const ID_BYTES: usize = 128;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(top, submit)).routes(routes!(around))
}

#[utoipa::path(
    get,
    path = "/leaderboards/{id}",
    tag = "leaderboards",
    summary = "The best of a board",
    params(
        ("id" = String, Path, description = "The board"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 100, description = "100 where it is not given"),
    ),
    responses((status = 200, body = schemas::BoardEntries)),
    extensions(("x-errors" = json!(["invalid_payload"]))),
)]
async fn top(
    State(rest): State<Shared>,
    Path(board): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json> {
    if !could_be(&board) {
        return Ok(entries(Vec::new()));
    }
    let limit = bounded(query.get("limit").map(String::as_str), 100, 1, 100);
    let request = ListTopRequest { leaderboard_id: board.clone(), limit: i32::try_from(limit).unwrap_or_default() };
    let answered =
        rest.social.boards(&board, Repeat::Safe, request, |mut c, r| async move { c.list_top(r).await }).await?;
    Ok(entries(answered.entries))
}

#[utoipa::path(
    get,
    path = "/leaderboards/{id}/around/{player_id}",
    tag = "leaderboards",
    summary = "The entries around a player's",
    params(
        ("id" = String, Path, description = "The board"),
        ("player_id" = uuid::Uuid, Path, description = "The player"),
        ("range" = Option<i64>, Query, minimum = 1, maximum = 50, description = "How many on each side; 5 where it is not given"),
    ),
    responses((status = 200, body = schemas::BoardEntries)),
    extensions(("x-errors" = json!(["invalid_payload"]))),
)]
async fn around(
    State(rest): State<Shared>,
    Path((board, player)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json> {
    let player_id = id(&player)?.to_string();
    if !could_be(&board) {
        return Ok(entries(Vec::new()));
    }
    let range = bounded(query.get("range").map(String::as_str), 5, 1, 50);
    let request =
        ListAroundRequest { leaderboard_id: board.clone(), player_id, range: i32::try_from(range).unwrap_or_default() };
    let answered =
        rest.social.boards(&board, Repeat::Safe, request, |mut c, r| async move { c.list_around(r).await }).await?;
    Ok(entries(answered.entries))
}

#[utoipa::path(
    post,
    path = "/leaderboards/{id}",
    tag = "leaderboards",
    summary = "Submit a score, where the operator opened the board to clients",
    params(("id" = String, Path, description = "The board")),
    request_body = schemas::Score,
    responses((status = 200, body = schemas::BoardEntry)),
    extensions(("x-errors" = json!([
        "invalid_payload", "validation_failed", "leaderboard.client_submit_disabled",
        "leaderboard.capacity_reached",
    ]))),
)]
async fn submit(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Path(board): Path<String>,
    fields: Fields,
) -> Result<Json> {
    if !rest.config.leaderboards.client_submit.contains(&board) {
        return Err(ApiError::new(
            ErrorCode::LEADERBOARD_CLIENT_SUBMIT_DISABLED,
            "This board takes scores from game servers only.",
        ));
    }
    let score =
        fields.get("score").and_then(Value::as_f64).ok_or_else(|| ApiError::field("score", "is not a number"))?;
    let sub_score = match fields.get("sub_score") {
        None => 0.0,
        Some(value) => value.as_f64().ok_or_else(|| ApiError::field("sub_score", "is not a number"))?,
    };
    let request =
        SubmitScoreRequest { leaderboard_id: board.clone(), player_id: claims.player_id.to_string(), score, sub_score };
    // A board may add scores up: what may have arrived is not sent again.
    let answered =
        rest.social.boards(&board, Repeat::Never, request, |mut c, r| async move { c.submit_score(r).await }).await?;
    let submitted =
        answered.entry.ok_or_else(|| ApiError::internal(&"a submitted score came back without its entry"))?;
    Ok(axum::Json(entry(submitted)))
}

fn could_be(board: &str) -> bool {
    (1..=ID_BYTES).contains(&board.len()) && !board.contains('\0')
}

fn entries(entries: Vec<LeaderboardEntry>) -> Json {
    let entries: Vec<Value> = entries.into_iter().map(entry).collect();
    axum::Json(json!({"entries": entries}))
}

/// A board's entry as clients see it, and games.
#[must_use]
pub fn entry(entry: LeaderboardEntry) -> Value {
    json!({
        "leaderboard_id": entry.leaderboard_id,
        "player_id": entry.player_id,
        "score": number(entry.score),
        "sub_score": number(entry.sub_score),
        "rank": entry.rank,
        "updated_at": proto_timestamp(entry.updated_at),
    })
}
