//! How long a start took, and with what: told in the one line that says that a process is ready.
//!
//! A start does one step after another, each in the task that runs the service. After each of them that task says [`done`]; what lies
//! between two of these belongs to the later one, so that the steps add up to the whole.

use std::{
    cell::RefCell,
    fmt::Write as _,
    future::Future,
    time::{Duration, Instant},
};

/// Steps that are named in the line; the others are in the log at level debug.
const NAMED: usize = 3;

tokio::task_local! {
    static START: RefCell<Option<Start>>;
}

#[derive(Debug)]
struct Start {
    role: &'static str,
    began: Instant,
    last: Instant,
    steps: Vec<(&'static str, Duration)>,
}

/// Runs a service whose start is watched, since `began`, until it is [`ready`].
pub(crate) async fn watched<F: Future>(role: &'static str, began: Instant, service: F) -> F::Output {
    START.scope(RefCell::new(Some(Start { role, began, last: began, steps: Vec::new() })), service).await
}

/// A step of the start is over. Says nothing in a process that is ready already, and in one whose start nobody watches, such as a test's.
pub fn done(step: &'static str) {
    let noted = START.try_with(|start| {
        let mut start = start.borrow_mut();
        let start = start.as_mut()?;
        let now = Instant::now();
        let took = now - std::mem::replace(&mut start.last, now);
        start.steps.push((step, took));
        Some(took)
    });
    if let Ok(Some(took)) = noted {
        tracing::debug!(step, took_ms = millis(took), "A step of the start is done.");
    }
}

/// Says how long the start took. Once: a process that becomes ready again has not started again.
pub(crate) fn ready() {
    done("servers");
    let Ok(Some(start)) = START.try_with(|start| start.borrow_mut().take()) else { return };
    tracing::info!(
        start.ms = millis(start.last - start.began),
        start.longest = longest(start.steps),
        "asobi-{} is ready",
        start.role
    );
}

/// As `database 31 ms, signing keys 12 ms, registration 5 ms`.
fn longest(mut steps: Vec<(&'static str, Duration)>) -> String {
    steps.sort_by_key(|&(_, took)| std::cmp::Reverse(took));
    let mut text = String::new();
    for (step, took) in steps.into_iter().take(NAMED) {
        let joint = if text.is_empty() { "" } else { ", " };
        let _infallible = write!(text, "{joint}{step} {} ms", millis(took));
    }
    text
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Readiness;

    #[test]
    fn the_longest_steps_are_named_the_longest_first() {
        let steps = [("configuration", 2), ("database", 31), ("registration", 5), ("signing keys", 12)];
        let steps = steps.map(|(step, ms)| (step, Duration::from_millis(ms))).to_vec();
        assert_eq!(longest(steps), "database 31 ms, signing keys 12 ms, registration 5 ms");
        assert_eq!(longest(Vec::new()), "");
    }

    #[tokio::test]
    async fn steps_add_up_to_the_start_and_end_with_it() {
        let began = Instant::now();
        watched("test", began, async {
            done("one");
            done("two");
            START.with(|start| {
                let start = start.borrow();
                let start = start.as_ref().expect("is not ready yet");
                assert_eq!(start.steps.iter().map(|&(step, _)| step).collect::<Vec<_>>(), ["one", "two"]);
                assert_eq!(start.steps.iter().map(|&(_, took)| took).sum::<Duration>(), start.last - began);
            });
            Readiness::new().set_ready(true);
            assert!(START.with(|start| start.borrow().is_none()), "a start ends once");
            done("later");
        })
        .await;
        // Nobody watches: nothing to say, and nothing to fall over.
        done("elsewhere");
    }
}
