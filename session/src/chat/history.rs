//! Keeping the history: days made ahead by every node that writes, days dropped by whichever gets to it.

use std::{sync::Arc, time::Duration};

use asobi_store::{chat::history, within};

use crate::hub::Hub;

const EVERY: Duration = Duration::from_secs(600);
/// After a failure.
const RETRY: Duration = Duration::from_secs(15);
/// Making days waits for whoever changes the table at the same time; dropping them for whoever reads it.
const DEADLINE: Duration = Duration::from_secs(120);

pub(super) async fn run(hub: Arc<Hub>) {
    loop {
        let pause = match within(DEADLINE, round(&hub)).await {
            Ok(()) => EVERY,
            Err(error) => {
                tracing::warn!(%error, "The upkeep of the chat's history failed; it is tried again.");
                RETRY
            }
        };
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.7..1.3))).await;
    }
}

async fn round(hub: &Hub) -> asobi_store::Result<()> {
    let ahead = metrics::gauge!("asobi_chat_days_left");
    // What there is, before whatever may keep the rest from being made.
    ahead.set(f64::from(history::days_ahead(&hub.pool).await?));
    history::make_days(&hub.pool).await?;
    ahead.set(f64::from(history::AHEAD));
    let Some(done) = history::upkeep(&hub.pool, hub.config.chat.retention_days).await? else { return Ok(()) };
    metrics::counter!("asobi_chat_days_dropped_total").increment(done.dropped as u64);
    metrics::gauge!("asobi_chat_days_overdue").set(done.left as f64);
    Ok(())
}
