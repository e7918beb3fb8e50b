//! Applies what matches did to the world outside: woken by the bus, and every few seconds all the same.

use std::{sync::Arc, time::Duration};

use asobi_bus::Subscription;
use asobi_store::{effects_apply, within};
use futures_util::FutureExt as _;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::boards::Boards;

const POLL: Duration = Duration::from_secs(3);
/// Effects of one transaction.
const BATCH: i64 = 256;
const AFTER_ERROR: Duration = Duration::from_millis(500);

/// Applies until `stop`; the batch that is under way then is finished.
pub async fn run(pool: PgPool, boards: Arc<Boards>, mut wake: Subscription, bound: Duration, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            event = wake.next() => if event.is_none() { return },
            () = tokio::time::sleep(POLL) => {}
        }
        // One look at the rows serves all who called meanwhile.
        while let Some(Some(_)) = wake.next().now_or_never() {}
        if let Err(error) = apply_all(&pool, &boards, bound, &stop).await {
            tracing::warn!(%error, "Effects of matches could not be applied for now; they are tried again.");
            tokio::time::sleep(AFTER_ERROR).await;
        }
    }
}

async fn apply_all(
    pool: &PgPool,
    boards: &Boards,
    bound: Duration,
    stop: &CancellationToken,
) -> asobi_store::Result<()> {
    while !stop.is_cancelled() {
        let applied = within(bound, effects_apply::batch(pool, BATCH)).await?;
        for (match_id, ordinal, why) in &applied.refused {
            tracing::error!(match.id = %match_id, effect.ordinal = ordinal, why, "An effect can never be applied and was put aside.");
        }
        metrics::counter!("asobi_social_effects_total", "outcome" => "refused").increment(applied.refused.len() as u64);
        metrics::counter!("asobi_social_effects_total", "outcome" => "applied")
            .increment((applied.effects - applied.refused.len()) as u64);
        boards.written(applied.scores);
        if i64::try_from(applied.effects).unwrap_or(i64::MAX) < BATCH {
            return Ok(());
        }
    }
    Ok(())
}
