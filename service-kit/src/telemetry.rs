//! Logs, traces and metrics: one set-up for all processes. What a trace is stands in `asobi-trace`, whose names are also here.

pub mod catalogue;
mod export;
pub mod exposition;
mod log_filter;
mod log_limit;
mod log_lines;
mod logs;
mod metrics;
mod otlp;
mod otlp_metrics;
mod process;
mod trace;

pub use asobi_trace::traceparent;
pub use log_filter::{LogFilter, WrongFilter, log_filter, parse_filter, set_log_filter};
pub use log_lines::{SCRIPT, with_trace_id};
pub use metrics::{install_metrics, observe, render_metrics, summed_metrics};
pub use trace::{TelemetryGuard, init};

use crate::shutdown::Shutdown;

/// What goes on as long as the process: metrics are folded and exported, and a log filter that was set for a time is set back.
pub fn run(shutdown: &Shutdown) {
    shutdown.spawn_background("metrics upkeep", metrics::upkeep());
    shutdown.spawn_background("metrics export", otlp_metrics::run(shutdown.draining()));
    shutdown.spawn_background("log filter", log_filter::go_back());
}
