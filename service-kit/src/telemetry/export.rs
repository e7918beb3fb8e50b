//! Spans on their way to the collector. A collector that is slow or gone costs spans, which are counted, and nothing else: nobody waits for
//! it, and it is spoken of when it fails first and when it is back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::WithTonicConfig as _;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
    },
};

use super::otlp;
use crate::config::Config;

/// Spans that wait to be exported, those under way among them.
const QUEUE: usize = 4_096;

/// None: no spans are to leave.
///
/// # Errors
/// When the exporter cannot be made of what the environment says.
pub(super) fn provider(resource: Resource) -> anyhow::Result<Option<SdkTracerProvider>> {
    let Some(channel) = otlp::variables("TRACES").channel().context("traces cannot be exported")? else {
        return Ok(None);
    };
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_channel(channel).build();
    let exporter = exporter.context("traces cannot be exported, as the OTEL_EXPORTER_OTLP_… variables are")?;
    let provider = SdkTracerProvider::builder()
        .with_span_processor(Bounded::new(exporter))
        // Decided before a span is made, so that one that is not recorded costs nothing.
        .with_sampler(Sampler::AlwaysOn)
        .with_resource(resource)
        .build();
    Ok(Some(provider))
}

/// What everything that leaves this process says of it.
pub(super) fn resource(role: &str, config: &Config) -> Resource {
    Resource::builder()
        .with_service_name(format!("asobi-{role}"))
        .with_attribute(KeyValue::new("service.instance.id", config.node.id.clone()))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build()
}

/// A queue that says what it drops.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
}

impl Bounded {
    fn new(exporter: impl SpanExporter + 'static) -> Self {
        let waiting = Arc::new(AtomicUsize::new(0));
        let exporter = Counted { inner: exporter, waiting: Arc::clone(&waiting), failing: AtomicBool::new(false) };
        let config = BatchConfigBuilder::default().with_max_queue_size(QUEUE).build();
        Self { inner: BatchSpanProcessor::new(exporter, config), waiting }
    }
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= QUEUE {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            metrics::counter!("asobi_trace_spans_dropped_total", "reason" => "queue_full").increment(1);
            return;
        }
        self.inner.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[derive(Debug)]
struct Counted<E> {
    inner: E,
    waiting: Arc<AtomicUsize>,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.inner.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::AcqRel);
        let count = u64::try_from(spans).unwrap_or(u64::MAX);
        match exported {
            Ok(()) => {
                metrics::counter!("asobi_trace_spans_exported_total").increment(count);
                if self.failing.swap(false, Ordering::AcqRel) {
                    tracing::info!("Spans reach the collector again.");
                }
            }
            Err(error) => {
                metrics::counter!("asobi_trace_spans_dropped_total", "reason" => "export_failed").increment(count);
                if !self.failing.swap(true, Ordering::AcqRel) {
                    tracing::warn!(%error, "Spans do not reach the collector; they are dropped until they do.");
                }
            }
        }
        // Said and counted; there is nobody else to hear it.
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
    use tokio::sync::Semaphore;

    use super::*;

    /// A collector that answers when it is let.
    #[derive(Debug, Clone)]
    struct Stuck(Arc<Semaphore>);

    impl SpanExporter for Stuck {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            self.0.acquire().await.expect("open").forget();
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_collector_that_hangs() {
        let gate = Arc::new(Semaphore::new(0));
        let bounded = Bounded::new(Stuck(Arc::clone(&gate)));
        let waiting = Arc::clone(&bounded.waiting);
        let provider = SdkTracerProvider::builder().with_span_processor(bounded).build();
        let tracer = provider.tracer("test");
        let begun = Instant::now();
        for _ in 0..3 * QUEUE {
            tracer.start("a").end();
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "the queue was full, and nobody waited");
        assert_eq!(waiting.load(Ordering::Acquire), QUEUE, "no more than the bound");
        gate.add_permits(1_000);
        provider.force_flush().expect("the collector answers again");
        assert_eq!(waiting.load(Ordering::Acquire), 0);
        provider.shutdown().expect("ends");
    }
}
