//! `/matches/*`

use std::collections::HashMap;

use asobi_proto::error::ErrorCode;
use asobi_store::matches::{self, ListFilter, Listing, MatchRow};
use axum::{Router, extract::State, routing::get};
use serde_json::{Value, json};

use super::{Json, Shared, bounded, clean, id, switch};
use crate::{
    error::{ApiError, Result},
    extract::{Path, Query},
    render::timestamp,
};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/matches", get(finished)).route("/matches/live", get(live)).route("/matches/{id}", get(show))
}

async fn finished(State(rest): State<Shared>, Query(query): Query<HashMap<String, String>>) -> Result<Json> {
    let mode = text(&query, "mode")?;
    let status = text(&query, "status")?;
    let limit = bounded(query.get("limit").map(String::as_str), 50, 1, 100);
    let rows = matches::finished(&rest.pool, mode, status, limit).await?;
    let rows: Vec<Value> = rows.into_iter().map(answer).collect();
    Ok(axum::Json(json!({"matches": rows})))
}

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
