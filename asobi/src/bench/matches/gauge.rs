//! How late the hosts' ticks were, beside bare timers of the same threads: histograms from their `/metrics`.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use crate::bench::cluster::Target;

const TICKS: &str = "asobi_match_tick_lateness_seconds";
const TIMERS: &str = "asobi_match_timer_lateness_seconds";
const DEADLINE: Duration = Duration::from_secs(2);

/// Counts up to bounds in nanoseconds, all hosts together.
#[derive(Debug, Clone, Default)]
pub struct Buckets(BTreeMap<u64, f64>);

#[derive(Debug, Clone, Default)]
pub struct Lateness {
    pub ticks: Buckets,
    pub timers: Buckets,
}

impl Lateness {
    /// Reads all hosts that answer; of hosts that are not known there is nothing.
    pub async fn read(target: &Target) -> Self {
        let mut lateness = Self::default();
        let http = reqwest::Client::builder().timeout(DEADLINE).build().unwrap_or_default();
        for metrics in target.match_hosts.iter().filter_map(|host| host.metrics.as_deref()) {
            let Ok(answer) = http.get(format!("http://{metrics}/metrics")).send().await else { continue };
            let text = answer.text().await.unwrap_or_default();
            lateness.ticks.add(&text, TICKS);
            lateness.timers.add(&text, TIMERS);
        }
        lateness
    }

    pub fn since(mut self, earlier: &Self) -> Self {
        self.ticks.subtract(&earlier.ticks);
        self.timers.subtract(&earlier.timers);
        self
    }

    /// Of the ticks' p99 to the bare timers'.
    pub fn ratio(&self) -> Option<f64> {
        let (ticks, timers) = (self.ticks.quantile_ms(0.99)?, self.timers.quantile_ms(0.99)?);
        (timers > 0.0).then(|| rounded(ticks / timers))
    }
}

impl Buckets {
    fn add(&mut self, exposition: &str, metric: &str) {
        for line in exposition.lines() {
            let Some(labels) = line.strip_prefix(metric).and_then(|rest| rest.strip_prefix("_bucket{")) else {
                continue;
            };
            let bound = labels.split_once("le=\"").and_then(|(_, rest)| rest.split_once('"'));
            let count = labels.rsplit_once(' ').and_then(|(_, count)| count.parse::<f64>().ok());
            if let (Some((bound, _)), Some(count)) = (bound, count) {
                *self.0.entry(nanoseconds(bound)).or_default() += count;
            }
        }
    }

    fn subtract(&mut self, earlier: &Self) {
        for (bound, count) in &mut self.0 {
            // A host that is gone since then had counted, too.
            *count = (*count - earlier.0.get(bound).copied().unwrap_or_default()).max(0.0);
        }
    }

    /// Interpolated within its bucket, as Prometheus does. None: nothing was counted.
    fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let total = self.0.values().copied().fold(0.0, f64::max);
        if total == 0.0 {
            return None;
        }
        let rank = quantile * total;
        let (mut below, mut from) = (0.0, 0);
        for (bound, count) in &self.0 {
            if *count >= rank {
                let to = if *bound == u64::MAX { from } else { *bound };
                let share = if *count > below { (rank - below) / (*count - below) } else { 1.0 };
                return Some((to - from) as f64 * share / 1e6 + from as f64 / 1e6);
            }
            (below, from) = (*count, *bound);
        }
        None
    }

    pub fn quantiles(&self) -> Value {
        json!({"p50": self.quantile_ms(0.5).map(rounded), "p99": self.quantile_ms(0.99).map(rounded)})
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn nanoseconds(seconds: &str) -> u64 {
    match seconds.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() => {
            Duration::from_secs_f64(seconds).as_nanos().try_into().unwrap_or(u64::MAX)
        }
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_since_is_read_from_buckets() {
        let before = "m_bucket{le=\"0.001\"} 10\nm_bucket{le=\"0.002\"} 10\nm_bucket{le=\"+Inf\"} 10\nother_bucket{le=\"0.001\"} 7\n";
        let after = "m_bucket{le=\"0.001\"} 60\nm_bucket{le=\"0.002\"} 110\nm_bucket{le=\"+Inf\"} 110\nm_sum 1\n";
        let (mut then, mut now) = (Buckets::default(), Buckets::default());
        then.add(before, "m");
        now.add(after, "m");
        now.subtract(&then);
        assert_eq!((now.quantile_ms(0.5), now.quantile_ms(0.99)), (Some(1.0), Some(1.98)));
        assert_eq!(Buckets::default().quantile_ms(0.5), None);
    }
}
