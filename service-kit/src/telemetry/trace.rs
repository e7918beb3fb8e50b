use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::{global, trace::TracerProvider as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Metadata, level_filters::LevelFilter};
use tracing_subscriber::{Layer, filter::filter_fn, layer::SubscriberExt as _};

use super::{export, logs};
use crate::config::Config;

/// How long the last spans may take to leave when the process ends.
const FLUSH: Duration = Duration::from_secs(2);

/// Sends the spans that are still queued when dropped. Keep it until the process ends, inside the runtime.
#[derive(Debug)]
#[must_use = "telemetry ends when this is dropped"]
pub struct TelemetryGuard {
    provider: Option<SdkTracerProvider>,
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take()
            && let Err(error) = provider.shutdown_with_timeout(FLUSH)
        {
            tracing::warn!(%error, "the last spans could not be exported");
        }
    }
}

/// Sets up logs to stderr, traces and the metrics recorder of this process. Call inside the runtime.
///
/// # Errors
/// If OTLP export is asked for and its exporter cannot be made, or a subscriber is installed already.
pub fn init(role: &'static str, config: &Config) -> anyhow::Result<TelemetryGuard> {
    let resource = export::resource(role, config);
    super::metrics::start(role, resource.clone());
    let provider = export::provider(resource)?;
    let export = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("asobi"))
            // Where in the source, on which thread and how long it was idle: attributes on each span that nobody asked for.
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_filter(filter_fn(is_exported).with_max_level_hint(LevelFilter::INFO))
    });
    let logs = logs::layer(role, config).context("log.filter cannot be parsed")?;
    let subscriber = tracing_subscriber::registry().with(logs).with(export);
    // Not `try_init`: it would also take what libraries say to the `log` crate. Asking that whether something is logged asks the filters of
    // the layers without anything being logged after it, and they then take the next span of that thread for what they were asked about: spans
    // were lost after each SQL statement.
    tracing::subscriber::set_global_default(subscriber).context("logging is set up already")?;
    if let Some(provider) = &provider {
        global::set_tracer_provider(provider.clone());
        asobi_trace::switch_on(settings(config));
    }
    Ok(TelemetryGuard { provider })
}

/// Our own spans, and what is logged within them. The exporter's own HTTP/2 spans would be exported, which makes more of them.
fn is_exported(metadata: &Metadata<'_>) -> bool {
    if metadata.is_span() {
        return metadata.target() == asobi_trace::TARGET;
    }
    metadata.target().starts_with("asobi") && *metadata.level() <= Level::INFO
}

fn settings(config: &Config) -> asobi_trace::Settings {
    let telemetry = &config.telemetry;
    asobi_trace::Settings {
        ratio: telemetry.sample_ratio,
        slow: Duration::from_millis(telemetry.slow_ms),
        always_per_second: telemetry.always_per_second,
        client_per_second: telemetry.client_per_second,
    }
}
