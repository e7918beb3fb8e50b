//! Whether database.direct_url is what it says: sessions of our own at the primary, which hear what they listen to, keep their locks, and have
//! the settings they asked for. And what a pooler leaves of a session at database.url.

use std::time::Duration;

use anyhow::Context as _;
use asobi_store::lock_keys;
use sqlx::{
    PgConnection, Row as _,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::time::timeout;

use super::{
    Patient,
    finding::Finding,
    reading::{row, rows},
};

/// A hint takes milliseconds.
const HEARD: Duration = Duration::from_secs(2);
const PAST: &str = "let database.direct_url lead past every pooler, to the server itself";

/// What a session of `direct_url` turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Directness {
    /// Two sessions of ours are two of the server's.
    own: bool,
    /// A lock that it took is still its own after others have worked.
    keeps_locks: bool,
    /// It heard what another one sent.
    hears: bool,
    /// It has the time-outs it asked for.
    options: bool,
    /// Seconds without a word before the server asks whether we are there; 0: the system's two hours. None: no network in between.
    keepalive: Option<i32>,
}

pub(super) async fn check(patient: &Patient) -> anyhow::Result<Vec<Finding>> {
    let mut findings = vec![judge(&direct(patient).await?)];
    let database = &patient.config.database;
    let (url, direct) = (database.url.expose(), database.direct());
    if url != direct {
        let (pooled, straight) = (identity(patient, url).await?, identity(patient, direct).await?);
        findings.push(same(&pooled, &straight));
        let kept = timeouts(&mut patient.connect(url).await?).await?;
        findings.push(pooled_timeouts(kept));
    }
    Ok(findings)
}

async fn direct(patient: &Patient) -> anyhow::Result<Directness> {
    let (mut one, mut other) = (patient.direct().await?, patient.direct().await?);
    let first = pid(&mut one).await?;
    let taking = sqlx::query("SELECT pg_advisory_lock_shared($1)").bind(lock_keys::DOCTOR).persistent(false);
    taking.execute(&mut one).await?;
    // A pooler by transactions gives this one the server's session that the first has just used.
    rows(&mut other, "BEGIN").await?;
    let second = pid(&mut other).await?;
    let again = pid(&mut one).await?;
    let held = row(
        &mut one,
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted)",
    );
    let held: bool = held.await?.try_get(0)?;
    rows(&mut other, "ROLLBACK").await?;
    let keepalive = row(
        &mut one,
        "SELECT CASE WHEN inet_client_addr() IS NULL THEN NULL ELSE current_setting('tcp_keepalives_idle')::int4 END",
    );
    let keepalive = keepalive.await?.try_get(0)?;
    let options = asked_for(&mut one).await? == i64::try_from(patient.config.database.timeout_ms)?;
    // Whichever session has it now.
    rows(&mut one, "SELECT pg_advisory_unlock_all()").await?;
    rows(&mut other, "SELECT pg_advisory_unlock_all()").await?;
    let own = first != second && first == again;
    Ok(Directness { own, keeps_locks: own && held, hears: hears(patient).await, options, keepalive })
}

async fn pid(session: &mut PgConnection) -> anyhow::Result<i32> {
    Ok(row(session, "SELECT pg_backend_pid()").await?.try_get(0)?)
}

/// The statements' time-out, milliseconds: as the session asked for it at its start, unless something in between dropped that.
async fn asked_for(session: &mut PgConnection) -> anyhow::Result<i64> {
    let found = row(session, "SELECT setting::int8 FROM pg_settings WHERE name = 'statement_timeout'");
    Ok(found.await?.try_get(0)?)
}

/// Whether the session has time-outs, whoever set them.
async fn timeouts(session: &mut PgConnection) -> anyhow::Result<bool> {
    let found = row(
        session,
        "SELECT current_setting('idle_in_transaction_session_timeout') <> '0' AND current_setting('statement_timeout') <> '0'",
    );
    Ok(found.await?.try_get(0)?)
}

async fn hears(patient: &Patient) -> bool {
    timeout(HEARD * 3, round_trip(patient)).await.is_ok_and(|heard| heard.is_ok())
}

/// What one session sends, another one hears, as the bus of every process does.
async fn round_trip(patient: &Patient) -> anyhow::Result<()> {
    let channel = format!("asobi_doctor_{:016x}", rand::random::<u64>());
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(HEARD);
    let pool = Box::pin(pool.connect_with(patient.options(patient.bus())?)).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.ignore_pool_close_event(true);
    listener.eager_reconnect(false);
    listener.listen(&channel).await?;
    let mut sender = patient.connect(patient.bus()).await?;
    sqlx::query("SELECT pg_notify($1, '')").bind(&channel).persistent(false).execute(&mut sender).await?;
    let heard = timeout(HEARD, listener.try_recv()).await.context("nothing was heard")??;
    heard.map(drop).context("the session ended")
}

fn judge(direct: &Directness) -> Finding {
    let Directness { own, keeps_locks, hears, options, keepalive } = *direct;
    if !own || !keeps_locks {
        let says = "database.direct_url leads through a pooler by transactions: the leader's lock, heartbeats and the bus do not work there";
        return Finding::fail("direct", says, PAST);
    }
    if !hears {
        let says = "a session of database.direct_url (or bus_url) does not hear what it listens to: nodes would not learn of each other's chat, matches and revocations";
        return Finding::fail("direct", says, PAST);
    }
    if !options {
        let says = "sessions of database.direct_url do not have the settings they ask for: a pooler by sessions drops them, and a host that vanishes keeps its locks for long";
        return Finding::warn("direct", says, PAST);
    }
    if keepalive == Some(0) {
        let says = "the server does not ask whether a silent client is still there: a host that vanishes keeps its locks for two hours";
        return Finding::warn(
            "direct",
            says,
            "ALTER SYSTEM SET tcp_keepalives_idle = 30, then SELECT pg_reload_conf()",
        );
    }
    Finding::ok("direct", "sessions of database.direct_url are our own, keep their locks, and hear what they listen to")
}

/// Which database of which server.
async fn identity(patient: &Patient, url: &str) -> anyhow::Result<String> {
    let mut session = patient.connect(url).await?;
    let statement = "SELECT (SELECT system_identifier FROM pg_control_system())::text || '/' || current_database()";
    Ok(row(&mut session, statement).await?.try_get(0)?)
}

fn same(pooled: &str, direct: &str) -> Finding {
    if pooled == direct {
        return Finding::ok("urls", "database.url and database.direct_url lead to the same database");
    }
    Finding::fail(
        "urls",
        format!("database.url leads to {pooled}, database.direct_url to {direct}"),
        "let both lead to the same database of the same server",
    )
}

fn pooled_timeouts(kept: bool) -> Finding {
    if kept {
        return Finding::ok(
            "pooled",
            "sessions of database.url have time-outs for statements and for forgotten transactions",
        );
    }
    Finding::warn(
        "pooled",
        "the pooler at database.url drops the sessions' time-outs: a statement whose process is gone holds its locks on",
        "ALTER ROLE … IN DATABASE … SET statement_timeout = '15s', and idle_in_transaction_session_timeout; roles.sql does for asobi_service",
    )
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict::*, *};

    #[test]
    fn only_sessions_of_our_own_are_well() {
        let well = Directness { own: true, keeps_locks: true, hears: true, options: true, keepalive: Some(5) };
        let of = |direct: Directness| judge(&direct).verdict;
        assert_eq!((of(well), of(Directness { keepalive: None, ..well })), (Ok, Ok));
        assert!(judge(&Directness { own: false, ..well }).says.contains("pooler by transactions"));
        assert_eq!(of(Directness { keeps_locks: false, ..well }), Fail);
        assert_eq!(of(Directness { hears: false, ..well }), Fail);
        assert_eq!(of(Directness { options: false, ..well }), Warn);
        assert_eq!(of(Directness { keepalive: Some(0), ..well }), Warn);
    }

    #[test]
    fn two_urls_lead_to_one_database() {
        assert_eq!((same("1/asobi", "1/asobi").verdict, same("1/asobi", "2/asobi").verdict), (Ok, Fail));
        assert_eq!((pooled_timeouts(true).verdict, pooled_timeouts(false).verdict), (Ok, Warn));
    }
}
