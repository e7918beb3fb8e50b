//! `/leaderboards/*`, answered by the social service.

use std::collections::HashMap;

use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        GetStandingRequest, LeaderboardEntry, ListAroundRequest, ListCircleRequest, ListPeriodsRequest, ListTopRequest,
        SubmitClientScoreRequest, SubmitScoreRequest, list_circle_request::Circle,
    },
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
    OpenApiRouter::new()
        .routes(routes!(top, submit))
        .routes(routes!(around))
        .routes(routes!(standing))
        .routes(routes!(periods))
}

#[utoipa::path(
    get,
    path = "/leaderboards/{id}",
    tag = "leaderboards",
    summary = "The best of a board",
    params(
        ("id" = String, Path, description = "The board"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 100, description = "100 where it is not given"),
        ("period" = Option<i64>, Query, minimum = 0, description = "A period that is over; the current one where it is not given"),
        ("scope" = Option<String>, Query, description = "`friends`: only the caller and their friends, ranked among themselves; `global_rank` is among all"),
        ("group_id" = Option<uuid::Uuid>, Query, description = "Only the members of that group, likewise"),
    ),
    responses((status = 200, body = schemas::BoardEntries)),
    extensions(("x-errors" = json!(["invalid_payload", "social.group_not_found"]))),
)]
async fn top(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Path(board): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json> {
    let (period, circle) = (period(&query)?, circle(&query, claims.player_id)?);
    if !could_be(&board) {
        return Ok(entries(Vec::new()));
    }
    let limit = bounded(query.get("limit").map(String::as_str), 100, 1, 100);
    let limit = i32::try_from(limit).unwrap_or_default();
    if circle.is_some() {
        let request = ListCircleRequest { leaderboard_id: board.clone(), circle, limit, period };
        let asked = rest.social.boards(&board, Repeat::Safe, request, |mut c, r| async move { c.list_circle(r).await });
        return Ok(entries(asked.await?.entries));
    }
    let request = ListTopRequest { leaderboard_id: board.clone(), limit, period };
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
        ("period" = Option<i64>, Query, minimum = 0, description = "A period that is over; the current one where it is not given"),
    ),
    responses((status = 200, body = schemas::BoardEntries)),
    extensions(("x-errors" = json!(["invalid_payload"]))),
)]
async fn around(
    State(rest): State<Shared>,
    Path((board, player)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json> {
    let (player_id, period) = (id(&player)?.to_string(), period(&query)?);
    if !could_be(&board) {
        return Ok(entries(Vec::new()));
    }
    let range = bounded(query.get("range").map(String::as_str), 5, 1, 50);
    let range = i32::try_from(range).unwrap_or_default();
    let request = ListAroundRequest { leaderboard_id: board.clone(), player_id, range, period };
    let answered =
        rest.social.boards(&board, Repeat::Safe, request, |mut c, r| async move { c.list_around(r).await }).await?;
    Ok(entries(answered.entries))
}

#[utoipa::path(
    get,
    path = "/leaderboards/{id}/player/{player_id}",
    tag = "leaderboards",
    summary = "Where a player stands",
    params(
        ("id" = String, Path, description = "The board"),
        ("player_id" = uuid::Uuid, Path, description = "The player"),
        ("period" = Option<i64>, Query, minimum = 0, description = "A period that is over; the current one where it is not given"),
    ),
    responses((status = 200, body = schemas::BoardStanding)),
    extensions(("x-errors" = json!(["invalid_payload"]))),
)]
async fn standing(
    State(rest): State<Shared>,
    Path((board, player)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json> {
    let (player_id, period) = (id(&player)?.to_string(), period(&query)?);
    if !could_be(&board) {
        return Ok(axum::Json(json!({"entry": null, "percentile": null, "total": 0})));
    }
    let request = GetStandingRequest { leaderboard_id: board.clone(), player_id, period };
    let answered =
        rest.social.boards(&board, Repeat::Safe, request, |mut c, r| async move { c.get_standing(r).await }).await?;
    let percentile = answered.entry.as_ref().map(|_| number(answered.percentile));
    Ok(axum::Json(json!({"entry": answered.entry.map(entry), "percentile": percentile, "total": answered.total})))
}

#[utoipa::path(
    get,
    path = "/leaderboards/{id}/periods",
    tag = "leaderboards",
    summary = "A board's periods, the latest first",
    params(
        ("id" = String, Path, description = "The board"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 100, description = "100 where it is not given"),
    ),
    responses((status = 200, body = schemas::BoardPeriods)),
)]
async fn periods(
    State(rest): State<Shared>,
    Path(board): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json> {
    let none = || axum::Json(json!({"current": 0, "periods": []}));
    if !could_be(&board) {
        return Ok(none());
    }
    let limit = bounded(query.get("limit").map(String::as_str), 100, 1, 100);
    let page_size = i32::try_from(limit).unwrap_or_default();
    let request = ListPeriodsRequest { leaderboard_id: board.clone(), page_size, page_token: String::new() };
    let asked = rest.social.boards(&board, Repeat::Safe, request, |mut c, r| async move { c.list_periods(r).await });
    let answered = match asked.await {
        Ok(answered) => answered,
        // As for its entries: a board nobody has scored on is an empty one.
        Err(error) if error.is(ErrorCode::OPS_NOT_FOUND) => return Ok(none()),
        Err(error) => return Err(error),
    };
    let periods = answered.periods.into_iter().map(|period| {
        json!({
            "period": period.period,
            "began_at": proto_timestamp(period.began_at),
            "ended_at": proto_timestamp(period.ended_at),
        })
    });
    Ok(axum::Json(json!({"current": answered.current, "periods": periods.collect::<Vec<Value>>()})))
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
    let (player_id, leaderboard_id) = (claims.player_id.to_string(), board.clone());
    let given = scores(&fields);
    // A board may add scores up: what may have arrived is not sent again.
    let submitted = if rest.config.leaderboards.client_submit.contains(&board) {
        let (score, sub_score) = given?;
        let request =
            SubmitScoreRequest { leaderboard_id, player_id, score, sub_score, ..SubmitScoreRequest::default() };
        let call =
            rest.social.boards(&board, Repeat::Never, request, |mut c, r| async move { c.submit_score(r).await });
        call.await?.entry
    } else {
        if !could_be(&board) {
            return Err(closed());
        }
        // Whether a board is open comes before what is wrong with the score, which is then sent as none at all.
        let (score, sub_score) = given.as_ref().copied().unwrap_or((f64::NAN, f64::NAN));
        let request = SubmitClientScoreRequest { leaderboard_id, player_id, score, sub_score };
        let call = rest
            .social
            .boards(&board, Repeat::Never, request, |mut c, r| async move { c.submit_client_score(r).await });
        match (call.await, given) {
            (Err(error), Err(wrong)) if error.is(ErrorCode::VALIDATION_FAILED) => return Err(wrong),
            (answered, _) => answered?.entry,
        }
    };
    let submitted = submitted.ok_or_else(|| ApiError::internal(&"a submitted score came back without its entry"))?;
    Ok(axum::Json(entry(submitted)))
}

fn closed() -> ApiError {
    ApiError::new(ErrorCode::LEADERBOARD_CLIENT_SUBMIT_DISABLED, "This board takes scores from game servers only.")
}

/// A score, and the sub-score beside it.
fn scores(fields: &Fields) -> Result<(f64, f64)> {
    let score =
        fields.get("score").and_then(Value::as_f64).ok_or_else(|| ApiError::field("score", "is not a number"))?;
    let sub_score = match fields.get("sub_score") {
        None => 0.0,
        Some(value) => value.as_f64().ok_or_else(|| ApiError::field("sub_score", "is not a number"))?,
    };
    Ok((score, sub_score))
}

fn period(query: &HashMap<String, String>) -> Result<Option<i64>> {
    let parse = |text: &String| text.parse().ok().filter(|period: &i64| *period >= 0);
    let wrong = || ApiError::invalid("period must be a whole number from 0 on.");
    query.get("period").map(|text| parse(text).ok_or_else(wrong)).transpose()
}

/// Among whom is ranked; none: all.
fn circle(query: &HashMap<String, String>, caller: uuid::Uuid) -> Result<Option<Circle>> {
    match (query.get("scope").map(String::as_str), query.get("group_id")) {
        (None, None) => Ok(None),
        (None, Some(group)) => Ok(Some(Circle::GroupId(id(group)?.to_string()))),
        (Some("friends"), None) => Ok(Some(Circle::FriendsOf(caller.to_string()))),
        (Some("friends"), Some(_)) => Err(ApiError::invalid("scope and group_id exclude each other.")),
        (Some(_), _) => Err(ApiError::invalid("scope can only be friends.")),
    }
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
    let mut seen = json!({
        "leaderboard_id": entry.leaderboard_id,
        "player_id": entry.player_id,
        "score": number(entry.score),
        "sub_score": number(entry.sub_score),
        "rank": entry.rank,
        "updated_at": proto_timestamp(entry.updated_at),
    });
    if entry.overall_rank > 0 {
        seen["global_rank"] = entry.overall_rank.into();
    }
    seen
}
