//! Parties between requests: members who come, go or play, and what nobody needs any more. Every node looks, one at a time does it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_store::{parties, within};

use crate::hub::Hub;

const PERIOD: Duration = Duration::from_secs(3);
/// A look may take this part of the time, however many parties there are.
const SHARE: u32 = 20;
const DEADLINE: Duration = Duration::from_secs(3);
const SWEEP: Duration = Duration::from_secs(60);
/// Rows of each kind in one sweep.
const SWEPT: i64 = 1_000;

pub(super) async fn run(hub: Arc<Hub>) {
    let (mut swept, mut took) = (Instant::now(), Duration::ZERO);
    loop {
        tokio::time::sleep(PERIOD.max(took * SHARE).mul_f64(rand::random_range(0.7..1.3))).await;
        // Nobody may be judged gone by who was itself not in contact.
        if !hub.membership.may_judge() {
            continue;
        }
        let began = Instant::now();
        look(&hub).await;
        took = began.elapsed().min(DEADLINE);
        if swept.elapsed() >= SWEEP {
            swept = Instant::now();
            match within(DEADLINE, parties::sweep(&hub.pool, SWEPT)).await {
                Ok(0) => {}
                Ok(rows) => tracing::debug!(rows, "Parties and invitations that were over are forgotten."),
                Err(error) => tracing::debug!(%error, "Parties could not be swept; the next look will."),
            }
        }
    }
}

async fn look(hub: &Hub) {
    loop {
        match within(DEADLINE, parties::look(&hub.pool)).await {
            Ok(seen) => {
                hub.publish_told(&seen.told);
                if !seen.more {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "Parties could not be looked at; the next look finds what changed.");
                return;
            }
        }
    }
}
