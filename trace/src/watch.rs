//! What is exported although its trace is not recorded: errors, and what was slow.

use std::time::{Instant, SystemTime};

use opentelemetry::{
    Context, KeyValue, global,
    trace::{Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceState, Tracer as _},
};

use crate::head::{exports, rules};

/// Watches an operation that is not recorded. Costs the time of day where traces are exported, and nothing where they are not.
#[derive(Debug, Clone, Copy)]
pub struct Watch(Option<Instant>);

impl Watch {
    /// `recorded`: it has a span of its own, which shows all there is to see.
    #[inline]
    #[must_use]
    pub fn begin(recorded: bool) -> Self {
        Self((exports() && !recorded).then(Instant::now))
    }

    /// One that watches nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Says how it ended: with an error of ours, which is named in few words, or well. `attributes` are asked for only if it is exported.
    /// `parent`: the trace it would belong to, if its caller named one.
    pub fn end(
        self,
        error: Option<&'static str>,
        parent: Option<SpanContext>,
        attributes: impl FnOnce() -> (String, SpanKind, Vec<KeyValue>),
    ) {
        let (Some(begun), Some(rules)) = (self.0, rules()) else { return };
        let took = begun.elapsed();
        let slow = !rules.slow.is_zero() && took >= rules.slow;
        if error.is_none() && !slow {
            return;
        }
        if !rules.always.take() {
            metrics::counter!("asobi_trace_spans_dropped_total", "reason" => "rate").increment(1);
            return;
        }
        let (name, kind, mut attributes) = attributes();
        attributes.push(KeyValue::new("asobi.kept_for", if error.is_some() { "error" } else { "slow" }));
        if let Some(error) = error {
            attributes.push(KeyValue::new("error.type", error));
        }
        let ended = SystemTime::now();
        let tracer = global::tracer("asobi");
        let builder = tracer
            .span_builder(name)
            .with_kind(kind)
            .with_start_time(ended.checked_sub(took).unwrap_or(ended))
            .with_attributes(attributes);
        let parent = parent.map(|parent| {
            // The exporter asks the parent; what is exported here was decided here.
            let flags = TraceFlags::SAMPLED;
            SpanContext::new(parent.trace_id(), parent.span_id(), flags, true, TraceState::NONE)
        });
        let context = parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        let mut span = tracer.build_with_context(builder, &context);
        if let Some(error) = error {
            span.set_status(Status::error(error));
        }
        span.end_with_timestamp(ended);
    }
}
