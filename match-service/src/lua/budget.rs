//! How long a callback may run. Once it ran too long, everything it still tries fails too, so that no `pcall` can swallow the verdict.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use nix::time::{ClockId, clock_gettime};

/// Why a VM stopped a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trip {
    /// The callback ran too long. The next callback starts afresh.
    Time,
    /// The VM ran into its memory limit; it must not be used again.
    Memory,
}

/// The verdict as scripts see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    #[error("ran longer than {} ms", .0.as_millis())]
    Time(Duration),
    #[error("used more than the match's memory")]
    Memory,
}

/// What a callback has used up so far.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    wall: Duration,
    /// CPU time, once it is counted.
    second_half: Option<Duration>,
}

/// The running callback's budget.
///
/// The first half of it is wall time, which is cheap to read; the second half is the thread's CPU time, so that a callback is not blamed for a
/// thread that had to wait for its core. A callback that is not back after [`WALL_FACTOR`] times the budget is stopped whatever its CPU time.
pub struct Budget {
    limit: Cell<Duration>,
    started: Cell<Option<Instant>>,
    /// CPU time at half of the budget.
    half_way: Cell<Option<Duration>>,
    tripped: Cell<Option<Trip>>,
    interrupts: Cell<u32>,
    /// Something of the host's own runs, which is bounded by itself.
    suspended: Cell<bool>,
}

const WALL_FACTOR: u32 = 10;
/// Interrupts come with every call and loop; the clock is read at every so many of them.
const CLOCK_EVERY: u32 = 32;

impl Budget {
    #[must_use]
    pub fn new() -> Self {
        Self {
            limit: Cell::new(Duration::ZERO),
            started: Cell::new(None),
            half_way: Cell::new(None),
            tripped: Cell::new(None),
            interrupts: Cell::new(0),
            suspended: Cell::new(false),
        }
    }

    /// A callback begins.
    pub fn start(&self, limit: Duration) {
        self.limit.set(limit);
        self.started.set(Some(Instant::now()));
        self.half_way.set(None);
        self.interrupts.set(0);
    }

    /// The callback has to wait: what [`Budget::go_on`] takes when it goes on.
    pub fn spent(&self) -> Spent {
        Spent {
            wall: self.started.get().map_or(Duration::ZERO, |started| started.elapsed()),
            second_half: self.half_way.get().and_then(|half_way| Some(thread_cpu_time()?.saturating_sub(half_way))),
        }
    }

    /// The callback goes on. What others did on this thread while it waited is not its doing.
    pub fn go_on(&self, limit: Duration, spent: Spent) {
        self.start(limit);
        self.started.set(Instant::now().checked_sub(spent.wall));
        self.half_way
            .set(spent.second_half.and_then(|second_half| Some(thread_cpu_time()?.saturating_sub(second_half))));
    }

    /// The callback is back: what it ran into, if anything.
    pub fn stop(&self) -> Option<Trip> {
        self.started.set(None);
        let trip = self.tripped.get();
        // What the host itself runs in the VM between two callbacks is not to blame.
        if trip == Some(Trip::Time) {
            self.tripped.set(None);
        }
        trip
    }

    /// From now on the VM is unusable.
    pub fn memory_hit(&self) {
        self.tripped.set(Some(Trip::Memory));
    }

    /// Runs something of the host's own in the VM, which is bounded by itself: looking at the clock would cost more than it does.
    pub fn suspended<T>(&self, run: impl FnOnce() -> T) -> T {
        self.suspended.set(true);
        let done = run();
        self.suspended.set(false);
        done
    }

    /// Called by the VM at every interrupt.
    ///
    /// # Errors
    /// The callback must end.
    pub fn check(&self) -> Result<(), Exhausted> {
        if self.suspended.get() {
            return Ok(());
        }
        match self.tripped.get() {
            Some(Trip::Time) => return Err(Exhausted::Time(self.limit.get())),
            Some(Trip::Memory) => return Err(Exhausted::Memory),
            None => {}
        }
        let interrupts = self.interrupts.get().wrapping_add(1);
        self.interrupts.set(interrupts);
        if !interrupts.is_multiple_of(CLOCK_EVERY) {
            return Ok(());
        }
        let (Some(started), limit) = (self.started.get(), self.limit.get()) else {
            return Ok(());
        };
        let wall = started.elapsed();
        if wall < limit / 2 {
            return Ok(());
        }
        let cpu = thread_cpu_time().unwrap_or(wall);
        let half_way = self.half_way.get().unwrap_or(cpu);
        self.half_way.set(Some(half_way));
        if cpu.saturating_sub(half_way) >= limit / 2 || wall > limit * WALL_FACTOR {
            self.tripped.set(Some(Trip::Time));
            return Err(Exhausted::Time(limit));
        }
        Ok(())
    }
}

fn thread_cpu_time() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok().map(Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Works for so much of the thread's time, and looks whether it still may.
    fn work(budget: &Budget, time: Duration) -> Result<(), Exhausted> {
        let until = thread_cpu_time().expect("a clock") + time;
        while thread_cpu_time().expect("a clock") < until {
            budget.check()?;
        }
        Ok(())
    }

    #[test]
    fn what_others_do_while_a_callback_waits_is_not_its_doing() {
        let limit = Duration::from_millis(100);
        let budget = Budget::new();
        budget.start(limit);
        work(&budget, limit / 8).expect("a part of it");
        let spent = budget.spent();
        assert_eq!(budget.stop(), None);
        // Longer than any callback may take, on this very thread.
        work(&budget, limit * 3).expect("others are not judged by it");
        budget.go_on(limit, spent);
        work(&budget, limit / 8).expect("the rest is left");
        work(&budget, limit * 2).expect_err("but no more than that");
        assert_eq!(budget.stop(), Some(Trip::Time));
    }
}
