//! Whether this process can take work, and if not, why. One value drives gRPC health and `/ready`.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use crate::starting;

/// Not ready until [`Readiness::set_ready`] was called, nor while any reason stands against it. Clones share one state.
#[derive(Debug, Clone)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Clone, Default)]
struct State {
    started: bool,
    reasons: BTreeMap<&'static str, String>,
}

impl State {
    fn ready(&self) -> bool {
        self.started && self.reasons.is_empty()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    pub fn new() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::default())) }
    }

    /// Whether start-up is complete; `false` again while draining.
    pub fn set_ready(&self, ready: bool) {
        self.state.send_if_modified(|state| std::mem::replace(&mut state.started, ready) != ready);
        if ready {
            starting::ready();
        }
    }

    /// Makes the process unready for as long as the reason stands; a sentence for people who read `/ready`.
    pub fn block(&self, what: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        self.state.send_if_modified(|state| state.reasons.insert(what, reason.clone()).as_ref() != Some(&reason));
    }

    /// Takes a reason of [`Readiness::block`] back.
    pub fn clear(&self, what: &'static str) {
        self.state.send_if_modified(|state| state.reasons.remove(what).is_some());
    }

    pub fn ready(&self) -> bool {
        self.state.borrow().ready()
    }

    /// Why the process is not ready; empty when it is.
    pub fn reasons(&self) -> Vec<String> {
        let state = self.state.borrow();
        let starting = (!state.started).then(|| "starting or draining".to_owned());
        let others = state.reasons.iter().map(|(what, reason)| format!("{what}: {reason}"));
        starting.into_iter().chain(others).collect()
    }

    /// Returns when the process is ready.
    pub async fn wait_ready(&self) {
        // The sender lives in self, so the channel cannot close.
        let mut state = self.state.subscribe();
        let _open = state.wait_for(State::ready).await;
    }

    /// The changes of readiness, beginning with the present value.
    pub(crate) fn follow(&self) -> Follow {
        let mut state = self.state.subscribe();
        state.mark_changed();
        Follow { state }
    }
}

pub(crate) struct Follow {
    state: watch::Receiver<State>,
}

impl Follow {
    /// The next value; `None` when nobody is left to change it.
    pub(crate) async fn next(&mut self) -> Option<bool> {
        self.state.changed().await.ok()?;
        Some(self.state.borrow_and_update().ready())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn is_ready_when_started_and_nothing_stands_against_it() {
        let readiness = Readiness::new();
        assert_eq!(readiness.reasons(), ["starting or draining"]);
        readiness.block("listener", "no connection to PostgreSQL");
        readiness.set_ready(true);
        assert!(!readiness.ready());
        assert_eq!(readiness.reasons(), ["listener: no connection to PostgreSQL"]);
        readiness.clear("listener");
        assert!(readiness.ready() && readiness.reasons().is_empty());
        readiness.wait_ready().await;
    }
}
