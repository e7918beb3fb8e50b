//! A cached view of the registry: who is there, where, with what load. Read every second and whenever a node says that
//! something changed; kept as it was while the database is away, so that traffic between nodes goes on.

use std::{
    sync::{
        Arc, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use asobi_bus::{BusEvent, Subscription};
use asobi_store::within;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Result;

const PERIOD: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(3);

/// A row of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    pub node_id: String,
    pub incarnation: i64,
    pub role: String,
    pub state: String,
    pub version: String,
    pub region: String,
    pub http_url: Option<String>,
    pub ws_url: Option<String>,
    pub grpc_addr: Option<String>,
    pub metrics_addr: Option<String>,
    /// Of the node's process, on its own machine.
    pub pid: i32,
    pub load: i32,
    pub capacity: i32,
    pub started_at: time::OffsetDateTime,
    /// Whether the lease is valid, by the database's clock at the time of the read.
    pub alive: bool,
}

impl NodeRow {
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.alive && self.state == "ready"
    }
}

/// See the module.
pub struct Directory {
    nodes: RwLock<Arc<[Arc<NodeRow>]>>,
    gateways: AtomicU32,
    version: watch::Sender<u64>,
}

impl Directory {
    /// Reads the registry once.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn load(pool: &PgPool) -> Result<Arc<Self>> {
        let nodes = read(pool).await?;
        Ok(Arc::new(Self {
            gateways: AtomicU32::new(count_gateways(&nodes)),
            nodes: RwLock::new(nodes.into()),
            version: watch::Sender::new(1),
        }))
    }

    /// Keeps it current until `stop`.
    pub async fn follow(self: Arc<Self>, pool: PgPool, mut wake: Subscription, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                event = wake.next() => match event {
                    Some(BusEvent::Resync | BusEvent::Batch(_)) => {}
                    None => return,
                },
                () = stop.cancelled() => return,
            }
            match read(&pool).await {
                Ok(nodes) => self.replace(nodes),
                Err(error) => tracing::debug!(%error, "The registry could not be read; the last view is kept."),
            }
        }
    }

    /// The node of that id, alive or not.
    #[must_use]
    pub fn get(&self, node_id: &str) -> Option<Arc<NodeRow>> {
        self.all().iter().find(|n| n.node_id == node_id).cloned()
    }

    /// The incarnation's row, unless the node has been replaced since.
    #[must_use]
    pub fn incarnation(&self, node_id: &str, incarnation: i64) -> Option<Arc<NodeRow>> {
        self.get(node_id).filter(|n| n.incarnation == incarnation)
    }

    /// Nodes of a role that are alive and ready.
    #[must_use]
    pub fn by_role(&self, role: crate::Role) -> Vec<Arc<NodeRow>> {
        self.all().iter().filter(|n| n.role == role.as_str() && n.is_ready()).cloned().collect()
    }

    /// How many gateways take players now: what a limit of the whole cluster is shared among. At least one.
    #[must_use]
    pub fn gateways(&self) -> u32 {
        self.gateways.load(Ordering::Relaxed).max(1)
    }

    #[must_use]
    pub fn all(&self) -> Arc<[Arc<NodeRow>]> {
        Arc::clone(&self.nodes.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Counts up whenever the view changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn replace(&self, nodes: Vec<Arc<NodeRow>>) {
        let mut known = self.nodes.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if known[..] != nodes[..] {
            self.gateways.store(count_gateways(&nodes), Ordering::Relaxed);
            *known = nodes.into();
            drop(known);
            self.version.send_modify(|v| *v += 1);
        }
    }
}

fn count_gateways(nodes: &[Arc<NodeRow>]) -> u32 {
    let gateways = nodes.iter().filter(|node| node.role == crate::Role::Gateway.as_str() && node.is_ready()).count();
    u32::try_from(gateways).unwrap_or(u32::MAX)
}

/// All rows of the registry, dead ones included.
///
/// # Errors
/// When the database does not answer.
pub async fn read(pool: &PgPool) -> Result<Vec<Arc<NodeRow>>> {
    let reading = sqlx::query_as!(
        NodeRow,
        r#"SELECT node_id, incarnation, role, state, version, region, http_url, ws_url, grpc_addr, metrics_addr, pid,
                  load, capacity, started_at, lease_until > now() AS "alive!"
           FROM nodes ORDER BY node_id"#
    )
    .fetch_all(pool);
    let rows = within(DEADLINE, async { Ok(reading.await?) }).await?;
    Ok(rows.into_iter().map(Arc::new).collect())
}
