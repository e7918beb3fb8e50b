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
    /// How long whoever has the turn lets others come first.
    gather: Duration,
}

impl<T, A> Default for Together<T, A> {
    fn default() -> Self {
        Self::gathering(Duration::ZERO)
    }
}

impl<T, A> Together<T, A> {
    /// For what nobody waits for: a batch is not written before it had so long to fill.
    #[must_use]
    pub fn gathering(gather: Duration) -> Self {
        Self { waiting: Mutex::default(), turn: tokio::sync::Mutex::default(), gather }
    }

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
                    // A batch that is full already waits for nobody.
                    if !self.gather.is_zero() && self.waiting.lock().len() < BATCH {
                        tokio::time::sleep(self.gather).await;
                    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_one_gathers_is_written_with_it() {
        let together = Arc::new(Together::<u32, u32>::gathering(Duration::from_millis(25)));
        let batches = Arc::new(Mutex::new(Vec::new()));
        let writes = (0..10_u64).map(|n| {
            let (together, batches) = (Arc::clone(&together), Arc::clone(&batches));
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(n * 4)).await;
                let write = |items: Vec<u32>| {
                    batches.lock().push(items.clone());
                    async move { Ok(items.into_iter().map(|item| item * 2).collect()) }
                };
                let written = together.write(u32::try_from(n).unwrap(), Duration::from_secs(1), write).await;
                assert_eq!(u64::from(written.unwrap()), n * 2);
            })
        });
        for write in writes.collect::<Vec<_>>() {
            write.await.unwrap();
        }
        // From 0 to 25 ms, and the rest.
        assert_eq!(*batches.lock(), [vec![0, 1, 2, 3, 4, 5, 6], vec![7, 8, 9]]);
    }
}
