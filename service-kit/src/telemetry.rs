//! Logs, traces and metrics: one set-up for all processes.

pub mod catalogue;
pub mod exposition;
mod metrics;
mod otlp_metrics;
mod process;
mod trace;

pub use metrics::{install_metrics, observe, render_metrics, summed_metrics};
pub use trace::{TelemetryGuard, init, set_parent, traceparent};

pub(crate) use metrics::upkeep;
pub(crate) use otlp_metrics::start as export_metrics;
