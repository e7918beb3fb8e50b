//! What groups announce to their members, answered by the social service.

use std::{collections::HashMap, time::Duration};

use asobi_proto::{
    error::ErrorCode,
    social_v1::{Announcement, CreateAnnouncementRequest, DeleteAnnouncementRequest, ListAnnouncementsRequest},
};
use axum::extract::State;
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Json, Shared, bounded, id, query_id};
use crate::{
    body::Fields,
    docs::schemas,
    error::{ApiError, Result},
    extract::{Path, Query},
    middleware::Caller,
    render::proto_timestamp,
    social::Repeat,
};

const SUBJECT_BYTES: usize = 128;
const CONTENT_BYTES: std::ops::RangeInclusive<usize> = 1..=2_000;
/// Between two of one group.
const EVERY: Duration = Duration::from_secs(60);

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(announcements, announce)).routes(routes!(take_back))
}

#[utoipa::path(
    post,
    path = "/groups/{id}/announcements",
    tag = "groups",
    summary = "Tell all members something, once a minute; its owner's, admins' and moderators' to do",
    params(("id" = uuid::Uuid, Path, description = "The group")),
    request_body = schemas::NewAnnouncement,
    responses((status = 200, body = schemas::Announcement)),
    extensions(("x-errors" = json!([
        "forbidden", "invalid_payload", "missing_field", "rate_limited", "social.group_not_found", "validation_failed",
    ]))),
)]
async fn announce(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Path(path): Path<String>,
    fields: Fields,
) -> Result<Json> {
    let group_id = id(&path)?.to_string();
    let content = fields.string("content")?.to_owned();
    if !CONTENT_BYTES.contains(&content.len()) || content.contains('\0') {
        return Err(ApiError::field("content", "should be 1 to 2000 byte(s)"));
    }
    let subject = fields.optional_string("subject").unwrap_or_default().to_owned();
    if subject.len() > SUBJECT_BYTES || subject.contains('\0') {
        return Err(ApiError::field("subject", "should be at most 128 byte(s)"));
    }
    let actor_id = claims.player_id.to_string();
    let request = CreateAnnouncementRequest { actor_id, group_id: group_id.clone(), subject, content };
    // Whoever asks again has told them twice.
    let answered = rest
        .social
        .groups(&group_id, Repeat::Never, request, |mut c, r| async move { c.create_announcement(r).await })
        .await;
    let answered = answered.map_err(|error| {
        if error.is(ErrorCode::RATE_LIMITED) {
            return ApiError::rate_limited(EVERY).saying("The group has announced something within the last minute.");
        }
        error
    })?;
    let row = answered.announcement.ok_or_else(|| ApiError::internal(&"an announcement came back without its row"))?;
    Ok(axum::Json(answer(row)))
}

#[utoipa::path(
    get,
    path = "/groups/{id}/announcements",
    tag = "groups",
    summary = "What a group has announced, newest first; for its members",
    params(
        ("id" = uuid::Uuid, Path, description = "The group"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 100, description = "20 where it is not given"),
        ("before" = Option<uuid::Uuid>, Query, description = "Only those before this one"),
    ),
    responses((status = 200, body = schemas::Announcements)),
    extensions(("x-errors" = json!(["forbidden", "invalid_payload", "social.group_not_found"]))),
)]
async fn announcements(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Path(path): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json> {
    let group_id = id(&path)?.to_string();
    let limit = bounded(query.get("limit").map(String::as_str), 20, 1, 100);
    let request = ListAnnouncementsRequest {
        actor_id: claims.player_id.to_string(),
        group_id: group_id.clone(),
        limit: i32::try_from(limit).unwrap_or_default(),
        before: query_id("before", &query)?,
    };
    let answered = rest
        .social
        .groups(&group_id, Repeat::Safe, request, |mut c, r| async move { c.list_announcements(r).await })
        .await?;
    let announcements: Vec<Value> = answered.announcements.into_iter().map(answer).collect();
    Ok(axum::Json(json!({"announcements": announcements})))
}

#[utoipa::path(
    delete,
    path = "/groups/{id}/announcements/{announcement_id}",
    tag = "groups",
    summary = "Take an announcement back, with what members were told of it",
    params(
        ("id" = uuid::Uuid, Path, description = "The group"),
        ("announcement_id" = uuid::Uuid, Path, description = "The announcement"),
    ),
    responses((status = 200, body = schemas::Success)),
    extensions(("x-errors" = json!([
        "forbidden", "invalid_payload", "notification.not_found", "social.group_not_found",
    ]))),
)]
async fn take_back(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Path((group, announcement)): Path<(String, String)>,
) -> Result<Json> {
    let (group_id, announcement_id) = (id(&group)?.to_string(), id(&announcement)?.to_string());
    let actor_id = claims.player_id.to_string();
    let request = DeleteAnnouncementRequest { actor_id, group_id: group_id.clone(), announcement_id };
    rest.social
        .groups(&group_id, Repeat::Never, request, |mut c, r| async move { c.delete_announcement(r).await })
        .await?;
    Ok(axum::Json(json!({"success": true})))
}

fn answer(row: Announcement) -> Value {
    json!({
        "id": row.id,
        "group_id": row.group_id,
        // They may have been erased.
        "author_id": Some(row.author_id).filter(|id| !id.is_empty()),
        "subject": row.subject,
        "content": row.content,
        "announced_at": proto_timestamp(row.announced_at),
    })
}
