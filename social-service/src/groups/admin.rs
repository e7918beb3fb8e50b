//! `GroupAdminService`: what operators do to groups, members or not. Each mutation is done once per request id, with its entry in the audit.

use asobi_cluster::desk::{Deed as Order, Desk};
use asobi_proto::social_v1::{
    AssignRoleRequest, AssignRoleResponse, DeleteGroupRequest, DeleteGroupResponse, ExpelMemberRequest,
    ExpelMemberResponse, FindGroupsRequest, FindGroupsResponse, InspectGroupRequest, InspectGroupResponse,
    group_admin_service_server::GroupAdminService,
};
use asobi_service_kit::grpc::Caller;
use asobi_store::{
    groups::{self, GroupRole, Member},
    within,
};
use serde_json::json;
use sqlx::PgConnection;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    deeds::{Deed, Refusal, news},
    wire::{MEMBERS, known_role, page, summaries, wire, wire_member, wire_role},
};
use crate::{
    deeds::{Deeds, Done},
    wire::{id, unavailable},
};

pub struct GroupAdmin {
    pub deeds: Deeds,
    pub desk: Desk,
}

async fn end(conn: &mut PgConnection, id: Uuid) -> Deed<()> {
    if groups::lock(conn, id).await?.is_none() {
        return Ok(Err(Refusal::NoSuchGroup));
    }
    let members = groups::members(&mut *conn, id, MEMBERS.1.into()).await?;
    groups::end(conn, id).await?;
    let events = members.iter().flat_map(|member| news(member.player_id, id, false)).collect();
    Ok(Ok(Done { value: (), events, told: Vec::new() }))
}

async fn expel(conn: &mut PgConnection, id: Uuid, player: Uuid) -> Deed<()> {
    if groups::lock(conn, id).await?.is_none() {
        return Ok(Err(Refusal::NoSuchGroup));
    }
    let Some(member) = groups::member(conn, id, player).await? else { return Ok(Err(Refusal::NotAMember)) };
    groups::remove(conn, &member).await?;
    Ok(Ok(Done { value: (), events: news(player, id, false), told: Vec::new() }))
}

async fn assign(conn: &mut PgConnection, id: Uuid, player: Uuid, role: GroupRole) -> Deed<Member> {
    if groups::lock(conn, id).await?.is_none() {
        return Ok(Err(Refusal::NoSuchGroup));
    }
    let Some(member) = groups::member(conn, id, player).await? else { return Ok(Err(Refusal::NotAMember)) };
    if member.role == role {
        return Ok(Ok(Done::quietly(member)));
    }
    if member.role == GroupRole::Owner {
        return Ok(Err(Refusal::NotAllowed));
    }
    if role == GroupRole::Owner {
        let members = groups::members(&mut *conn, id, 1).await?;
        if let Some(owner) = members.first().filter(|first| first.role == GroupRole::Owner) {
            groups::set_role(conn, id, owner.player_id, GroupRole::Admin).await?;
        }
    }
    Ok(Ok(Done::quietly(groups::set_role(conn, id, player, role).await?)))
}

#[tonic::async_trait]
impl GroupAdminService for GroupAdmin {
    async fn find_groups(&self, request: Request<FindGroupsRequest>) -> Result<Response<FindGroupsResponse>, Status> {
        let request = request.into_inner();
        let page = page(request.query, None, request.page_size, &request.page_token)?;
        let rows = within(self.deeds.bound, groups::search(&self.deeds.pool, &page)).await;
        let (groups, next_page_token) = summaries(rows.map_err(|e| unavailable(&e))?, page.limit);
        Ok(Response::new(FindGroupsResponse { groups, next_page_token }))
    }

    async fn inspect_group(
        &self,
        request: Request<InspectGroupRequest>,
    ) -> Result<Response<InspectGroupResponse>, Status> {
        let group = id(&request.into_inner().group_id, "group_id")?;
        let read = within(self.deeds.bound, async {
            let found = groups::get(&self.deeds.pool, group).await?;
            Ok((found, groups::members(&self.deeds.pool, group, MEMBERS.1.into()).await?))
        });
        let (found, members) = read.await.map_err(|e| unavailable(&e))?;
        let found = found.ok_or(Refusal::NoSuchGroup)?;
        let members = members.into_iter().map(wire_member).collect();
        Ok(Response::new(InspectGroupResponse { group: Some(wire(found)), members }))
    }

    async fn delete_group(
        &self,
        request: Request<DeleteGroupRequest>,
    ) -> Result<Response<DeleteGroupResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let group = id(&request.group_id, "group_id")?;
        let order = Order {
            caller: &caller,
            action: "GroupAdminService/DeleteGroup",
            request_id: &request.request_id,
            subject: group.to_string(),
            detail: json!({}),
        };
        let deed = self.deeds.order(
            &self.desk,
            order,
            &request,
            async |conn| end(conn, group).await,
            |()| DeleteGroupResponse {},
        );
        Ok(Response::new(deed.await?))
    }

    async fn expel_member(
        &self,
        request: Request<ExpelMemberRequest>,
    ) -> Result<Response<ExpelMemberResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (group, player) = (id(&request.group_id, "group_id")?, id(&request.player_id, "player_id")?);
        let order = Order {
            caller: &caller,
            action: "GroupAdminService/ExpelMember",
            request_id: &request.request_id,
            subject: player.to_string(),
            detail: json!({"group_id": group}),
        };
        let deed = self.deeds.order(
            &self.desk,
            order,
            &request,
            async |conn| expel(conn, group, player).await,
            |()| ExpelMemberResponse {},
        );
        Ok(Response::new(deed.await?))
    }

    async fn assign_role(&self, request: Request<AssignRoleRequest>) -> Result<Response<AssignRoleResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let role = known_role(request.role())?;
        let (group, player) = (id(&request.group_id, "group_id")?, id(&request.player_id, "player_id")?);
        let order = Order {
            caller: &caller,
            action: "GroupAdminService/AssignRole",
            request_id: &request.request_id,
            subject: player.to_string(),
            detail: json!({"group_id": group, "role": wire_role(role).as_str_name()}),
        };
        let deed = self.deeds.order(
            &self.desk,
            order,
            &request,
            async |conn| assign(conn, group, player, role).await,
            |member| AssignRoleResponse { member: Some(wire_member(member)) },
        );
        Ok(Response::new(deed.await?))
    }
}
