//! Resets that are due, and what is left of periods and boards that are gone. Every service looks; the board's row lock says who does it.

use std::{sync::Arc, time::Duration};

use asobi_store::{Result, boards, within};
use tokio_util::sync::CancellationToken;

use super::Boards;

/// How often is looked at the least: how long a schedule may be unknown that another service took.
const LOOK: Duration = Duration::from_secs(1);
/// Boards of one look.
const AT_ONCE: i64 = 64;
/// How often is swept, how many rows of one board a step deletes, and how many steps follow each other.
const SWEEP: Duration = Duration::from_secs(10);
const STEP: i64 = 2_000;
const STEPS: usize = 100;
/// Between steps, for those who play.
const BREATH: Duration = Duration::from_millis(20);

/// Ends periods when their time has come, until `stop`.
pub async fn reset_boards(boards: Arc<Boards>, stop: CancellationToken) {
    let mut wait = Duration::ZERO;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = match boards.reset_due().await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::warn!(%error, "Boards could not be reset for now; it is tried again.");
                LOOK
            }
        };
    }
}

/// Deletes what is kept no longer, step by step, until `stop`.
pub async fn sweep_boards(boards: Arc<Boards>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP) => {}
        }
        for _ in 0..STEPS {
            match boards.sweep_step().await {
                Ok(true) if !stop.is_cancelled() => tokio::time::sleep(BREATH).await,
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "Entries of periods that are gone could not be deleted; it is tried again.");
                    break;
                }
            }
        }
    }
}

impl Boards {
    /// How long until the next look.
    async fn reset_due(&self) -> Result<Duration> {
        let bound = self.options.bound;
        let (due, next) = within(bound, boards::upcoming(self.pool(), AT_ONCE)).await?;
        for id in &due {
            let reset = within(bound, async {
                let mut tx = asobi_store::begin(self.pool()).await?;
                let reset = boards::reset_if_due(&mut tx, id).await?;
                tx.commit().await?;
                Ok(reset)
            });
            if reset.await? {
                tracing::info!(board.id = id, "A board's period ended.");
                self.changed(id).await;
            }
        }
        Ok(if due.is_empty() { next.map_or(LOOK, |next| next.min(LOOK)) } else { Duration::ZERO })
    }

    async fn sweep_step(&self) -> Result<bool> {
        within(self.options.bound, async {
            let mut tx = asobi_store::begin(self.pool()).await?;
            let more = boards::sweep(&mut tx, STEP).await?;
            tx.commit().await?;
            Ok(more)
        })
        .await
    }
}
