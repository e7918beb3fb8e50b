//! How many may be coming in at the same time. Each holds a place from the upgrade of their socket until `session.connect` is answered;
//! whoever finds none is told when to come again, so that a node that everybody comes to at once serves as many as it can, and the
//! others find it no slower than before.
//!
//! ```text
//!  upgrade ──(a place)──► open ──session.connect──► its turn at the rows ──► connected, the place is free
//!     │                    │                             └ not in time: close 1013
//!     └ none: 503,         └ says nothing for HESITATION: the place is free; its session.connect
//!       Retry-After          takes another one, or there is none: close 1013
//! ```
//!
//! How many places there are is the smaller of `session.connects_under_way` and what this node has shown to serve in half of
//! `session.connect_wait_ms`. That is measured only while many wait: when few come, few are served.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How long a socket may hold a place without having said who it is.
pub(crate) const HESITATION: Duration = Duration::from_secs(2);
/// What is served and who is turned away is counted for so long.
const WINDOW: Duration = Duration::from_secs(1);
/// With so many under way at its beginning and its end, what was served in a window is what can be served.
const BUSY: usize = 64;
/// Places there are however slow it goes.
const LEAST: usize = 64;
/// Connects a second, until it is known better.
const SUPPOSED: f64 = 500.0;
/// Nobody is told to come again later than this and a second.
const LATEST_S: f64 = 10.0;

pub(crate) struct Admission {
    /// 0: no bound.
    most: usize,
    wait: Duration,
    under_way: AtomicUsize,
    /// As many as there are places now.
    places: AtomicUsize,
    pace: Mutex<Pace>,
    under_way_gauge: metrics::Gauge,
}

/// What was done in which time.
struct Pace {
    since: Instant,
    served: u32,
    turned_away: u32,
    /// In the window before.
    turned_away_before: u32,
    /// Many were under way when this window began.
    busy: bool,
    /// Connects a second, when there were more than could be served.
    capacity: Option<f64>,
}

/// A place, free again when dropped.
pub(crate) struct Place(Arc<Admission>);

/// There is no place: when to come again, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Later(pub u32);

impl Admission {
    /// With at most so many places (0: without a bound), for connects that wait for their turn so long at most.
    pub(crate) fn new(most: usize, wait: Duration, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            most,
            wait,
            under_way: AtomicUsize::new(0),
            places: AtomicUsize::new(most),
            pace: Mutex::new(Pace::new(now)),
            under_way_gauge: metrics::gauge!("asobi_session_connects_under_way"),
        })
    }

    /// `chance`, from 0 to 1, spreads those who are turned away together.
    ///
    /// # Errors
    /// [`Later`]: there is no place.
    pub(crate) fn enter(self: &Arc<Self>, now: Instant, chance: f64) -> Result<Place, Later> {
        let before = self.under_way.fetch_add(1, Ordering::AcqRel);
        let place = Place(Arc::clone(self));
        if self.most == 0 || before < self.places.load(Ordering::Acquire) {
            self.under_way_gauge.increment(1);
            return Ok(place);
        }
        self.under_way_gauge.increment(1);
        drop(place);
        Err(self.later(now, chance))
    }

    /// When somebody who is turned away is to come again.
    pub(crate) fn later(&self, now: Instant, chance: f64) -> Later {
        let under_way = self.under_way.load(Ordering::Acquire);
        let mut pace = self.pace.lock();
        self.turn(&mut pace, now);
        pace.turned_away += 1;
        pace.later(under_way, chance)
    }

    /// A connect was answered.
    pub(crate) fn served(&self, now: Instant) {
        let mut pace = self.pace.lock();
        self.turn(&mut pace, now);
        pace.served += 1;
    }

    fn turn(&self, pace: &mut Pace, now: Instant) {
        if pace.turn(self.under_way.load(Ordering::Acquire), now) {
            self.places.store(pace.places(self.most, self.wait), Ordering::Release);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
        self.0.under_way_gauge.decrement(1);
    }
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { since: now, served: 0, turned_away: 0, turned_away_before: 0, busy: false, capacity: None }
    }

    /// Begins the next window if this one is over; whether it is.
    fn turn(&mut self, under_way: usize, now: Instant) -> bool {
        let lasted = now.saturating_duration_since(self.since);
        if lasted < WINDOW {
            return false;
        }
        // One that nobody ended in time was idle for a while.
        let (was_busy, short) = (std::mem::replace(&mut self.busy, under_way >= BUSY), lasted < 2 * WINDOW);
        if was_busy && self.busy && short {
            let shown = f64::from(self.served) / lasted.as_secs_f64();
            self.capacity = Some(self.capacity.map_or(shown, |before| f64::midpoint(before, shown)));
        }
        // Who was turned away longer ago is back.
        self.turned_away_before = if short { self.turned_away } else { 0 };
        (self.since, self.served, self.turned_away) = (now, 0, 0);
        true
    }

    fn places(&self, most: usize, wait: Duration) -> usize {
        let Some(capacity) = self.capacity else { return most };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number of connects")]
        let in_time = (capacity * wait.as_secs_f64() / 2.0) as usize;
        in_time.max(LEAST).min(most)
    }

    /// Evenly over the time in which those under way and those who were turned away can be served, from the next second on.
    fn later(&self, under_way: usize, chance: f64) -> Later {
        let waiting = f64::from(u32::try_from(under_way).unwrap_or(u32::MAX))
            + f64::from(self.turned_away)
            + f64::from(self.turned_away_before);
        let spread = (waiting / self.capacity.unwrap_or(SUPPOSED).max(1.0)).clamp(1.0, LATEST_S);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to 11")]
        let seconds = (1.0 + (spread * chance).round()) as u32;
        Later(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn places_are_bounded_and_come_free() {
        let now = Instant::now();
        let admission = Admission::new(2, 5 * SECOND, now);
        let (first, second) = (admission.enter(now, 0.5), admission.enter(now, 0.5));
        assert!(first.is_ok() && second.is_ok());
        assert!(admission.enter(now, 0.5).is_err());
        assert_eq!(admission.under_way.load(Ordering::Acquire), 2, "who is turned away holds nothing");
        drop(first);
        assert!(admission.enter(now, 0.5).is_ok());
    }

    #[test]
    fn without_a_bound_everybody_comes_in() {
        let now = Instant::now();
        let admission = Admission::new(0, 5 * SECOND, now);
        let places: Vec<_> = (0..10_000).map(|_| admission.enter(now, 0.5)).collect();
        assert!(places.iter().all(Result::is_ok));
    }

    #[test]
    fn those_turned_away_are_spread_over_the_time_it_takes() {
        let now = Instant::now();
        let admission = Admission::new(1_000, 5 * SECOND, now);
        let places: Vec<_> = (0..1_000).map(|_| admission.enter(now, 0.5)).collect();
        // 500 a second are supposed, so that the thousand under way take two seconds.
        assert_eq!([0.0, 0.4, 1.0].map(|chance| admission.later(now, chance)), [1, 2, 3].map(Later));
        // The more are sent away, the further they are spread; never beyond all bounds.
        for _ in 0..1_000 {
            admission.later(now, 0.0);
        }
        assert_eq!(admission.later(now, 1.0), Later(5));
        for _ in 0..100_000 {
            admission.later(now, 0.0);
        }
        assert_eq!([0.0, 1.0].map(|chance| admission.later(now, chance)), [1, 11].map(Later));
        // Two seconds later they are back, or gone.
        drop(places);
        assert_eq!(admission.later(now + 3 * SECOND, 1.0), Later(2));
    }

    #[test]
    fn a_slow_node_has_fewer_places_and_an_idle_one_forgets_nothing() {
        let now = Instant::now();
        let admission = Admission::new(1_000, 4 * SECOND, now);
        let places: Vec<_> = (0..1_000).map(|_| admission.enter(now, 0.5)).collect();
        let later = |seconds| now + 60 * SECOND + seconds * SECOND;
        admission.served(later(0));
        assert_eq!(admission.places.load(Ordering::Acquire), 1_000, "a minute in which nobody came says nothing");
        for _ in 0..99 {
            admission.served(later(0));
        }
        admission.served(later(1));
        assert_eq!(admission.places.load(Ordering::Acquire), 200, "100 a second, for two seconds");
        for _ in 0..299 {
            admission.served(later(1));
        }
        admission.served(later(2));
        assert_eq!(admission.places.load(Ordering::Acquire), 400, "halfway to the 300 of the second window");
        drop(places);
        admission.served(later(3));
        admission.served(later(4));
        assert_eq!(admission.places.load(Ordering::Acquire), 400, "few were served because few came");
        let crawling = Pace { capacity: Some(0.1), ..Pace::new(now) };
        assert_eq!(crawling.places(1_000, SECOND), LEAST);
        assert_eq!(crawling.places(10, SECOND), 10);
    }
}
