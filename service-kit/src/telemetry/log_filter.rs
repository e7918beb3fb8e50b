//! What is logged, and changing that while the process runs.
//!
//! ```text
//!  configured ──set──► changed ──reset, or its time is over──► configured
//!                       └─set─► changed: the newest counts, and its time
//! ```

use std::{
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Notify;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Registry, filter::Targets, reload::Handle};

/// Longest filter.
const BYTES: usize = 1_024;

/// What is wrong with a filter, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WrongFilter(String);

/// What is logged now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter {
    pub filter: String,
    /// `log.filter`, to which it goes back.
    pub configured: String,
    /// When it goes back by itself; none: it does not.
    pub until: Option<SystemTime>,
}

struct Control {
    handle: Handle<Targets, Registry>,
    configured: String,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Clone)]
struct State {
    filter: String,
    until: Option<(Instant, SystemTime)>,
}

static CONTROL: OnceLock<Control> = OnceLock::new();

pub(super) fn start(handle: Handle<Targets, Registry>, configured: &str) {
    let state = Mutex::new(State { filter: configured.to_owned(), until: None });
    // A second set-up of one process fails a moment later, and the first one's stays.
    let _first = CONTROL.set(Control { handle, configured: configured.to_owned(), state, changed: Notify::new() });
}

/// Reads a level, or directives with a level each, such as `info,asobi_session=debug`.
///
/// # Errors
/// Says which directive is wrong, and what would be right.
pub fn parse_filter(text: &str) -> Result<Targets, WrongFilter> {
    let wrong = |what: String| Err(WrongFilter(what));
    if text.len() > BYTES {
        return wrong(format!("a filter has at most {BYTES} bytes"));
    }
    let mut targets = Targets::new();
    for directive in text.split(',').map(str::trim) {
        let (target, level) = match directive.split_once('=') {
            Some((target, level)) => (Some(target.trim()), level.trim()),
            None => (None, directive),
        };
        let known =
            ["error", "warn", "info", "debug", "trace", "off"].iter().any(|known| level.eq_ignore_ascii_case(known));
        let (true, Ok(level)) = (known, level.parse::<LevelFilter>()) else {
            return wrong(match target {
                None => format!(
                    "{directive:?} is no level (error, warn, info, debug, trace, off); a part of the program needs one, as in asobi_session=debug"
                ),
                Some(target) => {
                    format!("{level:?}, for {target:?}, is no level: error, warn, info, debug, trace or off")
                }
            });
        };
        targets = match target {
            None => targets.with_default(level),
            Some(target) if is_target(target) => targets.with_target(target, level),
            Some(target) => return wrong(format!("{target:?} is no part of a program, such as asobi_session")),
        };
    }
    Ok(targets)
}

fn is_target(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':'))
}

/// What is logged now; none before the process's telemetry is set up.
#[must_use]
pub fn log_filter() -> Option<LogFilter> {
    let control = CONTROL.get()?;
    Some(control.shown(&control.lock()))
}

/// Changes what is logged, for a time or until the process ends. None: back to what is configured. The answer is what holds then; none before
/// the process's telemetry is set up.
///
/// # Errors
/// Says what is wrong with the filter; nothing has changed then.
pub fn set_log_filter(filter: Option<&str>, lasts: Option<Duration>) -> Result<Option<LogFilter>, WrongFilter> {
    let targets = filter.map(parse_filter).transpose()?;
    let Some(control) = CONTROL.get() else { return Ok(None) };
    let mut state = control.lock();
    match (filter, targets) {
        (Some(filter), Some(targets)) => {
            let until = lasts.and_then(|lasts| Some((Instant::now().checked_add(lasts)?, SystemTime::now() + lasts)));
            control.apply(targets)?;
            *state = State { filter: filter.to_owned(), until };
        }
        _ => control.reset(&mut state)?,
    }
    let shown = control.shown(&state);
    drop(state);
    control.changed.notify_one();
    Ok(Some(shown))
}

impl Control {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self, state: &State) -> LogFilter {
        LogFilter {
            filter: state.filter.clone(),
            configured: self.configured.clone(),
            until: state.until.map(|(_, at)| at),
        }
    }

    fn apply(&self, targets: Targets) -> Result<(), WrongFilter> {
        self.handle.reload(targets).map_err(|error| WrongFilter(format!("the filter could not be changed: {error}")))
    }

    fn reset(&self, state: &mut State) -> Result<(), WrongFilter> {
        self.apply(parse_filter(&self.configured)?)?;
        *state = State { filter: self.configured.clone(), until: None };
        Ok(())
    }

    /// Goes back if it is time; answers when it will be.
    fn look(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        let (until, _) = state.until?;
        if until > now {
            return Some(until);
        }
        if let Err(error) = self.reset(&mut state) {
            tracing::error!(%error, "What is logged could not be set back.");
        }
        state.until = None;
        tracing::info!(filter = state.filter, "What is logged is as configured again: its time was over.");
        None
    }
}

/// Sets back what was set for a time, for as long as the process lives.
pub(super) async fn go_back() {
    let Some(control) = CONTROL.get() else { return };
    loop {
        let changed = control.changed.notified();
        match control.look(Instant::now()) {
            None => changed.await,
            Some(until) => {
                // Whichever comes first: then it is looked at again.
                let _over = tokio::time::timeout_at(until.into(), changed).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_and_mistakes_named() {
        for right in ["info", "OFF", "info,asobi_session=debug", "warn, asobi_bus::listener = trace"] {
            assert!(parse_filter(right).is_ok(), "{right}");
        }
        let targets = parse_filter("warn,asobi_session=debug").expect("right");
        assert!(targets.would_enable("asobi_session::chat", &tracing::Level::DEBUG));
        assert!(!targets.would_enable("asobi_bus", &tracing::Level::INFO));
        for (wrong, names) in [
            ("", "\"\""),
            ("infoo", "\"infoo\""),
            ("info,asobi_session", "\"asobi_session\""),
            ("info,asobi_session=loud", "\"loud\""),
            ("asobi[x]=debug", "\"asobi[x]\""),
            ("=debug", "\"\""),
            ("info,", "\"\""),
        ] {
            let said = parse_filter(wrong).expect_err(wrong).to_string();
            assert!(said.contains(names), "{wrong}: {said}");
        }
        assert!(parse_filter(&"info,".repeat(1_000)).is_err());
    }
}
