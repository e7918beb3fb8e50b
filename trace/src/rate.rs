use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// So many in each second, for all threads of the process together, without a lock.
#[derive(Debug)]
pub struct PerSecond {
    most: u32,
    /// The second, and what was taken in it.
    state: AtomicU64,
}

impl PerSecond {
    #[must_use]
    pub const fn new(most: u32) -> Self {
        Self { most, state: AtomicU64::new(0) }
    }

    /// Takes one of this second's.
    pub fn take(&self) -> bool {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.take_at(since.as_secs())
    }

    /// A clock that goes back opens a new second, as one that goes on does.
    fn take_at(&self, second: u64) -> bool {
        let second = second & 0xffff_ffff;
        let taken = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| {
            let (of, taken) = (state >> 32, state & 0xffff_ffff);
            let taken = if of == second { taken } else { 0 };
            (taken < u64::from(self.most)).then_some(second << 32 | (taken + 1))
        });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_its_share() {
        let rate = PerSecond::new(3);
        let passed = |second| (0..10).filter(|_| rate.take_at(second)).count();
        assert_eq!([passed(7), passed(7), passed(8), passed(20)], [3, 0, 3, 3]);
        assert!(!PerSecond::new(0).take_at(1), "0 is none");
    }

    #[test]
    fn threads_share_one_second() {
        let rate = PerSecond::new(100);
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1_000).filter(|_| rate.take_at(5)).count())).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(passed, 100);
    }
}
