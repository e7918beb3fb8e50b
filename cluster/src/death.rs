//! When a match host is dead. Known sooner than its lease where it is certain, and never assumed where it is not.
//!
//! The heartbeat's connection of every node holds a shared session lock of its incarnation ([`lock_keys::NODE_ALIVE`]). The kernel of a
//! process that is killed closes that connection at once, so the lock is gone within milliseconds; a process that lost only its way
//! to PostgreSQL keeps it until the server's keepalives give up.
//!
//! | what is seen | what it means |
//! | --- | --- |
//! | (a) the node's row names a newer incarnation, is `stopped`, or is gone | dead |
//! | (b) the lease has run out by the database's clock, **and** a probe fails in whatever way | dead |
//! | (c) the lock is gone, **and** a connection to the host is refused, twice 100 ms apart, with the lock gone all the while | dead: declared so |
//! | the lock is gone, a connection to the host is made, or times out | nothing: it lost its connection to PostgreSQL, or we lost ours to it |
//! | the lease has run out, a probe answers | nothing: it lives and cannot reach PostgreSQL; it is asked to hand its matches over |
//! | everybody's locks are gone (PostgreSQL restarted) | nothing: ours is gone too, see [`Membership::may_judge_locks`] |
//! | this node was itself out of contact within the last lease and a half | nothing is judged of (b) and (c) |
//!
//! | what goes wrong | what holds |
//! | --- | --- |
//! | a host is declared dead that lives | its heartbeat finds the row `stopped` and ends the process ([`crate::Error::DeclaredDead`]); until then its writes are fenced by its matches' epochs |
//! | a heartbeat is under way while its host is judged | [`hold`] makes it come before, and the host lives, or after |
//! | the old backend of a connection that broke still holds the lock of a host that was killed since | (b), a lease later |
//!
//! [`Membership::may_judge_locks`]: crate::Membership::may_judge_locks

use std::{io::ErrorKind, time::Duration};

use sqlx::{PgConnection, PgPool};
use tokio::{net::TcpStream, time::timeout};

use crate::{NodeIdentity, Result, lock_keys};

/// How long a connection may take that is to be refused.
const REFUSAL: Duration = Duration::from_millis(500);

/// What the rows and locks say of one match host that has not stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vital {
    pub node_id: String,
    pub incarnation: i64,
    pub grpc_addr: Option<String>,
    pub draining: bool,
    /// By the database's clock.
    pub leased: bool,
    /// Its heartbeat's connection is open.
    pub locked: bool,
}

/// What [`vitals`] saw.
#[derive(Debug, Clone, Default)]
pub struct Vitals {
    pub hosts: Vec<Vital>,
    /// Whether the asking node's own lock is there. Where it is not, no missing lock proves anything.
    pub own_lock: bool,
}

/// Looks at every match host that has not stopped.
///
/// # Errors
/// When the database fails.
pub async fn vitals(pool: &PgPool, asking: &NodeIdentity) -> Result<Vitals> {
    let rows = sqlx::query!(
        r#"WITH locks AS MATERIALIZED (
             SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND classid = $3::int::oid AND objsubid = 2 AND granted
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
           SELECT n.node_id, n.incarnation, n.role, n.grpc_addr, n.state = 'draining' AS "draining!", n.lease_until > now() AS "leased!",
             EXISTS (SELECT 1 FROM locks l WHERE l.objid = (n.incarnation & 4294967295)::oid) AS "locked!"
           FROM nodes n
           WHERE (n.role = 'match' AND n.state <> 'stopped') OR (n.node_id = $1 AND n.incarnation = $2)
           ORDER BY n.node_id"#,
        asking.node_id,
        asking.incarnation,
        lock_keys::NODE_ALIVE,
    )
    .fetch_all(pool)
    .await?;
    let mut vitals = Vitals::default();
    for row in rows {
        if row.node_id == asking.node_id && row.incarnation == asking.incarnation {
            vitals.own_lock = row.locked;
        }
        if row.role == "match" {
            vitals.hosts.push(Vital {
                node_id: row.node_id,
                incarnation: row.incarnation,
                grpc_addr: row.grpc_addr,
                draining: row.draining,
                leased: row.leased,
                locked: row.locked,
            });
        }
    }
    Ok(vitals)
}

/// Whether a connection is refused: the machine answers, and nobody listens there. A time-out, or any other failure, proves nothing.
pub async fn is_refused(address: &str) -> bool {
    matches!(timeout(REFUSAL, TcpStream::connect(address)).await, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused)
}

/// Declares an incarnation dead whose lock is gone: its row is `stopped` from here on, and everything that it held is orphaned. Part of a
/// transaction that began with the leader's fence. False: it has stopped by itself, was replaced, or has its lock again.
///
/// # Errors
/// When the database fails.
pub async fn declare(conn: &mut PgConnection, node_id: &str, incarnation: i64) -> Result<bool> {
    let done = sqlx::query!(
        r#"UPDATE nodes SET state = 'stopped', lease_until = now(), load = 0
           WHERE node_id = $1 AND incarnation = $2 AND state <> 'stopped'
             AND NOT EXISTS (
               SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = $3::int::oid AND objsubid = 2 AND granted
                 AND objid = ($2::bigint & 4294967295)::oid
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"#,
        node_id,
        incarnation,
        lock_keys::NODE_ALIVE,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Holds the rows of hosts whose matches are about to be taken, until the end of the transaction: a heartbeat that is under way comes before,
/// and its lease is seen by the next statement, or after.
///
/// # Errors
/// When the database fails.
pub async fn hold(conn: &mut PgConnection, nodes: &[String]) -> Result<()> {
    sqlx::query_scalar!(
        r#"SELECT 1 AS "one!" FROM nodes WHERE node_id = ANY($1) ORDER BY node_id FOR NO KEY UPDATE"#,
        nodes
    )
    .fetch_all(conn)
    .await?;
    Ok(())
}
