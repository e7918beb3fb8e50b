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

#[tokio::test]
async fn an_index_is_built_beside_the_work_and_anew_where_an_attempt_was_cut_short() -> anyhow::Result<()> {
    let db = TestDatabase::create().await?;
    // As an attempt that was cut short leaves it.
    db.pool.execute("CREATE INDEX bans_reason ON bans (reason)").await?;
    db.pool.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'bans_reason'::regclass").await?;
    let builds = [migration(9_001, "CREATE INDEX CONCURRENTLY bans_reason ON bans (reason)", true)];
    let both =
        tokio::join!(schema::migrate_with(&db.pool, &builds, SOON), schema::migrate_with(&db.pool, &builds, SOON));
    both.0?;
    both.1?;
    let valid = "SELECT count(*) FROM pg_index WHERE indexrelid = 'bans_reason'::regclass AND indisvalid";
    assert_eq!(number_of(&db, valid).await?, 1);
    assert_eq!(number_of(&db, "SELECT count(*) FROM _sqlx_migrations WHERE version = 9001").await?, 1);
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
