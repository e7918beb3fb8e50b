//! What matches count, looked up once.

use std::{sync::Arc, time::Duration};

use asobi_service_kit::telemetry;
use metrics::{Counter, Histogram};

use super::Host;

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

/// Has shown, whenever metrics are read, whether the host may act and for how long its matches have gone unsaved.
pub fn observe(host: &Arc<Host>) {
    let host = Arc::downgrade(host);
    telemetry::observe(move || {
        let Some(host) = host.upgrade() else { return false };
        metrics::gauge!("asobi_match_trusted").set(if host.trust.holds() { 1.0 } else { 0.0 });
        let (age, overdue) = host.unsaved();
        metrics::gauge!("asobi_match_checkpoint_age_seconds").set(age.as_secs_f64());
        metrics::gauge!("asobi_match_checkpoint_overdue_seconds").set(overdue.as_secs_f64());
        true
    });
}

impl Host {
    /// Since when the state that is known to be saved was taken, of the match for which that is longest; and how much of it is past the interval
    /// that a match declares.
    fn unsaved(&self) -> (Duration, Duration) {
        let matches = self.matches.lock();
        let runs = |entry: &&super::Entry| matches!(&*entry.done.borrow(), Some(Ok(_)));
        let ages = matches.values().filter(runs).map(|entry| entry.handle.unsaved());
        ages.fold((Duration::ZERO, Duration::ZERO), |(age, overdue), (own, interval)| {
            (age.max(own), overdue.max(own.saturating_sub(interval)))
        })
    }
}
