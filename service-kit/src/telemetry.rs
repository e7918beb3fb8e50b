//! Logs, traces and metrics: one set-up for all processes. What a trace is stands in `asobi-trace`, whose names are also here.

pub mod catalogue;
mod export;
pub mod exposition;
mod log_filter;
mod log_limit;
mod log_lines;
mod logs;
mod metrics;
mod otlp_metrics;
mod process;
mod trace;

pub use asobi_trace::traceparent;
pub use log_filter::{LogFilter, WrongFilter, log_filter, parse_filter, set_log_filter};
pub use log_lines::with_trace_id;
pub use metrics::{install_metrics, observe, render_metrics, summed_metrics};
pub use trace::{TelemetryGuard, init};

pub(crate) use log_filter::go_back;
pub(crate) use metrics::upkeep;
pub(crate) use otlp_metrics::start as export_metrics;
