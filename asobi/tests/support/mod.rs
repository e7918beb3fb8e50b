//! A whole cluster of real processes on a fresh database, and players who talk to it like any client.
//!
//! ```ignore
//! let cluster = Cluster::new().gateways(2).match_hosts(2).start().await?;
//! let mut ada = cluster.player(0, "ada").await?;
//! let joined = ada.call("chat.join", json!({"channel_id": "global:lobby"})).await?;
//! ```

pub mod authority;
pub mod client;
pub mod cluster;
pub mod door;
pub mod haproxy;
pub mod proxy;
pub mod rest;
mod schema;

use std::time::Duration;

pub use client::Client;
pub use cluster::Cluster;
pub use proxy::Proxy;

/// How long a play waits for anything. Time bounds are the benches' business; this only ends a play that hangs.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// Looks again and again until something is so: for what no event tells.
pub async fn until(what: &str, mut so: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let started = std::time::Instant::now();
    while !so().await? {
        anyhow::ensure!(started.elapsed() < PATIENCE, "{what}: not within {} s", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
