//! What a group's owner, admins and moderators tell all of its members at once.

use asobi_proto::{error::ErrorCode, social_v1::CreateAnnouncementRequest};
use asobi_service_kit::grpc::status;
use asobi_store::{
    groups::{
        self,
        announcements::{self, Announcement, KIND},
    },
    notifications::{self, NewNotification},
};
use serde_json::json;
use sqlx::PgConnection;
use tonic::Status;
use uuid::Uuid;

use super::{
    deeds::{Deed, Refusal, may_speak_for},
    wire::MEMBERS,
};
use crate::deeds::Done;

/// Of a group, between two.
const EVERY_S: f64 = 60.0;
/// Of one group; a new one removes the oldest past it.
const KEPT: i64 = 100;
const SUBJECT_BYTES: usize = 128;
const CONTENT_BYTES: std::ops::RangeInclusive<usize> = 1..=2_000;

/// What is to be announced.
pub(super) struct New {
    subject: String,
    content: String,
}

impl New {
    pub(super) fn read(request: &CreateAnnouncementRequest) -> Result<Self, Status> {
        let invalid = |message| Err(status(ErrorCode::VALIDATION_FAILED, message));
        if request.subject.len() > SUBJECT_BYTES || request.subject.contains('\0') {
            return invalid("subject must have at most 128 bytes");
        }
        if !CONTENT_BYTES.contains(&request.content.len()) || request.content.contains('\0') {
            return invalid("content must have 1 to 2000 bytes");
        }
        Ok(Self { subject: request.subject.clone(), content: request.content.clone() })
    }
}

pub(super) async fn announce(conn: &mut PgConnection, id: Uuid, actor: Uuid, new: New) -> Deed<Announcement> {
    // Who comes in until the group's row is ours was not there yet; who goes out is not told.
    let players: Vec<Uuid> =
        groups::members(&mut *conn, id, MEMBERS.1.into()).await?.iter().map(|m| m.player_id).collect();
    let there = groups::hold_players(conn, &players).await?;
    let Some(group) = groups::lock(conn, id).await? else { return Ok(Err(Refusal::NoSuchGroup)) };
    match groups::member(conn, id, actor).await? {
        Some(member) if may_speak_for(member.role) => {}
        _ => return Ok(Err(Refusal::NotAllowed)),
    }
    if !announcements::take_turn(conn, id, EVERY_S).await? {
        return Ok(Err(Refusal::TooSoon));
    }
    let announcement = announcements::insert(conn, id, actor, &new.subject, &new.content, KEPT).await?;
    let members = groups::members(&mut *conn, id, MEMBERS.1.into()).await?;
    let told: Vec<Uuid> =
        members.iter().map(|m| m.player_id).filter(|player| there.binary_search(player).is_ok()).collect();
    let notice = NewNotification {
        kind: KIND.into(),
        subject: if new.subject.is_empty() { format!("News from {}", group.name) } else { new.subject },
        content: json!({"group_id": id, "group_name": group.name, "announcement_id": announcement.id,
                        "from_player_id": actor, "text": new.content}),
    };
    let told = notifications::insert(conn, &told, &notice).await?;
    Ok(Ok(Done { value: announcement, events: Vec::new(), told }))
}

pub(super) async fn delete(conn: &mut PgConnection, id: Uuid, actor: Uuid, which: Uuid) -> Deed<()> {
    if groups::lock(conn, id).await?.is_none() {
        return Ok(Err(Refusal::NoSuchGroup));
    }
    let Some(member) = groups::member(conn, id, actor).await? else { return Ok(Err(Refusal::NotAllowed)) };
    let Some(announcement) = announcements::get(conn, id, which).await? else {
        return Ok(Err(Refusal::NoSuchAnnouncement));
    };
    if !may_speak_for(member.role) && announcement.author_id != Some(actor) {
        return Ok(Err(Refusal::NotAllowed));
    }
    announcements::delete(conn, id, which).await?;
    Ok(Ok(Done::quietly(())))
}
