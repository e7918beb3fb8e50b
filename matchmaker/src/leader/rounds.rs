//! What a leader does again and again for as long as it leads.

use std::{future::Future, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::deps::{Error, Result};

pub trait Rounds: Send {
    /// From the begin of one round to the next; a long round puts the next one off.
    const PERIOD: Duration;
    /// What a failed round means, for the log.
    const FAILED: &'static str;

    fn round(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// Goes round until `quiet`, which also ends a round under way, or until the term is over.
pub async fn run<R: Rounds>(mut rounds: R, quiet: CancellationToken) {
    let mut tick = tokio::time::interval(R::PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let going = async {
        loop {
            tick.tick().await;
            match rounds.round().await {
                Ok(()) => {}
                Err(Error::Over) => return,
                Err(error) => tracing::warn!(%error, "{}", R::FAILED),
            }
        }
    };
    tokio::select! {
        () = quiet.cancelled() => {}
        () = going => {}
    }
}
