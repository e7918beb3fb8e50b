//! What is known of a node only at the moment somebody looks: how old its lease is, what waits, what its pool has. And what is tried so
//! that it can be known: how long a connection takes to be had.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use asobi_service_kit::telemetry;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{Directory, Membership, Role};

/// Between two tries of the pool.
const EVERY: Duration = Duration::from_secs(1);

/// Has the gauges of a node set whenever metrics are read, for as long as it is there.
pub(crate) fn observe(membership: &Arc<Membership>, directory: &Arc<Directory>, pool: &PgPool) {
    let (membership, directory, pool) = (Arc::downgrade(membership), Arc::downgrade(directory), pool.clone());
    telemetry::observe(move || {
        // A pool that is held here is not kept open.
        match membership.upgrade() {
            Some(membership) if !pool.is_closed() => {
                look(&membership, &directory, &pool);
                true
            }
            _ => false,
        }
    });
}

fn look(membership: &Membership, directory: &Weak<Directory>, pool: &PgPool) {
    metrics::gauge!("asobi_cluster_lease_age_seconds").set(membership.last_contact().as_secs_f64());
    metrics::gauge!("asobi_cluster_lease_seconds").set(membership.lease().as_secs_f64());
    metrics::gauge!("asobi_bus_queue_items").set(membership.hints_waiting() as f64);
    let (all, idle) = (pool.size(), pool.num_idle());
    let in_use = usize::try_from(all).unwrap_or(usize::MAX).saturating_sub(idle);
    metrics::gauge!("asobi_database_pool_connections", "state" => "idle").set(idle as f64);
    metrics::gauge!("asobi_database_pool_connections", "state" => "in_use").set(in_use as f64);
    metrics::gauge!("asobi_database_pool_max").set(f64::from(pool.options().get_max_connections()));
    let Some(directory) = directory.upgrade() else { return };
    let nodes = directory.all();
    for role in [Role::Gateway, Role::Match, Role::Matchmaker, Role::Social] {
        let alive = nodes.iter().filter(|node| node.alive && node.role == role.as_str()).count();
        metrics::gauge!("asobi_cluster_nodes", "service" => process(role)).set(alive as f64);
    }
}

/// What a process of the role is called.
fn process(role: Role) -> &'static str {
    match role {
        Role::Gateway => "gateway",
        Role::Match => "match-service",
        Role::Matchmaker => "matchmaker",
        Role::Social => "social-service",
    }
}

/// Takes a connection from the pool and gives it back, again and again until `stop`: whoever has something to do waits as long.
pub(crate) async fn try_pool(pool: PgPool, stop: CancellationToken) {
    let waits = metrics::histogram!("asobi_database_pool_wait_seconds");
    let timeouts = metrics::counter!("asobi_database_pool_timeouts_total");
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
        let asked = Instant::now();
        // Bounded by the pool's own time-out.
        let had = tokio::select! {
            had = pool.acquire() => had,
            () = stop.cancelled() => return,
        };
        match had {
            Ok(_back) => {}
            Err(sqlx::Error::PoolClosed) => return,
            Err(_) => timeouts.increment(1),
        }
        waits.record(asked.elapsed().as_secs_f64());
    }
}
