//! The read replica from which leaderboards are loaded.

use std::time::{Duration, Instant};

use asobi_store::boards::replica;
use sqlx::{PgPool, Row as _};
use tokio::time::timeout;

use super::{Patient, finding::Finding, reading::row};

/// How long a social service waits for it, before it reads the primary.
const REPLAY: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(5);

/// What there is at database.replica_url.
enum Found {
    Away(String),
    NoStandby,
    Another,
    /// It had what the primary had, after that time; None: not while it was watched.
    Standby(Option<Duration>),
}

pub(super) async fn check(patient: &Patient) -> anyhow::Result<Vec<Finding>> {
    let url = &patient.config.database.replica_url;
    if url.is_empty() {
        return Ok(vec![Finding::ok(
            "replica",
            "database.replica_url is empty: leaderboards are read from the primary",
        )]);
    }
    Ok(vec![judge(&look(patient, url.expose()).await?)])
}

async fn look(patient: &Patient, url: &str) -> anyhow::Result<Found> {
    let mut there = match patient.connect(url).await {
        Ok(session) => session,
        Err(error) => return Ok(Found::Away(format!("{error:#}"))),
    };
    let system = "SELECT (SELECT system_identifier FROM pg_control_system())::text, pg_is_in_recovery()";
    let theirs = row(&mut there, system).await?;
    let ours = row(&mut patient.direct().await?, system).await?;
    if !theirs.try_get::<bool, _>(1)? {
        return Ok(Found::NoStandby);
    }
    if theirs.try_get::<String, _>(0)? != ours.try_get::<String, _>(0)? {
        return Ok(Found::Another);
    }
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1).acquire_timeout(super::CONNECT);
    let standby = Box::pin(pool.connect_with(patient.options(url)?)).await?;
    Ok(Found::Standby(lag(&patient.pool().await?, &standby).await?))
}

/// How long it takes until the replica has what the primary has now.
async fn lag(primary: &PgPool, standby: &PgPool) -> anyhow::Result<Option<Duration>> {
    let position = replica::position(primary).await?;
    let asked = Instant::now();
    match timeout(WATCHED, replica::caught_up(standby, &position)).await {
        Ok(caught_up) => Ok(caught_up?.map(|_| asked.elapsed())),
        Err(_) => Ok(None),
    }
}

fn judge(found: &Found) -> Finding {
    let log = "see its log and pg_stat_wal_receiver, and pg_stat_replication at the primary";
    match found {
        Found::Away(error) => Finding::warn(
            "replica",
            format!("database.replica_url cannot be reached, leaderboards are read from the primary: {error}"),
            "start it, or leave database.replica_url empty",
        ),
        Found::NoStandby => Finding::fail(
            "replica",
            "database.replica_url leads to a server that follows nobody: boards would be read from a copy that stands still",
            "let it lead to a streaming replica (docs/postgresql.md has the steps)",
        ),
        Found::Another => Finding::fail(
            "replica",
            "database.replica_url leads to a replica of another server",
            "make it with pg_basebackup from this primary",
        ),
        Found::Standby(Some(lag)) if *lag <= REPLAY => {
            Finding::ok("replica", format!("it had what the primary has after {} ms", lag.as_millis()))
        }
        Found::Standby(Some(lag)) => Finding::warn(
            "replica",
            format!(
                "it is {:.1} s behind; past {} s leaderboards are read from the primary",
                lag.as_secs_f64(),
                REPLAY.as_secs()
            ),
            log,
        ),
        Found::Standby(None) => Finding::warn(
            "replica",
            format!("it does not catch up within {} s, leaderboards are read from the primary", WATCHED.as_secs()),
            log,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict::*, *};

    #[test]
    fn a_replica_follows_this_primary_closely() {
        let of = |found: &Found| judge(found).verdict;
        assert_eq!(of(&Found::Standby(Some(Duration::from_millis(30)))), Ok);
        assert_eq!(of(&Found::Standby(Some(Duration::from_secs(3)))), Warn);
        assert_eq!((of(&Found::Standby(None)), of(&Found::Away("refused".into()))), (Warn, Warn));
        assert_eq!((of(&Found::NoStandby), of(&Found::Another)), (Fail, Fail));
    }
}
