//! How late hints are: every few seconds a notification of its own to the process's own listening session, timed from when it is sent to when it
//! is heard. What the database says of its notification queue is read with it.
//!
//! One pulse wakes every listening session of the database up to PostgreSQL 18, as every NOTIFY does: hence seconds and not milliseconds apart.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::PgPool;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::Shared;

const EVERY: Duration = Duration::from_secs(5);
/// Before the first: the listening session is usually there by then.
const FIRST: Duration = Duration::from_millis(300);
const DEADLINE: Duration = Duration::from_secs(3);

/// The pulse that is on its way.
pub(crate) struct Pulse {
    /// Of this process alone.
    channel: String,
    sent: Mutex<Option<(u64, Instant)>>,
    /// Of the last one that was heard, microseconds; 0: none was.
    last: AtomicU64,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self {
            channel: format!("asobi_pulse_{:016x}", rand::random::<u64>()),
            sent: Mutex::default(),
            last: AtomicU64::new(0),
        }
    }

    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    pub(crate) fn last(&self) -> Option<Duration> {
        Some(self.last.load(Ordering::Relaxed)).filter(|micros| *micros > 0).map(Duration::from_micros)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(u64, Instant)>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pulse leaves. One that was never heard is as late as it is old.
    fn leaves(&self, number: u64, now: Instant) {
        let before = self.lock().replace((number, now));
        if let Some((_, sent)) = before {
            metrics::gauge!("asobi_bus_notify_lag_seconds").set(now.duration_since(sent).as_secs_f64());
        }
    }

    /// How late the pulse is that was heard; none: it is an earlier one.
    pub(crate) fn heard(&self, payload: &str, now: Instant) -> Option<Duration> {
        let mut waiting = self.lock();
        let (number, sent) = (*waiting)?;
        if payload.parse() != Ok(number) {
            return None;
        }
        *waiting = None;
        let lag = now.duration_since(sent);
        self.last.store(u64::try_from(lag.as_micros()).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
        metrics::gauge!("asobi_bus_notify_lag_seconds").set(lag.as_secs_f64());
        Some(lag)
    }
}

/// Sends pulses until `stop`.
pub(crate) async fn run(pool: PgPool, shared: Arc<Shared>, stop: CancellationToken) {
    let mut connected = shared.connected.subscribe();
    let mut pause = FIRST;
    for number in 1_u64.. {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = EVERY.mul_f64(rand::random_range(0.9..1.1));
        // Without a session nothing is measured; what is on its way is not heard either.
        tokio::select! {
            listening = connected.wait_for(|listening| *listening) => if listening.is_err() { return },
            () = stop.cancelled() => return,
        }
        shared.pulse.leaves(number, Instant::now());
        // A database that does not answer is somebody else's to speak of; the pulse that is not heard shows in the gauge.
        let _ = timeout(DEADLINE, send(&pool, shared.pulse.channel(), number)).await;
    }
}

async fn send(pool: &PgPool, channel: &str, number: u64) -> sqlx::Result<()> {
    let row = sqlx::query!(
        r#"SELECT pg_notify($1, $2)::text AS notified, pg_notification_queue_usage() AS "usage!",
                  (SELECT pg_stat_get_db_numbackends(oid) FROM pg_database WHERE datname = current_database()) AS "connections!""#,
        channel,
        number.to_string(),
    )
    .fetch_one(pool)
    .await?;
    metrics::gauge!("asobi_bus_queue_usage_ratio").set(row.usage);
    metrics::gauge!("asobi_database_connections").set(f64::from(row.connections));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_pulse_is_measured_and_only_once() {
        let (pulse, start) = (Pulse::new(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(pulse.heard("1", start), None, "none was sent");
        pulse.leaves(1, start);
        pulse.leaves(2, after(100));
        assert_eq!(pulse.heard("1", after(110)), None);
        assert_eq!(pulse.heard("nonsense", after(110)), None);
        assert_eq!(pulse.heard("2", after(130)), Some(Duration::from_millis(30)));
        assert_eq!(pulse.heard("2", after(140)), None);
        assert_eq!(pulse.last(), Some(Duration::from_millis(30)));
    }
}
