//! Rates per client address and per player.

use std::{
    hash::Hash,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_cluster::Directory;
use asobi_service_kit::{
    config,
    rate::{Keyed, Left, Rate},
};
use axum::http::{HeaderMap, HeaderValue};
use uuid::Uuid;

use crate::error::{ApiError, Result};

/// Addresses or players whose rates are remembered at once, for each limit.
const KEYS: usize = 100_000;
const SECOND: Duration = Duration::from_secs(1);
const ERASURES_PER_MINUTE: u32 = 3;
const REPORTS_PER_MINUTE: u32 = 10;

/// One limit of the whole cluster; this node takes its share of it.
struct Limit<K> {
    keyed: Keyed<K>,
    limit: u32,
    period: Duration,
}

impl<K: Hash + Eq + Clone> Limit<K> {
    fn new(limit: u32, period: Duration) -> Self {
        Self { keyed: Keyed::new(KEYS), limit, period }
    }

    /// Takes one; none when the limit is off.
    fn check(&self, key: &K, nodes: u32, now: Instant) -> Result<Option<Left>, Duration> {
        let Some(rate) = Rate::share(self.limit, self.period, nodes) else { return Ok(None) };
        self.keyed.check(key, rate, now).map(Some)
    }
}

/// The limits of REST routes, each the cluster's: a client that a balancer spreads over the gateways gets no more than by
/// one of them. Shared among the live gateways in the registry; a match host, which only the players of its matches
/// reach, takes the share of a gateway.
pub(crate) struct Limits {
    directory: Arc<Directory>,
    register: Limit<IpAddr>,
    auth: Limit<IpAddr>,
    requests: Limit<IpAddr>,
    erase: Limit<Uuid>,
    reports: Limit<Uuid>,
}

impl Limits {
    pub fn new(limits: &config::Limits, directory: Arc<Directory>) -> Self {
        Self {
            directory,
            register: Limit::new(limits.register_per_second, SECOND),
            auth: Limit::new(limits.auth_per_second, SECOND),
            requests: Limit::new(limits.requests_per_second, SECOND),
            erase: Limit::new(ERASURES_PER_MINUTE, 60 * SECOND),
            reports: Limit::new(REPORTS_PER_MINUTE, 60 * SECOND),
        }
    }

    /// Counts a request to a path under `/api/v1`.
    pub fn check(&self, path: &str, client: IpAddr) -> Result<Option<Left>, Refused> {
        let limit = match path {
            "/auth/register" => &self.register,
            path if path.starts_with("/auth/") => &self.auth,
            _ => &self.requests,
        };
        limit.check(&client, self.directory.gateways(), Instant::now()).map_err(|wait| {
            metrics::counter!("asobi_rest_refused_total", "reason" => "rate_limited").increment(1);
            Refused { wait }
        })
    }

    /// Counts an attempt of a player to erase themself, on top of the address's requests.
    pub fn check_erase(&self, player: Uuid) -> Result<()> {
        let checked = self.erase.check(&player, self.directory.gateways(), Instant::now());
        checked.map(drop).map_err(|wait| ApiError::rate_limited(wait).saying("Too many attempts by this player."))
    }

    /// Counts a report by a player, on top of the address's requests.
    pub fn check_report(&self, player: Uuid) -> Result<()> {
        let checked = self.reports.check(&player, self.directory.gateways(), Instant::now());
        checked.map(drop).map_err(|wait| ApiError::rate_limited(wait).saying("Too many reports by this player."))
    }
}

/// Too much from one address.
pub(crate) struct Refused {
    wait: Duration,
}

impl Refused {
    pub fn error(&self) -> ApiError {
        ApiError::rate_limited(self.wait)
    }

    pub fn left(&self) -> Left {
        Left { remaining: 0, reset: self.wait }
    }
}

/// Tells what is left with an answer.
pub(crate) fn write(left: Left, headers: &mut HeaderMap) {
    let reset_ms = u64::try_from(left.reset.as_millis()).unwrap_or(u64::MAX);
    headers.insert("x-ratelimit-remaining", HeaderValue::from(left.remaining));
    headers.insert("x-ratelimit-reset", HeaderValue::from(reset_ms));
}
