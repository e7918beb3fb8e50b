use std::{sync::Arc, time::Duration};

use asobi_proto::{
    bus::{Topic, WakeItem},
    error::ErrorCode,
    social_v1::ListAroundRequest,
};
use asobi_store::testing::TestDatabase;
use serde_json::json;
use sqlx::Row as _;
use uuid::Uuid;

use crate::stage::{Service, code, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_board_is_the_same_at_every_service() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let (one, two) = (Service::start(&database, "one").await?, Service::start(&database, "two").await?);
    let (ada, bo, cy) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    assert!(one.top("weekly", 0).await?.is_empty(), "nobody knows it");

    let first = one.submit("weekly", ada, 10.0, 3.0).await?;
    assert_eq!((first.rank, first.score, first.sub_score), (1, 10.0, 3.0));
    assert_eq!(two.submit("weekly", bo, 25.0, 0.0).await?.rank, 1);
    assert_eq!(one.submit("weekly", cy, 10.0, 0.0).await?.rank, 3);
    let expected = [(bo.to_string(), 25.0, 1), (ada.to_string(), 10.0, 2), (cy.to_string(), 10.0, 3)];
    for service in [&one, &two] {
        let at = async || Ok((service.top("weekly", 0).await? == expected).then_some(()));
        until("both know all three", at).await?;
    }
    // The last score is kept, not the best.
    assert_eq!(two.submit("weekly", bo, 5.0, 0.0).await?.rank, 3);
    until("the other one knows", async || Ok((one.top("weekly", 1).await?[0].0 == ada.to_string()).then_some(())))
        .await?;
    let around =
        ListAroundRequest { leaderboard_id: "weekly".into(), player_id: cy.to_string(), range: 1, period: None };
    let around = one.boards().list_around(around).await?.into_inner().entries;
    assert_eq!(around.iter().map(|e| e.rank).collect::<Vec<_>>(), [1, 2, 3]);

    sqlx::query("INSERT INTO leaderboards (id, ordering, operator) VALUES ('laps', 'asc', 'best')")
        .execute(&database.pool)
        .await?;
    assert_eq!(one.submit("laps", ada, 70.5, 0.0).await?.score, 70.5);
    assert_eq!(one.submit("laps", ada, 80.0, 0.0).await?.score, 70.5, "a worse lap changes nothing");
    assert_eq!(one.submit("laps", bo, 60.0, 0.0).await?.rank, 1);

    for (board, score) in [("", 1.0), ("weekly", f64::NAN), ("weekly", f64::INFINITY), ("a\0b", 1.0)] {
        assert_eq!(
            code(one.submit(board, ada, score, 0.0).await),
            Some(ErrorCode::VALIDATION_FAILED),
            "{board:?} {score}"
        );
    }
    one.drain().await?;
    two.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_submissions_at_once_lose_no_number() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let services = Arc::new([Service::start(&database, "one").await?, Service::start(&database, "two").await?]);
    let players: Vec<Uuid> = (0..20).map(|_| Uuid::now_v7()).collect();
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..400_usize {
        let (services, player) = (Arc::clone(&services), players[n % players.len()]);
        calls.spawn(async move { services[n % 2].submit("rush", player, (n * 7 % 101) as f64, 0.0).await });
    }
    while let Some(done) = calls.join_next().await {
        done??;
    }
    let seq: i64 =
        sqlx::query_scalar("SELECT seq FROM leaderboards WHERE id = 'rush'").fetch_one(&database.pool).await?;
    assert_eq!(seq, 400);
    let rows = sqlx::query("SELECT player_id, score FROM leaderboard_entries ORDER BY score DESC, sub_score DESC, seq")
        .fetch_all(&database.pool)
        .await?;
    let expected: Vec<(String, f64)> =
        rows.iter().map(|row| (row.get::<Uuid, _>("player_id").to_string(), row.get("score"))).collect();
    for service in services.iter() {
        until("both rank as the rows do", async || {
            let top: Vec<_> =
                service.top("rush", 0).await?.into_iter().map(|(player, score, _)| (player, score)).collect();
            Ok((top == expected).then_some(()))
        })
        .await?;
    }
    for service in Arc::into_inner(services).expect("the calls have ended") {
        service.drain().await?;
    }
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_are_applied_once_whoever_takes_them() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    sqlx::query("INSERT INTO leaderboards (id, operator) VALUES ('wins', 'sum')").execute(&database.pool).await?;
    let (one, two) = (Service::start(&database, "one").await?, Service::start(&database, "two").await?);
    let winner = Uuid::now_v7();
    sqlx::query(
        "INSERT INTO match_effects (match_id, ordinal, kind, body)
         SELECT gen_random_uuid(), n, 'score', CASE WHEN n % 100 = 7 THEN '{\"board\": 7}'::jsonb
           ELSE jsonb_build_object('board', 'wins', 'player_id', $1::text, 'score', 1) END
         FROM generate_series(1, 1000) AS n",
    )
    .bind(winner)
    .execute(&database.pool)
    .await?;
    let bus = asobi_bus_of(&database)?;
    bus.publisher().publish(Topic::Effects, &WakeItem {})?;
    until("nothing is open", async || {
        let open: i64 = sqlx::query_scalar("SELECT count(*) FROM match_effects WHERE applied_at IS NULL")
            .fetch_one(&database.pool)
            .await?;
        Ok((open == 0).then_some(()))
    })
    .await?;
    for service in [&one, &two] {
        until("990 wins", async || {
            Ok((service.top("wins", 1).await?.first().map(|e| e.1) == Some(990.0)).then_some(()))
        })
        .await?;
    }
    let poison: i64 = sqlx::query_scalar("SELECT count(*) FROM match_effects WHERE error IS NOT NULL")
        .fetch_one(&database.pool)
        .await?;
    assert_eq!(poison, 10);
    one.drain().await?;
    two.drain().await?;
    database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_match_makes_a_board_and_what_is_out_of_its_bounds_is_put_aside() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    let service = Service::start(&database, "one").await?;
    let player = Uuid::now_v7();
    let game = Uuid::now_v7();
    let score = |score: f64| json!({"board": "laps", "player_id": player, "score": score});
    let effects = [
        ("score", score(55.0)),
        ("board", json!({"board": "laps", "order": "low", "operator": "best", "max_score": 60.0})),
        ("score", score(70.0)),
        ("score", score(50.0)),
        // One that is there already stays as it is.
        ("board", json!({"board": "laps", "operator": "sum"})),
        ("score", score(58.0)),
    ];
    let mut tx = database.pool.begin().await?;
    for (ordinal, (kind, body)) in (1_i64..).zip(effects) {
        let insert = sqlx::query("INSERT INTO match_effects (match_id, ordinal, kind, body) VALUES ($1, $2, $3, $4)");
        insert.bind(game).bind(ordinal).bind(kind).bind(body).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    asobi_bus_of(&database)?.publisher().publish(Topic::Effects, &WakeItem {})?;
    until("the best lap counts", async || {
        Ok((service.top("laps", 0).await? == [(player.to_string(), 50.0, 1)]).then_some(()))
    })
    .await?;
    let aside: Vec<(i64, String)> = sqlx::query_as("SELECT ordinal, error FROM match_effects WHERE error IS NOT NULL")
        .fetch_all(&database.pool)
        .await?;
    assert_eq!(aside, [(3, "the score is not within the board's bounds".to_owned())]);
    service.drain().await?;
    database.drop_now().await
}

fn asobi_bus_of(database: &TestDatabase) -> anyhow::Result<asobi_bus::Bus> {
    let direct = asobi_store::connect_options(&database.url, "asobi/stage", Duration::from_secs(10))?;
    let options = asobi_bus::BusOptions {
        pool: database.pool.clone(),
        direct,
        origin: "stage".into(),
        topics: vec![Topic::Effects],
    };
    Ok(asobi_bus::Bus::start(
        options,
        &tokio_util::sync::CancellationToken::new(),
        &tokio_util::task::TaskTracker::new(),
    ))
}
