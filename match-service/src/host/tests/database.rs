//! Rows in a real database.

use std::{sync::Arc, time::Duration};

use asobi_bus::{Bus, BusOptions};
use asobi_store::{matches::Fence, testing::TestDatabase};
use futures_util::future::join_all;
use sqlx::Row as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::super::{PgRows, Rows};

struct Stage {
    database: TestDatabase,
    rows: Arc<PgRows>,
    stop: CancellationToken,
}

impl Stage {
    async fn new() -> anyhow::Result<Self> {
        let database = TestDatabase::create().await?;
        let stop = CancellationToken::new();
        let timeout = Duration::from_secs(10);
        let direct = asobi_store::connect_options(&database.url, "asobi/stage", timeout)?;
        let options = BusOptions { pool: database.pool.clone(), direct, origin: "stage".into(), topics: Vec::new() };
        let publisher = Bus::start(options, &stop, &TaskTracker::new()).publisher().clone();
        let rows = PgRows::new(database.pool.clone(), publisher, timeout);
        Ok(Self { database, rows: Arc::new(rows), stop })
    }

    /// Rows of matches that are to be claimed.
    async fn allocate(&self, matches: u128) -> anyhow::Result<()> {
        let ids: Vec<Uuid> = (1..=matches).map(Uuid::from_u128).collect();
        sqlx::query(
            "INSERT INTO matches (id, mode, state, host_node, host_incarnation, epoch, term, players)
             SELECT id, 'arena', 'allocating', 'h', 7, 1, 1, '{}' FROM UNNEST($1::uuid[]) AS m (id)",
        )
        .bind(ids)
        .execute(&self.database.pool)
        .await?;
        Ok(())
    }

    async fn running(&self) -> anyhow::Result<i64> {
        let row = sqlx::query("SELECT count(*) AS n FROM matches WHERE state = 'running'");
        Ok(row.fetch_one(&self.database.pool).await?.get("n"))
    }

    async fn close(self) -> anyhow::Result<()> {
        self.stop.cancel();
        drop(self.rows);
        self.database.drop_now().await
    }
}

fn fence(id: u128, epoch: i64) -> Fence {
    Fence { match_id: Uuid::from_u128(id), host_node: "h".into(), host_incarnation: 7, epoch }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_matches_are_claimed_at_once_each_under_its_own_fence() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    stage.allocate(600).await?;
    // Every third is asked for under an epoch that is not its row's; each twice, as a repeat would.
    let claims = (1..=600).chain(1..=600).map(|id| {
        let rows = Arc::clone(&stage.rows);
        tokio::spawn(async move {
            rows.claim(fence(id, if id % 3 == 0 { 2 } else { 1 }), String::new()).await.map(|ours| (id, ours))
        })
    });
    for claimed in join_all(claims).await {
        let (id, ours) = claimed??;
        assert_eq!(ours, id % 3 != 0, "{id}");
    }
    assert_eq!(stage.running().await?, 400);
    let other = Fence { host_incarnation: 8, ..fence(3, 1) };
    assert!(!stage.rows.claim(other, String::new()).await?, "an earlier incarnation's row");
    assert!(
        !stage.rows.claim(Fence { host_node: "g".into(), ..fence(3, 1) }, String::new()).await?,
        "another host's row"
    );
    stage.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_fails_fails_for_everybody_in_it_and_may_be_repeated() -> anyhow::Result<()> {
    let stage = Stage::new().await?;
    stage.allocate(50).await?;
    sqlx::query("ALTER TABLE matches RENAME TO away").execute(&stage.database.pool).await?;
    let claims = (1..=50).map(|id| stage.rows.claim(fence(id, 1), String::new()));
    assert!(join_all(claims).await.iter().all(Result::is_err));
    sqlx::query("ALTER TABLE away RENAME TO matches").execute(&stage.database.pool).await?;
    let claims = (1..=50).map(|id| stage.rows.claim(fence(id, 1), String::new()));
    for claimed in join_all(claims).await {
        assert!(claimed?);
    }
    stage.close().await
}
