//! Who decides that a trace is recorded.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry::trace::SpanContext;
use tracing::Span;

use crate::{
    context::{parse, place},
    rate::PerSecond,
};

/// What is recorded.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The share of traces that are recorded where no caller has decided, 0.0 to 1.0.
    pub ratio: f64,
    /// What takes longer is exported also where its trace is not recorded. Zero: nothing is slow.
    pub slow: Duration,
    /// Spans of errors and of what was slow, beside recorded traces, that are exported at most in each second.
    pub always_per_second: u32,
    /// Traces in each second that are recorded at most because a client asked for it.
    pub client_per_second: u32,
}

/// One more than the largest number that is drawn.
const EVERY: u64 = 1 << 32;

pub(crate) struct Rules {
    /// A random number below it is drawn.
    below: u64,
    pub slow: Duration,
    pub always: PerSecond,
    client: PerSecond,
}

static EXPORTS: AtomicBool = AtomicBool::new(false);
static RULES: OnceLock<Rules> = OnceLock::new();

/// Called once, when the process has an exporter. Without, nothing is ever recorded.
pub fn switch_on(settings: Settings) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of 2^32, which fits")]
    let below = (settings.ratio.clamp(0.0, 1.0) * EVERY as f64) as u64;
    let always = PerSecond::new(settings.always_per_second);
    let client = PerSecond::new(settings.client_per_second);
    // A second call changes nothing: the first one's exporter is the process's.
    let _first = RULES.set(Rules { below, slow: settings.slow, always, client });
    EXPORTS.store(true, Ordering::Release);
}

/// Whether this process exports traces at all.
#[inline]
#[must_use]
pub fn exports() -> bool {
    EXPORTS.load(Ordering::Relaxed)
}

pub(crate) fn rules() -> Option<&'static Rules> {
    if exports() { RULES.get() } else { None }
}

impl Rules {
    fn draw(&self) -> bool {
        // The two that tests and small clusters have cost no random number.
        match self.below {
            0 => false,
            EVERY => true,
            below => u64::from(rand::random::<u32>()) < below,
        }
    }
}

/// What was decided of a trace before its first span here is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// It is not recorded.
    Off,
    /// It is, and begins here.
    Root,
    /// It is, and goes on from there.
    Under(SpanContext),
}

impl Head {
    /// Where nobody can have decided: draws.
    #[must_use]
    pub fn draw() -> Self {
        match rules() {
            Some(rules) if rules.draw() => Self::Root,
            _ => Self::Off,
        }
    }

    /// Under a caller who belongs to the cluster or was let in: what they decided, either way. Draws for one who says nothing.
    #[must_use]
    pub fn of_caller(traceparent: Option<&str>) -> Self {
        if !exports() {
            return Self::Off;
        }
        match traceparent.and_then(parse) {
            Some(parent) if parent.is_sampled() => Self::Under(parent),
            Some(_) => Self::Off,
            None => Self::draw(),
        }
    }

    /// Under anybody in the world: whoever wants to be recorded is, a bounded number of times per second and process, and past it is drawn like
    /// everybody; whoever does not want to is not.
    #[must_use]
    pub fn of_client(traceparent: Option<&str>) -> Self {
        let Some(rules) = rules() else { return Self::Off };
        match traceparent.and_then(parse) {
            Some(parent) if parent.is_sampled() => {
                if rules.client.take() || rules.draw() {
                    Self::Under(parent)
                } else {
                    Self::Off
                }
            }
            Some(_) => Self::Off,
            None => Self::draw(),
        }
    }

    /// Under a context that was kept, which is done for recorded traces alone.
    #[must_use]
    pub fn kept(traceparent: Option<&str>) -> Self {
        match traceparent {
            Some(parent) if exports() => parse(parent).filter(SpanContext::is_sampled).map_or(Self::Off, Self::Under),
            _ => Self::Off,
        }
    }

    /// The span, where there is to be one. It is made as a root.
    pub fn open(self, make: impl FnOnce() -> Span) -> Span {
        match self {
            Self::Off => Span::none(),
            Self::Root => make(),
            Self::Under(parent) => {
                let span = make();
                place(&span, parent);
                span
            }
        }
    }
}
