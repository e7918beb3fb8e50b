//! The listeners of a node that players reach. Bound before anything is built, so that a taken port is the first thing
//! that is said.

use std::net::SocketAddr;

use asobi_cluster::NodeAddresses;
use asobi_service_kit::{
    Config,
    server::{self, Door},
};
use tokio::net::TcpListener;

/// Each with the address it is bound to.
pub struct Listeners {
    pub http: (TcpListener, SocketAddr),
    /// How players come in there.
    pub door: Door,
    pub grpc: (TcpListener, SocketAddr),
    pub metrics: (TcpListener, SocketAddr),
}

impl Listeners {
    /// # Errors
    /// When an address is taken or none, with its key, or the certificate for players cannot be used.
    pub async fn bind(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            http: server::bind("http.listen", &config.http.listen).await?,
            door: Door::of(&config.http)?,
            grpc: server::bind("grpc.listen", &config.grpc.listen).await?,
            metrics: server::bind("metrics.listen", &config.metrics.listen).await?,
        })
    }

    /// As the node registers them.
    #[must_use]
    pub fn addresses(&self) -> NodeAddresses {
        NodeAddresses { http: Some(self.http.1), grpc: self.grpc.1, metrics: self.metrics.1 }
    }
}
