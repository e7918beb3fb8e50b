use std::{io::IsTerminal as _, time::Duration};

use anyhow::Context as _;
use opentelemetry::{
    Context, KeyValue,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _},
};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt as _, registry::LookupSpan, util::SubscriberInitExt as _,
};

use crate::config::{Config, LogFormat};

/// The variable that every OpenTelemetry exporter knows; without it nothing is exported.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
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
pub fn init(role: &str, config: &Config) -> anyhow::Result<TelemetryGuard> {
    super::metrics::start(role, config);
    let provider = match std::env::var(ENDPOINT) {
        Ok(endpoint) if !endpoint.is_empty() => Some(exporting_provider(role, config)?),
        _ => None,
    };
    let export = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("asobi"))
            // The exporter's own HTTP/2 spans would be exported, which makes more of them.
            .with_filter(filter_fn(|metadata| metadata.target().starts_with("asobi")))
    });
    let filter = EnvFilter::try_new(&config.log.filter).context("log.filter cannot be parsed")?;
    tracing_subscriber::registry()
        .with(logs(config.log.format).with_filter(filter))
        .with(export)
        .try_init()
        .context("logging is set up already")?;
    Ok(TelemetryGuard { provider })
}

fn logs<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Json => layer.json().flatten_event(true).with_ansi(false).boxed(),
        LogFormat::Pretty => {
            let colours = coloured();
            layer.with_ansi(colours).boxed()
        }
    }
}

/// NO_COLOR and CLICOLOR_FORCE as others take them; a supervisor that shows our lines on a terminal sets the latter.
fn coloured() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    !set("NO_COLOR") && (set("CLICOLOR_FORCE") || std::io::stderr().is_terminal())
}

fn exporting_provider(role: &str, config: &Config) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .build()
        .with_context(|| format!("{ENDPOINT} is set, but the exporter cannot be made"))?;
    let resource = Resource::builder()
        .with_service_name(format!("asobi-{role}"))
        .with_attribute(KeyValue::new("service.instance.id", config.node.id.clone()))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let sampler = Sampler::TraceIdRatioBased(config.telemetry.sample_ratio);
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(sampler)))
        .with_resource(resource)
        .build())
}

/// The current span as a W3C `traceparent`, if it is recorded; `None` where traces are not exported.
pub fn traceparent() -> Option<String> {
    let current = Span::current();
    // The cheap way out for nearly every caller.
    if current.is_disabled() {
        return None;
    }
    let context = current.context();
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() || !span.is_sampled() {
        return None;
    }
    Some(format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8()))
}

/// Makes a span, not yet entered, a child of the remote one that the `traceparent` names. What is not a valid one is
/// ignored, as the standard says.
pub fn set_parent(span: &Span, traceparent: &str) {
    if let Some(parent) = parse(traceparent) {
        // Fails where traces are not exported, or if the span was entered before.
        let _no_parent = span.set_parent(Context::new().with_remote_span_context(parent));
    }
}

fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.trim().split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !hex(version, 2) || version == "ff" || !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) {
        return None;
    }
    if version == "00" && parts.next().is_some() {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE)).filter(SpanContext::is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparents_are_parsed_strictly() {
        let right = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(parse(right).is_some_and(|span| span.is_sampled() && span.is_remote()));
        assert!(parse(&right.replace("-01", "-00")).is_some_and(|span| !span.is_sampled()));
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_span_continues_the_remote_trace() {
        let provider = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOn).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let span = tracing::info_span!("child");
            set_parent(&span, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
            let trace = span.in_scope(traceparent).unwrap();
            assert!(trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{trace}");
            assert!(!trace.contains("00f067aa0ba902b7"));
        });
        assert_eq!(traceparent(), None);
    }
}
