//! The typed configuration: one struct per section of `default.toml`, whose comments say what each key means.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use super::effective::Provenance;

/// Everything a process can be told. Made by [`super::load`]; a field's meaning stands in `default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub node: Node,
    pub database: Database,
    pub cluster: Cluster,
    pub http: Http,
    pub grpc: Grpc,
    pub metrics: Metrics,
    pub limits: Limits,
    pub session: Session,
    pub chat: Chat,
    pub migrate: Migrate,
    pub presence: Presence,
    pub auth: Auth,
    pub leaderboards: Leaderboards,
    pub matchmaker: Matchmaker,
    #[serde(rename = "match")]
    pub matches: Matches,
    pub social: Social,
    pub log: Log,
    pub page: Page,
    pub shutdown: ShutdownSection,
    pub telemetry: Telemetry,
    /// Where each value came from, for `asobi config --effective`.
    #[serde(skip)]
    pub provenance: Provenance,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub id: String,
    pub lease_ms: u64,
    pub region: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    pub url: Secret,
    pub direct_url: Secret,
    pub replica_url: Secret,
    pub bus_url: Secret,
    pub max_connections: u32,
    pub timeout_ms: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    pub key: Secret,
    pub previous_key: Secret,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub listen: String,
    pub public_url: String,
    pub tls_cert: PathBuf,
    pub tls_key: PathBuf,
    pub proxy_protocol: ProxyProtocol,
    pub allowed_origins: Vec<String>,
    pub cors_origins: Vec<String>,
    pub trusted_proxies: Vec<String>,
    pub docs: bool,
}

/// Whether connections begin with the header of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    Off,
    Require,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grpc {
    pub listen: String,
    pub advertise: String,
    pub tls_cert: PathBuf,
    pub tls_key: PathBuf,
    pub tls_ca: PathBuf,
    pub tls_name: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    pub listen: String,
}

/// Rates of 0 are off.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub frames_per_second: u32,
    pub connects_per_second: u32,
    pub register_per_second: u32,
    pub auth_per_second: u32,
    pub requests_per_second: u32,
    pub joins_per_minute: u32,
    pub chat_channels: u32,
    pub frame_bytes: usize,
    pub chat_bytes: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    pub auth_timeout_ms: u64,
    pub silence_ms: u64,
    pub queue_frames: usize,
    pub queue_bytes: usize,
    pub slow_ms: u64,
    pub max_per_player: usize,
    pub max_sockets: usize,
    pub connects_under_way: usize,
    pub connect_wait_ms: u64,
    pub legacy_game_events: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chat {
    pub global_channels: Vec<String>,
    pub batch: usize,
    pub gap_ms: u64,
    pub queue: usize,
    pub retention_days: u32,
    pub filter_url: String,
    pub filter_timeout_ms: u64,
    pub filter_on_failure: OnFailure,
    pub filter_in_flight: usize,
}

/// What becomes of a text that could not be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    Allow,
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MigrateVia {
    Url,
    Affinity,
    Pod,
    Off,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    pub via: MigrateVia,
    pub url: String,
    pub cookie: String,
    pub query: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Presence {
    pub grace_ms: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    pub guest: bool,
    pub registration: bool,
    pub access_ttl_s: u64,
    pub refresh_ttl_s: u64,
    pub hash_threads: usize,
    pub hash_queue: usize,
    pub key_rotation_s: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaderboards {
    pub client_submit: Vec<String>,
    pub memory_entries: usize,
    pub preload_entries: i64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matchmaker {
    pub max_queue: usize,
    pub disconnect_grace_ms: u64,
    pub create_timeout_ms: u64,
    pub failover_timeout_ms: u64,
    pub rebalance: bool,
    pub party_size: usize,
    pub invites_per_minute: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matches {
    pub capacity: u32,
    pub games: PathBuf,
    pub reload: bool,
    pub workers: usize,
    pub dev_errors: bool,
    pub memory_bytes: usize,
    pub callback_ms: u64,
    pub input_queue: usize,
    pub move_to: MoveTo,
}

/// Which hosts may go on with a running match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MoveTo {
    /// Those with the version of its script that it started with.
    Same,
    Any,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Social {
    pub timeout_ms: u64,
    pub groups_per_player: u32,
    pub notification_days: u32,
    pub notifications_kept: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Pretty,
    Json,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
    pub lines_per_site: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    pub enabled: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownSection {
    pub ready_delay_ms: u64,
    pub grace_ms: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    pub sample_ratio: f64,
    pub slow_ms: u64,
    pub always_per_second: u32,
    pub client_per_second: u32,
}

/// A value that `Debug` does not show, so that no log line and no panic message can contain it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself; named so that it stands out in a review.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "\"…\"" })
    }
}

const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

impl Node {
    pub const fn lease(&self) -> Duration {
        ms(self.lease_ms)
    }
}

impl Database {
    /// The URL that is never pooled: `direct_url`, or `url` where that is empty.
    pub fn direct(&self) -> &str {
        if self.direct_url.is_empty() { self.url.expose() } else { self.direct_url.expose() }
    }

    pub const fn timeout(&self) -> Duration {
        ms(self.timeout_ms)
    }
}

impl Http {
    /// Whether players are served over TLS by this process itself.
    pub fn has_tls(&self) -> bool {
        !self.tls_cert.as_os_str().is_empty()
    }
}

impl ProxyProtocol {
    pub const fn required(self) -> bool {
        matches!(self, Self::Require)
    }
}

impl Session {
    pub const fn auth_timeout(&self) -> Duration {
        ms(self.auth_timeout_ms)
    }

    pub const fn silence(&self) -> Duration {
        ms(self.silence_ms)
    }

    pub const fn slow(&self) -> Duration {
        ms(self.slow_ms)
    }

    pub const fn connect_wait(&self) -> Duration {
        ms(self.connect_wait_ms)
    }
}

impl Chat {
    pub const fn gap(&self) -> Duration {
        ms(self.gap_ms)
    }

    pub const fn filter_timeout(&self) -> Duration {
        ms(self.filter_timeout_ms)
    }
}

impl Presence {
    pub const fn grace(&self) -> Duration {
        ms(self.grace_ms)
    }
}

impl Auth {
    pub const fn access_ttl(&self) -> Duration {
        Duration::from_secs(self.access_ttl_s)
    }

    pub const fn refresh_ttl(&self) -> Duration {
        Duration::from_secs(self.refresh_ttl_s)
    }

    pub const fn key_rotation(&self) -> Duration {
        Duration::from_secs(self.key_rotation_s)
    }

    /// `hash_threads`, or half of the cores where that is 0: the others go on serving.
    pub fn hashing_threads(&self) -> usize {
        if self.hash_threads > 0 {
            return self.hash_threads;
        }
        std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
    }
}

impl Matchmaker {
    pub const fn disconnect_grace(&self) -> Duration {
        ms(self.disconnect_grace_ms)
    }

    pub const fn create_timeout(&self) -> Duration {
        ms(self.create_timeout_ms)
    }

    pub const fn failover_timeout(&self) -> Duration {
        ms(self.failover_timeout_ms)
    }
}

impl Matches {
    pub const fn callback(&self) -> Duration {
        ms(self.callback_ms)
    }

    /// `workers`, or the number of cores where that is 0.
    pub fn worker_threads(&self) -> usize {
        if self.workers > 0 {
            return self.workers;
        }
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }
}

impl Social {
    pub const fn timeout(&self) -> Duration {
        ms(self.timeout_ms)
    }
}

impl ShutdownSection {
    pub const fn ready_delay(&self) -> Duration {
        ms(self.ready_delay_ms)
    }

    pub const fn grace(&self) -> Duration {
        ms(self.grace_ms)
    }
}
