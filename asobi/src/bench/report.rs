//! Figures, as a table for people and one object for scripts.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// What a scenario found.
pub struct Report {
    scenario: &'static str,
    fields: Vec<(&'static str, Value)>,
    /// What is not as it must be: the command fails.
    faults: Vec<&'static str>,
}

impl Report {
    pub fn new(scenario: &'static str) -> Self {
        Self { scenario, fields: Vec::new(), faults: Vec::new() }
    }

    pub fn field(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    pub fn latency(self, name: &'static str, histogram: &Histogram<u64>) -> Self {
        self.field(name, quantiles(histogram))
    }

    pub fn fails_if(mut self, wrong: bool, what: &'static str) -> Self {
        self.faults.extend(wrong.then_some(what));
        self
    }

    /// Prints it; whether everything is as it must be.
    pub fn print(&self, as_json: bool) -> bool {
        eprintln!("\n{}", self.scenario);
        for (name, value) in &self.fields {
            match value.as_array() {
                Some(rows) => rows.iter().for_each(|row| eprintln!("  {name:<22} {}", plain(row))),
                None => eprintln!("  {name:<22} {}", plain(value)),
            }
        }
        if as_json {
            let mut object = Map::new();
            object.insert("scenario".into(), self.scenario.into());
            object.extend(self.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
            println!("{}", Value::Object(object));
        }
        self.faults.iter().for_each(|what| eprintln!("  FAILED: {what}"));
        self.faults.is_empty()
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Object(fields) => fields.iter().map(|(k, v)| format!("{k} {}", plain(v))).collect::<Vec<_>>().join("  "),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// CPU seconds of all processes whose names begin so.
pub fn cpu_of(processes: &[Value], of: &str) -> f64 {
    let named = processes.iter().filter(|p| p["node"].as_str().is_some_and(|n| n.starts_with(of)));
    named.filter_map(|p| p["cpu_s"].as_f64()).sum()
}

/// A histogram of microseconds up to a minute.
pub fn histogram() -> Histogram<u64> {
    let mut histogram =
        Histogram::new_with_bounds(1, 60_000_000, 3).unwrap_or_else(|_| unreachable!("the bounds are valid"));
    histogram.auto(true);
    histogram
}

pub fn record(histogram: &mut Histogram<u64>, elapsed: Duration) {
    histogram.saturating_record(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1));
}

/// Milliseconds with three digits behind the point.
pub fn quantiles(histogram: &Histogram<u64>) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of at most a minute")]
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
