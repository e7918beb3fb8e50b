//! Invitations into groups, answered by the social service.

use asobi_proto::social_v1::{
    AcceptInviteRequest, CancelInviteRequest, DeclineInviteRequest, GroupInvite, InvitePlayerRequest,
    ListInvitesRequest,
};
use axum::extract::State;
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{Json, Shared, id};
use crate::{
    body::Fields,
    docs::schemas,
    error::{ApiError, Result},
    extract::Path,
    middleware::Caller,
    render::proto_timestamp,
    social::Repeat,
};

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(own_invites))
        .routes(routes!(group_invites, invite))
        .routes(routes!(accept_invite))
        .routes(routes!(decline_invite))
        .routes(routes!(cancel_invite))
}

#[utoipa::path(
    post,
    path = "/groups/{id}/invites",
    tag = "groups",
    summary = "Invite a player; its owner's, admins' and moderators' to do. Again: the same invitation",
    params(("id" = Uuid, Path, description = "The group")),
    request_body = schemas::Invited,
    responses((status = 200, body = schemas::Invite)),
    extensions(("x-errors" = json!([
        "dm.blocked", "forbidden", "invalid_payload", "player.not_found", "social.already_member", "social.group_not_found",
    ]))),
)]
async fn invite(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Path(path): Path<String>,
    fields: Fields,
) -> Result<Json> {
    let group_id = id(&path)?.to_string();
    let player_id = fields
        .optional_string("player_id")
        .and_then(|text| Uuid::parse_str(text).ok())
        .ok_or_else(|| ApiError::invalid("The body needs \"player_id\", a player's id."))?;
    let request = InvitePlayerRequest {
        actor_id: claims.player_id.to_string(),
        group_id: group_id.clone(),
        player_id: player_id.to_string(),
    };
    let answered = rest
        .social
        .groups(&group_id, Repeat::Safe, request, |mut c, r| async move { c.invite_player(r).await })
        .await?;
    let row = answered.invite.ok_or_else(|| ApiError::internal(&"an invitation came back without its row"))?;
    Ok(axum::Json(answer(row)))
}

#[utoipa::path(
    get,
    path = "/groups/{id}/invites",
    tag = "groups",
    summary = "A group's open invitations, for those who may invite",
    params(("id" = Uuid, Path, description = "The group")),
    responses((status = 200, body = schemas::Invites)),
    extensions(("x-errors" = json!(["forbidden", "invalid_payload", "social.group_not_found"]))),
)]
async fn group_invites(State(rest): State<Shared>, Caller(claims): Caller, Path(path): Path<String>) -> Result<Json> {
    let group_id = id(&path)?.to_string();
    list(&rest, claims.player_id.to_string(), group_id).await
}

#[utoipa::path(
    get,
    path = "/groups/invites",
    tag = "groups",
    summary = "One's own open invitations, newest first",
    responses((status = 200, body = schemas::Invites)),
)]
async fn own_invites(State(rest): State<Shared>, Caller(claims): Caller) -> Result<Json> {
    list(&rest, claims.player_id.to_string(), String::new()).await
}

async fn list(rest: &Shared, actor_id: String, group_id: String) -> Result<Json> {
    let key = actor_id.clone();
    let request = ListInvitesRequest { actor_id, group_id };
    let answered =
        rest.social.groups(&key, Repeat::Safe, request, |mut c, r| async move { c.list_invites(r).await }).await?;
    let invites: Vec<Value> = answered.invites.into_iter().map(answer).collect();
    Ok(axum::Json(json!({"invites": invites})))
}

#[utoipa::path(
    post,
    path = "/groups/{id}/invites/accept",
    tag = "groups",
    summary = "Come into a group that one is invited to",
    params(("id" = Uuid, Path, description = "The group")),
    responses((status = 200, body = schemas::Joined)),
    extensions(("x-errors" = json!([
        "forbidden", "invalid_payload", "player.not_found", "social.already_member", "social.group_closed",
        "social.group_full", "social.group_not_found",
    ]))),
)]
async fn accept_invite(State(rest): State<Shared>, Caller(claims): Caller, Path(path): Path<String>) -> Result<Json> {
    let group_id = id(&path)?.to_string();
    let request = AcceptInviteRequest { actor_id: claims.player_id.to_string(), group_id: group_id.clone() };
    rest.social.groups(&group_id, Repeat::Never, request, |mut c, r| async move { c.accept_invite(r).await }).await?;
    Ok(axum::Json(json!({"success": true, "group_id": group_id})))
}

#[utoipa::path(
    post,
    path = "/groups/{id}/invites/decline",
    tag = "groups",
    summary = "Turn an invitation down; no error when there is none",
    params(("id" = Uuid, Path, description = "The group")),
    responses((status = 200, body = schemas::Success)),
    extensions(("x-errors" = json!(["invalid_payload", "social.group_not_found"]))),
)]
async fn decline_invite(State(rest): State<Shared>, Caller(claims): Caller, Path(path): Path<String>) -> Result<Json> {
    let group_id = id(&path)?.to_string();
    let request = DeclineInviteRequest { actor_id: claims.player_id.to_string(), group_id: group_id.clone() };
    rest.social.groups(&group_id, Repeat::Safe, request, |mut c, r| async move { c.decline_invite(r).await }).await?;
    Ok(axum::Json(json!({"success": true})))
}

#[utoipa::path(
    delete,
    path = "/groups/{id}/invites/{player_id}",
    tag = "groups",
    summary = "Take an invitation back; no error when there is none",
    params(
        ("id" = Uuid, Path, description = "The group"),
        ("player_id" = Uuid, Path, description = "Who was invited"),
    ),
    responses((status = 200, body = schemas::Success)),
    extensions(("x-errors" = json!(["forbidden", "invalid_payload", "social.group_not_found"]))),
)]
async fn cancel_invite(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Path((group, player)): Path<(String, String)>,
) -> Result<Json> {
    let (group_id, player_id) = (id(&group)?.to_string(), id(&player)?.to_string());
    let request = CancelInviteRequest { actor_id: claims.player_id.to_string(), group_id: group_id.clone(), player_id };
    rest.social.groups(&group_id, Repeat::Safe, request, |mut c, r| async move { c.cancel_invite(r).await }).await?;
    Ok(axum::Json(json!({"success": true})))
}

fn answer(row: GroupInvite) -> Value {
    json!({
        "group_id": row.group_id,
        "group_name": row.group_name,
        "player_id": row.player_id,
        "invited_by": row.invited_by,
        "invited_at": proto_timestamp(row.invited_at),
        "expires_at": proto_timestamp(row.expires_at),
    })
}
