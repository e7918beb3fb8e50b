//! `/notifications`, answered by the social service.

use std::collections::HashMap;

use asobi_proto::social_v1::{
    DeleteNotificationRequest, ListNotificationsRequest, Notification, ReadNotificationRequest,
    ReadNotificationsRequest, read_notifications_request::UpTo,
};
use axum::extract::State;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa_axum::{router::OpenApiRouter, routes};

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

pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read_up_to)).routes(routes!(read)).routes(routes!(remove))
}

#[utoipa::path(
    get,
    path = "/notifications",
    tag = "notifications",
    summary = "One's notifications, newest first",
    params(
        ("read" = Option<bool>, Query, description = "Only those that were read, or were not"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 200, description = "50 where it is not given"),
        ("before" = Option<uuid::Uuid>, Query, description = "Only those before this one"),
    ),
    responses((status = 200, body = schemas::Notifications)),
    extensions(("x-errors" = json!(["invalid_payload"]))),
)]
async fn list(
    State(rest): State<Shared>,
    Caller(claims): Caller,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json> {
    let player_id = claims.player_id.to_string();
    let limit = bounded(query.get("limit").map(String::as_str), 50, 1, 200);
    let request = ListNotificationsRequest {
        player_id: player_id.clone(),
        read: switch("read", query.get("read").map(String::as_str))?,
        limit: i32::try_from(limit).unwrap_or_default(),
        before: query_id("before", &query)?,
    };
    let answered = rest
        .social
        .notifications(&player_id, Repeat::Safe, request, |mut c, r| async move { c.list_notifications(r).await })
        .await?;
    let notifications: Vec<Value> = answered.notifications.into_iter().map(answer).collect();
    Ok(axum::Json(json!({"notifications": notifications})))
}

#[utoipa::path(
    put,
    path = "/notifications/{id}/read",
    tag = "notifications",
    summary = "Mark a notification as read",
    params(("id" = uuid::Uuid, Path, description = "The notification")),
    responses((status = 200, body = schemas::Notification)),
    extensions(("x-errors" = json!(["forbidden", "notification.not_found"]))),
)]
async fn read(State(rest): State<Shared>, Caller(claims): Caller, Path(path): Path<String>) -> Result<Json> {
    let player_id = claims.player_id.to_string();
    let request = ReadNotificationRequest { player_id: player_id.clone(), notification_id: id(&path)?.to_string() };
    let answered = rest
        .social
        .notifications(&player_id, Repeat::Safe, request, |mut c, r| async move { c.read_notification(r).await })
        .await?;
    let row = answered.notification.ok_or_else(|| ApiError::internal(&"a notification came back without its row"))?;
    Ok(axum::Json(answer(row)))
}

#[utoipa::path(
    put,
    path = "/notifications/read",
    tag = "notifications",
    summary = "Mark all up to one, or to a time, as read; without either all there are",
    request_body = schemas::ReadUpTo,
    responses((status = 200, body = schemas::Unread)),
    extensions(("x-errors" = json!(["invalid_payload", "notification.not_found"]))),
)]
async fn read_up_to(State(rest): State<Shared>, Caller(claims): Caller, fields: Fields) -> Result<Json> {
    let player_id = claims.player_id.to_string();
    let fields = fields.object()?;
    let request =
        ReadNotificationsRequest { player_id: player_id.clone(), up_to: fields.get("up_to").map(up_to).transpose()? };
    let answered = rest
        .social
        .notifications(&player_id, Repeat::Safe, request, |mut c, r| async move { c.read_notifications(r).await })
        .await?;
    Ok(axum::Json(json!({"marked": answered.marked, "unread": answered.unread})))
}

/// An id, or a time as answers write them.
fn up_to(value: &Value) -> Result<UpTo> {
    let text = value.as_str().unwrap_or_default();
    if let Ok(id) = uuid::Uuid::parse_str(text) {
        return Ok(UpTo::NotificationId(id.to_string()));
    }
    let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        ApiError::invalid("\"up_to\" must be a notification's id or a time such as 2026-11-22T12:16:42Z.")
    })?;
    let nanos = i32::try_from(at.nanosecond()).unwrap_or_default();
    Ok(UpTo::Time(prost_types::Timestamp { seconds: at.unix_timestamp(), nanos }))
}

#[utoipa::path(
    delete,
    path = "/notifications/{id}",
    tag = "notifications",
    summary = "Delete a notification",
    params(("id" = uuid::Uuid, Path, description = "The notification")),
    responses((status = 200, body = schemas::Success)),
    extensions(("x-errors" = json!(["forbidden", "notification.not_found"]))),
)]
async fn remove(State(rest): State<Shared>, Caller(claims): Caller, Path(path): Path<String>) -> Result<Json> {
    let player_id = claims.player_id.to_string();
    let request = DeleteNotificationRequest { player_id: player_id.clone(), notification_id: id(&path)?.to_string() };
    rest.social
        .notifications(&player_id, Repeat::Never, request, |mut c, r| async move { c.delete_notification(r).await })
        .await?;
    Ok(axum::Json(json!({"success": true})))
}

fn answer(row: Notification) -> Value {
    let content: Value = serde_json::from_str(&row.content_json).unwrap_or_else(|_| json!({}));
    let mut answer = json!({
        "id": row.id,
        "player_id": row.player_id,
        "type": row.r#type,
        "subject": row.subject,
        "content": content,
        "read": row.read,
        "sent_at": proto_timestamp(row.sent_at),
    });
    if row.expires_at.is_some() {
        answer["expires_at"] = proto_timestamp(row.expires_at);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reads_up_to_a_notification_or_a_time() {
        let id = uuid::Uuid::max().to_string();
        assert_eq!(up_to(&json!(id)).unwrap(), UpTo::NotificationId(id));
        let at = prost_types::Timestamp { seconds: 1_795_000_000, nanos: 250_000_000 };
        assert_eq!(up_to(&proto_timestamp(Some(at))).unwrap(), UpTo::Time(at));
        for wrong in [json!(""), json!("yesterday"), json!(5), json!({})] {
            assert!(up_to(&wrong).is_err(), "{wrong}");
        }
    }
}
