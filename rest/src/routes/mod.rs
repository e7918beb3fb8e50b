//! The routes, one module per kind of thing.

mod accounts;
mod announcements;
mod boards;
mod chat;
mod friends;
mod groups;
mod health;
mod invites;
mod matches;
mod notifications;
mod players;
mod queue;
mod reports;

pub use boards::entry as board_entry;

use std::{collections::HashMap, str::FromStr, sync::Arc};

use asobi_proto::error::ErrorCode;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use crate::{
    Rest,
    error::{ApiError, Result},
};

pub(crate) type Shared = Arc<Rest>;
pub(crate) type Json = axum::Json<serde_json::Value>;

/// Each is described where it is handled; there is no other way in.
pub(crate) fn all() -> OpenApiRouter<Shared> {
    let api = OpenApiRouter::new()
        .merge(accounts::routes())
        .merge(players::routes())
        .merge(friends::routes())
        .merge(groups::routes())
        .merge(invites::routes())
        .merge(announcements::routes())
        .merge(notifications::routes())
        .merge(chat::routes())
        .merge(reports::routes())
        .merge(boards::routes())
        .merge(queue::routes())
        .merge(matches::routes());
    OpenApiRouter::new().nest(crate::middleware::PREFIX, api).merge(health::routes())
}

/// An id in a path. One that is no UUID can name nothing, which is the caller's mistake, not the thing's absence.
fn id(text: &str) -> Result<Uuid> {
    Uuid::parse_str(text).map_err(|_| ApiError::invalid("An id in the path is no UUID."))
}

/// A number in a query; one that cannot be read counts as absent.
fn bounded(given: Option<&str>, default: i64, least: i64, most: i64) -> i64 {
    parsed::<i64>(given).unwrap_or(default).clamp(least, most)
}

fn parsed<T: FromStr>(given: Option<&str>) -> Option<T> {
    given.and_then(|text| text.parse().ok())
}

/// A boolean in a query.
fn switch(name: &str, given: Option<&str>) -> Result<Option<bool>> {
    match given {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(ApiError::invalid(format!("The query's \"{name}\" must be true or false."))),
    }
}

/// An id in a query as text, empty where it is not given.
fn query_id(name: &str, query: &HashMap<String, String>) -> Result<String> {
    match query.get(name).map(String::as_str) {
        None | Some("") => Ok(String::new()),
        Some(text) => Uuid::parse_str(text)
            .map(|id| id.to_string())
            .map_err(|_| ApiError::invalid(format!("The query's \"{name}\" is no UUID."))),
    }
}

/// Text from a path or query that goes to the database, which has no NUL.
fn clean(text: &str, code: ErrorCode) -> Result<&str> {
    if text.contains('\0') { Err(ApiError::new(code, "There is nothing of that name.")) } else { Ok(text) }
}
