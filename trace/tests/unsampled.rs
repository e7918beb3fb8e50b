//! What a click costs that is not recorded: no allocation, and so little time that it is printed rather than judged, except beside one that is.

use std::{
    alloc::System,
    hint::black_box,
    time::{Duration, Instant},
};

use asobi_trace::{Head, KeyValue, Settings, SpanKind, Watch};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tracing::field::Empty;
use tracing_subscriber::{Layer as _, filter::filter_fn, layer::SubscriberExt as _, util::SubscriberInitExt as _};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CLICKS: u32 = 1_000_000;

/// All that is done for the trace of a frame that asks the database and publishes something.
fn click(head: impl Fn() -> Head, n: u32) {
    let frame = asobi_trace::root!(
        head(),
        "frame",
        otel.kind = "server",
        otel.status_code = Empty,
        asobi.frame.type = "chat.send",
        asobi.session.no = n,
    );
    let watch = Watch::begin(!frame.is_disabled());
    {
        let _entered = frame.enter();
        let sql = asobi_trace::child!("sql", otel.kind = "client", db.system.name = "postgresql");
        let _asked = sql.enter();
        black_box(asobi_trace::traceparent());
    }
    black_box(asobi_trace::under!(None::<&str>, "process", otel.kind = "consumer"));
    watch.end(None, None, || ("frame".to_owned(), SpanKind::Server, vec![KeyValue::new("asobi.what", "frame")]));
}

fn timed(clicks: u32, work: impl Fn(u32)) -> (Duration, usize) {
    // What a thread makes once.
    (0..1_000).for_each(&work);
    let region = Region::new(ALLOCATOR);
    let begun = Instant::now();
    (0..clicks).for_each(&work);
    (begun.elapsed(), region.change().allocations)
}

#[test]
fn what_is_not_recorded_makes_nothing() {
    let nothing = timed(CLICKS, |n| {
        black_box(n);
    });
    let off = timed(CLICKS, |n| click(Head::draw, n));

    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("test"))
        .with_filter(filter_fn(|metadata| metadata.target() == asobi_trace::TARGET));
    tracing_subscriber::registry().with(layer).init();
    // So little that it is drawn for, and never drawn.
    let slow = Duration::from_secs(60);
    asobi_trace::switch_on(Settings { ratio: 1e-9, slow, always_per_second: 10, client_per_second: 5 });
    let drawn = timed(CLICKS, |n| click(Head::draw, n));
    let recorded = timed(CLICKS / 100, |n| click(|| Head::Root, n));

    let each = |(took, _): (Duration, usize), clicks: u32| took.as_nanos() as f64 / f64::from(clicks);
    println!(
        "ns for each click: {:.1} nothing, {:.1} no exporter, {:.1} not drawn, {:.0} recorded",
        each(nothing, CLICKS),
        each(off, CLICKS),
        each(drawn, CLICKS),
        each(recorded, CLICKS / 100),
    );
    assert_eq!((off.1, drawn.1), (0, 0), "allocations");
    assert!(recorded.1 > 0, "the counter counts");
    assert!(each(drawn, CLICKS) * 4.0 < each(recorded, CLICKS / 100), "it costs as if it were recorded");
}
