//! Leadership by a session's advisory lock, fenced by a term.
//!
//! ```text
//!             lock is free                term raised
//!  standby ───────────────► lock held ───────────────► leading
//!     ▲  ▲                      │ the row's lock          │ ping fails, or none for TRUST
//!     │  └──────────────────────┘ is not had in time      │
//!     └───────────────────────────────────────────────────┘ session dropped; resigned when draining
//! ```
//!
//! | what happens | what holds |
//! | --- | --- |
//! | the leader is killed | its kernel closes the socket, the lock is free at once |
//! | its host vanishes | the server's keepalives free the lock after about 4 s |
//! | it is stopped | `idle_session_timeout` frees the lock after 4 s; when it wakes its trust is over ([`TRUST`] < 4 s) |
//! | it is slow and believes | its transactions begin with the row at its own term (`fence`), which is gone; hosts refuse its term |
//! | the timeline changes | the term starts above any of the old timeline's: it is `timeline << 40 | number` |

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use asobi_bus::{Publisher, Subscription};
use asobi_proto::bus::{Topic, WakeItem};
use asobi_service_kit::telemetry;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{Error, NodeIdentity, Result};

/// How long a leader believes in itself after its last answered ping was *sent*. Below what the server needs to free
/// the lock of a silent session.
pub const TRUST: Duration = Duration::from_millis(2_500);
const SESSION_TIMEOUT: &str = "4s";
const PING_EVERY: Duration = Duration::from_millis(700);
const ANSWER: Duration = Duration::from_millis(1_500);

/// A leadership under one term. What it was used for must check [`Self::is_valid`] before acting and begin each
/// transaction with [`Self::fence`].
#[derive(Debug, Clone)]
pub struct Leadership {
    pub name: &'static str,
    pub term: i64,
    trust: Arc<Trust>,
}

#[derive(Debug)]
struct Trust {
    started: Instant,
    until_ms: AtomicU64,
    /// Cancelled when the leadership is over.
    over: CancellationToken,
}

impl Leadership {
    /// Whether the lock cannot have passed to another yet.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let now = u64::try_from(self.trust.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        now < self.trust.until_ms.load(Ordering::Acquire) && !self.trust.over.is_cancelled()
    }

    /// How long ago the last ping that was answered was sent.
    #[must_use]
    pub fn age(&self) -> Duration {
        let until = Duration::from_millis(self.trust.until_ms.load(Ordering::Acquire));
        (self.trust.started.elapsed() + TRUST).saturating_sub(until)
    }

    /// Cancelled when the leadership is over.
    #[must_use]
    pub fn over(&self) -> CancellationToken {
        self.trust.over.clone()
    }

    /// Locks the term's row for the rest of the caller's transaction: the next leader's term waits for its end, so what
    /// it writes is seen by whoever leads next. Must be the transaction's first statement.
    ///
    /// # Errors
    /// [`Error::Fenced`] when another leader has raised the term, or when local trust is over.
    pub async fn fence(&self, transaction: &mut PgConnection) -> Result<()> {
        if !self.is_valid() {
            return Err(Error::Fenced { term: self.term });
        }
        sqlx::query_scalar!(
            r#"SELECT 1 AS "one!" FROM leader WHERE name = $1 AND term = $2 FOR SHARE"#,
            self.name,
            self.term
        )
        .fetch_optional(transaction)
        .await?
        .map(drop)
        .ok_or(Error::Fenced { term: self.term })
    }

    fn extend(&self, sent: Instant) {
        let until = sent.duration_since(self.trust.started) + TRUST;
        self.trust.until_ms.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Release);
    }
}

/// One process's candidature.
pub struct Election {
    pub name: &'static str,
    pub lock_key: i64,
    pub identity: NodeIdentity,
    pub direct: PgConnectOptions,
    pub publisher: Publisher,
    /// To [`Topic::Leader`]: a resignation wakes standbys.
    pub wake: Subscription,
}

impl Election {
    /// Stands for election until `stop`, then resigns. The current leadership of this process, if any, is in the watch.
    pub async fn run(mut self, current: watch::Sender<Option<Leadership>>, stop: CancellationToken) {
        self.observe(current.subscribe());
        loop {
            let ended = self.candidate(&current, &stop).await;
            if let Some(over) = current.send_replace(None) {
                over.trust.over.cancel();
            }
            if stop.is_cancelled() {
                return;
            }
            if let Err(error) = ended {
                tracing::warn!(leadership = self.name, %error, "The candidate's session ended; it stands again.");
            }
            self.pause(&stop).await;
        }
    }

    /// Has the age of the leadership shown for as long as somebody stands for it.
    fn observe(&self, current: watch::Receiver<Option<Leadership>>) {
        let age = metrics::gauge!("asobi_leader_lease_age_seconds", "leadership" => self.name);
        telemetry::observe(move || {
            age.set(current.borrow().as_ref().map_or(0.0, |leads| leads.age().as_secs_f64()));
            current.has_changed().is_ok()
        });
    }

    /// Waits a jittered moment, or for a resignation.
    async fn pause(&mut self, stop: &CancellationToken) {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(rand::random_range(150..350))) => {}
            _ = self.wake.next() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn candidate(&mut self, current: &watch::Sender<Option<Leadership>>, stop: &CancellationToken) -> Result<()> {
        let options = self.direct.clone().options([
            ("idle_session_timeout", SESSION_TIMEOUT),
            ("tcp_keepalives_idle", "1"),
            ("tcp_keepalives_interval", "1"),
            ("tcp_keepalives_count", "3"),
        ]);
        let mut session = answered(PgConnection::connect_with(&options)).await?;
        loop {
            let sent = Instant::now();
            let locked = answered(
                sqlx::query_scalar!(r#"SELECT pg_try_advisory_lock($1) AS "locked!""#, self.lock_key)
                    .fetch_one(&mut session),
            )
            .await?;
            if locked {
                let leadership = self.raise_term(&mut session, sent).await?;
                current.send_replace(Some(leadership.clone()));
                return self.lead(session, &leadership, stop).await;
            }
            self.pause(stop).await;
            if stop.is_cancelled() {
                return Ok(());
            }
        }
    }

    async fn raise_term(&self, session: &mut PgConnection, sent: Instant) -> Result<Leadership> {
        // Waits for the transactions of the leader before, which hold the row FOR SHARE.
        let term = answered(
            sqlx::query_scalar!(
                r#"UPDATE leader SET
                       term = greatest(term, ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint << 40) + 1,
                       node_id = $2, incarnation = $3, taken_at = now()
                   WHERE name = $1 RETURNING term"#,
                self.name,
                self.identity.node_id,
                self.identity.incarnation,
            )
            .fetch_one(session),
        )
        .await?;
        let trust = Trust { started: sent, until_ms: AtomicU64::new(0), over: CancellationToken::new() };
        let leadership = Leadership { name: self.name, term, trust: Arc::new(trust) };
        leadership.extend(sent);
        tracing::info!(leadership = self.name, term, "This node leads.");
        metrics::gauge!("asobi_leader_term", "leadership" => self.name).set(term as f64);
        // Others learn who leads from the row.
        let _ = self.publisher.publish(Topic::Nodes, &WakeItem {});
        Ok(leadership)
    }

    async fn lead(&self, mut session: PgConnection, leadership: &Leadership, stop: &CancellationToken) -> Result<()> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(PING_EVERY) => {}
                () = stop.cancelled() => return self.resign(session, leadership).await,
            }
            let sent = Instant::now();
            answered(sqlx::query("SELECT 1").execute(&mut session)).await?;
            leadership.extend(sent);
        }
    }

    async fn resign(&self, mut session: PgConnection, leadership: &Leadership) -> Result<()> {
        // Nothing of ours starts any more before the lock is given away.
        leadership.trust.over.cancel();
        answered(
            sqlx::query_scalar!(r#"SELECT pg_advisory_unlock($1) AS "unlocked!""#, self.lock_key)
                .fetch_one(&mut session),
        )
        .await?;
        let _ = self.publisher.publish(Topic::Leader, &WakeItem {});
        tracing::info!(leadership = self.name, term = leadership.term, "This node has resigned.");
        Ok(())
    }
}

async fn answered<T>(work: impl Future<Output = std::result::Result<T, sqlx::Error>>) -> Result<T> {
    match timeout(ANSWER, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Error::Store(asobi_store::Error::Deadline(ANSWER))),
    }
}
