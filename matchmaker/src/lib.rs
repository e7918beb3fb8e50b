//! The cluster's one queue: replicas stand for election, and the leader turns waiting tickets into running matches.
//!
//! **Invariant:** rows are the truth. The leader's index is a copy it can lose at any time; what it has begun is in rows before anybody
//! outside acts on it, and each of its transactions begins with the fence of its term.

mod allocate;
mod api;
mod deps;
mod frames;
mod hosts;
mod index;
mod leader;
mod stats;

use std::sync::{Arc, Mutex};

use asobi_bus::Bus;
use asobi_cluster::{
    Node, NodeAddresses, NodeState, Role,
    leader::{Election, Leadership},
    lock_keys,
};
use asobi_proto::bus::Topic;
use asobi_service_kit::{Config, Readiness, Shutdown, config::MoveTo, server, service::Running, starting};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    deps::{Deps, Limits, Status},
    leader::feed::Feed,
};

pub use crate::index::{Age, Group, Index, Member, Rules, Shape, Strategies, Strategy, Taken, Ticket, Waiting, Wanted};

/// Notifications that may wait for who follows the queue; past it, it is compared with the table.
const EVENTS: usize = 1_024;

/// Runs one matchmaker until the drain, which resigns a leadership so that a standby leads at once.
///
/// # Errors
/// When an address cannot be bound or the cluster cannot be joined.
#[must_use]
pub fn run(config: Arc<Config>, shutdown: Shutdown) -> Running {
    Box::pin(run_with(config, shutdown, Strategies::default()))
}

/// The same with a studio's own strategies for some modes, see [`Strategies`].
///
/// # Errors
/// As [`run`].
pub async fn run_with(config: Arc<Config>, shutdown: Shutdown, strategies: Strategies) -> anyhow::Result<()> {
    let (grpc, grpc_addr) = server::bind("grpc.listen", &config.grpc.listen).await?;
    let (metrics, metrics_addr) = server::bind("metrics.listen", &config.metrics.listen).await?;
    starting::done("addresses");
    let addresses = NodeAddresses { http: None, grpc: grpc_addr, metrics: metrics_addr };
    let topics = [Topic::Queue, Topic::Modes, Topic::Leader];
    let node = Node::join(&config, Role::Matchmaker, addresses, topics, &shutdown).await?;
    tracing::info!(grpc.addr = %grpc_addr, metrics.addr = %metrics_addr, "The matchmaker listens.");

    let deps = deps(&config, &node, strategies);
    let readiness = Readiness::new();
    server::serve_metrics(metrics, readiness.clone(), &shutdown);
    let routes =
        asobi_cluster::ops::routes(&node, &config).add_service(api::service(Arc::clone(&deps), shutdown.draining()));
    server::serve_grpc(grpc, routes, &readiness, node.access.clone(), &shutdown);

    let resign = CancellationToken::new();
    let (current, leadership) = watch::channel(None);
    let election = shutdown.spawn_critical("election", election(&node).run(current, resign.clone()));
    let draining = shutdown.draining();
    let leading = shutdown.spawn_critical("leader", follow(deps, node.bus.clone(), leadership, draining.clone()));
    readiness.set_ready(true);
    node.membership.set_state(NodeState::Ready);

    shutdown.leaving().cancelled().await;
    readiness.set_ready(false);
    node.membership.set_state(NodeState::Draining);
    draining.cancelled().await;
    // What is in flight first, then the lock: the next leader finds as little as possible half-done. Both are bounded.
    let _ = leading.await;
    resign.cancel();
    let _ = election.await;
    node.leave().await;
    Ok(())
}

fn deps(config: &Config, node: &Node, strategies: Strategies) -> Arc<Deps> {
    let limits = Limits {
        database: config.database.timeout(),
        create: config.matchmaker.create_timeout(),
        ghost_grace: config.matchmaker.disconnect_grace(),
        failover: config.matchmaker.failover_timeout(),
        any_version: config.matches.move_to == MoveTo::Any,
        rebalance: config.matchmaker.rebalance,
        max_queue: i64::try_from(config.matchmaker.max_queue).unwrap_or(i64::MAX),
    };
    Arc::new(Deps {
        pool: node.pool.clone(),
        publisher: node.bus.publisher().clone(),
        channels: node.channels.clone(),
        membership: Arc::clone(&node.membership),
        limits,
        status: Arc::new(Status::default()),
        index: Mutex::new(Index::new(strategies)),
        history: Mutex::default(),
        clock: Mutex::default(),
        labels: Mutex::default(),
    })
}

fn election(node: &Node) -> Election {
    Election {
        name: "matchmaker",
        lock_key: lock_keys::MATCHMAKER_LEADER,
        identity: node.membership.identity().clone(),
        direct: node.direct.clone(),
        publisher: node.bus.publisher().clone(),
        wake: node.bus.subscribe(&[Topic::Leader], 16),
    }
}

/// Follows the queue, and leads whenever this process is elected, until the drain.
async fn follow(
    deps: Arc<Deps>,
    bus: Bus,
    mut leadership: watch::Receiver<Option<Leadership>>,
    draining: CancellationToken,
) {
    let events = bus.subscribe(&[Topic::Queue, Topic::Modes, Topic::Nodes], EVENTS);
    let feed = Arc::new(tokio::sync::Mutex::new(Feed::new(events)));
    loop {
        let won = tokio::select! {
            () = draining.cancelled() => return,
            won = leadership.wait_for(Option::is_some) => match won {
                Ok(won) => won.clone(),
                // The election has ended, which it does after us.
                Err(_) => return,
            },
            () = async { feed.lock().await.stand_by(&deps).await } => return,
        };
        let Some(won) = won else { continue };
        let over = won.over();
        leader::lead(Arc::clone(&deps), won, Arc::clone(&feed), draining.clone()).await;
        if draining.is_cancelled() {
            return;
        }
        // What its last round took out of the index and did not claim is in the table.
        feed.lock().await.resync = true;
        // If the work ended before the leadership, as a fenced-off leader's does, the election notices within its trust.
        tokio::select! {
            () = over.cancelled() => {}
            () = draining.cancelled() => return,
        }
    }
}
