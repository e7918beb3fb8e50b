//! The layer that logs to standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::{Layer, Registry, reload};

use super::{
    log_filter::{self, WrongFilter},
    log_limit::Limit,
    log_lines::{Lines, Style},
};
use crate::config::{Config, LogFormat};

/// # Errors
/// When `log.filter` is none.
pub(super) fn layer(
    role: &'static str,
    config: &Config,
) -> Result<Box<dyn Layer<Registry> + Send + Sync>, WrongFilter> {
    let (filter, handle) = reload::Layer::new(log_filter::parse_filter(&config.log.filter)?);
    log_filter::start(handle, &config.log.filter);
    let limit = Limit::new(config.log.lines_per_site);
    let node = config.node.id.clone();
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    Ok(match config.log.format {
        LogFormat::Json => {
            let lines = Lines { style: Style::Json { node, role }, limit };
            layer.with_ansi(false).event_format(lines).with_filter(filter).boxed()
        }
        LogFormat::Pretty => {
            let lines = Lines { style: Style::Pretty(tracing_subscriber::fmt::format()), limit };
            layer.with_ansi(coloured()).event_format(lines).with_filter(filter).boxed()
        }
    })
}

/// NO_COLOR and CLICOLOR_FORCE as others take them; a supervisor that shows our lines on a terminal sets the latter.
fn coloured() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
    !set("NO_COLOR") && (set("CLICOLOR_FORCE") || std::io::stderr().is_terminal())
}
