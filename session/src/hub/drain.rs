//! Leaving in good order: no new sockets, answers in flight are sent, then every socket is closed with 1012, spread over
//! a part of the grace period so that the clients do not all come back to the others in one moment.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::Hub;

/// Sockets are asked to go in so many groups.
const GROUPS: usize = 20;

impl Hub {
    /// Refuses new sockets from now on.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Closes all sockets with 1012 `restarting`, spread over `spread`, waits until they are gone and their players' rows
    /// with them, at most until `within` from now, and ends the hub's tasks.
    pub async fn close_all(self: &Arc<Self>, spread: Duration, within: Duration) {
        let (started, until) = (Instant::now(), Instant::now() + within);
        self.begin_drain();
        let conns = self.registry.all();
        tracing::info!(
            sockets = conns.len(),
            spread_ms = spread.as_millis() as u64,
            "Asking the sockets to go elsewhere."
        );
        let size = conns.len().div_ceil(GROUPS).max(1);
        let groups = u32::try_from(conns.len().div_ceil(size)).unwrap_or(1).max(1);
        for (n, group) in conns.chunks(size).enumerate() {
            tokio::time::sleep_until(started + spread / groups * u32::try_from(n).unwrap_or(0)).await;
            group.iter().for_each(|conn| conn.drain());
        }
        drop(conns);
        self.sockets.close();
        if timeout_at(until, self.sockets.wait()).await.is_err() {
            tracing::warn!(sockets = self.session_count(), "Some sockets did not close in time and are dropped.");
        }
        let _ = timeout_at(until, self.chat.flushed()).await;
        let _ = timeout_at(until, self.presence.settled()).await;
        self.stop.cancel();
    }
}
