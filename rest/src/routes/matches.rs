//! `/matches/*`

use std::collections::HashMap;

use asobi_proto::error::ErrorCode;
use asobi_store::matches::{self, ListFilter, Listing, MatchRow};
use axum::extract::State;
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Json, Shared, bounded, clean, id, switch};
use crate::{
    docs::schemas,
    error::{ApiError, Result},
    extract::{Path, Query},
    render::timestamp,
};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(finished)).routes(routes!(live)).routes(routes!(show))
}

#[utoipa::path(
    get,
    path = "/matches",
    tag = "matches",
    summary = "Finished matches, newest first",
    params(
        ("mode" = Option<String>, Query, description = "Only of this mode"),
        ("status" = Option<String>, Query, description = "Only of this status"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 100, description = "50 where it is not given"),
    ),
    responses((status = 200, body = schemas::Matches)),
    extensions(("x-errors" = json!(["invalid_payload"]))),
)]
async fn finished(State(rest): State<Shared>, Query(query): Query<HashMap<String, String>>) -> Result<Json> {
    let mode = text(&query, "mode")?;
    let status = text(&query, "status")?;
    let limit = bounded(query.get("limit").map(String::as_str), 50, 1, 100);
    let rows = matches::finished(&rest.pool, mode, status, limit).await?;
    let rows: Vec<Value> = rows.into_iter().map(answer).collect();
    Ok(axum::Json(json!({"matches": rows})))
}

#[utoipa::path(
    get,
    path = "/matches/live",
    tag = "matches",
    summary = "Listed matches that run, of the whole cluster",
    params(
        ("mode" = Option<String>, Query, description = "Only of this mode"),
        ("has_capacity" = Option<bool>, Query, description = "Only those with a free seat, or without"),
        ("joinable" = Option<bool>, Query, description = "Only those that can be joined, or cannot"),
    ),
    responses((status = 200, body = schemas::LiveMatches)),
    extensions(("x-errors" = json!(["invalid_payload"]))),
)]
async fn live(State(rest): State<Shared>, Query(query): Query<HashMap<String, String>>) -> Result<Json> {
    let flag = |name| switch(name, query.get(name).map(String::as_str));
    let filter = ListFilter {
        mode: text(&query, "mode")?.map(str::to_owned),
        has_capacity: flag("has_capacity")?,
        joinable: flag("joinable")?,
    };
    let rows: Vec<Value> = matches::list_live(&rest.pool, &filter).await?.iter().map(listing).collect();
    Ok(axum::Json(json!({"matches": rows})))
}

#[utoipa::path(
    get,
    path = "/matches/{id}",
    tag = "matches",
    summary = "A match",
    params(("id" = uuid::Uuid, Path, description = "The match")),
    responses((status = 200, body = schemas::Match)),
    extensions(("x-errors" = json!(["invalid_payload", "match.not_found"]))),
)]
async fn show(State(rest): State<Shared>, Path(path): Path<String>) -> Result<Json> {
    // Until it runs it is nobody's business, and may never be.
    let row = matches::by_id(&rest.pool, id(&path)?).await?.filter(|row| row.state != "allocating");
    let row = row.ok_or_else(|| ApiError::new(ErrorCode::MATCH_NOT_FOUND, "There is no such match."))?;
    Ok(axum::Json(answer(row)))
}

fn text<'a>(query: &'a HashMap<String, String>, name: &str) -> Result<Option<&'a str>> {
    let given = query.get(name).map(String::as_str).filter(|text| !text.is_empty());
    given.map(|text| clean(text, ErrorCode::INVALID_PAYLOAD)).transpose()
}

fn answer(row: MatchRow) -> Value {
    json!({
        "id": row.id,
        "mode": row.mode,
        "status": row.state,
        "result": row.result,
        "started_at": row.started_at.map(timestamp),
        "finished_at": row.finished_at.map(timestamp),
        "inserted_at": timestamp(row.inserted_at),
    })
}

fn listing(row: &Listing) -> Value {
    json!({
        "match_id": row.match_id,
        "mode": row.mode,
        "status": row.status,
        "player_count": row.player_count,
        "max_players": row.max_players,
        "joinable": row.joinable,
    })
}
