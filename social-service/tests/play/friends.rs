use asobi_proto::{
    error::ErrorCode,
    social_v1::{FriendStatus, ListFriendsRequest},
};
use asobi_store::testing::TestDatabase;
use sqlx::Row as _;
use uuid::Uuid;

use crate::stage::{Service, code, player, until};

/// How often a player's nodes were told to read this friendship again.
async fn events(database: &TestDatabase, player: Uuid, friend: Uuid) -> anyhow::Result<i64> {
    let row = sqlx::query(
        "SELECT count(*) AS n FROM inbox_events WHERE player_id = $1 AND event->'a'->>'friend_id' = $2::text",
    )
    .bind(player)
    .bind(friend)
    .fetch_one(&database.pool)
    .await?;
    Ok(row.get("n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_friendship_from_the_first_question_to_the_end() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let (ada, bo) = (player(&database).await?, player(&database).await?);

    assert_eq!(code(service.add(ada, ada).await), Some(ErrorCode::SOCIAL_CANNOT_FRIEND_SELF));
    assert_eq!(code(service.add(ada, Uuid::now_v7()).await), Some(ErrorCode::SOCIAL_FRIEND_NOT_FOUND));
    assert_eq!(
        code(service.answer(bo, ada, FriendStatus::Accepted).await),
        Some(ErrorCode::SOCIAL_FRIENDSHIP_NOT_FOUND)
    );

    let asked = service.add(ada, bo).await?;
    assert_eq!((asked.status(), &asked.player_id), (FriendStatus::Pending, &ada.to_string()));
    assert_eq!(service.add(ada, bo).await?, asked, "again: the same row");
    assert!(service.list(bo).await?.is_empty() && service.list(ada).await? == [asked.clone()]);
    assert_eq!(
        code(service.answer(ada, bo, FriendStatus::Accepted).await),
        Some(ErrorCode::SOCIAL_FRIENDSHIP_NOT_FOUND)
    );

    let accepted = service.answer(bo, ada, FriendStatus::Accepted).await?;
    assert_eq!((accepted.status(), &accepted.id), (FriendStatus::Accepted, &asked.id));
    assert_eq!(service.list(bo).await?, service.list(ada).await?);
    assert_eq!(asobi_store::friends::accepted_ids(&database.pool, bo).await?, [ada]);

    service.answer(bo, ada, FriendStatus::Blocked).await?;
    assert!(asobi_store::friends::blocked_between(&database.pool, ada, bo).await?);
    assert_eq!(
        code(service.remove(ada, bo).await),
        Some(ErrorCode::SOCIAL_FRIENDSHIP_NOT_FOUND),
        "a block is not lifted by the blocked"
    );
    assert_eq!(service.add(ada, bo).await?.status(), FriendStatus::Blocked);
    service.remove(bo, ada).await?;
    assert!(service.list(ada).await?.is_empty());
    // Asked, accepted, blocked, removed: told to both each time, and never for what changed nothing.
    assert_eq!((events(&database, ada, bo).await?, events(&database, bo, ada).await?), (4, 4));

    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_ask_each_other_at_once_are_friends() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    for _ in 0..20 {
        let (ada, bo) = (player(&database).await?, player(&database).await?);
        let (one, other) = tokio::join!(service.add(ada, bo), service.add(bo, ada));
        assert_eq!(one?.id, other?.id);
        assert_eq!(asobi_store::friends::accepted_ids(&database.pool, ada).await?, [bo]);
    }
    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_needs_no_request_and_is_no_way_to_accept_for_the_other() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let (ada, bo) = (player(&database).await?, player(&database).await?);

    assert_eq!(
        code(service.answer(ada, Uuid::now_v7(), FriendStatus::Blocked).await),
        Some(ErrorCode::SOCIAL_FRIENDSHIP_NOT_FOUND)
    );
    assert_eq!(
        code(service.answer(ada, ada, FriendStatus::Blocked).await),
        Some(ErrorCode::SOCIAL_FRIENDSHIP_NOT_FOUND)
    );
    assert_eq!(service.answer(ada, bo, FriendStatus::Blocked).await?.status(), FriendStatus::Blocked);
    assert!(asobi_store::friends::blocked_between(&database.pool, bo, ada).await?);
    assert!(asobi_store::notifications::list(&database.pool, bo, None, None, 10).await?.is_empty(), "not told");
    assert!(service.list(bo).await?.is_empty());
    service.remove(ada, bo).await?;

    // Who asked, blocked and "accepted" would see the presence of somebody who never said yes.
    service.add(ada, bo).await?;
    service.answer(ada, bo, FriendStatus::Blocked).await?;
    assert_eq!(
        code(service.answer(ada, bo, FriendStatus::Accepted).await),
        Some(ErrorCode::SOCIAL_FRIENDSHIP_NOT_FOUND)
    );
    assert!(asobi_store::friends::accepted_ids(&database.pool, ada).await?.is_empty());

    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_a_player_who_is_being_erased_does_not_stand_in_the_way() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let (ada, bo) = (player(&database).await?, player(&database).await?);
    service.add(ada, bo).await?;

    // As an erasure begins; the answer comes while it is under way.
    let mut erasure = database.pool.begin().await?;
    sqlx::query("SELECT 1 FROM players WHERE id = $1 FOR UPDATE").bind(ada).execute(&mut *erasure).await?;
    let erased = async {
        until("the answer waits", async || {
            let waiting = sqlx::query_scalar::<_, i32>("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' LIMIT 1");
            Ok(waiting.fetch_optional(&database.pool).await?)
        })
        .await?;
        asobi_store::players::erase(&mut erasure, ada).await?;
        anyhow::Ok(erasure.commit().await?)
    };
    let (answered, erased) = tokio::join!(service.answer(bo, ada, FriendStatus::Accepted), erased);
    erased?;
    assert_eq!(code(answered), Some(ErrorCode::SOCIAL_FRIENDSHIP_NOT_FOUND));

    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_others_are_listed_until_they_are_answered_and_lists_go_on() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "social").await?;
    let (ada, bo, cy) = (player(&database).await?, player(&database).await?, player(&database).await?);
    for asker in [ada, cy] {
        service.add(asker, bo).await?;
    }
    let list = async |incoming: bool, limit: i32, before: String| {
        let request =
            ListFriendsRequest { player_id: bo.to_string(), incoming, limit, before, ..ListFriendsRequest::default() };
        anyhow::Ok(service.friends().list_friends(request).await?.into_inner().friends)
    };
    assert!(
        list(false, 0, String::new()).await?.is_empty(),
        "rows of others are not the player's until they are accepted"
    );
    let first = list(true, 1, String::new()).await?;
    let second = list(true, 1, first[0].id.clone()).await?;
    assert_eq!([&first[0].player_id, &second[0].player_id], [&cy.to_string(), &ada.to_string()]);
    assert!(list(true, 1, second[0].id.clone()).await?.is_empty());
    service.answer(bo, ada, FriendStatus::Accepted).await?;
    assert_eq!((list(true, 0, String::new()).await?.len(), list(false, 0, String::new()).await?.len()), (1, 1));
    service.drain().await?;
    database.drop_now().await
}
