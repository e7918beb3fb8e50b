//! Who may do what in a group, and how it is done: each deed under the row locks it names, with the news of it.

use asobi_proto::{
    bus::{InboxAction, InboxEvent},
    error::ErrorCode,
};
use asobi_service_kit::grpc::status;
use asobi_store::groups::{self, Group, GroupChanges, GroupRole, Member, NewGroup, invites};
use sqlx::PgConnection;
use tonic::Status;
use uuid::Uuid;

use crate::deeds::Done;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    NoSuchGroup,
    NoSuchPlayer,
    NotAMember,
    AlreadyIn,
    Closed,
    Full,
    TooMany,
    NotAllowed,
    NotInvited,
    Blocked,
    TooManyInvites,
    TooManyInvitations,
    TooSoon,
    NoSuchAnnouncement,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let (code, message) = match refusal {
            Refusal::NoSuchGroup => (ErrorCode::SOCIAL_GROUP_NOT_FOUND, "there is no such group"),
            Refusal::NoSuchPlayer => (ErrorCode::PLAYER_NOT_FOUND, "there is no such player"),
            Refusal::NotAMember => (ErrorCode::SOCIAL_MEMBER_NOT_FOUND, "the player is not a member of this group"),
            Refusal::AlreadyIn => (ErrorCode::SOCIAL_ALREADY_MEMBER, "the player is a member already"),
            Refusal::Closed => (ErrorCode::SOCIAL_GROUP_CLOSED, "the group is not open"),
            Refusal::Full => (ErrorCode::SOCIAL_GROUP_FULL, "the group is full"),
            Refusal::TooMany => (ErrorCode::FORBIDDEN, "the player is in as many groups as one may be in"),
            Refusal::NotAllowed => (ErrorCode::FORBIDDEN, "the player's role in this group does not allow that"),
            Refusal::NotInvited => (ErrorCode::SOCIAL_GROUP_CLOSED, "the player is not invited"),
            Refusal::Blocked => (ErrorCode::DM_BLOCKED, "one of the two blocks the other"),
            Refusal::TooManyInvites => (ErrorCode::FORBIDDEN, "the group has as many open invitations as one may have"),
            Refusal::TooManyInvitations => {
                (ErrorCode::FORBIDDEN, "the player has as many open invitations as one may have")
            }
            Refusal::TooSoon => (ErrorCode::RATE_LIMITED, "the group has announced something within the last minute"),
            Refusal::NoSuchAnnouncement => (ErrorCode::NOTIFICATION_NOT_FOUND, "there is no such announcement"),
        };
        status(code, message)
    }
}

pub(super) type Deed<T> = asobi_store::Result<Result<Done<T>, Refusal>>;

/// Whether somebody of the role `actor` may give `role` to another one of the role `target`.
pub(super) fn may_set_role(actor: GroupRole, target: GroupRole, role: GroupRole) -> bool {
    match actor {
        GroupRole::Owner => true,
        GroupRole::Admin => target > GroupRole::Admin && role > GroupRole::Admin,
        GroupRole::Moderator | GroupRole::Member => false,
    }
}

/// Whether the role may invite players and announce what all members are told.
pub(super) fn may_speak_for(actor: GroupRole) -> bool {
    actor <= GroupRole::Moderator
}

pub(super) fn may_remove(actor: GroupRole, target: GroupRole) -> bool {
    actor <= GroupRole::Moderator && actor < target
}

pub(super) fn news(player: Uuid, group_id: Uuid, member: bool) -> Vec<(Uuid, InboxEvent)> {
    vec![(player, InboxEvent { frame: None, action: Some(InboxAction::Group { group_id, member }) })]
}

pub(super) async fn create(conn: &mut PgConnection, actor: Uuid, new: NewGroup, most: u32) -> Deed<Group> {
    match groups::lock_count_of(conn, actor).await? {
        None => return Ok(Err(Refusal::NoSuchPlayer)),
        Some(count) if count >= i64::from(most) => return Ok(Err(Refusal::TooMany)),
        Some(_) => {}
    }
    let group = groups::insert(conn, actor, new).await?;
    Ok(Ok(Done { events: news(actor, group.id, true), value: group, told: Vec::new() }))
}

pub(super) async fn update(conn: &mut PgConnection, actor: Uuid, id: Uuid, changes: GroupChanges) -> Deed<Group> {
    if groups::lock(conn, id).await?.is_none() {
        return Ok(Err(Refusal::NoSuchGroup));
    }
    match groups::member(conn, id, actor).await? {
        Some(member) if member.role <= GroupRole::Admin => {
            Ok(Ok(Done::quietly(groups::update(conn, id, changes).await?)))
        }
        _ => Ok(Err(Refusal::NotAllowed)),
    }
}

pub(super) async fn join(conn: &mut PgConnection, actor: Uuid, id: Uuid, most: u32) -> Deed<Member> {
    // The player before the group: the order of everybody who locks both.
    let Some(count) = groups::lock_count_of(conn, actor).await? else { return Ok(Err(Refusal::NoSuchPlayer)) };
    let Some(group) = groups::lock(conn, id).await? else { return Ok(Err(Refusal::NoSuchGroup)) };
    if groups::member(conn, id, actor).await?.is_some() {
        return Ok(Err(Refusal::AlreadyIn));
    }
    if !group.open {
        return Ok(Err(Refusal::Closed));
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

pub(super) async fn leave(conn: &mut PgConnection, actor: Uuid, id: Uuid) -> Deed<()> {
    if groups::lock(conn, id).await?.is_none() {
        return Ok(Err(Refusal::NoSuchGroup));
    }
    let Some(member) = groups::member(conn, id, actor).await? else { return Ok(Err(Refusal::NotAMember)) };
    groups::remove(conn, &member).await?;
    Ok(Ok(Done { value: (), events: news(actor, id, false), told: Vec::new() }))
}

/// Both of a deed upon another member, with the group's row locked. Who is not in the group learns nothing of its members.
pub(super) async fn two_members(
    conn: &mut PgConnection,
    id: Uuid,
    actor: Uuid,
    player: Uuid,
) -> asobi_store::Result<Result<(Member, Member), Refusal>> {
    if groups::lock(conn, id).await?.is_none() {
        return Ok(Err(Refusal::NoSuchGroup));
    }
    let Some(acting) = groups::member(conn, id, actor).await? else { return Ok(Err(Refusal::NotAllowed)) };
    if actor == player || acting.role == GroupRole::Member {
        return Ok(Err(Refusal::NotAllowed));
    }
    Ok(groups::member(conn, id, player).await?.map(|target| (acting, target)).ok_or(Refusal::NotAMember))
}

pub(super) async fn set_role(
    conn: &mut PgConnection,
    id: Uuid,
    actor: Uuid,
    player: Uuid,
    role: GroupRole,
) -> Deed<Member> {
    let (acting, target) = match two_members(conn, id, actor, player).await? {
        Ok(both) => both,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if !may_set_role(acting.role, target.role, role) {
        return Ok(Err(Refusal::NotAllowed));
    }
    if role == GroupRole::Owner {
        groups::set_role(conn, id, actor, GroupRole::Admin).await?;
    }
    Ok(Ok(Done::quietly(groups::set_role(conn, id, player, role).await?)))
}

pub(super) async fn remove(conn: &mut PgConnection, id: Uuid, actor: Uuid, player: Uuid) -> Deed<()> {
    let (acting, target) = match two_members(conn, id, actor, player).await? {
        Ok(both) => both,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if !may_remove(acting.role, target.role) {
        return Ok(Err(Refusal::NotAllowed));
    }
    groups::remove(conn, &target).await?;
    Ok(Ok(Done { value: (), events: news(player, id, false), told: Vec::new() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [GroupRole; 4] = [GroupRole::Owner, GroupRole::Admin, GroupRole::Moderator, GroupRole::Member];

    #[test]
    fn nobody_moves_their_equals_or_betters_but_the_owner() {
        for actor in ROLES {
            for target in ROLES.into_iter().filter(|target| *target <= actor && actor != GroupRole::Owner) {
                assert!(!may_remove(actor, target), "{actor:?} {target:?}");
                for role in ROLES {
                    assert!(!may_set_role(actor, target, role), "{actor:?} {target:?} {role:?}");
                }
            }
        }
        assert!(may_set_role(GroupRole::Owner, GroupRole::Member, GroupRole::Owner));
        assert!(may_set_role(GroupRole::Admin, GroupRole::Member, GroupRole::Moderator));
        assert!(!may_set_role(GroupRole::Admin, GroupRole::Member, GroupRole::Admin), "nobody makes their equals");
        assert!(!may_set_role(GroupRole::Moderator, GroupRole::Member, GroupRole::Moderator));
        assert!(
            may_remove(GroupRole::Moderator, GroupRole::Member) && may_remove(GroupRole::Admin, GroupRole::Moderator)
        );
        assert!(!may_remove(GroupRole::Member, GroupRole::Member));
        assert!(may_speak_for(GroupRole::Moderator) && !may_speak_for(GroupRole::Member));
    }
}
