//! Removes what is over, in small steps; every replica does, each what the others leave.

use std::time::Duration;

use asobi_store::{
    groups::invites,
    notifications::{self, jobs},
    within,
};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

/// Between two looks.
const SWEEP: Duration = Duration::from_secs(600);
/// Rows of one statement.
const ROWS: i64 = 1_000;
/// How long jobs that are over can be looked at.
const JOB_DAYS: i32 = 90;

/// `days`: after which notifications are old.
pub async fn run(pool: PgPool, days: i32, bound: Duration, draining: CancellationToken) {
    let mut wait = Duration::ZERO;
    loop {
        tokio::select! {
            () = draining.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = SWEEP.mul_f64(rand::random_range(0.8..1.2));
        let swept = within(bound, async {
            let notifications = notifications::expire(&pool, days, ROWS).await?;
            Ok((notifications, invites::expire(&pool, ROWS).await? + jobs::expire(&pool, JOB_DAYS, ROWS).await?))
        });
        match swept.await {
            Ok((0, 0)) => {}
            Ok((notifications, _)) => {
                metrics::counter!("asobi_social_notifications_expired_total").increment(notifications);
                wait = Duration::from_millis(200);
            }
            Err(error) => tracing::warn!(%error, "What is over could not be removed; the next look will."),
        }
    }
}
