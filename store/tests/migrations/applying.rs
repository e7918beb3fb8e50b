//! Migrations over a real PostgreSQL: beside a table that is in use, beside each other, and on a schema that is newer.

use std::{borrow::Cow, time::Duration};

use asobi_store::{
    Error,
    schema::{self, Patience},
    testing::TestDatabase,
};
use sqlx::{
    AssertSqlSafe, Executor as _, SqlSafeStr as _,
    migrate::{Migration, MigrationType},
};

const SOON: Patience = Patience {
    lock: Duration::from_millis(700),
    attempts: 2,
    pause: Duration::from_millis(10),
    others: Duration::from_secs(10),
};

fn migration(version: i64, sql: &'static str, no_transaction: bool) -> Migration {
    Migration::new(
        version,
        Cow::Borrowed("of a later release"),
        MigrationType::Simple,
        AssertSqlSafe(sql).into_sql_str(),
        no_transaction,
    )
}

async fn number_of(db: &TestDatabase, what: &'static str) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(what).fetch_one(&db.pool).await?)
}

#[tokio::test]
async fn a_migration_that_cannot_have_its_table_names_who_has_it_and_keeps_nobody_waiting() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let adds = [migration(9_001, "ALTER TABLE tickets ADD COLUMN later text", false)];
    let mut reader = asobi_store::begin(&db.pool).await?;
    reader.execute("SET LOCAL idle_in_transaction_session_timeout = 0; SELECT 1 FROM tickets LIMIT 1").await?;
    let refused = schema::migrate_with(&db.pool, &adds, SOON).await;
    let Err(Error::Blocked { by }) = refused else { anyhow::bail!("not refused: {refused:?}") };
    assert!(by.contains("asobi/test (pid "), "{by}");
    // Nothing of the attempt is left, neither its lock nor its place in the queue.
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(number_of(&db, waiting).await?, 0);
    reader.rollback().await?;
    schema::migrate_with(&db.pool, &adds, SOON).await?;
    assert_eq!(number_of(&db, "SELECT count(later) FROM tickets").await?, 0);
    db.drop_now().await
}

const BUILDS: &str = "CREATE INDEX CONCURRENTLY IF NOT EXISTS bans_reason ON bans (reason)";
const IS_THERE: &str = "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('bans_reason') AND indisvalid";
const THEIRS: &str = "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('theirs') AND indisvalid";

/// Asks until a number is more than none.
async fn until(db: &TestDatabase, what: &'static str) -> anyhow::Result<()> {
    let asking = async {
        while number_of(db, what).await? == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), asking).await.map_err(|_| anyhow::anyhow!("in vain: {what}"))?
}

/// A transaction that is older than whatever follows, with a snapshot, and stays.
async fn older(db: &TestDatabase, does: &'static str) -> anyhow::Result<sqlx::Transaction<'static, sqlx::Postgres>> {
    let mut older = asobi_store::begin(&db.pool).await?;
    older
        .execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET LOCAL idle_in_transaction_session_timeout = 0")
        .await?;
    older.execute(does).await?;
    Ok(older)
}

#[tokio::test]
async fn an_index_is_built_beside_the_work_and_anew_where_an_attempt_was_cut_short() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    // As an attempt that was cut short leaves it; the other one is somebody else's, and they may be about to look at it.
    db.pool.execute("CREATE INDEX bans_reason ON bans (reason); CREATE INDEX theirs ON bans (reason)").await?;
    let spoil =
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid IN ('bans_reason'::regclass, 'theirs'::regclass)";
    db.pool.execute(spoil).await?;
    let builds = [migration(9_001, BUILDS, true)];
    let both =
        tokio::join!(schema::migrate_with(&db.pool, &builds, SOON), schema::migrate_with(&db.pool, &builds, SOON));
    both.0?;
    both.1?;
    assert_eq!(number_of(&db, IS_THERE).await?, 1);
    assert_eq!(number_of(&db, "SELECT count(*) FROM _sqlx_migrations WHERE version = 9001").await?, 1);
    let left = "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('theirs') AND NOT indisvalid";
    assert_eq!(number_of(&db, left).await?, 1, "an index that no migration builds is nobody's business here");
    // Whoever died after the index was built, before that was written down, has built it for the next.
    db.pool.execute("DELETE FROM _sqlx_migrations WHERE version = 9001").await?;
    schema::migrate_with(&db.pool, &builds, SOON).await?;
    db.drop_now().await
}

#[tokio::test]
async fn an_index_waits_for_older_transactions_for_longer_than_a_table_is_waited_for() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    db.pool.execute("CREATE INDEX bans_reason ON bans (reason)").await?;
    db.pool.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'bans_reason'::regclass").await?;
    let builds = [migration(9_001, BUILDS, true)];
    let once = Patience { lock: Duration::from_millis(50), attempts: 1, ..SOON };
    // What is left is dropped when nobody reads the table any more, and the new one is there when there is no older snapshot.
    let (reader, elsewhere) = (older(&db, "SELECT 1 FROM bans").await?, older(&db, "SELECT 1 FROM mutes").await?);
    let they_end = async {
        until(
            &db,
            "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'virtualxid' AND NOT l.granted
             AND a.datname = current_database() AND a.query LIKE 'DROP INDEX%' AND clock_timestamp() - l.waitstart > '200 ms'",
        )
        .await?;
        reader.rollback().await?;
        until(
            &db,
            "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'virtualxid' AND NOT l.granted
             AND a.datname = current_database() AND a.query LIKE 'CREATE INDEX%' AND clock_timestamp() - l.waitstart > '200 ms'",
        )
        .await?;
        anyhow::Ok(elsewhere.rollback().await?)
    };
    let built = async { anyhow::Ok(schema::migrate_with(&db.pool, &builds, once).await?) };
    tokio::try_join!(built, they_end)?;
    assert_eq!(number_of(&db, IS_THERE).await?, 1);
    db.drop_now().await
}

#[tokio::test]
async fn an_index_that_an_operator_builds_is_neither_dropped_nor_ended_by_a_deadlock() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let builds = [migration(9_001, BUILDS, true), migration(9_002, "ALTER TABLE bans ADD COLUMN later text", false)];
    // Before it is built it waits for who writes, and before it is valid for whoever has a snapshot by then.
    let writer = older(&db, "DELETE FROM bans WHERE false").await?;
    let pool = db.pool.clone();
    let theirs = tokio::spawn(async move { pool.execute("CREATE INDEX CONCURRENTLY theirs ON bans (reason)").await });
    until(
        &db,
        "SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database() AND phase = 'waiting for writers before build'",
    )
    .await?;
    let it_goes_on = async {
        // Whoever migrates has seen it, or has waited for its lock for so long that they look for no deadlock any more: the next is theirs.
        until(
            &db,
            "SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid) WHERE a.datname = current_database()
             AND l.locktype = 'advisory' AND l.granted AND (a.query LIKE '%an index on%' OR EXISTS (
                 SELECT FROM pg_locks w WHERE w.pid = a.pid AND NOT w.granted AND clock_timestamp() - w.waitstart > '1500 ms'))",
        )
        .await?;
        anyhow::Ok(writer.rollback().await?)
    };
    // Longer than PostgreSQL takes to find a deadlock.
    let patience = Patience { lock: Duration::from_secs(5), ..SOON };
    let migrated = async { anyhow::Ok(schema::migrate_with(&db.pool, &builds, patience).await?) };
    let (migrated, _) = tokio::join!(migrated, it_goes_on);
    theirs.await??;
    migrated?;
    assert_eq!((number_of(&db, THEIRS).await?, number_of(&db, IS_THERE).await?), (1, 1));
    db.drop_now().await
}

#[tokio::test]
async fn a_newer_schema_serves_this_build_until_it_says_otherwise() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    let later = [migration(
        9_001,
        "CREATE TABLE later (id uuid PRIMARY KEY); ALTER TABLE players ADD COLUMN later text",
        false,
    )];
    schema::migrate_with(&db.pool, &later, SOON).await?;
    assert_eq!(asobi_store::schema_problem(&db.pool).await?, None);
    assert_eq!(schema::pending(&db.pool).await?, []);
    // A cluster that goes back to the release before runs its migrations, too.
    asobi_store::migrate(&db.pool).await?;
    let contract = [migration(9_002, "UPDATE schema_support SET oldest = 9001", false)];
    schema::migrate_with(&db.pool, &contract, SOON).await?;
    let problem = asobi_store::schema_problem(&db.pool).await?.unwrap_or_default();
    assert!(problem.contains("run a newer one"), "{problem}");
    db.drop_now().await
}

#[tokio::test]
async fn a_migration_that_was_applied_and_has_changed_since_is_an_error() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    db.pool.execute("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 3").await?;
    let refused = asobi_store::migrate(&db.pool).await;
    assert!(matches!(&refused, Err(Error::Migrate(error)) if error.to_string().contains("migration 3")), "{refused:?}");
    db.drop_now().await
}
