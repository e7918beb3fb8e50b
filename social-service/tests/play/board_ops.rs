//! What operators do to boards, and what players see of it, at every service.

use asobi_proto::{
    error::ErrorCode,
    social_v1::{
        BoardOperator, BoardOrder, BoardSettings, CreateBoardRequest, DeleteBoardRequest, FriendStatus,
        GetBoardRequest, GetStandingRequest, GetStandingResponse, LeaderboardEntry, ListAroundRequest,
        ListBoardsRequest, ListCircleRequest, ListPeriodsRequest, ListTopRequest, RemoveEntryRequest,
        ResetBoardRequest, SubmitClientScoreRequest, UpdateBoardRequest, list_circle_request::Circle,
    },
};
use asobi_store::testing::TestDatabase;
use prost_types::FieldMask;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::stage::{Service, code, player, until};

async fn create(service: &Service, board: &str, settings: BoardSettings) -> Result<i64, Status> {
    let request =
        CreateBoardRequest { request_id: String::new(), leaderboard_id: board.into(), settings: Some(settings) };
    Ok(service.board_admin().create_board(request).await?.into_inner().board.unwrap_or_default().sequence)
}

async fn update(service: &Service, board: &str, settings: BoardSettings, fields: &[&str]) -> Result<(), Status> {
    let paths = fields.iter().map(|field| (*field).to_owned()).collect();
    let request = UpdateBoardRequest {
        request_id: String::new(),
        leaderboard_id: board.into(),
        settings: Some(settings),
        update_mask: Some(FieldMask { paths }),
    };
    service.board_admin().update_board(request).await.map(drop)
}

async fn reset(service: &Service, board: &str, request_id: &str) -> Result<i64, Status> {
    let request = ResetBoardRequest { request_id: request_id.into(), leaderboard_id: board.into() };
    Ok(service.board_admin().reset_board(request).await?.into_inner().period)
}

async fn remove(service: &Service, board: &str, player: Uuid, period: Option<i64>) -> Result<f64, Status> {
    let request = RemoveEntryRequest {
        request_id: String::new(),
        leaderboard_id: board.into(),
        player_id: player.to_string(),
        period,
    };
    Ok(service.board_admin().remove_entry(request).await?.into_inner().entry.unwrap_or_default().score)
}

async fn submit_as_client(
    service: &Service,
    board: &str,
    player: Uuid,
    score: f64,
) -> Result<LeaderboardEntry, Status> {
    let request =
        SubmitClientScoreRequest { leaderboard_id: board.into(), player_id: player.to_string(), score, sub_score: 0.0 };
    Ok(service.boards().submit_client_score(request).await?.into_inner().entry.unwrap_or_default())
}

async fn top_of(service: &Service, board: &str, period: Option<i64>) -> anyhow::Result<Vec<(String, f64)>> {
    let request = ListTopRequest { leaderboard_id: board.into(), limit: 0, period };
    let entries = service.boards().list_top(request).await?.into_inner().entries;
    Ok(entries.into_iter().map(|e| (e.player_id, e.score)).collect())
}

async fn standing(service: &Service, board: &str, player: Uuid) -> Result<GetStandingResponse, Status> {
    let player_id = player.to_string();
    let request = GetStandingRequest { leaderboard_id: board.into(), player_id, period: None };
    Ok(service.boards().get_standing(request).await?.into_inner())
}

/// Waits until each service has exactly these on a board.
async fn both_have(services: [&Service; 2], board: &str, expected: &[(Uuid, f64)]) -> anyhow::Result<()> {
    let expected: Vec<_> = expected.iter().map(|(player, score)| (player.to_string(), *score)).collect();
    for service in services {
        until("the board is as expected", async || Ok((top_of(service, board, None).await? == expected).then_some(())))
            .await?;
    }
    Ok(())
}

fn settings() -> BoardSettings {
    BoardSettings::default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_is_what_its_operator_made_it() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let (one, two) = (Service::start(&database, "one").await?, Service::start(&database, "two").await?);
    let (ada, bo) = (Uuid::now_v7(), Uuid::now_v7());
    let laps = BoardSettings {
        title: "Laps".into(),
        metadata_json: r#"{"track":"north"}"#.into(),
        order: BoardOrder::Low.into(),
        operator: BoardOperator::Best.into(),
        min_score: Some(20.0),
        max_score: Some(600.0),
        client_submit: true,
        ..settings()
    };
    create(&one, "laps", laps.clone()).await?;
    assert_eq!(create(&two, "laps", laps).await.unwrap_err().code(), Code::FailedPrecondition, "it is there");

    // By clients, within the bounds, and the shorter time stays.
    assert_eq!(submit_as_client(&two, "laps", ada, 70.0).await?.rank, 1);
    assert_eq!(submit_as_client(&one, "laps", bo, 65.0).await?.rank, 1);
    assert_eq!(submit_as_client(&two, "laps", bo, 80.0).await?.score, 65.0);
    for (score, by_client) in [(19.5, true), (601.0, false)] {
        let refused = match by_client {
            true => submit_as_client(&one, "laps", ada, score).await,
            false => one.submit("laps", ada, score, 0.0).await,
        };
        assert_eq!(code(refused), Some(ErrorCode::VALIDATION_FAILED), "{score}");
    }
    // No other board is open, whether it is there or not.
    one.submit("arena", ada, 1.0, 0.0).await?;
    for board in ["arena", "nothing"] {
        let refused = submit_as_client(&one, board, ada, f64::NAN).await;
        assert_eq!(code(refused), Some(ErrorCode::LEADERBOARD_CLIENT_SUBMIT_DISABLED), "{board}");
    }
    update(&two, "arena", BoardSettings { client_submit: true, ..settings() }, &["client_submit"]).await?;
    assert_eq!(submit_as_client(&one, "arena", bo, 2.0).await?.rank, 1, "at once, and at every service");

    let get = GetBoardRequest { leaderboard_id: "laps".into() };
    let got = two.board_admin().get_board(get.clone()).await?.into_inner();
    let board = got.board.unwrap_or_default();
    let seen = board.settings.unwrap_or_default();
    assert_eq!((got.entries, board.period, board.declared, seen.title.as_str()), (2, 0, true, "Laps"));
    assert_eq!((seen.metadata_json.as_str(), seen.min_score), (r#"{"track":"north"}"#, Some(20.0)));
    let first = ListBoardsRequest { page_size: 1, page_token: String::new() };
    let first = one.board_admin().list_boards(first).await?.into_inner();
    let rest = ListBoardsRequest { page_size: 0, page_token: first.next_page_token };
    let rest = one.board_admin().list_boards(rest).await?.into_inner();
    let ids: Vec<_> = first.boards.iter().chain(&rest.boards).map(|board| board.leaderboard_id.as_str()).collect();
    assert_eq!((ids.as_slice(), rest.next_page_token.as_str()), (["arena", "laps"].as_slice(), ""));

    let delete = DeleteBoardRequest { request_id: "d1".into(), leaderboard_id: "laps".into() };
    one.board_admin().delete_board(delete.clone()).await?;
    assert_eq!(one.board_admin().delete_board(delete).await?.into_inner(), Default::default(), "done before");
    assert_eq!(code(two.board_admin().get_board(get).await), Some(ErrorCode::OPS_NOT_FOUND));
    both_have([&one, &two], "laps", &[]).await?;
    // Its id is free, with the defaults and without what was there.
    assert_eq!(two.submit("laps", ada, 7.0, 0.0).await?.rank, 1);
    both_have([&one, &two], "laps", &[(ada, 7.0)]).await?;
    one.drain().await?;
    two.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_board_that_ranks_otherwise_does_so_everywhere() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let (one, two) = (Service::start(&database, "one").await?, Service::start(&database, "two").await?);
    let [ada, bo, cy] = [(); 3].map(|()| Uuid::now_v7());
    for (player, score) in [(ada, 1.0), (bo, 2.0), (cy, 3.0)] {
        one.submit("golf", player, score, 0.0).await?;
    }
    both_have([&one, &two], "golf", &[(cy, 3.0), (bo, 2.0), (ada, 1.0)]).await?;
    let low = BoardSettings { order: BoardOrder::Low.into(), operator: BoardOperator::Sum.into(), ..settings() };
    update(&one, "golf", low, &["order", "operator"]).await?;
    both_have([&one, &two], "golf", &[(ada, 1.0), (bo, 2.0), (cy, 3.0)]).await?;
    assert_eq!(two.submit("golf", ada, 1.5, 0.0).await?.score, 2.5, "from now on they are added up");
    both_have([&one, &two], "golf", &[(bo, 2.0), (ada, 2.5), (cy, 3.0)]).await?;

    assert_eq!(remove(&two, "golf", bo, None).await?, 2.0);
    assert_eq!(code(remove(&two, "golf", bo, None).await), Some(ErrorCode::OPS_NOT_FOUND));
    both_have([&one, &two], "golf", &[(ada, 2.5), (cy, 3.0)]).await?;
    assert_eq!(one.submit("golf", bo, 9.0, 0.0).await?.score, 9.0, "nothing is left of what was taken off");
    both_have([&one, &two], "golf", &[(ada, 2.5), (cy, 3.0), (bo, 9.0)]).await?;
    one.drain().await?;
    two.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_ends_once_and_stays_to_be_read() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let (one, two) = (Service::start(&database, "one").await?, Service::start(&database, "two").await?);
    let (ada, bo) = (Uuid::now_v7(), Uuid::now_v7());
    let weekly = BoardSettings {
        operator: BoardOperator::Sum.into(),
        reset_schedule: "@weekly".into(),
        periods_kept: Some(2),
        ..settings()
    };
    create(&one, "weekly", weekly).await?;
    one.submit("weekly", ada, 10.0, 0.0).await?;
    two.submit("weekly", bo, 20.0, 0.0).await?;
    both_have([&one, &two], "weekly", &[(bo, 20.0), (ada, 10.0)]).await?;

    // It is time, and both notice. A score that comes then is of the new period, whoever was first.
    let due = sqlx::query("UPDATE leaderboards SET next_reset_at = clock_timestamp() WHERE id = 'weekly'");
    due.execute(&database.pool).await?;
    assert_eq!(two.submit("weekly", ada, 1.0, 0.0).await?.score, 1.0);
    both_have([&one, &two], "weekly", &[(ada, 1.0)]).await?;
    for service in [&one, &two] {
        assert_eq!(top_of(service, "weekly", Some(0)).await?, [(bo.to_string(), 20.0), (ada.to_string(), 10.0)]);
        let request = ListPeriodsRequest { leaderboard_id: "weekly".into(), ..ListPeriodsRequest::default() };
        let listed = service.boards().list_periods(request).await?.into_inner();
        assert_eq!((listed.current, listed.periods.len()), (1, 1), "it ended once");
    }
    let around =
        ListAroundRequest { leaderboard_id: "weekly".into(), player_id: ada.to_string(), range: 1, period: Some(0) };
    let ranks: Vec<i64> = one.boards().list_around(around).await?.into_inner().entries.iter().map(|e| e.rank).collect();
    assert_eq!(ranks, [1, 2]);
    let next: time::OffsetDateTime =
        sqlx::query_scalar("SELECT next_reset_at FROM leaderboards WHERE id = 'weekly' AND next_reset_at > now()")
            .fetch_one(&database.pool)
            .await?;
    assert_eq!((next.weekday(), next.time()), (time::Weekday::Sunday, time::Time::MIDNIGHT));

    // Taken off a period that is over, wherever its entry is by now.
    assert_eq!(remove(&one, "weekly", ada, Some(0)).await?, 10.0);
    for service in [&one, &two] {
        until("nobody sees it any more", async || {
            Ok((top_of(service, "weekly", Some(0)).await? == [(bo.to_string(), 20.0)]).then_some(()))
        })
        .await?;
    }
    // Asked twice it is reset once; and what is older than two periods goes.
    assert_eq!((reset(&one, "weekly", "r1").await?, reset(&one, "weekly", "r1").await?), (2, 2));
    assert_eq!(reset(&two, "weekly", "r2").await?, 3);
    for service in [&one, &two] {
        until("the first period is gone", async || {
            Ok(top_of(service, "weekly", Some(0)).await?.is_empty().then_some(()))
        })
        .await?;
        assert_eq!(top_of(service, "weekly", Some(1)).await?, [(ada.to_string(), 1.0)]);
        assert!(
            top_of(service, "weekly", None).await?.is_empty() && top_of(service, "weekly", Some(9)).await?.is_empty()
        );
    }
    until("its rows are swept", async || {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM leaderboard_entries WHERE player_id = $1")
            .bind(bo)
            .fetch_one(&database.pool)
            .await?;
        Ok((left == 0).then_some(()))
    })
    .await?;
    one.drain().await?;
    two.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_nobody_asks_for_happens_all_the_same() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let (one, two) = (Service::start(&database, "one").await?, Service::start(&database, "two").await?);
    let ada = Uuid::now_v7();
    create(&one, "daily", BoardSettings { reset_schedule: "0 0 * * *".into(), ..settings() }).await?;
    one.submit("daily", ada, 5.0, 0.0).await?;
    both_have([&one, &two], "daily", &[(ada, 5.0)]).await?;
    let due = sqlx::query("UPDATE leaderboards SET next_reset_at = now() - interval '3 days' WHERE id = 'daily'");
    due.execute(&database.pool).await?;
    both_have([&one, &two], "daily", &[]).await?;
    let periods: i64 = sqlx::query_scalar("SELECT count(*) FROM leaderboard_periods").fetch_one(&database.pool).await?;
    assert_eq!(periods, 1, "days that nobody saw are one period");
    one.drain().await?;
    two.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn friends_and_groups_rank_among_themselves() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "one").await?;
    let mut players = Vec::new();
    for n in 0..10_u32 {
        let player = player(&database).await?;
        service.submit("arena", player, f64::from(n), 0.0).await?;
        players.push(player);
    }
    let (ada, bo, cy) = (players[2], players[7], players[9]);
    for friend in [bo, cy] {
        service.add(ada, friend).await?;
    }
    service.answer(bo, ada, FriendStatus::Accepted).await?;
    let circle = async |circle: Circle| {
        let request =
            ListCircleRequest { leaderboard_id: "arena".into(), circle: Some(circle), ..ListCircleRequest::default() };
        let entries = service.boards().list_circle(request).await?.into_inner().entries;
        Ok::<_, Status>(entries.into_iter().map(|e| (e.player_id, e.rank, e.overall_rank)).collect::<Vec<_>>())
    };
    // Cy was asked, and has not said yes.
    let expected = [(bo.to_string(), 1, 3), (ada.to_string(), 2, 8)];
    assert_eq!(circle(Circle::FriendsOf(ada.to_string())).await?, expected);

    let group = Uuid::now_v7();
    sqlx::query("INSERT INTO groups (id, name, max_members, open, creator_id) VALUES ($1, 'club', 50, true, $2)")
        .bind(group)
        .bind(cy)
        .execute(&database.pool)
        .await?;
    for (member, role) in [(cy, "owner"), (ada, "member")] {
        let add = sqlx::query(
            "INSERT INTO group_members (id, group_id, player_id, role) VALUES (gen_random_uuid(), $1, $2, $3)",
        );
        add.bind(group).bind(member).bind(role).execute(&database.pool).await?;
    }
    let expected = [(cy.to_string(), 1, 1), (ada.to_string(), 2, 8)];
    assert_eq!(circle(Circle::GroupId(group.to_string())).await?, expected);
    let nobody = circle(Circle::GroupId(Uuid::now_v7().to_string())).await;
    assert_eq!(code(nobody), Some(ErrorCode::SOCIAL_GROUP_NOT_FOUND));

    let stands = standing(&service, "arena", bo).await?;
    assert_eq!((stands.total, stands.entry.map(|e| e.rank), stands.percentile.round()), (10, Some(3), 78.0));
    let stranger = standing(&service, "arena", Uuid::now_v7()).await?;
    assert_eq!((stranger.total, stranger.entry), (10, None));
    service.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_told_to_nobody_is_found() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "one").await?;
    let (ada, bo) = (Uuid::now_v7(), Uuid::now_v7());
    service.submit("arena", ada, 5.0, 0.0).await?;
    // As of another service that died after its commit.
    let mut tx = database.pool.begin().await?;
    let score = asobi_store::boards::Submission {
        board: "arena".into(),
        player_id: bo,
        score: 9.0,
        sub_score: 0.0,
        by_client: false,
    };
    asobi_store::boards::write(&mut tx, &[score]).await?;
    tx.commit().await?;
    until("the last one is known", async || Ok((service.top("arena", 1).await?[0].1 == 9.0).then_some(()))).await?;
    let mut tx = database.pool.begin().await?;
    asobi_store::boards::remove_entry(&mut tx, "arena", bo, None).await?;
    tx.commit().await?;
    until("nor is one that was taken off", async || Ok((service.top("arena", 1).await?[0].1 == 5.0).then_some(())))
        .await?;
    service.drain().await?;
    database.drop_now().await
}
