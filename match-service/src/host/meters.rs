//! What matches count, looked up once.

use metrics::{Counter, Histogram};

/// Handles of what every tick moves.
pub struct Meters {
    /// Seconds a tick took.
    pub ticks: Histogram,
    /// Seconds from when a tick was due to when it began.
    pub lateness: Histogram,
    /// Ticks that were let go because a match was held up.
    pub missed: Counter,
    /// Ticks that took longer than their rate allows.
    pub overruns: Counter,
    /// Bytes of a checkpoint.
    pub checkpoint_bytes: Histogram,
    /// Checkpoints that were not written because nothing had changed.
    pub unchanged: Counter,
}

impl Meters {
    #[must_use]
    pub fn new() -> Self {
        Self {
            ticks: metrics::histogram!("asobi_match_tick_seconds"),
            lateness: metrics::histogram!("asobi_match_tick_lateness_seconds"),
            missed: metrics::counter!("asobi_match_ticks_missed_total"),
            overruns: metrics::counter!("asobi_match_overruns_total"),
            checkpoint_bytes: metrics::histogram!("asobi_match_checkpoint_bytes"),
            unchanged: metrics::counter!("asobi_match_checkpoints_unchanged_total"),
        }
    }
}
