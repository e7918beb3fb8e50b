//! Friends, groups, notifications and leaderboards. Any number of replicas: each applies effects, writes, and answers from its own memory.
//!
//! **Invariant:** rows first. Nothing is answered that is not committed; what is in memory can be lost and read again at any time.

mod boards;
mod deeds;
mod effects;
mod friends;
mod groups;
mod leaderboards;
#[cfg(feature = "measured")]
#[doc(hidden)]
pub mod measured;
mod moderation;
mod notifications;
mod wire;

use std::{sync::Arc, time::Duration};

use asobi_cluster::{Node, NodeAddresses, NodeState, Role, desk::Desk};
use asobi_proto::{
    bus::Topic,
    social_v1::{
        friend_service_server::FriendServiceServer, group_admin_service_server::GroupAdminServiceServer,
        group_service_server::GroupServiceServer, leaderboard_admin_service_server::LeaderboardAdminServiceServer,
        leaderboard_service_server::LeaderboardServiceServer, moderation_service_server::ModerationServiceServer,
        notification_admin_service_server::NotificationAdminServiceServer,
        notification_service_server::NotificationServiceServer,
    },
};
use asobi_service_kit::{Config, Readiness, Shutdown, server, service::Running, starting};
use asobi_store::effects_apply::Applier;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    boards::{Boards, Writer},
    deeds::Deeds,
    effects::Effects,
    friends::Friends,
    groups::{GroupAdmin, Groups},
    leaderboards::Leaderboards,
    moderation::Moderation,
    notifications::{NotificationAdmin, Notifications, Worker},
};

/// Notifications that may wait; past it the boards in memory are read again.
const EVENTS: usize = 1_024;
/// How long a start waits for the large boards.
const PRELOAD: Duration = Duration::from_secs(10);

/// Runs one social service until the drain: calls under way are answered, submissions that wait are written.
///
/// # Errors
/// When an address cannot be bound or the cluster cannot be joined.
#[must_use]
pub fn run(config: Arc<Config>, shutdown: Shutdown) -> Running {
    Box::pin(serve_until_told(config, shutdown))
}

async fn serve_until_told(config: Arc<Config>, shutdown: Shutdown) -> anyhow::Result<()> {
    let (grpc, grpc_addr) = server::bind("grpc.listen", &config.grpc.listen).await?;
    let (metrics, metrics_addr) = server::bind("metrics.listen", &config.metrics.listen).await?;
    starting::done("addresses");
    let addresses = NodeAddresses { http: None, grpc: grpc_addr, metrics: metrics_addr };
    let node = Node::join(&config, Role::Social, addresses, [Topic::Boards, Topic::Effects, Topic::Revoked], &shutdown)
        .await?;
    tracing::info!(grpc.addr = %grpc_addr, metrics.addr = %metrics_addr, "The social service listens.");

    let (draining, bound) = (shutdown.draining(), config.database.timeout());
    let boards = Boards::new(boards::Options {
        pool: node.pool.clone(),
        replica: boards::replica(&config)?,
        listening: node.bus.connected(),
        publisher: node.bus.publisher().clone(),
        bound,
        most_entries: config.leaderboards.memory_entries,
        // Trees shaped by nothing a client knows.
        seed: Uuid::new_v4().as_u64_pair().0,
    });
    let (writer, writing) = Writer::new(Arc::clone(&boards));
    // Ends by itself when the server, which holds the writer, has answered its last call.
    let writing = shutdown.spawn("score writer", writing);
    let follow = boards::follow(Arc::clone(&boards), node.bus.subscribe(&[Topic::Boards], EVENTS), draining.clone());
    shutdown.spawn_critical("board follower", follow);
    shutdown.spawn_critical("board resets", boards::reset_boards(Arc::clone(&boards), draining.clone()));
    shutdown.spawn_critical("board sweep", boards::sweep_boards(Arc::clone(&boards), draining.clone()));
    let revoked = node.bus.subscribe(&[Topic::Revoked], EVENTS);
    let kept = config.auth.access_ttl();
    shutdown.spawn_critical("erasures", boards::follow_erasures(Arc::clone(&boards), revoked, kept, draining.clone()));
    let wake = node.bus.subscribe(&[Topic::Effects], 64);
    let effects = Effects {
        pool: node.pool.clone(),
        publisher: node.bus.publisher().clone(),
        boards: Arc::clone(&boards),
        applier: Applier::new(&config.node.id, config.social.notifications_kept.into()),
        bound,
    };
    let effects = shutdown.spawn_critical("effects", effects.run(wake, draining.clone()));

    let sweep = notifications::sweep(node.pool.clone(), days(&config), bound, draining.clone());
    shutdown.spawn_critical("notification sweep", sweep);

    let readiness = Readiness::new();
    server::serve_metrics(metrics, readiness.clone(), &shutdown);
    let kept = config.social.notifications_kept.into();
    let deeds = Deeds { pool: node.pool.clone(), publisher: node.bus.publisher().clone(), bound, kept };
    let desk = Desk::new(node.pool.clone(), bound);
    let preloading = preload(&config, Arc::clone(&boards), &shutdown);
    let wake = Arc::new(Notify::new());
    let worker = Worker { deeds: deeds.clone(), wake: Arc::clone(&wake) };
    shutdown.spawn_critical("notification jobs", worker.run(draining.clone()));
    let admin = NotificationAdmin::new(deeds.clone(), desk.clone(), wake, draining.clone());
    let groups = Groups { deeds: deeds.clone(), most: config.social.groups_per_player };
    let moderation = Moderation::new(node.pool.clone(), node.bus.publisher().clone(), bound);
    let leaderboards = Arc::new(Leaderboards { boards, writer, desk: desk.clone(), bound });
    let routes = asobi_cluster::ops::routes(&node, &config)
        .add_service(FriendServiceServer::new(Friends { deeds: deeds.clone() }))
        .add_service(GroupServiceServer::new(groups))
        .add_service(GroupAdminServiceServer::new(GroupAdmin { deeds: deeds.clone(), desk: desk.clone() }))
        .add_service(NotificationAdminServiceServer::new(admin))
        .add_service(NotificationServiceServer::new(Notifications { deeds, desk }))
        .add_service(ModerationServiceServer::new(moderation))
        .add_service(LeaderboardServiceServer::from_arc(Arc::clone(&leaderboards)))
        .add_service(LeaderboardAdminServiceServer::from_arc(leaderboards));
    server::serve_grpc(grpc, routes, &readiness, node.access.clone(), &shutdown);
    // Who comes while a large board is read waits for it; past that it is read all the same.
    starting::done("services");
    let _ = tokio::time::timeout(PRELOAD, preloading).await;
    starting::done("large boards");
    readiness.set_ready(true);
    node.membership.set_state(NodeState::Ready);

    shutdown.leaving().cancelled().await;
    readiness.set_ready(false);
    node.membership.set_state(NodeState::Draining);
    draining.cancelled().await;
    let _ = writing.await;
    let _ = effects.await;
    node.leave().await;
    Ok(())
}

/// Reads the large boards, if any shall be.
fn preload(config: &Config, boards: Arc<Boards>, shutdown: &Shutdown) -> impl Future<Output = ()> + use<> {
    let changes = config.leaderboards.preload_entries;
    let (done, read) = tokio::sync::oneshot::channel::<()>();
    if changes > 0 {
        let stop = shutdown.draining().clone();
        shutdown.spawn("board preload", async move {
            let _done = done;
            tokio::select! {
                () = stop.cancelled() => {}
                () = boards.preload(changes) => {}
            }
        });
    }
    async move {
        // Dropped at the end.
        let _ = read.await;
    }
}

fn days(config: &Config) -> i32 {
    i32::try_from(config.social.notification_days).unwrap_or(i32::MAX)
}
