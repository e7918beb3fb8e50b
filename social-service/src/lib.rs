//! Friends and leaderboards. Any number of replicas: each applies effects, writes, and answers from its own memory.
//!
//! **Invariant:** rows first. Nothing is answered that is not committed; what is in memory can be lost and read again at any time.

mod boards;
mod effects;
mod friends;
mod leaderboards;
mod wire;

use std::sync::Arc;

use asobi_cluster::{Node, NodeAddresses, NodeState, Role};
use asobi_proto::{
    bus::Topic,
    social_v1::{friend_service_server::FriendServiceServer, leaderboard_service_server::LeaderboardServiceServer},
};
use asobi_service_kit::{Config, Readiness, Shutdown, server};
use tonic::service::Routes;
use uuid::Uuid;

use crate::{
    boards::{Boards, Writer},
    friends::Friends,
    leaderboards::Leaderboards,
};

/// Notifications that may wait; past it the boards in memory are read again.
const EVENTS: usize = 1_024;

/// Runs one social service until the drain: calls under way are answered, submissions that wait are written.
///
/// # Errors
/// When an address cannot be bound or the cluster cannot be joined.
pub async fn run(config: Arc<Config>, shutdown: Shutdown) -> anyhow::Result<()> {
    let (grpc, grpc_addr) = server::bind("grpc.listen", &config.grpc.listen).await?;
    let (metrics, metrics_addr) = server::bind("metrics.listen", &config.metrics.listen).await?;
    let addresses = NodeAddresses { http: None, grpc: grpc_addr, metrics: metrics_addr };
    let node = Node::join(&config, Role::Social, addresses, [Topic::Boards, Topic::Effects], &shutdown).await?;
    tracing::info!(grpc.addr = %grpc_addr, metrics.addr = %metrics_addr, "The social service listens.");

    let (draining, bound) = (shutdown.draining(), config.database.timeout());
    // Trees shaped by nothing a client knows.
    let seed = Uuid::new_v4().as_u64_pair().0;
    let boards = Boards::new(node.pool.clone(), node.bus.publisher().clone(), bound, seed);
    let (writer, writing) = Writer::new(Arc::clone(&boards));
    // Ends by itself when the server, which holds the writer, has answered its last call.
    let writing = shutdown.spawn("score writer", writing);
    let follow = boards::follow(Arc::clone(&boards), node.bus.subscribe(&[Topic::Boards], EVENTS), draining.clone());
    shutdown.spawn_critical("board follower", follow);
    let wake = node.bus.subscribe(&[Topic::Effects], 64);
    let effects = effects::run(node.pool.clone(), Arc::clone(&boards), wake, bound, draining.clone());
    let effects = shutdown.spawn_critical("effects", effects);

    let readiness = Readiness::new();
    server::serve_metrics(metrics, readiness.clone(), &shutdown);
    let friends = Friends { pool: node.pool.clone(), publisher: node.bus.publisher().clone(), bound };
    let routes = Routes::new(FriendServiceServer::new(friends))
        .add_service(LeaderboardServiceServer::new(Leaderboards { boards, writer }))
        .add_service(asobi_cluster::ops::service(node.pool.clone()));
    server::serve_grpc(grpc, routes, &readiness, node.cluster_key.as_str(), &shutdown);
    readiness.set_ready(true);
    node.membership.set_state(NodeState::Ready);

    draining.cancelled().await;
    readiness.set_ready(false);
    node.membership.set_state(NodeState::Draining);
    let _ = writing.await;
    let _ = effects.await;
    node.leave().await;
    Ok(())
}
