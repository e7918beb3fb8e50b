//! A node's own row: registered at start under a new incarnation, renewed by heartbeats over a connection of its own (a
//! storm on the pool must not cost the lease), marked stopped at the end.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use asobi_bus::Publisher;
use asobi_proto::bus::{Topic, WakeItem};
use asobi_store::within;
use sqlx::{Connection, PgConnection, PgPool, postgres::PgConnectOptions};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{DatabaseIncarnation, Error, NodeIdentity, Result, Role, lock_keys};

/// What a node says of itself when it registers.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    pub node_id: String,
    pub role: Role,
    pub region: String,
    pub http_url: Option<String>,
    pub ws_url: Option<String>,
    pub grpc_addr: String,
    pub metrics_addr: String,
    /// Load the node takes, 0: not limited.
    pub capacity: u32,
    pub lease: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    Starting,
    Ready,
    Draining,
    Stopped,
}

impl NodeState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// This node's membership. Cheap to share; the heartbeat is a task of its own ([`Membership::beat`]).
pub struct Membership {
    identity: NodeIdentity,
    lease: Duration,
    state: Mutex<NodeState>,
    /// The state others were last told of.
    told: Mutex<NodeState>,
    load: AtomicU32,
    contact: Mutex<Contact>,
    /// Since when the heartbeat's connection holds this incarnation's lock ([`lock_keys::NODE_ALIVE`]).
    lock_since: Mutex<Option<Instant>>,
    database: watch::Sender<DatabaseIncarnation>,
    /// How often the lease may have run out.
    lapses: watch::Sender<u64>,
    beat_now: Notify,
    /// Held while a heartbeat is under way: one that is overtaken by the farewell would bring the node back to life.
    beating: tokio::sync::Mutex<()>,
    pool: PgPool,
    publisher: Publisher,
}

#[derive(Debug, Clone, Copy)]
struct Contact {
    /// From before the last round trip that succeeded.
    last: Instant,
    /// Since when no gap between two of them was longer than the lease, and the database was the same.
    unbroken_since: Instant,
}

impl Membership {
    /// Registers a new incarnation of this node; what an older one held is orphaned from here on.
    ///
    /// # Errors
    /// When the database does not answer or is a standby.
    pub async fn register(pool: &PgPool, publisher: Publisher, spec: NodeSpec) -> Result<Arc<Self>> {
        let started = Instant::now();
        let database = within(Duration::from_secs(5), async { Ok(database_incarnation(pool).await) }).await??;
        let registering = sqlx::query_scalar!(
            r#"INSERT INTO nodes (node_id, incarnation, role, state, version, region, http_url, ws_url, grpc_addr,
                                  metrics_addr, pid, capacity, lease_until)
               VALUES ($1, nextval('node_incarnations'), $2, 'starting', $3, $4, $5, $6, $7, $8, $9, $10,
                       now() + make_interval(secs => $11))
               ON CONFLICT (node_id) DO UPDATE SET
                   incarnation = EXCLUDED.incarnation, role = EXCLUDED.role, state = EXCLUDED.state,
                   version = EXCLUDED.version, region = EXCLUDED.region, http_url = EXCLUDED.http_url,
                   ws_url = EXCLUDED.ws_url, grpc_addr = EXCLUDED.grpc_addr, metrics_addr = EXCLUDED.metrics_addr,
                   pid = EXCLUDED.pid, load = 0, capacity = EXCLUDED.capacity, started_at = now(),
                   lease_until = EXCLUDED.lease_until
               RETURNING incarnation"#,
            spec.node_id,
            spec.role.as_str(),
            env!("CARGO_PKG_VERSION"),
            spec.region,
            spec.http_url,
            spec.ws_url,
            spec.grpc_addr,
            spec.metrics_addr,
            i32::try_from(std::process::id()).unwrap_or_default(),
            i32::try_from(spec.capacity).unwrap_or(i32::MAX),
            spec.lease.as_secs_f64(),
        )
        .fetch_one(pool);
        let incarnation = within(Duration::from_secs(5), async { Ok(registering.await?) }).await?;
        let identity = NodeIdentity { node_id: spec.node_id, incarnation, role: spec.role };
        tracing::info!(node.id = identity.node_id, node.incarnation = incarnation, "Registered with the cluster.");
        let membership = Arc::new(Self {
            identity,
            lease: spec.lease,
            state: Mutex::new(NodeState::Starting),
            told: Mutex::new(NodeState::Starting),
            load: AtomicU32::new(0),
            contact: Mutex::new(Contact { last: started, unbroken_since: started }),
            lock_since: Mutex::new(None),
            database: watch::Sender::new(database),
            lapses: watch::Sender::new(0),
            beat_now: Notify::new(),
            beating: tokio::sync::Mutex::new(()),
            pool: pool.clone(),
            publisher,
        });
        membership.wake_others();
        Ok(membership)
    }

    #[must_use]
    pub fn identity(&self) -> &NodeIdentity {
        &self.identity
    }

    #[must_use]
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// What the node carries: sessions of a gateway, matches of a host. Written with the next heartbeat.
    pub fn set_load(&self, load: u32) {
        self.load.store(load, Ordering::Relaxed);
    }

    /// Changes the announced state, in the row by the next heartbeat, which is sent at once.
    pub fn set_state(&self, state: NodeState) {
        *lock(&self.state) = state;
        self.beat_now.notify_one();
    }

    /// The database this node talks to; a change means: forget cached sequence numbers, re-assert sessions, re-read.
    #[must_use]
    pub fn database_incarnation(&self) -> watch::Receiver<DatabaseIncarnation> {
        self.database.subscribe()
    }

    /// Changes when this node is back after a silence in which its lease may have run out: others have taken it for dead
    /// and may have removed what it held, and may still be about to. Re-assert it.
    #[must_use]
    pub fn lapses(&self) -> watch::Receiver<u64> {
        self.lapses.subscribe()
    }

    /// How long ago the last heartbeat that succeeded was sent.
    #[must_use]
    pub fn last_contact(&self) -> Duration {
        lock(&self.contact).last.elapsed()
    }

    /// Hints of this node that wait to be notified.
    #[must_use]
    pub(crate) fn hints_waiting(&self) -> usize {
        self.publisher.waiting()
    }

    /// Whether this node's lease cannot have run out yet.
    #[must_use]
    pub fn holds_lease(&self) -> bool {
        self.last_contact() < self.lease
    }

    /// Whether this node may judge the leases of others: it was itself in contact, with this same database, for longer
    /// than a lease, so that everybody had the time to renew after an outage.
    #[must_use]
    pub fn may_judge(&self) -> bool {
        let contact = *lock(&self.contact);
        contact.last.elapsed() < self.lease && contact.unbroken_since.elapsed() > self.lease + self.lease / 2
    }

    /// Whether this node may take a lock that is gone for its holder's death: it may judge, and has held its own over one connection for
    /// longer than a lease. What takes everybody's locks, as a restart of the server does, takes ours too, and by the time that we
    /// may judge again everybody else has taken theirs again.
    #[must_use]
    pub fn may_judge_locks(&self) -> bool {
        self.may_judge() && lock(&self.lock_since).is_some_and(|since| since.elapsed() > self.lease)
    }

    /// Renews the lease three times a lease until `stop`. Ends early, with an error, when another process took this
    /// node's id, or when others declared this one dead.
    ///
    /// # Errors
    /// [`Error::Replaced`] and [`Error::DeclaredDead`].
    pub async fn beat(self: Arc<Self>, direct: PgConnectOptions, stop: CancellationToken) -> Result<()> {
        // Nobody waits for the durability of a heartbeat.
        let options = direct.options([("synchronous_commit", "off")]);
        let mut connection: Option<PgConnection> = None;
        let bound = self.lease / 3;
        loop {
            let turn = self.beating.lock().await;
            if *lock(&self.state) == NodeState::Stopped {
                return Ok(());
            }
            let sent = Instant::now();
            let beating = async {
                let mut live = match connection.take() {
                    Some(live) => live,
                    None => self.connect(&options).await?,
                };
                let answer = self.renew(&mut live).await?;
                Ok((live, answer))
            };
            let due = match within(bound, async { Ok(beating.await) }).await.map_err(Error::from).flatten() {
                Ok((live, database)) => {
                    connection = Some(live);
                    self.confirmed(sent, database);
                    self.lease / 3
                }
                Err(error @ (Error::Replaced { .. } | Error::DeclaredDead { .. })) => return Err(error),
                Err(error) => {
                    *lock(&self.lock_since) = None;
                    metrics::counter!("asobi_cluster_missed_heartbeats_total").increment(1);
                    tracing::warn!(%error, silent_ms = self.last_contact().as_millis() as u64, "A heartbeat failed.");
                    self.lease / 10
                }
            };
            drop(turn);
            tokio::select! {
                () = tokio::time::sleep(due) => {}
                () = self.beat_now.notified() => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Marks the row as stopped, so that nobody has to wait for the lease to run out, and ends the heartbeat. Best effort,
    /// bounded.
    pub async fn leave(&self) {
        *lock(&self.state) = NodeState::Stopped;
        let leaving = sqlx::query!(
            "UPDATE nodes SET state = 'stopped', lease_until = now(), load = 0 WHERE node_id = $1 AND incarnation = $2",
            self.identity.node_id,
            self.identity.incarnation,
        )
        .execute(&self.pool);
        let last = async {
            let _turn = self.beating.lock().await;
            Ok(leaving.await?)
        };
        if let Err(error) = within(Duration::from_secs(2), last).await {
            tracing::warn!(%error, "The registry could not be told that this node has stopped; its lease will run out.");
        }
        self.wake_others();
    }

    /// Opens the heartbeat's connection, and takes on it the lock by which others see that this process lives: its kernel closes the
    /// connection with it, whatever it dies of. Shared, so that the old backend of a connection that broke does not keep us from it.
    async fn connect(&self, options: &PgConnectOptions) -> Result<PgConnection> {
        let mut connection = PgConnection::connect_with(options).await?;
        let opened = Instant::now();
        sqlx::query!(
            "SELECT pg_advisory_lock_shared($1, $2)",
            lock_keys::NODE_ALIVE,
            lock_keys::of_incarnation(self.identity.incarnation),
        )
        .execute(&mut connection)
        .await?;
        *lock(&self.lock_since) = Some(opened);
        Ok(connection)
    }

    async fn renew(&self, connection: &mut PgConnection) -> Result<DatabaseIncarnation> {
        let state = *lock(&self.state);
        let row = sqlx::query!(
            r#"UPDATE nodes SET lease_until = now() + make_interval(secs => $3), state = $4, load = $5
               WHERE node_id = $1 AND incarnation = $2 AND state <> 'stopped'
               RETURNING (SELECT value FROM database_incarnation) AS database,
                   ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int AS "timeline!""#,
            self.identity.node_id,
            self.identity.incarnation,
            self.lease.as_secs_f64(),
            state.as_str(),
            i32::try_from(self.load.load(Ordering::Relaxed)).unwrap_or(i32::MAX),
        )
        .fetch_optional(&mut *connection)
        .await?;
        let Some(row) = row else {
            return Err(self.lost(connection).await?);
        };
        match row.database {
            Some(value) => Ok(DatabaseIncarnation { value, timeline: row.timeline }),
            // The unlogged row is gone: the server crashed. Whoever sees it first makes the new one.
            None => database_incarnation(&mut *connection).await,
        }
    }

    /// Why there is no row to renew. Our own farewell is not it: no heartbeat follows one.
    async fn lost(&self, connection: &mut PgConnection) -> Result<Error> {
        let there = sqlx::query_scalar!(
            r#"SELECT 1 AS "one!" FROM nodes WHERE node_id = $1 AND incarnation = $2"#,
            self.identity.node_id,
            self.identity.incarnation,
        )
        .fetch_optional(connection)
        .await?;
        let node_id = self.identity.node_id.clone();
        Ok(if there.is_some() { Error::DeclaredDead { node_id } } else { Error::Replaced { node_id } })
    }

    fn confirmed(&self, sent: Instant, database: DatabaseIncarnation) {
        let changed = self.database.send_if_modified(|known| std::mem::replace(known, database) != database);
        {
            let mut contact = lock(&self.contact);
            // Until now, not until it was sent: the longest time that can lie between the two renewals at the server.
            if contact.last.elapsed() > self.lease {
                self.lapses.send_modify(|lapses| *lapses += 1);
            }
            if changed || sent.duration_since(contact.last) > self.lease {
                contact.unbroken_since = sent;
            }
            contact.last = sent;
        }
        if changed {
            tracing::warn!("The database has a new incarnation: what was unlogged is gone, everything is read again.");
        }
        if self.announced_changed() {
            self.wake_others();
        }
    }

    // Told once per state: others learn loads and leases by their own periodic reads.
    fn announced_changed(&self) -> bool {
        let now = *lock(&self.state);
        std::mem::replace(&mut *lock(&self.told), now) != now
    }

    fn wake_others(&self) {
        // A lost wake-up costs others one period of their directory.
        let _ = self.publisher.publish(Topic::Nodes, &WakeItem {});
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Reads the database's incarnation, making its row where a crash has emptied the table.
async fn database_incarnation<'c>(executor: impl sqlx::PgExecutor<'c>) -> Result<DatabaseIncarnation> {
    let row = sqlx::query!(
        r#"WITH made AS (
               INSERT INTO database_incarnation (value) VALUES (gen_random_uuid())
               ON CONFLICT (one) DO UPDATE SET value = database_incarnation.value
               RETURNING value)
           SELECT value, pg_is_in_recovery() AS "standby!",
               ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int AS "timeline!"
           FROM made"#
    )
    .fetch_one(executor)
    .await
    .map_err(|error| match &error {
        // 25006: a write on a standby.
        sqlx::Error::Database(db) if db.code().as_deref() == Some("25006") => Error::Standby,
        _ => Error::from(error),
    })?;
    if row.standby {
        return Err(Error::Standby);
    }
    Ok(DatabaseIncarnation { value: row.value, timeline: row.timeline })
}
