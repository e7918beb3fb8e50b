//! `groups.*`: invitations into groups, carried to the social service. Whoever is invited hears of it by a notification.

use std::{future::Future, sync::Arc};

use asobi_cluster::social::{Repeat, SocialError};
use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        AcceptInviteRequest, DeclineInviteRequest, InvitePlayerRequest, group_service_client::GroupServiceClient,
    },
};
use asobi_service_kit::grpc::{ClusterChannel, error_code};
use serde_json::json;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Asker, Call, Work, fields};
use crate::hub::Hub;

type Groups = GroupServiceClient<ClusterChannel>;

pub(super) fn invite(call: &Call<'_>) -> Option<Work> {
    let (group, guest) = (id(call, "group_id")?, id(call, "player_id")?);
    let player = call.conn.player()?;
    let limit = call.hub.config.matchmaker.invites_per_minute;
    if !call.hub.queue.invites.allows(player, limit, std::time::Instant::now()) {
        call.error("rate_limited", "Too many invitations: wait a moment.");
        return None;
    }
    let request =
        InvitePlayerRequest { actor_id: player.to_string(), group_id: group.to_string(), player_id: guest.to_string() };
    let (hub, asker) = (Arc::clone(call.hub), call.asker());
    Some(Box::pin(async move {
        let invited = ask(&hub, group, Repeat::Safe, request, |mut c, r| async move { c.invite_player(r).await }).await;
        match invited.map(|answer| answer.invite.unwrap_or_default()) {
            Ok(invite) => {
                let expires_at = invite.expires_at.map(|at| at.seconds * 1_000 + i64::from(at.nanos) / 1_000_000);
                let payload =
                    json!({"group_id": group, "player_id": guest, "expires_at": expires_at.unwrap_or_default()});
                asker.reply("groups.invited", payload);
            }
            Err(error) => refuse(&asker, &error),
        }
    }))
}

pub(super) fn accept(call: &Call<'_>) -> Option<Work> {
    let (group, player) = (id(call, "group_id")?, call.conn.player()?);
    let request = AcceptInviteRequest { actor_id: player.to_string(), group_id: group.to_string() };
    let (hub, asker) = (Arc::clone(call.hub), call.asker());
    Some(Box::pin(async move {
        let came = ask(&hub, group, Repeat::Never, request, |mut c, r| async move { c.accept_invite(r).await }).await;
        match came {
            Ok(_) => asker.reply("groups.accepted", json!({"group_id": group})),
            Err(error) => refuse(&asker, &error),
        }
    }))
}

pub(super) fn decline(call: &Call<'_>) -> Option<Work> {
    let (group, player) = (id(call, "group_id")?, call.conn.player()?);
    let request = DeclineInviteRequest { actor_id: player.to_string(), group_id: group.to_string() };
    let (hub, asker) = (Arc::clone(call.hub), call.asker());
    Some(Box::pin(async move {
        let gone = ask(&hub, group, Repeat::Safe, request, |mut c, r| async move { c.decline_invite(r).await }).await;
        match gone {
            Ok(_) => asker.reply("groups.declined", json!({"group_id": group})),
            Err(error) => refuse(&asker, &error),
        }
    }))
}

/// Answers the error itself when the field is not there or names nothing.
fn id(call: &Call<'_>, field: &str) -> Option<Uuid> {
    let payload = fields::object(call.payload);
    let Some(text) = fields::text(&payload, field) else {
        call.missing(field);
        return None;
    };
    let id = Uuid::try_parse(text).ok();
    if id.is_none() {
        let (reason, message) = if field == "player_id" { NO_PLAYER } else { NO_GROUP };
        call.error(reason, message);
    }
    id
}

async fn ask<M: Clone, T, F>(
    hub: &Hub,
    group: Uuid,
    repeat: Repeat,
    message: M,
    call: impl Fn(Groups, Request<M>) -> F,
) -> Result<T, SocialError>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let key = group.to_string();
    hub.social.call(&key, repeat, message, |channel, request| call(Groups::new(channel), request)).await
}

const NO_GROUP: (&str, &str) = ("group_not_found", "There is no such group.");
const NO_PLAYER: (&str, &str) = ("player_not_found", "There is no such player.");

fn refuse(asker: &Asker, error: &SocialError) {
    let SocialError::Refused(status) = error else {
        tracing::debug!(%error, "A group's invitation could not be handled now.");
        return asker.not_ready();
    };
    match error_code(status).and_then(reason) {
        Some((reason, message)) => asker.error(reason, message),
        None => asker.not_ready(),
    }
}

/// What the social service's code is to a client; none: something of ours is not as it must be.
fn reason(code: ErrorCode) -> Option<(&'static str, &'static str)> {
    Some(match code {
        ErrorCode::SOCIAL_GROUP_NOT_FOUND => NO_GROUP,
        ErrorCode::PLAYER_NOT_FOUND => NO_PLAYER,
        ErrorCode::SOCIAL_ALREADY_MEMBER => ("already_member", "The player is in the group already."),
        ErrorCode::SOCIAL_GROUP_CLOSED => ("not_invited", "There is no open invitation into this group."),
        ErrorCode::SOCIAL_GROUP_FULL => ("group_full", "The group is full."),
        ErrorCode::DM_BLOCKED => ("blocked", "One of the two blocks the other."),
        ErrorCode::FORBIDDEN => ("not_authorized", "The player may not do that, or has done as much of it as one may."),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_to_mend_is_no_reason() {
        assert_eq!(reason(ErrorCode::SOCIAL_GROUP_FULL).map(|r| r.0), Some("group_full"));
        assert_eq!(reason(ErrorCode::NOT_READY), None);
        assert_eq!(reason(ErrorCode::INVALID_PAYLOAD), None);
    }
}
