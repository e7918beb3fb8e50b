//! The games of this host: scripts of the games folder and what the program brings itself, announced to the cluster and kept current.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use asobi_bus::Publisher;
use asobi_cluster::{Membership, Node};
use asobi_proto::bus::{Topic, WakeItem};
use asobi_service_kit::{Config, service::Misconfigured};
use asobi_store::within;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    game::Registry,
    host::Host,
    lua::{self, Limits, Watcher},
};

/// The games as they are at the start.
pub struct Games {
    pub registry: Registry,
    /// Where scripts are looked at again.
    watched: Option<Watched>,
}

struct Watched {
    watcher: Watcher,
    own: Registry,
}

/// Loads the games folder. A mode of both the folder and the program is the program's; one that brings games need not have a folder.
///
/// # Errors
/// Every mistake in the scripts, as a sentence that says what to do.
pub fn load(config: &Config, own: Registry) -> anyhow::Result<Games> {
    let folder = &config.matches.games;
    if !own.modes().is_empty() && !folder.exists() {
        tracing::info!(folder = %folder.display(), "There is no games folder; the games are the program's own.");
        return Ok(Games { registry: own, watched: None });
    }
    let limits = Limits { memory_bytes: config.matches.memory_bytes, callback: config.matches.callback() };
    let wrong = |error: lua::LoadError| {
        anyhow::Error::from(Misconfigured(error.to_string()))
            .context("match.games names a folder whose games do not load")
    };
    let (registry, manifest, watcher) = if config.matches.reload {
        let (watcher, registry, manifest) = Watcher::load(folder, limits).map_err(wrong)?;
        (registry, manifest, Some(watcher))
    } else {
        let (registry, manifest) = lua::load(folder, limits).map_err(wrong)?;
        (registry, manifest, None)
    };
    if let Some(guests) = manifest.guest_auth {
        tracing::info!(guests, "The games' manifest has a wish about guests; auth.guest decides.");
    }
    let watched = watcher.map(|watcher| Watched { watcher, own: own.clone() });
    Ok(Games { registry: registry.with(own), watched })
}

/// Tells the cluster what can be played here.
pub struct Announcer {
    pool: PgPool,
    publisher: Publisher,
    membership: Arc<Membership>,
    timeout: Duration,
}

impl Announcer {
    pub fn new(config: &Config, node: &Node) -> Self {
        Self {
            pool: node.pool.clone(),
            publisher: node.bus.publisher().clone(),
            membership: Arc::clone(&node.membership),
            timeout: config.database.timeout(),
        }
    }

    /// # Errors
    /// The database did not answer.
    pub async fn announce(&self, host: &Host) -> anyhow::Result<()> {
        let (identity, modes) = (self.membership.identity(), host.modes());
        let publishing = asobi_store::modes::publish(&self.pool, &identity.node_id, identity.incarnation, &modes);
        within(self.timeout, publishing).await.context("the modes could not be announced")?;
        // A lost wake-up costs others their next look at the rows.
        let _ = self.publisher.publish(Topic::Modes, &WakeItem {});
        Ok(())
    }
}

impl Games {
    /// Takes the part that follows the folder out.
    pub fn take_changes(&mut self) -> Option<Changes> {
        self.watched.take().map(Changes)
    }
}

/// Changes of the games folder.
pub struct Changes(Watched);

impl Changes {
    /// Brings every change to the host, running matches included, until `stop`.
    pub async fn follow(mut self, host: Arc<Host>, announcer: Announcer, stop: CancellationToken) {
        loop {
            let registry = tokio::select! {
                registry = self.0.watcher.changed() => registry,
                () = stop.cancelled() => return,
            };
            host.reload(registry.with(self.0.own.clone()));
            tracing::info!(modes = host.modes().len(), "The games have changed and were loaded again.");
            if let Err(error) = announcer.announce(&host).await {
                tracing::warn!(%error, "New matches may begin with old settings until the next change.");
            }
        }
    }
}
