//! `NotificationService`, and the removal of old ones.

use std::time::Duration;

use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        DeleteNotificationRequest, DeleteNotificationResponse, ListNotificationsRequest, ListNotificationsResponse,
        Notification as WireNotification, ReadNotificationRequest, ReadNotificationResponse, SendNotificationRequest,
        SendNotificationResponse, notification_service_server::NotificationService,
    },
};
use asobi_service_kit::grpc::status;
use asobi_store::{
    notifications::{self, NewNotification, Notification},
    within,
};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    deeds::{Deeds, Done},
    wire::{id, json_object, limit, timestamp, unavailable},
};

const RECIPIENTS: usize = 1_000;
const TYPE_BYTES: std::ops::RangeInclusive<usize> = 1..=64;
const SUBJECT_BYTES: usize = 256;
const CONTENT_BYTES: usize = 4 * 1024;
/// Between two looks for old ones.
const SWEEP: Duration = Duration::from_secs(600);
/// Rows of one statement.
const ROWS: i64 = 1_000;

pub struct Notifications {
    pub deeds: Deeds,
}

fn not_found() -> Status {
    status(ErrorCode::NOTIFICATION_NOT_FOUND, "there is no such notification")
}

fn new_one(request: &SendNotificationRequest) -> Result<NewNotification, Status> {
    let invalid = |message| status(ErrorCode::VALIDATION_FAILED, message);
    if !TYPE_BYTES.contains(&request.r#type.len()) || request.r#type.contains('\0') {
        return Err(invalid("type must have 1 to 64 bytes"));
    }
    if request.subject.len() > SUBJECT_BYTES || request.subject.contains('\0') {
        return Err(invalid("subject must have at most 256 bytes"));
    }
    let content = json_object(&request.content_json, "content_json", CONTENT_BYTES)?;
    Ok(NewNotification { kind: request.r#type.clone(), subject: request.subject.clone(), content })
}

fn wire(row: Notification) -> WireNotification {
    WireNotification {
        id: row.id.to_string(),
        player_id: row.player_id.to_string(),
        r#type: row.kind,
        subject: row.subject,
        content_json: row.content.to_string(),
        read: row.read,
        sent_at: timestamp(row.sent_at),
    }
}

impl Notifications {
    /// Why a player has no such notification: because it is another's, or because there is none.
    async fn not_theirs(&self, notification: Uuid) -> Status {
        match within(self.deeds.bound, notifications::owner(&self.deeds.pool, notification)).await {
            Ok(Some(_)) => status(ErrorCode::FORBIDDEN, "the notification is another player's"),
            Ok(None) => not_found(),
            Err(error) => unavailable(&error),
        }
    }
}

#[tonic::async_trait]
impl NotificationService for Notifications {
    async fn send_notification(
        &self,
        request: Request<SendNotificationRequest>,
    ) -> Result<Response<SendNotificationResponse>, Status> {
        let request = request.into_inner();
        if request.player_ids.len() > RECIPIENTS {
            return Err(status(ErrorCode::VALIDATION_FAILED, "player_ids must be at most 1000"));
        }
        let players = request.player_ids.iter().map(|text| id(text, "player_ids")).collect::<Result<Vec<_>, _>>()?;
        let new = new_one(&request)?;
        let sent = self.deeds.run(async |conn| {
            let told = notifications::insert(conn, &players, &new).await?;
            Ok(Ok::<_, Status>(Done { value: told.clone(), events: Vec::new(), told }))
        });
        let notifications = sent.await?.into_iter().map(wire).collect();
        Ok(Response::new(SendNotificationResponse { notifications }))
    }

    async fn list_notifications(
        &self,
        request: Request<ListNotificationsRequest>,
    ) -> Result<Response<ListNotificationsResponse>, Status> {
        let request = request.into_inner();
        let (player, most) = (id(&request.player_id, "player_id")?, limit(request.limit, 50, 200));
        let rows = notifications::list(&self.deeds.pool, player, request.read, most.into());
        let rows = within(self.deeds.bound, rows).await.map_err(|e| unavailable(&e))?;
        Ok(Response::new(ListNotificationsResponse { notifications: rows.into_iter().map(wire).collect() }))
    }

    async fn read_notification(
        &self,
        request: Request<ReadNotificationRequest>,
    ) -> Result<Response<ReadNotificationResponse>, Status> {
        let request = request.into_inner();
        let (player, which) = (id(&request.player_id, "player_id")?, id(&request.notification_id, "notification_id")?);
        let row = within(self.deeds.bound, notifications::mark_read(&self.deeds.pool, player, which)).await;
        match row.map_err(|e| unavailable(&e))? {
            Some(row) => Ok(Response::new(ReadNotificationResponse { notification: Some(wire(row)) })),
            None => Err(self.not_theirs(which).await),
        }
    }

    async fn delete_notification(
        &self,
        request: Request<DeleteNotificationRequest>,
    ) -> Result<Response<DeleteNotificationResponse>, Status> {
        let request = request.into_inner();
        let (player, which) = (id(&request.player_id, "player_id")?, id(&request.notification_id, "notification_id")?);
        let deleted = within(self.deeds.bound, notifications::delete(&self.deeds.pool, player, which)).await;
        if deleted.map_err(|e| unavailable(&e))? {
            return Ok(Response::new(DeleteNotificationResponse {}));
        }
        Err(self.not_theirs(which).await)
    }
}

/// Removes what is older than so many days, in small steps; every replica does, each what the others leave.
pub async fn sweep(pool: PgPool, days: i32, bound: Duration, draining: CancellationToken) {
    let mut wait = Duration::ZERO;
    loop {
        tokio::select! {
            () = draining.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = SWEEP.mul_f64(rand::random_range(0.8..1.2));
        match within(bound, notifications::expire(&pool, days, ROWS)).await {
            Ok(0) => {}
            Ok(removed) => {
                metrics::counter!("asobi_social_notifications_expired_total").increment(removed);
                wait = Duration::from_millis(200);
            }
            Err(error) => tracing::warn!(%error, "Old notifications could not be removed; the next look will."),
        }
    }
}
