//! Friends and boards, played over a real PostgreSQL with real services and their gRPC APIs.

use std::{sync::Arc, time::Duration};

use asobi_proto::{
    bus::{Topic, WakeItem},
    error::ErrorCode,
    social_v1::{
        AddFriendRequest, AnswerFriendRequest, FriendStatus, Friendship, LeaderboardEntry, ListAroundRequest,
        ListFriendsRequest, ListTopRequest, RemoveFriendRequest, SubmitScoreRequest,
        friend_service_client::FriendServiceClient, leaderboard_service_client::LeaderboardServiceClient,
    },
};
use asobi_service_kit::{
    ConfigArgs, Shutdown,
    config::load,
    grpc::{Channels, ClusterChannel, error_code},
};
use asobi_store::testing::TestDatabase;
use sqlx::Row as _;
use tokio::task::JoinHandle;
use tonic::Status;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(30);

struct Service {
    shutdown: Shutdown,
    running: JoinHandle<anyhow::Result<()>>,
    channel: ClusterChannel,
}

impl Service {
    async fn start(database: &TestDatabase, node_id: &str) -> anyhow::Result<Self> {
        let set =
            ["grpc.listen=127.0.0.1:0", "metrics.listen=127.0.0.1:0", "cluster.key=0123456789abcdef0123456789abcdef"];
        let args = ConfigArgs {
            set: set.map(str::to_owned).to_vec(),
            database_url: Some(database.url.clone()),
            node_id: Some(node_id.into()),
            ..ConfigArgs::default()
        };
        let config = Arc::new(load(&args).map_err(|errors| anyhow::anyhow!("{errors}"))?);
        let shutdown = Shutdown::manual(Duration::from_secs(8));
        let running = tokio::spawn(asobi_social_service::run(config, shutdown.clone()));
        let address: String = until("the service is ready", async || {
            let ready = sqlx::query_scalar("SELECT grpc_addr FROM nodes WHERE node_id = $1 AND state = 'ready'");
            Ok(ready.bind(node_id).fetch_optional(&database.pool).await?)
        })
        .await?;
        let channel = Channels::new("0123456789abcdef0123456789abcdef").get(&address);
        Ok(Self { shutdown, running, channel })
    }

    fn friends(&self) -> FriendServiceClient<ClusterChannel> {
        FriendServiceClient::new(self.channel.clone())
    }

    fn boards(&self) -> LeaderboardServiceClient<ClusterChannel> {
        LeaderboardServiceClient::new(self.channel.clone())
    }

    async fn add(&self, player: Uuid, friend: Uuid) -> Result<Friendship, Status> {
        let request = AddFriendRequest { player_id: player.to_string(), friend_id: friend.to_string() };
        Ok(self.friends().add_friend(request).await?.into_inner().friendship.unwrap_or_default())
    }

    async fn answer(&self, player: Uuid, friend: Uuid, status: FriendStatus) -> Result<Friendship, Status> {
        let request =
            AnswerFriendRequest { player_id: player.to_string(), friend_id: friend.to_string(), status: status.into() };
        Ok(self.friends().answer_friend(request).await?.into_inner().friendship.unwrap_or_default())
    }

    async fn remove(&self, player: Uuid, friend: Uuid) -> Result<(), Status> {
        let request = RemoveFriendRequest { player_id: player.to_string(), friend_id: friend.to_string() };
        self.friends().remove_friend(request).await.map(drop)
    }

    async fn list(&self, player: Uuid) -> Result<Vec<Friendship>, Status> {
        let request = ListFriendsRequest { player_id: player.to_string(), status: 0, limit: 0 };
        Ok(self.friends().list_friends(request).await?.into_inner().friends)
    }

    async fn submit(&self, board: &str, player: Uuid, score: f64, sub_score: f64) -> Result<LeaderboardEntry, Status> {
        let request =
            SubmitScoreRequest { leaderboard_id: board.into(), player_id: player.to_string(), score, sub_score };
        Ok(self.boards().submit_score(request).await?.into_inner().entry.unwrap_or_default())
    }

    async fn top(&self, board: &str, limit: i32) -> Result<Vec<(String, f64, i64)>, Status> {
        let request = ListTopRequest { leaderboard_id: board.into(), limit };
        let entries = self.boards().list_top(request).await?.into_inner().entries;
        Ok(entries.into_iter().map(|e| (e.player_id, e.score, e.rank)).collect())
    }

    async fn drain(self) -> anyhow::Result<()> {
        self.shutdown.begin();
        self.running.await??;
        self.shutdown.finished().await;
        anyhow::ensure!(!self.shutdown.failed() && !self.shutdown.cut().is_cancelled(), "it did not end well");
        Ok(())
    }
}

/// Asks until there is an answer.
async fn until<T>(what: &str, look: impl AsyncFn() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let looking = async {
        let mut again = tokio::time::interval(Duration::from_millis(20));
        loop {
            again.tick().await;
            if let Some(seen) = look().await? {
                return Ok(seen);
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| anyhow::bail!("in vain: {what}"))
}

async fn player(database: &TestDatabase) -> anyhow::Result<Uuid> {
    let id = Uuid::now_v7();
    let insert = sqlx::query("INSERT INTO players (id, username) VALUES ($1, $1::text)");
    insert.bind(id).execute(&database.pool).await?;
    Ok(id)
}

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

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Option<ErrorCode> {
    error_code(&result.expect_err("refused"))
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
    let around = ListAroundRequest { leaderboard_id: "weekly".into(), player_id: cy.to_string(), range: 1 };
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
