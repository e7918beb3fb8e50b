//! Whether this host may act for its matches at this moment.
//!
//! ```text
//!            renewed in time; or the database is away for everybody
//!           ┌──────┐
//!           ▼      │            the time ran out
//!        trusted ──┴─────────────────────────────────► in doubt
//!           ▲                                             │ no tick, no input, no frame leaves
//!           └── renewed, and the rows say what is still ours ──┘
//! ```
//!
//! It is a time that runs out by itself: a process that was stopped and goes on finds itself in doubt before it does anything else.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// See the module. [`crate::lease`] renews it.
pub struct Trust {
    base: Instant,
    /// Microseconds after `base`.
    until: AtomicU64,
    renewed: Notify,
}

impl Trust {
    /// Trusted until then.
    #[must_use]
    pub fn new(until: Instant) -> Self {
        let base = Instant::now();
        let trust = Self { base, until: AtomicU64::new(0), renewed: Notify::new() };
        trust.extend(until);
        trust
    }

    /// For matches that no other host could take: always trusted.
    #[must_use]
    pub fn unbounded() -> Self {
        Self { base: Instant::now(), until: AtomicU64::new(u64::MAX), renewed: Notify::new() }
    }

    #[must_use]
    pub fn holds(&self) -> bool {
        self.until.load(Ordering::Acquire) > micros(self.base.elapsed())
    }

    /// How long it still holds.
    #[must_use]
    pub fn left(&self) -> Duration {
        let until = Duration::from_micros(self.until.load(Ordering::Acquire));
        until.saturating_sub(self.base.elapsed())
    }

    /// Trusted until then, if that is later than before.
    pub fn extend(&self, until: Instant) {
        self.until.fetch_max(micros(until.saturating_duration_since(self.base)), Ordering::AcqRel);
        self.renewed.notify_waiters();
    }

    /// Waits until it holds.
    pub async fn regained(&self) {
        loop {
            let renewed = self.renewed.notified();
            tokio::pin!(renewed);
            renewed.as_mut().enable();
            if self.holds() {
                return;
            }
            renewed.await;
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_runs_out_by_itself_and_is_regained_by_a_renewal() {
        let trust = std::sync::Arc::new(Trust::new(Instant::now()));
        assert!(!trust.holds());
        let waiting = tokio::spawn({
            let trust = std::sync::Arc::clone(&trust);
            async move { trust.regained().await }
        });
        trust.extend(Instant::now() + Duration::from_secs(60));
        waiting.await.expect("regained");
        assert!(trust.holds());
        trust.extend(Instant::now());
        assert!(trust.left() > Duration::from_secs(50), "an earlier time takes nothing away");
        assert!(Trust::unbounded().holds());
    }
}
