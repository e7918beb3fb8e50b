//! Trace contexts: read from where they travel, written into it.

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::head::exports;

/// The current span's context, if it is recorded.
#[must_use]
pub fn current() -> Option<SpanContext> {
    // The cheap way out for every process that exports nothing.
    if exports() { context_of(&Span::current()) } else { None }
}

/// Whether what happens now is recorded.
#[must_use]
pub fn recording() -> bool {
    current().is_some()
}

/// A span's context, if it is recorded.
#[must_use]
pub fn context_of(span: &Span) -> Option<SpanContext> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let context = span.span_context();
    (context.is_valid() && context.is_sampled()).then(|| context.clone())
}

/// The current span as a W3C `traceparent`, if it is recorded.
#[must_use]
pub fn traceparent() -> Option<String> {
    current().as_ref().map(written)
}

/// As [`traceparent`], of another span than the current one.
#[must_use]
pub fn traceparent_of(span: &Span) -> Option<String> {
    context_of(span).as_ref().map(written)
}

fn written(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8())
}

/// Gives a span another name, once more is known of it. Recording `otel.name` is for spans that were not entered yet.
pub fn rename(span: &Span, name: String) {
    if !span.is_disabled() {
        span.context().span().update_name(name);
    }
}

pub(crate) fn place(span: &Span, parent: SpanContext) {
    // Fails where traces are not exported, or if the span was entered before.
    let _no_parent = span.set_parent(Context::new().with_remote_span_context(parent));
}

/// The current span where it is recorded, to be kept with what is done later.
#[must_use]
pub fn recorded_span() -> Span {
    if recording() { Span::current() } else { Span::none() }
}

/// Links a span to others that it stands for as well: those that share a batch with its parent.
pub fn link(span: &Span, others: impl IntoIterator<Item = SpanContext>) {
    if !span.is_disabled() {
        others.into_iter().take(MOST_LINKS).for_each(|other| span.add_link(other));
    }
}

/// As [`link`].
pub fn link_spans<'a>(span: &Span, others: impl IntoIterator<Item = &'a Span>) {
    link(span, others.into_iter().filter_map(context_of));
}

/// Links of one span.
const MOST_LINKS: usize = 32;

/// Reads a W3C `traceparent`, strictly.
#[must_use]
pub fn parse(traceparent: &str) -> Option<SpanContext> {
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
        assert_eq!(parse(right).map(|span| written(&span)).as_deref(), Some(right));
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
}
