//! Scores while one of two social services dies: what was acknowledged is there, and both rank as the rows do.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use asobi_proto::social_v1::{
    BoardOperator, BoardSettings, CreateBoardRequest, ListTopRequest,
    leaderboard_admin_service_client::LeaderboardAdminServiceClient,
    leaderboard_service_client::LeaderboardServiceClient,
};
use asobi_service_kit::grpc::{Channels, ClusterChannel};
use futures_util::future::try_join_all;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use sqlx::Row as _;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    ALONE,
    support::{Cluster, cluster::Process, rest::Account, until},
};

const PLAYERS: usize = 50;
const PER_SECOND: u64 = 500;
/// Before the kill, while one is away, and after it is back.
const PHASE: Duration = Duration::from_secs(4);
/// 32 bytes in base64.
const DEVICE_SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const BOARDS: [(&str, BoardOperator); 3] =
    [("best", BoardOperator::Best), ("last", BoardOperator::Last), ("sum", BoardOperator::Sum)];

/// What one player knows of one board: they submit one score after the other, and remember what came of each.
#[derive(Debug, Default)]
pub struct Ledger {
    pub board: &'static str,
    pub player: Uuid,
    pub acknowledged: Vec<f64>,
    /// Refused, or not answered: it may be there all the same.
    pub unknown: Vec<f64>,
}

impl Ledger {
    /// Whether a row holds all that was acknowledged, and nothing that was never sent.
    fn allows(&self, row: Option<f64>) -> bool {
        let Some(score) = row else { return self.acknowledged.is_empty() };
        let sent: HashSet<u64> = self.acknowledged.iter().chain(&self.unknown).map(|score| score.to_bits()).collect();
        match self.board {
            "best" => {
                let best = self.acknowledged.iter().copied().fold(f64::MIN, f64::max);
                score >= best && sent.contains(&score.to_bits())
            }
            // One that was not answered may have come in at any time.
            "last" => self.acknowledged.last() == Some(&score) || self.unknown.contains(&score),
            // Each is a power of two times one: sums of them are exact.
            _ => {
                let sure: f64 = self.acknowledged.iter().sum();
                let most: f64 = sure + self.unknown.iter().sum::<f64>();
                (sure..=most).contains(&score)
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_score_is_lost_with_the_service_that_took_it() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let seed: u64 = std::env::var("FAULTS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("seed: FAULTS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = Cluster::new().gateways(2).match_hosts(0).matchmakers(0).social_services(2);
    let mut cluster = cluster.set("node.lease_ms", 2_000).start().await?;
    open_boards(&cluster).await?;
    let accounts = try_join_all((0..PLAYERS).map(|n| guest(&cluster, n))).await?;

    let stop = CancellationToken::new();
    let answered = Arc::new(AtomicU64::new(0));
    let mut playing = JoinSet::new();
    for account in accounts {
        for (board, _) in BOARDS {
            let seed = random.random();
            playing.spawn(submit(account.clone(), board, seed, Arc::clone(&answered), stop.clone()));
        }
    }
    let began = Instant::now();
    sleep(PHASE + Duration::from_millis(random.random_range(0..500))).await;
    let before = answered.load(Ordering::Relaxed);
    let victim = cluster.processes("social_services").swap_remove(random.random_range(0..2));
    let recipe = cluster.recipe(&victim)?;
    cluster.kill(&victim).await?;
    sleep(PHASE).await;
    let between = answered.load(Ordering::Relaxed);
    cluster.start_again(&recipe).await?;
    sleep(PHASE).await;
    stop.cancel();
    let mut ledgers = Vec::new();
    while let Some(ledger) = playing.join_next().await {
        ledgers.push(ledger??);
    }
    let all = answered.load(Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    let unknown: usize = ledgers.iter().map(|ledger| ledger.unknown.len()).sum();
    eprintln!(
        "{all} scores in {seconds:.1} s: {before} before {} died, {between} until it was back; {unknown} unknown",
        victim.node_id
    );
    ensure!(before > 0 && between > before && all > between, "scores went on all the time");

    nothing_is_lost(&cluster, &ledgers).await?;
    for (board, _) in BOARDS {
        all_rank_as_the_rows(&cluster, board, PLAYERS).await?;
    }
    cluster.stop().await
}

async fn guest(cluster: &Cluster, n: usize) -> anyhow::Result<Account> {
    let device = format!("device-{n}-{:08x}", rand::random::<u32>());
    let gateway = cluster.gateway(n % 2);
    Account::guest(&cluster.http, gateway.http.as_deref().context("http")?, &device, DEVICE_SECRET).await
}

pub async fn channel(cluster: &Cluster, process: &Process) -> anyhow::Result<ClusterChannel> {
    let key: String = sqlx::query_scalar("SELECT value FROM cluster_keys").fetch_one(&cluster.database.pool).await?;
    Ok(Channels::new(key).get(process.grpc.as_deref().context("grpc")?))
}

async fn open_boards(cluster: &Cluster) -> anyhow::Result<()> {
    let social = cluster.processes("social_services").swap_remove(0);
    let mut boards = LeaderboardAdminServiceClient::new(channel(cluster, &social).await?);
    for (board, operator) in BOARDS {
        let settings = BoardSettings { operator: operator.into(), client_submit: true, ..BoardSettings::default() };
        let request =
            CreateBoardRequest { request_id: board.into(), leaderboard_id: board.into(), settings: Some(settings) };
        boards.create_board(request).await?;
    }
    Ok(())
}

/// One player's scores on one board, one after the other, so often that all together make the rate.
async fn submit(
    account: Account,
    board: &'static str,
    seed: u64,
    answered: Arc<AtomicU64>,
    stop: CancellationToken,
) -> anyhow::Result<Ledger> {
    let mut random = StdRng::seed_from_u64(seed);
    let workers = u64::try_from(PLAYERS * BOARDS.len())?;
    let mut due = interval(Duration::from_micros(1_000_000 * workers / PER_SECOND));
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut ledger = Ledger { board, player: account.player_id.parse()?, ..Ledger::default() };
    let mut n = 0.0;
    while !stop.is_cancelled() {
        due.tick().await;
        n += 1.0;
        let score = match board {
            "best" => f64::from(random.random_range(0..1_000_000_u32)),
            // No two are alike.
            "last" => n,
            _ => 0.5,
        };
        match account.post(&format!("/leaderboards/{board}"), json!({"score": score})).await {
            Ok((200, _)) => {
                ledger.acknowledged.push(score);
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok((503, _)) | Err(_) => ledger.unknown.push(score),
            Ok((status, answer)) => anyhow::bail!("{board} answered {status} {answer}"),
        }
    }
    Ok(ledger)
}

pub async fn nothing_is_lost(cluster: &Cluster, ledgers: &[Ledger]) -> anyhow::Result<()> {
    for ledger in ledgers {
        let row: Option<f64> =
            sqlx::query_scalar("SELECT score FROM leaderboard_entries WHERE leaderboard_id = $1 AND player_id = $2")
                .bind(ledger.board)
                .bind(ledger.player)
                .fetch_optional(&cluster.database.pool)
                .await?;
        ensure!(ledger.allows(row), "the row has {row:?}: {ledger:?}");
    }
    Ok(())
}

pub async fn all_rank_as_the_rows(cluster: &Cluster, board: &'static str, players: usize) -> anyhow::Result<()> {
    let rows = sqlx::query(
        "SELECT player_id, score FROM leaderboard_entries WHERE leaderboard_id = $1 ORDER BY score DESC, sub_score DESC, seq",
    )
    .bind(board)
    .fetch_all(&cluster.database.pool)
    .await?;
    let expected: Vec<(String, f64)> =
        rows.iter().map(|row| (row.get::<Uuid, _>("player_id").to_string(), row.get("score"))).collect();
    ensure!(expected.len() == players, "{} players are on {board}", expected.len());
    for process in cluster.processes("social_services") {
        let boards = LeaderboardServiceClient::new(channel(cluster, &process).await?);
        until(&format!("{} ranks {board} as the rows do", process.node_id), async || {
            let request = ListTopRequest { leaderboard_id: board.into(), ..ListTopRequest::default() };
            let entries = boards.clone().list_top(request).await?.into_inner().entries;
            let ranked: Vec<_> = entries.into_iter().map(|entry| (entry.player_id, entry.score)).collect();
            Ok(ranked == expected)
        })
        .await?;
    }
    Ok(())
}

#[test]
fn a_ledger_sees_what_is_lost_and_what_was_never_sent() {
    let ledger = |board| Ledger { board, acknowledged: vec![3.0, 2.0], unknown: vec![4.0], ..Ledger::default() };
    let allowed = |board: &'static str| -> Vec<f64> {
        [2.0, 3.0, 4.0, 5.0, 9.0, 9.5].into_iter().filter(|score| ledger(board).allows(Some(*score))).collect()
    };
    assert_eq!(allowed("best"), [3.0, 4.0]);
    assert_eq!(allowed("last"), [2.0, 4.0]);
    assert_eq!(allowed("sum"), [5.0, 9.0]);
    assert!(!ledger("sum").allows(None));
}
