use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        CreateGroupRequest, GetGroupRequest, Group, GroupMember, GroupRole, JoinGroupRequest, LeaveGroupRequest,
        ListMembersRequest, RemoveMemberRequest, SetRoleRequest, UpdateGroupRequest,
    },
};
use asobi_store::testing::TestDatabase;
use tonic::Status;
use uuid::Uuid;

use crate::stage::{Service, code, player};

impl Service {
    async fn create(&self, actor: Uuid, max_members: i32) -> Result<Group, Status> {
        let request = CreateGroupRequest {
            actor_id: actor.to_string(),
            name: "Guild".into(),
            max_members,
            open: true,
            ..CreateGroupRequest::default()
        };
        Ok(self.groups().create_group(request).await?.into_inner().group.unwrap_or_default())
    }

    async fn join(&self, actor: Uuid, group: &Group) -> Result<(), Status> {
        let request = JoinGroupRequest { actor_id: actor.to_string(), group_id: group.id.clone() };
        self.groups().join_group(request).await.map(drop)
    }

    async fn leave(&self, actor: Uuid, group: &Group) -> Result<(), Status> {
        let request = LeaveGroupRequest { actor_id: actor.to_string(), group_id: group.id.clone() };
        self.groups().leave_group(request).await.map(drop)
    }

    async fn kick(&self, actor: Uuid, group: &Group, whom: Uuid) -> Result<(), Status> {
        let request = RemoveMemberRequest {
            actor_id: actor.to_string(),
            group_id: group.id.clone(),
            player_id: whom.to_string(),
        };
        self.groups().remove_member(request).await.map(drop)
    }

    async fn promote(&self, actor: Uuid, group: &Group, whom: Uuid, role: GroupRole) -> Result<GroupMember, Status> {
        let request = SetRoleRequest {
            actor_id: actor.to_string(),
            group_id: group.id.clone(),
            player_id: whom.to_string(),
            role: role.into(),
        };
        Ok(self.groups().set_role(request).await?.into_inner().member.unwrap_or_default())
    }

    async fn members(&self, group: &Group) -> Result<Vec<(String, GroupRole)>, Status> {
        let request = ListMembersRequest { group_id: group.id.clone(), limit: 0 };
        let members = self.groups().list_members(request).await?.into_inner().members;
        Ok(members.into_iter().map(|m| (m.player_id.clone(), m.role())).collect())
    }
}

/// What a player's nodes were told of their coming into groups and leaving them, in order.
async fn told(database: &TestDatabase, player: Uuid) -> anyhow::Result<Vec<bool>> {
    let told = sqlx::query_scalar(
        "SELECT (event->'a'->>'member')::boolean FROM inbox_events WHERE player_id = $1 AND event->'a'->>'k' = 'group'
         ORDER BY seq",
    );
    Ok(told.bind(player).fetch_all(&database.pool).await?)
}

async fn players<const N: usize>(database: &TestDatabase) -> anyhow::Result<[Uuid; N]> {
    let mut players = [Uuid::nil(); N];
    for id in &mut players {
        *id = player(database).await?;
    }
    Ok(players)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_from_its_founding_to_its_last_member() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let [ada, bo, cy, dan] = players(&database).await?;

    let guild = service.create(ada, 3).await?;
    assert_eq!((guild.max_members, &guild.creator_id, &guild.metadata_json[..]), (3, &ada.to_string(), "{}"));
    service.join(bo, &guild).await?;
    assert_eq!(code(service.join(bo, &guild).await), Some(ErrorCode::SOCIAL_ALREADY_MEMBER));
    service.join(cy, &guild).await?;
    assert_eq!(code(service.join(dan, &guild).await), Some(ErrorCode::SOCIAL_GROUP_FULL));
    assert_eq!(code(service.leave(dan, &guild).await), Some(ErrorCode::SOCIAL_MEMBER_NOT_FOUND));
    assert_eq!(code(service.kick(dan, &guild, bo).await), Some(ErrorCode::FORBIDDEN), "not a member");

    // Rights follow the roles.
    assert_eq!(code(service.kick(bo, &guild, cy).await), Some(ErrorCode::FORBIDDEN));
    assert_eq!(service.promote(ada, &guild, cy, GroupRole::Moderator).await?.role(), GroupRole::Moderator);
    service.kick(cy, &guild, bo).await?;
    assert_eq!(code(service.kick(cy, &guild, bo).await), Some(ErrorCode::SOCIAL_MEMBER_NOT_FOUND));
    assert_eq!(code(service.kick(cy, &guild, ada).await), Some(ErrorCode::FORBIDDEN));
    assert_eq!(code(service.kick(ada, &guild, ada).await), Some(ErrorCode::FORBIDDEN), "one leaves oneself");
    service.join(dan, &guild).await?;
    assert_eq!(code(service.promote(cy, &guild, dan, GroupRole::Moderator).await), Some(ErrorCode::FORBIDDEN));
    assert_eq!(told(&database, bo).await?, [true, false]);

    // Handed over: one owner at any time.
    service.promote(ada, &guild, dan, GroupRole::Owner).await?;
    let expected = [
        (dan.to_string(), GroupRole::Owner),
        (ada.to_string(), GroupRole::Admin),
        (cy.to_string(), GroupRole::Moderator),
    ];
    assert_eq!(service.members(&guild).await?, expected);

    // An owner who leaves hands over to the highest; the last one ends it.
    service.leave(dan, &guild).await?;
    assert_eq!(service.members(&guild).await?[0], (ada.to_string(), GroupRole::Owner));
    service.leave(ada, &guild).await?;
    assert_eq!(service.members(&guild).await?, [(cy.to_string(), GroupRole::Owner)]);
    service.leave(cy, &guild).await?;
    assert_eq!(code(service.members(&guild).await), Some(ErrorCode::SOCIAL_GROUP_NOT_FOUND));
    assert_eq!(code(service.join(ada, &guild).await), Some(ErrorCode::SOCIAL_GROUP_NOT_FOUND));

    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_stays_and_what_is_not_given_too() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let [ada, bo] = players(&database).await?;
    let guild = service.create(ada, 0).await?;
    assert_eq!(guild.max_members, 50);

    let change = |actor: Uuid, request: UpdateGroupRequest| UpdateGroupRequest {
        actor_id: actor.to_string(),
        group_id: guild.id.clone(),
        ..request
    };
    let update = async |request| Ok::<_, Status>(service.groups().update_group(request).await?.into_inner().group);
    let described = UpdateGroupRequest {
        description: Some("we".into()),
        open: Some(false),
        metadata_json: Some(r#"{"tag":"G"}"#.into()),
        ..UpdateGroupRequest::default()
    };
    assert_eq!(code(update(change(bo, described.clone())).await), Some(ErrorCode::FORBIDDEN));
    let changed = update(change(ada, described)).await?.unwrap_or_default();
    assert_eq!((changed.name.as_str(), changed.description.as_deref(), changed.open), ("Guild", Some("we"), false));
    assert_eq!(changed.metadata_json, r#"{"tag":"G"}"#);
    assert_eq!(code(service.join(bo, &guild).await), Some(ErrorCode::SOCIAL_GROUP_CLOSED));
    let bare = UpdateGroupRequest { description: Some(String::new()), ..UpdateGroupRequest::default() };
    assert_eq!(update(change(ada, bare)).await?.unwrap_or_default().description, None);
    for wrong in [
        UpdateGroupRequest { name: Some("x".into()), ..UpdateGroupRequest::default() },
        UpdateGroupRequest { name: Some("a\0b".into()), ..UpdateGroupRequest::default() },
        UpdateGroupRequest { max_members: Some(0), ..UpdateGroupRequest::default() },
        UpdateGroupRequest { max_members: Some(1_001), ..UpdateGroupRequest::default() },
        UpdateGroupRequest { metadata_json: Some("[]".into()), ..UpdateGroupRequest::default() },
        UpdateGroupRequest { metadata_json: Some(r#"{"a":"\u0000"}"#.into()), ..UpdateGroupRequest::default() },
    ] {
        assert_eq!(code(update(change(ada, wrong)).await), Some(ErrorCode::VALIDATION_FAILED));
    }
    let unknown = GetGroupRequest { group_id: Uuid::now_v7().to_string() };
    assert_eq!(code(service.groups().get_group(unknown).await), Some(ErrorCode::SOCIAL_GROUP_NOT_FOUND));

    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn simultaneous_joins_stay_within_the_bounds() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let set = ["social.groups_per_player=3"];
    let services =
        [Service::start_with(&database, "one", &set).await?, Service::start_with(&database, "two", &set).await?];
    let ada = player(&database).await?;

    // Twenty for five places, at two services.
    let guild = services[0].create(ada, 6).await?;
    let crowd: [Uuid; 20] = players(&database).await?;
    let joins = crowd.iter().enumerate().map(|(n, player)| services[n % 2].join(*player, &guild));
    let outcomes = futures_util::future::join_all(joins).await;
    let (came, kept_out): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(came.len(), 5);
    assert!(kept_out.into_iter().all(|outcome| code(outcome) == Some(ErrorCode::SOCIAL_GROUP_FULL)));
    assert_eq!(services[1].members(&guild).await?.len(), 6);

    // One player into six groups at once, of which three may have them.
    let mut open = Vec::new();
    for owner in &crowd[..6] {
        open.push(services[0].create(*owner, 0).await?);
    }
    let bo = player(&database).await?;
    let joins = open.iter().enumerate().map(|(n, group)| services[n % 2].join(bo, group));
    let outcomes = futures_util::future::join_all(joins).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 3);
    assert_eq!(code(services[0].create(bo, 0).await), Some(ErrorCode::FORBIDDEN));

    // All go at once: whoever is last, the group ends with them and always had an owner until then.
    let everybody: Vec<Uuid> =
        services[0].members(&guild).await?.iter().map(|(id, _)| id.parse()).collect::<Result<_, _>>()?;
    let leaves = everybody.iter().enumerate().map(|(n, player)| services[n % 2].leave(*player, &guild));
    for outcome in futures_util::future::join_all(leaves).await {
        outcome?;
    }
    assert_eq!(code(services[0].members(&guild).await), Some(ErrorCode::SOCIAL_GROUP_NOT_FOUND));
    for service in services {
        service.drain().await?;
    }
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_owner_leaves_an_owner_behind() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let [ada, bo] = players(&database).await?;
    let (shared, own) = (service.create(ada, 0).await?, service.create(ada, 0).await?);
    service.join(bo, &shared).await?;

    let mut tx = database.pool.begin().await?;
    sqlx::query("SELECT 1 FROM players WHERE id = $1 FOR UPDATE").bind(ada).execute(&mut *tx).await?;
    asobi_store::players::erase(&mut tx, ada).await?;
    tx.commit().await?;
    assert_eq!(service.members(&shared).await?, [(bo.to_string(), GroupRole::Owner)]);
    assert_eq!(code(service.members(&own).await), Some(ErrorCode::SOCIAL_GROUP_NOT_FOUND));
    let shared = GetGroupRequest { group_id: shared.id };
    let shared = service.groups().get_group(shared).await?.into_inner().group.unwrap_or_default();
    assert_eq!(shared.creator_id, "");

    service.drain().await?;
    database.drop_now().await
}
