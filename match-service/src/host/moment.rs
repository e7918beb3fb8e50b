//! Points in time that mean the same on another host.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A point in time, by this process's clock and by everybody's. Clocks of hosts are taken to agree to some milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub at: Instant,
    /// Kept and not reckoned again: a snapshot of what waits for it is the same each time.
    pub unix_ms: u64,
}

impl Moment {
    #[must_use]
    pub fn after(wait: Duration) -> Self {
        Self { at: Instant::now() + wait, unix_ms: now_ms().saturating_add(millis(wait)) }
    }

    /// One that another host has named; one that has passed is now.
    #[must_use]
    pub fn of(unix_ms: u64) -> Self {
        // A day more than anything may wait.
        let wait = Duration::from_millis(unix_ms.saturating_sub(now_ms())).min(Duration::from_secs(2 * 86_400));
        Self { at: Instant::now() + wait, unix_ms }
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
