//! A context that was kept with a row or an item brings the trace back.

use asobi_trace::{Head, Settings};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::time::Duration;
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

#[test]
fn what_is_kept_goes_on_elsewhere() {
    let provider = SdkTracerProvider::builder().build();
    tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(provider.tracer("test"))).init();
    let slow = Duration::ZERO;
    asobi_trace::switch_on(Settings { ratio: 1.0, slow, always_per_second: 1, client_per_second: 1 });

    let frame = asobi_trace::root!(Head::draw(), "frame");
    let kept = frame.in_scope(asobi_trace::recorded_span);
    let written = asobi_trace::traceparent_of(&kept).expect("it is recorded");
    let begun = asobi_trace::context_of(&frame).expect("it is recorded");
    drop((frame, kept));

    let sent = asobi_trace::under!(Some(written.as_str()), "send", otel.kind = "producer");
    let sent_in = asobi_trace::context_of(&sent).expect("it is recorded");
    assert_eq!(sent_in.trace_id(), begun.trace_id());
    let inner = sent.in_scope(|| asobi_trace::child!("inner"));
    assert_eq!(asobi_trace::context_of(&inner).map(|inner| inner.trace_id()), Some(begun.trace_id()));
    assert!(asobi_trace::under!(None::<&str>, "send").is_disabled(), "nothing was kept");
}
