//! What every process needs to be a good one: configuration, telemetry, health, graceful shutdown, and the defaults of
//! servers and clients. Knows nothing of games, players or SQL.

pub mod address;
pub mod config;
pub mod grpc;
pub mod health;
pub mod probe;
pub mod rate;
pub mod server;
pub mod service;
pub mod shutdown;
pub mod starting;
pub mod telemetry;
mod tls;

pub use config::{Config, ConfigArgs};
pub use health::Readiness;
pub use shutdown::Shutdown;
