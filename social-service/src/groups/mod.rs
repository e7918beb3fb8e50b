//! `GroupService`: who may do what in a group. Each change is one transaction that holds the group's row; whoever came in or
//! went out hears of it through their inbox, so that every node ends or begins what they may do in `room:<group_id>`.
//!
//! | role | the group itself | others' roles | removes | invites, announces |
//! | --- | --- | --- | --- | --- |
//! | owner | changes | any; `owner` hands the group over and makes them an admin | anybody | yes |
//! | admin | changes | of moderators and members, up to moderator | moderators and members | yes |
//! | moderator | – | – | members | yes |
//! | member | – | – | – | – |
//!
//! Nobody changes their own role or removes themself: they leave. Operators do as they like, by [`admin`].

mod admin;
mod announcements;
mod deeds;
mod invites;
mod wire;

use asobi_proto::social_v1::{
    AcceptInviteRequest, AcceptInviteResponse, CancelInviteRequest, CancelInviteResponse, CreateAnnouncementRequest,
    CreateAnnouncementResponse, CreateGroupRequest, CreateGroupResponse, DeclineInviteRequest, DeclineInviteResponse,
    DeleteAnnouncementRequest, DeleteAnnouncementResponse, GetGroupRequest, GetGroupResponse, InvitePlayerRequest,
    InvitePlayerResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    ListAnnouncementsRequest, ListAnnouncementsResponse, ListGroupsRequest, ListGroupsResponse, ListInvitesRequest,
    ListInvitesResponse, ListMembersRequest, ListMembersResponse, ListPlayerGroupsRequest, ListPlayerGroupsResponse,
    RemoveMemberRequest, RemoveMemberResponse, SetRoleRequest, SetRoleResponse, UpdateGroupRequest,
    UpdateGroupResponse, group_service_server::GroupService,
};
use asobi_store::{
    groups::{self, Group},
    within,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

pub use self::admin::GroupAdmin;
use self::{
    deeds::{Refusal, create, join, leave, remove, set_role, update},
    wire::{
        MEMBERS, changes, known_role, new_group, page, summaries, wire, wire_announcement, wire_invite, wire_member,
        wire_membership,
    },
};
use crate::{
    deeds::Deeds,
    wire::{cut, id, limit, optional_id, page_size, unavailable},
};

pub struct Groups {
    pub deeds: Deeds,
    /// Groups that one player may be in.
    pub most: u32,
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

    async fn list_groups(&self, request: Request<ListGroupsRequest>) -> Result<Response<ListGroupsResponse>, Status> {
        let request = request.into_inner();
        let page = page(request.query, request.open, request.page_size, &request.page_token)?;
        let rows = within(self.deeds.bound, groups::search(&self.deeds.pool, &page)).await;
        let (groups, next_page_token) = summaries(rows.map_err(|e| unavailable(&e))?, page.limit);
        Ok(Response::new(ListGroupsResponse { groups, next_page_token }))
    }

    async fn list_player_groups(
        &self,
        request: Request<ListPlayerGroupsRequest>,
    ) -> Result<Response<ListPlayerGroupsResponse>, Status> {
        let request = request.into_inner();
        let (player, size) = (id(&request.player_id, "player_id")?, page_size(request.page_size));
        let after = optional_id(&request.page_token, "page_token")?;
        let rows = groups::of_player(&self.deeds.pool, player, after, i64::from(size) + 1);
        let mut rows = within(self.deeds.bound, rows).await.map_err(|e| unavailable(&e))?;
        let next_page_token = cut(&mut rows, size, |row| row.group.id.to_string());
        let memberships = rows.into_iter().map(wire_membership).collect();
        Ok(Response::new(ListPlayerGroupsResponse { memberships, next_page_token }))
    }

    async fn invite_player(
        &self,
        request: Request<InvitePlayerRequest>,
    ) -> Result<Response<InvitePlayerResponse>, Status> {
        let request = request.into_inner();
        let (actor, group) = (id(&request.actor_id, "actor_id")?, id(&request.group_id, "group_id")?);
        let player = id(&request.player_id, "player_id")?;
        let invite = self.deeds.run(async |conn| invites::invite(conn, group, actor, player).await).await?;
        Ok(Response::new(InvitePlayerResponse { invite: Some(wire_invite(invite)) }))
    }

    async fn accept_invite(
        &self,
        request: Request<AcceptInviteRequest>,
    ) -> Result<Response<AcceptInviteResponse>, Status> {
        let request = request.into_inner();
        let (actor, group) = (id(&request.actor_id, "actor_id")?, id(&request.group_id, "group_id")?);
        let most = self.most;
        let member = self.deeds.run(async |conn| invites::accept(conn, group, actor, most).await).await?;
        Ok(Response::new(AcceptInviteResponse { member: Some(wire_member(member)) }))
    }

    async fn decline_invite(
        &self,
        request: Request<DeclineInviteRequest>,
    ) -> Result<Response<DeclineInviteResponse>, Status> {
        let request = request.into_inner();
        let (actor, group) = (id(&request.actor_id, "actor_id")?, id(&request.group_id, "group_id")?);
        self.deeds.run(async |conn| invites::decline(conn, group, actor).await).await?;
        Ok(Response::new(DeclineInviteResponse {}))
    }

    async fn cancel_invite(
        &self,
        request: Request<CancelInviteRequest>,
    ) -> Result<Response<CancelInviteResponse>, Status> {
        let request = request.into_inner();
        let (actor, group) = (id(&request.actor_id, "actor_id")?, id(&request.group_id, "group_id")?);
        let player = id(&request.player_id, "player_id")?;
        self.deeds.run(async |conn| invites::cancel(conn, group, actor, player).await).await?;
        Ok(Response::new(CancelInviteResponse {}))
    }

    async fn list_invites(
        &self,
        request: Request<ListInvitesRequest>,
    ) -> Result<Response<ListInvitesResponse>, Status> {
        let request = request.into_inner();
        let (actor, group) = (id(&request.actor_id, "actor_id")?, optional_id(&request.group_id, "group_id")?);
        let rows = match group {
            Some(group) => self.deeds.run(async |conn| invites::of_group(conn, group, actor).await).await?,
            None => {
                let own = invites::of_player(&self.deeds.pool, actor);
                within(self.deeds.bound, own).await.map_err(|e| unavailable(&e))?
            }
        };
        Ok(Response::new(ListInvitesResponse { invites: rows.into_iter().map(wire_invite).collect() }))
    }

    async fn create_announcement(
        &self,
        request: Request<CreateAnnouncementRequest>,
    ) -> Result<Response<CreateAnnouncementResponse>, Status> {
        let request = request.into_inner();
        let (actor, group) = (id(&request.actor_id, "actor_id")?, id(&request.group_id, "group_id")?);
        let new = announcements::New::read(&request)?;
        let announcement = self.deeds.run(async |conn| announcements::announce(conn, group, actor, new).await).await?;
        Ok(Response::new(CreateAnnouncementResponse { announcement: Some(wire_announcement(announcement)) }))
    }

    async fn list_announcements(
        &self,
        request: Request<ListAnnouncementsRequest>,
    ) -> Result<Response<ListAnnouncementsResponse>, Status> {
        let request = request.into_inner();
        let (actor, group) = (id(&request.actor_id, "actor_id")?, id(&request.group_id, "group_id")?);
        let (before, most) = (optional_id(&request.before, "before")?, limit(request.limit, 20, 100));
        let member = within(self.deeds.bound, groups::is_member(&self.deeds.pool, group, actor)).await;
        if !member.map_err(|e| unavailable(&e))? {
            self.known(group).await?;
            return Err(Refusal::NotAllowed.into());
        }
        let rows = asobi_store::groups::announcements::list(&self.deeds.pool, group, before, most.into());
        let rows = within(self.deeds.bound, rows).await.map_err(|e| unavailable(&e))?;
        let announcements = rows.into_iter().map(wire_announcement).collect();
        Ok(Response::new(ListAnnouncementsResponse { announcements }))
    }

    async fn delete_announcement(
        &self,
        request: Request<DeleteAnnouncementRequest>,
    ) -> Result<Response<DeleteAnnouncementResponse>, Status> {
        let request = request.into_inner();
        let (actor, group) = (id(&request.actor_id, "actor_id")?, id(&request.group_id, "group_id")?);
        let which = id(&request.announcement_id, "announcement_id")?;
        self.deeds.run(async |conn| announcements::delete(conn, group, actor, which).await).await?;
        Ok(Response::new(DeleteAnnouncementResponse {}))
    }
}
