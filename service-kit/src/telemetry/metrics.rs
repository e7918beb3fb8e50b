use std::{collections::BTreeMap, sync::OnceLock, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::process;

/// Seconds, from a call inside one machine to one that has run into a deadline.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Counts and sizes, such as rows of a batch.
const COUNTS: [f64; 11] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 10_000.0];

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the recorder behind the `metrics` macros, once per process; more calls change nothing.
///
/// Histograms whose names end in `_seconds` have buckets from 0.5 ms to 10 s, all others from 1 to 10,000.
pub fn install_metrics() {
    HANDLE.get_or_init(|| {
        let builder = PrometheusBuilder::new()
            .set_buckets(&COUNTS)
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS));
        // Fails for an empty list of buckets only.
        let recorder = builder.unwrap_or_else(|_| PrometheusBuilder::new()).build_recorder();
        let handle = recorder.handle();
        if ::metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed; /metrics will stay empty");
        }
        process::describe();
        handle
    });
}

/// All metrics in the Prometheus text format, the process's own read at this moment.
pub fn render_metrics() -> String {
    install_metrics();
    process::record();
    HANDLE.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// All metrics at this moment by their names, summed over their labels; of a histogram its count and its sum.
pub fn summed_metrics() -> BTreeMap<String, f64> {
    summed(&render_metrics())
}

/// Reads the text format as it is rendered here.
fn summed(text: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        // Labels may hold spaces, the value does not.
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split_once('{').map_or(series, |(name, _)| name);
        let Ok(value) = value.parse::<f64>() else { continue };
        if !name.ends_with("_bucket") && value.is_finite() {
            *sums.entry(name.to_owned()).or_default() += value;
        }
    }
    sums
}

/// Folds recorded samples into their histograms from time to time: unless somebody scrapes, nothing else does, and
/// they would pile up. Runs until it is dropped.
pub(crate) async fn upkeep() {
    let mut every = tokio::time::interval(Duration::from_secs(5));
    loop {
        every.tick().await;
        if let Some(handle) = HANDLE.get() {
            handle.run_upkeep();
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn series_are_summed_over_their_labels() {
        let text = "# TYPE a counter\na{x=\"1\"} 2\na{x=\"2 3\"} 0.5\nb -1\nb_seconds_bucket{le=\"1\"} 9\nb_seconds_count 4\nc NaN\n\n";
        let sums: Vec<(String, f64)> = super::summed(text).into_iter().collect();
        assert_eq!(sums, [("a".to_owned(), 2.5), ("b".to_owned(), -1.0), ("b_seconds_count".to_owned(), 4.0)]);
    }

    #[test]
    fn metrics_are_rendered_with_the_process_own() {
        super::install_metrics();
        metrics::counter!("asobi_test_total").increment(2);
        metrics::histogram!("asobi_test_seconds").record(0.002);
        let text = super::render_metrics();
        for expected in [
            "asobi_test_total 2",
            "asobi_test_seconds_bucket{le=\"0.0025\"} 1",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_cpu_seconds_total",
            "process_start_time_seconds",
        ] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
    }
}
