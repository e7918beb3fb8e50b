//! Many matches' writes in one statement: while one is under way the next ones gather, so an idle host writes at once and a busy one in batches.

use std::{collections::VecDeque, future::Future, time::Duration};

use asobi_store::Error;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Matches of one statement.
const BATCH: usize = 256;

/// See the module. No task of its own: whoever has the turn writes for everybody who waits.
pub struct Together<T, A> {
    /// At most one of each match, whose number the host's capacity bounds.
    waiting: Mutex<VecDeque<(T, oneshot::Sender<A>)>>,
    turn: tokio::sync::Mutex<()>,
}

impl<T, A> Default for Together<T, A> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }
}

impl<T, A> Together<T, A> {
    /// Has an item written, by `write` or by whoever has the turn; `write` answers for each item of a batch in its order. The caller bounds
    /// it in time.
    ///
    /// # Errors
    /// The database did not answer, this item's batch or the one before it; it may be repeated.
    pub async fn write<W>(&self, item: T, bound: Duration, write: impl Fn(Vec<T>) -> W) -> Result<A, Error>
    where
        W: Future<Output = Result<Vec<A>, Error>>,
    {
        let (answer, mut answered) = oneshot::channel();
        self.waiting.lock().push_back((item, answer));
        let _turn = self.turn.lock().await;
        loop {
            match answered.try_recv() {
                Ok(answer) => return Ok(answer),
                // The batch it was in came to nothing.
                Err(oneshot::error::TryRecvError::Closed) => return Err(Error::Deadline(bound)),
                Err(oneshot::error::TryRecvError::Empty) => {
                    let (items, waiting) = self.batch();
                    for (answer, waiting) in write(items).await?.into_iter().zip(waiting) {
                        let _ = waiting.send(answer);
                    }
                }
            }
        }
    }

    fn batch(&self) -> (Vec<T>, Vec<oneshot::Sender<A>>) {
        let mut waiting = self.waiting.lock();
        // Nobody waits for it any more: a match that nobody starts must not be claimed.
        waiting.retain(|(_, answer)| !answer.is_closed());
        let count = waiting.len().min(BATCH);
        waiting.drain(..count).unzip()
    }
}
