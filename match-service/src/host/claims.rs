//! Many claims in one statement: while one is under way the next ones gather, so an idle host claims at once and a busy one in batches.

use std::{collections::VecDeque, time::Duration};

use asobi_store::{
    Error,
    matches::{self, Fence},
};
use parking_lot::Mutex;
use sqlx::PgPool;
use tokio::sync::oneshot;

/// Matches of one statement.
const BATCH: usize = 256;

type Waiting = (Fence, oneshot::Sender<bool>);

/// See the module. No task of its own: whoever has the turn writes for everybody who waits.
#[derive(Default)]
pub struct Claims {
    /// As many as matches that start at this moment, which the host's capacity bounds.
    waiting: Mutex<VecDeque<Waiting>>,
    turn: tokio::sync::Mutex<()>,
}

impl Claims {
    /// Whether the match is this host's now. The caller bounds it in time.
    ///
    /// # Errors
    /// The database did not answer, this one or the batch that took this claim along; it may be repeated.
    pub async fn claim(&self, pool: &PgPool, fence: Fence, bound: Duration) -> Result<bool, Error> {
        let (answer, mut answered) = oneshot::channel();
        self.waiting.lock().push_back((fence, answer));
        let _turn = self.turn.lock().await;
        loop {
            match answered.try_recv() {
                Ok(ours) => return Ok(ours),
                // The batch it was in came to nothing.
                Err(oneshot::error::TryRecvError::Closed) => return Err(Error::Deadline(bound)),
                Err(oneshot::error::TryRecvError::Empty) => self.write(pool).await?,
            }
        }
    }

    async fn write(&self, pool: &PgPool) -> Result<(), Error> {
        let (fences, answers): (Vec<Fence>, Vec<oneshot::Sender<bool>>) = {
            let mut waiting = self.waiting.lock();
            // A match that nobody starts any more must not be claimed.
            waiting.retain(|(_, answer)| !answer.is_closed());
            let count = waiting.len().min(BATCH);
            waiting.drain(..count).unzip()
        };
        let ours = matches::claim(pool, &fences).await?;
        for (fence, answer) in fences.iter().zip(answers) {
            let _ = answer.send(ours.contains(&(fence.match_id, fence.epoch)));
        }
        Ok(())
    }
}
