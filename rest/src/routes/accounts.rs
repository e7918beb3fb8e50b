//! `/auth/*`

use asobi_session::auth::Account;
use axum::{Router, extract::State, http::HeaderMap, routing::post};
use serde_json::{Value, json};

use super::{Json, Shared};
use crate::{
    body::Fields,
    error::{ApiError, Result},
    middleware::{Caller, bearer},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/auth/register", post(register))
        .route("/auth/login", post(login))
        .route("/auth/refresh", post(refresh))
        .route("/auth/logout", post(logout))
        .route("/auth/guest", post(guest))
        .route("/auth/guest/upgrade", post(upgrade))
}

async fn register(State(rest): State<Shared>, fields: Fields) -> Result<Json> {
    let (username, password) = (fields.string("username")?, fields.string("password")?);
    let account = rest.issuer.register(username, password, fields.optional_string("display_name")).await?;
    Ok(axum::Json(answer(account)))
}

async fn login(State(rest): State<Shared>, fields: Fields) -> Result<Json> {
    let account = rest.issuer.login(fields.string("username")?, fields.string("password")?).await?;
    Ok(axum::Json(answer(account)))
}

async fn refresh(State(rest): State<Shared>, fields: Fields) -> Result<Json> {
    let pair = rest.issuer.refresh(fields.string("refresh_token")?).await?;
    Ok(axum::Json(json!({"access_token": pair.access_token, "refresh_token": pair.refresh_token})))
}

/// Ends what the presented tokens stand for. Tokens that stand for nothing are no error, nor is a damaged body.
async fn logout(State(rest): State<Shared>, headers: HeaderMap, fields: Result<Fields>) -> Result<Json> {
    let presented = match bearer(&headers) {
        Some(token) => rest.verifier.verify(token).await.ok(),
        None => None,
    };
    let (refresh_token, everywhere) = match &fields {
        Ok(fields) => (fields.optional_string("refresh_token"), fields.flag("everywhere")),
        Err(_) => (None, false),
    };
    rest.issuer.logout(presented.as_ref(), refresh_token, everywhere).await?;
    Ok(axum::Json(json!({"success": true})))
}

async fn guest(State(rest): State<Shared>, fields: Fields) -> Result<Json> {
    let guest = rest.issuer.guest(fields.string("device_id")?, fields.string("device_secret")?).await?;
    let mut body = answer(guest.account);
    body["guest"] = true.into();
    if guest.created {
        body["created"] = true.into();
    }
    Ok(axum::Json(body))
}

async fn upgrade(State(rest): State<Shared>, Caller(claims): Caller, fields: Fields) -> Result<Json, ApiError> {
    let (username, password) = (fields.string("username")?, fields.string("password")?);
    let mut body = answer(rest.issuer.upgrade(&claims, username, password).await?);
    body["upgraded"] = true.into();
    Ok(axum::Json(body))
}

fn answer(account: Account) -> Value {
    json!({
        "player_id": account.player_id,
        "username": account.username,
        "access_token": account.tokens.access_token,
        "refresh_token": account.tokens.refresh_token,
    })
}
