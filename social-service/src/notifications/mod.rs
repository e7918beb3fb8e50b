//! `NotificationService`: what players are told and can read later. Many at once are told by [`jobs`], in the texts that [`admin`] keeps.

mod admin;
mod jobs;
mod message;
mod sweep;

use asobi_cluster::desk::{Deed as Order, Desk};
use asobi_proto::{
    bus::InboxEvent,
    error::ErrorCode,
    frame,
    social_v1::{
        DeleteNotificationRequest, DeleteNotificationResponse, ListNotificationsRequest, ListNotificationsResponse,
        Notification as WireNotification, ReadNotificationRequest, ReadNotificationResponse, ReadNotificationsRequest,
        ReadNotificationsResponse, SendNotificationRequest, SendNotificationResponse,
        notification_service_server::NotificationService, read_notifications_request,
    },
};
use asobi_service_kit::grpc::{Caller, status};
use asobi_store::{
    inbox,
    notifications::{self, Notification, UpTo, templates},
    within,
};
use serde_json::{Value, json, value::RawValue};
use sqlx::PgConnection;
use time::OffsetDateTime;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use self::message::{Asked, Message};
pub use self::{admin::NotificationAdmin, jobs::Worker, sweep::run as sweep};
use crate::{
    deeds::{Deeds, Done},
    wire::{id, limit, optional_id, time, timestamp, unavailable},
};

const RECIPIENTS: usize = 1_000;

pub struct Notifications {
    pub deeds: Deeds,
    pub desk: Desk,
}

fn not_found() -> Status {
    status(ErrorCode::NOTIFICATION_NOT_FOUND, "there is no such notification")
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
        expires_at: row.expires_at.and_then(timestamp),
    }
}

/// What is to be told: what the request says itself, or what its template says with the request's parameters.
async fn message(deeds: &Deeds, asked: &Asked) -> Result<Message, Status> {
    if asked.template_id.is_empty() {
        return asked.plain();
    }
    asked.check_alone()?;
    let found = within(deeds.bound, templates::get(&deeds.pool, &asked.template_id)).await;
    let template = found.map_err(|e| unavailable(&e))?.ok_or_else(admin::no_template)?;
    admin::message(&template)?.filled(&asked.params)
}

/// Tells players, each in their language.
async fn tell(
    conn: &mut PgConnection,
    players: &[Uuid],
    message: &Message,
    expires_at: Option<OffsetDateTime>,
) -> asobi_store::Result<Result<Done<Vec<Notification>>, Status>> {
    let languages: std::collections::HashMap<Uuid, String> = if message.has_choice() {
        notifications::languages(conn, players).await?.into_iter().collect()
    } else {
        std::collections::HashMap::new()
    };
    let choose = |player: &Uuid| (*player, message.choose(languages.get(player).map_or("", String::as_str)));
    let players: Vec<_> = players.iter().map(choose).collect();
    let told = notifications::insert_texts(conn, &players, &message.to_texts(expires_at)).await?;
    Ok(Ok(Done { value: told.clone(), events: Vec::new(), told }))
}

/// What a player's connections are told when something was read on one of them.
fn read_event(what: &str, value: Value, unread: i64) -> InboxEvent {
    let payload = json!({what: value, "unread": unread});
    InboxEvent { frame: RawValue::from_string(frame::push("notification.read", payload)).ok(), action: None }
}

async fn read(
    conn: &mut PgConnection,
    player: Uuid,
    id: Uuid,
) -> asobi_store::Result<Result<Done<Option<Notification>>, Status>> {
    let Some((row, changed)) = notifications::mark_read(conn, player, id).await? else {
        return Ok(Ok(Done::quietly(None)));
    };
    if !changed {
        return Ok(Ok(Done::quietly(Some(row))));
    }
    inbox::hold(conn, player).await?;
    let unread = notifications::unread(&mut *conn, player).await?;
    let events = vec![(player, read_event("id", json!(id), unread))];
    Ok(Ok(Done { value: Some(row), events, told: Vec::new() }))
}

/// How many were marked, and how many are unread then.
async fn read_up_to(
    conn: &mut PgConnection,
    player: Uuid,
    up_to: UpTo,
) -> asobi_store::Result<Result<Done<(u64, i64)>, Status>> {
    let Some(marked) = notifications::mark_read_up_to(conn, player, up_to).await? else { return Ok(Err(not_found())) };
    // Whoever tells them something now comes before or after this, for the rows as for the connections.
    inbox::hold(conn, player).await?;
    let unread = notifications::unread(&mut *conn, player).await?;
    if marked == 0 {
        return Ok(Ok(Done::quietly((0, unread))));
    }
    let until = match up_to {
        UpTo::All => json!({}),
        UpTo::One(id) => json!({"id": id}),
        UpTo::Time(at) => json!({"time": at.unix_timestamp_nanos() / 1_000_000}),
    };
    let events = vec![(player, read_event("up_to", until, unread))];
    Ok(Ok(Done { value: (marked, unread), events, told: Vec::new() }))
}

impl Notifications {
    /// Why a player has no such notification: because it is another's, or because there is none.
    async fn not_theirs(&self, player: Uuid, notification: Uuid) -> Status {
        match within(self.deeds.bound, notifications::owner(&self.deeds.pool, notification)).await {
            // Their own has expired.
            Ok(Some(owner)) if owner == player => not_found(),
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
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        if request.player_ids.len() > RECIPIENTS {
            return Err(status(ErrorCode::VALIDATION_FAILED, "player_ids must be at most 1000"));
        }
        let players = request.player_ids.iter().map(|text| id(text, "player_ids")).collect::<Result<Vec<_>, _>>()?;
        let asked = Asked {
            kind: request.r#type.clone(),
            subject: request.subject.clone(),
            content_json: request.content_json.clone(),
            template_id: request.template_id.clone(),
            params: request.params.clone(),
        };
        let expires_at = request.expires_at.map(|at| time(at, "expires_at")).transpose()?;
        let message = message(&self.deeds, &asked).await?;
        let deed = async |conn: &mut PgConnection| tell(conn, &players, &message, expires_at).await;
        let answer =
            |told: Vec<Notification>| SendNotificationResponse { notifications: told.into_iter().map(wire).collect() };
        if caller == Caller::Node && request.request_id.is_empty() {
            return Ok(Response::new(answer(self.deeds.run(deed).await?)));
        }
        let order = Order {
            caller: &caller,
            action: "NotificationService/SendNotification",
            request_id: &request.request_id,
            subject: players.first().filter(|_| players.len() == 1).map(Uuid::to_string).unwrap_or_default(),
            detail: json!({"type": message.kind, "template_id": request.template_id, "players": players.len()}),
        };
        Ok(Response::new(self.deeds.order(&self.desk, order, &request, deed, answer).await?))
    }

    async fn list_notifications(
        &self,
        request: Request<ListNotificationsRequest>,
    ) -> Result<Response<ListNotificationsResponse>, Status> {
        let request = request.into_inner();
        let (player, most) = (id(&request.player_id, "player_id")?, limit(request.limit, 50, 200));
        let before = optional_id(&request.before, "before")?;
        let rows = notifications::list(&self.deeds.pool, player, request.read, before, most.into());
        let rows = within(self.deeds.bound, rows).await.map_err(|e| unavailable(&e))?;
        Ok(Response::new(ListNotificationsResponse { notifications: rows.into_iter().map(wire).collect() }))
    }

    async fn read_notification(
        &self,
        request: Request<ReadNotificationRequest>,
    ) -> Result<Response<ReadNotificationResponse>, Status> {
        let request = request.into_inner();
        let (player, which) = (id(&request.player_id, "player_id")?, id(&request.notification_id, "notification_id")?);
        match self.deeds.run(async |conn| read(conn, player, which).await).await? {
            Some(row) => Ok(Response::new(ReadNotificationResponse { notification: Some(wire(row)) })),
            None => Err(self.not_theirs(player, which).await),
        }
    }

    async fn read_notifications(
        &self,
        request: Request<ReadNotificationsRequest>,
    ) -> Result<Response<ReadNotificationsResponse>, Status> {
        let request = request.into_inner();
        let player = id(&request.player_id, "player_id")?;
        let up_to = match request.up_to {
            None => UpTo::All,
            Some(read_notifications_request::UpTo::NotificationId(text)) => UpTo::One(id(&text, "notification_id")?),
            Some(read_notifications_request::UpTo::Time(at)) => UpTo::Time(time(at, "time")?),
        };
        let (marked, unread) = self.deeds.run(async |conn| read_up_to(conn, player, up_to).await).await?;
        Ok(Response::new(ReadNotificationsResponse {
            marked: i32::try_from(marked).unwrap_or(i32::MAX),
            unread: i32::try_from(unread).unwrap_or(i32::MAX),
        }))
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
        Err(self.not_theirs(player, which).await)
    }
}
