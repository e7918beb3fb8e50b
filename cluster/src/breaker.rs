//! Who of those that are called is not worth waiting for.
//!
//! ```text
//!  closed ──failures in a row──► open ──a moment later, one call──► closed, when that is answered
//!                                  ▲                            └─► open for another moment
//! ```

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Failures in a row that open a node's breaker.
const FAILURES: u32 = 3;
/// How long it stays open; also what clients are told to wait.
const OPEN: Duration = Duration::from_secs(1);
/// Nodes remembered. Past it, which only addresses that are long gone can bring about, all are forgotten.
const NODES: usize = 256;

/// One breaker per address; only failing ones are held.
#[derive(Default)]
pub struct Breakers(Mutex<HashMap<String, Breaker>>);

#[derive(Default)]
struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
}

impl Breakers {
    // No holder can leave it half-changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Breaker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call may be made now. The one that is let through after the moment keeps the others out for another one: should
    /// it be dropped before its outcome is known, the next follows then.
    pub fn admits(&self, address: &str, now: Instant) -> bool {
        let mut breakers = self.lock();
        match breakers.get_mut(address).map(|breaker| &mut breaker.open_until) {
            None | Some(None) => true,
            Some(Some(until)) if *until <= now => {
                *until = now + OPEN;
                true
            }
            Some(Some(_)) => false,
        }
    }

    /// The node answered, if only with a refusal.
    pub fn answered(&self, address: &str) {
        self.lock().remove(address);
    }

    pub fn failed(&self, address: &str, now: Instant) {
        let mut breakers = self.lock();
        if breakers.len() >= NODES && !breakers.contains_key(address) {
            breakers.clear();
        }
        let breaker = breakers.entry(address.to_owned()).or_default();
        breaker.failures = breaker.failures.saturating_add(1);
        if breaker.failures >= FAILURES {
            if breaker.open_until.is_none() {
                tracing::warn!(addr = address, "A service does not answer; it is tried once a second.");
            }
            breaker.open_until = Some(now + OPEN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_and_one_call_a_moment_finds_out() {
        let (breakers, start) = (Breakers::default(), Instant::now());
        for _ in 1..FAILURES {
            breakers.failed("a", start);
            assert!(breakers.admits("a", start));
        }
        breakers.failed("a", start);
        assert!(!breakers.admits("a", start) && breakers.admits("b", start), "each node has its own");

        let later = start + OPEN;
        assert!(breakers.admits("a", later) && !breakers.admits("a", later), "one call");
        breakers.failed("a", later);
        assert!(!breakers.admits("a", later + OPEN / 2));
        // That one's caller went away: the next one follows.
        assert!(breakers.admits("a", later + OPEN) && breakers.admits("a", later + 2 * OPEN));
        breakers.answered("a");
        assert!(breakers.admits("a", later) && breakers.admits("a", later));
    }

    #[test]
    fn an_answer_between_failures_begins_the_count_anew() {
        let (breakers, now) = (Breakers::default(), Instant::now());
        for _ in 0..10 {
            breakers.failed("a", now);
            breakers.answered("a");
        }
        assert!(breakers.admits("a", now));
    }
}
