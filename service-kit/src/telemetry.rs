//! Logs, traces and metrics: one set-up for all processes.

mod metrics;
mod process;
mod trace;

pub use metrics::{install_metrics, render_metrics, summed_metrics};
pub use trace::{TelemetryGuard, init, set_parent, traceparent};

pub(crate) use metrics::upkeep;
