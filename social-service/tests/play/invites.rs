//! Invitations, announcements, lists of groups, and what operators do to groups.

use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        AcceptInviteRequest, AssignRoleRequest, CancelInviteRequest, CreateAnnouncementRequest, CreateGroupRequest,
        DeclineInviteRequest, DeleteAnnouncementRequest, DeleteGroupRequest, ExpelMemberRequest, FindGroupsRequest,
        FriendStatus, Group, GroupInvite, GroupRole, InspectGroupRequest, InvitePlayerRequest, JoinGroupRequest,
        LeaveGroupRequest, ListAnnouncementsRequest, ListGroupsRequest, ListInvitesRequest, ListPlayerGroupsRequest,
    },
};
use asobi_store::testing::TestDatabase;
use futures_util::future::join_all;
use serde_json::Value;
use tonic::Status;
use uuid::Uuid;

use crate::stage::{Service, code, player};

impl Service {
    async fn found(&self, actor: Uuid, name: &str, max_members: i32, open: bool) -> Result<Group, Status> {
        let request = CreateGroupRequest {
            actor_id: actor.to_string(),
            name: name.into(),
            max_members,
            open,
            ..CreateGroupRequest::default()
        };
        Ok(self.groups().create_group(request).await?.into_inner().group.unwrap_or_default())
    }

    async fn invite(&self, actor: Uuid, group: &Group, player: Uuid) -> Result<GroupInvite, Status> {
        let request = InvitePlayerRequest {
            actor_id: actor.to_string(),
            group_id: group.id.clone(),
            player_id: player.to_string(),
        };
        Ok(self.groups().invite_player(request).await?.into_inner().invite.unwrap_or_default())
    }

    async fn accept(&self, actor: Uuid, group: &Group) -> Result<(), Status> {
        let request = AcceptInviteRequest { actor_id: actor.to_string(), group_id: group.id.clone() };
        self.groups().accept_invite(request).await.map(drop)
    }

    async fn decline(&self, actor: Uuid, group: &Group) -> Result<(), Status> {
        let request = DeclineInviteRequest { actor_id: actor.to_string(), group_id: group.id.clone() };
        self.groups().decline_invite(request).await.map(drop)
    }

    async fn take_back(&self, actor: Uuid, group: &Group, player: Uuid) -> Result<(), Status> {
        let request = CancelInviteRequest {
            actor_id: actor.to_string(),
            group_id: group.id.clone(),
            player_id: player.to_string(),
        };
        self.groups().cancel_invite(request).await.map(drop)
    }

    async fn invites(&self, actor: Uuid, group: Option<&Group>) -> Result<Vec<GroupInvite>, Status> {
        let group_id = group.map(|group| group.id.clone()).unwrap_or_default();
        let request = ListInvitesRequest { actor_id: actor.to_string(), group_id };
        Ok(self.groups().list_invites(request).await?.into_inner().invites)
    }

    async fn announce(&self, actor: Uuid, group: &Group, content: &str) -> Result<String, Status> {
        let request = CreateAnnouncementRequest {
            actor_id: actor.to_string(),
            group_id: group.id.clone(),
            subject: String::new(),
            content: content.into(),
        };
        Ok(self.groups().create_announcement(request).await?.into_inner().announcement.unwrap_or_default().id)
    }

    async fn announced(&self, actor: Uuid, group: &Group, before: &str) -> Result<Vec<String>, Status> {
        let request = ListAnnouncementsRequest {
            actor_id: actor.to_string(),
            group_id: group.id.clone(),
            limit: 2,
            before: before.into(),
        };
        let listed = self.groups().list_announcements(request).await?.into_inner().announcements;
        Ok(listed.into_iter().map(|announcement| announcement.content).collect())
    }

    /// The types of what a player is told.
    async fn kinds(&self, player: Uuid) -> Result<Vec<String>, Status> {
        Ok(self.notified(player, None).await?.into_iter().map(|told| told.r#type).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_group_grows_by_invitation() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let (ada, bo, cy) = (player(&database).await?, player(&database).await?, player(&database).await?);
    let guild = service.found(ada, "Guild", 3, false).await?;

    assert_eq!(code(service.accept(bo, &guild).await), Some(ErrorCode::SOCIAL_GROUP_CLOSED));
    assert_eq!(code(service.invite(bo, &guild, cy).await), Some(ErrorCode::FORBIDDEN), "a stranger invites nobody");
    assert_eq!(code(service.invite(ada, &guild, ada).await), Some(ErrorCode::FORBIDDEN));
    assert_eq!(code(service.invite(ada, &guild, Uuid::now_v7()).await), Some(ErrorCode::PLAYER_NOT_FOUND));
    let invite = service.invite(ada, &guild, bo).await?;
    assert_eq!(service.invite(ada, &guild, bo).await?, invite, "again: the same one");
    assert_eq!((invite.group_name.as_str(), invite.invited_by), ("Guild", ada.to_string()));
    let told = service.notified(bo, None).await?;
    assert_eq!((told.len(), told[0].r#type.as_str(), told[0].expires_at), (1, "group_invite", invite.expires_at));
    let content: Value = serde_json::from_str(&told[0].content_json)?;
    assert_eq!((&content["group_id"], &content["from_player_id"]), (&guild.id.clone().into(), &ada.to_string().into()));
    assert_eq!(service.invites(bo, None).await?.len(), 1);
    assert_eq!(service.invites(ada, Some(&guild)).await?.len(), 1);
    assert_eq!(code(service.invites(cy, Some(&guild)).await), Some(ErrorCode::FORBIDDEN));

    // Accepted: a member, and nothing is left of the invitation.
    service.accept(bo, &guild).await?;
    assert!(service.kinds(bo).await?.is_empty() && service.invites(bo, None).await?.is_empty());
    assert_eq!(code(service.invite(ada, &guild, bo).await), Some(ErrorCode::SOCIAL_ALREADY_MEMBER));
    assert_eq!(code(service.invite(bo, &guild, cy).await), Some(ErrorCode::FORBIDDEN), "a mere member");

    // Declined, taken back, blocked: each time it is over for both sides.
    service.invite(ada, &guild, cy).await?;
    service.decline(cy, &guild).await?;
    assert!(service.kinds(cy).await?.is_empty());
    service.decline(cy, &guild).await?;
    service.invite(ada, &guild, cy).await?;
    assert_eq!(code(service.take_back(bo, &guild, cy).await), Some(ErrorCode::FORBIDDEN));
    service.take_back(ada, &guild, cy).await?;
    assert!(service.kinds(cy).await?.is_empty());
    service.invite(ada, &guild, cy).await?;
    service.answer(cy, ada, FriendStatus::Blocked).await?;
    assert!(service.kinds(cy).await?.is_empty() && service.invites(cy, None).await?.is_empty());
    assert_eq!(code(service.invite(ada, &guild, cy).await), Some(ErrorCode::DM_BLOCKED));
    service.remove(cy, ada).await?;

    // With whoever gave it, it goes as well.
    let dee = player(&database).await?;
    let lodge = service.found(dee, "Lodge", 0, false).await?;
    let request = JoinGroupRequest { actor_id: ada.to_string(), group_id: lodge.id.clone() };
    sqlx::query("UPDATE groups SET open = true WHERE name = 'Lodge'").execute(&database.pool).await?;
    service.groups().join_group(request).await?;
    service.invite(dee, &lodge, cy).await?;
    let mut erasure = database.pool.begin().await?;
    sqlx::query("SELECT 1 FROM players WHERE id = $1 FOR UPDATE").bind(dee).execute(&mut *erasure).await?;
    asobi_store::players::erase(&mut erasure, dee).await?;
    erasure.commit().await?;
    assert!(service.kinds(cy).await?.is_empty() && service.invites(cy, None).await?.is_empty());

    // One whose time is over counts as none, and the end of a group is the end of its invitations.
    service.invite(ada, &guild, cy).await?;
    sqlx::query("UPDATE group_invites SET expires_at = now()").execute(&database.pool).await?;
    assert!(service.invites(cy, None).await?.is_empty());
    assert_eq!(code(service.accept(cy, &guild).await), Some(ErrorCode::SOCIAL_GROUP_CLOSED));
    service.invite(ada, &guild, cy).await?;
    assert_eq!(service.kinds(cy).await?, ["group_invite"]);
    for member in [bo, ada] {
        let request = LeaveGroupRequest { actor_id: member.to_string(), group_id: guild.id.clone() };
        service.groups().leave_group(request).await?;
    }
    assert!(service.kinds(cy).await?.is_empty());
    assert_eq!(code(service.accept(cy, &guild).await), Some(ErrorCode::SOCIAL_GROUP_NOT_FOUND));
    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_are_invited_as_many_come_in_as_have_room() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let services = [Service::start(&database, "one").await?, Service::start(&database, "two").await?];
    let ada = player(&database).await?;
    let guild = services[0].found(ada, "Guild", 4, false).await?;
    let mut guests = Vec::new();
    for _ in 0..8 {
        guests.push(player(&database).await?);
        services[0].invite(ada, &guild, guests[guests.len() - 1]).await?;
    }
    let accepted = join_all(guests.iter().enumerate().map(|(n, guest)| services[n % 2].accept(*guest, &guild))).await;
    assert_eq!(accepted.iter().filter(|came| came.is_ok()).count(), 3);
    for refused in accepted.into_iter().filter(Result::is_err) {
        assert_eq!(code(refused), Some(ErrorCode::SOCIAL_GROUP_FULL));
    }
    assert_eq!(services[1].invites(ada, Some(&guild)).await?.len(), 5, "who found no room is still invited");

    // As many open ones as there may be, of a group and of a player.
    sqlx::query("UPDATE groups SET max_members = 1000").execute(&database.pool).await?;
    let mut open = 5;
    while let Ok(_invite) = services[0].invite(ada, &guild, player(&database).await?).await {
        open += 1;
        assert!(open <= 100, "there is no bound");
    }
    assert_eq!(open, 100);
    let wanted = player(&database).await?;
    sqlx::query(
        "WITH g AS (INSERT INTO groups (id, name, max_members, open) SELECT gen_random_uuid(), 'G' || n, 9, false FROM generate_series(1, 50) n RETURNING id)
         INSERT INTO group_invites (group_id, player_id, invited_by, expires_at) SELECT id, $1, $2, now() + interval '1 day' FROM g",
    )
    .bind(wanted)
    .bind(ada)
    .execute(&database.pool)
    .await?;
    let other = services[0].found(ada, "Other", 9, false).await?;
    assert_eq!(code(services[0].invite(ada, &other, wanted).await), Some(ErrorCode::FORBIDDEN));
    for service in services {
        service.drain().await?;
    }
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_group_announces_every_member_is_told_of() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let (ada, bo, cy) = (player(&database).await?, player(&database).await?, player(&database).await?);
    let guild = service.found(ada, "Guild", 0, true).await?;
    let request = JoinGroupRequest { actor_id: bo.to_string(), group_id: guild.id.clone() };
    service.groups().join_group(request).await?;

    assert_eq!(code(service.announce(bo, &guild, "no").await), Some(ErrorCode::FORBIDDEN));
    for wrong in [String::new(), "x".repeat(2_001)] {
        assert_eq!(code(service.announce(ada, &guild, &wrong).await), Some(ErrorCode::VALIDATION_FAILED));
    }
    let first = service.announce(ada, &guild, "Raid at nine").await?;
    for member in [ada, bo] {
        let told = service.notified(member, None).await?;
        assert_eq!((told.len(), told[0].r#type.as_str()), (1, "group_announcement"));
        let content: Value = serde_json::from_str(&told[0].content_json)?;
        assert_eq!((&content["text"], &content["announcement_id"]), (&"Raid at nine".into(), &first.clone().into()));
    }
    assert_eq!(code(service.announce(ada, &guild, "again").await), Some(ErrorCode::RATE_LIMITED));
    assert_eq!(code(service.announced(cy, &guild, "").await), Some(ErrorCode::FORBIDDEN));

    let later =
        || sqlx::query("UPDATE groups SET announced_at = now() - interval '61 seconds'").execute(&database.pool);
    for content in ["two", "three"] {
        later().await?;
        service.announce(ada, &guild, content).await?;
    }
    assert_eq!(service.announced(bo, &guild, "").await?, ["three", "two"]);
    let request = ListAnnouncementsRequest {
        actor_id: bo.to_string(),
        group_id: guild.id.clone(),
        ..ListAnnouncementsRequest::default()
    };
    let all = service.groups().list_announcements(request).await?.into_inner().announcements;
    assert_eq!(service.announced(bo, &guild, &all[1].id).await?, ["Raid at nine"]);

    // Taken back, nobody is told of it any more.
    let delete = |actor: Uuid| DeleteAnnouncementRequest {
        actor_id: actor.to_string(),
        group_id: guild.id.clone(),
        announcement_id: first.clone(),
    };
    assert_eq!(code(service.groups().delete_announcement(delete(bo)).await), Some(ErrorCode::FORBIDDEN));
    service.groups().delete_announcement(delete(ada)).await?;
    assert_eq!(code(service.groups().delete_announcement(delete(ada)).await), Some(ErrorCode::NOTIFICATION_NOT_FOUND));
    assert_eq!(service.notified(bo, None).await?.len(), 2);

    // A group keeps its newest 100.
    sqlx::query(
        "INSERT INTO group_announcements (id, group_id, subject, content) SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, $1::uuid, '', n::text FROM generate_series(1, 120) n",
    )
    .bind(Uuid::parse_str(&guild.id)?)
    .execute(&database.pool)
    .await?;
    later().await?;
    service.announce(ada, &guild, "newest").await?;
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM group_announcements").fetch_one(&database.pool).await?;
    assert_eq!((kept, service.announced(ada, &guild, "").await?[0].as_str()), (100, "newest"));
    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_found_by_name_a_page_at_a_time() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let (ada, bo) = (player(&database).await?, player(&database).await?);
    for (name, open) in [("Alpha", true), ("alpine", false), ("Beta", true), ("al%ph", true), ("ALSO", true)] {
        service.found(ada, name, 0, open).await?;
    }
    let find = async |query: &str, open: Option<bool>, page_size: i32| {
        let (mut names, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListGroupsRequest { query: query.into(), open, page_size, page_token };
            let page = service.groups().list_groups(request).await?.into_inner();
            names.extend(page.groups.into_iter().map(|listed| {
                assert_eq!(listed.member_count, 1);
                listed.group.unwrap_or_default().name
            }));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return anyhow::Ok(names);
            }
        }
    };
    assert_eq!(find("AL", None, 0).await?, ["al%ph", "Alpha", "alpine", "ALSO"]);
    assert_eq!(find("AL", None, 1).await?, find("al", None, 3).await?);
    assert_eq!(find("al%", None, 0).await?, ["al%ph"], "a sign of a name is no pattern");
    assert_eq!(find("al", Some(false), 0).await?, ["alpine"]);
    assert_eq!(find("", Some(true), 2).await?, ["al%ph", "Alpha", "ALSO", "Beta"]);
    let wrong = ListGroupsRequest { page_token: "zz".into(), ..ListGroupsRequest::default() };
    assert_eq!(code(service.groups().list_groups(wrong).await), Some(ErrorCode::INVALID_PAYLOAD));

    let own = async |player: Uuid, page_token: String| {
        let request = ListPlayerGroupsRequest { player_id: player.to_string(), page_size: 4, page_token };
        anyhow::Ok(service.groups().list_player_groups(request).await?.into_inner())
    };
    let page = own(ada, String::new()).await?;
    assert_eq!((page.memberships.len(), page.memberships[0].role()), (4, GroupRole::Owner));
    assert_eq!(own(ada, page.next_page_token).await?.memberships.len(), 1);
    assert!(own(bo, String::new()).await?.memberships.is_empty());
    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_acts_on_a_group_without_being_in_it() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let (ada, bo, cy) = (player(&database).await?, player(&database).await?, player(&database).await?);
    let guild = service.found(ada, "Guild", 0, true).await?;
    for member in [bo, cy] {
        let request = JoinGroupRequest { actor_id: member.to_string(), group_id: guild.id.clone() };
        service.groups().join_group(request).await?;
    }
    let mut admin = service.group_admin();
    let found = admin.find_groups(FindGroupsRequest { query: "gui".into(), ..FindGroupsRequest::default() });
    assert_eq!(found.await?.into_inner().groups[0].member_count, 3);
    let roles = async |service: &Service| {
        let request = InspectGroupRequest { group_id: guild.id.clone() };
        let members = service.group_admin().inspect_group(request).await?.into_inner().members;
        anyhow::Ok(members.into_iter().map(|m| (m.player_id.clone(), m.role())).collect::<Vec<_>>())
    };
    let assign = AssignRoleRequest {
        request_id: "crown".into(),
        group_id: guild.id.clone(),
        player_id: bo.to_string(),
        role: GroupRole::Owner.into(),
    };
    admin.assign_role(assign.clone()).await?;
    admin.assign_role(assign).await?;
    let roles_now = roles(&service).await?;
    assert_eq!(roles_now[..2], [(bo.to_string(), GroupRole::Owner), (ada.to_string(), GroupRole::Admin)]);
    let demote = AssignRoleRequest {
        request_id: String::new(),
        player_id: bo.to_string(),
        group_id: guild.id.clone(),
        role: GroupRole::Member.into(),
    };
    assert_eq!(code(admin.assign_role(demote).await), Some(ErrorCode::FORBIDDEN), "a group has an owner");

    let expel = ExpelMemberRequest { request_id: "out".into(), group_id: guild.id.clone(), player_id: bo.to_string() };
    admin.expel_member(expel.clone()).await?;
    admin.expel_member(expel).await?;
    assert_eq!(roles(&service).await?[0], (ada.to_string(), GroupRole::Owner), "the longest of the highest");
    let delete = DeleteGroupRequest { request_id: "end".into(), group_id: guild.id.clone() };
    admin.delete_group(delete.clone()).await?;
    admin.delete_group(delete).await?;
    assert_eq!(
        code(admin.inspect_group(InspectGroupRequest { group_id: guild.id.clone() }).await),
        Some(ErrorCode::SOCIAL_GROUP_NOT_FOUND)
    );
    let out: Vec<bool> = sqlx::query_scalar(
        "SELECT DISTINCT ON (player_id) (event->'a'->>'member')::boolean FROM inbox_events WHERE event->'a'->>'k' = 'group' ORDER BY player_id, seq DESC",
    )
    .fetch_all(&database.pool)
    .await?;
    assert_eq!(out, [false; 3], "their nodes end what they may do in its channel");
    let audited: Vec<String> =
        sqlx::query_scalar("SELECT action FROM audit ORDER BY id").fetch_all(&database.pool).await?;
    assert_eq!(
        audited,
        ["GroupAdminService/AssignRole", "GroupAdminService/ExpelMember", "GroupAdminService/DeleteGroup"]
    );
    service.drain().await?;
    database.drop_now().await
}
