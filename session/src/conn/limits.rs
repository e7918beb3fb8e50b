//! Rates, as pure counters over a clock that the caller reads.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// So many per second, with bursts of one second's worth.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    tokens: f32,
    last: Instant,
}

impl Rate {
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        Self { tokens: per_second as f32, last: now }
    }

    /// Whether one more is within the rate; 0 per second is no limit.
    pub(crate) fn allows(&mut self, per_second: u32, now: Instant) -> bool {
        if per_second == 0 {
            return true;
        }
        let most = per_second as f32;
        self.tokens = (self.tokens + now.saturating_duration_since(self.last).as_secs_f32() * most).min(most);
        self.last = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// At most one in a period: for errors that would otherwise answer every frame.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OncePer {
    last: Option<Instant>,
}

impl OncePer {
    pub(crate) fn allows(&mut self, period: Duration, now: Instant) -> bool {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < period) {
            return false;
        }
        self.last = Some(now);
        true
    }
}

/// The least share of a player's joins, however many gateways there are: a player has one or two sockets, not one on each.
const LEAST_JOINS: u32 = 3;

/// What one node lets a player join of a limit that is the whole cluster's; 0 is no limit.
pub(crate) fn joins_share(limit: u32, gateways: u32) -> u32 {
    limit.div_ceil(gateways.max(1)).max(limit.min(LEAST_JOINS))
}

/// So many per window and key. Keys that were silent for a window are forgotten; when `most_keys` are known and none can be
/// forgotten, an unknown key is allowed: the bound protects memory, the limit protects from those already known.
#[derive(Debug)]
pub(crate) struct PerKey<K> {
    window: Duration,
    most_keys: usize,
    seen: Mutex<Seen<K>>,
}

#[derive(Debug)]
struct Seen<K> {
    times: HashMap<K, VecDeque<Instant>, foldhash::fast::RandomState>,
    swept: Option<Instant>,
}

impl<K: Hash + Eq> PerKey<K> {
    pub(crate) fn new(window: Duration, most_keys: usize) -> Self {
        Self { window, most_keys, seen: Mutex::new(Seen { times: HashMap::default(), swept: None }) }
    }

    /// Counts one, unless the limit is reached; 0 is no limit. The limit is named each time, because a share changes.
    pub(crate) fn allows(&self, key: K, limit: u32, now: Instant) -> bool {
        if limit == 0 {
            return true;
        }
        let over = |at: &Instant| now.saturating_duration_since(*at) >= self.window;
        let mut seen = self.seen.lock();
        if seen.swept.is_none_or(|at| over(&at)) {
            seen.times.retain(|_, times| times.back().is_some_and(|at| !over(at)));
            seen.swept = Some(now);
        }
        if seen.times.len() >= self.most_keys && !seen.times.contains_key(&key) {
            return true;
        }
        let times = seen.times.entry(key).or_default();
        while times.front().is_some_and(over) {
            times.pop_front();
        }
        if times.len() >= limit as usize {
            return false;
        }
        times.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_rate_allows_a_burst_and_then_its_pace() {
        let start = Instant::now();
        let mut rate = Rate::new(60, start);
        assert_eq!((0..70).filter(|_| rate.allows(60, start)).count(), 60);
        assert_eq!((0..70).filter(|_| rate.allows(60, start + SECOND / 2)).count(), 30);
        assert!((0..1000).all(|_| rate.allows(0, start)));
    }

    #[test]
    fn joins_are_shared_but_never_to_nothing() {
        assert_eq!([1, 2, 3, 40].map(|gateways| joins_share(10, gateways)), [10, 5, 4, 3]);
        assert_eq!([1, 3].map(|gateways| joins_share(2, gateways)), [2, 2]);
        assert_eq!(joins_share(0, 3), 0, "off is off");
    }

    #[test]
    fn once_per_period() {
        let (start, mut once) = (Instant::now(), OncePer::default());
        assert!(once.allows(SECOND, start) && !once.allows(SECOND, start));
        assert!(once.allows(SECOND, start + SECOND));
    }

    #[test]
    fn keys_are_counted_apart_and_forgotten() {
        let start = Instant::now();
        let limit = PerKey::new(SECOND, 3);
        assert!(limit.allows("a", 2, start) && limit.allows("a", 2, start) && !limit.allows("a", 2, start));
        assert!(limit.allows("b", 2, start));
        assert!(limit.allows("a", 3, start), "a gateway has gone, and the share has grown");
        assert!(limit.allows("a", 2, start + SECOND));
        limit.allows("c", 2, start + 3 * SECOND);
        assert_eq!(limit.seen.lock().times.len(), 1);
    }
}
