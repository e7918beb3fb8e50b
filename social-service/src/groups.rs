//! `GroupService`: who may do what in a group. Each change is one transaction that holds the group's row; whoever came in or
//! went out hears of it through their inbox, so that every node ends or begins what they may do in `room:<group_id>`.
//!
//! | role | the group itself | others' roles | removes |
//! | --- | --- | --- | --- |
//! | owner | changes | any; `owner` hands the group over and makes them an admin | anybody |
//! | admin | changes | of moderators and members, up to moderator | moderators and members |
//! | moderator | – | – | members |
//! | member | – | – | – |
//!
//! Nobody changes their own role or removes themself: they leave.

use asobi_proto::{
    bus::{InboxAction, InboxEvent},
    error::ErrorCode,
    social_v1::{
        CreateGroupRequest, CreateGroupResponse, GetGroupRequest, GetGroupResponse, Group as WireGroup,
        GroupMember as WireMember, GroupRole as WireRole, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
        LeaveGroupResponse, ListMembersRequest, ListMembersResponse, RemoveMemberRequest, RemoveMemberResponse,
        SetRoleRequest, SetRoleResponse, UpdateGroupRequest, UpdateGroupResponse, group_service_server::GroupService,
    },
};
use asobi_service_kit::grpc::status;
use asobi_store::{
    groups::{self, Group, GroupChanges, GroupRole, Member, NewGroup},
    within,
};
use sqlx::PgConnection;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    deeds::{Deeds, Done},
    wire::{id, json_object, limit, timestamp, unavailable},
};

const NAME_CHARS: std::ops::RangeInclusive<usize> = 2..=64;
const DESCRIPTION_CHARS: usize = 1_000;
const METADATA_BYTES: usize = 16 * 1024;
/// Of a group's members: the default and the most.
const MEMBERS: (i32, i32) = (50, 1_000);

pub struct Groups {
    pub deeds: Deeds,
    /// Groups that one player may be in.
    pub most: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    NoSuchGroup,
    NoSuchPlayer,
    NotAMember,
    AlreadyIn,
    Closed,
    Full,
    TooMany,
    NotAllowed,
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
        };
        status(code, message)
    }
}

type Deed<T> = asobi_store::Result<Result<Done<T>, Refusal>>;

/// Whether somebody of the role `actor` may give `role` to another one of the role `target`.
fn may_set_role(actor: GroupRole, target: GroupRole, role: GroupRole) -> bool {
    match actor {
        GroupRole::Owner => true,
        GroupRole::Admin => target > GroupRole::Admin && role > GroupRole::Admin,
        GroupRole::Moderator | GroupRole::Member => false,
    }
}

fn may_remove(actor: GroupRole, target: GroupRole) -> bool {
    actor <= GroupRole::Moderator && actor < target
}

fn news(player: Uuid, group_id: Uuid, member: bool) -> Vec<(Uuid, InboxEvent)> {
    vec![(player, InboxEvent { frame: None, action: Some(InboxAction::Group { group_id, member }) })]
}

async fn create(conn: &mut PgConnection, actor: Uuid, new: NewGroup, most: u32) -> Deed<Group> {
    match groups::lock_count_of(conn, actor).await? {
        None => return Ok(Err(Refusal::NoSuchPlayer)),
        Some(count) if count >= i64::from(most) => return Ok(Err(Refusal::TooMany)),
        Some(_) => {}
    }
    let group = groups::insert(conn, actor, new).await?;
    Ok(Ok(Done { events: news(actor, group.id, true), value: group, told: Vec::new() }))
}

async fn update(conn: &mut PgConnection, actor: Uuid, id: Uuid, changes: GroupChanges) -> Deed<Group> {
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

async fn join(conn: &mut PgConnection, actor: Uuid, id: Uuid, most: u32) -> Deed<Member> {
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
    let member = groups::add(conn, id, actor, GroupRole::Member).await?;
    Ok(Ok(Done { value: member, events: news(actor, id, true), told: Vec::new() }))
}

async fn leave(conn: &mut PgConnection, actor: Uuid, id: Uuid) -> Deed<()> {
    if groups::lock(conn, id).await?.is_none() {
        return Ok(Err(Refusal::NoSuchGroup));
    }
    let Some(member) = groups::member(conn, id, actor).await? else { return Ok(Err(Refusal::NotAMember)) };
    groups::remove(conn, &member).await?;
    Ok(Ok(Done { value: (), events: news(actor, id, false), told: Vec::new() }))
}

/// Both of a deed upon another member, with the group's row locked. Who is not in the group learns nothing of its members.
async fn two_members(
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

async fn set_role(conn: &mut PgConnection, id: Uuid, actor: Uuid, player: Uuid, role: GroupRole) -> Deed<Member> {
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

async fn remove(conn: &mut PgConnection, id: Uuid, actor: Uuid, player: Uuid) -> Deed<()> {
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

fn name(text: &str) -> Result<&str, Status> {
    let fits = NAME_CHARS.contains(&text.chars().count()) && !text.contains('\0');
    if fits { Ok(text) } else { Err(status(ErrorCode::VALIDATION_FAILED, "a group's name has 2 to 64 characters")) }
}

/// An empty one is none.
fn description(text: Option<String>) -> Result<Option<String>, Status> {
    match text {
        Some(text) if text.chars().count() > DESCRIPTION_CHARS || text.contains('\0') => {
            Err(status(ErrorCode::VALIDATION_FAILED, "a group's description has at most 1000 characters"))
        }
        text => Ok(text.filter(|text| !text.is_empty())),
    }
}

fn max_members(asked: i32) -> Result<i32, Status> {
    if (1..=MEMBERS.1).contains(&asked) {
        return Ok(asked);
    }
    Err(status(ErrorCode::VALIDATION_FAILED, "max_members must be from 1 to 1000"))
}

fn new_group(request: CreateGroupRequest) -> Result<NewGroup, Status> {
    let max = if request.max_members == 0 { MEMBERS.0 } else { request.max_members };
    Ok(NewGroup {
        name: name(&request.name)?.to_owned(),
        description: description(request.description)?,
        max_members: max_members(max)?,
        open: request.open,
        metadata: json_object(&request.metadata_json, "metadata_json", METADATA_BYTES)?,
    })
}

fn changes(request: UpdateGroupRequest) -> Result<GroupChanges, Status> {
    let metadata = request.metadata_json.map(|text| json_object(&text, "metadata_json", METADATA_BYTES));
    Ok(GroupChanges {
        name: request.name.map(|text| name(&text).map(ToOwned::to_owned)).transpose()?,
        description: request.description.map(|text| description(Some(text))).transpose()?,
        max_members: request.max_members.map(max_members).transpose()?,
        open: request.open,
        metadata: metadata.transpose()?,
    })
}

fn wire(group: Group) -> WireGroup {
    WireGroup {
        id: group.id.to_string(),
        name: group.name,
        description: group.description,
        max_members: group.max_members,
        open: group.open,
        creator_id: group.creator_id.map(|id| id.to_string()).unwrap_or_default(),
        metadata_json: group.metadata.to_string(),
        inserted_at: timestamp(group.inserted_at),
        updated_at: timestamp(group.updated_at),
    }
}

fn wire_member(member: Member) -> WireMember {
    let role = match member.role {
        GroupRole::Owner => WireRole::Owner,
        GroupRole::Admin => WireRole::Admin,
        GroupRole::Moderator => WireRole::Moderator,
        GroupRole::Member => WireRole::Member,
    };
    WireMember {
        id: member.id.to_string(),
        group_id: member.group_id.to_string(),
        player_id: member.player_id.to_string(),
        role: role.into(),
        joined_at: timestamp(member.joined_at),
    }
}

fn known_role(role: WireRole) -> Result<GroupRole, Status> {
    match role {
        WireRole::Unspecified => Err(status(ErrorCode::SOCIAL_INVALID_ROLE, "there is no such role")),
        WireRole::Owner => Ok(GroupRole::Owner),
        WireRole::Admin => Ok(GroupRole::Admin),
        WireRole::Moderator => Ok(GroupRole::Moderator),
        WireRole::Member => Ok(GroupRole::Member),
    }
}

impl Groups {
    async fn known(&self, id: Uuid) -> Result<Group, Status> {
        let group = within(self.deeds.bound, groups::get(&self.deeds.pool, id)).await;
        group.map_err(|e| unavailable(&e))?.ok_or_else(|| Refusal::NoSuchGroup.into())
    }
}

#[tonic::async_trait]
impl GroupService for Groups {
    async fn create_group(
        &self,
        request: Request<CreateGroupRequest>,
    ) -> Result<Response<CreateGroupResponse>, Status> {
        let request = request.into_inner();
        let actor = id(&request.actor_id, "actor_id")?;
        let (new, most) = (new_group(request)?, self.most);
        let group = self.deeds.run(async |conn| create(conn, actor, new, most).await).await?;
        Ok(Response::new(CreateGroupResponse { group: Some(wire(group)) }))
    }

    async fn get_group(&self, request: Request<GetGroupRequest>) -> Result<Response<GetGroupResponse>, Status> {
        let group = self.known(id(&request.into_inner().group_id, "group_id")?).await?;
        Ok(Response::new(GetGroupResponse { group: Some(wire(group)) }))
    }

    async fn update_group(
        &self,
        request: Request<UpdateGroupRequest>,
    ) -> Result<Response<UpdateGroupResponse>, Status> {
        let request = request.into_inner();
        let (actor, group) = (id(&request.actor_id, "actor_id")?, id(&request.group_id, "group_id")?);
        let changes = changes(request)?;
        let group = self.deeds.run(async |conn| update(conn, actor, group, changes).await).await?;
        Ok(Response::new(UpdateGroupResponse { group: Some(wire(group)) }))
    }

    async fn join_group(&self, request: Request<JoinGroupRequest>) -> Result<Response<JoinGroupResponse>, Status> {
        let request = request.into_inner();
        let (actor, group) = (id(&request.actor_id, "actor_id")?, id(&request.group_id, "group_id")?);
        let most = self.most;
        let member = self.deeds.run(async |conn| join(conn, actor, group, most).await).await?;
        Ok(Response::new(JoinGroupResponse { member: Some(wire_member(member)) }))
    }

    async fn leave_group(&self, request: Request<LeaveGroupRequest>) -> Result<Response<LeaveGroupResponse>, Status> {
        let request = request.into_inner();
        let (actor, group) = (id(&request.actor_id, "actor_id")?, id(&request.group_id, "group_id")?);
        self.deeds.run(async |conn| leave(conn, actor, group).await).await?;
        Ok(Response::new(LeaveGroupResponse {}))
    }

    async fn list_members(
        &self,
        request: Request<ListMembersRequest>,
    ) -> Result<Response<ListMembersResponse>, Status> {
        let request = request.into_inner();
        let group = id(&request.group_id, "group_id")?;
        let most = limit(request.limit, MEMBERS.1, MEMBERS.1);
        let rows = within(self.deeds.bound, groups::members(&self.deeds.pool, group, most.into())).await;
        let members: Vec<_> = rows.map_err(|e| unavailable(&e))?.into_iter().map(wire_member).collect();
        if members.is_empty() {
            // A group without members does not exist.
            self.known(group).await?;
        }
        Ok(Response::new(ListMembersResponse { members }))
    }

    async fn set_role(&self, request: Request<SetRoleRequest>) -> Result<Response<SetRoleResponse>, Status> {
        let request = request.into_inner();
        let role = known_role(request.role())?;
        let (actor, group) = (id(&request.actor_id, "actor_id")?, id(&request.group_id, "group_id")?);
        let player = id(&request.player_id, "player_id")?;
        let member = self.deeds.run(async |conn| set_role(conn, group, actor, player, role).await).await?;
        Ok(Response::new(SetRoleResponse { member: Some(wire_member(member)) }))
    }

    async fn remove_member(
        &self,
        request: Request<RemoveMemberRequest>,
    ) -> Result<Response<RemoveMemberResponse>, Status> {
        let request = request.into_inner();
        let (actor, group) = (id(&request.actor_id, "actor_id")?, id(&request.group_id, "group_id")?);
        let player = id(&request.player_id, "player_id")?;
        self.deeds.run(async |conn| remove(conn, group, actor, player).await).await?;
        Ok(Response::new(RemoveMemberResponse {}))
    }
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
    }
}
