//! Submissions on their way into the rows: while one transaction is under way the next batch gathers.

use std::{sync::Arc, time::Instant};

use asobi_store::{
    boards::{self, Submission, Written, Wrote},
    within,
};
use tokio::sync::{mpsc, oneshot};

use super::Boards;

/// Submissions that may wait; past it a submission is refused with [`Full`].
const QUEUE: usize = 8_192;
/// Submissions of one transaction.
const BATCH: usize = 512;

/// The queue of submissions is full.
#[derive(Debug)]
pub struct Full;

type Answer = oneshot::Sender<Option<Written>>;

/// The batched writer's end for requests.
#[derive(Clone)]
pub struct Writer {
    queue: mpsc::Sender<(Submission, Answer)>,
}

impl Writer {
    /// The writer, and its task, which ends when all writers are gone and what waits is written.
    pub fn new(boards: Arc<Boards>) -> (Self, impl Future<Output = ()>) {
        let (queue, submissions) = mpsc::channel(QUEUE);
        (Self { queue }, run(boards, submissions))
    }

    /// Writes one submission; none: the database failed, and whether it was written is unknown.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn submit(&self, submission: Submission) -> Result<Option<Written>, Full> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send((submission, answer)).map_err(|_| {
            metrics::counter!("asobi_social_submissions_refused_total", "reason" => "queue_full").increment(1);
            Full
        })?;
        Ok(answered.await.unwrap_or(None))
    }
}

async fn run(boards: Arc<Boards>, mut queue: mpsc::Receiver<(Submission, Answer)>) {
    let mut waiting = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut waiting, BATCH).await > 0 {
        let (submissions, answers): (Vec<Submission>, Vec<Answer>) = waiting.drain(..).unzip();
        match within(boards.options.bound, commit(&boards, &submissions)).await {
            Ok(Wrote { outcomes, reset }) => {
                // Before the scores, which are of the new period.
                for id in &reset {
                    boards.changed(id).await;
                }
                boards.written(submissions.into_iter().zip(outcomes.iter().cloned()));
                for (answer, written) in answers.into_iter().zip(outcomes) {
                    // Nobody waits any more: it is written all the same.
                    let _ = answer.send(Some(written));
                }
            }
            Err(error) => {
                tracing::warn!(submissions = submissions.len(), %error, "Scores could not be written, or it is not known whether they were.");
                submissions.iter().for_each(|s| boards.doubt(&s.board, Instant::now()));
                answers.into_iter().for_each(|answer| drop(answer.send(None)));
            }
        }
    }
}

async fn commit(boards: &Boards, submissions: &[Submission]) -> asobi_store::Result<Wrote> {
    let mut tx = asobi_store::begin(boards.pool()).await?;
    let wrote = boards::write(&mut tx, submissions).await?;
    tx.commit().await?;
    Ok(wrote)
}
