//! `/auth/*`

use asobi_session::auth::Account;
use axum::{extract::State, http::HeaderMap};
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Json, Shared};
use crate::{
    body::Fields,
    docs::schemas,
    error::{ApiError, Result},
    middleware::{Caller, bearer},
};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(login))
        .routes(routes!(refresh))
        .routes(routes!(logout))
        .routes(routes!(guest))
        .routes(routes!(upgrade))
}

#[utoipa::path(
    post,
    path = "/auth/register",
    tag = "accounts",
    summary = "Make an account",
    request_body = schemas::Registration,
    responses((status = 200, body = schemas::Account)),
    extensions(("x-errors" = json!([
        "auth.registration_closed", "auth.token_issue_failed", "auth.username_taken", "missing_field",
        "validation_failed",
    ]))),
)]
async fn register(State(rest): State<Shared>, fields: Fields) -> Result<Json> {
    let (username, password) = (fields.string("username")?, fields.string("password")?);
    let account = rest.issuer.register(username, password, fields.optional_string("display_name")).await?;
    Ok(axum::Json(answer(account)))
}

#[utoipa::path(
    post,
    path = "/auth/login",
    tag = "accounts",
    summary = "Log in",
    request_body = schemas::Credentials,
    responses((status = 200, body = schemas::Account)),
    extensions(("x-errors" = json!([
        "auth.invalid_credentials", "auth.token_issue_failed", "forbidden", "missing_field",
    ]))),
)]
async fn login(State(rest): State<Shared>, fields: Fields) -> Result<Json> {
    let account = rest.issuer.login(fields.string("username")?, fields.string("password")?).await?;
    Ok(axum::Json(answer(account)))
}

#[utoipa::path(
    post,
    path = "/auth/refresh",
    tag = "accounts",
    summary = "Exchange a refresh token for new tokens",
    request_body = schemas::RefreshToken,
    responses((status = 200, body = schemas::Tokens)),
    extensions(("x-errors" = json!(["auth.token_issue_failed", "forbidden", "missing_field", "unauthenticated"]))),
)]
async fn refresh(State(rest): State<Shared>, fields: Fields) -> Result<Json> {
    let pair = rest.issuer.refresh(fields.string("refresh_token")?).await?;
    Ok(axum::Json(json!({"access_token": pair.access_token, "refresh_token": pair.refresh_token})))
}

/// Ends what the presented tokens stand for. Tokens that stand for nothing are no error, nor is a damaged body.
#[utoipa::path(
    post,
    path = "/auth/logout",
    tag = "accounts",
    summary = "Log out; ends the sockets of that log-in on every node",
    request_body = schemas::Logout,
    responses((status = 200, body = schemas::Success)),
)]
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

#[utoipa::path(
    post,
    path = "/auth/guest",
    tag = "accounts",
    summary = "Log in as a guest, who is made the first time",
    request_body = schemas::GuestDevice,
    responses((status = 200, body = schemas::Account)),
    extensions(("x-errors" = json!([
        "auth.token_issue_failed", "forbidden", "guest.disabled", "guest.invalid_device_id",
        "guest.invalid_device_secret", "guest.weak_device_secret", "missing_field",
    ]))),
)]
async fn guest(State(rest): State<Shared>, fields: Fields) -> Result<Json> {
    let guest = rest.issuer.guest(fields.string("device_id")?, fields.string("device_secret")?).await?;
    let mut body = answer(guest.account);
    body["guest"] = true.into();
    if guest.created {
        body["created"] = true.into();
    }
    Ok(axum::Json(body))
}

#[utoipa::path(
    post,
    path = "/auth/guest/upgrade",
    tag = "accounts",
    summary = "Turn the guest into an account",
    request_body = schemas::Credentials,
    responses((status = 200, body = schemas::Account)),
    extensions(("x-errors" = json!([
        "auth.token_issue_failed", "auth.username_taken", "guest.not_unclaimed", "missing_field",
        "validation_failed",
    ]))),
)]
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
