//! A gateway: players' WebSockets and the REST API, on any number of nodes that know nothing of each other but what is in
//! the database. [`run`] is the whole process; the binary is `main.rs`.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use asobi_cluster::{Membership, Node, NodeState, Role, ops};
use asobi_rest::{Listeners, RestDeps};
use asobi_service_kit::{Config, Shutdown, health::Readiness, server, service::Running, starting};
use asobi_session::{
    auth::{Issuer, Verifier},
    hub::{self, Hub, HubDeps},
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often the load is looked at: more often than heartbeats leave.
const LOAD: Duration = Duration::from_millis(500);
/// Sockets that are asked to go within a second, where the grace allows it: all of them come back to the other gateways.
const PARTING: u32 = 1_000;

/// Runs a gateway until its drain is over.
///
/// # Errors
/// An address is taken, or the cluster cannot be joined; each as a sentence that says what to do.
#[must_use]
pub fn run(config: Arc<Config>, shutdown: Shutdown) -> Running {
    Box::pin(serve_until_told(config, shutdown))
}

async fn serve_until_told(config: Arc<Config>, shutdown: Shutdown) -> anyhow::Result<()> {
    let listeners = Listeners::bind(&config).await?;
    starting::done("addresses");
    let topics = hub::topics();
    let node = Node::join(&config, Role::Gateway, listeners.addresses(), topics, &shutdown).await?;
    let readiness = Readiness::new();
    match serve(&config, &node, listeners, &readiness, &shutdown).await {
        Ok(hub) => {
            readiness.set_ready(true);
            node.membership.set_state(NodeState::Ready);
            shutdown.spawn("load", tell_load(Arc::clone(&node.membership), Arc::clone(&hub), shutdown.draining()));
            shutdown.leaving().cancelled().await;
            drain(&node, &hub, &readiness, &shutdown).await;
            Ok(())
        }
        Err(error) => {
            node.leave().await;
            Err(error)
        }
    }
}

/// A gateway's load is its open sockets; it leaves with the next heartbeat.
async fn tell_load(membership: Arc<Membership>, hub: Arc<Hub>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(LOAD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => membership.set_load(u32::try_from(hub.session_count()).unwrap_or(u32::MAX)),
        }
    }
}

/// Builds what players talk to and starts the servers.
async fn serve(
    config: &Arc<Config>,
    node: &Node,
    listeners: Listeners,
    readiness: &Readiness,
    shutdown: &Shutdown,
) -> anyhow::Result<Arc<Hub>> {
    let verifier = Verifier::start(node.pool.clone(), &node.bus, &config.auth, shutdown)
        .await
        .context("signing keys and revocations could not be read")?;
    starting::done("signing keys and revocations");
    let publisher = node.bus.publisher().clone();
    let issuer = Issuer::start(node.pool.clone(), publisher, Arc::clone(&verifier), &config.auth).await?;
    starting::done("logins");
    let hub = Hub::start(HubDeps {
        config: Arc::clone(config),
        pool: node.pool.clone(),
        bus: node.bus.clone(),
        membership: Arc::clone(&node.membership),
        directory: Arc::clone(&node.directory),
        channels: node.channels.clone(),
        verifier: Arc::clone(&verifier),
        near: None,
        shutdown: shutdown.clone(),
    });
    let rest = asobi_rest::router(RestDeps {
        config: Arc::clone(config),
        node_id: node.membership.identity().node_id.clone(),
        pool: node.pool.clone(),
        directory: Arc::clone(&node.directory),
        channels: node.channels.clone(),
        verifier,
        issuer,
        hub: Arc::clone(&hub),
        readiness: readiness.clone(),
    });
    starting::done("players' API");
    let ops = ops::routes(node, config).add_service(hub.chat_service(config.database.timeout()));
    server::serve_metrics(listeners.metrics.0, readiness.clone(), shutdown);
    server::serve_grpc(listeners.grpc.0, ops, readiness, node.access.clone(), shutdown);
    server::serve_players(listeners.http.0, listeners.door, rest, shutdown);
    tracing::info!(
        http.address = %listeners.http.1,
        grpc.address = %listeners.grpc.1,
        metrics.address = %listeners.metrics.1,
        "The gateway serves."
    );
    Ok(hub)
}

/// Nobody is sent here any more; when that has had time to be heard, the servers stop accepting by themselves, what is in
/// flight ends, then the node leaves.
async fn drain(node: &Node, hub: &Arc<Hub>, readiness: &Readiness, shutdown: &Shutdown) {
    readiness.set_ready(false);
    node.membership.set_state(NodeState::Draining);
    shutdown.draining().cancelled().await;
    let grace = shutdown.grace();
    let sockets = u32::try_from(hub.session_count()).unwrap_or(u32::MAX);
    let spread = (Duration::from_secs(1) / PARTING).saturating_mul(sockets).min(grace / 2);
    hub.close_all(spread, grace.saturating_sub(Duration::from_secs(1))).await;
    // Requests use the pool until they are answered: only then is it closed.
    shutdown.finished().await;
    node.leave().await;
}
