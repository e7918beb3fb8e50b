//! Storage in a real database, and boards of services that answer, refuse, hang or are gone. A real social service is asked in the plays of
//! the `asobi` crate.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use asobi_proto::social_v1::{
    GetStandingRequest, GetStandingResponse, LeaderboardEntry, ListAroundRequest, ListAroundResponse,
    ListCircleRequest, ListCircleResponse, ListPeriodsRequest, ListPeriodsResponse, ListTopRequest, ListTopResponse,
    SubmitClientScoreRequest, SubmitClientScoreResponse, SubmitScoreRequest, SubmitScoreResponse,
    leaderboard_service_server::{LeaderboardService, LeaderboardServiceServer},
};
use asobi_store::testing::TestDatabase;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Answers,
    Refuses,
    Hangs,
}

/// A social service of few words.
struct Fake {
    manner: Manner,
    asked: Arc<AtomicUsize>,
}

impl Fake {
    async fn reply<T>(&self, answer: T) -> Result<Response<T>, Status> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.manner {
            Manner::Answers => Ok(Response::new(answer)),
            Manner::Refuses => Err(Status::unavailable("not now")),
            Manner::Hangs => std::future::pending().await,
        }
    }
}

fn entry(board: &str, rank: i64) -> LeaderboardEntry {
    LeaderboardEntry {
        leaderboard_id: board.into(),
        player_id: Uuid::from_u128(rank.unsigned_abs().into()).to_string(),
        score: 10.0 - rank as f64,
        sub_score: 0.5,
        rank,
        ..LeaderboardEntry::default()
    }
}

#[async_trait]
impl LeaderboardService for Fake {
    async fn submit_score(&self, _: Request<SubmitScoreRequest>) -> Result<Response<SubmitScoreResponse>, Status> {
        Err(Status::unimplemented("games submit by effects"))
    }

    async fn submit_client_score(
        &self,
        _: Request<SubmitClientScoreRequest>,
    ) -> Result<Response<SubmitClientScoreResponse>, Status> {
        Err(Status::unimplemented("games submit by effects"))
    }

    async fn get_standing(&self, _: Request<GetStandingRequest>) -> Result<Response<GetStandingResponse>, Status> {
        Err(Status::unimplemented("games do not ask"))
    }

    async fn list_circle(&self, _: Request<ListCircleRequest>) -> Result<Response<ListCircleResponse>, Status> {
        Err(Status::unimplemented("games do not ask"))
    }

    async fn list_periods(&self, _: Request<ListPeriodsRequest>) -> Result<Response<ListPeriodsResponse>, Status> {
        Err(Status::unimplemented("games do not ask"))
    }

    async fn list_top(&self, request: Request<ListTopRequest>) -> Result<Response<ListTopResponse>, Status> {
        let ListTopRequest { leaderboard_id, limit, .. } = request.into_inner();
        self.reply(ListTopResponse { entries: (1..=limit.into()).map(|rank| entry(&leaderboard_id, rank)).collect() })
            .await
    }

    async fn list_around(&self, request: Request<ListAroundRequest>) -> Result<Response<ListAroundResponse>, Status> {
        let ListAroundRequest { leaderboard_id, range, .. } = request.into_inner();
        let entries = (2 - i64::from(range)..=2 + i64::from(range)).map(|rank| entry(&leaderboard_id, rank)).collect();
        self.reply(ListAroundResponse { entries }).await
    }
}

struct Stage {
    database: TestDatabase,
    channels: Channels,
    addresses: Vec<String>,
    asked: Vec<Arc<AtomicUsize>>,
}

impl Stage {
    async fn new() -> anyhow::Result<Self> {
        let channels = Channels::new("0123456789abcdef0123456789abcdef");
        Ok(Self { database: TestDatabase::create().await?, channels, addresses: Vec::new(), asked: Vec::new() })
    }

    async fn register(&self, address: &str) -> anyhow::Result<()> {
        sqlx::query(
            "INSERT INTO nodes (node_id, incarnation, role, state, version, grpc_addr, pid, lease_until)
             VALUES ($1, 1, 'social', 'ready', '', $1, 1, now() + interval '1 hour')",
        )
        .bind(address)
        .execute(&self.database.pool)
        .await?;
        Ok(())
    }

    async fn service(&mut self, manner: Manner) -> anyhow::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        self.register(&address).await?;
        self.addresses.push(address);
        let asked = Arc::<AtomicUsize>::default();
        let fake = LeaderboardServiceServer::new(Fake { manner, asked: Arc::clone(&asked) });
        self.asked.push(asked);
        let serving = tonic::transport::Server::builder().add_service(fake);
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        if manner == Manner::Answers {
            self.connect(self.addresses.len() - 1).await?;
        }
        Ok(())
    }

    async fn services(&self) -> anyhow::Result<Services> {
        let directory = Directory::load(&self.database.pool).await?;
        Ok(Services::new(self.database.pool.clone(), directory, self.channels.clone()))
    }

    /// Connects to a service that answers, which may take longer than a match waits.
    async fn connect(&self, service: usize) -> anyhow::Result<()> {
        let channel = self.channels.get(&self.addresses[service]);
        LeaderboardServiceClient::new(channel).list_top(ListTopRequest::default()).await?;
        Ok(())
    }

    fn asked(&self, service: usize) -> usize {
        self.asked[service].load(Ordering::Relaxed)
    }
}

fn top(board: &str, n: u32) -> Ask {
    Ask::Top { board: board.into(), n }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_answered_on_any_thread() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    let ada = Uuid::now_v7();
    sqlx::query("INSERT INTO players (id, username) VALUES ($1, 'ada')")
        .bind(ada)
        .execute(&stage.database.pool)
        .await?;
    sqlx::query("INSERT INTO game_storage VALUES ('maps', 'first', '{\"seed\": 7}')")
        .execute(&stage.database.pool)
        .await?;
    sqlx::query("INSERT INTO player_storage VALUES ($1, 'maps', 'first', '[1, 2]')")
        .bind(ada)
        .execute(&stage.database.pool)
        .await?;
    let services = Arc::new(stage.services().await?);
    let stored = |key: &str, player| Ask::Stored { collection: "maps".into(), key: key.into(), player };
    let asks = [stored("first", None), stored("first", Some(ada)), stored("none", None), stored("a\0b", None)];
    // A match's thread has a runtime of its own, which ends with it.
    for round in 0..3 {
        let (services, asks) = (Arc::clone(&services), asks.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut answers = Vec::new();
                for ask in asks {
                    answers.push(services.ask(ask).await?);
                }
                anyhow::Ok(answers)
            })
        });
        let answers = tokio::task::spawn_blocking(move || thread.join()).await?.expect("no panic")?;
        assert_eq!(answers, [r#"{"seed":7}"#, "[1,2]", "null", "null"], "round {round}");
    }
    drop(services);
    stage.database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn boards_are_answered_as_rest_has_them() -> anyhow::Result<()> {
    let mut stage = Stage::new().await?;
    stage.service(Manner::Answers).await?;
    let services = stage.services().await?;
    let player = Uuid::from_u128(2);
    let second = json!({"leaderboard_id": "arena", "player_id": player, "score": 8, "sub_score": 0.5, "rank": 2, "updated_at": null});
    let answer: Value = serde_json::from_str(&services.ask(top("arena", 3)).await?)?;
    assert_eq!((answer.as_array().map(Vec::len), &answer[1]), (Some(3), &second));
    let around = services.ask(Ask::Around { board: "arena".into(), player, n: 1 }).await?;
    let ranks: Value = serde_json::from_str(&around)?;
    assert_eq!([1, 2, 3].map(|rank| json!(rank)), [0, 1, 2].map(|n| ranks[n]["rank"].clone()));
    let rank = services.ask(Ask::Rank { board: "arena".into(), player }).await?;
    assert_eq!(serde_json::from_str::<Value>(&rank)?, second);
    let stranger = Ask::Rank { board: "arena".into(), player: Uuid::from_u128(99) };
    assert_eq!(services.ask(stranger).await?, "null");
    // What can be no board's id is not asked for, and nobody gets more than there is for clients.
    let asked = stage.asked(0);
    assert_eq!(services.ask(top("", 3)).await?, "[]");
    assert_eq!(services.ask(top(&"x".repeat(129), 3)).await?, "[]");
    assert_eq!(stage.asked(0), asked);
    let many: Vec<Value> = serde_json::from_str(&services.ask(top("arena", u32::MAX)).await?)?;
    assert_eq!(many.len(), 100);
    stage.database.drop_now().await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_service_answers_when_one_refuses_hangs_or_is_gone() -> anyhow::Result<()> {
    for manner in [Some(Manner::Refuses), Some(Manner::Hangs), None] {
        let mut stage = Stage::new().await?;
        stage.service(Manner::Answers).await?;
        match manner {
            Some(manner) => stage.service(manner).await?,
            None => stage.register(&TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string()).await?,
        }
        let services = stage.services().await?;
        // Boards spread over the services: some begin at the other one, until that is not asked for a while.
        for n in 0..24 {
            let answer = services.ask(top(&format!("board {n}"), 1)).await;
            assert!(answer.is_ok(), "{manner:?}: {answer:?}");
        }
        if manner.is_some() {
            let asked = stage.asked(1);
            assert!((1..24).contains(&asked), "{manner:?}: {asked}");
        }
        stage.database.drop_now().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_nobody_answers_is_over_in_time() -> anyhow::Result<()> {
    let mut stage = Stage::new().await?;
    assert_eq!(stage.services().await?.ask(top("arena", 1)).await, Err(AskError::Unavailable), "there is nobody");
    stage.service(Manner::Hangs).await?;
    let services = Arc::new(stage.services().await?);
    let started = Instant::now();
    // Of so many at once the last ones find no room.
    let asks: Vec<_> = (0..=UNDER_WAY)
        .map(|_| {
            let services = Arc::clone(&services);
            async move { services.ask(top("arena", 1)).await }
        })
        .collect();
    let answers = futures_util::future::join_all(asks).await;
    assert!(started.elapsed() < ANSWER_WITHIN * 8, "{:?}", started.elapsed());
    let waited = answers.iter().filter(|answer| **answer == Err(AskError::Timeout)).count();
    assert!((1..=UNDER_WAY).contains(&waited), "{waited}");
    assert!(answers.contains(&Err(AskError::Unavailable)));
    let mut lock = stage.database.pool.begin().await?;
    sqlx::query("LOCK TABLE game_storage").execute(&mut *lock).await?;
    let stored = Ask::Stored { collection: "c".into(), key: "k".into(), player: None };
    assert_eq!(services.ask(stored.clone()).await, Err(AskError::Timeout));
    lock.rollback().await?;
    assert_eq!(services.ask(stored).await, Ok("null".into()));
    drop(services);
    stage.database.drop_now().await
}
