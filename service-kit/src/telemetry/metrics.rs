use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry_sdk::Resource;

use super::{
    catalogue::{self, Buckets, Kind, Roles},
    exposition, process,
};

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
static PROCESS: OnceLock<Process> = OnceLock::new();
/// What is asked before metrics are read.
static OBSERVERS: Mutex<Vec<Observer>> = Mutex::new(Vec::new());

type Observer = Box<dyn Fn() -> bool + Send + Sync>;

/// Who counts.
#[derive(Debug, Clone)]
pub(super) struct Process {
    /// As spans say it, too.
    pub resource: Resource,
    /// From when on.
    pub since: SystemTime,
}

/// Installs the recorder behind the `metrics` macros, once per process; more calls change nothing.
///
/// Histograms have the buckets of their row in the catalogue; those of others, which only tests make, are seconds.
pub fn install_metrics() {
    HANDLE.get_or_init(|| {
        // Fails for an empty list of buckets only.
        let recorder = bucketed().unwrap_or_else(|_| PrometheusBuilder::new()).build_recorder();
        let handle = recorder.handle();
        if ::metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed; /metrics will stay empty");
        }
        catalogue::describe();
        handle
    });
}

fn bucketed() -> Result<PrometheusBuilder, BuildError> {
    let mut builder = PrometheusBuilder::new().set_buckets(Buckets::Seconds.bounds())?;
    for metric in catalogue::all() {
        if let Kind::Histogram(buckets) = metric.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets.bounds())?;
        }
    }
    Ok(builder)
}

/// As [`install_metrics`], and makes everything that a process of this role has from the start.
pub(super) fn start(role: &str, resource: Resource) {
    install_metrics();
    PROCESS.get_or_init(|| Process { resource, since: SystemTime::now() });
    let Some(role) = Roles::named(role) else { return };
    catalogue::register(role);
    metrics::gauge!("asobi_build_info", "version" => env!("CARGO_PKG_VERSION"), "role" => role.name()).set(1.0);
}

pub(super) fn this_process() -> Option<&'static Process> {
    PROCESS.get()
}

/// Has `read` called each time before metrics are read: it sets those that are known only then, such as the age of something. False: what it
/// reads is gone, and it is not called again. It must neither block nor call this.
pub fn observe(read: impl Fn() -> bool + Send + Sync + 'static) {
    OBSERVERS.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(read));
}

/// All metrics in the Prometheus text format, the process's own read at this moment.
pub fn render_metrics() -> String {
    install_metrics();
    process::record();
    OBSERVERS.lock().unwrap_or_else(PoisonError::into_inner).retain(|read| read());
    HANDLE.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// All metrics at this moment by their names, summed over their labels; of a histogram its count and its sum.
pub fn summed_metrics() -> BTreeMap<String, f64> {
    summed(&render_metrics())
}

fn summed(text: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for sample in text.lines().filter_map(exposition::sample) {
        if !sample.name.ends_with("_bucket") && sample.value.is_finite() {
            *sums.entry(sample.name.to_owned()).or_default() += sample.value;
        }
    }
    sums
}

/// Folds recorded samples into their histograms from time to time: unless somebody scrapes, nothing else does, and
/// they would pile up. Runs until it is dropped.
pub(super) async fn upkeep() {
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
    use std::sync::{Arc, Weak};

    use super::*;

    #[test]
    fn series_are_summed_over_their_labels() {
        let text = "# TYPE a counter\na{x=\"1\"} 2\na{x=\"2 3\"} 0.5\nb -1\nb_seconds_bucket{le=\"1\"} 9\nb_seconds_count 4\nc NaN\n\n";
        let sums: Vec<(String, f64)> = summed(text).into_iter().collect();
        assert_eq!(sums, [("a".to_owned(), 2.5), ("b".to_owned(), -1.0), ("b_seconds_count".to_owned(), 4.0)]);
    }

    #[test]
    fn metrics_are_rendered_with_the_process_own() {
        install_metrics();
        ::metrics::counter!("asobi_test_total").increment(2);
        ::metrics::histogram!("asobi_test_seconds").record(0.002);
        ::metrics::histogram!("asobi_match_checkpoint_bytes").record(300.0);
        let text = render_metrics();
        for expected in [
            "asobi_test_total 2",
            "asobi_test_seconds_bucket{le=\"0.0025\"} 1",
            "asobi_match_checkpoint_bytes_bucket{le=\"1024\"} 1",
            "# HELP asobi_match_checkpoint_bytes How large",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "process_cpu_seconds_total",
            "process_start_time_seconds",
        ] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
    }

    #[test]
    fn what_is_observed_is_read_at_each_look_until_it_is_gone() {
        let (there, looks) = (Arc::new(()), Arc::new(Mutex::new(0)));
        let (seen, counted): (Weak<()>, _) = (Arc::downgrade(&there), Arc::clone(&looks));
        observe(move || {
            let there = seen.upgrade().is_some();
            *counted.lock().unwrap() += u32::from(there);
            there
        });
        render_metrics();
        let before = *looks.lock().unwrap();
        render_metrics();
        // Other tests look, too.
        assert!(before >= 1 && *looks.lock().unwrap() > before);
        drop(there);
        render_metrics();
        assert_eq!(Arc::strong_count(&looks), 1, "it is kept");
    }
}
