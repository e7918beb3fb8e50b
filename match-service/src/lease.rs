//! What becomes of running matches when the host cannot renew its lease.
//!
//! ```text
//!  lease held ──no renewal for a lease──► in doubt ──somebody answers──► goes on, asks again
//!                                            └──nobody answers──► its matches stop
//! ```
//!
//! While PostgreSQL is away nobody can take a match over, because that is a write; so as long as any other node answers, it
//! is the database that is gone and not we. A host that nobody answers is the one that is cut off: others may hold the
//! database and give its matches away, so it stops them.

use std::{sync::Arc, time::Duration};

use asobi_cluster::{Directory, Membership, Node, Role};
use asobi_service_kit::grpc::{Channels, with_deadline};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::host::{Host, Stop};

const ANSWER: Duration = Duration::from_millis(800);
/// Nodes that are asked in one round.
const ASKED: usize = 16;

/// What the guard looks at.
pub struct LeaseGuard {
    membership: Arc<Membership>,
    directory: Arc<Directory>,
    channels: Channels,
    host: Arc<Host>,
}

impl LeaseGuard {
    pub fn new(node: &Node, host: &Arc<Host>) -> Self {
        Self {
            membership: Arc::clone(&node.membership),
            directory: Arc::clone(&node.directory),
            channels: node.channels.clone(),
            host: Arc::clone(host),
        }
    }

    /// Whether any matchmaker or gateway still answers. What it answers does not matter.
    async fn anybody_answers(&self) -> bool {
        let nodes = self.directory.all();
        let others =
            nodes.iter().filter(|node| [Role::Gateway, Role::Matchmaker].iter().any(|r| node.role == r.as_str()));
        let mut asked: FuturesUnordered<_> = others
            .filter(|node| node.state != "stopped")
            .filter_map(|node| node.grpc_addr.as_deref())
            .take(ASKED)
            .map(|addr| {
                let mut client = HealthClient::new(self.channels.get(addr));
                async move {
                    let request = with_deadline(HealthCheckRequest { service: String::new() }, ANSWER);
                    matches!(tokio::time::timeout(ANSWER, client.check(request)).await, Ok(Ok(_)))
                }
            })
            .collect();
        while let Some(answered) = asked.next().await {
            if answered {
                return true;
            }
        }
        false
    }
}

/// Watches until `stop`.
pub async fn guard(guard: LeaseGuard, stop: CancellationToken) {
    let mut in_doubt = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(guard.membership.lease() / 5) => {}
            () = stop.cancelled() => return,
        }
        if guard.membership.holds_lease() || guard.host.count() == 0 {
            in_doubt = false;
            continue;
        }
        let silent_ms = u64::try_from(guard.membership.last_contact().as_millis()).unwrap_or(u64::MAX);
        if guard.anybody_answers().await {
            if !std::mem::replace(&mut in_doubt, true) {
                tracing::warn!(
                    silent_ms,
                    matches = guard.host.count(),
                    "The database is away; others answer, so the matches go on."
                );
            }
            continue;
        }
        if !guard.membership.holds_lease() {
            tracing::error!(
                silent_ms,
                matches = guard.host.count(),
                "The lease is lost and nobody answers; this host's matches stop."
            );
            guard.host.stop_all(Stop::Lost);
        }
    }
}
