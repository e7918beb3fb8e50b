//! Boards over a real PostgreSQL: who reads, who waits, and who is told to try again.

use std::{sync::Arc, time::Duration};

use asobi_store::{
    Error,
    boards::{Submission, Written, write},
    testing::TestDatabase,
    within,
};
use futures_util::future::try_join_all;
use sqlx::{Executor as _, PgPool};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{Board, Boards, Options, Slot, lock};

const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(20);

/// Boards of a process with so many connections, each of whose reads may take so long.
async fn boards_of(database: &TestDatabase, max_connections: u32, bound: Duration) -> anyhow::Result<Arc<Boards>> {
    let options = asobi_store::DatabaseOptions {
        url: database.url.clone(),
        max_connections,
        timeout: LATE,
        application_name: "asobi/boards".into(),
    };
    let pool = asobi_store::connect(&options).await?;
    let options = asobi_bus::BusOptions {
        pool: database.pool.clone(),
        direct: asobi_store::connect_options(&database.url, "asobi/boards", LATE)?,
        origin: "boards".into(),
        topics: Vec::new(),
    };
    let bus = asobi_bus::Bus::start(options, &CancellationToken::new(), &TaskTracker::new());
    Ok(Boards::new(Options {
        pool,
        replica: None,
        listening: watch::channel(true).1,
        publisher: bus.publisher().clone(),
        bound,
        most_entries: 1_000,
        seed: 1,
    }))
}

async fn create(database: &TestDatabase, boards: i32) -> anyhow::Result<()> {
    let insert = sqlx::query("INSERT INTO leaderboards (id) SELECT 'board ' || n FROM generate_series(1, $1) AS n");
    insert.bind(boards).execute(&database.pool).await?;
    Ok(())
}

/// A score that only the rows know.
async fn score(database: &TestDatabase, board: &str) -> anyhow::Result<()> {
    let (board, player_id) = (board.to_owned(), Uuid::now_v7());
    let mut tx = asobi_store::begin(&database.pool).await?;
    let wrote =
        write(&mut tx, &[Submission { board, player_id, score: 1.0, sub_score: 0.0, by_client: false }]).await?;
    assert!(matches!(wrote.outcomes[..], [Written::Changed(_)]), "{wrote:?}");
    Ok(tx.commit().await?)
}

/// How many sessions wait for the boards' rows.
async fn waiting(pool: &PgPool) -> anyhow::Result<i64> {
    let waiting = sqlx::query_scalar(
        "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
         WHERE NOT l.granted AND l.relation = 'leaderboards'::regclass AND d.datname = current_database()",
    );
    Ok(waiting.fetch_one(pool).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn boards_that_are_all_asked_for_at_once_leave_the_pool_to_others() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    create(&database, 80).await?;
    let boards = boards_of(&database, 8, LATE).await?;
    // No board can be read for a while.
    let mut slow = asobi_store::begin(&database.pool).await?;
    slow.execute("LOCK TABLE leaderboards IN ACCESS EXCLUSIVE MODE").await?;
    let mut asking = JoinSet::new();
    for n in 1..=80 {
        let boards = Arc::clone(&boards);
        asking.spawn(async move { boards.look(&format!("board {n}"), Board::len).await });
    }
    // Two are being read and sixty-four wait; whoever comes then need not.
    for _ in 0..80 - 2 - 64 {
        let told = within(LATE / 2, async { Ok(asking.join_next().await) }).await?;
        assert!(matches!(told, Some(Ok(Err(Error::Deadline(_))))), "{told:?}");
    }
    within(LATE / 2, async {
        while waiting(&database.pool).await.unwrap_or_default() < 2 {
            tokio::task::yield_now().await;
        }
        Ok(())
    })
    .await?;
    let others = try_join_all((0..6).map(|_| boards.pool().acquire()));
    drop(within(LATE / 4, async { Ok(others.await?) }).await?);
    assert_eq!(waiting(&database.pool).await?, 2);
    slow.rollback().await?;
    while let Some(read) = asking.join_next().await {
        assert_eq!(read??, Some(0));
    }
    database.drop_now().await
}

#[tokio::test]
async fn rows_are_read_into_a_board_by_one_at_a_time() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    create(&database, 1).await?;
    let boards = boards_of(&database, 4, SOON).await?;
    let ours = "board 1";
    assert_eq!(boards.look(ours, Board::len).await?, Some(0));
    score(&database, ours).await?;

    // Somebody has read a page and is about to apply it: what another would read meanwhile could be newer, and they would take this one's page
    // for a board of before.
    let cell = boards.cell(ours);
    let reading = cell.reading.lock().await;
    let repaired = boards.repair(ours).await;
    assert!(matches!(repaired, Err(Error::Deadline(_))), "{repaired:?}");
    assert_eq!(boards.glance(ours, Board::len), Some(0));
    drop(reading);
    boards.repair(ours).await?;
    assert_eq!(boards.glance(ours, Board::len), Some(1));
    database.drop_now().await
}

#[tokio::test]
async fn a_repair_that_waited_while_its_board_was_given_up_looks_for_it_where_it_is_now() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    create(&database, 1).await?;
    let boards = boards_of(&database, 4, LATE).await?;
    let ours = "board 1";
    assert_eq!(boards.look(ours, Board::len).await?, Some(0));
    let cell = boards.cell(ours);
    let reading = cell.reading.lock().await;
    let mut repair = std::pin::pin!(boards.repair(ours));
    tokio::select! {
        biased;
        done = &mut repair => anyhow::bail!("it did not wait: {done:?}"),
        () = std::future::ready(()) => {}
    }
    boards.give_up(ours, &cell);
    let anew = boards.cell(ours);
    drop(reading);
    repair.await?;
    assert!(matches!(&*lock(&anew.slot), Slot::Early { lost: true, .. }), "what is read into it may be of before");
    // Who gives the old one up once more does not mean this one.
    boards.give_up(ours, &cell);
    assert!(Arc::ptr_eq(&boards.cell(ours), &anew));
    database.drop_now().await
}

#[tokio::test]
async fn who_asks_for_a_board_that_is_being_read_waits_no_longer_than_for_a_statement() -> anyhow::Result<()> {
    let database = TestDatabase::create().await?;
    create(&database, 1).await?;
    let boards = boards_of(&database, 4, SOON).await?;
    let ours = "board 1";
    let cell = boards.cell(ours);
    let reading = cell.reading.lock().await;
    let told = within(LATE, boards.look(ours, Board::len)).await;
    assert!(matches!(told, Err(Error::Deadline(SOON))), "{told:?}");
    drop(reading);
    assert_eq!(boards.look(ours, Board::len).await?, Some(0));
    database.drop_now().await
}
