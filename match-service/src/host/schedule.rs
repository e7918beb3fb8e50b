//! When the next tick is due.

use std::{sync::OnceLock, time::Duration};

use tokio::time::Instant;

/// Ticks begin at multiples of this.
const GRID: Duration = Duration::from_millis(4);

/// A fixed rate without drift. A host that was held up runs one tick at once and lets go of the others it missed.
#[derive(Debug)]
pub struct TickClock {
    period: Duration,
    next: Instant,
}

impl TickClock {
    /// The first tick is one period away. None for a rate of 0: turn-based.
    #[must_use]
    pub fn new(ticks_per_second: u32, now: Instant) -> Option<Self> {
        if ticks_per_second == 0 {
            return None;
        }
        let period = Duration::from_secs(1) / ticks_per_second;
        Some(Self { period, next: now + period })
    }

    /// As [`new`](Self::new), on a grid that all matches of the process share: those that are due in the same moment are played in one go, and
    /// what they say leaves together.
    #[must_use]
    pub fn on_grid(ticks_per_second: u32, now: Instant) -> Option<Self> {
        static BASE: OnceLock<Instant> = OnceLock::new();
        let since = now.saturating_duration_since(*BASE.get_or_init(|| now));
        let past = Duration::from_micros(u64::try_from(since.as_micros() % GRID.as_micros()).unwrap_or(0));
        Self::new(ticks_per_second, now.checked_sub(past).unwrap_or(now))
    }

    #[must_use]
    pub fn next(&self) -> Instant {
        self.next
    }

    #[must_use]
    pub fn period(&self) -> Duration {
        self.period
    }

    /// No tick before then; those it would have been time for are let go.
    pub fn hold_back(&mut self, until: Instant) {
        self.next = self.next.max(until);
    }

    /// Whether a tick is due now; then the one after it is scheduled, and the number of ticks that were let go is returned.
    pub fn due(&mut self, now: Instant) -> Option<u32> {
        if now < self.next {
            return None;
        }
        self.next += self.period;
        let mut missed = 0;
        // One tick that is already due again may be caught up with; more are not.
        if now >= self.next + self.period {
            let late = now.duration_since(self.next).as_nanos() / self.period.as_nanos().max(1);
            missed = u32::try_from(late).unwrap_or(u32::MAX);
            self.next += self.period * missed;
        }
        Some(missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ticks_do_not_drift() {
        let start = Instant::now();
        let mut clock = TickClock::new(10, start).expect("ticks");
        let mut ticks = 0;
        while start.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep_until(clock.next() + Duration::from_millis(7)).await;
            assert_eq!(clock.due(Instant::now()), Some(0));
            ticks += 1;
        }
        assert_eq!(ticks, 100);
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_one_missed_tick_is_caught_up() {
        let start = Instant::now();
        let mut clock = TickClock::new(10, start).expect("ticks");
        assert_eq!(clock.due(start), None);
        tokio::time::advance(Duration::from_millis(1050)).await;
        let now = Instant::now();
        assert_eq!(clock.due(now), Some(8));
        assert_eq!(clock.due(now), Some(0), "the one caught up with");
        assert_eq!(clock.due(now), None);
        assert_eq!(clock.next(), start + Duration::from_millis(1100), "still on the beat");
    }

    #[test]
    fn turn_based_games_do_not_tick() {
        assert!(TickClock::new(0, Instant::now()).is_none());
    }
}
