//! The schema's version: bringing it up to date beside a cluster that runs, and whether this build and it go together.
//!
//! The rule: migrations only add. The builds of a release, of the one before and of the one after run on the same schema, so a schema may be
//! newer than a build, up to the oldest build that the schema names (`schema_support`). `store/tests/migrations` refuses a migration that does
//! otherwise.
//!
//! | what stands in the way of a migration | what happens |
//! | --- | --- |
//! | another `asobi migrate` | it is waited for |
//! | somebody uses the table that a migration locks | after [`Patience::lock`] the attempt ends, so that nobody waits behind it for longer; it says who it was, and tries again |
//! | this process dies | the transaction of that migration is rolled back; the ones before it stay |
//! | it dies while an index is built concurrently | the next attempt drops the invalid index and builds it anew |
//! | the schema is newer | nothing is to be done: a cluster that goes back to the release before keeps the schema |

use std::{collections::BTreeMap, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, PgPool,
    migrate::{MigrateError, Migration, Migrator},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{Error, Result, chat, lock_keys};

static MIGRATOR: Migrator = sqlx::migrate!("../migrations");

/// For questions about the attempt that is under way.
const ASIDE: Duration = Duration::from_secs(2);
/// Between two looks at who stands in the way, or whether the other migrator is done.
const LOOK: Duration = Duration::from_millis(250);

/// How hard it is tried.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long a statement waits for a lock. Everybody who wants the table meanwhile waits behind it.
    pub lock: Duration,
    /// Attempts, before it is given up.
    pub attempts: u32,
    /// Between two of them.
    pub pause: Duration,
    /// How long another migrator is waited for.
    pub others: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            lock: Duration::from_secs(2),
            attempts: 30,
            pause: Duration::from_secs(3),
            others: Duration::from_secs(3_600),
        }
    }
}

/// A migration that the database does not have yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub version: i64,
    pub description: String,
    /// Outside of a transaction, as an index that is built beside the cluster's work.
    pub concurrent: bool,
}

/// What the database and this build say of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// None: there is no schema.
    pub have: Option<i64>,
    /// This build's newest migration.
    pub want: i64,
    /// The oldest build that the schema is made for, by its newest migration.
    pub oldest: i64,
}

impl Versions {
    /// What to do when the two do not go together.
    #[must_use]
    pub fn problem(self) -> Option<String> {
        let Self { have, want, oldest } = self;
        match have {
            None => Some("the database has no schema yet: run `asobi migrate`".into()),
            Some(have) if have < want => Some(format!(
                "the database's schema is at version {have}, this build needs {want}: run `asobi migrate`"
            )),
            Some(have) if oldest > want => Some(format!(
                "the database's schema is at version {have} and serves builds that know version {oldest}; this build knows {want}: run a newer one"
            )),
            Some(_) => None,
        }
    }
}

/// The checksums of this build's migrations, for what depends on the schema as a whole.
#[cfg(feature = "testing")]
pub(crate) fn checksums() -> impl Iterator<Item = &'static [u8]> {
    MIGRATOR.iter().map(|migration| &*migration.checksum)
}

/// Applies the migrations that are missing, and makes the days to come; nodes that start together wait for each other.
///
/// # Errors
/// When one fails, or one that was applied has changed since.
pub async fn migrate(pool: &PgPool) -> Result<()> {
    migrate_with(pool, &MIGRATOR.migrations, Patience::default()).await?;
    chat::history::make_days(pool).await
}

/// The migrations that [`migrate`] would apply, in their order.
///
/// # Errors
/// When the database does not answer, or a migration that was applied has changed since.
pub async fn pending(pool: &PgPool) -> Result<Vec<Pending>> {
    let missing = missing(pool, &MIGRATOR.migrations).await?;
    Ok(missing
        .into_iter()
        .map(|migration| Pending {
            version: migration.version,
            description: migration.description.to_string(),
            concurrent: migration.no_tx,
        })
        .collect())
}

/// Applies some migrations, as [`migrate`] does those of this build.
///
/// # Errors
/// As there; [`Error::Blocked`] when somebody stood in the way for too long.
pub async fn migrate_with(pool: &PgPool, migrations: &[Migration], patience: Patience) -> Result<()> {
    let mut attempt = 1;
    // A role that may not make tables can do nothing where there is nothing to do, and need not.
    while !missing(pool, migrations).await?.is_empty() {
        // Of its own, so that whatever becomes of it, it ends with its locks and settings.
        let mut session = pool.acquire().await?.detach();
        let (pid, mut blockers) = (backend(&mut session).await?, Vec::new());
        let applied = tokio::select! {
            applied = Box::pin(apply(&mut session, migrations, patience)) => applied,
            never = watch(pool, pid, &mut blockers) => match never {},
        };
        // Best effort: what matters of it was said.
        let _ = timeout(ASIDE, session.close()).await;
        match applied {
            Ok(()) => return Ok(()),
            Err(error) if !waited_in_vain(&error) => return Err(error),
            Err(_) if attempt >= patience.attempts => return Err(Error::Blocked { by: blockers.join("; ") }),
            Err(_) => {
                let (by, of) = (blockers.join("; "), patience.attempts);
                tracing::warn!(attempt, of, by, "A migration waits for a table that is in use; it is tried again.");
            }
        }
        attempt += 1;
        sleep(patience.pause).await;
    }
    Ok(())
}

async fn backend(session: &mut PgConnection) -> Result<i32> {
    Ok(sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(session).await?)
}

async fn apply(session: &mut PgConnection, migrations: &[Migration], patience: Patience) -> Result<()> {
    alone(session, patience.others).await?;
    let set = format!("SET lock_timeout = {}", patience.lock.as_millis());
    sqlx::query(AssertSqlSafe(set)).execute(&mut *session).await?;
    drop_unfinished(session).await?;
    let mut migrator = Migrator::with_migrations(migrations.to_vec());
    // Ours is held; sqlx's would be waited for with a snapshot, for which an index that is built concurrently waits in turn. What is applied
    // and not known here is of a newer build.
    migrator.set_locking(false).set_ignore_missing(true);
    Ok(migrator.run_direct(None, session, false).await?)
}

/// Waits until no other migrator is at work, by asking again and again: see [`apply`].
async fn alone(session: &mut PgConnection, patience: Duration) -> Result<()> {
    let started = Instant::now();
    while !sqlx::query_scalar::<_, bool>("SELECT pg_try_advisory_lock($1)")
        .bind(lock_keys::MIGRATE)
        .fetch_one(&mut *session)
        .await?
    {
        if started.elapsed() > patience {
            return Err(Error::Blocked { by: "another `asobi migrate`".into() });
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// Nobody else migrates: what is invalid was left by an attempt that ended early.
async fn drop_unfinished(session: &mut PgConnection) -> Result<()> {
    let left: Vec<String> = sqlx::query_scalar(
        "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE NOT i.indisvalid AND c.relkind = 'i' AND NOT c.relispartition AND c.relnamespace = current_schema()::regnamespace",
    )
    .fetch_all(&mut *session)
    .await?;
    for index in left {
        // As the catalogue quotes it.
        sqlx::query(AssertSqlSafe(format!("DROP INDEX CONCURRENTLY IF EXISTS {index}"))).execute(&mut *session).await?;
    }
    Ok(())
}

/// Remembers, until it is dropped, who stood in a session's way last.
async fn watch(pool: &PgPool, pid: i32, blockers: &mut Vec<String>) -> std::convert::Infallible {
    loop {
        sleep(LOOK).await;
        let asking = sqlx::query_scalar::<_, String>(
            "SELECT format('%s (pid %s%s)', coalesce(nullif(application_name, ''), usename, backend_type), pid,
                           ', in a transaction since ' || date_trunc('second', xact_start)::text)
             FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids($1)) ORDER BY xact_start LIMIT 8",
        )
        .bind(pid)
        .fetch_all(pool);
        // Without an answer the wait is only without a name.
        if let Ok(Ok(found)) = timeout(ASIDE, asking).await
            && !found.is_empty()
        {
            *blockers = found;
        }
    }
}

/// Whether it was a lock that did not come: trying again may help.
fn waited_in_vain(error: &Error) -> bool {
    let (Error::Sql(said) | Error::Migrate(MigrateError::Execute(said) | MigrateError::ExecuteMigration(said, _))) =
        error
    else {
        return false;
    };
    // lock_not_available, deadlock_detected.
    matches!(said, sqlx::Error::Database(db) if matches!(db.code().as_deref(), Some("55P03" | "40P01")))
}

async fn missing(pool: &PgPool, migrations: &[Migration]) -> Result<Vec<Migration>> {
    let applied = applied(pool).await?;
    let mut missing = Vec::new();
    for migration in migrations {
        match applied.get(&migration.version) {
            None => missing.push(migration.clone()),
            Some(checksum) if **checksum != *migration.checksum => {
                return Err(MigrateError::VersionMismatch(migration.version).into());
            }
            Some(_) => {}
        }
    }
    missing.sort_by_key(|migration| migration.version);
    Ok(missing)
}

async fn applied(pool: &PgPool) -> Result<BTreeMap<i64, Vec<u8>>> {
    if !exists(pool, "_sqlx_migrations").await? {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success").fetch_all(pool).await?;
    Ok(rows.into_iter().collect())
}

async fn exists(pool: &PgPool, table: &str) -> Result<bool> {
    Ok(sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(table).fetch_one(pool).await?)
}

/// Which schema there is and which is wanted.
///
/// # Errors
/// When the database does not answer.
pub async fn versions(pool: &PgPool) -> Result<Versions> {
    let have = applied(pool).await?.into_keys().max();
    let oldest: Option<i64> = if exists(pool, "schema_support").await? {
        sqlx::query_scalar("SELECT oldest FROM schema_support").fetch_optional(pool).await?
    } else {
        None
    };
    let want = MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or_default();
    Ok(Versions { have, want, oldest: oldest.unwrap_or_default() })
}

/// Whether the schema is one that this build works with, as a sentence about what to do when it is not.
///
/// # Errors
/// When the database does not answer.
pub async fn schema_problem(pool: &PgPool) -> Result<Option<String>> {
    Ok(versions(pool).await?.problem())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_may_be_newer_until_it_no_longer_serves_this_build() {
        let problem = |have, oldest| Versions { have, want: 16, oldest }.problem();
        assert_eq!(problem(Some(16), 0), None);
        assert_eq!(problem(Some(19), 16), None);
        assert!(problem(None, 0).is_some_and(|said| said.contains("no schema")));
        assert!(problem(Some(15), 0).is_some_and(|said| said.contains("this build needs 16")));
        assert!(problem(Some(19), 17).is_some_and(|said| said.contains("run a newer one")));
    }
}
