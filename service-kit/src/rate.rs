//! Rates per key, in bounded memory, and how a rate of the whole cluster is shared among its nodes.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher as _, Hash},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

const SHARDS: usize = 16;
/// How often keys that are back at their full rate are forgotten.
const FORGET: Duration = Duration::from_secs(10);

/// So many at once, and then one in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub burst: u32,
    pub every: Duration,
}

impl Rate {
    /// One node's share of so many per period among so many nodes. The shares of the pace make up the whole exactly; bursts
    /// are rounded up, so that each node lets something through. None: 0 per period, which is no limit.
    #[must_use]
    pub fn share(limit: u32, period: Duration, nodes: u32) -> Option<Self> {
        let nodes = nodes.max(1);
        (limit > 0)
            .then(|| Self { burst: limit.div_ceil(nodes), every: period.mul_f64(f64::from(nodes) / f64::from(limit)) })
    }
}

/// What is left of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub remaining: u32,
    /// Until all of it is back.
    pub reset: Duration,
}

/// One rate for each key of its own. The rate is named with every check, because a node's share changes with the cluster;
/// what a key has used stays used. When as many keys as may be are known and none can be forgotten, an unknown key passes
/// and is counted: the bound protects memory, the rate protects from those already known.
pub struct Keyed<K> {
    shards: Box<[Mutex<Shard<K>>]>,
    hasher: RandomState,
    most_keys: usize,
}

struct Shard<K> {
    /// When the key will be back at its full rate.
    full_at: HashMap<K, Instant>,
    swept: Option<Instant>,
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    #[must_use]
    pub fn new(most_keys: usize) -> Self {
        let shard = || Mutex::new(Shard { full_at: HashMap::new(), swept: None });
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            hasher: RandomState::new(),
            most_keys: most_keys.div_ceil(SHARDS),
        }
    }

    /// Takes one.
    ///
    /// # Errors
    /// How long to wait for the next.
    pub fn check(&self, key: &K, rate: Rate, now: Instant) -> Result<Left, Duration> {
        let at = usize::try_from(self.hasher.hash_one(key) >> 32).unwrap_or(0) % SHARDS;
        let mut shard = self.shards[at].lock().unwrap_or_else(PoisonError::into_inner);
        shard.forget(now, self.most_keys);
        let full_at = shard.full_at.get(key).copied().filter(|at| *at > now).unwrap_or(now);
        let used = full_at.saturating_duration_since(now);
        let may_have_used = rate.every * rate.burst.saturating_sub(1);
        if used > may_have_used {
            return Err(used - may_have_used);
        }
        let reset = used + rate.every;
        if shard.full_at.len() < self.most_keys || shard.full_at.contains_key(key) {
            shard.full_at.insert(key.clone(), now + reset);
        } else {
            metrics::counter!("asobi_limits_unknown_keys_total").increment(1);
        }
        let taken = (reset.as_secs_f64() / rate.every.as_secs_f64()).ceil();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and at most the burst")]
        let remaining = rate.burst.saturating_sub(taken as u32);
        Ok(Left { remaining, reset })
    }

    /// How many keys are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).full_at.len()).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Hash + Eq> Shard<K> {
    fn forget(&mut self, now: Instant, most: usize) {
        // A full shard is looked through more often, but never for each of the keys that do not fit.
        let pause = if self.full_at.len() >= most { FORGET / 10 } else { FORGET };
        if self.swept.is_none_or(|at| now.saturating_duration_since(at) >= pause) {
            self.full_at.retain(|_, at| *at > now);
            if self.full_at.capacity() > 4 * self.full_at.len().max(64) {
                self.full_at.shrink_to_fit();
            }
            self.swept = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn passed(keyed: &Keyed<u32>, key: u32, rate: Rate, tries: u32, now: Instant) -> usize {
        (0..tries).filter(|_| keyed.check(&key, rate, now).is_ok()).count()
    }

    #[test]
    fn a_burst_passes_and_then_the_pace() {
        let (keyed, start) = (Keyed::new(100), Instant::now());
        let rate = Rate::share(4, SECOND, 1).expect("a limit");
        let left: Vec<_> = (0..4).map(|_| keyed.check(&1, rate, start).map(|l| l.remaining)).collect();
        assert_eq!(left, [Ok(3), Ok(2), Ok(1), Ok(0)]);
        assert_eq!(keyed.check(&1, rate, start), Err(SECOND / 4));
        assert_eq!(
            keyed.check(&2, rate, start),
            Ok(Left { remaining: 3, reset: SECOND / 4 }),
            "others are not concerned"
        );
        assert_eq!(passed(&keyed, 1, rate, 9, start + SECOND / 2), 2);
        assert_eq!(passed(&keyed, 1, rate, 9, start + 9 * SECOND), 4);
        assert_eq!(Rate::share(0, SECOND, 3), None, "0 is off");
    }

    #[test]
    fn nodes_that_come_and_go_share_one_rate() {
        let start = Instant::now();
        let all: Vec<Keyed<u32>> = (0..3).map(|_| Keyed::new(100)).collect();
        // Minute after minute with another number of nodes, one client asks all of them as fast as it can.
        for (minute, nodes) in [1_u32, 2, 3, 2, 1].into_iter().enumerate() {
            let rate = Rate::share(6, SECOND, nodes).expect("a limit");
            let begin = start + Duration::from_secs(60) * u32::try_from(minute).expect("few");
            let mut total = 0;
            for tick in 0..1_000_u32 {
                let now = begin + Duration::from_millis(10) * tick;
                total += all.iter().take(nodes as usize).filter(|node| node.check(&1, rate, now).is_ok()).count();
            }
            // Ten seconds at 6 per second, after the burst of 6.
            assert!((63..=66).contains(&total), "{total} with {nodes} nodes");
        }
    }

    #[test]
    fn a_share_that_shrinks_forgives_nothing() {
        let (keyed, start) = (Keyed::new(100), Instant::now());
        let alone = Rate::share(6, SECOND, 1).expect("a limit");
        assert_eq!(passed(&keyed, 1, alone, 9, start), 6);
        let third = Rate::share(6, SECOND, 3).expect("a limit");
        assert_eq!(third, Rate { burst: 2, every: SECOND / 2 });
        assert_eq!(passed(&keyed, 1, third, 9, start + SECOND / 10), 0);
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let (keyed, start) = (Keyed::new(160), Instant::now());
        let rate = Rate::share(1, SECOND, 1).expect("a limit");
        for key in 0..10_000 {
            assert!(keyed.check(&key, rate, start).is_ok());
        }
        assert_eq!(keyed.len(), 160, "every place is taken, and nobody was refused for it");
        let later = start + 20 * SECOND;
        // Enough for every shard to be asked.
        for key in 10_000..11_000 {
            assert!(keyed.check(&key, rate, later).is_ok());
        }
        let shards = keyed.shards.iter().map(|shard| shard.lock().expect("no panic"));
        assert!(
            shards.flat_map(|s| s.full_at.keys().copied().collect::<Vec<_>>()).all(|key| key >= 10_000),
            "forgotten"
        );
        let refused = (10_000..11_000).filter(|key| keyed.check(key, rate, later).is_err()).count();
        assert_eq!(refused, 160, "who has recovered makes room for news");
    }
}
