//! The match's own random numbers: the same seed draws the same ones, on every machine and release.

use std::cell::Cell;

/// A SplitMix64 generator.
pub struct Random {
    state: Cell<u64>,
}

impl Random {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: Cell::new(seed) }
    }

    pub fn seed(&self, seed: u64) {
        self.state.set(seed);
    }

    /// What [`Random::seed`] takes to go on from here.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.state.get()
    }

    fn next(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    pub fn unit(&self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From `low` to `high`, both possible; `low` must not be above `high`.
    pub fn between(&self, low: i64, high: i64) -> i64 {
        let span = u128::from(high.abs_diff(low)) + 1;
        // The high half of a product instead of a remainder: no small number is favoured that anyone could notice.
        let offset = (u128::from(self.next()) * span) >> 64;
        low.wrapping_add_unsigned(u64::try_from(offset).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn one_seed_draws_one_sequence_within_its_bounds() {
        let draw = |seed| {
            let random = Random::new(seed);
            (0..50).map(|_| random.between(1, 6)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().all(|n| (1..=6).contains(n)));
        let random = Random::new(1);
        assert!((0..1000).all(|_| (0.0..1.0).contains(&random.unit())));
        assert_eq!(random.between(5, 5), 5);
        let _ = random.between(i64::MIN, i64::MAX);
    }
}
