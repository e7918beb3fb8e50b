//! The queries, one module per table family. Functions take a pool where one statement is the whole deed and a
//! connection where the caller's transaction is. Types of sqlx other than those two do not leave this crate's edges.

use std::{future::Future, str::FromStr, time::Duration};

use sqlx::{
    PgPool, Postgres, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use asobi_trace::Watch;
use tracing::Instrument as _;

pub mod allocation;
pub mod audit;
pub mod backfill;
pub mod bans;
pub mod boards;
pub mod chat;
pub mod checkpoints;
pub mod cluster_keys;
pub mod effects;
pub mod effects_apply;
pub mod export;
pub mod friends;
pub mod groups;
pub mod inbox;
pub mod lock_keys;
pub mod lookup;
pub mod matches;
pub mod moderation;
pub mod modes;
pub mod mutes;
pub mod notifications;
pub mod operators;
pub mod parties;
pub mod players;
pub mod reports;
pub mod schema;
pub mod sessions;
mod sql;
pub mod storage;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tickets;
mod tls;
pub mod tokens;
pub mod welcome;
pub mod words;

pub use schema::{migrate, schema_problem};
pub use tls::is_exposed;

/// What can go wrong between us and the rows.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the database did not answer within {0:?}")]
    Deadline(Duration),
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// TLS has kept a connection from coming about.
    #[error("{advice}")]
    Tls { advice: &'static str, source: sqlx::Error },
    #[error("the migrations could not be applied")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("a migration waited for a lock in vain; in its way: {by}")]
    Blocked { by: String },
    #[error("a stored {what} cannot be read")]
    Corrupt { what: &'static str, source: serde_json::Error },
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The unique constraint that an insert ran into, if that is what happened.
    #[must_use]
    pub fn unique_violation(&self) -> Option<&str> {
        match self {
            Self::Sql(sqlx::Error::Database(db)) if db.is_unique_violation() => db.constraint(),
            _ => None,
        }
    }

    /// Whether a row was refused because its table has no partition for it.
    #[must_use]
    pub fn no_partition(&self) -> bool {
        match self {
            // The code is the one of a failed check, but there is no constraint that failed.
            Self::Sql(sqlx::Error::Database(db)) => db.is_check_violation() && db.constraint().is_none(),
            _ => false,
        }
    }
}

/// How to reach the database.
#[derive(Debug, Clone)]
pub struct DatabaseOptions {
    pub url: String,
    pub max_connections: u32,
    /// Bound of one statement, and of waiting for a connection.
    pub timeout: Duration,
    /// Seen in pg_stat_activity: `asobi/<node id>`.
    pub application_name: String,
}

/// Connection options with the time-outs every session of ours has.
///
/// # Errors
/// When the URL cannot be parsed.
pub fn connect_options(url: &str, application_name: &str, timeout: Duration) -> Result<PgConnectOptions> {
    let ms = timeout.as_millis().to_string();
    Ok(PgConnectOptions::from_str(url)?.application_name(application_name).options([
        ("statement_timeout", ms.as_str()),
        ("idle_in_transaction_session_timeout", ms.as_str()),
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "2"),
        ("tcp_keepalives_count", "3"),
    ]))
}

/// What the planner is told. A statement's plan is kept for as long as its connection lives, and may have been made when its table was empty:
/// without this, a table that was small then is read from end to end for each player of a storm, until PostgreSQL looks at it again.
/// Nothing that a service asks while players wait is better off without its index. A plan without one that is needed all the same is
/// not worth being compiled, whatever it says it costs.
const PLANS: [(&str, &str); 2] = [("enable_seqscan", "off"), ("jit", "off")];

/// Opens the pool and proves that the database answers.
///
/// # Statements with arrays
/// PostgreSQL keeps a statement's plan only if it looks no dearer than one that is made for the values of the call, and it takes any array
/// for ten elements long: with fewer it plans anew at every call, which takes up to ten times as long as running it. Behind a sub-select,
/// `(SELECT $1::uuid[])`, all arrays look alike, and the plan is kept. A kept plan is as old as its connection, so only statements
/// that leave the planner nothing to choose are written so: one look into an index for each element, by a scalar sub-select, or by a `LATERAL` one with
/// `LIMIT`, or with `OFFSET 0` where a partial index could lure it.
///
/// # Errors
/// When the URL is wrong or the database does not answer within the time-out.
pub async fn connect(options: &DatabaseOptions) -> Result<PgPool> {
    let connect = connect_options(&options.url, &options.application_name, options.timeout)?.options(PLANS);
    let pool = PgPoolOptions::new()
        .max_connections(options.max_connections)
        .acquire_timeout(options.timeout)
        .idle_timeout(Duration::from_secs(300))
        .connect_with(connect);
    // Opening a connection is a large future; nobody else should carry its size.
    within(options.timeout, Box::pin(async { pool.await.map_err(tls::explained) })).await
}

/// Begins a transaction, and may be given up while it waits: a `BEGIN` whose future is dropped before the answer came would leave
/// its connection in a transaction that nobody knows of, and whoever is given it next would write into that. Here it is
/// awaited to its end in any case, by a task that the pool's own bounds limit in number and time.
///
/// # Errors
/// When the database does not answer.
pub async fn begin(pool: &PgPool) -> std::result::Result<Transaction<'static, Postgres>, sqlx::Error> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { Box::pin(pool.begin()).await }.in_current_span());
    begun.await.map_err(|_| sqlx::Error::WorkerCrashed)?
}

/// Bounds a piece of work against the database from our side: a statement time-out does not help when the network is
/// gone. Dropping the work is safe; whether it was committed is then unknown.
///
/// # Errors
/// [`Error::Deadline`] past the bound, else what the work says.
pub async fn within<T, F>(bound: Duration, work: F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let span = sql::span::<F>();
    let watch = Watch::begin(!span.is_disabled());
    let done = tokio::time::timeout(bound, work).instrument(span).await.unwrap_or(Err(Error::Deadline(bound)));
    let error = matches!(done, Err(Error::Deadline(_))).then_some("deadline");
    watch.end(error, None, sql::described::<F>);
    done
}
