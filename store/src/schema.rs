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
//! | an index that is built concurrently waits for older transactions | nobody waits behind it: it has the time that the session's statements have, and says for whom it waits |
//! | an operator builds an index | it is waited for, [`Patience::others`] at most: who queues up behind a build with a snapshot is waited for by it in turn, and the deadlock would end theirs |
//! | this process dies | the transaction of that migration is rolled back; the ones before it stay |
//! | it dies while an index is built concurrently | the next attempt drops this index, which is invalid, and no other, and builds it anew |
//! | it dies when the index is built, before that is written down | the next attempt finds it (`IF NOT EXISTS`) and writes it down |
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
    /// How long another migrator is waited for, or whoever builds an index.
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
    loop {
        let missing = missing(pool, migrations).await?;
        if missing.is_empty() {
            // A role that may not make tables can do nothing here, and need not.
            return Ok(());
        }
        // Of its own, so that whatever becomes of it, it ends with its locks and settings.
        let mut session = pool.acquire().await?.detach();
        let (pid, mut blockers) = (backend(&mut session).await?, Vec::new());
        let applied = tokio::select! {
            applied = Box::pin(apply(&mut session, &missing, patience)) => applied,
            never = watch(pool, pid, patience.lock, &mut blockers) => match never {},
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
}

async fn backend(session: &mut PgConnection) -> Result<i32> {
    Ok(sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(session).await?)
}

/// What another migrator has applied meanwhile is not applied again.
async fn apply(session: &mut PgConnection, missing: &[Migration], patience: Patience) -> Result<()> {
    alone(session, patience.others).await?;
    for migration in missing {
        undisturbing(session, patience.others).await?;
        // Behind what is done concurrently nobody waits, and it waits for every transaction that is older: it would never be done beside a
        // cluster that has longer ones. The session's statement time-out bounds it.
        let lock = if migration.no_tx { Duration::ZERO } else { patience.lock };
        sqlx::query(AssertSqlSafe(format!("SET lock_timeout = {}", lock.as_millis()))).execute(&mut *session).await?;
        if let Some(index) = index_of(migration) {
            drop_unfinished(session, index).await?;
        }
        let mut migrator = Migrator::with_migrations(vec![migration.clone()]);
        // Ours is held; sqlx's would be waited for with a snapshot, for which an index that is built concurrently waits in turn. What is
        // applied and not known here is of a newer build.
        migrator.set_locking(false).set_ignore_missing(true);
        migrator.run_direct(None, &mut *session, false).await?;
    }
    Ok(())
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

/// Waits, by asking again and again, until nobody builds an index on a table of ours. Of another role's build the view tells no more than the
/// process, and which table it is about is seen by the lock that it has on it.
async fn undisturbing(session: &mut PgConnection, patience: Duration) -> Result<()> {
    let (started, mut told) = (Instant::now(), false);
    loop {
        let building: Option<String> = sqlx::query_scalar(
            "SELECT format('an index on %s is being built (pid %s)', c.relname, p.pid)
             FROM pg_stat_progress_create_index p JOIN pg_locks l ON l.pid = p.pid AND l.database = p.datid
             JOIN pg_class c ON c.oid = l.relation
             WHERE p.datname = current_database() AND l.locktype = 'relation' AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted
               AND c.relkind IN ('r', 'm', 'p') AND c.relnamespace = current_schema()::regnamespace
             LIMIT 1",
        )
        .fetch_optional(&mut *session)
        .await?;
        let Some(by) = building else { return Ok(()) };
        if started.elapsed() > patience {
            return Err(Error::Blocked { by });
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(by, "The migrations wait, so that they do not end somebody's work.");
        }
        sleep(LOOK).await;
    }
}

/// Nobody else migrates and nobody builds: if it is invalid, it was left by an attempt that ended early.
async fn drop_unfinished(session: &mut PgConnection, index: &str) -> Result<()> {
    let left: Option<String> = sqlx::query_scalar(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT indisvalid",
    )
    .bind(index)
    .fetch_optional(&mut *session)
    .await?;
    if let Some(index) = left {
        // As the catalogue quotes it.
        sqlx::query(AssertSqlSafe(format!("DROP INDEX CONCURRENTLY IF EXISTS {index}"))).execute(&mut *session).await?;
    }
    Ok(())
}

/// The index that a migration builds concurrently. That such a migration is one statement, with a name for the index in it, is what
/// `store/tests/migrations` sees to.
fn index_of(migration: &Migration) -> Option<&str> {
    let lines = migration.sql.as_str().lines().filter(|line| !line.trim_start().starts_with("--"));
    let mut words =
        lines.flat_map(str::split_whitespace).filter(|word| !is_any_of(word, &["unique", "if", "not", "exists"]));
    let begins = ["create", "index", "concurrently"]
        .iter()
        .all(|word| words.next().is_some_and(|next| next.eq_ignore_ascii_case(word)));
    words.next().filter(|name| migration.no_tx && begins && !name.eq_ignore_ascii_case("on"))
}

fn is_any_of(word: &str, words: &[&str]) -> bool {
    words.iter().any(|one| one.eq_ignore_ascii_case(word))
}

/// Remembers, until it is dropped, who stood in a session's way last. It says so by itself where a wait takes longer than a lock is waited
/// for: that one has no end of its own to be told at.
async fn watch(pool: &PgPool, pid: i32, usual: Duration, blockers: &mut Vec<String>) -> std::convert::Infallible {
    let (mut since, mut told) = (None, Vec::new());
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
        let Ok(Ok(found)) = timeout(ASIDE, asking).await else { continue };
        if found.is_empty() {
            since = None;
            continue;
        }
        if since.get_or_insert_with(Instant::now).elapsed() > usual && found != told {
            tracing::warn!(by = found.join("; "), "A migration that keeps nobody waiting waits itself.");
            told.clone_from(&found);
        }
        *blockers = found;
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
