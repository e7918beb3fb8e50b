//! Invitations into groups, closed ones above all.
//!
//! ```text
//!            ┌─► accepted ──► a member
//!  invited ──┼─► declined, taken back, past its time
//!            └─► ended with the group, by a block between the two, or by joining without it
//! ```
//!
//! **Invariant:** the notification of an invitation is there exactly as long as it stands.

use asobi_proto::bus::InboxEvent;
use asobi_store::{
    friends,
    groups::{
        self, GroupRole, Member,
        invites::{self, Invite, KIND},
    },
    notifications::{self, Text, Texts},
};
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::deeds::{Deed, Refusal, may_speak_for, news};
use crate::deeds::Done;

/// How long an invitation stands.
const LIFE_S: f64 = 7.0 * 86_400.0;
/// Open ones of one group.
const OF_GROUP: i64 = 100;
/// Open ones of one player.
const OF_PLAYER: i64 = 50;

pub(super) async fn invite(conn: &mut PgConnection, id: Uuid, actor: Uuid, player: Uuid) -> Deed<Invite> {
    // The players before the group: the order of everybody who locks both.
    let there = groups::lock_players(conn, &[actor, player]).await?;
    let Some(group) = groups::lock(conn, id).await? else { return Ok(Err(Refusal::NoSuchGroup)) };
    match groups::member(conn, id, actor).await? {
        Some(member) if may_speak_for(member.role) && actor != player => {}
        _ => return Ok(Err(Refusal::NotAllowed)),
    }
    if !there.contains(&player) {
        return Ok(Err(Refusal::NoSuchPlayer));
    }
    if groups::member(conn, id, player).await?.is_some() {
        return Ok(Err(Refusal::AlreadyIn));
    }
    if friends::blocked_between(&mut *conn, actor, player).await? {
        return Ok(Err(Refusal::Blocked));
    }
    if let Some(invite) = invites::get(conn, id, player).await? {
        return Ok(Ok(Done::quietly(invite)));
    }
    let (of_group, of_player) = invites::open(conn, id, player).await?;
    if of_group >= OF_GROUP {
        return Ok(Err(Refusal::TooManyInvites));
    }
    if of_player >= OF_PLAYER {
        return Ok(Err(Refusal::TooManyInvitations));
    }
    // With what is left of one that is over.
    invites::delete(conn, id, player).await?;
    let invite = invites::insert(conn, id, player, actor, LIFE_S).await?;
    let content = json!({"group_id": id, "group_name": group.name, "from_player_id": actor});
    let notice = Texts {
        kind: KIND.into(),
        texts: vec![Text { subject: "Group invitation".into(), content }],
        expires_at: Some(invite.expires_at),
    };
    let told = notifications::insert_texts(conn, &[(player, 0)], &notice).await?;
    Ok(Ok(Done { value: invite, events: Vec::<(Uuid, InboxEvent)>::new(), told }))
}

pub(super) async fn accept(conn: &mut PgConnection, id: Uuid, actor: Uuid, most: u32) -> Deed<Member> {
    let Some(count) = groups::lock_count_of(conn, actor).await? else { return Ok(Err(Refusal::NoSuchPlayer)) };
    let Some(group) = groups::lock(conn, id).await? else { return Ok(Err(Refusal::NoSuchGroup)) };
    if groups::member(conn, id, actor).await?.is_some() {
        return Ok(Err(Refusal::AlreadyIn));
    }
    if invites::get(conn, id, actor).await?.is_none() {
        return Ok(Err(Refusal::NotInvited));
    }
    if groups::size(conn, id).await? >= i64::from(group.max_members) {
        return Ok(Err(Refusal::Full));
    }
    if count >= i64::from(most) {
        return Ok(Err(Refusal::TooMany));
    }
    invites::delete(conn, id, actor).await?;
    let member = groups::add(conn, id, actor, GroupRole::Member).await?;
    Ok(Ok(Done { value: member, events: news(actor, id, true), told: Vec::new() }))
}

pub(super) async fn decline(conn: &mut PgConnection, id: Uuid, actor: Uuid) -> Deed<()> {
    if groups::lock(conn, id).await?.is_none() {
        return Ok(Err(Refusal::NoSuchGroup));
    }
    invites::delete(conn, id, actor).await?;
    Ok(Ok(Done::quietly(())))
}

pub(super) async fn cancel(conn: &mut PgConnection, id: Uuid, actor: Uuid, player: Uuid) -> Deed<()> {
    if groups::lock(conn, id).await?.is_none() {
        return Ok(Err(Refusal::NoSuchGroup));
    }
    let member = groups::member(conn, id, actor).await?;
    let invite = invites::get(conn, id, player).await?;
    let own = invite.is_some_and(|invite| invite.invited_by == actor);
    if !own && !member.is_some_and(|member| may_speak_for(member.role)) {
        return Ok(Err(Refusal::NotAllowed));
    }
    invites::delete(conn, id, player).await?;
    Ok(Ok(Done::quietly(())))
}

/// For those who may invite.
pub(super) async fn of_group(conn: &mut PgConnection, id: Uuid, actor: Uuid) -> Deed<Vec<Invite>> {
    match groups::member(conn, id, actor).await? {
        Some(member) if may_speak_for(member.role) => {
            Ok(Ok(Done::quietly(invites::of_group(conn, id, OF_GROUP).await?)))
        }
        Some(_) => Ok(Err(Refusal::NotAllowed)),
        None if groups::lock(conn, id).await?.is_none() => Ok(Err(Refusal::NoSuchGroup)),
        None => Ok(Err(Refusal::NotAllowed)),
    }
}

pub(super) async fn of_player(pool: &PgPool, player: Uuid) -> asobi_store::Result<Vec<Invite>> {
    invites::of_player(pool, player, OF_PLAYER).await
}
