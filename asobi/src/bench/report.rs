//! What one round of a scenario found, and the histograms it is made of.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::{progress, summary::Better};

/// What a scenario found in one round.
#[derive(Debug, Clone)]
pub struct Report {
    pub scenario: &'static str,
    pub fields: Map<String, Value>,
    /// What is not as it must be: the command fails.
    pub faults: Vec<&'static str>,
    /// Rounds that the scenario made by itself, because its players stay: their figures make the spread.
    pub own_rounds: Vec<Value>,
    /// Figures of which more is better although their names do not say so.
    pub rising: Vec<&'static str>,
    /// As much was done as could be: CPU seconds without a measure of the work are neither better nor worse.
    pub flooded: bool,
}

impl Report {
    pub fn new(scenario: &'static str) -> Self {
        Self {
            scenario,
            fields: Map::new(),
            faults: Vec::new(),
            own_rounds: Vec::new(),
            rising: Vec::new(),
            flooded: false,
        }
    }

    pub fn field(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    pub fn latency(self, name: &'static str, histogram: &Histogram<u64>) -> Self {
        self.field(name, quantiles(histogram))
    }

    pub fn fails_if(mut self, wrong: bool, what: &'static str) -> Self {
        self.faults.extend(wrong.then_some(what));
        self
    }

    /// Of this figure more is better.
    pub fn rising(mut self, name: &'static str) -> Self {
        self.rising.push(name);
        self
    }

    /// As much was done as could be.
    pub fn flooded(mut self) -> Self {
        self.flooded = true;
        self
    }

    /// Which way is better, where the figure's name does not say it.
    pub fn better(&self, figure: &str) -> Option<Better> {
        if self.rising.contains(&figure) {
            return Some(Better::More);
        }
        (self.flooded && figure.ends_with(".cpu_s")).then_some(Better::Neither)
    }

    /// The figures of rounds that the scenario made by itself.
    pub fn rounds(mut self, rows: Vec<Value>) -> Self {
        self.own_rounds = rows;
        self
    }
}

/// CPU seconds of all processes whose names begin so.
pub fn cpu_of(processes: &[Value], of: &str) -> f64 {
    let named = processes.iter().filter(|p| p["node"].as_str().is_some_and(|n| n.starts_with(of)));
    named.filter_map(|p| p["cpu_s"].as_f64()).sum()
}

/// An hour, in microseconds: nothing that is waited for takes longer.
const LONGEST: u64 = 3_600_000_000;

/// A histogram of microseconds up to a minute, which grows when something took longer.
pub fn histogram() -> Histogram<u64> {
    let mut histogram =
        Histogram::new_with_bounds(1, 60_000_000, 3).unwrap_or_else(|_| unreachable!("the bounds are valid"));
    histogram.auto(true);
    histogram
}

pub fn record(histogram: &mut Histogram<u64>, elapsed: Duration) {
    progress::measured();
    let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).clamp(1, LONGEST);
    // Past its bounds it grows; only what saturates would hide how long a stall was.
    if histogram.record(us).is_err() {
        histogram.saturating_record(us);
    }
}

/// Milliseconds with three digits behind the point.
pub fn quantiles(histogram: &Histogram<u64>) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of at most an hour")]
    let ms = |us: u64| us as f64 / 1e3;
    json!({
        "p50": ms(histogram.value_at_quantile(0.5)),
        "p90": ms(histogram.value_at_quantile(0.9)),
        "p99": ms(histogram.value_at_quantile(0.99)),
        "max": ms(histogram.max()),
    })
}

/// `per` units of work out of `count`, e.g. CPU seconds per 100,000 messages; three digits.
#[expect(clippy::cast_precision_loss, reason = "counts of one bench")]
pub fn per(amount: f64, count: u64, per: u64) -> f64 {
    let value = amount * per as f64 / count.max(1) as f64;
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_was_recorded_and_a_stall_is_the_maximum() {
        let mut of = histogram();
        (1..=100).for_each(|ms| record(&mut of, Duration::from_millis(ms)));
        record(&mut of, Duration::from_secs(300));
        let found = quantiles(&of);
        let near = |key: &str, ms: f64| (found[key].as_f64().unwrap() / ms - 1.0).abs() < 0.002;
        assert!(near("p50", 51.0) && near("p90", 91.0) && near("max", 300_000.0), "{found}");
        assert_eq!(per(2.0, 50_000, 100_000), 4.0);
        assert_eq!(per(2.0, 0, 1), 2.0, "nothing counted is no division by it");
    }
}
