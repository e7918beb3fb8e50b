//! Carries jobs out: a few hundred players a transaction, with a breath in between.
//!
//! ```text
//!  take a job (its row's lock) ─► next players ─► rows + inbox events + how far it came ─► commit ─► hints to who is there ─► rest
//!        ▲                                                                                                                    │
//!        └────────────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! | what happens | what becomes of the job |
//! | --- | --- |
//! | this process dies | the batch is rolled back; another service takes the job within a second |
//! | the outcome of a commit is unknown | the row says how far the job came; whoever takes it begins there |
//! | a batch is slow | the next ones are smaller, and come after a rest as long as it took |
//! | a batch fails | it is tried again later, and again; after [`TRIES`] in a row the job has failed |
//! | the database is away | nothing is counted; the job goes on when it is back |

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use asobi_store::{
    notifications::{
        self,
        jobs::{self, Job, JobState},
    },
    sessions, within,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::message::Message;
use crate::deeds::{Deeds, Done};

/// Between two looks for jobs of others, and for those whose worker died.
const POLL: Duration = Duration::from_secs(1);
/// Failures in a row.
const TRIES: i32 = 20;
/// The longest wait after a failure, in seconds.
const LONGEST_WAIT_S: f64 = 60.0;

pub struct Worker {
    pub deeds: Deeds,
    /// A job was created here.
    pub wake: Arc<Notify>,
}

/// What one batch came to.
struct Batch {
    job: Job,
    hints: Vec<notifications::Published>,
    told: usize,
}

impl Worker {
    pub async fn run(self, draining: CancellationToken) {
        let mut pace = Pace::default();
        while !draining.is_cancelled() {
            let (begun, mut taken) = (Instant::now(), None);
            let wait = match within(self.deeds.bound, self.batch(pace.size(), &mut taken)).await {
                Ok(Some(batch)) => {
                    let took = begun.elapsed();
                    metrics::histogram!("asobi_social_notification_batch_seconds").record(took.as_secs_f64());
                    metrics::counter!("asobi_social_notification_jobs_told_total").increment(batch.told as u64);
                    self.tell(&batch).await;
                    if batch.job.total.is_none() && batch.job.done == 0 {
                        self.count(&batch.job).await;
                    }
                    pace.after(took)
                }
                Ok(None) => POLL.mul_f64(rand::random_range(0.7..1.0)),
                Err(error) => {
                    tracing::warn!(%error, job.id = ?taken.as_ref().map(|job: &Job| job.id), "A notification job could not go on; it is tried again.");
                    pace.failed();
                    if let Some(job) = taken {
                        self.put_off(&job, &error).await;
                    }
                    POLL
                }
            };
            tokio::select! {
                () = draining.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One batch of the oldest job that nobody else is at; none: there is no such job.
    async fn batch(&self, size: i64, taken: &mut Option<Job>) -> asobi_store::Result<Option<Batch>> {
        let mut tx = asobi_store::begin(&self.deeds.pool).await?;
        let Some(job) = jobs::take(&mut tx).await? else { return Ok(None) };
        *taken = Some(job.clone());
        let Ok(message) = serde_json::from_value::<Message>(job.message.clone()) else {
            jobs::end(&mut tx, job.id, JobState::Failed, Some("its message cannot be read")).await?;
            tx.commit().await?;
            tracing::error!(job.id = %job.id, "The message of a notification job cannot be read.");
            return Ok(Some(Batch { job, hints: Vec::new(), told: 0 }));
        };
        let next = jobs::next(&mut tx, &job, size).await?;
        let players: Vec<(Uuid, usize)> =
            next.players.iter().map(|(player, language)| (*player, message.choose(language))).collect();
        let told = notifications::insert_texts(&mut tx, &players, &message.to_texts(job.expires_at)).await?;
        let count = told.len();
        let ((), hints) = self.deeds.write(&mut tx, Done { value: (), events: Vec::new(), told }).await?;
        jobs::advance(&mut tx, job.id, &next, i64::try_from(count).unwrap_or(i64::MAX)).await?;
        tx.commit().await?;
        if next.is_last {
            tracing::info!(job.id = %job.id, "A notification job is done.");
        }
        Ok(Some(Batch { job, hints, told: count }))
    }

    /// Hints only for those who are there: most are not, and a hint that is missed is found by their nodes' sweep.
    async fn tell(&self, batch: &Batch) {
        let players: Vec<Uuid> = batch.hints.iter().map(|hint| hint.0).collect();
        match within(self.deeds.bound, sessions::statuses(&self.deeds.pool, &players)).await {
            Ok(there) => {
                let there: std::collections::HashSet<Uuid> = there.into_iter().map(|status| status.player_id).collect();
                let hints: Vec<_> = batch.hints.iter().filter(|hint| there.contains(&hint.0)).cloned().collect();
                self.deeds.publish(&hints);
            }
            Err(error) => {
                tracing::warn!(%error, "It is not known who of those who were notified is there; their nodes find it.");
            }
        }
    }

    /// How many there will be, for the progress; too many to be counted in time stay uncounted.
    async fn count(&self, job: &Job) {
        let counted = within(self.deeds.bound, async {
            let total = jobs::count(&self.deeds.pool, job).await?;
            jobs::set_total(&self.deeds.pool, job.id, total).await
        });
        if let Err(error) = counted.await {
            tracing::info!(%error, job.id = %job.id, "The players of a notification job could not be counted.");
        }
    }

    async fn put_off(&self, job: &Job, error: &asobi_store::Error) {
        let wait_s = 2_f64.powi(job.failures.min(10)).min(LONGEST_WAIT_S);
        let why = match error {
            asobi_store::Error::Deadline(_) => "the database did not answer in time",
            _ => "the database refused; the social service's log says why",
        };
        let put_off = jobs::put_off(&self.deeds.pool, job.id, why, wait_s, TRIES);
        if let Err(error) = within(self.deeds.bound, put_off).await {
            tracing::debug!(%error, "The database is away: the job waits as it is.");
        }
    }
}

/// How many at once, and how long a rest in between: a database that is slow is asked for less, and less often.
#[derive(Debug)]
struct Pace {
    size: i64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { size: 250 }
    }
}

impl Pace {
    const LEAST: i64 = 25;
    const MOST: i64 = 1_000;
    /// What a batch may take; twice that is slow.
    const GOAL: Duration = Duration::from_millis(150);

    fn size(&self) -> i64 {
        self.size
    }

    /// The rest after a batch.
    fn after(&mut self, took: Duration) -> Duration {
        if took > 2 * Self::GOAL {
            self.size = (self.size / 2).max(Self::LEAST);
            return took.min(Duration::from_secs(5));
        }
        if took < Self::GOAL {
            self.size = (self.size * 5 / 4).min(Self::MOST);
        }
        took / 4
    }

    fn failed(&mut self) {
        self.size = (self.size / 2).max(Self::LEAST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_database_is_asked_for_less_and_less_often() {
        let mut pace = Pace::default();
        let rest = pace.after(Duration::from_millis(40));
        assert!(pace.size() > 250 && rest == Duration::from_millis(10), "{pace:?} {rest:?}");
        for _ in 0..20 {
            pace.after(Duration::from_millis(40));
        }
        assert_eq!(pace.size(), Pace::MOST);
        assert_eq!(pace.after(Duration::from_millis(200)), Duration::from_millis(50));
        assert_eq!(pace.size(), Pace::MOST, "neither fast nor slow");
        assert_eq!(pace.after(Duration::from_secs(2)), Duration::from_secs(2));
        assert_eq!(pace.size(), 500);
        for _ in 0..20 {
            pace.failed();
        }
        assert_eq!(pace.size(), Pace::LEAST);
        assert_eq!(pace.after(Duration::from_secs(60)), Duration::from_secs(5));
    }
}
