//! When each of many arrives: open-loop, at a rate that follows the time of a day.

use std::time::Duration;

use clap::ValueEnum;

/// How the load changes over a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Curve {
    /// The same all the time
    Flat,
    /// From a quarter up to all of it in the middle, and back
    Day,
    /// A quarter, and all of it at once in the fifth in the middle
    Peak,
}

impl Curve {
    /// The share of the full rate at this share of the run.
    pub fn at(self, time: f64) -> f64 {
        match self {
            Self::Flat => 1.0,
            Self::Day => 0.25 + 0.75 * (std::f64::consts::PI * time.clamp(0.0, 1.0)).sin().powi(2),
            Self::Peak if (0.4..0.6).contains(&time) => 1.0,
            Self::Peak => 0.25,
        }
    }

    /// When each is due, counted from the beginning.
    pub fn arrivals(self, per_second: f64, lasting: Duration) -> Vec<Duration> {
        let (mut due, mut all) = (0.0, Vec::new());
        while due < lasting.as_secs_f64() {
            all.push(Duration::from_secs_f64(due));
            due += 1.0 / (per_second * self.at(due / lasting.as_secs_f64()));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_arrive_as_the_area_under_the_curve_says() {
        let of = |curve: Curve| curve.arrivals(100.0, Duration::from_secs(10));
        let near = |n: usize, expected: usize| n.abs_diff(expected) <= expected / 50;
        assert!(near(of(Curve::Flat).len(), 1_000));
        assert!(near(of(Curve::Day).len(), 625), "{}", of(Curve::Day).len());
        assert!(near(of(Curve::Peak).len(), 400), "{}", of(Curve::Peak).len());
        let peak = of(Curve::Peak);
        let inside = peak.iter().filter(|at| (4.0..6.0).contains(&at.as_secs_f64())).count();
        assert!(near(inside, 200), "{inside}");
        assert!(peak.is_sorted() && peak.iter().all(|at| *at < Duration::from_secs(10)));
    }
}
