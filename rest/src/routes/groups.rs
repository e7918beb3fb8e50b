//! `/groups`, answered by the social service.

use std::collections::HashMap;

use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        CreateGroupRequest, GetGroupRequest, Group, GroupMember, GroupRole, JoinGroupRequest, LeaveGroupRequest,
        ListGroupsRequest, ListMembersRequest, ListPlayerGroupsRequest, RemoveMemberRequest, SetRoleRequest, TextKind,
        UpdateGroupRequest,
    },
};
use asobi_session::{auth::FieldErrors, moderation::Judged};
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

const NAME_CHARS: std::ops::RangeInclusive<usize> = 2..=64;
const DESCRIPTION_CHARS: usize = 1_000;
const MEMBERS: std::ops::RangeInclusive<i64> = 1..=1_000;
/// Of the metadata's JSON text.
const METADATA_BYTES: usize = 16 * 1024;

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(own))
        .routes(routes!(show, update))
        .routes(routes!(join))
        .routes(routes!(leave))
        .routes(routes!(members))
        .routes(routes!(set_role))
        .routes(routes!(remove))
}

#[utoipa::path(
    post,
    path = "/groups",
    tag = "groups",
    summary = "Found a group",
    request_body = schemas::NewGroup,
    responses((status = 200, body = schemas::Group)),
    extensions(("x-errors" = json!(["forbidden", "missing_field", "player.not_found", "validation_failed"]))),
)]
async fn create(State(rest): State<Shared>, Caller(claims): Caller, fields: Fields) -> Result<Json> {
    let actor_id = claims.player_id.to_string();
    if fields.get("name").is_none() {
        return Err(ApiError::missing("name", "a string"));
    }
    let given = Given::read(&fields)?.judged(&rest, claims.player_id).await?;
    let request = CreateGroupRequest {
        actor_id: actor_id.clone(),
        name: given.name.unwrap_or_default(),
        description: given.description,
        max_members: given.max_members.unwrap_or_default(),
        open: given.open.unwrap_or_default(),
        metadata_json: given.metadata.unwrap_or_default(),
    };
    // Whoever asks again has two groups.
    let answered = rest
        .social
        .groups(&actor_id, Repeat::Never, request, |mut c, r| async move { c.create_group(r).await })
        .await?;
    row(answered.group)
}

#[utoipa::path(
    get,
    path = "/groups",
    tag = "groups",
    summary = "Groups by the beginning of their names, a page at a time",
    params(
        ("query" = Option<String>, Query, description = "What the name begins with, in any case"),
        ("open" = Option<bool>, Query, description = "Only open ones, or closed ones"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 100, description = "50 where it is not given"),
        ("after" = Option<String>, Query, description = "The next of the page before"),
    ),
    responses((status = 200, body = schemas::Groups)),
    extensions(("x-errors" = json!(["invalid_payload", "validation_failed"]))),
)]
async fn list(State(rest): State<Shared>, Query(query): Query<HashMap<String, String>>) -> Result<Json> {
    let text = |name: &str| query.get(name).cloned().unwrap_or_default();
    let limit = bounded(query.get("limit").map(String::as_str), 50, 1, 100);
    let request = ListGroupsRequest {
        query: text("query"),
        open: switch("open", query.get("open").map(String::as_str))?,
        page_size: i32::try_from(limit).unwrap_or_default(),
        page_token: text("after"),
    };
    let key = request.query.clone();
    let answered =
        rest.social.groups(&key, Repeat::Safe, request, |mut c, r| async move { c.list_groups(r).await }).await?;
    let mut groups = Vec::with_capacity(answered.groups.len());
    for listed in answered.groups {
        let mut group = object_of(listed.group)?;
        group["member_count"] = listed.member_count.into();
        groups.push(group);
    }
    Ok(axum::Json(json!({"groups": groups, "next": Some(answered.next_page_token).filter(|next| !next.is_empty())})))
}

#[utoipa::path(
    get,
    path = "/players/me/groups",
    tag = "groups",
    summary = "The groups one is in, a page at a time",
    params(
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 100, description = "50 where it is not given"),
        ("after" = Option<String>, Query, description = "The next of the page before"),
    ),
    responses((status = 200, body = schemas::OwnGroups)),
    extensions(("x-errors" = json!(["invalid_payload"]))),
)]
async fn own(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json> {
    let player_id = claims.player_id.to_string();
    let limit = bounded(query.get("limit").map(String::as_str), 50, 1, 100);
    let request = ListPlayerGroupsRequest {
        player_id: player_id.clone(),
        page_size: i32::try_from(limit).unwrap_or_default(),
        page_token: query_id("after", &query)?,
    };
    let answered = rest
        .social
        .groups(&player_id, Repeat::Safe, request, |mut c, r| async move { c.list_player_groups(r).await })
        .await?;
    let mut groups = Vec::with_capacity(answered.memberships.len());
    for membership in answered.memberships {
        let role = role_name(membership.role());
        let mut group = object_of(membership.group)?;
        group["member_count"] = membership.member_count.into();
        group["role"] = role.into();
        group["joined_at"] = proto_timestamp(membership.joined_at);
        groups.push(group);
    }
    Ok(axum::Json(json!({"groups": groups, "next": Some(answered.next_page_token).filter(|next| !next.is_empty())})))
}

#[utoipa::path(
    get,
    path = "/groups/{id}",
    tag = "groups",
    summary = "A group",
    params(("id" = uuid::Uuid, Path, description = "The group")),
    responses((status = 200, body = schemas::Group)),
    extensions(("x-errors" = json!(["invalid_payload", "social.group_not_found"]))),
)]
async fn show(State(rest): State<Shared>, Path(path): Path<String>) -> Result<Json> {
    let group_id = id(&path)?.to_string();
    let request = GetGroupRequest { group_id: group_id.clone() };
    let answered =
        rest.social.groups(&group_id, Repeat::Safe, request, |mut c, r| async move { c.get_group(r).await }).await?;
    row(answered.group)
}

#[utoipa::path(
    put,
    path = "/groups/{id}",
    tag = "groups",
    summary = "Change a group; its owner's and admins' to do",
    params(("id" = uuid::Uuid, Path, description = "The group")),
    request_body = schemas::GroupChanges,
    responses((status = 200, body = schemas::Group)),
    extensions(("x-errors" = json!([
        "forbidden", "social.group_not_found", "social.member_not_found", "validation_failed",
    ]))),
)]
async fn update(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Path(path): Path<String>,
    fields: Fields,
) -> Result<Json> {
    let group_id = id(&path)?.to_string();
    let given = Given::read(&fields.object()?)?.judged(&rest, claims.player_id).await?;
    let request = UpdateGroupRequest {
        actor_id: claims.player_id.to_string(),
        group_id: group_id.clone(),
        name: given.name,
        description: given.description,
        max_members: given.max_members,
        open: given.open,
        metadata_json: given.metadata,
    };
    let answered =
        rest.social.groups(&group_id, Repeat::Safe, request, |mut c, r| async move { c.update_group(r).await }).await?;
    row(answered.group)
}

#[utoipa::path(
    post,
    path = "/groups/{id}/join",
    tag = "groups",
    summary = "Join an open group",
    params(("id" = uuid::Uuid, Path, description = "The group")),
    responses((status = 200, body = schemas::Joined)),
    extensions(("x-errors" = json!([
        "forbidden", "player.not_found", "social.already_member", "social.group_closed", "social.group_full",
        "social.group_not_found",
    ]))),
)]
async fn join(State(rest): State<Shared>, Caller(claims): Caller, Path(path): Path<String>) -> Result<Json> {
    let group_id = id(&path)?.to_string();
    let request = JoinGroupRequest { actor_id: claims.player_id.to_string(), group_id: group_id.clone() };
    rest.social.groups(&group_id, Repeat::Never, request, |mut c, r| async move { c.join_group(r).await }).await?;
    Ok(axum::Json(json!({"success": true, "group_id": group_id})))
}

#[utoipa::path(
    post,
    path = "/groups/{id}/leave",
    tag = "groups",
    summary = "Leave a group",
    params(("id" = uuid::Uuid, Path, description = "The group")),
    responses((status = 200, body = schemas::Success)),
    extensions(("x-errors" = json!(["social.group_not_found", "social.member_not_found"]))),
)]
async fn leave(State(rest): State<Shared>, Caller(claims): Caller, Path(path): Path<String>) -> Result<Json> {
    let group_id = id(&path)?.to_string();
    let request = LeaveGroupRequest { actor_id: claims.player_id.to_string(), group_id: group_id.clone() };
    rest.social.groups(&group_id, Repeat::Never, request, |mut c, r| async move { c.leave_group(r).await }).await?;
    Ok(axum::Json(json!({"success": true})))
}

#[utoipa::path(
    get,
    path = "/groups/{id}/members",
    tag = "groups",
    summary = "Who is in a group",
    params(("id" = uuid::Uuid, Path, description = "The group")),
    responses((status = 200, body = schemas::Members)),
    extensions(("x-errors" = json!(["invalid_payload", "social.group_not_found"]))),
)]
async fn members(State(rest): State<Shared>, Path(path): Path<String>) -> Result<Json> {
    let group_id = id(&path)?.to_string();
    let request = ListMembersRequest { group_id: group_id.clone(), limit: 0 };
    let answered =
        rest.social.groups(&group_id, Repeat::Safe, request, |mut c, r| async move { c.list_members(r).await }).await?;
    let members: Vec<Value> = answered.members.into_iter().map(member).collect();
    Ok(axum::Json(json!({"members": members})))
}

#[utoipa::path(
    put,
    path = "/groups/{id}/members/{player_id}/role",
    tag = "groups",
    summary = "Give a member a role",
    params(
        ("id" = uuid::Uuid, Path, description = "The group"),
        ("player_id" = uuid::Uuid, Path, description = "The member"),
    ),
    request_body = schemas::NewRole,
    responses((status = 200, body = schemas::Member)),
    extensions(("x-errors" = json!([
        "invalid_payload", "missing_field", "forbidden", "social.invalid_role", "social.group_not_found",
        "social.member_not_found",
    ]))),
)]
async fn set_role(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Path((group, player)): Path<(String, String)>,
    fields: Fields,
) -> Result<Json> {
    let (group_id, player_id) = (id(&group)?.to_string(), id(&player)?.to_string());
    let role = role(fields.string("role")?)?;
    let request = SetRoleRequest {
        actor_id: claims.player_id.to_string(),
        group_id: group_id.clone(),
        player_id,
        role: role.into(),
    };
    // Who hands the group over may do so once.
    let repeat = if role == GroupRole::Owner { Repeat::Never } else { Repeat::Safe };
    let answered =
        rest.social.groups(&group_id, repeat, request, |mut c, r| async move { c.set_role(r).await }).await?;
    let row = answered.member.ok_or_else(|| ApiError::internal(&"a changed member came back without their row"))?;
    Ok(axum::Json(member(row)))
}

#[utoipa::path(
    delete,
    path = "/groups/{id}/members/{player_id}",
    tag = "groups",
    summary = "Take a member out of a group",
    params(
        ("id" = uuid::Uuid, Path, description = "The group"),
        ("player_id" = uuid::Uuid, Path, description = "The member"),
    ),
    responses((status = 200, body = schemas::Success)),
    extensions(("x-errors" = json!([
        "invalid_payload", "forbidden", "social.group_not_found", "social.member_not_found",
    ]))),
)]
async fn remove(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Path((group, player)): Path<(String, String)>,
) -> Result<Json> {
    let (group_id, player_id) = (id(&group)?.to_string(), id(&player)?.to_string());
    let request = RemoveMemberRequest { actor_id: claims.player_id.to_string(), group_id: group_id.clone(), player_id };
    rest.social.groups(&group_id, Repeat::Never, request, |mut c, r| async move { c.remove_member(r).await }).await?;
    Ok(axum::Json(json!({"success": true})))
}

/// The fields of a body that are given, each as it must be.
#[derive(Debug, Default)]
struct Given {
    name: Option<String>,
    /// Empty: there shall be none.
    description: Option<String>,
    max_members: Option<i32>,
    open: Option<bool>,
    /// The JSON text of an object.
    metadata: Option<String>,
}

impl Given {
    fn read(fields: &Fields) -> Result<Self> {
        let mut errors = FieldErrors::new();
        let mut problem = |field: &'static str, text: String| {
            errors.insert(field, vec![text]);
        };
        let mut given = Self::default();
        match fields.get("name").map(|value| text(value, NAME_CHARS)) {
            Some(Ok(name)) => given.name = Some(name),
            Some(Err(why)) => problem("name", why),
            None => {}
        }
        match fields.given("description") {
            Some(Value::Null) => given.description = Some(String::new()),
            Some(value) => match text(value, 0..=DESCRIPTION_CHARS) {
                Ok(description) => given.description = Some(description),
                Err(why) => problem("description", why),
            },
            None => {}
        }
        match fields.get("max_members").map(Value::as_i64) {
            Some(Some(most)) if MEMBERS.contains(&most) => given.max_members = i32::try_from(most).ok(),
            Some(Some(_)) => problem("max_members", "must be from 1 to 1000".into()),
            Some(None) => problem("max_members", "is not a valid integer".into()),
            None => {}
        }
        match fields.get("open").map(Value::as_bool) {
            Some(Some(open)) => given.open = Some(open),
            Some(None) => problem("open", "is not a valid boolean".into()),
            None => {}
        }
        match fields.get("metadata").map(object) {
            Some(Ok(metadata)) => given.metadata = Some(metadata),
            Some(Err(why)) => problem("metadata", why),
            None => {}
        }
        if errors.is_empty() { Ok(given) } else { Err(ApiError::validation("errors", &errors)) }
    }
}

impl Given {
    /// What the list of words and the studio's filter make of what others will read.
    async fn judged(mut self, rest: &Shared, player: Uuid) -> Result<Self> {
        let texts = [
            ("name", TextKind::GroupName, &mut self.name),
            ("description", TextKind::GroupDescription, &mut self.description),
        ];
        for (field, kind, given) in texts {
            let Some(text) = given.as_mut().filter(|text| !text.is_empty()) else { continue };
            match rest.hub.judge_name(kind, player, text).await {
                Judged::Clean => {}
                Judged::Changed(changed) => *text = changed,
                Judged::Refused => return Err(ApiError::field(field, "is not allowed")),
                Judged::Unavailable => {
                    return Err(ApiError::not_ready("The group's texts cannot be judged now; please try again."));
                }
            }
        }
        Ok(self)
    }
}

fn text(value: &Value, chars: std::ops::RangeInclusive<usize>) -> Result<String, String> {
    let text = value.as_str().ok_or("cannot cast to string")?;
    let count = text.chars().count();
    if count < *chars.start() {
        return Err(format!("should be at least {} character(s)", chars.start()));
    }
    if count > *chars.end() {
        return Err(format!("should be at most {} character(s)", chars.end()));
    }
    if text.contains('\0') { Err("has invalid format".into()) } else { Ok(text.to_owned()) }
}

fn object(value: &Value) -> Result<String, String> {
    if !value.is_object() {
        return Err("cannot cast to map".into());
    }
    let text = value.to_string();
    if text.len() > METADATA_BYTES {
        return Err(format!("should be at most {METADATA_BYTES} byte(s)"));
    }
    // jsonb holds no NUL.
    if text.contains("\\u0000") { Err("has invalid format".into()) } else { Ok(text) }
}

fn role(text: &str) -> Result<GroupRole> {
    match text {
        "owner" => Ok(GroupRole::Owner),
        "admin" => Ok(GroupRole::Admin),
        "moderator" => Ok(GroupRole::Moderator),
        "member" => Ok(GroupRole::Member),
        _ => Err(ApiError::new(ErrorCode::SOCIAL_INVALID_ROLE, "There is no such role.")),
    }
}

fn row(group: Option<Group>) -> Result<Json> {
    object_of(group).map(axum::Json)
}

fn object_of(group: Option<Group>) -> Result<Value> {
    let group = group.ok_or_else(|| ApiError::internal(&"a group came back without its row"))?;
    let metadata: Value = serde_json::from_str(&group.metadata_json).unwrap_or_else(|_| json!({}));
    Ok(json!({
        "id": group.id,
        "name": group.name,
        "description": group.description,
        "max_members": group.max_members,
        "open": group.open,
        // They may have been erased.
        "creator_id": Some(group.creator_id).filter(|id| !id.is_empty()),
        "metadata": metadata,
        "inserted_at": proto_timestamp(group.inserted_at),
        "updated_at": proto_timestamp(group.updated_at),
    }))
}

fn role_name(role: GroupRole) -> &'static str {
    match role {
        GroupRole::Owner => "owner",
        GroupRole::Admin => "admin",
        GroupRole::Moderator => "moderator",
        GroupRole::Member | GroupRole::Unspecified => "member",
    }
}

fn member(row: GroupMember) -> Value {
    let role = role_name(row.role());
    json!({
        "id": row.id,
        "group_id": row.group_id,
        "player_id": row.player_id,
        "role": role,
        "joined_at": proto_timestamp(row.joined_at),
    })
}
