//! What a trace is in Asobi: who decides that one is recorded, what a span hangs on, and what is exported although nobody chose it. Knows no
//! exporter and does no I/O; `service-kit` switches it on.
//!
//! ```text
//!  click, request, call ──► Head: off · not drawn ──► no span; at the end only its time and outcome are looked at ([`Watch`])
//!                                 · drawn, or a caller's ──► root or remote child ──► children, each only inside a recorded span
//! ```
//!
//! **Invariant:** whether a trace is recorded is decided before its first span is made. What is not recorded makes no span at all, so that it
//! costs a load of one atomic and, where traces are exported, a random number and the time.

mod context;
mod head;
mod rate;
mod watch;

pub use context::{
    context_of, current, link, link_spans, parse, recorded_span, recording, rename, traceparent, traceparent_of,
};
pub use head::{Head, Settings, exports, switch_on};
pub use opentelemetry::{
    KeyValue,
    trace::{SpanContext, SpanKind},
};
pub use rate::PerSecond;
pub use watch::Watch;

/// The target of every span that is exported. Nothing else has it.
pub const TARGET: &str = "asobi::trace";

#[doc(hidden)]
pub use tracing as __tracing;

/// A span that begins a trace here, or goes on with a caller's, as its [`Head`] says: `root!(head, "name", field = value)`.
#[macro_export]
macro_rules! root {
    ($head:expr, $name:expr $(, $($fields:tt)*)?) => {
        $head.open(|| $crate::__tracing::info_span!(target: $crate::TARGET, parent: None, $name $(, $($fields)*)?))
    };
}

/// A span within the current one, where that is recorded: `child!("name", field = value)`.
#[macro_export]
macro_rules! child {
    ($name:expr $(, $($fields:tt)*)?) => {
        if $crate::recording() {
            $crate::__tracing::info_span!(target: $crate::TARGET, $name $(, $($fields)*)?)
        } else {
            $crate::__tracing::Span::none()
        }
    };
}

/// A span under a `traceparent` that was kept with a row or an item, which is there only if its trace is recorded.
#[macro_export]
macro_rules! under {
    ($traceparent:expr, $name:expr $(, $($fields:tt)*)?) => {
        $crate::Head::kept($traceparent)
            .open(|| $crate::__tracing::info_span!(target: $crate::TARGET, parent: None, $name $(, $($fields)*)?))
    };
}
