//! Rates per client address.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use asobi_service_kit::config;
use axum::http::{HeaderMap, HeaderValue};
use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
    middleware::StateInformationMiddleware,
    state::keyed::DashMapStateStore,
};
use uuid::Uuid;

use crate::error::{ApiError, Result};

/// After so many checks keys that have recovered are forgotten; so at most that many more than are active are kept.
const FORGET_AFTER: u32 = 4_096;

type Keyed<K> = RateLimiter<K, DashMapStateStore<K>, DefaultClock, StateInformationMiddleware>;

/// One rate, for each key of its own. Its memory is bounded by the keys that are active within the period.
pub(crate) struct Limit<K: std::hash::Hash + Eq + Clone> {
    /// None: switched off.
    keyed: Option<(Keyed<K>, Quota)>,
    checks: AtomicU32,
}

/// What is left of a rate, for the headers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left {
    remaining: u32,
    /// Until all of it is back.
    reset: Duration,
}

impl<K: std::hash::Hash + Eq + Clone> Limit<K> {
    pub fn per_second(rate: u32) -> Self {
        Self::of(NonZeroU32::new(rate).map(Quota::per_second))
    }

    pub fn per_minute(rate: u32) -> Self {
        Self::of(NonZeroU32::new(rate).map(Quota::per_minute))
    }

    fn of(quota: Option<Quota>) -> Self {
        let keyed =
            quota.map(|quota| (RateLimiter::dashmap(quota).with_middleware::<StateInformationMiddleware>(), quota));
        Self { keyed, checks: AtomicU32::new(0) }
    }

    /// Takes one; none when the limit is off.
    pub fn check(&self, key: &K) -> Result<Option<Left>, Duration> {
        let Some((keyed, quota)) = &self.keyed else { return Ok(None) };
        if self.checks.fetch_add(1, Ordering::Relaxed) % FORGET_AFTER == FORGET_AFTER - 1 {
            keyed.retain_recent();
        }
        match keyed.check_key(key) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let used = quota.burst_size().get().saturating_sub(remaining);
                Ok(Some(Left { remaining, reset: quota.replenish_interval() * used }))
            }
            Err(until) => Err(until.wait_time_from(DefaultClock::default().now())),
        }
    }
}

/// The limits of this node's REST routes.
pub(crate) struct Limits {
    register: Limit<IpAddr>,
    auth: Limit<IpAddr>,
    requests: Limit<IpAddr>,
    /// Per player, on top of the others.
    pub erase: Limit<Uuid>,
}

impl Limits {
    pub fn new(limits: &config::Limits) -> Self {
        Self {
            register: Limit::per_second(limits.register_per_second),
            auth: Limit::per_second(limits.auth_per_second),
            requests: Limit::per_second(limits.requests_per_second),
            erase: Limit::per_minute(3),
        }
    }

    /// Counts a request to a path under `/api/v1`.
    pub fn check(&self, path: &str, client: IpAddr) -> Result<Option<Left>, Refused> {
        let limit = match path {
            "/auth/register" => &self.register,
            path if path.starts_with("/auth/") => &self.auth,
            _ => &self.requests,
        };
        limit.check(&client).map_err(|wait| {
            metrics::counter!("asobi_rest_refused_total", "reason" => "rate_limited").increment(1);
            Refused { wait }
        })
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

impl Left {
    pub fn write(self, headers: &mut HeaderMap) {
        let reset_ms = u64::try_from(self.reset.as_millis()).unwrap_or(u64::MAX);
        headers.insert("x-ratelimit-remaining", HeaderValue::from(self.remaining));
        headers.insert("x-ratelimit-reset", HeaderValue::from(reset_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_no_more() {
        let limit = Limit::per_second(3);
        let address: IpAddr = "10.0.0.1".parse().expect("address");
        for left in [2, 1, 0] {
            assert_eq!(limit.check(&address).ok().flatten().map(|l| l.remaining), Some(left));
        }
        let wait = limit.check(&address).expect_err("refused");
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1));
        assert!(limit.check(&"10.0.0.2".parse().expect("address")).is_ok(), "others are not concerned");
    }

    #[test]
    fn zero_is_off() {
        let limit = Limit::per_second(0);
        let address: IpAddr = "10.0.0.1".parse().expect("address");
        assert!((0..1_000).all(|_| matches!(limit.check(&address), Ok(None))));
    }
}
